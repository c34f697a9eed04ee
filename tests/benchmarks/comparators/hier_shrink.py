"""HierShrink: errors of small clusters, shrunk to those of large ones, shrunk to the model's own mean."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import numpy as np

from unirouter_core.data import Outcomes
from unirouter_core.embedding import Array, Labels
from unirouter_core.estimators import Prediction
from unirouter_core.estimators.clusters import closeness, cluster_sums, fit_centroids, offsets

from .seam import without_stderrs


@dataclass(eq=False)
class HierShrink:
    """Two levels of k-means, each small cluster in the large one that its centroid is nearest to.

    A cluster's error is (sum + prior * that of the level above) / (answers + prior); no model but the new one is read.
    """

    large: int = 20
    small: int = 100
    prior: float = 24.0
    seed: int = 0
    centroids_: Array = field(init=False, repr=False)
    parents_: Labels = field(init=False, repr=False)

    def fit(self, X: Array, outcomes: Outcomes | None = None) -> Self:
        above = fit_centroids(X, self.large, self.seed)
        self.centroids_ = fit_centroids(X, self.small, self.seed)
        self.parents_ = closeness(self.centroids_, above, offsets(above)).argmax(axis=1)
        return self

    def profile(self, X: Array, errors: Array, known: Array | None = None) -> Array:
        sums, counts = (each[:, 0] for each in cluster_sums(self._locate(X), errors[:, None], len(self.centroids_)))
        large_sums, large_counts = (np.bincount(self.parents_, each, self.large) for each in (sums, counts))
        means = (large_sums + self.prior * errors.mean()) / (large_counts + self.prior)
        return ((sums + self.prior * means[self.parents_]) / (counts + self.prior)).astype(np.float32)

    def predict(self, X: Array, features: Array) -> Prediction:
        return without_stderrs(features.T[self._locate(X)])

    def _locate(self, X: Array) -> Labels:
        return closeness(X, self.centroids_, offsets(self.centroids_)).argmax(axis=1)
