"""The paper's protocol on recorded outcomes: every method on the same random splits, and how they compare."""

from unirouter_core.benchmark.case import Case, Costs
from unirouter_core.benchmark.methods import AFTER, BEFORE, CEILING, DEFAULT, METHODS, ZERO, Method, methods_named
from unirouter_core.benchmark.recorded import Recorded, recorded
from unirouter_core.benchmark.records import GRID, SCALARS, Record
from unirouter_core.benchmark.splits import Split, reachable, split, twins, validation_share
from unirouter_core.benchmark.summary import Standing, standings
from unirouter_core.benchmark.trials import N_VALS, Settings, benchmark, run_trial

__all__ = [
    "AFTER",
    "BEFORE",
    "CEILING",
    "DEFAULT",
    "GRID",
    "METHODS",
    "N_VALS",
    "SCALARS",
    "ZERO",
    "Case",
    "Costs",
    "Method",
    "Record",
    "Recorded",
    "Settings",
    "Split",
    "Standing",
    "benchmark",
    "methods_named",
    "reachable",
    "recorded",
    "run_trial",
    "split",
    "standings",
    "twins",
    "validation_share",
]
