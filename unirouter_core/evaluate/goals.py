"""What a goal gives by routing, by the best single model and by the best mixture, on prompts not chosen on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from unirouter_core.curves import SAME_QUALITY, Curve, best_mixture, best_within
from unirouter_core.display import Table, plus_minus, shared_prefix, usd
from unirouter_core.embedding import Array
from unirouter_core.evaluate.bootstrap import Bootstrap, as_fresh, left_out
from unirouter_core.evaluate.holdout import HeldOut
from unirouter_core.exceptions import InvalidDataError, as_number, shown

Method: TypeAlias = Literal["routing", "single model", "mixture"]

METHODS: tuple[Method, ...] = ("routing", "single model", "mixture")
NEARLY = 0.97  # the share of the baseline's quality that most applications can do with
QUALITY, COST, VALUE, PASSED, GAINED = range(5)  # columns of what draws give
SAVINGS = (0.25, 0.4, 0.6)  # shares of today's cost
MARGINS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0)  # times what the limit is missed by, until it is met as often as wanted
NONE = (0.0, 0.0, 0.0)  # margins
TINY = 1e-300  # keeps a share of nothing from dividing by 0


@dataclass(frozen=True)
class Goal:
    """A goal: a share of the baseline's quality or cost, a budget in USD a prompt, or a cost_weight."""

    words: str
    quality_share: float | None = None
    cost_share: float | None = None
    budget: float | None = None
    cost_weight: float | None = None

    @property
    def is_on_cost(self) -> bool:
        """Whether it limits the cost and wants quality."""
        return self.cost_share is not None or self.budget is not None

    @classmethod
    def of(cls, baseline: str, **options: float | None) -> Goal:
        """Return the one goal that is given: save_cost, keep_quality, usd_per_1000 or usd_per_error."""
        given = {name: value for name, value in options.items() if value is not None}
        if len(given) != 1:
            raise InvalidDataError(f"{len(given)} goals were given; give one of {', '.join(options)}.")
        ((name, value),) = given.items()
        is_share = name in ("keep_quality", "save_cost")
        if not 0 < as_number(value) < np.inf or (is_share and value > 1):
            allowed = "a share above 0, at most 1" if is_share else "a finite number of USD above 0"
            raise InvalidDataError(f"{name}={shown(value)} must be {allowed}.")
        if name == "save_cost":
            return cls(f"save {100 * value:.3g}% of {baseline}'s cost", cost_share=1 - value)
        if name == "keep_quality":
            return cls(f"keep {100 * value:.3g}% of {baseline}'s quality", quality_share=value)
        if name == "usd_per_1000":
            return cls(f"spend at most {usd(value)} per 1,000 prompts", budget=value / 1000)
        return cls(f"pay {usd(value)} to avoid one wrong answer", cost_weight=1 / value)

    def terms(self, quality: Array, cost: Array, of_baseline: tuple[float, float]) -> tuple[Array, Array, float]:
        """Return what to maximise among options of these qualities and costs, what is limited, and its least."""
        base_quality, base_cost = of_baseline
        if self.cost_weight is not None:
            return quality - self.cost_weight * cost, np.zeros_like(quality), 0.0
        if self.quality_share is not None:
            return -cost, quality, self.quality_share * base_quality
        return quality, -cost, -(self.budget or 0.0) if self.cost_share is None else -self.cost_share * float(base_cost)


def serve(
    goal: Goal, curve: Curve, quality: Array, cost: Array, baseline: int, margins: Sequence[float] = NONE
) -> tuple[float, Array]:
    """Return the cost_weight that serves the goal best, and shares (2, n_models) of the best model and mixture.

    `quality` and `cost` are the models' means, both (n_models,).
    """
    of_baseline, weight = (quality[baseline], cost[baseline]), goal.cost_weight
    if weight is None:
        value, limited, least = goal.terms(curve.qualities, curve.costs, of_baseline)
        weight = float(curve.cost_weights[best_within(value, limited, least + margins[0])])
    value, limited, least = goal.terms(quality, cost, of_baseline)
    nearest = None if goal.quality_share is None else baseline  # it keeps its own quality, however large the margin
    single = np.eye(len(quality))[best_within(value, limited, least + margins[1], nearest)]
    return weight, np.stack([single, best_mixture(value, limited, least + margins[2], nearest)])


def out_of_bag(goals: Sequence[tuple[Goal, Sequence[float]]], held: HeldOut, baseline: int, boot: Bootstrap) -> Array:
    """Return what each method gives in each draw for goals with margins on their limits, (n_goals, 3, trials, 5).

    The columns are quality, cost, value, by how much the limit is passed, and quality minus the baseline's. Each draw
    chooses on the prompts that it holds and judges by those that it leaves out; the spread is scaled to that of as many
    fresh prompts as there are.
    """
    n, qualities = len(held), 1 - held.errors
    drawn = np.empty((len(goals), len(METHODS), boot.trials, 5))
    for trial, counts in enumerate(boot.counts(n)):
        others, curve = left_out(counts), held.sweep.curve(counts)
        inside, outside = (
            (np.einsum("i,ij->j", by, qualities), np.einsum("i,ij->j", by, held.costs)) for by in (counts / n, others)
        )
        for place, (goal, margins) in enumerate(goals):
            weight, shares = serve(goal, curve, *inside, baseline, margins)
            routed = held.sweep.at(weight, others)
            quality, cost = (np.append(ours, shares @ each) for ours, each in zip(routed, outside, strict=True))
            value, limited, least = goal.terms(quality, cost, (outside[0][baseline], outside[1][baseline]))
            passed, gained = limited - least + SAME_QUALITY * abs(least), quality - outside[0][baseline]
            drawn[place, :, trial] = np.stack([quality, cost, value, passed, gained], axis=1)
    return as_fresh(drawn, axis=2)


@dataclass(frozen=True)
class Saving:
    """What a lower cost gives by each method; None where the cost is below the cheapest model's.

    `change` is the interval of routing's quality minus today's, `ahead` how often routing is ahead of the other two.
    """

    saved: float
    cost: float
    routing: float | None = None
    change: tuple[float, float] | None = None
    single: float | None = None
    single_model: str | None = None
    mixture: float | None = None
    ahead: float | None = None

    def cells(self, today: float, shared: str) -> tuple[str, ...]:
        """Return a row of a table: quality in points beside today's; names without the prefix `shared`."""
        cells = f"-{self.saved:.0%}", usd(1000 * self.cost)
        if self.change is None or self.single is None or self.mixture is None:
            return *cells, "-", "-", "-"
        single, mixture = (f"{100 * (each - today):+.1f}" for each in (self.single, self.mixture))
        name = (self.single_model or "").removeprefix(shared)
        return *cells, plus_minus(self.change, sign="+"), f"{single} {name}", mixture


@dataclass(frozen=True)
class Today:
    """The baseline, mean quality with its interval and mean USD a prompt, and what lower costs give."""

    model: str
    quality: float
    quality_interval: tuple[float, float]
    cost: float
    is_cheapest: bool
    n: int
    savings: tuple[Saving, ...]
    shared: str = ""  # what the names of all models begin with

    def tables(self) -> list[str | Table]:
        """Return today's numbers, a table of what lower costs give, and how sure that is."""
        half = 50 * (self.quality_interval[1] - self.quality_interval[0])
        now = f"Today: {self.model}, quality {self.quality:.1%} ± {half:.1f}, {usd(1000 * self.cost)} per 1,000 prompts"
        if not self.savings:
            cheapest = "already the cheapest model" if self.is_cheapest else "free"
            return [f"{now}. It is {cheapest}, so quality alone is compared."]
        heads = "cost", ">$/1,000", ">routing", "best single model", ">best mixture"
        rows = [each.cells(self.quality, self.shared) for each in self.savings]
        sure = f"Points of quality beside today; ±: 90% interval, {self.n:,} prompts."
        ahead = [f"{each.ahead:.0%}" for each in self.savings if each.ahead is not None]
        if ahead:
            sure += f" Routing is ahead of both others in {', '.join(ahead)} of resamplings."
        return [f"{now}.", Table(heads, rows), sure]


def today(held: HeldOut, baseline: int, boot: Bootstrap) -> Today:
    """Return the baseline's numbers and what 25, 40 and 60 % less cost give, by each method."""
    qualities, costs = 1 - held.errors.mean(axis=0), held.costs.mean(axis=0)
    quality, cost = float(qualities[baseline]), float(costs[baseline])
    is_cheapest = bool(cost <= costs.min() * (1 + SAME_QUALITY))
    goals = [Goal("", cost_share=1 - saved) for saved in SAVINGS] if cost and not is_cheapest else []
    drawn = out_of_bag([(goal, NONE) for goal in goals], held.sampled, baseline, boot)
    rows = []
    for goal, saved, draws in zip(goals, SAVINGS, drawn, strict=False):
        given: dict[str, Any] = {"saved": saved, "cost": (1 - saved) * cost}
        if costs.min() <= given["cost"] * (1 + SAME_QUALITY):
            shares, quality_of = serve(goal, held.sweep.curve(), qualities, costs, baseline)[1], draws[:, :, QUALITY]
            given |= {
                "routing": float(quality_of[0].mean().clip(0, 1)),
                "change": boot.interval(draws[0, :, GAINED]),
                "single": float(shares[0] @ qualities),
                "single_model": held.models[int(shares[0].argmax())],
                "mixture": float(shares[1] @ qualities),
                "ahead": float((quality_of[0] > quality_of[1:].max(axis=0)).mean()),
            }
        rows.append(Saving(**given))
    interval, shared = boot.mean_interval(1 - held.sampled.errors[:, baseline]), shared_prefix(held.models)
    return Today(held.models[baseline], quality, interval, cost, is_cheapest, len(held), tuple(rows), shared)
