"""From a goal in plain words to a cost_weight, with an interval on what it will really give."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from unirouter_core.curves import Curve
from unirouter_core.embedding import Array
from unirouter_core.evaluate.bootstrap import Bootstrap, left_out
from unirouter_core.evaluate.forecasting import future_means
from unirouter_core.evaluate.holdout import FITTED_ON, Findings, GivenRouter, HeldOut, held_out
from unirouter_core.exceptions import InvalidDataError, as_number, shown


@dataclass(frozen=True)
class Tuning(Findings):
    """The cost_weight that serves a goal, and what it will really give.

    Parameters
    ----------
    goal : str
        In words.
    met : bool
        Whether any routing met the goal on the held-out prompts.
    quality, cost : float
        Mean quality, and mean USD a prompt, at `cost_weight`.
    quality_interval : tuple of float
        What prompts that the weight was not chosen on give, by the out-of-bag bootstrap.
    cost_interval : tuple of float
        What as many new prompts will cost at this weight; see `forecast`.
    single_model : str
        The most accurate single model; `single_quality` and `single_cost` are its own.
    alternative : str or None
        A single model that serves the goal as well as routing, as far as these prompts can tell: one that costs no
        more, or is within the budget, or whose errors and cost weigh no more.
    shares : dict of model to float
        The share of the prompts that goes to each.
    n : int
        The held-out prompts.
    fitted_on : bool
        Whether the router was fitted on the prompts that judge it.
    met_share : float
        How often the goal is met on prompts that a resampled choice of the weight left out.
    mixture_quality : float
        What the best mixture of models, chosen without reading the prompt, gives at this cost.
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
    fitted_on: bool
    met_share: float
    mixture_quality: float

    @property
    def verdict(self) -> str:
        """The tuning in a few sentences."""
        (low, high), (cheap, dear) = self.quality_interval, self.cost_interval
        gives = (
            f"quality {self.quality:.3f} ({low:.3f} to {high:.3f}) for ${1000 * self.cost:.4g} "
            f"({1000 * cheap:.4g} to {1000 * dear:.4g}) per 1,000 prompts, at cost_weight {self.cost_weight:.4g}"
        )
        if self.met:
            parts = [f"To {self.goal}: {gives}."]
            if self.met_share < 0.995:
                parts.append(f"It is met in {self.met_share:.0%} of resamplings.")
        else:
            parts = [f"No routing met the goal to {self.goal} on {self.n} held-out prompts; nearest is {gives}."]
        single = f"${1000 * self.single_cost:.4g}"
        parts.append(f"{self.single_model} alone gives {self.single_quality:.3f} for {single}.")
        if self.mixture_quality > self.quality:
            parts.append(f"Mixing models without reading the prompt gives {self.mixture_quality:.3f} at this cost.")
        if self.alternative is not None:
            parts.append(f"On these prompts, always using {self.alternative} is as good, within the noise.")
        return " ".join(parts) + (FITTED_ON if self.fitted_on else "")


@dataclass(frozen=True)
class Goal:
    """A goal as a choice among the points of a curve: a share of quality, a budget in USD a prompt, or a weight."""

    words: str
    quality_share: float | None = None
    budget: float | None = None
    cost_weight: float | None = None
    margin: float = 0.0  # of quality: what choosing on these very prompts flatters

    @classmethod
    def of(cls, keep_quality: float | None, usd_per_1000: float | None, usd_per_error: float | None) -> Goal:
        """Return the one goal that is given."""
        options = {"keep_quality": keep_quality, "usd_per_1000": usd_per_1000, "usd_per_error": usd_per_error}
        given = {name: value for name, value in options.items() if value is not None}
        if len(given) != 1:
            raise InvalidDataError(f"{len(given)} goals were given; give one of {', '.join(options)}.")
        ((name, value),) = given.items()
        if not 0 < as_number(value) < np.inf or (name == "keep_quality" and value > 1):
            allowed = "a share above 0, at most 1" if name == "keep_quality" else "a finite number of USD above 0"
            raise InvalidDataError(f"{name}={shown(value)} must be {allowed}.")
        if name == "keep_quality":
            return cls(f"keep {value:.4g} of the most accurate model's quality", quality_share=value)
        if name == "usd_per_1000":
            return cls(f"spend at most ${value:g} per 1,000 prompts", budget=value / 1000)
        return cls(f"pay ${value:g} to avoid one wrong answer", cost_weight=1 / value)

    def with_margin(self, held: HeldOut, boot: Bootstrap) -> Goal:
        """Return the goal, a share of quality raised by what choosing on these very prompts flatters."""
        if self.quality_share is None:
            return self
        wanted = self.quality_share * (1 - held.errors[:, held.most_accurate].astype(np.float64))
        return dataclasses.replace(self, margin=boot.optimism(held.sweep, wanted, stream=1))

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
            point = curve.first_reaching(self.quality_share * best_quality + self.margin)
            return float(curve.cost_weights[point]), self.met(curve.qualities[point], 0.0, best_quality)
        within = np.flatnonzero(curve.costs <= (self.budget or 0.0) * (1 + 1e-12))
        point = int(within[np.argmax(curve.qualities[within])]) if len(within) else 0
        return float(curve.cost_weights[point]), len(within) > 0

    def out_of_bag(self, held: HeldOut, boot: Bootstrap) -> Array:
        """Return quality, cost and whether the goal is met on the prompts that each draw leaves out, (trials, 3).

        Each draw chooses its own cost_weight, on the prompts it holds.
        """
        n, best_errors, drawn = len(held), held.errors[:, held.most_accurate], []
        for counts in boot.counts(n):
            others = left_out(counts)
            weight, _ = self.pick(held.sweep.curve(counts), 1 - float(counts @ best_errors) / n)
            quality, cost = held.sweep.at(weight, others)
            drawn.append((quality, cost, self.met(quality, cost, 1 - float(others @ best_errors))))
        return np.array(drawn, np.float64)


def tune(
    router: GivenRouter,
    outcomes: Any = None,
    *,
    keep_quality: float | None = None,
    usd_per_1000: float | None = None,
    usd_per_error: float | None = None,
    level: float = 0.9,
    trials: int = 500,
    seed: int = 0,
) -> Tuning:
    """Return the cost_weight that meets a goal at the least cost, and what it will really give.

    The intervals are those of at most 10,000 prompts, drawn at random where there are more. Raises `InvalidDataError`
    when not exactly one goal is given, or it, `level` or `trials` is outside its range.

    Parameters
    ----------
    outcomes : Outcomes, or what `read_outcomes` takes, optional
        What the pool's models did on prompts of your own; see `held_out`.
    keep_quality : float
        Keep this share of the most accurate single model's quality; 0.97 keeps 97 %.
    usd_per_1000 : float
        Spend at most this many USD on 1,000 prompts.
    usd_per_error : float
        Pay this many USD to avoid one wrong answer: cost_weight = 1 / usd_per_error.
    level : float
        The share of cases that an interval holds.
    trials, seed : int
        Of the bootstrap.

    Examples
    --------
    >>> from unirouter_core import UniRouter
    >>> tuning = tune(UniRouter.starter(examples=True), usd_per_error=0.02)
    >>> tuning.cost_weight
    50.0
    """
    boot = Bootstrap(level, trials, seed)
    goal = Goal.of(keep_quality, usd_per_1000, usd_per_error)
    held = held_out(router, outcomes, seed=seed)
    best, goal = held.most_accurate, goal.with_margin(held.sampled, boot)
    best_quality = 1 - float(held.errors[:, best].mean())
    cost_weight, met = goal.pick(held.sweep.curve(), best_quality)
    chosen = held.chosen(cost_weight)
    errors, costs = held.outcome(chosen)
    drawn, spent = goal.out_of_bag(held.sampled, boot), float(costs.mean())
    low, high = boot.interval(future_means(boot, *held.sampled.spending(cost_weight), len(held)))
    return Tuning(
        goal=goal.words,
        cost_weight=cost_weight,
        met=met,
        quality=1 - float(errors.mean()),
        quality_interval=boot.fresh_interval(drawn[:, 0], lower=0.0, upper=1.0),
        cost=spent,
        cost_interval=(min(low, spent), max(high, spent)),
        single_model=held.models[best],
        single_quality=best_quality,
        single_cost=float(held.costs[:, best].mean()),
        alternative=_alternative(held, errors, costs, goal, boot),
        shares=held.shares(chosen),
        n=len(held),
        fitted_on=held.fitted_on,
        met_share=float(drawn[:, 2].mean()),
        mixture_quality=float(held.mixture.curve().hull().quality_at(costs.mean())),
    )


def _alternative(held: HeldOut, errors: Array, costs: Array, goal: Goal, boot: Bootstrap) -> str | None:
    """Return the most accurate single model that serves the goal and cannot be told from routing, if any."""
    mean_costs, weight = held.costs.mean(axis=0), goal.cost_weight
    ceiling = max(goal.budget or 0.0, float(costs.mean())) * (1 + 1e-9)
    for model in np.lexsort((mean_costs, held.errors.mean(axis=0))):
        if weight is None and mean_costs[model] > ceiling:  # with a weight, cost is in the comparison itself
            continue
        more = held.errors[:, model] - errors
        if weight is not None:
            more = more + weight * (held.costs[:, model] - costs)
        if boot.mean_interval(more)[0] <= 0:
            return held.models[int(model)]
    return None
