"""Re-run the table of methods on recorded outcomes: paired splits of models and prompts, Area and QNC for each method.

python tests/benchmarks/uniroute_table.py --trials 20 mmlu_pro zeroeval bfcl2024
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from unirouter_core.clusters import closeness, fit_centroids, offsets
from unirouter_core.curves import Curve, deferral_curve, zero_router_curve
from unirouter_core.embedding import Array, normalise
from unirouter_core.estimators import (
    BlendEstimator,
    Estimator,
    KMeansEstimator,
    LearnedMapEstimator,
    LowRankEstimator,
    MixtureEstimator,
    NeighboursEstimator,
    Prediction,
    ShrunkenClustersEstimator,
    clairvoyant,
)
from unirouter_core.estimators.blend import REGIONS, coverage, region_gaps
from unirouter_core.metrics import measure
from unirouter_core.outcomes import Outcomes
from unirouter_core.readers import read_outcomes

DATA = Path(os.environ.get("UNIROUTER_DATA", Path(__file__).parents[3] / "shared" / "data"))
VALIDATION = {"mmlu_pro": (400, 100), "zeroeval": (400, 100), "bfcl2024": (300, 100)}

METHODS: dict[str, Callable[[int], Estimator]] = {
    "K-NN": lambda n_val: NeighboursEstimator(n_val=n_val),
    "K-Means, paper's K": lambda n_val: KMeansEstimator(rule="paper", n_val=n_val),
    "K-Means": lambda n_val: KMeansEstimator(n_val=n_val),
    "LearnedMap": lambda n_val: LearnedMapEstimator(n_val=n_val),
    "A": lambda n_val: ShrunkenClustersEstimator(),
    "B": lambda n_val: LowRankEstimator(),
    "(A + B) / 2": lambda n_val: BlendEstimator((ShrunkenClustersEstimator(), LowRankEstimator()), n_val=n_val),
    "C": lambda n_val: MixtureEstimator(),
    "default": lambda n_val: BlendEstimator(n_val=n_val),
}


def load(name: str) -> tuple[Outcomes, Array]:
    """Return the gapless table of `name` (models with 98 % of the prompts, a cost above 0) and its MiniLM vectors."""
    outcomes = read_outcomes(DATA / name)
    X = normalise(np.load(DATA / name / "minilm.npy").astype(np.float32))
    known = ~np.isnan(outcomes.errors)
    costs = np.nan_to_num(outcomes.costs).mean(0)
    kept = outcomes.of(
        [m for m, share, cost in zip(outcomes.models, known.mean(0), costs, strict=True) if share >= 0.98 and cost > 0]
    )
    rows = np.flatnonzero(~np.isnan(kept.errors).any(1))
    return kept.rows(rows), X[rows]


def split_models(models: tuple[str, ...], rng: np.random.Generator) -> tuple[list[int], list[int]]:
    """Return two thirds of the models for training and the rest, twins (``-FC`` and prompted) on one side."""
    names = [model.removesuffix("-FC-Any").removesuffix("-FC-Auto").removesuffix("-FC") for model in models]
    groups = rng.permutation(sorted(set(names)))
    train: set[str] = set()
    for group in groups:
        if sum(name in train for name in names) >= 2 * len(models) / 3:
            break
        train.add(group)
    return [j for j, name in enumerate(names) if name in train], [
        j for j, name in enumerate(names) if name not in train
    ]


def trial(
    outcomes: Outcomes, X: Array, n_val: int, seed: int, methods: list[str], without_known: bool = False
) -> dict[str, dict[str, float]]:
    """Return Area, QNC, Brier score, coverage of 80 % intervals and seconds of every method on one split.

    `without_known` is the user's own case: no answers of training models on the validation prompts, and estimators
    calibrated for 400 prompts whatever `n_val`.
    """
    rng = np.random.default_rng(seed)
    train_models, new_models = split_models(outcomes.models, rng)
    train, val, test = np.split(order := rng.permutation(len(outcomes)), [len(order) // 2, len(order) * 7 // 10])
    val = val[:n_val]
    errors, costs = outcomes.errors, np.nanmean(outcomes.costs, axis=0)
    wrong, price = errors[np.ix_(test, new_models)], costs[new_models]
    training = outcomes.of([outcomes.models[j] for j in train_models]).rows(train)
    centroids = fit_centroids(X[train], REGIONS, seed)
    regions = closeness(X[test], centroids, offsets(centroids)).argmax(axis=1)
    rows = {}

    def score(name: str, curve: Curve, prediction: Prediction | None, seconds: float) -> None:
        measured = measure(curve, wrong, price)
        covered = float("nan")
        if prediction is not None:
            gaps = [region_gaps(_one(prediction, j), wrong[:, j], regions) for j in range(len(new_models))]
            covered = coverage(np.concatenate(gaps), 1.0)
        rows[name] = {
            "area": measured.area,
            "qnc": measured.qnc,
            "brier": float("nan") if prediction is None else float(((prediction.errors - wrong) ** 2).mean()),
            "covered": covered,
            "seconds": seconds,
        }

    score("ZeroRouter", zero_router_curve(errors[np.ix_(val, new_models)], price, wrong, price), None, 0)
    for name in methods:
        start = time.perf_counter()
        estimator = METHODS[name](400 if without_known else n_val).fit(X[train], training)
        known = None if without_known else errors[np.ix_(val, train_models)]
        features = np.stack([estimator.profile(X[val], errors[val, j], known) for j in new_models])
        prediction = estimator.predict(X[test], features)
        score(name, deferral_curve(prediction.errors, price, wrong, price), prediction, time.perf_counter() - start)
    ceiling = clairvoyant(X[train], errors[np.ix_(train, new_models)], X[test])
    score("clairvoyant", deferral_curve(ceiling, price, wrong, price), None, 0)
    return rows


def _one(prediction: Prediction, model: int) -> Prediction:
    return Prediction(prediction.errors[:, [model]], lambda: prediction.stderrs[:, [model]])


def table(trials: list[dict[str, dict[str, float]]]) -> list[str]:
    """Return the lines of a Markdown table: means over the trials, and the default's paired wins."""
    lines = [
        "| method | Area | QNC % | Brier | 80 % covers | default ahead | by | s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    read = {
        name: {key: np.array([each[name][key] for each in trials]) for key in trials[0][name]} for name in trials[0]
    }
    ours = read["default"]["area"] if "default" in read else np.full(len(trials), np.nan)
    for name, columns in read.items():
        ahead = ours - columns["area"]
        area, covered = columns["area"], 100 * columns["covered"].mean()
        lines.append(
            f"| {name} | {area.mean():.4f} ± {area.std() / len(trials) ** 0.5:.4f} | {100 * columns['qnc'].mean():.0f} "
            f"| {columns['brier'].mean():.4f} | {covered:.0f} % | {(ahead > 0).sum()}/{len(trials)} "
            f"| {ahead.mean():+.4f} | {columns['seconds'].mean():.1f} |"
        )
    closed = (ours - read["ZeroRouter"]["area"]).mean() / (
        read["clairvoyant"]["area"] - read["ZeroRouter"]["area"]
    ).mean()
    return [*lines, f"Gap from ZeroRouter to clairvoyant closed by the default: {closed:.0%}"]


def main() -> None:
    """Print the table of every set and both sizes of the validation set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", default=list(VALIDATION))
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--methods", default="|".join(METHODS), help="names joined by |")
    parser.add_argument("--n-val", type=int, nargs="*", help="in place of the two sizes of each set")
    parser.add_argument(
        "--without-known", action="store_true", help="no training models' answers on the validation set"
    )
    asked = parser.parse_args()
    for name in asked.sets:
        outcomes, X = load(name)
        for n_val in asked.n_val or VALIDATION[name]:
            how = asked.methods.split("|"), asked.without_known
            trials = [trial(outcomes, X, n_val, seed, *how) for seed in range(asked.trials)]
            size = f"{len(outcomes)} prompts, {len(outcomes.models)} models, N_val {n_val}"
            print(f"\n### {name}: {size}, {asked.trials} trials\n")
            print("\n".join(table(trials)), flush=True)


if __name__ == "__main__":
    main()
