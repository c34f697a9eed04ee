"""Records of trials to one row for each method: means, the gap closed, and how the default compares."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from unirouter_core.embedding import Array
from unirouter_core.evaluate.bootstrap import paired_interval, sign_test_p
from unirouter_plugins.bench.methods import CEILING, DEFAULT, ZERO
from unirouter_plugins.bench.records import Record

TINY = 1e-12
"""Areas that differ by less are a tie; a gap smaller than this has nothing to close."""


@dataclass(frozen=True)
class Standing:
    """One method at one N_val over all trials: means, and its paired comparison with the default.

    Parameters
    ----------
    table, n_val, method, trials
        Which, and how many.
    area_stderr : float
        Of the mean Area, over trials: the draw of the test models moves it far more than it moves differences.
    area, area_half, qnc, qnc_own, reached, peak, aiq, brier, ece, covered, mu, v_r, v_b, e_p, seconds : float
        Means of `Record`'s; `qnc` and `qnc_own` count 1 where the curve does not reach; `reached` is how often it does.
    gap_closed : float
        The share of the way from ZeroRouter's mean Area to the clairvoyant's.
    ahead, behind : int
        Trials in which the default's Area is larger, and smaller.
    p : float
        Of the sign test on these; NaN where there is nothing to compare.
    by, by_low, by_high : float
        The default's Area minus this method's, on average, and its bootstrap interval of 90 %.
    """

    table: str
    n_val: int
    method: str
    trials: int
    area: float
    area_stderr: float
    area_half: float
    qnc: float
    qnc_own: float
    reached: float
    peak: float
    aiq: float
    brier: float
    ece: float
    covered: float
    mu: float
    v_r: float
    v_b: float
    e_p: float
    gap_closed: float
    ahead: int
    behind: int
    p: float
    by: float
    by_low: float
    by_high: float
    seconds: float


MEANS = (
    "area", "area_half", "qnc", "qnc_own", "reached", "peak", "aiq", "brier", "ece", "covered", "mu",
    "v_r", "v_b", "e_p", "seconds",
)  # fmt: skip


def standings(records: Iterable[Record]) -> list[Standing]:
    """Return the standing of each method, by table, N_val and method in the order of the records.

    Parameters
    ----------
    records : iterable of Record
        All methods of a table and N_val are compared on the trials that all of them have finished.
    """
    parts: dict[tuple[str, int], dict[str, dict[int, Record]]] = {}
    for each in records:
        by_method = parts.setdefault((each.table, each.n_val), {})
        by_method.setdefault(each.method, {})[each.trial] = each
    return [standing for part in parts.values() for standing in _compared(part)]


def _compared(by_method: dict[str, dict[int, Record]]) -> list[Standing]:
    shared = sorted(set.intersection(*(set(trials) for trials in by_method.values())))
    if not shared:
        return []
    lined = {method: [trials[trial] for trial in shared] for method, trials in by_method.items()}
    areas = {method: _column(rows, "area") for method, rows in lined.items()}
    return [_standing(rows, areas) for rows in lined.values()]


def _standing(rows: Sequence[Record], areas: dict[str, Array]) -> Standing:
    first, area = rows[0], areas[rows[0].method]
    means = {name: float(_column(rows, name).mean()) for name in MEANS}
    away = areas.get(DEFAULT, np.full(len(rows), np.nan)) - area
    ahead, behind = int((away > TINY).sum()), int((away < -TINY).sum())
    low, high = (np.nan, np.nan) if np.isnan(away).any() else paired_interval(away)
    return Standing(
        table=first.table,
        n_val=first.n_val,
        method=first.method,
        trials=len(rows),
        **means,
        area_stderr=float(area.std(ddof=1) / len(area) ** 0.5) if len(area) > 1 else float("nan"),
        gap_closed=_gap_closed(area, areas),
        ahead=ahead,
        behind=behind,
        p=sign_test_p(ahead, behind) if first.method != DEFAULT and not np.isnan(away).any() else float("nan"),
        by=float(away.mean()),
        by_low=low,
        by_high=high,
    )


def _gap_closed(area: Array, areas: dict[str, Array]) -> float:
    gap = float((areas[CEILING] - areas[ZERO]).mean()) if CEILING in areas and ZERO in areas else 0.0
    return float((area - areas[ZERO]).mean() / gap) if gap > TINY else float("nan")


def _column(rows: Sequence[Record], name: str) -> Array:
    return np.array([getattr(row, name) for row in rows], np.float64)
