"""What models did on prompts: outcomes, validation sets, evaluations."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self, TypeAlias

import numpy as np

from unirouter_core.costs import TOKENS_PER_PRICE, Prices
from unirouter_core.documents import Documents, GivenDocuments, check_documents
from unirouter_core.embedding import Array, Mask, check_prompts
from unirouter_core.exceptions import InvalidDataError, UnknownModelError

FEWEST = 2  # the smallest validation set; routing needs a few hundred prompts
CELLS = ("errors", "costs", "tokens_in", "tokens_out")  # what may be known of each answer
Given: TypeAlias = Array | Any  # a constructor takes anything that `numpy.array` takes, and None for what is not known


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What each model did on each prompt. NaN means not known, and is never read as 0.

    Raises `InvalidDataError` when shapes differ, a model is listed twice, or a value is outside its range.

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
    source : str, optional
        One line on what was read; empty in parts of the table.

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
    source: str = ""

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
        The chat that ends in each prompt, where it is more than one user message.
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
            if name == "documents" and given is not None:
                check_documents(given, len(given))
            _set(self, **{name: None if given is None else tuple(given)})
        if self.known is not None and self.known.prompts != tuple(self.prompts):
            raise InvalidDataError(
                f"The known outcomes are of {len(self.known)} other prompts; give those of these {len(self)}, in order."
            )
        _set(self, prompts=tuple(self.prompts))

    def __len__(self) -> int:
        return len(self.prompts)

    @cached_property
    def digests(self) -> tuple[str, ...]:
        """The hashes of the prompts with their documents; all models that answered this set share them."""
        found = None if self.documents is None else check_documents(self.documents, len(self))
        return tuple(digests(self.prompts, found))

    def __repr__(self) -> str:
        return f"ValidationSet({len(self)} prompts)"


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One model's results on a validation set. NaN means not known: a failed call is not a wrong answer.

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
        Answers that each error is the mean of.
    failed, truncated : array (n_prompts,) of bool, optional
        Calls without an answer, whose errors are not known, and answers that met the token limit.
    prices : Prices, optional
        The list prices on the day.
    provenance : mapping, optional
        Date, grader, parameters, system prompt and the like, JSON-able. The date is today's when not given.

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
        flags = {name: as_array(whose + name, getattr(self, name), shape, 0.0) > 0 for name in ("failed", "truncated")}
        errors = np.where(flags["failed"], np.nan, self.errors)  # a failed call is not a wrong answer
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


def digests(prompts: Sequence[str], documents: Sequence[Documents] | None = None) -> list[str]:
    """Return the hash of each prompt, followed by that of its documents, if any."""
    found = [None] * len(prompts) if documents is None else documents
    more = [f"+{_digest(repr((each.texts, each.scores)))}" if each else "" for each in found]
    return [_digest(prompt) + rest for prompt, rest in zip(prompts, more, strict=True)]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _set(frozen: Any, **values: Any) -> None:
    """Set fields of a frozen dataclass, in its `__post_init__`."""
    for name, value in values.items():
        object.__setattr__(frozen, name, value)


def as_array(name: str, given: Any, shape: tuple[int, ...], absent: float = np.nan) -> Array:
    """Return `given` as float64 of `shape`, None in it as NaN; all `absent` when it is None."""
    try:
        kind = np.asarray(given).dtype.kind
        if kind not in "biufO":  # texts and dates would turn into numbers, too
            raise TypeError(f"it holds {'texts' if kind in 'US' else np.asarray(given).dtype}")
        array = np.full(shape, absent) if given is None else np.array(given, np.float64)
    except (ValueError, TypeError, OverflowError) as failed:
        raise InvalidDataError(f"{name} is no array of numbers ({failed}); give one row for each prompt.") from failed
    if array.shape != shape:
        need = " and ".join(f"{n} {what}" for n, what in zip(shape, ("prompts", "models"), strict=False))
        raise InvalidDataError(f"{name} has shape {array.shape}, but {need} need {shape}.")
    return array


def _set_arrays(table: Outcomes | Evaluation, whose: str, shape: tuple[int, ...], names: Sequence[str]) -> None:
    """Make the fields `names` arrays: errors in [0, 1], amounts finite and >= 0, NaN where not known."""
    for name in names:
        array, is_error = as_array(whose + name, getattr(table, name), shape), name == "errors"
        outside = (array < 0) | (array > 1 if is_error else np.isinf(array))
        if outside.any():
            need = "in [0, 1]; give 1 - quality" if is_error else "finite and >= 0; leave unknown ones NaN"
            raise InvalidDataError(f"{whose}{name}: {array[outside].flat[0]:g} must be {need}.")
        _set(table, **{name: array})
