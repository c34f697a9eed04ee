"""A router as a folder: JSON and plain arrays, one file for each model, written atomically and checked when read.

    my.router/
      router.json              schema version, id of the fit, settings, token count, default cost_weight
      weights.npz              the fitted arrays, and the embedder's three check vectors
      validation/<id>.jsonl    the prompts that profiles were measured on, or only their digests
      validation/<id>.npz      their vectors and the training models' errors on them
      pool/<model>.json        one file for each model, its name percent-encoded

A validation set is named by its content and never changed, and onboarding adds files of its own, so two machines that
onboard two models into one folder cannot lose each other's work.
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
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import numpy as np

from unirouter_core import estimators
from unirouter_core.costs import CallCost, Prices
from unirouter_core.embedding import Array, Embedder
from unirouter_core.exceptions import ArtifactError
from unirouter_core.hashing import HashingEmbedder
from unirouter_core.pool import Pool
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


# --- Objects to settings and arrays, and back -------------------------------------------------------------------------


def settings_of(part: Any) -> dict[str, Any]:
    """Return the class and the constructor's parameters of an estimator or embedder, as JSON can hold them."""
    values = {field.name: getattr(part, field.name) for field in dataclasses.fields(part) if field.init}
    return {"class": type(part).__name__, **{name: _jsonable(value) for name, value in values.items()}}


def _jsonable(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return settings_of(value)
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
    if not isinstance(settings, dict):
        return settings
    name = str(settings.get("class"))
    if name not in classes:
        raise ArtifactError(f"router.json: class {name!r} is not known here; pass an unfitted one to load.")
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


def _fitted_arrays(router: UniRouter) -> dict[str, Array]:
    arrays = arrays_of(router.estimator, "estimator.") | arrays_of(router.regions, "regions.")
    if isinstance(router.embedder, HashingEmbedder):
        arrays |= arrays_of(router.embedder, "embedder.")
    return arrays if router.check_vectors is None else {**arrays, "check_vectors": router.check_vectors}


def _described(router: UniRouter) -> dict[str, Any]:
    """Return what router.json says of the fit, apart from its id."""
    ours = isinstance(router.embedder, HashingEmbedder)
    return {
        "estimator": settings_of(router.estimator),
        "regions": settings_of(router.regions),
        "embedder": settings_of(router.embedder)
        if ours
        else {"class": type(router.embedder).__name__, _NOT_SAVED: True},
        "token_counter": router.token_counter.name,
        "cost": router.cost,
        "training_models": list(router.training_models),
    }


def fit_id(router: UniRouter) -> str:
    """Return the id of what `fit` learned: the same arrays and settings give the same id, any edit another."""
    return _content_id(_described(router), _fitted_arrays(router))


def _content_id(described: Mapping[str, Any], arrays: Mapping[str, Array]) -> str:
    content = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        content.update(f"{name} {array.dtype.str} {array.shape}".encode())
        content.update(np.ascontiguousarray(array).data)
    return content.hexdigest()[:16]


# --- Write ------------------------------------------------------------------------------------------------------------


def save(router: UniRouter, folder: Path, *, texts: bool) -> None:
    """Write `router` to `folder`; see `UniRouter.save`."""
    try:
        if folder.exists() and not folder.is_dir():
            raise ArtifactError(f"{folder} is a file; name a folder for the router.")
        if folder.is_dir() and any(folder.iterdir()) and not (folder / "router.json").is_file():
            raise ArtifactError(f"{folder} holds something that is not a router; name another folder.")
        if (folder / "router.json").is_file() and _read_json(folder / "router.json").get("fit") == router.fit_id:
            _write_models(router, folder, texts)
            _write(folder / "router.json", _dump(_header(router)))
            return
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            _write(beside / "weights.npz", _pack(_fitted_arrays(router)))
            _write_models(router, beside, texts)
            _write(beside / "router.json", _dump(_header(router)))
            beside.chmod(0o755)
            _put_in_place(beside, folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    except OSError as failed:
        raise ArtifactError(
            f"{folder} cannot be written: {failed.strerror or failed}; nothing was changed."
        ) from failed


def _header(router: UniRouter) -> dict[str, Any]:
    weight = "inf" if np.isinf(router.cost_weight) else router.cost_weight
    return {"schema": SCHEMA, "fit": router.fit_id, "cost_weight": weight, **_described(router)}


def _put_in_place(beside: Path, folder: Path) -> None:
    """Rename `beside` to `folder`, which keeps its old content until then."""
    if not folder.exists():
        beside.rename(folder)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
    folder.rename(old)
    try:
        beside.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _write_models(router: UniRouter, folder: Path, texts: bool) -> None:
    for place in (folder / "pool", folder / "validation"):
        place.mkdir(exist_ok=True)
    profiles = router.pool.values()
    for measured in {profile.measured.id: profile.measured for profile in profiles}.values():
        known = {} if measured.known is None else {"known": measured.known}
        _write(
            folder / "validation" / f"{measured.id}.npz",
            _pack({"vectors": measured.vectors, "tokens": measured.tokens, **known}),
        )
        shown = measured.texts if texts else None
        rows = [
            {"digest": name} | ({} if shown is None else {"prompt": shown[i]})
            for i, name in enumerate(measured.digests)
        ]
        _write(folder / "validation" / f"{measured.id}.jsonl", b"".join(_dump(row, None) for row in rows))
    for profile in profiles:
        _write(_pool_file(folder, profile.model), _dump(_profile_to_json(profile, router.fit_id)))
    for model in router.retired:
        _pool_file(folder, model).unlink(missing_ok=True)


def _pool_file(folder: Path, model: str) -> Path:
    return folder / "pool" / f"{quote(model, safe=' ')}.json"


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
    text = re.sub(r"\[[^][{}\"]*\]", lambda numbers: " ".join(numbers[0].split()), text)  # a row of numbers on one line
    return (text + "\n").encode("utf-8", "surrogatepass")


def _pack(arrays: Mapping[str, Array]) -> bytes:
    packed = io.BytesIO()
    np.savez(packed, **arrays)  # type: ignore[arg-type]
    return packed.getvalue()


def _write(file: Path, content: bytes) -> None:
    """Write beside, flush to disk, rename: whoever reads sees the old file or the new one."""
    if file.is_file() and file.read_bytes() == content:
        return
    handle, beside = tempfile.mkstemp(prefix=f".{file.name[:40]}.", dir=file.parent)
    try:
        with os.fdopen(handle, "wb") as written:
            written.write(content)
            written.flush()
            os.fsync(written.fileno())
        os.chmod(beside, 0o644)
        os.replace(beside, file)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise


# --- Read -------------------------------------------------------------------------------------------------------------


def load(cls: type[AnyRouter], folder: Path, embedder: Embedder | None, estimator: Any) -> AnyRouter:
    """Return the router in `folder`; see `UniRouter.load`."""
    file = folder / "router.json"
    if not file.is_file():
        raise ArtifactError(f"{folder} is not a router: it has no router.json. Fit one and save it there.")
    header = _read_json(file)
    schema = _field(header, "schema", int, file)
    if schema > SCHEMA:
        raise ArtifactError(
            f"{file}: schema {schema} is newer than this unirouter reads ({SCHEMA}); upgrade unirouter."
        )
    arrays = _read_arrays(folder / "weights.npz")
    described = {name: _field(header, name, kind, file) for name, kind in _DESCRIBED.items()}
    if _content_id(described, arrays) != _field(header, "fit", str, file):
        raise ArtifactError(f"{folder}: router.json and weights.npz are not what was saved together; save it again.")
    classes = _CLASSES if estimator is None else {**_CLASSES, type(estimator).__name__: type(estimator)}
    saved = not described["embedder"].get(_NOT_SAVED)
    router = cls(
        _build(described["embedder"], classes) if saved and embedder is None else embedder,
        _build(described["estimator"], classes),
        cost_weight=float(_field(header, "cost_weight", (int, float, str), file)),
        cost=described["cost"],
    )
    router.regions = _build(described["regions"], classes)
    _set_arrays(router.estimator, arrays, "estimator.")
    _set_arrays(router.regions, arrays, "regions.")
    if saved and embedder is None:
        _set_arrays(router.embedder, arrays, "embedder.")
    router.token_counter = TokenCounter(described["token_counter"])
    router.training_models = tuple(described["training_models"])
    router.check_vectors = arrays.get("check_vectors")
    router.fit_id = header["fit"]
    router.replace_pool(_read_pool(router, folder))
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
        if _field(content, "fit", str, file) != router.fit_id:
            raise ArtifactError(
                f"{file}: belongs to another fit ({content['fit']}, not {router.fit_id}); onboard the model anew."
            )
        name = _field(content, "validation", str, file)
        if name not in measured:
            measured[name] = _read_measured(folder / "validation", name)
        profile = _profile_from_json(content, measured[name], file)
        if _pool_file(folder, profile.model) != file:
            raise ArtifactError(
                f"{file}: holds model {profile.model!r}, which belongs in {_pool_file(folder, profile.model).name}."
            )
        _try_out(router, profile, file)
        profiles[profile.model] = profile
    return Pool(profiles)


def _try_out(router: UniRouter, profile: ModelProfile, file: Path) -> None:
    """Raise `ArtifactError` unless the estimator can use the profile's features."""
    try:
        errors = router.estimator.predict(router.regions.centroids_[:1], profile.features[None]).errors
    except (ValueError, IndexError, TypeError) as failed:
        raise ArtifactError(
            f"{file}: field 'features' does not fit the estimator ({failed}); onboard the model anew."
        ) from failed
    if errors.shape != (1, 1) or not np.isfinite(errors).all():
        raise ArtifactError(f"{file}: field 'features' gives no finite error; onboard the model anew.")
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
    except (KeyError, TypeError, ValueError) as failed:
        raise (
            failed if isinstance(failed, ArtifactError) else ArtifactError(f"{file}: {failed}; onboard the model anew.")
        ) from failed
    usd = [profile.cost.per_token, profile.cost.per_cached_token, *profile.cost.per_answer]
    checks = {
        "error": 0 <= profile.error <= 1,
        "error_spread": 0 <= profile.error_spread <= 1,
        "cost": bool(np.isfinite(usd).all()) and min(usd) >= 0,
        "answers": profile.errors.shape == profile.usd.shape == (len(measured),)
        and not (np.nan_to_num(profile.errors) > 1).any(),
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
    try:
        rows = [json.loads(line) for line in file.read_text("utf-8", "surrogatepass").splitlines()]
        digests = tuple(row["digest"] for row in rows)
        texts = tuple(row["prompt"] for row in rows) if all("prompt" in row for row in rows) else None
    except (OSError, ValueError, TypeError, KeyError) as failed:
        raise ArtifactError(f"{file}: cannot be read ({failed}); it is missing, truncated or edited.") from failed
    vectors, tokens = arrays.get("vectors"), arrays.get("tokens")
    if vectors is None or tokens is None or vectors.ndim != 2 or not len(vectors) == len(tokens) == len(digests):
        raise ArtifactError(
            f"{folder / name}.npz: field 'vectors' or 'tokens' does not fit the {len(digests)} prompts of {file.name}."
        )
    measured = MeasuredPrompts(digests, texts, vectors, tokens, arrays.get("known"))
    if measured.id != name:
        raise ArtifactError(f"{file}: its content is not what its name says; it was edited.")
    return measured


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
        with np.load(file, allow_pickle=False) as packed:
            return {name: packed[name] for name in packed.files}
    except Exception as failed:  # a damaged zip raises almost anything
        raise ArtifactError(f"{file}: cannot be read ({failed}); it is missing, truncated or edited.") from failed


def _field(content: Mapping[str, Any], name: str, kind: Any, file: Path) -> Any:
    if name not in content:
        raise ArtifactError(f"{file}: field {name!r} is missing.")
    if not isinstance(content[name], kind) or isinstance(content[name], bool):
        raise ArtifactError(f"{file}: field {name!r} is {content[name]!r:.40}, which is of the wrong kind.")
    return content[name]
