"""RouterDC (arXiv 2409.19886): two contrastive losses bring prompts to the models that answer them right."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .heads import LearnedHead, Measured


@dataclass(eq=False)
class RouterDC(LearnedHead):
    """The cosine of a prompt and a model, trained on frozen vectors by the paper's dual contrastive loss.

    Each of the `top` best models is told apart from up to `last` wrong ones, and each prompt is brought to one of its
    own cluster against `others` from elsewhere; the paper's own 3, 3, 3 and temperature 1. The score is the cosine.
    """

    top: int = 3
    last: int = 3
    others: int = 3
    temperature: float = 1.0

    def network(self, d: int) -> nn.Module:
        return TwoTowers(d, self.clusters + 2, self.hidden)

    def loss(self, network: nn.Module, X: Tensor, labels: Tensor, seen: Measured, errors: Tensor) -> Tensor:
        scores = network(X, seen) / self.temperature
        drawn = 1 - errors + 1e-3 * torch.rand(errors.shape)  # equally right models in a random order
        best, worst = (
            drawn.topk(min(n, errors.shape[1]), largest=high) for n, high in ((self.top, True), (self.last, False))
        )
        wrong = scores.gather(1, worst.indices).masked_fill(worst.values > 0.5, -torch.inf)
        total = torch.zeros(())
        for at in range(best.indices.shape[1]):
            pair = torch.cat([scores.gather(1, best.indices[:, at : at + 1]), wrong], dim=1)
            right = best.values[:, at] > 1e-3
            total = total - (pair.log_softmax(dim=1)[:, 0] * right).mean()
        return total + apart(network.prompt(X), labels, self.others, self.temperature)


class TwoTowers(nn.Module):
    """A vector for each prompt and for each model, and the cosine of the two."""

    def __init__(self, d: int, n_psi: int, hidden: int) -> None:
        super().__init__()
        self.prompt = nn.Sequential(nn.Linear(d, hidden), nn.ReLU(), nn.Linear(hidden, hidden))
        self.model = nn.Sequential(nn.Linear(n_psi, hidden), nn.ReLU(), nn.Linear(hidden, hidden))

    def forward(self, X: Tensor, seen: Measured) -> Tensor:
        prompts, models = self.prompt(X), self.model(seen.psi)
        return nn.functional.normalize(prompts, dim=1) @ nn.functional.normalize(models, dim=1).T


def apart(vectors: Tensor, labels: Tensor, others: int, temperature: float) -> Tensor:
    """Return the contrastive loss of prompts: one of the same cluster against `others` of other clusters."""
    cosines = nn.functional.normalize(vectors, dim=1) @ nn.functional.normalize(vectors, dim=1).T / temperature
    same = labels[:, None] == labels
    mate = torch.where(same.fill_diagonal_(False), torch.rand(same.shape), -1.0).max(dim=1)
    away = torch.where(labels[:, None] == labels, -1.0, torch.rand(same.shape)).topk(others, dim=1)
    usable = (mate.values >= 0) & (away.values >= 0).all(dim=1)
    picked = torch.cat([mate.indices[:, None], away.indices], dim=1)[usable]
    return -cosines[usable].gather(1, picked).log_softmax(dim=1)[:, 0].mean() if usable.any() else cosines.sum() * 0
