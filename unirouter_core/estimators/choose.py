"""One of several estimators, chosen by how well training models, measured as a new model would be, route with it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from unirouter_core.curves import deferral_curve
from unirouter_core.embedding import Array
from unirouter_core.estimators.estimator import Estimator
from unirouter_core.outcomes import Outcomes

REPEATS = 4  # draws of the validation prompts
SCORED = 0.98  # a model with a smaller share of the prompts answered stays out
ROUTED = 3_000  # prompts routed in each draw; more do not change which wins


@dataclass(frozen=True)
class Truth:
    """What training models really did on prompts, without gaps: vectors (n, d), errors (n, m), costs (m,) USD."""

    X: Array
    errors: Array
    costs: Array

    @classmethod
    def of(cls, X: Array, outcomes: Outcomes) -> Self | None:
        """Return the gapless part of `outcomes`; None for fewer than 2 models or 20 prompts, or no cost above 0."""
        known = ~np.isnan(outcomes.errors)
        priced = (~np.isnan(outcomes.costs)).any(0)
        models = (known.mean(0) >= SCORED) & priced
        rows = known[:, models].all(1)
        if models.sum() < 2 or rows.sum() < 20:
            return None
        costs = np.nanmean(outcomes.costs[:, models], axis=0)
        return cls(X[rows], outcomes.errors[np.ix_(rows, models)], costs) if costs.max() > 0 else None


def warn_not_chosen(what: str, outcomes: Outcomes | None) -> None:
    """Warn that a number was not chosen because the outcomes that were given cannot tell."""
    if outcomes is not None:
        warnings.warn(
            f"{what} was not chosen: that needs 2 training models and 20 prompts without gaps, and costs above $0.",
            stacklevel=3,
        )


def choose_by_area(candidates: Sequence[Estimator], truth: Truth, n_val: int | None, seed: int) -> int:
    """Return the position of the fitted candidate with the largest mean Area (paper App. F.1).

    Parameters
    ----------
    candidates : sequence of Estimator
        Fitted.
    truth : Truth
        Of the training models.
    n_val : int or None
        The prompts each training model is measured on; None for four fifths of them all: the paper measures them on
        all, and routes on the validation prompts, which an estimator does not have while it is fitted.
    seed : int
    """
    n = len(truth.X)
    areas = np.zeros(len(candidates))
    for repeat in range(REPEATS if n_val is not None else 1):
        order = np.random.default_rng([seed, repeat]).permutation(n)
        n_measured = min(n_val, n // 2) if n_val is not None else n * 4 // 5
        measured, routed = order[:n_measured], order[n_measured:][:ROUTED]
        for position, candidate in enumerate(candidates):
            features = np.stack([candidate.profile(truth.X[measured], errors[measured]) for errors in truth.errors.T])
            predicted = candidate.predict(truth.X[routed], features).errors
            curve = deferral_curve(predicted, truth.costs, truth.errors[routed], truth.costs)
            areas[position] += curve.hull().area(truth.costs.max())
    return int(areas.argmax())
