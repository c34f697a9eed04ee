"""The ceiling: what could be predicted of new models, were all of their answers to the training prompts known."""

from __future__ import annotations

import numpy as np

from unirouter_core.embedding import Array
from unirouter_core.estimators.ridge import fit_ridge
from unirouter_core.estimators.shrunken_clusters import ShrunkenClustersEstimator

RIDGE = 30.0
"""The penalty of the regression, on centred vectors of length 1."""


def clairvoyant(X: Array, errors: Array, X_new: Array, *, seed: int = 0) -> Array:
    """Return models' errors expected on new prompts from all of their answers: the mean of clusters and a ridge.

    `curves.deferral_curve` of it is the curve of the paper's clairvoyant router.

    Parameters
    ----------
    X : array (n, d)
        Vectors of the training prompts.
    errors : array (n, m)
        The models' errors on them, NaN where not known.
    X_new : array (n_new, d)
    seed : int

    Returns
    -------
    array (n_new, m)
        In [0, 1].

    Examples
    --------
    >>> X = np.eye(2, dtype=np.float32)[[0, 1] * 200]
    >>> clairvoyant(X, np.array([[1, 0], [0, 0]] * 200), X[:2]).round().tolist()
    [[1.0, 0.0], [0.0, 0.0]]
    """
    clusters = ShrunkenClustersEstimator(seed=seed).fit(X)
    axes, intercepts = fit_ridge(X, errors, RIDGE)
    by_cluster = clusters.predict(X_new, clusters.profiles(X, errors)).errors
    return np.asarray(np.clip((X_new @ axes.T + intercepts + by_cluster) / 2, 0, 1))
