"""Whether routing pays: its curve beside single models and their best mixture, on prompts it was not measured on."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from unirouter_core.curves import Curve
from unirouter_core.held_out import FITTED_ON, held_out
from unirouter_core.metrics import Metrics, measure, resample
from unirouter_core.outcomes import Outcomes

if TYPE_CHECKING:
    from unirouter_core.router import UniRouter

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
        The interval of the routing's Area minus the mixture's.
    saving : tuple of float
        The interval of the share of the most accurate model's cost that routing saves at its quality.
    cost_weight, quality, cost, shares
        The router's own operating point.
    pays : bool
        Whether routing beats the mixture beyond doubt: `area_gain` is above 0.
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
    saving: tuple[float, float]
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
    held = held_out(router, outcomes, seed=seed)
    swept, mixed = held.sweep, held.mixture
    curve, mixture = swept.curve(), mixed.curve()
    draws = list(resample(swept, held.errors, held.costs, trials=trials, seed=seed))
    rivals = list(resample(mixed, held.errors, held.costs, trials=trials, seed=seed))
    gains = [ours.area - theirs.area for ours, theirs in zip(draws, rivals, strict=True)]
    ends = [(1 - level) / 2, (1 + level) / 2]
    area_gain, saving = np.quantile(gains, ends), np.quantile([1 - draw.qnc_own for draw in draws], ends)
    chosen = held.chosen(router.cost_weight)
    at = np.arange(len(held))
    costs, qualities = held.costs.mean(axis=0).tolist(), (1 - held.errors.mean(axis=0)).tolist()
    made = Report(
        n=len(held),
        curve=curve,
        mixture=mixture,
        models={name: (cost, quality) for name, cost, quality in zip(held.models, costs, qualities, strict=True)},
        metrics=measure(curve, held.errors, held.costs),
        mixture_metrics=measure(mixture, held.errors, held.costs),
        area_gain=(float(area_gain[0]), float(area_gain[1])),
        saving=(float(saving[0]), float(saving[1])),
        cost_weight=router.cost_weight,
        quality=1 - float(held.errors[at, chosen].mean()),
        cost=float(held.costs[at, chosen].mean()),
        shares=held.shares(chosen),
        pays=bool(area_gain[0] > 0),
        fitted_on=held.fitted_on,
        verdict="",
    )
    return dataclasses.replace(made, verdict=_report_verdict(made) + (FITTED_ON if made.fitted_on else ""))


def _report_verdict(made: Report) -> str:
    best = min(made.models, key=lambda model: (-made.models[model][1], made.models[model][0]))
    cost, quality = made.models[best]
    single = f"always using {best} (quality {quality:.3f}, ${1000 * cost:.4g} per 1,000 prompts)"
    if not made.pays:
        return (
            f"Routing does not pay on these {made.n} prompts: it cannot be told from mixing models without reading the "
            f"prompt. Compare with {single}."
        )
    if not made.metrics.reached:
        return f"Routing beats every mixture of models on {made.n} held-out prompts, but does not reach {single}."
    low, high = made.saving
    at_par = f"saves {1 - made.metrics.qnc_own:.0%} ({low:.0%} to {high:.0%})"
    hull = made.curve.hull()
    nearly = hull.cost_at(NEARLY * quality) / cost if cost else 1.0
    return (
        f"Routing pays on these {made.n} held-out prompts. Against {single} it {at_par} at equal quality, and "
        f"{1 - nearly:.0%} at {NEARLY:.0%} of it; its Area is {made.area_gain[0]:.4f} to {made.area_gain[1]:.4f} above "
        "that of the best mixture of models."
    )
