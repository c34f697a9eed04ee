"""Model profiles, and the pool of them as one immutable stack of arrays."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence, ValuesView
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from unirouter_core.checks import Check, Checks
from unirouter_core.costs import TOKENS_PER_PRICE, CallCost, Prices
from unirouter_core.embedding import Array, Labels
from unirouter_core.estimators.protocol import AxesEstimator, Compiled, Prediction
from unirouter_core.exceptions import InvalidDataError, UnknownModelError, UnknownPriceError, as_number, listed, shown

CAPABILITIES = ("tools", "vision", "json", "audio", "video", "pdf")  # what a prompt may require of a model

FAR_STDERR = 0.1  # the least standard error for a kind of prompt that no region is like


@dataclass(frozen=True)
class Capabilities:
    """What a model can do; True where unknown, so that no model is excluded by mistake.

    Parameters
    ----------
    tools, vision, json, audio, video, pdf : bool
        Tool calls, images, answers held to a JSON schema; sound, films and documents in the prompt.
    context_window : int, optional
        The most tokens of a prompt, as the router counts them or as `route` is told; None is without limit.
    """

    tools: bool = True
    vision: bool = True
    json: bool = True
    context_window: int | None = None
    audio: bool = True
    video: bool = True
    pdf: bool = True

    def __post_init__(self) -> None:
        for name in CAPABILITIES:
            if not isinstance(getattr(self, name), bool):
                raise InvalidDataError(f"{name}={getattr(self, name)!r} must be True or False.")
        window = self.context_window
        is_int = isinstance(window, int) and not isinstance(window, bool)
        if window is not None and not (is_int and as_number(window) >= 1):
            raise InvalidDataError(f"context_window={shown(window)} must be an int > 0, in tokens, or None.")

    def lacks(self, requires: Sequence[str]) -> list[str]:
        """Return those of `requires` that the model cannot do; raise `InvalidDataError` for an unknown capability."""
        if unknown := [name for name in requires if name not in CAPABILITIES]:
            raise InvalidDataError(f"{unknown[0]!r} is no capability; require one of {', '.join(CAPABILITIES)}.")
        return [name for name in requires if not getattr(self, name)]


def as_numbers(names: Iterable[str]) -> npt.NDArray[np.uint64]:
    """Return the digests of prompts, without those of their documents, as numbers, (n,)."""
    return np.array([int(name[:16], 16) for name in names], np.uint64)


@dataclass(frozen=True, eq=False)
class MeasuredPrompts:
    """The prompts that profiles were measured on, as a router keeps them."""

    digests: tuple[str, ...]
    texts: tuple[str, ...] | None  # left out where prompts must not be kept
    vectors: Array  # (n_prompts, d), float16
    tokens: Array  # (n_prompts,), as the router counts them
    known: Array | None  # the training models' errors, (n_prompts, n_training_models), float16, NaN where not known

    @cached_property
    def id(self) -> str:
        """A hash of the prompts and the known errors."""
        known = b"" if self.known is None else self.known.tobytes()
        return hashlib.sha256("\n".join(self.digests).encode() + known).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.digests)


@dataclass(frozen=True, eq=False)
class Signals:
    """What a check gave for a model's answers to its validation prompts.

    Parameters
    ----------
    values : array (n_prompts,)
        NaN where not known. Larger or smaller need not be better: which values come with errors is learned.
    usd : float
        What the check costs for each answer, on average.
    limit : float
        An answer may be given where its error is then expected to be at most this; see `checks.acceptance_limit`.
    """

    values: Array
    usd: float = 0.0
    limit: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", np.asarray(self.values, np.float64))
        if np.isinf(self.values).any() or not 0 <= as_number(self.usd) < np.inf:
            raise InvalidDataError("Signals of a check must be finite, or NaN where not known, and its USD >= 0.")
        if not 0 <= as_number(self.limit) <= 1:
            raise InvalidDataError(f"The limit {shown(self.limit)} of a check must be an error, from 0 to 1.")


@dataclass(frozen=True, eq=False)
class ModelProfile:
    """What a router knows of one model.

    Parameters
    ----------
    model : str
    features : array
        Ψ(h), as the router's estimator made it.
    error, error_spread : float
        Its mean error on the validation prompts, in [0, 1], and the standard deviation of that between regions: how
        wrong `error` may be on an unknown kind of prompt.
    n : int
        The answers behind it.
    cost : CallCost
    prices : Prices, optional
    capabilities : Capabilities
    measured : MeasuredPrompts
    errors, usd : array (n_prompts,)
        On each of them; NaN where not known.
    provenance : mapping
    checks : mapping of str to Signals
        What checks gave for its answers, by the name of the check.
    """

    model: str
    features: Array
    error: float
    error_spread: float
    n: int
    cost: CallCost
    prices: Prices | None
    capabilities: Capabilities
    measured: MeasuredPrompts
    errors: Array
    usd: Array
    provenance: Mapping[str, Any] = field(default_factory=dict)
    checks: Mapping[str, Signals] = field(default_factory=dict)

    def __post_init__(self) -> None:
        cost = self.cost
        usd = np.array([cost.per_token, cost.per_cached_token, cost.per_call, *cost.per_answer])
        checks = {
            "error": 0 <= self.error <= 1,
            "error_spread": 0 <= self.error_spread <= 1,
            "cost": bool(((usd >= 0) & (usd < np.inf)).all()),
            "answers": self.errors.shape == self.usd.shape == (len(self.measured),)
            and not ((self.errors < 0) | (self.errors > 1) | (self.usd < 0) | np.isinf(self.usd)).any(),
            "checks": all(each.values.shape == (len(self.measured),) for each in self.checks.values()),
            "n": self.n == np.count_nonzero(~np.isnan(self.errors)),
        }
        if wrong := [name for name, fine in checks.items() if not fine]:
            raise InvalidDataError(f"field {wrong[0]!r} is out of range or of the wrong length")

    def __repr__(self) -> str:
        return f"ModelProfile({self.model!r}, error={self.error:.3f}, n={self.n})"

    def repriced(self, prices: Prices) -> ModelProfile:
        """Return the profile as if the model had been measured at other prices.

        Expected costs follow exactly; the USD of each validation answer is split into prompt and answer by the
        prompt's tokens. A profile that knows USD alone, or a price of 0, raises `UnknownPriceError`.
        """
        before = self.prices
        if before == prices:
            return self
        if before is None or not before.input or not before.output or not self.cost.per_token:
            raise UnknownPriceError(
                f"How many tokens {self.model!r} was measured with is not known, so its costs cannot follow new prices;"
                " onboard it again with them."
            )
        ratio = self.cost.per_token * TOKENS_PER_PRICE / before.input
        ratio_in, ratio_out = prices.input / before.input, prices.output / before.output
        sent = self.measured.tokens * self.cost.per_token + self.cost.per_call
        cost = CallCost(
            prices.input * ratio / TOKENS_PER_PRICE,
            prices.cached * ratio / TOKENS_PER_PRICE,
            self.cost.per_answer * ratio_out,
            self.cost.per_call * ratio_in,
        )
        usd = sent * ratio_in + np.maximum(self.usd - sent, 0) * ratio_out
        return dataclasses.replace(self, prices=prices, cost=cost, usd=usd)


@dataclass(slots=True, eq=False)
class Expected:
    """What each of m models is expected to do on each of n prompts."""

    prediction: Prediction  # errors and standard errors, (n, m)
    costs: Array  # USD, (n, m)
    regions: Labels  # (n,)
    far: Array  # (n,), 0 for prompts like those learned from, up to 1 for prompts unlike them all


class Pool(Mapping[str, ModelProfile]):
    """The profiles by model name, in the order of the names; immutable. Its arrays are computed at first use."""

    def __init__(self, profiles: Mapping[str, ModelProfile] | None = None) -> None:
        self._profiles = dict(sorted((profiles or {}).items()))
        self.models = tuple(self._profiles)
        self._compiled: tuple[AxesEstimator, Compiled] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_profiles": self._profiles, "models": self.models, "_compiled": None}

    def __getitem__(self, model: str) -> ModelProfile:
        self.check_known([model])
        return self._profiles[model]

    def __contains__(self, model: object) -> bool:
        return model in self._profiles

    def __iter__(self) -> Iterator[str]:
        return iter(self.models)

    def __len__(self) -> int:
        return len(self.models)

    def values(self) -> ValuesView[ModelProfile]:
        """Return the profiles, in the order of the names."""
        return self._profiles.values()  # each without a look-up of its own

    def __repr__(self) -> str:
        return f"Pool({', '.join(map(repr, self.models))})"

    def check_costs(self, models: Sequence[str], *, known: bool) -> None:
        """Raise `InvalidDataError` where some models' costs would be known and others', which count as free, not.

        `known` is whether those of `models` are, which are to be added to the others here.
        """
        for name, profile in self._profiles.items():
            if not models or name in models or (profile.provenance.get("prices") != "unknown") == known:
                continue
            if known:
                cure = "onboard it again with prices (--recorded FILE --prices FILE --replace), or retire it"
                raise InvalidDataError(f"{name!r} of the pool counts as free, as its cost was not known; {cure}.")
            cure = "give prices (--prices FILE, or --price-in and --price-out)"
            raise InvalidDataError(
                f"What {models[0]!r} costs is not known, and what {name!r} of the pool costs is; {cure}."
            )

    def changed(self, changes: Mapping[str, ModelProfile | None]) -> Pool:
        """Return the pool with these profiles added or replaced, and without the models whose profile is None."""
        return Pool({name: each for name, each in {**self._profiles, **changes}.items() if each is not None})

    @cached_property
    def positions(self) -> dict[str, int]:
        """The position of each model."""
        return {model: j for j, model in enumerate(self.models)}

    @cached_property
    def measured(self) -> dict[str, MeasuredPrompts]:
        """The prompts that the models were measured on, by their id."""
        return {profile.measured.id: profile.measured for profile in self._profiles.values()}

    def check_known(self, models: Iterable[str]) -> None:
        """Raise `UnknownModelError` when one of `models` is not in the pool."""
        for model in models:
            if model not in self._profiles:
                held = listed(map(repr, self.models)) or "no model"
                raise UnknownModelError(f"{model!r} is not in the pool; the pool holds {held}. Onboard it first.")

    @cached_property
    def features(self) -> Array:
        """The models' features, (m, ...), in the memory order that reads one feature of all models together."""
        arrays = [profile.features for profile in self._profiles.values()]
        shape = len(arrays), max(map(len, arrays)), *arrays[0].shape[1:]
        stacked = np.full(shape, np.nan, np.float32, order="F" if len(shape) == 2 else "C")
        for row, array in zip(stacked, arrays, strict=True):
            row[: len(array)] = array
        return stacked

    def compiled(self, estimator: AxesEstimator) -> Compiled:
        """Return what gives these models' errors; made at the first use of an estimator."""
        made = self._compiled
        if made is None or made[0] is not estimator:
            ones = np.ones(len(self), np.float32)
            made = self._compiled = estimator, estimator.compiled(self.features, ones)
        return made[1]

    def checks(self, names: Iterable[str]) -> Checks:
        """Return the checks of these names on the models' answers, of those with answers enough to learn from."""
        fitted, wanted = self._fitted_checks, tuple(names)
        if wanted not in self._groups_of_checks:
            self._groups_of_checks[wanted] = Checks(fitted[key] for key in fitted if key[1] in wanted)
        return self._groups_of_checks[wanted]

    @cached_property
    def _groups_of_checks(self) -> dict[tuple[str, ...], Checks]:
        return {}

    @cached_property
    def _fitted_checks(self) -> dict[tuple[str, str], Check]:
        found: dict[tuple[str, str], Check] = {}
        errors: dict[str, Array] = {}  # of all models, by the prompts
        for column, (model, profile) in enumerate(self._profiles.items()):
            if profile.checks and profile.measured.id not in errors:
                errors[profile.measured.id] = self._errors_on(profile.measured)
            for name, signals in profile.checks.items():
                table = errors[profile.measured.id]
                if (check := Check.fit(name, column, signals.values, table, signals.usd, signals.limit)) is not None:
                    found[model, name] = check
        return found

    def _errors_on(self, measured: MeasuredPrompts) -> Array:
        """Return the models' errors on these prompts, (n_prompts, m), NaN where not known."""
        rows = {name: row for row, name in enumerate(measured.digests)}
        errors = np.full((len(measured), len(self)), np.nan)
        for column, profile in enumerate(self._profiles.values()):
            shared = [(rows[name], row) for row, name in enumerate(profile.measured.digests) if name in rows]
            here, there = np.array(shared, int).reshape(-1, 2).T
            errors[here, column] = profile.errors[there]
        return errors

    @cached_property
    def overall(self) -> tuple[Array, Array]:
        """The models' overall errors, and their standard errors on a kind of prompt never seen, both (m,)."""
        profiles = self._profiles.values()
        spreads = [2 * profile.error_spread for profile in profiles]
        return np.array([profile.error for profile in profiles]), np.maximum(FAR_STDERR, spreads)

    @cached_property
    def usd(self) -> tuple[Array, Array, Array]:
        """USD for each prompt token and each cached one, both (m,), and for each call in each region, (n_regions, m).

        The tokens are those of the prompt as the router counts them; what system prompts and other tokenizers added
        when models were measured is included.
        """
        costs = [profile.cost for profile in self._profiles.values()]
        per_token, cached = np.array([(cost.per_token, cost.per_cached_token) for cost in costs]).T.copy()
        return per_token, cached, np.stack([cost.per_answer + cost.per_call for cost in costs], axis=1)

    @cached_property
    def usd_sent(self) -> tuple[Array, Array, Array]:
        """As `usd`, where the tokens are all that is sent, as the providers count them: at the list price."""
        profiles = self._profiles.values()
        per_token, cached, _ = self.usd
        listed = np.array([0.0 if p.prices is None else p.prices.input / TOKENS_PER_PRICE for p in profiles])
        charged = (listed > 0) & (per_token > 0)
        # How many tokens the provider charges for each one that the router counts; 1 where that is not known.
        ratios = np.where(charged, per_token / np.where(charged, listed, 1.0), 1.0)
        return per_token / ratios, cached / ratios, np.stack([p.cost.per_answer for p in profiles], axis=1)

    @cached_property
    def windows(self) -> tuple[Array, float]:
        """The models' context windows in tokens, (m,), inf without limit; and the smallest of them."""
        sizes = np.array([profile.capabilities.context_window or np.inf for profile in self._profiles.values()])
        return sizes, float(sizes.min())
