"""Fit the starter from recorded outcomes and write it into the package.

    python -m unirouter_core.starter.make DATA

DATA holds the folders ``mmlu_pro`` and ``zeroeval``. The same data and library versions give the same bytes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from unirouter_core.costs import BY_CHARACTERS, TokenCounter
from unirouter_core.data import Evaluation, Outcomes, ValidationSet
from unirouter_core.embedding import HashingEmbedder
from unirouter_core.estimators import DefaultEstimator
from unirouter_core.fit import Fit
from unirouter_core.outcome_files import read_outcomes
from unirouter_core.router import UniRouter

FOLDER = Path(__file__).parent / "starter.router"
SETS = ("mmlu_pro", "zeroeval")

EXAMPLES = {
    "gemini-3.1-pro": "2026-02",
    "gpt-4o-2024-05-13": "2024-05",
    "gemini-1.5-pro-002": "2024-09",
    "gemini-1.5-flash-002": "2024-09",
    "DeepSeek-Coder-V2": "2024-06",
    "deepseek-v2-chat-0514": "2024-05",
    "Meta-Llama-3.1-70B-Instruct": "2024-07",
    "Meta-Llama-3.1-8B-Instruct": "2024-07",
    "Mixtral-8x7B-Instruct-v0.1": "2023-12",
    "Phi-3-mini-4k-instruct": "2024-04",
    "jamba-1.5-large": "2024-08",
    "c4ai-command-r-v01": "2024-03",
}
"""The recorded example models and the month of their release; all measured on the same MMLU-Pro questions."""

PREFIX = "recorded/"
SOURCE = (
    "recorded example: answers published in TIGER-AI-Lab/MMLU-Pro, dated by the model's release; costs are list prices "
    "typed in by hand times the tokens of question and stored answer, without the few-shot prefix and hidden reasoning"
)
N_VAL = 600
EXAMPLE_COST_WEIGHT = 1 / 0.015
"""One wrong answer is worth a cent and a half."""


def join(tables: list[Outcomes]) -> Outcomes:
    """Return one table of all prompts and all models, with gaps where a model did not see a table's prompts."""
    models = sorted({model for table in tables for model in table.models})
    prompts = [prompt for table in tables for prompt in table.prompts]
    names = ("errors", "costs", "tokens_in", "tokens_out")
    columns = {name: np.full((len(prompts), len(models)), np.nan) for name in names}
    start = 0
    for table in tables:
        rows = np.arange(start, start + len(table))
        at = np.ix_(rows, np.array([models.index(model) for model in table.models]))
        for name, column in columns.items():
            column[at] = getattr(table, name)
        start += len(table)
    errors, costs, tokens_in, tokens_out = (columns[name] for name in names)
    return Outcomes(prompts, models, errors, costs, tokens_in, tokens_out)


def fit(training: Outcomes, seed: int = 0) -> UniRouter:
    """Return the starter's prompt features, fitted on `training`."""
    counter = TokenCounter(BY_CHARACTERS)  # the same count wherever the package is installed
    embedder, estimator = HashingEmbedder(seed=seed), DefaultEstimator(seed=seed)
    learned = Fit.learn(training, embedder=embedder, estimator=estimator, seed=seed, token_counter=counter)
    return UniRouter.from_fit(learned, cost_weight=EXAMPLE_COST_WEIGHT)


def hold_out(table: Outcomes) -> tuple[Outcomes, Outcomes]:
    """Return the prompts to fit on, and those to measure the examples on: all of these answered them."""
    answered = np.flatnonzero(~np.isnan(table.of(list(EXAMPLES)).errors).any(axis=1))
    measured = np.random.default_rng(0).permutation(answered)[:N_VAL]
    return table.rows(np.setdiff1d(np.arange(len(table)), measured)), table.rows(measured)


def onboard_examples(router: UniRouter, val: Outcomes) -> None:
    """Onboard the example models on the prompts of `val`."""
    validation = ValidationSet(val.prompts, known=val)
    for model, released in EXAMPLES.items():
        column = val.column(model)
        router.onboard(
            Evaluation(
                PREFIX + model,
                validation,
                val.errors[:, column],
                tokens_in=val.tokens_in[:, column],
                tokens_out=val.tokens_out[:, column],
                prices=val.prices[model],
                provenance={"date": released, "source": SOURCE},
            )
        )


def main(data: Path) -> None:
    """Make the starter from the folders in `data` and write it."""
    first, second = (read_outcomes(data / name) for name in SETS)
    training, val = hold_out(first)
    router = fit(join([training, second]))
    onboard_examples(router, val)
    router.save(FOLDER, texts=False)
    size = sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file())
    sys.stdout.write(f"{FOLDER}: {size / 2**20:.2f} MiB, fit {router.fit_.id}, {len(router.pool)} example models\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
