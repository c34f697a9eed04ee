"""LlamaIndex's messages and answers as the router reads them: chats, content, tokens, and where the record stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse, TextBlock
from llama_index.core.callbacks.token_counting import get_tokens_from_response
from llama_index.core.prompts import BasePromptTemplate, ChatPromptTemplate
from llama_index.core.tools import BaseTool, ToolMetadata

from unirouter_core.exceptions import InvalidDataError
from unirouter_plugins.litellm.chat import Chat, answered_by, portable_fields
from unirouter_plugins.litellm.prices import UNKNOWN, Usage, checked_usage, usage_of
from unirouter_plugins.litellm.routed import METADATA, Content, Record

_PARTS = {"image": "image_url", "audio": "input_audio", "video": "video_url", "document": "file"}
"""LlamaIndex's names for blocks in the place of text, and OpenAI's."""


# --- Messages ---------------------------------------------------------------------------------------------------------


def chat_of(
    messages: Sequence[ChatMessage], tools: Sequence[BaseTool] = (), parameters: Mapping[str, Any] | None = None
) -> Chat:
    """Return the messages in OpenAI's form, with the tools and schema of the call, as far as the router reads them.

    >>> chat_of([ChatMessage("Be brief.", role="system"), ChatMessage("What is 2 + 2?")]).text
    'What is 2 + 2?'
    """
    if isinstance(messages, str) or not isinstance(messages, Sequence):
        raise InvalidDataError(f"{messages!r:.60} is no list of messages; write [ChatMessage('...')].")
    for message in messages:
        if not isinstance(message, ChatMessage):
            raise InvalidDataError(f"{message!r:.60} is no ChatMessage; write ChatMessage('...').")
    for tool in tools:
        if not isinstance(tool, BaseTool):
            raise InvalidDataError(f"{tool!r:.60} is no tool; write FunctionTool.from_defaults(...).")
    given = parameters or {}
    return Chat(
        [_as_mapping(message) for message in messages],
        [
            {"name": each.name, "description": each.description, "parameters": _parameters(each.fn_schema)}
            for each in (tool.metadata for tool in tools)
        ]
        or given.get("tools")
        or (),
        given.get("response_format"),
        [model_of(message) for message in messages],
    )


def model_of(message: ChatMessage) -> str | None:
    """Return the model of the pool that a message came from; None where it came from elsewhere."""
    return answered_by(message.additional_kwargs.get(METADATA))


def _as_mapping(message: ChatMessage) -> dict[str, Any]:
    """Return a message in OpenAI's form; its content is one text where that is all there is."""
    role, text = message.role.value, message.content or ""
    if role == "user" and text.startswith("Observation:"):  # a tool's result, as ReAct agents send it
        role = "tool"
    others = [{"type": _PARTS[block.block_type]} for block in message.blocks if block.block_type in _PARTS]
    calls = [block.model_dump() for block in message.blocks if block.block_type == "tool_call"]
    calls = calls or message.additional_kwargs.get("tool_calls") or []
    content = [*([{"type": "text", "text": text}] if text else []), *others] if others else text
    return {"role": role, "content": content, **({"tool_calls": calls} if calls else {})}


@lru_cache(maxsize=256)  # a schema takes 0.2 ms to make
def _parameters(fn_schema: Any) -> dict[str, Any]:
    return ToolMetadata("", fn_schema=fn_schema).get_parameters_dict()


def without_records(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    """Return the messages as they are sent: LLMs pass on all of a message's `additional_kwargs`."""
    kept = [{n: value for n, value in m.additional_kwargs.items() if n != METADATA} for m in messages]
    return [
        m.model_copy(update={"additional_kwargs": rest}) if METADATA in m.additional_kwargs else m
        for m, rest in zip(messages, kept, strict=True)
    ]


def portable(message: ChatMessage) -> ChatMessage:
    """Return a message without what only the model that wrote it understands."""
    blocks = [block for block in message.blocks if block.block_type != "thinking"]
    return message.model_copy(
        update={"blocks": blocks, "additional_kwargs": portable_fields(message.additional_kwargs)}
    )


def as_sent(prompt: BasePromptTemplate) -> BasePromptTemplate:
    """Return a copy of a prompt for one LLM: without records, and for it to set its own output parser."""
    if not isinstance(prompt, ChatPromptTemplate):
        return prompt.model_copy()
    messages = without_records(prompt.message_templates)  # they may hold earlier answers
    return prompt.model_copy(update={"message_templates": messages})


# --- Answers ----------------------------------------------------------------------------------------------------------


def with_record(answer: Any, record: Record) -> Any:
    """Return a copy of an answer, or of a part of it, with the record: LLMs may keep their answers.

    Objects that were parsed from an answer have no place for it, and stay as they are.
    """
    if not isinstance(answer, ChatResponse | CompletionResponse):
        return answer
    update: dict[str, Any] = {"additional_kwargs": {**answer.additional_kwargs, METADATA: record}}
    if isinstance(answer, ChatResponse):
        known = {**answer.message.additional_kwargs, METADATA: record}
        update["message"] = answer.message.model_copy(update={"additional_kwargs": known})
    return answer.model_copy(update=update)


def content_of(answer: Any) -> Content:
    """Return what an answer, or a part of it, holds; a parsed object is one."""
    if isinstance(answer, ChatResponse):
        message = answer.message
        has_block = any(not isinstance(block, TextBlock) or block.text for block in message.blocks)
        return Content(bool(answer.delta or has_block or any(message.additional_kwargs.values())), _finish(answer.raw))
    if isinstance(answer, CompletionResponse):
        has_content = bool(answer.delta or answer.text or answer.additional_kwargs.get("tool_calls"))
        return Content(has_content, _finish(answer.raw))
    return Content(True, "stop")


def _finish(raw: Any) -> str | None:
    """Return the finish reason of a raw answer, None where it has no choice; LLMs of another form only end."""
    choices = _field(raw, "choices")
    if not isinstance(choices, Sequence):
        return "stop"
    return _field(choices[0], "finish_reason") if choices else None


def _field(holder: Any, name: str) -> Any:
    return holder.get(name) if isinstance(holder, Mapping) else getattr(holder, name, None)


def usage_in(answer: Any) -> Usage:
    """Return the tokens that an answer tells, in any of the forms that LlamaIndex knows."""
    if not isinstance(answer, ChatResponse | CompletionResponse) or answer.raw is None:
        return UNKNOWN
    told = usage_of(answer.raw)
    if told.is_known:
        return told
    try:
        return checked_usage(*get_tokens_from_response(answer))
    except (TypeError, ValueError, AttributeError):  # a raw answer of a form that LlamaIndex does not know
        return UNKNOWN
