"""A network and a matrix factorisation that are trained again whenever a model joins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from unirouter_core.data import Outcomes
from unirouter_core.embedding import Array
from unirouter_core.estimators import Prediction

from .seam import answers, measured, without_stderrs


@dataclass(eq=False)
class RetrainedMLP:
    """One hidden layer from vectors to all models' errors, trained again on the validation answers."""

    hidden: int = 64
    penalty: float = 1.0  # of those tried on known models alone (bfcl2024, zeroeval), the one with the largest Area
    epochs: int = 100
    seed: int = 0

    def fit(self, X: Array, outcomes: Outcomes | None = None) -> Self:
        return self

    def profile(self, X: Array, errors: Array, known: Array | None = None) -> Array:
        return answers(X, errors)

    def predict(self, X: Array, features: Array) -> Prediction:
        import warnings

        from sklearn.exceptions import ConvergenceWarning
        from sklearn.neural_network import MLPRegressor

        vectors, errors = measured(features)
        network = MLPRegressor(
            hidden_layer_sizes=(self.hidden,), alpha=self.penalty, max_iter=self.epochs, random_state=self.seed
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a fixed number of epochs is its early stopping
            network.fit(vectors, errors)
        return without_stderrs(np.clip(network.predict(X).reshape(len(X), -1), 0, 1))


@dataclass(eq=False)
class RetrainedFactors:
    """Matrix factorisation: a model's vector times a projection of the prompt's, learned again when a model joins.

    The least squares solution of that shape is the ridge regression's fitted values cut to their first factors.
    """

    rank: int = 4
    penalty: float = 30.0

    def fit(self, X: Array, outcomes: Outcomes | None = None) -> Self:
        return self

    def profile(self, X: Array, errors: Array, known: Array | None = None) -> Array:
        return answers(X, errors)

    def predict(self, X: Array, features: Array) -> Prediction:
        vectors, errors = (part.astype(np.float64) for part in measured(features))
        centre, level = vectors.mean(axis=0), errors.mean(axis=0)
        centred = vectors - centre
        gram = centred @ centred.T + self.penalty * np.eye(len(centred))
        axes = centred.T @ np.linalg.solve(gram, errors - level)  # (d, m)
        factors = np.linalg.svd(centred @ axes, full_matrices=False)[2][: self.rank]
        return without_stderrs(np.clip((X - centre) @ axes @ factors.T @ factors + level, 0, 1))
