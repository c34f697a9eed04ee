"""Vectors to clusters: k-means centroids, the nearest of them, a model's mean error in each; the router's regions."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from unirouter_core.embedding import Array, Labels

ITERATIONS = 25  # Lloyd's inertia is within .1 % of its end by then
INIT_SAMPLE = 1_000  # or ten a cluster: k-means++ on more takes longer than Lloyd itself and ends no better


def fit_centroids(X: Array, k: int, seed: int) -> Array:
    """Return at most `k` k-means centroids of the vectors X (n, d), each nearest to some of them."""
    from sklearn.cluster import KMeans, kmeans_plusplus
    from sklearn.exceptions import ConvergenceWarning

    k = min(k, len(X))
    sample = np.random.default_rng(seed).permutation(len(X))[: max(INIT_SAMPLE, 10 * k)]
    initial, _ = kmeans_plusplus(X[sample], k, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # equal prompts give equal centroids: the first is kept
        clusters = KMeans(k, init=initial, n_init=1, max_iter=ITERATIONS).fit(X)
    return np.asarray(clusters.cluster_centers_[np.unique(clusters.labels_)], np.float32)


def offsets(centroids: Array) -> Array:
    """Return |c|²/2 of each centroid (k, d), shape (k,): what `closeness` takes off."""
    return np.asarray(np.einsum("kd,kd->k", centroids, centroids) / 2)


def closeness(X: Array, centroids: Array, centroid_offsets: Array) -> Array:
    """Return c·x - |c|²/2, shape (n, k): largest at the centroid nearest to x; the squared distance is 1 - twice it."""
    return np.asarray(X @ centroids.T - centroid_offsets)


def cluster_sums(labels: Labels, values: Array, k: int) -> tuple[Array, Array]:
    """Return sums and counts of the values (n, m) that are not NaN in each of k clusters, both (k, m)."""
    known = ~np.isnan(values)
    sums, counts = np.zeros((k, values.shape[1])), np.zeros((k, values.shape[1]))
    np.add.at(sums, labels, np.where(known, values, 0))
    np.add.at(counts, labels, known)
    return sums, counts


def shrunken_means(labels: Labels, values: Array, k: int, prior: float) -> tuple[Array, Array]:
    """Return each cluster's mean, pulled to the overall mean as by `prior` more answers, and its standard error.

    Parameters
    ----------
    labels : array (n,)
    values : array (n, m)
        In [0, 1]; NaN is left out.
    k : int
        The number of clusters.
    prior : float
        0 gives plain means; an empty cluster has the overall mean in any case.

    Returns
    -------
    means, stderrs : array (k, m)
    """
    sums, counts = cluster_sums(labels, values, k)
    overall = sums.sum(0) / np.maximum(counts.sum(0), 1)
    weight = np.where(counts > 0, prior, 1.0)
    means = (sums + weight * overall) / (counts + weight)
    # Two answers more, so that one right answer of one does not claim certainty.
    spread = (sums + 2 * overall) / (counts + 2)
    return means, np.sqrt(spread * (1 - spread) / (counts + np.maximum(prior, 1.0)))


USUAL = 0.005
"""A prompt less like any region than all but this share of the training prompts is far."""


@dataclass(eq=False)
class Regions:
    """About `k` k-means clusters of the training prompts, for costs and explanations, whatever the estimator.

    Parameters
    ----------
    k : int
    seed : int

    Examples
    --------
    >>> regions = Regions(k=2).fit(np.eye(3, dtype=np.float32)[[0, 0, 1, 1]])
    >>> labels, far = regions.locate(np.eye(3, dtype=np.float32))
    >>> far.tolist()
    [0.0, 0.0, 1.0]
    """

    k: int = 20
    seed: int = 0
    centroids_: Array = field(init=False, repr=False)
    offsets_: Array = field(init=False, repr=False)
    nearness_: Array = field(init=False, repr=False)

    def __len__(self) -> int:
        """Return the number of regions."""
        return len(self.centroids_)

    def fit(self, X: Array) -> Self:
        """Cluster the vectors X (n, d) and note how near to a centroid they usually are."""
        self.centroids_ = fit_centroids(X, self.k, self.seed)
        self.offsets_ = offsets(self.centroids_)
        usual = np.quantile(closeness(X, self.centroids_, self.offsets_).max(1), USUAL)
        unlike = -self.offsets_.min()  # the closeness of a vector at right angles to every centroid
        self.nearness_ = np.array([unlike, max(usual, unlike + 1e-6)])
        return self

    def locate(self, X: Array) -> tuple[Labels, Array]:
        """Return each vector's region and how far it is: 0 as training prompts are, 1 unlike them all; both (n,)."""
        near = closeness(X, self.centroids_, self.offsets_)
        unlike, usual = self.nearness_.tolist()
        beyond = usual - near.max(1)
        if beyond.max(initial=0) <= 0:
            return near.argmax(1), np.zeros(len(X))
        return near.argmax(1), np.clip(beyond / (usual - unlike), 0, 1)
