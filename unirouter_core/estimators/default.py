"""The default estimator: the mean of three estimators, corrected for difficulty, with calibrated standard errors."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Self

import numpy as np

from unirouter_core.data import Outcomes
from unirouter_core.embedding import Array, Labels
from unirouter_core.estimators.calibration import FEWEST_IN_REGION, calibrated_scale, region_gaps
from unirouter_core.estimators.clusters import ShrunkenClustersEstimator, closeness, fit_centroids, offsets
from unirouter_core.estimators.known_models import KnownModelsEstimator
from unirouter_core.estimators.linear import difficulty, fit_difficulty, fit_shift, shift_odds
from unirouter_core.estimators.low_rank import LowRankEstimator
from unirouter_core.estimators.protocol import (
    ONE,
    AxesEstimator,
    Compiled,
    Estimator,
    Prediction,
    check_settings,
    require_fitted,
    with_axes,
)
from unirouter_core.exceptions import InvalidDataError, MissingOutcomesError

UNCALIBRATED = 1.5  # the scale of the standard errors when there are too few training models to measure it
FOLDS = 3
FEWEST_MODELS, FEWEST_PROMPTS = 6, 300  # to calibrate; with fewer, held-out models do not represent new ones
SAMPLE = 4_000  # training prompts, and test prompts, in each fold
REGIONS = 20  # at most, of those prompts
SIZES = 50, 100, 200, 400  # numbers of answers that standard errors are calibrated for
KNOWN_MODELS = 10  # training models at which the known-models member has the weight of any other


def default_members(seed: int = 0) -> tuple[Estimator, ...]:
    """Return unfitted shrunken clusters, low rank and known models."""
    return ShrunkenClustersEstimator(seed=seed), LowRankEstimator(), KnownModelsEstimator()


@dataclass(eq=False)
class DefaultEstimator(AxesEstimator):
    """The weighted mean of `members`; those that need training models' answers are left out where there are none.

    The mean of shrunken estimates understates how prompts differ in difficulty. So the odds of an error are shifted by
    the prompt's difficulty, for all models in the same way: the most accurate model stays the same, and predicted
    errors come closer to real ones. The size of the shift is learned from training models, held out and measured as a
    new model would be.

    The standard error of a model's mean error on prompts like this one combines the members' own standard errors with
    their disagreement. It is scaled so that, for held-out training models, 80 % intervals hold the real error in 80 %
    of the regions.

    Parameters
    ----------
    members : sequence of Estimator
        By default shrunken clusters, low rank and known models. All weights are 1, but that of known models is their
        number / 10.
    n_val : int
        The prompts that held-out training models are measured on while the shift is learned, and at most for the
        standard errors, which are calibrated for several numbers of answers.

    Examples
    --------
    >>> X = np.eye(2, dtype=np.float32)[[0, 1] * 20]
    >>> members = [ShrunkenClustersEstimator(grid=(2,)), ShrunkenClustersEstimator(grid=(1,))]
    >>> estimator = DefaultEstimator(members).fit(X)
    >>> poet = estimator.profile(X, np.array([1.0, 0.0] * 20))
    >>> estimator.predict(X[:2], np.stack([poet])).errors.astype(float).round(2).tolist()
    [[0.67], [0.33]]
    """

    members: Sequence[Estimator] = field(default_factory=default_members)
    n_val: int = 400
    seed: int = 0
    widths_: Labels = field(init=False, repr=False)
    sizes_: Labels = field(init=False, repr=False)
    scale_: Array = field(init=False, repr=False)
    shift_: Array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_settings(self, n_val=2)

    @property
    def _layout(self) -> list[tuple[Estimator, int, int]]:
        """The members in use, and where their features begin and end."""
        require_fitted(self, "widths_")
        ends = self.widths_.cumsum().tolist()
        parts = zip(self.members, ends, self.widths_.tolist(), strict=True)
        return [(member, end - width, end) for member, end, width in parts if width]

    @property
    def left_out(self) -> list[str]:
        """The members that the last `fit` could not use, by name."""
        require_fitted(self, "widths_")
        return [type(member).__name__ for member, width in zip(self.members, self.widths_, strict=True) if width == 0]

    def fit(self, X: Array, outcomes: Outcomes | None = None) -> Self:
        """Fit the members on X (n, d), and calibrate; none that can be used is a `MissingOutcomesError`."""
        self._fit(X, outcomes, UNCALIBRATED)
        if outcomes is not None and len(outcomes.models) >= FEWEST_MODELS and len(X) >= FEWEST_PROMPTS:
            self._calibrate(X, outcomes)
        return self

    def _fit(self, X: Array, outcomes: Outcomes | None, scale: float) -> None:
        """Fit the members, without shift and calibration."""
        known = None if outcomes is None else np.zeros((2, len(outcomes.models)))
        widths = []
        for member in self.members:
            try:
                feature = member.fit(X, outcomes).profile(X[[0, -1]], np.array([0.0, 1.0]), known)
            except MissingOutcomesError:
                widths.append(0)
                continue
            if feature.ndim != 1:
                name = type(member).__name__
                raise InvalidDataError(f"{name} cannot be a member: its features grow with the prompts.")
            widths.append(len(feature))
        self.widths_, self.shift_ = np.array(widths), np.zeros(X.shape[1] + 1, np.float32)
        self.sizes_, self.scale_ = np.array([self.n_val]), np.full((2, 1), scale)
        if not self.widths_.any():
            raise MissingOutcomesError(f"{', '.join(self.left_out)} need training models' outcomes; fit with them.")

    def profile(self, X: Array, errors: Array, known: Array | None = None) -> Array:
        """Return the members' features in a row, NaN where one cannot measure this model; raise where none can.

        The last is the scale of standard errors for this many answers, with the training models' answers or without.
        """
        parts, missing = list[Array](), None
        for member, start, end in self._layout:
            try:
                parts.append(member.profile(X, errors, known))
            except MissingOutcomesError as failed:
                parts.append(np.full(end - start, np.nan))
                missing = failed
        if missing is not None and all(np.isnan(part).all() for part in parts):
            raise missing
        if self.scale_.ndim:
            scales = self.scale_[int(missing is not None)]
            parts.append(np.interp([np.log(len(errors))], np.log(self.sizes_), scales))
        return np.concatenate(parts).astype(np.float32)

    def _profiled(self, X: Array, errors: Array, known: Array, with_known: bool) -> Array:
        """Return the features without the training models' answers, unless those are wanted or needed."""
        if not with_known:
            with contextlib.suppress(MissingOutcomesError):
                return self.profile(X, errors)
        return self.profile(X, errors, known)

    def axes(self) -> tuple[Array, Array]:
        """Return the axes of the members in use, and the prompt's difficulty."""
        parts = [with_axes(member).axes() for member, _, _ in self._layout]
        axes, intercepts = zip(*parts, (self.shift_[None, :-1], self.shift_[-1:]), strict=True)
        return np.concatenate([each for each in axes if len(each)]), np.concatenate(intercepts)

    def _parts(self, features: Array) -> tuple[list[tuple[AxesEstimator, Array, slice]], list[Array]]:
        """Return the members in use, with their features and columns of the products, and their weights."""
        parts, counts, last = list[tuple[AxesEstimator, Array, slice]](), list[Array](), 0
        for member, start, end in self._layout:
            first, last = last, last + len(with_axes(member).axes()[1])
            own = features[:, start:end]
            missing = np.asarray(np.isnan(own).all(axis=1))  # a NaN among others is the member's own
            filled = np.where(missing[:, None], np.float32(0), own) if missing.any() else own
            parts.append((with_axes(member), filled, slice(first, last)))
            count = len(member.axes_) / KNOWN_MODELS if isinstance(member, KnownModelsEstimator) else 1.0
            counts.append(np.where(missing, 0, count))
        return parts, list(np.divide(counts, sum(counts)).astype(np.float32))

    def compiled(self, features: Array, shares: Array) -> Compiled:
        """Return what gives the mean errors of the members that measured the model, corrected for difficulty."""
        parts, weights = self._parts(features)
        each = [(part.compiled(own, weight), where) for (part, own, where), weight in zip(parts, weights, strict=True)]
        (first, start), *others = each

        def errors(X: Array, products: Array) -> Array:
            total = first(X, products[:, start])
            for part, where in others:
                total = total + part(X, products[:, where])
            return shift_odds(np.minimum(total, ONE), products[:, -1])  # the weights' sum may round to more than 1

        return errors if (shares == 1).all() else lambda X, products: errors(X, products) * shares

    def stderrs(self, X: Array, products: Array, features: Array) -> Array:
        """Return the members' mean standard error and their disagreement, in quadrature, times the calibrated scale."""
        parts, weights = self._parts(features)
        each = [part.predicted(X, products[:, where], own) for part, own, where in parts]
        errors, stderrs = np.array([one.errors for one in each]), np.array([one.stderrs for one in each])
        mean = functools.partial(np.einsum, "pm,pnm->nm", np.array(weights))
        scale = features[:, -1] if self.scale_.ndim else self.scale_  # a fit of version 0.1 has one for all
        return np.asarray(scale * np.sqrt(mean(stderrs) ** 2 + mean((errors - mean(errors)) ** 2)))

    def _calibrate(self, X: Array, outcomes: Outcomes) -> None:
        """Learn the shift of the odds and the scale of the standard errors from held-out training models."""
        folds = list(self._held_out(X, outcomes))
        answers = [fold.answers() for fold in folds]
        if not any(len(errors) for _, _, errors in answers):
            return
        slope, level = _shift(answers)
        # A shift learned from the models themselves would hide what they err in common.
        others = [answers[:at] + answers[at + 1 :] or answers for at in range(len(folds))]
        by_fold = [fold.gaps(*_shift(each)) for fold, each in zip(folds, others, strict=True)]
        gaps = [np.concatenate(each) for each in zip(*by_fold, strict=True)]
        if not len(gaps[0]):
            return
        n_models = sum(len(fold.errors.T) for fold in folds)
        scales = np.array([calibrated_scale(each, n_models) for each in gaps]).reshape(2, -1)
        self.sizes_ = folds[0].sizes
        x, degree = np.log(self.sizes_), min(1, len(self.sizes_) - 1)  # a line smooths the noise of few models
        self.scale_ = np.exp([np.polyval(np.polyfit(x, each, degree), x) for each in np.log(scales)])
        self.shift_ = slope * fit_difficulty(X, outcomes.errors)
        self.shift_[-1] += level

    def _held_out(self, X: Array, outcomes: Outcomes) -> Iterator[_Fold]:
        """Yield for each fold the training models that were held out of a fit and measured as new ones."""
        n, m = outcomes.errors.shape
        rng = np.random.default_rng(self.seed)
        order, folds = rng.permutation(n), rng.permutation(m) % FOLDS
        n_val = min(self.n_val, n // 4)
        learned, seen = np.split(order[n_val:], [min(SAMPLE, (n - n_val) // 2)])
        drawn = order[: n_val + len(learned)]  # the axes have seen the prompts after n_val, not these answers
        most = min(self.n_val, len(drawn))
        sizes = np.array([*(size for size in SIZES if size < most), most])
        seen = seen[:SAMPLE]
        centroids = fit_centroids(X[learned], min(REGIONS, max(len(seen) // FEWEST_IN_REGION, 1)), self.seed)
        regions = closeness(X[seen], centroids, offsets(centroids)).argmax(1)
        enough = (~np.isnan(outcomes.errors[order[:n_val]])).sum(0) >= 2
        for fold in range(FOLDS):
            known, new = np.flatnonzero(folds != fold), np.flatnonzero((folds == fold) & enough)
            training = outcomes.rows(learned).of([outcomes.models[int(j)] for j in known])
            if not len(new) or np.isnan(training.errors).all():
                continue
            trial = dataclasses.replace(self, members=copy.deepcopy(self.members))
            trial._fit(X[learned], training, scale=1.0)
            same = [order[:most]] * len(new)
            own = [np.roll(drawn, -j * len(drawn) // m) for j in new.tolist()]  # the luck of one draw evens out
            measurements = [(True, n_val, same), *itertools.product((True, False), sizes.tolist(), [own])]
            predictions = []
            for with_known, size, draws in measurements:
                features = []
                for j, draw in zip(new.tolist(), draws, strict=True):
                    rows = draw[~np.isnan(outcomes.errors[draw, j])][:size]
                    answers = outcomes.errors[np.ix_(rows, known)]
                    features.append(trial._profiled(X[rows], outcomes.errors[rows, j], answers, with_known))
                predictions.append(trial.predict(X[seen], np.stack(features)))
            hardness = difficulty(X[seen], fit_difficulty(X[learned], training.errors))
            yield _Fold(sizes, predictions[0], predictions[1:], outcomes.errors[np.ix_(seen, new)], hardness, regions)


class _Fold(NamedTuple):
    """The predictions for m held-out models on n prompts, before the shift, and their real errors.

    `first` is after `n_val` answers to the same prompts. The others are after answers to each model's own, one for each
    of `sizes` with the training models' answers, then without.
    """

    sizes: Labels
    first: Prediction
    predictions: Sequence[Prediction]
    errors: Array
    difficulty: Array
    regions: Labels

    def answers(self) -> tuple[Array, Array, Array]:
        """Return predicted error, difficulty and real error of each known answer, of the first prediction."""
        known = ~np.isnan(self.errors)
        difficulties = np.broadcast_to(self.difficulty[:, None], known.shape)
        return self.first.errors[known], difficulties[known], self.errors[known]

    def gaps(self, slope: float, level: float) -> list[Array]:
        """Return the `region_gaps` of all models of each prediction, the odds shifted by slope * difficulty + level."""
        shifts = slope * self.difficulty + level
        return [
            region_gaps(shift_odds(predicted.errors, shifts), predicted.stderrs, self.errors, self.regions)
            for predicted in self.predictions
        ]


def _shift(answers: Sequence[tuple[Array, Array, Array]]) -> tuple[float, float]:
    """Return the shift that the answers of some folds teach."""
    return fit_shift(*(np.concatenate(columns) for columns in zip(*answers, strict=True)))
