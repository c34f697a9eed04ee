"""Avengers-Pro's rule: accuracies of the nearest clusters, scaled over models and summed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import numpy as np

from unirouter_core.data import Outcomes
from unirouter_core.embedding import Array
from unirouter_core.estimators import Prediction
from unirouter_core.estimators.clusters import closeness, cluster_sums, fit_centroids, offsets

from .seam import without_stderrs


@dataclass(eq=False)
class AvengersPro:
    """Avengers-Pro's rule (arXiv 2508.12631): accuracies of the nearest clusters, min-max scaled over models, summed.

    Its weight of cost is swept like any other; the costs' own scaling is the same for all prompts and moves no curve.
    """

    k: int = 60
    nearest: int = 4
    seed: int = 0
    centroids_: Array = field(init=False, repr=False)

    def fit(self, X: Array, outcomes: Outcomes | None = None) -> Self:
        self.centroids_ = fit_centroids(X, self.k, self.seed)
        return self

    def profile(self, X: Array, errors: Array, known: Array | None = None) -> Array:
        labels = closeness(X, self.centroids_, offsets(self.centroids_)).argmax(axis=1)
        sums, counts = cluster_sums(labels, errors[:, None], len(self.centroids_))
        return np.where(counts > 0, sums / np.maximum(counts, 1), errors.mean())[:, 0].astype(np.float32)

    def predict(self, X: Array, features: Array) -> Prediction:
        by_cluster = features.T  # (k, m)
        low, high = by_cluster.min(axis=1, keepdims=True), by_cluster.max(axis=1, keepdims=True)
        scaled = (by_cluster - low) / np.maximum(high - low, 1e-9)
        near = np.argsort(-closeness(X, self.centroids_, offsets(self.centroids_)), axis=1)[:, : self.nearest]
        return without_stderrs(scaled[near].mean(axis=1))
