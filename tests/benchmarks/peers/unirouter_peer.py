"""unirouter, timed as the others are: vectors looked up by the prompt's text, through the public API."""

from __future__ import annotations

import numpy as np
from problem import DECISIONS, Problem, answer, one_of, seconds

from unirouter_core import Evaluation, Outcomes, UniRouter


def clock(problem: Problem) -> dict[str, dict[str, float]]:
    n_others = problem.others.shape[1]
    names = [f"training model {j}" for j in range(n_others)]

    def embed(prompts: list[str]) -> np.ndarray:  # UniRouter also asks for prompts of its own, to know the embedder by
        return problem.vectors[[problem.rows.get(prompt, 0) for prompt in prompts]]

    router = UniRouter(embed, cost_weight=50)
    router.fit(Outcomes(problem.texts(problem.train), names, 1 - problem.others))
    costs = np.broadcast_to(problem.prices, problem.qualities.shape)
    val = Outcomes(problem.texts(problem.val), problem.models, 1 - problem.qualities, costs=costs)
    evaluations = [Evaluation.recorded(model, val) for model in problem.models]
    for evaluation in evaluations[:-1]:
        router.onboard(evaluation)
    texts = problem.texts(np.resize(problem.test, DECISIONS))
    vectors, tokens = problem.embed(texts), np.full(DECISIONS, 100)
    text = one_of(lambda text: router.route(text).model, texts[:300])
    one = one_of(lambda vector: router.route(texts[0], vector=vector, tokens_in=100).model, vectors[:300])
    many = seconds(lambda: router.route_batch(texts, vectors=vectors, tokens_in=tokens).models, rounds=5)
    join = seconds(lambda: router.onboard(evaluations[-1]))
    return {"unirouter": {"text": text, "one": one, "many": many, "join": join}}


if __name__ == "__main__":
    answer(lambda problem: {}, clock)
