"""What a router predicts, and what really happened, on prompts that its profiles were not measured on."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from unirouter_core.curves import Sweep, sweep
from unirouter_core.data import Outcomes, digests
from unirouter_core.embedding import Array, Labels, normalise
from unirouter_core.exceptions import InvalidDataError, NoCandidateError
from unirouter_core.outcome_files import as_outcomes
from unirouter_core.pool import Expected, MeasuredPrompts, ModelProfile, Pool, Signals, as_numbers
from unirouter_core.router import UniRouter
from unirouter_core.rule import choose

GivenRouter: TypeAlias = "UniRouter | HeldOut | str | os.PathLike[str]"

FOLDS = 5  # each validation prompt is predicted by profiles measured on the other four fifths
MOST_RESAMPLED = 10_000  # prompts; their intervals are narrow enough to decide by
FEWEST_PROMPTS = 20  # fewer held-out prompts say nothing about a goal


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Predicted and real errors and costs (n_prompts, n_models) on held-out prompts; made by `held_out`.

    `fitted_on` is whether the router learned from answers to these prompts, which flatters it. `routed_errors` and
    `routed_costs` are what the router itself predicts on its validation prompts, where the other predictions are of
    profiles with a fifth of the answers left out: near a tie they choose differently. `digests` are those of the
    validation prompts, where they are these; `checks` are then what checks of the models' answers gave, each with its
    name and the model's column.
    """

    models: tuple[str, ...]
    predicted_errors: Array
    predicted_costs: Array
    errors: Array
    costs: Array
    fitted_on: bool = False
    cost_weight: float = 0.0
    routed_errors: Array | None = None
    routed_costs: Array | None = None
    digests: Array | None = None
    checks: tuple[tuple[str, int, Signals], ...] = ()

    def __len__(self) -> int:
        """Return the number of prompts."""
        return len(self.errors)

    @cached_property
    def sweep(self) -> Sweep:
        """The choices at every cost_weight."""
        return sweep(self.predicted_errors, self.predicted_costs, self.errors, self.costs)

    @cached_property
    def mixture(self) -> Sweep:
        """The choices of a router that ignores the prompt but knows these prompts' mean errors and costs."""
        return sweep(self.errors.mean(axis=0), self.costs.mean(axis=0), self.errors, self.costs)

    @cached_property
    def most_accurate(self) -> int:
        """The column of the most accurate single model; ties go to the cheaper."""
        return int(np.lexsort((self.costs.mean(axis=0), self.errors.mean(axis=0)))[0])

    def baseline(self, model: str | None) -> int:
        """Return the column of `model`, of the most accurate model when None."""
        if model is None:
            return self.most_accurate
        if model not in self.models:
            pool = ", ".join(self.models)
            raise InvalidDataError(f"The baseline {model!r} is not in the pool ({pool}); onboard it, or name another.")
        return self.models.index(model)

    @cached_property
    def sampled(self) -> HeldOut:
        """At most `MOST_RESAMPLED` of the prompts, so that a bootstrap takes seconds however many there are."""
        if len(self) <= MOST_RESAMPLED:
            return self
        arrays = [(name, value) for name, value in vars(self).items() if isinstance(value, np.ndarray)]
        kept: Any = {
            name: rows[np.random.default_rng(0).permutation(len(rows))[:MOST_RESAMPLED]] for name, rows in arrays
        }
        return dataclasses.replace(self, **kept, checks=())

    def chosen(self, cost_weight: float) -> Labels:
        """Return the column of each prompt's model at `cost_weight`, (n_prompts,)."""
        return choose(self.predicted_errors, self.predicted_costs, cost_weight)

    def outcome(self, chosen: Labels) -> tuple[Array, Array]:
        """Return the errors and USD of the prompts' chosen models, both (n_prompts,)."""
        at = np.arange(len(self))
        return self.errors[at, chosen], self.costs[at, chosen]

    def spending(self, cost_weight: float) -> tuple[Array, Array, Array]:
        """Return USD spent and expected on the held-out choices, (n,), and expected on those of the router itself."""
        chosen = self.chosen(cost_weight)
        expected = self.predicted_costs[np.arange(len(self)), chosen]
        if self.routed_errors is None or self.routed_costs is None:
            return self.outcome(chosen)[1], expected, expected
        routed = choose(self.routed_errors, self.routed_costs, cost_weight)
        return self.outcome(chosen)[1], expected, self.routed_costs[np.arange(len(routed)), routed]

    def shares(self, chosen: Labels) -> dict[str, float]:
        """Return the share of the prompts that goes to each model; models with none are left out."""
        counts = np.bincount(chosen, minlength=len(self.models)) / len(self)
        return {model: float(share) for model, share in zip(self.models, counts, strict=True) if share}


def held_out(router: GivenRouter, outcomes: Any = None, *, seed: int = 0) -> HeldOut:
    """Return predictions and truth for a router's pool on prompts its profiles were not measured on.

    Raises `NoCandidateError` when the pool is empty; `InvalidDataError` when fewer than 20 prompts are left, or
    outcomes are given beside a `HeldOut`.

    Parameters
    ----------
    router : UniRouter or HeldOut or path
        A `HeldOut` is returned as it is; a router may be given by its folder.
    outcomes : Outcomes, or what `read_outcomes` takes, optional
        What the pool's models did on other prompts; any that profiles were measured on, or the router fitted on,
        are left out. Without them, the validation prompts that all models answered are used: each fifth is predicted
        by profiles measured on the other four fifths (expected costs are those of the whole set), and those the
        router was fitted on judge it only when there are no others.
    seed : int
        Of the split into fifths.
    """
    if isinstance(router, HeldOut):
        if outcomes is not None:
            raise InvalidDataError("A HeldOut has outcomes of its own; give the router to judge it by others.")
        return router
    router = UniRouter.load(router) if isinstance(router, str | os.PathLike) else router
    if not router.pool:
        raise NoCandidateError("The pool holds no model; onboard one first.")
    return _cross_fitted(router, seed) if outcomes is None else _on_others(router, as_outcomes(outcomes))


def predict(router: UniRouter, pool: Pool, prompts: MeasuredPrompts, rows: Labels | None = None) -> Expected:
    """Return what the models of `pool` are expected to do on prompts that a profile was measured on."""
    vectors, tokens = prompts.vectors, prompts.tokens
    if rows is not None:
        vectors, tokens = vectors[rows], tokens[rows]
    return router.fit_.expect(pool, normalise(vectors), tokens)


def refitted(router: UniRouter, profile: ModelProfile, errors: Array, rows: Labels, **changes: Any) -> ModelProfile:
    """Return the profile that `errors` (n,) on the rows of its prompts give."""
    measured = profile.measured
    known = None if measured.known is None else measured.known[rows].astype(np.float32)
    features = router.fit_.estimator.profile(normalise(measured.vectors[rows]), errors, known)
    return dataclasses.replace(
        profile, features=np.asarray(features, np.float32), error=float(errors.mean()), **changes
    )


def shared_prompts(pool: Pool) -> tuple[list[str], list[Labels]]:
    """Return the digests of the validation prompts that every model answered, and their rows in each profile."""
    places = []
    for profile in pool.values():
        answered = zip(profile.measured.digests, ~np.isnan(profile.errors), strict=True)
        places.append({name: row for row, (name, known) in enumerate(answered) if known})
    names = [name for name in places[0] if all(name in place for place in places[1:])]
    return names, [np.array([place[name] for name in names], int) for place in places]


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
    predicted = expected.prediction.errors
    return HeldOut(models, predicted, expected.costs, table.errors, costs, cost_weight=router.cost_weight)


def _cross_fitted(router: UniRouter, seed: int) -> HeldOut:
    pool, profiles = router.pool, list(router.pool.values())
    names, rows = shared_prompts(pool)
    if len(names) < FEWEST_PROMPTS:
        raise InvalidDataError(
            f"The pool's models share {len(names)} answered validation prompts, and at least {FEWEST_PROMPTS} "
            "are needed; onboard them on the same prompts, or give outcomes of other prompts."
        )
    errors = np.stack([p.errors[at] for p, at in zip(profiles, rows, strict=True)], axis=1)
    usd = np.stack([p.usd[at] for p, at in zip(profiles, rows, strict=True)], axis=1)
    predicted, expected = np.empty(errors.shape), np.empty(errors.shape)
    folds = np.random.default_rng(seed).permutation(len(errors)) % FOLDS
    for fold in range(FOLDS):
        left, judged = folds != fold, folds == fold
        parts = {p: at[left] for p, at in zip(profiles, rows, strict=True)}
        refits = Pool({p.model: refitted(router, p, p.errors[at], at) for p, at in parts.items()})
        found = predict(router, refits, profiles[0].measured, rows[0][judged])
        predicted[judged], expected[judged] = found.prediction.errors, found.costs
    seen = np.isin(as_numbers(names), router.fit_.seen) & bool(
        router.fit_.training_models
    )  # texts alone flatter little
    fitted_on = (~seen).sum() < FEWEST_PROMPTS
    kept = np.full(len(seen), True) if fitted_on else ~seen
    whole = predict(router, pool, profiles[0].measured)
    return HeldOut(
        models=pool.models,
        predicted_errors=predicted[kept],
        predicted_costs=expected[kept],
        errors=errors[kept],
        costs=np.where(np.isnan(usd), expected, usd)[kept],
        fitted_on=bool(fitted_on),
        cost_weight=router.cost_weight,
        routed_errors=whole.prediction.errors,
        routed_costs=whole.costs,
        digests=np.array(names)[kept],
        checks=tuple(
            (name, column, Signals(given.values[rows[column][kept]], given.usd, given.limit))
            for column, profile in enumerate(profiles)
            for name, given in profile.checks.items()
        ),
    )
