"""The router: prompt features fitted once, models that come and go, and the choice for each prompt."""

from __future__ import annotations

import dataclasses
import os
import threading
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import numpy.typing as npt

from unirouter_core import artifact
from unirouter_core.candidates import Candidates
from unirouter_core.costs import Prices, TokenCounter, check_cached, check_count, check_counts
from unirouter_core.data import Evaluation, Outcomes
from unirouter_core.decision import Decision, Decisions, check_cost_weight, choose
from unirouter_core.documents import (
    DocumentFeatures,
    Documents,
    GivenDocuments,
    check_documents,
    count_tokens,
    distinct_texts,
    embed_with_documents,
)
from unirouter_core.embedding import (
    CHECK_PROMPTS,
    Array,
    Embedder,
    HashingEmbedder,
    Mask,
    as_embedder,
    as_rows,
    check_prompts,
    check_same_embedder,
    embed,
    name_of,
    normalise,
)
from unirouter_core.estimators import DefaultEstimator, Estimator
from unirouter_core.estimators.default import default_members
from unirouter_core.exceptions import EmbedderMismatchError, InvalidDataError, NoCandidateError, NotFittedError
from unirouter_core.pool import Expected, Pool
from unirouter_core.profiles import Capabilities, ModelProfile, as_numbers
from unirouter_core.profiling import make_profile, repriced
from unirouter_core.regions import Regions

if TYPE_CHECKING:
    from unirouter_core.explanation import Explanation

CHUNK = 8_192
"""Prompts routed at once: their arrays stay in the processor's cache."""

FEWEST_PROMPTS = 10
"""Fewer prompts to fit on have no structure to learn."""


class UniRouter:
    """Sends each prompt to the model of its pool with the least expected error + cost_weight * cost. Paper §3-5.

    Parameters
    ----------
    embedder : Embedder or anything `as_embedder` takes, optional
        Prompts to vectors; by default a `HashingEmbedder`, which `fit` teaches and `save` keeps.
    estimator : Estimator, optional
        Vectors and profiles to errors; by default a `DefaultEstimator`.
    cost_weight : float
        The error that one USD is worth, where `route` is not told another. 0 is quality at any price;
        `unirouter_core.tune` finds the weight that meets a goal.
    cost : {"expected", "mean"}
        Expected USD of this prompt, or the model's mean over its validation prompts, as in the paper.
    n_regions : int
        The regions that costs and explanations are kept for.
    seed : int

    Examples
    --------
    >>> sums = [f"What is {a} + {b}?" for a in range(10) for b in range(5)]
    >>> poems = [f"Write a poem of {n} lines about the {thing}." for n in range(10) for thing in ("sea", "moon")]
    >>> table = Outcomes(
    ...     sums + poems,
    ...     ["poet", "sage"],
    ...     errors=[[1, 0]] * 50 + [[0, 0]] * 20,
    ...     costs=[[1e-5, 1e-3]] * 70,
    ... )
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
        self.embedder: Embedder | None = HashingEmbedder(seed=seed) if embedder is None else as_embedder(embedder)
        self.estimator: Estimator = (
            DefaultEstimator(default_members(seed), seed=seed) if estimator is None else estimator
        )
        self.cost_weight = check_cost_weight(cost_weight)
        self.cost: Literal["expected", "mean"] = cost
        self.regions = Regions(n_regions, seed)
        self.token_counter = TokenCounter()
        self.training_models: tuple[str, ...] = ()
        self.fit_id: str | None = None
        self.fit_settings: dict[str, Any] = {}  # what router.json says of the fit
        self.check_vectors: Array | None = None
        self.document_features: DocumentFeatures | None = None  # of a router fitted with documents
        self.seen: npt.NDArray[np.uint64] = np.empty(0, np.uint64)  # the prompts fitted on, by the hash of each, sorted
        self.keeps_texts = True  # whether `save` writes prompts' text to a new folder: as the one loaded from does
        self._checked = False  # whether the embedder has given the vectors it is known by
        self._pool = Pool()
        self._retired: set[str] = set()
        self._saved: dict[Path, artifact.Held] = {}  # what folders hold, as far as this router knows
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        state = "not fitted" if self.fit_id is None else f"{len(self._pool)} models, cost_weight={self.cost_weight:g}"
        return f"UniRouter({state})"

    # --- Learn prompt features ------------------------------------------------------------------------------------

    def fit(
        self,
        prompts: Outcomes | Sequence[str],
        *,
        documents: Sequence[GivenDocuments | None] | None = None,
        vectors: Array | None = None,
    ) -> Self:
        """Learn prompt features from prompts and, where they are given, what training models did on them.

        The pool is emptied: profiles belong to the features they were measured with. A router whose `fit` fails while
        it learns is not fitted.

        Parameters
        ----------
        prompts : Outcomes or sequence of str
            The training models of a table need not be in the pool later. Bare prompts are enough for clusters; the
            estimators that need training models are then left out, with a warning that names them.
        documents : sequence of Documents or sequence of str, optional
            What was retrieved for each prompt; a table's own when not given. With them, one longer vector is learned of
            the question, its documents and how well they fit, and `route` decides on the documents too.
        vectors : array (n_prompts, d), optional
            The prompts' vectors, where the embedder has made them already; they are learned as they are, so that
            nothing is made of documents.

        Raises
        ------
        InvalidDataError
            When there are fewer than 10 prompts, one is empty, or `documents` or `vectors` do not fit them.
        EmbedderMismatchError
            When `vectors` have another dimension than the embedder's.
        """
        outcomes = prompts if isinstance(prompts, Outcomes) else None
        texts = check_prompts(prompts.prompts if isinstance(prompts, Outcomes) else prompts)
        if len(texts) < FEWEST_PROMPTS:
            raise InvalidDataError(f"{len(texts)} prompts are too few to learn from; give at least {FEWEST_PROMPTS}.")
        if outcomes is not None:
            answered = (~np.isnan(outcomes.errors)).any(axis=0)
            models = [outcomes.models[int(j)] for j in np.flatnonzero(answered)]
            outcomes = outcomes.of(models) if models else None
        given = None if vectors is None else normalise(as_rows(vectors, len(texts)))
        found = _documents_to_learn(prompts, documents, len(texts), given)
        self.fit_id = None
        self.document_features = None if found is None else DocumentFeatures()
        self.replace_pool(Pool())
        import sklearn.cluster  # noqa: F401 - only libraries that are loaded already are limited
        from threadpoolctl import threadpool_limits

        with threadpool_limits(limits=1):  # so that the same prompts give the same bits on any number of cores
            self._learn(texts, outcomes, given, found)
        if left_out := getattr(self.estimator, "left_out", None):
            warnings.warn(
                f"Fitted without {', '.join(left_out)}: training models' outcomes are needed and only prompts given.",
                stacklevel=2,
            )
        self.training_models = () if outcomes is None else tuple(outcomes.models)
        self.seen = np.unique(as_numbers(texts))
        self._checked = True
        self.fit_settings = artifact.described(self)
        self.fit_id = artifact.fit_id(self)
        return self

    def _learn(
        self,
        texts: Sequence[str],
        outcomes: Outcomes | None,
        given: Array | None,
        documents: Sequence[Documents] | None,
    ) -> None:
        """Teach embedder, regions and estimator; `given` are the prompts' vectors (n, d), where they are known."""
        learn = getattr(self.embedder, "fit", None)
        if given is None and learn is not None:
            learn([*texts, *distinct_texts(documents or ())])
        X, rows = given, list[Array]()
        if X is None and documents is None:
            X = embed(self._embedder(), texts)
        elif X is None:
            X, rows = embed_with_documents(self._embedder(), texts, documents or ())
        self.check_vectors = embed(self._embedder(), CHECK_PROMPTS) if given is None or self._can_embed() else None
        if self.check_vectors is not None and self.check_vectors.shape[1] != X.shape[1]:
            raise EmbedderMismatchError(
                f"The vectors given have {X.shape[1]} numbers, but {name_of(self._embedder())} gives "
                f"{self.check_vectors.shape[1]}; give the embedder that made them, UniRouter(embedder=...)."
            )
        if self.document_features is not None and documents is not None:
            X = self.document_features.fit(X, rows, documents).join(X, rows, documents)
        self.regions.fit(X)
        self.estimator.fit(X, outcomes)

    def has_seen(self, prompts: Sequence[str]) -> Mask:
        """Return which of the prompts the router was fitted on, (n,): on those it looks better than it is."""
        return np.isin(as_numbers(prompts), self.seen)

    # --- Models come and go ---------------------------------------------------------------------------------------

    @property
    def pool(self) -> dict[str, ModelProfile]:
        """The models that may be chosen, by name."""
        return dict(self._pool.profiles)

    def onboard(
        self,
        evaluation: Evaluation,
        *,
        capabilities: Capabilities | None = None,
        replace: bool = False,
        vectors: Array | None = None,
    ) -> ModelProfile:
        """Add a model to the pool by what it did on a validation set; nothing else changes. Paper §4.

        A router fitted with documents warns of a model that was measured without any.

        Parameters
        ----------
        evaluation : Evaluation
        capabilities : Capabilities, optional
            What the model can do; everything, when not given.
        replace : bool
            Whether a model of this name in the pool may be replaced.
        vectors : array (n_prompts, d), optional
            The validation prompts' vectors, where the embedder has made them already.

        Raises
        ------
        InvalidDataError
            When the model is in the pool and `replace` is not True.
        UnknownPriceError
            When the evaluation has neither USD nor prices and tokens.
        NotFittedError
            Before `fit`.
        """
        profile = self.profile(evaluation, capabilities=capabilities, vectors=vectors)
        if self.document_features is not None and vectors is None and not any(evaluation.validation.documents or ()):
            warnings.warn(
                f"{profile.model!r} was measured without documents, so what it does with them is a guess; give its "
                "ValidationSet documents=.",
                stacklevel=2,
            )
        with self._lock:
            if profile.model in self._pool.profiles and not replace:
                raise InvalidDataError(
                    f"{profile.model!r} is in the pool already; pass replace=True to measure it anew."
                )
            self._pool = self._pool.with_profile(profile)
            self._retired.discard(profile.model)
        return profile

    def reprice(self, model: str, prices: Prices) -> ModelProfile:
        """Give `model` other prices, as if it had been measured at them; return its new profile.

        Parameters
        ----------
        model : str
        prices : Prices

        Raises
        ------
        UnknownModelError
            When it is not in the pool.
        UnknownPriceError
            When its profile knows USD alone, or a price of 0, which do not tell how many tokens there were.
        """
        with self._lock:
            self._pool.check_known([model])
            profile = repriced(self._pool.profiles[model], prices)
            self._pool = self._pool.with_profile(profile)
        return profile

    def replace_pool(self, pool: Pool, *, kept_in: Path | None = None) -> None:
        """Take `pool`, made with this router's fit, as it is; `kept_in` is the folder that holds the same."""
        with self._lock:
            self._pool, self._retired = pool, set()
            self._saved = {} if kept_in is None else {kept_in: artifact.Held(pool.profiles, self.cost_weight)}

    def retire(self, model: str) -> None:
        """Take `model` out of the pool; the others stay as they were.

        Raises
        ------
        UnknownModelError
            When it is not in the pool.
        """
        with self._lock:
            self._pool = self._pool.without(model)
            self._retired.add(model)

    def profile(
        self, evaluation: Evaluation, *, capabilities: Capabilities | None = None, vectors: Array | None = None
    ) -> ModelProfile:
        """Return the profile that `onboard` would add, without adding it."""
        self._require_fitted()
        return make_profile(self, evaluation, capabilities or Capabilities(), vectors)

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
            Of "tools", "vision", "json": models that lack one are excluded.
        documents : Documents or sequence of str, optional
            What was retrieved for the prompt and will be sent with it. Their tokens are always part of the cost; what
            they say decides only in a router that was fitted with documents.
        vector : array (d,), optional
            The prompt's vector, where `encode` or the embedder has made it already; of a router fitted with documents,
            the longer one that `encode` makes of both.
        tokens_in : float or mapping of str to float, optional
            The tokens of all that will be sent, charged at the list price; by model where models are sent different
            things. When not given, those of the prompt and its documents are counted, and what system prompts and other
            tokenizers added when models were measured comes on top.
        cached_tokens : float or mapping of str to float
            Those of them that the provider has cached; by model where each has cached what it was sent before, none
            for those that are not named.

        Raises
        ------
        InvalidDataError
            When the prompt is empty, or a parameter is outside its range.
        UnknownModelError
            When one of `models` is not in the pool.
        NoCandidateError
            When the pool is empty or every model is excluded.
        """
        pool, weight = self._ready(cost_weight)
        candidates = Candidates.of(models, requires)
        return self._decide(pool, weight, candidates, prompt, documents, vector, tokens_in, cached_tokens)

    def _decide(
        self,
        pool: Pool,
        weight: float,
        candidates: Candidates,
        prompt: str,
        documents: GivenDocuments | None,
        vector: Array | None,
        tokens_in: float | Mapping[str, float] | None,
        cached_tokens: float | Mapping[str, float],
    ) -> Decision:
        """Return the decision on one prompt in `pool`, whatever has become of the router's own since."""
        found = None if documents is None else [Documents.of(documents)]
        X = self.encode([prompt], documents=found, vectors=None if vector is None else [vector])
        tokens = count_tokens(self.token_counter, [prompt], found) if tokens_in is None else _sent(tokens_in, pool)
        cached = check_cached(_cached(cached_tokens, pool), tokens) if cached_tokens else None
        whole = tokens_in is not None
        expected = pool.expect(X, tokens, cached, self.estimator, self.regions, whole=whole)
        allowed = candidates.among(pool, tokens)
        reasons = {} if allowed is None else candidates.reasons(pool, tokens[0])
        return Decision(pool, expected, weight, allowed, reasons)

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
        """Return the models for many prompts, as arrays; the same decisions as `route` on each.

        Parameters
        ----------
        prompts : sequence of str
        cost_weight, models, requires
            As in `route`, for all prompts.
        documents : sequence of Documents or sequence of str, optional
            As in `route`, for each prompt.
        vectors : array (n, d), optional
        tokens_in, cached_tokens : array (n,), optional

        Raises
        ------
        InvalidDataError, UnknownModelError, NoCandidateError
            As `route` does.
        """
        pool, weight = self._ready(cost_weight)
        candidates, prompts = Candidates.of(models, requires), check_prompts(prompts)
        n = len(prompts)
        given = None if tokens_in is None else check_counts(tokens_in, n, "tokens_in")
        cached = None if cached_tokens is None else check_counts(cached_tokens, n, "cached_tokens")
        found = None if documents is None else check_documents(documents, n)
        given_X = None if vectors is None else as_rows(vectors, n)
        repeatable = given_X is not None or isinstance(self.embedder, HashingEmbedder)
        kept: list[Array] = []  # vectors that an embedder may charge for are made once
        chosen, regions = np.empty(n, np.int32), np.empty(n, np.int32)
        errors, costs, far = np.empty(n, np.float32), np.empty(n), np.empty(n, np.float32)

        def tokens_of(rows: slice) -> Array:
            if given is not None:
                return given[rows]
            return count_tokens(self.token_counter, prompts[rows], None if found is None else found[rows])

        with ThreadPoolExecutor(1) as beside:  # tiktoken and numpy let go of the interpreter while they work
            for start in range(0, n, CHUNK):
                rows = slice(start, min(start + CHUNK, n))
                counting = beside.submit(tokens_of, rows)
                X = self.encode(
                    prompts[rows],
                    documents=None if found is None else found[rows],
                    vectors=None if given_X is None else given_X[rows],
                )
                if not repeatable:
                    kept.append(X)
                tokens = counting.result()
                some_cached = None if cached is None else check_cached(cached[rows], tokens)
                whole = given is not None
                expected = pool.expect(X, tokens, some_cached, self.estimator, self.regions, whole=whole)
                allowed = candidates.among(pool, tokens, first=start)
                picks = choose(expected.prediction.errors, expected.costs, weight, allowed)
                at = np.arange(len(picks))
                chosen[rows], regions[rows], far[rows] = picks, expected.regions, expected.far
                errors[rows], costs[rows] = expected.prediction.errors[at, picks], expected.costs[at, picks]

        known_X = np.concatenate(kept) if kept else given_X

        def decide(position: int) -> Decision:
            vector = None if known_X is None else known_X[position]
            tokens_in = None if given is None else given[position]
            cached_tokens = 0 if cached is None else cached[position]
            own = None if found is None else found[position]
            return self._decide(pool, weight, candidates, prompts[position], own, vector, tokens_in, cached_tokens)

        return Decisions(pool.models, chosen, errors, costs, regions, far, decide)

    def encode(
        self,
        prompts: Sequence[str],
        *,
        documents: Sequence[GivenDocuments | None] | None = None,
        vectors: Any = None,
    ) -> Array:
        """Return the prompts' vectors with rows of length 1, float32, (n, d): by the embedder, or those given, checked.

        Parameters
        ----------
        prompts : sequence of str
        documents : sequence of Documents or sequence of str, optional
            What was retrieved for each prompt. A router fitted with documents makes one longer vector of both; another
            does not read them.
        vectors : array (n, d), optional
            Whole ones, of the documents too.

        Raises
        ------
        InvalidDataError
            When a prompt is empty, or the vectors are not rows of the router's dimension, one for each.
        EmbedderMismatchError
            When the embedder is not the one that the router was fitted with.
        """
        self._require_fitted()
        check_prompts(prompts)
        width, features = self.regions.centroids_.shape[1], self.document_features
        if vectors is not None:
            rows = as_rows(vectors, len(prompts))
            if rows.shape[1] != width:
                whose = "of the embedder it was fitted with" if features is None else "that its encode makes of both"
                both = "" if features is None else " of a prompt with its documents"
                raise InvalidDataError(
                    f"The vectors given have {rows.shape[1]} numbers, but the router was fitted on {width}{both}; give "
                    f"those {whose}."
                )
            return normalise(rows)
        if features is None:
            return self._fits(embed(self._same_embedder(), prompts), width)
        found = check_documents([None] * len(prompts) if documents is None else documents, len(prompts))
        Q, of_documents = embed_with_documents(self._same_embedder(), prompts, found)
        return features.join(self._fits(Q, features.dims(width)), of_documents, found)

    def _fits(self, X: Array, width: int) -> Array:
        if X.shape[1] != width:
            raise EmbedderMismatchError(
                f"{name_of(self._embedder())} gives {X.shape[1]} numbers a prompt, but the router was fitted on {width}"
                "; load it with the embedder it was fitted with, or fit it again."
            )
        return X

    def expect(
        self,
        prompts: Sequence[str],
        *,
        documents: Sequence[GivenDocuments | None] | None = None,
        vectors: Array | None = None,
    ) -> Expected:
        """Return what every model of the pool is expected to do on each prompt, before any choice.

        Parameters
        ----------
        prompts : sequence of str
        documents : sequence of Documents or sequence of str, optional
            As in `route`, for each prompt.
        vectors : array (n, d), optional
        """
        pool, _ = self._ready(None)
        prompts = check_prompts(prompts)
        found = None if documents is None else check_documents(documents, len(prompts))
        X = self.encode(prompts, documents=found, vectors=vectors)
        tokens = count_tokens(self.token_counter, prompts, found)
        return pool.expect(X, tokens, None, self.estimator, self.regions)

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
        """Return why a prompt goes where it goes: its region, the validation prompts like it, and all candidates.

        Parameters
        ----------
        prompt : str
        neighbours : int
            How many of the nearest validation prompts to show.
        cost_weight, models, requires, documents, vector, tokens_in, cached_tokens
            As in `route`.
        """
        from unirouter_core.explanation import explain

        if neighbours < 0:
            raise InvalidDataError(f"neighbours={neighbours!r} must be >= 0.")
        self._ready(None)
        found = None if documents is None else [Documents.of(documents)]
        X = self.encode([prompt], documents=found, vectors=None if vector is None else [vector])
        decision = self.route(
            prompt,
            cost_weight=cost_weight,
            models=models,
            requires=requires,
            documents=documents,
            vector=X[0],
            tokens_in=tokens_in,
            cached_tokens=cached_tokens,
        )
        return explain(decision, X, neighbours, self.regions)

    # --- Keep -----------------------------------------------------------------------------------------------------

    def save(self, folder: str | os.PathLike[str], *, texts: bool | None = None) -> None:
        """Write the router to `folder`, atomically; see `unirouter_core.artifact`.

        A folder of the same fit gains the models onboarded here and loses those retired here since the last `load` or
        `save`, and `cost_weight` if it has changed here; what another process has added, replaced, retired or tuned
        meanwhile stays. A folder of another fit is replaced whole.

        Parameters
        ----------
        folder : path
        texts : bool, optional
            Whether to keep the validation prompts' text; False keeps only their digests, of those in the folder too.
            The folder remembers it; when not given, as the folder does, and a new one as the folder loaded from, else
            True. Turning it on again brings back what this router still knows. Digests are plain hashes: whoever can
            guess a prompt, as one can a short one, can tell whether it was there.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ArtifactError
            When `folder` is something else than a router or a newer one, or cannot be written; it is then as it was.
        """
        self._require_fitted()
        place = Path(folder).resolve()
        with self._lock:
            pool, weight = self._pool, self.cost_weight
            held = self._saved.get(place, artifact.Held(dict.fromkeys(self._retired), None))
        artifact.save(self, pool, weight, place, held=held, texts=texts)
        with self._lock:
            self._saved[place] = artifact.Held(pool.profiles, weight)

    @classmethod
    def load(cls, folder: str | os.PathLike[str], *, embedder: Any = None, estimator: Estimator | None = None) -> Self:
        """Return the router in `folder`, checked.

        Parameters
        ----------
        folder : path
        embedder : Embedder or anything `as_embedder` takes, optional
            Needed when the router was fitted with another than the default; its vectors are compared with the
            router's own at first use.
        estimator : Estimator, optional
            Needed when the router was fitted with an estimator of your own: an unfitted one of the same class.

        Raises
        ------
        ArtifactError
            When the folder is missing, truncated, edited, newer, foreign, or mixes fits; the file and field are named.
        """
        return artifact.load(cls, Path(folder), None if embedder is None else as_embedder(embedder), estimator)

    @classmethod
    def starter(cls, *, examples: bool = False) -> Self:
        """Return a router with ready-made prompt features, to onboard your own models on with no training data.

        Parameters
        ----------
        examples : bool
            Whether to bring the recorded example models, dated and from public evaluations; for a first look only.
        """
        router = cls.load(Path(__file__).parent / "starter" / "starter.router")
        router.keeps_texts = True  # the starter leaves out its own, not those of your models
        if not examples:
            router.replace_pool(Pool())
            router.cost_weight = 0.0
        return router

    def __getstate__(self) -> dict[str, Any]:
        """Return what copies and pickles hold: all but the lock, of which each has its own."""
        with self._lock:
            state = {**self.__dict__, "_retired": set(self._retired), "_saved": dict(self._saved)}
        del state["_lock"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what `__getstate__` gave."""
        self.__dict__.update(state)
        self._lock = threading.Lock()

    # --- Inside ---------------------------------------------------------------------------------------------------

    def _require_fitted(self) -> None:
        if self.fit_id is None:
            raise NotFittedError("This router is not fitted; call fit(outcomes) first, or use UniRouter.starter().")

    def _ready(self, cost_weight: float | None) -> tuple[Pool, float]:
        self._require_fitted()
        pool = self._pool
        if not pool.models:
            raise NoCandidateError("The pool holds no model; onboard one first.")
        return pool, check_cost_weight(self.cost_weight if cost_weight is None else cost_weight)

    def _can_embed(self) -> bool:
        return self.embedder is not None and not (
            isinstance(self.embedder, HashingEmbedder) and not hasattr(self.embedder, "table_")
        )

    def _embedder(self) -> Embedder:
        if self.embedder is None or not self._can_embed():
            name = self.fit_settings.get("embedder", {}).get("class")
            fitted = f"it was fitted with {name}" if name else "it was fitted on vectors"
            raise NotFittedError(
                f"This router has no embedder, as {fitted}; load it with embedder=..., or give the prompts' vectors."
            )
        return self.embedder

    def _same_embedder(self) -> Embedder:
        """Return the embedder, after it has once been seen to give the vectors the router was fitted on."""
        embedder = self._embedder()
        if not self._checked and self.check_vectors is not None:
            check_same_embedder(embedder, self.check_vectors)
            self._checked = True
        return embedder


def _documents_to_learn(
    prompts: Outcomes | Sequence[str],
    documents: Sequence[GivenDocuments | None] | None,
    n: int,
    vectors: Array | None,
) -> tuple[Documents, ...] | None:
    """Return the documents that `fit` learns with, given or of the table; None where it learns without."""
    if vectors is not None and documents is not None:
        raise InvalidDataError("Vectors are learned as they are, so documents= would count for nothing; give one.")
    if vectors is not None:
        return None
    if documents is None:
        own = prompts.documents if isinstance(prompts, Outcomes) else None
        return own if own is not None and any(own) else None
    found = check_documents(documents, n)
    if not any(found):
        raise InvalidDataError("None of the prompts has a document; leave documents= out, or give what was retrieved.")
    return found


def _sent(tokens_in: float | Mapping[str, float], pool: Pool) -> Array:
    """Return the tokens of one call as given, checked: (1,), or by model (1, m)."""
    if not isinstance(tokens_in, Mapping):
        return check_count(tokens_in, "tokens_in")
    if missing := [model for model in pool.models if model not in tokens_in]:
        raise InvalidDataError(f"tokens_in has no count for {missing[0]!r}; give one for each model of the pool.")
    counts = [tokens_in[model] for model in pool.models]
    return check_counts(counts, len(counts), "tokens_in")[None]


def _cached(cached_tokens: float | Mapping[str, float], pool: Pool) -> Array:
    """Return the cached tokens of one call as given, checked: (1,), or by model (1, m)."""
    if not isinstance(cached_tokens, Mapping):
        return check_count(cached_tokens, "cached_tokens")
    pool.check_known(list(cached_tokens))
    counts = [cached_tokens.get(model, 0) for model in pool.models]
    return check_counts(counts, len(counts), "cached_tokens")[None]
