"""The sets of recorded outcomes that the scripts beside this one measure on, and how they tell Areas."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from unirouter_core.curves import Sweep
from unirouter_core.data import Outcomes
from unirouter_core.embedding import Array
from unirouter_core.outcome_files import read_outcomes
from unirouter_plugins.bench import Areas, areas, recorded
from unirouter_plugins.bench.results import decimals

DATA = Path(os.environ.get("UNIROUTER_DATA", Path(__file__).parents[3] / "shared" / "data"))
VALIDATION = {"mmlu_pro": (400, 100), "zeroeval": (400, 100), "bfcl2024": (300, 100)}
HEADS = "Area | raw | hull | difference | raw, hull | ahead"
RULE = "---|" * 6


def load(name: str) -> tuple[Outcomes, Array]:
    """Return the gapless table of a set and its MiniLM vectors."""
    table = recorded(name, read_outcomes(DATA / name), np.load(DATA / name / "minilm.npy"))
    return table.outcomes, table.X


def areas_of(swept: Sweep, costs: Array) -> Areas:
    """Return the Areas of a sweep over models of these costs, in USD, (m,) or (n_test, m)."""
    return areas(swept.curve(), swept.crossfit(), float(np.atleast_2d(costs).mean(axis=0).max()))


def mean_areas(found: npt.ArrayLike) -> str:
    """Return the first cells under `HEADS`: the mean of each of the three Areas over trials, (n_trials, 3)."""
    return " | ".join(decimals(mean) for mean in np.mean(found, axis=0).tolist())


def lead(own: npt.ArrayLike, others: npt.ArrayLike) -> str:
    """Return the last cells under `HEADS`: Areas minus those of `others` on the same trials, (n_trials, 3).

    The difference with its standard error, and the trials that are ahead, are of the cross-fitted Area.
    """
    away = np.subtract(own, others)
    by, raw, hull = (decimals(mean, sign="+") for mean in away.mean(axis=0).tolist())
    error = decimals(float(away[:, 0].std(ddof=1)) / len(away) ** 0.5)
    return f"{by} ± {error} | {raw}, {hull} | {(away[:, 0] > 0).sum()}/{len(away)}"
