"""Shrunken clusters: a model's error in each cluster, at several granularities, pulled to its overall error."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import numpy as np

from unirouter_core.clusters import closeness, fit_centroids, offsets, shrunken_means
from unirouter_core.embedding import Array, Labels
from unirouter_core.estimators.estimator import Prediction, require_fitted
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
    ends_: Labels = field(init=False, repr=False)

    def fit(self, X: Array, outcomes: Outcomes | None = None) -> Self:
        """Cluster the vectors X (n, d); outcomes are not needed."""
        parts = [fit_centroids(X, k, self.seed) for k in self.grid if k < len(X)] or [fit_centroids(X, 1, self.seed)]
        self.centroids_ = np.concatenate(parts)
        self.offsets_ = offsets(self.centroids_)
        self.ends_ = np.cumsum([len(part) for part in parts])
        return self

    def profile(self, X: Array, errors: Array, known: Array | None = None) -> Array:
        """Return the model's mean error in each cluster and its standard error, shape (2 * n_clusters,)."""
        return np.asarray(self.profiles(X, errors[:, None])[0])

    def profiles(self, X: Array, errors: Array) -> Array:
        """Return the features of m models from their errors (n, m), NaN left out, shape (m, 2 * n_clusters)."""
        means, stderrs = [], []
        for labels, start, end in zip(self._nearest(X), self._starts(), self.ends_, strict=True):
            mean, stderr = shrunken_means(labels - start, errors, end - start, self.prior)
            means.append(mean)
            stderrs.append(stderr)
        return np.concatenate(means + stderrs).T.astype(np.float32)

    def predict(self, X: Array, features: Array) -> Prediction:
        """Return the mean over the clusterings of the errors in the nearest clusters (Φ is their indicator)."""
        nearest = self._nearest(X)
        by_cluster = features.T
        n_clusters = len(self.centroids_)
        return Prediction(
            gather_mean(by_cluster[:n_clusters], nearest), lambda: gather_mean(by_cluster[n_clusters:], nearest)
        )

    def _starts(self) -> Labels:
        return np.concatenate([[0], self.ends_[:-1]])

    def _nearest(self, X: Array) -> list[Labels]:
        """Return the row in `centroids_` of each vector's nearest centroid, (n,) for each clustering."""
        require_fitted(self, "centroids_")
        near = closeness(X, self.centroids_, self.offsets_)
        start, nearest = 0, []
        for end in self.ends_.tolist():
            nearest.append(near[:, start:end].argmax(1) + start)
            start = end
        return nearest


def gather_mean(table: Array, labels: list[Labels]) -> Array:
    """Return the mean over `labels` of the rows of table (k, m) that each names, shape (n, m)."""
    total = table.take(labels[0], axis=0)
    for rows in labels[1:]:
        total += table.take(rows, axis=0)
    total /= len(labels)
    return total
