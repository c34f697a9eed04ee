"""The LLMs of a pool, and one call of the picked one: what LlamaIndex gives to a routed call."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import AsyncGenerator, Callable, Generator, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse, LLMMetadata
from llama_index.core.callbacks import CallbackManager
from llama_index.core.constants import DEFAULT_CONTEXT_WINDOW, DEFAULT_NUM_OUTPUTS
from llama_index.core.llms import LLM
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index_instrumentation.dispatcher import active_instrument_tags, instrument_tags

from unirouter_core.pool import Capabilities, ModelProfile
from unirouter_core.router import UniRouter
from unirouter_plugins.litellm import check_parameters, open_litellm
from unirouter_plugins.litellm.prices import UNKNOWN, Usage, usd_of
from unirouter_plugins.litellm.routed import METADATA, CallRecord, Content, Record, RoutedCall, keep
from unirouter_plugins.litellm.snapshot import PoolModels, Snapshot
from unirouter_plugins.llamaindex.messages import content_of, portable, usage_in, with_record, without_records
from unirouter_plugins.llamaindex.queries import Query, collecting_answers

T = TypeVar("T")


def load_litellm_llm() -> Any:
    """Return LlamaIndex's class `LiteLLM`, made to read responses and chunks without choices, if it is installed."""
    open_litellm()  # before llama-index-llms-litellm imports it online and loudly
    try:
        import llama_index.llms.litellm  # type: ignore[import-untyped]  # noqa: F401
    except ImportError as missing:
        raise ImportError(
            "llama-index-llms-litellm is missing: pip install 'unirouter[llamaindex]', or give an LLM for each model "
            "of the pool: models={...}."
        ) from missing
    from unirouter_plugins.llamaindex.litellm_llm import PoolLiteLLM

    return PoolLiteLLM


class PoolLLMs(PoolModels[LLM]):
    """The LLMs of a pool: the user's own, or a `LiteLLM` for each, with `fields` of LlamaIndex's LLMs."""

    def __init__(self, given: Mapping[str, LLM] | None, settings: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
        super().__init__(given, settings)
        self.fields = fields
        self._litellm: Any = load_litellm_llm() if given is None else None
        self._copies: dict[str, tuple[tuple[int, ...], LLM]] = {}
        self._described: tuple[Snapshot, LLMMetadata] | None = None

    def check_settings(self, router: UniRouter) -> None:
        """Raise `InvalidDataError` where LiteLLM does not know one of the settings."""
        known = ("api_key", "api_base", "api_type", "max_retries")
        check_parameters(self.settings, self.snapshot(router).members.values(), known)

    def make(self, arguments: dict[str, Any], *, is_last: bool) -> LLM:
        """Return a `LiteLLM` that calls LiteLLM with `arguments` and the settings."""
        arguments = {"temperature": None, **arguments, **self.settings}  # else LlamaIndex sends one of its own
        names = ("model", "max_tokens", "max_retries")
        fields: dict[str, Any] = {name: arguments.pop(name) for name in names if name in arguments}
        if not is_last:
            fields["max_retries"], arguments["num_retries"] = 1, 0  # the first counts the call itself
        return cast(LLM, self._litellm(**fields, additional_kwargs=arguments, **self.fields))

    def reader(self, model: str) -> LLM | None:
        """Return an LLM that reads the tool calls of `model`'s answers; None where there is none of that name."""
        return self._litellm(model=model) if self.given is None else self.given.get(model)

    def able(self, profile: ModelProfile, model: LLM) -> Capabilities:
        """Return what is known of a model, without what its LLM says that it lacks; the profile's own window wins."""
        known, said = profile.capabilities, model.metadata
        tools = known.tools and said.is_function_calling_model and isinstance(model, FunctionCallingLLM)
        window = None if said.context_window == DEFAULT_CONTEXT_WINDOW else said.context_window  # else it is not set
        return dataclasses.replace(known, tools=tools, context_window=known.context_window or window)

    def with_callbacks(self, name: str, llm: LLM, callbacks: CallbackManager) -> LLM:
        """Return the LLM with the router's callback handlers beside its own; one of the user's is copied, once."""
        if self.given is None and callbacks.handlers:
            llm.callback_manager = callbacks
        if self.given is None or not callbacks.handlers or llm.callback_manager is callbacks:
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
            said = {} if self.given is None else {name: self.given[name].metadata for name in snapshot.pool}
            window, output = self._sizes(snapshot, said)
            described = LLMMetadata(
                context_window=window,
                num_output=output,
                is_chat_model=all(each.is_chat_model for each in said.values()),
                is_function_calling_model=any(profile.capabilities.tools for profile in snapshot.pool.values()),
                model_name="unirouter",
            )
            self._described = snapshot, described
        return self._described[1]

    def _sizes(self, snapshot: Snapshot, said: Mapping[str, LLMMetadata]) -> tuple[int, int]:
        """Return the window of a model and the tokens of its answers, at most half of it; -1 where these are not known.

        A window that is not known counts only where none is.
        """
        outputs = {n: said[n].num_output if n in said else self._longest(snapshot, n) for n in snapshot.pool}
        known = {name: window for name, window in snapshot.windows.items() if window is not None}
        windows = known or {name: max(DEFAULT_CONTEXT_WINDOW, 2 * outputs[name]) for name in snapshot.pool}
        sizes = [(window, min(outputs[name], window // 2)) for name, window in windows.items()]
        rooms = [window - (DEFAULT_NUM_OUTPUTS if output < 0 else output) for window, output in sizes]
        return sizes[rooms.index(min(rooms))] if sizes else (DEFAULT_CONTEXT_WINDOW, -1)

    def _longest(self, snapshot: Snapshot, name: str) -> int:
        settings = {**snapshot.members[name].settings, **self.settings}
        limit = settings.get("max_tokens") or settings.get("max_completion_tokens")
        return limit if isinstance(limit, int) else -1


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
        self._record: Record = {}  # the one that all parts of a stream share
        if query is not None and self.why != "forced":
            query.outermost.models.setdefault(keeper, self.attempts.model)

    @property
    def sent(self) -> dict[str, Any]:
        """The arguments of a call with tools; LLMs add to the history that they get."""
        return {"chat_history": [*self.messages], **self.parameters}

    def open(self, call: Callable[[Any], Iterable[T]]) -> Generator[T]:
        """Return the parts of a stream that has begun: the model is called in the context of the query."""
        begun, parts = self.begin(call)
        self._keep(self.record())
        return self.rest(begun, parts)

    async def aopen(self, call: Callable[[Any], Any]) -> AsyncGenerator[Any]:
        """Return the same as `open`, asynchronously."""
        begun, parts = await self.abegin(call)
        self._keep(self.record())
        return self.arest(begun, parts)

    def model_for(self, model: LLM) -> LLM:
        """Return the LLM with the router's callbacks."""
        self.messages = self.chat.messages_for(self.attempts.model, self._given, portable)
        self._answers, self._tags = {}, {METADATA: self.record().as_dict()}
        return self.models.with_callbacks(self.attempts.model, model, self._callbacks)

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
        usages = [dataclasses.astuple(usage_in(each)) for each in self._below(answer)]
        return Usage(*map(sum, zip(*usages, strict=True))) if usages else UNKNOWN

    def usd_of(self, answer: Any, usage: Usage) -> float:
        """Return what an answer cost; NaN where its tokens or the model's prices are not known."""
        quoted, answers = self.snapshot.quote(self.attempts.model), self._below(answer)
        if quoted is None or not answers:
            return math.nan
        return sum(usd_of(each.raw, quoted, usage_in(each)) for each in answers)

    def _below(self, answer: Any) -> list[Any]:
        return [answer] if isinstance(answer, ChatResponse | CompletionResponse) else [*self._answers.values()]

    def attach(self, answer: T, record: CallRecord) -> T:
        """Return a copy of the answer with the record."""
        return self.passed(answer)

    def passed(self, part: T) -> T:
        """Return a copy of a part of a stream with the record, which is whole when the stream has ended."""
        return cast(T, with_record(part, self._record))

    def finish(self, answer: Any = None) -> CallRecord:
        """Return the record of the call, which has ended; doing it again changes nothing."""
        if self.finished is None:
            self.finished = self.record(self._telling if answer is None else answer)
            self._keep(self.finished)
        return self.finished

    def _keep(self, record: CallRecord) -> None:
        """Keep the record, once: query engines return their response before its stream is read."""
        is_kept = bool(self._record)
        self._record.update(record.as_dict())
        if is_kept:
            return
        keep(self._record)
        if self._query is not None:
            self._query.keep(self._record)
            if self.why != "forced":
                self._query.outermost.models[self._keeper] = self.attempts.model
