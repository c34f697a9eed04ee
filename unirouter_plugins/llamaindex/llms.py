"""The LLMs of a pool: LiteLLM's as its profiles say, or the user's own by name; and what all of them can do."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from llama_index.core.base.llms.types import LLMMetadata
from llama_index.core.constants import DEFAULT_CONTEXT_WINDOW
from llama_index.core.llms import LLM
from llama_index.core.llms.function_calling import FunctionCallingLLM

from unirouter_core.pool import Capabilities, ModelProfile, Pool
from unirouter_core.router import UniRouter
from unirouter_plugins.litellm.failures import open_litellm
from unirouter_plugins.litellm.programs import arguments_of
from unirouter_plugins.litellm.XXX import Served, member_of, served


def load_litellm_llm() -> Any:
    """Return LlamaIndex's class `LiteLLM`, made to read usage chunks without choices.

    Raises
    ------
    ImportError
        When it, or LiteLLM, is not installed.
    """
    open_litellm()  # before llama-index-llms-litellm does it in its own way, online and loudly
    try:
        import llama_index.llms.litellm  # type: ignore[import-untyped]  # noqa: F401
    except ImportError as missing:
        raise ImportError(
            "llama-index-llms-litellm is missing: pip install 'unirouter[llamaindex]', or give an LLM for each model "
            "of the pool: models={...}."
        ) from missing
    from unirouter_plugins.llamaindex.litellm_llm import StreamingLiteLLM

    return StreamingLiteLLM


class PoolLLMs:
    """LLMs by the pool's names.

    Parameters
    ----------
    given : mapping of str to LLM, optional
        The user's own; None is a `LiteLLM` for each, as the profile or `pool.toml` says it is called.
    settings : mapping
        LiteLLM's parameters for each of those; they win over the settings that models were measured with.
    fields : mapping
        Fields of LlamaIndex's LLMs for each of those, like `system_prompt`, that `structured_predict` goes by.
    """

    def __init__(
        self,
        given: Mapping[str, LLM] | None,
        settings: Mapping[str, Any] | None = None,
        fields: Mapping[str, Any] | None = None,
    ) -> None:
        self.given, self.settings, self.fields = given, dict(settings or {}), dict(fields or {})
        self._litellm: Any = load_litellm_llm() if given is None else None
        self._served: tuple[Pool, Served, LLMMetadata] | None = None

    def llm(self, profile: ModelProfile, *, is_last: bool = True) -> LLM:
        """Return the LLM of `profile`; a `LiteLLM` is made anew, with the key that the environment has now.

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
        if self.given is not None:
            return self.given[profile.model]
        unset = {"temperature": None}  # else LlamaIndex sends one of its own
        arguments: dict[str, Any] = {**unset, **arguments_of(profile), **self.settings}
        fields: dict[str, Any] = {
            name: arguments.pop(name) for name in ("model", "max_tokens", "max_retries") if name in arguments
        }
        if not is_last:
            fields["max_retries"], arguments["num_retries"] = 1, 0  # the first counts the call itself
        made: LLM = self._litellm(**fields, additional_kwargs=arguments, **self.fields)
        return made

    def reader(self, model: str) -> LLM | None:
        """Return an LLM that reads the tool calls of `model`'s answers; None where there is none of that name."""
        return self._litellm(model=model) if self.given is None else self.given.get(model)

    def served(self, router: UniRouter) -> Served:
        """Return the router's pool as its LLMs serve it; it is looked at anew when the pool has changed."""
        return self._seen(router)[0]

    def metadata(self, router: UniRouter) -> LLMMetadata:
        """Return what the router can do with its pool, as LlamaIndex asks it of an LLM.

        The context window is the least that is known: longer prompts would shut models out. Tools can be called where
        any model can, since the others are then shut out. It is a chat model where all are.
        """
        return self._seen(router)[1]

    def _seen(self, router: UniRouter) -> tuple[Served, LLMMetadata]:
        pool = router.pool
        if self._served is None or self._served[0] is not pool:
            able = (
                None if self.given is None else {n: _able(pool[n], llm) for n, llm in self.given.items() if n in pool}
            )
            serving = served(router, able)
            self._served = pool, serving, self._common(serving)
        return self._served[1:]

    def _common(self, serving: Served) -> LLMMetadata:
        windows = [window for window in serving.windows.values() if window is not None]
        said = [] if self.given is None else [self.given[name].metadata for name in serving.pool]
        lengths = [one.num_output for one in said] or [self.settings.get("max_tokens") or _longest(serving)]
        return LLMMetadata(
            context_window=min(windows, default=DEFAULT_CONTEXT_WINDOW),
            num_output=max(lengths, default=-1),
            is_chat_model=all(one.is_chat_model for one in said),
            is_function_calling_model=any(profile.capabilities.tools for profile in serving.pool.values()),
            model_name="unirouter",
        )


def _longest(serving: Served) -> int:
    """Return the most tokens that a model is told it may answer with; -1 is LlamaIndex's for no limit that is known."""
    limits: Sequence[Any] = [member_of(profile).settings.get("max_tokens") for profile in serving.pool.values()]
    return max((limit for limit in limits if isinstance(limit, int)), default=-1)


def _able(profile: ModelProfile, llm: LLM) -> Capabilities:
    """Return what is known of a model, without what its LLM says it lacks; a window of its own wins over the LLM's."""
    known, said = profile.capabilities, llm.metadata
    tools = known.tools and said.is_function_calling_model and isinstance(llm, FunctionCallingLLM)
    window = None if said.context_window == DEFAULT_CONTEXT_WINDOW else said.context_window  # what nobody has set
    return dataclasses.replace(known, tools=tools, context_window=known.context_window or window)
