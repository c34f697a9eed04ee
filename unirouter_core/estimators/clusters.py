"""Clusters of prompts: k-means, and the estimators that predict a model's mean error in the prompt's cluster."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, Self, TypeVar

import numpy as np

from unirouter_core.curves import deferral_curve
from unirouter_core.data import Outcomes
from unirouter_core.embedding import Array, Labels
from unirouter_core.estimators.protocol import AxesEstimator, Compiled, Estimator, check_settings, require_fitted
from unirouter_core.exceptions import InvalidDataError

ITERATIONS = 25  # Lloyd's inertia is within .1 % of its end by then
INIT_SAMPLE = 1_000  # or ten a cluster: k-means++ on more takes longer than Lloyd itself and ends no better
WITHOUT_OUTCOMES = 20  # K when there is nothing to choose it by
REPEATS, SCORED, ROUTED = 4, 0.98, 3_000  # see `best_of`
USUAL = 0.005  # the quantile of training prompts' closeness to their regions below which a prompt is far

E = TypeVar("E", bound=Estimator)


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
    """Return |c|²/2 of each centroid (k, d), shape (k,), which `closeness` subtracts."""
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
    """Return each cluster's mean, shrunk to the overall one as by `prior` more answers, and its standard error, (k, m).

    Values (n, m) are in [0, 1], NaN left out. A prior of 0 gives plain means; an empty cluster has the overall mean.
    """
    sums, counts = cluster_sums(labels, values, k)
    overall = sums.sum(0) / np.maximum(counts.sum(0), 1)
    weight = np.where(counts > 0, prior, 1.0)
    means = (sums + weight * overall) / (counts + weight)
    # Two answers more, so that one right answer of one does not claim certainty.
    spread = (sums + 2 * overall) / (counts + 2)
    return means, np.sqrt(spread * (1 - spread) / (counts + np.maximum(prior, 1.0)))


@dataclass(eq=False)
class Regions:
    """About `k` k-means clusters of the training prompts, for costs and explanations, whatever the estimator."""

    k: int = 20
    seed: int = 0
    centroids_: Array = field(init=False, repr=False)
    offsets_: Array = field(init=False, repr=False)
    nearness_: Array = field(init=False, repr=False)

    def __len__(self) -> int:
        return len(self.centroids_)

    def fit(self, X: Array) -> Self:
        """Cluster the vectors X (n, d), and keep the closeness below which a prompt is far."""
        self.centroids_ = fit_centroids(X, self.k, self.seed)
        self.offsets_ = offsets(self.centroids_)
        usual = np.quantile(closeness(X, self.centroids_, self.offsets_).max(1), USUAL)
        unlike = -self.offsets_.min()  # the closeness of a vector at right angles to every centroid
        self.nearness_ = np.array([unlike, max(usual, unlike + 1e-6)])
        return self

    def locate(self, X: Array) -> tuple[Labels, Array]:
        """Return each vector's region, and its distance from 0 (like training prompts) to 1 (unlike all); both (n,)."""
        return self.located(closeness(X, self.centroids_, self.offsets_))

    def located(self, near: Array) -> tuple[Labels, Array]:
        """Return the same of vectors with this `closeness` to the centroids, (n, k)."""
        unlike, usual = self.nearness_.tolist()
        nearest = np.maximum.reduce(near, axis=1)  # on one row half the time of max()
        if not np.count_nonzero(nearest < usual):
            return near.argmax(1), np.zeros(len(near))
        return near.argmax(1), np.clip((usual - nearest) / (usual - unlike), 0, 1)


def best_of(
    candidates: Iterable[E], default: str, X: Array, outcomes: Outcomes | None, n_val: int | None, seed: int
) -> E | None:
    """Return the fitted candidate that routes training models with the largest mean Area (paper App. F.1).

    None, with a warning that `default` is taken, when outcomes are given but hold fewer than 2 models that answered
    98 % of the prompts, 20 prompts that these models all answered, or no cost above $0. Each training model is measured
    on `n_val` prompts, in each of 4 draws; with None on four fifths of all, once: the paper measures on all, and routes
    on the validation prompts, which an estimator does not have in `fit`.
    """
    if outcomes is None:
        return None
    known = ~np.isnan(outcomes.errors)
    models = (known.mean(0) >= SCORED) & (~np.isnan(outcomes.costs)).any(0)
    rows = known[:, models].all(1)
    costs = np.nanmean(outcomes.costs[:, models], axis=0) if models.any() else np.zeros(1)
    if models.sum() < 2 or rows.sum() < 20 or costs.max() <= 0:
        needs = "that needs 2 training models and 20 prompts without gaps, and costs above $0"
        warnings.warn(f"{default} was not chosen: {needs}.", stacklevel=3)
        return None
    X, errors, fitted = X[rows], outcomes.errors[np.ix_(rows, models)], list(candidates)
    areas = np.zeros(len(fitted))
    for repeat in range(REPEATS if n_val is not None else 1):
        order = np.random.default_rng([seed, repeat]).permutation(len(X))
        n_measured = min(n_val, len(X) // 2) if n_val is not None else len(X) * 4 // 5
        measured, routed = order[:n_measured], order[n_measured:][:ROUTED]
        for position, candidate in enumerate(fitted):
            features = np.stack([candidate.profile(X[measured], column[measured]) for column in errors.T])
            predicted = candidate.predict(X[routed], features).errors
            curve = deferral_curve(predicted, costs, errors[routed], costs)
            areas[position] += curve.hull().area(costs.max())
    return fitted[int(areas.argmax())]


@dataclass(eq=False)
class Clusters(AxesEstimator):
    """A base of estimators whose products are the `closeness` to their centroids."""

    centroids_: Array = field(init=False, repr=False)
    offsets_: Array = field(init=False, repr=False)

    def axes(self) -> tuple[Array, Array]:
        """Return the axes (k, d) and intercepts (k,)."""
        require_fitted(self, "centroids_")
        return self.centroids_, -self.offsets_


class OneClustering(Clusters):
    """A base of estimators whose features Ψ are a model's mean error in each cluster, and its standard error."""

    def profile(self, X: Array, errors: Array, known: Array | None = None) -> Array:
        """Return the model's mean error in each cluster and its standard error, shape (2 * k,)."""
        centroids, intercepts = Clusters.axes(self)
        nearest = (X @ centroids.T + intercepts).argmax(1)
        means, stderrs = shrunken_means(nearest, errors[:, None], len(centroids), prior=0)
        return np.concatenate([means, stderrs])[:, 0].astype(np.float32)


@dataclass(eq=False)
class KMeansEstimator(OneClustering):
    """A model's mean error on the validation prompts of the prompt's cluster; Φ marks the nearest centroid. Paper §5.1.

    An empty cluster has the model's overall error.

    Parameters
    ----------
    k : int, optional
        The number of clusters; when not given, the one of `grid` by which the training models route best.
    rule : {"n_val", "paper"}
        Choose K with training models measured on `n_val` prompts, as a new model is, or, as the paper's
        Appendix F.1, on all training prompts, which picks K too large for a small validation set.

    Examples
    --------
    >>> X = np.eye(2, dtype=np.float32)[[0, 0, 1, 1]]
    >>> estimator = KMeansEstimator(k=2).fit(X)
    >>> poet = estimator.profile(X, np.array([1.0, 1.0, 0.0, 0.0]))
    >>> estimator.predict(X[[0, 2]], np.stack([poet])).errors.tolist()
    [[1.0], [0.0]]
    """

    k: int | None = None
    rule: Literal["n_val", "paper"] = "n_val"
    grid: tuple[int, ...] = (1, 2, 3, 5, 10, 20, 40, 80)
    n_val: int = 400
    seed: int = 0

    def __post_init__(self) -> None:
        check_settings(self, k=1, grid=1, n_val=2)
        if self.rule not in ("n_val", "paper"):
            raise InvalidDataError(f"rule={self.rule!r} must be 'n_val' or 'paper'.")

    def fit(self, X: Array, outcomes: Outcomes | None = None) -> Self:
        """Cluster the vectors X (n, d); outcomes serve to choose K."""
        chosen = None
        if self.k is None:
            grid = [k for k in self.grid if k <= len(X)] or [len(X)]
            candidates = (KMeansEstimator(k, seed=self.seed).fit(X) for k in grid)
            n_val = self.n_val if self.rule == "n_val" else None
            chosen = best_of(candidates, f"K = {WITHOUT_OUTCOMES}", X, outcomes, n_val, self.seed)
        k = WITHOUT_OUTCOMES if self.k is None else self.k
        self.centroids_ = fit_centroids(X, k, self.seed) if chosen is None else chosen.centroids_
        self.offsets_ = offsets(self.centroids_)
        return self

    def compiled(self, features: Array, shares: Array) -> Compiled:
        """Return what gives the errors in the nearest cluster."""
        errors = features.T[: len(self.centroids_)] * shares
        return lambda _, near: errors.take(near.argmax(1), axis=0)

    def stderrs(self, X: Array, products: Array, features: Array) -> Array:
        """Return those in the nearest cluster."""
        return np.asarray(features.T[len(self.centroids_) :].take(products.argmax(1), axis=0))


@dataclass(eq=False)
class ShrunkenClustersEstimator(Clusters):
    """The mean over several k-means clusterings of the model's shrunken error in the prompt's cluster.

    It differs from the paper's §5.1 in two ways that suit small validation sets: each cluster's error is shrunk to the
    model's overall error as if by `prior` more answers, and all of `grid`, numbers of clusters, is averaged instead of
    choosing one K.
    """

    grid: tuple[int, ...] = (5, 10, 20, 40, 80)
    prior: float = 10.0
    seed: int = 0
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
        near = self.products(X)
        clusterings = [
            shrunken_means(near[:, start:end].argmax(1), errors, end - start, self.prior)
            for start, end in pairwise(self.bounds_.tolist())
        ]
        means, stderrs = zip(*clusterings, strict=True)
        return np.concatenate(means + stderrs).T.astype(np.float32)

    def compiled(self, features: Array, shares: Array) -> Compiled:
        """Return what gives the mean over the clusterings of the errors in the nearest clusters."""
        return self._mean(features.T[: len(self.centroids_)] * shares)

    def stderrs(self, X: Array, products: Array, features: Array) -> Array:
        """Return the mean of those in the nearest clusters."""
        return self._mean(features.T[len(self.centroids_) :])(X, products)

    def _mean(self, by_cluster: Array) -> Compiled:
        """Return what gives the mean of the rows (n_clusters, m) of the nearest clusters."""
        bounds, starts = list(pairwise(self.bounds_.tolist())), self.bounds_[:-1, None]
        by_cluster = by_cluster / np.float32(len(bounds))

        def mean(_: Array, near: Array) -> Array:
            nearest = np.array([near[:, start:end].argmax(1) for start, end in bounds])
            return np.asarray(np.add.reduce(by_cluster.take(nearest + starts, axis=0), axis=0))

        return mean
