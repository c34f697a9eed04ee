"""Logs that people have, of evaluations and of calls, to outcomes, prompts and recorded answers."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unirouter_core.costs import Prices
from unirouter_core.data import Outcomes
from unirouter_core.exceptions import InvalidDataError
from unirouter_core.outcome_files import FOLDER_FILES, count, read_outcomes, to_outcomes
from unirouter_core.reading import Columns, columns_of, json_lines, lines_of, read_columns, readable
from unirouter_core.tables import OUTCOMES, GivenColumns, GivenScale, Layout, Scale, find_columns, find_layout, is_empty
from unirouter_plugins.logs import evaluations
from unirouter_plugins.logs.calls import Numbered, Quality, Row, dig, is_call, nested, rows_of, text_of
from unirouter_plugins.logs.prices import read_prices

__all__ = ["Log", "read_log", "read_prices"]


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)


_FILES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".eval")
_LINES = (".jsonl", ".ndjson", ".csv", ".tsv", ".txt")


@dataclass(frozen=True)
class Log:
    """What was read, in one line; the prompts; `outcomes` where answers have grades; and all rows.

    `rows` has the columns that there are of prompt, messages, model, answer, reference, quality, cost, tokens_in and
    tokens_out. A folder of arrays has none.
    """

    source: str
    prompts: tuple[str, ...]
    outcomes: Outcomes | None = None
    rows: Columns | None = None


def read_log(
    given: Any,
    *,
    columns: GivenColumns | None = None,
    scale: GivenScale | None = None,
    prices: Mapping[str, Prices] | None = None,
) -> Log:
    """Return what a file, a folder, a data frame or rows hold.

    Beside what `unirouter_core.read_outcomes` takes: samples of lm-evaluation-harness (a file, or a folder of one or
    many models), logs of Inspect AI (.json, .eval), results of promptfoo (.json, .jsonl), logs of OpenAI evals, runs of
    HELM (folders), experiments of LangSmith and Braintrust, datasets, observations and traces of Langfuse, runs of
    LangSmith, LiteLLM's StandardLoggingPayload, requests and responses of OpenAI and Anthropic, and chats. In a folder,
    answers that name no model are of the model that the file is named for.

    Raises `InvalidDataError`, which names file, line and value, and the option that helps.

    Parameters
    ----------
    columns : mapping, optional
        As `read_outcomes` takes them. In logs, ``quality`` names the metric ("exact_match,flexible-extract" one of
        lm-evaluation-harness and its filter), and the others a path, such as ``inputs.question``.
    scale, prices
        As `read_outcomes` takes them; a price is found by the last part of a model's name, too.
    """
    named = isinstance(given, str | os.PathLike)
    path, chosen, worth = Path(given) if named else None, columns or {}, Scale.of(scale)
    try:
        with readable("it cannot be read", "give a file that can"):
            if path is not None and (path / FOLDER_FILES[1]).exists():
                outcomes = read_outcomes(path, prices=prices)
                return Log(outcomes.source, tuple(outcomes.prompts), outcomes)
            is_folder, said = path is not None and path.is_dir(), dict[str, None]()
            sources = _sources(path, given, chosen, worth)
            if not is_folder:
                sources = iter([source := next(sources)])
                if source.table is not None:  # so that messages name its own columns
                    outcomes = to_outcomes(source.table, prices, columns, scale)
                    return Log(outcomes.source, tuple(outcomes.prompts), outcomes)
            unit = "in" if is_folder else "line" if path is not None and path.suffix.lower() in _LINES else "row"
            table = columns_of(_all_rows(sources, chosen, said), list, unit)
            return _log(table, "; ".join(said), scale, prices or {})
    except InvalidDataError as failure:
        raise InvalidDataError(f"{given if named else 'The log'}: {failure}") from failure


@dataclass(frozen=True)
class _Source:
    """The rows of a file, and what they were understood as; `model` is that of answers that name none."""

    form: str
    rows: Iterator[tuple[Any, Row]]
    quality: Quality
    name: str = ""
    model: str | None = None
    table: Columns | None = None  # where the rows are those of a table of graded answers
    read: Sequence[Any] = ()  # the place of the record that is read

    def __str__(self) -> str:
        return self.form if self.quality.name is None else f"{self.form}, quality={self.quality}"


def _sources(folder: Path | None, given: Any, columns: GivenColumns, scale: Scale) -> Iterator[_Source]:
    """Yield a file, or the logs in a folder: those of one tool, at any depth, where there are any; else all files."""
    if folder is None or not folder.is_dir():
        yield _open(folder, given, columns, scale)
        return
    files = sorted(folder.rglob("samples_*.jsonl")) or sorted(folder.rglob("display_predictions.json"))
    files = files or sorted(path for path in folder.iterdir() if path.suffix.lower() in _FILES)
    if not files:
        raise InvalidDataError(f"it holds no table and no log ({', '.join(_FILES)}), and no {', '.join(FOLDER_FILES)}.")
    for path in files:
        name, quality = str(path.relative_to(folder)), Quality(columns)
        if path.name == "display_predictions.json":
            yield _Source("HELM", evaluations.helm(path.parent, quality), quality, name)
        else:
            of_folder = path.parent.name if path.parent != folder else None  # lm-evaluation-harness has one a model
            model = of_folder if path.name.startswith("samples_") else path.stem
            yield dataclasses.replace(_open(path, path, columns, scale, model), name=name)


def _all_rows(sources: Iterable[_Source], columns: GivenColumns, said: dict[str, None]) -> Iterator[tuple[Any, Row]]:
    """Yield the rows of all sources, each with its model; `said` gets what they were understood as."""
    named = str(columns.get("model", ""))
    constant = named[1:] if named.startswith("=") else None
    for source in sources:
        try:
            for place, row in source.rows:
                row["model"] = constant or text_of(row.get("model")) or source.model
                yield f"{source.name}, {place}" if source.name else place, row
        except (AttributeError, KeyError, TypeError, ValueError) as failed:
            at = ", ".join(map(str, [source.name or "record", *source.read[-1:]]))
            what = f"it is not written as {source.form} writes it ({type(failed).__name__}: {failed})"
            raise InvalidDataError(f"{at}: {what}; mend it or leave it out.") from failed
        source.quality.check()
        said[str(source)] = None


def _open(path: Path | None, given: Any, columns: GivenColumns, scale: Scale, model: str | None = None) -> _Source:
    """Return the rows of a file, a data frame or rows."""
    quality, suffix = Quality(columns), "" if path is None else path.suffix.lower()
    if path is not None and suffix == ".eval":
        return _Source("Inspect AI", evaluations.inspect_archive(path, quality), quality)
    records: Iterator[Numbered]
    if path is None or suffix not in (".jsonl", ".ndjson", ".txt", ".json"):
        records = _rows_in(read_columns(given))
    elif suffix == ".txt":
        records = ((place, line.strip()) for place, line in lines_of(path) if not line.isspace())
    elif suffix != ".json":
        records = json_lines(path)
    else:
        value = evaluations.read_json(path)
        lists = (dig(value, name) for name in ("results.results", "results", "data", "testCases"))
        value = next((found for found in lists if isinstance(found, list)), value)
        if isinstance(value, Mapping) and "samples" not in value:
            records = _rows_in(read_columns(path))
        else:
            records = enumerate(value if isinstance(value, list) else [value], 1)
    read = list[Any]()
    records = _noted(records, read)
    place, first = next(records, (0, None))
    if first is None:
        raise InvalidDataError("it is empty; give at least one row.")
    records = itertools.chain([(place, first)], records)
    if log := evaluations.rows_of_log(path, first, records, model, quality):
        return _Source(log[0], log[1], quality, read=read)
    if is_call(nested(first)):
        return _Source("calls", _calls(records, columns, quality), quality, model=model, read=read)
    table = columns_of(records, list, "line" if suffix in _LINES else "row")
    found = find_columns(table.values, columns, OUTCOMES)
    try:
        default = {"model": f"={model}"} if model is not None and "model" not in found and "quality" in found else {}
        layout = find_layout(table.values, {**default, **columns}, table.values)
    except InvalidDataError:
        if found.keys().isdisjoint(("quality", "error")):
            found = find_columns(table.values, columns)
        faulty = "model" in found and "answer" not in found  # outcomes without their grades, and no log of calls
        if "prompt" not in found or faulty or not found.keys().isdisjoint(("quality", "error")):
            raise
        shown = ", ".join(kind if [kind] == names else f"{kind}={names[0]}" for kind, names in found.items())
        taken = {name for names in found.values() for name in names}
        if grades := [name for name, values in table.values.items() if name not in taken and _may_be_grades(values)]:
            shown += f"; --columns quality=NAME makes {' or '.join(grades)} the grade"
        return _Source(shown, _calls(_rows_in(table), columns, quality), quality, model=model)
    shown = layout.shown(scale).replace(f"model={model}", "model=the file's name") if default else layout.shown(scale)
    return _Source(shown, _melted(table, layout), Quality({}), table=table)


def _noted(records: Iterable[Numbered], read: list[Any]) -> Iterator[Numbered]:
    """Yield the records, bare texts as prompts, and keep the place of the last one in `read`."""
    for place, record in records:
        read[:] = [place]
        if not isinstance(record, Mapping | str):
            raise InvalidDataError(f"line {place}: {record!r:.60} is not a JSON object; write one a line.")
        yield place, {"prompt": record} if isinstance(record, str) else record


def _may_be_grades(values: Sequence[Any]) -> bool:
    """Return whether these are numbers in [0, 1], as CSV writes them or JSON; empty ones are left out."""
    given = [value for value in values if not is_empty(value)]
    with suppress(TypeError, ValueError):
        return bool(given) and all(0 <= float(value) <= 1 for value in given)
    return False


def _rows_in(table: Columns) -> Iterator[Numbered]:
    for place, *values in zip(table.places, *table.values.values(), strict=True):
        yield place, dict(zip(table.values, values, strict=True))


def _calls(records: Iterable[Numbered], columns: GivenColumns, quality: Quality) -> Iterator[tuple[Any, Row]]:
    for place, record in records:
        for row in rows_of(nested(record), columns, quality):
            yield place, row


def _melted(table: Columns, layout: Layout) -> Iterator[tuple[Any, Row]]:
    """Yield the answers of a table one by one, those of a column per model, too."""
    for place, row in _rows_in(table):
        for found in layout.answers:
            named = {"prompt": layout.prompt, "model": found.model_column, "cost": found.cost}
            named |= {"error" if found.is_error else "quality": found.grade}
            named |= {"tokens_in": found.tokens_in, "tokens_out": found.tokens_out, "answer": layout.text}
            answer = {name: row[column] for name, column in named.items() if column is not None}
            if found.failure is not None and not is_empty(row[found.failure]):
                answer["quality"] = None
            yield place, {"model": found.model, **answer}


def _log(table: Columns, form: str, scale: GivenScale | None, prices: Mapping[str, Prices]) -> Log:
    """Return the log of rows that have our names."""
    if not table.places:
        raise InvalidDataError("it holds no prompt and no call of a model; give some.")
    models, values = table.values["model"], table.values
    prompts = tuple(dict.fromkeys(table.texts("prompt")))
    if all(is_empty(grade) for name in ("quality", "error") for grade in values.get(name, ())):
        of_models = [
            m for m, answer in zip(models, values.get("answer", ()), strict=False) if m and not is_empty(answer)
        ]
        answered = f" with {count(len(of_models), 'answer')} of {count(len(set(of_models)), 'model')}" * bool(of_models)
        return Log(f"Read {count(len(prompts), 'prompt')}{answered} ({form}; no grades).", prompts, None, table)
    if (row := next((row for row, model in enumerate(models) if is_empty(model)), None)) is not None:
        table.refuse(row, 'no model is named; give columns={"model": "=NAME"} (--columns model==NAME).')
    graded = Columns({name: values[name] for name in (*OUTCOMES, "answer") if name in values}, table.places, table.unit)
    outcomes = to_outcomes(graded, prices, None, scale, form)
    return Log(outcomes.source, tuple(outcomes.prompts), outcomes, table)
