"""Draw the README's picture: eight recorded models that the router was not trained on, on function-calling prompts.

python tests/benchmarks/draw_curve.py docs/curve.png
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

from unirouter_core import Evaluation, UniRouter, read_outcomes, report, tune
from unirouter_plugins.report import draw

DATA = Path(os.environ.get("UNIROUTER_DATA", Path(__file__).parents[3] / "shared" / "data"))
POOL = (
    "claude-3-5-sonnet-20240620",
    "claude-3-haiku-20240307",
    "gpt-4-0125-preview",
    "gpt-4o-mini-2024-07-18",
    "gpt-3.5-turbo-0125",
    "gemini-1.5-pro-preview-0514",
    "meta-llama_Meta-Llama-3-70B-Instruct",
    "gorilla-openfunctions-v2",
)


def main(picture: Path) -> None:
    """Fit on half of the prompts and all other models, onboard on 400 prompts, judge on the rest."""
    outcomes = read_outcomes(DATA / "bfcl2024")
    train, val, test = np.split(np.random.default_rng(0).permutation(len(outcomes)), [700, 1100])
    twins = {*POOL, *(f"{model}-FC" for model in POOL)}
    others = [model for model in outcomes.models if model not in twins]
    router = UniRouter().fit(outcomes.rows(train).of(others))
    for model in POOL:
        router.onboard(Evaluation.recorded(model, outcomes.rows(val)))
    tuning = tune(router, keep_quality=1.0)
    print(tuning.verdict, tuning.quality_interval, tuning.cost_interval)
    router.cost_weight = tuning.cost_weight
    made = report(router, outcomes=outcomes.rows(test))
    print(made.verdict, f"quality {made.quality:.3f}, ${1000 * made.cost:.3f} per 1,000 prompts", made.shares)
    draw(made, picture)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
