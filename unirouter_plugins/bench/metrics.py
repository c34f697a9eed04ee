"""Numbers that benchmarks report: RouterBench's AIQ, RouterEval's entropy, the sign test between two routers."""

from __future__ import annotations

from math import comb

import numpy as np
import numpy.typing as npt

from unirouter_core.curves import Curve
from unirouter_core.exceptions import InvalidDataError


def mean_quality(curve: Curve, cheapest: float, dearest: float) -> float:
    """Return the hull's mean quality between two costs: RouterBench's AIQ (arXiv 2403.12031, §3).

    All routers are compared between the mean USD of the cheapest and of the most expensive model; an `InvalidDataError`
    when `dearest` is not above `cheapest`.

    Examples
    --------
    >>> mean_quality(Curve(np.array([1.0, 3.0]), np.array([0.5, 0.9]), np.array([np.inf, 0.0])), 1.0, 5.0)
    0.8
    """
    if not 0 <= cheapest < dearest < np.inf:
        raise InvalidDataError(f"The dearest cost {dearest:g} must be finite and above the cheapest, {cheapest:g} USD.")
    hull = curve.hull()
    whole, below = hull.area(dearest), hull.area(dearest, upto=cheapest / dearest)
    return float((whole - below) * dearest / (dearest - cheapest))


def choice_entropy(chosen: npt.ArrayLike) -> float:
    """Return the entropy of the chosen columns in bits, 0 for one model: E_p of RouterEval (arXiv 2503.10657).

    Examples
    --------
    >>> choice_entropy([0, 1, 0, 1]), choice_entropy([2, 2])
    (1.0, 0.0)
    """
    counts = np.unique(np.asarray(chosen), return_counts=True)[1]
    shares = counts / counts.sum()
    return float(abs(-(shares * np.log2(shares)).sum()))  # abs: 0, not -0


def sign_test_p(wins: int, losses: int) -> float:
    """Return the two-sided p of the sign test, ties left out; a negative count is an `InvalidDataError`.

    Examples
    --------
    >>> sign_test_p(wins=9, losses=1)  # 2 * (1 + 10) / 2**10
    0.021484375
    """
    if wins < 0 or losses < 0:
        raise InvalidDataError(f"{wins} wins and {losses} losses; both must be >= 0.")
    tosses = wins + losses
    tail = sum(comb(tosses, heads) for heads in range(min(wins, losses) + 1))
    return float(min(1.0, 2 * tail / 2**tosses))
