"""From a goal in plain words to a cost_weight, with an interval on what it will really give."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from unirouter_core.curves import Curve, Sweep
from unirouter_core.data import Outcomes
from unirouter_core.embedding import Array
from unirouter_core.evaluate.bootstrap import check_trials, draws, interval
from unirouter_core.evaluate.forecast import long_run
from unirouter_core.evaluate.held_out import FITTED_ON, HeldOut, held_out
from unirouter_core.exceptions import InvalidDataError

if TYPE_CHECKING:
    from unirouter_core.router import UniRouter

LEFT_OUT = 0.368
"""The share of the prompts that a bootstrap draw leaves out, on average: 1 / e."""


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
    quality_interval : tuple of float
        What prompts that the weight was not chosen on give, by the out-of-bag bootstrap.
    cost_interval : tuple of float
        What as many prompts to come will cost at this weight; see `unirouter_core.evaluate.forecast`.
    single_model : str
        The most accurate single model; `single_quality` and `single_cost` are its own.
    alternative : str or None
        A single model that serves the goal as well as routing, as far as these prompts can tell: one that costs no
        more, or is within the budget, or whose errors and cost weigh no more.
    shares : dict of model to float
        The share of the prompts that goes to each.
    n : int
        The held-out prompts.
    met_share : float
        How often the goal is met on prompts that a resampled choice of the weight left out.
    mixture_quality : float
        What the most favourable mixture of models, chosen without reading the prompt, gives at this cost.
    verdict : str
        All that in a few sentences.
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
    met_share: float
    mixture_quality: float
    verdict: str

    def as_dict(self) -> dict[str, Any]:
        """Return the tuning as JSON can hold it."""
        weight = "inf" if np.isinf(self.cost_weight) else self.cost_weight
        return {**dataclasses.asdict(self), "cost_weight": weight}


@dataclass(frozen=True)
class Goal:
    """A goal as a choice among the points of a curve: a share of quality, a budget in USD a prompt, or a weight."""

    words: str
    quality_share: float | None = None
    budget: float | None = None
    cost_weight: float | None = None
    margin: float = 0.0  # of quality: what choosing on these very prompts flatters

    def met(self, quality: float, cost: float, best_quality: float) -> bool:
        """Return whether mean quality and USD a prompt meet the goal."""
        if self.quality_share is not None:
            return bool(quality >= self.quality_share * best_quality - 1e-12)
        return self.budget is None or cost <= self.budget * (1 + 1e-12)

    def pick(self, curve: Curve, best_quality: float) -> tuple[float, bool]:
        """Return the cost_weight that serves the goal on `curve`, and whether it meets it."""
        if self.cost_weight is not None:
            return self.cost_weight, True
        if self.quality_share is not None:
            target = self.quality_share * best_quality + self.margin
            point = curve.first_reaching(target)
            return float(curve.cost_weights[point]), self.met(curve.qualities[point], 0.0, best_quality)
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
        When not exactly one goal is given, or it, `level` or `trials` is outside its range.

    Examples
    --------
    >>> from unirouter_core import UniRouter
    >>> tuning = tune(UniRouter.starter(examples=True), usd_per_error=0.02)
    >>> tuning.cost_weight
    50.0
    """
    check_trials(level, trials)
    goal = _goal(keep_quality, usd_per_1000, usd_per_error)
    held = held_out(router, outcomes, seed=seed)
    swept, best = held.sweep, held.most_accurate
    best_quality = 1 - float(held.errors[:, best].mean())
    goal = with_margin(goal, held, swept, best, trials, seed)
    cost_weight, met = goal.pick(swept.curve(), best_quality)
    chosen = held.chosen(cost_weight)
    errors, costs = held.outcome(chosen)
    drawn = out_of_bag(held, swept, goal, best, trials, seed)
    alternative = _as_good(held, errors, costs, cost_weight, goal, level, trials, seed)
    spent = float(costs.mean())
    low, high = long_run(router, held, cost_weight, measured=outcomes is None, level=level, trials=trials, seed=seed)
    tuning = Tuning(
        goal=goal.words,
        cost_weight=cost_weight,
        met=met,
        quality=1 - float(errors.mean()),
        quality_interval=fresh_interval(drawn[:, 0], level, upper=1.0),
        cost=spent,
        cost_interval=(min(low, spent), max(high, spent)),
        single_model=held.models[best],
        single_quality=best_quality,
        single_cost=float(held.costs[:, best].mean()),
        alternative=alternative,
        shares=held.shares(chosen),
        n=len(held),
        met_share=float(drawn[:, 2].mean()),
        mixture_quality=float(held.mixture.curve().hull().quality_at(costs.mean())),
        verdict="",
    )
    return dataclasses.replace(tuning, verdict=_tuning_verdict(tuning) + (FITTED_ON if held.fitted_on else ""))


def _goal(keep_quality: float | None, usd_per_1000: float | None, usd_per_error: float | None) -> Goal:
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
        return Goal(f"keep {value:.4g} of the most accurate model's quality", quality_share=value)
    if usd_per_1000 is not None:
        return Goal(f"spend at most ${value:g} per 1,000 prompts", budget=value / 1000)
    return Goal(f"pay ${value:g} to avoid one wrong answer", cost_weight=1 / value)


def with_margin(goal: Goal, held: HeldOut, swept: Sweep, best: int, trials: int, seed: int) -> Goal:
    """Return the goal, a share of quality raised by what choosing on these very prompts flatters."""
    if goal.quality_share is None:
        return goal
    wanted = goal.quality_share * (1 - held.errors[:, best].astype(np.float64))
    return dataclasses.replace(goal, margin=optimism(swept, wanted, trials, [seed, 1]))


def optimism(swept: Sweep, wanted: Array, trials: int, seed: list[int]) -> float:
    """Return how much quality is lost between the prompts that a weight is chosen on and others.

    The first point of a noisy curve that reaches a target is one that noise has lifted. Each draw chooses the cheapest
    weight that reaches the mean of `wanted` (n,), and is compared with all prompts at that weight (Harrell's optimism
    bootstrap).
    """
    lost, n = [], len(wanted)
    for counts in draws(n, trials, seed):
        curve = swept.curve(counts)
        weight = float(curve.cost_weights[curve.first_reaching(float(counts @ wanted) / n)])
        more = (counts - 1) / n
        lost.append(swept.at(weight, more)[0] - float(more @ wanted))
    return max(float(np.mean(lost)), 0.0)


def out_of_bag(held: HeldOut, swept: Sweep, goal: Goal, best: int, trials: int, seed: int) -> Array:
    """Return quality, cost and whether the goal is met on the prompts each draw leaves out, (trials, 3).

    Each draw chooses its own cost_weight, on the prompts it holds.
    """
    n, drawn = len(held), []
    for counts in draws(n, trials, seed):
        left_out = unseen(counts)
        weight, _ = goal.pick(swept.curve(counts), 1 - float(counts @ held.errors[:, best]) / n)
        quality, cost = swept.at(weight, left_out)
        drawn.append((quality, cost, goal.met(quality, cost, 1 - float(left_out @ held.errors[:, best]))))
    return np.array(drawn, np.float64)


def unseen(counts: Array) -> Array:
    """Return weights, summing to 1, of the prompts that a draw leaves out, (n,)."""
    return np.asarray((counts == 0) / max((counts == 0).sum(), 1))


def fresh_interval(drawn: Array, level: float, *, lower: float = 0.0, upper: float = np.inf) -> tuple[float, float]:
    """Return the middle `level` of `out_of_bag` means, their spread made that of a mean over fresh prompts.

    A mean over the share q of n prompts that a draw leaves out varies by (1 - q) / (q n), one over n fresh prompts by
    1 / n.
    """
    centre = drawn.mean()
    around = centre + (drawn - centre) * np.sqrt(LEFT_OUT / (1 - LEFT_OUT))
    low, high = interval(around, level)
    return max(low, lower), min(high, upper)


def _as_good(
    held: HeldOut, errors: Array, costs: Array, cost_weight: float, goal: Goal, level: float, trials: int, seed: int
) -> str | None:
    """Return the most accurate single model that serves the goal and cannot be told from routing, if any."""
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
    low, high = tuning.quality_interval
    cheap, dear = (1000 * end for end in tuning.cost_interval)
    gives = (
        f"quality {tuning.quality:.3f} ({low:.3f} to {high:.3f}) for ${1000 * tuning.cost:.4g} "
        f"({cheap:.4g} to {dear:.4g}) per 1,000 prompts, at cost_weight {tuning.cost_weight:.4g}"
    )
    single = f"{tuning.single_model} alone gives {tuning.single_quality:.3f} for ${1000 * tuning.single_cost:.4g}."
    if tuning.met:
        often = f" It is met in {tuning.met_share:.0%} of resamplings." if tuning.met_share < 0.995 else ""
        verdict = f"To {tuning.goal}: {gives}.{often} {single}"
    else:
        verdict = (
            f"No routing met the goal to {tuning.goal} on {tuning.n} held-out prompts; nearest is {gives}. {single}"
        )
    if tuning.mixture_quality > tuning.quality:
        verdict += f" Mixing models without reading the prompt would give {tuning.mixture_quality:.3f} at this cost."
    if tuning.alternative is not None:
        verdict += f" On these prompts, routing cannot be told from always using {tuning.alternative}."
    return verdict
