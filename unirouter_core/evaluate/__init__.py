"""Whether routing pays: held-out predictions, tuning to a goal, reports, a model's impact, cost forecasts, stopping."""

from unirouter_core.evaluate.bootstrap import Bootstrap
from unirouter_core.evaluate.forecasting import Forecast, forecast
from unirouter_core.evaluate.holdout import HeldOut, held_out
from unirouter_core.evaluate.impacts import Change, Impact, impact, standings
from unirouter_core.evaluate.metrics import Metrics, choice_entropy, mean_quality, measure, sign_test_p
from unirouter_core.evaluate.reporting import Comparison, Report, report
from unirouter_core.evaluate.stopping import Undecided, ask_order, undecided
from unirouter_core.evaluate.tuning import Tuning, tune

__all__ = [
    "Bootstrap",
    "Change",
    "Comparison",
    "Forecast",
    "HeldOut",
    "Impact",
    "Metrics",
    "Report",
    "Tuning",
    "Undecided",
    "ask_order",
    "choice_entropy",
    "forecast",
    "held_out",
    "impact",
    "mean_quality",
    "measure",
    "report",
    "sign_test_p",
    "standings",
    "tune",
    "undecided",
]


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
