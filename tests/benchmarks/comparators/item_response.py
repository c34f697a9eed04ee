"""An explanatory item-response model: prompts at places that their vectors predict, models as logistic curves there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from unirouter_core.data import Outcomes
from unirouter_core.embedding import Array
from unirouter_core.estimators import DefaultEstimator, Estimator, LowRankEstimator
from unirouter_core.estimators.default import default_members
from unirouter_core.estimators.low_rank import with_ones
from unirouter_core.estimators.protocol import AxesEstimator

STEPS, ROUNDS = 60, 4  # of expectation maximisation; until the places of validation prompts stay
MOST_ROUNDS, CONVERGED = 30, 1e-5  # until a new model's (b, a) stay
PROBIT = np.pi / 8  # the mean of σ over a normal is about σ(its mean / √(1 + PROBIT · its variance))


@dataclass(eq=False)
class ItemResponse(AxesEstimator):
    """γ(x, h) = the mean of σ(b_h + a_h·z) over z ~ N(Wx + c, I), by variational EM.

    Known models' answers say where a prompt is beyond what its vector says; a new model is a logistic regression on
    where its validation prompts are, with the known models' mean and covariance of (b, a) for its prior. The bound on
    the logistic likelihood is Jaakkola and Jordan's (2000).
    """

    rank: int = 3
    ridge: float = 2.0  # the penalty on W; of 1, 2 and 3, and rank 2, 3 and 5, on splits 100 and 101
    axes_: Array = field(init=False, repr=False)
    intercepts_: Array = field(init=False, repr=False)

    def fit(self, X: Array, outcomes: Outcomes | None = None) -> Self:
        assert outcomes is not None, "an item-response model needs training models' outcomes"
        errors, n, rank = outcomes.errors, len(X), min(self.rank, *outcomes.errors.shape)
        level = (np.nansum(errors, axis=0) + 0.5) / ((~np.isnan(errors)).sum(axis=0) + 1)
        left, sizes, right = np.linalg.svd(np.nan_to_num(errors - level), full_matrices=False)
        z, slopes = left[:, :rank] * n**0.5, right[:rank].T * sizes[:rank] / n**0.5
        self.items_ = np.column_stack([np.log(level / (1 - level)), 5 * slopes])  # a fifth: dσ of middling errors
        self.squares_ = _moments(self.items_)
        self.prior_ = self.items_.mean(axis=0), np.eye(rank + 1)
        points = _moments(with_ones(z), np.broadcast_to(0.3 * np.eye(rank), (n, rank, rank)))
        centre = X.mean(axis=0)
        centred = (X - centre).astype(np.float64)
        inverse = np.linalg.inv(centred.T @ centred + self.ridge * np.eye(X.shape[1]))
        W = inverse @ (centred.T @ z)
        for _ in range(STEPS):
            points = self._places(centred @ W, errors, points)
            W = inverse @ (centred.T @ points[:, 0, 1:])
            self.items_, covariances = _measured(points, errors, self.squares_, self.prior_)
            self.squares_ = _moments(self.items_, covariances)
            mean, m = self.items_.mean(axis=0), len(level)
            self.prior_ = mean, (self.squares_.sum(axis=0) - m * np.outer(mean, mean) + np.eye(rank + 1)) / (m + 1)
        self.axes_, self.intercepts_ = W.T.astype(np.float32), (-centre @ W).astype(np.float32)
        return self

    def profile(self, X: Array, errors: Array, known: Array | None = None) -> Array:
        expected = self.products(X).astype(np.float64)
        n, rank = expected.shape
        known = np.full((n, len(self.items_)), np.nan) if known is None else known
        points = _moments(with_ones(expected), np.broadcast_to(np.eye(rank), (n, rank, rank)))
        for _ in range(ROUNDS):
            points = self._places(expected, known, points)
        mean, covariance = (each[None] for each in self.prior_)
        for _ in range(MOST_ROUNDS):
            last, squares = mean, _moments(mean, covariance)
            mean, covariance = _measured(points, errors[:, None], squares, self.prior_)
            if np.abs(mean - last).max() < CONVERGED:
                break
        wider = 1 + PROBIT * (mean[0, 1:] @ mean[0, 1:] + np.trace(covariance[0]))
        return np.concatenate([mean[0] / wider**0.5, covariance.ravel() / wider]).astype(np.float32)

    compiled, stderrs = LowRankEstimator.compiled, LowRankEstimator.stderrs  # of the same features

    def _places(self, expected: Array, errors: Array, points: Array) -> Array:
        """Return nearer moments (n, r + 1, r + 1) of (1, z) than `points`, given Wx + c (n, r) and errors (n, m)."""
        curved = _curvatures(points, self.squares_, errors) @ self.squares_.reshape(len(self.squares_), -1)
        curved = curved.reshape(points.shape)[:, 1:]
        covariances = np.linalg.inv(curved[:, :, 1:] + np.eye(expected.shape[1]))
        pulls = expected + np.nan_to_num(errors - 0.5) @ self.items_[:, 1:] - curved[:, :, 0]
        return _moments(with_ones(np.einsum("nkl,nl->nk", covariances, pulls)), covariances)


@dataclass(eq=False)
class DefaultWithItemResponse(DefaultEstimator):
    """The default with an item-response model as a fourth member, at a third of the weight."""

    members: Sequence[Estimator] = field(default_factory=lambda: (*default_members(), ItemResponse()))

    def _parts(self, features: Array) -> tuple[list[tuple[AxesEstimator, Array, slice]], list[Array]]:
        parts, weights = super()._parts(features)
        others = sum(weights[:-1])
        return parts, [*(each / others * np.float32(2 / 3) for each in weights[:-1]), np.full_like(others, 1 / 3)]


def _measured(points: Array, errors: Array, squares: Array, prior: tuple[Array, Array]) -> tuple[Array, Array]:
    """Return means (m, r + 1) and covariances of models' (b, a), given the moments of their prompts and their own."""
    precision = np.linalg.inv(prior[1])
    curved = _curvatures(points, squares, errors).T @ points.reshape(len(points), -1)
    covariances = np.linalg.inv(curved.reshape(-1, *precision.shape) + precision)
    pulls = np.nan_to_num(errors - 0.5).T @ points[:, 0] + precision @ prior[0]
    return np.einsum("mkl,ml->mk", covariances, pulls), covariances


def _curvatures(points: Array, squares: Array, errors: Array) -> Array:
    """Return the curvature (n, m) of the bound on each answer's likelihood, 0 where there is no answer."""
    logits = np.sqrt(np.maximum(points.reshape(len(points), -1) @ squares.reshape(len(squares), -1).T, 1e-8))
    return np.where(np.isnan(errors), 0, np.tanh(logits / 2) / (2 * logits))


def _moments(means: Array, covariances: Array | float = 0.0) -> Array:
    """Return second moments (n, k, k) about 0, given means (n, k) and covariances, which may be of the last columns."""
    moments = means[:, :, None] * means[:, None]
    free = means.shape[1] - np.shape(covariances)[-1] if np.ndim(covariances) else 0
    moments[:, free:, free:] += covariances
    return moments
