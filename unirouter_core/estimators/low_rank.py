"""Low-rank logistic: principal axes of the training models' errors, and a model's logistic regression on them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import numpy as np

from unirouter_core.data import Outcomes
from unirouter_core.embedding import Array
from unirouter_core.estimators.linear import fit_ridge
from unirouter_core.estimators.protocol import AxesEstimator, Compiled, check_settings
from unirouter_core.exceptions import MissingOutcomesError

NEWTON_STEPS = 12  # the penalised logistic loss is convex and small; 6 to 8 suffice
CONVERGED = 1e-9  # the next step would be of the square of this one
FLAT = 1e-8  # an axis along which errors vary by a standard deviation of 1e-4 is rounding


@dataclass(eq=False)
class LowRankEstimator(AxesEstimator):
    """γ(x, h) = σ(b_h + a_h·F(x)), with F(x) the first few principal axes of what training models' errors share.

    F comes from a ridge regression of each training model's errors on the vectors, and the principal components of
    the fitted values, scaled to unit variance: the first axis is difficulty, the second the main specialism. A new
    model is a logistic regression with rank + 1 numbers on its validation answers.

    Parameters
    ----------
    rank : int
        The most axes; fewer where the training models differ along fewer.
    ridge : float
        The penalty on the map from vectors to training models' errors.
    penalty : float
        The penalty on a new model's slopes; its intercept is free.
    """

    rank: int = 2
    ridge: float = 30.0
    penalty: float = 5.0
    axes_: Array = field(init=False, repr=False)
    intercepts_: Array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_settings(self, rank=1, ridge=0, penalty=0)

    def fit(self, X: Array, outcomes: Outcomes | None = None) -> Self:
        """Learn the axes from training models' outcomes on the vectors X (n, d); none is a `MissingOutcomesError`."""
        if outcomes is None:
            raise MissingOutcomesError("LowRankEstimator needs training models' outcomes; fit with them.")
        slopes, intercepts = fit_ridge(X, outcomes.errors, self.ridge)
        slopes, intercepts = slopes[~np.isnan(intercepts)], intercepts[~np.isnan(intercepts)]
        fitted = (X @ slopes.T).astype(np.float64)
        centre = fitted.mean(0)
        fitted -= centre
        variances, components = np.linalg.eigh(fitted.T @ fitted / len(X))
        first = [axis for axis in np.argsort(variances)[::-1][: self.rank] if variances[axis] > FLAT]
        scale = components[:, first] / np.sqrt(variances[first])
        self.axes_ = np.ascontiguousarray((scale.T @ slopes).astype(np.float32))
        self.intercepts_ = (-centre @ scale).astype(np.float32)
        return self

    def profile(self, X: Array, errors: Array, known: Array | None = None) -> Array:
        """Return intercept and slopes, then their covariance row by row, shape ((r + 1) * (r + 2),)."""
        design = with_ones(self.products(X)).astype(np.float64)
        penalty = np.diag([1e-3] + [self.penalty] * (design.shape[1] - 1))  # the first keeps a perfect model finite
        coefficients = np.zeros(design.shape[1])
        for _ in range(NEWTON_STEPS):
            wrong = sigmoid(design @ coefficients)
            gradient = design.T @ (wrong - errors) + penalty @ coefficients
            hessian = (design.T * (wrong * (1 - wrong))) @ design + penalty
            step = np.linalg.solve(hessian, gradient)
            coefficients -= step
            if np.abs(step).max() < CONVERGED:
                break
        return np.concatenate([coefficients, np.linalg.inv(hessian).ravel()]).astype(np.float32)

    def compiled(self, features: Array, shares: Array) -> Compiled:
        """Return what gives σ(b_h + a_h·F(x)), computed as (1 + tanh(logit / 2)) / 2."""
        halves = features[:, : len(self.axes_) + 1].T / 2
        intercepts, slopes, shares = halves[:1], halves[1:], shares[None] / np.float32(2)
        return lambda _, axes: np.tanh(axes.dot(slopes) + intercepts) * shares + shares

    def stderrs(self, X: Array, products: Array, features: Array) -> Array:
        """Return the standard errors by the delta method."""
        design = with_ones(products)
        size = design.shape[1]
        variances = (design[:, :, None] * design[:, None]).reshape(-1, size**2) @ features[:, size:].T
        errors = sigmoid(design @ features[:, :size].T)
        return np.asarray(errors * (1 - errors) * np.sqrt(np.maximum(variances, 0)))


def with_ones(axes: Array) -> Array:
    """Return axes (n, r) with a first column of ones, for the intercept."""
    return np.concatenate([np.ones((len(axes), 1), axes.dtype), axes], axis=1)


def sigmoid(logits: Array) -> Array:
    """Return 1 / (1 + e^-z), as a tanh because that cannot overflow."""
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * logits))
