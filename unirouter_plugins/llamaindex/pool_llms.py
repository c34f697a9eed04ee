"""The LLMs of a pool, and one call of the picked one: what LlamaIndex gives to a routed call."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import AsyncGenerator, Callable, Generator, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, TypeVar, cast

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse, LLMMetadata, TextBlock
from llama_index.core.callbacks import CallbackManager
from llama_index.core.callbacks.token_counting import get_tokens_from_response
from llama_index.core.constants import DEFAULT_CONTEXT_WINDOW, DEFAULT_NUM_OUTPUTS
from llama_index.core.llms import LLM
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.prompts import BasePromptTemplate, ChatPromptTemplate
from llama_index.core.tools import BaseTool, ToolMetadata
from llama_index_instrumentation.dispatcher import active_instrument_tags, instrument_tags

from unirouter_core.exceptions import InvalidDataError
from unirouter_core.pool import Capabilities, ModelProfile
from unirouter_core.router import UniRouter
from unirouter_plugins.litellm import check_settings
from unirouter_plugins.litellm.chat import Chat, Messages, answered_by, portable_fields, portable_id
from unirouter_plugins.litellm.prices import UNKNOWN, Usage, checked_usage, usage_of, usd_of
from unirouter_plugins.litellm.routed import METADATA, CallRecord, Content, Record, RoutedCall
from unirouter_plugins.litellm.snapshot import PoolModels, Snapshot
from unirouter_plugins.llamaindex.queries import Query, collecting_answers

T = TypeVar("T")

_PARTS = {"image": "image_url", "audio": "input_audio", "video": "video_url", "document": "file"}
"""LlamaIndex's names for blocks in the place of text, and OpenAI's."""


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
    return [
        m.model_copy(update={"additional_kwargs": {n: v for n, v in m.additional_kwargs.items() if n != METADATA}})
        if METADATA in m.additional_kwargs
        else m
        for m in messages
    ]


def _portable(message: ChatMessage) -> ChatMessage:
    """Return a message without what only the model that wrote it understands."""
    known = portable_fields(message.additional_kwargs)
    if "tool_call_id" in known:
        known["tool_call_id"] = portable_id(known["tool_call_id"])
    calls = [{**c, "id": portable_id(c.get("id"))} if isinstance(c, dict) else c for c in known.get("tool_calls") or ()]
    blocks = [block for block in message.blocks if block.block_type != "thinking"]
    kept = {**known, **({"tool_calls": calls} if calls else {})}
    return message.model_copy(update={"additional_kwargs": kept, "blocks": blocks})


# --- The LLMs of a pool -----------------------------------------------------------------------------------------------


class PoolLLMs(PoolModels[LLM]):
    """The LLMs of a pool: the user's own, and for each of the others a `LiteLLM`, with `fields` of all LLMs."""

    place, what = "unirouter_plugins.llamaindex.litellm_llm:PoolLiteLLM", "an LLM"
    brought_by = "llama_index.llms.litellm", "llama-index-llms-litellm", "llamaindex"

    def __init__(
        self,
        router: UniRouter,
        given: Mapping[str, LLM] | None,
        settings: Mapping[str, Any],
        fields: Mapping[str, Any] = {},
    ) -> None:
        super().__init__(given, settings)
        self.fields = fields
        self._copies: dict[str, tuple[tuple[int, ...], LLM]] = {}
        self._described: tuple[Snapshot, LLMMetadata] | None = None
        self.makes_some(router)
        check_settings(self, router, ("api_key", "api_base", "api_type", "max_retries"))

    def make(self, arguments: dict[str, Any], *, is_last: bool) -> LLM:
        """Return a `LiteLLM` that calls LiteLLM with `arguments` and the settings."""
        unset = {"temperature": None, "timeout": self.limits.timeout}  # else LlamaIndex sends a temperature of its own
        arguments = {**unset, **arguments, **self.settings}
        names = ("model", "max_tokens", "max_retries")
        fields: dict[str, Any] = {name: arguments.pop(name) for name in names if name in arguments}
        if not is_last:
            fields["max_retries"], arguments["num_retries"] = 1, 0  # the first counts the call itself
        return cast(LLM, self.kind(**fields, additional_kwargs=arguments, **self.fields))

    def reader(self, model: str, router: UniRouter) -> LLM | None:
        """Return an LLM that reads the tool calls of `model`'s answers; None where there is none of that name."""
        own = self.given.get(model)
        return own if own is not None or model not in router.pool else self.kind(model=model)

    def able(self, profile: ModelProfile, model: LLM) -> Capabilities:
        """Return what is known of a model, without what its LLM says that it lacks; the profile's own window wins."""
        known, said = profile.capabilities, model.metadata
        tools = known.tools and said.is_function_calling_model and isinstance(model, FunctionCallingLLM)
        window = None if said.context_window == DEFAULT_CONTEXT_WINDOW else said.context_window  # else it is not set
        return dataclasses.replace(known, tools=tools, context_window=known.context_window or window)

    def with_callbacks(self, name: str, llm: LLM, callbacks: CallbackManager) -> LLM:
        """Return the LLM with the router's callback handlers beside its own; one of the user's is copied, once."""
        if name not in self.given and callbacks.handlers:
            llm.callback_manager = callbacks
        if not callbacks.handlers or llm.callback_manager is callbacks:
            return llm
        own = llm.callback_manager.handlers
        key = tuple(map(id, [llm, callbacks, *own, *callbacks.handlers]))
        if self._copies.get(name, (None, llm))[0] != key:
            more = [handler for handler in callbacks.handlers if handler not in own]
            manager = CallbackManager([*own, *more]) if own else callbacks
            self._copies[name] = key, llm.model_copy(update={"callback_manager": manager})
        return self._copies[name][1]

    def metadata(self, router: UniRouter) -> LLMMetadata:
        """Return what the router can do with its pool, as LlamaIndex's LLMs describe themselves.

        The window and the length of answers are those of the one model that leaves the least room for a prompt. Tools
        can be called where any model can, since the others are then not eligible. It is a chat model where all are.
        """
        snapshot = self.snapshot(router)
        if self._described is None or self._described[0] is not snapshot:
            said = {name: self.given[name].metadata for name in snapshot.pool if name in self.given}
            window, output = min((self._sizes(snapshot, said)), key=_room, default=(DEFAULT_CONTEXT_WINDOW, -1))
            described = LLMMetadata(
                context_window=window,
                num_output=output,
                is_chat_model=all(each.is_chat_model for each in said.values()),
                is_function_calling_model=any(profile.capabilities.tools for profile in snapshot.pool.values()),
                model_name="unirouter",
            )
            self._described = snapshot, described
        return self._described[1]

    def _sizes(self, snapshot: Snapshot, said: Mapping[str, LLMMetadata]) -> list[tuple[int, int]]:
        """Return the windows that are known, or one for each model, and the tokens of their answers, -1 if not known.

        An answer that would leave no room for a prompt is described as half of the window.
        """
        windows = {name: window for name, window in snapshot.windows.items() if window is not None}
        outputs: dict[str, int] = {}
        for name in snapshot.pool:
            settings = {**snapshot.members[name].settings, **self.settings} if name not in said else {}
            limit = settings.get("max_tokens") or settings.get("max_completion_tokens")
            outputs[name] = said[name].num_output if name in said else limit if isinstance(limit, int) else -1
        windows = windows or {name: max(DEFAULT_CONTEXT_WINDOW, 2 * output) for name, output in outputs.items()}
        return [(w, outputs[name] if outputs[name] < w else w // 2) for name, w in windows.items()]


def _room(sizes: tuple[int, int]) -> int:
    """Return the tokens that a window and the answer in it leave for a prompt."""
    window, output = sizes
    return window - (DEFAULT_NUM_OUTPUTS if output < 0 else output)


# --- One call ---------------------------------------------------------------------------------------------------------


class LLMCall(RoutedCall[LLM]):
    """A call of an LLM: its answers are of chats or completions, or objects that were parsed from them.

    `query` is what the call is made for, and `keeper` what of it keeps a model: another LLM may keep another.
    """

    models: PoolLLMs

    def __init__(
        self,
        *args: Any,
        messages: Sequence[ChatMessage],
        callbacks: CallbackManager,
        query: Query | None,
        keeper: Hashable,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self.messages = self._given = without_records(messages)
        self._callbacks, self._query, self._keeper = callbacks, query, keeper
        self._answers: dict[int, Any] = {}  # of the model that is tried now
        self._tags: dict[str, Record] = {}
        self._is_kept = False
        if query is not None and self.why != "forced":
            query.outermost.models.setdefault(keeper, self.attempts.model)

    @property
    def sent(self) -> dict[str, Any]:
        """The arguments of a call with tools; LLMs add to the history that they get."""
        return {"chat_history": [*self.messages], **self.parameters}

    def open(self, call: Callable[[Any], Iterable[T]]) -> Generator[T]:
        """Return the parts of a stream that has begun: the model is called in the context of the query."""
        begun, parts = self.begin(call)
        self._begun()
        return self.rest(begun, parts)

    async def aopen(self, call: Callable[[Any], Any]) -> AsyncGenerator[Any]:
        """Return the same as `open`, asynchronously."""
        begun, parts = await self.abegin(call)
        self._begun()
        return self.arest(begun, parts)

    def model_for(self, model: LLM) -> LLM:
        """Return the LLM with the router's callbacks; set the messages that it is sent."""
        self.messages = self.chat.messages_for(self.attempts.model, self._given, _portable)
        self._answers, self._tags = {}, {METADATA: dict(self._shown)}
        return self.models.with_callbacks(self.attempts.model, model, self._callbacks)

    def prompt(self, prompt: BasePromptTemplate) -> BasePromptTemplate:
        """Return a copy of a prompt as the LLM is sent it: without records, and for it to set its own output parser."""
        if not isinstance(prompt, ChatPromptTemplate):
            return prompt.model_copy()
        templates = prompt.message_templates  # they may hold earlier answers
        messages = chat_of(templates).messages_for(self.attempts.model, without_records(templates), _portable)
        return prompt.model_copy(update={"message_templates": messages})

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Collect the answers below the call, and put the decision in the tags of LlamaIndex's events."""
        with instrument_tags({**active_instrument_tags.get(), **self._tags}), collecting_answers(self._answers):
            yield

    def content(self, answer: Any) -> Content:
        """Return what an answer, or a part of one, holds."""
        return content_of(answer)

    def usage_of(self, answer: Any) -> Usage:
        """Return the tokens that an answer tells; of a parsed one those of the answers below the call."""
        if isinstance(answer, ChatResponse | CompletionResponse):
            return usage_in(answer)
        usages = [dataclasses.astuple(usage_in(each)) for each in self._answers.values()]
        return Usage(*map(sum, zip(*usages, strict=True))) if usages else UNKNOWN

    def usd_of(self, answer: Any, usage: Usage) -> float:
        """Return what an answer cost; NaN where its tokens or the model's prices are not known."""
        if (quoted := self.snapshot.quote(self.attempts.model)) is None:
            return math.nan
        if isinstance(answer, ChatResponse | CompletionResponse):
            return usd_of(answer.raw, quoted, usage)
        each = [usd_of(below.raw, quoted, usage_in(below)) for below in self._answers.values()]
        return sum(each) if each else math.nan

    def seen(self, answer: Any) -> tuple[str, dict[str, Any]]:
        """Return the text, the tool calls or the parsed object of an answer."""
        if isinstance(answer, CompletionResponse):
            return answer.text, {}
        if not isinstance(answer, ChatResponse):
            return answer.model_dump_json() if hasattr(answer, "model_dump_json") else str(answer), {"parsed": answer}
        calls, model = list[tuple[str, str]](), self.attempts.model
        if self.chat.tools and (reader := self.models.reader(model, self.snapshot.router)) is not None:
            read = cast(FunctionCallingLLM, reader).get_tool_calls_from_response(answer, error_on_no_tool_call=False)
            calls = [(call.tool_name, json.dumps(call.tool_kwargs, default=str)) for call in read]
        return answer.message.content or "", {"tool_calls": calls}

    def ask(self, model: LLM, messages: Messages) -> Any:
        """Return the LLM's answer to a chat of texts, for a check that calls it."""
        return model.chat([ChatMessage(role=message["role"], content=message["content"]) for message in messages])

    def whole(self, parts: list[Any]) -> Any:
        """Return the last part with content, which holds those before, and with the usage that any part tells."""
        last = next((part for part in reversed(parts) if self.content(part).has_content), parts[-1])
        told = next((part for part in reversed(parts) if usage_in(part).is_known), last)
        return last if told is last else last.model_copy(update={"raw": told.raw})

    def attach(self, answer: T, record: CallRecord) -> T:
        """Return a copy of the answer with the record."""
        return self.passed(answer)

    def passed(self, part: T) -> T:
        """Return a copy of a part of a stream with the record, which is whole when the stream has ended."""
        return cast(T, with_record(part, self._shown))

    def _begun(self) -> None:
        """Keep the record of a stream as it begins: query engines return their response before it is read."""
        self._shown |= self.record().as_dict()
        self.keep()

    def keep(self) -> None:
        """Keep the record, once, for the query, too."""
        if self._is_kept:
            return
        self._is_kept = True
        super().keep()
        if self._query is not None:
            self._query.keep(self._shown)
            if self.why != "forced":
                self._query.outermost.models[self._keeper] = self.attempts.model


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
