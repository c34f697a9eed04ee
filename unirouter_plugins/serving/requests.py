"""A request of the proxy, whichever API it came in by: its chat, its parameters, what it sets for the router."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from unirouter_core.exceptions import InvalidDataError
from unirouter_core.rule import check_cost_weight
from unirouter_plugins.litellm.chat import RECORD, Chat, Messages, texts_of
from unirouter_plugins.litellm.failures import open_litellm
from unirouter_plugins.serving.config import GROUP

OPTIONS = ("cost_weight", "candidates", "question", "baseline")
"""What a request may set: in the header x-unirouter-cost-weight, or in its metadata as {"unirouter": {...}}."""

_REMINDER = re.compile("<system-reminder>.*?(</system-reminder>|$)", re.DOTALL)
"""What Claude Code puts beside a prompt: instructions, lists of files and tools."""

_OF_MESSAGES = ("system", "tools", "tool_choice", "max_tokens", "temperature", "stop_sequences", "thinking", "top_p")
_OF_RESPONSES = ("instructions", "tools", "text", "max_output_tokens", "temperature", "reasoning", "top_p")


@dataclass(frozen=True)
class ProxyRequest:
    """What a client asks for."""

    chat: Chat
    parameters: Mapping[str, Any]
    options: Mapping[str, Any]
    forced: str | None = None  # the model of the pool that it names, or that holds its conversation

    @classmethod
    def of(cls, given: Mapping[str, Any], messages: Messages | None) -> Self:
        """Return the request that LiteLLM's router has been given."""
        try:
            sent, parameters = _as_chat(given, messages)
            _check(sent, {**given, **parameters})
            chat = Chat.of(sent, parameters)
        except (TypeError, ValueError, LookupError, AttributeError) as failed:  # InvalidDataError is a ValueError
            wrong = f"The request cannot be read: {failed}"
            raise failed if isinstance(failed, InvalidDataError) else InvalidDataError(wrong) from failed
        group = str(metadata_of(given).get("model_group"))
        forced = group.removeprefix(f"{GROUP}/") if group.startswith(f"{GROUP}/") else None
        if held := given.get("previous_response_id"):
            from litellm.responses.utils import ResponsesAPIRequestUtils

            forced = name_of(ResponsesAPIRequestUtils.get_model_id_from_response_id(held) or "") or forced
        return cls(chat, parameters, _options_of(given), forced)

    @property
    def text(self) -> str | None:
        """What is routed on in the place of the chat's text: the question that is set, or what an agent did not add."""
        own = _REMINDER.sub("", self.chat.text).strip() if "<system-reminder>" in self.chat.text else ""
        return self.options.get("question") or own or None

    @property
    def digests(self) -> list[str]:
        """A digest of the conversation before each answer in it, and of the whole: what its client sent until then.

        What agents add to a prompt, or put beside the results of tools, is left out: it comes and goes.
        """
        told, found, before = hashlib.sha256(), [], ""
        for message in self.chat.messages:
            role = message["role"]
            if role == "assistant":
                found.append(told.hexdigest())
            elif role not in ("system", "developer") and (before, role) != ("tool", "user"):
                texts = [_REMINDER.sub("", text).strip() for text in texts_of(message.get("content"))]
                said = [role, message.get("tool_call_id"), *filter(None, texts)]
                told.update(json.dumps(said, default=str).encode())
            before = role
        return [*found, told.hexdigest()]

    def written_by(self, models: Sequence[str | None]) -> Self:
        """Return the request, with the model that each answer in its conversation came from, where that is known."""
        if not any(models):
            return self
        each = iter(models)
        writers = [next(each) if message["role"] == "assistant" else None for message in self.chat.messages]
        return replace(self, chat=replace(self.chat, answered_by=writers))


def metadata_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata that the proxy keeps of a request: apart, where the API has metadata for the provider."""
    held: dict[str, Any] = given.get("litellm_metadata") or given.get("metadata") or {}
    return held


def name_of(deployment: str) -> str:
    """Return the model of the pool with that id in LiteLLM's router."""
    return deployment.rpartition("@")[0]


def _as_chat(given: Mapping[str, Any], messages: Messages | None) -> tuple[Messages, dict[str, Any]]:
    """Return the messages and the parameters in OpenAI's chat format."""
    prompt = [{"role": "user", "content": given.get("prompt") or ""}]
    chat: Mapping[str, Any] = {**given, "messages": prompt if messages is None else messages}
    if getattr(given.get("litellm_logging_obj"), "call_type", "") == "anthropic_messages":
        try:
            from litellm.llms.anthropic.messages.adapters.transformation import AnthropicAdapter
        except ImportError:  # before LiteLLM 1.110
            from litellm.llms.anthropic.pass_through.adapters.transformation import AnthropicAdapter

        body = {name: given[name] for name in _OF_MESSAGES if given.get(name) is not None}
        sent = [*(messages or ())]
        results = [part for part in _parts(sent[-1]) if part.get("type") == "tool_result"] if sent else []
        if results:  # what agents put beside the results of tools is no new prompt
            sent[-1] = {**sent[-1], "content": results}
        chat = AnthropicAdapter().translate_completion_input_params({**body, "model": GROUP, "messages": sent})
    elif messages is None and "input" in given:
        from litellm.responses.litellm_completion_transformation.transformation import LiteLLMCompletionResponsesConfig

        body = {name: given[name] for name in _OF_RESPONSES if given.get(name) is not None}
        transform = LiteLLMCompletionResponsesConfig.transform_responses_api_request_to_chat_completion_request
        chat = transform(GROUP, given["input"], body)
    names = {*open_litellm().OPENAI_CHAT_COMPLETION_PARAMS, "thinking"} - {"metadata", "user", "extra_headers"}
    return chat["messages"], {name: chat[name] for name in names if chat.get(name) is not None}


def _check(messages: Messages, parameters: Mapping[str, Any]) -> None:
    """Raise where LiteLLM would take a malformed request for a failure of the model, and cool it down."""
    for name, kind in (("tools", list), ("functions", list), ("response_format", dict)):
        if not isinstance(parameters.get(name, kind()), kind):
            raise InvalidDataError(f"{name} is {parameters[name]!r:.40}; give what OpenAI's API takes there.")
    for part in (part for message in messages for part in _parts(message)):
        if (kind := part.get("type")) in ("text", "image_url", "input_audio", "file") and kind not in part:
            raise InvalidDataError(f"{part!r:.60} has no {kind!r}.")


def _parts(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    content = message.get("content")
    return [part for part in content if isinstance(part, Mapping)] if isinstance(content, list) else []


def _options_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a request sets for the router, checked; its headers win over its metadata."""
    options: dict[str, Any] = {}
    for held in (given.get("metadata") or {}, given.get("litellm_metadata") or {}):
        own = (held.get("requester_metadata") or held).get(RECORD)
        options |= own if isinstance(own, Mapping) else {}
    headers = (given.get("proxy_server_request") or {}).get("headers") or {}
    named = {name: headers.get(f"x-{GROUP}-{name.replace('_', '-')}") for name in OPTIONS}
    options |= {name: value for name, value in named.items() if value is not None}
    if unknown := options.keys() - {*OPTIONS}:
        raise InvalidDataError(f"{min(unknown)!r} is nothing that a request sets; there are {', '.join(OPTIONS)}.")
    if (weight := options.get("cost_weight")) is not None:
        try:
            options["cost_weight"] = check_cost_weight(float(weight))
        except (TypeError, ValueError):
            raise InvalidDataError(f"cost_weight={weight!r:.40} must be a number of at least 0, or inf.") from None
    if isinstance(names := options.get("candidates"), str):
        options["candidates"] = [name.strip() for name in names.split(",") if name.strip()]
    return options
