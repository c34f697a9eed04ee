"""Validation prompts to the two files that keep them, named by their content, and back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unirouter_core.artifact.files import check_fields, read_field, read_npz, to_json, to_npz
from unirouter_core.exceptions import ArtifactError
from unirouter_core.profiles import MeasuredPrompts

if TYPE_CHECKING:
    from unirouter_core.router import UniRouter


def prompts_file(name: str) -> Path:
    """Return the place of the validation prompts `name` in a router's folder."""
    return Path("validation", f"{name}.jsonl")


def prompt_files(measured: MeasuredPrompts, *, texts: bool) -> dict[Path, bytes]:
    """Return the content of the two files by their places in a router's folder, with the prompts' text or without."""
    known = {} if measured.known is None else {"known": measured.known}
    arrays = {"vectors": measured.vectors, "tokens": measured.tokens, **known}
    return {
        prompts_file(measured.id).with_suffix(".npz"): to_npz(arrays),
        prompts_file(measured.id): _lines(measured.digests, measured.texts if texts else None),
    }


def without_texts(file: Path) -> bytes:
    """Return the content of a prompt file, without the prompts' text."""
    return _lines([row["digest"] for row in _rows(file)], None)


def _lines(digests: Sequence[str], texts: Sequence[str] | None) -> bytes:
    rows = [{"digest": name} | ({} if texts is None else {"prompt": texts[i]}) for i, name in enumerate(digests)]
    return b"".join(to_json(row, indent=None) for row in rows)


def read_prompts(router: UniRouter, folder: Path, name: str) -> MeasuredPrompts:
    """Return the validation prompts `name` of `folder`, checked to fit the router."""
    file = folder / f"{name}.jsonl"
    arrays = read_npz(folder / f"{name}.npz")
    if not file.is_file():
        raise ArtifactError(f"{file} is missing; onboard the models measured on it anew.")
    rows = _rows(file)
    digests = tuple(row["digest"] for row in rows)
    texts = tuple(row["prompt"] for row in rows) if all("prompt" in row for row in rows) else None
    vectors, tokens = arrays.get("vectors"), arrays.get("tokens")
    if vectors is None or tokens is None or vectors.ndim != 2 or not len(vectors) == len(tokens) == len(digests):
        raise ArtifactError(
            f"{folder / name}.npz: field 'vectors' or 'tokens' does not fit the {len(digests)} prompts of {file.name}."
        )
    measured = MeasuredPrompts(digests, texts, vectors, tokens, arrays.get("known"))
    if measured.id != name:
        raise ArtifactError(f"{file}: its content is not what its name says; it was edited.")
    _check(router, measured, folder / f"{name}.npz")
    return measured


def _rows(file: Path) -> list[dict[str, str]]:
    """Return the digests, and texts where they were kept, that the lines of a prompt file hold."""
    try:
        rows = [json.loads(line) for line in file.read_bytes().splitlines()]
    except ValueError as failed:
        raise ArtifactError(f"{file}: cannot be read ({failed}); it is truncated or edited.") from failed
    for line, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not all(isinstance(row.get(name, ""), str) for name in ("digest", "prompt")):
            raise ArtifactError(f"{file}: line {line} holds no prompt; it was edited.")
        read_field(row, "digest", str, file)
    return rows


def _check(router: UniRouter, measured: MeasuredPrompts, file: Path) -> None:
    n, width = len(measured), router.regions.centroids_.shape[1]
    vectors, tokens, known = measured.vectors, measured.tokens, measured.known
    checks = {
        "vectors": vectors.shape == (n, width) and bool(np.isfinite(vectors).all()),
        "tokens": tokens.shape == (n,) and bool(((tokens >= 0) & (tokens < np.inf)).all()),
        "known": known is None
        or (known.shape == (n, len(router.training_models)) and not ((known < 0) | (known > 1)).any()),
    }
    check_fields(checks, file, "is out of range or does not fit the router; it was edited.")
