"""routellm: its matrix factorisation, trained on who of two answered right, between one strong and one weak model."""

from __future__ import annotations

import itertools
import json
import os
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from problem import DECISIONS, Choices, Problem, answer, one_of, seconds, timed


class Vectors(BaseHTTPRequestHandler):
    """The embeddings endpoint that the package asks, on this machine: it answers with the problem's vectors."""

    protocol_version, problem = "HTTP/1.1", None
    disable_nagle_algorithm = True  # or every answer waits 40 ms, which would count as the package's own time

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        vectors = self.problem.embed(asked["input"]).tolist()
        found = [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(vectors)]
        usage = {"prompt_tokens": 0, "total_tokens": 0}
        body = json.dumps({"object": "list", "model": "given", "data": found, "usage": usage}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None: ...


SERVER = ThreadingHTTPServer(("127.0.0.1", 0), Vectors)
os.environ |= {"OPENAI_API_KEY": "none", "OPENAI_BASE_URL": f"http://127.0.0.1:{SERVER.server_port}"}

import pandas as pd  # noqa: E402
import torch  # noqa: E402
from routellm.controller import Controller  # noqa: E402 - it makes its OpenAI client when imported
from routellm.routers.matrix_factorization import model  # noqa: E402
from routellm.routers.matrix_factorization.model import MODEL_IDS, MFModel  # noqa: E402
from routellm.routers.matrix_factorization.train_matrix_factorization import (  # noqa: E402
    MFModel_Train,
    PairwiseDataset,
    train_loops,
)

NAMES = list(MODEL_IDS)
"""It knows 64 models by name; ours borrow these."""


def pair(problem: Problem) -> tuple[int, int]:
    """Return the weak and the strong model whose mixture, below it with the cheapest, has the largest Area on val."""
    quality, share = problem.qualities.mean(axis=0), problem.prices / problem.prices[-1]

    def area(weak: int, strong: int) -> float:
        corners = [0, weak, strong] if weak else [0, strong]
        x, y = np.append(0, share[corners]), np.append(quality[0], quality[corners])
        return float((np.diff(x) * (y[1:] + y[:-1])).sum() / 2 + quality[strong] * (1 - share[strong]))

    return max(itertools.combinations(range(len(quality)), 2), key=lambda each: area(*each))


def battles(problem: Problem) -> list[dict[str, object]]:
    """Return a battle for every two models and validation prompt of which one was better; ties are left out."""
    made = []
    for (i, row), (a, b) in itertools.product(
        enumerate(problem.qualities), itertools.combinations(range(len(problem.models)), 2)
    ):
        if row[a] != row[b]:
            winner = "model_a" if row[a] > row[b] else "model_b"
            made.append({"model_a": NAMES[a], "model_b": NAMES[b], "idx": i, "winner": winner})
    return [made[i] for i in np.random.default_rng(problem.seed).permutation(len(made))]


def fitted(problem: Problem, folder: Path) -> Controller:
    """Return a controller of the matrix factorisation trained with the settings of the package's own script."""
    Vectors.problem = problem
    torch.manual_seed(problem.seed)
    np.save(folder / "vectors.npy", problem.vectors[problem.val])
    data = battles(problem)
    cut = int(len(data) * 0.95)
    loaders = PairwiseDataset(data[:cut]).get_dataloaders(64), PairwiseDataset(data[cut:]).get_dataloaders(1024, False)
    net = MFModel_Train(128, len(NAMES), len(problem.val), text_dim=384, npy_path=folder / "vectors.npy")
    train_loops(net, *loaders, lr=3e-4, weight_decay=1e-5, alpha=0.1, num_epochs=100, device="cpu")
    trained = MFModel(128, len(NAMES), 384, 1, True)
    weights = {"P.weight": net.P, "text_proj.0.weight": net.text_proj, "classifier.0.weight": net.classifier}
    trained.load_state_dict({name: layer.weight for name, layer in weights.items()})
    trained.save_pretrained(folder / "mf")
    weak, strong = (NAMES[j] for j in pair(problem))
    settings = {"checkpoint_path": str(folder / "mf"), "text_dim": 384, "strong_model": strong, "weak_model": weak}
    return Controller(["mf"], strong, weak, config={"mf": settings})


class Looked:
    """In place of the OpenAI client when a decision is timed with its vector given: no request, a vector looked up."""

    def __init__(self, problem: Problem) -> None:
        self.problem, self.embeddings = problem, self

    def create(self, input: list[str], model: str) -> SimpleNamespace:
        return SimpleNamespace(data=[SimpleNamespace(embedding=self.problem.embed(input)[0])])


def choose(problem: Problem) -> Choices:
    with tempfile.TemporaryDirectory() as folder:
        controller = fitted(problem, Path(folder))
        rates = controller.batch_calculate_win_rate(pd.Series(problem.texts(problem.test)), "mf").to_numpy()
    weak, strong = pair(problem)
    cuts = np.quantile(rates, np.linspace(1, 0, 101))
    chosen = np.where(rates >= np.append(2, cuts)[:, None], strong, weak)
    return {"routellm mf": chosen}


def clock(problem: Problem) -> dict[str, dict[str, float]]:
    texts = problem.texts(np.resize(problem.test, DECISIONS))
    with tempfile.TemporaryDirectory() as folder:
        join, controller = timed(lambda: fitted(problem, Path(folder)))
    text = one_of(lambda text: controller.route(text, "mf", 0.5), texts[:100])
    model.OPENAI_CLIENT = Looked(problem)
    one = one_of(lambda text: controller.route(text, "mf", 0.5), texts[:300])
    many = seconds(lambda: controller.batch_calculate_win_rate(pd.Series(texts), "mf"))
    return {"routellm mf": {"text": text, "one": one, "many": many, "join": join}}


if __name__ == "__main__":
    threading.Thread(target=SERVER.serve_forever, daemon=True).start()
    answer(choose, clock)
