"""The chat models of a pool, and one call of the picked one: what LangChain gives to a routed call."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, TypeAlias, cast

from langchain_core.caches import RETURN_VAL_TYPE, BaseCache
from langchain_core.callbacks import BaseCallbackHandler, Callbacks
from langchain_core.globals import get_llm_cache
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    ToolMessage,
    convert_to_messages,
)
from langchain_core.messages.ai import UsageMetadata, add_ai_message_chunks, add_usage
from langchain_core.outputs import ChatGeneration, LLMResult
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables import ConfigurableFieldSpec, Runnable, RunnableConfig

from unirouter_core.exceptions import InvalidDataError
from unirouter_core.pool import Capabilities, ModelProfile
from unirouter_core.router import UniRouter
from unirouter_plugins.langchain.questions import Repeats
from unirouter_plugins.litellm import check_settings
from unirouter_plugins.litellm.chat import Chat, Messages, answered_by, portable_fields, portable_id, portable_parts
from unirouter_plugins.litellm.prices import Usage, usage_of, usd_of
from unirouter_plugins.litellm.routed import METADATA, CallRecord, Content, RoutedCall
from unirouter_plugins.litellm.snapshot import PoolModels, Snapshot

_Settings: TypeAlias = Mapping[str, Any] | None

_FIELDS = ("temperature", "top_p", "top_k", "max_tokens", "n")
"""LiteLLM's parameters that a `ChatLiteLLM` has fields for, so that traces show them; the others go beside."""

_FLAGS = {
    **{"tools": "tool_calling", "vision": "image_inputs", "json": "structured_output", "audio": "audio_inputs"},
    **{"video": "video_inputs", "pdf": "pdf_inputs"},
}
"""Our names of capabilities, and those of LangChain's `model.profile`."""


# --- Messages, and what a caller may set for one call -----------------------------------------------------------------

_ROLES = {"human": "user", "ai": "assistant", "system": "system"}


def messages_of(input: LanguageModelInput) -> list[BaseMessage]:
    """Return the messages of all that a chat model takes: a text, messages, or what a prompt template makes."""
    if isinstance(input, PromptValue):
        return input.to_messages()
    return [HumanMessage(input)] if isinstance(input, str) else convert_to_messages(input)


def chat_of(messages: str | Sequence[BaseMessage], parameters: Mapping[str, Any] | None = None) -> Chat:
    """Return the messages in OpenAI's form, as far as the router reads it, with the tools and schema in `parameters`.

    >>> chat_of(messages_of([("system", "Be brief."), ("user", "What is 2 + 2?")])).text
    'What is 2 + 2?'
    """
    if isinstance(messages, str):
        return Chat.of(messages, parameters)
    given, answered = parameters or {}, [answered_by(m.response_metadata.get(METADATA)) for m in messages]
    tools = given.get("tools") or given.get("functions") or ()
    return Chat([_as_mapping(message) for message in messages], tools, given.get("response_format"), answered)


def _as_mapping(message: BaseMessage) -> dict[str, Any]:
    kind = message.type.removesuffix("MessageChunk").lower()
    said = {"role": _ROLES.get(kind) or getattr(message, "role", "tool"), "content": message.content}
    calls = getattr(message, "tool_calls", None)
    return {**said, "tool_calls": calls} if calls else said


def portable(message: BaseMessage) -> BaseMessage:
    """Return a message without what only the model that wrote it understands."""
    update: dict[str, Any] = {"content": portable_parts(message.content)}
    update["additional_kwargs"] = portable_fields(message.additional_kwargs)
    if isinstance(message, AIMessage):
        update["tool_calls"] = [{**call, "id": portable_id(call["id"])} for call in message.tool_calls]
    if isinstance(message, ToolMessage):
        update["tool_call_id"] = portable_id(message.tool_call_id)
    return message.model_copy(update=update)


_PREFIX = "unirouter_"  # other parts of a graph read the same config

CONFIG_SPECS = [
    ConfigurableFieldSpec(_PREFIX + name, annotation, title, description, default)
    for name, annotation, title, description, default in (
        ("cost_weight", float | None, "Cost weight", "The error that one USD is worth; inf is the cheapest.", None),
        ("model", str | None, "Model", "The model of the pool that answers, whatever the router would choose.", None),
        ("models", Sequence[str] | None, "Candidates", "The models of the pool to choose among.", None),
        ("question", str | None, "Question", "What a longer message is routed on; '' is the whole message.", None),
        ("check", bool, "Check", "Whether answers may be checked; a checked stream begins when it is whole.", True),
        ("documents", Sequence[str], "Pinned documents", "Texts that are routed on before the prompt; not sent.", ()),
    )
]
_KNOWN = [spec.id for spec in CONFIG_SPECS]


def per_call(configurable: Mapping[str, Any]) -> dict[str, Any]:
    """Return what "configurable" holds for the router, without the prefix; `documents` as texts."""
    given = {name: value for name, value in configurable.items() if name.startswith(_PREFIX)}
    if not given:
        return {"documents": ()}
    if unknown := sorted(given.keys() - _KNOWN):
        raise InvalidDataError(f"{unknown[0]} is not known under 'configurable'; there are {', '.join(_KNOWN)}.")
    documents = given.get(f"{_PREFIX}documents") or ()
    if isinstance(documents, str):
        raise InvalidDataError(f"{documents!r:.60} is one document; put it in a list.")
    texts = tuple(getattr(document, "page_content", document) for document in documents)
    if not isinstance(question := given.get(f"{_PREFIX}question"), str | None):
        raise InvalidDataError(f"{question!r:.60} is no question; give a text.")
    if others := [text for text in texts if not isinstance(text, str)]:
        raise InvalidDataError(f"{others[0]!r:.60} is no document; give texts, or LangChain documents.")
    return {**{name.removeprefix(_PREFIX): value for name, value in given.items()}, "documents": texts}


# --- The models of a pool ---------------------------------------------------------------------------------------------


class ChatModels(PoolModels[BaseChatModel]):
    """The chat models of a pool: the user's own, and a `ChatLiteLLM` for each of the others."""

    place, what = "unirouter_plugins.langchain.litellm_chat:ChatLiteLLM", "a chat model"
    brought_by = "langchain_litellm", "langchain-litellm", "langchain"

    def __init__(self, router: UniRouter, given: Mapping[str, BaseChatModel] | None, settings: _Settings) -> None:
        super().__init__(given, settings)
        self.repeats = Repeats()
        fields = self.kind.model_fields if self.makes_some(router) and self.settings else {}
        check_settings(self, router, [*fields, *(field.alias for field in fields.values() if field.alias)])

    def model(self, snapshot: Snapshot, name: str, *, is_last: bool = True) -> BaseChatModel:
        """Return the model of that name; a `ChatLiteLLM` shares no entry of a cache with another model."""
        made = super().model(snapshot, name, is_last=is_last)
        if name not in self.given and made.cache is not False:
            cache = made.cache if isinstance(made.cache, BaseCache) else get_llm_cache()
            served_as = json.dumps(snapshot.members[name].served_as, sort_keys=True, default=str)
            made.cache = made.cache if cache is None else _CacheOfOne(cache, f"{name} {served_as}")
        return made

    def make(self, arguments: dict[str, Any], *, is_last: bool) -> BaseChatModel:
        """Return a `ChatLiteLLM` that calls LiteLLM with `arguments` and the settings."""
        own = {name: value for name, value in self.settings.items() if name in self.kind.model_fields}
        beside = {name: value for name, value in self.settings.items() if name not in own}
        fields = {name: arguments.pop(name) for name in ("model", "api_base", "api_key", *_FIELDS) if name in arguments}
        beside = {"timeout": self.limits.timeout, **arguments, **own.get("model_kwargs", {}), **beside}
        if own.get("request_timeout") is not None:
            beside["timeout"] = own["request_timeout"]
        fields |= {**own, "model_kwargs": beside}
        if not is_last:
            fields["max_retries"] = 1  # the first counts the call itself
            beside |= {"num_retries": 0, "max_retries": 0}
        return cast(BaseChatModel, self.kind(**fields))

    def able(self, profile: ModelProfile, model: BaseChatModel) -> Capabilities:
        """Return what is known of a model, without what its chat model says that it lacks."""
        known, said = profile.capabilities, model.profile or {}
        able = {ours: getattr(known, ours) and said.get(theirs) is not False for ours, theirs in _FLAGS.items()}
        windows = [window for window in (known.context_window, said.get("max_input_tokens")) if window]
        return Capabilities(**able, context_window=min(windows, default=None))

    def common_profile(self, router: UniRouter) -> dict[str, Any]:
        """Return what all models can do, as LangChain's `model.profile` says it.

        A flag is True where all chat models say so, False where one of them, or its profile in the pool, says that it
        cannot, and left out where that is not known; sizes are the least of those that are known.
        """
        each: list[dict[str, Any]] = []
        for name, profile in router.pool.items():
            said = dict(self.given[name].profile or {}) if name in self.given else {}
            known = self.able(profile, self.given[name]) if name in self.given else profile.capabilities
            lacks = {theirs: False for ours, theirs in _FLAGS.items() if not getattr(known, ours)}
            each.append({**said, **lacks, **({"max_input_tokens": w} if (w := known.context_window) else {})})
        common: dict[str, Any] = {}
        for name in sorted({name for one in each for name in one}):
            values = [one[name] for one in each if name in one and one[name] is not None]
            if not all(isinstance(value, bool) for value in values):
                sizes = [value for value in values if isinstance(value, int)]
                common |= {name: min(sizes)} if sizes else {}
            elif not all(values) or len(values) == len(each):
                common[name] = all(values)
        return common


class _CacheOfOne(BaseCache):
    """Another cache for one model alone: two members of a pool may have the same parameters, but not the same server.

    LangChain's key of a chat model has neither its address nor the parameters that are only passed on.
    """

    def __init__(self, cache: BaseCache, model: str) -> None:
        self._cache, self._model = cache, model

    def lookup(self, prompt: str, llm_string: str) -> RETURN_VAL_TYPE | None:
        """Return what is kept of the model for a prompt."""
        return self._cache.lookup(prompt, f"{self._model} {llm_string}")

    def update(self, prompt: str, llm_string: str, return_val: RETURN_VAL_TYPE) -> None:
        """Keep an answer of the model."""
        self._cache.update(prompt, f"{self._model} {llm_string}", return_val)

    async def alookup(self, prompt: str, llm_string: str) -> RETURN_VAL_TYPE | None:
        """Do the same as `lookup`, asynchronously."""
        return await self._cache.alookup(prompt, f"{self._model} {llm_string}")

    async def aupdate(self, prompt: str, llm_string: str, return_val: RETURN_VAL_TYPE) -> None:
        """Do the same as `update`, asynchronously."""
        await self._cache.aupdate(prompt, f"{self._model} {llm_string}", return_val)

    def clear(self, **kwargs: Any) -> None:
        """Forget everything, of all models."""
        self._cache.clear(**kwargs)


def joined(callbacks: Callbacks, more: Callbacks) -> Callbacks:
    """Return callbacks with all handlers of both, each of which is a list, a manager or nothing.

    `merge_configs` of LangChain would add those of the surrounding run.
    """
    if not callbacks or not more:
        return callbacks or more
    if isinstance(callbacks, list):
        return [*callbacks, *more] if isinstance(more, list) else joined(more, callbacks)
    manager = callbacks.copy()
    for handler in more if isinstance(more, list) else more.handlers:
        manager.add_handler(handler, inherit=True)
    return manager


# --- One call ---------------------------------------------------------------------------------------------------------


class Bill:
    """What the answers of a call took, as LangChain's messages tell it: their tokens, and LiteLLM's cost of them."""

    def __init__(self) -> None:
        self.usage: UsageMetadata | None = None
        self.usd: float | None = None

    def add(self, usage: UsageMetadata | None, usd: float | None, *, is_stream: bool = False) -> None:
        """Add an answer, or a chunk: of a stream that tells the usage so far again and again, the last counts."""
        if usd is not None:
            self.usd = usd + (self.usd or 0)
        if usage is not None:
            is_total = is_stream and self.usage is not None and self.usage["input_tokens"] and usage["input_tokens"]
            self.usage = usage if is_total else add_usage(self.usage, usage)

    def as_response(self) -> Any:
        """Return the bill as LiteLLM's responses tell it, for `prices` to read; LangChain's caches say total_cost=0."""
        if (usage := self.usage) is None:
            return None
        into, out = usage.get("input_token_details", {}), usage.get("output_token_details", {})
        read, written = into.get("cache_read"), into.get("cache_creation")
        told = SimpleNamespace(
            prompt_tokens=usage["input_tokens"],
            completion_tokens=usage["output_tokens"],
            total_tokens=usage["total_tokens"],
            prompt_tokens_details=SimpleNamespace(cached_tokens=read, cache_creation_tokens=written),
            completion_tokens_details=SimpleNamespace(reasoning_tokens=out.get("reasoning")),
        )
        cached = cast("dict[str, Any]", usage).get("total_cost") == 0
        return SimpleNamespace(usage=told, _hidden_params={"response_cost": self.usd, "cache_hit": cached})


class _Answers(BaseCallbackHandler):
    """Adds up the bills of the answers below a call: a parsed one cannot tell what it took."""

    run_inline = True  # else each event of an asynchronous call waits for a thread

    def __init__(self) -> None:
        self.bill = Bill()

    def on_chat_model_start(self, *_: Any, **__: Any) -> None:
        """Do nothing; where this is missing, LangChain makes a text of all messages instead."""

    def on_llm_end(self, response: LLMResult, **_: Any) -> None:
        """Add an answer, where it tells its tokens."""
        if isinstance(message := _message_of(response), AIMessage):
            self.bill.add(message.usage_metadata, message.response_metadata.get("response_cost"))


class ChatCall(RoutedCall[BaseChatModel]):
    """A call of a chat model, to which `prepare` binds tools or a schema, in a run with `config`.

    Its answers are messages, results of `generate`, an agent's responses, v3 events, or parsed objects.
    """

    def __init__(
        self,
        *args: Any,
        messages: LanguageModelInput,
        config: RunnableConfig,
        prepare: Callable[[BaseChatModel], Runnable[Any, Any]] | None = None,
        is_parsed: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self.messages: Any = messages  # as they are sent to the model that is tried now
        self._input, self.config, self._prepare = messages, config, prepare
        self._below = _Answers() if is_parsed else None
        self._streamed = Bill()
        self._has_told = False  # whether a part of the stream has the record

    def model_for(self, model: BaseChatModel) -> Any:
        """Return the model with its tools or schema; set the messages it is sent, and the decision in its metadata."""
        if any(self.chat.answered_by):
            self.messages = self.chat.messages_for(self.attempts.model, messages_of(self._input), portable)
        known = {n: value for n, value in self._shown.items() if value is not None and n != "seconds"}
        metadata = {**self.config.get("metadata", {}), METADATA: known}
        self.config = cast(RunnableConfig, {**self.config, "metadata": metadata})
        if self.attempts.failures or self._checked:
            self.config.pop("run_id", None)  # the failed run has it
        elif self._below is not None:
            self.config["callbacks"] = joined(self.config.get("callbacks"), [self._below])
        return model if self._prepare is None else self._prepare(model)

    def content(self, answer: Any) -> Content:
        """Return what an answer, a chunk or an event holds; a parsed object is one."""
        if isinstance(answer, dict) and "event" in answer:  # of the v3 streams
            is_end = answer["event"] == "message-finish"
            return Content(answer["event"] not in ("message-start", "message-finish"), "stop" if is_end else None)
        message = _message_of(answer)
        if message is None:
            return Content(True)
        calls = getattr(message, "tool_call_chunks", None) or getattr(message, "tool_calls", None)
        given, is_part = message.response_metadata, isinstance(message, AIMessageChunk)
        finish = given.get("finish_reason") or given.get("stop_reason") or (None if is_part else "stop")
        return Content(bool(message.content or calls or message.additional_kwargs), finish)

    def usage_of(self, answer: Any) -> Usage:
        """Return the tokens that an answer tells; those of a parsed one were told to the callbacks."""
        return usage_of(self._response_of(answer))

    def usd_of(self, answer: Any, usage: Usage) -> float:
        """Return what an answer cost, as LiteLLM computes it where its prices count; 0 where a cache gave it."""
        quoted = self.snapshot.quote(self.attempts.model)
        return math.nan if quoted is None else usd_of(self._response_of(answer), quoted, usage)

    def _response_of(self, answer: Any) -> Any:
        bill, message = Bill(), _message_of(answer)
        if isinstance(answer, dict) and "event" in answer:
            bill.add(answer.get("usage"), answer.get("metadata", {}).get("response_cost"))
        elif isinstance(message, AIMessageChunk):
            bill = self._streamed if self._streamed.usage else bill
            if bill is not self._streamed:  # nothing that tells was passed on
                bill.add(message.usage_metadata, message.response_metadata.get("response_cost"))
        elif isinstance(message, AIMessage):
            bill.add(message.usage_metadata, message.response_metadata.get("response_cost"))
        elif self._below is not None:
            bill = self._below.bill
        return bill.as_response()

    def seen(self, answer: Any) -> tuple[str, dict[str, Any]]:
        """Return the text, the tool calls and the parsed object of an answer."""
        message = _message_of(answer)
        parsed = answer.get("parsed") if isinstance(answer, dict) and message is not None else None
        if message is None:
            text = answer.model_dump_json() if hasattr(answer, "model_dump_json") else json.dumps(answer, default=str)
            return text, {"parsed": answer}
        calls = [(call["name"], json.dumps(call["args"])) for call in getattr(message, "tool_calls", ())]
        return message.text, {"tool_calls": calls, "parsed": parsed, "response": message}

    def ask(self, model: BaseChatModel, messages: Messages) -> Any:
        """Return the model's answer to a chat, for a check that calls it."""
        return model.invoke([dict(message) for message in messages])

    def whole(self, parts: list[Any]) -> Any:
        """Return the chunks of a stream as one message; of a parsed object the last is whole."""
        if isinstance(parts[0], dict) and "event" in parts[0]:
            from unirouter_plugins.langchain.events import stream_of  # langchain-core has them since 1.4

            return stream_of(iter(parts)).output
        if not isinstance(parts[0], AIMessageChunk):
            return parts[-1]
        bill, message = Bill(), add_ai_message_chunks(*parts)
        for part in parts:
            bill.add(part.usage_metadata, None, is_stream=True)
        return message.model_copy(update={"usage_metadata": bill.usage})

    def forget(self) -> None:
        """Begin a new bill of the answers below."""
        if self._below is not None:
            self._below.bill = Bill()

    def attach(self, answer: Any, record: CallRecord) -> Any:
        """Return a copy of the answer with the record on its messages; caches share the messages themselves."""
        return _with_record(answer, {METADATA: self._shown})

    def passed(self, part: Any) -> Any:
        """Return a part of a stream as it is, the first that says it is the last as a copy with the record."""
        if isinstance(part, dict) and part.get("event") == "message-finish":
            self.finish(part)
            return {**part, "metadata": {**part.get("metadata", {}), METADATA: self._shown}}
        if isinstance(part, AIMessageChunk):
            self._streamed.add(part.usage_metadata, part.response_metadata.get("response_cost"), is_stream=True)
        if self._below is not None or self._has_told or getattr(part, "chunk_position", "last") != "last":
            return part
        self._has_told = True
        self._shown |= self.record(part).as_dict()
        return _with_record(part, {METADATA: self._shown})

    def end(self) -> list[AIMessageChunk]:
        """Return what is missing at the end of a stream: a chunk with the record, where no chunk was the last."""
        last = AIMessageChunk(content="", chunk_position="last")
        return [] if self._has_told or self._below is not None else [self.attach(last, self.finish())]


def _message_of(answer: Any) -> BaseMessage | None:
    """Return the message in an answer: itself, or that of a result, an agent's response, a parsed answer's "raw"."""
    if isinstance(answer, BaseMessage):
        return answer
    if isinstance(answer, LLMResult):
        return getattr(answer.generations[0][0], "message", None)
    if isinstance(answer, dict):
        return cast("BaseMessage | None", answer.get("raw"))
    return next((message for message in getattr(answer, "result", ()) if isinstance(message, AIMessage)), None)


def _with_record(answer: Any, record: dict[str, Any]) -> Any:
    if isinstance(answer, list):
        return [_with_record(each, record) for each in answer]
    if isinstance(answer, AIMessage):
        return answer.model_copy(update={"response_metadata": {**answer.response_metadata, **record}})
    if isinstance(answer, ChatGeneration):
        return answer.model_copy(update={"message": _with_record(answer.message, record)})
    if isinstance(answer, LLMResult):
        return answer.model_copy(update={"generations": _with_record(answer.generations, record)})
    if isinstance(answer, dict) and isinstance(answer.get("raw"), AIMessage):
        return {**answer, "raw": _with_record(answer["raw"], record)}
    if dataclasses.is_dataclass(answer) and hasattr(answer, "result"):  # an agent's
        return dataclasses.replace(answer, result=_with_record(answer.result, record))  # type: ignore[type-var]
    return answer
