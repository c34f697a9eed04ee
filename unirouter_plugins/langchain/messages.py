"""A LangChain conversation as the router reads it: the text to route on, its tokens, and who has answered so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    convert_to_messages,
)
from langchain_core.prompt_values import PromptValue

from unirouter_core.costs import TokenCounter
from unirouter_core.exceptions import InvalidDataError
from unirouter_plugins.litellm.chat import Chat
from unirouter_plugins.litellm.records import METADATA

_ROLES = {HumanMessage: "user", AIMessage: "assistant", SystemMessage: "system"}


def messages_of(input: LanguageModelInput) -> list[BaseMessage]:
    """Return the messages of all that a chat model takes: a text, messages, or what a prompt template makes."""
    if isinstance(input, PromptValue):
        return input.to_messages()
    return [HumanMessage(input)] if isinstance(input, str) else convert_to_messages(input)


def answered_by(message: BaseMessage) -> str | None:
    """Return the model of the pool that a message came from; None where it came from elsewhere."""
    record = message.response_metadata.get(METADATA) if isinstance(message, AIMessage) else None
    model = record.get("model") if isinstance(record, Mapping) else None
    return model if isinstance(model, str) else None


@dataclass(frozen=True, eq=False)
class Conversation:
    """Messages, with all that is sent beside them.

    Parameters
    ----------
    messages : sequence of BaseMessage
    parameters : mapping
        What the model is called with: of it, `tools` and `response_format` are read, in OpenAI's form.
    documents : sequence of str
        Texts to route on together with the newest prompt.
    reads_system : bool
        Whether the system messages are routed on, too.

    Examples
    --------
    >>> from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
    >>> conversation = Conversation([SystemMessage("Be brief."), HumanMessage("What is 2 + 2?")])
    >>> conversation.text
    'What is 2 + 2?'
    """

    messages: Sequence[BaseMessage]
    parameters: Mapping[str, Any] | None = None
    documents: Sequence[str] = ()
    reads_system: bool = False

    @cached_property
    def chat(self) -> Chat:
        """The conversation in OpenAI's form, as far as the router reads it."""
        given = self.parameters or {}
        tools = given.get("tools") or given.get("functions") or ()
        return Chat([_as_mapping(message) for message in self.messages], tools, given.get("response_format"))

    @cached_property
    def text(self) -> str:
        """What the router decides on: what is asked, after the documents."""
        return "\n\n".join((*filter(None, self.documents), self.asked))

    @cached_property
    def asked(self) -> str:
        """What is asked: the newest text of the user, after the system text if that is read.

        Where the user said nothing, it is the newest text of anybody, else what is attached.

        Raises
        ------
        InvalidDataError
            When nothing is said and nothing attached.
        """
        said = self.chat.prompt
        newest = said or next(filter(str.strip, (m.text for m in reversed(self.messages))), "") or self._attached
        if not newest:
            raise InvalidDataError("There is no text to route on; give a message that is not empty.")
        reads_system = self.reads_system and said
        system = [m.text for m in self.messages if isinstance(m, SystemMessage)] if reads_system else []
        return "\n\n".join(str(text) for text in (*system, newest) if text)

    @property
    def _attached(self) -> str:
        """What comes from the user in the place of text: images, files, recordings."""
        parts = [
            part for message in self.messages if isinstance(message, HumanMessage) for part in message.content_blocks
        ]
        return " and ".join(f"an attached {part['type']}" for part in parts if part["type"] != "text")

    @property
    def is_bare(self) -> bool:
        """Whether what is routed on is all that is sent, as when models are measured."""
        return self.chat.is_bare and self.chat.messages[0]["content"] == self.text

    @property
    def in_loop_of(self) -> str | None:
        """The model whose tool calls have just been answered; None outside of a tool loop, or when it is not known."""
        if not self.messages or not isinstance(self.messages[-1], ToolMessage):
            return None
        return next((answered_by(m) for m in reversed(self.messages) if not isinstance(m, ToolMessage)), None)

    def tokens(self, counter: TokenCounter) -> tuple[float, dict[str, float]]:
        """Return the tokens of all that is sent, and how many of them each model was sent when it last answered."""
        return self.chat.count_sent_before(counter, [answered_by(message) for message in self.messages])


def _as_mapping(message: BaseMessage) -> dict[str, Any]:
    role = next((role for kind, role in _ROLES.items() if isinstance(message, kind)), "tool")
    role = message.role if isinstance(message, ChatMessage) else role
    calls = {"tool_calls": message.tool_calls} if isinstance(message, AIMessage) and message.tool_calls else {}
    return {"role": role, "content": message.content, **calls}
