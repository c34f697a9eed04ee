"""A call of LlamaIndex as the router reads it: the text to route on, its tokens, and whose tool calls were answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ImageBlock, MessageRole, TextBlock
from llama_index.core.prompts import BasePromptTemplate, ChatPromptTemplate
from llama_index.core.tools import BaseTool, ToolMetadata

from unirouter_core.costs import TokenCounter
from unirouter_core.exceptions import InvalidDataError
from unirouter_plugins.litellm.chat import Chat
from unirouter_plugins.litellm.routed import METADATA

_TOOL_ROLES = (MessageRole.TOOL, MessageRole.FUNCTION)

_TOOL_CALL = "tool_call"
"""LlamaIndex's name for blocks of a class that it does not have in all versions."""

_ATTACHED = ("image", "audio", "video", "document")
"""Its names for blocks that come in the place of text."""

_OBSERVATION = "Observation:"
"""How ReAct agents begin what a tool said, which they send as if the user had."""


def answered_by(message: ChatMessage) -> str | None:
    """Return the model of the pool that a message came from; None where it came from elsewhere."""
    record = message.additional_kwargs.get(METADATA)
    model = record.get("model") if isinstance(record, Mapping) else None
    return model if isinstance(model, str) else None


def without_records(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    """Return the messages as they are sent: LLMs pass on all of a message's `additional_kwargs`."""
    return [_without_record(message) if METADATA in message.additional_kwargs else message for message in messages]


def as_sent(prompt: BasePromptTemplate) -> BasePromptTemplate:
    """Return a copy of a prompt for one LLM: without records, and for it to put its own output parser in."""
    update = {}
    if isinstance(prompt, ChatPromptTemplate):  # a chat that is a prompt may hold answers of before
        update["message_templates"] = without_records(prompt.message_templates)
    return prompt.model_copy(update=update)


def _without_record(message: ChatMessage) -> ChatMessage:
    rest = {name: value for name, value in message.additional_kwargs.items() if name != METADATA}
    return message.model_copy(update={"additional_kwargs": rest})


@dataclass(frozen=True, eq=False)
class Asked:
    """What one call sends.

    Parameters
    ----------
    messages : sequence of ChatMessage
    tools : sequence of BaseTool
    parameters : mapping
        What the LLM is called with besides: of it, `tools` and `response_format` are read, in OpenAI's form.

    Examples
    --------
    >>> from llama_index.core.llms import ChatMessage
    >>> asked = Asked([ChatMessage("Be brief.", role="system"), ChatMessage("What is 2 + 2?")])
    >>> asked.text
    'What is 2 + 2?'
    """

    messages: Sequence[ChatMessage]
    tools: Sequence[BaseTool] = ()
    parameters: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.messages, str) or not isinstance(self.messages, Sequence):
            raise InvalidDataError(f"{self.messages!r:.60} is no list of messages; write [ChatMessage('...')].")
        for message in self.messages:
            if not isinstance(message, ChatMessage):
                raise InvalidDataError(f"{message!r:.60} is no ChatMessage; write ChatMessage('...').")
        for tool in self.tools:
            if not isinstance(tool, BaseTool):
                raise InvalidDataError(f"{tool!r:.60} is no tool; write FunctionTool.from_defaults(...).")

    @cached_property
    def chat(self) -> Chat:
        """The same in OpenAI's form, as far as the router reads it."""
        given = self.parameters or {}
        tools = [_as_tool(tool.metadata) for tool in self.tools]
        messages = [_as_mapping(message) for message in self.messages]
        return Chat(messages, tools or given.get("tools") or (), given.get("response_format"))

    @cached_property
    def text(self) -> str:
        """The newest text of the user; where the user said nothing, of anybody, else what is attached.

        Raises
        ------
        InvalidDataError
            When nothing is said and nothing attached.
        """
        newest = self.chat.prompt or next(filter(str.strip, (m.content or "" for m in reversed(self.messages))), "")
        kinds = [block.block_type for message in self.messages for block in message.blocks]
        attached = " and ".join(f"an attached {kind}" for kind in kinds if kind in _ATTACHED)
        asked = newest if newest.strip() else attached
        if not asked:
            raise InvalidDataError("There is no text to route on; give a message that is not empty.")
        return asked

    def count_tokens(self, counter: TokenCounter) -> tuple[float, dict[str, float]]:
        """Return the tokens of all that is sent, and how many of them each model was sent when it last answered."""
        return self.chat.count_sent_before(counter, [answered_by(message) for message in self.messages])

    @property
    def in_loop_of(self) -> str | None:
        """The model whose tool calls have just been answered; None outside of a tool loop, or when it is not known."""
        if not self.messages or self.messages[-1].role not in _TOOL_ROLES:
            return None
        return next((answered_by(m) for m in reversed(self.messages) if m.role not in _TOOL_ROLES), None)


def _as_mapping(message: ChatMessage) -> dict[str, Any]:
    """Return a message in OpenAI's form; its content is one text where that is all there is."""
    role, parts = message.role.value, [part for block in message.blocks if (part := _as_part(block))]
    if role == "user" and (message.content or "").startswith(_OBSERVATION):
        role = "tool"
    content = message.content or "" if all(part["type"] == "text" for part in parts) else parts
    calls = [block.model_dump() for block in message.blocks if block.block_type == _TOOL_CALL]
    calls = calls or message.additional_kwargs.get("tool_calls") or []
    return {"role": role, "content": content, **({"tool_calls": calls} if calls else {})}


def _as_part(block: Any) -> dict[str, Any] | None:
    if isinstance(block, TextBlock):
        return {"type": "text", "text": block.text}
    return {"type": "image_url"} if isinstance(block, ImageBlock) else None


def _as_tool(tool: ToolMetadata) -> dict[str, Any]:
    return {"name": tool.name, "description": tool.description, "parameters": _parameters(tool.fn_schema)}


@lru_cache(maxsize=256)  # a schema takes 0.2 ms to make
def _parameters(fn_schema: Any) -> dict[str, Any]:
    return ToolMetadata("", fn_schema=fn_schema).get_parameters_dict()
