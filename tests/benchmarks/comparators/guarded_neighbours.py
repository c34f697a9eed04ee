"""Guarded k-NN: nearest neighbours, shrunk to the model's own mean where they are far or few."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from unirouter_core.data import Outcomes
from unirouter_core.embedding import Array
from unirouter_core.estimators import Prediction
from unirouter_core.estimators.clusters import best_of

from .seam import answers, measured, without_stderrs


@dataclass(eq=False)
class GuardedNeighbours:
    """(Σ w·error + prior · mean) / (Σ w + prior) over the `k` nearest, w the part of their cosine above `far`.

    What is not given is chosen by the known models on N_val training prompts, as the product's K-NN chooses its k.
    """

    k: int | None = None
    prior: float | None = None
    far: float | None = None
    n_val: int = 400
    seed: int = 0
    chosen_: tuple[int, float, float] = field(init=False, repr=False)

    def fit(self, X: Array, outcomes: Outcomes | None = None) -> Self:
        grids = zip((self.k, self.prior, self.far), ((20, 80), (3.0, 10.0), (0.0, 0.3)), strict=True)
        choices = itertools.product(*(grid if given is None else (given,) for given, grid in grids))
        made = [GuardedNeighbours(*each) for each in choices]
        for each in made:
            each.chosen_ = each.k, each.prior, each.far
        best = best_of(made, "the first setting", X, outcomes, self.n_val, self.seed) if len(made) > 1 else None
        self.chosen_ = (best or made[0]).chosen_
        return self

    def profile(self, X: Array, errors: Array, known: Array | None = None) -> Array:
        return answers(X, errors)

    def predict(self, X: Array, features: Array) -> Prediction:
        k, prior, far = self.chosen_
        vectors, errors = measured(features)
        cosines = X @ vectors.T
        nearest = np.argpartition(-cosines, min(k, len(vectors)) - 1, axis=1)[:, :k]
        weights = np.maximum(np.take_along_axis(cosines, nearest, axis=1) - far, 0) / (1 - far)
        summed = np.einsum("nk,nkm->nm", weights, errors[nearest])
        return without_stderrs((summed + prior * errors.mean(axis=0)) / (weights.sum(axis=1, keepdims=True) + prior))
