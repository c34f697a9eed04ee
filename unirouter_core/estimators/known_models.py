"""Known models: a new model as a weighted sum of training models, by their errors on the same prompts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import numpy as np

from unirouter_core.data import Outcomes
from unirouter_core.embedding import Array
from unirouter_core.estimators.linear import fit_ridge
from unirouter_core.estimators.protocol import ZERO, AxesEstimator, Compiled, check_settings
from unirouter_core.exceptions import MissingOutcomesError


@dataclass(eq=False)
class KnownModelsEstimator(AxesEstimator):
    """γ(x, h) = b_h + Σ_j w_hj γ_j(x): the training models' own estimates γ_j, weighted by shared errors.

    The weights are a ridge regression of the new model's errors on the training models' errors *on the same validation
    prompts*, a far stronger signal than the prompts' vectors. A model's features are the intercept, one weight for
    each training model, and a standard error.

    Parameters
    ----------
    ridge : float
        The penalty on the map from vectors to each training model's errors, γ_j, learned from all of its answers.
    penalty : float
        On the weights' squared distance from `prior`; the intercept is free.
    prior : float
        The sum of the weights when nothing is known; spread evenly over the training models.
    """

    ridge: float = 10.0
    penalty: float = 30.0
    prior: float = 0.8
    axes_: Array = field(init=False, repr=False)
    intercepts_: Array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_settings(self, ridge=0, penalty=0, prior=0)

    def fit(self, X: Array, outcomes: Outcomes | None = None) -> Self:
        """Learn the training models' errors on X (n, d); one without any is average, none a `MissingOutcomesError`."""
        if outcomes is None or np.isnan(outcomes.errors).all():
            raise MissingOutcomesError("KnownModelsEstimator needs training models' outcomes; fit with them.")
        unanswered = np.isnan(outcomes.errors).all(axis=0)
        known = np.where(unanswered, np.nanmean(outcomes.errors), outcomes.errors)
        self.axes_, self.intercepts_ = fit_ridge(X, known, self.ridge)
        return self

    def profile(self, X: Array, errors: Array, known: Array | None = None) -> Array:
        """Return intercept, weights and one standard error, shape (n_training_models + 2,).

        A training model's missing answers are replaced by its estimates γ_j; one without any gets no weight. Raises
        `MissingOutcomesError` when the training models' answers on these prompts are not given.
        """
        if known is None or np.isnan(known).all():
            raise MissingOutcomesError(
                "KnownModelsEstimator needs the training models' answers on the validation prompts; give them as known."
            )
        answered = np.asarray(~np.isnan(known).all(axis=0))
        filled = np.where(np.isnan(known), self.products(X), known)[:, answered].astype(np.float64)
        n, m = filled.shape
        start = np.full(m, self.prior / m)
        centre = filled.mean(0)
        centred = filled - centre
        gram = centred.T @ centred
        penalised = gram + self.penalty * np.eye(m)
        weights = start + np.linalg.solve(penalised, centred.T @ (errors - errors.mean() - centred @ start))
        intercept = errors.mean() - centre @ weights
        freedom = 1 + np.trace(np.linalg.solve(penalised, gram))
        residual = errors - filled @ weights - intercept
        variance = (residual @ residual) / max(n - freedom, 1.0)
        features = np.zeros(known.shape[1])
        features[answered] = weights
        return np.concatenate([[intercept], features, [np.sqrt(variance * freedom / n)]]).astype(np.float32)

    def compiled(self, features: Array, shares: Array) -> Compiled:
        """Return what gives the weighted errors of the training models, clipped to [0, 1]."""
        shares = shares[None]
        intercepts, weights = features[:, 0] * shares, np.ascontiguousarray(features[:, 1:-1].T) * shares
        return lambda _, trained: np.minimum(np.maximum(trained.dot(weights) + intercepts, ZERO), shares)

    def stderrs(self, X: Array, products: Array, features: Array) -> Array:
        """Return the model's one standard error on each prompt."""
        return np.broadcast_to(features[:, -1], (len(X), len(features)))
