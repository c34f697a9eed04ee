"""A router as a folder: JSON and plain arrays, one file for each model, written atomically and checked when read.

    my.router/
      router.json              schema version, id of the fit, settings, token count, default cost_weight
      weights.npz              the fitted arrays, and the embedder's three check vectors
      validation/<id>.jsonl    the prompts that profiles were measured on, or only their digests
      validation/<id>.npz      their vectors and the training models' errors on them
      pool/<model>.json        one file for each model, its name percent-encoded

A validation set is named by its content, and a save writes or removes the files of those models only that have changed
in this router since it last read or wrote the folder, so two machines that work on two models in one folder cannot lose
each other's work.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import numpy as np

from unirouter_core import estimators
from unirouter_core.costs import CallCost, Prices
from unirouter_core.decision import check_cost_weight
from unirouter_core.embedding import Array, Embedder, name_of
from unirouter_core.exceptions import ArtifactError, EmbedderMismatchError, InvalidDataError
from unirouter_core.hashing import HashingEmbedder
from unirouter_core.pool import Pool, predicts_errors
from unirouter_core.profiles import Capabilities, MeasuredPrompts, ModelProfile
from unirouter_core.regions import Regions
from unirouter_core.tokens import TokenCounter

if TYPE_CHECKING:
    from unirouter_core.router import UniRouter

    AnyRouter = TypeVar("AnyRouter", bound=UniRouter)

SCHEMA = 1
"""The version of the folder's form; a folder of a later one is refused."""

_CLASSES: dict[str, Any] = {name: cls for name, cls in vars(estimators).items() if dataclasses.is_dataclass(cls)}
_CLASSES |= {cls.__name__: cls for cls in (HashingEmbedder, Regions)}
_NOT_SAVED = "not saved"

LONGEST_NAME = 200
"""Characters of a model's file name that are its own; file systems allow 255."""


# --- Objects to settings and arrays, and back -------------------------------------------------------------------------


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


def arrays_of(part: Any, prefix: str = "") -> dict[str, Array]:
    """Return the fitted arrays of an estimator or embedder and of those inside it, by dotted name."""
    arrays = {f"{prefix}{name}": np.asarray(value) for name, value in vars(part).items() if name.endswith("_")}
    for name, inner in _inner(part):
        arrays |= arrays_of(inner, f"{prefix}{name}.")
    return arrays


def _inner(part: Any) -> list[tuple[str, Any]]:
    """Return the estimators inside one, with the names they go by."""
    found = []
    for field in dataclasses.fields(part):
        value = getattr(part, field.name, None) if field.init else None
        if dataclasses.is_dataclass(value):
            found.append((field.name, value))
        elif isinstance(value, (list, tuple)):
            found += [(f"{field.name}.{i}", item) for i, item in enumerate(value) if dataclasses.is_dataclass(item)]
    return found


def _build(settings: Any, classes: Mapping[str, Any]) -> Any:
    """Return the unfitted object that `settings` describe; only known classes are ever made."""
    if isinstance(settings, list):
        return tuple(_build(item, classes) for item in settings)
    if not isinstance(settings, dict) or "class" not in settings:
        return settings
    name = str(settings["class"])
    if name not in classes:
        raise ArtifactError(
            f"router.json: class {name!r} is not known here; pass an unfitted one, load(..., estimator={name}())."
        )
    try:
        return classes[name](**{key: _build(value, classes) for key, value in settings.items() if key != "class"})
    except TypeError as mismatch:
        raise ArtifactError(f"router.json: the settings of {name} are not its own ({mismatch}).") from mismatch


def _set_arrays(part: Any, arrays: Mapping[str, Array], prefix: str) -> None:
    for name, value in arrays.items():
        own = name.removeprefix(prefix)
        if name.startswith(prefix) and "." not in own:
            setattr(part, own, value)
    for name, inner in _inner(part):
        _set_arrays(inner, arrays, f"{prefix}{name}.")


def _parts(part: Any) -> Iterator[Any]:
    """Yield an estimator and those inside it, to any depth; nothing for None."""
    if part is not None:
        yield part
        for _, inner in _inner(part):
            yield from _parts(inner)


def _fitted_arrays(router: UniRouter) -> dict[str, Array]:
    arrays = arrays_of(router.estimator, "estimator.") | arrays_of(router.regions, "regions.")
    if not router.fit_settings["embedder"].get(_NOT_SAVED):
        arrays |= arrays_of(router.embedder, "embedder.")
    return arrays if router.check_vectors is None else {**arrays, "check_vectors": router.check_vectors}


def described(router: UniRouter) -> dict[str, Any]:
    """Return what router.json says of the fit, apart from its id."""
    embedder: dict[str, Any] = {"class": None, _NOT_SAVED: True}  # fitted on vectors, by whatever made them
    if type(router.embedder) is HashingEmbedder and router.check_vectors is not None:
        embedder = settings_of(router.embedder)
    elif router.check_vectors is not None and router.embedder is not None:
        embedder["class"] = name_of(router.embedder)
    return {
        "estimator": settings_of(router.estimator),
        "regions": settings_of(router.regions),
        "embedder": embedder,
        "token_counter": router.token_counter.name,
        "cost": router.cost,
        "training_models": list(router.training_models),
    }


def fit_id(router: UniRouter) -> str:
    """Return the id of what `fit` learned: the same arrays and settings give the same id, any edit another."""
    return _content_id(router.fit_settings, _fitted_arrays(router))


def _content_id(described: Mapping[str, Any], arrays: Mapping[str, Array]) -> str:
    content = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        content.update(f"{name} {array.dtype.str} {array.shape}".encode())
        content.update(np.ascontiguousarray(array).data)
    return content.hexdigest()[:16]


# --- Write ------------------------------------------------------------------------------------------------------------


def save(router: UniRouter, pool: Pool, folder: Path, *, held: Mapping[str, ModelProfile | None], texts: bool) -> None:
    """Write `router` with `pool` to `folder`; see `UniRouter.save`.

    Into a folder of the same fit go only the models that are not as `held`, and those of `held` that are not in
    `pool` are removed: what others have changed there meanwhile stays.
    """
    try:
        if folder.exists() and not folder.is_dir():
            raise ArtifactError(f"{folder} is a file; name a folder for the router.")
        if folder.is_dir() and any(folder.iterdir()) and not (folder / "router.json").is_file():
            raise ArtifactError(f"{folder} holds something that is not a router; name another folder.")
        if (folder / "router.json").is_file() and _read_json(folder / "router.json").get("fit") == router.fit_id:
            files = _files(router, pool, folder, texts)
            for model, profile in pool.profiles.items():
                if held.get(model) is profile:
                    del files[_pool_file(folder, model)]
            _replace_files(files, [_pool_file(folder, model) for model in held if model not in pool.profiles])
            return
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            for place in ("pool", "validation"):
                (beside / "new" / place).mkdir(parents=True)
            _replace_files(_files(router, pool, beside / "new", texts))
            _put_in_place(beside / "new", folder, beside / "old")
        finally:
            if folder.exists() or not (beside / "old").exists():
                shutil.rmtree(beside, ignore_errors=True)
    except OSError as failed:
        raise ArtifactError(
            f"{folder} cannot be written: {failed.strerror or failed}; nothing was changed."
        ) from failed


def _put_in_place(new: Path, folder: Path, old: Path) -> None:
    """Rename `new` to `folder`, which keeps its old content until then."""
    if folder.exists():
        folder.rename(old)
    try:
        new.rename(folder)
    except OSError as failed:
        try:
            if old.exists():
                old.rename(folder)
        except OSError:
            raise ArtifactError(
                f"{folder} cannot be written: {failed.strerror}; its old content is in {old}."
            ) from failed
        raise


def _files(router: UniRouter, pool: Pool, folder: Path, texts: bool) -> dict[Path, bytes]:
    """Return the content of each file of the router, in an order in which no file names one that comes later."""
    arrays = _fitted_arrays(router)
    if _content_id(router.fit_settings, arrays) != router.fit_id:
        raise ArtifactError("The router's estimator or embedder was changed after its fit; fit it again before saving.")
    files = {folder / "weights.npz": _pack(arrays)}
    profiles = pool.profiles.values()
    for measured in {profile.measured.id: profile.measured for profile in profiles}.values():
        known = {} if measured.known is None else {"known": measured.known}
        arrays = {"vectors": measured.vectors, "tokens": measured.tokens, **known}
        files[folder / "validation" / f"{measured.id}.npz"] = _pack(arrays)
        files[folder / "validation" / f"{measured.id}.jsonl"] = _prompt_lines(measured.digests, measured.texts)
    if not texts:
        files |= _without_texts(files, folder / "validation")
    for profile in profiles:
        try:
            files[_pool_file(folder, profile.model)] = _dump(_profile_to_json(profile, router.fit_id))
        except (TypeError, ValueError) as failed:
            raise InvalidDataError(
                f"The provenance of {profile.model!r} cannot be kept as JSON ({failed}); onboard it with plain values."
            ) from failed
    weight = check_cost_weight(router.cost_weight)
    shown = "inf" if np.isinf(weight) else weight
    header = {"schema": SCHEMA, "fit": router.fit_id, "cost_weight": shown, **router.fit_settings}
    return {**files, folder / "router.json": _dump(header)}


def _prompt_lines(digests: Sequence[str], texts: Sequence[str] | None) -> bytes:
    rows = [{"digest": name} | ({} if texts is None else {"prompt": texts[i]}) for i, name in enumerate(digests)]
    return b"".join(_dump(row, None) for row in rows)


def _without_texts(files: Mapping[Path, bytes], folder: Path) -> dict[Path, bytes]:
    """Return all prompt files, of `files` and of those in `folder` already, without the prompts' text."""
    contents = {file: file.read_bytes() for file in folder.glob("*.jsonl")} | dict(files)
    return {
        file: _prompt_lines([row["digest"] for row in _rows(content, file)], None)
        for file, content in contents.items()
        if file.suffix == ".jsonl"
    }


def _pool_file(folder: Path, model: str) -> Path:
    name = quote(model, safe=" ", errors="surrogatepass")
    if len(name) > LONGEST_NAME:
        name = f"{name[:LONGEST_NAME]}~{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return folder / "pool" / f"{name}.json"


def _profile_to_json(profile: ModelProfile, fit: str | None) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "model": profile.model,
        "fit": fit,
        "provenance": dict(profile.provenance),
        "n": profile.n,
        "error": profile.error,
        "error_spread": profile.error_spread,
        "prices": None if profile.prices is None else dataclasses.asdict(profile.prices),
        "cost": {
            "per_token": profile.cost.per_token,
            "per_cached_token": profile.cost.per_cached_token,
            "per_answer": profile.cost.per_answer.tolist(),
        },
        "capabilities": dataclasses.asdict(profile.capabilities),
        "validation": profile.measured.id,
        "answers": {"errors": _numbers(profile.errors), "usd": _numbers(profile.usd)},
        "features": {"shape": list(profile.features.shape), "values": _numbers(profile.features)},
    }


def _numbers(array: Array) -> list[float | None]:
    """Return the numbers, NaN as None; float32 in the few digits that give the same float32 again."""
    digits = 9 if array.dtype == np.float32 else 17
    return [None if value != value else float(f"{value:.{digits}g}") for value in array.ravel().tolist()]


def _dump(value: Any, indent: int | None = 1) -> bytes:
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    # A row of numbers on one line. A line break marks it as a list: within a string it would be written \\n.
    text = re.sub(r"\[\n[^][{}\"]*\]", lambda numbers: " ".join(numbers[0].split()), text)
    return (text + "\n").encode("utf-8", "surrogatepass")


def _pack(arrays: Mapping[str, Array]) -> bytes:
    """Return the arrays as an .npz: the same arrays give the same bytes, and what would not shrink is read faster."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, np.asarray(array), allow_pickle=False)
            shrinks = len(zlib.compress(content.getvalue(), 1)) < len(content.getvalue()) / 2
            kind = zipfile.ZIP_DEFLATED if shrinks else zipfile.ZIP_STORED
            file.writestr(zipfile.ZipInfo(f"{name}.npy"), content.getvalue(), kind)
    return packed.getvalue()


def _replace_files(files: Mapping[Path, bytes], removed: Sequence[Path] = ()) -> None:
    """Write all files beside their places and to disk, then rename them: all are new or, after a failure, all are old.

    Whoever reads meanwhile sees each file as it was or as it will be. Files that hold their content already are left.
    """
    before = {file: file.read_bytes() if file.is_file() else None for file in [*files, *removed]}
    beside: dict[Path, Path] = {}
    touched: list[Path] = []
    try:
        for file, content in files.items():
            if content != before[file]:
                beside[file] = _write_beside(file, content)
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


def _write_beside(file: Path, content: bytes) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{file.name[:40]}.", dir=file.parent)
    try:
        with os.fdopen(handle, "wb") as written:
            written.write(content)
            written.flush()
            os.fsync(written.fileno())
        os.chmod(name, 0o644)
    except BaseException:
        os.unlink(name)
        raise
    return Path(name)


def _put_back(file: Path, content: bytes | None) -> None:
    if content is None:
        file.unlink(missing_ok=True)
    elif not file.is_file() or file.read_bytes() != content:
        file.write_bytes(content)


# --- Read -------------------------------------------------------------------------------------------------------------


def load(cls: type[AnyRouter], folder: Path, embedder: Embedder | None, estimator: Any) -> AnyRouter:
    """Return the router in `folder`; see `UniRouter.load`."""
    file = folder / "router.json"
    if not file.is_file():
        raise ArtifactError(f"{folder} is not a router: it has no router.json. Fit one and save it there.")
    header = _read_json(file)
    _check_schema(header, file)
    arrays = _read_arrays(folder / "weights.npz")
    described = {name: _field(header, name, kind, file) for name, kind in _DESCRIBED.items()}
    if _content_id(described, arrays) != _field(header, "fit", str, file):
        raise ArtifactError(f"{folder}: router.json and weights.npz are not what was saved together; save it again.")
    classes = {**_CLASSES, **{type(part).__name__: type(part) for part in _parts(estimator)}}
    saved = not described["embedder"].get(_NOT_SAVED)
    if saved and embedder is not None:
        raise EmbedderMismatchError(
            f"{folder} keeps the embedder that its fit has taught; load it without embedder={name_of(embedder)}."
        )
    try:
        router = cls(
            _build(described["embedder"], classes) if saved else embedder,
            _build(described["estimator"], classes),
            cost_weight=float(_field(header, "cost_weight", (int, float, str), file)),
            cost=described["cost"],
        )
    except ValueError as failed:
        raise failed if isinstance(failed, ArtifactError) else ArtifactError(f"{file}: {failed}") from failed
    router.regions = _build(described["regions"], classes)
    _set_arrays(router.estimator, arrays, "estimator.")
    _set_arrays(router.regions, arrays, "regions.")
    if saved:
        _set_arrays(router.embedder, arrays, "embedder.")
    router.fit_settings = described
    router.token_counter = TokenCounter(described["token_counter"])
    router.training_models = tuple(described["training_models"])
    router.check_vectors = arrays.get("check_vectors")
    router.fit_id = header["fit"]
    router.replace_pool(_read_pool(router, folder), kept_in=folder.resolve())
    return router


_DESCRIBED: dict[str, Any] = {
    "estimator": dict,
    "regions": dict,
    "embedder": dict,
    "token_counter": str,
    "cost": str,
    "training_models": list,
}


def _read_pool(router: UniRouter, folder: Path) -> Pool:
    measured: dict[str, MeasuredPrompts] = {}
    profiles = {}
    for file in sorted((folder / "pool").glob("*.json")):
        content = _read_json(file)
        _check_schema(content, file)
        if _field(content, "fit", str, file) != router.fit_id:
            raise ArtifactError(
                f"{file}: belongs to another fit ({content['fit']}, not {router.fit_id}); onboard the model anew."
            )
        name = _field(content, "validation", str, file)
        if name not in measured:
            measured[name] = _read_measured(folder / "validation", name)
            _check_measured(router, measured[name], folder / "validation" / f"{name}.npz")
        profile = _profile_from_json(content, measured[name], file)
        if _pool_file(folder, profile.model) != file:
            raise ArtifactError(
                f"{file}: holds model {profile.model!r}, which belongs in {_pool_file(folder, profile.model).name}."
            )
        _try_out(router, profile, file)
        profiles[profile.model] = profile
    return Pool(profiles)


def _check_schema(content: Mapping[str, Any], file: Path) -> None:
    schema = _field(content, "schema", int, file)
    if schema > SCHEMA:
        raise ArtifactError(
            f"{file}: schema {schema} is newer than this unirouter reads ({SCHEMA}); upgrade unirouter."
        )


def _check_measured(router: UniRouter, measured: MeasuredPrompts, file: Path) -> None:
    n, width = len(measured), router.regions.centroids_.shape[1]
    vectors, tokens, known = measured.vectors, measured.tokens, measured.known
    checks = {
        "vectors": vectors.shape == (n, width) and bool(np.isfinite(vectors).all()),
        "tokens": tokens.shape == (n,) and bool(((tokens >= 0) & (tokens < np.inf)).all()),
        "known": known is None
        or (known.shape == (n, len(router.training_models)) and not ((known < 0) | (known > 1)).any()),
    }
    for name, fine in checks.items():
        if not fine:
            raise ArtifactError(f"{file}: field {name!r} is out of range or does not fit the router; it was edited.")


def _try_out(router: UniRouter, profile: ModelProfile, file: Path) -> None:
    """Raise `ArtifactError` unless the estimator can use the profile's features."""
    try:
        usable = predicts_errors(router.estimator, router.regions, profile.features)
    except (ValueError, IndexError, TypeError) as failed:
        raise ArtifactError(
            f"{file}: field 'features' does not fit the estimator ({failed}); onboard the model anew."
        ) from failed
    if not usable:
        raise ArtifactError(f"{file}: field 'features' gives errors outside [0, 1]; onboard the model anew.")
    if profile.cost.per_answer.shape != (len(router.regions.centroids_),):
        raise ArtifactError(
            f"{file}: field 'cost' has {profile.cost.per_answer.size} regions, not {len(router.regions.centroids_)}."
        )


def _profile_from_json(content: dict[str, Any], measured: MeasuredPrompts, file: Path) -> ModelProfile:
    answers, features = _field(content, "answers", dict, file), _field(content, "features", dict, file)
    prices, cost = content.get("prices"), _field(content, "cost", dict, file)
    try:
        profile = ModelProfile(
            model=_field(content, "model", str, file),
            features=_array(features["values"], np.float32).reshape(features["shape"]),
            error=float(_field(content, "error", (int, float), file)),
            error_spread=float(_field(content, "error_spread", (int, float), file)),
            n=_field(content, "n", int, file),
            cost=CallCost(
                float(cost["per_token"]), float(cost["per_cached_token"]), _array(cost["per_answer"], np.float64)
            ),
            prices=None if prices is None else Prices(**prices),
            capabilities=Capabilities(**_field(content, "capabilities", dict, file)),
            measured=measured,
            errors=_array(answers["errors"], np.float64),
            usd=_array(answers["usd"], np.float64),
            provenance=_field(content, "provenance", dict, file),
        )
    except ArtifactError:
        raise
    except KeyError as missing:
        raise ArtifactError(f"{file}: field {missing} is missing; onboard the model anew.") from missing
    except (TypeError, ValueError) as failed:
        raise ArtifactError(f"{file}: {failed}; onboard the model anew.") from failed
    answered = profile.errors[~np.isnan(profile.errors)]
    usd = [profile.cost.per_token, profile.cost.per_cached_token, *profile.cost.per_answer]
    checks = {
        "error": 0 <= profile.error <= 1,
        "error_spread": 0 <= profile.error_spread <= 1,
        "cost": bool(np.isfinite(usd).all()) and min(usd) >= 0,
        "answers": profile.errors.shape == profile.usd.shape == (len(measured),)
        and not ((profile.errors < 0) | (profile.errors > 1)).any()
        and not (profile.usd < 0).any(),
        "n": profile.n == len(answered),
    }
    for name, fine in checks.items():
        if not fine:
            raise ArtifactError(
                f"{file}: field {name!r} is out of range or of the wrong length; onboard the model anew."
            )
    return profile


def _array(values: list[float | None], dtype: Any) -> Array:
    return np.array([np.nan if value is None else value for value in values], dtype)


def _read_measured(folder: Path, name: str) -> MeasuredPrompts:
    file = folder / f"{name}.jsonl"
    arrays = _read_arrays(folder / f"{name}.npz")
    if not file.is_file():
        raise ArtifactError(f"{file} is missing; onboard the models measured on it anew.")
    rows = _rows(file.read_bytes(), file)
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
    return measured


def _rows(content: bytes, file: Path) -> list[dict[str, str]]:
    """Return the digests, and texts where they were kept, that the lines of a prompt file hold."""
    try:
        rows = [json.loads(line) for line in content.splitlines()]
    except ValueError as failed:
        raise ArtifactError(f"{file}: cannot be read ({failed}); it is truncated or edited.") from failed
    for line, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not all(isinstance(row.get(name, ""), str) for name in ("digest", "prompt")):
            raise ArtifactError(f"{file}: line {line} holds no prompt; it was edited.")
        _field(row, "digest", str, file)
    return rows


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text("utf-8", "surrogatepass"))
    except (OSError, ValueError) as failed:
        raise ArtifactError(f"{file}: cannot be read as JSON ({failed}); it is truncated or edited.") from failed
    if not isinstance(content, dict):
        raise ArtifactError(f"{file}: holds {type(content).__name__}, not the fields of a router.")
    return content


def _read_arrays(file: Path) -> dict[str, Array]:
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as packed:  # numpy would leave it open
            arrays: dict[str, Any] = {name: packed[name] for name in packed.files}
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise ValueError("it holds something else than arrays")
        return arrays
    except Exception as failed:  # a damaged zip raises almost anything
        raise ArtifactError(f"{file}: cannot be read ({failed}); it is missing, truncated or edited.") from failed


def _field(content: Mapping[str, Any], name: str, kind: Any, file: Path) -> Any:
    if name not in content:
        raise ArtifactError(f"{file}: field {name!r} is missing.")
    if not isinstance(content[name], kind) or isinstance(content[name], bool):
        raise ArtifactError(f"{file}: field {name!r} is {content[name]!r:.40}, which is of the wrong kind.")
    return content[name]
