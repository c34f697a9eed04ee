"""Columns to `Outcomes`: our own long form, and the public tables RouterBench, EmbedLLM and SPROUT."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from unirouter_core.costs import Prices
from unirouter_core.embedding import Array, Labels
from unirouter_core.exceptions import InvalidDataError
from unirouter_core.outcomes import Outcomes

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
