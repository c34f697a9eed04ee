"""The mean of several estimators, corrected for difficulty, with standard errors that cover what they say."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Self

import numpy as np

from unirouter_core.data import Outcomes
from unirouter_core.embedding import Array, Labels
from unirouter_core.estimators.clusters import (
    ShrunkenClustersEstimator,
    closeness,
    cluster_sums,
    fit_centroids,
    offsets,
)
from unirouter_core.estimators.known_models import KnownModelsEstimator
from unirouter_core.estimators.linear import difficulty, fit_difficulty, fit_shift, shift_odds
from unirouter_core.estimators.low_rank import LowRankEstimator
from unirouter_core.estimators.protocol import Estimator, Prediction, check_settings, require_fitted
from unirouter_core.exceptions import InvalidDataError, MissingOutcomesError

UNCALIBRATED = 1.5
"""The scale of the standard errors when there are too few training models to measure it."""

LEAST_SCALE = 0.5
"""Where few answers lie in the regions, their own sampling covers the gaps, and any smaller scale would do."""

COVERAGE, NORMAL_80 = 0.8, 1.2816
"""Intervals of ± 1.2816 standard errors are to hold the truth 80 % of the time."""

FOLDS = 3
FEWEST_MODELS, FEWEST_PROMPTS = 6, 300  # below, held-out models say nothing about new ones
SAMPLE = 4_000  # prompts learned from, and prompts looked at, in each fold
REGIONS, FEWEST_IN_REGION = 20, 25  # at most, at least: a region's true error is known only up to its own sampling

KNOWN_MODELS = 10
"""So many training models make the mixture of them count as much as another member."""


def default_members(seed: int = 0) -> tuple[Estimator, ...]:
    """Return shrunken clusters, low-rank logistic and the mixture of known models, not fitted."""
    return ShrunkenClustersEstimator(seed=seed), LowRankEstimator(), KnownModelsEstimator()


@dataclass(eq=False)
class DefaultEstimator:
    """The weighted mean of `members`; each that cannot be used for want of training models' answers is left out.

    A mean of cautious estimates is too cautious: easy prompts are easier than it says, and hard ones harder. So the
    odds of failing are shifted by how hard the prompt is, for all models alike: the most accurate model stays the same,
    and predicted errors come closer to those seen. How far is learned from training models, held out and measured as a
    new model would be.

    The standard error of a model's mean error on prompts like this one joins the members' own standard errors with
    how far they disagree, and is scaled so that, for training models held out and measured as a new model would be,
    80 % intervals hold the error seen in 80 % of the regions.

    Parameters
    ----------
    members : sequence of Estimator
        By default shrunken clusters, low-rank logistic and the mixture of known models. They count the same, but a
        mixture counts for more the more models are known: as much as another member for ten of them.
    n_val : int
        The prompts that held-out training models are measured on while shift and standard errors are calibrated.
    seed : int

    Examples
    --------
    >>> X = np.eye(2, dtype=np.float32)[[0, 1] * 20]
    >>> blend = DefaultEstimator([ShrunkenClustersEstimator(grid=(2,)), ShrunkenClustersEstimator(grid=(1,))]).fit(X)
    >>> poet = blend.profile(X, np.array([1.0, 0.0] * 20))
    >>> blend.predict(X[:2], np.stack([poet])).errors.astype(float).round(2).tolist()
    [[0.67], [0.33]]
    """

    members: Sequence[Estimator] = field(default_factory=lambda: default_members())
    n_val: int = 400
    seed: int = 0
    widths_: Labels = field(init=False, repr=False)
    scale_: Array = field(init=False, repr=False)
    shift_: Array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_settings(self, n_val=2)

    @cached_property
    def _layout(self) -> list[tuple[Estimator, int, int]]:
        """The members in use, and where their features begin and end."""
        require_fitted(self, "widths_")
        ends = self.widths_.cumsum().tolist()
        parts = zip(self.members, ends, self.widths_.tolist(), strict=True)
        return [(member, end - width, end) for member, end, width in parts if width]

    @cached_property
    def _shares(self) -> list[np.float32]:
        """What the members in use count for, summing to 1."""
        counts = [
            len(member.axes_) / KNOWN_MODELS if isinstance(member, KnownModelsEstimator) else 1.0
            for member, _, _ in self._layout
        ]
        return list(np.divide(counts, sum(counts)).astype(np.float32))

    @property
    def left_out(self) -> list[str]:
        """The members that the last `fit` could not use, by name."""
        require_fitted(self, "widths_")
        return [type(member).__name__ for member, width in zip(self.members, self.widths_, strict=True) if width == 0]

    def fit(self, X: Array, outcomes: Outcomes | None = None) -> Self:
        """Fit the members on the vectors X (n, d); calibrate on the training models of `outcomes`.

        Raises
        ------
        MissingOutcomesError
            When no member can be used without outcomes.
        """
        self._fit(X, outcomes)
        self.scale_, self.shift_ = np.array(UNCALIBRATED), np.zeros(X.shape[1] + 1, np.float32)
        if outcomes is not None:
            self._calibrate(X, outcomes)
        return self

    def _fit(self, X: Array, outcomes: Outcomes | None) -> None:
        n_models = 0 if outcomes is None else len(outcomes.models)
        widths = []
        for member in self.members:
            try:
                member.fit(X, outcomes)
                feature = member.profile(
                    X[[0, -1]], np.array([0.0, 1.0]), known=np.zeros((2, n_models)) if n_models else None
                )
            except MissingOutcomesError:
                widths.append(0)
                continue
            if feature.ndim != 1:
                raise InvalidDataError(
                    f"{type(member).__name__} cannot be blended: its features grow with the prompts."
                )
            widths.append(len(feature))
        self.widths_ = np.array(widths)
        for cached in ("_layout", "_shares"):
            self.__dict__.pop(cached, None)
        if not self.widths_.any():
            raise MissingOutcomesError(f"{', '.join(self.left_out)} need training models' outcomes; fit with them.")

    def profile(self, X: Array, errors: Array, known: Array | None = None) -> Array:
        """Return the members' features one after the other; NaN for a member that cannot measure this model.

        Raises
        ------
        MissingOutcomesError
            When no member can.
        """
        require_fitted(self, "widths_")
        parts, missing = [], None
        for member, width in zip(self.members, self.widths_, strict=True):
            if width == 0:
                continue
            try:
                parts.append(member.profile(X, errors, known))
            except MissingOutcomesError as failed:
                parts.append(np.full(width, np.nan))
                missing = failed
        if missing is not None and all(np.isnan(part[0]) for part in parts):
            raise missing
        return np.concatenate(parts).astype(np.float32)

    def predict(self, X: Array, features: Array) -> Prediction:
        """Return the mean of the members' errors, over those that measured the model, corrected for difficulty."""
        parts = [member.predict(X, features[:, start:end]) for member, start, end in self._layout]
        mean = np.minimum(self._mean([part.errors for part in parts]), 1)  # shares that round to more than 1 in all
        errors = shift_odds(mean, difficulty(X, self.shift_))
        return Prediction(errors, lambda: self._stderrs(parts))

    def _stderrs(self, parts: list[Prediction]) -> Array:
        """Return the members' mean standard error and their disagreement, in quadrature, times the calibrated scale."""
        own, middle = self._mean([part.stderrs for part in parts]), self._mean([part.errors for part in parts])
        apart = self._mean([(part.errors - middle) ** 2 for part in parts])
        return np.asarray(self.scale_ * np.sqrt(own**2 + apart))

    def _mean(self, arrays: list[Array]) -> Array:
        """Return the weighted mean of arrays (n, m), one a member in use; NaN, of a model not measured, is left out."""
        weighted = list(map(np.multiply, self._shares, arrays))
        total: Array = functools.reduce(np.add, weighted)
        if not np.count_nonzero(np.isnan(total)):
            return total
        shares = np.where(np.isnan(arrays), 0, np.reshape(self._shares, (-1, 1, 1)))
        return np.asarray(np.nansum(weighted, axis=0) / shares.sum(axis=0))

    def _calibrate(self, X: Array, outcomes: Outcomes) -> None:
        """Learn the shift of the odds and the scale of the standard errors, if the training models are enough."""
        n, m = outcomes.errors.shape
        if m < FEWEST_MODELS or n < FEWEST_PROMPTS:
            return
        held_out = list(self._held_out(X, outcomes))
        seen = [~np.isnan(fold.errors) for fold in held_out]
        if not any(each.any() for each in seen):
            return
        pairs = list(zip(held_out, seen, strict=True))
        slope, level = fit_shift(
            np.concatenate([fold.predicted.errors[known] for fold, known in pairs]),
            np.concatenate([np.broadcast_to(fold.difficulty[:, None], known.shape)[known] for fold, known in pairs]),
            np.concatenate([fold.errors[known] for fold, known in pairs]),
        )
        gaps = np.concatenate([fold.gaps(slope, level) for fold in held_out])
        if not len(gaps):
            return
        self.scale_ = np.array(calibrated_scale(gaps))
        self.shift_ = slope * fit_difficulty(X, outcomes.errors)
        self.shift_[-1] += level

    def _held_out(self, X: Array, outcomes: Outcomes) -> Iterator[_HeldOut]:
        """Yield, fold by fold, training models that were left out of a fit and measured as new ones."""
        n, m = outcomes.errors.shape
        rng = np.random.default_rng(self.seed)
        order, folds = rng.permutation(n), rng.permutation(m) % FOLDS
        n_val = min(self.n_val, n // 4)
        measured, learned, seen = np.split(order, [n_val, n_val + min(SAMPLE, (n - n_val) // 2)])
        seen = seen[:SAMPLE]
        k = min(REGIONS, len(seen) // (2 * FEWEST_IN_REGION))
        centroids = fit_centroids(X[learned], k, self.seed)
        regions = closeness(X[seen], centroids, offsets(centroids)).argmax(1)
        enough = (~np.isnan(outcomes.errors[measured])).sum(0) >= 2
        for fold in range(FOLDS):
            known, new = np.flatnonzero(folds != fold), np.flatnonzero((folds == fold) & enough)
            training = outcomes.rows(learned).of([outcomes.models[int(j)] for j in known])
            if not len(new) or np.isnan(training.errors).all():
                continue
            trial = dataclasses.replace(self, members=copy.deepcopy(self.members))
            trial._fit(X[learned], training)
            trial.scale_, trial.shift_ = np.array(1.0), np.zeros(X.shape[1] + 1, np.float32)
            features = []
            for j in new:
                answered = measured[~np.isnan(outcomes.errors[measured, j])]
                errors = outcomes.errors[answered, j]
                features.append(trial.profile(X[answered], errors, outcomes.errors[np.ix_(answered, known)]))
            yield _HeldOut(
                trial.predict(X[seen], np.stack(features)),
                outcomes.errors[np.ix_(seen, new)],
                difficulty(X[seen], fit_difficulty(X[learned], training.errors)),
                regions,
            )


@dataclass(frozen=True, eq=False)
class _HeldOut:
    """What was predicted of m models on n prompts, before the shift, and what they really did there."""

    predicted: Prediction
    errors: Array
    difficulty: Array
    regions: Labels

    def gaps(self, slope: float, level: float) -> Array:
        """Return the `region_gaps` of all models, the odds shifted by slope * difficulty + level."""
        errors = shift_odds(self.predicted.errors, slope * self.difficulty + level)
        columns = zip(errors.T, self.predicted.stderrs.T, self.errors.T, strict=True)
        return np.concatenate(
            [
                region_gaps(
                    Prediction(error[:, None], functools.partial(np.expand_dims, stderr, 1)), seen, self.regions
                )
                for error, stderr, seen in columns
            ]
        )


def region_gaps(predicted: Prediction, errors: Array, regions: Labels) -> Array:
    """Return, for each region with enough answers: seen minus predicted error, its stderr, the seen one's variance.

    Parameters
    ----------
    predicted : Prediction
        Of one model, (n, 1).
    errors : array (n,)
        NaN is left out.
    regions : array (n,)

    Returns
    -------
    array (n_regions, 3)
    """
    known = ~np.isnan(errors)
    gap = errors - predicted.errors[:, 0]
    columns = np.stack([gap, gap**2, np.where(known, predicted.stderrs[:, 0], np.nan)], axis=1)
    sums, counts = cluster_sums(regions, columns, REGIONS)
    enough = counts[:, 0] >= FEWEST_IN_REGION
    mean, square, stderr = (sums[enough] / counts[enough]).T
    return np.stack([mean, stderr, np.maximum(square - mean**2, 0) / counts[enough, 0]], axis=1)


def coverage(gaps: Array, scale: float, width: float = NORMAL_80) -> float:
    """Return the share of `gaps` (see `region_gaps`) within `width` standard errors, scaled, and sampling noise."""
    gap, stderr, noise = gaps.T
    return float(np.mean(np.abs(gap) <= width * np.sqrt((scale * stderr) ** 2 + noise)))


def calibrated_scale(gaps: Array) -> float:
    """Return the smallest scale, of a fine grid, at which `coverage` reaches 80 %."""
    scales = np.geomspace(LEAST_SCALE, 20, 161)
    covered = [coverage(gaps, scale) >= COVERAGE for scale in scales]
    return float(scales[int(np.argmax(covered))]) if any(covered) else float(scales[-1])
