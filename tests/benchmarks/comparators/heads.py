"""What the learned heads share: a model's cluster errors Ψ, and training on known models, measured as new ones are.

Their papers train one vector for each model, so that a new model is another training. Here a model's token is a
function of Ψ, learned over draws of N_val training prompts, and so unseen models need none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from unirouter_core.curves import deferral_curve
from unirouter_core.data import Outcomes
from unirouter_core.embedding import Array
from unirouter_core.estimators import Prediction
from unirouter_core.estimators.clusters import closeness, fit_centroids, offsets, shrunken_means

from .seam import answers, measured, without_stderrs

CHECKED = 100  # steps between two looks at the held-out models
DRAWS, SEEN = 4, 1_500  # draws of N_val prompts to measure these on, and prompts to route


@dataclass(eq=False)
class LearnedHead:
    """A network from vectors and Ψ to scores, trained for as many steps as route a held-out third of the models best.

    A head gives `network(d)`, whose forward is scores (b, m) of vectors (b, d) and a `Measured`, and `loss`.
    """

    clusters: int = 20
    prior: float = 10.0
    hidden: int = 64
    steps: int = 600  # at most
    batch: int = 128
    rate: float = 1e-3
    n_val: int = 400
    seed: int = 0
    centroids_: Array = field(init=False, repr=False)

    def network(self, d: int) -> nn.Module:
        raise NotImplementedError

    def loss(self, network: nn.Module, X: Tensor, labels: Tensor, seen: Measured, errors: Tensor) -> Tensor:
        raise NotImplementedError

    def fit(self, X: Array, outcomes: Outcomes | None = None) -> Self:
        assert outcomes is not None, "a learned head needs training models' outcomes"
        self.centroids_ = fit_centroids(X, self.clusters, self.seed)
        errors, costs = outcomes.errors.astype(np.float32), np.nanmean(outcomes.costs, axis=0)
        held_out = np.random.default_rng(self.seed).permutation(errors.shape[1]) % 3 == 0
        areas = self._train(X, errors[:, ~held_out], self.steps, (errors[:, held_out], costs[held_out]))
        self._train(X, errors, CHECKED * (1 + int(np.argmax(areas))))
        return self

    def profile(self, X: Array, errors: Array, known: Array | None = None) -> Array:
        return answers(X, errors)

    def predict(self, X: Array, features: Array) -> Prediction:
        return without_stderrs(np.clip(self._scores(X, *measured(features)) @ self.line_, 0, 1))

    def _train(self, X: Array, errors: Array, steps: int, held_out: tuple[Array, Array] | None = None) -> list[float]:
        """Train a new network; return the Area of the held-out models after every `CHECKED` steps."""
        torch.set_num_threads(1)
        torch.manual_seed(self.seed)
        rng, areas = np.random.default_rng(self.seed), []
        self.network_ = self.network(X.shape[1])
        labels, n_val = self._locate(X), min(self.n_val, len(X) // 2)
        optimiser = torch.optim.AdamW(self.network_.parameters(), self.rate)
        for step in range(1, steps + 1):
            rows = rng.permutation(len(X))[: n_val + self.batch]
            val, batch = rows[:n_val], rows[n_val:]
            seen, given = self._measured(X[val], errors[val]), torch.from_numpy(errors[batch])
            optimiser.zero_grad()
            self.loss(self.network_, _scaled(X[batch]), torch.from_numpy(labels[batch]), seen, given).backward()
            optimiser.step()
            if held_out is not None and step % CHECKED == 0:
                areas.append(self._area(X, *held_out, n_val))
        val, rest = np.split(rng.permutation(len(X)), [n_val])
        scores = self._scores(X[rest[:SEEN]], X[val], errors[val])
        self.line_ = np.linalg.lstsq(scores.reshape(-1, 2), errors[rest[:SEEN]].ravel(), rcond=None)[0]
        return areas

    def _area(self, X: Array, errors: Array, costs: Array, n_val: int) -> float:
        rng, total = np.random.default_rng(self.seed + 1), 0.0
        for _ in range(DRAWS):
            val, routed = np.split(rng.permutation(len(X))[: n_val + SEEN], [n_val])
            scores = self._scores(X[routed], X[val], errors[val])[:, :, 0]
            total += deferral_curve(-scores, costs, errors[routed], costs).hull().area(costs.max())
        return total

    def _scores(self, X: Array, vectors: Array, errors: Array) -> Array:
        """Return the scores of models with these errors (v, m) on v prompts, and ones, (n, m, 2)."""
        self.network_.eval()
        with torch.no_grad():
            seen = self._measured(vectors, errors)
            scores = np.concatenate([self.network_(_scaled(part), seen).numpy() for part in np.array_split(X, 8)])
        self.network_.train()
        return np.stack([scores, np.ones_like(scores)], axis=2)

    def _locate(self, X: Array) -> Array:
        return closeness(X, self.centroids_, offsets(self.centroids_)).argmax(axis=1)

    def _measured(self, X: Array, errors: Array) -> Measured:
        level = errors.mean(axis=0)
        shape = shrunken_means(self._locate(X), errors, len(self.centroids_), self.prior)[0] - level
        psi = np.concatenate([level[None] - 0.5, shape]).T * 5
        return Measured(torch.from_numpy(psi.astype(np.float32)), _scaled(X), torch.from_numpy(errors))


@dataclass(frozen=True)
class Measured:
    """What is known of m models: Ψ (m, clusters + 1), and their errors (v, m) on v prompts."""

    psi: Tensor
    X: Tensor
    errors: Tensor


def _scaled(X: Array) -> Tensor:
    """Return unit vectors (n, d) with entries of the size that networks are initialised for."""
    return torch.from_numpy(X * np.float32(X.shape[1] ** 0.5))
