"""Checks: what a look at a model's answer says of the chance that it is wrong, and what asking with a check is worth.

A check gives each answer a signal. On the graded validation answers its values are sorted into bins; how often a bin
holds wrong and right answers is a likelihood ratio, by which the odds of an error are multiplied (Bayes' rule, given
the prompt's own prediction). The other models' errors in the same bin say how hard such prompts are for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from unirouter_core.embedding import Array, Labels, Mask
from unirouter_core.exceptions import InvalidDataError, as_number, shown

BINS = 4  # of a signal with more than two values: more are noise in a few hundred answers
FEWEST_IN_BIN = 5  # answers; bins with fewer are merged with the next
FEWEST_ANSWERS = 40  # with a signal; a check with fewer is not used
PRIOR_SHARE = 1.0  # answers that wrong and right ones are given of every bin's overall share
PRIOR_ANSWERS = 100.0  # answers that each model is given in a bin, at its error there by those of all models
LEAST_GAIN = 1.0  # over the number of answers: what a check must promise, as estimates of a gain are noisy
THRESHOLDS = np.geomspace(1 / 8, 8, 25)  # that are tried, as shares of the wrong answers allowed: fixed, for the bound
FIRST_TRIED = (4, 8, 12)  # positions there: a quarter, a half and all of the wrong answers allowed
NOT_GIVEN = 1e6  # added to the score of an answer over its limit, which is then given only where no other model may be
AT_ONCE = 2**18  # numbers that the values of several checks are computed from together
LEAST, MOST = 0.01, 0.99  # predicted errors are clipped to this, so that an odds ratio always says something


@dataclass(frozen=True, eq=False)
class Check:
    """What the signals of one check on one model's answers say, for a pool of m models.

    Parameters
    ----------
    name : str
    column : int
        The model's position in the pool.
    usd : float
        What the check costs for each answer, on average.
    edges : array (n_bins - 1,)
        Signals up to the first are in bin 0, and so on.
    in_wrong, in_right : array (n_bins,)
        The shares of wrong and of right answers in each bin.
    odds : array (n_bins, m)
        What every model's odds of an error are multiplied by.
    n : int
        The answers with a signal.
    limit : float
        The answer may be given where its error is expected to be at most this; see `acceptance_limit`.
    """

    name: str
    column: int
    usd: float
    edges: Array
    in_wrong: Array
    in_right: Array
    odds: Array
    n: int
    limit: float = 1.0

    @classmethod
    def fit(
        cls, name: str, column: int, signals: npt.ArrayLike, errors: Array, usd: float = 0.0, limit: float = 1.0
    ) -> Self | None:
        """Return what signals (n,), NaN where not known, on a model's answers say; None when they are too few.

        `errors` (n, m) are those of all models on the same prompts, NaN where not known.
        """
        values, own = np.asarray(signals, np.float64), errors[:, column]
        known = ~np.isnan(values) & ~np.isnan(own)
        values, own, others = values[known], own[known], errors[known]
        edges = _edges(values)
        if len(values) < FEWEST_ANSWERS or not len(edges):
            return None
        bins = np.searchsorted(edges, values)
        members = np.eye(len(edges) + 1)[bins]  # (n, n_bins)
        shares = PRIOR_SHARE * members.mean(axis=0)
        in_wrong, in_right = own @ members + shares, (1 - own) @ members + shares
        odds = _odds(members, others)
        in_wrong, in_right = in_wrong / in_wrong.sum(), in_right / in_right.sum()
        odds[:, column] = in_wrong / in_right
        return cls(name, column, float(usd), edges, in_wrong, in_right, odds, len(values), limit)

    def bin_of(self, signal: float) -> int:
        """Return the bin of a signal."""
        return int(np.searchsorted(self.edges, float(signal)))

    def errors_after(self, errors: Array, found: int | Labels) -> Array:
        """Return the errors (n, m) expected of all models once the model's answer is in bin `found`, one or (n,)."""
        return _times_odds(errors, self.odds[found])

    def value(
        self, errors: Array, costs: Array, cost_weight: float, eligible: Mask | None = None
    ) -> tuple[Array, Array]:
        """Return error and USD (n,) expected of asking the model, checking, and choosing again by the rule.

        Its own answer is then free, so it is the answer unless another model's error + cost_weight * cost is less.
        `eligible` (m,) masks the models that may be chosen then.
        """
        error, usd = Checks([self]).values(errors, costs, cost_weight, eligible)
        return error[:, 0], usd[:, 0]


class Checks(tuple[Check, ...]):
    """Checks for one pool, as arrays besides, so that all of them are valued at once."""

    @cached_property
    def arrays(self) -> tuple[Any, ...]:
        """Columns, USD, limits and n of the checks, (k,); the shares of their bins (k, n_bins) and odds (k, n_bins, m).

        Checks with fewer bins than others have empty ones besides.
        """
        numbers = np.array([(each.column, each.usd, each.limit, each.n) for each in self]).reshape(-1, 4).T
        shape = len(self), max((len(each.odds) for each in self), default=0)
        in_wrong, in_right = np.zeros((2, *shape))
        odds = np.ones((*shape, self[0].odds.shape[1] if self else 0))
        for place, each in enumerate(self):
            bins = slice(len(each.odds))
            in_wrong[place, bins], in_right[place, bins], odds[place, bins] = each.in_wrong, each.in_right, each.odds
        return numbers[0].astype(int), *numbers[1:], in_wrong, in_right, odds

    def where(self, kept: Mask) -> Checks:
        """Return those that are kept, by a mask (k,)."""
        if kept.all():
            return self
        some = Checks(each for each, keep in zip(self, kept.tolist(), strict=True) if keep)
        some.__dict__["arrays"] = tuple(array[kept] for array in self.arrays)
        return some

    @property
    def columns(self) -> Labels:
        """The models' positions in the pool, (k,)."""
        return np.asarray(self.arrays[0], int)

    def values(
        self, errors: Array, costs: Array, cost_weight: float, eligible: Mask | None = None
    ) -> tuple[Array, Array]:
        """Return error and USD (n, k) expected of asking each check's model with it; see `Check.value`."""
        columns, usd, limits, _, in_wrong, in_right, odds = self.arrays
        if len(self) > 1 and len(errors) * odds.size > AT_ONCE:
            half = np.arange(len(self)) < len(self) // 2
            parts = [self.where(part).values(errors, costs, cost_weight, eligible) for part in (half, ~half)]
            return np.hstack([error for error, _ in parts]), np.hstack([paid for _, paid in parts])
        each = np.arange(len(self))
        clipped = np.clip(np.asarray(errors, np.float64), LEAST, MOST)
        own = clipped[:, columns, None]
        chances = own * in_wrong + (1 - own) * in_right  # (n, k, n_bins)
        after = _times_odds(errors[:, None, None], odds)  # (n, k, n_bins, m)
        scores = after + cost_weight * costs[:, None, None]
        scores[:, each, :, columns] = after[:, each, :, columns]  # an answer that is there is free
        if eligible is not None:
            scores = np.where(eligible, scores, np.inf)
        if (limits < 1).any():
            over = after[:, each, :, columns] > limits[:, None, None]
            scores[:, each, :, columns] += np.where(over, NOT_GIVEN, 0)
        chosen = scores.argmin(axis=3)
        error = np.take_along_axis(after, chosen[..., None], 3)[..., 0]
        paid = np.where(chosen == columns[:, None], 0, costs[np.arange(len(errors))[:, None, None], chosen])
        return (chances * error).sum(axis=2), costs[:, columns] + usd + (chances * paid).sum(axis=2)


def acceptance_limit(
    posteriors: npt.ArrayLike, errors: npt.ArrayLike, wrong_at_most: float, confidence: float = 0.95
) -> float:
    """Return the greatest posterior error at which answers may be accepted so that few enough of those are wrong.

    With `confidence`, at most the share `wrong_at_most` of the answers accepted on prompts exchangeable with these is
    wrong; 0.0 where these cannot show that for any threshold. Thresholds of a fixed grid are tested one after the other
    while they pass, from each of three starts at a third of the risk (Learn then Test, arXiv 2110.01052). The bound is
    Clopper and Pearson's, for errors between 0 and 1 Bentkus's.

    Parameters
    ----------
    posteriors, errors : array (n,)
        Of answers that what gave the posteriors was not fitted on.
    """
    from scipy.stats import binom

    for name, share in (("wrong_at_most", wrong_at_most), ("confidence", confidence)):
        if not 0 < as_number(share) < 1:
            raise InvalidDataError(f"{name}={shown(share)} must be a share between 0 and 1, such as 0.05 or 0.95.")
    expected, wrong = np.asarray(posteriors, np.float64), np.asarray(errors, np.float64)
    wider = 1.0 if np.isin(wrong, (0, 1)).all() else np.e
    limits, limit = THRESHOLDS * wrong_at_most, 0.0
    accepted = expected <= limits[:, None]
    chances = wider * binom.cdf(np.ceil(accepted @ wrong - 1e-9), accepted.sum(axis=1), wrong_at_most)
    passes = chances <= (1 - confidence) / len(FIRST_TRIED)
    for first in FIRST_TRIED:
        n_passed = int(np.append(~passes[first:], True).argmax())
        limit = max(limit, float(limits[first + n_passed - 1])) if n_passed else limit
    return min(limit, 1.0)


def look_ahead(
    errors: Array, costs: Array, cost_weight: float, checks: Sequence[Check], eligible: Mask | None = None
) -> tuple[Array, Array, Labels]:
    """Return errors and USD (n, m) where a model whose check pays is worth what asking it with the check is.

    The labels (n, m) are positions in `checks`, -1 where a model's answer is not to be checked. A check pays where it
    lowers the least error + cost_weight * cost of all models that are `eligible` (m,) by more than `LEAST_GAIN` allows
    for noise. One with a limit is run whether it pays or not.
    """
    found, used = (np.array(errors, np.float64), np.array(costs, np.float64)), np.full(errors.shape, -1)
    group = checks if isinstance(checks, Checks) else Checks(checks)
    if not group:
        return *found, used
    scores = found[0] + cost_weight * found[1]
    least = scores.min(axis=1) if eligible is None else scores[:, eligible].min(axis=1)
    columns, usd, limits, n, *_ = group.arrays
    promised = least[:, None] - LEAST_GAIN / n
    dear = (cost_weight * (costs[:, columns] + usd) >= promised).all(axis=0)  # too dear, were it never wrong
    places = np.flatnonzero(~dear | (limits < 1))
    values, paid = group.where(~dear | (limits < 1)).values(errors, costs, cost_weight, eligible)
    while len(places):
        first = np.unique(columns[places], return_index=True)[1]  # of each model; its others are compared with that
        at, column = places[first], columns[places[first]]
        error, cost = values[:, first], paid[:, first]
        score = error + cost_weight * cost
        better = score < found[0][:, column] + cost_weight * found[1][:, column]
        rows = np.where(limits[at] == 1, better & (score < promised[:, at]), better | (used[:, column] < 0))
        for array, new in ((found[0], error), (found[1], cost), (used, at)):
            array[:, column] = np.where(rows, new, array[:, column])
        rest = np.delete(np.arange(len(places)), first)
        places, values, paid = places[rest], values[:, rest], paid[:, rest]
    return *found, used


def _edges(values: Array) -> Array:
    """Return the edges of the bins of signals, strictly increasing; none when all are in one bin."""
    distinct = np.unique(values)
    if len(distinct) == 2:
        cuts = distinct[:1]
    else:
        cuts = np.unique(np.quantile(values, np.arange(1, BINS) / BINS)) if len(distinct) else distinct
    kept = list[float]()
    for cut in cuts.tolist():
        inside = values > (kept[-1] if kept else -np.inf)
        if min((inside & (values <= cut)).sum(), (values > cut).sum()) >= FEWEST_IN_BIN:
            kept.append(cut)
    return np.array(kept)


def _odds(members: Array, errors: Array) -> Array:
    """Return what the odds of each model's errors are multiplied by in each bin, (n_bins, m)."""
    known = ~np.isnan(errors)
    overall = np.where(known, errors, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    wrong, counts = members.T @ np.where(known, errors, 0), members.T @ known
    ratios = wrong.sum(axis=1) / np.maximum(counts @ overall, 1e-9)  # of all models together
    expected = np.clip(overall * ratios[:, None], LEAST, MOST)
    inside = (wrong + PRIOR_ANSWERS * expected) / (counts + PRIOR_ANSWERS)
    overall = np.clip(overall, LEAST, MOST)
    return np.asarray(inside / (1 - inside) / (overall / (1 - overall)))


def _times_odds(errors: Array, factors: Array) -> Array:
    clipped = np.clip(np.asarray(errors, np.float64), LEAST, MOST)
    raised = clipped * factors
    return raised / (raised + 1 - clipped)
