"""semantic-router: the topic of the nearest known prompts; a table of ours then names each topic's model."""

from __future__ import annotations

import numpy as np
from problem import DECISIONS, Choices, Problem, answer, one_of, seconds
from semantic_router import IndexedRouter, Route
from semantic_router.encoders import DenseEncoder


class Given(DenseEncoder):
    """The vectors that the problem holds."""

    name: str = "given"
    problem: Problem

    def __call__(self, docs: list[str]) -> list[list[float]]:
        return self.problem.embed(docs).tolist()


def fitted(problem: Problem) -> IndexedRouter:
    """Return a router between the set's topics, whose examples are the validation prompts."""
    examples: dict[str, list[str]] = {}
    for row in problem.val:
        examples.setdefault(problem.topics[row], []).append(problem.prompts[row])
    routes = [Route(name=topic, utterances=prompts) for topic, prompts in examples.items()]
    return IndexedRouter(encoder=Given(problem=problem), routes=routes)


def choose(problem: Problem) -> Choices:
    router = fitted(problem)
    found = [router(text).name for text in problem.texts(problem.test)]
    topics = np.array([problem.topics[row] for row in problem.val])
    means = {topic: problem.qualities[topics == topic].mean(axis=0) for topic in set(topics)}
    chosen = [[means[topic][: len(pool)].argmax() for topic in found] for pool in problem.pools()]
    return {"semantic-router, a model for each topic": np.array(chosen)}


def clock(problem: Problem) -> dict[str, dict[str, float]]:
    router = fitted(problem)
    texts = problem.texts(np.resize(problem.test, DECISIONS))
    one = one_of(router, texts[:300])  # it takes no vectors: its encoder looks them up
    many = seconds(lambda: [router(text) for text in texts])
    route = Route(name="one topic more", utterances=problem.texts(problem.train[:30]))
    return {"semantic-router": {"text": one, "one": one, "many": many, "join": seconds(lambda: router.add(route))}}


if __name__ == "__main__":
    answer(choose, clock)
