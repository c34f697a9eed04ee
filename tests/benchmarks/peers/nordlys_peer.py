"""nordlys: k-means on the training prompts, mean score of each model in each cluster, the highest wins."""

from __future__ import annotations

import nordlys.router
import numpy as np
from nordlys import Dataset, Router, Trainer
from nordlys.embeddings import Embedder
from problem import DECISIONS, Choices, Problem, answer, one_of, seconds


class Given(Embedder):
    """The vectors that the problem holds, for the trainer and in place of the model that the router would download."""

    problem: Problem
    tokenizer = type("Tokenizer", (), {})()

    def __init__(self, *args: object, **settings: object) -> None: ...

    def encode(self, texts: list[str], **settings: object) -> np.ndarray:
        return self.problem.embed(texts)

    def checkpoint_config(self) -> dict[str, object]:
        return {"model": "given", "trust_remote_code": False}


nordlys.router.SentenceTransformer = Given


def rows(problem: Problem, n_models: int) -> Dataset:
    targets = [dict(zip(problem.models[:n_models], map(float, row), strict=False)) for row in problem.qualities]
    texts = problem.texts(problem.val)
    return Dataset.from_list(
        [
            {"id": str(i), "input": text, "targets": row}
            for i, (text, row) in enumerate(zip(texts, targets, strict=True))
        ]
    )


def fitted(problem: Problem, n_models: int) -> tuple[Router, object]:
    """Return the router and its clusters: 20 as it comes, or half as many until each has a validation prompt."""
    Given.problem = problem
    structure = Dataset.from_list([{"id": str(row), "input": problem.prompts[row]} for row in problem.train])
    for n_clusters in (20, 10, 5, 2, 1):
        trainer = Trainer(problem.models[:n_models], embedder=Given(), n_clusters=n_clusters, random_state=problem.seed)
        clusters = trainer.fit_structure(structure)
        try:
            return trainer.compile(clusters, trainer.calibrate(clusters, rows(problem, n_models))), clusters
        except ValueError as refused:
            if "No training data" not in str(refused):
                raise
    raise AssertionError("one cluster has every validation prompt")


def choose(problem: Problem) -> Choices:
    router, _ = fitted(problem, len(problem.models))
    texts, place = problem.texts(problem.test), {model: j for j, model in enumerate(problem.models)}
    chosen = [[place[each.model_id] for each in router.route_batch(texts, models=pool)] for pool in problem.pools()]
    return {"nordlys": np.array(chosen)}


def clock(problem: Problem) -> dict[str, dict[str, float]]:
    router, clusters = fitted(problem, len(problem.models) - 1)
    texts = problem.texts(np.resize(problem.test, DECISIONS))
    engine, vectors = router._core_engine, np.ascontiguousarray(problem.embed(texts), np.float32)
    text = one_of(router.route, texts[:300])
    one = one_of(engine.route, vectors[:300])
    many = seconds(lambda: engine.route_batch(vectors), rounds=5)
    trainer = Trainer(problem.models, embedder=Given())
    data = rows(problem, len(problem.models))
    join = seconds(lambda: trainer.compile(clusters, trainer.calibrate(clusters, data)))
    return {"nordlys": {"text": text, "one": one, "many": many, "join": join}}


if __name__ == "__main__":
    answer(choose, clock)
