"""A router as a folder: JSON and plain arrays, one file for each model, written atomically and checked when read.

    my.router/
      router.json              schema version, id of the fit, settings, token count, default cost_weight, texts or not
      weights.npz              the fitted arrays, the embedder's three check vectors, hashes of the prompts fitted on
      validation/<id>.jsonl    the prompts that profiles were measured on, or only their digests
      validation/<id>.npz      their vectors and the training models' errors on them
      pool/<model>.json        one file for each model, its name percent-encoded

A validation set is named by its content. Into a folder of the same fit, a save writes or removes the files of those
models only that have changed in this router since it last read or wrote the folder, and the cost_weight only if it has:
two machines that work on two models in one folder cannot lose each other's work. A save that removes a model takes the
text out of validation sets that no model of the folder names any more; their digests stay. A folder of another fit is
exchanged for a new one as a whole.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import time
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from unirouter_core import estimators
from unirouter_core.costs import CallCost, Prices, TokenCounter
from unirouter_core.documents import STATISTICS, DocumentFeatures
from unirouter_core.embedding import CHECK_PROMPTS, Array, Embedder, HashingEmbedder, embed, name_of
from unirouter_core.estimators.clusters import Regions
from unirouter_core.estimators.protocol import Arrays, parts_of
from unirouter_core.exceptions import ArtifactError, EmbedderMismatchError, InvalidDataError
from unirouter_core.fit import NOT_SAVED, Fit, content_id
from unirouter_core.pool import Capabilities, MeasuredPrompts, ModelProfile, Pool
from unirouter_core.rule import check_cost_weight

SCHEMA = 1
"""The version of the folder's form; a folder of a later one is refused."""

HEADER, WEIGHTS = Path("router.json"), Path("weights.npz")

FIELDS: dict[str, Any] = {
    "estimator": dict,
    "regions": dict,
    "embedder": dict,
    "token_counter": str,
    "cost": str,
    "training_models": list,
    "documents": dict,  # of a router fitted with documents
}
"""The fit's settings in router.json, and the kind of each."""

CLASSES: dict[str, Any] = {name: cls for name, cls in vars(estimators).items() if dataclasses.is_dataclass(cls)}
CLASSES |= {cls.__name__: cls for cls in (HashingEmbedder, Regions, DocumentFeatures)}
"""Our own classes, by name."""

RENAMED = {"BlendEstimator": "DefaultEstimator", "MixtureEstimator": "KnownModelsEstimator"}
"""Classes that folders of version 0.1 name otherwise."""

LONGEST_NAME = 200
"""Characters of a model's file name that are its own; file systems allow 255."""

MOST_BYTES, MOST_PER_BYTE = 2**26, 64
"""What an .npz of few bytes may unpack to, and what each of its bytes may add: a zip bomb claims more."""

LEFT_SECONDS = 3600
"""A temporary file this old is of a save that was killed."""

CURE = "copy the folder again from where it was saved, or fit and save it again"
AGAIN = "onboard the model again"


@dataclass(frozen=True)
class Folders:
    """What a router knows of the folders that it was loaded from or saved to.

    Parameters
    ----------
    texts : bool
        Whether a new folder keeps the prompts' text.
    synced : mapping of Path to (Pool, float)
        The pool and the cost_weight that were last read from or written to each folder.
    retired : frozenset of str
        The models that it has held and holds no more, which are removed from a folder not known yet.
    """

    texts: bool = True
    retired: frozenset[str] = frozenset()
    synced: Mapping[Path, tuple[Pool, float]] = field(default_factory=dict)


# --- Save -------------------------------------------------------------------------------------------------------------


def save(fit: Fit, pool: Pool, cost_weight: float, folder: Path, *, known: Folders, texts: bool | None) -> Folders:
    """Write a router to `folder` and return what is then known of folders; see `UniRouter.save`."""
    weight, arrays = check_cost_weight(cost_weight), fit.arrays()
    if content_id(fit.settings, arrays) != fit.id:
        raise ArtifactError("The router's estimator or embedder was changed after its fit; fit it again before saving.")
    header = {"schema": SCHEMA, "fit": fit.id, "cost_weight": "inf" if np.isinf(weight) else weight, **fit.settings}
    try:
        while True:
            found = _header_in(folder)
            if texts is not None or found is None:
                keeps = known.texts if texts is None else texts
            else:
                keeps = _keeps_texts(found, folder / HEADER)
            files = {WEIGHTS: _to_npz(arrays)}
            if found is not None and found.get("fit") == fit.id:
                _, last_weight = known.synced.get(folder, (None, None))
                if last_weight == weight:  # not changed here: what another process has set stays
                    header["cost_weight"] = found.get("cost_weight", weight)
                _update(folder, fit, pool, known, files, {**header, "texts": keeps}, found)
                break
            files |= _prompt_files(pool.values(), texts=keeps)
            files |= {model_file(profile.model): _model_content(profile, fit.id) for profile in pool.values()}
            files[HEADER] = _to_json({**header, "texts": keeps})
            if _put_in_place(folder, files, None if found is None else str(found.get("fit"))):
                break
        _sweep(folder)
    except OSError as failed:
        raise ArtifactError(
            f"{folder} cannot be written: {failed.strerror or failed}; nothing was changed."
        ) from failed
    return dataclasses.replace(known, synced={**known.synced, folder: (pool, weight)})


def _header_in(folder: Path) -> dict[str, Any] | None:
    """Return what router.json in `folder` holds, None when nothing is there."""
    if folder.exists() and not folder.is_dir():
        raise ArtifactError(f"{folder} is a file; name a folder for the router.")
    names = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
    if names and HEADER.name not in names:
        raise ArtifactError(f"{folder} holds something that is not a router; name another folder.")
    if not names:
        return None
    header = _read_json(folder / HEADER)
    _check_schema(header, folder / HEADER)
    return header


def _update(
    folder: Path,
    fit: Fit,
    pool: Pool,
    known: Folders,
    files: dict[Path, bytes],
    header: Mapping[str, Any],
    found: Mapping[str, Any],
) -> None:
    """Write into a folder of the same fit what has changed here, and remove what was retired here."""
    before, _ = known.synced.get(folder, (Pool(), None))
    gone = set(before) - set(pool) if folder in known.synced else known.retired
    changed = [profile for model, profile in pool.items() if before.get(model) is not profile]
    retired = {model_file(model) for model in gone}
    stale = retired | {model_file(profile.model) for profile in changed}
    in_folder = [file for file in (folder / "pool").glob("*.json") if file.relative_to(folder) not in stale]

    def is_named(measured: MeasuredPrompts) -> bool:
        """Return whether a model here or there has the prompts: others may have retired all models that had."""
        users = [profile for profile in pool.values() if profile.measured.id == measured.id]
        on_disk = (_validation_of(folder / model_file(profile.model)) for profile in users)
        return any(profile in changed for profile in users) or measured.id in on_disk

    files |= _prompt_files(pool.values(), texts=bool(header["texts"]), only=is_named, folder=folder)
    files |= {model_file(profile.model): _model_content(profile, fit.id) for profile in changed}
    if header != found:
        files[HEADER] = _to_json(header)
    if not header["texts"] or any((folder / file).is_file() for file in stale):
        kept = {_validation_of(file) for file in in_folder} | {profile.measured.id for profile in changed}
        for file in (folder / "validation").glob("*.jsonl"):
            place = file.relative_to(folder)
            if file.stem not in kept or (not header["texts"] and place not in files):
                files[place] = _lines([row["digest"] for row in _rows(file)], None)  # another may be adding its model
    _replace_files({folder / file: content for file, content in files.items()}, [folder / file for file in retired])


def _put_in_place(folder: Path, files: Mapping[Path, bytes], found: str | None) -> bool:
    """Put a folder of `files` in the place of `folder`; return False when that no longer holds the fit `found`."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = folder.with_name(_temporary(folder.name))
    try:
        for place in ("pool", "validation"):
            (new / place).mkdir(parents=True)
        _replace_files({new / name: content for name, content in files.items()})
        if found is None:
            return _rename_first(new, folder)
        _exchange(new, folder)
        if str((_header_in(new) or {}).get("fit")) == found:
            return True
        _exchange(new, folder)  # another process was first
        return False
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _rename_first(new: Path, folder: Path) -> bool:
    """Rename `new` to `folder`, which is empty or nothing; return False when another process was first."""
    with contextlib.suppress(OSError):
        folder.rmdir()  # an empty one; Windows renames nothing onto it
    try:
        new.rename(folder)
        return True
    except OSError:
        if _header_in(folder) is None:
            raise
        return False


def _exchange(new: Path, folder: Path) -> None:
    """Exchange two folders: in one step where the system can, so that there is no moment without a router."""
    with contextlib.suppress(OSError, AttributeError):
        rename = ctypes.CDLL(None, use_errno=True).renameat2  # Linux; os has no function for it
        at, flag_exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
        if rename(at, os.fsencode(new), at, os.fsencode(folder), flag_exchange) == 0:
            return
    aside = new.with_name(_temporary(folder.name))
    folder.rename(aside)
    try:
        new.rename(folder)
    except OSError:
        try:
            aside.rename(folder)
        except OSError as failed:
            raise ArtifactError(
                f"{folder} cannot be written: {failed.strerror}; its old content is in {aside}."
            ) from failed
        raise
    aside.rename(new)


# --- Files that are all replaced or none ------------------------------------------------------------------------------


def _replace_files(files: Mapping[Path, bytes], removed: Iterable[Path] = ()) -> None:
    """Write all files beside their places and to disk, then rename them: all are new or, after a failure, all are old.

    Whoever reads meanwhile sees each file as it was or as it will be. Files that hold their content already are left.
    """
    before = {file: file.read_bytes() if file.is_file() else None for file in [*files, *removed]}
    beside: dict[Path, Path] = {}
    touched: list[Path] = []
    try:
        for file, content in files.items():
            if content != before[file]:
                file.parent.mkdir(parents=True, exist_ok=True)
                beside[file] = file.with_name(_temporary(file.name))
                _write(beside[file], content)
        for file, written in beside.items():
            touched.append(file)
            os.replace(written, file)
        for file in removed:
            touched.append(file)
            file.unlink(missing_ok=True)
    except BaseException:
        for written in beside.values():
            written.unlink(missing_ok=True)
        for file in touched:
            _put_back(file, before[file])
        raise


def _write(file: Path, content: bytes) -> None:
    """Write a new file, to disk; who may read it is up to the process's umask."""
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666), "wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())


def _put_back(file: Path, content: bytes | None) -> None:
    if content is None:
        file.unlink(missing_ok=True)
    elif not file.is_file() or file.read_bytes() != content:
        file.write_bytes(content)


def _temporary(name: str) -> str:
    return f".{name[:40]}.{secrets.token_hex(4)}.tmp"


def _sweep(folder: Path) -> None:
    """Remove what saves that were killed an hour ago or earlier have left, in the folder and beside it."""
    beside = f".{folder.name[:40]}."
    left = [file for file in folder.parent.glob(".*.tmp") if file.name.startswith(beside)]
    for place in (folder, folder / "pool", folder / "validation"):
        left += place.glob(".*.tmp")
    for each in left:
        with contextlib.suppress(OSError):
            if time.time() - each.stat().st_mtime > LEFT_SECONDS:
                shutil.rmtree(each) if each.is_dir() else each.unlink()


# --- Load -------------------------------------------------------------------------------------------------------------


def load(folder: Path, embedder: Embedder | None, estimator: Any) -> tuple[Fit, Pool, float, Folders]:
    """Return the fit, the pool and the cost_weight in `folder`, and what is then known of folders."""
    while True:
        before = _identity(folder)
        try:
            return _load(folder, embedder, estimator)
        except ArtifactError:
            if _identity(folder) == before:  # otherwise it was exchanged for another while it was read
                raise


def _identity(folder: Path) -> int | None:
    return folder.stat().st_ino if folder.is_dir() else None


def _load(folder: Path, embedder: Embedder | None, estimator: Any) -> tuple[Fit, Pool, float, Folders]:
    file = folder / HEADER
    if not file.is_file():
        raise ArtifactError(f"{folder} is not a router: it has no router.json. Fit one and save it there.")
    header = _read_json(file)
    _check_schema(header, file)
    arrays = _read_npz(folder / WEIGHTS)
    names = [name for name in FIELDS if name != "documents" or name in header]
    settings = {name: _field(header, name, FIELDS[name], file) for name in names}
    if content_id(settings, arrays) != _field(header, "fit", str, file):
        raise ArtifactError(f"{folder}: router.json and weights.npz are not what was saved together; save it again.")
    if not settings["embedder"].get(NOT_SAVED) and embedder is not None:
        raise EmbedderMismatchError(
            f"{folder} keeps the embedder that its fit has taught; load it without embedder={name_of(embedder)}."
        )
    try:
        weight = check_cost_weight(float(_field(header, "cost_weight", (int, float, str), file)))
    except (InvalidDataError, ValueError) as failed:
        raise ArtifactError(f"{file}: {failed}") from failed
    fit = _read_fit(folder, header["fit"], settings, arrays, embedder, estimator)
    texts = _keeps_texts(header, file)
    prompts = functools.cache(functools.partial(_read_prompts, fit, folder / "validation"))  # models share them
    profiles = {}
    for file in sorted((folder / "pool").glob("*.json")):
        try:
            profile = _read_model(file, fit, prompts)
        except ArtifactError:
            if not file.exists():  # retired since the folder was listed
                continue
            raise
        profiles[profile.model] = profile
    pool = Pool(profiles)
    return fit, pool, weight, Folders(texts, synced={folder.resolve(): (pool, weight)})


def _read_fit(
    folder: Path,
    id: str,
    settings: Mapping[str, Any],
    arrays: Arrays,
    embedder: Embedder | None,
    estimator: Any,
) -> Fit:
    """Return the fit that settings and arrays make.

    Raises
    ------
    ArtifactError
        When an array is missing, is not what a fit leaves, or does not fit the others.
    """
    given = {} if estimator is None else {type(part).__name__: type(part) for _, part in parts_of(estimator)}
    classes, rest = {**CLASSES, **given}, dict(arrays)
    parts = {
        name: _build(settings[name], classes) for name in ("estimator", "regions", "documents") if name in settings
    }
    if not settings["embedder"].get(NOT_SAVED):
        parts["embedder"] = embedder = _build(settings["embedder"], classes)
    try:
        checks, seen = rest.pop("check_vectors", None), rest.pop("seen")
        for name, part in parts.items():
            _set_arrays(part, f"{name}.", rest)
        if rest:
            raise ValueError(f"it holds {min(rest)!r}, which is no part of this router")
        fit = Fit(
            embedder=embedder,
            estimator=parts["estimator"],
            regions=parts["regions"],
            token_counter=TokenCounter(settings["token_counter"]),
            training_models=tuple(settings["training_models"]),
            seen=seen,
            check_vectors=checks,
            document_features=parts.get("documents"),
            cost=settings["cost"],
            settings=settings,
            id=id,
            is_embedder_known="embedder" in parts,
        )
        with np.errstate(all="ignore"):
            _check(fit)
    except Exception as failed:  # parts that do not fit each other raise almost anything
        raise ArtifactError(f"{folder / WEIGHTS}: does not make a fitted router ({failed}); {CURE}.") from failed
    return fit


def _build(settings: Any, classes: Mapping[str, Any]) -> Any:
    """Return the unfitted object that `settings` describe; only `classes` are ever made."""
    if isinstance(settings, list):
        return tuple(_build(item, classes) for item in settings)
    if not isinstance(settings, dict) or "class" not in settings:
        return settings
    name = str(settings["class"])
    made = classes.get(name, classes.get(RENAMED.get(name, name)))
    if made is None:
        raise ArtifactError(
            f"router.json: class {name!r} is not known here; pass an unfitted one, load(..., estimator={name}())."
        )
    try:
        return made(**{key: _build(value, classes) for key, value in settings.items() if key != "class"})
    except (TypeError, InvalidDataError) as mismatch:
        raise ArtifactError(f"router.json: the settings of {name} are not its own ({mismatch}).") from mismatch


def _set_arrays(part: Any, prefix: str, rest: Arrays) -> None:
    """Give an estimator or embedder and those inside it their arrays, which are taken from `rest`."""
    for start, each in parts_of(part, prefix):
        own = [name for name in rest if name.startswith(start) and "." not in name[len(start) :]]
        found = {name[len(start) :]: rest.pop(name) for name in own}
        for name, array in found.items():
            if not name.isidentifier() or not name.endswith("_") or hasattr(type(each), name):
                raise ValueError(f"{start + name!r} is nothing that the fit of a {type(each).__name__} sets")
            if type(each) in CLASSES.values():
                _check_finite(start + name, array)
        if type(each) in CLASSES.values() and (found or start == prefix):  # a member may have been left out of a blend
            fitted = [place.name for place in dataclasses.fields(each) if not place.init]
            if type(each) is HashingEmbedder:
                fitted = ["rows_", "table_", "scales_"]  # not fields: its settings alone make two of them equal
            for name in sorted(found.keys() ^ fitted):
                raise ValueError(f"{start + name!r} is missing, or nothing that a fit sets")
        vars(each).update(found)


def _check_finite(name: str, array: Any) -> None:
    if array.dtype.kind not in "fiu" or (array.dtype.kind == "f" and not np.isfinite(array).all()):
        raise ValueError(f"{name!r} holds something else than finite numbers")


def _check(fit: Fit) -> None:
    """Use each part of ours once, so that arrays which do not fit each other fail here and not in `route`."""
    if fit.seen.dtype != np.uint64 or fit.seen.ndim != 1:
        raise ValueError("'seen' is not a row of hashes")
    centroids, features, checks = fit.regions.centroids_, fit.document_features, fit.check_vectors
    fit.regions.locate(centroids)
    dims = centroids.shape[1]
    if features is not None:
        if type(features) is not DocumentFeatures:
            raise ValueError(f"'documents' are the settings of {type(features).__name__}")
        if not features.centres_.shape == features.weights_.shape == (len(STATISTICS),):
            raise ValueError("'documents.centres_' and 'documents.weights_' are not one number for each statistic")
        dims = features.dims(dims)
    if (checks is None) != (fit.settings["embedder"]["class"] is None):
        raise ValueError("'check_vectors' must be there if, and only if, the embedder has a name")
    if checks is not None:
        _check_finite("check_vectors", checks)
        if checks.shape != (len(CHECK_PROMPTS), dims):
            raise ValueError(f"'check_vectors' is {checks.shape}, the regions are {centroids.shape}")
    embedder = fit.embedder
    if fit.keeps_embedder and isinstance(embedder, HashingEmbedder):
        if embed(embedder, CHECK_PROMPTS).shape[1] != dims:
            raise ValueError("the embedder's table and the regions have other dimensions")
        if embedder.rows_.max() > len(embedder.table_) or len(embedder.table_) != len(embedder.scales_):
            raise ValueError("'embedder.rows_' names rows that the table has not")
    if all(type(part) in CLASSES.values() for _, part in parts_of(fit.estimator)):
        known = np.zeros((2, len(fit.training_models))) if fit.training_models else None
        if not fit.predicts_errors(fit.estimator.profile(centroids[[0, -1]], np.array([0.0, 1.0]), known)):
            raise ValueError("the estimator gives errors outside [0, 1]")


# --- One model --------------------------------------------------------------------------------------------------------


def model_file(model: str) -> Path:
    """Return the place of a model's file in a router's folder."""
    name = quote(model, safe=" ", errors="surrogatepass")
    if len(name) > LONGEST_NAME:
        name = f"{name[:LONGEST_NAME]}~{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return Path("pool", f"{name}.json")


def _model_content(profile: ModelProfile, fit: str) -> bytes:
    content = {
        "schema": SCHEMA,
        "model": profile.model,
        "fit": fit,
        "provenance": dict(profile.provenance),
        "n": profile.n,
        "error": profile.error,
        "error_spread": profile.error_spread,
        "prices": None if profile.prices is None else dataclasses.asdict(profile.prices),
        "cost": {**dataclasses.asdict(profile.cost), "per_answer": profile.cost.per_answer.tolist()},
        "capabilities": dataclasses.asdict(profile.capabilities),
        "validation": profile.measured.id,
        "answers": {"errors": _numbers(profile.errors), "usd": _numbers(profile.usd)},
        "features": {"shape": list(profile.features.shape), "values": _numbers(profile.features)},
    }
    try:
        return _to_json(content)
    except (TypeError, ValueError, OverflowError) as failed:
        raise InvalidDataError(
            f"The provenance of {profile.model!r} cannot be kept as JSON ({failed}); onboard it with plain values."
        ) from failed


def _numbers(array: Array) -> list[float | None]:
    """Return the numbers, NaN as None; float32 in the few digits that give the same float32 again."""
    digits = 9 if array.dtype == np.float32 else 17
    return [None if value != value else float(f"{value:.{digits}g}") for value in array.ravel().tolist()]


def _read_model(file: Path, fit: Fit, prompts: Callable[[str], MeasuredPrompts]) -> ModelProfile:
    """Return the profile that `file` holds, checked to be of the fit; `prompts` reads validation prompts by name."""
    content = _read_json(file)
    _check_schema(content, file)
    if _field(content, "fit", str, file) != fit.id:
        raise ArtifactError(f"{file}: belongs to another fit ({content['fit']}, not {fit.id}); {AGAIN}.")
    measured = prompts(_field(content, "validation", str, file))
    try:
        profile = _profile(content, measured, file)
    except ArtifactError:
        raise
    except KeyError as missing:
        raise ArtifactError(f"{file}: field {missing} is missing; {AGAIN}.") from missing
    except (InvalidDataError, TypeError, ValueError, OverflowError) as failed:
        raise ArtifactError(f"{file}: {failed}; {AGAIN}.") from failed
    own = model_file(profile.model)
    if file.name != own.name:
        raise ArtifactError(f"{file}: holds model {profile.model!r}, which belongs in {own.name}.")
    regions, wanted = len(profile.cost.per_answer), len(fit.regions)
    if regions != wanted:
        raise ArtifactError(f"{file}: field 'cost' has {regions} regions, not {wanted}.")
    try:
        usable = fit.predicts_errors(profile.features)
    except Exception as failed:  # an estimator may raise anything
        raise ArtifactError(f"{file}: field 'features' does not fit the estimator ({failed}); {AGAIN}.") from failed
    if not usable:
        raise ArtifactError(f"{file}: field 'features' gives errors outside [0, 1]; {AGAIN}.")
    return profile


def _profile(content: dict[str, Any], measured: MeasuredPrompts, file: Path) -> ModelProfile:
    answers, features, cost = (_field(content, name, dict, file) for name in ("answers", "features", "cost"))
    prices = content.get("prices")
    return ModelProfile(
        model=_field(content, "model", str, file),
        features=_array(features["values"], np.float32).reshape(features["shape"]),
        error=float(_field(content, "error", (int, float), file)),
        error_spread=float(_field(content, "error_spread", (int, float), file)),
        n=_field(content, "n", int, file),
        cost=CallCost(
            float(cost["per_token"]),
            float(cost["per_cached_token"]),
            _array(cost["per_answer"], np.float64),
            float(cost.get("per_call", 0.0)),  # the first folders have none
        ),
        prices=None if prices is None else Prices(**prices),
        capabilities=Capabilities(**_field(content, "capabilities", dict, file)),
        measured=measured,
        errors=_array(answers["errors"], np.float64),
        usd=_array(answers["usd"], np.float64),
        provenance=_field(content, "provenance", dict, file),
    )


def _array(values: list[float | None], dtype: Any) -> Array:
    return np.array([np.nan if value is None else value for value in values], dtype)


# --- The prompts that models were measured on -------------------------------------------------------------------------


def _prompt_files(
    profiles: Collection[ModelProfile],
    *,
    texts: bool,
    only: Callable[[MeasuredPrompts], bool] = lambda measured: True,
    folder: Path | None = None,
) -> dict[Path, bytes]:
    """Return the two files of each set of prompts that `only` lets through; texts that only `folder` has stay there."""
    known = sorted((profile.measured for profile in profiles), key=lambda each: each.texts is not None)
    files = {}
    for measured in {each.id: each for each in known}.values():  # each set once, with its texts if any model has them
        if not only(measured):
            continue
        lines = Path("validation", f"{measured.id}.jsonl")
        arrays = {"vectors": measured.vectors, "tokens": measured.tokens}
        more = {} if measured.known is None else {"known": measured.known}
        files[lines.with_suffix(".npz")] = _to_npz({**arrays, **more})
        if not (texts and measured.texts is None and folder is not None and (folder / lines).is_file()):
            files[lines] = _lines(measured.digests, measured.texts if texts else None)
    return files


def _lines(digests: Sequence[str], texts: Sequence[str] | None) -> bytes:
    rows = [{"digest": name} | ({} if texts is None else {"prompt": texts[i]}) for i, name in enumerate(digests)]
    return b"".join(_to_json(row, indent=None) for row in rows)


def _validation_of(file: Path) -> str | None:
    """Return the validation prompts that a model's file names; None where it names none or has just gone."""
    try:
        name = _read_json(file).get("validation")
    except ArtifactError:
        return None
    return name if isinstance(name, str) else None


def _read_prompts(fit: Fit, folder: Path, name: str) -> MeasuredPrompts:
    """Return the validation prompts `name` of `folder`, checked to fit the router."""
    file = folder / f"{name}.jsonl"
    packed = file.with_suffix(".npz")
    arrays, rows = _read_npz(packed), _rows(file)
    digests = tuple(row["digest"] for row in rows)
    texts = tuple(row["prompt"] for row in rows) if all("prompt" in row for row in rows) else None
    n, vectors, tokens, known = len(rows), arrays.get("vectors"), arrays.get("tokens"), arrays.get("known")
    checks = {
        "vectors": vectors is not None
        and vectors.shape == (n, fit.regions.centroids_.shape[1])
        and bool(np.isfinite(vectors).all()),
        "tokens": tokens is not None and tokens.shape == (n,) and bool(((tokens >= 0) & (tokens < np.inf)).all()),
        "known": known is None
        or (known.shape == (n, len(fit.training_models)) and not ((known < 0) | (known > 1)).any()),
    }
    if wrong := [each for each, fine in checks.items() if not fine]:
        raise ArtifactError(f"{packed}: field {wrong[0]!r} does not fit the {n} prompts or the router; it was edited.")
    measured = MeasuredPrompts(digests, texts, arrays["vectors"], arrays["tokens"], known)
    if measured.id != name:
        raise ArtifactError(f"{file}: its content is not what its name says; it was edited.")
    return measured


def _rows(file: Path) -> list[dict[str, str]]:
    """Return the digests, and texts where they were kept, that the lines of a prompt file hold."""
    try:
        rows = [json.loads(line) for line in _read(file).splitlines()]
    except ValueError as failed:
        raise ArtifactError(f"{file}: cannot be read ({failed}); it is truncated or edited.") from failed
    for line, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not all(isinstance(row.get(name, ""), str) for name in ("digest", "prompt")):
            raise ArtifactError(f"{file}: line {line} holds no prompt; it was edited.")
        _field(row, "digest", str, file)
    return rows


# --- JSON and arrays to bytes and back --------------------------------------------------------------------------------


def _read(file: Path) -> bytes:
    """Return the content of a regular file: a pipe or a device in its place would keep the reader waiting."""
    try:
        if file.exists() and not file.is_file():
            raise OSError("it is no regular file")
        return file.read_bytes()
    except OSError as failed:
        raise ArtifactError(f"{file}: cannot be read ({failed}); it is missing or no file.") from failed


def _to_json(value: Any, *, indent: int | None = 1) -> bytes:
    """Return `value` as a text that one may read and edit."""
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    # A row of numbers on one line. A line break marks it as a list: within a string it would be written \\n.
    text = re.sub(r"\[\n[^][{}\"]*\]", lambda numbers: " ".join(numbers[0].split()), text)
    return (text + "\n").encode("utf-8", "surrogatepass")


def _read_json(file: Path) -> dict[str, Any]:
    """Return the fields that `file` holds."""
    try:
        content = json.loads(_read(file).decode("utf-8", "surrogatepass"))
    except ValueError as failed:
        raise ArtifactError(f"{file}: cannot be read as JSON ({failed}); it is truncated or edited.") from failed
    if not isinstance(content, dict):
        raise ArtifactError(f"{file}: holds {type(content).__name__}, not the fields of a router.")
    return content


def _field(content: Mapping[str, Any], name: str, kind: Any, file: Path) -> Any:
    """Return one field of what `file` holds, checked to be of its kind."""
    if name not in content:
        raise ArtifactError(f"{file}: field {name!r} is missing.")
    if not isinstance(content[name], kind) or isinstance(content[name], bool):
        raise ArtifactError(f"{file}: field {name!r} is {content[name]!r:.40}, which is of the wrong kind.")
    return content[name]


def _check_schema(content: Mapping[str, Any], file: Path) -> None:
    """Raise `ArtifactError` when `file` is of a later unirouter."""
    schema = _field(content, "schema", int, file)
    if schema > SCHEMA:
        raise ArtifactError(
            f"{file}: schema {schema} is newer than this unirouter reads ({SCHEMA}); upgrade unirouter."
        )


def _keeps_texts(header: Mapping[str, Any], file: Path) -> bool:
    """Return whether the folder of this router.json keeps the prompts' text; the first folders did and do not say."""
    texts = header.get("texts", True)
    if not isinstance(texts, bool):
        raise ArtifactError(f"{file}: field 'texts' is {texts!r:.40}; it must be true or false.")
    return texts


def _to_npz(arrays: Arrays) -> bytes:
    """Return the arrays as an .npz: the same arrays give the same bytes, and what would not shrink is read faster."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, array, allow_pickle=False)
            shrinks = len(zlib.compress(content.getvalue(), 1)) < len(content.getvalue()) / 2
            kind = zipfile.ZIP_DEFLATED if shrinks else zipfile.ZIP_STORED
            file.writestr(zipfile.ZipInfo(f"{name}.npy"), content.getvalue(), kind)
    return packed.getvalue()


def _read_npz(file: Path) -> Arrays:
    """Return the arrays that `file` holds."""
    content = _read(file)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as packed:
            if sum(each.file_size for each in packed.infolist()) > MOST_BYTES + MOST_PER_BYTE * len(content):
                raise ValueError("its arrays are too large for a file of this size")
        with np.load(io.BytesIO(content), allow_pickle=False) as packed:
            arrays: dict[str, Any] = {name: packed[name] for name in packed.files}
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise ValueError("it holds something else than arrays")
        return arrays
    except Exception as failed:  # a damaged zip raises almost anything
        raise ArtifactError(f"{file}: cannot be read ({failed}); it is truncated or edited.") from failed
