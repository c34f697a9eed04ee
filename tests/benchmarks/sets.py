"""The sets of recorded outcomes that the scripts beside this one measure on."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from unirouter_core.data import Outcomes
from unirouter_core.embedding import Array
from unirouter_core.outcome_files import read_outcomes
from unirouter_plugins.bench import recorded

DATA = Path(os.environ.get("UNIROUTER_DATA", Path(__file__).parents[3] / "shared" / "data"))
VALIDATION = {"mmlu_pro": (400, 100), "zeroeval": (400, 100), "bfcl2024": (300, 100)}


def load(name: str) -> tuple[Outcomes, Array]:
    """Return the gapless table of a set and its MiniLM vectors."""
    table = recorded(name, read_outcomes(DATA / name), np.load(DATA / name / "minilm.npy"))
    return table.outcomes, table.X
