"""One fixed clustering of the prompts, for costs, explanations and reports, and the mark of a prompt far from all."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import numpy as np

from unirouter_core.embedding import Array, Labels
from unirouter_core.estimators.clusters import closeness, fit_centroids, offsets

USUAL = 0.005
"""A prompt less like any region than all but this share of the training prompts is far."""


@dataclass(eq=False)
class Regions:
    """About `k` k-means clusters of the training prompts, the same whatever the estimator.

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
