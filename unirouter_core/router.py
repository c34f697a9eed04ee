"""`UniRouter`: fits prompt features once, onboards and retires models, and routes each prompt."""

from __future__ import annotations

import copy
import dataclasses
import os
import threading
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, Self, overload

import numpy as np
import numpy.typing as npt

from unirouter_core import storage
from unirouter_core.costs import Prices, check_cached, check_counts
from unirouter_core.data import Evaluation, Outcomes
from unirouter_core.display import Table, as_html, usd
from unirouter_core.documents import Documents, GivenDocuments, check_documents
from unirouter_core.embedding import Array, Embedder, HashingEmbedder, as_embedder, as_rows, check_prompts
from unirouter_core.estimators import DefaultEstimator, Estimator
from unirouter_core.estimators.default import default_members
from unirouter_core.exceptions import InvalidDataError, NoCandidateError, NotFittedError
from unirouter_core.fit import Fit
from unirouter_core.outcome_files import as_outcomes, is_table, recorded
from unirouter_core.pool import Capabilities, Expected, ModelProfile, Pool, Signals
from unirouter_core.rule import Decision, Decisions, Explanation, Request, check_cost_weight, choose, explain

CHUNK = 2_048  # prompts routed at once: their arrays stay in the processor's cache

_POOLS = threading.RLock()  # held while a pool is changed, so that threads that onboard at once lose nothing


class UniRouter:
    """Sends each prompt to the model of its pool with the least expected error + cost_weight * cost. Paper §3-5.

    Parameters
    ----------
    embedder : Embedder or anything `as_embedder` takes, optional
        Prompts to vectors; by default a `HashingEmbedder`, which `fit` trains and `save` saves.
    estimator : Estimator, optional
        Vectors and profiles to errors; by default a `DefaultEstimator`. `fit` trains a copy of it.
    cost_weight : float
        The error that one USD is worth, unless `route` is given another. 0 is quality at any price;
        `unirouter_core.tune` finds the weight that meets a goal.
    cost : {"expected", "mean"}
        Expected USD of this prompt, or the model's mean over its validation prompts, as in the paper.
    n_regions, seed : int
        The regions that costs and explanations are kept for; the seed of all randomness.

    Examples
    --------
    >>> sums = [f"What is {a} + {b}?" for a in range(10) for b in range(5)]
    >>> poems = [f"Write a poem of {n} lines about the {thing}." for n in range(10) for thing in ("sea", "moon")]
    >>> errors, costs = [[1, 0]] * 50 + [[0, 0]] * 20, [[1e-5, 1e-3]] * 70
    >>> table = Outcomes(sums + poems, ["poet", "sage"], errors=errors, costs=costs)
    >>> router = UniRouter(cost_weight=600).fit(table)
    >>> for model in table.models:
    ...     _ = router.onboard(Evaluation.recorded(model, table))
    >>> router.route("What is 8 + 3?").model, router.route("Write a poem about the moon.").model
    ('sage', 'poet')
    """

    def __init__(
        self,
        embedder: Any = None,
        estimator: Estimator | None = None,
        *,
        cost_weight: float = 0.0,
        cost: Literal["expected", "mean"] = "expected",
        n_regions: int = 20,
        seed: int = 0,
    ) -> None:
        if cost not in ("expected", "mean"):
            raise InvalidDataError(f"cost={cost!r} must be 'expected' or 'mean'.")
        if not isinstance(n_regions, (int, np.integer)) or n_regions < 1:
            raise InvalidDataError(f"n_regions={n_regions!r} must be a whole number, at least 1.")
        if estimator is not None and (isinstance(estimator, type) or not dataclasses.is_dataclass(estimator)):
            raise InvalidDataError(
                f"{estimator!r:.60} is not an estimator; give an object of a dataclass, as Estimator says."
            )
        self.embedder: Embedder = HashingEmbedder(seed=seed) if embedder is None else as_embedder(embedder)
        if estimator is None:
            estimator = DefaultEstimator(default_members(seed), seed=seed)
        self.estimator: Estimator = estimator
        self.cost_weight, self.cost = check_cost_weight(cost_weight), cost
        self.n_regions, self.seed = n_regions, seed
        self._fit: Fit | None = None
        self._pool, self._folders = Pool(), storage.Folders()
        self._changes: dict[str, ModelProfile | None] = {}  # to `_pool` since it was made; None where retired

    def __repr__(self) -> str:
        state = "not fitted" if self._fit is None else f"{len(self.pool)} models, cost_weight={self.cost_weight:g}"
        return f"UniRouter({state})"

    def _repr_html_(self) -> str:
        rows = [
            (model, f"{1 - profile.error:.1%}", usd(1000 * float(np.nanmean(profile.usd))), f"{profile.n:,}")
            for model, profile in self.pool.items()
        ]
        return as_html(repr(self), Table(("model", ">quality", ">$/1,000", ">answers"), rows))

    @property
    def fit_(self) -> Fit:
        """What `fit` learned."""
        if self._fit is None:
            raise NotFittedError("This router is not fitted; call fit(outcomes) first, or use UniRouter.starter().")
        return self._fit

    @property
    def pool(self) -> Pool:
        """The models that may be chosen, by name, as they are now; see `onboard` and `retire`."""
        if self._changes:  # all at once, so that onboarding thousands of models does not copy the pool for each
            with _POOLS:
                there = {model for model, profile in self._changes.items() if profile is not None}
                retired = (self._folders.retired | self._changes.keys()) - there
                self._folders = dataclasses.replace(self._folders, retired=frozenset(retired))
                self._pool, self._changes = self._pool.changed(self._changes), {}
        return self._pool

    def fit(
        self,
        prompts: Outcomes | Sequence[str] | Any,
        *,
        documents: Sequence[GivenDocuments | None] | None = None,
        vectors: Array | None = None,
    ) -> Self:
        """Learn prompt features from prompts and, where they are given, what training models did on them.

        `embedder` and `estimator` stay as they are: copies of them learn. The pool is emptied, as profiles belong to
        the features they were measured with. A `fit` that fails changes nothing.

        Parameters
        ----------
        prompts : Outcomes or sequence of str
            At least 10, or what `read_outcomes` takes: a file, a data frame, rows. The training models of a table need
            not be in the pool later. Bare prompts are enough for clusters; estimators that need training models are
            then left out, with a warning that names them.
        documents : sequence of Documents or sequence of str, optional
            What was retrieved for each prompt; a table's own when not given. With them, one longer vector is learned of
            the question, its documents and how well they fit, and `route` decides on the documents too.
        vectors : array (n_prompts, d), optional
            The prompts' vectors, where the embedder has made them already; nothing is then made of documents.

        Raises
        ------
        InvalidDataError, EmbedderMismatchError
            When prompts are too few or empty; when `documents` or `vectors` do not fit them or the embedder.
        """
        fit = Fit.learn(
            as_outcomes(prompts) if is_table(prompts) else prompts,
            embedder=self.embedder,
            estimator=self.estimator,
            n_regions=self.n_regions,
            seed=self.seed,
            cost=self.cost,
            documents=documents,
            vectors=vectors,
        )
        if left_out := getattr(fit.estimator, "left_out", None):
            warnings.warn(
                f"Fitted without {', '.join(left_out)}: training models' outcomes are needed and only prompts given.",
                stacklevel=2,
            )
        self._fit, self._pool, self._changes, self._folders = fit, Pool(), {}, storage.Folders()
        return self

    def with_pool(self, pool: Pool) -> Self:
        """Return a copy of this router with another pool, whose profiles were made with its fit."""
        router = copy.copy(self)
        router._pool, router._changes, router._folders = pool, {}, storage.Folders(texts=self._folders.texts)
        return router

    # --- Onboard and retire ---------------------------------------------------------------------------------------

    @overload
    def onboard(
        self, evaluation: Evaluation, *, capabilities: Any = ..., replace: bool = ..., vectors: Any = ...
    ) -> ModelProfile: ...
    @overload
    def onboard(
        self, evaluation: str, outcomes: Any, *, capabilities: Any = ..., replace: bool = ..., vectors: Any = ...
    ) -> ModelProfile: ...
    @overload
    def onboard(
        self, evaluation: Any, *, capabilities: Any = ..., replace: bool = ..., vectors: Any = ...
    ) -> list[ModelProfile]: ...
    def onboard(
        self,
        evaluation: Any,
        outcomes: Any = None,
        *,
        capabilities: Capabilities | None = None,
        replace: bool = False,
        vectors: Array | None = None,
    ) -> ModelProfile | list[ModelProfile]:
        """Add a model to the pool by what it did on a validation set; nothing else changes. Paper §4.

        With a table in the place of the evaluation, all its models are added, or none when one cannot be. A router
        fitted with documents warns of a model that was measured without any.

        Parameters
        ----------
        evaluation : Evaluation, Outcomes, or str
            What a model did; a table of what many did, or what `read_outcomes` takes; or the name of one in `outcomes`.
        outcomes : Outcomes, optional
            The table that holds the answers of the named model.
        capabilities : Capabilities, optional
            What the model can do; everything, when not given.
        replace : bool
            Whether a model of this name in the pool may be replaced.
        vectors : array (n_prompts, d), optional
            The validation prompts' vectors, where the embedder has made them already.

        Raises
        ------
        InvalidDataError, UnknownPriceError
            When the model is in the pool and `replace` is not True; when there are neither USD nor prices and tokens.
        """
        is_one = isinstance(evaluation, Evaluation)
        evaluations = [evaluation] if is_one else recorded(evaluation, outcomes)
        if any(each.provenance.get("prices") == "unknown" for each in evaluations):
            self.pool.check_costs([each.model for each in evaluations], known=False)
        profiles = [self.profile(each, capabilities=capabilities, vectors=vectors) for each in evaluations]
        if vectors is None and self.fit_.document_features and not any(evaluations[0].validation.documents or ()):
            warnings.warn(
                f"{profiles[0].model!r} was measured without documents, so what it does with them is a guess; give its "
                "ValidationSet documents=.",
                stacklevel=2,
            )
        with _POOLS:
            for model in (profile.model for profile in profiles if not replace):
                if self._changes.get(model, self._pool.get(model)) is not None:
                    raise InvalidDataError(f"{model!r} is in the pool already; pass replace=True to replace it.")
            for profile in profiles:
                self._pool.measured.setdefault(profile.measured.id, profile.measured)
                self._changes[profile.model] = profile
        return profiles[0] if is_one or outcomes is not None else profiles

    def profile(
        self, evaluation: Evaluation, *, capabilities: Capabilities | None = None, vectors: Array | None = None
    ) -> ModelProfile:
        """Return the profile that `onboard` would add, without adding it."""
        known = self._pool.measured
        return self.fit_.profile(evaluation, capabilities=capabilities, vectors=vectors, measured=known)

    def reprice(self, model: str, prices: Prices) -> ModelProfile:
        """Give `model` other prices, as if it had been measured at them; return its new profile.

        Raises `UnknownPriceError` where token counts are unknown, as the profile has USD only or a price of 0.
        """
        with _POOLS:
            profile = self._changes[model] = self._profile_of(model).repriced(prices)
        return profile

    def add_check(
        self, model: str, check: str, signals: npt.ArrayLike, *, usd: float = 0.0, limit: float = 1.0
    ) -> ModelProfile:
        """Learn what a check says of a model's answers from its signals on the graded ones; return the new profile.

        Parameters
        ----------
        model, check : str
        signals : array (n_prompts,)
            What the check gave for the model's answer to each of its validation prompts, in their order: a number or a
            truth value; NaN where there is none.
        usd : float
            What the check costs for each answer, on average.
        limit : float
            A checked answer is given only where its error is then expected to be at most this, or no other model may
            answer; see `evaluate.check_value`.

        Raises
        ------
        InvalidDataError, UnknownModelError
            When the signals are not one for each validation prompt, or not finite; when the model is not in the pool.
        """
        values = np.asarray(signals, np.float64)
        with _POOLS:
            profile = self._profile_of(model)
            if values.shape != profile.errors.shape:
                raise InvalidDataError(
                    f"{model!r} was measured on {len(profile.errors)} prompts, and the signals have shape "
                    f"{values.shape}; give one for each, NaN where there is none."
                )
            made = {**profile.checks, check: Signals(values, usd, limit)}
            profile = self._changes[model] = dataclasses.replace(profile, checks=made)
        return profile

    def retire(self, model: str) -> None:
        """Remove `model` from the pool; the others stay as they are."""
        with _POOLS:
            self._profile_of(model)
            self._changes[model] = None

    def _profile_of(self, model: str) -> ModelProfile:
        """Return `pool[model]` without applying the pending changes to the pool."""
        return self._changes.get(model, self._pool.get(model)) or self.pool[model]

    # --- Route ----------------------------------------------------------------------------------------------------

    def route(
        self,
        prompt: str,
        *,
        cost_weight: float | None = None,
        models: Sequence[str] | None = None,
        requires: Sequence[str] = (),
        documents: GivenDocuments | None = None,
        vector: Array | None = None,
        tokens_in: float | Mapping[str, float] | None = None,
        cached_tokens: float | Mapping[str, float] = 0,
        avoid: Mapping[str, str] | None = None,
        checks: Sequence[str] = (),
    ) -> Decision:
        """Return the model for one prompt: the least expected error + cost_weight * cost. Paper §3, Prop. 1.

        Parameters
        ----------
        prompt : str
        cost_weight : float, optional
            The error that one USD is worth; the router's own when not given.
        models : sequence of str, optional
            The candidates; the whole pool when not given.
        requires : sequence of str
            Of "tools", "vision", "json", "audio", "video", "pdf": models that lack one are excluded.
        documents : Documents or sequence of str, optional
            What was retrieved for the prompt and will be sent with it. Their tokens are always part of the cost; what
            they say decides only in a router that was fitted with documents.
        vector : array (d,), optional
            The prompt's vector, where it is known; of a router fitted with documents, what `encode` makes of both.
        tokens_in : float or mapping of str to float, optional
            The tokens of all that will be sent, charged at the list price; by model where models are sent different
            things. When not given, those of the prompt and its documents are counted, and what system prompts and other
            tokenizers added when models were measured comes on top.
        cached_tokens : float or mapping of str to float
            Those of them that the provider has cached; by model, none for those that are not named.
        avoid : mapping of str to str, optional
            Models that are chosen only where no other is eligible, as those that fail at the moment, each with why.
        checks : sequence of str, optional
            The checks that the caller can run on an answer. A model with one of them is worth what asking it, checking
            and deciding again is; `Decision.check` says which to run, `Decision.after` decides again. See `add_check`.

        Raises
        ------
        InvalidDataError, UnknownModelError, NoCandidateError
            When the prompt or a parameter is invalid; when one of `models` is not in the pool; when all are excluded.
        """
        fit, pool = self._ready()
        weight = self._weight(cost_weight)
        request = Request(weight, models, requires, tokens_in, cached_tokens, documents, avoid or {}, checks)
        return _decide(fit, pool, prompt, request, vector)[0]

    def route_batch(
        self,
        prompts: Sequence[str],
        *,
        cost_weight: float | None = None,
        models: Sequence[str] | None = None,
        requires: Sequence[str] = (),
        documents: Sequence[GivenDocuments | None] | None = None,
        vectors: Array | None = None,
        tokens_in: Array | None = None,
        cached_tokens: Array | None = None,
    ) -> Decisions:
        """Return the models for many prompts, as arrays; the decisions of `route` on each, but for rounding.

        `cost_weight`, `models` and `requires` are for all prompts; the others are as in `route`, for each of the n
        prompts: `documents` a sequence, `vectors` (n, d), `tokens_in` and `cached_tokens` (n,).
        """
        fit, pool = self._ready()
        request = Request(self._weight(cost_weight), models, requires)
        prompts = check_prompts(prompts)
        n = len(prompts)
        given = None if tokens_in is None else check_counts(tokens_in, n, "tokens_in")
        cached = None if cached_tokens is None else check_counts(cached_tokens, n, "cached_tokens")
        found = None if documents is None else check_documents(documents, n)
        known = None if vectors is None else as_rows(vectors, n)
        made: list[Array] | None = None if isinstance(fit.embedder, HashingEmbedder) or known is not None else []
        chosen, regions = np.empty(n, np.int32), np.empty(n, np.int32)
        errors, costs, far = np.empty(n, np.float32), np.empty(n), np.empty(n, np.float32)
        with ThreadPoolExecutor(1) as beside:  # tiktoken and numpy let go of the interpreter while they work
            for start in range(0, n, CHUNK):
                rows = slice(start, min(start + CHUNK, n))
                own = None if found is None else found[rows]
                if given is None:
                    counting = beside.submit(fit.count_tokens, prompts[rows], own)
                X = fit.encode(prompts[rows], own, vectors=None if known is None else known[rows])
                if made is not None:  # an embedder may charge for each vector, so they are made once
                    made.append(X)
                tokens = counting.result() if given is None else given[rows]
                some_cached = None if cached is None else check_cached(cached[rows], tokens)
                expected = fit.expect(pool, X, tokens, some_cached, whole=given is not None)
                eligible = request.eligible(pool, tokens, first=start)
                picks = choose(expected.prediction.errors, expected.costs, request.cost_weight, eligible)
                at = np.arange(len(picks))
                chosen[rows], regions[rows], far[rows] = picks, expected.regions, expected.far
                errors[rows], costs[rows] = expected.prediction.errors[at, picks], expected.costs[at, picks]
        kept = np.concatenate(made) if made else known

        def decide(i: int) -> Decision:
            of_one = dataclasses.replace(
                request,
                tokens_in=None if given is None else float(given[i]),
                cached_tokens=0 if cached is None else float(cached[i]),
                documents=None if found is None else found[i],
            )
            return _decide(fit, pool, prompts[i], of_one, None if kept is None else kept[i])[0]

        return Decisions(pool.models, chosen, errors, costs, regions, far, decide)

    def encode(
        self, prompts: Sequence[str], *, documents: Sequence[GivenDocuments | None] | None = None, vectors: Any = None
    ) -> Array:
        """Return the prompts' vectors with rows of length 1, float32, (n, d): by the embedder, or those given, checked.

        A router fitted with documents makes one longer vector of a prompt and its documents; `vectors` are whole ones.
        Another dimension raises `InvalidDataError`, an embedder other than the fitted one `EmbedderMismatchError`.
        """
        return self.fit_.encode(check_prompts(prompts), documents, vectors=vectors)

    def expect(
        self,
        prompts: Sequence[str],
        *,
        documents: Sequence[GivenDocuments | None] | None = None,
        vectors: Array | None = None,
    ) -> Expected:
        """Return what every model of the pool is expected to do on each prompt, before any choice; see `encode`."""
        fit, pool = self._ready()
        prompts = check_prompts(prompts)
        found = None if documents is None else check_documents(documents, len(prompts))
        return fit.expect(pool, fit.encode(prompts, found, vectors=vectors), fit.count_tokens(prompts, found))

    def explain(
        self,
        prompt: str,
        *,
        neighbours: int = 5,
        cost_weight: float | None = None,
        models: Sequence[str] | None = None,
        requires: Sequence[str] = (),
        documents: GivenDocuments | None = None,
        vector: Array | None = None,
        tokens_in: float | Mapping[str, float] | None = None,
        cached_tokens: float | Mapping[str, float] = 0,
    ) -> Explanation:
        """Return the decision on a prompt with its evidence: region, similar validation prompts, all candidates.

        `neighbours` is how many of the nearest validation prompts to show; the other parameters are those of `route`.
        """
        if neighbours < 0:
            raise InvalidDataError(f"neighbours={neighbours!r} must be >= 0.")
        fit, pool = self._ready()
        request = Request(self._weight(cost_weight), models, requires, tokens_in, cached_tokens, documents)
        decision, X = _decide(fit, pool, prompt, request, vector)
        return explain(decision, X, neighbours, lambda vectors: fit.regions.locate(vectors)[0])

    def _ready(self) -> tuple[Fit, Pool]:
        fit, pool = self.fit_, self.pool
        if not pool.models:
            raise NoCandidateError("The pool holds no model; onboard one first.")
        return fit, pool

    def _weight(self, given: float | None) -> float:
        return self.cost_weight if given is None else given

    # --- Save and load --------------------------------------------------------------------------------------------

    def save(self, folder: str | os.PathLike[str], *, texts: bool | None = None) -> None:
        """Write the router to `folder`, atomically; see `unirouter_core.storage`.

        A folder of the same fit gets what has changed here since the last `load` or `save`; what another process has
        changed meanwhile stays. A folder of another fit is replaced whole.

        Parameters
        ----------
        folder : path
        texts : bool, optional
            Whether to keep the validation prompts' text; False keeps only their digests, of those in the folder too.
            When not given, as the folder does, a new one as the folder loaded from, else True. Digests are plain
            hashes: whoever can guess a prompt can tell whether it was there.

        Raises
        ------
        ArtifactError
            When `folder` is something else than a router or a newer one, or cannot be written; it is then as it was.
        """
        self._folders = storage.save(
            self.fit_, self.pool, self.cost_weight, Path(folder).resolve(), known=self._folders, texts=texts
        )

    @classmethod
    def load(cls, folder: str | os.PathLike[str], *, embedder: Any = None, estimator: Estimator | None = None) -> Self:
        """Return the router in `folder`, checked.

        Parameters
        ----------
        folder : path
        embedder : Embedder or anything `as_embedder` takes, optional
            Needed when the router was fitted with another than the default; it is checked at first use.
        estimator : Estimator, optional
            Needed when the router was fitted with an estimator of your own: an unfitted one of the same class.

        Raises
        ------
        ArtifactError
            When the folder is missing, truncated, edited, newer, foreign, or mixes fits; the file and field are named.
        """
        given = None if embedder is None else as_embedder(embedder)
        fit, pool, cost_weight, folders = storage.load(Path(folder), given, estimator)
        router = cls.from_fit(fit, pool, cost_weight=cost_weight)
        router._folders = folders
        return router

    @classmethod
    def from_fit(cls, fit: Fit, pool: Pool | None = None, *, cost_weight: float = 0.0) -> Self:
        """Return a router with a fit and a pool of profiles that were made with it."""
        k, seed = fit.regions.k, fit.regions.seed
        router = cls(fit.embedder, fit.estimator, cost_weight=cost_weight, cost=fit.cost, n_regions=k, seed=seed)
        router._fit, router._pool = fit, Pool() if pool is None else pool
        return router

    @classmethod
    def starter(cls, *, examples: bool = False) -> Self:
        """Return a router with ready-made prompt features, to onboard your own models on with no training data.

        `examples` brings the recorded example models, dated and from public evaluations; for a first look only.
        """
        router = cls.load(Path(__file__).parent / "starter" / "starter.router")
        router._folders = storage.Folders()  # its own prompts' texts are left out, those of your models are not
        if not examples:
            router = router.with_pool(Pool())
            router.cost_weight = 0.0
        return router


def _decide(fit: Fit, pool: Pool, prompt: str, request: Request, vector: Array | None) -> tuple[Decision, Array]:
    """Return the decision on one prompt, and the prompt's vector (1, d)."""
    found = None if request.documents is None else [Documents.of(request.documents)]
    given: Any = vector[None] if isinstance(vector, np.ndarray) else None if vector is None else [vector]
    X, tokens = fit.encode(check_prompts([prompt]), found, vectors=given), request.tokens(pool)
    whole = tokens is not None
    if tokens is None:
        tokens = fit.count_tokens([prompt], found)
    expected = fit.expect(pool, X, tokens, request.cached(pool, tokens), whole=whole)
    return Decision(pool, expected, request, tokens), X
