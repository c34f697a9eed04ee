"""A function from messages to text as a custom provider of LiteLLM: sync, async and streams."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from unirouter_core.costs import TokenCounter
from unirouter_plugins.litellm.chat import texts_of
from unirouter_plugins.litellm.failures import open_litellm

Messages: TypeAlias = Sequence[Mapping[str, Any]]


def text_provider(answer: Callable[[str, Messages], str]) -> Any:
    """Return a `litellm.CustomLLM` whose models answer with ``answer(model, messages)``; streams come by the word."""
    litellm, counter = open_litellm(), TokenCounter()

    def reply(model: str, messages: Messages) -> tuple[str, dict[str, int]]:
        text = answer(model, messages)
        sent = " ".join(map(text_of, messages))
        tokens_in, tokens_out = counter.count([sent, text]).astype(int).tolist()
        usage = {"prompt_tokens": tokens_in, "completion_tokens": tokens_out, "total_tokens": tokens_in + tokens_out}
        return text, usage

    class TextProvider(litellm.CustomLLM):  # type: ignore[misc, name-defined]
        def completion(self, model: str, messages: Messages, *, model_response: Any, **_: Any) -> Any:
            text, usage = reply(model, messages)
            model_response.model = model
            model_response.choices[0].message.content = text
            model_response.choices[0].finish_reason = "stop"
            model_response.usage = litellm.Usage(**usage)
            return model_response

        async def acompletion(self, *args: Any, **named: Any) -> Any:
            return self.completion(*args, **named)

        def streaming(self, model: str, messages: Messages, **_: Any) -> Iterator[dict[str, Any]]:
            text, usage = reply(model, messages)
            chunk = {"index": 0, "is_finished": False, "finish_reason": "", "usage": None, "tool_use": None}
            for word in re.findall(r"\s*\S+\s*", text):
                yield {**chunk, "text": word}
            yield {**chunk, "text": "", "is_finished": True, "finish_reason": "stop", "usage": usage}

        async def astreaming(self, model: str, messages: Messages, **_: Any) -> AsyncIterator[dict[str, Any]]:
            for chunk in self.streaming(model, messages):
                yield chunk

    return TextProvider()


def newest_prompt(messages: Messages) -> str:
    """Return the text of the newest message of the user."""
    return next((text_of(message) for message in reversed(messages) if message.get("role") == "user"), "")


def text_of(message: Mapping[str, Any]) -> str:
    """Return the text of a message."""
    return "\n".join(texts_of(message.get("content")))
