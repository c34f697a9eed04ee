"""What new prompts will cost, with an interval that holds what is then spent as often as it says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unirouter_core.data import Outcomes
from unirouter_core.display import Findings, usd
from unirouter_core.embedding import Array, check_prompts
from unirouter_core.evaluate.bootstrap import Bootstrap
from unirouter_core.evaluate.holdout import held_out
from unirouter_core.exceptions import InvalidDataError
from unirouter_core.router import UniRouter
from unirouter_core.rule import check_cost_weight


@dataclass(frozen=True)
class Forecast(Findings):
    """What `n_prompts` new prompts will cost when a router chooses the model of each.

    `cost` is the mean USD a prompt. `cost_interval` is what these very prompts will cost, `level` of the time: wider
    than the interval of a long-run mean, as they are a draw too. It rests on `n` held-out prompts.
    """

    n_prompts: int
    cost_weight: float
    cost: float
    cost_interval: tuple[float, float]
    level: float
    n: int

    @property
    def verdict(self) -> str:
        """The forecast in a sentence."""
        low, high = (self.n_prompts * end for end in self.cost_interval)
        return (
            f"{self.n_prompts:,} prompts will cost about {usd(self.n_prompts * self.cost)}, and with a chance of "
            f"{self.level:.0%} between {usd(low)} and {usd(high)}."
        )


def forecast(
    router: UniRouter,
    prompts: int | Sequence[str],
    *,
    cost_weight: float | None = None,
    outcomes: Outcomes | None = None,
    level: float = 0.9,
    trials: int = 1000,
    seed: int = 0,
) -> Forecast:
    """Return what prompts will cost, with an interval.

    The router's expected costs are multiplied by the ratio of USD spent to USD expected on held-out prompts. Both the
    held-out and the new prompts are draws; the bootstrap makes both. Raises `InvalidDataError` when there is no prompt,
    or `level`, `trials` or `cost_weight` is outside its range; `NoCandidateError` when the pool is empty.

    Parameters
    ----------
    prompts : int or sequence of str
        How many prompts will come, like those that judge the router; or the prompts themselves, which is more exact.
    cost_weight : float, optional
        The router's own when not given.
    outcomes : Outcomes, optional
        What the pool's models did on prompts of your own; see `held_out`.
    level : float
        Of the interval.
    trials, seed : int
        Of the bootstrap.

    Examples
    --------
    >>> from unirouter_core import UniRouter
    >>> router = UniRouter.starter(examples=True)
    >>> hundred, million = forecast(router, 100), forecast(router, 1_000_000)
    >>> hundred.cost_interval[0] < million.cost_interval[0] < hundred.cost < million.cost_interval[1]
    True
    """
    boot = Bootstrap(level, trials, seed)
    texts, n_prompts = (None, prompts) if isinstance(prompts, int) else (check_prompts(prompts), len(prompts))
    if n_prompts < 1:
        raise InvalidDataError(f"{n_prompts} prompts cost nothing; give at least 1, or the prompts themselves.")
    weight = check_cost_weight(router.cost_weight if cost_weight is None else cost_weight)
    held = held_out(router, outcomes, seed=seed)
    spent, expected, routed = held.spending(weight)
    if texts is None:
        own, drawn = routed, future_means(boot, spent, expected, routed, n_prompts)
    else:
        own = router.route_batch(texts, cost_weight=weight).costs
        drawn = future_ratios(boot, spent, expected, n_prompts) * own.mean()
    cost = _ratio(spent.sum(), expected.sum()) * float(own.mean())
    return Forecast(n_prompts, weight, cost, boot.interval(drawn), level, len(held))


def future_ratios(boot: Bootstrap, spent: Array, expected: Array, n_prompts: int) -> Array:
    """Return ratios of USD spent to expected over `n_prompts` new ones like the held-out prompts, (trials,)."""
    draws = boot.future_counts(len(spent), n_prompts)
    return np.array([_ratio((counts * spent).sum(), (counts * expected).sum()) for counts in draws])


def future_means(boot: Bootstrap, spent: Array, expected: Array, own: Array, n_prompts: int) -> Array:
    """Return the mean USD of `n_prompts` new ones, like those whose choices are expected to cost `own`, (trials,)."""
    draws = boot.future_counts(len(own), n_prompts)  # the same draws as of the ratios: expensive prompts overrun more
    means = np.array([(counts * own).sum() / n_prompts for counts in draws])
    return means * future_ratios(boot, spent, expected, n_prompts)


def _ratio(spent: float, expected: float) -> float:
    return float(spent / expected) if expected > 0 else 1.0  # where all is free, it stays so
