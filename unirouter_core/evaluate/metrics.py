"""A deferral curve in numbers: Area, quality-neutral cost, peak."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unirouter_core.curves import Curve, check_table


@dataclass(frozen=True)
class Metrics:
    """The numbers of a curve; made by `measure`.

    `area` is mean quality over cost from 0 to the most expensive model's, `area_half` the same integral over the
    cheaper half, not divided by 0.5 (Area and Area(50%) in the paper). `qnc` is the quality-neutral cost, the least
    that reaches the quality of the most accurate single model, as a share of the most expensive model's cost; `qnc_own`
    is a share of that model's own. Both are 1 when never reached, `qnc_own` also when that model is free. `peak` is the
    highest quality. `usd_per_right` is the USD spent for each right answer at the quality-neutral cost; where it is
    never reached, by the most accurate model alone.
    """

    area: float
    area_half: float
    qnc: float
    qnc_own: float
    reached: bool
    peak: float
    usd_per_right: float


def measure(curve: Curve, errors: npt.ArrayLike, costs: npt.ArrayLike) -> Metrics:
    """Return the metrics of the upper concave hull of `curve`, which mixtures reach, on the test set it was made on.

    Raises `InvalidDataError` as in `curves.sweep`, or when every model is free.

    Parameters
    ----------
    errors : array (n_prompts, n_models)
    costs : array (n_prompts, n_models) or (n_models,)
        USD; the most expensive and the most accurate single model are read from these two.

    Examples
    --------
    >>> from unirouter_core.curves import deferral_curve
    >>> errors, costs = [[1, 0], [0, 0]], [1.0, 2.0]
    >>> measured = measure(deferral_curve([[0.9, 0.1], [0.2, 0.1]], costs, errors, costs), errors, costs)
    >>> measured.area, measured.qnc, measured.peak
    (0.6875, 0.75, 1.0)
    """
    known, paid = check_table(errors, costs)
    qualities, means, measured = 1 - known.mean(0), paid.mean(0), curve.hull()
    best = np.lexsort((means, -qualities))[0]  # ties go to the cheaper
    dearest, own, neutral = float(means.max()), float(means[best]), measured.cost_at(float(qualities[best]))
    reached = neutral < np.inf
    return Metrics(
        area=measured.area(dearest),
        area_half=measured.area(dearest, upto=0.5),
        qnc=neutral / dearest if reached else 1.0,
        qnc_own=neutral / own if reached and own > 0 else 1.0,
        reached=reached,
        peak=measured.peak,
        usd_per_right=(neutral if reached else own) / float(qualities[best]) if qualities[best] > 0 else float("inf"),
    )
