"""Re-run the table of methods on recorded outcomes: paired splits of models and prompts, Area and QNC for each method.

python tests/benchmarks/uniroute_table.py --trials 20 mmlu_pro zeroeval bfcl2024
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from unirouter_core.curves import deferral_curve, zero_router_curve
from unirouter_core.embedding import Array, normalise
from unirouter_core.estimators import (
    BlendEstimator,
    Estimator,
    KMeansEstimator,
    LearnedMapEstimator,
    LowRankEstimator,
    MixtureEstimator,
    NeighboursEstimator,
    ShrunkenClustersEstimator,
    TrainedModels,
)
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
    """Return the gapless table of `name` (models with 98 % of the prompts and a cost above 0) and its MiniLM vectors."""
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


def trial(outcomes: Outcomes, X: Array, n_val: int, seed: int, methods: list[str]) -> dict[str, dict[str, float]]:
    """Return Area, QNC, Brier score and seconds of every method on one split."""
    rng = np.random.default_rng(seed)
    train_models, new_models = split_models(tuple(outcomes.models), rng)
    order = rng.permutation(len(outcomes))
    train, val, test = np.split(order, [int(0.5 * len(order)), int(0.7 * len(order))])
    val = val[:n_val]
    errors, costs = outcomes.errors, np.nanmean(outcomes.costs, axis=0)
    wrong, price = errors[np.ix_(test, new_models)], costs[new_models]
    training = outcomes.of([outcomes.models[j] for j in train_models]).rows(train)
    rows = {}

    def score(name: str, predicted: Array | None, seconds: float) -> None:
        if predicted is None:
            curve = zero_router_curve(errors[np.ix_(val, new_models)], price, wrong, price)
        else:
            curve = deferral_curve(predicted, price, wrong, price)
        quality = 1 - wrong.mean(0)
        rows[name] = {
            "area": curve.hull().area(price.max()),
            "qnc": min(curve.hull().cost_at(quality.max()) / price.max(), 1.0),
            "brier": float("nan") if predicted is None else float(((predicted - wrong) ** 2).mean()),
            "seconds": seconds,
        }

    score("ZeroRouter", None, 0)
    for name in methods:
        start = time.perf_counter()
        estimator = METHODS[name](n_val).fit(X[train], training)
        known = errors[np.ix_(val, train_models)]
        features = np.stack([estimator.profile(X[val], errors[val, j], known) for j in new_models])
        score(name, estimator.predict(X[test], features).errors, time.perf_counter() - start)
    everything = TrainedModels().fit(X[train], errors[np.ix_(train, new_models)])
    score("clairvoyant", np.clip(everything.predict(X[test]), 0, 1), 0)
    return rows
