"""Vectors to clusters: k-means centroids, the nearest of them, and a model's mean error in each."""

from __future__ import annotations

import warnings

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
