"""Coverage of 80 % intervals for a new model's error in a region, by a router's default, fitted once for all sizes.

python tests/benchmarks/interval_coverage.py --trials 10

Besides the sets as they are: 1,250 of their prompts, and grades between 0 and 1, the mean of three models of about the
same accuracy. `llmrouter_ulab` has nine models, so six to calibrate on, and is graded. Each new model is measured on
its own random validation prompts, four times: the luck of prompts that all models share would be most of the noise.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from sets import DATA, VALIDATION

from unirouter_core import Outcomes, read_outcomes
from unirouter_core.estimators import DefaultEstimator, Prediction
from unirouter_core.estimators.calibration import interval_coverage
from unirouter_plugins.bench import Case, Recorded, recorded, split

SIZES = 50, 100, 200, 400  # answers of a new model
SMALL = 1_250  # prompts
TOGETHER = 3  # models that are one graded model
DRAWS = 4  # of validation prompts, for each new model


def graded(table: Recorded) -> Recorded:
    """Return a table whose models are means of three, neighbours by accuracy, two steps apart."""
    known, order = table.outcomes, np.argsort(table.outcomes.errors.mean(axis=0))
    groups = [order[start : start + TOGETHER].tolist() for start in range(0, len(order) - TOGETHER + 1, 2)]
    means = (np.stack([part[:, group].mean(axis=1) for group in groups], 1) for part in (known.errors, known.costs))
    return dataclasses.replace(table, outcomes=Outcomes(known.prompts, [f"m{i}" for i in range(len(groups))], *means))


def small(table: Recorded, trial: int) -> Recorded:
    """Return 1,250 prompts of a table, others in each trial."""
    rows = np.random.default_rng([9, trial]).permutation(len(table))[:SMALL]
    return dataclasses.replace(table, outcomes=table.outcomes.rows(rows), X=None if table.X is None else table.X[rows])


def measured(case: Case, estimator: DefaultEstimator, n: int, known: bool, rng: np.random.Generator) -> Prediction:
    """Return the predictions after `n` answers of each new model, each to other prompts."""
    features = []
    for errors in case.measured.errors.T:
        rows = rng.permutation(len(case.X_validation))[:n]
        features.append(estimator.profile(case.X_validation[rows], errors[rows], case.known[rows] if known else None))
    return estimator.predict(case.X_test, np.stack(features))


def trial_shares(table: Recorded, trial: int) -> Iterator[tuple[str, bool, int, float]]:
    """Yield a new model, whether the known models' answers are given, the number of answers, and the share covered."""
    case = Case.of(table, split(table.outcomes.models, len(table), [17, trial]))
    estimator = DefaultEstimator().fit(case.X_train, case.training)
    rng = np.random.default_rng([11, trial])
    for n in (n for n in SIZES if n <= len(case.X_validation)):
        for known in (True, False):
            columns = []
            for _ in range(DRAWS):
                given = measured(case, estimator, n, known, rng)
                each = (np.hsplit(array, array.shape[1]) for array in (given.errors, given.stderrs, case.errors))
                columns.append([interval_coverage(*one, case.test_regions) for one in zip(*each, strict=True)])
            yield from (
                (model, known, n, float(share))
                for model, share in zip(case.measured.models, np.mean(columns, axis=0), strict=True)
            )


def standard_error(shares: np.ndarray, groups: list[object]) -> float:
    """Return the standard error of the mean of `shares`, those of a group taken as one observation."""
    sums = defaultdict[object, float](float)
    for group, off in zip(groups, (shares - shares.mean()).tolist(), strict=True):
        sums[group] += off
    return float(np.sqrt(sum(off**2 for off in sums.values()) * len(sums) / max(len(sums) - 1, 1)) / len(shares))


def main() -> None:
    """Print a table of every set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", default=[*VALIDATION, "llmrouter_ulab"])
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--records", type=Path, help="JSONL of each trial's shares, added to and read again")
    asked = parser.parse_args()
    lines = asked.records.read_text().splitlines() if asked.records and asked.records.exists() else []
    records = {(label, trial): shares for label, trial, shares in map(json.loads, lines)}
    print(
        f"| set | known models' answers | {' | '.join(f'{n} answers' for n in SIZES)} |\n|---|---|{'---|' * len(SIZES)}"
    )
    for name in asked.sets:
        vectors = DATA / name / "minilm.npy"
        whole = recorded(name, read_outcomes(DATA / name), np.load(vectors) if vectors.exists() else None)
        labels = [name, f"{name}, {SMALL:,} prompts", f"{name}, graded, {SMALL:,} prompts"]
        for label in labels if name in VALIDATION else labels[:1]:
            table, found = graded(whole) if "graded" in label else whole, defaultdict(list)
            for trial in range(asked.trials):
                if (label, trial) not in records:
                    records[label, trial] = list(
                        trial_shares(small(table, trial) if "prompts" in label else table, trial)
                    )
                    if asked.records:
                        with asked.records.open("a") as file:
                            file.write(json.dumps([label, trial, records[label, trial]]) + "\n")
                for model, known, n, share in records[label, trial]:
                    found[known, n].append((trial, model, share))
            for known in (True, False):
                cells = []
                for n in SIZES:
                    of = [each for each in found[known, n] if not np.isnan(each[2])]
                    shares = np.array([share for *_, share in of])
                    errors = [standard_error(shares, [each[by] for each in of]) for by in (0, 1)] if of else []
                    cells.append(f"{100 * shares.mean():.0f} % ± {100 * max(errors):.0f} %" if of else "")
                print(f"| {label} | {'yes' if known else 'no'} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
