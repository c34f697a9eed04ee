"""RadialRouter (arXiv 2506.03880): attention between the prompt in the middle and a token for each model around it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .heads import LearnedHead, Measured
from .router_dc import apart


@dataclass(eq=False)
class RadialRouter(LearnedHead):
    """Scores whose softmax over the models comes near that of their qualities, and prompts apart by cluster.

    A model's token sees itself, its Ψ and the prompt; the prompt's token sees itself and all models'. The target is
    softmax(quality / temperature): cost is left to the router's rule, as for every method here.
    """

    hidden: int = 32
    batch: int = 32
    layers: int = 2
    heads: int = 4
    temperature: float = 0.5
    contrast: float = 0.5

    def network(self, d: int) -> nn.Module:
        return RadialFormer(d, self.clusters + 2, self.hidden, self.layers, self.heads)

    def loss(self, network: nn.Module, X: Tensor, labels: Tensor, seen: Measured, errors: Tensor) -> Tensor:
        target = ((1 - errors) / self.temperature).softmax(dim=1)
        found = (network(X, seen) / self.temperature).log_softmax(dim=1)
        distance = nn.functional.kl_div(found, target, reduction="batchmean")
        return distance + self.contrast * apart(network.prompt(X), labels, others=3, temperature=1.0)


class Attention(nn.Module):
    """Several heads of attention of tokens (..., h) to contexts of their own (..., k, h), a ReLU and a norm."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads, self.norm = heads, nn.LayerNorm(hidden)
        self.query, self.out = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        self.key, self.value = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)

    def forward(self, tokens: Tensor, context: list[Tensor]) -> Tensor:
        seen = torch.stack(context, dim=-2)  # (..., k, h)
        query = self.query(tokens).unflatten(-1, (self.heads, -1))  # (..., heads, h / heads)
        key, value = (each(seen).unflatten(-1, (self.heads, -1)) for each in (self.key, self.value))
        weights = ((query.unsqueeze(-3) * key).sum(-1) / query.shape[-1] ** 0.5).softmax(dim=-2)  # (..., k, heads)
        return self.norm(torch.relu(self.out((weights[..., None] * value).sum(-3).flatten(-2))))


class RadialFormer(nn.Module):
    """Scores (b, m) of vectors (b, d)."""

    def __init__(self, d: int, n_psi: int, hidden: int, layers: int, heads: int) -> None:
        super().__init__()
        self.prompt, self.model = nn.Linear(d, hidden), nn.Linear(n_psi, hidden)
        self.layers = nn.ModuleList(
            nn.ModuleList([Attention(hidden, heads), Attention(hidden, heads)]) for _ in range(layers)
        )
        self.score = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, X: Tensor, seen: Measured) -> Tensor:
        middle = self.prompt(X)  # (b, h)
        given = self.model(seen.psi).expand(len(X), -1, -1)  # (b, m, h)
        around = given
        for models, prompts in self.layers:
            around = models(around, [around, given, middle[:, None].expand_as(around)])
            middle = prompts(middle, [middle, *around.unbind(1)])
        scores = self.score(around)[:, :, 0]
        return scores - scores.mean(dim=1, keepdim=True)  # a softmax leaves their level free
