"""Draw the README's picture: eight recorded models that the router was not trained on, on mathematics and code.

python tests/benchmarks/draw_curve.py docs/curve.png
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

from unirouter_core import Evaluation, UniRouter, read_outcomes, report, tune
from unirouter_plugins.figures import draw

DATA = Path(os.environ.get("UNIROUTER_DATA", Path(__file__).parents[3] / "shared" / "data"))
POOL = (
    "o1-mini-2024-09-12",
    "gpt-4o-2024-08-06",
    "gpt-4o-mini-2024-07-18",
    "claude-3-5-sonnet-20241022",
    "claude-3-haiku-20240307",
    "gemini-1.5-flash",
    "Llama-3.1-405B-Inst@sambanova",
    "Meta-Llama-3.1-8B-Instruct",
)


def main(picture: Path) -> None:
    """Fit on half of the prompts and all other models, onboard on 400 prompts, judge on the rest."""
    outcomes = read_outcomes(DATA / "zeroeval")
    train, val, test = np.split(np.random.default_rng(0).permutation(len(outcomes)), [1200, 1600])
    others = [model for model in outcomes.models if model not in POOL]
    router = UniRouter().fit(outcomes.rows(train).of(others))
    for model in POOL:
        router.onboard(Evaluation.recorded(model, outcomes.rows(val)))
    tuning = tune(router, save_cost=0.4)
    print(tuning.verdict, tuning.quality_interval, tuning.cost_interval)
    router.cost_weight = tuning.cost_weight
    made = report(router, outcomes=outcomes.rows(test))
    print(made.verdict, f"quality {made.quality:.3f}, ${1000 * made.cost:.3f} per 1,000 prompts", made.shares)
    draw(made, picture)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
