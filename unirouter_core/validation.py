"""The prompts that models are measured on, and what one model did on them."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from unirouter_core.costs import TOKENS_PER_PRICE, Prices
from unirouter_core.documents import GivenDocuments, check_documents
from unirouter_core.embedding import Array, Mask
from unirouter_core.exceptions import InvalidDataError
from unirouter_core.outcomes import Outcomes, check_amounts, check_errors, check_prompts

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
