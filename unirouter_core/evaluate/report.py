"""Whether routing pays: its curve beside single models and their best mixture, on prompts it was not measured on."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from unirouter_core.curves import Curve, sweep
from unirouter_core.data import Outcomes
from unirouter_core.embedding import Array
from unirouter_core.evaluate.bootstrap import Metrics, check_trials, interval, measure, resample
from unirouter_core.evaluate.comparison import Comparison, compare, mixture_of
from unirouter_core.evaluate.held_out import FITTED_ON, HeldOut, held_out
from unirouter_core.evaluate.tune import Goal, fresh_interval, out_of_bag, with_margin
from unirouter_core.exceptions import InvalidDataError

if TYPE_CHECKING:
    from unirouter_core.router import UniRouter

PERMUTATIONS = 200
"""Deals of the predictions to wrong prompts; the smallest p they can show is 1 / 201."""

SURE = 0.05
"""Routing pays when chance alone does as well at most this often."""

TINY = 1e-300
"""Keeps a share of nothing from dividing by 0."""

NEARLY = 0.97
"""The share of the most accurate model's quality that most applications can spare the rest of."""


@dataclass(frozen=True, eq=False)
class Report:
    """How good a router's routing is on held-out prompts, beside single models and their best mixture.

    Parameters
    ----------
    n : int
        The held-out prompts.
    curve, mixture : Curve
        Of the routing, and of the best router that ignores the prompt.
    models : dict of model to (cost, quality)
        Always using one model.
    metrics, mixture_metrics : Metrics
    area_gain : tuple of float
        The interval of the routing's Area minus the mixture's, less what predictions dealt out to the wrong prompts
        gain: a curve with many points climbs noise.
    chance : float
        How often predictions dealt out to the wrong prompts reach the routing's Area: the p of a permutation test.
    quality_kept, saving : tuple of float
        When tuned to keep 97 % of the most accurate model's quality: the intervals of the share of its quality that is
        kept and of its cost that is saved, on prompts that the weight was not chosen on.
    single, mixed : Comparison
        Routing beside always using the most accurate model, and beside the cheapest mixture of 97 % of its quality.
    use : str
        The cheapest model that these prompts cannot tell from the most accurate.
    cost_weight, quality, cost, shares
        The router's own operating point.
    pays : bool
        Whether routing beats the mixture (`area_gain` is above 0) and chance (`chance` is at most .05).
    fitted_on : bool
        Whether the router was fitted on the very prompts that judge it.
    verdict : str
    """

    n: int
    curve: Curve
    mixture: Curve
    models: dict[str, tuple[float, float]]
    metrics: Metrics
    mixture_metrics: Metrics
    area_gain: tuple[float, float]
    chance: float
    quality_kept: tuple[float, float]
    saving: tuple[float, float]
    single: Comparison
    mixed: Comparison
    use: str
    cost_weight: float
    quality: float
    cost: float
    shares: dict[str, float]
    pays: bool
    fitted_on: bool
    verdict: str

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON can hold it."""

        def points(curve: Curve) -> list[dict[str, float | str]]:
            rows = zip(curve.costs.tolist(), curve.qualities.tolist(), curve.cost_weights.tolist(), strict=True)
            return [{"cost": c, "quality": q, "cost_weight": "inf" if np.isinf(w) else w} for c, q, w in rows]

        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            **plain,
            "curve": points(self.curve.hull()),
            "mixture": points(self.mixture.hull()),
            "models": {model: {"cost": cost, "quality": quality} for model, (cost, quality) in self.models.items()},
            "metrics": dataclasses.asdict(self.metrics),
            "mixture_metrics": dataclasses.asdict(self.mixture_metrics),
            "single": dataclasses.asdict(self.single),
            "mixed": dataclasses.asdict(self.mixed),
            "cost_weight": "inf" if np.isinf(self.cost_weight) else self.cost_weight,
        }


def report(
    router: UniRouter, *, outcomes: Outcomes | None = None, level: float = 0.9, trials: int = 500, seed: int = 0
) -> Report:
    """Return how good routing is, with intervals and a verdict, on prompts its profiles were not measured on.

    Parameters
    ----------
    router : UniRouter
    outcomes : Outcomes, optional
        What the pool's models did on prompts of your own; see `held_out`.
    level : float
        Of the intervals.
    trials, seed : int
        Of the bootstrap.
    """
    check_trials(level, trials)
    held = held_out(router, outcomes, seed=seed)
    costs, qualities = held.costs.mean(axis=0), 1 - held.errors.mean(axis=0)
    best = held.most_accurate
    if not costs.any():
        raise InvalidDataError(
            f"Every model of the pool is free on these prompts: use the most accurate, {held.models[best]} (quality "
            f"{qualities[best]:.3f}), or onboard the models with prices."
        )
    swept, mixed = held.sweep, held.mixture
    curve, mixture = swept.curve(), mixed.curve()
    dearest = float(costs.max())
    by_chance = _areas_by_chance(held, dearest, seed)
    climbed = max(float(np.mean(by_chance)) - mixture.hull().area(dearest), 0.0)
    draws = resample(swept, held.errors, held.costs, trials=trials, seed=seed)
    rivals = resample(mixed, held.errors, held.costs, trials=trials, seed=seed)
    gains = np.array([ours.area - theirs.area for ours, theirs in zip(draws, rivals, strict=True)]) - climbed
    chance = float((1 + (by_chance >= curve.hull().area(dearest)).sum()) / (1 + len(by_chance)))
    goal = with_margin(Goal("", quality_share=NEARLY), held, swept, best, trials, seed)
    tuned = out_of_bag(held, swept, goal, best, trials, seed)
    quality_kept = fresh_interval(tuned[:, 0] / max(qualities[best], TINY), level)
    saved = 1 - tuned[:, 1] / costs[best] if costs[best] else np.zeros(trials)
    area_gain = interval(gains, level)
    chosen = held.chosen(router.cost_weight)
    own_errors, own_costs = held.outcome(chosen)
    models = zip(held.models, costs.tolist(), qualities.tolist(), strict=True)
    made = Report(
        n=len(held),
        curve=curve,
        mixture=mixture,
        models={name: (cost, quality) for name, cost, quality in models},
        metrics=measure(curve, held.errors, held.costs),
        mixture_metrics=measure(mixture, held.errors, held.costs),
        area_gain=area_gain,
        chance=chance,
        quality_kept=quality_kept,
        saving=fresh_interval(saved, level, lower=-np.inf),
        single=compare(held, swept, {held.models[best]: 1.0}, level=level, trials=trials, seed=seed),
        mixed=compare(held, swept, mixture_of(held, NEARLY * qualities[best]), level=level, trials=trials, seed=seed),
        use=_as_accurate(held, best, level, trials, seed),
        cost_weight=router.cost_weight,
        quality=1 - float(own_errors.mean()),
        cost=float(own_costs.mean()),
        shares=held.shares(chosen),
        pays=chance <= SURE and area_gain[0] > 0,
        fitted_on=held.fitted_on,
        verdict="",
    )
    return dataclasses.replace(made, verdict=_report_verdict(made) + (FITTED_ON if made.fitted_on else ""))


def _areas_by_chance(held: HeldOut, dearest: float, seed: int) -> Array:
    """Return the Areas of routing by predictions dealt out to the wrong prompts, (PERMUTATIONS,)."""
    generator = np.random.default_rng(seed)
    areas = []
    for _ in range(PERMUTATIONS):
        dealt = held.predicted_errors[generator.permutation(len(held))]
        curve = sweep(dealt, held.predicted_costs, held.errors, held.costs).curve()
        areas.append(curve.hull().area(dearest))
    return np.array(areas)


def _as_accurate(held: HeldOut, best: int, level: float, trials: int, seed: int) -> str:
    """Return the cheapest model that these prompts cannot tell from the most accurate one, in the column `best`."""
    draws = np.random.default_rng(seed).integers(len(held), size=(trials, len(held)))
    for model in np.argsort(held.costs.mean(axis=0), kind="stable"):
        more = held.errors[:, model] - held.errors[:, best]
        if model == best or np.quantile(more[draws].mean(axis=1), (1 - level) / 2) <= 0:
            break
    return held.models[int(model)]


def _report_verdict(made: Report) -> str:
    best = next(iter(made.single.rival))
    costs = {model: f"${1000 * cost:.4g} per 1,000 prompts" for model, (cost, _) in made.models.items()}
    single = f"always using {best} (quality {made.single.quality:.3f}, {costs[best]})"
    if made.chance > SURE and made.mixed.saving is not None and made.mixed.saving[0] > 0:
        return (
            f"These {made.n} prompts cannot tell whether routing pays here: it saves {_percent(made.mixed.saving)} "
            f"beside the best mixture {NEARLY:.0%} as good as {best}, but chance does as well in {made.chance:.0%} "
            f"of deals. Until more are measured, use {best} (quality {made.single.quality:.3f}, {costs[best]})."
        )
    if not made.pays:
        verdict = (
            f"Routing does not pay here: use {best} (quality {made.single.quality:.3f}, {costs[best]}). On these "
            f"{made.n} prompts it is no better than mixing models without reading the prompt, as far as they can tell."
        )
        if made.use == best:
            return verdict
        _, quality = made.models[made.use]
        return f"{verdict} They cannot tell {best} from {made.use} either ({quality:.3f}, {costs[made.use]})."
    low, high = made.area_gain
    kept, saved = made.quality_kept, made.saving
    saves = f" and saves {_percent(saved)} of its cost" if made.single.cost else "; that model is free"
    return (
        f"Routing pays on these {made.n} held-out prompts: its Area is {low:.4f} to {high:.4f} above that of the most "
        f"favourable mixture of models. Against {single}, it {_beside(made.single)}; tuned to keep {NEARLY:.0%} of its "
        f"quality, it keeps {_percent(kept)} of it{saves}. Against the best mixture of that quality, it "
        f"{_beside(made.mixed)}."
    )


def _beside(comparison: Comparison) -> str:
    """Return what routing does beside a rival, in words."""
    low, high = comparison.gain
    gains = f"gains {low:+.3f} to {high:+.3f} quality at equal cost"
    if comparison.saving is None:
        return f"saves nothing at equal quality and {gains}" if comparison.cost else gains
    return f"saves {_percent(comparison.saving)} at equal quality and {gains}"


def _percent(ends: tuple[float, float]) -> str:
    return f"{ends[0]:.0%} to {ends[1]:.0%}"
