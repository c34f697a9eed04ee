"""Calibration: the reliability of predicted errors, and the coverage of their intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unirouter_core.embedding import Array, Labels
from unirouter_core.estimators.clusters import cluster_sums
from unirouter_core.exceptions import InvalidDataError

BINS = 15  # of equal counts; fewer hide a bend, more measure noise
COVERAGE, NORMAL_80 = 0.8, 1.2816  # intervals of ± 1.2816 standard errors should hold the truth 80 % of the time
SCALES = np.geomspace(0.5, 20, 161)  # below 0.5, sampling noise alone covers the gaps
FEWEST_IN_REGION = 25  # answers; with fewer, sampling noise hides a region's true error


@dataclass(frozen=True, eq=False)
class Reliability:
    """Mean predicted and real error, and count, of bins of equal counts from the smallest prediction to the largest."""

    predicted: Array
    seen: Array
    counts: Labels

    @property
    def expected_error(self) -> float:
        """The expected calibration error: the mean distance of predicted from real, weighted by the counts."""
        return float(np.average(np.abs(self.predicted - self.seen), weights=self.counts))


def reliability(predicted: npt.ArrayLike, errors: npt.ArrayLike, *, bins: int = BINS) -> Reliability:
    """Return the reliability of predicted errors, prompts and models pooled; `InvalidDataError` when shapes differ."""
    expected, real = np.asarray(predicted, np.float64), np.asarray(errors, np.float64)
    if expected.shape != real.shape or not expected.size:
        raise InvalidDataError(f"Predicted errors of shape {expected.shape} and errors of shape {real.shape} differ.")
    order = np.argsort(expected, axis=None, kind="stable")
    groups = np.array_split(order, min(bins, len(order)))
    means = [(expected.flat[group].mean(), real.flat[group].mean(), len(group)) for group in groups]
    return Reliability(*(np.array(column) for column in zip(*means, strict=True)))


def region_gaps(predicted: Array, stderrs: Array, errors: Array, regions: Labels) -> Array:
    """Return, for each (region, model) with enough answers: real minus predicted error, its stderr, sampling variance.

    Predictions, stderrs and errors are (n_prompts, n_models), an error of NaN left out; the result is (n_pairs, 3).
    """
    gaps = errors - predicted
    columns = np.concatenate([gaps, gaps**2, np.where(np.isnan(errors), np.nan, stderrs)], axis=1)
    sums, counts = (np.split(each, 3, axis=1) for each in cluster_sums(regions, columns, int(regions.max()) + 1))
    n, enough = counts[0], counts[0] >= FEWEST_IN_REGION
    gap, square, stderr = (each[enough] / n[enough] for each in sums)
    return np.stack([gap, stderr, np.maximum(square - gap**2, 0) / n[enough]], axis=1)


def coverage(gaps: Array, scale: float = 1.0) -> float:
    """Return the share of `region_gaps` in intervals of 80 % made of scaled standard errors and sampling noise."""
    gap, stderr, noise = gaps.T
    return float(np.mean(np.abs(gap) <= NORMAL_80 * np.sqrt((scale * stderr) ** 2 + noise)))


def calibrated_scale(gaps: Array, n_models: int) -> float:
    """Return the smallest scale of the standard errors, of `SCALES`, at which a next model is covered at 80 %.

    The k-th of n values in order is at least the next with probability k / (n + 1). So a share w of n is one of
    w - (w - 1/2) / n of the next, on average over rounding, and that is added. A model is one value: its regions err
    together.
    """
    wanted = min(COVERAGE + (COVERAGE - 0.5) / n_models, 1.0)
    covering = [scale for scale in SCALES.tolist() if coverage(gaps, scale) >= wanted]
    return float(min(covering, default=SCALES[-1]))


def interval_coverage(predicted: Array, stderrs: Array, errors: Array, regions: Labels) -> float:
    """Return the coverage of 80 % intervals, with sampling noise, for a model's error in a region.

    NaN when no region has 25 answers, or a standard error is NaN.
    """
    gaps = region_gaps(predicted, stderrs, errors, regions)
    return float("nan") if not len(gaps) or np.isnan(stderrs).any() else coverage(gaps)
