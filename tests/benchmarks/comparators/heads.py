"""What the learned heads share: a model's cluster errors Ψ, and training on known models, measured as new ones are.

Their papers train one vector for each model, so that a new model is another training. Here a model's token is a
function of Ψ, learned over draws of 50 to 400 training prompts, and so unseen models need none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from unirouter_core.data import Outcomes
from unirouter_core.embedding import Array
from unirouter_core.estimators import Prediction
from unirouter_core.estimators.clusters import closeness, fit_centroids, offsets, shrunken_means

from .seam import answers, measured, without_stderrs

SEEN = 1_500  # training prompts by which scores become errors


@dataclass(eq=False)
class LearnedHead:
    """A network from vectors and Ψ to scores, and a line from scores to errors.

    A head gives `network(d)`, whose forward is scores (b, m) of vectors (b, d) and a `Measured`, and `loss`.
    """

    clusters: int = 20
    prior: float = 10.0
    hidden: int = 64
    steps: int = 150  # a pilot on one split of zeroeval, at half the rate, was best after 200 to 550
    batch: int = 64
    rate: float = 2e-3
    seed: int = 0
    centroids_: Array = field(init=False, repr=False)

    def network(self, d: int) -> nn.Module:
        raise NotImplementedError

    def loss(self, network: nn.Module, X: Tensor, labels: Tensor, seen: Measured, errors: Tensor) -> Tensor:
        raise NotImplementedError

    def fit(self, X: Array, outcomes: Outcomes | None = None) -> Self:
        assert outcomes is not None, "a learned head needs training models' outcomes"
        self.centroids_ = fit_centroids(X, self.clusters, self.seed)
        errors, rng = outcomes.errors.astype(np.float32), np.random.default_rng(self.seed)
        torch.set_num_threads(1)
        torch.manual_seed(self.seed)
        self.network_ = self.network(X.shape[1])
        labels = self._locate(X)
        optimiser = torch.optim.AdamW(self.network_.parameters(), self.rate, fused=True)
        for _ in range(self.steps):
            n_val = min(int(rng.integers(50, 401)), len(X) // 2)
            val, batch, _ = np.split(rng.permutation(len(X)), [n_val, n_val + self.batch])
            seen, given = self._measured(X[val], errors[val]), torch.from_numpy(errors[batch])
            optimiser.zero_grad()
            self.loss(self.network_, _scaled(X[batch]), torch.from_numpy(labels[batch]), seen, given).backward()
            optimiser.step()
        val, rest, _ = np.split(rng.permutation(len(X)), [n_val, n_val + SEEN])  # n_val of the last step
        scores = self._scores(X[rest], X[val], errors[val]).reshape(-1, 2)
        self.line_ = np.linalg.lstsq(scores, errors[rest].ravel(), rcond=None)[0]
        return self

    def profile(self, X: Array, errors: Array, known: Array | None = None) -> Array:
        return answers(X, errors)

    def predict(self, X: Array, features: Array) -> Prediction:
        return without_stderrs(np.clip(self._scores(X, *measured(features)) @ self.line_, 0, 1))

    def _scores(self, X: Array, vectors: Array, errors: Array) -> Array:
        """Return the scores of models with these errors (v, m) on v prompts, and ones, (n, m, 2)."""
        with torch.no_grad():
            seen = self._measured(vectors, errors)
            scores = np.concatenate([self.network_(_scaled(part), seen).numpy() for part in np.array_split(X, 8)])
        return np.stack([scores, np.ones_like(scores)], axis=2)

    def _locate(self, X: Array) -> Array:
        return closeness(X, self.centroids_, offsets(self.centroids_)).argmax(axis=1)

    def _measured(self, X: Array, errors: Array) -> Measured:
        level = errors.mean(axis=0)
        shape = shrunken_means(self._locate(X), errors, len(self.centroids_), self.prior)[0] - level
        size = np.full_like(level, np.log10(len(X)) - 2)
        psi = np.concatenate([[level - 0.5], shape, [size]]).T * 5
        return Measured(torch.from_numpy(psi.astype(np.float32)), _scaled(X), torch.from_numpy(errors))


@dataclass(frozen=True)
class Measured:
    """What is known of m models: Ψ (m, clusters + 2), and their errors (v, m) on v prompts."""

    psi: Tensor
    X: Tensor
    errors: Tensor


def _scaled(X: Array) -> Tensor:
    """Return unit vectors (n, d) with entries of the size that networks are initialised for."""
    return torch.from_numpy(X * np.float32(X.shape[1] ** 0.5))
