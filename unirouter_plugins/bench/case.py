"""One trial's arrays: what is learned from, measured on and judged by, and what every reference would choose."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Self

import numpy as np

from unirouter_core.costs import TokenCounter
from unirouter_core.data import Evaluation, Outcomes
from unirouter_core.embedding import Array, HashingEmbedder, Labels, embed
from unirouter_core.estimators import Estimator, Prediction
from unirouter_core.estimators.clusters import Regions
from unirouter_core.fit import call_cost, with_prices
from unirouter_plugins.bench.recorded import Recorded
from unirouter_plugins.bench.splits import Split

Costs = Literal["mean", "per-prompt"]
"""A model's cost: its mean over the table, as in the paper; or each prompt's own, expected as a router expects it."""


@dataclass(frozen=True, eq=False)
class Case:
    """One split of a table, made by `Case.of`.

    Parameters
    ----------
    training : Outcomes
        The known models on the training prompts.
    train_new : array (n_train, m)
        The new models' errors there, which only the clairvoyant sees.
    X_train, X_validation, X_test : array (n, d)
    known, answers : array (n_validation, m_known), (n_validation, m)
        The known and the new models' errors on the validation prompts.
    measured : Outcomes
        All that is recorded of the new models there.
    prompts : tuple of str
        The test prompts.
    errors : array (n_test, m)
        The new models' on the test prompts.
    costs : array (m,) or (n_test, m)
        What they cost: the scalar mean, or each prompt's own.
    highest : float
        The quality of the most accurate model of all, known ones too, on the test prompts.
    """

    training: Outcomes
    train_new: Array
    X_train: Array
    X_validation: Array
    X_test: Array
    known: Array
    answers: Array
    measured: Outcomes
    prompts: tuple[str, ...]
    errors: Array
    costs: Array
    highest: float

    @classmethod
    def of(cls, table: Recorded, split: Split, costs: Costs = "mean") -> Self:
        """Return the arrays of a split; without vectors the default embedder learns them from the training prompts."""
        outcomes, new, test = table.outcomes, split.new, split.test
        X = table.X
        if X is None:
            embedder = HashingEmbedder().fit([outcomes.prompts[row] for row in split.train])
            X = embed(embedder, outcomes.prompts)
        paid = np.nanmean(outcomes.costs, axis=0)[new] if costs == "mean" else outcomes.costs[np.ix_(test, new)]
        return cls(
            training=outcomes.of([outcomes.models[j] for j in split.known]).rows(split.train),
            train_new=outcomes.errors[np.ix_(split.train, new)],
            X_train=X[split.train],
            X_validation=X[split.validation],
            X_test=X[test],
            known=outcomes.errors[np.ix_(split.validation, split.known)],
            answers=outcomes.errors[np.ix_(split.validation, new)],
            measured=outcomes.of([outcomes.models[j] for j in new]).rows(split.validation),
            prompts=tuple(outcomes.prompts[row] for row in test),
            errors=outcomes.errors[np.ix_(test, new)],
            costs=paid,
            highest=float(1 - outcomes.errors[test].mean(axis=0).min()),
        )

    @cached_property
    def regions(self) -> Regions:
        """The regions of the training prompts, as a router has them."""
        return Regions().fit(self.X_train)

    @cached_property
    def judged(self) -> Labels:
        """The region of each test prompt, (n_test,)."""
        return self.regions.locate(self.X_test)[0]

    @cached_property
    def tokens(self) -> tuple[Array, Array]:
        """The tokens of the validation and of the test prompts, as a router counts them."""
        counter = TokenCounter()
        return counter.count(self.measured.prompts), counter.count(self.prompts)

    def expected_costs(self, n_val: int) -> Array:
        """Return what a router knows of the costs: the scalar means, or USD expected of each prompt, (n_test, m)."""
        if self.costs.ndim == 1:
            return np.broadcast_to(self.costs, self.errors.shape)
        answered, n_regions = self.measured.rows(range(n_val)), len(self.regions.centroids_)
        labels, (counted, sent) = self.regions.locate(self.X_validation[:n_val])[0], self.tokens
        columns = []
        for model in answered.models:
            evaluation = with_prices(Evaluation.recorded(model, answered))
            cost = call_cost(evaluation, counted[:n_val], labels, n_regions, scalar=False)
            columns.append(sent * cost.per_token + cost.per_call + cost.per_answer[self.judged])
        return np.stack(columns, axis=1)

    def validation_costs(self, n_val: int) -> Array:
        """Return the models' mean costs as known without reading the test prompts, (m,)."""
        return self.costs if self.costs.ndim == 1 else self.measured.costs[:n_val].mean(axis=0)

    def predict(self, estimator: Estimator, n_val: int, *, known: bool = True) -> Prediction:
        """Return what a fitted estimator predicts on the test prompts after `n_val` answers of each new model.

        Parameters
        ----------
        estimator : Estimator
        n_val : int
        known : bool
            Whether it is given the known models' answers on the same prompts.
        """
        X, answers = self.X_validation[:n_val], self.answers[:n_val]
        answered = self.known[:n_val] if known else None
        features = [estimator.profile(X, errors, answered) for errors in answers.T]
        return estimator.predict(self.X_test, np.stack(features))
