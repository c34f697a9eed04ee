"""The chat models of a pool, and one call of the picked one: what LangChain gives to a routed call."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias, cast

from langchain_core.callbacks import BaseCallbackHandler, Callbacks
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata, add_usage
from langchain_core.outputs import ChatGeneration, LLMResult
from langchain_core.runnables import Runnable, RunnableConfig

from unirouter_core.pool import Capabilities, ModelProfile
from unirouter_core.router import UniRouter
from unirouter_plugins.langchain.messages import messages_of, portable
from unirouter_plugins.litellm import check_parameters, open_litellm
from unirouter_plugins.litellm.prices import UNKNOWN, Usage, checked_usage
from unirouter_plugins.litellm.routed import METADATA, CallRecord, Content, RoutedCall
from unirouter_plugins.litellm.snapshot import PoolModels

_Settings: TypeAlias = Mapping[str, Any] | None

_FIELDS = ("temperature", "top_p", "top_k", "max_tokens", "n")
"""LiteLLM's parameters that a `ChatLiteLLM` has fields for, so that traces show them; the others go beside."""

_FLAGS = {
    **{"tools": "tool_calling", "vision": "image_inputs", "json": "structured_output", "audio": "audio_inputs"},
    **{"video": "video_inputs", "pdf": "pdf_inputs"},
}
"""Our names of capabilities, and those of LangChain's `model.profile`."""


def load_chat_litellm() -> Any:
    """Return the class `ChatLiteLLM`; raise `ImportError` when it, or LiteLLM, is not installed."""
    open_litellm()  # before langchain-litellm imports it online and loudly
    try:
        from unirouter_plugins.langchain.litellm_chat import ChatLiteLLM
    except ImportError as missing:
        raise ImportError(
            "langchain-litellm is missing: pip install 'unirouter[langchain]', or give a chat model for each model of "
            "the pool: models={...}."
        ) from missing
    return ChatLiteLLM


class ChatModels(PoolModels[BaseChatModel]):
    """The chat models of a pool: the user's own, or a `ChatLiteLLM` for each.

    `run` holds the callbacks, tags and metadata that every run of a chat model gets besides its own.
    """

    def __init__(
        self, given: Mapping[str, BaseChatModel] | None = None, settings: _Settings = None, run: _Settings = None
    ) -> None:
        super().__init__(given, settings)
        self.run = dict(run or {})
        self._chat_litellm: Any = load_chat_litellm() if given is None else None

    def check_settings(self, router: UniRouter) -> None:
        """Raise `InvalidDataError` where neither `ChatLiteLLM` nor LiteLLM knows one of the settings."""
        fields = self._chat_litellm.model_fields
        known = [*fields, *(field.alias for field in fields.values() if field.alias)]
        check_parameters(self.settings, self.snapshot(router).members.values(), known)

    def make(self, arguments: dict[str, Any], *, is_last: bool) -> BaseChatModel:
        """Return a `ChatLiteLLM` that calls LiteLLM with `arguments` and the settings."""
        own = {name: value for name, value in self.settings.items() if name in self._chat_litellm.model_fields}
        beside = {name: value for name, value in self.settings.items() if name not in own}
        fields = {name: arguments.pop(name) for name in ("model", "api_base", "api_key", *_FIELDS) if name in arguments}
        fields = {**fields, **own, "model_kwargs": {**arguments, **own.get("model_kwargs", {}), **beside}}
        if not is_last:
            fields["max_retries"] = 1  # the first counts the call itself
            fields["model_kwargs"] |= {"num_retries": 0, "max_retries": 0}
        return cast(BaseChatModel, self._chat_litellm(**fields))

    def with_run(self, model: BaseChatModel) -> BaseChatModel:
        """Return the model with the router's callbacks, tags and metadata beside its own."""
        if not self.run:
            return model
        metadata = {**self.run.get("metadata", {}), **(model.metadata or {})}
        tags = [*(model.tags or []), *self.run.get("tags", [])]
        callbacks = joined(model.callbacks, self.run.get("callbacks"))
        return model.model_copy(update={"metadata": metadata, "callbacks": callbacks, "tags": tags})

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
        said = [(self.given[name].profile or {}) if self.given is not None else {} for name in router.pool]
        known = [_as_profile(profile.capabilities) for profile in router.pool.values()]
        names = {name for each in (*said, *known) for name in each}
        common = {name: _common([each.get(name) for each in said], [k.get(name) for k in known]) for name in names}
        return {name: value for name, value in sorted(common.items()) if value is not None}


def _as_profile(known: Capabilities) -> dict[str, Any]:
    """Return capabilities by LangChain's names, as far as they are known: True may mean that nothing is."""
    lacks = {theirs: False for ours, theirs in _FLAGS.items() if not getattr(known, ours)}
    return lacks if known.context_window is None else {**lacks, "max_input_tokens": known.context_window}


def _common(said: list[Any], known: list[Any]) -> bool | int | None:
    """Return what holds for all models, of the values that each says and that the pool knows; None is not known."""
    values = [value for value in (*said, *known) if value is not None]
    if not all(isinstance(value, bool) for value in values):
        return min((size for size in values if isinstance(size, int)), default=None)
    return False if False in values else None if None in said else True


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


class Tokens(BaseCallbackHandler):
    """Adds up the tokens of the answers below a call: a parsed one cannot tell what it took."""

    run_inline = True  # else each event of an asynchronous call waits for a thread

    def __init__(self) -> None:
        self.usage: UsageMetadata | None = None

    def on_chat_model_start(self, *_: Any, **__: Any) -> None:
        """Do nothing; where this is missing, LangChain makes a text of all messages instead."""

    def on_llm_end(self, response: LLMResult, **_: Any) -> None:
        """Add the tokens of an answer, where it tells them."""
        usage = getattr(_message_of(response), "usage_metadata", None)
        self.usage = self.usage if usage is None else add_usage(self.usage, usage)


# --- One call ---------------------------------------------------------------------------------------------------------


class Prepared(NamedTuple):
    """What a call is made with: the picked chat model, with its tools or schema, and the config of its run."""

    model: Any
    config: RunnableConfig


class ChatCall(RoutedCall[BaseChatModel]):
    """A call of a chat model, to which `prepare` binds tools or a schema.

    Its answers are messages, results of `generate`, an agent's responses, v3 events, or parsed objects.
    """

    models: ChatModels

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
        self.messages, self._given, self._config, self._prepare = messages, messages, config, prepare
        self._tokens = Tokens() if is_parsed else None
        self._usage: UsageMetadata | None = None
        self._has_last = is_parsed  # parsed answers have no place for the record

    def model_for(self, model: BaseChatModel) -> Prepared:
        """Return the prepared model and its config: the caller's, with the decision in the run's metadata."""
        model = self.models.with_run(model)
        if any(self.chat.answered_by):
            self.messages = self.chat.messages_for(self.attempts.model, messages_of(self._given), portable)
        known = {n: value for n, value in self.record().as_dict().items() if value is not None and n != "seconds"}
        config: RunnableConfig = {**self._config, "metadata": {**self._config.get("metadata", {}), METADATA: known}}
        if self._tokens is not None:
            config["callbacks"] = joined(config.get("callbacks"), [self._tokens])
        if self.attempts.failures:
            config.pop("run_id", None)  # the failed run has it
        return Prepared(model if self._prepare is None else self._prepare(model), config)

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
        if (usage := self._told(answer)) is None:
            return UNKNOWN
        into, out = usage.get("input_token_details", {}), usage.get("output_token_details", {})
        counts = usage["input_tokens"], usage["output_tokens"]
        return checked_usage(*counts, into.get("cache_read", 0), out.get("reasoning", 0))

    def usd_of(self, answer: Any, usage: Usage) -> float:
        """Return what an answer cost: 0 where LangChain's caches say so, else its tokens' price."""
        told = cast("dict[str, Any]", self._told(answer) or {}).get("total_cost")
        return super().usd_of(answer, usage) if told is None else float(told)

    def _told(self, answer: Any) -> UsageMetadata | None:
        if isinstance(answer, dict) and "event" in answer:
            return answer.get("usage")
        message = _message_of(answer)
        if isinstance(message, AIMessageChunk):
            return self._usage or message.usage_metadata  # the chunks' sum
        usage = getattr(message, "usage_metadata", None)
        return usage if message is not None or self._tokens is None else self._tokens.usage

    def attach(self, answer: Any, record: CallRecord) -> Any:
        """Return a copy of the answer with the record on its messages; caches share the messages themselves."""
        return _with_record(answer, {METADATA: record.as_dict()})

    def passed(self, part: Any) -> Any:
        """Return a part of a stream as it is, the last as a copy with the record."""
        if isinstance(part, dict) and part.get("event") == "message-finish":
            metadata = {**part.get("metadata", {}), METADATA: self.finish(part).as_dict()}
            return {**part, "metadata": metadata}
        if not isinstance(part, AIMessage) or self.finished is not None:
            return part
        if (usage := part.usage_metadata) is not None:
            is_total = self._usage is not None and self._usage["input_tokens"] and usage["input_tokens"]
            self._usage = usage if is_total else add_usage(self._usage, usage)  # else the prompt is told once
        self._has_last = not isinstance(part, AIMessageChunk) or part.chunk_position == "last"
        return self.attach(part, self.finish(part)) if self._has_last else part

    def end(self) -> list[AIMessageChunk]:
        """Return what is missing at the end of a stream: a chunk with the record, where no chunk was the last."""
        last = AIMessageChunk(content="", chunk_position="last")
        return [] if self._has_last else [self.attach(last, self.finish())]


def _message_of(answer: Any) -> BaseMessage | None:
    """Return the message in an answer: itself, or that of a result, an agent's response, a parsed answer's "raw"."""
    if isinstance(answer, LLMResult):
        return getattr(answer.generations[0][0], "message", None)
    if isinstance(answer, dict):
        answer = answer.get("raw")
    for message in getattr(answer, "result", ()):
        if isinstance(message, AIMessage):
            return message
    return answer if isinstance(answer, BaseMessage) else None


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
