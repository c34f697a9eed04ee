"""Providers of models beside LiteLLM's own, entered where LiteLLM looks for them."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from typing import Any

from unirouter_core.exceptions import InvalidDataError
from unirouter_plugins.providers.door import open_litellm
from unirouter_plugins.providers.redaction import described

_LOCK = threading.RLock()  # LiteLLM has one table for all threads

_FROM = "unirouter_from"
"""Where an entry of ours in LiteLLM's table says what it was made from, so that it is known again."""


def enter_provider(name: str, place: str, make: Callable[[], Any]) -> Any:
    """Return the provider that LiteLLM calls for the models `name`/..., made and entered when there is none.

    Parameters
    ----------
    name : str
    place : str
        "module:object", where the provider is; two are the same when it is.
    make : function () -> litellm.CustomLLM

    Raises
    ------
    InvalidDataError
        When the name is one of LiteLLM's own providers, or somebody else's.
    """
    litellm = open_litellm()
    if name in {str(own.value) for own in litellm.LlmProviders}:
        raise InvalidDataError(f"{name!r} is a provider of LiteLLM's own; give yours another name.")
    with _LOCK:
        entered = [entry for entry in litellm.custom_provider_map if entry["provider"] == name]
        if entered and entered[-1].get(_FROM) == place:  # the last is the one that LiteLLM calls
            return entered[-1]["custom_handler"]
        provider = make()
        if entered and entered[-1]["custom_handler"] is not provider:
            raise InvalidDataError(
                f"{name!r} is registered with LiteLLM already, as {entered[-1]['custom_handler']!r:.80}; "
                "give your provider another name."
            )
        if not entered:
            litellm.custom_provider_map.append({"provider": name, "custom_handler": provider, _FROM: place})
            litellm.utils.custom_llm_setup()  # else LiteLLM learns the name when the first call is made
        return provider


def enter_own_provider(name: str, place: str) -> None:
    """Let LiteLLM call the user's own provider for the models `name`/....

    Parameters
    ----------
    name : str
    place : str
        "module:object", of a `litellm.CustomLLM`, or of a class or function that returns one.

    Raises
    ------
    InvalidDataError
        When it cannot be imported, is something else, or the name is taken.
    """
    enter_provider(name, place, lambda: _loaded(name, place))


def _loaded(name: str, place: str) -> Any:
    module, _, attribute = place.partition(":")
    kind = open_litellm().CustomLLM
    try:
        found = getattr(importlib.import_module(module), attribute)
        provider = found() if callable(found) and not isinstance(found, kind) else found
    except ModuleNotFoundError as missing:
        raise InvalidDataError(
            f"The provider {name!r} is {place!r}, but there is no module {missing.name!r}; install it, or put its "
            "folder on PYTHONPATH."
        ) from missing
    except Exception as failed:  # of any kind: it is the user's own code
        raise InvalidDataError(
            f"The provider {name!r} is {place!r}, which cannot be loaded: {described(failed)}."
        ) from failed
    if not isinstance(provider, kind):
        raise InvalidDataError(
            f"The provider {name!r} is {place!r}, which is of type {type(provider).__name__}; it must be a "
            "litellm.CustomLLM, or a class or function that returns one."
        )
    return provider
