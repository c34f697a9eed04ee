"""Calls of LiteLLM's functions: what LiteLLM gives to a routed call, its streams, and which parameters it knows."""

from __future__ import annotations

import difflib
import inspect
import json
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakKeyDictionary

from unirouter_core.exceptions import InvalidDataError
from unirouter_core.router import UniRouter
from unirouter_core.rule import Decision
from unirouter_plugins.litellm.chat import Chat, Messages
from unirouter_plugins.litellm.failures import open_litellm
from unirouter_plugins.litellm.pool_file import SERVED_AS, Member
from unirouter_plugins.litellm.prices import Usage, require_quote, usage_of, usd_of
from unirouter_plugins.litellm.routed import CallRecord, Content, RoutedCall
from unirouter_plugins.litellm.snapshot import PoolModels

if TYPE_CHECKING:
    from litellm import ModelResponseStream

RECORD = "unirouter"
"""Where a response's hidden parameters hold the record of its call."""

TIMEOUT = 300.0
"""Seconds until a call has failed and the next model is tried, where the caller gives none."""

_NOT_A_PARAMETER = ("model", "messages", "stream", "api_base", "base_url", "api_key")
"""What the router and the table decide; a key or an address of one model is not for the next."""


class _Arguments(PoolModels[dict[str, Any]]):
    """The models of a pool as arguments of `litellm.completion`."""

    def make(self, arguments: dict[str, Any], *, is_last: bool) -> dict[str, Any]:
        return arguments if is_last else {**arguments, "num_retries": 0, "max_retries": 0}


_MODELS: WeakKeyDictionary[UniRouter, _Arguments] = WeakKeyDictionary()


class LiteLLMCall(RoutedCall[dict[str, Any]]):
    """A call through LiteLLM's functions."""

    messages: list[Any]
    shows_usage: bool

    @classmethod
    def of(
        cls,
        router: UniRouter,
        asked: str | Messages,
        *,
        cost_weight: float | None = None,
        models: Sequence[str] | None = None,
        requires: Sequence[str] = (),
        content_policy: bool = False,
        streams: bool = False,
        **parameters: Any,
    ) -> LiteLLMCall:
        """Return the call, its model picked."""
        if isinstance(requires, str):
            raise InvalidDataError(f"{requires!r} is one name, not a list of names; put it in a list.")
        pool = _MODELS.setdefault(router, _Arguments())
        snapshot = pool.snapshot(router)
        check_parameters(parameters, snapshot.members.values())
        parameters, options = {"timeout": TIMEOUT, **parameters}, parameters.get("stream_options") or {}
        if streams:  # without usage its cost would not be known
            parameters |= {"stream": True, "stream_options": {"include_usage": True, **options}}
        chat = Chat.of(asked, parameters)
        call = cls(
            pool,
            router,
            chat,
            cost_weight=cost_weight,
            candidates=models,
            requires=requires,
            content_policy=content_policy,
            parameters=parameters,
        )
        call.messages, call.shows_usage = list(chat.messages), bool(options.get("include_usage"))
        return call

    def model_for(self, model: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments of `litellm.completion`, where the model's price is known."""
        name = self.attempts.model
        member, profile = self.snapshot.members[name], self.snapshot.pool[name]
        if SERVED_AS not in profile.provenance:
            _check_known(member)
        if self.snapshot.quote(name) is None:
            require_quote(member, profile)  # which tells how to give one
        return {**model, **self.parameters, "messages": self.messages}

    def content(self, answer: Any) -> Content:
        """Return what the first choice of a response, or of a chunk, holds."""
        if not answer.choices:
            return Content(False)
        choice = answer.choices[0]
        said = getattr(choice, "message", None) or getattr(choice, "delta", None)
        kinds = ("content", "tool_calls", "function_call", "reasoning_content", "refusal", "audio", "images")
        return Content(any(getattr(said, kind, None) for kind in kinds), choice.finish_reason)

    def is_shown(self, part: Any) -> bool:
        """Return whether a chunk has a choice, or the caller wants the usage, too."""
        return bool(part.choices) or self.shows_usage

    def usage_of(self, answer: Any) -> Usage:
        """Return the usage that a response tells."""
        return usage_of(answer)

    def usd_of(self, answer: Any, usage: Usage) -> float:
        """Return what a response cost, as LiteLLM computes it where its prices count."""
        quoted = self.snapshot.quote(self.attempts.model)
        assert quoted is not None
        return usd_of(answer, quoted, usage)

    def attach(self, answer: Any, record: CallRecord) -> Any:
        """Return the response with the record among its hidden parameters."""
        answer._hidden_params[RECORD] = record
        return answer


def _check_known(member: Member) -> None:
    """Raise `InvalidDataError` when a model is known by its record alone, and LiteLLM has none of its name."""
    try:
        open_litellm().get_llm_provider(member.model)
    except Exception as unknown:
        raise InvalidDataError(
            f"{member.name!r} is known by its record only, and LiteLLM knows no model of that name; say in pool.toml "
            f'how to call it: [models.{json.dumps(member.name)}] model = "provider/name".'
        ) from unknown


# --- Streams ----------------------------------------------------------------------------------------------------------


class _Streamed:
    """What both kinds of streams know of their call."""

    def __init__(self, call: LiteLLMCall, begun: Sequence[Any], parts: Any) -> None:
        self._call, self._parts, self._begun = call, parts, begun
        self.decision: Decision = call.decision
        self.model = call.attempts.model

    @property
    def record(self) -> CallRecord | None:
        """The record of the call; None until it has ended."""
        return self._call.finished


class Stream(_Streamed):
    """LiteLLM's chunks of one answer, as they come; they can be iterated once.

    Each has a choice. The chunk without choices that only tells the usage is part of the record; callers get it when
    they give ``stream_options={"include_usage": True}`` themselves.

    Attributes
    ----------
    decision : Decision
    model : str
        The one that answers.
    record : CallRecord or None
        The record of the call, once the last chunk has come, or the stream was closed; then without a cost.
    """

    def __init__(self, call: LiteLLMCall, begun: Sequence[Any], parts: Any) -> None:
        super().__init__(call, begun, parts)
        self._chunks = call.rest(begun, parts)

    def __iter__(self) -> Iterator[ModelResponseStream]:
        return self._chunks

    def __next__(self) -> ModelResponseStream:
        chunk: ModelResponseStream = next(self._chunks)
        return chunk

    def close(self) -> None:
        """End the answer here, and the connection to its provider."""
        self._chunks.close()
        self._parts.close()
        self._call.finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncStream(_Streamed):
    """LiteLLM's chunks of one answer, as they come; see `Stream`."""

    def __init__(self, call: LiteLLMCall, begun: Sequence[Any], parts: Any) -> None:
        super().__init__(call, begun, parts)
        self._chunks = call.arest(begun, parts)

    def __aiter__(self) -> AsyncIterator[ModelResponseStream]:
        return self._chunks

    async def __anext__(self) -> ModelResponseStream:
        chunk: ModelResponseStream = await anext(self._chunks)
        return chunk

    async def aclose(self) -> None:
        """End the answer here, and the connection to its provider."""
        await self._chunks.aclose()
        await self._parts.aclose()
        self._call.finish()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


# --- Parameters -------------------------------------------------------------------------------------------------------


def check_parameters(parameters: Iterable[str], members: Iterable[Member], more: Iterable[str] = ()) -> None:
    """Raise `InvalidDataError` where a parameter of a call is known neither to LiteLLM nor among `more`.

    Those of a provider's own that LiteLLM knows are known where one of `members` is called there.
    """
    members = list(members)
    for name in parameters:
        if name in _NOT_A_PARAMETER and name not in more:
            way = (
                "use stream or astream"
                if name == "stream"
                else "use models=[...], or pool.toml for how they are called"
            )
            raise InvalidDataError(f"{name}= is not for the caller to give; {way}.")
        if name in more or name in _parameters() or any(name in _provider_parameters(m.model) for m in members):
            continue
        nearest = difflib.get_close_matches(name, [*_parameters(), *more], 1)
        guess = f"did you mean {nearest[0]}?" if nearest else "leave it out."
        raise InvalidDataError(
            f"{name}= is no parameter that LiteLLM knows; {guess} Give one of the provider's own in extra_body={{...}}."
        )


@cache
def _parameters() -> frozenset[str]:
    """Return the names of the parameters that LiteLLM knows for all providers."""
    litellm = open_litellm()
    named = inspect.signature(litellm.completion).parameters
    ours = ("cost_weight", "models", "requires", "content_policy")
    return frozenset([*named, *litellm.OPENAI_CHAT_COMPLETION_PARAMS, *litellm.types.utils.all_litellm_params, *ours])


@cache
def _provider_parameters(model: str) -> frozenset[str]:
    """Return the names of the parameters of a model's provider that LiteLLM knows."""
    litellm = open_litellm()
    try:
        model, provider, *_ = litellm.get_llm_provider(model)
        kind = litellm.utils.ProviderConfigManager.get_provider_chat_config(model, litellm.LlmProviders(provider))
        return frozenset(name for each in type(kind).__mro__ for name in getattr(each, "__annotations__", {}))
    except Exception:  # of any kind: an unknown model or provider
        return frozenset()
