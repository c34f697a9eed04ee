"""GraphRouter (arXiv 2410.03834): messages between prompts and models, and the error of an edge from its two ends."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .heads import LearnedHead, Measured

SENDING = 50  # of the N_val prompts, in a step of training: their mean message is the same, and a step much faster


@dataclass(eq=False)
class GraphRouter(LearnedHead):
    """A graph of the N_val prompts and the models, joined by errors; an edge to another prompt is a regression.

    As in the paper's code, the prompt's end is its own first state and the model's end is what two rounds of messages
    make of it. There, messages add state and error, of which the mean over the same prompts tells models apart by
    their mean error alone; here they pass a ReLU first.
    """

    def network(self, d: int) -> nn.Module:
        return Graph(d, self.clusters + 2, self.hidden)

    def loss(self, network: nn.Module, X: Tensor, labels: Tensor, seen: Measured, errors: Tensor) -> Tensor:
        few = Measured(seen.psi, seen.X[:SENDING], seen.errors[:SENDING])
        return nn.functional.binary_cross_entropy(1 - network(X, few), errors)


class Round(nn.Module):
    """New states of nodes (n, h): their own, and the mean of messages of neighbours (k, h) along errors (n, k)."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.own, self.other = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        self.edge, self.norm = nn.Linear(1, hidden, bias=False), nn.LayerNorm(hidden)

    def forward(self, nodes: Tensor, neighbours: Tensor, errors: Tensor) -> Tensor:
        messages = torch.relu(self.other(neighbours) + self.edge(errors[:, :, None] - 0.5))
        return self.norm(self.own(nodes) + messages.mean(dim=1))


class Graph(nn.Module):
    """The quality of edges (b, m) between vectors (b, d) and models."""

    def __init__(self, d: int, n_psi: int, hidden: int) -> None:
        super().__init__()
        self.prompt, self.model = nn.Linear(d, hidden), nn.Linear(n_psi, hidden)
        self.to_models, self.to_prompts, self.again = Round(hidden), Round(hidden), Round(hidden)

    def forward(self, X: Tensor, seen: Measured) -> Tensor:
        prompts, models = self.prompt(seen.X), self.model(seen.psi)
        errors = seen.errors.T  # (m, v)
        first = torch.relu(self.to_models(models, prompts, errors))
        reached = torch.relu(self.to_prompts(prompts, models, seen.errors))
        last = self.again(first, reached, errors)
        return torch.sigmoid(self.prompt(X) @ last.T / last.shape[1])
