"""LlamaIndex's `LiteLLM` for responses and chunks without choices, which it cannot read by itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, MessageRole
from llama_index.llms.litellm import LiteLLM  # type: ignore[import-untyped]
from llama_index.llms.litellm.utils import (  # type: ignore[import-untyped]
    acompletion_with_retry,
    completion_with_retry,
    from_litellm_message,
    to_openai_message_dicts,
    update_tool_calls,
)


class PoolLiteLLM(LiteLLM):  # type: ignore[misc]
    """A `LiteLLM` whose responses may have no choices, as the last chunk of a stream, which tells the usage."""

    def _chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        return _whole(completion_with_retry(**self._arguments(messages, kwargs, stream=False)))

    async def _achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        return _whole(await acompletion_with_retry(**self._arguments(messages, kwargs, stream=False)))

    def _stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> Iterator[ChatResponse]:
        yield from map(_Answer().part, completion_with_retry(**self._arguments(messages, kwargs, stream=True)))

    async def _astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> AsyncIterator[ChatResponse]:
        chunks, answer = await acompletion_with_retry(**self._arguments(messages, kwargs, stream=True)), _Answer()
        return (answer.part(chunk) async for chunk in chunks)

    def _arguments(self, messages: Sequence[ChatMessage], kwargs: dict[str, Any], *, stream: bool) -> dict[str, Any]:
        arguments = {**self._get_all_kwargs(**kwargs), "messages": to_openai_message_dicts(messages), "stream": stream}
        if stream:  # else LiteLLM does not tell what it took
            arguments["stream_options"] = {"include_usage": True, **(arguments.get("stream_options") or {})}
        if arguments.get("max_tokens") is None:
            arguments.pop("max_tokens", None)  # some providers refuse a limit that is null
        return {**arguments, "is_chat_model": True, "max_retries": self.max_retries}


def _whole(response: Any) -> ChatResponse:
    """Return LlamaIndex's form of a response; one without choices is empty."""
    empty = ChatMessage(role=MessageRole.ASSISTANT, content="")
    message = from_litellm_message(response.choices[0].message) if response.choices else empty
    return ChatResponse(message=message, raw=response)


class _Answer:
    """The answer of a stream so far: each part holds all of it, as LlamaIndex's streams do."""

    def __init__(self) -> None:
        self._text, self._tool_calls = "", list[dict[str, Any]]()

    def part(self, chunk: Any) -> ChatResponse:
        delta = chunk.choices[0].delta if chunk.choices else None
        text, role = getattr(delta, "content", None) or "", getattr(delta, "role", None) or MessageRole.ASSISTANT
        self._text += text
        self._tool_calls = update_tool_calls(self._tool_calls, getattr(delta, "tool_calls", None))
        calls = {"tool_calls": self._tool_calls} if self._tool_calls else {}
        message = ChatMessage(role=role, content=self._text, additional_kwargs=calls)
        return ChatResponse(message=message, delta=text, raw=chunk)
