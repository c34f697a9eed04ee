"""The paper's K-Means: a model's mean error in the prompt's cluster (§5.1)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Self

import numpy as np

from unirouter_core.clusters import closeness, fit_centroids, offsets, shrunken_means
from unirouter_core.embedding import Array, Labels
from unirouter_core.estimators.choose import Truth, choose_by_area, warn_not_chosen
from unirouter_core.estimators.estimator import Prediction, check_settings, require_fitted
from unirouter_core.exceptions import InvalidDataError
from unirouter_core.outcomes import Outcomes

WITHOUT_OUTCOMES = 20
"""K when there is nothing to choose it by."""


@dataclass(eq=False)
class KMeansEstimator:
    """A model's mean error on the validation prompts of the prompt's cluster; Φ marks the nearest centroid. Paper §5.1.

    An empty cluster has the model's overall error.

    Parameters
    ----------
    k : int, optional
        The number of clusters; when not given, the one of `grid` by which the training models route best.
    rule : {"n_val", "paper"}
        Choose K with training models measured on `n_val` prompts, as a new model is, or, as the paper's
        Appendix F.1, on all training prompts, which picks K too large for a small validation set.
    grid : sequence of int
    n_val : int
    seed : int

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
    grid: tuple[int, ...] = (5, 10, 20, 40, 80)
    n_val: int = 400
    seed: int = 0
    centroids_: Array = field(init=False, repr=False)
    offsets_: Array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_settings(self, k=1, grid=1, n_val=2)
        if self.rule not in ("n_val", "paper"):
            raise InvalidDataError(f"rule={self.rule!r} must be 'n_val' or 'paper'.")

    def fit(self, X: Array, outcomes: Outcomes | None = None) -> Self:
        """Cluster the vectors X (n, d); outcomes serve to choose K."""
        truth = None if self.k is not None or outcomes is None else Truth.of(X, outcomes)
        if truth is None:
            if self.k is None:
                warn_not_chosen(f"K = {WITHOUT_OUTCOMES}", outcomes)
            return self._fit(X, WITHOUT_OUTCOMES if self.k is None else self.k)
        grid = [k for k in self.grid if k <= len(X)] or [len(X)]
        candidates = [KMeansEstimator(k, seed=self.seed)._fit(X, k) for k in grid]
        chosen = candidates[choose_by_area(candidates, truth, self.n_val if self.rule == "n_val" else None, self.seed)]
        self.centroids_, self.offsets_ = chosen.centroids_, chosen.offsets_
        return self

    def _fit(self, X: Array, k: int) -> Self:
        self.centroids_ = fit_centroids(X, k, self.seed)
        self.offsets_ = offsets(self.centroids_)
        return self

    def profile(self, X: Array, errors: Array, known: Array | None = None) -> Array:
        """Return the model's mean error in each cluster and its standard error, shape (2 * k,)."""
        means, stderrs = shrunken_means(self._nearest(X), errors[:, None], len(self.centroids_), prior=0)
        return np.concatenate([means, stderrs])[:, 0].astype(np.float32)

    def predict(self, X: Array, features: Array) -> Prediction:
        """Return the errors in the nearest cluster."""
        nearest = self._nearest(X)
        by_cluster, k = features.T, len(self.centroids_)
        return Prediction(by_cluster[:k].take(nearest, axis=0), lambda: by_cluster[k:].take(nearest, axis=0))

    def _nearest(self, X: Array) -> Labels:
        require_fitted(self, "centroids_")
        return np.asarray(closeness(X, self.centroids_, self.offsets_).argmax(1))
