"""From a goal in plain words to the best of routing, one model and a mixture, and to a cost_weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unirouter_core.curves import SAME_QUALITY
from unirouter_core.display import Table, plus_minus, shared_prefix, usd, weight
from unirouter_core.embedding import Array
from unirouter_core.evaluate.bootstrap import Bootstrap
from unirouter_core.evaluate.forecasting import future_means
from unirouter_core.evaluate.goals import (
    COST,
    MARGINS,
    METHODS,
    NONE,
    PASSED,
    QUALITY,
    TINY,
    VALUE,
    Goal,
    Method,
    Today,
    out_of_bag,
    serve,
    today,
)
from unirouter_core.evaluate.holdout import GivenRouter, HeldOut, held_out
from unirouter_core.evaluate.verdict import Judged, Verdict, level_of, only_model
from unirouter_core.exceptions import InvalidDataError


@dataclass(frozen=True)
class Choice:
    """What serves a goal by one method, in `words`: shares of the models, mean quality, mean USD a prompt.

    Quality, routing's cost and `met_share`, how often the goal is met, are of prompts that it was not chosen on; the
    cost of a single model or a mixture is that of all prompts.
    """

    method: Method
    words: str
    shares: dict[str, float]
    quality: float
    quality_interval: tuple[float, float]
    cost: float
    met_share: float

    @property
    def numbers(self) -> tuple[str, str]:
        """Quality with half its interval, and USD per 1,000 prompts."""
        low, high = self.quality_interval
        return f"{self.quality:.1%} ± {50 * (high - low):.1f}", usd(1000 * self.cost)


@dataclass(frozen=True)
class Tuning(Judged):
    """The best of routing, a single model and a mixture for a goal, and the cost_weight that serves it by routing.

    Parameters
    ----------
    goal : str
        In words.
    today : Today
        The baseline, and what lower costs give.
    choices : tuple of Choice
        By routing, the best single model, the best mixture.
    best : {"routing", "single model", "mixture"}
        The best of them for the goal, on prompts that they were not chosen on.
    met, sure : bool, float
        Whether the best one meets the goal in at least the share `sure` of resamplings.
    cost_weight : float
        Of routing at this goal.
    gives_best : bool
        Whether `cost_weight` gives the best choice, which it cannot do for most single models and mixtures.
    quality, cost, shares, met_share
        Mean quality, mean USD a prompt, each model's share and how often the goal is met, by routing at `cost_weight`:
        those of the choice that it gives.
    quality_interval : tuple of float
        What prompts that the weight was not chosen on give, by the out-of-bag bootstrap.
    cost_interval : tuple of float
        What as many new prompts will cost at this weight; see `forecast`.
    n : int
        The held-out prompts.
    fitted_on : bool
        Whether the router learned from answers to the prompts that judge it.
    """

    goal: str
    today: Today
    choices: tuple[Choice, ...]
    best: Method
    met: bool
    sure: float
    judged: Verdict
    cost_weight: float
    gives_best: bool
    quality: float
    quality_interval: tuple[float, float]
    cost: float
    cost_interval: tuple[float, float]
    shares: dict[str, float]
    met_share: float
    n: int
    fitted_on: bool

    @property
    def choice(self) -> Choice:
        """The best choice."""
        return self.choices[METHODS.index(self.best)]

    @property
    def verdict(self) -> str:
        """What to do for the goal, how sure it is met, and whether routing pays there."""
        chosen, (quality, cost) = self.choice, self.choice.numbers
        at = f" at cost_weight {weight(self.cost_weight)}" if self.best == "routing" else ""
        gives = f"{chosen.words}{at} gives quality {quality} for {cost} per 1,000 prompts"
        met = f"in {chosen.met_share:.0%} of resamplings"
        if self.met:
            said = f"To {self.goal}: {gives}" + (f"; the goal is met {met}." if chosen.met_share < 0.995 else ".")
        else:
            said = f"Not met ({met}, {self.sure:.0%} wanted): {self.goal}. The nearest, {gives}."
        return f"{said} {super().verdict}"

    def tables(self) -> list[str | Table]:
        """Return today's numbers with what lower costs give, and the three choices for the goal."""
        heads = "choice", ">quality", ">$/1,000", ">met"
        rows = [(each.words.removeprefix("mixing "), *each.numbers, f"{each.met_share:.0%}") for each in self.choices]
        return [*self.today.tables(), f"To {self.goal}:", Table(heads, rows)]

    def as_dict(self) -> dict[str, Any]:
        """Return the fields and the verdict as JSON can hold them."""
        single = self.choices[1]
        ((model, _),) = single.shares.items()
        alternative = None if self.level == "pays" else model
        named = {"single_model": model, "single_quality": single.quality, "single_cost": single.cost}
        return super().as_dict() | named | {"alternative": alternative}


def tune(
    router: GivenRouter,
    outcomes: Any = None,
    *,
    save_cost: float | None = None,
    keep_quality: float | None = None,
    usd_per_1000: float | None = None,
    usd_per_error: float | None = None,
    baseline: str | None = None,
    sure: float = 0.8,
    level: float = 0.9,
    trials: int = 500,
    seed: int = 0,
) -> Tuning:
    """Return the best way to a goal, by routing, a single model or a mixture, and routing's cost_weight for it.

    The intervals are those of at most 10,000 prompts, drawn at random where there are more. Raises `InvalidDataError`
    when not exactly one goal is given, it, `sure`, `level` or `trials` is outside its range, or the pool does not hold
    the baseline.

    Parameters
    ----------
    outcomes : Outcomes, or what `read_outcomes` takes, optional
        What the pool's models did on prompts of your own; see `held_out`.
    save_cost : float
        Save this share of the baseline's cost at the best quality; 0.4 spends 60 %.
    keep_quality : float
        Keep this share of the baseline's quality at the least cost; 0.97 keeps 97 %.
    usd_per_1000 : float
        Spend at most this many USD on 1,000 prompts.
    usd_per_error : float
        Pay this many USD to avoid one wrong answer: cost_weight = 1 / usd_per_error.
    baseline : str, optional
        The model that is used today; the most accurate of the pool when not given.
    sure : float
        In which share of resamplings a goal must be met.
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
    if not 0 < sure <= 1:
        raise InvalidDataError(f"sure={sure:g} must be a share of resamplings above 0, at most 1, as 0.8.")
    held = held_out(router, outcomes, seed=seed)
    base = held.baseline(baseline)
    shared, usd_goals = shared_prefix(held.models), {"usd_per_1000": usd_per_1000, "usd_per_error": usd_per_error}
    name = held.models[base].removeprefix(shared)
    goal = Goal.of(name, save_cost=save_cost, keep_quality=keep_quality, **usd_goals)
    margins, drawn = _assured(goal, held.sampled, base, boot, sure)
    qualities, costs = 1 - held.errors.mean(axis=0), held.costs.mean(axis=0)
    cost_weight, mixed = serve(goal, held.sweep.curve(), qualities, costs, base, margins)
    met_shares = (drawn[:, :, PASSED] >= 0).mean(axis=1)
    if goal.quality_share is not None:  # the baseline keeps its own quality
        met_shares[1:][mixed[:, base] == 1] = 1.0
    best = _best_method(drawn, met_shares, sure, (1, 0, 2))
    routed = held.chosen(cost_weight)
    errors, spent = (float(each.mean()) for each in held.outcome(routed))
    chosen = [("routing", held.shares(routed), 1 - errors, spent)]
    for shares in mixed:
        named = {model: float(share) for model, share in zip(held.models, shares, strict=True) if share}
        parts = [f"{share:.0%} {model.removeprefix(shared)}" for model, share in named.items()]
        words = f"mixing {' with '.join(parts)}" if len(named) > 1 else f"{parts[0].removeprefix('100% ')} alone"
        chosen.append((words, named, float(shares @ qualities), float(shares @ costs)))
    means, intervals = drawn.mean(axis=1), map(boot.interval, drawn[:, :, QUALITY].clip(0, 1))
    rows = zip(METHODS, chosen, means.tolist(), intervals, met_shares.tolist(), strict=True)
    choices = [  # on prompts not chosen on, as the best of many is flattered; but a model's cost is the same everywhere
        Choice(
            *(method, words, named, min(quality, mean[QUALITY]), interval),
            *(max(cost, mean[COST]) if method == "routing" else cost, met),
        )
        for method, (words, named, quality, cost), mean, interval, met in rows
    ]
    gives_best = best == 0
    if METHODS[best] == "single model" and goal.cost_weight is None:
        column = int(mixed[0].argmax())
        fitting = [each for each in (cost_weight, 0.0, np.inf) if (held.chosen(each) == column).all()]
        cost_weight, gives_best = (fitting[0], True) if fitting else (cost_weight, False)
    low, high = boot.interval(future_means(boot, *held.sampled.spending(cost_weight), len(held)))
    given = choices[best if gives_best else 0]
    return Tuning(
        goal=goal.words,
        today=today(held, base, boot),
        choices=tuple(choices),
        best=METHODS[best],
        met=bool(met_shares[best] >= sure),
        sure=sure,
        judged=_judge(goal, choices, drawn, sure, boot, held.sampled),
        cost_weight=cost_weight,
        gives_best=gives_best,
        quality=given.quality,
        quality_interval=given.quality_interval,
        cost=given.cost,
        cost_interval=(min(low, given.cost), max(high, given.cost)),
        shares=held.shares(held.chosen(cost_weight)),
        met_share=given.met_share,
        n=len(held),
        fitted_on=held.fitted_on,
    )


def _assured(goal: Goal, held: HeldOut, baseline: int, boot: Bootstrap, sure: float) -> tuple[list[float], Array]:
    """Return each method's margin on the limit, with which the goal is met as often as wanted, and what draws give."""
    short = -np.quantile(out_of_bag([(goal, NONE)], held, baseline, boot)[0, :, :, PASSED], 1 - sure, axis=1)
    margins = np.outer(MARGINS, short.clip(min=0)) if short.max() > 0 else np.zeros((1, len(METHODS)))
    drawn = out_of_bag([(goal, each.tolist()) for each in margins], held, baseline, boot)
    enough = (drawn[:, :, :, PASSED] >= 0).mean(axis=2) >= sure
    first, methods = np.where(enough.any(axis=0), enough.argmax(axis=0), len(margins) - 1), np.arange(len(METHODS))
    return margins[first, methods].tolist(), drawn[first, methods]


def _best_method(drawn: Array, met_shares: Array, sure: float, among: Sequence[int]) -> int:
    """Return the place of the method of the greatest value among those that meet the goal; ties go to the first."""
    wanted = min(sure, max(met_shares[list(among)]))
    values = {place: drawn[place, :, VALUE].mean() for place in among if met_shares[place] >= wanted}
    most = max(values.values())
    return next(place for place, value in values.items() if value >= most - SAME_QUALITY * abs(most))


def _judge(goal: Goal, choices: list[Choice], drawn: Array, sure: float, boot: Bootstrap, held: HeldOut) -> Verdict:
    """Return the verdict on routing beside the better of the single model and the mixture at the goal."""
    met_shares = np.array([each.met_share for each in choices])
    place = _best_method(drawn, met_shares, sure, (1, 2))
    rival, ours, theirs = choices[place], drawn[0], drawn[place]
    use = next(iter(rival.shares)) if place == 1 else None
    if len(held.models) == 1:
        return only_model(choices[1].words.removesuffix(" alone"))
    met, rival_met = met_shares[[0, place]] >= sure
    if not met:
        only = f"of the three, only {rival.words} surely meets" if rival_met else "no choice surely meets"
        return Verdict("does not pay", f"{only} this goal", use)
    if not rival_met:
        return Verdict("pays", "no single model and no mixture surely meets this goal", use)
    gained = boot.interval(ours[:, VALUE] - theirs[:, VALUE])
    level = level_of(gained)
    saved = boot.interval(1 - ours[:, COST] / np.maximum(theirs[:, COST], TINY))
    if level == "about even" and goal.is_on_cost and saved[0] > 0 and _leads_within(choices[0].cost, held, boot):
        return Verdict("pays", f"it is as good as {rival.words} for {choices[0].cost / rival.cost:.0%} of the cost")
    if level == "about even":
        return Verdict(level, f"at this goal these prompts cannot tell it from {rival.words}", use)
    if goal.quality_share is not None:
        more, less = f"saves {plus_minus(saved, unit='%', digits=0)} of cost", "is cheaper"
    elif goal.cost_weight is not None:
        more, less = f"lowers error + cost_weight * cost by {plus_minus(gained)} points", "is better"
    else:
        more, less = f"gains {plus_minus(gained)} points of quality", "is more accurate"
    said = f"it {more} beside {rival.words}" if level == "pays" else f"{rival.words} {less}"
    return Verdict(level, f"{said} at this goal", use)


def _leads_within(budget: float, held: HeldOut, boot: Bootstrap) -> bool:
    """Return whether routing is surely more accurate than the models and mixtures that cost no more than `budget`."""
    quality = out_of_bag([(Goal("", budget=budget), NONE)], held, 0, boot)[0, :, :, QUALITY]
    return boot.interval(quality[0] - quality[1:].max(axis=0))[0] > 0
