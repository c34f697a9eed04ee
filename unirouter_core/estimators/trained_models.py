"""The training models' errors on any prompt, from all of their own answers: what a mixture is made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import numpy as np

from unirouter_core.embedding import Array
from unirouter_core.estimators.estimator import require_fitted
from unirouter_core.estimators.ridge import fit_ridge
from unirouter_core.estimators.shrunken_clusters import ShrunkenClustersEstimator


@dataclass(eq=False)
class TrainedModels:
    """The mean of shrunken clusters and a ridge regression, fitted on every answer of each training model.

    Fitted with the labels of models that a router has not seen, it is the *clairvoyant*: the ceiling of what
    their validation sets could tell.

    Parameters
    ----------
    clusters : ShrunkenClustersEstimator
    ridge : float
        The penalty of the regression.

    Examples
    --------
    >>> X = np.eye(2, dtype=np.float32)[[0, 1] * 20]
    >>> trained = TrainedModels(ridge=1.0).fit(X, np.array([[1, 0], [0, 0]] * 20))
    >>> trained.predict(X[:2]).round().tolist()
    [[1.0, 0.0], [0.0, 0.0]]
    """

    clusters: ShrunkenClustersEstimator = field(default_factory=ShrunkenClustersEstimator)
    ridge: float = 30.0
    features_: Array = field(init=False, repr=False)
    axes_: Array = field(init=False, repr=False)
    intercepts_: Array = field(init=False, repr=False)

    def fit(self, X: Array, errors: Array) -> Self:
        """Learn from the vectors X (n, d) and the models' errors (n, m), NaN where not known."""
        self.clusters.fit(X)
        self.features_ = self.clusters.profiles(X, errors)
        self.axes_, self.intercepts_ = fit_ridge(X, errors, self.ridge)
        return self

    def predict(self, X: Array) -> Array:
        """Return the models' expected errors on the vectors X (n, d), shape (n, m)."""
        require_fitted(self, "axes_")
        by_ridge = X @ self.axes_.T + self.intercepts_
        return np.asarray((by_ridge + self.clusters.predict(X, self.features_).errors) / 2)
