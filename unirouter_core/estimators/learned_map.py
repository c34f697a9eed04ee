"""The paper's LearnedMap: a prompt's soft share in each cluster, trained on the training models' errors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import numpy as np

from unirouter_core.data import Outcomes
from unirouter_core.embedding import Array
from unirouter_core.estimators.clusters import KMeansEstimator, OneClustering, shrunken_means
from unirouter_core.estimators.protocol import Compiled, check_settings, require_fitted
from unirouter_core.exceptions import MissingOutcomesError

SHARPNESS = 10.0  # of the warm start: logits = 10 (c·x - |c|²/2) share a prompt among its few nearest centroids
GRID = (5, 10, 20, 40, 80)  # of K: soft shares bear more clusters than k-means, and one cluster has nothing to learn
BATCH, RATE, EPOCHS, PATIENCE = 512, 0.02, 40, 3
HELD_OUT = 0.1
FIRST_DECAY, SECOND_DECAY, EPSILON = 0.9, 0.999, 1e-8  # Adam's own
CERTAIN = 1e-3  # errors are kept this far from 0 and 1 in the loss


@dataclass(eq=False)
class LearnedMapEstimator(OneClustering):
    """γ(x, h) = Φ(x)·Ψ(h), Φ_k(x) = softmax_k(θ_k·x + t_k), Ψ the model's mean errors in k-means clusters. Paper §5.2.

    θ starts at the clusters' centroids and follows Adam on the cross-entropy of the training models' errors, their
    Ψ held fixed, until held-out training prompts stop improving. The paper leaves optimiser, start and stop open.

    Parameters
    ----------
    k : int, optional
        The number of clusters; when not given, chosen as `KMeansEstimator` does, from 5 on.
    """

    k: int | None = None
    n_val: int = 400
    seed: int = 0
    theta_: Array = field(init=False, repr=False)
    intercepts_: Array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_settings(self, k=1, n_val=2)

    def fit(self, X: Array, outcomes: Outcomes | None = None) -> Self:
        """Cluster X (n, d), then learn θ from the training models' outcomes; none is a `MissingOutcomesError`."""
        if outcomes is None:
            raise MissingOutcomesError("LearnedMapEstimator needs training models' outcomes; fit it with them.")
        clusters = KMeansEstimator(self.k, grid=GRID, n_val=self.n_val, seed=self.seed).fit(X, outcomes)
        self.centroids_, self.offsets_ = clusters.centroids_, clusters.offsets_
        psi, _ = shrunken_means(clusters.products(X).argmax(1), outcomes.errors, len(self.centroids_), prior=1.0)
        parameters = np.concatenate([self.centroids_, -self.offsets_[:, None]], axis=1) * SHARPNESS
        learned = _learn(np.c_[X, np.ones(len(X), X.dtype)], outcomes.errors, psi.T, parameters, self.seed)
        self.theta_, self.intercepts_ = np.ascontiguousarray(learned[:, :-1]), learned[:, -1].copy()
        return self

    def axes(self) -> tuple[Array, Array]:
        """Return what gives the logits."""
        require_fitted(self, "theta_")
        return self.theta_, self.intercepts_

    def compiled(self, features: Array, shares: Array) -> Compiled:
        """Return what gives the errors in the clusters, weighted by the prompt's shares in them."""
        errors = features.T[: len(self.centroids_)]
        return lambda _, logits: np.clip(softmax(logits) @ errors, 0, 1) * shares  # weights sum to 1 up to rounding

    def stderrs(self, X: Array, products: Array, features: Array) -> Array:
        """Return the standard errors in the clusters, weighted by the same shares."""
        return np.asarray(softmax(products) @ features.T[len(self.centroids_) :])


def softmax(logits: Array) -> Array:
    """Return the rows' shares, shape (n, k)."""
    shares = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(shares / shares.sum(1, keepdims=True))


def _learn(X: Array, errors: Array, psi: Array, parameters: Array, seed: int) -> Array:
    """Return the parameters (k, d + 1) that minimise the held-out cross-entropy of errors (n, m), given psi (m, k)."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(X))
    held_out, learned = np.split(order, [max(1, int(HELD_OUT * len(X)))])
    parameters, psi = parameters.astype(np.float32), psi.astype(np.float32)
    kept, lowest, waited = parameters, np.inf, 0
    first, second, step = np.zeros_like(parameters), np.zeros_like(parameters), 0
    for _ in range(EPOCHS):
        loss = _loss(X[held_out], errors[held_out], psi, parameters)
        kept, lowest, waited = (parameters, loss, 0) if loss < lowest else (kept, lowest, waited + 1)
        if waited >= PATIENCE:
            break
        rng.shuffle(learned)
        for start in range(0, len(learned), BATCH):
            rows, step = learned[start : start + BATCH], step + 1
            slope = _gradient(X[rows], errors[rows], psi, parameters)
            first = FIRST_DECAY * first + (1 - FIRST_DECAY) * slope
            second = SECOND_DECAY * second + (1 - SECOND_DECAY) * slope**2
            rate = RATE * np.sqrt(1 - SECOND_DECAY**step) / (1 - FIRST_DECAY**step)
            parameters = parameters - rate * first / (np.sqrt(second) + EPSILON)
    return kept


def _expected(X: Array, psi: Array, parameters: Array) -> tuple[Array, Array]:
    """Return shares Φ (n, k) and expected errors Φ·Ψ (n, m), kept off 0 and 1."""
    shares = softmax(X @ parameters.T)
    return shares, np.clip(shares @ psi.T, CERTAIN, 1 - CERTAIN)


def _loss(X: Array, errors: Array, psi: Array, parameters: Array) -> float:
    _, expected = _expected(X, psi, parameters)
    losses = -(errors * np.log(expected) + (1 - errors) * np.log(1 - expected))
    answered = losses[~np.isnan(losses)]
    return float(answered.mean()) if answered.size else 0.0  # no answer to judge by


def _gradient(X: Array, errors: Array, psi: Array, parameters: Array) -> Array:
    shares, expected = _expected(X, psi, parameters)
    by_error = np.nan_to_num((expected - errors) / (expected * (1 - expected)) / errors.size)
    by_share = by_error @ psi
    by_logit = shares * (by_share - (by_share * shares).sum(1, keepdims=True))
    return np.asarray(by_logit.T @ X)
