"""A fitted router to settings and arrays, which have one id; and settings to unfitted objects."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from unirouter_core import estimators
from unirouter_core.artifact.files import Arrays
from unirouter_core.documents import DocumentFeatures
from unirouter_core.embedding import HashingEmbedder, name_of
from unirouter_core.exceptions import ArtifactError
from unirouter_core.regions import Regions

if TYPE_CHECKING:
    from unirouter_core.router import UniRouter

CLASSES: dict[str, Any] = {name: cls for name, cls in vars(estimators).items() if dataclasses.is_dataclass(cls)}
CLASSES |= {cls.__name__: cls for cls in (HashingEmbedder, Regions, DocumentFeatures)} | estimators.FORMER_NAMES
"""Our own classes, by name."""

_NOT_SAVED = "not saved"


# --- One estimator or embedder ----------------------------------------------------------------------------------------


def settings_of(part: Any) -> dict[str, Any]:
    """Return the class and the constructor's parameters of an estimator or embedder, as JSON can hold them."""
    values = {field.name: getattr(part, field.name) for field in dataclasses.fields(part) if field.init}
    return {"class": type(part).__name__, **{name: _jsonable(value) for name, value in values.items()}}


def _jsonable(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return settings_of(value)
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    return [_jsonable(item) for item in value] if isinstance(value, (list, tuple)) else value


def known_classes(estimator: Any) -> dict[str, Any]:
    """Return the classes that settings may name: ours, and those of a given estimator and all inside it."""
    given = [] if estimator is None else [type(part) for _, part in parts_of(estimator)]
    return {**CLASSES, **{cls.__name__: cls for cls in given}}


def build(settings: Any, classes: Mapping[str, Any]) -> Any:
    """Return the unfitted object that `settings` describe; only `classes` are ever made."""
    if isinstance(settings, list):
        return tuple(build(item, classes) for item in settings)
    if not isinstance(settings, dict) or "class" not in settings:
        return settings
    name = str(settings["class"])
    if name not in classes:
        raise ArtifactError(
            f"router.json: class {name!r} is not known here; pass an unfitted one, load(..., estimator={name}())."
        )
    try:
        return classes[name](**{key: build(value, classes) for key, value in settings.items() if key != "class"})
    except TypeError as mismatch:
        raise ArtifactError(f"router.json: the settings of {name} are not its own ({mismatch}).") from mismatch


def arrays_of(part: Any, prefix: str = "") -> Arrays:
    """Return the fitted arrays of an estimator or embedder and of those inside it, by dotted name."""
    return {
        f"{start}{name}": np.asarray(value)
        for start, each in parts_of(part, prefix)
        for name, value in vars(each).items()
        if name.endswith("_")
    }


def parts_of(part: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield an estimator and those inside it, to any depth, each after what its arrays' names start with."""
    yield prefix, part
    for field in dataclasses.fields(part):
        value = getattr(part, field.name, None) if field.init else None
        inside = {f".{i}": item for i, item in enumerate(value)} if isinstance(value, (list, tuple)) else {"": value}
        for place, inner in inside.items():
            if dataclasses.is_dataclass(inner):
                yield from parts_of(inner, f"{prefix}{field.name}{place}.")


# --- The whole router -------------------------------------------------------------------------------------------------


def described(router: UniRouter) -> dict[str, Any]:
    """Return what router.json says of the fit, apart from its id."""
    embedder: dict[str, Any] = {"class": None, _NOT_SAVED: True}  # fitted on vectors, by whatever made them
    if type(router.embedder) is HashingEmbedder and router.check_vectors is not None:
        embedder = settings_of(router.embedder)
    elif router.check_vectors is not None and router.embedder is not None:
        embedder["class"] = name_of(router.embedder)
    features = router.document_features
    return {
        "estimator": settings_of(router.estimator),
        "regions": settings_of(router.regions),
        "embedder": embedder,
        "token_counter": router.token_counter.name,
        "cost": router.cost,
        "training_models": list(router.training_models),
        **({} if features is None else {DOCUMENTS: settings_of(features)}),
    }


DESCRIBED: dict[str, Any] = {
    "estimator": dict,
    "regions": dict,
    "embedder": dict,
    "token_counter": str,
    "cost": str,
    "training_models": list,
}
"""The kind of each setting of `described`, in its order."""

DOCUMENTS = "documents"
"""The setting that only a router fitted with documents has."""


def keeps_embedder(settings: Mapping[str, Any]) -> bool:
    """Return whether a router of these settings holds its embedder, rather than being given it at load."""
    return not settings["embedder"].get(_NOT_SAVED)


def fitted_arrays(router: UniRouter) -> Arrays:
    """Return all that weights.npz holds."""
    arrays = arrays_of(router.estimator, "estimator.") | arrays_of(router.regions, "regions.")
    if keeps_embedder(router.fit_settings):
        arrays |= arrays_of(router.embedder, "embedder.")
    if router.document_features is not None:
        arrays |= arrays_of(router.document_features, "documents.")
    if router.check_vectors is not None:
        arrays["check_vectors"] = router.check_vectors
    return {**arrays, "seen": router.seen}


def fit_id(router: UniRouter) -> str:
    """Return the id of what `fit` learned: the same arrays and settings give the same id, any edit another."""
    return content_id(router.fit_settings, fitted_arrays(router))


def content_id(settings: Mapping[str, Any], arrays: Arrays) -> str:
    """Return the id of settings and arrays, whatever they were read from."""
    content = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        content.update(f"{name} {array.dtype.str} {array.shape}".encode())
        content.update(np.ascontiguousarray(array).data)
    return content.hexdigest()[:16]
