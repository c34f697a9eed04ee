"""LangChain's messages as the router reads them, and what a caller may set for one call under "configurable"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from langchain_core.runnables import ConfigurableFieldSpec

from unirouter_core.exceptions import InvalidDataError
from unirouter_plugins.litellm.chat import Chat, answered_by, portable_fields, portable_id, portable_parts, texts_of
from unirouter_plugins.litellm.routed import METADATA

_ROLES = {HumanMessage: "user", AIMessage: "assistant", SystemMessage: "system"}


def messages_of(input: LanguageModelInput) -> list[BaseMessage]:
    """Return the messages of all that a chat model takes: a text, messages, or what a prompt template makes."""
    if isinstance(input, PromptValue):
        return input.to_messages()
    return [HumanMessage(input)] if isinstance(input, str) else convert_to_messages(input)


def chat_of(messages: Sequence[BaseMessage], parameters: Mapping[str, Any] | None = None) -> Chat:
    """Return the messages in OpenAI's form, as far as the router reads it, with the tools and schema in `parameters`.

    >>> chat_of([SystemMessage("Be brief."), HumanMessage("What is 2 + 2?")]).text
    'What is 2 + 2?'
    """
    given = parameters or {}
    return Chat(
        [_as_mapping(message) for message in messages],
        given.get("tools") or given.get("functions") or (),
        given.get("response_format"),
        [answered_by(m.response_metadata.get(METADATA)) if isinstance(m, AIMessage) else None for m in messages],
    )


def _as_mapping(message: BaseMessage) -> dict[str, Any]:
    role = next((role for kind, role in _ROLES.items() if isinstance(message, kind)), "tool")
    role = message.role if isinstance(message, ChatMessage) else role
    calls = {"tool_calls": message.tool_calls} if isinstance(message, AIMessage) and message.tool_calls else {}
    return {"role": role, "content": message.content, **calls}


def portable(message: BaseMessage) -> BaseMessage:
    """Return a message without what only the model that wrote it understands."""
    update: dict[str, Any] = {"content": portable_parts(message.content)}
    update["additional_kwargs"] = portable_fields(message.additional_kwargs)
    if isinstance(message, AIMessage):
        update["tool_calls"] = [{**call, "id": portable_id(call["id"])} for call in message.tool_calls]
    if isinstance(message, ToolMessage):
        update["tool_call_id"] = portable_id(message.tool_call_id)
    return message.model_copy(update=update)


def text_of(chat: Chat, documents: Sequence[str] = (), *, reads_system: bool = False) -> str:
    """Return what to route on: the pinned documents and, if wanted, the system text, before the chat's own text."""
    reads_system = reads_system and bool(chat.prompt)
    system = [m["content"] for m in chat.messages if m["role"] == "system"] if reads_system else []
    texts = [*documents, *("\n".join(texts_of(content)) for content in system), chat.text]
    return "\n\n".join(filter(None, texts))


_PREFIX = "unirouter_"  # other parts of a graph read the same config

CONFIG_SPECS = [
    ConfigurableFieldSpec(_PREFIX + name, annotation, title, description, default)
    for name, annotation, title, description, default in (
        (
            "cost_weight",
            float | None,
            "Cost weight",
            "What error one USD is worth: 0 any price, inf the cheapest.",
            None,
        ),
        ("model", str | None, "Model", "The model of the pool that answers, whatever the router would choose.", None),
        ("models", Sequence[str] | None, "Candidates", "The models of the pool to choose among.", None),
        (
            "documents",
            Sequence[str],
            "Pinned documents",
            "Texts that the router reads before the prompt; not sent.",
            (),
        ),
    )
]


def per_call(configurable: Mapping[str, Any]) -> dict[str, Any]:
    """Return what "configurable" holds for the router, without the prefix; `documents` as texts."""
    given = {name: value for name, value in configurable.items() if name.startswith(_PREFIX)}
    if unknown := sorted(given.keys() - {spec.id for spec in CONFIG_SPECS}):
        known = ", ".join(spec.id for spec in CONFIG_SPECS)
        raise InvalidDataError(f"{unknown[0]} is not known under 'configurable'; there are {known}.")
    settings = {name.removeprefix(_PREFIX): value for name, value in given.items()}
    documents = settings.get("documents") or ()
    if isinstance(documents, str):
        raise InvalidDataError(f"{documents!r:.60} is one document; put it in a list.")
    texts = tuple(getattr(document, "page_content", document) for document in documents)
    if others := [text for text in texts if not isinstance(text, str)]:
        raise InvalidDataError(f"{others[0]!r:.60} is no document; give texts, or LangChain documents.")
    return {**settings, "documents": texts}
