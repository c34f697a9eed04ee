"""Ridge regression from vectors to several models' errors, with gaps."""

from __future__ import annotations

import numpy as np

from unirouter_core.embedding import Array


def fit_ridge(X: Array, Y: Array, alpha: float) -> tuple[Array, Array]:
    """Return axes (m, d) and intercepts (m,) with Y ≈ X @ axes.T + intercepts, the slopes penalised by alpha.

    Parameters
    ----------
    X : array (n, d)
    Y : array (n, m)
        NaN is left out of its column's fit; a column without numbers gets slopes and an intercept of NaN.
    alpha : float
        The penalty on the squared slopes, on centred X.
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
