"""A router of full size on recorded outcomes: 30 training models, 50 models in the pool, MiniLM vectors."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from unirouter_core import Evaluation, Outcomes, UniRouter, ValidationSet, read_outcomes

DATA = Path(os.environ.get("UNIROUTER_DATA", Path(__file__).parents[3] / "shared" / "data"))
N_MODELS, N_VAL = 50, 400


@pytest.fixture(scope="session")
def table() -> Outcomes:
    if not (DATA / "mmlu_pro").is_dir():
        pytest.skip(f"the recorded outcomes are not at {DATA}; set UNIROUTER_DATA")
    outcomes = read_outcomes(DATA / "mmlu_pro")
    return outcomes.of(
        [model for model in outcomes.models if np.nanmean(outcomes.costs[:, outcomes.column(model)]) > 0]
    )


@pytest.fixture(scope="session")
def vectors() -> np.ndarray:
    return np.load(DATA / "mmlu_pro" / "minilm.npy").astype(np.float32)


@pytest.fixture(scope="session")
def evaluations(table: Outcomes) -> list[Evaluation]:
    """The table's models, and as many noisy twins as make 50, on 400 prompts with the training models' answers."""
    rng = np.random.default_rng(0)
    val = table.rows(rng.permutation(len(table))[:N_VAL])
    validation = ValidationSet(val.prompts, known=val)
    made = []
    for j in range(N_MODELS):
        model, twin = val.models[j % len(val.models)], j // len(val.models)
        column = val.column(model)
        errors = np.where(rng.random(N_VAL) < 0.1 * twin, rng.integers(0, 2, N_VAL), val.errors[:, column])
        tokens = val.tokens_in[:, column], val.tokens_out[:, column]
        prices = val.prices[model]
        made.append(Evaluation(f"{model} {twin}", validation, errors, None, *tokens, prices=prices))
    return made


@pytest.fixture(scope="session")
def router(table: Outcomes, vectors: np.ndarray, evaluations: list[Evaluation]) -> UniRouter:
    """Fitted on given vectors, d = 384, with 50 models."""
    made = UniRouter(embedder=lambda prompts: np.ones((len(prompts), 384)), cost_weight=50).fit(table, vectors=vectors)
    rows = {prompt: row for row, prompt in enumerate(table.prompts)}
    val = vectors[[rows[prompt] for prompt in evaluations[0].validation.prompts]]
    for evaluation in evaluations:
        made.onboard(evaluation, vectors=val)
    return made


@pytest.fixture(scope="session")
def text_router(table: Outcomes, evaluations: list[Evaluation]) -> UniRouter:
    """The same with the default embedder."""
    made = UniRouter(cost_weight=50).fit(table)
    for evaluation in evaluations:
        made.onboard(evaluation)
    return made
