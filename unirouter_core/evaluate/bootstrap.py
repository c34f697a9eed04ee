"""The one place that resamples prompts, and the intervals that are read off the draws."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unirouter_core.embedding import Array, Labels
from unirouter_core.exceptions import InvalidDataError

LEFT_OUT = 0.368  # the share of the prompts that a draw leaves out, on average: 1 / e


@dataclass(frozen=True)
class Bootstrap:
    """Draws of n prompts from n with replacement, and intervals that hold the share `level`, in (0, 1), of the draws.

    Every method draws from the start, so one seed gives two routers the same prompts, draw by draw. Raises
    `InvalidDataError` when `level` is not inside (0, 1), or there is no trial.
    """

    level: float = 0.9
    trials: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise InvalidDataError(f"An interval needs trials, not {self.trials}; draw at least 1, better 1,000.")
        if not 0 < self.level < 1:
            raise InvalidDataError(f"The level of an interval is {self.level:g}; give a share between 0 and 1, as 0.9.")

    def rows(self, n: int) -> Iterator[Labels]:
        """Yield the rows of each draw, (n,)."""
        generator = np.random.default_rng(self.seed)
        for _ in range(self.trials):
            yield generator.integers(n, size=n)

    def counts(self, n: int) -> Iterator[Array]:
        """Yield how often each draw holds each prompt, (n,)."""
        for rows in self.rows(n):
            yield np.bincount(rows, minlength=n).astype(np.float64)

    def future_counts(self, n: int, n_future: int) -> Iterator[Labels]:
        """Yield how often each of n observed prompts occurs among `n_future` new ones, (n,).

        Both are uncertain: which prompts were observed, and which will come. So each draw is made from a draw.
        """
        generator = np.random.default_rng(self.seed)
        for _ in range(self.trials):
            observed = generator.multinomial(n, np.full(n, 1 / n))
            yield generator.multinomial(n_future, observed / n)

    def permutations(self, n: int) -> Iterator[Labels]:
        """Yield random orders of n rows, for a permutation test."""
        generator = np.random.default_rng(self.seed)
        for _ in range(self.trials):
            yield generator.permutation(n)

    def interval(self, values: npt.ArrayLike) -> tuple[float, float]:
        """Return the ends of the middle `level` of `values`, one for each draw."""
        low, high = np.quantile(np.asarray(values, np.float64), [(1 - self.level) / 2, (1 + self.level) / 2])
        return float(low), float(high)

    def mean_interval(self, differences: npt.ArrayLike) -> tuple[float, float]:
        """Return the interval of the mean of paired `differences` (n,), such as one router's errors minus another's."""
        pairs = np.asarray(differences, np.float64)
        if pairs.ndim != 1 or not pairs.size or not np.isfinite(pairs).all():
            raise InvalidDataError(f"Differences {pairs} must be 1 or more finite numbers; leave out pairs not known.")
        return self.interval([pairs[rows].mean() for rows in self.rows(len(pairs))])


def left_out(counts: Array) -> Array:
    """Return weights, summing to 1, of the prompts that a draw leaves out, (n,)."""
    return np.asarray((counts == 0) / max((counts == 0).sum(), 1))


def as_fresh(left_out_means: Array, axis: int = 0) -> Array:
    """Return means over the prompts that each draw leaves out with the spread of means over n fresh prompts.

    A mean over the share q of n prompts varies by (1 - q) / (q n), one over n fresh prompts by 1 / n.
    """
    centre = left_out_means.mean(axis=axis, keepdims=True)
    return np.asarray(centre + (left_out_means - centre) * np.sqrt(LEFT_OUT / (1 - LEFT_OUT)))
