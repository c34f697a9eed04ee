"""What prompts not asked yet will cost, with an interval that holds what is then spent as often as it says."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from unirouter_core.data import Outcomes
from unirouter_core.embedding import Array, Labels, check_prompts, normalise
from unirouter_core.evaluate.bootstrap import check_trials, interval
from unirouter_core.evaluate.held_out import HeldOut, held_out
from unirouter_core.exceptions import InvalidDataError
from unirouter_core.rule import check_cost_weight, choose

if TYPE_CHECKING:
    from unirouter_core.router import UniRouter


@dataclass(frozen=True)
class Spending:
    """What a number of prompts will cost when a router chooses the model of each.

    Parameters
    ----------
    n_prompts : int
        The prompts to come.
    cost_weight : float
        The error that one USD is worth in the choices.
    cost : float
        Mean USD a prompt.
    cost_interval : tuple of float
        What these very prompts will cost, mean USD a prompt: wider than the interval of a long-run mean, as they are a
        draw too.
    level : float
        How often the interval holds what is spent.
    n : int
        The held-out prompts that this rests on.
    """

    n_prompts: int
    cost_weight: float
    cost: float
    cost_interval: tuple[float, float]
    level: float
    n: int

    @property
    def verdict(self) -> str:
        """All that in a sentence."""
        low, high = (self.n_prompts * end for end in self.cost_interval)
        return (
            f"{self.n_prompts:,} prompts will cost about ${self.n_prompts * self.cost:.4g}, and with a chance of "
            f"{self.level:.0%} between ${low:.4g} and ${high:.4g}."
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the spending as JSON can hold it."""
        weight = "inf" if np.isinf(self.cost_weight) else self.cost_weight
        return {**dataclasses.asdict(self), "cost_weight": weight, "verdict": self.verdict}


def spending(
    router: UniRouter,
    prompts: int | Sequence[str],
    *,
    cost_weight: float | None = None,
    outcomes: Outcomes | None = None,
    level: float = 0.9,
    trials: int = 1000,
    seed: int = 0,
) -> Spending:
    """Return what prompts will cost, with an interval.

    The router's expected costs are multiplied by the ratio of USD spent to USD expected on held-out prompts. The draw
    of those is one source of error, the draw of the prompts to come the other; a bootstrap makes both.

    Parameters
    ----------
    router : UniRouter
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

    Raises
    ------
    InvalidDataError
        When there is no prompt to come, or `level`, `trials` or `cost_weight` is outside its range.
    NoCandidateError
        When the pool is empty.

    Examples
    --------
    >>> from unirouter_core import UniRouter
    >>> router = UniRouter.starter(examples=True)
    >>> hundred, million = spending(router, 100), spending(router, 1_000_000)
    >>> hundred.cost_interval[0] < million.cost_interval[0] < hundred.cost < million.cost_interval[1]
    True
    """
    check_trials(level, trials)
    texts, n_prompts = (None, prompts) if isinstance(prompts, int) else (check_prompts(prompts), len(prompts))
    if n_prompts < 1:
        raise InvalidDataError(f"{n_prompts} prompts cost nothing; give at least 1, or the prompts themselves.")
    weight = check_cost_weight(router.cost_weight if cost_weight is None else cost_weight)
    held = held_out(router, outcomes, seed=seed)
    spent, expected = _at(held, weight)
    if texts is not None:
        own = router.route_batch(texts, cost_weight=weight).costs
        drawn = drawn_ratios(spent, expected, n_prompts, trials, seed) * own.mean()
    else:
        own = expected if outcomes is not None else _expected_when_measured(router, weight)
        drawn = drawn_costs(spent, expected, own, n_prompts, trials, seed)
    cost = _ratio(spent.sum(), expected.sum()) * float(own.mean())
    return Spending(n_prompts, weight, cost, interval(drawn, level), level, len(held))


def long_run(
    router: UniRouter, held: HeldOut, cost_weight: float, *, measured: bool, level: float, trials: int, seed: int
) -> tuple[float, float]:
    """Return the interval of the mean USD of as many prompts as judge the router; `measured` if it was on these."""
    spent, expected = _at(held, cost_weight)
    own = _expected_when_measured(router, cost_weight) if measured else expected
    return interval(drawn_costs(spent, expected, own, len(held), trials, seed), level)


def _at(held: HeldOut, cost_weight: float) -> tuple[Array, Array]:
    """Return the USD spent and expected on the held-out choices, both (n,)."""
    chosen = held.chosen(cost_weight)
    return held.outcome(chosen)[1], np.asarray(held.predicted_costs[np.arange(len(held)), chosen])


def drawn_costs(spent: Array, expected: Array, own: Array, n_prompts: int, trials: int, seed: int) -> Array:
    """Return draws of the mean USD of `n_prompts` like those whose choices are expected to cost `own`, (trials,)."""
    ratios = drawn_ratios(spent, expected, n_prompts, trials, seed)
    return drawn_means(own, n_prompts, trials, seed) * ratios


def _expected_when_measured(router: UniRouter, cost_weight: float) -> Array:
    """Return the expected USD of the router's choices on the prompts its first model was measured on, (n,).

    The held-out choices are those of profiles with a fifth of the answers left out: near a tie they go elsewhere.
    """
    measured = next(iter(router.pool.values())).measured
    X = normalise(measured.vectors)
    found = router.fit_.expect(router.pool, X, measured.tokens)
    chosen = choose(found.prediction.errors, found.costs, cost_weight)
    return np.asarray(found.costs[np.arange(len(X)), chosen])


def drawn_ratios(spent: Array, expected: Array, n_prompts: int, trials: int, seed: int) -> Array:
    """Return ratios of USD spent to expected over `n_prompts` drawn from draws of the held-out prompts, (trials,)."""
    draws = _draws(len(spent), n_prompts, trials, np.random.default_rng(seed))
    return np.array([_ratio((counts * spent).sum(), (counts * expected).sum()) for counts in draws])


def drawn_means(values: Array, n_prompts: int, trials: int, seed: int) -> Array:
    """Return means of `values` (n,) over `n_prompts` drawn, for as many held-out ones, as in `drawn_ratios`."""
    draws = _draws(len(values), n_prompts, trials, np.random.default_rng(seed))  # dear prompts overrun more: together
    return np.array([(counts * values).sum() / n_prompts for counts in draws])


def _draws(n: int, n_prompts: int, trials: int, generator: np.random.Generator) -> Iterator[Labels]:
    """Yield how often each of n prompts is drawn: `n_prompts` from n that are drawn from them."""
    for _ in range(trials):
        seen = generator.multinomial(n, np.full(n, 1 / n))
        yield generator.multinomial(n_prompts, seen / n)


def _ratio(spent: float, expected: float) -> float:
    return float(spent / expected) if expected > 0 else 1.0  # where all is free, it stays so
