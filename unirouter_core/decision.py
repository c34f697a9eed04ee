"""The rule: the model with the least error + cost_weight * cost, and the decisions that it makes."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from unirouter_core.embedding import Array, Labels, Mask
from unirouter_core.exceptions import InvalidDataError
from unirouter_core.pool import Expected, Pool
from unirouter_core.profiles import ModelProfile

TIE = 1e-6
"""Scores, and errors, this close are equal: float32 sums end differently in a batch of one and of many."""

SAME_COST = 1e-12
"""Relative; the same for costs, which are float64."""


def check_cost_weight(cost_weight: float) -> float:
    """Return `cost_weight`; raise `InvalidDataError` unless it is a number >= 0, inf included."""
    if not isinstance(cost_weight, (int, float, np.number)) or not cost_weight >= 0:
        raise InvalidDataError(
            f"cost_weight={cost_weight!r} must be a number >= 0, the error that one USD is worth; inf is the cheapest."
        )
    return float(cost_weight)


def score(errors: Array, costs: Array, cost_weight: float) -> Array:
    """Return error + cost_weight * cost, shape as given; cost alone when the weight is inf. Paper §3, Prop. 1."""
    return costs if math.isinf(cost_weight) else errors + cost_weight * costs


def choose(errors: Array, costs: Array, cost_weight: float, allowed: Mask | None = None) -> Labels:
    """Return the column with the least score in each row, ties to the cheaper, the more accurate, the first.

    Parameters
    ----------
    errors : array (n, m)
    costs : array (n, m)
        USD.
    cost_weight : float
        The error that one USD is worth; inf for the cheapest.
    allowed : array of bool (m,) or (n, m), optional
        The candidates; each row has at least one.

    Returns
    -------
    array (n,)

    Examples
    --------
    >>> choose(np.array([[0.5, 0.1]]), np.array([[0.001, 0.01]]), cost_weight=10.0).tolist()
    [1]
    >>> choose(np.array([[0.5, 0.1]]), np.array([[0.001, 0.01]]), cost_weight=100.0).tolist()
    [0]
    """
    scores = score(errors, costs, cost_weight)
    if allowed is not None:
        scores = np.where(allowed, scores, np.inf)
    least = scores.min(axis=1, keepdims=True)
    tied = scores <= least + (SAME_COST * np.abs(least) if math.isinf(cost_weight) else TIE)
    if np.count_nonzero(tied) == len(tied):
        return np.asarray(tied.argmax(axis=1))
    tied_costs = np.where(tied, costs, np.inf)
    cheapest = tied_costs.min(axis=1, keepdims=True)
    tied_errors = np.where(tied_costs <= cheapest + SAME_COST * np.abs(cheapest), errors, np.inf)
    return np.asarray((tied_errors <= tied_errors.min(axis=1, keepdims=True) + TIE).argmax(axis=1))


@dataclass(frozen=True, slots=True)
class Candidate:
    """One model of the ranking.

    Parameters
    ----------
    model : str
    error, stderr : float
        The expected error, in [0, 1], and its standard error.
    cost : float
        Expected USD.
    score : float
        error + cost_weight * cost; the cost alone when cost_weight is inf.
    n : int
        The answers behind the model's profile.
    excluded : str, optional
        Why it may not answer this prompt.
    """

    model: str
    error: float
    stderr: float
    cost: float
    score: float
    n: int
    excluded: str | None = None


class Decision:
    """The model that a prompt goes to, and how it compares with the others.

    Attributes
    ----------
    model : str
        The chosen model.
    cost_weight : float
        The error that one USD was worth.
    """

    __slots__ = ("_allowed", "_chosen", "_expected", "_pool", "_ranking", "_reasons", "cost_weight")

    def __init__(
        self,
        pool: Pool,
        expected: Expected,
        cost_weight: float,
        allowed: Mask | None = None,
        reasons: Mapping[str, str] | None = None,
    ) -> None:
        self._pool, self._expected, self._allowed, self._reasons = pool, expected, allowed, reasons or {}
        self._chosen = int(choose(expected.prediction.errors, expected.costs, cost_weight, allowed)[0])
        self._ranking: tuple[Candidate, ...] | None = None
        self.cost_weight = cost_weight

    @property
    def model(self) -> str:
        """The chosen model."""
        return self._pool.models[self._chosen]

    @property
    def error(self) -> float:
        """The chosen model's expected error, in [0, 1]."""
        return float(self._expected.prediction.errors[0, self._chosen])

    @property
    def cost(self) -> float:
        """The chosen model's expected USD."""
        return float(self._expected.costs[0, self._chosen])

    @property
    def region(self) -> int:
        """The region of the prompt."""
        return int(self._expected.regions[0])

    @property
    def far(self) -> float:
        """0 for a prompt like those learned from, up to 1 for one unlike them all.

        The predictions are then pulled to each model's overall error, and their standard errors are wider.
        """
        return float(self._expected.far[0])

    @property
    def ranking(self) -> tuple[Candidate, ...]:
        """All models: the chosen one, then whom the rule takes without those before; the excluded last, by name."""
        if self._ranking is None:
            self._ranking = tuple(self._rank())
        return self._ranking

    @property
    def profiles(self) -> tuple[ModelProfile, ...]:
        """The profiles of the pool that the decision was made in."""
        return tuple(self._pool.profiles.values())

    @property
    def margin(self) -> float:
        """How much larger the second candidate's score is; inf where there is no second."""
        candidates = [candidate for candidate in self.ranking if candidate.excluded is None]
        return candidates[1].score - candidates[0].score if len(candidates) > 1 else float("inf")

    def _rank(self) -> Iterator[Candidate]:
        errors, costs = self._expected.prediction.errors, self._expected.costs
        stderrs, scores = self._expected.prediction.stderrs, score(errors, costs, self.cost_weight)
        profiles = list(self._pool.profiles.values())

        def candidate(j: int) -> Candidate:
            return Candidate(
                model=self._pool.models[j],
                error=float(errors[0, j]),
                stderr=float(stderrs[0, j]),
                cost=float(costs[0, j]),
                score=float(scores[0, j]),
                n=profiles[j].n,
                excluded=self._reasons.get(self._pool.models[j]),
            )

        left = np.ones((1, len(self._pool)), bool) if self._allowed is None else np.atleast_2d(self._allowed).copy()
        shut_out = np.flatnonzero(~left[0])
        while left.any():
            first = int(choose(errors, costs, self.cost_weight, left)[0])
            left[0, first] = False
            yield candidate(first)
        for j in shut_out.tolist():
            yield candidate(j)

    def as_dict(self) -> dict[str, object]:
        """Return the decision as JSON can hold it."""
        ranking = [{name: getattr(row, name) for name in Candidate.__slots__} for row in self.ranking]
        weight = "inf" if math.isinf(self.cost_weight) else self.cost_weight
        numbers = {"error": self.error, "cost": self.cost, "cost_weight": weight}
        return {"model": self.model, **numbers, "region": self.region, "far": self.far, "ranking": ranking}

    def __repr__(self) -> str:
        numbers = f"error={self.error:.3f}, cost={self.cost:.3g}, cost_weight={self.cost_weight:g}"
        return f"Decision(model={self.model!r}, {numbers})"


@dataclass(frozen=True, eq=False)
class Decisions:
    """The decisions on many prompts, as arrays; a `Decision` is made when one is asked for by its position.

    Parameters
    ----------
    pool_models : tuple of str
        What `chosen` counts in.
    chosen : array (n,)
        The position of each prompt's model in `pool_models`.
    errors, costs : array (n,)
        The chosen models' expected errors and USD.
    regions, far : array (n,)
        As in `Decision`.
    decide : function
        From a position to the `Decision` there.
    """

    pool_models: tuple[str, ...]
    chosen: Labels
    errors: Array
    costs: Array
    regions: Labels
    far: Array
    decide: Callable[[int], Decision] = field(repr=False)

    @property
    def models(self) -> list[str]:
        """The chosen model of each prompt."""
        return [self.pool_models[j] for j in self.chosen.tolist()]

    @property
    def shares(self) -> dict[str, float]:
        """The share of the prompts that goes to each model of the pool."""
        counts = np.bincount(self.chosen, minlength=len(self.pool_models)) / max(len(self), 1)
        return dict(zip(self.pool_models, counts.tolist(), strict=True))

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, position: int) -> Decision:
        position = operator.index(position)
        if not -len(self) <= position < len(self):
            raise IndexError(f"There are {len(self)} decisions; {position} is none of them.")
        return self.decide(position % len(self))

    def __iter__(self) -> Iterator[Decision]:
        return (self.decide(position) for position in range(len(self)))
