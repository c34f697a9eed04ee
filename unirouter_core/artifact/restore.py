"""Settings and arrays, checked, to a fitted router."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unirouter_core.artifact.files import Arrays
from unirouter_core.artifact.state import CLASSES, DOCUMENTS, build, keeps_embedder, parts_of
from unirouter_core.costs import TokenCounter
from unirouter_core.documents import STATISTICS, DocumentFeatures
from unirouter_core.embedding import CHECK_PROMPTS, HashingEmbedder
from unirouter_core.estimators import DefaultEstimator
from unirouter_core.exceptions import ArtifactError, NotFittedError
from unirouter_core.pool import predicts_errors

if TYPE_CHECKING:
    from unirouter_core.router import UniRouter

UNUSABLE = (AttributeError, NotFittedError, IndexError, ValueError, TypeError, KeyError, OverflowError)
"""What an estimator or embedder raises whose arrays or settings are not what a fit leaves."""

CURE = "copy the folder again from where it was saved, or fit and save it anew"


def restore(router: UniRouter, settings: dict[str, Any], arrays: Arrays, file: Path) -> None:
    """Make an unfitted router what `described` and `fitted_arrays` gave, the arrays read from `file`.

    Raises
    ------
    ArtifactError
        When an array is missing, is not what a fit leaves, or does not fit the others.
    """
    try:
        router.regions = build(settings["regions"], CLASSES)
        router.token_counter = TokenCounter(settings["token_counter"])
        router.training_models = tuple(settings["training_models"])
        router.fit_settings = settings
        if DOCUMENTS in settings:
            router.document_features = build(settings[DOCUMENTS], CLASSES)
        rest = dict(arrays)
        _set_checks(router, settings, rest)
        _set_arrays(router.estimator, rest, "estimator.")
        _set_arrays(router.regions, rest, "regions.")
        if router.document_features is not None:
            _set_arrays(router.document_features, rest, "documents.")
        if keeps_embedder(settings):
            _set_arrays(router.embedder, rest, "embedder.")
        if rest:
            raise ValueError(f"it holds {min(rest)!r}, which is no part of this router")
        with np.errstate(all="ignore"):
            _try_out(router, settings)
    except UNUSABLE as failed:
        raise ArtifactError(f"{file}: does not make a fitted router ({failed}); {CURE}.") from failed


def _set_checks(router: UniRouter, settings: dict[str, Any], rest: Arrays) -> None:
    """Take from `rest` what the embedder is known by and the hashes of the prompts fitted on."""
    router.check_vectors = rest.pop("check_vectors", None)
    if (router.check_vectors is None) != (settings["embedder"]["class"] is None):
        raise ValueError("'check_vectors' must be there if, and only if, the embedder has a name")
    if router.check_vectors is not None:
        _check_numbers("check_vectors", router.check_vectors)
    router.seen = rest.pop("seen")
    if router.seen.dtype != np.uint64 or router.seen.ndim != 1:
        raise ValueError("'seen' is not a row of hashes")


def _set_arrays(part: Any, rest: Arrays, prefix: str) -> None:
    """Give an estimator or embedder and those inside it their arrays, which are taken from `rest`."""
    unused: list[str] = []  # members that a blend left out: a fit may have set nothing there
    for start, each in parts_of(part, prefix):
        own = [name for name in rest if name.startswith(start) and "." not in name[len(start) :]]
        ours = type(each) in CLASSES.values()
        if ours and not start.startswith(tuple(unused)):
            missing = [name for name in _fitted_names(each) if start + name not in own]
            if missing:
                raise ValueError(f"{start + missing[0]!r} is missing")
        for name in own:
            _check_name(name, name[len(start) :], each, ours)
            if ours:
                _check_numbers(name, rest[name])
            setattr(each, name[len(start) :], rest.pop(name))
        if type(each) is DefaultEstimator and hasattr(each, "widths_"):
            unused += [f"{start}members.{i}." for i in np.flatnonzero(each.widths_ == 0)]


def _fitted_names(part: Any) -> list[str]:
    """Return the attributes that `fit` sets of an object of ours."""
    if type(part) is HashingEmbedder:
        return ["rows_", "table_", "scales_"]  # not fields: its settings alone make two of them equal
    return [field.name for field in dataclasses.fields(part) if not field.init]


def _check_name(name: str, own: str, part: Any, ours: bool) -> None:
    """Raise ValueError unless `own` names a fitted attribute: never a method, nor what Python itself uses."""
    fitted = own.isidentifier() and own.endswith("_") and not own.startswith("__")
    if not fitted or (own not in _fitted_names(part) if ours else callable(getattr(type(part), own, None))):
        raise ValueError(f"{name!r} is nothing that the fit of a {type(part).__name__} sets")


def _check_numbers(name: str, array: Any) -> None:
    """Raise ValueError unless the array holds finite numbers: no fit of ours leaves a NaN."""
    if array.dtype.kind not in "fiu" or (array.dtype.kind == "f" and not np.isfinite(array).all()):
        raise ValueError(f"{name!r} holds something else than finite numbers")


def _try_out(router: UniRouter, settings: dict[str, Any]) -> None:
    """Use each part of ours once, so that arrays which do not fit each other fail here and not in `route`."""
    centroids = router.regions.centroids_
    router.regions.locate(centroids)
    dims = centroids.shape[1]
    if router.document_features is not None:
        dims = _question_dims(router.document_features, dims)
    if router.check_vectors is not None and router.check_vectors.shape != (len(CHECK_PROMPTS), dims):
        raise ValueError(f"'check_vectors' is {router.check_vectors.shape}, the regions are {centroids.shape}")
    embedder = router.embedder
    if keeps_embedder(settings) and isinstance(embedder, HashingEmbedder):
        if embedder.encode(CHECK_PROMPTS).shape[1] != dims:
            raise ValueError("the embedder's table and the regions have other dimensions")
        if embedder.rows_.max() > len(embedder.table_) or len(embedder.table_) != len(embedder.scales_):
            raise ValueError("'embedder.rows_' names rows that the table has not")
    if all(type(part) in CLASSES.values() for _, part in parts_of(router.estimator)):
        n_models = len(router.training_models)
        known = np.zeros((2, n_models)) if n_models else None
        features = router.estimator.profile(centroids[[0, -1]], np.array([0.0, 1.0]), known)
        if not predicts_errors(router.estimator, router.regions, features):
            raise ValueError("the estimator gives errors outside [0, 1]")


def _question_dims(features: Any, width: int) -> int:
    """Return the embedder's dimension in a router that was fitted with documents."""
    if type(features) is not DocumentFeatures:
        raise ValueError(f"{DOCUMENTS!r} are the settings of {type(features).__name__}")
    if not features.centres_.shape == features.weights_.shape == (len(STATISTICS),):
        raise ValueError("'documents.centres_' and 'documents.weights_' are not one number for each statistic")
    return features.dims(width)
