"""Whether a check of a model's answers pays: how well it tells right from wrong, and what looking at answers gains."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from unirouter_core.checks import FEWEST_ANSWERS, Check, Checks, acceptance_limit, look_ahead
from unirouter_core.curves import Curve, curve_through
from unirouter_core.display import Table, plus_minus
from unirouter_core.embedding import Array, Labels, Mask
from unirouter_core.evaluate.bootstrap import Bootstrap, as_fresh, left_out
from unirouter_core.evaluate.goals import NEARLY
from unirouter_core.evaluate.holdout import FOLDS, HeldOut, held_out
from unirouter_core.evaluate.verdict import Judged, Level, Verdict
from unirouter_core.exceptions import InvalidDataError
from unirouter_core.pool import Signals
from unirouter_core.router import UniRouter
from unirouter_core.rule import choose

Part: TypeAlias = "tuple[list[tuple[Check, Array]], Mask]"  # fitted checks with their signals on prompts, and which
WEIGHTS = np.r_[0, np.geomspace(0.003, 300, 70), 1e9]  # that curves go through, over the cost of the dearest model


@dataclass(frozen=True)
class CheckValue(Judged):
    """What a check of one model's answers is worth in its pool; made by `check_value`.

    Parameters
    ----------
    check, model : str
    n : int
        The answers with a signal.
    auc, auc_interval : float, tuple of float
        How often a wrong answer and a right one are told apart, the signal's direction being known.
    area_gain : tuple of float
        The interval of the gain in Area, on prompts that neither fitted the check nor chose the points of the curve.
    saving_at_97 : tuple of float
        The interval of the share of the cost that is saved at 97 % of the best model's quality, on the same prompts.
    limit : float
        The error up to which answers are accepted, 1 without `wrong_at_most`; 0 where none may be.
    """

    check: str
    model: str
    n: int
    auc: float
    auc_interval: tuple[float, float]
    area_gain: tuple[float, float]
    saving_at_97: tuple[float, float]
    limit: float
    judged: Verdict
    fitted_on: bool

    def tables(self) -> list[str | Table]:
        """Return the numbers with their intervals."""
        rows = [("answers with a signal", f"{self.n:,}"), ("AUC", plus_minus(self.auc_interval, unit="%"))]
        rows += [("Area gained, in points", plus_minus(self.area_gain, sign="+", digits=2))]
        rows += [("saved at 97% of the best quality", plus_minus(self.saving_at_97, unit="%", digits=0))]
        rows += [("accepted up to an expected error of", f"{self.limit:.1%}")] if self.limit < 1 else []
        return [Table((f"{self.check} of {self.model}", ">"), rows)]


def check_value(
    router: UniRouter,
    model: str,
    check: str,
    signals: npt.ArrayLike,
    *,
    usd: float = 0.0,
    wrong_at_most: float | None = None,
    confidence: float = 0.95,
    level: float = 0.9,
    trials: int = 300,
    seed: int = 0,
) -> CheckValue:
    """Return what a check is worth by its signals on the model's graded answers, on prompts that it was not fitted on.

    A fifth of the prompts that the whole pool answered is judged at a time: what the signals say is fitted on the other
    four fifths, and models are predicted by profiles that were not measured on it. Raises `InvalidDataError` when fewer
    than 40 of the answers have a signal, or no model has a cost.

    Parameters
    ----------
    signals : array (n_prompts,)
        As in `UniRouter.add_check`.
    usd : float
        What the check costs for each answer.
    wrong_at_most, confidence : float
        The share of the accepted answers that may be wrong, and how sure that must be; see `acceptance_limit`. The
        `limit` that keeps to it is for `UniRouter.add_check`.
    level : float
        The share of cases that an interval holds.
    trials, seed : int
        Of the bootstrap.
    """
    boot, profile, held = Bootstrap(level, trials, seed), router.pool[model], held_out(router, seed=seed)
    column, rows_of = held.models.index(model), {name: row for row, name in enumerate(profile.measured.digests)}
    values = np.asarray(signals, np.float64)
    if values.shape != profile.errors.shape or held.digests is None:
        raise InvalidDataError(
            f"{model!r} has {len(profile.errors)} prompts, and the signals have shape {values.shape}."
        )
    values = values[[rows_of[str(name)] for name in held.digests]]
    known, dearest = ~np.isnan(values), float(held.costs.mean(axis=0).max())
    if (n := int(known.sum())) < FEWEST_ANSWERS:
        raise InvalidDataError(
            f"{n} answers of {model!r} have a signal of {check!r} on prompts that the whole pool answered, too few to "
            f"say what it is worth; at least {FEWEST_ANSWERS} are needed, and a few hundred are better."
        )
    if not dearest:
        raise InvalidDataError("No model of the pool has a cost above 0, so a check has nothing to save.")
    limit, parts = 1.0, _fitted(held, [(check, column, Signals(values, usd))], seed)
    if wrong_at_most is not None:
        expected = np.array(held.predicted_errors, np.float64)
        for checks, judged in parts:
            for fitted, found in checks:
                rows = np.flatnonzero(judged)[~np.isnan(found)]
                expected[rows] = fitted.errors_after(expected[rows], np.searchsorted(fitted.edges, values[rows]))
        limit = acceptance_limit(expected[known, column], held.errors[known, column], wrong_at_most, confidence)
        parts = [([(dataclasses.replace(f, limit=limit), each) for f, each in checks], j) for checks, j in parts]
    errors, spent = np.empty((2, 2, len(WEIGHTS), len(held)))  # without and with the check, at each weight
    for place, weight in enumerate(WEIGHTS / dearest):
        errors[0, place], spent[0, place] = held.outcome(held.chosen(weight))
        errors[1, place], spent[1, place] = _followed(held, parts, weight)
    areas, costs = np.array([*_out_of_bag(errors, spent, held, boot)]).T
    area, saving = boot.interval(as_fresh(areas)), boot.interval(as_fresh(costs))
    auc, auc_interval = _auc(values[known], held.errors[known, column], boot)
    return CheckValue(
        check,
        model,
        n,
        auc=auc,
        auc_interval=auc_interval,
        area_gain=area,
        saving_at_97=saving,
        limit=limit,
        judged=_judge(
            f"The check {check!r} of {model}", auc, area, saving, limit, is_used=(errors[0] != errors[1]).any()
        ),
        fitted_on=held.fitted_on,
    )


def outcome(held: HeldOut, cost_weight: float, eligible: Mask | None = None, *, seed: int = 0) -> tuple[Array, Array]:
    """Return the errors and the USD (n,) that the rule gives where calls run the checks that answers have signals of.

    Rejected drafts and checks are paid, too. What signals say is fitted on the other four fifths of the prompts.
    `eligible` (m,) masks the models that may be chosen.
    """
    if not held.checks:
        return held.outcome(choose(held.predicted_errors, held.predicted_costs, cost_weight, eligible))
    usable = [each for each in held.checks if eligible is None or eligible[each[1]]]
    return _followed(held, _fitted(held, usable, seed), cost_weight, eligible)


def _fitted(held: HeldOut, given: Sequence[tuple[str, int, Signals]], seed: int) -> list[Part]:
    """Return checks as each four fifths of the prompts fit them, with their signals on the fifth left out."""
    folds, parts = np.random.default_rng(seed).permutation(len(held)) % FOLDS, list[Part]()
    for fold in range(FOLDS):
        left, judged, checks = folds != fold, folds == fold, list[tuple[Check, Array]]()
        for name, column, signals in given:
            made = Check.fit(name, column, signals.values[left], held.errors[left], signals.usd, signals.limit)
            checks += [] if made is None else [(made, signals.values[judged])]
        parts.append((checks, judged))
    return parts


def _followed(
    held: HeldOut, parts: Sequence[Part], cost_weight: float, eligible: Mask | None = None
) -> tuple[Array, Array]:
    errors, spent = np.empty((2, len(held)))
    for checks, judged in parts:
        predicted, expected = held.predicted_errors[judged], held.predicted_costs[judged]
        errors[judged], spent[judged] = follow(
            predicted, expected, held.errors[judged], held.costs[judged], checks, cost_weight, eligible
        )
    return errors, spent


def follow(
    predicted: Array,
    expected_costs: Array,
    errors: Array,
    costs: Array,
    checks: Sequence[tuple[Check, Array]],
    cost_weight: float,
    eligible: Mask | None = None,
) -> tuple[Array, Array]:
    """Return the error and the USD (n,) of each prompt where the rule is applied again after each checked answer.

    Predicted and real errors and costs are (n, m); each check has its signals (n,) on these prompts. `eligible` (m,)
    masks the models that may be chosen; those over their check's limit are where no other may.
    """
    expected, left = np.array(predicted, np.float64), np.array(expected_costs, np.float64)
    (n, m), fitted = errors.shape, Checks(check for check, _ in checks)
    may = np.ones(m, bool) if eligible is None else eligible
    answered, over = np.zeros((2, n, m), bool)
    spent, chosen, todo = np.zeros(n), np.empty(n, int), np.arange(n)
    while len(todo):
        preferred = may & ~over[todo]
        preferred[~preferred.any(axis=1)] = may
        best, position = np.empty((2, len(todo)), int)
        cases, which = np.unique(np.hstack([preferred, answered[todo]]), axis=0, return_inverse=True)
        for case, (able, given) in enumerate(zip(cases[:, :m], cases[:, m:], strict=True)):
            at = which.ravel() == case
            rows = todo[at]
            best[at], position[at] = _next(expected[rows], left[rows], cost_weight, fitted, able, able & ~given)
        ends = todo[position < 0]
        chosen[ends] = best[position < 0]
        spent[ends] += np.where(answered[ends, chosen[ends]], 0, costs[ends, chosen[ends]])
        for place in np.unique(position[position >= 0]):
            (check, signals), rows = checks[place], todo[position == place]
            column, seen = check.column, rows[~np.isnan(signals[rows])]
            expected[seen] = check.errors_after(expected[seen], np.searchsorted(check.edges, signals[seen]))
            spent[rows] += costs[rows, column] + check.usd
            left[rows, column], answered[rows, column] = 0.0, True
            over[rows, column] = expected[rows, column] > check.limit
        todo = todo[position >= 0]
    return errors[np.arange(n), chosen], spent


def _next(
    errors: Array, costs: Array, cost_weight: float, checks: Checks, eligible: Mask, to_check: Mask
) -> tuple[Labels, Labels]:
    """Return the rule's choice (n,), and the position of the check to run on its answer, -1 where there is none.

    Only checks of the models `to_check` (m,) are run; at an infinite weight only those with a limit, as in calls.
    """
    places = np.flatnonzero(to_check[checks.columns]) if checks else np.empty(0, int)
    used = np.full(errors.shape, -1)
    if math.isinf(cost_weight):
        limited = np.array([place for place in places.tolist() if checks[place].limit < 1], int)[::-1]
        used[:, checks.columns[limited] if len(limited) else []] = limited  # of several the first
    elif len(places):
        some = Checks(checks[place] for place in places)
        errors, costs, found = look_ahead(errors, costs, cost_weight, some, eligible)
        used = np.where(found < 0, -1, places[found])
    best = choose(errors, costs, cost_weight, eligible)
    return best, used[np.arange(len(best)), best]


def _out_of_bag(errors: Array, spent: Array, held: HeldOut, boot: Bootstrap) -> Iterator[tuple[float, float]]:
    """Yield the gains in Area and the shares of the cost saved, on prompts that a draw leaves out, draw by draw.

    The corners of both curves are those of the prompts in the draw.
    """
    dearest, positions = float(held.costs.mean(axis=0).max()), np.arange(errors.shape[1])

    def curve(policy: int, weights: Array, points: Labels) -> Curve:
        cost, quality = (each[policy][points] @ weights / weights.sum() for each in (spent, 1 - errors))
        return curve_through(cost, quality, points.astype(float))

    for counts in boot.counts(len(held)):
        out = left_out(counts)
        if not out.any():
            continue
        corners = [curve(policy, counts, positions).hull().cost_weights.astype(int) for policy in (0, 1)]
        without, checked = (curve(policy, out, points) for policy, points in enumerate(corners))
        wanted = NEARLY * min(float((1 - held.errors.T @ out).max()), without.peak, checked.peak)
        before = without.cost_at(wanted)
        saved = 1 - checked.cost_at(wanted) / before if before else 0.0
        yield checked.area(dearest) - without.area(dearest), saved


def _auc(signals: Array, errors: Array, boot: Bootstrap) -> tuple[float, tuple[float, float]]:
    """Return how often signals tell a wrong answer from a right one, and its interval, ties counting half."""
    _, places = np.unique(signals, return_inverse=True)

    def auc(counts: Array) -> float:
        wrong, right = (np.bincount(places, weights=counts * each) for each in (errors, 1 - errors))
        below = np.cumsum(right) - right / 2
        return float(wrong @ below / max(wrong.sum() * right.sum(), 1e-12))

    whole = auc(np.ones(len(errors)))
    drawn = np.array([auc(counts) for counts in boot.counts(len(errors))])
    return (whole, boot.interval(drawn)) if whole >= 0.5 else (1 - whole, boot.interval(1 - drawn))


def _judge(
    subject: str, auc: float, area: tuple[float, float], saving: tuple[float, float], limit: float, *, is_used: bool
) -> Verdict:
    told = f"it tells wrong from right answers with an AUC of {auc:.2f}"
    if limit == 0:
        return Verdict("does not pay", f"{told}, too little on these answers to keep to the limit", None, subject)
    if not is_used and limit == 1:
        return Verdict("does not pay", f"{told}, too little, or for too much, to be used on any prompt", None, subject)
    level: Level = "pays" if area[0] > 0 else "does not pay" if sum(area) <= 0 else "about even"
    gains = f"changes the Area by {plus_minus(area, sign='+', digits=2)} points"
    saves = f"the cost of {NEARLY:.0%} quality by {plus_minus((-saving[1], -saving[0]), unit='%', digits=0, sign='+')}"
    price = (
        f"; that is what it costs to accept only up to an expected error of {limit:.1%}"
        if limit < 1 and level != "pays"
        else ""
    )
    return Verdict(level, f"{told}, {gains} and {saves}{price}", None, subject)
