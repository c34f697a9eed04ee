"""One call: a decision on its way to an answer, down the ranking where a chat model fails, and the record of it."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator, Mapping
from contextlib import aclosing
from typing import Any, TypeAlias, TypeVar, cast

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata, add_usage
from langchain_core.outputs import ChatGeneration, LLMResult
from langchain_core.runnables import Runnable, RunnableConfig

from unirouter_core.profiles import ModelProfile
from unirouter_plugins.chains.chat_models import ChatModels
from unirouter_plugins.litellm import CallRecord
from unirouter_plugins.providers.fallback import Attempts
from unirouter_plugins.providers.pricing import Usage, quote
from unirouter_plugins.providers.records import METADATA, Record, keep
from unirouter_plugins.providers.serving import called_otherwise, member_of

T = TypeVar("T")
M = TypeVar("M", bound=BaseMessage)

Ask: TypeAlias = Callable[[Runnable[Any, Any], RunnableConfig], T]
"""Calls a prepared chat model, with the config of the run."""


def is_last(chunk: Any) -> bool:
    """Return whether a chunk is the end of a stream, or a whole message of a model that does not stream."""
    return not isinstance(chunk, AIMessageChunk) or chunk.chunk_position == "last"


def says_something(chunk: Any) -> bool:
    """Return whether a chunk holds part of the answer: after it, another model cannot begin anew."""
    if not isinstance(chunk, AIMessageChunk):
        return True
    return bool(chunk.content or chunk.tool_call_chunks or chunk.additional_kwargs)


class Call:
    """A decision on its way to an answer.

    Parameters
    ----------
    attempts : Attempts
    pool : mapping of str to ModelProfile
    models : ChatModels
    prepare : function BaseChatModel -> Runnable
        What the door that was used asks of the picked model: its tools bound, a schema for its answer.
    parameters : mapping
        What the model is called with besides.
    config : RunnableConfig
        As `ensure_config` returns it.
    why : str
        Of "routed", "forced" and "tool loop".
    """

    def __init__(
        self,
        attempts: Attempts,
        pool: Mapping[str, ModelProfile],
        models: ChatModels,
        prepare: Callable[[BaseChatModel], Runnable[Any, Any]],
        parameters: Mapping[str, Any],
        config: RunnableConfig,
        why: str,
    ) -> None:
        self.attempts, self.pool, self.models, self.why = attempts, pool, models, why
        self.parameters, self._prepare, self._config = parameters, prepare, config
        self._began = time.perf_counter()
        self._usage: UsageMetadata | None = None
        self._is_finished = False

    # --- Asking -------------------------------------------------------------------------------------------------------

    def answer(self, ask: Ask[T]) -> T:
        """Return what the first model gives that does not fail; `ask` makes the call."""
        while True:
            try:
                return ask(self._runnable(), self._run_config())
            except Exception as failed:
                self.attempts.note(failed)

    async def aanswer(self, ask: Ask[Awaitable[T]]) -> T:
        """Do what `answer` does, asynchronously."""
        while True:
            try:
                return await ask(self._runnable(), self._run_config())
            except Exception as failed:
                self.attempts.note(failed)

    def stream(self, ask: Ask[Iterator[T]], says_something: Callable[[T], bool] = says_something) -> Generator[T]:
        """Yield what the first model streams that does not fail before it says something."""
        while True:
            begun: list[T] = []
            try:
                parts = ask(self._runnable(), self._run_config())
                for part in parts:
                    begun.append(part)
                    if says_something(part):
                        break
                break
            except Exception as failed:
                self.attempts.note(failed)
        try:
            yield from begun
            yield from parts
        except GeneratorExit:
            self._stopped()
            raise

    async def astream(
        self, ask: Ask[AsyncIterator[T]], says_something: Callable[[T], bool] = says_something
    ) -> AsyncGenerator[T]:
        """Do what `stream` does, asynchronously; who stops listening stops the model."""
        while True:
            begun: list[T] = []
            try:
                parts = ask(self._runnable(), self._run_config())
                async for part in parts:
                    begun.append(part)
                    if says_something(part):
                        break
                break
            except Exception as failed:
                self.attempts.note(failed)
        try:
            async with aclosing(cast("AsyncGenerator[T]", parts)):  # LangChain's streams are generators
                for part in begun:
                    yield part
                async for part in parts:
                    yield part
        except (GeneratorExit, asyncio.CancelledError):
            self._stopped()
            raise

    def _runnable(self) -> Runnable[Any, Any]:
        profile = self.pool[self.attempts.model]
        return self._prepare(self.models.chat_model(profile, is_last=self.attempts.is_last))

    def _run_config(self) -> RunnableConfig:
        """Return the config of the next run: the caller's, with the decision in the run's metadata."""
        known = {n: value for n, value in self._record().items() if value is not None and n != "seconds"}
        config: RunnableConfig = {**self._config, "metadata": {**self._config.get("metadata", {}), METADATA: known}}
        if self.attempts.failures:
            config.pop("run_id", None)  # the failed run has it
        return config

    # --- Answered -----------------------------------------------------------------------------------------------------

    def answered(self, message: M) -> M:
        """Return a copy of the answer with the record of the call; caches share the message itself."""
        return _marked(message, self.finish(getattr(message, "usage_metadata", None)))

    def streamed(self, chunk: AIMessageChunk) -> AIMessageChunk:
        """Return a chunk as it is, the last as a copy with the record of the call."""
        if (usage := chunk.usage_metadata) is not None:
            is_total = self._usage is not None and self._usage["input_tokens"] and usage["input_tokens"]
            self._usage = usage if is_total else add_usage(self._usage, usage)  # else the prompt is told once
        return _marked(chunk, self.finish(self._usage)) if is_last(chunk) else chunk

    def generated(self, result: LLMResult) -> LLMResult:
        """Return a copy of the result of `generate` with the record of the call on each of its messages."""
        first = result.generations[0][0]
        record = self.finish(getattr(getattr(first, "message", None), "usage_metadata", None))
        marked = [[_with_record(generation, record) for generation in each] for each in result.generations]
        return result.model_copy(update={"generations": marked})

    def finish(self, usage: UsageMetadata | None = None) -> Record:
        """Return the record of the call, and keep it for `last_decision`."""
        record, self._is_finished = self._record(usage), True
        keep(record)
        return record

    def _stopped(self) -> None:
        """Keep the record of an answer that nobody listened to until its end, which costs money all the same."""
        if not self._is_finished:
            self.finish(self._usage)

    def _record(self, usage: UsageMetadata | None = None) -> Record:
        model = self.attempts.model
        profile = self.pool[model]
        took = _as_usage(usage)
        record = CallRecord(
            model=model,
            decision=self.attempts.decision,
            usd=self._usd(usage, took, profile),
            usage=took,
            seconds=time.perf_counter() - self._began,
            failures=dict(self.attempts.failures),
            differs=self._differs(profile),
        )
        return {**record.as_dict(), "why": self.why}

    def _differs(self, profile: ModelProfile) -> tuple[str, ...]:
        """Return in which ways the model is called otherwise than when it was measured, as far as that is known."""
        if self.models.given is not None:
            return ()
        return called_otherwise(profile, {**self.models.settings, **self.parameters})

    def _usd(self, usage: UsageMetadata | None, took: Usage, profile: ModelProfile) -> float:
        """Return what the answer cost; NaN where its tokens or the model's prices are not known."""
        told = cast("dict[str, Any]", usage or {}).get("total_cost")
        if told is not None:  # by LangChain's caches, which say 0
            return float(told)
        quoted = quote(member_of(profile), profile) if self.models.given is None else None
        prices = profile.prices if quoted is None else quoted.prices
        return math.nan if prices is None else prices.cost(took.tokens_in, took.tokens_out, took.cached_tokens)


def _marked(message: M, record: Record) -> M:
    return message.model_copy(update={"response_metadata": {**message.response_metadata, METADATA: record}})


def _with_record(generation: Any, record: Record) -> Any:
    if not isinstance(generation, ChatGeneration):
        return generation
    return generation.model_copy(update={"message": _marked(generation.message, record)})


def _as_usage(usage: UsageMetadata | None) -> Usage:
    if usage is None:
        return Usage(math.nan, math.nan)
    into, out = usage.get("input_token_details", {}), usage.get("output_token_details", {})
    return Usage(
        usage["input_tokens"],
        usage["output_tokens"],
        cached_tokens=min(into.get("cache_read", 0), usage["input_tokens"]),
        reasoning_tokens=out.get("reasoning", 0),
    )
