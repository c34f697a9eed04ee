"""An evaluation to a profile: what a router keeps of a model's answers."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from unirouter_core.costs import (
    PRIOR_ANSWERS,
    TOKENS_PER_PRICE,
    CallCost,
    Prices,
    implied_prices,
    region_tokens,
    region_usd,
    sent_tokens,
    usd_per_token,
)
from unirouter_core.data import Evaluation, ValidationSet
from unirouter_core.documents import check_documents, count_tokens
from unirouter_core.embedding import Array, Labels, normalise
from unirouter_core.estimators.clusters import shrunken_means
from unirouter_core.exceptions import InvalidDataError, UnknownPriceError
from unirouter_core.pool import predicts_errors
from unirouter_core.profiles import Capabilities, MeasuredPrompts, ModelProfile, digests

if TYPE_CHECKING:
    from unirouter_core.router import UniRouter


def make_profile(
    router: UniRouter, evaluation: Evaluation, capabilities: Capabilities, vectors: Array | None
) -> ModelProfile:
    """Return the profile of an evaluated model; see `UniRouter.onboard`."""
    measured, evaluation = measure_prompts(router, evaluation.validation, vectors), with_prices(evaluation)
    X = normalise(measured.vectors)
    answered = ~np.isnan(evaluation.errors)
    known = None if measured.known is None else measured.known[answered].astype(np.float32)
    features = np.asarray(router.estimator.profile(X[answered], evaluation.errors[answered], known), np.float32)
    if not predicts_errors(router.estimator, router.regions, features):
        raise InvalidDataError(
            f"{type(router.estimator).__name__} predicts errors outside [0, 1] for {evaluation.model!r}; fit it on "
            "more prompts, or take another estimator."
        )
    labels, _ = router.regions.locate(X)
    n_regions = len(router.regions.centroids_)
    by_region, _ = shrunken_means(labels[answered], evaluation.errors[answered, None], n_regions, PRIOR_ANSWERS)
    return ModelProfile(
        model=evaluation.model,
        features=features,
        error=evaluation.error,
        error_spread=float(by_region.std()),
        n=int(answered.sum()),
        cost=call_cost(evaluation, measured.tokens, labels, n_regions, scalar=router.cost == "mean"),
        prices=evaluation.prices,
        capabilities=capabilities,
        measured=measured,
        errors=evaluation.errors,
        usd=evaluation.usd(measured.tokens),
        provenance={
            **evaluation.provenance,
            "repeats": int(evaluation.repeats),
            "failed": int(evaluation.failed.sum()),
            "truncated": int(evaluation.truncated.sum()),
        },
    )


def measure_prompts(router: UniRouter, validation: ValidationSet, vectors: Array | None) -> MeasuredPrompts:
    """Return the validation prompts as the router keeps them; those it has already are not embedded again."""
    documents = None if validation.documents is None else check_documents(validation.documents, len(validation))
    names, known = tuple(digests(validation.prompts, documents)), _known(router, validation)
    bare = MeasuredPrompts(names, tuple(validation.prompts), np.empty((0, 0)), np.empty(0), known)
    kept = {profile.measured.id: profile.measured for profile in router.pool.values()}
    if vectors is None and bare.id in kept:
        return kept[bare.id]
    X = router.encode(validation.prompts, documents=documents, vectors=vectors)
    tokens = count_tokens(router.token_counter, validation.prompts, documents)
    return MeasuredPrompts(names, bare.texts, X.astype(np.float16), tokens, known)


def _known(router: UniRouter, validation: ValidationSet) -> Array | None:
    """Return what the router's training models did on the prompts, (n_prompts, n_training_models), if anything."""
    if validation.known is None:
        return None
    present = [model for model in router.training_models if model in validation.known.models]
    if not present:
        return None
    known = np.full((len(validation), len(router.training_models)), np.nan, np.float16)
    known[:, [router.training_models.index(model) for model in present]] = validation.known.of(present).errors
    return known


def with_prices(evaluation: Evaluation) -> Evaluation:
    """Return the evaluation with the prices that its recorded costs and tokens imply, where it has none."""
    if evaluation.prices is not None:
        return evaluation
    implied = implied_prices(evaluation.costs, evaluation.tokens_in, evaluation.tokens_out)
    return evaluation if implied is None else dataclasses.replace(evaluation, prices=implied)


def call_cost(evaluation: Evaluation, counted: Array, regions: Labels, n_regions: int, *, scalar: bool) -> CallCost:
    """Return what calls are expected to cost, as an evaluation and the model's prices tell.

    With prices, and output tokens of at least half of the answers, cost is by tokens; with USD alone it is so much for
    each of the prompt's tokens and the region's mean of the rest; with `scalar` it is the mean over all prompts, the
    paper's c(h).

    Parameters
    ----------
    evaluation : Evaluation
    counted : array (n,)
        The prompts' tokens as the router counts them. Where the provider's own counts are known, a straight line makes
        up for another tokenizer and for what the system prompt adds; see `sent_tokens`.
    regions : array (n,)
    n_regions : int
    scalar : bool

    Raises
    ------
    UnknownPriceError
        When neither tell.
    """
    prices, usd = evaluation.prices, evaluation.usd(counted)
    known_out = ~np.isnan(evaluation.tokens_out)
    if prices is not None and not scalar and known_out.any() and 2 * known_out.sum() >= (~np.isnan(usd)).sum():
        fixed, each = sent_tokens(counted, evaluation.tokens_in)
        tokens_out = region_tokens(evaluation.tokens_out, regions, n_regions)
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
    each = usd_per_token(counted, usd) if prices is None else 0.0  # with prices, it would pass for their tokens
    return CallCost(each, each, np.maximum(region_usd(usd - each * counted, regions, n_regions), 0))


def repriced(profile: ModelProfile, prices: Prices) -> ModelProfile:
    """Return the profile with other prices: what it would be had the model been measured at them.

    Expected costs follow exactly; what each validation answer cost is parted into prompt and answer by the prompt's
    tokens.

    Raises
    ------
    UnknownPriceError
        When the profile does not tell how many tokens there were: it knows USD alone, or had a price of 0.
    """
    before = profile.prices
    if before == prices:
        return profile
    if before is None or not before.input or not before.output or not profile.cost.per_token:
        raise UnknownPriceError(
            f"How many tokens {profile.model!r} was measured with is not known, so its costs cannot follow new prices; "
            "onboard it anew with them."
        )
    ratio = profile.cost.per_token * TOKENS_PER_PRICE / before.input
    sent = profile.measured.tokens * profile.cost.per_token + profile.cost.per_call
    answers = np.maximum(profile.usd - sent, 0) * (prices.output / before.output)
    cost = CallCost(
        prices.input * ratio / TOKENS_PER_PRICE,
        prices.cached * ratio / TOKENS_PER_PRICE,
        profile.cost.per_answer * (prices.output / before.output),
        profile.cost.per_call * (prices.input / before.input),
    )
    usd = sent * (prices.input / before.input) + answers
    return dataclasses.replace(profile, prices=prices, cost=cost, usd=usd)
