"""In which order to evaluate a new model, and when more of its answers would not change where prompts go."""

from __future__ import annotations

import bisect
import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from unirouter_core.costs import PRIOR_ANSWERS
from unirouter_core.data import Evaluation
from unirouter_core.embedding import Array, Labels, Mask
from unirouter_core.evaluate.bootstrap import Bootstrap
from unirouter_core.evaluate.goals import TINY
from unirouter_core.evaluate.holdout import predict, refitted
from unirouter_core.exceptions import InvalidDataError
from unirouter_core.fit import call_cost, with_prices
from unirouter_core.pool import Expected, ModelProfile, Pool
from unirouter_core.router import UniRouter
from unirouter_core.rule import check_cost_weight, choose

# How much of what a profile may be wrong by, as variance, is the same in all regions. At 0, shares stated with 90 %
# confidence after 50 answers held 84 % of the time (50 models onboarded on MMLU-Pro, large cost_weight); at half, 94 %.
TOGETHER = 0.5


@dataclass(frozen=True)
class Undecided:
    """Whether the answers that a new model still lacks could change where prompts go.

    With `confidence`, at most the share `changed` of the validation prompts would go elsewhere after all answers; it is
    `decided` when that is at most `share`. `goes` is the share that goes to the new model now. Prompts whose call
    failed count neither as answered nor as open.
    """

    decided: bool
    changed: float
    share: float
    confidence: float
    goes: float
    n_answered: int
    n_open: int

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return dataclasses.asdict(self)


def ask_order(labels: npt.ArrayLike, seed: int = 0) -> Labels:
    """Return a stratified order of positions: every prefix holds each region's share to within one prompt.

    It is Tijdeman's chairman assignment: of the regions that are owed a prompt, the next comes from the one that is due
    first. With k regions no prefix is off by more than 1 - 1 / (2k - 2), and no order does better in general. `labels`
    (n,) are the prompts' regions; `seed` orders those within a region, and regions that are due together.

    Examples
    --------
    >>> labels = np.array([0, 0, 0, 0, 1, 1])
    >>> np.cumsum(labels[ask_order(labels)] == 0).tolist()
    [1, 1, 2, 3, 3, 4]
    """
    given, rng = np.asarray(labels), np.random.default_rng(seed)
    regions = [rng.permutation(np.flatnonzero(given == name)) for name in rng.permutation(np.unique(given))]
    sizes, taken, n = np.array([len(region) for region in regions]), np.zeros(len(regions), int), len(given)
    parts, order = max(2 * len(regions) - 2, 1), np.empty(n, int)
    for place in range(n):
        owed = parts * (sizes * (place + 1) - taken * n) >= n
        due = (parts * (taken + 1) - 1) / (parts * sizes)
        turn = int(np.where(owed, due, np.inf).argmin())
        order[place] = regions[turn][taken[turn]]
        taken[turn] += 1
    return order


def undecided(
    router: UniRouter,
    evaluation: Evaluation,
    *,
    share: float = 0.01,
    confidence: float = 0.9,
    draws: int = 100,
    cost_weight: float | None = None,
    vectors: Array | None = None,
    seed: int = 0,
) -> Undecided:
    """Return how sure it is that a model's remaining answers would leave where the validation prompts go.

    The open answers are simulated `draws` times, from what the profile so far expects of them, its standard errors and
    the noise of single answers; so are their tokens and USD. Each time the model is profiled with them, and the choices
    are compared with those of its profile so far. The router does not change, so this may run in a thread beside the
    calls. The first model of a pool is decided only when all is answered: nothing can move, but later models are
    compared with its answers. Raises `InvalidDataError` when a setting is outside its range; `UnknownPriceError` as in
    `UniRouter.onboard`.

    Parameters
    ----------
    router : UniRouter
        With the other models in its pool; a model of the evaluation's name there is left out.
    evaluation : Evaluation
        Of all validation prompts, those without an answer yet NaN and not `failed`.
    share : float
        Of the validation prompts, that may go elsewhere after all answers.
    cost_weight : float, optional
        The error that one USD is worth; the router's own when not given.
    vectors : array (n_prompts, d), optional
        The validation prompts' vectors, where they are known already.
    """
    boot = Bootstrap(confidence, draws, seed)
    if not 0 <= share <= 1:
        raise InvalidDataError(f"share={share!r} must be a share of the validation prompts, 0 to 1.")
    weight = check_cost_weight(router.cost_weight if cost_weight is None else cost_weight)
    profile = router.profile(evaluation, vectors=vectors)
    others = Pool({name: known for name, known in router.pool.items() if name != profile.model})
    n_open = int(_open(evaluation).sum())
    if not len(others):
        return Undecided(not n_open, 0.0, share, confidence, goes=1.0, n_answered=profile.n, n_open=n_open)
    now = Pool({profile.model: profile})
    present = _takes(router, others, profile, now, weight)
    after = _simulated(router, evaluation, profile, boot) if n_open else now
    moved = (_takes(router, others, profile, after, weight) != present).mean(axis=0)
    changed = float(np.quantile(moved, confidence, method="higher"))
    return Undecided(changed <= share, changed, share, confidence, float(present.mean()), profile.n, n_open)


def _takes(router: UniRouter, others: Pool, profile: ModelProfile, pool: Pool, weight: float) -> Mask:
    """Return which validation prompts the model takes from `others`, (n, m), for each of its m profiles in `pool`."""
    theirs, ours = (predict(router, models, profile.measured) for models in (others, pool))
    column = bisect.bisect(others.models, profile.model)  # models are in the order of their names, which breaks ties
    taken = []
    for errors, costs in zip(ours.prediction.errors.T, ours.costs.T, strict=True):
        with_errors = np.insert(theirs.prediction.errors, column, errors, axis=1)
        taken.append(choose(with_errors, np.insert(theirs.costs, column, costs, axis=1), weight) == column)
    return np.stack(taken, axis=1)


def _open(evaluation: Evaluation) -> Mask:
    """Return which prompts have no answer yet, (n_prompts,)."""
    return np.isnan(evaluation.errors) & ~evaluation.failed


def _simulated(router: UniRouter, evaluation: Evaluation, profile: ModelProfile, boot: Bootstrap) -> Pool:
    """Return the model's profiles after each simulation of the open answers, as a pool."""
    now = predict(router, Pool({profile.model: profile}), profile.measured)
    rng, priced = np.random.default_rng(boot.seed), with_prices(evaluation)
    n_regions, rows = len(router.fit_.regions), np.flatnonzero(~evaluation.failed)
    profiles = {}
    for draw in range(boot.trials):
        whole = _completed(priced, now, n_regions, rng)
        cost = call_cost(whole, profile.measured.tokens, now.regions, n_regions, scalar=router.fit_.cost == "mean")
        profiles[f"{draw:09}"] = refitted(router, profile, whole.errors[rows], rows, cost=cost)
    return Pool(profiles)


def _completed(evaluation: Evaluation, now: Expected, n_regions: int, rng: np.random.Generator) -> Evaluation:
    """Return the evaluation with its open answers simulated once."""
    rows, answered = np.flatnonzero(_open(evaluation)), np.flatnonzero(~np.isnan(evaluation.errors))
    regions = now.regions[rows]
    off = math.sqrt(TOGETHER) * rng.normal() + math.sqrt(1 - TOGETHER) * rng.normal(size=n_regions)[regions]
    expected = now.prediction.errors[rows, 0] + off * now.prediction.stderrs[rows, 0]
    donors = rng.choice(answered, len(answered))  # those seen are a draw too: an approximate Bayesian bootstrap
    errors = evaluation.errors.copy()
    errors[rows] = _answers(np.clip(expected, 0, 1), errors[donors], rng)
    like = _donors(regions, donors, now.regions[donors], rng)
    tokens_out, costs = evaluation.tokens_out.copy(), evaluation.costs.copy()
    tokens_out[rows], costs[rows] = tokens_out[like], costs[like]
    return dataclasses.replace(evaluation, errors=errors, tokens_out=tokens_out, costs=costs)


def _answers(expected: Array, seen: Array, rng: np.random.Generator) -> Array:
    """Return errors drawn with these means (n,), of the same kind as those `seen` (m,).

    Each is one of those seen, but for a share of 1s, or of 0s, that makes its mean right. Where all seen are 0 or 1,
    so are these.
    """
    mean, luck = seen.mean(), rng.random(len(expected))
    drawn = np.where(luck < (expected - mean) / max(1 - mean, TINY), 1.0, rng.choice(seen, len(expected)))
    return np.where(luck < (mean - expected) / max(mean, TINY), 0.0, drawn)


def _donors(regions: Labels, donors: Labels, of_donors: Labels, rng: np.random.Generator) -> Labels:
    """Return a donor for each of `regions` (n,): from its own region, or from any as if by some more answers."""
    chosen = rng.choice(donors, len(regions))
    for region in np.unique(regions):
        near, here = donors[of_donors == region], np.flatnonzero(regions == region)
        own = here[rng.random(len(here)) < len(near) / (len(near) + PRIOR_ANSWERS)]
        if len(own):
            chosen[own] = rng.choice(near, len(own))
    return chosen
