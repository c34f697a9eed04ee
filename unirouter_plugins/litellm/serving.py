"""A router whose pool is called, priced and filtered as the user's own table, or models of another library, say."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unirouter_core.exceptions import InvalidDataError, UnknownModelError, UnknownPriceError
from unirouter_core.pool import Capabilities, ModelProfile, Pool
from unirouter_core.router import UniRouter
from unirouter_plugins.litellm.members import MEASURED_AS, SERVED_AS, Member, Members, differences, restored
from unirouter_plugins.litellm.prices import capabilities
from unirouter_plugins.litellm.variants import register

_OF_SOME = ("reasoning_effort", "thinking", "verbosity", "user")
"""Parameters that a variant passes on to its model, which LiteLLM takes from providers that it knows only."""

_SHAPING = (
    "temperature",
    "top_p",
    "max_tokens",
    "max_completion_tokens",
    "reasoning_effort",
    "thinking",
    "seed",
    "stop",
)
"""Parameters of a call that make its model another than was measured."""


def configured(router: UniRouter, members: Members) -> UniRouter:
    """Return the router with its pool as `members` has it; `router` stays as it is.

    The table's prices and capabilities count in decisions, its settings in calls. A model that it calls otherwise than
    it was measured is warned of.
    """
    pool = router.pool
    served = {name: _configured(profile, members) for name, profile in pool.items()}
    return router.with_pool(Pool(served))


def _configured(profile: ModelProfile, members: Members) -> ModelProfile:
    member = members.get(profile.model)
    if member is None:
        return profile
    if changed := differences(member, profile):
        warnings.warn(
            f"{profile.model!r} is not served as it was measured: {'; '.join(changed)}. Its error and cost may be "
            "others; measure it anew with --replace.",
            stacklevel=4,
        )
    measured_as = profile.provenance.get(MEASURED_AS, profile.provenance.get(SERVED_AS))
    provenance = {**profile.provenance, SERVED_AS: member.served_as}
    if measured_as is not None:
        provenance[MEASURED_AS] = measured_as
    able = capabilities(member, profile)
    return _priced(dataclasses.replace(profile, provenance=provenance, capabilities=able), member)


def _priced(profile: ModelProfile, member: Member) -> ModelProfile:
    if member.prices is None or member.prices == profile.prices:
        return profile
    try:
        return profile.repriced(member.prices)
    except UnknownPriceError:
        warnings.warn(
            f"{profile.model!r} was measured without token prices, so decisions go by its old cost; measure it anew "
            "with --replace.",
            stacklevel=5,
        )
        return dataclasses.replace(profile, prices=member.prices)


def member_of(profile: ModelProfile) -> Member:
    """Return how a model of the pool is called: as its profile says, else by its own name."""
    kept = profile.provenance.get(SERVED_AS)
    return Member(profile.model, profile.model) if kept is None else restored(profile.model, kept)


def arguments_of(profile: ModelProfile) -> dict[str, Any]:
    """Return what LiteLLM's `completion` is given besides the messages, to ask a model of the pool.

    Raises
    ------
    MissingKeyError
        When the environment variable that has its key is not set.
    """
    member = member_of(profile)
    if not member.is_variant:
        return member.arguments()
    register([member])
    return {"model": member.called, "allowed_openai_params": list(_OF_SOME)}


def called_otherwise(profile: ModelProfile, parameters: Mapping[str, Any]) -> tuple[str, ...]:
    """Return in which ways a call with `parameters` is another than those its model was measured with, where known."""
    member = member_of(profile)
    if SERVED_AS not in profile.provenance:
        return tuple(differences(member, profile))
    given = {name: parameters[name] for name in _SHAPING if name in parameters}
    changed = [
        f"{name} is {value!r} and was {member.settings.get(name, 'not given')!r}"
        for name, value in given.items()
        if value != member.settings.get(name)
    ]
    return (*differences(member, profile), *changed)


# --- Models of another library, one for each of the pool -------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Served:
    """A router's pool as it is now, and as those who call it serve it.

    Parameters
    ----------
    router : UniRouter
        Decides among the models that are served, each able to do what is known of it here.
    pool : mapping of str to ModelProfile
    windows : mapping of str to int or None
        Context windows in tokens.
    variants : mapping of str to Member
        The models that are sent more than the conversation.
    """

    router: UniRouter
    pool: Mapping[str, ModelProfile]
    windows: Mapping[str, int | None]
    variants: Mapping[str, Member]

    def sent(self, tokens: float) -> float | Mapping[str, float]:
        """Return the tokens that each model is sent of a chat of `tokens`: variants are sent more."""
        if not self.variants:
            return tokens
        counter = self.router.fit_.token_counter
        more = {name: member.expanded_tokens(tokens, counter) for name, member in self.variants.items()}
        return {**dict.fromkeys(self.pool, tokens), **more}


def served(router: UniRouter, able: Mapping[str, Capabilities] | None = None) -> Served:
    """Return the router's pool as it is now.

    Parameters
    ----------
    router : UniRouter
    able : mapping of str to Capabilities, optional
        Of the models that others than LiteLLM call; None is LiteLLM, for all. Who is not named, is not served.
    """
    pool = router.pool
    if able is not None:
        shared = [name for name in pool if name in able]
        pool = Pool({name: dataclasses.replace(pool[name], capabilities=able[name]) for name in shared})
        router = router.with_pool(pool)
    members = {} if able is not None else {name: member_of(profile) for name, profile in pool.items()}
    windows = {name: profile.capabilities.context_window for name, profile in pool.items()}
    return Served(router, pool, windows, {name: member for name, member in members.items() if member.is_variant})


def check_given(models: Any, router: UniRouter, kind: type, what: str) -> None:
    """Raise one clear sentence unless `models` has a model of that kind for each of the pool, and for no other.

    Parameters
    ----------
    models : mapping of str to kind
    router : UniRouter
    kind : type
    what : str
        What to call one, for messages: "a chat model".

    Raises
    ------
    InvalidDataError
        When it is no mapping of names to such models, or a model of the pool has none.
    UnknownModelError
        When it names a model that is not in the pool.
    """
    if not isinstance(models, Mapping):
        raise InvalidDataError(f"models={models!r:.60} is no mapping; give {{name in the pool: {what}}}.")
    for name, model in models.items():
        if not isinstance(model, kind):
            raise InvalidDataError(f"models[{name!r}] is of type {type(model).__name__}; give {what}.")
    pool = router.pool
    if strangers := [name for name in models if name not in pool]:
        held = ", ".join(map(repr, pool)) or "no model"
        raise UnknownModelError(f"{strangers[0]!r} is not in the pool, which holds {held}; onboard it first.")
    if missing := [name for name in pool if name not in models]:
        raise InvalidDataError(f"{missing[0]!r} is in the pool but not in models={{...}}; add it, or retire it.")
