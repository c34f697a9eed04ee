"""How far routing on the starter's recipe is from features fitted on each set alone, and on the other set.

    python tests/benchmarks/starter_distance.py --trials 10

The starter is refitted on the training prompts of both sets and on two thirds of their models, so that the models and
prompts that judge it are new to it. `known` says whether the validation set carries the training models' answers: a
user's own prompts do not.
"""

from __future__ import annotations

import argparse

import numpy as np
from sets import HEADS, RULE, areas_of, lead, load, mean_areas

from tests.benchmarks.make_starter import SETS, join
from unirouter_core import Outcomes
from unirouter_core.curves import sweep
from unirouter_core.embedding import HashingEmbedder, embed
from unirouter_core.estimators import DefaultEstimator
from unirouter_plugins.bench import Areas, split

N_VAL = 400


def trial(tables: dict[str, Outcomes], seed: int) -> dict[tuple[str, str, bool], Areas]:
    """Return the Areas on each set, by what the features were fitted on and whether `known` was given."""
    parts, models = {}, {}
    everyone = sorted({model for table in tables.values() for model in table.models})
    train_models = {everyone[j] for j in split(everyone, 0, [seed]).known}
    for name, table in tables.items():
        divided = split(table.models, len(table), [seed])
        parts[name] = divided.train, divided.validation, divided.test
        models[name] = [model for model in table.models if model in train_models]
    training = {name: table.of(models[name]).rows(parts[name][0]) for name, table in tables.items()}
    fits = {"own set": training, "starter": dict.fromkeys(tables, join(list(training.values())))}
    fits["other set"] = {name: training[other] for name in tables for other in tables if other != name}
    fits["own prompts"] = training  # and none of their answers, as `fit` on bare prompts
    areas = {}
    for fitted_on, by_set in fits.items():
        for name, table in tables.items():
            outcomes = by_set[name]
            embedder = HashingEmbedder().fit(outcomes.prompts)
            estimator = DefaultEstimator().fit(
                embed(embedder, outcomes.prompts), None if fitted_on == "own prompts" else outcomes
            )
            val, test = table.rows(parts[name][1][:N_VAL]), table.rows(parts[name][2])
            X_val, X_test = embed(embedder, val.prompts), embed(embedder, test.prompts)
            new = [j for j, model in enumerate(table.models) if model not in train_models]
            answers = np.full((len(val), len(outcomes.models)), np.nan)
            for j, model in enumerate(outcomes.models):
                if model in table.models:
                    answers[:, j] = val.errors[:, val.column(model)]
            prices = np.nanmean(table.costs, axis=0)[new]
            for known in (None, answers):
                if known is not None and (np.isnan(known).all() or fitted_on == "own prompts"):
                    continue
                features = np.stack([estimator.profile(X_val, val.errors[:, j], known) for j in new])
                predicted = estimator.predict(X_test, features).errors
                swept = sweep(predicted, prices, test.errors[:, new], prices)
                areas[name, fitted_on, known is not None] = areas_of(swept, prices)
    return areas


def main() -> None:
    """Print the mean Areas of each, and its distance from features fitted on the set itself."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10)
    asked = parser.parse_args()
    tables = {name: load(name)[0] for name in SETS}
    trials = [trial(tables, seed) for seed in range(asked.trials)]
    print(f"| set | features fitted on | known | {HEADS} |\n|---|---|---|{RULE}")
    for name, fitted_on, known in trials[0]:
        areas, own = ([each[name, on, known] for each in trials] for on in (fitted_on, "own set"))
        cells = " | | " if fitted_on == "own set" else lead(areas, own)
        print(f"| {name} | {fitted_on} | {'yes' if known else 'no'} | {mean_areas(areas)} | {cells} |")


if __name__ == "__main__":
    main()
