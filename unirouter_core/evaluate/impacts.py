"""What a newly onboarded model changes: the prompts that move to it, and quality and cost with and without it."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from unirouter_core.display import plus_minus, usd
from unirouter_core.display import weight as shown_weight
from unirouter_core.embedding import Array, Labels, Mask
from unirouter_core.evaluate.bootstrap import Bootstrap
from unirouter_core.evaluate.checking import outcome
from unirouter_core.evaluate.holdout import FEWEST_PROMPTS, HeldOut, held_out, predict, shared_prompts
from unirouter_core.evaluate.verdict import Judged, Verdict, level_of
from unirouter_core.pool import Pool
from unirouter_core.router import UniRouter
from unirouter_core.rule import SAME_COST, TIE, check_cost_weight, choose, score

NEARLY_ALL = 0.95  # a model is dominated by another that is as accurate and no dearer on this share of the prompts
NO_CHANGE = 1e-9  # means closer than this share of them are equal: sums round differently
Kind: TypeAlias = Literal["worth it", "not worth it", "never chosen", "the only model"]


@dataclass(frozen=True)
class Change:
    """A mean over prompts without the model and with it, and the paired bootstrap's interval of the difference.

    `before` and `interval` are None where there is no other model.
    """

    before: float | None
    after: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Impact(Judged):
    """What a model changes in its pool.

    Parameters
    ----------
    kind : {"worth it", "not worth it", "never chosen", "the only model"}
        Prompts move to it and the mean of error + cost_weight * cost falls; prompts move and it does not fall; no
        prompt moves; there is no other model. `level` says how sure that is.
    cost_weight : float
        The error that one USD is worth.
    n : int
        The model's validation prompts.
    moved : tuple of str
        Those that move to it, in falling order of expected gain; digests where texts are not kept.
    moved_from : dict of model to int
        How many of them each model loses, in falling order.
    n_judged : int
        The prompts that `quality`, `cost` and `score` are means over.
    n_shared : int
        The answered validation prompts that all models of the pool share.
    measured : bool
        Whether the means are of answers, each chosen for by profiles that were not measured on it, or expectations.
    fitted_on : bool
        Whether the router was fitted on the very prompts that judge it.
    quality, cost, score : Change
        Means of 1 - error, of USD a prompt, and of error + cost_weight * cost (cost alone when the weight is inf).
    dominated_by : str or None
        For a model never chosen: another that is expected to be at least as accurate and no dearer on
        `dominated_share` of the prompts.
    chosen_at : tuple of (float, float)
        For a model never chosen: ranges of cost_weight, at most one below the present one and one above, between whose
        ends some prompt would go to it.
    """

    model: str
    kind: Kind
    cost_weight: float
    n: int
    moved: tuple[str, ...]
    moved_from: dict[str, int]
    n_judged: int
    n_shared: int
    measured: bool
    fitted_on: bool
    quality: Change
    cost: Change
    score: Change
    dominated_by: str | None = None
    dominated_share: float = 0.0
    chosen_at: tuple[tuple[float, float], ...] = ()

    @property
    def judged(self) -> Verdict:
        """Whether the model pays in this pool, and why."""
        at = f"at cost_weight {shown_weight(self.cost_weight)}"
        if self.kind == "the only model":
            gives = f"quality {self.quality.after:.1%} for {usd(1000 * self.cost.after)} per 1,000 prompts"
            return Verdict("about even", f"it is the only model, and gives {gives}", self.model, self.model)
        if self.kind == "never chosen":
            minimised = {0.0: "error", math.inf: "cost"}.get(self.cost_weight, "error + cost_weight * cost")
            if self.dominated_by is not None:
                why = f"{self.dominated_by} is expected to be as accurate and no dearer on {self.dominated_share:.0%}"
                why += f" of {self.n} prompts"
            else:
                ranges = " or ".join(_range(*ends) for ends in self.chosen_at)
                why = f"on each of {self.n} prompts another model's expected {minimised} is lower"
                why += f"; it is chosen for some {ranges}" if ranges else ", at any cost_weight"
            return Verdict("does not pay", f"{at} it is never chosen: {why}", None, self.model)
        (loser, most), *others = self.moved_from.items()
        most_or_all = "most" if others else "all"
        takes = f"{at} it takes {len(self.moved)} of {self.n} prompts, {most_or_all} from {loser} ({most})"
        measured = f"{'measured' if self.measured else 'expected'} on {self.n_judged} prompts"
        low, high = self.score.interval or (0.0, 0.0)
        level = level_of((-high, -low))
        quality, cost, change = "the same quality", "the same cost", self.quality.interval or (0.0, 0.0)
        if any(change):
            quality = f"quality {self.quality.before:.1%} to {self.quality.after:.1%}"
            quality += f" ({plus_minus(change, sign='+')} points)"
        if any(self.cost.interval or ()):
            cost = f"{usd(1000 * (self.cost.before or 0))} to {usd(1000 * self.cost.after)} per 1,000 prompts"
        unsure = ", which may be chance" if level == "about even" else ""
        return Verdict(level, f"{takes}; {measured}, {quality} and {cost}{unsure}", None, self.model)

    @property
    def verdict(self) -> str:
        """The impact in a few sentences."""
        said = str(self.judged)
        if self.kind != "the only model" and self.cost_weight == 0:
            said += " At cost_weight 0, cost is ignored: tune the router to weigh it."
        if not self.measured:
            said += (
                f" These are expectations: measurements need {FEWEST_PROMPTS} answered validation prompts that all "
                f"models of the pool share; they share {self.n_shared}."
            )
        return said


def impact(
    router: UniRouter,
    model: str,
    *,
    cost_weight: float | None = None,
    level: float = 0.9,
    trials: int = 500,
    seed: int = 0,
) -> Impact:
    """Return what `model`, already onboarded, changes in its pool, with intervals and a verdict.

    Which prompts move is what the router does now on the model's validation prompts. What that gives is measured on the
    answered validation prompts that the whole pool shares, as `held_out` predicts them, drafts that checks reject being
    paid, too; where they are fewer than 20, it is what the router expects on the model's own. Raises
    `UnknownModelError` when the model is not in the pool; `InvalidDataError` when `cost_weight`, `level` or `trials` is
    outside its range.

    Parameters
    ----------
    cost_weight : float, optional
        The error that one USD is worth; the router's own when not given.
    level : float
        The share of cases that an interval holds.
    trials, seed : int
        Of the bootstrap.

    Examples
    --------
    >>> from unirouter_core import UniRouter
    >>> router = UniRouter.starter(examples=True)
    >>> found = impact(router, "recorded/gemini-1.5-pro-002", cost_weight=50)
    >>> found.kind, len(found.moved), next(iter(found.moved_from))
    ('worth it', 89, 'recorded/gemini-3.1-pro')
    """
    boot = Bootstrap(level, trials, seed)
    weight = check_cost_weight(router.cost_weight if cost_weight is None else cost_weight)
    pool = router.pool
    pool.check_known([model])
    column, prompts = pool.models.index(model), pool[model].measured
    expected = predict(router, pool, prompts)
    errors, costs = expected.prediction.errors.astype(np.float64), expected.costs
    n_shared = len(shared_prompts(pool)[0])
    measured = n_shared >= FEWEST_PROMPTS
    held = held_out(router, seed=seed) if measured else HeldOut(pool.models, errors, costs, errors, costs)
    others = np.arange(len(pool)) != column
    rows, losers = _moves(errors, costs, column, others, weight)
    new, old = _means(*outcome(held, weight, seed=seed), weight), None
    if others.any():
        old = _means(*outcome(held, weight, others, seed=seed), weight)
    changes: dict[str, Any] = {
        name: _change(None if old is None else old[name], values, boot) for name, values in new.items()
    }
    both, why = changes["score"], dict[str, Any]()
    kind: Kind = "the only model"
    if not len(rows):
        kind, why = "never chosen", _why_never(pool, errors, costs, column, weight)
    elif both.before is not None:
        kind = "worth it" if both.after < both.before * (1 - NO_CHANGE) else "not worth it"
    names = prompts.digests if prompts.texts is None else prompts.texts
    return Impact(
        model=model,
        kind=kind,
        cost_weight=weight,
        n=len(prompts),
        moved=tuple(names[row] for row in rows),
        moved_from={pool.models[j]: count for j, count in Counter(losers.tolist()).most_common()},
        n_judged=len(held),
        n_shared=n_shared,
        measured=measured,
        fitted_on=held.fitted_on,
        **changes,
        **why,
    )


def standings(held: HeldOut, cost_weight: float, *, level: float = 0.9) -> dict[str, tuple[float, str]]:
    """Return the share of the prompts that goes to each model at `cost_weight`, and the level of its verdict.

    That is by the interval of `level` of how much lower the mean of error + cost_weight * cost is with it than without;
    or "never chosen", or "the only model".
    """
    weight, boot, chosen = check_cost_weight(cost_weight), Bootstrap(level, 500, 0), held.chosen(cost_weight)
    shares, scores, found = (
        held.shares(chosen),
        _means(*held.outcome(chosen), weight)["score"],
        dict[str, tuple[float, str]](),
    )
    for column, model in enumerate(held.models):
        share, word = shares.get(model, 0.0), "the only model" if len(held.models) == 1 else "never chosen"
        if share and len(held.models) > 1:
            others = np.arange(len(held.models)) != column
            without = choose(held.predicted_errors, held.predicted_costs, weight, others)
            word = level_of(boot.mean_interval(_means(*held.outcome(without), weight)["score"] - scores))
        found[model] = share, word
    return found


def _moves(errors: Array, costs: Array, column: int, others: Mask, weight: float) -> tuple[Labels, Labels]:
    """Return the rows that move to the model of `column`, in falling order of gain, and the columns that lose them."""
    rows, scores = np.flatnonzero(choose(errors, costs, weight) == column), score(errors, costs, weight)
    if not others.any():
        return rows, np.empty(0, int)
    losers = choose(errors, costs, weight, others)[rows]
    order = np.argsort(scores[rows, column] - scores[rows, losers], kind="stable")
    return rows[order], losers[order]


def _means(errors: Array, costs: Array, weight: float) -> dict[str, Array]:
    """Return what the means of an `Impact` are over, for the errors and USD (n,) of some choices."""
    return {"quality": 1 - errors, "cost": costs, "score": score(errors, costs, weight)}


def _change(before: Array | None, after: Array, boot: Bootstrap) -> Change:
    if before is None:
        return Change(None, float(after.mean()), None)
    return Change(float(before.mean()), float(after.mean()), boot.mean_interval(after - before))


def _why_never(pool: Pool, errors: Array, costs: Array, column: int, weight: float) -> dict[str, Any]:
    """Return which model dominates that of `column`, if one does, and at what other cost_weights it is chosen."""
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


def _range(low: float, high: float) -> str:
    """Return a range of cost_weights in words."""
    if math.isinf(high):
        return f"above {shown_weight(low)}"
    return f"between {shown_weight(low)} and {shown_weight(high)}" if low else f"below {shown_weight(high)}"
