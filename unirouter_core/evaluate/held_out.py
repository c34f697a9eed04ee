"""What a router predicts, beside what happened, on prompts that its profiles were not measured on."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from unirouter_core.curves import Sweep, sweep
from unirouter_core.data import Outcomes
from unirouter_core.embedding import Array, Labels, normalise
from unirouter_core.exceptions import InvalidDataError, NoCandidateError
from unirouter_core.pool import Pool, as_numbers, digests
from unirouter_core.rule import choose

if TYPE_CHECKING:
    from unirouter_core.router import UniRouter

FOLDS = 5
"""Each validation prompt is judged by profiles measured on the other four fifths."""

FEWEST_PROMPTS = 20
"""Fewer held-out prompts say nothing about a goal."""

FITTED_ON = " The router was fitted on these prompts, which flatters it: measure it on others."
"""What a verdict adds when there are no other prompts."""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What a router predicts, and what happened, on prompts that its profiles were not measured on.

    Parameters
    ----------
    models : tuple of str
    predicted_errors, predicted_costs, errors, costs : array (n_prompts, n_models)
    fitted_on : bool
        Whether the router's prompt features were fitted on these prompts, which flatters it.
    """

    models: tuple[str, ...]
    predicted_errors: Array
    predicted_costs: Array
    errors: Array
    costs: Array
    fitted_on: bool = False

    def __len__(self) -> int:
        """Return the number of prompts."""
        return len(self.errors)

    @property
    def sweep(self) -> Sweep:
        """The choices at every cost_weight."""
        return sweep(self.predicted_errors, self.predicted_costs, self.errors, self.costs)

    @property
    def mixture(self) -> Sweep:
        """The choices of a router that ignores the prompt but knows these prompts' mean errors and costs."""
        return sweep(self.errors.mean(axis=0), self.costs.mean(axis=0), self.errors, self.costs)

    def chosen(self, cost_weight: float) -> Labels:
        """Return the column of each prompt's model at `cost_weight`, (n_prompts,)."""
        return choose(self.predicted_errors, self.predicted_costs, cost_weight)

    def outcome(self, chosen: Labels) -> tuple[Array, Array]:
        """Return the errors and USD of the prompts' chosen models, both (n_prompts,)."""
        at = np.arange(len(self))
        return self.errors[at, chosen], self.costs[at, chosen]

    @property
    def most_accurate(self) -> int:
        """The column of the most accurate single model, of equals the cheapest."""
        return int(np.lexsort((self.costs.mean(axis=0), self.errors.mean(axis=0)))[0])

    def shares(self, chosen: Labels) -> dict[str, float]:
        """Return the share of the prompts that goes to each model, those with none left out."""
        counts = np.bincount(chosen, minlength=len(self.models)) / len(self)
        return {model: float(share) for model, share in zip(self.models, counts, strict=True) if share}


def held_out(router: UniRouter, outcomes: Outcomes | None = None, *, seed: int = 0) -> HeldOut:
    """Return predictions and truth for a router's pool on prompts its profiles were not measured on.

    Parameters
    ----------
    router : UniRouter
    outcomes : Outcomes, optional
        What the pool's models did on other prompts; any that profiles were measured on, or the router fitted on,
        are left out. Without them, the validation prompts that all models answered are used: each fifth is predicted
        by profiles measured on the other four fifths (expected costs are those of the whole set), and those the
        router was fitted on judge it only when there are no others.
    seed : int

    Raises
    ------
    NoCandidateError
        When the pool is empty.
    InvalidDataError
        When fewer than 20 prompts are left.
    """
    if not router.pool:
        raise NoCandidateError("The pool holds no model; onboard one first.")
    return _cross_fitted(router, seed) if outcomes is None else _on_others(router, outcomes)


def _on_others(router: UniRouter, outcomes: Outcomes) -> HeldOut:
    models = tuple(router.pool)
    table = outcomes.of(models)
    measured = {name for profile in router.pool.values() for name in profile.measured.digests}
    new = np.array([name not in measured for name in digests(table.prompts, table.documents)])
    new &= ~router.fit_.has_seen(table.prompts)
    rows = np.flatnonzero(new & ~np.isnan(table.errors).any(axis=1))
    if len(rows) < FEWEST_PROMPTS:
        raise InvalidDataError(
            f"{len(rows)} prompts are left that every model of the pool answered and none was measured or fitted "
            f"on; give at least {FEWEST_PROMPTS} such prompts."
        )
    table = table.rows(rows)
    expected = router.expect(table.prompts, documents=table.documents)
    costs = np.where(np.isnan(table.costs), expected.costs, table.costs)
    return HeldOut(models, expected.prediction.errors, expected.costs, table.errors, costs)


def _cross_fitted(router: UniRouter, seed: int) -> HeldOut:
    profiles = list(router.pool.values())
    places = [{name: row for row, name in enumerate(profile.measured.digests)} for profile in profiles]
    shared = [name for name in places[0] if all(name in place for place in places[1:])]
    rows = [np.array([place[name] for name in shared], int) for place in places]
    errors = np.stack([profile.errors[at] for profile, at in zip(profiles, rows, strict=True)], axis=1)
    answered = ~np.isnan(errors).any(axis=1)
    if answered.sum() < FEWEST_PROMPTS:
        raise InvalidDataError(
            f"The pool's models share {int(answered.sum())} answered validation prompts, and at least {FEWEST_PROMPTS} "
            "are needed; onboard them on the same prompts, or give outcomes of other prompts."
        )
    rows, errors = [at[answered] for at in rows], errors[answered]
    usd = np.stack([profile.usd[at] for profile, at in zip(profiles, rows, strict=True)], axis=1)
    predicted, expected = np.empty(errors.shape), np.empty(errors.shape)
    folds = np.random.default_rng(seed).permutation(len(errors)) % FOLDS
    for fold in range(FOLDS):
        left, judged = folds != fold, folds == fold
        refitted = {}
        for profile, at in zip(profiles, rows, strict=True):
            measured, own = profile.measured, profile.errors[at[left]]
            known = None if measured.known is None else measured.known[at[left]].astype(np.float32)
            features = router.fit_.estimator.profile(normalise(measured.vectors[at[left]]), own, known)
            refitted[profile.model] = dataclasses.replace(profile, features=features, error=float(own.mean()))
        vectors = normalise(profiles[0].measured.vectors[rows[0][judged]])
        tokens = profiles[0].measured.tokens[rows[0][judged]]
        found = router.fit_.expect(Pool(refitted), vectors, tokens)
        predicted[judged], expected[judged] = found.prediction.errors, found.costs
    models, costs = tuple(profile.model for profile in profiles), np.where(np.isnan(usd), expected, usd)
    seen = np.isin(as_numbers(shared)[answered], router.fit_.seen)
    fitted_on = (~seen).sum() < FEWEST_PROMPTS
    kept = np.full(len(seen), True) if fitted_on else ~seen
    return HeldOut(models, predicted[kept], expected[kept], errors[kept], costs[kept], bool(fitted_on))
