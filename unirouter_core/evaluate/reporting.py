"""Whether routing pays: its curve beside single models and their best mixture, on prompts it was not measured on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from unirouter_core.curves import Curve, sweep
from unirouter_core.display import Table, plus_minus, times, usd, weight
from unirouter_core.embedding import Array
from unirouter_core.evaluate.bootstrap import Bootstrap
from unirouter_core.evaluate.checking import outcome
from unirouter_core.evaluate.goals import COST, NEARLY, NONE, QUALITY, TINY, Goal, Today, out_of_bag, today
from unirouter_core.evaluate.holdout import GivenRouter, HeldOut, held_out
from unirouter_core.evaluate.metrics import Metrics, measure
from unirouter_core.evaluate.verdict import Judged, Level, Verdict, level_of, only_model
from unirouter_core.exceptions import InvalidDataError

Ends: TypeAlias = "tuple[float, float]"  # of an interval
Band: TypeAlias = "tuple[tuple[float, float, float], ...]"  # (cost, low, high)

BAND_POINTS = 40  # costs at which the interval of the routing curve is taken


@dataclass(frozen=True, eq=False)
class Report(Judged):
    """How good a router's routing is on held-out prompts, beside single models and their best mixture.

    Parameters
    ----------
    n : int
        The held-out prompts.
    fitted_on : bool
        Whether the router learned from answers to the prompts that judge it.
    judged : Verdict
        Whether routing pays, with the reason.
    today : Today
        The baseline, and what lower costs give.
    curve, mixture : Curve
        Of the routing, and of the best router that ignores the prompt.
    metrics, mixture_metrics : Metrics
        Of these two.
    models : dict of model to (cost, quality)
        Always using one model.
    area_gain : tuple of float
        The interval of the routing's Area minus the mixture's, less what predictions permuted among the prompts gain:
        a curve with many points climbs noise.
    p_value : float
        Of a permutation test: how often predictions permuted among the prompts reach the routing's Area.
    quality_at_97, saving_at_97 : tuple of float
        When tuned to keep 97 % of the baseline's quality: the intervals of the share of its quality that is kept (at
        most 1) and of its cost that is saved, on prompts that the weight was not chosen on.
    use : str
        The cheapest model that these prompts cannot tell from the baseline, or find better.
    band : tuple of (cost, low, high)
        The interval of the routing's lead over the mixture, on top of it, at costs along the curve.
    cost_weight, quality, cost, shares
        The router's own operating point.
    checks : tuple of str
        Those that the models' answers have signals of; none on prompts of your own.
    checked_quality, checked_cost : float
        The operating point where calls run them: rejected drafts and checks are paid, too. As without, where none.
    """

    n: int
    fitted_on: bool
    judged: Verdict
    today: Today
    curve: Curve
    mixture: Curve
    metrics: Metrics
    mixture_metrics: Metrics
    models: dict[str, tuple[float, float]]
    area_gain: Ends
    p_value: float
    quality_at_97: Ends
    saving_at_97: Ends
    use: str
    cost_weight: float
    quality: float
    cost: float
    shares: dict[str, float]
    checks: tuple[str, ...]
    checked_quality: float
    checked_cost: float
    band: Band = ()

    @property
    def kind(self) -> Level:
        """The level of the verdict."""
        return self.level

    @property
    def pays(self) -> bool:
        """Whether routing beats the mixture (`area_gain` is above 0) and chance (`p_value` is at most .05)."""
        return self.level == "pays"

    def tables(self) -> list[str | Table]:
        """Return today's numbers with what lower costs give, and every model beside this router."""
        rows = [
            (quality, model, cost, f"{self.shares.get(model, 0):.1%}") for model, (cost, quality) in self.models.items()
        ]
        rows.append((self.quality, f"this router, cost_weight {weight(self.cost_weight)}", self.cost, ""))
        if self.checks:
            rows.append((self.checked_quality, f"with checks ({', '.join(self.checks)})", self.checked_cost, ""))
        ranked = sorted(rows, key=lambda row: -row[0])
        cells = [
            (name, f"{quality:.1%}", usd(1000 * cost), usd(1000 * cost / quality) if quality else "", share)
            for quality, name, cost, share in ranked
        ]
        heads = ("model", ">quality", ">$/1,000", ">$/1,000 right", ">routing's share")
        return [*self.today.tables(), Table(heads, cells)]

    def plot(self, ax: Any = None, *, dark: bool = False) -> Any:
        """Draw quality over cost of routing, the best mixture and every model; return the matplotlib axes.

        Routing is drawn as it is, since a hull would choose its corners on the prompts that judge it.
        """
        from unirouter_core.plotting import plot  # here, because it needs matplotlib

        here = f"this router: cost_weight {weight(self.cost_weight)}", self.cost, self.quality
        curves = {"routing at every cost_weight": self.curve, "best mixture of models": self.mixture.hull()}
        return plot(ax, curves, self.band, self.models, here, str(self.judged), dark=dark)

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON can hold it, its curves as points of their hulls."""

        def points(curve: Curve) -> list[dict[str, Any]]:
            rows = zip(curve.costs.tolist(), curve.qualities.tolist(), curve.cost_weights.tolist(), strict=True)
            return [{"cost": c, "quality": q, "cost_weight": "inf" if np.isinf(w) else w} for c, q, w in rows]

        found = super().as_dict() | {"kind": self.kind, "pays": self.pays}
        found |= {"curve": points(self.curve.hull()), "mixture": points(self.mixture.hull())}

        def point(cost: float, quality: float) -> dict[str, Any]:
            return {"cost": cost, "quality": quality, "usd_per_right": cost / quality if quality else "inf"}

        found |= {"usd_per_right": point(self.cost, self.quality)["usd_per_right"]}
        return found | {"models": {model: point(*each) for model, each in self.models.items()}}


def report(
    router: GivenRouter,
    outcomes: Any = None,
    *,
    baseline: str | None = None,
    level: float = 0.9,
    trials: int = 500,
    permutations: int = 200,
    seed: int = 0,
) -> Report:
    """Return how good routing is, with intervals and a verdict, on prompts its profiles were not measured on.

    The intervals are those of at most 10,000 prompts, drawn at random where there are more. Raises `InvalidDataError`
    when every model is free, the pool does not hold the baseline, or `level`, `trials` or `permutations` is outside its
    range.

    Parameters
    ----------
    outcomes : Outcomes, or what `read_outcomes` takes, optional
        What the pool's models did on prompts of your own; see `held_out`.
    baseline : str, optional
        The model that is used today; the most accurate of the pool when not given.
    level : float
        The share of cases that an interval holds.
    trials, seed : int
        Of the bootstrap.
    permutations : int
        Of the permutation test; the smallest p that it can show is 1 / (1 + permutations).
    """
    boot = Bootstrap(level, trials, seed)
    held = held_out(router, outcomes, seed=seed)
    costs, qualities = held.costs.mean(axis=0), 1 - held.errors.mean(axis=0)
    base = held.baseline(baseline)
    if not costs.any():
        raise InvalidDataError(
            "No model of the pool has a cost above 0 on these prompts, so there is nothing to save: use the most "
            f"accurate, {held.models[held.most_accurate]} (quality {qualities.max():.1%}), or onboard the models with "
            "prices (--replace --prices FILE)."
        )
    curve, mixture = held.sweep.curve(), held.mixture.curve()
    area_gain, p_value, band = _against_chance(held.sampled, boot, Bootstrap(trials=permutations, seed=seed))
    now, use = today(held, base, boot), _as_accurate(held, base, boot)
    wanted = base if now.savings else held.most_accurate  # beside the cheapest, quality alone is compared
    tuned = out_of_bag([(Goal("", quality_share=NEARLY), NONE)], held.sampled, wanted, boot)[0, 0]
    kept = boot.interval((tuned[:, QUALITY] / max(qualities[base], TINY)).clip(0, 1))
    saved = boot.interval(1 - tuned[:, COST] / costs[base]) if costs[base] else (0.0, 0.0)
    chosen = held.chosen(held.cost_weight)
    own_errors, own_costs = held.outcome(chosen)
    checked_errors, checked_costs = outcome(held, held.cost_weight)
    return Report(
        n=len(held),
        fitted_on=held.fitted_on,
        judged=_judge(level_of(area_gain, p_value), held, now, use, tuned, kept, saved, boot),
        today=now,
        curve=curve,
        mixture=mixture,
        metrics=measure(curve, held.errors, held.costs),
        mixture_metrics=measure(mixture, held.errors, held.costs),
        models=dict(zip(held.models, zip(costs.tolist(), qualities.tolist(), strict=True), strict=True)),
        area_gain=area_gain,
        p_value=p_value,
        quality_at_97=kept,
        saving_at_97=saved,
        use=use,
        cost_weight=held.cost_weight,
        quality=1 - float(own_errors.mean()),
        cost=float(own_costs.mean()),
        shares=held.shares(chosen),
        checks=tuple(dict.fromkeys(name for name, _, _ in held.checks)),
        checked_quality=1 - float(checked_errors.mean()),
        checked_cost=float(checked_costs.mean()),
        band=band,
    )


def _judge(
    level: Level, held: HeldOut, now: Today, use: str, tuned: Array, kept: Ends, saved: Ends, boot: Bootstrap
) -> Verdict:
    """Return the verdict on routing; it names no model that costs more than the baseline."""
    model, blindly = now.model, "mixing models without reading the prompt"
    if len(held.models) == 1:
        return only_model(model)
    if level == "pays" and not now.savings:
        gained = plus_minus(boot.interval(tuned[:, QUALITY] - now.quality))
        dear = f"{usd(1000 * float(tuned[:, COST].mean()))} instead of {usd(1000 * now.cost)} per 1,000 prompts"
        return Verdict(level, f"it gains {gained} points of quality over {model}, for {dear}")
    if level == "pays":
        cost = (1 - saved[1], 1 - saved[0])
        share = f"{plus_minus(cost, unit='%', digits=0)} of" if sum(cost) < 2 else times(sum(cost) / 2)
        return Verdict(level, f"it keeps {50 * sum(kept):.0f}% of {model}'s quality for {share} its cost")
    instead = f"{model} is already the best single choice"
    if use != model:
        cost_share = float(held.costs[:, held.models.index(use)].mean()) / max(now.cost, TINY)
        instead = f"use {use}, which is as good as {model} for {times(cost_share)} its cost"
    if level == "about even":
        return Verdict(level, f"these {len(held):,} prompts cannot tell it from {blindly}; {instead}", use)
    return Verdict(level, f"{instead}, and on these {len(held):,} prompts routing is no better than {blindly}", use)


def _against_chance(held: HeldOut, boot: Bootstrap, test: Bootstrap) -> tuple[Ends, float, Band]:
    """Return the interval of the gain in Area over the mixture, less what chance gains, the p of chance, and the band.

    The band is that of `Report`.
    """
    dearest = float(held.costs.mean(axis=0).max())

    def area(curve: Curve) -> float:
        return curve.hull().area(dearest)

    shuffled = (held.predicted_errors[order] for order in test.permutations(len(held)))
    by_chance = np.array(
        [area(sweep(errors, held.predicted_costs, held.errors, held.costs).curve()) for errors in shuffled]
    )
    whole = held.sweep.curve()
    climbed = max(float(np.mean(by_chance)) - area(held.mixture.curve()), 0.0)
    best = held.mixture.curve().hull()
    grid = whole.costs[-1] * np.unique([*np.linspace(0, 1, BAND_POINTS), *np.geomspace(1e-4, 1, BAND_POINTS)])
    grid = np.unique(grid.clip(min=whole.costs[0]))
    gains, along = [], []
    for counts in boot.counts(len(held)):
        curve, mixture = held.sweep.curve(counts), held.mixture.curve(counts).hull()
        gains.append(area(curve) - mixture.area(dearest) - climbed)
        along.append(best.quality_at(grid) + curve.quality_at(grid) - mixture.quality_at(grid))
    band = zip(grid.tolist(), map(boot.interval, np.transpose(along)), strict=True)
    reached = int((by_chance >= area(whole)).sum())
    return boot.interval(gains), (1 + reached) / (1 + len(by_chance)), tuple((cost, *each) for cost, each in band)


def _as_accurate(held: HeldOut, base: int, boot: Bootstrap) -> str:
    """Return the cheapest model that these prompts cannot tell from the baseline, or find better; none is dearer."""
    by_cost = np.argsort(held.costs.mean(axis=0), kind="stable")
    worse: Array = held.errors - held.errors[:, [base]]
    as_good = (int(j) for j in by_cost if j == base or boot.mean_interval(worse[:, j])[0] <= 0)
    return held.models[next(as_good)]
