"""The paper's protocol (arXiv 2502.08773): a table of recorded outcomes, its random splits, and the arrays of one."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Self

import numpy as np

from unirouter_core.costs import TokenCounter
from unirouter_core.data import Evaluation, Outcomes
from unirouter_core.embedding import Array, HashingEmbedder, Labels, as_rows, embed, normalise
from unirouter_core.estimators import Estimator, Prediction, clairvoyant
from unirouter_core.estimators.clusters import Regions
from unirouter_core.exceptions import InvalidDataError
from unirouter_core.fit import call_cost, with_prices

N_VALS = (50, 100, 200, 400)
"""The paper's sizes of a validation set."""

ANSWERED = 0.98  # the share of prompts that a model must have answered: the rest is dropped for all models
FEWEST_MODELS, FEWEST_PROMPTS = 6, 200  # with fewer, the third for the test is too small
TEST_SHARE, KNOWN_SHARE = 0.3, 2 / 3  # of the prompts, and of the models
FEWEST_NEW = 2  # models to choose between
ENOUGH_TEST = 1_000  # test prompts; with fewer, an Area is as much luck as method
_VARIANT = re.compile(r"(-fc(-any|-auto)?|@[^@]*)$", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class Recorded:
    """Outcomes without gaps; made by `recorded`."""

    name: str
    outcomes: Outcomes
    X: Array | None  # unit vectors (n, d) of the prompts; None: the default embedder learns them in each trial
    left_out: tuple[str, ...]  # the models without enough answers, or without costs

    def __len__(self) -> int:
        return len(self.outcomes)

    @property
    def digest(self) -> str:
        """A hash of the models, prompts, errors, costs and vectors."""
        found = hashlib.sha256("\0".join([*self.outcomes.models, *self.outcomes.prompts]).encode())
        for array in (self.outcomes.errors, self.outcomes.costs, self.X):
            found.update(b"none" if array is None else np.ascontiguousarray(array).tobytes())
        return found.hexdigest()[:16]

    def __str__(self) -> str:
        share, n = validation_share(len(self)), len(self)
        kept = f"{n:,} prompts, {len(self.outcomes.models)} models (two thirds known, the rest new)"
        vectors = "vectors of the default embedder" if self.X is None else "given vectors"
        shares = f"{1 - TEST_SHARE - share:.0%} training, {share:.0%} validation, {TEST_SHARE:.0%} test prompts"
        why = "" if share == 0.1 else f" (10 % are fewer than {max(N_VALS)} prompts)"
        left = f"; {len(self.left_out)} models with gaps or no cost left out" if self.left_out else ""
        n_test = int(TEST_SHARE * n)
        few = f"with fewer than {ENOUGH_TEST:,}, methods that differ little cannot be told apart."
        few = "" if n_test >= ENOUGH_TEST else f" Only {n_test} test prompts: {few}"
        return f"{kept}, {shares}{why}, {vectors}{left}.{few}"


def recorded(name: str, outcomes: Outcomes, vectors: Array | None = None, *, every_cost: bool = False) -> Recorded:
    """Return the part of `outcomes` that a benchmark uses.

    It has the models with at least 98 % of the prompts answered and a mean cost above 0, and the prompts that all of
    these answered; of duplicate prompts, letter case and whitespace ignored, the first, so that none is both trained
    and tested on. `vectors` are (n_prompts, d); `every_cost` keeps only prompts whose costs are all known, as
    per-prompt costs need.

    Raises `InvalidDataError` when fewer than 6 models or 200 prompts are left, or vectors are missing.
    """
    known, n = ~np.isnan(outcomes.errors), len(outcomes)
    kept = (known.sum(axis=0) >= ANSWERED * n) & (np.nansum(outcomes.costs, axis=0) > 0)
    models = [model for model, stays in zip(outcomes.models, kept, strict=True) if stays]
    complete = known[:, kept].all(axis=1)
    if every_cost:
        complete &= ~np.isnan(outcomes.costs[:, kept]).any(axis=1)
    candidates = np.flatnonzero(complete)
    texts = np.array([" ".join(outcomes.prompts[row].split()).casefold() for row in candidates.tolist()], dtype=object)
    rows = candidates[np.sort(np.unique(texts, return_index=True)[1])]
    if len(models) < FEWEST_MODELS or len(rows) < FEWEST_PROMPTS:
        raise InvalidDataError(
            f"{name} holds {len(rows)} different prompts that all of {len(models)} models with a cost answered; a "
            f"benchmark needs {FEWEST_PROMPTS} prompts and {FEWEST_MODELS} models."
        )
    X = None if vectors is None else normalise(as_rows(vectors, n))[rows]
    left_out = tuple(model for model in outcomes.models if model not in models)
    return Recorded(name, outcomes.of(models).rows(rows), X, left_out)


class Split(NamedTuple):
    """The columns of known and new models, and the rows of training, validation and test prompts, of a trial."""

    known: Labels
    new: Labels
    train: Labels
    validation: Labels
    test: Labels


def twins(models: Sequence[str]) -> list[str]:
    """Return for each model the name it shares with its twins: one model at two providers, or called in two ways.

    Examples
    --------
    >>> twins(["gpt-4o-FC", "gpt-4o", "Llama-3.1-405B@hyperbolic", "mistral-large-FC-Auto"])
    ['gpt-4o', 'gpt-4o', 'Llama-3.1-405B', 'mistral-large']
    """
    return [_VARIANT.sub("", model) or model for model in models]


def validation_share(n_prompts: int) -> float:
    """Return the share of the prompts for validation: 10 %, or 20 % where that is fewer than the largest N_val."""
    return 0.1 if 0.1 * n_prompts >= max(N_VALS) else 0.2


def reachable(n_vals: Sequence[int], n_prompts: int) -> tuple[list[int], list[int]]:
    """Return the sizes of validation set for which `n_prompts` suffice, and those for which they do not.

    Examples
    --------
    >>> reachable([50, 100, 400], 1_700)
    ([50, 100], [400])
    """
    most = int(validation_share(n_prompts) * n_prompts)
    return [n for n in n_vals if n <= most], [n for n in n_vals if n > most]


def split(models: Sequence[str], n_prompts: int, seed: Sequence[int], groups: Mapping[str, str] | None = None) -> Split:
    """Return a random split: two thirds of the models known, twins on one side; 60 / 10 / 30 % of the prompts.

    Where a tenth of the prompts is fewer than 400, they are split 50 / 20 / 30 %. Models that `groups` puts in one
    group stay together; those it does not name are grouped as `twins` does.

    Raises `InvalidDataError` when every group would leave fewer than 2 new models.
    """
    rng = np.random.default_rng(list(seed))
    names = [(groups or {}).get(model, twin) for model, twin in zip(models, twins(models), strict=True)]
    chosen: set[str] = set()
    for name in rng.permutation(sorted(set(names))):
        if sum(each in chosen for each in names) >= KNOWN_SHARE * len(models):
            break
        if sum(each not in chosen and each != name for each in names) >= FEWEST_NEW:
            chosen.add(str(name))
    if not chosen:
        raise InvalidDataError(
            f"The {len(models)} models are {len(set(names))} groups of twins; a benchmark needs one to learn from and "
            f"{FEWEST_NEW} models of others to choose between."
        )
    is_known, order = np.array([name in chosen for name in names]), rng.permutation(n_prompts)
    n_validation = int(validation_share(n_prompts) * n_prompts)
    n_train = n_prompts - int(TEST_SHARE * n_prompts) - n_validation
    return Split(
        np.flatnonzero(is_known), np.flatnonzero(~is_known), *np.split(order, [n_train, n_train + n_validation])
    )


@dataclass(frozen=True, eq=False)
class Case:
    """The arrays of one split of a table, for its m new models; made by `Case.of`."""

    training: Outcomes  # the known models on the training prompts
    train_new: Array  # the new models' errors there, (n_train, m), which only the clairvoyant sees
    X_train: Array
    X_validation: Array
    X_test: Array
    known: Array  # the known models' errors on the validation prompts, (n_validation, m_known)
    measured: Outcomes  # the new models on the validation prompts
    prompts: tuple[str, ...]  # of the test
    errors: Array  # of the new models on them, (n_test, m)
    costs: Array  # in USD: the scalar mean (m,), or each prompt's own (n_test, m)
    highest: float  # the quality of the most accurate model of all, known ones too, on the test prompts

    @classmethod
    def of(cls, table: Recorded, split: Split, costs: str = "mean") -> Self:
        """Return the arrays of a split; without vectors the default embedder learns them from the training prompts."""
        outcomes, new, test, X = table.outcomes, split.new, split.test, table.X
        if X is None:
            X = embed(HashingEmbedder().fit([outcomes.prompts[row] for row in split.train]), outcomes.prompts)
        return cls(
            training=outcomes.of([outcomes.models[j] for j in split.known]).rows(split.train),
            train_new=outcomes.errors[np.ix_(split.train, new)],
            X_train=X[split.train],
            X_validation=X[split.validation],
            X_test=X[test],
            known=outcomes.errors[np.ix_(split.validation, split.known)],
            measured=outcomes.of([outcomes.models[j] for j in new]).rows(split.validation),
            prompts=tuple(outcomes.prompts[row] for row in test),
            errors=outcomes.errors[np.ix_(test, new)],
            costs=np.nanmean(outcomes.costs, axis=0)[new] if costs == "mean" else outcomes.costs[np.ix_(test, new)],
            highest=float(1 - outcomes.errors[test].mean(axis=0).min()),
        )

    @cached_property
    def regions(self) -> Regions:
        """The regions of the training prompts, as a router has them."""
        return Regions().fit(self.X_train)

    @cached_property
    def test_regions(self) -> Labels:
        """The region of each test prompt, (n_test,)."""
        return self.regions.locate(self.X_test)[0]

    @cached_property
    def clairvoyant_errors(self) -> Array:
        """The errors that the new models' answers to all training prompts predict, (n_test, m)."""
        return clairvoyant(self.X_train, self.train_new, self.X_test)

    @cached_property
    def tokens(self) -> tuple[Array, Array]:
        """The tokens of the validation and of the test prompts, as a router counts them."""
        counter = TokenCounter()
        return counter.count(self.measured.prompts), counter.count(self.prompts)

    def expected_costs(self, n_val: int) -> Array:
        """Return the costs that a router expects, (n_test, m): the scalar means, or USD by prompt."""
        if self.costs.ndim == 1:
            return np.broadcast_to(self.costs, self.errors.shape)
        answered, n_regions = self.measured.rows(range(n_val)), len(self.regions)
        labels, (counted, sent) = self.regions.locate(self.X_validation[:n_val])[0], self.tokens
        columns = []
        for model in answered.models:
            evaluation = with_prices(Evaluation.recorded(model, answered))
            cost = call_cost(evaluation, counted[:n_val], labels, n_regions, scalar=False)
            columns.append(sent * cost.per_token + cost.per_call + cost.per_answer[self.test_regions])
        return np.stack(columns, axis=1)

    def validation_costs(self, n_val: int) -> Array:
        """Return the models' mean costs as known without reading the test prompts, (m,)."""
        return self.costs if self.costs.ndim == 1 else self.measured.costs[:n_val].mean(axis=0)

    def predict(self, estimator: Estimator, n_val: int, *, known: bool = True) -> Prediction:
        """Return a fitted estimator's predictions after `n_val` answers of each new model, and of the `known` ones."""
        X, known_errors = self.X_validation[:n_val], self.known[:n_val] if known else None
        features = [estimator.profile(X, errors, known_errors) for errors in self.measured.errors[:n_val].T]
        return estimator.predict(self.X_test, np.stack(features))
