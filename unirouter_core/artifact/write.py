"""A router to a folder: a new folder whole, one of the same fit by what has changed."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from unirouter_core.artifact.files import SCHEMA, read_json, replace_files, to_json, to_npz
from unirouter_core.artifact.models import model_content, model_file
from unirouter_core.artifact.prompts import prompt_files, without_texts
from unirouter_core.artifact.state import content_id, fitted_arrays
from unirouter_core.decision import check_cost_weight
from unirouter_core.exceptions import ArtifactError
from unirouter_core.pool import Pool
from unirouter_core.profiles import ModelProfile

if TYPE_CHECKING:
    from unirouter_core.router import UniRouter

HEADER = Path("router.json")


class Held(NamedTuple):
    """What a folder holds of that which changes after `fit`, as far as a router knows; None for what it does not."""

    profiles: Mapping[str, ModelProfile | None]
    cost_weight: float | None


def save(router: UniRouter, pool: Pool, cost_weight: float, folder: Path, *, held: Held, texts: bool) -> None:
    """Write `router` with `pool` and `cost_weight` to `folder`; see `UniRouter.save`.

    Into a folder of the same fit go only the models and the cost_weight that are not as `held`, and those models of
    `held` that are not in `pool` are removed: what others have changed there meanwhile stays.
    """
    contents = _contents(router, pool, cost_weight, texts)
    same = {model_file(model) for model, profile in pool.profiles.items() if held.profiles.get(model) is profile}
    if held.cost_weight == cost_weight:
        same.add(HEADER)  # the rest of it is the fit's
    gone = [folder / model_file(model) for model in held.profiles if model not in pool.profiles]
    try:
        while (found := _fit_in(folder)) != router.fit_id:
            if _replace(folder, contents, found):
                return
        files = {folder / name: content for name, content in contents.items() if name not in same}
        replace_files(files if texts else files | _others_without_texts(folder, contents), gone)
    except OSError as failed:
        raise ArtifactError(
            f"{folder} cannot be written: {failed.strerror or failed}; nothing was changed."
        ) from failed


def _contents(router: UniRouter, pool: Pool, cost_weight: float, texts: bool) -> dict[Path, bytes]:
    """Return the content of each file of the router, in an order in which no file names one that comes later."""
    arrays = fitted_arrays(router)
    if content_id(router.fit_settings, arrays) != router.fit_id:
        raise ArtifactError("The router's estimator or embedder was changed after its fit; fit it again before saving.")
    contents = {Path("weights.npz"): to_npz(arrays)}
    profiles = pool.profiles.values()
    for measured in {profile.measured.id: profile.measured for profile in profiles}.values():
        contents |= prompt_files(measured, texts=texts)
    contents |= {model_file(profile.model): model_content(profile, router.fit_id) for profile in profiles}
    weight = check_cost_weight(cost_weight)
    shown = "inf" if np.isinf(weight) else weight
    header = {"schema": SCHEMA, "fit": router.fit_id, "cost_weight": shown, **router.fit_settings}
    return {**contents, HEADER: to_json(header)}


def _others_without_texts(folder: Path, contents: Collection[Path]) -> dict[Path, bytes]:
    """Return the prompt files in `folder` that are not among `contents`, without the prompts' text."""
    files = (folder / "validation").glob("*.jsonl")
    return {file: without_texts(file) for file in files if file.relative_to(folder) not in contents}


def _fit_in(folder: Path) -> str | None:
    """Return the fit of the router in `folder`, None when nothing is there."""
    if folder.exists() and not folder.is_dir():
        raise ArtifactError(f"{folder} is a file; name a folder for the router.")
    names = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
    if names and HEADER.name not in names:
        raise ArtifactError(f"{folder} holds something that is not a router; name another folder.")
    return str(read_json(folder / HEADER).get("fit")) if names else None


def _replace(folder: Path, contents: Mapping[Path, bytes], found: str | None) -> bool:
    """Write a folder of `contents` beside `folder`, then put it in its place; return False if another was first."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    new, old = beside / "new", beside / "old"
    try:
        for place in ("pool", "validation"):
            (new / place).mkdir(parents=True)
        replace_files({new / name: content for name, content in contents.items()})
        done = _put_in_place(new, folder, old, found)
        shutil.rmtree(old, ignore_errors=True)
        return done
    finally:
        shutil.rmtree(new, ignore_errors=True)
        with contextlib.suppress(OSError):
            beside.rmdir()  # stays where it holds what could not be put back


def _put_in_place(new: Path, folder: Path, old: Path, found: str | None) -> bool:
    """Rename `folder`, if it is as `found`, to `old`, and `new` to `folder`; return False if another was first."""
    if found is None:
        with contextlib.suppress(OSError):
            folder.rmdir()  # an empty one; Windows renames nothing onto it
    elif not _set_aside(folder, old, found):
        return False
    try:
        new.rename(folder)  # fails where there is a router again
        return True
    except OSError:
        if _fit_in(folder) is not None:
            return False
        _put_back(old, folder)
        raise


def _set_aside(folder: Path, old: Path, found: str) -> bool:
    if _fit_in(folder) != found:
        return False
    folder.rename(old)
    if _fit_in(old) != found:  # exchanged since the line before the last
        _put_back(old, folder)
        return False
    return True


def _put_back(old: Path, folder: Path) -> None:
    try:
        if old.exists():
            old.rename(folder)
    except OSError as failed:
        raise ArtifactError(f"{folder} cannot be written: {failed.strerror}; its old content is in {old}.") from failed
