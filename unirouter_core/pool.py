"""The models of a router as one immutable stack of arrays, and what they are expected to do on prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from unirouter_core.costs import TOKENS_PER_PRICE
from unirouter_core.embedding import Array, Labels, Mask
from unirouter_core.estimators.protocol import Estimator, Prediction
from unirouter_core.exceptions import UnknownModelError
from unirouter_core.profiles import ModelProfile
from unirouter_core.regions import Regions

FAR_STDERR = 0.1
"""The least standard error for a kind of prompt that no region is like."""

ROUNDING = 1e-3
"""A predicted error may lie this far outside [0, 1]."""


def predicts_errors(estimator: Estimator, regions: Regions, features: Array) -> bool:
    """Return whether a model's features give an error in [0, 1] in each region."""
    errors = estimator.predict(regions.centroids_, features[None]).errors
    inside = (errors >= -ROUNDING) & (errors <= 1 + ROUNDING)  # NaN is not
    return errors.shape == (len(regions.centroids_), 1) and bool(inside.all())


@dataclass(slots=True, eq=False)
class Expected:
    """What each model of a pool is expected to do on each prompt.

    Parameters
    ----------
    prediction : Prediction
        Errors and standard errors, (n, m).
    costs : array (n, m)
        USD.
    regions : array (n,)
    far : array (n,)
        0 for prompts like those learned from, up to 1 for prompts unlike them all.
    """

    prediction: Prediction
    costs: Array
    regions: Labels
    far: Array


class Pool:
    """The profiles of `models` (sorted by name), stacked once; a changed pool is another `Pool`."""

    def __init__(self, profiles: Mapping[str, ModelProfile] | None = None) -> None:
        self.profiles = dict(sorted((profiles or {}).items()))
        self.models = tuple(self.profiles)

    def __len__(self) -> int:
        """Return the number of models."""
        return len(self.models)

    def with_profile(self, profile: ModelProfile) -> Pool:
        """Return the pool with `profile` added, or in the place of the model's old one."""
        return Pool({**self.profiles, profile.model: profile})

    def without(self, model: str) -> Pool:
        """Return the pool without `model`."""
        self.check_known([model])
        return Pool({name: profile for name, profile in self.profiles.items() if name != model})

    def check_known(self, models: Sequence[str]) -> None:
        """Raise `UnknownModelError` when one of `models` is not in the pool."""
        for model in models:
            if model not in self.profiles:
                held = ", ".join(map(repr, self.models)) or "no model"
                raise UnknownModelError(f"{model!r} is not in the pool; the pool holds {held}. Onboard it first.")

    @cached_property
    def features(self) -> Array:
        """The models' features, (m, ...), in the memory order that reads one feature of all models together."""
        arrays = [profile.features for profile in self.profiles.values()]
        longest = max(array.shape[0] for array in arrays)
        padded = [np.pad(a, [(0, longest - len(a))] + [(0, 0)] * (a.ndim - 1), constant_values=np.nan) for a in arrays]
        return np.asfortranarray(np.stack(padded)) if padded[0].ndim == 1 else np.stack(padded)

    @cached_property
    def errors(self) -> Array:
        """The models' overall errors, (m,)."""
        return np.array([profile.error for profile in self.profiles.values()])

    @cached_property
    def far_stderrs(self) -> Array:
        """The models' standard errors on a kind of prompt never seen, (m,)."""
        return np.maximum(FAR_STDERR, [2 * profile.error_spread for profile in self.profiles.values()])

    @cached_property
    def per_token(self) -> Array:
        """USD for each prompt token, (m,)."""
        return np.array([profile.cost.per_token for profile in self.profiles.values()])

    @cached_property
    def per_cached_token(self) -> Array:
        """USD for each prompt token that is cached, (m,)."""
        return np.array([profile.cost.per_cached_token for profile in self.profiles.values()])

    @cached_property
    def ratios(self) -> Array:
        """How many tokens each provider charged for one that the router counted, (m,); 1 where that is not known."""
        listed = [0.0 if p.prices is None else p.prices.input / TOKENS_PER_PRICE for p in self.profiles.values()]
        charged = (np.array(listed) > 0) & (self.per_token > 0)
        return np.where(charged, self.per_token / np.where(charged, listed, 1.0), 1.0)

    @cached_property
    def per_answer(self) -> Array:
        """USD of the answer in each region, (n_regions, m)."""
        return np.stack([profile.cost.per_answer for profile in self.profiles.values()], axis=1)

    @cached_property
    def per_prompt(self) -> Array:
        """USD of the answer and of what is sent with every prompt, in each region, (n_regions, m)."""
        return self.per_answer + [profile.cost.per_call for profile in self.profiles.values()]

    @cached_property
    def windows(self) -> Array:
        """The models' context windows in tokens, (m,); inf without limit."""
        windows = [profile.capabilities.context_window for profile in self.profiles.values()]
        return np.array([np.inf if window is None else window for window in windows])

    @cached_property
    def smallest_window(self) -> float:
        """The smallest context window in tokens."""
        return float(self.windows.min())

    def columns(self, models: Sequence[str]) -> Mask:
        """Return which of the pool's models are among `models`, (m,).

        Raises
        ------
        UnknownModelError
            When one of them is not in the pool.
        """
        self.check_known(models)
        wanted = set(models)
        return np.array([model in wanted for model in self.models])

    def expect(
        self,
        X: Array,
        tokens_in: Array,
        cached_tokens: Array | None,
        estimator: Estimator,
        regions: Regions,
        *,
        whole: bool = False,
    ) -> Expected:
        """Return what every model is expected to do on the prompts with vectors X (n, d).

        Tokens are (n,), or by model (n, m). `whole` says that `tokens_in` are all that will be sent, at the list price;
        otherwise they are the prompt's alone, and what the models' system prompts and tokenizers added when they were
        measured comes on top.
        """
        labels, far = regions.locate(X)
        prediction = estimator.predict(X, self.features)
        if np.count_nonzero(far):  # on one row a quarter of the time of any()
            prediction = self._pulled(prediction, far[:, None])
        sent = tokens_in if tokens_in.ndim == 2 else tokens_in[:, None]
        cached = None if cached_tokens is None else cached_tokens if cached_tokens.ndim == 2 else cached_tokens[:, None]
        fresh = sent if cached is None else sent - cached
        per_token = self.per_token / self.ratios if whole else self.per_token
        costs = fresh * per_token + (self.per_answer if whole else self.per_prompt)[labels]
        if cached is not None:
            costs += cached * (self.per_cached_token / self.ratios if whole else self.per_cached_token)
        return Expected(prediction, costs, labels, far)

    def _pulled(self, prediction: Prediction, far: Array) -> Prediction:
        """Return the prediction pulled to the models' overall errors, and less sure, by how `far` they are (n, 1)."""
        return Prediction(
            prediction.errors + far * (self.errors - prediction.errors),
            lambda: np.sqrt(prediction.stderrs**2 + (far * self.far_stderrs) ** 2),
        )
