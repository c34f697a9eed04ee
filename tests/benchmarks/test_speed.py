"""How long things take. Medians; nothing is asserted on time.

python -m pytest tests/benchmarks/test_speed.py --benchmark-enable --benchmark-columns=median,iqr,rounds
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from unirouter_core import Evaluation, Outcomes, UniRouter

ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def run(*command: str) -> None:
    subprocess.run([sys.executable, *command], check=True, capture_output=True, env={**os.environ, **ONE_THREAD})


@pytest.mark.parametrize("module", ["numpy", "unirouter_core"])
def test_import(benchmark, module: str) -> None:
    benchmark.pedantic(run, args=("-c", f"import {module}"), rounds=11, warmup_rounds=2)


def test_route_from_the_shell(benchmark, tmp_path: Path) -> None:
    UniRouter.starter(examples=True).save(tmp_path / "my.router")
    command = ("-m", "unirouter_plugins.cli", "route", str(tmp_path / "my.router"), "What is 17 times 23?")
    benchmark.pedantic(run, args=command, rounds=11, warmup_rounds=2)


def test_one_decision_with_its_vector(benchmark, router: UniRouter, vectors: np.ndarray, table: Outcomes) -> None:
    prompt, vector = table.prompts[7], vectors[7]
    benchmark(lambda: router.route(prompt, vector=vector, tokens_in=100).model)


def test_one_decision_with_its_ranking(benchmark, router: UniRouter, vectors: np.ndarray, table: Outcomes) -> None:
    prompt, vector = table.prompts[7], vectors[7]
    benchmark(lambda: router.route(prompt, vector=vector, tokens_in=100).ranking)


def test_one_prompt_with_the_default_embedder(benchmark, text_router: UniRouter, table: Outcomes) -> None:
    prompts = iter(table.prompts * 1000)
    benchmark(lambda: text_router.route(next(prompts)).model)


def test_100_000_prompts_with_the_default_embedder(benchmark, text_router: UniRouter, table: Outcomes) -> None:
    prompts = (list(table.prompts) * 9)[:100_000]
    benchmark.pedantic(text_router.route_batch, args=(prompts,), rounds=3, warmup_rounds=1)
    benchmark.extra_info["prompts_per_second"] = round(100_000 / benchmark.stats.stats.median)
    benchmark.extra_info["peak_mib_over_before"] = peak_mib(lambda: text_router.route_batch(prompts))


def test_a_million_vectors(benchmark, router: UniRouter, vectors: np.ndarray) -> None:
    many = np.tile(vectors, (85, 1))[:1_000_000]
    prompts, tokens = ["x"] * len(many), np.full(len(many), 100.0)

    def route() -> object:
        return router.route_batch(prompts, vectors=many, tokens_in=tokens)

    benchmark.pedantic(route, rounds=3, warmup_rounds=1)
    benchmark.extra_info["peak_mib_over_before"] = peak_mib(route)


def test_fit_on_given_vectors(benchmark, table: Outcomes, vectors: np.ndarray) -> None:
    benchmark.pedantic(
        lambda: UniRouter(embedder=lambda p: np.ones((len(p), 384))).fit(table, vectors=vectors), rounds=3
    )


def test_fit_with_the_default_embedder(benchmark, table: Outcomes) -> None:
    benchmark.pedantic(lambda: UniRouter().fit(table), rounds=3)


def test_onboard_with_400_answers(benchmark, text_router: UniRouter, evaluations: list[Evaluation]) -> None:
    empty = text_router.with_pool(text_router.pool)

    def fresh() -> tuple[tuple[Evaluation], dict[str, object]]:
        for model in list(empty.pool):
            empty.retire(model)
        return (evaluations[0],), {}

    benchmark.pedantic(lambda evaluation: empty.onboard(evaluation), setup=fresh, rounds=21)


def test_load(benchmark, text_router: UniRouter, tmp_path: Path) -> None:
    text_router.save(tmp_path / "my.router")
    benchmark.pedantic(UniRouter.load, args=(tmp_path / "my.router",), rounds=11, warmup_rounds=2)


def test_load_the_starter_with_its_examples(benchmark) -> None:
    benchmark.pedantic(UniRouter.starter, kwargs={"examples": True}, rounds=11, warmup_rounds=2)


def peak_mib(work) -> int:
    """Return how much the process's resident memory grows at most while `work` runs, in MiB."""
    statm, page = Path("/proc/self/statm"), os.sysconf("SC_PAGE_SIZE")
    before = highest = int(statm.read_text().split()[1])
    thread = threading.Thread(target=work)
    thread.start()
    while thread.is_alive():
        highest = max(highest, int(statm.read_text().split()[1]))
        time.sleep(0.005)
    return (highest - before) * page >> 20
