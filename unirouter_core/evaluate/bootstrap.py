"""The one place that resamples prompts, and the intervals that are read off the draws."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from unirouter_core.curves import Sweep, check_table
from unirouter_core.embedding import Array, Labels
from unirouter_core.evaluate.metrics import Metrics
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

    def rows(self, n: int, stream: int | None = None) -> Iterator[Labels]:
        """Yield the rows of each draw, (n,); another `stream` gives other draws of the same seed."""
        generator = np.random.default_rng(self.seed if stream is None else [self.seed, stream])
        for _ in range(self.trials):
            yield generator.integers(n, size=n)

    def counts(self, n: int, stream: int | None = None) -> Iterator[Array]:
        """Yield how often each draw holds each prompt, (n,)."""
        for rows in self.rows(n, stream):
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

    def fresh_interval(
        self, left_out_means: Array, *, lower: float = -np.inf, upper: float = np.inf
    ) -> tuple[float, float]:
        """Return the interval of a mean over n fresh prompts, from means over the prompts that each draw leaves out.

        A mean over the share q of n prompts that a draw leaves out varies by (1 - q) / (q n), one over n fresh prompts
        by 1 / n; the spread is scaled accordingly.
        """
        centre = left_out_means.mean()
        low, high = self.interval(centre + (left_out_means - centre) * np.sqrt(LEFT_OUT / (1 - LEFT_OUT)))
        return max(low, lower), min(high, upper)

    def resample(self, sweep: Sweep, errors: npt.ArrayLike, costs: npt.ArrayLike) -> Iterator[Metrics]:
        """Yield the metrics of each draw of the test set; parameters as in `metrics.measure`, for the sweep's curve."""
        known, paid = check_table(errors, costs)
        n = len(known)
        for counts in self.counts(n):
            drawn = [np.einsum("i,ij->j", counts, table) / n for table in (known, paid)]  # @ waits for busy threads
            yield Metrics.of(sweep.curve(counts).hull(), 1 - drawn[0], drawn[1])

    def metrics(self, sweep: Sweep, errors: npt.ArrayLike, costs: npt.ArrayLike) -> dict[str, tuple[float, float]]:
        """Return the interval of each field of `Metrics`: how much the draw of test prompts moves it."""
        drawn = list(self.resample(sweep, errors, costs))
        return {
            field.name: self.interval(np.array([getattr(each, field.name) for each in drawn], np.float64))
            for field in fields(Metrics)
        }

    def optimism(self, swept: Sweep, wanted: Array, stream: int) -> float:
        """Return how much quality is lost between the prompts that a cost_weight is chosen on and others.

        The first point of a noisy curve that reaches a target is one that noise has lifted. Each draw chooses the
        cheapest weight that reaches the mean of `wanted` (n,), and is compared with all prompts at that weight
        (Harrell's optimism bootstrap).
        """
        lost, n = [], len(wanted)
        for counts in self.counts(n, stream):
            curve = swept.curve(counts)
            weight = float(curve.cost_weights[curve.first_reaching(float(counts @ wanted) / n)])
            more = (counts - 1) / n
            lost.append(swept.at(weight, more)[0] - float(more @ wanted))
        return max(float(np.mean(lost)), 0.0)


def left_out(counts: Array) -> Array:
    """Return weights, summing to 1, of the prompts that a draw leaves out, (n,)."""
    return np.asarray((counts == 0) / max((counts == 0).sum(), 1))
