"""The same prompts give the same bits, whatever the number of cores."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FIT = """
import numpy as np
from unirouter_core import Outcomes, UniRouter

rng = np.random.default_rng(0)
words = [f"w{i}" for i in range(900)]
prompts = [" ".join(rng.choice(words, 12)) + f" {i}" for i in range(2500)]
errors = (rng.random((2500, 8)) < 0.4).astype(float)
table = Outcomes(prompts, [f"m{j}" for j in range(8)], errors, np.ones((2500, 8)))
print(UniRouter().fit(table).fit_.id)
"""


def fit_id(threads: str) -> str:
    limits = {"OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", FIT], env={**os.environ, **limits}, check=True, capture_output=True, text=True
    )
    return done.stdout


def test_a_fit_on_one_thread_and_on_two_is_the_same_to_the_bit():
    assert fit_id("1") == fit_id("2")
