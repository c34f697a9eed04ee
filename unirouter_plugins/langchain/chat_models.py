"""The chat models of a pool: LiteLLM's as its profiles say, or the user's own by name; and what all of them can do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.language_models import BaseChatModel

from unirouter_core.profiles import Capabilities, ModelProfile
from unirouter_core.router import UniRouter
from unirouter_plugins.langchain.hearing import joined
from unirouter_plugins.litellm.failures import open_litellm
from unirouter_plugins.litellm.XXX import Served, served
from unirouter_plugins.litellm.programs import arguments_of

_FIELDS = ("temperature", "top_p", "top_k", "max_tokens", "n")
"""LiteLLM's parameters that a `ChatLiteLLM` has fields for, so that traces show them; the others go beside."""

_FLAGS = {"tools": "tool_calling", "vision": "image_inputs", "json": "structured_output"}
"""Our names of capabilities, and those of LangChain's `model.profile`."""


def load_chat_litellm() -> Any:
    """Return the class `ChatLiteLLM`.

    Raises
    ------
    ImportError
        When it, or LiteLLM, is not installed.
    """
    open_litellm()  # before langchain-litellm does it in its own way, online and loudly
    try:
        from langchain_litellm import ChatLiteLLM
    except ImportError as missing:
        raise ImportError(
            "langchain-litellm is missing: pip install 'unirouter[langchain]', or give a chat model for each model of "
            "the pool: models={...}."
        ) from missing
    return ChatLiteLLM


class ChatModels:
    """Chat models by the pool's names.

    Parameters
    ----------
    given : mapping of str to BaseChatModel, optional
        The user's own; None is a `ChatLiteLLM` for each, as the profile or `pool.toml` says it is called.
    settings : mapping
        What every `ChatLiteLLM` is made with besides; wins over the settings that models were measured with.
    run : mapping
        Of `callbacks`, `tags` and `metadata`, what every run of a chat model gets besides its own.
    """

    def __init__(
        self,
        given: Mapping[str, BaseChatModel] | None,
        settings: Mapping[str, Any] | None = None,
        run: Mapping[str, Any] | None = None,
    ) -> None:
        self.given, self.settings, self.run = given, dict(settings or {}), dict(run or {})
        self._chat_litellm: Any = load_chat_litellm() if given is None else None
        self._served: tuple[dict[str, ModelProfile], Served] | None = None

    def chat_model(self, profile: ModelProfile, *, is_last: bool = True) -> BaseChatModel:
        """Return the chat model of `profile`; a `ChatLiteLLM` is made anew, with the key that the environment has now.

        Parameters
        ----------
        profile : ModelProfile
        is_last : bool
            Whether no other model is left to ask: only then LiteLLM retries, as it does when called directly.

        Raises
        ------
        MissingKeyError
            When the environment variable that has its key is not set.
        """
        model = self._made(profile, is_last) if self.given is None else self.given[profile.model]
        return model.model_copy(update=self._run_of(model)) if self.run else model

    def _made(self, profile: ModelProfile, is_last: bool) -> BaseChatModel:
        fields = self._fields(arguments_of(profile))
        if not is_last:  # to retry is to ask the next model
            fields["max_retries"] = 1  # the first counts the call itself
            fields["model_kwargs"] |= {"num_retries": 0, "max_retries": 0}
        made: BaseChatModel = self._chat_litellm(**fields)
        return made

    def _run_of(self, model: BaseChatModel) -> dict[str, Any]:
        """Return the model's own callbacks, tags and metadata, with the router's beside them."""
        metadata = {**self.run.get("metadata", {}), **(model.metadata or {})}
        tags = [*(model.tags or []), *self.run.get("tags", [])]
        return {"metadata": metadata, "callbacks": joined(model.callbacks, self.run.get("callbacks")), "tags": tags}

    def _fields(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the fields of a `ChatLiteLLM` that calls LiteLLM with `arguments`, and with the user's settings."""
        own = {name: value for name, value in self.settings.items() if name in self._chat_litellm.model_fields}
        beside = {name: value for name, value in self.settings.items() if name not in own}
        fields = {name: arguments.pop(name) for name in ("model", "api_base", "api_key", *_FIELDS) if name in arguments}
        return {**fields, **own, "model_kwargs": {**arguments, **own.get("model_kwargs", {}), **beside}}

    def served(self, router: UniRouter) -> Served:
        """Return the router's pool as its chat models serve it; it is looked at anew when the pool has changed."""
        pool = router.pool
        if self._served is None or self._served[0] != pool:
            self._served = pool, served(router, self._able(pool))
        return self._served[1]

    def _able(self, pool: Mapping[str, ModelProfile]) -> dict[str, Capabilities] | None:
        """Return what the user's own chat models can do: all that is known of them, but what they say they lack."""
        if self.given is None:
            return None
        return {n: _narrowed(pool[n].capabilities, _said(model)) for n, model in self.given.items() if n in pool}

    def common_profile(self, router: UniRouter) -> dict[str, Any]:
        """Return what all models can do, as LangChain's `model.profile` says it.

        A flag is True where all chat models say so, False where one of them, or its profile in the pool, says that it
        cannot, and left out where that is not known; sizes are the least of those that are known.
        """
        said = [_said(self.given[name]) if self.given is not None else {} for name in router.pool]
        known = [_as_said(profile.capabilities) for profile in router.pool.values()]
        names = {name for each in (*said, *known) for name in each}
        common = {name: _common([each.get(name) for each in said], [k.get(name) for k in known]) for name in names}
        return {name: value for name, value in sorted(common.items()) if value is not None}


def _said(model: BaseChatModel) -> Mapping[str, Any]:
    """Return what a chat model says of itself."""
    return model.profile or {}


def _as_said(known: Capabilities) -> dict[str, Any]:
    """Return capabilities by LangChain's names, as far as they are known: True may mean that nothing is."""
    lacks = {theirs: False for ours, theirs in _FLAGS.items() if not getattr(known, ours)}
    return lacks if known.context_window is None else {**lacks, "max_input_tokens": known.context_window}


def _common(said: list[Any], known: list[Any]) -> bool | int | None:
    """Return what holds for all models, of the values that each says and that the pool knows; None is not known."""
    values = [value for value in (*said, *known) if value is not None]
    if not all(isinstance(value, bool) for value in values):
        return min((size for size in values if isinstance(size, int)), default=None)
    if False in values:
        return False
    return None if None in said else True


def _narrowed(known: Capabilities, said: Mapping[str, Any]) -> Capabilities:
    """Return the capabilities without those that the chat model says it lacks."""
    able = {ours: getattr(known, ours) and said.get(theirs) is not False for ours, theirs in _FLAGS.items()}
    windows = [window for window in (known.context_window, said.get("max_input_tokens")) if window]
    return Capabilities(**able, context_window=min(windows, default=None))
