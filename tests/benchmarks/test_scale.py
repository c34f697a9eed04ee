"""What the largest inputs take, each once; nothing is asserted on time.

python -m pytest tests/benchmarks/test_scale.py --benchmark-enable --benchmark-columns=median,rounds -n0
"""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from unirouter_core import Evaluation, Outcomes, UniRouter, ValidationSet, report, tune
from unirouter_core.costs import TokenCounter
from unirouter_plugins.onboarding.questions import read_questions

MODELS, PROMPTS, N_VAL = 10_000, 100_000, 400
RNG = np.random.default_rng(0)


@pytest.fixture
def once(benchmark) -> Iterator[Callable]:
    """Run a function once; its processor time, and the most memory of the process so far, are beside its time."""

    def run(work: Callable, *args: object) -> object:
        before = time.process_time()
        result = benchmark.pedantic(work, args=args, rounds=1)
        benchmark.extra_info["processor_s"] = round(time.process_time() - before, 2)
        benchmark.extra_info["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        print(benchmark.extra_info)
        return result

    return run


def texts(n: int) -> list[str]:
    return [f"Case {i}: {'sum' if i % 2 else 'poem'} about the number {i * 7919 % 10007}." for i in range(n)]


def evaluations(n: int, n_models: int, models: range) -> Iterator[Evaluation]:
    """Models of every quality, of which the second half is dearer and better."""
    validation = ValidationSet(texts(n))
    for j in models:
        wrong = RNG.random(n) < 0.6 - 0.5 * j / n_models
        yield Evaluation(f"model {j}", validation, wrong.astype(float), np.full(n, 1e-5 * (1 + 9 * j / n_models)))


@pytest.fixture(scope="module")
def fitted() -> UniRouter:
    errors = (RNG.random((1_000, 8)) < 0.4).astype(float)
    training = Outcomes(texts(1_000), [f"training {j}" for j in range(8)], errors, np.full((1_000, 8), 1e-4))
    return UniRouter().fit(training)


def test_a_validation_file_of_100_000_lines(once, tmp_path: Path) -> None:
    kinds = [("42", "number"), ("Rome", None), ("C", "choice"), ("Bring it back, with the receipt, soon.", None)]
    file = tmp_path / "validation.jsonl"
    with file.open("w") as lines:
        for i, prompt in enumerate(texts(PROMPTS)):
            reference, grader = kinds[i % len(kinds)]
            lines.write(json.dumps({"prompt": f"{prompt} {'word ' * 40}", "reference": reference, "grader": grader}))
            lines.write("\n")
    assert len(once(read_questions, file)) == PROMPTS


@pytest.mark.parametrize("judge", ["report", "tune"])
def test_a_report_on_100_000_prompts(once, fitted: UniRouter, judge: str) -> None:
    router = fitted.with_pool(fitted.pool)
    for evaluation in evaluations(PROMPTS, 4, range(4)):
        router.onboard(evaluation)
    once(lambda: report(router) if judge == "report" else tune(router, save_cost=0.4))


def test_the_tokens_of_100_megabytes(once) -> None:
    assert once(TokenCounter().count, ["Many words in one prompt. " * 4_000_000])[0] > 1e7


def test_10_000_models_are_onboarded(once, fitted: UniRouter) -> None:
    router, made = fitted.with_pool(fitted.pool), list(evaluations(N_VAL, MODELS, range(MODELS)))

    def onboard() -> int:
        for evaluation in made:
            router.onboard(evaluation)
        return len(router.pool)

    assert once(onboard) == MODELS


def test_one_changed_model_of_10_000_is_saved(once, fitted: UniRouter, tmp_path: Path) -> None:
    router = fitted.with_pool(fitted.pool)
    for evaluation in evaluations(N_VAL, MODELS, range(MODELS)):
        router.onboard(evaluation)
    router.save(tmp_path / "my.router")
    router.onboard(next(evaluations(N_VAL, 2, range(1, 2))), replace=True)
    once(router.save, tmp_path / "my.router")
