"""From a goal in plain words to a cost_weight, with an interval on what it will really give."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from unirouter_core.curves import Curve, Sweep
from unirouter_core.embedding import Array
from unirouter_core.exceptions import InvalidDataError
from unirouter_core.held_out import FITTED_ON, HeldOut, held_out
from unirouter_core.outcomes import Outcomes

if TYPE_CHECKING:
    from unirouter_core.router import UniRouter

OUT_OF_BAG = 0.368
"""The share of the prompts that a bootstrap draw leaves out: 1 / e."""


@dataclass(frozen=True)
class Tuning:
    """The cost_weight that a goal asks for, and what it will really give.

    Parameters
    ----------
    goal : str
        In words.
    cost_weight : float
    met : bool
        Whether any routing met the goal on the held-out prompts.
    quality, cost : float
        Mean quality, and mean USD a prompt, at `cost_weight`.
    quality_interval, cost_interval : tuple of float
        What prompts that the weight was not chosen on give, by the out-of-bag bootstrap.
    single_model : str
        The most accurate single model; `single_quality` and `single_cost` are its own.
    alternative : str or None
        A single model that costs no more and is as good as routing, as far as these prompts can tell.
    shares : dict of model to float
        The share of the prompts that goes to each.
    n : int
        The held-out prompts.
    verdict : str
        All that in a sentence or two.
    """

    goal: str
    cost_weight: float
    met: bool
    quality: float
    quality_interval: tuple[float, float]
    cost: float
    cost_interval: tuple[float, float]
    single_model: str
    single_quality: float
    single_cost: float
    alternative: str | None
    shares: dict[str, float]
    n: int
    verdict: str

    def as_dict(self) -> dict[str, Any]:
        """Return the tuning as JSON can hold it."""
        weight = "inf" if np.isinf(self.cost_weight) else self.cost_weight
        return {**dataclasses.asdict(self), "cost_weight": weight}


@dataclass(frozen=True)
class _Goal:
    """A goal as a choice among the points of a curve."""

    words: str
    quality_share: float | None = None
    budget: float | None = None
    cost_weight: float | None = None

    def pick(self, curve: Curve, best_quality: float) -> tuple[float, bool]:
        """Return the cost_weight that serves the goal on `curve`, and whether it meets it."""
        if self.cost_weight is not None:
            return self.cost_weight, True
        if self.quality_share is not None:
            reaching = np.flatnonzero(curve.qualities >= self.quality_share * best_quality - 1e-12)
            point = int(reaching[0]) if len(reaching) else int(np.argmax(curve.qualities))
            return float(curve.cost_weights[point]), len(reaching) > 0
        within = np.flatnonzero(curve.costs <= (self.budget or 0.0) * (1 + 1e-12))
        point = int(within[np.argmax(curve.qualities[within])]) if len(within) else 0
        return float(curve.cost_weights[point]), len(within) > 0


def tune(
    router: UniRouter,
    *,
    keep_quality: float | None = None,
    usd_per_1000: float | None = None,
    usd_per_error: float | None = None,
    outcomes: Outcomes | None = None,
    level: float = 0.9,
    trials: int = 500,
    seed: int = 0,
) -> Tuning:
    """Return the cost_weight that meets a goal at the least cost, and what it will really give.

    Parameters
    ----------
    router : UniRouter
    keep_quality : float
        Keep this share of the most accurate single model's quality; 0.97 keeps 97 %.
    usd_per_1000 : float
        Spend at most this many USD on 1,000 prompts.
    usd_per_error : float
        Pay this many USD to avoid one wrong answer: cost_weight = 1 / usd_per_error.
    outcomes : Outcomes, optional
        What the pool's models did on prompts of your own; see `held_out`.
    level : float
        Of the intervals.
    trials, seed : int
        Of the bootstrap.

    Raises
    ------
    InvalidDataError
        When not exactly one goal is given, or it is outside its range.

    Examples
    --------
    >>> from unirouter_core import UniRouter
    >>> tuning = tune(UniRouter.starter(examples=True), usd_per_error=0.02)
    >>> tuning.cost_weight
    50.0
    """
    goal = _goal(keep_quality, usd_per_1000, usd_per_error)
    held = held_out(router, outcomes, seed=seed)
    swept = held.sweep
    best = int(np.lexsort((held.costs.mean(axis=0), held.errors.mean(axis=0)))[0])
    best_quality = 1 - float(held.errors[:, best].mean())
    cost_weight, met = goal.pick(swept.curve(), best_quality)
    chosen = held.chosen(cost_weight)
    at = np.arange(len(held))
    errors, costs = held.errors[at, chosen], held.costs[at, chosen]
    drawn = np.array(list(_out_of_bag(held, swept, goal, best, trials, seed)))
    alternative = _as_good(held, errors, costs, cost_weight, goal, level, trials, seed)
    tuning = Tuning(
        goal=goal.words,
        cost_weight=cost_weight,
        met=met,
        quality=1 - float(errors.mean()),
        quality_interval=_interval(drawn[:, 0], level, upper=1.0),
        cost=float(costs.mean()),
        cost_interval=_interval(drawn[:, 1], level),
        single_model=held.models[best],
        single_quality=best_quality,
        single_cost=float(held.costs[:, best].mean()),
        alternative=alternative,
        shares=held.shares(chosen),
        n=len(held),
        verdict="",
    )
    return dataclasses.replace(tuning, verdict=_tuning_verdict(tuning) + (FITTED_ON if held.fitted_on else ""))


def _goal(keep_quality: float | None, usd_per_1000: float | None, usd_per_error: float | None) -> _Goal:
    given = {"keep_quality": keep_quality, "usd_per_1000": usd_per_1000, "usd_per_error": usd_per_error}
    goals = [name for name, value in given.items() if value is not None]
    if len(goals) != 1:
        raise InvalidDataError(f"{len(goals)} goals were given; give one of keep_quality, usd_per_1000, usd_per_error.")
    value = given[goals[0]]
    assert value is not None
    if not 0 < value < np.inf or (keep_quality is not None and value > 1):
        allowed = "a share above 0, at most 1" if keep_quality is not None else "a finite number of USD above 0"
        raise InvalidDataError(f"{goals[0]}={value!r} must be {allowed}.")
    if keep_quality is not None:
        return _Goal(f"keep {value:.4g} of the most accurate model's quality", quality_share=value)
    if usd_per_1000 is not None:
        return _Goal(f"spend at most ${value:g} per 1,000 prompts", budget=value / 1000)
    return _Goal(f"pay ${value:g} to avoid one wrong answer", cost_weight=1 / value)


def _out_of_bag(
    held: HeldOut, swept: Sweep, goal: _Goal, best: int, trials: int, seed: int
) -> Iterator[tuple[float, float]]:
    """Yield (quality, cost) on the prompts that a draw left out, at the cost_weight that the draw chose."""
    generator, n = np.random.default_rng(seed), len(held)
    for _ in range(trials):
        counts = np.bincount(generator.integers(n, size=n), minlength=n)
        left_out = (counts == 0).astype(float)
        best_quality = 1 - float(counts @ held.errors[:, best]) / n
        weight, _ = goal.pick(swept.curve(counts), best_quality)
        until = int(np.searchsorted(swept.cost_weights, weight, side="right"))
        kept = left_out[swept.prompts[:until]] / left_out.sum()
        yield float(kept @ swept.quality_changes[:until]), float(kept @ swept.cost_changes[:until])


def _interval(drawn: Array, level: float, upper: float = np.inf) -> tuple[float, float]:
    """Return the middle `level` of out-of-bag draws, narrowed from the prompts left out to all of them."""
    centre = drawn.mean()
    around = centre + (drawn - centre) * np.sqrt(OUT_OF_BAG)
    low, high = np.quantile(around, [(1 - level) / 2, (1 + level) / 2])
    return float(max(low, 0.0)), float(min(high, upper))


def _as_good(
    held: HeldOut, errors: Array, costs: Array, cost_weight: float, goal: _Goal, level: float, trials: int, seed: int
) -> str | None:
    """Return the single model that costs no more than routing and whose errors cannot be told from more, if any."""
    mean_costs, generator = held.costs.mean(axis=0), np.random.default_rng(seed)
    if goal.cost_weight is not None:
        ceiling = np.inf  # cost is in the comparison itself
    else:
        ceiling = costs.mean() if goal.budget is None else max(goal.budget, costs.mean())
    draws = generator.integers(len(held), size=(trials, len(held)))
    for model in np.lexsort((mean_costs, held.errors.mean(axis=0))):
        if mean_costs[model] > ceiling * (1 + 1e-9):
            continue
        more = held.errors[:, model] - errors
        if goal.cost_weight is not None:
            more = more + cost_weight * (held.costs[:, model] - costs)
        if np.quantile(more[draws].mean(axis=1), (1 - level) / 2) <= 0:
            return held.models[int(model)]
    return None


def _tuning_verdict(tuning: Tuning) -> str:
    per_1000 = f"${1000 * tuning.cost:.4g} per 1,000 prompts"
    gives = f"quality {tuning.quality:.3f} for {per_1000} (cost_weight {tuning.cost_weight:.4g})"
    single = f"{tuning.single_model} alone gives {tuning.single_quality:.3f} for ${1000 * tuning.single_cost:.4g}"
    if not tuning.met:
        verdict = (
            f"No routing met the goal to {tuning.goal} on {tuning.n} held-out prompts; nearest is {gives}. {single}."
        )
    else:
        verdict = f"To {tuning.goal}: {gives}; {single}."
    if tuning.alternative is not None:
        verdict += f" On these {tuning.n} prompts it cannot be told from always using {tuning.alternative}."
    return verdict
