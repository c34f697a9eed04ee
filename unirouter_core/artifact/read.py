"""A folder to the router that it holds, checked."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from unirouter_core.artifact.files import check_schema, read_field, read_json, read_npz, read_texts
from unirouter_core.artifact.models import read_model
from unirouter_core.artifact.prompts import read_prompts
from unirouter_core.artifact.restore import UNUSABLE, restore
from unirouter_core.artifact.state import DESCRIBED, DOCUMENTS, build, content_id, keeps_embedder, known_classes
from unirouter_core.embedding import Embedder, name_of
from unirouter_core.exceptions import ArtifactError, EmbedderMismatchError
from unirouter_core.pool import Pool

if TYPE_CHECKING:
    from unirouter_core.router import UniRouter

    AnyRouter = TypeVar("AnyRouter", bound=UniRouter)


def load(cls: type[AnyRouter], folder: Path, embedder: Embedder | None, estimator: Any) -> AnyRouter:
    """Return the router in `folder`; see `UniRouter.load`."""
    file = folder / "router.json"
    if not file.is_file():
        raise ArtifactError(f"{folder} is not a router: it has no router.json. Fit one and save it there.")
    header = read_json(file)
    check_schema(header, file)
    arrays = read_npz(folder / "weights.npz")
    settings = {name: read_field(header, name, kind, file) for name, kind in DESCRIBED.items()}
    if DOCUMENTS in header:
        settings[DOCUMENTS] = read_field(header, DOCUMENTS, dict, file)
    if content_id(settings, arrays) != read_field(header, "fit", str, file):
        raise ArtifactError(f"{folder}: router.json and weights.npz are not what was saved together; save it again.")
    if keeps_embedder(settings) and embedder is not None:
        raise EmbedderMismatchError(
            f"{folder} keeps the embedder that its fit has taught; load it without embedder={name_of(embedder)}."
        )
    weight = read_field(header, "cost_weight", (int, float, str), file)
    try:
        router = _unfitted(cls, settings, embedder, known_classes(estimator), weight)
    except ArtifactError:
        raise
    except UNUSABLE as failed:
        raise ArtifactError(f"{file}: {failed}") from failed
    restore(router, settings, arrays, folder / "weights.npz")
    router.fit_id = header["fit"]
    router.keeps_texts = read_texts(header, file)
    router.replace_pool(_read_pool(router, folder), kept_in=folder.resolve())
    return router


def _unfitted(
    cls: type[AnyRouter],
    settings: Mapping[str, Any],
    embedder: Embedder | None,
    classes: Mapping[str, Any],
    weight: float | str,
) -> AnyRouter:
    return cls(
        build(settings["embedder"], classes) if keeps_embedder(settings) else embedder,
        build(settings["estimator"], classes),
        cost_weight=float(weight),
        cost=settings["cost"],
    )


def _read_pool(router: UniRouter, folder: Path) -> Pool:
    prompts = functools.cache(functools.partial(read_prompts, router, folder / "validation"))  # models share them
    profiles = [read_model(file, router, prompts) for file in sorted((folder / "pool").glob("*.json"))]
    return Pool({profile.model: profile for profile in profiles})
