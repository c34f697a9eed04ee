"""A prompt or a chat as it is sent: the text to route on, its tokens, what it requires, the model it stays with."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

from unirouter_core.costs import TokenCounter
from unirouter_core.exceptions import InvalidDataError

Message: TypeAlias = Mapping[str, Any]
Messages: TypeAlias = Sequence[Message]

PER_MESSAGE = 4  # tokens that a chat format adds to each message: its role and its ends
PER_IMAGE = 800  # tokens of an image, about: providers count from 85 to some thousands, by its size
_TOOL_ROLES = ("tool", "function")


@dataclass(frozen=True, eq=False)
class Chat:
    """What one call sends, in OpenAI's chat format, which is LiteLLM's.

    Examples
    --------
    >>> chat = Chat.of([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 2 + 2?"}])
    >>> chat.text, chat.requires
    ('What is 2 + 2?', ())
    """

    messages: Messages
    tools: Sequence[Any] = ()
    response_format: Any = None
    answered_by: Sequence[str | None] = ()  # the model of the pool that each message came from, where that is known

    @classmethod
    def of(cls, asked: str | Messages, parameters: Mapping[str, Any] | None = None) -> Chat:
        """Return the chat of a prompt, or of messages; `parameters` are those of LiteLLM's `completion`.

        Raises `InvalidDataError` when a message is no mapping with a role, or there is nothing to route on.
        """
        if isinstance(asked, Mapping):
            raise InvalidDataError(f"{asked!r:.60} is one message, not a list of messages; put it in a list.")
        given = parameters or {}
        each = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
        # LiteLLM's own messages of earlier responses are pydantic models
        messages = [m.model_dump(exclude_none=True) if hasattr(m, "model_dump") else m for m in each]
        for message in messages:
            if not isinstance(message, Mapping) or "role" not in message:
                raise InvalidDataError(f"{message!r:.60} is no message; write {{'role': 'user', 'content': '...'}}.")
        chat = cls(messages, given.get("tools") or given.get("functions") or (), given.get("response_format"))
        _ = chat.text
        return chat

    # --- What to route on ---------------------------------------------------------------------------------------------

    @cached_property
    def prompt(self) -> str:
        """The newest text of the user; empty where there is none."""
        newest = newest_prompt(self.messages)
        return "" if newest is None else "\n".join(texts_of(self.messages[newest].get("content")))

    @cached_property
    def text(self) -> str:
        """The newest text of the user; where there is none, of any role, else what is attached."""
        if self.prompt:
            return self.prompt
        each = ("\n".join(texts_of(message.get("content"))) for message in reversed(self.messages))
        found = next(filter(str.strip, each), "") or " and ".join(f"an attached {kind}" for kind in self._attached)
        if not found:
            raise InvalidDataError("There is no text to route on; give a prompt, or a message that is not empty.")
        return found

    @property
    def _attached(self) -> list[str]:
        """What the user sends in the place of text: image, audio, file."""
        parts = [part for message in self.messages if message["role"] == "user" for part in _parts_of(message)]
        kinds = [str(part.get("type", "")).removeprefix("input_").removesuffix("_url") for part in parts]
        return [kind for kind in kinds if kind and kind != "text"]

    @property
    def is_bare(self) -> bool:
        """Whether the prompt is all that is sent, as when models are evaluated."""
        alone = len(self.messages) == 1 and not self.tools and not self.response_format
        return alone and isinstance(self.messages[0].get("content"), str)

    @cached_property
    def requires(self) -> tuple[str, ...]:
        """What a model must be able to do: of "tools", "vision", "json"."""
        images = any(_n_images(message) for message in self.messages)
        needed = {"tools": bool(self.tools), "vision": images, "json": is_json(self.response_format)}
        return tuple(name for name, is_needed in needed.items() if is_needed)

    @property
    def in_loop_of(self) -> str | None:
        """The model whose tool calls the newest messages answer; None outside of a tool loop, or when not known."""
        if not self.answered_by or self.messages[-1]["role"] not in _TOOL_ROLES:
            return None
        each = zip(reversed(self.messages), reversed(self.answered_by), strict=True)
        return next((model for message, model in each if message["role"] not in _TOOL_ROLES), None)

    # --- Tokens -------------------------------------------------------------------------------------------------------

    def count_tokens(self, counter: TokenCounter) -> float:
        """Return about how many tokens are sent: texts, tools and response format, messages' own and images'."""
        texts = [text for message in self.messages for text in texts_of(message.get("content"))]
        calls = [message["tool_calls"] for message in self.messages if message.get("tool_calls")]
        schemas = [*self.tools, *([self.response_format] if self.response_format else []), *calls]
        texts += [json.dumps(schema, default=str, ensure_ascii=False) for schema in schemas]
        counted = float(counter.count(texts).sum()) if texts else 0.0
        return counted + PER_MESSAGE * len(self.messages) + PER_IMAGE * sum(map(_n_images, self.messages))

    def count_sent_before(self, counter: TokenCounter) -> tuple[float, dict[str, float]]:
        """Return the tokens of all that is sent, and how many of them each model was sent when it last answered.

        Those are what its provider may have cached: the same messages up to that answer, and the tools.
        """
        newest = {model: place for place, model in enumerate(self.answered_by) if model}
        cuts = sorted({0, *newest.values(), len(self.messages)})
        tokens, sent = Chat((), self.tools, self.response_format).count_tokens(counter), {}
        for start, end in itertools.pairwise(cuts):
            tokens += Chat(self.messages[start:end]).count_tokens(counter)
            sent[end] = tokens
        return tokens, {model: sent[place] for model, place in newest.items() if place}


def newest_prompt(messages: Messages) -> int | None:
    """Return the position of the user's newest message that has text."""
    users = (place for place in reversed(range(len(messages))) if messages[place]["role"] == "user")
    return next((place for place in users if any(map(str.strip, texts_of(messages[place].get("content"))))), None)


def texts_of(content: Any) -> Iterator[str]:
    """Yield the texts of a message's content, which is a text or a list of parts."""
    parts = [content] if isinstance(content, str) else content if isinstance(content, Sequence) else ()
    for part in parts:
        text = part.get("text") if isinstance(part, Mapping) else part
        if isinstance(text, str):
            yield text


def _parts_of(message: Message) -> list[Mapping[str, Any]]:
    content = message.get("content")
    parts = content if isinstance(content, Sequence) and not isinstance(content, str) else ()
    return [part for part in parts if isinstance(part, Mapping)]


def _n_images(message: Message) -> int:
    return sum("image" in str(part.get("type", "")) for part in _parts_of(message))


def is_json(response_format: Any) -> bool:
    """Return whether answers are held to JSON: a mapping that says so, or a pydantic class."""
    if isinstance(response_format, Mapping):
        return str(response_format.get("type", "")).startswith("json")
    return response_format is not None


def answered_by(record: Any) -> str | None:
    """Return the model of the pool that a message came from, by the record in its metadata; None without one."""
    model = record.get("model") if isinstance(record, Mapping) else None
    return model if isinstance(model, str) else None
