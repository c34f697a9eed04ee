"""What one method did in one trial, in numbers: a flat record, so that a table of them is tidy."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from unirouter_core.curves import Curve
from unirouter_core.embedding import Array, Labels
from unirouter_core.estimators import Prediction
from unirouter_core.estimators.calibration import interval_coverage, reliability
from unirouter_core.evaluate.bootstrap import choice_entropy, mean_quality, measure
from unirouter_plugins.bench.case import Case

GRID = np.unique(np.concatenate([np.linspace(0, 1, 31), np.geomspace(1e-3, 1, 31)]).round(4))
"""Shares of the dearest model's cost at which a record keeps the curve: the cheapest models cost thousandths of it."""

DIGITS = 5
"""Of what is kept for pictures."""

NAN = float("nan")


@dataclass(frozen=True)
class Record:
    """One method on one split at one size of the validation set; NaN is what a method does not have.

    Parameters
    ----------
    table, n_val, trial, method
        Which.
    area, area_half, qnc, qnc_own, reached, peak, raw_area
        As in `metrics.Metrics`. A method that is one point, a single model or random choice, has no area.
    aiq : float
        RouterBench's average quality between the cheapest and the dearest model; see `metrics.mean_quality`. Models
        that all cost the same have none.
    brier, ece, covered : float
        Mean squared distance of predicted from real errors; expected calibration error; how often 80 % intervals hold
        a model's error in a region.
    mu, mu_cost, v_r, v_b, e_p : float
        RouterEval's (arXiv 2503.10657): the mean quality when cost does not matter, the share of the dearest model's
        cost that it takes, that quality over the most accurate model's of all (V_R) and of the pool (V_B), and the
        entropy of the choices, in bits (E_p).
    seconds : float
        To fit, to profile all new models and to predict all test prompts.
    curve : tuple of float
        The hull's quality at the costs of `GRID`.
    predicted, seen : tuple of float
        Mean predicted and real error in bins of predictions.
    """

    table: str
    n_val: int
    trial: int
    method: str
    area: float
    area_half: float
    qnc: float
    qnc_own: float
    reached: bool
    peak: float
    raw_area: float
    aiq: float
    brier: float
    ece: float
    covered: float
    mu: float
    mu_cost: float
    v_r: float
    v_b: float
    e_p: float
    seconds: float
    curve: tuple[float, ...]
    predicted: tuple[float, ...]
    seen: tuple[float, ...]

    @property
    def key(self) -> tuple[int, int, str]:
        """What tells the records of one table apart: N_val, trial and method."""
        return self.n_val, self.trial, self.method


SCALARS = tuple(field.name for field in fields(Record) if field.name not in ("curve", "predicted", "seen"))
"""The columns of the tidy table."""


@dataclass(frozen=True, eq=False)
class Routed:
    """What a method does on the test prompts: its curve, its choices when cost does not matter, its predictions.

    `trades` is False for what cannot trade quality for cost: it is one point, and a flat curve through it would flatter
    it. (A router's curve may be one point too, when one model is the cheapest and the most accurate.)
    """

    curve: Curve
    chosen: Labels
    prediction: Prediction | None = None
    seconds: float = 0.0
    trades: bool = True


def record(case: Case, routed: Routed, table: str, n_val: int, trial: int, method: str) -> Record:
    """Return a method's numbers on a case; the test prompts' regions judge its intervals."""
    errors, curve = case.errors, routed.curve
    means = np.broadcast_to(case.costs, errors.shape).mean(axis=0)
    cheapest, dearest, accurate = float(means.min()), float(means.max()), float(1 - errors.mean(axis=0).min())
    mu = float(1 - errors[np.arange(len(errors)), routed.chosen].mean())
    paid = np.broadcast_to(case.costs, errors.shape)[np.arange(len(errors)), routed.chosen].mean()
    measured, hull = measure(curve, errors, case.costs), curve.hull()
    return Record(
        table=table,
        n_val=n_val,
        trial=trial,
        method=method,
        area=measured.area if routed.trades else NAN,
        area_half=measured.area_half if routed.trades else NAN,
        qnc=measured.qnc,
        qnc_own=measured.qnc_own,
        reached=measured.reached,
        peak=measured.peak,
        raw_area=measured.raw_area if routed.trades else NAN,
        aiq=mean_quality(curve, cheapest, dearest) if routed.trades and cheapest < dearest else NAN,
        mu=mu,
        mu_cost=float(paid / dearest),
        v_r=mu / case.highest if case.highest else NAN,
        v_b=mu / accurate if accurate else NAN,
        e_p=choice_entropy(routed.chosen),
        seconds=routed.seconds,
        curve=_rounded(hull.quality_at(GRID * dearest)) if routed.trades else (),
        **_calibration(case, routed.prediction, errors),
    )


def _calibration(case: Case, prediction: Prediction | None, errors: Array) -> dict[str, Any]:
    if prediction is None:
        return {"brier": NAN, "ece": NAN, "covered": NAN, "predicted": (), "seen": ()}
    found = reliability(prediction.errors, errors)
    return {
        "brier": float(((prediction.errors - errors) ** 2).mean()),
        "ece": found.expected_error,
        "covered": interval_coverage(prediction.errors, prediction.stderrs, errors, case.judged),
        "predicted": _rounded(found.predicted),
        "seen": _rounded(found.seen),
    }


def _rounded(values: Array) -> tuple[float, ...]:
    return tuple(values.round(DIGITS).tolist())
