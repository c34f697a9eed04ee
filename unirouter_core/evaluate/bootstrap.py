"""The numbers read off a curve (Area, QNC, peak), how sure they are, and whether one router beats another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from math import comb

import numpy as np
import numpy.typing as npt

from unirouter_core.curves import Curve, Sweep, check_table
from unirouter_core.embedding import Array
from unirouter_core.exceptions import InvalidDataError


@dataclass(frozen=True)
class Metrics:
    """A curve in numbers; on its upper hull, and as it is where the name begins with raw.

    Parameters
    ----------
    area, area_half : float
        Mean quality over cost from 0 to the dearest model's; the same integral over the cheaper half, not divided
        by 0.5 (Area and Area(50%) in the paper).
    qnc, qnc_own : float
        Quality-neutral cost: the least cost that reaches the quality of the most accurate single model, as a share of
        the dearest model's cost, and of that model's own. 1 when never reached; `qnc_own` also when that model is free.
    reached : bool
        Whether the curve reaches that quality at all.
    peak : float
        The highest quality on the curve.
    """

    area: float
    area_half: float
    qnc: float
    qnc_own: float
    reached: bool
    peak: float
    raw_area: float
    raw_area_half: float
    raw_qnc: float
    raw_qnc_own: float


def measure(curve: Curve, errors: npt.ArrayLike, costs: npt.ArrayLike) -> Metrics:
    """Return the metrics of `curve` on the test set it was made on.

    Parameters
    ----------
    curve : Curve
    errors : array (n_prompts, n_models)
    costs : array (n_prompts, n_models) or (n_models,)
        USD; the dearest and the most accurate single model are read from these two.

    Raises
    ------
    InvalidDataError
        As in `sweep`, or when every model is free.

    Examples
    --------
    >>> from unirouter_core.curves import deferral_curve
    >>> errors, costs = [[1, 0], [0, 0]], [1.0, 2.0]
    >>> measured = measure(deferral_curve([[0.9, 0.1], [0.2, 0.1]], costs, errors, costs), errors, costs)
    >>> measured.area, measured.qnc, measured.peak
    (0.6875, 0.75, 1.0)
    """
    known, paid = check_table(errors, costs)
    return _read(curve, 1 - known.mean(0), paid.mean(0))


def mean_quality(curve: Curve, cheapest: float, dearest: float) -> float:
    """Return the hull's mean quality between two costs: RouterBench's AIQ (arXiv 2403.12031, §3).

    RouterBench calls the hull, which is flat after its peak, non-decreasing; its zero router is the hull of the single
    models, `curves.deferral_curve` of their mean errors. What routers are compared over, from the cheapest model's mean
    cost to the dearest's, is the same for all.

    Parameters
    ----------
    curve : Curve
    cheapest, dearest : float
        USD.

    Raises
    ------
    InvalidDataError
        When `dearest` is not above `cheapest`.

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
    """Return the entropy of the choices, here in bits: E_p of RouterEval (arXiv 2503.10657), 0 for one model.

    Parameters
    ----------
    chosen : array (n_prompts,) of int
        Columns.

    Examples
    --------
    >>> choice_entropy([0, 1, 0, 1]), choice_entropy([2, 2])
    (1.0, 0.0)
    """
    counts = np.unique(np.asarray(chosen), return_counts=True)[1]
    shares = counts / counts.sum()
    return float(abs(-(shares * np.log2(shares)).sum()))  # abs: 0, not -0


def _read(curve: Curve, qualities: Array, costs: Array) -> Metrics:
    """Return the metrics of `curve` beside single models with these mean qualities and costs, both (n_models,)."""
    most_accurate = np.lexsort((costs, -qualities))[0]  # of equals the cheapest
    hull, dearest, own = curve.hull(), float(costs.max()), float(costs[most_accurate])
    neutral, raw_neutral = (each.cost_at(float(qualities[most_accurate])) for each in (hull, curve))
    reached = neutral < np.inf
    return Metrics(
        area=hull.area(dearest),
        area_half=hull.area(dearest, upto=0.5),
        qnc=neutral / dearest if reached else 1.0,
        qnc_own=neutral / own if reached and own > 0 else 1.0,
        reached=reached,
        peak=curve.peak,
        raw_area=curve.area(dearest),
        raw_area_half=curve.area(dearest, upto=0.5),
        raw_qnc=raw_neutral / dearest if reached else 1.0,
        raw_qnc_own=raw_neutral / own if reached and own > 0 else 1.0,
    )


def draws(n: int, trials: int, seed: int | list[int]) -> Iterator[Array]:
    """Yield how often each of n prompts is drawn, in n draws with replacement, (n,)."""
    generator = np.random.default_rng(seed)
    for _ in range(trials):
        yield np.bincount(generator.integers(n, size=n), minlength=n).astype(np.float64)


def resample(
    sweep: Sweep, errors: npt.ArrayLike, costs: npt.ArrayLike, *, trials: int = 1000, seed: int = 0
) -> Iterator[Metrics]:
    """Yield the metrics of `trials` test sets drawn with replacement from the prompts of this one.

    One `seed` draws the same prompts for every sweep, so two routers on one test set compare draw by draw.
    Parameters and exceptions are those of `measure`, with the sweep in place of its curve.
    """
    known, paid = check_table(errors, costs)
    n = len(known)
    for counts in draws(n, trials, seed):
        drawn = [np.einsum("i,ij->j", counts, table) / n for table in (known, paid)]  # @ waits for busy BLAS threads
        yield _read(sweep.curve(counts), 1 - drawn[0], drawn[1])


def bootstrap(
    sweep: Sweep,
    errors: npt.ArrayLike,
    costs: npt.ArrayLike,
    *,
    trials: int = 1000,
    level: float = 0.9,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Return an interval (low, high) for each field of `Metrics`: how much the draw of test prompts moves it.

    Parameters
    ----------
    level : float
        The share of resampled test sets inside the interval, in (0, 1).

    Raises
    ------
    InvalidDataError
        As in `measure`, or when `level` is not inside (0, 1) or there is no trial.

    Examples
    --------
    >>> from unirouter_core.curves import sweep
    >>> errors, costs = [[1, 0]] * 30 + [[0, 0]] * 70, [1.0, 2.0]
    >>> low, high = bootstrap(sweep([0.3, 0.1], costs, errors, costs), errors, costs, trials=200)["area"]
    >>> 0.7 < low < 0.775 < high < 0.85
    True
    """
    draws = list(resample(sweep, errors, costs, trials=trials, seed=seed))
    names = [each.name for each in fields(Metrics)]
    return {name: interval(np.array([getattr(draw, name) for draw in draws], np.float64), level) for name in names}


def paired_interval(
    differences: npt.ArrayLike, *, level: float = 0.9, trials: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Return a bootstrap interval (low, high) for the mean of paired differences.

    Parameters
    ----------
    differences : array (n,)
        One router's number minus the other's, one for each split or prompt.

    Raises
    ------
    InvalidDataError
        When there is no difference, one is not finite, `level` is not inside (0, 1), or there is no trial.

    Examples
    --------
    >>> paired_interval([0.5, 0.5, 0.5])
    (0.5, 0.5)
    """
    pairs = np.asarray(differences, np.float64)
    if pairs.ndim != 1 or not pairs.size or not np.isfinite(pairs).all():
        raise InvalidDataError(f"Differences {pairs} must be one or more finite numbers; leave out pairs not known.")
    generator = np.random.default_rng(seed)
    means = [pairs[generator.integers(pairs.size, size=pairs.size)].mean() for _ in range(trials)]
    return interval(np.array(means), level)


def interval(values: Array, level: float) -> tuple[float, float]:
    """Return the ends of the middle `level` of resampled `values`.

    Raises
    ------
    InvalidDataError
        When `level` is not inside (0, 1), or there is no value.
    """
    check_trials(level, values.size)
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def check_trials(level: float, trials: int) -> None:
    """Raise `InvalidDataError` unless `level` is inside (0, 1) and there is a trial."""
    if trials < 1:
        raise InvalidDataError(f"An interval needs trials, not {trials}; draw at least 1, better 1,000.")
    if not 0 < level < 1:
        raise InvalidDataError(f"The level of an interval is {level:g}; give a share between 0 and 1, such as 0.9.")


def sign_test_p(wins: int, losses: int) -> float:
    """Return the two-sided p of the sign test: how likely a fair coin is as uneven as this; leave ties out.

    Raises
    ------
    InvalidDataError
        When a count is negative.

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
