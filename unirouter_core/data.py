"""What models did on prompts: outcomes, validation sets, evaluations, and reading them from files."""

from __future__ import annotations

import csv
import datetime
import json
import os
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Self, TypeAlias
from zipfile import BadZipFile

import numpy as np

from unirouter_core.costs import TOKENS_PER_PRICE, Prices
from unirouter_core.documents import Documents, GivenDocuments, check_documents
from unirouter_core.embedding import Array, Labels, Mask, check_prompts
from unirouter_core.exceptions import InvalidDataError, UnknownModelError

FEWEST = 2  # the smallest validation set; routing needs a few hundred prompts
CELLS = ("errors", "costs", "tokens_in", "tokens_out")  # what may be known of each answer
Given: TypeAlias = Array | Any  # a constructor takes anything that `numpy.array` takes, and None for what is not known


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What each model did on each prompt. NaN means not known, and is never read as 0.

    Raises `InvalidDataError` when shapes differ, a model stands twice, or a value is outside its range.

    Parameters
    ----------
    models : sequence of str
        Names, as LiteLLM calls them.
    errors : array (n_prompts, n_models)
        In [0, 1]; 0 is right, 1 is wrong.
    costs : array (n_prompts, n_models), optional
        USD of each call.
    tokens_in, tokens_out : array (n_prompts, n_models), optional
        Tokens of the prompt and of the answer, as the model's provider counts them.
    prices : mapping of model to Prices, optional
        List prices, for the models where they are known.
    documents : sequence of Documents or sequence of str, optional
        What was retrieved for each prompt, and sent with it.

    Examples
    --------
    >>> table = Outcomes(["2 + 2?", "A poem."], ["poet", "sage"], [[1, 0], [0, 0]], costs=[[1e-5, 1e-3]] * 2)
    >>> table.of(["sage"]).errors.tolist()
    [[0.0], [0.0]]
    """

    prompts: Sequence[str]
    models: Sequence[str]
    errors: Given
    costs: Given = None
    tokens_in: Given = None
    tokens_out: Given = None
    prices: Mapping[str, Prices] | Any = None
    documents: tuple[Documents, ...] | Any = None

    def __post_init__(self) -> None:
        check_prompts(self.prompts)
        models = tuple(self.models)
        if len(set(models)) != len(models):
            twice = next(model for model in models if models.count(model) > 1)
            raise InvalidDataError(f"Model {twice!r} stands twice in the table; merge its columns or rename one.")
        _set(self, prompts=tuple(self.prompts), models=models, prices=dict(self.prices or {}))
        if self.documents is not None:
            _set(self, documents=check_documents(self.documents, len(self)))
        _set_arrays(self, "", (len(self), len(models)), CELLS)
        _set(self, errors=self.errors.astype(np.float32))

    def __len__(self) -> int:
        """Return the number of prompts."""
        return len(self.prompts)

    def __repr__(self) -> str:
        return f"Outcomes({len(self)} prompts, {len(self.models)} models)"

    def rows(self, positions: Iterable[int]) -> Outcomes:
        """Return the table of the prompts at `positions`, in that order."""
        rows = np.asarray(list(positions), int)
        documents = None if self.documents is None else [self.documents[row] for row in rows]
        return self._part([self.prompts[row] for row in rows], self.models, (rows,), documents)

    def of(self, models: Sequence[str]) -> Outcomes:
        """Return the table of `models`, in that order; an unknown one is an `UnknownModelError`."""
        columns = [self.column(model) for model in models]
        return self._part(self.prompts, models, (slice(None), columns), self.documents)

    def _part(self, prompts: Sequence[str], models: Sequence[str], cells: Any, documents: Any) -> Outcomes:
        arrays = {name: getattr(self, name)[cells] for name in CELLS}
        prices = {model: self.prices[model] for model in models if model in self.prices}
        return Outcomes(prompts, models, **arrays, prices=prices, documents=documents)

    def column(self, model: str) -> int:
        """Return the position of `model` among the models. Raises `UnknownModelError` when it is not in the table."""
        if model not in self.models:
            raise UnknownModelError(f"{model!r} is not in the table; it holds {', '.join(map(repr, self.models))}.")
        return self.models.index(model)


@dataclass(frozen=True, eq=False)
class ValidationSet:
    """Prompts with their reference answers and graders.

    Raises `InvalidDataError` when lengths differ, there are fewer than 2 prompts, or a prompt is empty.

    Parameters
    ----------
    references : sequence of str, optional
        The right answer to each prompt.
    graders : sequence of str, optional
        The name of the grader of each prompt.
    messages : sequence of sequence of mapping, optional
        The chat that each prompt ends, where it is more than one user message.
    documents : sequence of Documents or sequence of str, optional
        What was retrieved for each prompt, and sent with it: its tokens count, and a router fitted with documents
        reads it.
    known : Outcomes, optional
        What other models did on the same prompts. A router reads from it only the models it was trained on.

    Examples
    --------
    >>> len(ValidationSet(["2 + 2?", "3 + 4?"], references=["4", "7"]))
    2
    """

    prompts: Sequence[str]
    references: Sequence[str] | None = None
    graders: Sequence[str] | None = None
    messages: Sequence[Sequence[Mapping[str, Any]]] | None = None
    documents: Sequence[GivenDocuments | None] | None = None
    known: Outcomes | None = None

    def __post_init__(self) -> None:
        check_prompts(self.prompts)
        if len(self.prompts) < FEWEST:
            raise InvalidDataError(f"{len(self.prompts)} validation prompts are too few; give at least {FEWEST}.")
        for name in ("references", "graders", "messages", "documents"):
            given = getattr(self, name)
            if given is not None and len(given) != len(self.prompts):
                raise InvalidDataError(f"{len(self.prompts)} prompts but {len(given)} {name}; give one for each.")
        if self.documents is not None:
            check_documents(self.documents, len(self.prompts))
        if self.known is not None and self.known.prompts != tuple(self.prompts):
            raise InvalidDataError(
                f"The known outcomes are of {len(self.known)} other prompts; give those of these {len(self)}, in order."
            )

    def __len__(self) -> int:
        """Return the number of prompts."""
        return len(self.prompts)

    def __repr__(self) -> str:
        return f"ValidationSet({len(self)} prompts)"


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One model on a validation set. NaN means not known: a call that failed is no wrong answer.

    Raises `InvalidDataError` when lengths differ, a value is outside its range, or fewer than 2 prompts have an answer.

    Parameters
    ----------
    errors : array (n_prompts,)
        In [0, 1]; the mean over the repeats.
    costs : array (n_prompts,), optional
        USD.
    tokens_in, tokens_out : array (n_prompts,), optional
    latencies : array (n_prompts,), optional
        Seconds.
    repeats : int
        How many answers each error is the mean of.
    failed, truncated : array (n_prompts,) of bool, optional
        Calls without an answer, whose errors are not known, and answers that met the token limit.
    prices : Prices, optional
        The list prices on the day.
    provenance : mapping, optional
        Date, grader, parameters, system prompt: whatever says how the numbers came about. JSON-able. The date
        is set to today's when it is not given.

    Examples
    --------
    >>> validation = ValidationSet(["2 + 2?", "A poem."])
    >>> Evaluation("poet", validation, errors=[1, 0], costs=[1e-5, 2e-5]).error
    0.5
    """

    model: str
    validation: ValidationSet
    errors: Given
    costs: Given = None
    tokens_in: Given = None
    tokens_out: Given = None
    latencies: Given = None
    repeats: int = 1
    failed: Mask | Any = None
    truncated: Mask | Any = None
    prices: Prices | None = None
    provenance: Mapping[str, Any] | Any = None

    def __post_init__(self) -> None:
        if not isinstance(self.model, str) or not self.model.strip():
            raise InvalidDataError(f"A model's name must be a string that is not blank, not {self.model!r}.")
        shape, whose = (len(self.validation),), f"{self.model!r}: "
        _set_arrays(self, whose, shape, (*CELLS, "latencies"))
        flags = {name: _array(whose + name, getattr(self, name), shape, 0.0) > 0 for name in ("failed", "truncated")}
        errors = np.where(flags["failed"], np.nan, self.errors)  # no answer is no wrong answer
        usable = int((~np.isnan(errors)).sum())
        if usable < FEWEST:
            raise InvalidDataError(f"{self.model!r} has {usable} usable answers; give at least {FEWEST}, not failed.")
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        _set(self, errors=errors, **flags, provenance={"date": today, **(self.provenance or {})})

    @classmethod
    def recorded(
        cls,
        model: str,
        outcomes: Outcomes,
        *,
        prices: Prices | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> Self:
        """Return the evaluation that a table of outcomes holds for `model`.

        The whole table becomes the validation set's `known` outcomes, so a router finds its training models' answers
        there. Prices are those given, or the table's. Raises `UnknownModelError` when the model is not in the table;
        `InvalidDataError` when it has fewer than 2 answers there.
        """
        column = outcomes.column(model)
        return cls(
            model,
            ValidationSet(outcomes.prompts, documents=outcomes.documents, known=outcomes),
            **{name: getattr(outcomes, name)[:, column] for name in CELLS},
            prices=outcomes.prices.get(model) if prices is None else prices,
            provenance={"date": "unknown", "source": "recorded outcomes"} if provenance is None else provenance,
        )

    def __repr__(self) -> str:
        return f"Evaluation({self.model!r}, error={self.error:.3f}, {len(self.validation)} prompts)"

    @property
    def error(self) -> float:
        """The mean error over the prompts with an answer."""
        return float(np.nanmean(self.errors))

    def usd(self, counted: Array) -> Array:
        """Return the USD of each answer, (n_prompts,), NaN where not known.

        By the prices and the provider's own token counts, where both are known; else as recorded; else by the prices
        and the prompts' tokens as counted here.

        Parameters
        ----------
        counted : array (n_prompts,)
            The prompts' tokens, for answers whose own `tokens_in` is not known.
        """
        if self.prices is None:
            return self.costs
        tokens_in = np.where(np.isnan(self.tokens_in), counted, self.tokens_in)
        answers = self.tokens_out * self.prices.output if self.prices.output else 0.0  # $0, however long
        by_tokens = (tokens_in * self.prices.input + answers) / TOKENS_PER_PRICE
        recorded = ~np.isnan(self.costs) & (np.isnan(self.tokens_in) | np.isnan(by_tokens))
        return np.where(recorded, self.costs, by_tokens)


def _set(frozen: Any, **values: Any) -> None:
    """Set fields of a frozen dataclass, in its `__post_init__`."""
    for name, value in values.items():
        object.__setattr__(frozen, name, value)


def _array(name: str, given: Any, shape: tuple[int, ...], absent: float = np.nan) -> Array:
    """Return `given` as float64 of `shape`, filled with `absent` when it is None."""
    try:
        array = np.full(shape, absent) if given is None else np.array(given, np.float64)
    except (ValueError, TypeError) as failed:
        raise InvalidDataError(f"{name} is no array of numbers ({failed}); give one row for each prompt.") from failed
    if array.shape != shape:
        need = " and ".join(f"{n} {what}" for n, what in zip(shape, ("prompts", "models"), strict=False))
        raise InvalidDataError(f"{name} has shape {array.shape}, but {need} need {shape}.")
    return array


def _set_arrays(table: Outcomes | Evaluation, whose: str, shape: tuple[int, ...], names: Sequence[str]) -> None:
    """Make the fields `names` arrays: errors in [0, 1], amounts finite and >= 0, NaN where not known."""
    for name in names:
        array, is_error = _array(whose + name, getattr(table, name), shape), name == "errors"
        outside = (array < 0) | (array > 1 if is_error else np.isinf(array))
        if outside.any():
            need = "in [0, 1]; give 1 - quality" if is_error else "finite and >= 0; leave unknown ones NaN"
            raise InvalidDataError(f"{whose}{name}: {array[outside].flat[0]:g} must be {need}.")
        _set(table, **{name: array})


# --- Reading files ----------------------------------------------------------------------------------------------------

FOLDER_FILES = ("prompts.parquet", "scores.npz", "costs.npz", "meta.json")
LONGEST_FIELD = 2**31 - 1  # characters; the csv module stops at 131,072, and documents in prompts are longer
NAMES_SHOWN = 8  # a wide table has dozens of columns; the first few tell which file it is
AMOUNT = float(np.finfo(np.float64).max)  # the most that a cost or a count may be: anything finite


def read_outcomes(path: str | os.PathLike[str], *, prices: Mapping[str, Prices] | None = None) -> Outcomes:
    r"""Return the outcomes in a file or a folder.

    A file is ``.jsonl``, ``.csv`` or ``.parquet`` (UTF-8; Parquet needs ``unirouter[parquet]``) and holds one of:

    - our own form, a line for each (prompt, model): ``prompt``, ``model``, exactly one of ``error`` and ``quality``
      (in [0, 1], quality = 1 - error), and where known ``cost`` (USD), ``tokens_in``, ``tokens_out``;
    - RouterBench (``<model>``, ``<model>|total_cost``), saved as Parquet or CSV;
    - EmbedLLM (``prompt``, ``model_name``, ``label``), which has no costs;
    - SPROUT (a nested column for each model), which has tokens, and costs when `prices` are given.

    Other columns are ignored. A folder holds ``prompts.parquet`` (``prompt_id``, ``prompt``), ``scores.npz``
    (``scores``, ``models``, ``prompt_ids``; a score is a quality), ``costs.npz`` (``models`` and any of ``cost_usd``,
    ``tokens_in``, ``tokens_out``) and ``meta.json`` (``prices_usd_per_mtok``: model to [input, output]). Nothing is
    ever unpickled. Raises `InvalidDataError` when a line cannot be used, with the file, the line, the value and the
    cure; `ImportError` when the file is Parquet and pyarrow is missing.

    Parameters
    ----------
    prices : mapping of model to Prices, optional
        List prices, before those of the folder. They fill in the costs that the file does not give, where both
        token counts are known; a cost in the file stays.

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
    path, prices = Path(path), {} if prices is None else prices
    try:
        return _read_folder(path, prices) if path.is_dir() else _tabulate(_read_file(path), prices)
    except UnicodeDecodeError as failure:
        raise InvalidDataError(f"{path}: byte {failure.start} is not UTF-8; save the file as UTF-8.") from failure
    except InvalidDataError as failure:
        raise InvalidDataError(f"{path}: {failure}") from failure


class _Answers(NamedTuple):
    """The columns of one model's answers, or of the models that `model_column` names."""

    grade: str
    model: str | None = None
    model_column: str | None = None
    cost: str | None = None
    tokens_in: str | None = None
    tokens_out: str | None = None


def _find_answers(names: Collection[str]) -> list[_Answers]:
    """Return where a table with the columns `names` keeps its outcomes; a nested field is named ``column.field``."""
    found: list[_Answers] = []
    if "prompt" in names and "model" in names:
        grades = [name for name in ("error", "quality") if name in names]
        if len(grades) != 1:
            holds = "both error and quality" if grades else "neither error nor quality"
            raise InvalidDataError(f"it holds {holds}; give one of the two, in [0, 1] (error = 1 - quality).")
        amounts = {name: name for name in ("cost", "tokens_in", "tokens_out") if name in names}
        found = [_Answers(grades[0], model_column="model", **amounts)]
    elif "prompt" in names and "model_name" in names and "label" in names:
        found = [_Answers("label", model_column="model_name")]  # EmbedLLM: 1 is right
    elif "prompt" in names:
        priced = [name.removesuffix("|total_cost") for name in names if name.endswith("|total_cost")]
        found = [_Answers(name, name, cost=f"{name}|total_cost") for name in priced if name in names]  # RouterBench
        for name in () if found else [name.removesuffix(".score") for name in names if name.endswith(".score")]:
            tokens = f"{name}.num_input_tokens", f"{name}.num_output_tokens"  # SPROUT
            found += [_Answers(f"{name}.score", name, None, None, *tokens)] if {*tokens} <= {*names} else []
    if not found:
        shown = ", ".join(map(repr, list(names)[:NAMES_SHOWN])) + (", …" if len(names) > NAMES_SHOWN else "")
        raise InvalidDataError(
            f"the columns {shown or '(none)'} are not outcomes; give prompt, model, and error or quality "
            "(or the columns of RouterBench, EmbedLLM or SPROUT as published)."
        )
    return found


def _wanted(names: Collection[str]) -> list[str]:
    """Return the columns to read of a table with the columns `names`."""
    columns = [(found.grade, *found[2:]) for found in _find_answers(names)]
    return ["prompt", *(name for each in columns for name in each if name is not None)]


@dataclass(frozen=True)
class _Rows:
    """The columns of a file that hold outcomes, and the line or row of the file that each entry is in."""

    columns: Mapping[str, Sequence[Any]]
    places: Sequence[int]
    unit: str = "line"

    def refuse(self, row: int, text: str) -> NoReturn:
        raise InvalidDataError(f"{self.unit} {self.places[row]}: {text}")

    def texts(self, name: str) -> Sequence[str]:
        """Return a column of text, none of it blank."""
        for row, value in enumerate(self.columns[name]):
            if not isinstance(value, str):
                self.refuse(row, f"{name} {value!r:.60} is {type(value).__name__}, not text; give it as one string.")
            if not value or value.isspace():
                self.refuse(row, f"{name} is empty; give it text or remove the {self.unit}.")
        return self.columns[name]

    def numbers(self, name: str | None, top: float = AMOUNT) -> Array:
        """Return a column of numbers in [0, `top`], NaN where not known; all NaN when there is no such column."""
        numbers = np.full(len(self.places), np.nan)
        for row, value in enumerate(self.columns[name] if name is not None else ()):
            try:
                if value is not None and value != "":
                    numbers[row] = float(value)
            except (TypeError, ValueError, OverflowError):
                self.refuse(row, f"{name} {value!r:.60} is not a number; write one, or leave it empty if not known.")
        outside = (numbers < 0) | (numbers > top)
        if outside.any():
            row = int(outside.argmax())
            self.refuse(row, _out_of_range(str(name), float(numbers[row]), top))
        return numbers


def _out_of_range(name: str, value: float, top: float) -> str:
    if top == AMOUNT:
        return f"{name} {value!r} must be finite and >= 0; leave it empty if not known."
    if value > top:
        return f"{name} {value!r} is outside [0, 1]; divide by the highest possible value (percentages by 100)."
    return f"{name} {value!r} is outside [0, 1]; leave it empty if the answer was not graded."


def _tabulate(rows: _Rows, prices: Mapping[str, Prices]) -> Outcomes:
    """Return the table of `rows`: the mean of what is known where a prompt and a model come again."""
    if not rows.places:
        raise InvalidDataError("it holds no outcomes; give at least one.")
    prompts, names, blocks = rows.texts("prompt"), list[Any](), []
    for found in _find_answers(rows.columns):
        names += [found.model] * len(prompts) if found.model_column is None else rows.texts(found.model_column)
        grades = rows.numbers(found.grade, top=1)
        errors = grades if found.grade == "error" and found.model is None else 1 - grades
        blocks.append([errors, *(rows.numbers(name) for name in (found.cost, found.tokens_in, found.tokens_out))])
    lines = dict(zip(CELLS, map(np.concatenate, zip(*blocks, strict=True)), strict=True))
    lines["costs"] = _fill_costs(lines["costs"], lines["tokens_in"], lines["tokens_out"], names, prices)
    row_of = {prompt: row for row, prompt in enumerate(dict.fromkeys(prompts))}
    column_of = {model: column for column, model in enumerate(dict.fromkeys(names))}
    shape = len(row_of), len(column_of)
    rows_of_lines = np.array([row_of[prompt] for prompt in prompts] * len(blocks))
    cells = rows_of_lines * shape[1] + np.array([column_of[name] for name in names])
    arrays = {name: _means(cells, values, shape) for name, values in lines.items()}
    known = {model: prices[model] for model in column_of if model in prices}
    return Outcomes(list(row_of), list(column_of), **arrays, prices=known)


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


def _read_file(path: Path) -> _Rows:
    match path.suffix.lower():
        case ".jsonl":
            return _read_jsonl(path)
        case ".csv":
            return _read_csv(path)
        case ".parquet":
            columns = _read_parquet(path, _wanted)
            return _Rows(columns, range(1, len(columns["prompt"]) + 1), unit="row")
        case ".pkl" | ".pickle":
            raise InvalidDataError(
                "a pickle runs whatever program it holds when it is opened, so it is never read; convert it once, in a "
                f"place you trust it in, with pandas.read_pickle({path.name!r}).to_parquet({path.stem + '.parquet'!r})."
            )
    raise InvalidDataError(f"{path.suffix or 'a bare file'} is not read; give .jsonl, .csv, .parquet or a folder.")


def _read_jsonl(path: Path) -> _Rows:
    records, places = list[dict[str, Any]](), list[int]()
    with path.open(encoding="utf-8-sig") as text:
        for place, line in enumerate(text, 1):
            if line.isspace():
                continue
            try:
                record = json.loads(line)
            except ValueError as failure:
                raise InvalidDataError(
                    f"line {place}: {line[:60]!r} is not JSON ({failure}); write one object a line."
                ) from failure
            if not isinstance(record, dict):
                raise InvalidDataError(f"line {place}: {line[:60]!r} is not a JSON object; write one a line.")
            for name, value in list(record.items()):
                if isinstance(value, dict):  # its fields are named column.field, as in Parquet
                    record |= {f"{name}.{field}": inner for field, inner in value.items()}
            records.append(record)
            places.append(place)
    names = {name: None for record in records for name in record}
    rows = _Rows({name: [record.get(name) for record in records] for name in _wanted(names)}, places)
    found = _find_answers(names)[0]
    for row, record in enumerate(records):
        if found.model is None and found.grade not in record:
            rows.refuse(row, f"it has no {found.grade}; write null when it is not known.")
    return rows


def _read_csv(path: Path) -> _Rows:
    limit, places = csv.field_size_limit(LONGEST_FIELD), list[int]()
    with path.open(encoding="utf-8-sig", newline="") as text:
        lines = csv.reader(text, strict=True)
        try:
            names = next(lines, [])
            columns: dict[str, list[str]] = {name: [] for name in _wanted(names)}
            positions = [(names.index(name), column) for name, column in columns.items()]
            kept: dict[str, str] = {}  # a prompt comes once for each model; one string serves them all
            place = lines.line_num + 1  # where the next record begins: one with line breaks takes several lines
            for fields in lines:
                if fields and len(fields) != len(names):
                    raise InvalidDataError(
                        f"line {place}: {len(fields)} fields, but the header has {len(names)}; quote commas."
                    )
                if fields:
                    places.append(place)
                    for position, column in positions:
                        column.append(kept.setdefault(fields[position], fields[position]))
                place = lines.line_num + 1
        except csv.Error as failure:
            raise InvalidDataError(f"line {lines.line_num}: {failure}; quote fields as RFC 4180 does.") from failure
        finally:
            csv.field_size_limit(limit)
    return _Rows(columns, places)


def _read_parquet(path: Path, wanted: Callable[[Collection[str]], list[str]]) -> dict[str, list[Any]]:
    """Return the `wanted` of a file's columns; a nested column's fields are named ``column.field``."""
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ImportError as missing:
        raise ImportError("pyarrow is missing: pip install 'unirouter[parquet]'.") from missing
    try:
        with ParquetFile(path) as file:
            present = file.schema_arrow.empty_table().flatten().column_names
            names = wanted(present)
            if absent := [name for name in names if name not in present]:
                raise InvalidDataError(f"it has no column {absent[0]!r}; it has {', '.join(file.schema_arrow.names)}.")
            table = file.read(columns=names).flatten()
            return {name: table.column(name).to_pylist() for name in names}
    except pyarrow.ArrowException as failure:
        raise InvalidDataError(f"it cannot be read as Parquet ({failure}); write it again.") from failure


def _read_folder(folder: Path, given: Mapping[str, Prices]) -> Outcomes:
    missing = [name for name in FOLDER_FILES if not (folder / name).is_file()]
    if missing:
        raise InvalidDataError(f"{missing[0]} is not in it; a folder of outcomes holds {', '.join(FOLDER_FILES)}.")
    prompts = _read_parquet(folder / "prompts.parquet", lambda _: ["prompt", "prompt_id"])
    scores = _arrays(folder / "scores.npz", ("scores", "models", "prompt_ids"))
    amounts = _arrays(folder / "costs.npz", ("models",))
    if scores["prompt_ids"].tolist() != prompts["prompt_id"]:
        raise InvalidDataError("prompt_ids in scores.npz are not those in prompts.parquet; write both in one order.")
    models, others = scores["models"].tolist(), amounts["models"].tolist()
    if odd := sorted({*models} ^ {*others}):
        raise InvalidDataError(f"model {odd[0]!r} is in only one of scores.npz and costs.npz; name it in both.")
    shape, order = (len(prompts["prompt"]), len(models)), [others.index(model) for model in models]
    quality = _matrix(scores, "scores", shape, top=1)
    costs, tokens_in, tokens_out = (
        _matrix(amounts, name, shape)[:, order] for name in ("cost_usd", "tokens_in", "tokens_out")
    )
    try:
        listed = json.loads((folder / "meta.json").read_text(encoding="utf-8")).get("prices_usd_per_mtok") or {}
        prices = {model: Prices(price_in, price_out) for model, (price_in, price_out) in listed.items()} | dict(given)
    except (AttributeError, TypeError, ValueError, InvalidDataError) as failure:
        raise InvalidDataError(
            f"meta.json: {failure}; prices_usd_per_mtok maps a model to [input, output] in USD."
        ) from failure
    costs = _fill_costs(costs, tokens_in, tokens_out, models, prices)
    known = {model: prices[model] for model in models if model in prices}
    return Outcomes(prompts["prompt"], models, 1 - quality, costs, tokens_in, tokens_out, known)


def _arrays(path: Path, required: Sequence[str]) -> dict[str, Any]:
    """Return the arrays of an ``.npz`` file; those of Python objects are refused, as reading them unpickles."""
    try:
        with np.load(path, allow_pickle=False) as kept:
            arrays = dict(kept)
    except (ValueError, OSError, EOFError, TypeError, BadZipFile, zlib.error) as failure:
        raise InvalidDataError(
            f"{path.name} cannot be read ({failure}); write it with numpy.savez, text as str arrays."
        ) from failure
    if missing := [name for name in required if name not in arrays]:
        raise InvalidDataError(f"{path.name} has no {missing[0]!r}; it has {', '.join(arrays)}.")
    return arrays


def _matrix(arrays: Mapping[str, Any], name: str, shape: tuple[int, int], top: float = AMOUNT) -> Array:
    """Return the array `name`, in [0, `top`]; all NaN when there is none."""
    matrix = _array(name, arrays.get(name), shape)
    outside = (matrix < 0) | (matrix > top)
    if outside.any():
        row, column = np.argwhere(outside)[0]
        raise InvalidDataError(f"row {row + 1}: {_out_of_range(name, float(matrix[row, column]), top)}")
    return matrix
