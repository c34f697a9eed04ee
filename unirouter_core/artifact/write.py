"""A router to a folder: a new folder whole, one of the same fit by what has changed."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from unirouter_core.artifact.files import SCHEMA, check_schema, read_json, read_texts, replace_files, to_json, to_npz
from unirouter_core.artifact.models import model_content, model_file, validation_of
from unirouter_core.artifact.prompts import prompt_files, prompts_file, without_texts
from unirouter_core.artifact.state import content_id, fitted_arrays
from unirouter_core.decision import check_cost_weight
from unirouter_core.exceptions import ArtifactError
from unirouter_core.pool import Pool
from unirouter_core.profiles import MeasuredPrompts, ModelProfile

if TYPE_CHECKING:
    from unirouter_core.router import UniRouter

HEADER = Path("router.json")


class Held(NamedTuple):
    """What a folder holds of that which changes after `fit`, as far as a router knows; None for what it does not."""

    profiles: Mapping[str, ModelProfile | None]
    cost_weight: float | None


def save(router: UniRouter, pool: Pool, cost_weight: float, folder: Path, *, held: Held, texts: bool | None) -> None:
    """Write `router` with `pool` and `cost_weight` to `folder`; see `UniRouter.save`.

    Into a folder of the same fit go only the models and the cost_weight that are not as `held`, and those models of
    `held` that are not in `pool` are removed: what others have changed there meanwhile stays.
    """
    try:
        while True:
            found = _header_in(folder)
            keeps = _keeps_texts(router, folder, found, texts)
            contents = _contents(router, pool, cost_weight, keeps)
            if found is not None and _fit_of(found) == router.fit_id:
                return _change(folder, found, contents, pool, cost_weight, held=held, texts=keeps)
            if _replace(folder, contents, _fit_of(found)):
                return None
    except OSError as failed:
        raise ArtifactError(
            f"{folder} cannot be written: {failed.strerror or failed}; nothing was changed."
        ) from failed


def _keeps_texts(router: UniRouter, folder: Path, found: Mapping[str, Any] | None, texts: bool | None) -> bool:
    """Return whether the prompts' text is kept: as told, else as the folder does, else as where `router` came from."""
    if texts is not None:
        return texts
    return router.keeps_texts if found is None else read_texts(found, folder / HEADER)


def _contents(router: UniRouter, pool: Pool, cost_weight: float, texts: bool) -> dict[Path, bytes]:
    """Return the content of each file of the router, in an order in which no file names one that comes later."""
    arrays = fitted_arrays(router)
    if content_id(router.fit_settings, arrays) != router.fit_id:
        raise ArtifactError("The router's estimator or embedder was changed after its fit; fit it again before saving.")
    contents = {Path("weights.npz"): to_npz(arrays)}
    for measured in _measured(pool):
        contents |= prompt_files(measured, texts=texts)
    profiles = pool.profiles.values()
    contents |= {model_file(profile.model): model_content(profile, router.fit_id) for profile in profiles}
    weight = check_cost_weight(cost_weight)
    shown = "inf" if np.isinf(weight) else weight
    header = {"schema": SCHEMA, "fit": router.fit_id, "cost_weight": shown, "texts": texts, **router.fit_settings}
    return {**contents, HEADER: to_json(header)}


# --- Into a folder of the same fit ------------------------------------------------------------------------------------


def _change(
    folder: Path,
    found: Mapping[str, Any],
    contents: Mapping[Path, bytes],
    pool: Pool,
    cost_weight: float,
    *,
    held: Held,
    texts: bool,
) -> None:
    """Write what is not as `held`, remove the models that are gone, and the text of prompts that none names now."""
    profiles = pool.profiles.values()
    new = {model_file(each.model): each for each in profiles if held.profiles.get(each.model) is not each}
    gone = [model_file(model) for model in held.profiles if model not in pool.profiles]
    stay = [file for file in (folder / "pool").glob("*.json") if file.relative_to(folder) not in {*new, *gone}]
    named = {each.measured.id for each in new.values()} | {validation_of(file) for file in stay}
    unchanged = _unchanged_prompts(folder, pool, named, texts)
    unchanged |= {model_file(each.model) for each in profiles} - set(new)
    if held.cost_weight == cost_weight:
        unchanged.add(HEADER)  # the rest of it is the fit's
    files = {file: content for file, content in contents.items() if file not in unchanged}
    if HEADER not in files and found.get("texts", True) is not texts:
        files[HEADER] = to_json({**found, "texts": texts})
    removes = bool(gone) or any((folder / file).is_file() for file in new)
    for file in (folder / "validation").glob("*.jsonl"):
        forgotten = file.stem not in named if texts else file.relative_to(folder) not in files
        if forgotten and (removes or not texts):
            files[file.relative_to(folder)] = without_texts(file)  # not removed: another may be adding a model with it
    replace_files({folder / file: content for file, content in files.items()}, [folder / file for file in gone])


def _unchanged_prompts(folder: Path, pool: Pool, named: Collection[str | None], texts: bool) -> set[Path]:
    """Return the prompt files to leave: those whose models others have retired, and texts that only the folder has."""
    files = set()
    for measured in _measured(pool):
        file = prompts_file(measured.id)
        if measured.id not in named:
            files |= {file, file.with_suffix(".npz")}
        elif texts and measured.texts is None and (folder / file).is_file():
            files.add(file)
    return files


def _measured(pool: Pool) -> list[MeasuredPrompts]:
    """Return the prompts that the models were measured on, each set once, with its texts if any model has them."""
    known = sorted((each.measured for each in pool.profiles.values()), key=lambda each: each.texts is not None)
    return list({measured.id: measured for measured in known}.values())


# --- In the place of another folder, or of none -----------------------------------------------------------------------


def _header_in(folder: Path) -> dict[str, Any] | None:
    """Return what router.json in `folder` says, None when nothing is there."""
    if folder.exists() and not folder.is_dir():
        raise ArtifactError(f"{folder} is a file; name a folder for the router.")
    names = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
    if names and HEADER.name not in names:
        raise ArtifactError(f"{folder} holds something that is not a router; name another folder.")
    if not names:
        return None
    header = read_json(folder / HEADER)
    check_schema(header, folder / HEADER)
    return header


def _fit_of(header: Mapping[str, Any] | None) -> str | None:
    return None if header is None else str(header.get("fit"))


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
        if _fit_of(_header_in(folder)) is not None:
            return False
        _put_back(old, folder)
        raise


def _set_aside(folder: Path, old: Path, found: str) -> bool:
    if _fit_of(_header_in(folder)) != found:
        return False
    folder.rename(old)
    if _fit_of(_header_in(old)) != found:  # exchanged since the line before the last
        _put_back(old, folder)
        return False
    return True


def _put_back(old: Path, folder: Path) -> None:
    try:
        if old.exists():
            old.rename(folder)
    except OSError as failed:
        raise ArtifactError(f"{folder} cannot be written: {failed.strerror}; its old content is in {old}.") from failed
