"""Area and Brier score with the default embedder against MiniLM vectors, on the same splits.

python tests/benchmarks/embedder_area.py --trials 10 mmlu_pro zeroeval bfcl2024
"""

from __future__ import annotations

import argparse

import numpy as np
from sets import HEADS, RULE, VALIDATION, areas_of, lead, load, mean_areas

from unirouter_core import Outcomes
from unirouter_core.curves import sweep
from unirouter_core.embedding import Array, HashingEmbedder, embed
from unirouter_core.estimators import DefaultEstimator, LowRankEstimator, ShrunkenClustersEstimator
from unirouter_plugins.bench import Areas, split

EMBEDDERS = "MiniLM", "HashingEmbedder"


def trial(outcomes: Outcomes, minilm: Array, n_val: int, seed: int) -> dict[tuple[str, str], tuple[Areas, float]]:
    """Return Areas and Brier score by embedder and method on one split."""
    divided = split(outcomes.models, len(outcomes), [0, seed])
    train_models, new_models, train, test = divided.known, divided.new, divided.train, divided.test
    val = divided.validation[:n_val]
    hashing = HashingEmbedder().fit([outcomes.prompts[row] for row in train])
    training = outcomes.of([outcomes.models[j] for j in train_models]).rows(train)
    prices, wrong = np.nanmean(outcomes.costs, axis=0)[new_models], outcomes.errors[np.ix_(test, new_models)]
    scores = {}
    for name, X in zip(EMBEDDERS, (minilm, embed(hashing, outcomes.prompts)), strict=True):
        pair = DefaultEstimator((ShrunkenClustersEstimator(), LowRankEstimator()), n_val=n_val)
        for method, estimator in (("clusters + low rank", pair), ("default", DefaultEstimator(n_val=n_val))):
            estimator.fit(X[train], training)
            known = outcomes.errors[np.ix_(val, train_models)]
            features = np.stack([estimator.profile(X[val], outcomes.errors[val, j], known) for j in new_models])
            predicted = estimator.predict(X[test], features).errors
            areas = areas_of(sweep(predicted, prices, wrong, prices), prices)
            scores[name, method] = areas, float(((predicted - wrong) ** 2).mean())
    return scores


def main() -> None:
    """Print both embedders' Areas and the paired differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", default=list(VALIDATION))
    parser.add_argument("--trials", type=int, default=10)
    asked = parser.parse_args()
    print(f"| set | method | embedder | {HEADS} | Brier |\n|---|---|---|{RULE}---|")
    for name in asked.sets:
        outcomes, minilm = load(name)
        trials = [trial(outcomes, minilm, VALIDATION[name][0], seed) for seed in range(asked.trials)]
        for method in ("clusters + low rank", "default"):
            found = {each: [scores[each, method] for scores in trials] for each in EMBEDDERS}
            for embedder, rows in found.items():
                areas, base = ([score[0] for score in each] for each in (rows, found["MiniLM"]))
                cells = " | | " if embedder == "MiniLM" else lead(areas, base)
                brier = np.mean([score[1] for score in rows])
                print(f"| {name} | {method} | {embedder} | {mean_areas(areas)} | {cells} | {brier:.4f} |", flush=True)


if __name__ == "__main__":
    main()
