"""Whether routing pays: its curve beside single models and their best mixture, on prompts it was not measured on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from unirouter_core.curves import Curve, sweep
from unirouter_core.embedding import Array
from unirouter_core.evaluate.bootstrap import Bootstrap, left_out
from unirouter_core.evaluate.holdout import FITTED_ON, Findings, GivenRouter, HeldOut, held_out
from unirouter_core.evaluate.metrics import Metrics, measure
from unirouter_core.evaluate.tuning import Goal
from unirouter_core.exceptions import InvalidDataError
from unirouter_core.rule import choose

SURE = 0.05  # routing pays when chance alone does as well at most this often
NEARLY = 0.97  # the share of the most accurate model's quality that most applications can do with
TINY = 1e-300  # keeps a share of nothing from dividing by 0


@dataclass(frozen=True)
class Comparison:
    """Routing beside a rival that does not read the prompt, judged on prompts its cost_weights were not chosen on.

    `rival` holds the share of the prompts that goes to each model; `quality` and `cost`, mean USD a prompt, are its
    own. `saving` is the interval of the share of that cost that routing saves at the rival's quality; None when the
    rival is free, or routing that costs less falls short of its quality. `gain` is that of the quality it gains at
    equal cost.
    """

    rival: dict[str, float]
    quality: float
    cost: float
    saving: tuple[float, float] | None
    gain: tuple[float, float]

    def __str__(self) -> str:
        gains = f"gains {100 * self.gain[0]:+.1f} to {100 * self.gain[1]:+.1f} points of quality at equal cost"
        if self.saving is not None:
            return f"{_saves(self.saving)} at equal quality and {gains}"
        return f"saves nothing at equal quality and {gains}" if self.cost else gains


@dataclass(frozen=True, eq=False)
class Report(Findings):
    """How good a router's routing is on held-out prompts, beside single models and their best mixture.

    Parameters
    ----------
    n : int
        The held-out prompts.
    fitted_on : bool
        Whether the router was fitted on the very prompts that judge it.
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
        When tuned to keep 97 % of the most accurate model's quality: the intervals of the share of its quality that is
        kept and of its cost that is saved, on prompts that the weight was not chosen on.
    single, mixed : Comparison
        Routing beside always using the most accurate model, and beside the cheapest mixture of 97 % of its quality.
    use : str
        The cheapest model that these prompts cannot tell from the most accurate.
    cost_weight, quality, cost, shares
        The router's own operating point.
    """

    n: int
    fitted_on: bool
    curve: Curve
    mixture: Curve
    metrics: Metrics
    mixture_metrics: Metrics
    models: dict[str, tuple[float, float]]
    area_gain: tuple[float, float]
    p_value: float
    quality_at_97: tuple[float, float]
    saving_at_97: tuple[float, float]
    single: Comparison
    mixed: Comparison
    use: str
    cost_weight: float
    quality: float
    cost: float
    shares: dict[str, float]

    @property
    def kind(self) -> Literal["pays", "does not pay", "inconclusive"]:
        """Whether routing beats the mixture and chance; "inconclusive" where it saves but chance may do as well."""
        if self.p_value <= SURE:
            return "pays" if self.area_gain[0] > 0 else "does not pay"
        saves = self.mixed.saving is not None and self.mixed.saving[0] > 0
        return "inconclusive" if saves else "does not pay"

    @property
    def pays(self) -> bool:
        """Whether routing beats the mixture (`area_gain` is above 0) and chance (`p_value` is at most .05)."""
        return self.kind == "pays"

    @property
    def verdict(self) -> str:
        """The report in a few sentences."""
        best = next(iter(self.single.rival))
        named = {
            model: f"{model} (quality {quality:.1%}, ${1000 * cost:.4g} per 1,000 prompts)"
            for model, (cost, quality) in self.models.items()
        }
        if self.kind == "pays":
            saved = f" and {_saves(self.saving_at_97)} of its cost" if self.single.cost else "; that model is free"
            said = (
                f"Routing pays on these {self.n} held-out prompts. Beside always using {named[best]}, it "
                f"{self.single}; tuned to keep {NEARLY:.0%} of its quality, it keeps {_span(self.quality_at_97)}"
                f"{saved}. Beside the best mixture of models of that quality, it {self.mixed}."
            )
        elif self.kind == "inconclusive":
            said = (
                f"Inconclusive: these {self.n} prompts cannot tell whether routing pays here. Beside the best mixture "
                f"of models at {NEARLY:.0%} of {best}'s quality it {self.mixed}, but p = {self.p_value:.2g} "
                f"(permutation test). Until you have more prompts, use {named[best]}."
            )
        else:
            said = (
                f"Routing does not pay here: use {named[best]}. On these {self.n} prompts it is no better than mixing "
                "models without reading the prompt."
            )
            if self.use != best:
                said += f" They cannot tell {best} from {named[self.use]} either."
        return said + (FITTED_ON if self.fitted_on else "")

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON can hold it, its curves as points of their hulls."""

        def points(curve: Curve) -> list[dict[str, Any]]:
            rows = zip(curve.costs.tolist(), curve.qualities.tolist(), curve.cost_weights.tolist(), strict=True)
            return [{"cost": c, "quality": q, "cost_weight": "inf" if np.isinf(w) else w} for c, q, w in rows]

        found = super().as_dict() | {"kind": self.kind, "pays": self.pays}
        found |= {"curve": points(self.curve.hull()), "mixture": points(self.mixture.hull())}
        models = {model: {"cost": cost, "quality": quality} for model, (cost, quality) in self.models.items()}
        return found | {"models": models}


def report(
    router: GivenRouter,
    outcomes: Any = None,
    *,
    level: float = 0.9,
    trials: int = 500,
    permutations: int = 200,
    seed: int = 0,
) -> Report:
    """Return how good routing is, with intervals and a verdict, on prompts its profiles were not measured on.

    The intervals are those of at most 10,000 prompts, drawn at random where there are more. Raises `InvalidDataError`
    when every model is free, or `level`, `trials` or `permutations` is outside its range.

    Parameters
    ----------
    outcomes : Outcomes, or what `read_outcomes` takes, optional
        What the pool's models did on prompts of your own; see `held_out`.
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
    best = held.most_accurate
    if not costs.any():
        raise InvalidDataError(
            f"Every model of the pool is free on these prompts: use the most accurate, {held.models[best]} (quality "
            f"{qualities[best]:.1%}), or onboard the models with prices."
        )
    curve, mixture = held.sweep.curve(), held.mixture.curve()
    area_gain, p_value = _against_chance(held.sampled, boot, Bootstrap(trials=permutations, seed=seed))
    tuned = Goal("", quality_share=NEARLY).with_margin(held.sampled, boot).out_of_bag(held.sampled, boot)
    saved = 1 - tuned[:, 1] / costs[best] if costs[best] else np.zeros(trials)
    chosen = held.chosen(held.cost_weight)
    own_errors, own_costs = held.outcome(chosen)
    return Report(
        n=len(held),
        fitted_on=held.fitted_on,
        curve=curve,
        mixture=mixture,
        metrics=measure(curve, held.errors, held.costs),
        mixture_metrics=measure(mixture, held.errors, held.costs),
        models=dict(zip(held.models, zip(costs.tolist(), qualities.tolist(), strict=True), strict=True)),
        area_gain=area_gain,
        p_value=p_value,
        quality_at_97=boot.fresh_interval(tuned[:, 0] / max(qualities[best], TINY), lower=0.0),
        saving_at_97=boot.fresh_interval(saved),
        single=compare(held, {held.models[best]: 1.0}, boot),
        mixed=compare(held, mixture_of(held, NEARLY * qualities[best]), boot),
        use=_as_accurate(held, boot),
        cost_weight=held.cost_weight,
        quality=1 - float(own_errors.mean()),
        cost=float(own_costs.mean()),
        shares=held.shares(chosen),
    )


def compare(held: HeldOut, rival: dict[str, float], boot: Bootstrap) -> Comparison:
    """Return what routing saves and gains beside a rival mixture, given as shares that sum to 1.

    Each draw chooses two cost_weights on the prompts it holds, the cheapest that reaches the rival's quality and the
    least that costs no more than it, and judges them on those that it leaves out.
    """
    shares = np.array([rival.get(model, 0.0) for model in held.models])
    some, swept = held.sampled, held.sampled.sweep
    qualities, costs = 1 - some.errors @ shares, some.costs @ shares
    margin, drawn = boot.optimism(swept, qualities, stream=3), []
    for counts in boot.counts(len(some), stream=2):
        others, curve = left_out(counts), swept.curve(counts)
        own_quality, own_cost = counts @ qualities / len(some), counts @ costs / len(some)
        as_good = swept.at(float(curve.cost_weights[curve.first_reaching(own_quality + margin)]), others)
        as_dear = swept.at(_least_within(curve, own_cost), others)
        quality, cost = others @ qualities, others @ costs
        drawn.append((1 - as_good[1] / cost if cost else np.nan, as_good[0] - quality, as_dear[0] - quality))
    saved, kept, gained = np.array(drawn).T
    reached = costs.any() and boot.fresh_interval(kept)[1] >= 0
    return Comparison(
        rival={model: share for model, share in rival.items() if share},
        quality=float((1 - held.errors @ shares).mean()),
        cost=float((held.costs @ shares).mean()),
        saving=boot.fresh_interval(saved) if reached else None,
        gain=boot.fresh_interval(gained),
    )


def mixture_of(held: HeldOut, quality: float) -> dict[str, float]:
    """Return the shares of the cheapest mixture of models that has mean quality `quality` on these very prompts."""
    hull = held.mixture.curve().hull()
    above = min(int(np.searchsorted(hull.qualities, quality - 1e-12)), len(hull) - 1)
    below = max(above - 1, 0)
    apart = hull.qualities[above] - hull.qualities[below]
    share = 1.0 if not apart else float(np.clip((quality - hull.qualities[below]) / apart, 0, 1))
    errors, costs = held.errors.mean(axis=0)[None], held.costs.mean(axis=0)[None]
    mixed: dict[str, float] = {}
    for point, part in ((above, share), (below, 1 - share)):
        model = held.models[int(choose(errors, costs, float(hull.cost_weights[point]))[0])]
        mixed[model] = mixed.get(model, 0.0) + part
    return {model: part for model, part in mixed.items() if part}


def _against_chance(held: HeldOut, boot: Bootstrap, test: Bootstrap) -> tuple[tuple[float, float], float]:
    """Return the interval of the gain in Area over the mixture, less what chance gains, and the p of chance."""
    dearest = float(held.costs.mean(axis=0).max())

    def area(curve: Curve) -> float:
        return curve.hull().area(dearest)

    shuffled = (held.predicted_errors[order] for order in test.permutations(len(held)))
    by_chance = np.array(
        [area(sweep(errors, held.predicted_costs, held.errors, held.costs).curve()) for errors in shuffled]
    )
    climbed = max(float(np.mean(by_chance)) - area(held.mixture.curve()), 0.0)
    draws = (boot.resample(swept, held.errors, held.costs) for swept in (held.sweep, held.mixture))
    gains = np.array([ours.area - theirs.area for ours, theirs in zip(*draws, strict=True)]) - climbed
    reached = int((by_chance >= area(held.sweep.curve())).sum())
    return boot.interval(gains), (1 + reached) / (1 + len(by_chance))


def _as_accurate(held: HeldOut, boot: Bootstrap) -> str:
    """Return the cheapest model that these prompts cannot tell from the most accurate one."""
    best = held.most_accurate
    by_cost = np.argsort(held.costs.mean(axis=0), kind="stable")
    worse: Array = held.errors - held.errors[:, [best]]
    as_good = (int(j) for j in by_cost if j == best or boot.mean_interval(worse[:, j])[0] <= 0)
    return held.models[next(as_good)]


def _least_within(curve: Curve, cost: float) -> float:
    """Return the cost_weight of the most expensive point within `cost`, not of the best, which noise has lifted."""
    within = int(np.searchsorted(curve.costs, cost * (1 + 1e-12), side="right"))
    return float(curve.cost_weights[max(within - 1, 0)])


def _saves(ends: tuple[float, float]) -> str:
    """Return an interval of a saving in words; a negative saving is a cost."""
    low, high = ends
    return f"costs {1 - high:.2g} to {1 - low:.2g} × as much" if high < 0 else f"saves {_span(ends)}"


def _span(ends: tuple[float, float]) -> str:
    return f"{ends[0]:.0%} to {ends[1]:.0%}"
