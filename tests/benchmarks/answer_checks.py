"""What checks of answers are worth on recorded answers: Area with and without, agreement and simulated checks.

python tests/benchmarks/answer_checks.py --trials 10 zeroeval mmlu_pro

Needs UNIROUTER_DATA, with `answers.npz` in the folder of each set. The splits are those of `unirouter bench`. A check
of AUC a is drawn: N(0, 1), shifted for wrong answers so that it ranks one above a right answer with probability a.
Agreement asks a cheaper model too, whose cost is that of the check. Corners of the cross-fitted curves are chosen on
one half of the test prompts and scored on the other.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator

import numpy as np
import pandas as pd
from scipy.stats import norm
from threadpoolctl import threadpool_limits

from tests.benchmarks.sets import DATA
from unirouter_core.checks import Check
from unirouter_core.curves import Sweep
from unirouter_core.embedding import Array, Labels
from unirouter_core.estimators import DefaultEstimator
from unirouter_core.evaluate.checking import follow
from unirouter_core.outcome_files import read_outcomes
from unirouter_plugins.bench.protocol import Case, Recorded, recorded, split
from unirouter_plugins.bench.results import areas

ALONE = ("mixture", "clairvoyant")  # without checks: one prediction for all prompts, and the true errors
KINDS = (*ALONE, "agreement", ".7", ".8", ".9", "perfect")
MOST_JUDGED = 2000  # test prompts of a trial, drawn at random
WEIGHTS = np.r_[0, np.geomspace(0.01, 100, 30), 1e9]  # of the cost over that of the dearest model


def signals_of(
    kind: str, errors: Array, answers: Labels, costs: Array, seed: list[int]
) -> Iterator[tuple[int, float, Array]]:
    """Yield the column of each model with a check, what the check costs, and its signals on all prompts."""
    rng, m = np.random.default_rng(seed), errors.shape[1]
    if kind == "agreement":
        for one, other in itertools.permutations(range(m), 2):
            if costs[other] <= costs[one]:
                yield one, costs[other], (answers[:, one] == answers[:, other]) & (answers[:, one] >= 0)
        return
    for one in range(m):
        if kind == "perfect":  # as tests and schemas say it
            yield one, 0.0, errors[:, one] > 0.5
        else:
            distance = np.sqrt(2) * norm.ppf(float(kind))
            yield one, 0.0, errors[:, one] * distance + rng.standard_normal(len(errors))


def both_areas(errors: Array, usd: Array, dearest: float) -> tuple[float, float]:
    """Return the Area under the hull and the cross-fitted one of points (n_weights, n) of each prompt."""
    quality, cost = (np.diff(each, axis=0, prepend=0).ravel() for each in (1 - errors, usd))
    n_weights, n = errors.shape
    swept = Sweep(np.tile(np.arange(n), n_weights), np.repeat(WEIGHTS, n), quality, cost)
    crossed, _, hull = areas(swept.curve(), swept.crossfit(), dearest)
    return hull, crossed


def run_trial(
    table: Recorded, answers: Labels, n_val: int, trial: int, kinds: list[str]
) -> Iterator[dict[str, object]]:
    """Yield the gains in Area of each kind of check over the default without checks, in one split."""
    parts = split(table.outcomes.models, len(table), [0, trial], {})
    case = Case.of(table, parts)
    predicted = case.predict(DefaultEstimator().fit(case.X_train, case.training), n_val).errors
    some = np.random.default_rng(trial).permutation(len(case.errors))[:MOST_JUDGED]
    predicted, truth, dearest = predicted[some], case.errors[some], float(case.costs.max())
    measured, both = case.measured.errors[:n_val], np.r_[parts.validation[:n_val], parts.test[some]]
    every, usd = np.concatenate([measured, truth]), np.broadcast_to(case.costs, truth.shape)

    def found(expected: Array, checks: list[tuple[Check, Array]]) -> tuple[float, float]:
        paths = [follow(expected, usd, truth, usd, checks, weight) for weight in WEIGHTS / dearest]
        return both_areas(*map(np.stack, zip(*paths, strict=True)), dearest)

    base = found(predicted, [])
    for kind in kinds:
        expected, checks = predicted, []
        if kind in ALONE:
            expected = truth if kind == "clairvoyant" else np.broadcast_to(measured.mean(axis=0), truth.shape)
        else:
            given = signals_of(kind, every, answers[np.ix_(both, parts.new)], case.costs, [trial, 1])
            fitted = ((Check.fit(kind, col, each[:n_val], measured, price), each[n_val:]) for col, price, each in given)
            checks = [(check, signals) for check, signals in fitted if check is not None]
        area, crossed = found(expected, checks)
        gains = {"area": area - base[0], "cross-fitted": crossed - base[1]}
        yield {"set": table.name, "n_val": n_val, "check": kind, "trial": trial, "default": base[0], **gains}


def main() -> None:
    """Print the mean gains and their standard errors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", default=["zeroeval", "mmlu_pro"])
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--n-val", type=int, default=400)
    parser.add_argument("--checks", nargs="*", default=list(KINDS))
    given = parser.parse_args()
    found = []
    for name in given.sets:
        outcomes = read_outcomes(DATA / name)
        table = recorded(name, outcomes, np.load(DATA / name / "minilm.npy"))
        place = {prompt: row for row, prompt in reversed(list(enumerate(outcomes.prompts)))}
        with np.load(DATA / name / "answers.npz") as file:
            columns = [file["models"].tolist().index(model) for model in table.outcomes.models]
            answers = file["answers"][np.ix_([place[prompt] for prompt in table.outcomes.prompts], columns)]
        with threadpool_limits(1):
            for trial in range(given.trials):
                found += run_trial(table, answers, given.n_val, trial, given.checks)
    gains = pd.DataFrame(found).groupby(["set", "n_val", "check"], sort=False)
    shown = gains[["default", "area", "cross-fitted"]].agg(["mean", "sem"]).round(4)
    shown["ahead", "trials"] = gains["cross-fitted"].agg(lambda each: f"{(each > 0).sum()} of {len(each)}")
    print(shown.to_string())


if __name__ == "__main__":
    main()
