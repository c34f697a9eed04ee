"""Nearest neighbours: a model's mean error on the validation prompts nearest to the prompt."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import numpy as np

from unirouter_core.data import Outcomes
from unirouter_core.embedding import Array, Labels
from unirouter_core.estimators.clusters import best_of
from unirouter_core.estimators.protocol import Prediction, check_settings, require_fitted

WITHOUT_OUTCOMES = 30  # k when there is nothing to choose it by
EQUAL = 2**16  # cosines that differ by less than one part in 2^16 are equal: sums round differently in a batch


@dataclass(eq=False)
class NeighboursEstimator:
    """The model's mean error on the `k` validation prompts nearest to the prompt; Φ marks them. Paper §5, K-NN.

    The features are the validation set itself: vectors and errors side by side, so that each model may have been
    measured on prompts of its own. Models measured on the same prompts share the search.

    Parameters
    ----------
    k : int, optional
        The number of neighbours; when not given, the one of `grid` by which the training models route best.
    n_val : int
        The prompts that training models are measured on while `k` is chosen.
    """

    k: int | None = None
    grid: tuple[int, ...] = (5, 10, 20, 40, 80, 160)
    n_val: int = 400
    seed: int = 0
    k_: Labels = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_settings(self, k=1, grid=1, n_val=2)

    def fit(self, X: Array, outcomes: Outcomes | None = None) -> Self:
        """Choose `k` by the training models' outcomes where it is not given; nothing else is learned."""
        if self.k is not None:
            self.k_ = np.array(self.k)
            return self
        candidates = [NeighboursEstimator(k).fit(X) for k in self.grid]
        chosen = best_of(candidates, f"k = {WITHOUT_OUTCOMES}", X, outcomes, self.n_val, self.seed)
        self.k_ = np.array(WITHOUT_OUTCOMES) if chosen is None else chosen.k_
        return self

    def profile(self, X: Array, errors: Array, known: Array | None = None) -> Array:
        """Return vectors and errors side by side, shape (n_val, d + 1)."""
        require_fitted(self, "k_")
        return np.concatenate([X, errors[:, None]], axis=1, dtype=np.float32)

    def predict(self, X: Array, features: Array) -> Prediction:
        """Return the mean errors of the nearest `k`; features are (m, n_val, d + 1), short ones padded with NaN."""
        require_fitted(self, "k_")
        means, ks = np.empty((len(X), len(features)), np.float32), np.empty(len(features))
        done = np.zeros(len(features), bool)
        for model in range(len(features)):
            if done[model]:
                continue
            vectors = features[model, :, :-1]
            same = [j for j in range(model, len(features)) if _equal(features[j, :, :-1], vectors)]
            usable = ~np.isnan(features[model, :, -1])
            far = np.rint(X @ vectors[usable].T * -EQUAL)
            k = min(int(self.k_), far.shape[1])
            nearest = np.argpartition(far, k - 1, axis=1)[:, :k]
            means[:, same], ks[same] = features[:, usable, -1][same].T[nearest].mean(1), k
            done[same] = True
        return Prediction(means, lambda: np.sqrt((means * (1 - means) + 0.25 / ks) / (ks + 1)))


def _equal(first: Array, second: Array) -> bool:
    """Return whether two sets of vectors are the same, NaN at the same places; most differ in their first row."""
    return all(np.array_equal(first[rows], second[rows], equal_nan=True) for rows in (slice(1), slice(1, None)))
