"""llmrouter-lib: classifiers from a prompt's vector to a model that answered it well, and its matrix factorisation."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import yaml
from llmrouter import models as routers
from problem import DECISIONS, Choices, Problem, answer, one_of, seconds, timed

SETTINGS = {  # as in the package's own configurations, but for the vectors' length
    "knn": {"n_neighbors": 5},
    "svm": {"kernel": "rbf", "C": 1.0, "gamma": "scale", "probability": True},
    "mlp": {"hidden_layer_sizes": [128, 64], "activation": "relu", "lr": 0.001, "epochs": 100, "batch_size": 32},
    "mf": {"latent_dim": 128, "text_dim": 384, "lr": 0.001, "epochs": 5, "noise_alpha": 0.0},
}
CLASSES = {
    "knn": (routers.KNNRouter, routers.KNNRouterTrainer),
    "svm": (routers.SVMRouter, routers.SVMRouterTrainer),
    "mlp": (routers.MLPRouter, routers.MLPTrainer),
    "mf": (routers.MFRouter, routers.MFRouterTrainer),
}

KINDS = {"more accurate": list(CLASSES), "cheaper": ["knn", "svm", "mf"]}
"""By the order of equals; a network takes ten times as long to train as any other, and is trained in one order."""

FITS = 8
"""Each limit on the price is another fit; this many limits, spread over the pool, draw the curve."""


def ranked(problem: Problem, n_models: int, first: str) -> np.ndarray:
    """Return the cheapest `n_models` in the order of the file: of equally right models its routers learn the first."""
    if first == "cheaper":
        return np.arange(n_models)
    return np.argsort(-problem.qualities[:, :n_models].mean(axis=0), kind="stable")


def write(problem: Problem, ranking: np.ndarray, kind: str, folder: Path) -> Path:
    """Write the package's files."""
    with (folder / "routing.jsonl").open("w") as lines:
        for i, row in enumerate(problem.val):
            for j in ranking:
                line = {
                    "query": problem.prompts[row],
                    "model_name": problem.models[j],
                    "performance": float(problem.qualities[i, j]),
                }
                lines.write(json.dumps(line | {"embedding_id": i}) + "\n")
    torch.save(torch.from_numpy(problem.vectors[problem.val]), folder / "vectors.pt")
    model = str(folder / ("model.pt" if kind in ("mlp", "mf") else "model.pkl"))
    settings = {
        "data_path": {
            "routing_data_train": str(folder / "routing.jsonl"),
            "query_embedding_data": str(folder / "vectors.pt"),
        },
        "model_path": {"ini_model_path": "", "save_model_path": model, "load_model_path": model},
        "hparam": SETTINGS[kind],
    }
    path = folder / "router.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def fitted(problem: Problem, ranking: np.ndarray, kind: str, folder: Path) -> tuple[object, object]:
    """Return the router and its trainer, trained; its Longformer, a download, gives way to the problem's vectors."""
    make, train = CLASSES[kind]
    module = importlib.import_module(make.__module__)
    module.get_longformer_embedding = lambda text: torch.from_numpy(problem.embed([text])[0])
    router = make(str(write(problem, ranking, kind, folder)))
    trainer = train(router, device="cpu")
    trainer.train()
    return router, trainer


def predict(kind: str, router: object, trainer: object, vectors: np.ndarray) -> list[str]:
    """Return the model for each vector, as the router's own `route_single` does one by one from the disk."""
    if kind in ("knn", "svm"):
        return trainer.model.predict(vectors).tolist()
    with torch.no_grad():
        X = torch.from_numpy(vectors)
        if kind == "mlp":
            found = trainer.model.predict(X)
        else:
            found = torch.stack([trainer.model.score_all(each) for each in trainer.model.text_proj(X)]).argmax(1)
    return [router.idx_to_model[int(each)] for each in found]


def on_pool(problem: Problem, ranking: np.ndarray, kind: str) -> list[str]:
    """Return the choices among the models of `ranking`."""
    if not problem.qualities[:, ranking].argmax(axis=1).any():  # a classifier needs two classes
        return [problem.models[ranking[0]]] * len(problem.test)
    with tempfile.TemporaryDirectory() as folder:
        router, trainer = fitted(problem, ranking, kind, Path(folder))
        chosen = predict(kind, router, trainer, problem.vectors[problem.test])
        few = [router.route_single({"query": text})["model_name"] for text in problem.texts(problem.test[:10])]
    assert few == chosen[:10], f"{kind} chooses otherwise one by one"
    return chosen


def quiet(call: Callable[..., object]) -> Callable[..., object]:
    def called(*args: object) -> object:
        with contextlib.redirect_stdout(io.StringIO()):
            return call(*args)

    return called


@quiet
def choose(problem: Problem) -> Choices:
    torch.manual_seed(problem.seed)
    place = {model: j for j, model in enumerate(problem.models)}
    sizes = np.unique(np.linspace(1, len(problem.models), FITS).round().astype(int))
    chosen: Choices = {}
    for first, kinds in KINDS.items():
        for kind in kinds:
            found = [on_pool(problem, ranked(problem, size, first), kind) for size in sizes]
            chosen[f"llmrouter {kind}, {first} first"] = np.array([[place[model] for model in row] for row in found])
    return chosen


@quiet
def clock(problem: Problem) -> dict[str, dict[str, float]]:
    texts, taken = problem.texts(np.resize(problem.test, DECISIONS)), {}
    vectors = problem.embed(texts)
    ranking = ranked(problem, len(problem.models), "more accurate")
    for kind in CLASSES:
        with tempfile.TemporaryDirectory() as folder:
            join, (router, trainer) = timed(partial(fitted, problem, ranking, kind, Path(folder)))
            text = one_of(lambda text, router=router: router.route_single({"query": text}), texts[:50], rounds=3)
        decide = partial(predict, kind, router, trainer)
        times = {"one": one_of(decide, vectors[:300, None]), "many": seconds(partial(decide, vectors), rounds=3)}
        taken[f"llmrouter {kind}"] = {"text": text, **times, "join": join}
    return taken


if __name__ == "__main__":
    answer(choose, clock)
