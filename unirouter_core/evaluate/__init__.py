"""Whether routing pays: held-out predictions, tuning to a goal, reports, a model's impact, cost forecasts, stopping."""

from unirouter_core.evaluate.bootstrap import Bootstrap
from unirouter_core.evaluate.checking import CheckValue, check_value
from unirouter_core.evaluate.effort_shares import Efforts, efforts
from unirouter_core.evaluate.forecasting import Forecast, forecast
from unirouter_core.evaluate.goals import Goal, Today
from unirouter_core.evaluate.holdout import HeldOut, held_out
from unirouter_core.evaluate.impacts import Change, Impact, impact, standings
from unirouter_core.evaluate.metrics import Metrics, measure
from unirouter_core.evaluate.reporting import Report, report
from unirouter_core.evaluate.stopping import Undecided, ask_order, undecided
from unirouter_core.evaluate.tuning import Choice, Tuning, tune
from unirouter_core.evaluate.verdict import Verdict, level_of

__all__ = [
    "Bootstrap", "Change", "CheckValue", "Choice", "Efforts", "Forecast", "Goal", "HeldOut", "Impact", "Metrics",
    "Report", "Today", "Tuning", "Undecided", "Verdict", "ask_order", "check_value", "efforts", "forecast", "held_out",
    "impact", "level_of", "measure", "report", "standings", "tune", "undecided",
]  # fmt: skip


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
