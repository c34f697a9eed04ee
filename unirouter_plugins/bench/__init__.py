"""The paper's protocol on recorded outcomes: every method on the same random splits, and how they compare."""

from unirouter_core.exceptions import missing_package

try:
    import jinja2  # noqa: F401
    import matplotlib  # noqa: F401
    import pandas  # noqa: F401
    import pyarrow  # noqa: F401
except ImportError as missing:
    raise missing_package(str(missing.name), "bench") from missing

from unirouter_plugins.bench.methods import (
    AFTER,
    BEFORE,
    METHODS,
    Method,
    Settings,
    benchmark,
    methods_named,
    run_trial,
)
from unirouter_plugins.bench.protocol import N_VALS, Case, Recorded, Split, reachable, recorded, split
from unirouter_plugins.bench.results import (
    CLAIRVOYANT,
    DEFAULT,
    SCALARS,
    ZERO,
    Areas,
    TrialFiles,
    areas,
    shown,
    standings,
)

__all__ = ["AFTER", "BEFORE", "CLAIRVOYANT", "DEFAULT", "METHODS", "N_VALS", "SCALARS", "ZERO", "Areas", "Case"]
__all__ += ["Method", "Recorded", "Settings", "Split", "TrialFiles", "areas", "benchmark", "methods_named"]
__all__ += ["reachable", "recorded", "run_trial", "shown", "split", "standings"]


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
