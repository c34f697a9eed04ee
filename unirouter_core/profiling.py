"""An evaluation to a profile: what a router keeps of a model's answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from unirouter_core.clusters import shrunken_means
from unirouter_core.costs import PRIOR_ANSWERS, CallCost
from unirouter_core.embedding import Array, normalise
from unirouter_core.exceptions import InvalidDataError
from unirouter_core.pool import predicts_errors
from unirouter_core.profiles import Capabilities, MeasuredPrompts, ModelProfile, digest
from unirouter_core.validation import Evaluation, ValidationSet

if TYPE_CHECKING:
    from unirouter_core.router import UniRouter


def make_profile(
    router: UniRouter, evaluation: Evaluation, capabilities: Capabilities, vectors: Array | None
) -> ModelProfile:
    """Return the profile of an evaluated model; see `UniRouter.onboard`."""
    measured = measure_prompts(router, evaluation.validation, vectors)
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
        cost=CallCost.of(evaluation, measured.tokens, labels, n_regions, scalar=router.cost == "mean"),
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
    digests, known = tuple(digest(prompt) for prompt in validation.prompts), _known(router, validation)
    bare = MeasuredPrompts(digests, tuple(validation.prompts), np.empty((0, 0)), np.empty(0), known)
    kept = {profile.measured.id: profile.measured for profile in router.pool.values()}
    if vectors is None and bare.id in kept:
        return kept[bare.id]
    X = router.encode(validation.prompts, vectors=vectors)
    tokens = router.token_counter.count(validation.prompts)
    return MeasuredPrompts(digests, bare.texts, X.astype(np.float16), tokens, known)


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
