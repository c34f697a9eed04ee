"""Fits of a stream beside fits in memory: cross-fitted Area by the size of the sample, memory by that of the stream.

python tests/benchmarks/stream_fit.py area mmlu_pro zeroeval --trials 5 --sizes 4000 1000
python tests/benchmarks/stream_fit.py area mmlu_pro zeroeval --trials 5 --sizes 4000 1000 --answers 1
python tests/benchmarks/stream_fit.py memory --rows 100000 1000000 10000000
python tests/benchmarks/stream_fit.py memory --what route --models 10000 --rows 10000
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import resource
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from sets import VALIDATION, load

from unirouter_core import Evaluation, Outcomes, UniRouter
from unirouter_core.estimators import DefaultEstimator
from unirouter_core.outcome_files import read_outcomes
from unirouter_core.pool import Pool
from unirouter_plugins.bench import Case, Recorded, split
from unirouter_plugins.bench.results import record
from unirouter_plugins.ray.learning import PromptSample, fit_dataset
from unirouter_plugins.ray.routing import RouteBatch

BATCH = 4_096
MODELS = 8
WORDS = np.array([f"{kind}{n}" for kind in ("sum", "poem", "code", "law") for n in range(500)])


# --- Area -------------------------------------------------------------------------------------------------------------


def batches_of(table: Outcomes, rows: int = 256) -> Iterator[Any]:
    """Yield the table in batches with a column per model."""
    frame = pd.DataFrame({"prompt": table.prompts} | dict(zip(table.models, 1 - table.errors.T, strict=True)))
    for start in range(0, len(frame), rows):
        yield frame.iloc[start : start + rows]


def area(router: UniRouter, case: Case, n_val: int) -> float:
    """Return the cross-fitted Area of the new models, as the benchmark records it."""
    estimator, answered = router.fit_.estimator, case.measured.rows(range(n_val))
    X_val, X_test = router.encode(answered.prompts), router.encode(case.prompts)
    features = np.stack([estimator.profile(X_val, errors, case.known[:n_val]) for errors in answered.errors.T])
    predicted = estimator.predict(X_test, features).errors
    return float(record(case, predicted, case.expected_costs(n_val))["crossfit_area"])


def areas(name: str, trial: int, sizes: list[int], answers: int | None) -> Iterator[tuple[str, str, float]]:
    """Yield embedder, what was learned from, and the cross-fitted Area, or its difference to a fit in memory."""
    outcomes, minilm = load(name)
    n_val, divided = VALIDATION[name][0], split(outcomes.models, len(outcomes), [0, trial])
    case = Case.of(Recorded(name, outcomes, minilm, ()), divided)
    training = case.training
    if answers is not None:  # as logs have it: each prompt was answered by a few of the models
        order = np.random.default_rng(trial).permuted(
            np.tile(np.arange(len(training.models)), (len(training), 1)), axis=1
        )
        errors = np.where(order < answers, training.errors, np.nan)
        training = Outcomes(training.prompts, training.models, errors)
    row_of = {prompt: row for row, prompt in enumerate(outcomes.prompts)}

    def vectors(prompts: list[str]) -> Any:
        return (
            minilm[[row_of[prompt] for prompt in prompts if prompt in row_of]] if prompts[0] in row_of else minilm[:3]
        )

    for shown, embedder in (("MiniLM", vectors), ("default", None)):
        whole = area(UniRouter(embedder, DefaultEstimator(n_val=n_val)).fit(training), case, n_val)
        yield shown, f"all {len(training)}", whole
        for size in sizes:
            if size >= len(training):
                continue
            router = UniRouter(embedder, DefaultEstimator(n_val=n_val))
            fit_dataset(batches_of(training), router, sample=size)
            yield shown, f"{size}", area(router, case, n_val) - whole
            for member in router.fit_.estimator.members[1:]:  # what exact sums over the whole stream would give
                member.fit(router.encode(training.prompts), training)
            yield shown, f"{size} and sums", area(router, case, n_val) - whole


# --- Memory -----------------------------------------------------------------------------------------------------------


def synthetic(n_rows: int) -> Iterator[Any]:
    """Yield batches of different prompts of 12 words with the grades of some models."""
    rng = np.random.default_rng(0)
    for start in range(0, n_rows, BATCH):
        words = WORDS[rng.integers(len(WORDS), size=(min(BATCH, n_rows - start), 12))]
        prompts = [f"{start + row} {' '.join(each)}" for row, each in enumerate(words)]
        grades = rng.integers(2, size=(MODELS, len(prompts)))
        yield pd.DataFrame({"prompt": prompts} | {f"model-{j}": column for j, column in enumerate(grades)})


def measure(what: str, n_rows: int, n_models: int, answer: Any) -> None:
    """Send the seconds of processor for the stream, without making it, for all, and the peak of memory in MB."""
    warnings.simplefilter("ignore")
    seconds, begun, sample = 0.0, time.process_time(), PromptSample()
    take: Any = RouteBatch(pooled(n_models)) if what == "route" else sample.add
    for batch in synthetic(n_rows):
        at = time.process_time()
        take(batch)
        seconds += time.process_time() - at
    if what == "fit":
        UniRouter().fit(sample.frame())
    elif what == "sample":
        sample.frame()
    answer.send((seconds, time.process_time() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000))


def pooled(n_models: int) -> UniRouter:
    """Return a router with a pool of copies of a few models."""
    table = read_outcomes(pd.concat(list(synthetic(2_000))))
    table = dataclasses.replace(table, costs=np.ones((len(table), 1)) * 1e-4 * np.arange(1, MODELS + 1))
    router, measured = UniRouter().fit(table), table.rows(range(400))
    some = [router.profile(Evaluation.recorded(model, measured)) for model in table.models]
    copies = [dataclasses.replace(some[j % MODELS], model=f"copy-{j}") for j in range(n_models)]
    return router.with_pool(Pool({profile.model: profile for profile in copies}))


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("area", "memory"))
    parser.add_argument("sets", nargs="*", default=["mmlu_pro", "zeroeval"])
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="+", default=[4_000, 1_000])
    parser.add_argument("--answers", type=int, help="of each prompt, by as many random models; all when not given")
    parser.add_argument("--rows", type=int, nargs="+", default=[10**5, 10**6])
    parser.add_argument("--models", type=int, default=50, help="in the pool, where prompts are routed")
    parser.add_argument("--what", nargs="+", default=["sample", "fit", "route"])
    asked = parser.parse_args()
    if asked.part == "area":
        print("| set | vectors | learned from | cross-fitted Area, or its difference |\n|---|---|---|---|")
        for name in asked.sets:
            found: dict[tuple[str, str], list[float]] = {}
            for trial in range(asked.trials):
                for shown, learned, value in areas(name, trial, asked.sizes, asked.answers):
                    print(json.dumps([name, trial, shown, learned, value]), file=sys.stderr, flush=True)
                    found.setdefault((shown, learned), []).append(value)
            for (shown, learned), values in found.items():
                error = np.std(values, ddof=1) / len(values) ** 0.5
                number = f"{np.mean(values):.4f}" if "all" in learned else f"{np.mean(values):+.4f} ± {error:.4f}"
                print(f"| {name} | {shown} | {learned} | {number} |", flush=True)
        return
    print("| what | rows | rows/s of processor | s of processor in all | peak MB |\n|---|---|---|---|---|")
    for what in asked.what:
        for n_rows in asked.rows:
            mine, theirs = multiprocessing.Pipe()
            process = multiprocessing.get_context("spawn").Process(
                target=measure, args=(what, n_rows, asked.models, theirs)
            )
            process.start()
            theirs.close()
            seconds, total, peak = mine.recv()
            process.join()
            print(f"| {what} | {n_rows:,} | {n_rows / seconds:,.0f} | {total:.0f} | {peak:.0f} |", flush=True)


if __name__ == "__main__":
    main()
