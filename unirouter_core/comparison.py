"""Routing beside a rival that does not read the prompt: its saving at equal quality, its gain at equal cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from unirouter_core.curves import Curve, Sweep
from unirouter_core.decision import choose
from unirouter_core.embedding import Array
from unirouter_core.held_out import HeldOut
from unirouter_core.tradeoff import fresh_interval


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
    margin = _optimism(swept, qualities, trials, seed)
    drawn = []
    for counts in _draws(len(held), trials, [seed, 2]):
        left_out = (counts == 0) / max((counts == 0).sum(), 1)
        curve = swept.curve(counts)
        own_quality, own_cost = counts @ qualities / len(held), counts @ costs / len(held)
        as_good = _at(swept, left_out, _cheapest_reaching(curve, own_quality + margin))
        as_dear = _at(swept, left_out, _least_within(curve, own_cost))
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


def _optimism(swept: Sweep, qualities: Array, trials: int, seed: int) -> float:
    """Return how much quality is lost between the prompts that a weight is chosen on and all (Harrell's bootstrap)."""
    lost, n = [], len(qualities)
    for counts in _draws(n, trials, [seed, 3]):
        weight = _cheapest_reaching(swept.curve(counts), float(counts @ qualities) / n)
        lost.append(_at(swept, (counts - 1) / n, weight)[0] - (counts - 1) @ qualities / n)
    return max(float(np.mean(lost)), 0.0)


def _draws(n: int, trials: int, seed: list[int]) -> Iterator[Array]:
    """Yield how often each of n prompts is drawn, (n,)."""
    generator = np.random.default_rng(seed)
    for _ in range(trials):
        yield np.bincount(generator.integers(n, size=n), minlength=n).astype(np.float64)


def _cheapest_reaching(curve: Curve, quality: float) -> float:
    reaching = np.flatnonzero(curve.qualities >= quality - 1e-12)
    return float(curve.cost_weights[reaching[0] if len(reaching) else np.argmax(curve.qualities)])


def _least_within(curve: Curve, cost: float) -> float:
    within = int(np.searchsorted(curve.costs, cost * (1 + 1e-12), side="right"))
    return float(curve.cost_weights[max(within - 1, 0)])  # not the point of the highest quality, which noise has lifted


def _at(swept: Sweep, weights: Array, cost_weight: float) -> tuple[float, float]:
    """Return quality and USD of the choices at `cost_weight`, each prompt counted with its weight."""
    until = int(np.searchsorted(swept.cost_weights, cost_weight, side="right"))
    kept = weights[swept.prompts[:until]]
    return float(kept @ swept.quality_changes[:until]), float(kept @ swept.cost_changes[:until])
