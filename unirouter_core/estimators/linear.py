"""Linear maps from vectors to errors: ridge regression, the difficulty of a prompt, the clairvoyant ceiling."""

from __future__ import annotations

import numpy as np

from unirouter_core.embedding import Array
from unirouter_core.estimators.clusters import ShrunkenClustersEstimator
from unirouter_core.estimators.protocol import ONE

DIFFICULTY_RIDGE, CLAIRVOYANT_RIDGE = 10.0, 30.0  # penalties, on centred vectors of length 1
NEWTON_STEPS = 12  # two coefficients and a concave likelihood: 5 to 6 suffice
PENALTY = 1.0  # on both squared coefficients: a few hundred answers do not move the odds far


def fit_ridge(X: Array, Y: Array, alpha: float) -> tuple[Array, Array]:
    """Return axes (m, d) and intercepts (m,) with Y ≈ X @ axes.T + intercepts, the slopes penalised by alpha.

    NaN in Y (n, m) is left out of its column's fit; a column without numbers gets slopes and an intercept of NaN.
    """
    axes = np.full((Y.shape[1], X.shape[1]), np.nan, np.float32)
    intercepts = np.full(Y.shape[1], np.nan, np.float32)
    known = ~np.isnan(Y)
    patterns, which = np.unique(known, axis=1, return_inverse=True)
    for pattern in range(patterns.shape[1]):
        rows, columns = patterns[:, pattern], np.flatnonzero(which.ravel() == pattern)
        if not rows.any():
            continue
        centre, level = X[rows].mean(0), Y[np.ix_(rows, columns)].mean(0)
        centred = X[rows] - centre
        gram = centred.T @ centred + alpha * np.eye(X.shape[1], dtype=X.dtype)
        slopes = np.linalg.solve(gram, centred.T @ (Y[np.ix_(rows, columns)] - level))
        axes[columns], intercepts[columns] = slopes.T, level - centre @ slopes
    return axes, intercepts


def fit_difficulty(X: Array, errors: Array) -> Array:
    """Return slopes and intercept (d + 1,) of the training models' mean error (n, m), given vectors (n, d).

    NaN is left out; a model without any answer does not count.
    """
    axes, intercepts = fit_ridge(X, errors, DIFFICULTY_RIDGE)
    return np.append(np.nanmean(axes, axis=0), np.nanmean(intercepts)).astype(np.float32)


def difficulty(X: Array, slopes: Array) -> Array:
    """Return slopes·x + intercept, shape (n,)."""
    return np.asarray(X @ slopes[:-1] + slopes[-1])


def shift_odds(errors: Array, shifts: Array) -> Array:
    """Return `errors` (n, m) with each row's odds of an error multiplied by e to the row's shift (n,).

    The most accurate model stays the same, 0 stays 0 and 1 stays 1.
    """
    wrong = errors * np.exp(shifts)[:, None]
    return np.asarray(wrong / (wrong + (ONE - errors)))


def fit_shift(predicted: Array, difficulties: Array, errors: Array) -> tuple[float, float]:
    """Return (a, b) for which odds shifted by a * difficulty + b make the real errors most likely; all (n,)."""
    design = np.stack([difficulties, np.ones_like(difficulties)], axis=1).astype(np.float64)
    shift = np.zeros(2)
    for _ in range(NEWTON_STEPS):
        wrong = shift_odds(predicted[:, None], design @ shift)[:, 0]
        curvature = (design.T * (wrong * (1 - wrong))) @ design + PENALTY * np.eye(2)
        shift += np.linalg.solve(curvature, design.T @ (errors - wrong) - PENALTY * shift)
    return float(shift[0]), float(shift[1])


def clairvoyant(X: Array, errors: Array, X_new: Array, *, seed: int = 0) -> Array:
    """Return errors expected on new prompts from all answers, (n_new, m) in [0, 1]: the mean of clusters and a ridge.

    The ceiling of what can be predicted of new models; `curves.deferral_curve` of it is the curve of the paper's
    clairvoyant router. Errors (n, m) on the prompts of vectors X (n, d) are NaN where not known; X_new is (n_new, d).

    Examples
    --------
    >>> X = np.eye(2, dtype=np.float32)[[0, 1] * 200]
    >>> clairvoyant(X, np.array([[1, 0], [0, 0]] * 200), X[:2]).round().tolist()
    [[1.0, 0.0], [0.0, 0.0]]
    """
    clusters = ShrunkenClustersEstimator(seed=seed).fit(X)
    axes, intercepts = fit_ridge(X, errors, CLAIRVOYANT_RIDGE)
    by_cluster = clusters.predict(X_new, clusters.profiles(X, errors)).errors
    return np.asarray(np.clip((X_new @ axes.T + intercepts + by_cluster) / 2, 0, 1))
