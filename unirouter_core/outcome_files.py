"""Files, folders and tables read as `Outcomes`."""

from __future__ import annotations

import dataclasses
import os
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unirouter_core.costs import Prices, TokenCounter
from unirouter_core.data import CELLS, Evaluation, Outcomes, as_array
from unirouter_core.embedding import Array, Labels
from unirouter_core.exceptions import InvalidDataError
from unirouter_core.reading import (
    ABSENT,
    AMOUNT,
    MOST_JSON,
    Columns,
    out_of_range,
    parse_json,
    parse_npz,
    read_bytes,
    read_columns,
    read_parquet,
    readable,
)
from unirouter_core.tables import GivenColumns, GivenScale, Scale, find_layout, grades, is_empty, refuse

MOST_CELLS, LEAST_KNOWN = 2**23, 16  # a larger table has an answer in each 16 cells, or its columns are others

ANSWER_TOKENS = 200  # of an answer that nothing is known of but its model's prices

COST_UNKNOWN: Mapping[str, Any] = {
    "prices": Prices(0, 0),
    "provenance": {"date": "unknown", "source": "recorded outcomes", "prices": "unknown"},
}
"""The mark of a model whose cost is not known: it is priced at 0 and refused beside models with a known cost."""

FOLDER_FILES = ("prompts.parquet", "scores.npz", "costs.npz", "meta.json")


def read_outcomes(
    given: Any,
    *,
    columns: GivenColumns | None = None,
    scale: GivenScale | None = None,
    prices: Mapping[str, Prices] | None = None,
) -> Outcomes:
    r"""Return the outcomes in a file, a folder, a data frame or rows.

    What is given is a file, ``.jsonl``, ``.json``, ``.csv`` (separated by commas, semicolons, tabs or bars), ``.tsv``
    or ``.parquet`` (UTF-8; Parquet needs ``unirouter[parquet]``), a data frame of pandas or polars, a dataset of
    Hugging Face, or rows (mappings). It is a table of one of two forms:

    - a row per answer: the prompt, the model, its quality or error, and where known cost (USD), tokens_in, tokens_out.
      Columns are found by their names (``question``, ``score``, ``input_tokens`` and the like) or given as `columns`;
    - a column per model, of grades, beside the prompts; costs and tokens in columns that name the model, too. The files
      of RouterBench, EmbedLLM and SPROUT are read as they were published.

    Other columns are ignored. A folder holds ``prompts.parquet`` (``prompt_id``, ``prompt``), ``scores.npz``
    (``scores``, ``models``, ``prompt_ids``; a score is a quality), ``costs.npz`` (``models`` and any of ``cost_usd``,
    ``tokens_in``, ``tokens_out``) and ``meta.json`` (``prices_usd_per_mtok``: model to [input, output]). Nothing is
    ever unpickled. Raises `InvalidDataError` when a line cannot be used, with the file, the line, the value and the
    cure; `ImportError` when the file is Parquet and pyarrow is missing.

    Parameters
    ----------
    columns : mapping, optional
        Which column is what, such as ``{"prompt": "text", "quality": "acc"}``; several quality columns are one per
        model; ``"model": "=gpt-4o"`` is the model of all rows.
    scale : str, pair or mapping, optional
        The scale of the grades, unless in [0, 1] or true and false: "0-100", "1-5", "A=1,B=0.8,C=0".
    prices : mapping of model to Prices, optional
        List prices, before those of the folder. They fill in the costs that the file does not give, where both
        token counts are known; a cost in the file stays. In a table with neither costs nor token counts, the tokens
        of prompts are counted, and those of answers; one that it does not hold is taken to have 200.

    Notes
    -----
    What is absent, empty or null is not known: NaN, never 0. Several lines of one prompt (the same text) and one model
    are repeats of a measurement: each number is the mean of those that are known. Prompts and models keep the order
    in which they first come; a folder keeps its rows as they are, repeats too, so that arrays beside it still fit.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "outcomes.csv"
    ...     _ = path.write_text("prompt,model,quality,cost\n2 + 2?,poet,0,0.00001\n2 + 2?,sage,1,\n")
    ...     table = read_outcomes(path)
    >>> table.models, table.errors.tolist(), table.costs.tolist()
    (('poet', 'sage'), [[1.0, 0.0]], [[1e-05, nan]])
    """
    prices, named = {} if prices is None else prices, isinstance(given, str | os.PathLike)
    try:
        with readable("it cannot be read", "give a file of outcomes that can"):
            if named and Path(given).is_dir():
                return _read_folder(Path(given), prices)
            texts = bool(prices) or "answer" in (columns or {})
            table = read_columns(given, lambda names: find_layout(names, columns).needed(texts))
            return to_outcomes(table, prices, columns, scale)
    except InvalidDataError as failure:
        raise InvalidDataError(f"{given if named else 'The outcomes'}: {failure}") from failure


def as_outcomes(given: Any) -> Outcomes:
    """Return a table of outcomes as it is, and anything else as `read_outcomes` reads it."""
    return given if isinstance(given, Outcomes) else read_outcomes(given)


def is_table(given: Any) -> bool:
    """Return whether something given in the place of prompts is a file, a data frame, a dataset or rows."""
    if isinstance(given, str | os.PathLike | Mapping) or hasattr(given, "columns") or hasattr(given, "column_names"):
        return True
    return isinstance(given, Sequence) and bool(given) and isinstance(given[0], Mapping)


def recorded(given: Any, outcomes: Any = None) -> list[Evaluation]:
    """Return the evaluation of the model `given` in a table of outcomes; of all models when the table is `given`.

    Where a table has neither costs nor prices, its models count as free, with a warning: routing is then on quality
    alone.
    """
    if outcomes is None and isinstance(given, str) and not Path(given).exists():
        cure = f"onboard({given!r}, outcomes) takes its recorded answers; plan_onboarding asks it for answers"
        raise InvalidDataError(f"{given!r} is the name of a model and no file, so what it answered is missing; {cure}.")
    table = as_outcomes(given if outcomes is None else outcomes)
    models: Sequence[str] = table.models if outcomes is None else [given]
    how: Mapping[str, Any] = {}
    if outcomes is None and not table.prices and np.isnan(table.costs).all():
        how = COST_UNKNOWN
        what = "No costs are known, so all models count as free and routing is on quality alone; give a column of costs"
        warnings.warn(f"{what}, or tokens and prices=.", stacklevel=3)
    return [Evaluation.recorded(model, table, **how) for model in models]


def to_outcomes(
    table: Columns,
    prices: Mapping[str, Prices] | None = None,
    columns: GivenColumns | None = None,
    scale: GivenScale | None = None,
    understood: str | None = None,
) -> Outcomes:
    """Return the outcomes of a table, repeats of a prompt and model averaged.

    `understood` is the summary of the table's layout, by default `Layout.shown`. Where there are prices, and the table
    has neither costs nor tokens, those of its prompts and answers are counted.
    """
    layout, worth = find_layout(table.values, columns, table.values), Scale.of(scale)
    if not table.places:
        raise InvalidDataError("it holds no outcomes; give at least one.")
    prompts, names, blocks = table.texts(layout.prompt), list[str](), []
    for found in layout.answers:
        column = found.model_column
        names += [str(found.model)] * len(prompts) if column is None else table.texts(column)
        if not layout.is_wide and ABSENT in (given := table.values[found.grade]):
            table.refuse(given.index(ABSENT), f"it has no {found.grade}; write null when not known.")
        graded = grades(table, found.grade, worth)
        if found.failure is not None:
            graded[[not is_empty(value) for value in table.values[found.failure]]] = np.nan
        errors = graded if found.is_error else 1 - graded
        blocks.append([errors, *(table.amounts(name) for name in (found.cost, found.tokens_in, found.tokens_out))])
    lines = dict(zip(CELLS, map(np.concatenate, zip(*blocks, strict=True)), strict=True))
    known = for_models(dict.fromkeys(names), prices or {})
    notes = []
    if known and all(np.isnan(lines[name]).all() for name in ("costs", "tokens_in", "tokens_out")):
        lines["tokens_in"] = np.tile(_counted(prompts), len(blocks))
        texts = table.values[layout.text] if layout.text is not None else [None] * len(names)
        missing = np.array([is_empty(text) for text in texts])
        lines["tokens_out"] = np.where(missing, ANSWER_TOKENS, _counted(texts))
        which = "an answer" if missing.all() else f"{missing.sum():,} of {count(len(texts), 'answer')}"
        notes = ["costs by the given prices, tokens counted"]
        notes[0] += f", {ANSWER_TOKENS} assumed for {which}" * bool(missing.any())
    lines["costs"] = _fill_costs(lines["costs"], lines["tokens_in"], lines["tokens_out"], names, known)
    row_of = {prompt: row for row, prompt in enumerate(dict.fromkeys(prompts))}
    column_of = {model: column for column, model in enumerate(dict.fromkeys(names))}
    shape = len(row_of), len(column_of)
    if shape[0] * shape[1] > max(MOST_CELLS, LEAST_KNOWN * len(names)):
        refuse(f"{len(names):,} answers are of {shape[0]:,} prompts and {shape[1]:,} models", "model", "NAME")
    rows_of_lines = np.array([row_of[prompt] for prompt in prompts] * len(blocks))
    cells = rows_of_lines * shape[1] + np.array([column_of[name] for name in names])
    arrays = {name: _means(cells, values, shape) for name, values in lines.items()}
    source = _summary("; ".join([understood or layout.shown(worth), *notes]), lines, arrays, list(column_of))
    return Outcomes(list(row_of), list(column_of), **arrays, prices=known, source=source)


def _counted(texts: Sequence[Any]) -> Array:
    """Return the tokens of each text, 0 where it is none; equal texts are counted once."""
    known = ["" if is_empty(text) else str(text) for text in texts]
    different = list(dict.fromkeys(known))
    tokens = dict(zip(different, TokenCounter().count(different).tolist(), strict=True))
    return np.array([tokens[text] for text in known])


def count(n: int, what: str) -> str:
    """Return a count and its noun: "1 prompt", "2,000 prompts"."""
    return f"{n:,} {what}{'s' * (n != 1)}"


def _summary(understood: str, lines: Mapping[str, Array], arrays: Mapping[str, Array], models: Sequence[str]) -> str:
    """Return one line on what was read: the answers in `lines`, the table of them in `arrays`."""
    graded, cells = (int((~np.isnan(part["errors"])).sum()) for part in (lines, arrays))
    notes, n_prompts = [understood], len(arrays["errors"])
    if repeats := graded - cells:
        notes.append(f"{count(repeats, 'repeat')} averaged")
    if ungraded := len(lines["errors"]) - graded:
        notes.append(f"{ungraded:,} without a grade")
    if free := [model for model, costs in zip(models, arrays["costs"].T, strict=True) if np.isnan(costs).all()]:
        notes.append("no costs" if len(free) == len(models) else f"no costs of {', '.join(free)}")
    shape = f"{count(n_prompts, 'prompt')} × {count(len(models), 'model')}"
    return f"Read {count(graded, 'answer')}: {shape} ({'; '.join(notes)})."


def for_models(models: Iterable[str], prices: Mapping[str, Prices]) -> dict[str, Prices]:
    """Return the prices of `models`, by their names with or without the provider."""
    short = {name.rsplit("/", 1)[-1]: each for name, each in prices.items()}
    found = {model: prices.get(model, short.get(re.split("[/:]", model)[-1])) for model in models}
    return {model: each for model, each in found.items() if each is not None}


def priced(outcomes: Outcomes, prices: Mapping[str, Prices]) -> Outcomes:
    """Return the table with its unknown costs computed from token counts and prices."""
    known = {**outcomes.prices, **for_models(outcomes.models, prices)}
    costs = _fill_costs(outcomes.costs, outcomes.tokens_in, outcomes.tokens_out, outcomes.models, known)
    return dataclasses.replace(outcomes, costs=costs, prices=known)


def _fill_costs(
    costs: Array, tokens_in: Array, tokens_out: Array, models: Sequence[str], prices: Mapping[str, Prices]
) -> Array:
    """Return `costs` with unknown ones computed where tokens and price are known; `models` names the last axis."""
    usd = {model: (each.cost(1, 0), each.cost(0, 1)) for model, each in prices.items()}
    per_token = np.array([usd.get(model, (np.nan, np.nan)) for model in models])
    return np.where(np.isnan(costs), tokens_in * per_token[:, 0] + tokens_out * per_token[:, 1], costs)


def _means(cells: Labels, values: Array, shape: tuple[int, int]) -> Array:
    """Return the mean of the known `values` in each cell, NaN where there is none."""
    known, size = ~np.isnan(values), shape[0] * shape[1]
    sums, counts = np.bincount(cells[known], values[known], size), np.bincount(cells[known], minlength=size)
    means: Array = np.divide(sums, counts, out=np.full(size, np.nan), where=counts > 0)
    return means.reshape(shape)


def _read_folder(folder: Path, given: Mapping[str, Prices]) -> Outcomes:
    missing = [name for name in FOLDER_FILES if not (folder / name).is_file()]
    if missing:
        raise InvalidDataError(f"{missing[0]} is not in it; a folder of outcomes holds {', '.join(FOLDER_FILES)}.")
    table = read_parquet(folder / "prompts.parquet", lambda _: ["prompt", "prompt_id"])
    scores = _arrays(folder / "scores.npz", ("scores", "models", "prompt_ids"))
    amounts = _arrays(folder / "costs.npz", ("models",))
    if scores["prompt_ids"].tolist() != table.values["prompt_id"]:
        raise InvalidDataError("prompt_ids in scores.npz are not those in prompts.parquet; write both in one order.")
    models, others = scores["models"].tolist(), amounts["models"].tolist()
    if odd := sorted({*map(str, models)} ^ {*map(str, others)}):
        raise InvalidDataError(f"model {odd[0]!r} is in only one of scores.npz and costs.npz; name it in both.")
    shape, order = (len(table.places), len(models)), [others.index(model) for model in models]
    quality = _matrix(scores, "scores", shape, top=1)
    costs, tokens_in, tokens_out = (
        _matrix(amounts, name, shape)[:, order] for name in ("cost_usd", "tokens_in", "tokens_out")
    )
    with readable("meta.json: its prices cannot be read", "prices_usd_per_mtok maps a model to [input, output] in USD"):
        listed = parse_json(read_bytes(folder / "meta.json", MOST_JSON)).get("prices_usd_per_mtok") or {}
        prices = {model: Prices(price_in, price_out) for model, (price_in, price_out) in listed.items()} | dict(given)
    costs = _fill_costs(costs, tokens_in, tokens_out, models, prices)
    known = for_models(models, prices)
    return Outcomes(table.texts("prompt"), models, 1 - quality, costs, tokens_in, tokens_out, known)


def _arrays(path: Path, required: Sequence[str]) -> dict[str, Any]:
    with readable(f"{path.name} cannot be read", "write it with numpy.savez, text as str arrays"):
        arrays = parse_npz(read_bytes(path))
    if missing := [name for name in required if name not in arrays]:
        raise InvalidDataError(f"{path.name} has no {missing[0]!r}; it has {', '.join(arrays)}.")
    if arrays["models"].ndim != 1 or arrays["models"].dtype.kind != "U":
        raise InvalidDataError(f"models in {path.name} is not a list of names; write them with numpy.array([...]).")
    return arrays


def _matrix(arrays: Mapping[str, Any], name: str, shape: tuple[int, int], top: float = AMOUNT) -> Array:
    """Return the array `name`, in [0, `top`]; all NaN when there is none."""
    matrix = as_array(name, arrays.get(name), shape)
    outside = (matrix < 0) | (matrix > top)
    if outside.any():
        row, column = np.argwhere(outside)[0]
        raise InvalidDataError(f"row {row + 1}: {out_of_range(name, float(matrix[row, column]), top)}")
    return matrix
