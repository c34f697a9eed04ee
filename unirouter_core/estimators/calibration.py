"""Whether predicted errors are as often wrong as they say, and their intervals as wide as they should be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unirouter_core.embedding import Array, Labels
from unirouter_core.estimators.clusters import cluster_sums
from unirouter_core.exceptions import InvalidDataError

BINS = 15
"""Of equal counts; fewer hide a bend, more measure noise."""

NORMAL_80 = 1.2816
"""Intervals of ± so many standard errors are to hold the truth 80 % of the time."""

FEWEST_IN_REGION = 25
"""A region's error is known only up to its own sampling: with fewer prompts it says nothing."""


@dataclass(frozen=True, eq=False)
class Reliability:
    """Predicted errors in bins of equal counts, from the smallest to the largest, beside what was seen.

    Parameters
    ----------
    predicted, seen : array (n_bins,)
        Mean predicted and mean real error of each bin.
    counts : array (n_bins,) of int
    """

    predicted: Array
    seen: Array
    counts: Labels

    @property
    def expected_error(self) -> float:
        """The expected calibration error: the mean distance of predicted from seen, weighted by the counts."""
        return float(np.average(np.abs(self.predicted - self.seen), weights=self.counts))


def reliability(predicted: npt.ArrayLike, errors: npt.ArrayLike, *, bins: int = BINS) -> Reliability:
    """Return how predicted errors compare with real ones, all prompts and models in one heap.

    Parameters
    ----------
    predicted, errors : array (n_prompts, n_models), or any other one shape
    bins : int
        Fewer when there are fewer predictions.

    Raises
    ------
    InvalidDataError
        When the shapes differ, or there is nothing to compare.

    Examples
    --------
    >>> found = reliability([0.1, 0.1, 0.6, 0.6], [0, 0, 1, 0], bins=2)
    >>> found.seen.tolist(), round(found.expected_error, 3)
    ([0.0, 0.5], 0.1)
    """
    expected, real = np.asarray(predicted, np.float64), np.asarray(errors, np.float64)
    if expected.shape != real.shape or not expected.size:
        raise InvalidDataError(f"Predicted errors of shape {expected.shape} and errors of shape {real.shape} differ.")
    order = np.argsort(expected, axis=None, kind="stable")
    heaps = np.array_split(order, min(bins, len(order)))
    means = [(expected.flat[heap].mean(), real.flat[heap].mean(), len(heap)) for heap in heaps]
    below, seen, counts = (np.array(column) for column in zip(*means, strict=True))
    return Reliability(below, seen, counts)


def interval_coverage(
    predicted: Array, stderrs: Array, errors: Array, regions: Labels, *, width: float = NORMAL_80
) -> float:
    """Return how often ± `width` standard errors hold a model's error in a region; the region's own noise is allowed.

    Parameters
    ----------
    predicted, stderrs, errors : array (n_prompts, n_models)
    regions : array (n_prompts,)
        Numbered from 0; those with fewer than 25 prompts are left out.

    Returns
    -------
    float
        The share of (region, model) pairs; NaN when no region is large enough, or a standard error is NaN: not claimed.

    Examples
    --------
    >>> errors = np.tile([[0.0], [1.0]], (20, 1))
    >>> interval_coverage(np.full((40, 1), 0.5), np.full((40, 1), 0.1), errors, np.zeros(40, int))
    1.0
    """
    k, m = int(regions.max()) + 1, errors.shape[1]
    gaps = errors - predicted
    sums, counts = cluster_sums(regions, np.concatenate([gaps, gaps**2, stderrs], axis=1), k)
    large = counts[:, 0] >= FEWEST_IN_REGION
    if not large.any() or np.isnan(stderrs).any():
        return float("nan")
    n = counts[large][:, :m]
    gap, square, stderr = np.split(sums[large] / counts[large], [m, 2 * m], axis=1)
    noise = np.maximum(square - gap**2, 0) / n
    return float(np.mean(np.abs(gap) <= width * np.sqrt(stderr**2 + noise)))
