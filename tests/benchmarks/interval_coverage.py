"""Coverage of 80 % intervals for a new model's error in a region, by a router's default, fitted once for all sizes.

python tests/benchmarks/interval_coverage.py --trials 6

Besides the sets as they are: 1,250 of their prompts, and grades between 0 and 1, the mean of three models of about the
same accuracy. `llmrouter_ulab`
has nine models, so six to calibrate on, and is graded.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections import defaultdict

import numpy as np
from sets import DATA, VALIDATION

from unirouter_core import Outcomes, read_outcomes
from unirouter_core.estimators import DefaultEstimator
from unirouter_core.estimators.calibration import interval_coverage
from unirouter_plugins.bench import Case, Recorded, recorded, split

SIZES = 50, 100, 200, 400  # answers of a new model
SMALL = 1_250  # prompts
TOGETHER = 3  # models that are one graded model


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


def main() -> None:
    """Print a table of every set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", default=[*VALIDATION, "llmrouter_ulab"])
    parser.add_argument("--trials", type=int, default=6)
    asked = parser.parse_args()
    print(
        f"| set | known models' answers | {' | '.join(f'{n} answers' for n in SIZES)} |\n|---|---|{'---|' * len(SIZES)}"
    )
    for name in asked.sets:
        vectors = DATA / name / "minilm.npy"
        whole = recorded(name, read_outcomes(DATA / name), np.load(vectors) if vectors.exists() else None)
        is_public = name in VALIDATION
        for label in (name, f"{name}, {SMALL:,} prompts", f"{name}, graded, {SMALL:,} prompts")[
            : 3 if is_public else 1
        ]:
            table, found = graded(whole) if "graded" in label else whole, defaultdict(list)
            for trial in range(asked.trials):
                used = small(table, trial) if "prompts" in label else table
                case = Case.of(used, split(used.outcomes.models, len(used), [7, trial]))
                estimator = DefaultEstimator().fit(case.X_train, case.training)
                for n in SIZES:
                    for known in (True, False) if n <= len(case.X_validation) else ():
                        given = case.predict(estimator, n, known=known)
                        inside = interval_coverage(given.errors, given.stderrs, case.errors, case.test_regions)
                        found[known, n].append(inside)
            for known in (True, False):
                cells = [np.array(found[known, n]) for n in SIZES]
                shown = [f"{c.mean():.0%} ± {c.std() / len(c) ** 0.5:.0%}" if len(c) else "" for c in cells]
                print(f"| {label} | {'yes' if known else 'no'} | {' | '.join(shown)} |", flush=True)


if __name__ == "__main__":
    main()
