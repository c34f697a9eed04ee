"""What a model that has joined changes: the prompts that move to it, and quality and cost before and after."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from unirouter_core.embedding import Array, Labels, normalise
from unirouter_core.evaluate.bootstrap import check_trials, paired_interval
from unirouter_core.evaluate.held_out import FEWEST_PROMPTS, FITTED_ON, HeldOut, held_out
from unirouter_core.pool import Pool
from unirouter_core.rule import SAME_COST, TIE, check_cost_weight, choose, score

if TYPE_CHECKING:
    from unirouter_core.router import UniRouter

NEARLY_ALL = 0.95
"""A model is dominated by another that is as accurate and no dearer on this share of the prompts."""

NO_CHANGE = 1e-9
"""Means closer than this share of them are one: sums round differently."""


@dataclass(frozen=True)
class Change:
    """A mean over prompts without the model and with it.

    Parameters
    ----------
    before : float or None
        None where there was no other model.
    after : float
    interval : (float, float) or None
        Of after - before, by the paired bootstrap.
    """

    before: float | None
    after: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Joining:
    """What a model changes in its pool.

    Parameters
    ----------
    model : str
    kind : {"joins", "never chosen", "not worth it", "the only model"}
        Whether prompts move to it and the mean of error + cost_weight * cost falls; no prompt moves; prompts move and
        it does not fall; there is no other.
    cost_weight, level : float
        The error that one USD is worth; the level of the intervals.
    n : int
        The model's validation prompts.
    moved : tuple of str
        Those that move to it, in falling order of expected gain; digests where texts are not kept.
    moved_from : dict of model to int
        How many of them each model loses, in falling order.
    n_judged : int
        The prompts that `quality`, `cost` and `score` are means over.
    measured : bool
        Whether those are of answers, each chosen for by profiles that were not measured on it, or only expectations.
    fitted_on : bool
        Whether the router was fitted on the very prompts that judge it.
    quality, cost, score : Change
        Means of 1 - error, of USD a prompt, and of error + cost_weight * cost (cost alone when the weight is inf).
    dominated_by : str or None
        For a model never chosen: another that is expected to be at least as accurate and no dearer on
        `dominated_share` of the prompts.
    dominated_share : float
    chosen_at : tuple of (float, float)
        For a model never chosen: cost_weights, at most one range below the present one and one above, between which
        some prompt would go to it.
    verdict : str
    """

    model: str
    kind: Literal["joins", "never chosen", "not worth it", "the only model"]
    cost_weight: float
    level: float
    n: int
    moved: tuple[str, ...]
    moved_from: dict[str, int]
    n_judged: int
    measured: bool
    fitted_on: bool
    quality: Change
    cost: Change
    score: Change
    dominated_by: str | None = None
    dominated_share: float = 0.0
    chosen_at: tuple[tuple[float, float], ...] = ()
    verdict: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the joining as JSON can hold it."""
        ranges = [[_as_json(low), _as_json(high)] for low, high in self.chosen_at]
        return {**dataclasses.asdict(self), "cost_weight": _as_json(self.cost_weight), "chosen_at": ranges}


def joining(
    router: UniRouter,
    model: str,
    *,
    cost_weight: float | None = None,
    level: float = 0.9,
    trials: int = 500,
    seed: int = 0,
) -> Joining:
    """Return what `model`, onboarded already, changes in its pool, with intervals and a verdict.

    Which prompts move is what the router does now on the model's validation prompts. What that gives is measured on
    the answered validation prompts that the whole pool shares, as `held_out` predicts them; where they are fewer than
    20, it is what the router expects on the model's own.

    Parameters
    ----------
    router : UniRouter
    model : str
    cost_weight : float, optional
        The error that one USD is worth; the router's own when not given.
    level : float
        Of the intervals.
    trials, seed : int
        Of the bootstrap.

    Raises
    ------
    UnknownModelError
        When the model is not in the pool.
    InvalidDataError
        When `cost_weight`, `level` or `trials` is outside its range.

    Examples
    --------
    >>> from unirouter_core import UniRouter
    >>> router = UniRouter.starter(examples=True)
    >>> found = joining(router, "recorded/gemini-1.5-pro-002", cost_weight=50)
    >>> found.kind, len(found.moved), next(iter(found.moved_from))
    ('joins', 89, 'recorded/gemini-3.1-pro')
    """
    check_trials(level, trials)
    weight = check_cost_weight(router.cost_weight if cost_weight is None else cost_weight)
    pool = router.pool
    pool.check_known([model])
    column, measured = pool.models.index(model), pool[model].measured
    expected = router.fit_.expect(pool, normalise(measured.vectors), measured.tokens)
    errors, costs = expected.prediction.errors.astype(np.float64), expected.costs
    shared = _shared_answers(pool)
    is_measured = shared >= FEWEST_PROMPTS
    held = held_out(router, seed=seed) if is_measured else HeldOut(pool.models, errors, costs, errors, costs)
    names = measured.digests if measured.texts is None else measured.texts
    rows, losers = _moves(errors, costs, column, weight)
    quality, cost, both = _changes(held, column, weight, level, trials, seed)
    found = Joining(
        model=model,
        kind="the only model",
        cost_weight=weight,
        level=level,
        n=len(measured),
        moved=tuple(names[row] for row in rows),
        moved_from={pool.models[j]: count for j, count in Counter(losers.tolist()).most_common()},
        n_judged=len(held),
        measured=is_measured,
        fitted_on=held.fitted_on,
        quality=quality,
        cost=cost,
        score=both,
    )
    if not len(rows):
        found = dataclasses.replace(found, kind="never chosen", **_why_never(pool, errors, costs, column, weight))
    elif len(pool) > 1:
        found = dataclasses.replace(found, kind="joins" if _falls(found.score) else "not worth it")
    return dataclasses.replace(found, verdict=_verdict(found, shared))


def _shared_answers(pool: Pool) -> int:
    """Return how many validation prompts every model of the pool has answered."""
    answered = []
    for profile in pool.values():
        errors = dict(zip(profile.measured.digests, profile.errors, strict=True))
        answered.append({name for name, error in errors.items() if not np.isnan(error)})
    return len(set.intersection(*answered))


def _moves(errors: Array, costs: Array, column: int, weight: float) -> tuple[Labels, Labels]:
    """Return the rows that move to the model of `column`, in falling order of gain, and the columns that lose them."""
    before, after = _before(errors, costs, column, weight), choose(errors, costs, weight)
    scores = score(errors, costs, weight)
    rows = np.flatnonzero(after == column)
    if before is None:
        return rows, np.empty(0, int)
    gains = scores[rows, before[rows]] - scores[rows, column]
    rows = rows[np.argsort(-gains, kind="stable")]
    return rows, before[rows]


def _before(errors: Array, costs: Array, column: int, weight: float) -> Labels | None:
    """Return each row's choice without the model of `column`, (n,), or None when there is no other."""
    others = np.arange(errors.shape[1]) != column
    return choose(errors, costs, weight, others) if others.any() else None


def _changes(
    held: HeldOut, column: int, weight: float, level: float, trials: int, seed: int
) -> tuple[Change, Change, Change]:
    """Return what quality, cost and score are without the model of `column` and with it."""
    before = _before(held.predicted_errors, held.predicted_costs, column, weight)
    old = None if before is None else held.outcome(before)
    new = held.outcome(held.chosen(weight))

    def change(measure: Callable[[Array, Array], Array]) -> Change:
        ours = measure(*new)
        if old is None:
            return Change(None, float(ours.mean()), None)
        theirs = measure(*old)
        interval = paired_interval(ours - theirs, level=level, trials=trials, seed=seed)
        return Change(float(theirs.mean()), float(ours.mean()), interval)

    return (
        change(lambda errors, costs: 1 - errors),
        change(lambda errors, costs: costs),
        change(lambda errors, costs: score(errors, costs, weight)),
    )


def _falls(change: Change) -> bool:
    return change.before is not None and change.after < change.before * (1 - NO_CHANGE)


def _why_never(pool: Pool, errors: Array, costs: Array, column: int, weight: float) -> dict[str, Any]:
    """Return who dominates the model of `column`, if one does, and at what other cost_weights it is chosen."""
    no_worse = (errors <= errors[:, [column]] + TIE) & (costs <= costs[:, [column]] * (1 + SAME_COST))
    shares = np.delete(no_worse.mean(axis=0), column)
    share, rival = float(shares.max()), np.delete(pool.models, column)[shares.argmax()]
    dominated = {"dominated_by": str(rival), "dominated_share": share} if share >= NEARLY_ALL else {}
    return {**dominated, "chosen_at": _chosen_at(errors, costs, column, weight)}


def _chosen_at(errors: Array, costs: Array, column: int, weight: float) -> tuple[tuple[float, float], ...]:
    """Return the least and the greatest cost_weight at which some row goes to `column`, below `weight` and above it.

    A row goes there where, for each other model, cost_weight * (how much dearer it is) < how much less it errs.
    """
    less_wrong = np.delete(errors - errors[:, [column]], column, axis=1)
    dearer = np.delete(costs[:, [column]] - costs, column, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        even = less_wrong / dearer
    low = np.where(dearer < 0, even, 0).max(axis=1).clip(min=0)
    high = np.where(dearer > 0, even, np.inf).min(axis=1)
    possible = (low < high) & ((dearer != 0) | (less_wrong > 0)).all(axis=1)
    sides = possible & (high <= weight), possible & (low >= weight)
    return tuple((float(low[side].min()), float(high[side].max())) for side in sides if side.any())


def _verdict(found: Joining, shared: int) -> str:
    """Return the joining in one or two sentences, and what they leave open."""
    if found.kind == "the only model":
        quality, cost = f"{found.quality.after:.3f}", f"${1000 * found.cost.after:.4g}"
        said = f"{found.model} is the only model: every prompt goes to it, at quality {quality} and {cost} per 1,000."
    elif found.kind == "never chosen":
        said = f"{found.model} is never chosen at cost_weight {found.cost_weight:.4g}: {_rivals(found)}."
    else:
        seen = "Measured" if found.measured else "Expected"
        said = (
            f"{found.model} {'joins' if found.kind == 'joins' else 'is not worth it'} at cost_weight "
            f"{found.cost_weight:.4g}: {_moved(found)}. {seen} on {found.n_judged} prompts, quality "
            f"{_goes(found.quality, '{:.3f}')}, cost per 1,000 prompts {_goes(found.cost, '${:.4g}', 1000)}, and "
            f"{_weighed(found)}."
        )
    if found.kind != "the only model" and found.cost_weight == 0:
        said += " At cost_weight 0 cost does not count yet: tune the router to weigh it."
    if not found.measured:
        said += (
            f" These are expectations, not measurements, which need {FEWEST_PROMPTS} answered validation prompts that "
            f"all models of the pool share; they share {shared}."
        )
    return said + (FITTED_ON if found.fitted_on else "")


def _goes(change: Change, written: str, scale: float = 1.0) -> str:
    """Return a change in words: from what, to what, and its interval."""
    after = written.format(scale * change.after)
    if change.before is None or change.interval in (None, (0.0, 0.0)):
        return f"stays at {after}"
    low, high = (scale * end for end in change.interval)
    return f"goes from {written.format(scale * change.before)} to {after} (change {low:+.3g} to {high:+.3g})"


def _moved(found: Joining) -> str:
    """Return how many prompts move and from where, in words."""
    (loser, most), *others = found.moved_from.items()
    whence = f"most from {loser} ({most})" if others else f"all from {loser}"
    return f"it takes {len(found.moved)} of {found.n} prompts, {whence}"


def _weighed(found: Joining) -> str:
    """Return whether what the router minimises falls, in words."""
    falls = "falls" if found.kind == "joins" else "does not fall"
    low, high = found.score.interval or (0.0, 0.0)
    return f"{_minimised(found)} {falls}" + (
        f" (the {found.level:.0%} interval includes no change)" if low <= 0 <= high else ""
    )


def _minimised(found: Joining) -> str:
    """Return what the router minimises, in words."""
    return {0.0: "error", math.inf: "cost"}.get(found.cost_weight, "error + cost_weight * cost")


def _rivals(found: Joining) -> str:
    """Return why a model is never chosen, in words."""
    if found.dominated_by is not None:
        share = f"{found.dominated_share:.0%} of {found.n} prompts"
        return f"{found.dominated_by} is expected to be at least as accurate and no dearer on {share}"
    every = f"on each of {found.n} prompts another model's expected {_minimised(found)} is less"
    if not found.chosen_at:
        return f"{every}, whatever the cost_weight"
    return f"{every}; it would take some {' or '.join(_between(*ends) for ends in found.chosen_at)}"


def _between(low: float, high: float) -> str:
    """Return a range of cost_weights in words."""
    if math.isinf(high):
        return f"above {low:.4g}"
    return f"between {low:.4g} and {high:.4g}" if low else f"below {high:.4g}"


def _as_json(weight: float) -> float | str:
    return "inf" if math.isinf(weight) else weight
