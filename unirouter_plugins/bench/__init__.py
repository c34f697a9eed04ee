"""The paper's protocol on recorded outcomes: every method on the same random splits, and how they compare."""

from unirouter_plugins.bench.case import Case, Costs
from unirouter_plugins.bench.methods import AFTER, BEFORE, CEILING, DEFAULT, METHODS, ZERO, Method, methods_named
from unirouter_plugins.bench.recorded import Recorded, recorded
from unirouter_plugins.bench.records import GRID, SCALARS, Record
from unirouter_plugins.bench.splits import Split, reachable, split, twins, validation_share
from unirouter_plugins.bench.summary import Standing, standings
from unirouter_plugins.bench.trials import N_VALS, Settings, benchmark, run_trial

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
