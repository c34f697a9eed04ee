"""What `UniRouter.fit` learns once from prompts (embedder, regions, estimator); profiles and expectations by it."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from unirouter_core import costs, embedding
from unirouter_core.costs import TOKENS_PER_PRICE, CallCost, TokenCounter
from unirouter_core.data import Evaluation, Outcomes, ValidationSet, digests
from unirouter_core.documents import (
    DocumentFeatures,
    Documents,
    GivenDocuments,
    check_documents,
    count_tokens,
    distinct_texts,
    embed_with_documents,
)
from unirouter_core.embedding import CHECK_PROMPTS, Array, Embedder, HashingEmbedder, Labels, Mask, embed, normalise
from unirouter_core.estimators.clusters import Regions, shrunken_means
from unirouter_core.estimators.protocol import (
    Arrays,
    AxesEstimator,
    Estimator,
    Prediction,
    WithoutAxes,
    arrays_of,
    clone,
    settings_of,
    with_axes,
)
from unirouter_core.exceptions import EmbedderMismatchError, InvalidDataError, NotFittedError, UnknownPriceError
from unirouter_core.pool import Capabilities, Expected, MeasuredPrompts, ModelProfile, Pool, as_numbers

FEWEST_PROMPTS = 10  # fewer have no structure to learn

ROUNDING = 1e-3  # a predicted error may lie this far outside [0, 1]
NOT_SAVED = "not saved"


@dataclass(frozen=True, eq=False)
class Fit:
    """All that `UniRouter.fit` learned; immutable, with copies of the estimator and the embedder."""

    embedder: Embedder | None  # None where fitted on vectors, or loaded without the embedder it was fitted with
    estimator: Estimator
    regions: Regions
    token_counter: TokenCounter
    training_models: tuple[str, ...]
    seen: npt.NDArray[np.uint64]  # the hashes of the prompts fitted on, sorted
    check_vectors: Array | None  # the embedder's vectors of `CHECK_PROMPTS`, (3, d), to recognise it
    document_features: DocumentFeatures | None  # of a router fitted with documents
    cost: Literal["expected", "mean"]
    settings: Mapping[str, Any]  # the classes and settings of all parts, as JSON can hold them
    id: str  # a hash of settings and arrays
    is_embedder_known: bool = False  # whether it made `check_vectors`; otherwise it is checked at its first use

    @classmethod
    def learn(
        cls,
        prompts: Outcomes | Sequence[str],
        *,
        embedder: Embedder,
        estimator: Estimator,
        n_regions: int = 20,
        seed: int = 0,
        token_counter: TokenCounter | None = None,
        cost: Literal["expected", "mean"] = "expected",
        documents: Sequence[GivenDocuments | None] | None = None,
        vectors: Array | None = None,
    ) -> Fit:
        """Return what copies of `embedder` and `estimator` learn; see `UniRouter.fit`."""
        outcomes = prompts if isinstance(prompts, Outcomes) else None
        texts = embedding.check_prompts(prompts.prompts if isinstance(prompts, Outcomes) else prompts)
        if len(texts) < FEWEST_PROMPTS:
            raise InvalidDataError(f"{len(texts)} prompts are too few to learn from; give at least {FEWEST_PROMPTS}.")
        given = None if vectors is None else normalise(embedding.as_rows(vectors, len(texts)))
        found = _documents_to_learn(outcomes, documents, len(texts), given)
        if outcomes is not None:
            answered = np.flatnonzero((~np.isnan(outcomes.errors)).any(axis=0))
            outcomes = outcomes.of([outcomes.models[int(j)] for j in answered]) if len(answered) else None
        import sklearn.cluster  # noqa: F401 - only libraries that are loaded already are limited
        from threadpoolctl import threadpool_limits

        with threadpool_limits(limits=1):  # so that the same prompts give the same bits on any number of cores
            known = _fitted(embedder, None if given is not None else [*texts, *distinct_texts(found or ())])
            X, checks, features = _vectors_to_learn(known, texts, given, found)
            learned, regions = clone(estimator).fit(X, outcomes), Regions(n_regions, seed).fit(X)
        counter = TokenCounter() if token_counter is None else token_counter
        models, seen = () if outcomes is None else tuple(outcomes.models), np.unique(as_numbers(digests(texts)))
        fit = cls(known, learned, regions, counter, models, seen, checks, features, cost, {}, "", True)
        fit = dataclasses.replace(fit, settings=fit._settings())
        return dataclasses.replace(fit, id=content_id(fit.settings, fit.arrays()))

    def has_seen(self, prompts: Sequence[str]) -> Mask:
        """Return the mask (n,) of the prompts that were fitted on, where an evaluation would be too optimistic."""
        return np.isin(as_numbers(digests(prompts)), self.seen)

    def encode(
        self, prompts: Sequence[str], documents: Sequence[GivenDocuments | None] | None = None, *, vectors: Any = None
    ) -> Array:
        """Return the vectors of checked prompts, float32, (n, d), rows of length 1; see `UniRouter.encode`."""
        width, features = self.regions.centroids_.shape[1], self.document_features
        if vectors is not None:
            rows = embedding.as_rows(vectors, len(prompts))
            if rows.shape[1] != width:
                whose = "; give those of the embedder it was fitted with"
                both = " of a prompt with its documents; give those that its encode makes of both"
                raise InvalidDataError(
                    f"The vectors given have {rows.shape[1]} numbers, but the router was fitted on {width}"
                    f"{whose if features is None else both}."
                )
            return normalise(rows)
        if features is None:
            return embedding.check_width(embed(self._checked_embedder, prompts), width, self._checked_embedder)
        found = check_documents([None] * len(prompts) if documents is None else documents, len(prompts))
        Q, of_documents = embed_with_documents(self._checked_embedder, prompts, found)
        embedding.check_width(Q, features.dims(width), self._checked_embedder)
        return features.join(Q, of_documents, found)

    @cached_property
    def _checked_embedder(self) -> Embedder:
        """The embedder, checked once to be the one that the router was fitted with."""
        if self.embedder is None:
            name = self.settings["embedder"]["class"]
            fitted = f"it was fitted with {name}" if name else "it was fitted on vectors"
            raise NotFittedError(
                f"This router has no embedder, as {fitted}; load it with embedder=..., or give the prompts' vectors."
            )
        if not self.is_embedder_known and self.check_vectors is not None:
            embedding.check_same_embedder(self.embedder, self.check_vectors)
        return self.embedder

    def count_tokens(self, prompts: Sequence[str], documents: Sequence[Documents] | None = None) -> Array:
        """Return the tokens of each prompt together with its documents, (n,)."""
        return count_tokens(self.token_counter, prompts, documents)

    def profile(
        self,
        evaluation: Evaluation,
        *,
        capabilities: Capabilities | None = None,
        vectors: Array | None = None,
        measured: Mapping[str, MeasuredPrompts] | None = None,
    ) -> ModelProfile:
        """Return the profile of an evaluated model; see `UniRouter.onboard`.

        Validation prompts that are in `measured`, by their id, are not embedded again.
        """
        prompts, evaluation = self._measure(evaluation.validation, vectors, measured or {}), with_prices(evaluation)
        X, answered = normalise(prompts.vectors), ~np.isnan(evaluation.errors)
        known = None if prompts.known is None else prompts.known[answered].astype(np.float32)
        features = np.asarray(self.estimator.profile(X[answered], evaluation.errors[answered], known), np.float32)
        if not self.predicts_errors(features[None]):
            raise InvalidDataError(
                f"{type(self.estimator).__name__} predicts errors outside [0, 1] for {evaluation.model!r}; fit it on "
                "more prompts, or take another estimator."
            )
        labels, n_regions = self.regions.locate(X)[0], len(self.regions)
        errors = evaluation.errors[answered, None]
        by_region, _ = shrunken_means(labels[answered], errors, n_regions, costs.PRIOR_ANSWERS)
        return ModelProfile(
            model=evaluation.model,
            features=features,
            error=evaluation.error,
            error_spread=float(by_region.std()),
            n=int(answered.sum()),
            cost=call_cost(evaluation, prompts.tokens, labels, n_regions, scalar=self.cost == "mean"),
            prices=evaluation.prices,
            capabilities=Capabilities() if capabilities is None else capabilities,
            measured=prompts,
            errors=evaluation.errors,
            usd=evaluation.usd(prompts.tokens),
            provenance={
                **evaluation.provenance,
                "repeats": int(evaluation.repeats),
                "failed": int(evaluation.failed.sum()),
                "truncated": int(evaluation.truncated.sum()),
            },
        )

    def _measure(
        self, validation: ValidationSet, vectors: Array | None, measured: Mapping[str, MeasuredPrompts]
    ) -> MeasuredPrompts:
        documents = None if validation.documents is None else check_documents(validation.documents, len(validation))
        texts, names = tuple(validation.prompts), validation.digests
        known, table = None, validation.known
        if table is not None and (present := [model for model in self.training_models if model in table.models]):
            known = np.full((len(validation), len(self.training_models)), np.nan, np.float16)
            known[:, [self.training_models.index(model) for model in present]] = table.of(present).errors
        bare = MeasuredPrompts(names, texts, np.empty((0, 0)), np.empty(0), known)
        if vectors is None and bare.id in measured:
            return measured[bare.id]
        X = self.encode(texts, documents, vectors=vectors).astype(np.float16)
        return dataclasses.replace(bare, vectors=X, tokens=self.count_tokens(texts, documents))

    def predicts_errors(self, features: Array) -> bool:
        """Return whether the features of each of m models give errors in [0, 1] in each region."""
        errors = self.estimator.predict(self.regions.centroids_, features).errors
        inside = (errors >= -ROUNDING) & (errors <= 1 + ROUNDING)  # NaN is not
        return errors.shape == (len(self.regions), len(features)) and bool(inside.all())

    @cached_property
    def _with_axes(self) -> AxesEstimator:
        return with_axes(self.estimator)

    @cached_property
    def _axes(self) -> tuple[Array, Array, int]:
        """The axes (d, k) and intercepts (1, k) of regions and estimator, and how many of them are regions."""
        centroids, regions = self.regions.centroids_, self.regions
        axes, intercepts = self._with_axes.axes()
        stacked = np.concatenate([centroids, axes]).T if len(axes) else centroids.T
        return stacked, np.concatenate([-regions.offsets_, intercepts])[None], len(regions)

    def expect(
        self, pool: Pool, X: Array, tokens_in: Array, cached_tokens: Array | None = None, *, whole: bool = False
    ) -> Expected:
        """Return what every model is expected to do on the prompts with vectors X (n, d).

        Tokens are (n,), or by model (n, m). `whole` says that `tokens_in` are all that will be sent, at the list price;
        otherwise they are the prompt's alone, and what the models' system prompts and tokenizers added when they were
        measured comes on top.
        """
        axes, intercepts, n_regions = self._axes
        products = X.dot(axes)
        products += intercepts
        labels, far = self.regions.located(products[:, :n_regions])
        products, features = products[:, n_regions:], pool.features
        estimator = self._with_axes
        if isinstance(estimator, WithoutAxes):
            prediction = estimator.predicted(X, products, features)
        else:
            errors = pool.compiled(estimator)(X, products)
            prediction = Prediction(errors, lambda: estimator.stderrs(X, products, features))
        if np.count_nonzero(far):  # on one row a quarter of the time of any()
            prediction = _shrunk(prediction, far[:, None], *pool.overall)
        sent = tokens_in if tokens_in.ndim == 2 else tokens_in[:, None]
        per_token, per_cached_token, per_call = pool.usd_sent if whole else pool.usd
        if cached_tokens is None:
            return Expected(prediction, sent * per_token + per_call.take(labels, axis=0), labels, far)
        cached = cached_tokens if cached_tokens.ndim == 2 else cached_tokens[:, None]
        usd = (sent - cached) * per_token + per_call[labels] + cached * per_cached_token
        return Expected(prediction, usd, labels, far)

    @property
    def keeps_embedder(self) -> bool:
        """Whether the embedder is saved with the router, rather than given when it is loaded."""
        return not self.settings["embedder"].get(NOT_SAVED)

    def arrays(self) -> Arrays:
        """Return all arrays that were learned, by dotted name."""
        own = self.embedder if self.keeps_embedder else None
        parts = {"estimator": self.estimator, "regions": self.regions, "embedder": own}
        arrays: Arrays = {}
        for name, part in {**parts, "documents": self.document_features}.items():
            arrays |= {} if part is None else arrays_of(part, f"{name}.")
        checks = {} if self.check_vectors is None else {"check_vectors": self.check_vectors}
        return {**arrays, **checks, "seen": self.seen}

    def _settings(self) -> dict[str, Any]:
        """Return the settings of all parts, as router.json keeps them."""
        name = None if self.embedder is None else embedding.name_of(self.embedder)  # None: fitted on vectors
        is_saved, features = type(self.embedder) is HashingEmbedder, self.document_features
        own = settings_of(self.embedder) if is_saved else {"class": name, NOT_SAVED: True}
        return {
            "estimator": settings_of(self.estimator),
            "regions": settings_of(self.regions),
            "embedder": own,
            "token_counter": self.token_counter.name,
            "cost": self.cost,
            "training_models": list(self.training_models),
            **({} if features is None else {"documents": settings_of(features)}),
        }


def _documents_to_learn(
    outcomes: Outcomes | None, documents: Sequence[GivenDocuments | None] | None, n: int, vectors: Array | None
) -> Sequence[Documents] | None:
    """Return the documents to fit on: those given, else the table's; None when there are none."""
    if documents is None:
        own = None if outcomes is None or vectors is not None else outcomes.documents
        return own if own is not None and any(own) else None
    if vectors is not None:
        raise InvalidDataError("Vectors are learned as they are, so documents= would count for nothing; give one.")
    found = check_documents(documents, n)
    if not any(found):
        raise InvalidDataError("None of the prompts has a document; leave documents= out, or give what was retrieved.")
    return found


def _vectors_to_learn(
    embedder: Embedder | None, texts: Sequence[str], given: Array | None, documents: Sequence[Documents] | None
) -> tuple[Array, Array | None, DocumentFeatures | None]:
    """Return the prompts' vectors (n, d), the check vectors, and the fitted document features."""
    rows = list[Array]()
    if given is not None or embedder is None:
        X = np.empty((0, 0)) if given is None else given
    elif documents is None:
        X = embed(embedder, texts)
    else:
        X, rows = embed_with_documents(embedder, texts, documents)
    checks = None if embedder is None else embed(embedder, CHECK_PROMPTS)
    if embedder is not None and checks is not None and checks.shape[1] != X.shape[1]:
        raise EmbedderMismatchError(
            f"The vectors given have {X.shape[1]} numbers, but {embedding.name_of(embedder)} gives {checks.shape[1]}; "
            "give the embedder that made them, UniRouter(embedder=...)."
        )
    if documents is None:
        return X, checks, None
    features = DocumentFeatures().fit(X, rows, documents)
    return features.join(X, rows, documents), checks, features


def _fitted(embedder: Embedder, texts: Sequence[str] | None) -> Embedder | None:
    """Return a copy fitted on `texts`, or a plain copy where they are None; None where it cannot embed yet.

    An embedder without `fit` is returned as it is.
    """
    if not hasattr(embedder, "fit"):
        return embedder
    if texts is None:
        is_unfitted = isinstance(embedder, HashingEmbedder) and not hasattr(embedder, "table_")
        return None if is_unfitted else copy.deepcopy(embedder)
    own = clone(embedder)
    own.fit(texts)
    return own


def _shrunk(prediction: Prediction, far: Array, overall: Array, stderrs: Array) -> Prediction:
    """Return the prediction shrunk by `far` (n, 1) to the models' `overall` errors, with wider standard errors."""
    errors = prediction.errors + far * (overall - prediction.errors)
    return Prediction(errors, lambda: np.sqrt(prediction.stderrs**2 + (far * stderrs) ** 2))


def with_prices(evaluation: Evaluation) -> Evaluation:
    """Return the evaluation with the prices that its recorded costs and tokens imply, where it has none."""
    if evaluation.prices is not None:
        return evaluation
    implied = costs.implied_prices(evaluation.costs, evaluation.tokens_in, evaluation.tokens_out)
    return evaluation if implied is None else dataclasses.replace(evaluation, prices=implied)


def call_cost(evaluation: Evaluation, counted: Array, regions: Labels, n_regions: int, *, scalar: bool) -> CallCost:
    """Return what calls are expected to cost, given the prompts' tokens as the router counts them and their regions.

    With prices, and output tokens of at least half of the answers, cost is by tokens, corrected by the provider's own
    counts; with USD alone, by the prompt's tokens and the region; with `scalar`, the mean over all prompts, the paper's
    c(h). An evaluation without either raises `UnknownPriceError`.
    """
    prices, usd = evaluation.prices, evaluation.usd(counted)
    known_out = ~np.isnan(evaluation.tokens_out)
    if prices is not None and not scalar and known_out.any() and 2 * known_out.sum() >= (~np.isnan(usd)).sum():
        fixed, each = costs.sent_tokens(counted, evaluation.tokens_in)
        tokens_out = costs.region_tokens(evaluation.tokens_out, regions, n_regions)
        return CallCost(
            per_token=prices.input * each / TOKENS_PER_PRICE,
            per_cached_token=prices.cached * each / TOKENS_PER_PRICE,
            per_answer=prices.output * tokens_out / TOKENS_PER_PRICE,
            per_call=prices.input * fixed / TOKENS_PER_PRICE,
        )
    if np.isnan(usd).all():
        raise UnknownPriceError(
            f"What {evaluation.model!r} costs is not known; give prices=Prices(input=..., output=...) in USD per "
            "million tokens and output tokens, or costs in USD for its answers."
        )
    if scalar:
        return CallCost(0.0, 0.0, np.full(n_regions, np.nanmean(usd)))
    each = (
        costs.usd_per_token(counted, usd) if prices is None else 0.0
    )  # with prices, `repriced` would take it for tokens
    return CallCost(each, each, np.maximum(costs.region_usd(usd - each * counted, regions, n_regions), 0))


def content_id(settings: Mapping[str, Any], arrays: Arrays) -> str:
    """Return the hash of settings and arrays."""
    content = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        content.update(f"{name} {array.dtype.str} {array.shape}".encode())
        content.update(np.ascontiguousarray(array).data)
    return content.hexdigest()[:16]
