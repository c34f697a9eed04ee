"""Routing beside a rival that does not read the prompt: its saving at equal quality, its gain at equal cost."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unirouter_core.curves import Curve, Sweep
from unirouter_core.evaluate.bootstrap import draws
from unirouter_core.evaluate.held_out import HeldOut
from unirouter_core.evaluate.tune import fresh_interval, optimism, unseen
from unirouter_core.rule import choose


@dataclass(frozen=True)
class Comparison:
    """Routing beside a rival, on prompts that its cost_weights were not chosen on.

    Parameters
    ----------
    rival : dict of model to float
        The share of the prompts that the rival sends to each model, whatever they ask.
    quality, cost : float
        The rival's mean quality, and mean USD a prompt.
    saving : tuple of float or None
        The interval of the share of the rival's cost that routing saves at the rival's quality; None when the rival is
        free, or routing that costs less falls short of its quality.
    gain : tuple of float
        The interval of the routing's quality minus the rival's, at the rival's cost.
    """

    rival: dict[str, float]
    quality: float
    cost: float
    saving: tuple[float, float] | None
    gain: tuple[float, float]


def compare(
    held: HeldOut, swept: Sweep, rival: dict[str, float], *, level: float, trials: int, seed: int
) -> Comparison:
    """Return what routing saves and gains beside a rival.

    Each draw chooses two cost_weights on the prompts it holds, the cheapest that reaches the rival's quality and the
    least that costs no more than it, and judges them on those that it leaves out.

    Parameters
    ----------
    held : HeldOut
    swept : Sweep
        Of its predictions.
    rival : dict of model to float
        Shares, which sum to 1.
    level, trials, seed
        Of the intervals, by the out-of-bag bootstrap.
    """
    shares = np.array([rival.get(model, 0.0) for model in held.models])
    qualities, costs = 1 - held.errors @ shares, held.costs @ shares
    margin, drawn = optimism(swept, qualities, trials, [seed, 3]), []
    for counts in draws(len(held), trials, [seed, 2]):
        left_out, curve = unseen(counts), swept.curve(counts)
        own_quality, own_cost = counts @ qualities / len(held), counts @ costs / len(held)
        as_good = swept.at(float(curve.cost_weights[curve.first_reaching(own_quality + margin)]), left_out)
        as_dear = swept.at(_least_within(curve, own_cost), left_out)
        quality, cost = left_out @ qualities, left_out @ costs
        drawn.append((1 - as_good[1] / cost if cost else np.nan, as_good[0] - quality, as_dear[0] - quality))
    saved, kept, gained = np.array(drawn).T
    reached = costs.any() and fresh_interval(kept, level, lower=-np.inf)[1] >= 0
    return Comparison(
        rival={model: share for model, share in rival.items() if share},
        quality=float(qualities.mean()),
        cost=float(costs.mean()),
        saving=fresh_interval(saved, level, lower=-np.inf) if reached else None,
        gain=fresh_interval(gained, level, lower=-np.inf),
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


def _least_within(curve: Curve, cost: float) -> float:
    within = int(np.searchsorted(curve.costs, cost * (1 + 1e-12), side="right"))
    return float(curve.cost_weights[max(within - 1, 0)])  # not the point of the highest quality, which noise has lifted
