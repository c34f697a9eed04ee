"""What the costs that a router expects of each prompt are worth: Area over what the chosen calls really cost.

python tests/benchmarks/cost_curves.py --trials 20
"""

from __future__ import annotations

import argparse
from collections import defaultdict

import numpy as np
from sets import DATA, HEADS, RULE, VALIDATION, areas_of, lead, mean_areas

from unirouter_core import read_outcomes
from unirouter_core.curves import sweep
from unirouter_core.embedding import Array
from unirouter_core.estimators import DefaultEstimator
from unirouter_plugins.bench import Case, recorded, split

MEAN = "the model's mean"


def explained(expected: Array, paid: Array) -> float:
    """Return the median over the models of the share of the variance of USD that is expected (R²)."""
    return float(np.median(1 - ((expected - paid) ** 2).mean(axis=0) / paid.var(axis=0)))


def main() -> None:
    """Print a table of every set and both sizes of the validation set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", default=list(VALIDATION))
    parser.add_argument("--trials", type=int, default=20)
    asked = parser.parse_args()
    print(f"| set, N_val | expected USD | {HEADS} | R² |\n|---|---|{RULE}---|")
    for name in asked.sets:
        table = recorded(name, read_outcomes(DATA / name), np.load(DATA / name / "minilm.npy"), every_cost=True)
        told = defaultdict(list)
        for trial in range(asked.trials):
            divided = split(table.outcomes.models, len(table), [0, trial])
            case = Case.of(table, divided, "per-prompt")
            estimator = DefaultEstimator().fit(case.X_train, case.training)
            for n_val in VALIDATION[name]:
                errors = case.predict(estimator, n_val).errors
                means = np.broadcast_to(case.validation_costs(n_val), errors.shape)
                for label, costs in {
                    MEAN: means,
                    "by prompt": case.expected_costs(n_val),
                    "known beforehand": case.costs,
                }.items():
                    found = areas_of(sweep(errors, costs, case.errors, case.costs), case.costs)
                    told[n_val, label].append((*found, explained(costs, case.costs)))
        for (n_val, label), rows in told.items():
            (own, r2), (base, _) = (np.split(np.array(each), [3], axis=1) for each in (rows, told[n_val, MEAN]))
            cells = f"{mean_areas(own)} | {' | | ' if label == MEAN else lead(own, base)}"
            print(f"| {name}, {n_val} | {label} | {cells} | {r2.mean():.2f} |", flush=True)


if __name__ == "__main__":
    main()
