"""A router as a folder: JSON and plain arrays, one file for each model, written atomically and checked when read.

    my.router/
      router.json              schema version, id of the fit, settings, token count, default cost_weight, texts or not
      weights.npz              the fitted arrays, the embedder's three check vectors, hashes of the prompts fitted on
      validation/<id>.jsonl    the prompts that profiles were measured on, or only their digests
      validation/<id>.npz      their vectors and the training models' errors on them
      pool/<model>.json        one file for each model, its name percent-encoded

Into a folder of the same fit, a save writes or removes the files of those models only that have changed in this router
since it last read or wrote the folder, and the cost_weight only if it has: two machines that work on two models in one
folder cannot lose each other's work. A save that removes a model takes the text out of validation sets (named by their
content) that no model of the folder names any more; their digests stay. A folder of another fit is exchanged whole.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import io
import itertools
import json
import re
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote

import numpy as np

from unirouter_core import estimators
from unirouter_core.atomic_files import exchange, left_beside, replace_files, sweep, temporary
from unirouter_core.costs import CallCost, Prices, TokenCounter
from unirouter_core.documents import DocumentFeatures, Documents
from unirouter_core.embedding import CHECK_PROMPTS, Array, Embedder, HashingEmbedder, embed, name_of, normalise
from unirouter_core.estimators.clusters import Regions
from unirouter_core.estimators.protocol import Arrays, parts_of
from unirouter_core.exceptions import ArtifactError, EmbedderMismatchError, InvalidDataError
from unirouter_core.fit import NOT_SAVED, Fit, content_id
from unirouter_core.pool import Capabilities, MeasuredPrompts, ModelProfile, Pool, Signals
from unirouter_core.reading import MOST_JSON, parse_json, parse_npz, read_bytes
from unirouter_core.rule import check_cost_weight

SCHEMA = 1  # the version of the folder's form; a folder of a later one is refused
HEADER, WEIGHTS = Path("router.json"), Path("weights.npz")

FIELDS: dict[str, Any] = {"estimator": dict, "regions": dict, "embedder": dict}
FIELDS |= {"token_counter": str, "cost": str, "training_models": list, "documents": dict}
"""The fit's settings in router.json, and the kind of each; `documents` of a router fitted with them."""

CLASSES: dict[str, Any] = {name: cls for name, cls in vars(estimators).items() if dataclasses.is_dataclass(cls)}
CLASSES |= {cls.__name__: cls for cls in (HashingEmbedder, Regions, DocumentFeatures)}

RENAMED = {"BlendEstimator": "DefaultEstimator", "MixtureEstimator": "KnownModelsEstimator"}  # since version 0.1
LONGEST_NAME = 200  # characters of a model's file name that are its own; file systems allow 255
Fields: TypeAlias = dict[str, Any]  # of a JSON file
CURE = "copy the folder again from where it was saved, or fit and save it again"
AGAIN = "onboard the model again"


@dataclass(frozen=True)
class Folders:
    """The state of the folders that a router was loaded from or saved to."""

    texts: bool = True  # whether a new folder keeps the prompts' text
    retired: frozenset[str] = frozenset()  # models it held once, to be removed from a folder not known yet
    synced: Mapping[Path, tuple[Pool, float]] = field(default_factory=dict)  # last read from or written to each folder


# --- Save -------------------------------------------------------------------------------------------------------------


def save(fit: Fit, pool: Pool, cost_weight: float, folder: Path, *, known: Folders, texts: bool | None) -> Folders:
    """Write a router to `folder` and return the new state of folders; see `UniRouter.save`."""
    weight, arrays = check_cost_weight(cost_weight), fit.arrays()
    if content_id(fit.settings, arrays) != fit.id:
        raise ArtifactError("The router's estimator or embedder was changed after its fit; fit it again before saving.")
    header = {"schema": SCHEMA, "fit": fit.id, "cost_weight": "inf" if np.isinf(weight) else weight, **fit.settings}
    try:
        while True:
            found = _header_in(folder)
            header["texts"] = texts if texts is not None else known.texts if found is None else bool(found["texts"])
            if found is not None and found.get("fit") == fit.id:
                _update(folder, fit, pool, known, arrays, header, found)
                break
            files = {WEIGHTS: _to_npz(arrays), HEADER: _to_json(header)}
            for measured in _sets(pool).values():
                files |= _prompt_files(measured, texts=header["texts"])
            files |= {model_file(profile.model): _model_content(profile, fit.id) for profile in pool.values()}
            if _put_in_place(folder, files, None if found is None else str(found.get("fit"))):
                break
        sweep(folder)
    except OSError as failed:
        why = f"{folder} cannot be written: {failed.strerror or failed}; nothing was changed."
        raise ArtifactError(why) from failed
    return dataclasses.replace(known, synced={**known.synced, folder: (pool, weight)})


def _header_in(folder: Path) -> Fields | None:
    """Return what router.json in `folder` holds, None when nothing is there."""
    if folder.exists() and not folder.is_dir():
        raise ArtifactError(f"{folder} is a file; name a folder for the router.")
    names = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
    if names and HEADER.name not in names:
        raise ArtifactError(f"{folder} holds something that is not a router; name another folder.")
    return _read_json(folder / HEADER) if names else None


def _update(folder: Path, fit: Fit, pool: Pool, known: Folders, arrays: Arrays, header: Fields, found: Fields) -> None:
    """Write the changed models into a folder of the same fit, and remove the retired ones."""
    last, last_weight = known.synced.get(folder, (None, None))
    before = {} if last is None else {profile.model: profile for profile in last.values()}
    changed = [profile for profile in pool.values() if before.get(profile.model) is not profile]
    retired = [folder / model_file(model) for model in (known.retired if last is None else before.keys() - {*pool})]
    files = {model_file(profile.model): _model_content(profile, fit.id) for profile in changed}
    stale = {*retired, *(folder / file for file in files)}
    if last_weight is not None and last_weight == check_cost_weight(float(header["cost_weight"])):
        header = {**header, "cost_weight": found.get("cost_weight", header["cost_weight"])}  # what others set stays
    files |= {HEADER: _to_json(header)} if header != found else {}
    if last is None or not (folder / WEIGHTS).is_file():
        files[WEIGHTS] = _to_npz(arrays)

    def is_named(name: str) -> bool:
        """Return whether a model file that stays refers to these prompts; likely files are read first."""
        likely = (folder / model_file(profile.model) for profile in pool.values() if profile.measured.id == name)
        named = re.compile(rb'"validation"\s*:\s*"%s"' % re.escape(name.encode()))
        each = itertools.chain(likely, (folder / "pool").glob("*.json"))
        return any(named.search(_content_of(file)) for file in each if file not in stale)

    new = {profile.measured.id for profile in changed}
    for name, measured in _sets(pool).items():
        lines = folder / "validation" / f"{name}.jsonl"
        lacks_texts = header["texts"] and measured.texts is not None and not _has_texts(lines)
        if name in new or ((lacks_texts or not lines.is_file()) and is_named(name)):
            written = _prompt_files(measured, texts=header["texts"])
            if header["texts"] and measured.texts is None and lines.is_file():
                del written[lines.relative_to(folder)]  # the folder may have the texts
            files |= written
    if not header["texts"] or any(map(Path.is_file, stale)):
        for lines in (folder / "validation").glob("*.jsonl"):
            place = lines.relative_to(folder)
            if place in files or lines.stem in new or not _has_texts(lines):
                continue
            if not header["texts"] or not is_named(lines.stem):
                files[place] = _lines([row["digest"] for row in _rows(lines)], None)  # another may be adding its model
    replace_files({folder / file: content for file, content in files.items()}, retired)


def _content_of(file: Path, lines: int = -1) -> bytes:
    """Return the content of a regular file, or its first line; empty when it was just removed."""
    with contextlib.suppress(OSError):
        if file.is_file():
            with file.open("rb") as opened:
                return opened.readline() if lines == 1 else opened.read(MOST_JSON)
    return b""


def _has_texts(file: Path) -> bool:
    """Return whether a file of validation prompts keeps their texts."""
    return b'"prompt"' in _content_of(file, lines=1)


def _sets(pool: Pool) -> dict[str, MeasuredPrompts]:
    """Return the validation prompts of a pool by name, once, with their texts if any profile has them."""
    each = sorted((profile.measured for profile in pool.values()), key=lambda measured: measured.texts is not None)
    return {measured.id: measured for measured in each}


def _put_in_place(folder: Path, files: Mapping[Path, bytes], found: str | None) -> bool:
    """Replace `folder` by one of `files`; return False when it no longer holds the fit `found`."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = folder.with_name(temporary(folder.name))
    try:
        for place in ("pool", "validation"):
            (new / place).mkdir(parents=True)
        replace_files({new / name: content for name, content in files.items()})
        if found is None:
            with contextlib.suppress(OSError):
                folder.rmdir()  # an empty one; Windows renames nothing onto it
            try:
                new.rename(folder)
            except OSError:
                if _header_in(folder) is None:
                    raise
                return False  # another process was first
            return True
        exchange(new, folder)
        if str((_header_in(new) or {}).get("fit")) == found:
            return True
        exchange(new, folder)  # another process was first
        return False
    finally:
        shutil.rmtree(new, ignore_errors=True)


# --- Load -------------------------------------------------------------------------------------------------------------


def load(folder: Path, embedder: Embedder | None, estimator: Any) -> tuple[Fit, Pool, float, Folders]:
    """Return the fit, the pool and the cost_weight in `folder`, and the state of folders."""
    while True:
        before = _inode(folder)
        try:
            return _load(folder, embedder, estimator)
        except ArtifactError:
            if before == _inode(folder):  # else exchanged while it was read
                raise
        except OSError as failed:
            raise ArtifactError(f"{folder} cannot be read: {failed.strerror or failed}.") from failed


def _inode(folder: Path) -> int | None:
    with contextlib.suppress(OSError):
        return folder.stat().st_ino
    return None


def _load(folder: Path, embedder: Embedder | None, estimator: Any) -> tuple[Fit, Pool, float, Folders]:
    file, weights = folder / HEADER, folder / WEIGHTS
    if not file.is_file():
        left = [aside for aside in left_beside(folder) if (aside / HEADER).is_file()]
        cure = f"A save was interrupted; rename {left[0]} to it" if left else "Fit one and save it there"
        raise ArtifactError(f"{folder} is not a router: it has no router.json. {cure}.")
    header, arrays = _read_json(file), _read_npz(weights)
    with _reading(file):
        settings = {
            name: _field(header, name, FIELDS[name]) for name in FIELDS if name != "documents" or name in header
        }
        if content_id(settings, arrays) != _field(header, "fit", str):
            raise ArtifactError(f"{folder}: router.json and weights.npz are not what was saved together; {CURE}.")
        is_saved = not settings["embedder"].get(NOT_SAVED)
        if is_saved and embedder is not None:
            raise EmbedderMismatchError(
                f"{folder} keeps the embedder that its fit has taught; load it without embedder={name_of(embedder)}."
            )
        weight = check_cost_weight(float(_field(header, "cost_weight", (int, float, str))))
        own = {} if estimator is None else {type(part).__name__: type(part) for _, part in parts_of(estimator)}
        names = [name for name in ("estimator", "regions", "documents", "embedder") if name in settings]
        saved = [name for name in names if not settings[name].get(NOT_SAVED)]
        parts = {name: _build(settings[name], {**CLASSES, **own}) for name in saved}
    with _reading(weights, "does not make a fitted router"), np.errstate(all="ignore"):
        checks, seen = arrays.pop("check_vectors", None), arrays.pop("seen")
        for name, part in parts.items():
            _set_arrays(part, f"{name}.", arrays)
        if arrays:
            raise ValueError(f"it holds {min(arrays)!r}, which is no part of this router")
        fit = Fit(
            embedder=parts.get("embedder", embedder),
            estimator=parts["estimator"],
            regions=parts["regions"],
            token_counter=TokenCounter(settings["token_counter"]),
            training_models=tuple(settings["training_models"]),
            seen=seen,
            check_vectors=checks,
            document_features=parts.get("documents"),
            cost=settings["cost"],
            settings=settings,
            id=header["fit"],
            is_embedder_known=is_saved,
        )
        _check(fit)
    prompts = functools.cache(functools.partial(_read_prompts, fit, folder / "validation"))  # models share them
    profiles = {}
    for file in sorted((folder / "pool").glob("*.json")):
        try:
            profile = _read_model(file, fit, prompts)
        except ArtifactError as failed:
            if isinstance(failed.__cause__, FileNotFoundError) and not file.exists():  # retired since it was listed
                continue
            raise
        profiles[profile.model] = profile
    _check_features(fit, profiles, folder)
    pool = Pool(profiles)
    return fit, pool, weight, Folders(header["texts"], synced={folder.resolve(): (pool, weight)})


def _check_features(fit: Fit, profiles: Mapping[str, ModelProfile], folder: Path) -> None:
    """Refuse features that the estimator cannot use: all of one shape together, and one by one to name a wrong one."""
    shapes = sorted({profile.features.shape for profile in profiles.values()})
    for group in ([p for p in profiles.values() if p.features.shape == shape] for shape in shapes):
        with contextlib.suppress(Exception):  # of any kind: it is raised again, for the one that is wrong
            if fit.predicts_errors(np.stack([profile.features for profile in group])):
                continue
        for profile in group:
            with _reading(folder / model_file(profile.model), "field 'features' does not fit the estimator", AGAIN):
                if not fit.predicts_errors(profile.features[None]):
                    raise ValueError("it gives errors outside [0, 1]")


def _build(settings: Any, classes: Mapping[str, Any]) -> Any:
    """Return the unfitted object that `settings` describe; only `classes` are ever made."""
    if isinstance(settings, list):
        return tuple(_build(item, classes) for item in settings)
    if not isinstance(settings, dict) or "class" not in settings:
        return settings
    name = str(settings["class"])
    made = classes.get(name, classes.get(RENAMED.get(name, name)))
    if made is None:
        raise ValueError(f"class {name!r} is not known here; pass an unfitted one, load(..., estimator={name}())")
    return made(**{key: _build(value, classes) for key, value in settings.items() if key != "class"})


def _set_arrays(part: Any, prefix: str, rest: Arrays) -> None:
    """Set the arrays of an estimator or embedder and of those inside it, removing them from `rest`."""
    for start, each in parts_of(part, prefix):
        for name in [name for name in rest if name.startswith(start) and "." not in name[len(start) :]]:
            own = name[len(start) :]
            if not own.endswith("_") or own.startswith("__") or hasattr(type(each), own):
                raise ValueError(f"{name!r} is nothing that the fit of a {type(each).__name__} sets")
            if type(each) in CLASSES.values() and not np.isfinite(rest[name]).all():
                raise ValueError(f"{name!r} holds something else than finite numbers")
            setattr(each, own, rest.pop(name))


def _check(fit: Fit) -> None:
    """Use each part of ours once, so that arrays which do not fit each other fail here and not in `route`."""
    centroids, features = fit.regions.centroids_, fit.document_features
    fit.regions.locate(centroids)
    dims = centroids.shape[1]
    if features is not None:
        dims = features.dims(dims)
        features.join(np.zeros((1, dims), np.float32), [np.empty((0, dims))], [Documents()])
    if fit.check_vectors is not None and normalise(fit.check_vectors).shape != (len(CHECK_PROMPTS), dims):
        raise ValueError(f"the check vectors are {fit.check_vectors.shape}, the regions are {centroids.shape}")
    if fit.keeps_embedder and fit.embedder is not None and embed(fit.embedder, CHECK_PROMPTS).shape[1] != dims:
        raise ValueError("the embedder and the regions have other dimensions")
    if all(type(part) in CLASSES.values() for _, part in parts_of(fit.estimator)):
        known = np.zeros((2, len(fit.training_models))) if fit.training_models else None
        profile = fit.estimator.profile(centroids[[0, -1]], np.array([0.0, 1.0]), known)
        if not fit.predicts_errors(profile[None]) or fit.estimator.predict(centroids, profile[None]).stderrs.min() < 0:
            raise ValueError("the estimator gives errors outside [0, 1]")


def model_file(model: str) -> Path:
    """Return the place of a model's file in a router's folder."""
    name = quote(model, safe=" ", errors="surrogatepass")
    if len(name) > LONGEST_NAME:
        name = f"{name[:LONGEST_NAME]}~{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return Path("pool", f"{name}.json")


def _model_content(profile: ModelProfile, fit: str) -> bytes:
    content = {"schema": SCHEMA, "model": profile.model, "fit": fit, "provenance": dict(profile.provenance)}
    content |= {
        **{name: getattr(profile, name) for name in ("n", "error", "error_spread")},
        "prices": None if profile.prices is None else dataclasses.asdict(profile.prices),
        "cost": {**dataclasses.asdict(profile.cost), "per_answer": profile.cost.per_answer.tolist()},
        "capabilities": dataclasses.asdict(profile.capabilities),
        "validation": profile.measured.id,
        "answers": {"errors": _numbers(profile.errors), "usd": _numbers(profile.usd)},
        "features": {"shape": list(profile.features.shape), "values": _numbers(profile.features)},
    }
    if profile.checks:
        content["checks"] = {
            name: {"values": _numbers(each.values), "usd": each.usd, "limit": each.limit}
            for name, each in profile.checks.items()
        }
    try:
        return _to_json(content)
    except (TypeError, ValueError, OverflowError) as failed:
        why = f"The provenance of {profile.model!r} cannot be kept as JSON ({failed}); onboard it with plain values."
        raise InvalidDataError(why) from failed


def _numbers(array: Array) -> list[float | None]:
    """Return the numbers, NaN as None; float32 in the few digits that give the same float32 again."""
    numbers = array.ravel().tolist()
    short = (float(f"{value:.9g}") for value in numbers) if array.dtype == np.float32 else numbers
    return [None if value != value else value for value in short]


def _read_model(file: Path, fit: Fit, prompts: Callable[[str], MeasuredPrompts]) -> ModelProfile:
    """Return the profile that `file` holds, checked to be of the fit; `prompts` reads validation prompts by name."""
    content = _read_json(file)
    with _reading(file, cure=AGAIN):
        if _field(content, "fit", str) != fit.id:
            raise ValueError(f"belongs to another fit ({content['fit']}, not {fit.id})")
        if not re.fullmatch(r"[0-9a-f]{16}", name := _field(content, "validation", str)):
            raise ValueError(f"field 'validation' is {name!r:.40}, which names no set of prompts")
        measured = prompts(name)
        answers, features, cost = (_field(content, name, dict) for name in ("answers", "features", "cost"))
        prices = content.get("prices")
        profile = ModelProfile(
            model=_field(content, "model", str),
            features=np.array(features["values"], np.float32).reshape(features["shape"]),
            error=float(_field(content, "error", (int, float))),
            error_spread=float(_field(content, "error_spread", (int, float))),
            n=_field(content, "n", int),
            cost=CallCost(
                float(cost["per_token"]),
                float(cost["per_cached_token"]),
                np.array(cost["per_answer"], np.float64),
                float(cost.get("per_call", 0.0)),  # the first folders have none
            ),
            prices=None if prices is None else Prices(**prices),
            capabilities=Capabilities(**_field(content, "capabilities", dict)),
            measured=measured,
            errors=np.array(answers["errors"], np.float64),
            usd=np.array(answers["usd"], np.float64),
            provenance=_field(content, "provenance", dict),
            checks={
                name: Signals(np.array(each["values"], np.float64), float(each["usd"]), float(each.get("limit", 1)))
                for name, each in content.get("checks", {}).items()
            },
        )
        own = model_file(profile.model).name
        if file.name != own:
            raise ValueError(f"holds model {profile.model!r}, which belongs in {own}")
        if (regions := len(profile.cost.per_answer)) != len(fit.regions):
            raise ValueError(f"field 'cost' has {regions} regions, not {len(fit.regions)}")
    return profile


def _prompt_files(measured: MeasuredPrompts, *, texts: bool) -> dict[Path, bytes]:
    """Return the two files of a set of prompts."""
    lines = Path("validation", f"{measured.id}.jsonl")
    known = {} if measured.known is None else {"known": measured.known}
    packed = _to_npz({"vectors": measured.vectors, "tokens": measured.tokens, **known})
    return {lines.with_suffix(".npz"): packed, lines: _lines(measured.digests, measured.texts if texts else None)}


def _lines(digests: Sequence[str], texts: Sequence[str] | None) -> bytes:
    rows = [{"digest": name} | ({} if texts is None else {"prompt": texts[i]}) for i, name in enumerate(digests)]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8", "surrogatepass")


def _read_prompts(fit: Fit, folder: Path, name: str) -> MeasuredPrompts:
    """Return the validation prompts `name` of `folder`, checked to fit the router."""
    file = folder / f"{name}.jsonl"
    packed = file.with_suffix(".npz")
    arrays, rows = _read_npz(packed), _rows(file)
    with _reading(packed):
        n, vectors, tokens, known = len(rows), arrays["vectors"], arrays["tokens"], arrays.get("known")
        width, n_known = fit.regions.centroids_.shape[1], len(fit.training_models)
        checks = {
            "vectors": vectors.shape == (n, width) and np.isfinite(vectors).all(),
            "tokens": tokens.shape == (n,) and np.isfinite(tokens).all() and not (tokens < 0).any(),
            "known": known is None or (known.shape == (n, n_known) and not ((known < 0) | (known > 1)).any()),
        }
        if wrong := [each for each, fine in checks.items() if not fine]:
            raise ValueError(f"field {wrong[0]!r} does not fit the {n} prompts or the router")
    with _reading(file):
        texts = tuple(row["prompt"] for row in rows) if all("prompt" in row for row in rows) else None
        measured = MeasuredPrompts(tuple(row["digest"] for row in rows), texts, vectors, tokens, known)
        if measured.id != name:
            raise ValueError("its content is not what its name says")
    return measured


def _rows(file: Path) -> list[dict[str, str]]:
    """Return the digests, and texts where they were kept, that the lines of a prompt file hold."""
    with _reading(file):
        rows = [parse_json(line) for line in read_bytes(file).splitlines()]
        for line, row in enumerate(rows, 1):
            if not isinstance(row, dict) or not isinstance(row.get("prompt", ""), str):
                raise ValueError(f"line {line} holds no prompt")
            _field(row, "digest", str)
    return rows


# --- JSON and arrays to bytes and back --------------------------------------------------------------------------------


@contextlib.contextmanager
def _reading(file: Path, what: str = "", cure: str = CURE) -> Iterator[None]:
    """Turn any exception of the block into an `ArtifactError` that names the file."""
    try:
        yield
    except (ArtifactError, EmbedderMismatchError):
        raise
    except Exception as failed:  # damaged zips, and arrays that do not fit each other, raise almost anything
        why = f"field {failed} is missing" if type(failed) is KeyError else str(failed) or "it needs too much memory"
        raise ArtifactError(f"{file}: {f'{what} ({why})' if what else why}; {cure}.") from failed


def _to_json(value: Any) -> bytes:
    """Return `value` as indented JSON: a line per field, lists on one line."""
    return (_text(value, 0) + "\n").encode("utf-8", "surrogatepass")


def _text(value: Any, depth: int) -> str:
    if not isinstance(value, dict) or not value or not all(isinstance(name, str) for name in value):
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    indent = "\n" + " " * depth
    fields = (f"{indent} {_text(name, 0)}: {_text(inner, depth + 1)}" for name, inner in value.items())
    return f"{{{','.join(fields)}{indent}}}"


def _read_json(file: Path) -> Fields:
    with _reading(file, "cannot be read as JSON"):
        content = parse_json(read_bytes(file, MOST_JSON).decode("utf-8", "surrogatepass"))
    with _reading(file):
        if not isinstance(content, dict):
            raise ValueError(f"holds {type(content).__name__}, not the fields of a router")
        if _field(content, "schema", int) > SCHEMA:
            newer = f"schema {content['schema']} is newer than this unirouter reads ({SCHEMA})"
            raise ArtifactError(f"{file}: {newer}; upgrade unirouter.")
        if not isinstance(content.setdefault("texts", True), bool):  # the first folders keep them and do not say so
            raise ValueError(f"field 'texts' is {content['texts']!r:.40}; it must be true or false")
    return content


def _field(content: Mapping[str, Any], name: str, kind: Any) -> Any:
    """Return one field, checked to be of its kind."""
    value = content[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"field {name!r} is {value!r:.40}, which is of the wrong kind")
    return value


def _to_npz(arrays: Arrays) -> bytes:
    """Return the arrays as an .npz: the same arrays give the same bytes, and what would not shrink is read faster."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, allow_pickle=False)
            content = member.getvalue()
            kind = zipfile.ZIP_DEFLATED if len(zlib.compress(content, 1)) < len(content) / 2 else zipfile.ZIP_STORED
            file.writestr(zipfile.ZipInfo(f"{name}.npy"), content, kind)
    return packed.getvalue()


def _read_npz(file: Path) -> Arrays:
    with _reading(file, "cannot be read"):
        return parse_npz(read_bytes(file))
