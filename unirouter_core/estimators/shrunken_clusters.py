"""Shrunken clusters: a model's error in each cluster, at several granularities, pulled to its overall error."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Self

import numpy as np

from unirouter_core.clusters import closeness, fit_centroids, offsets, shrunken_means
from unirouter_core.embedding import Array, Labels
from unirouter_core.estimators.estimator import Prediction, check_settings, require_fitted
from unirouter_core.outcomes import Outcomes


@dataclass(eq=False)
class ShrunkenClustersEstimator:
    """The mean over several k-means clusterings of the model's shrunken error in the prompt's cluster.

    It differs from the paper's §5.1 in two ways that small validation sets ask for: each cluster's error is pulled
    to the model's overall error as if by `prior` more answers, and all of `grid` is averaged instead of one K being
    chosen. An empty cluster then has the overall error by construction.

    Parameters
    ----------
    grid : sequence of int
        The numbers of clusters.
    prior : float
        How many answers the overall error counts for in each cluster.
    seed : int

    Examples
    --------
    >>> X = np.eye(2, dtype=np.float32)[[0, 0, 1, 1]]
    >>> clusters = ShrunkenClustersEstimator(grid=(2,), prior=2.0).fit(X)
    >>> poet = clusters.profile(X, np.array([1.0, 1.0, 0.0, 0.0]))
    >>> clusters.predict(X[[0, 2]], np.stack([poet])).errors.tolist()
    [[0.75], [0.25]]
    """

    grid: tuple[int, ...] = (5, 10, 20, 40, 80)
    prior: float = 10.0
    seed: int = 0
    centroids_: Array = field(init=False, repr=False)
    offsets_: Array = field(init=False, repr=False)
    bounds_: Labels = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_settings(self, grid=1, prior=0)

    def fit(self, X: Array, outcomes: Outcomes | None = None) -> Self:
        """Cluster the vectors X (n, d); outcomes are not needed."""
        parts = [fit_centroids(X, k, self.seed) for k in self.grid if k < len(X)] or [fit_centroids(X, 1, self.seed)]
        self.centroids_ = np.concatenate(parts)
        self.offsets_ = offsets(self.centroids_)
        self.bounds_ = np.cumsum([0] + [len(part) for part in parts])
        return self

    def profile(self, X: Array, errors: Array, known: Array | None = None) -> Array:
        """Return the model's mean error in each cluster and its standard error, shape (2 * n_clusters,)."""
        return np.asarray(self.profiles(X, errors[:, None])[0])

    def profiles(self, X: Array, errors: Array) -> Array:
        """Return the features of m models from their errors (n, m), NaN left out, shape (m, 2 * n_clusters)."""
        means, stderrs = [], []
        for rows, (start, end) in zip(self._nearest(X), pairwise(self.bounds_.tolist()), strict=True):
            mean, stderr = shrunken_means(rows - start, errors, end - start, self.prior)
            means.append(mean)
            stderrs.append(stderr)
        return np.concatenate(means + stderrs).T.astype(np.float32)

    def predict(self, X: Array, features: Array) -> Prediction:
        """Return the mean over the clusterings of the errors in the nearest clusters (Φ is their indicator)."""
        rows, by_cluster, n_clusters = self._nearest(X), features.T, len(self.centroids_)
        return Prediction(
            _mean_of_rows(by_cluster[:n_clusters], rows), lambda: _mean_of_rows(by_cluster[n_clusters:], rows)
        )

    def _nearest(self, X: Array) -> Labels:
        """Return the row in `centroids_` of each vector's nearest centroid in each clustering, (n_grid, n)."""
        require_fitted(self, "centroids_")
        near = closeness(X, self.centroids_, self.offsets_)
        within = [near[:, start:end].argmax(1) for start, end in pairwise(self.bounds_.tolist())]
        return np.asarray(np.array(within) + self.bounds_[:-1, None])


def _mean_of_rows(table: Array, rows: Labels) -> Array:
    """Return the mean over the clusterings of the rows of table (n_clusters, m) that `rows` (n_grid, n) names."""
    return np.asarray(table.take(rows, axis=0).sum(axis=0) / len(rows))
