"""A model's profile to the one file that keeps it, and back."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from unirouter_core.artifact.files import SCHEMA, check_fields, check_schema, read_field, read_json, to_json
from unirouter_core.artifact.restore import CURE
from unirouter_core.costs import CallCost, Prices
from unirouter_core.embedding import Array
from unirouter_core.exceptions import ArtifactError, InvalidDataError, NotFittedError
from unirouter_core.pool import predicts_errors
from unirouter_core.profiles import Capabilities, MeasuredPrompts, ModelProfile

if TYPE_CHECKING:
    from unirouter_core.router import UniRouter

LONGEST_NAME = 200
"""Characters of a model's file name that are its own; file systems allow 255."""


def model_file(model: str) -> Path:
    """Return the place of a model's file in a router's folder."""
    name = quote(model, safe=" ", errors="surrogatepass")
    if len(name) > LONGEST_NAME:
        name = f"{name[:LONGEST_NAME]}~{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return Path("pool", f"{name}.json")


# --- Write ------------------------------------------------------------------------------------------------------------


def model_content(profile: ModelProfile, fit: str | None) -> bytes:
    """Return the content of a model's file."""
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
        return to_json(content)
    except (TypeError, ValueError, OverflowError) as failed:
        raise InvalidDataError(
            f"The provenance of {profile.model!r} cannot be kept as JSON ({failed}); onboard it with plain values."
        ) from failed


def _numbers(array: Array) -> list[float | None]:
    """Return the numbers, NaN as None; float32 in the few digits that give the same float32 again."""
    digits = 9 if array.dtype == np.float32 else 17
    return [None if value != value else float(f"{value:.{digits}g}") for value in array.ravel().tolist()]


# --- Read -------------------------------------------------------------------------------------------------------------


def validation_of(file: Path) -> str | None:
    """Return the validation prompts that a model's file names; None where it names none or has just gone."""
    try:
        name = read_json(file).get("validation")
    except ArtifactError:
        return None
    return name if isinstance(name, str) else None


def read_model(file: Path, router: UniRouter, prompts: Callable[[str], MeasuredPrompts]) -> ModelProfile:
    """Return the profile that `file` holds, checked to be the router's; `prompts` reads validation prompts by name."""
    content = read_json(file)
    check_schema(content, file)
    if read_field(content, "fit", str, file) != router.fit_id:
        raise ArtifactError(
            f"{file}: belongs to another fit ({content['fit']}, not {router.fit_id}); onboard the model anew."
        )
    measured = prompts(read_field(content, "validation", str, file))
    try:
        profile = _from_json(content, measured, file)
    except ArtifactError:
        raise
    except KeyError as missing:
        raise ArtifactError(f"{file}: field {missing} is missing; onboard the model anew.") from missing
    except (TypeError, ValueError, OverflowError) as failed:
        raise ArtifactError(f"{file}: {failed}; onboard the model anew.") from failed
    own = model_file(profile.model)
    if file.name != own.name:
        raise ArtifactError(f"{file}: holds model {profile.model!r}, which belongs in {own.name}.")
    _check_numbers(profile, file)
    _check_fits(profile, router, file)
    return profile


def _from_json(content: dict[str, Any], measured: MeasuredPrompts, file: Path) -> ModelProfile:
    answers, features, cost = (read_field(content, name, dict, file) for name in ("answers", "features", "cost"))
    prices = content.get("prices")
    return ModelProfile(
        model=read_field(content, "model", str, file),
        features=_array(features["values"], np.float32).reshape(features["shape"]),
        error=float(read_field(content, "error", (int, float), file)),
        error_spread=float(read_field(content, "error_spread", (int, float), file)),
        n=read_field(content, "n", int, file),
        cost=CallCost(
            float(cost["per_token"]),
            float(cost["per_cached_token"]),
            _array(cost["per_answer"], np.float64),
            float(cost.get("per_call", 0.0)),  # folders of before have none
        ),
        prices=None if prices is None else Prices(**prices),
        capabilities=Capabilities(**read_field(content, "capabilities", dict, file)),
        measured=measured,
        errors=_array(answers["errors"], np.float64),
        usd=_array(answers["usd"], np.float64),
        provenance=read_field(content, "provenance", dict, file),
    )


def _array(values: list[float | None], dtype: Any) -> Array:
    return np.array([np.nan if value is None else value for value in values], dtype)


def _check_numbers(profile: ModelProfile, file: Path) -> None:
    usd = [profile.cost.per_token, profile.cost.per_cached_token, profile.cost.per_call, *profile.cost.per_answer]
    checks = {
        "error": 0 <= profile.error <= 1,
        "error_spread": 0 <= profile.error_spread <= 1,
        "cost": bool(np.isfinite(usd).all()) and min(usd) >= 0,
        "answers": profile.errors.shape == profile.usd.shape == (len(profile.measured),)
        and not ((profile.errors < 0) | (profile.errors > 1)).any()
        and not (profile.usd < 0).any(),
        "n": profile.n == np.count_nonzero(~np.isnan(profile.errors)),
    }
    check_fields(checks, file, "is out of range or of the wrong length; onboard the model anew.")


def _check_fits(profile: ModelProfile, router: UniRouter, file: Path) -> None:
    """Raise `ArtifactError` unless the router's estimator and regions can use the profile."""
    try:
        usable = predicts_errors(router.estimator, router.regions, profile.features)
    except (AttributeError, NotFittedError, KeyError) as failed:  # of an estimator of the user's own
        raise ArtifactError(
            f"{file.parent.parent / 'weights.npz'}: does not make a fitted estimator ({failed}); {CURE}."
        ) from failed
    except (ValueError, IndexError, TypeError) as failed:
        raise ArtifactError(
            f"{file}: field 'features' does not fit the estimator ({failed}); onboard the model anew."
        ) from failed
    check_fields({"features": usable}, file, "gives errors outside [0, 1]; onboard the model anew.")
    given, wanted = profile.cost.per_answer.shape, (len(router.regions.centroids_),)
    check_fields({"cost": given == wanted}, file, f"has {profile.cost.per_answer.size} regions, not {wanted[0]}.")
