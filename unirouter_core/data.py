"""What models did on prompts: a table of errors, costs and tokens, with gaps where nothing is known."""

from __future__ import annotations

import csv
import datetime
import json
import os
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Self
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from unirouter_core.costs import TOKENS_PER_PRICE, Prices
from unirouter_core.documents import Documents, GivenDocuments, check_documents
from unirouter_core.embedding import Array, Labels, Mask
from unirouter_core.exceptions import InvalidDataError, UnknownModelError


def check_prompts(prompts: Iterable[str]) -> list[str]:
    """Return the prompts as a list; raise `InvalidDataError` unless they are non-blank strings, naming the first."""
    if isinstance(prompts, str):
        raise InvalidDataError(f"Prompts must be a list of strings, not one string {prompts[:40]!r}; put it in a list.")
    prompts = list(prompts)
    for position, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            raise InvalidDataError(
                f"Prompt {position} is {type(prompt).__name__} {prompt!r:.40}, not a string; remove it or make it one."
            )
        if not prompt or prompt.isspace():
            raise InvalidDataError(f"Prompt {position} is empty; remove it or give it text.")
    return prompts


def check_errors(errors: Array, names: str) -> None:
    """Raise `InvalidDataError` when an error is outside [0, 1]; NaN means not known and passes."""
    outside = (errors < 0) | (errors > 1)
    if outside.any():
        value = errors[outside].flat[0]
        raise InvalidDataError(
            f"Error {value:g} in {names} is outside [0, 1]; give 1 - quality, with quality in [0, 1]."
        )


def check_amounts(amounts: Array, what: str) -> None:
    """Raise `InvalidDataError` when a cost or a count is negative or infinite; NaN passes."""
    bad = (amounts < 0) | np.isinf(amounts)
    if bad.any():
        raise InvalidDataError(f"{what} {amounts[bad].flat[0]:g} must be finite and >= 0; leave unknown ones NaN.")


@dataclass(frozen=True, eq=False, init=False)
class Outcomes:
    """What each model did on each prompt. NaN means not known, and is never read as 0.

    Parameters
    ----------
    prompts : sequence of str
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

    Raises
    ------
    InvalidDataError
        When shapes differ, a model stands twice, or a value is outside its range.

    Examples
    --------
    >>> table = Outcomes(["2 + 2?", "A poem."], ["poet", "sage"], [[1, 0], [0, 0]], costs=[[1e-5, 1e-3]] * 2)
    >>> table.of(["sage"]).errors.tolist()
    [[0.0], [0.0]]
    """

    prompts: tuple[str, ...]
    models: tuple[str, ...]
    errors: Array
    costs: Array
    tokens_in: Array
    tokens_out: Array
    prices: Mapping[str, Prices]
    documents: tuple[Documents, ...] | None

    def __init__(
        self,
        prompts: Sequence[str],
        models: Sequence[str],
        errors: npt.ArrayLike,
        costs: npt.ArrayLike | None = None,
        tokens_in: npt.ArrayLike | None = None,
        tokens_out: npt.ArrayLike | None = None,
        prices: Mapping[str, Prices] | None = None,
        documents: Sequence[GivenDocuments | None] | None = None,
    ) -> None:
        check_prompts(prompts)
        if len(set(models)) != len(models):
            twice = next(model for model in models if list(models).count(model) > 1)
            raise InvalidDataError(f"Model {twice!r} stands twice in the table; merge its columns or rename one.")
        shape = (len(prompts), len(models))
        arrays = {
            "errors": _table("errors", errors, np.float32, shape),
            "costs": _table("costs", costs, np.float64, shape),
            "tokens_in": _table("tokens_in", tokens_in, np.float64, shape),
            "tokens_out": _table("tokens_out", tokens_out, np.float64, shape),
        }
        check_errors(arrays["errors"], "the table")
        check_amounts(arrays["costs"], "Cost")
        check_amounts(arrays["tokens_in"], "Token count")
        check_amounts(arrays["tokens_out"], "Token count")
        fields: dict[str, object] = {"prompts": tuple(prompts), "models": tuple(models), **arrays}
        fields["prices"] = dict(prices or {})
        fields["documents"] = None if documents is None else check_documents(documents, len(prompts))
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        """Return the number of prompts."""
        return len(self.prompts)

    def __repr__(self) -> str:
        return f"Outcomes({len(self)} prompts, {len(self.models)} models)"

    def rows(self, positions: Iterable[int]) -> Outcomes:
        """Return the table of the prompts at `positions`, in that order."""
        rows = np.asarray(list(positions), int)
        return Outcomes(
            [self.prompts[row] for row in rows],
            self.models,
            self.errors[rows],
            self.costs[rows],
            self.tokens_in[rows],
            self.tokens_out[rows],
            self.prices,
            None if self.documents is None else [self.documents[row] for row in rows],
        )

    def of(self, models: Sequence[str]) -> Outcomes:
        """Return the table of `models`, in that order.

        Raises
        ------
        UnknownModelError
            When one of them is not in the table.
        """
        columns = [self.column(model) for model in models]
        return Outcomes(
            self.prompts,
            models,
            self.errors[:, columns],
            self.costs[:, columns],
            self.tokens_in[:, columns],
            self.tokens_out[:, columns],
            {model: self.prices[model] for model in models if model in self.prices},
            self.documents,
        )

    def column(self, model: str) -> int:
        """Return the position of `model` among the models.

        Raises
        ------
        UnknownModelError
            When it is not in the table.
        """
        if model not in self.models:
            raise UnknownModelError(f"{model!r} is not in the table; it holds {', '.join(map(repr, self.models))}.")
        return self.models.index(model)


def _table(name: str, given: npt.ArrayLike | None, dtype: npt.DTypeLike, shape: tuple[int, int]) -> Array:
    """Return a column of the table as an array of `shape`, all NaN when it was not given."""
    try:
        array = np.full(shape, np.nan, dtype) if given is None else np.array(given, dtype)
    except (ValueError, TypeError) as failed:
        raise InvalidDataError(
            f"{name} is not a table of numbers ({failed}); give one row for each prompt."
        ) from failed
    if array.shape != shape:
        raise InvalidDataError(
            f"{name} has shape {array.shape}, but {shape[0]} prompts and {shape[1]} models need {shape}."
        )
    return array


FEWEST = 2
"""The smallest validation set; a few hundred prompts are what routing wants."""


@dataclass(frozen=True, eq=False)
class ValidationSet:
    """Prompts with the answers they should get, and how to tell.

    Parameters
    ----------
    prompts : sequence of str
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

    Raises
    ------
    InvalidDataError
        When lengths differ, there are fewer than 2 prompts, or a prompt is empty.

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


@dataclass(frozen=True, eq=False, init=False)
class Evaluation:
    """One model on a validation set. NaN means not known: a call that failed is no wrong answer.

    Parameters
    ----------
    model : str
    validation : ValidationSet
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
        The price list on the day.
    provenance : mapping, optional
        Date, grader, parameters, system prompt: whatever says how the numbers came about. JSON-able. The date
        is set to today's when it is not given.

    Raises
    ------
    InvalidDataError
        When lengths differ, a value is outside its range, or fewer than 2 prompts have an answer.

    Examples
    --------
    >>> validation = ValidationSet(["2 + 2?", "A poem."])
    >>> Evaluation("poet", validation, errors=[1, 0], costs=[1e-5, 2e-5]).error
    0.5
    """

    model: str
    validation: ValidationSet
    errors: Array
    costs: Array
    tokens_in: Array
    tokens_out: Array
    latencies: Array
    repeats: int
    failed: Mask
    truncated: Mask
    prices: Prices | None
    provenance: Mapping[str, Any]

    def __init__(
        self,
        model: str,
        validation: ValidationSet,
        errors: npt.ArrayLike,
        costs: npt.ArrayLike | None = None,
        tokens_in: npt.ArrayLike | None = None,
        tokens_out: npt.ArrayLike | None = None,
        latencies: npt.ArrayLike | None = None,
        repeats: int = 1,
        failed: npt.ArrayLike | None = None,
        truncated: npt.ArrayLike | None = None,
        prices: Prices | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        if not isinstance(model, str) or not model.strip():
            raise InvalidDataError(f"A model's name must be a string that is not blank, not {model!r}.")
        numbers = {
            "errors": errors,
            "costs": costs,
            "tokens_in": tokens_in,
            "tokens_out": tokens_out,
            "latencies": latencies,
        }
        arrays = {name: self._column(model, name, given, len(validation)) for name, given in numbers.items()}
        check_errors(arrays["errors"], f"the evaluation of {model!r}")
        for name, what in (
            ("costs", "Cost"),
            ("tokens_in", "Token count"),
            ("tokens_out", "Token count"),
            ("latencies", "Latency"),
        ):
            check_amounts(arrays[name], what)
        masks = {"failed": failed, "truncated": truncated}
        flags = {name: self._column(model, name, given, len(validation), 0.0) > 0 for name, given in masks.items()}
        arrays["errors"] = np.where(flags["failed"], np.nan, arrays["errors"])  # no answer is no wrong answer
        usable = int((~np.isnan(arrays["errors"])).sum())
        if usable < FEWEST:
            raise InvalidDataError(f"{model!r} has {usable} usable answers; give at least {FEWEST} that did not fail.")
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        fields = {"model": model, "validation": validation, **arrays, "repeats": repeats, **flags, "prices": prices}
        for name, value in {**fields, "provenance": {"date": today, **(provenance or {})}}.items():
            object.__setattr__(self, name, value)

    @staticmethod
    def _column(model: str, name: str, given: npt.ArrayLike | None, n: int, absent: float = np.nan) -> Array:
        """Return one number for each prompt, `absent` when none were given."""
        try:
            column = np.full(n, absent) if given is None else np.array(given, np.float64)
        except (ValueError, TypeError) as failed:
            raise InvalidDataError(
                f"{model!r}: {name} are not numbers ({failed}); give one for each prompt."
            ) from failed
        if column.shape != (n,):
            raise InvalidDataError(f"{model!r}: {name} has shape {column.shape} for {n} prompts; give one for each.")
        return column

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
        there. Prices are those given, or the table's.

        Raises
        ------
        UnknownModelError
            When the model is not in the table.
        InvalidDataError
            When it has fewer than 2 answers there.
        """
        column = outcomes.column(model)
        return cls(
            model,
            ValidationSet(outcomes.prompts, documents=outcomes.documents, known=outcomes),
            outcomes.errors[:, column],
            outcomes.costs[:, column],
            outcomes.tokens_in[:, column],
            outcomes.tokens_out[:, column],
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
        """Return the USD of each answer, (n_prompts,), NaN where nothing tells.

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


NAMES_SHOWN = 8
"""A wide table has dozens of columns; the first few tell which file it is."""

AMOUNT = float(np.finfo(np.float64).max)
"""The most that a cost or a count may be: anything finite."""


@dataclass(frozen=True)
class AnswerColumns:
    """The columns that say how answers did: those of one model, or of the models that a column names.

    Parameters
    ----------
    grade : str
        The column of the quality, or of the error when `grade_is_error`.
    model : str, optional
        The model whose answers these are.
    model_column : str, optional
        The column that names the model of each row; given when `model` is not.
    cost, tokens_in, tokens_out : str, optional
        The columns of USD and of tokens.
    """

    grade: str
    grade_is_error: bool = False
    model: str | None = None
    model_column: str | None = None
    cost: str | None = None
    tokens_in: str | None = None
    tokens_out: str | None = None

    @property
    def names(self) -> list[str]:
        """The columns to read."""
        columns = (self.model_column, self.grade, self.cost, self.tokens_in, self.tokens_out)
        return [name for name in columns if name is not None]


@dataclass(frozen=True)
class Rows:
    """The columns of a file that hold outcomes, and where each row stands in it.

    Parameters
    ----------
    answers : sequence of AnswerColumns
    columns : mapping of name to sequence
        The prompts, under ``prompt``, and the columns that `answers` names.
    places : sequence of int
        The line or the row of each one in the file, from 1.
    unit : str
        What `places` counts.
    """

    answers: Sequence[AnswerColumns]
    columns: Mapping[str, Sequence[Any]]
    places: Sequence[int]
    unit: str = "line"

    def refuse(self, row: int, text: str) -> NoReturn:
        """Raise `InvalidDataError` with the place of `row` before `text`."""
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
        if name is None:
            return numbers
        for row, value in enumerate(self.columns[name]):
            try:
                if value is not None and value != "":
                    numbers[row] = float(value)
            except (TypeError, ValueError, OverflowError):
                self.refuse(row, f"{name} {value!r:.60} is not a number; write one, or leave it empty if not known.")
        outside = (numbers < 0) | (numbers > top)
        if outside.any():
            row = int(outside.argmax())
            self.refuse(row, out_of_range(name, float(numbers[row]), top))
        return numbers


def out_of_range(name: str, value: float, top: float = AMOUNT) -> str:
    """Return what is wrong with a `value` that is not in [0, `top`], and the cure."""
    if top == AMOUNT:
        return f"{name} {value!r} must be finite and >= 0; leave it empty if not known."
    if value > top:
        return f"{name} {value!r} is outside [0, 1]; divide by the highest possible value (percentages by 100)."
    return f"{name} {value!r} is outside [0, 1]; leave it empty if the answer was not graded."


def find_answers(names: Collection[str]) -> list[AnswerColumns]:
    """Return where a table with the columns `names` keeps its outcomes; the prompt is in ``prompt``.

    A field of a nested column is named ``column.field``.

    Raises
    ------
    InvalidDataError
        When the columns are of no known form, or hold both an error and a quality.

    Examples
    --------
    >>> [found.model for found in find_answers(["prompt", "sage", "sage|model_response", "sage|total_cost"])]
    ['sage']
    """
    if "prompt" in names:
        if "model" in names:
            return [_own(names)]
        if "model_name" in names and "label" in names:
            return [AnswerColumns("label", model_column="model_name")]  # EmbedLLM: 1 is right
        wide = _routerbench(names) or _sprout(names)
        if wide:
            return wide
    shown = ", ".join(map(repr, list(names)[:NAMES_SHOWN])) + (", …" if len(names) > NAMES_SHOWN else "")
    raise InvalidDataError(
        f"the columns {shown or '(none)'} are not outcomes; give prompt, model, and error or quality "
        "(or the columns of RouterBench, EmbedLLM or SPROUT as published)."
    )


def _own(names: Collection[str]) -> AnswerColumns:
    """Return the columns of our own form: a row is a prompt and a model."""
    grades = [name for name in ("error", "quality") if name in names]
    if len(grades) != 1:
        holds = "both error and quality" if grades else "neither error nor quality"
        raise InvalidDataError(f"it holds {holds}; give one of the two, in [0, 1] (error = 1 - quality).")
    optional = {name: name for name in ("cost", "tokens_in", "tokens_out") if name in names}
    return AnswerColumns(grades[0], grade_is_error=grades[0] == "error", model_column="model", **optional)


def _routerbench(names: Collection[str]) -> list[AnswerColumns]:
    """Return the columns of each model in RouterBench: its quality under its name, its USD beside."""
    models = [name.removesuffix("|total_cost") for name in names if name.endswith("|total_cost")]
    return [AnswerColumns(model, model=model, cost=f"{model}|total_cost") for model in models if model in names]


def _sprout(names: Collection[str]) -> list[AnswerColumns]:
    """Return the columns of each model in SPROUT: the fields of one nested column, no USD."""
    models = [name.removesuffix(".score") for name in names if name.endswith(".score")]
    return [
        AnswerColumns(f"{model}.score", model=model, tokens_in=tokens_in, tokens_out=tokens_out)
        for model in models
        for tokens_in, tokens_out in [(f"{model}.num_input_tokens", f"{model}.num_output_tokens")]
        if tokens_in in names and tokens_out in names
    ]


def tabulate(rows: Rows, prices: Mapping[str, Prices]) -> Outcomes:
    """Return the table of `rows`: the mean of what is known where a prompt and a model come again.

    Raises
    ------
    InvalidDataError
        When there are no rows, or one cannot be used; it is named.
    """
    if not rows.places:
        raise InvalidDataError("it holds no outcomes; give at least one.")
    prompts: dict[str, int] = {}
    models: dict[str, int] = {}
    prompt_of_row = _positions(rows.texts("prompt"), prompts)
    blocks = []
    for found in rows.answers:
        names = [found.model] * len(rows.places) if found.model_column is None else rows.texts(found.model_column)
        grades = rows.numbers(found.grade, top=1)
        errors = grades if found.grade_is_error else 1 - grades
        amounts = [rows.numbers(name) for name in (found.cost, found.tokens_in, found.tokens_out)]
        blocks.append((prompt_of_row, _positions(names, models), errors, *amounts))
    line_prompts, line_models, errors, costs, tokens_in, tokens_out = map(np.concatenate, zip(*blocks, strict=True))
    costs = fill_costs(costs, tokens_in, tokens_out, line_models, models, prices)
    shape = (len(prompts), len(models))
    cells = line_prompts * shape[1] + line_models
    errors, costs, tokens_in, tokens_out = (
        _means(cells, values, shape) for values in (errors, costs, tokens_in, tokens_out)
    )
    known = {model: prices[model] for model in models if model in prices}
    return Outcomes(list(prompts), list(models), errors, costs, tokens_in, tokens_out, known)


def fill_costs(
    costs: Array,
    tokens_in: Array,
    tokens_out: Array,
    columns: Labels,
    models: Iterable[str],
    prices: Mapping[str, Prices],
) -> Array:
    """Return `costs` (USD) with unknown ones computed where tokens and price are known.

    `columns` gives, for the last axis of the others, the position of its model among `models`.
    """
    unknown = (np.nan, np.nan)
    token = np.array([(prices[m].cost(1, 0), prices[m].cost(0, 1)) if m in prices else unknown for m in models])
    return np.where(np.isnan(costs), tokens_in * token[columns, 0] + tokens_out * token[columns, 1], costs)


def _positions(values: Sequence[Any], positions: dict[Any, int]) -> Labels:
    """Return the position of each value, shape (n_values,); one that `positions` does not hold joins at its end."""
    return np.fromiter((positions.setdefault(value, len(positions)) for value in values), np.int64, len(values))


def _means(cells: Labels, values: Array, shape: tuple[int, int]) -> Array:
    """Return the mean of the known `values` in each cell, NaN where there is none."""
    known = ~np.isnan(values)
    size = shape[0] * shape[1]
    sums = np.bincount(cells[known], values[known], size)
    counts = np.bincount(cells[known], minlength=size)
    means: Array = np.divide(sums, counts, out=np.full(size, np.nan), where=counts > 0)
    return means.reshape(shape)


FOLDER_FILES = ("prompts.parquet", "scores.npz", "costs.npz", "meta.json")
LONGEST_FIELD = 2**31 - 1  # characters; the csv module stops at 131,072, and documents in prompts are longer


def read_outcomes(path: str | os.PathLike[str], *, prices: Mapping[str, Prices] | None = None) -> Outcomes:
    r"""Return the outcomes in a file or a folder.

    A file is ``.jsonl``, ``.csv`` or ``.parquet`` (UTF-8; Parquet needs ``unirouter[parquet]``) and holds one of:

    - our own form, a line for each (prompt, model): ``prompt``, ``model``, exactly one of ``error`` and ``quality``
      (in [0, 1], quality = 1 - error), and where known ``cost`` (USD), ``tokens_in``, ``tokens_out``;
    - RouterBench (``<model>``, ``<model>|total_cost``), saved as Parquet or CSV;
    - EmbedLLM (``prompt``, ``model_name``, ``label``), which has no costs;
    - SPROUT (a nested column for each model), which has tokens, and costs when `prices` are given.

    Other columns are passed over. A folder holds ``prompts.parquet`` (``prompt_id``, ``prompt``), ``scores.npz``
    (``scores``, ``models``, ``prompt_ids``; a score is a quality), ``costs.npz`` (``models`` and any of ``cost_usd``,
    ``tokens_in``, ``tokens_out``) and ``meta.json`` (``prices_usd_per_mtok``: model to [input, output]).

    Parameters
    ----------
    path : str or path
    prices : mapping of model to Prices, optional
        List prices, before those of the folder. They fill in the costs that the file does not give, where both
        token counts are known; a cost in the file stays.

    Notes
    -----
    What is absent, empty or null is not known: NaN, never 0. Several lines of one prompt (the same text) and one model
    are repeats of a measurement: each number is the mean of those that are known. Prompts and models keep the order
    in which they first come; a folder keeps its rows as they are, repeats too, so that arrays beside it still fit.

    Raises
    ------
    InvalidDataError
        When a line cannot be used, with the file, the line, the value and the cure.
    ImportError
        When the file is Parquet and pyarrow is missing.

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
        if path.is_dir():
            return _read_folder(path, prices)
        return tabulate(_read_file(path), prices)
    except UnicodeDecodeError as failure:
        raise InvalidDataError(f"{path}: byte {failure.start} is not UTF-8; save the file as UTF-8.") from failure
    except InvalidDataError as failure:
        raise InvalidDataError(f"{path}: {failure}") from failure


def _read_file(path: Path) -> Rows:
    match path.suffix.lower():
        case ".jsonl":
            return _read_jsonl(path)
        case ".csv":
            return _read_csv(path)
        case ".parquet":
            return _read_parquet(path)
        case ".pkl" | ".pickle":
            raise InvalidDataError(
                "a pickle runs whatever program it holds when it is opened, so it is never read; convert it once, in a "
                f"place you trust it in, with pandas.read_pickle({path.name!r}).to_parquet({path.stem + '.parquet'!r})."
            )
    raise InvalidDataError(
        f"{path.suffix or 'a file without suffix'} is not read; give .jsonl, .csv, .parquet or a folder."
    )


def _read_jsonl(path: Path) -> Rows:
    records: list[dict[str, Any]] = []
    places: list[int] = []
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
            records.append(_flat(record))
            places.append(place)
    answers = find_answers(dict.fromkeys(name for record in records for name in record))
    rows = Rows(answers, {name: [record.get(name) for record in records] for name in _wanted(answers)}, places)
    if answers[0].model_column is not None:
        for row, record in enumerate(records):
            if answers[0].grade not in record:
                rows.refuse(row, f"it has no {answers[0].grade}; write null when it is not known.")
    return rows


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    """Return `record` with the fields of an object under ``column.field``, as Parquet flattens them."""
    if not any(isinstance(value, dict) for value in record.values()):
        return record
    flat: dict[str, Any] = {}
    for name, value in record.items():
        flat.update(
            {f"{name}.{field}": inner for field, inner in value.items()} if isinstance(value, dict) else {name: value}
        )
    return flat


def _read_csv(path: Path) -> Rows:
    limit = csv.field_size_limit(LONGEST_FIELD)
    try:
        with path.open(encoding="utf-8-sig", newline="") as text:
            lines = csv.reader(text, strict=True)
            try:
                return _read_csv_lines(lines)
            except csv.Error as failure:
                raise InvalidDataError(f"line {lines.line_num}: {failure}; quote fields as RFC 4180 does.") from failure
    finally:
        csv.field_size_limit(limit)


def _read_csv_lines(lines: Any) -> Rows:
    names: list[str] = next(lines, [])
    answers = find_answers(names)
    columns: dict[str, list[str]] = {name: [] for name in _wanted(answers)}
    positions = [(names.index(name), column) for name, column in columns.items()]
    places: list[int] = []
    kept: dict[str, str] = {}  # a prompt comes once for each model; one string serves them all
    place = lines.line_num + 1  # where the next record begins: one with line breaks takes several lines
    for fields in lines:
        if fields:
            if len(fields) != len(names):
                raise InvalidDataError(
                    f"line {place}: {len(fields)} fields, but the header has {len(names)}; quote commas."
                )
            for position, column in positions:
                column.append(kept.setdefault(fields[position], fields[position]))
            places.append(place)
        place = lines.line_num + 1
    return Rows(answers, columns, places)


def _wanted(answers: Sequence[AnswerColumns]) -> list[str]:
    return ["prompt", *(name for found in answers for name in found.names)]


def _read_parquet(path: Path) -> Rows:
    with _parquet(path) as file:
        names: list[str] = file.schema_arrow.empty_table().flatten().column_names  # a nested one becomes column.field
        answers = find_answers(names)
        columns = _parquet_columns(file, _wanted(answers))
    return Rows(answers, columns, range(1, len(columns["prompt"]) + 1), unit="row")


@contextmanager
def _parquet(path: Path) -> Iterator[Any]:
    """Open a Parquet file; what cannot be read in it is an `InvalidDataError`."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as missing:
        raise ImportError("pyarrow is missing: pip install 'unirouter[parquet]'.") from missing
    try:
        with parquet.ParquetFile(path) as file:
            yield file
    except pyarrow.ArrowException as failure:
        raise InvalidDataError(f"it cannot be read as Parquet ({failure}); write it again.") from failure


def _parquet_columns(file: Any, names: Sequence[str]) -> dict[str, list[Any]]:
    table = file.read(columns=list(names)).flatten()
    missing = [name for name in names if name not in table.column_names]
    if missing:
        raise InvalidDataError(f"it has no column {missing[0]!r}; it has {', '.join(file.schema_arrow.names)}.")
    return {name: table.column(name).to_pylist() for name in names}


def _read_folder(folder: Path, given: Mapping[str, Prices]) -> Outcomes:
    missing = [name for name in FOLDER_FILES if not (folder / name).is_file()]
    if missing:
        raise InvalidDataError(f"{missing[0]} is not in it; a folder of outcomes holds {', '.join(FOLDER_FILES)}.")
    with _parquet(folder / "prompts.parquet") as file:
        prompts = _parquet_columns(file, ["prompt", "prompt_id"])
    scores = _arrays(folder / "scores.npz", ("scores", "models", "prompt_ids"))
    if scores["prompt_ids"].tolist() != prompts["prompt_id"]:
        raise InvalidDataError(
            "prompt_ids in scores.npz are not prompt_id in prompts.parquet; write both in one order."
        )
    models = scores["models"].tolist()
    shape = (len(prompts["prompt"]), len(models))
    quality = _matrix(scores, "scores", shape, range(len(models)), top=1)
    costs, tokens_in, tokens_out = _folder_amounts(folder / "costs.npz", models, shape)
    prices = {**_folder_prices(folder / "meta.json"), **given}
    costs = fill_costs(costs, tokens_in, tokens_out, np.arange(len(models)), models, prices)
    known = {model: prices[model] for model in models if model in prices}
    return Outcomes(prompts["prompt"], models, 1 - quality, costs, tokens_in, tokens_out, known)


def _folder_amounts(path: Path, models: Sequence[str], shape: tuple[int, int]) -> list[Array]:
    """Return the USD, the tokens in and the tokens out, each with its columns in the order of `models`."""
    arrays = _arrays(path, ("models",))
    places = {model: column for column, model in enumerate(arrays["models"].tolist())}
    if places.keys() != set(models):
        odd = sorted(places.keys() ^ set(models))[0]
        raise InvalidDataError(
            f"model {odd!r} is in only one of scores.npz and {path.name}; give both the same models."
        )
    columns = [places[model] for model in models]
    return [_matrix(arrays, name, shape, columns) for name in ("cost_usd", "tokens_in", "tokens_out")]


def _arrays(path: Path, required: Sequence[str]) -> dict[str, Any]:
    """Return the arrays of an ``.npz`` file; those of Python objects are refused, as reading them unpickles."""
    try:
        with np.load(path, allow_pickle=False) as kept:
            arrays = dict(kept)
    except (ValueError, OSError, EOFError, TypeError, BadZipFile, zlib.error) as failure:
        raise InvalidDataError(
            f"{path.name} cannot be read ({failure}); write it with numpy.savez, text as str arrays."
        ) from failure
    missing = [name for name in required if name not in arrays]
    if missing:
        raise InvalidDataError(f"{path.name} has no {missing[0]!r}; it has {', '.join(arrays)}.")
    return arrays


def _matrix(
    arrays: Mapping[str, Any], name: str, shape: tuple[int, int], columns: Sequence[int], top: float = AMOUNT
) -> Array:
    """Return the array `name` in [0, `top`] with its columns in the order `columns`; all NaN when there is none."""
    if name not in arrays:
        return np.full(shape, np.nan)
    if arrays[name].shape != shape:
        raise InvalidDataError(
            f"{name} has shape {arrays[name].shape}, but {shape[0]} prompts and {shape[1]} models need {shape}."
        )
    matrix: Array = arrays[name].astype(np.float64)[:, columns]
    outside = (matrix < 0) | (matrix > top)
    if outside.any():
        row, column = np.argwhere(outside)[0]
        raise InvalidDataError(f"row {row + 1}: {out_of_range(name, float(matrix[row, column]), top)}")
    return matrix


def _folder_prices(path: Path) -> dict[str, Prices]:
    try:
        listed = json.loads(path.read_text(encoding="utf-8")).get("prices_usd_per_mtok") or {}
        return {model: Prices(price_in, price_out) for model, (price_in, price_out) in listed.items()}
    except (AttributeError, TypeError, ValueError) as failure:
        raise InvalidDataError(
            f"{path.name}: {failure}; prices_usd_per_mtok maps a model to [input, output] in USD."
        ) from failure
