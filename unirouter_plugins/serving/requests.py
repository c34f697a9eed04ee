"""A request of the proxy, whichever API it came in by: its chat, its parameters, what it sets for the router."""

from __future__ import annotations

import difflib
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

OPTIONS = ("cost_weight", "candidates", "question", "baseline", "check")
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
    forced: str | None = None  # the model of the pool that it names
    holder: str | None = None  # the one that holds the response which it goes on from
    client: str = ""  # its key, hashed

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
        holder = None
        if held := given.get("previous_response_id"):
            from litellm.responses.utils import ResponsesAPIRequestUtils

            holder = name_of(ResponsesAPIRequestUtils.get_model_id_from_response_id(held) or "")
        client = str(metadata_of(given).get("user_api_key_hash") or "")
        return cls(chat, parameters, _options_of(given), forced_by(given), holder, client)

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
        told, found, before = hashlib.sha256(self.client.encode()), [], ""
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

    @property
    def called(self) -> list[str]:
        """The id of the first tool call of each answer in the conversation; empty where it calls none."""
        answers = [message for message in self.chat.messages if message["role"] == "assistant"]
        return [
            str(next((call.get("id") for call in answer.get("tool_calls") or ()), None) or "") for answer in answers
        ]

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


def forced_by(given: Mapping[str, Any]) -> str | None:
    """Return the model of the pool that a request names; None where it is to be chosen."""
    group = str(metadata_of(given).get("model_group"))
    return group.removeprefix(f"{GROUP}/") if group.startswith(f"{GROUP}/") else None


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
    parameters = {name: chat[name] for name in names if chat.get(name) is not None}
    waits = [given[name] for name in ("timeout", "request_timeout", "stream_timeout") if given.get(name) is not None]
    return chat["messages"], parameters | ({"timeout": min(waits)} if waits else {})


def _check(messages: Messages, parameters: Mapping[str, Any]) -> None:
    """Raise where LiteLLM would take a malformed request for a failure of the model, and cool it down."""
    for name, kind in (("tools", list), ("functions", list), ("response_format", dict)):
        if not isinstance(parameters.get(name, kind()), kind):
            raise InvalidDataError(f"{name} is {parameters[name]!r:.40}; give what OpenAI's API takes there.")
    if not all(isinstance(call, Mapping) for message in messages for call in message.get("tool_calls") or ()):
        raise InvalidDataError("tool_calls of a message must be a list of objects.")
    for part in (part for message in messages for part in _parts(message)):
        if (named := part.get("type")) in ("text", "image_url", "input_audio", "file") and named not in part:
            raise InvalidDataError(f"{part!r:.60} has no {named!r}.")


def _parts(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    content = message.get("content")
    return [part for part in content if isinstance(part, Mapping)] if isinstance(content, list) else []


def _options_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a request sets for the router, checked; its headers win over its metadata."""
    options: dict[str, Any] = {}
    for held in (given.get("metadata") or {}, given.get("litellm_metadata") or {}):
        own = (held.get("requester_metadata") or held).get(RECORD) or {}
        if not isinstance(own, Mapping):
            raise InvalidDataError(f'metadata.{RECORD} is {own!r:.40}; give {{"cost_weight": ...}}, or other options.')
        options |= own
    headers = (given.get("proxy_server_request") or {}).get("headers") or {}
    sets = f"x-{GROUP}-"
    own = {name.lower(): value for name, value in headers.items()}
    options |= {n.removeprefix(sets).replace("-", "_"): value for n, value in own.items() if n.startswith(sets)}
    if unknown := options.keys() - {*OPTIONS}:
        near = difflib.get_close_matches(min(unknown), OPTIONS, 1, 0)[0]
        raise InvalidDataError(f"{min(unknown)!r} is nothing that a request sets; did you mean {near!r}?")
    options = {name: value for name, value in options.items() if value is not None}
    if (weight := options.get("cost_weight")) is not None:
        try:
            options["cost_weight"] = check_cost_weight(float(weight))
        except (TypeError, ValueError):
            raise InvalidDataError(f"cost_weight={weight!r:.40} must be a number of at least 0, or inf.") from None
    if isinstance(names := options.get("candidates"), str):
        options["candidates"] = names = [name.strip() for name in names.split(",") if name.strip()]
    if names is not None and not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
        raise InvalidDataError(f"candidates is {names!r:.40}; give a list of names in the pool.")
    if (check := options.get("check")) is not None:
        if (told := str(check).lower()) not in ("true", "false"):
            raise InvalidDataError(f"check is {check!r:.40}; give true or false.")
        options["check"] = told == "true"
    for name in ("question", "baseline"):
        if not isinstance(options.get(name, ""), str):
            raise InvalidDataError(f"{name} is {options[name]!r:.40}; give a text.")
    return options
