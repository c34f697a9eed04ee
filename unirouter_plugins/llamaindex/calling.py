"""One call: a decision on its way to an answer, down the ranking where an LLM fails, and the record of it."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Hashable, Iterator, Mapping, Sequence
from contextlib import aclosing, closing, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse
from llama_index.core.llms import LLM
from llama_index_instrumentation.dispatcher import active_instrument_tags, instrument_tags

from unirouter_core.pool import ModelProfile
from unirouter_plugins.litellm import CallRecord
from unirouter_plugins.litellm.prices import Quote, quote, usd_of
from unirouter_plugins.litellm.routed import METADATA, Attempts, Record, keep
from unirouter_plugins.litellm.XXX import called_otherwise, member_of
from unirouter_plugins.llamaindex.answers import marked, says_something, usage_of_all, usage_told_by
from unirouter_plugins.llamaindex.hearing import Heard, hearing
from unirouter_plugins.llamaindex.llms import PoolLLMs
from unirouter_plugins.llamaindex.queries import Query, loud
from unirouter_plugins.llamaindex.streams import aeach_in, each_in

T = TypeVar("T")

Ask: TypeAlias = Callable[[Any], T]
"""Calls an LLM, which can call tools where the call needs it."""


@dataclass(eq=False)
class Call:
    """A decision on its way to an answer.

    Parameters
    ----------
    attempts : Attempts
    pool : mapping of str to ModelProfile
    llms : PoolLLMs
    messages : sequence of ChatMessage
        As they are sent.
    parameters : mapping
        What the LLM is called with besides.
    callbacks : CallbackManager
        Whom the LLM tells of the call, if anybody listens.
    query : Query, optional
        What the call is made for.
    keeper : hashable
        Whose model the query keeps: that of another LLM may be another, and so may one picked before documents were
        found.
    why : str
        Of "routed", "forced", "tool loop" and "query".
    """

    attempts: Attempts
    pool: Mapping[str, ModelProfile]
    llms: PoolLLMs
    messages: Sequence[ChatMessage]
    parameters: Mapping[str, Any]
    callbacks: Any
    query: Query | None
    keeper: Hashable
    why: str
    _began: float = field(default_factory=time.perf_counter, init=False, repr=False)
    _heard: Heard = field(default_factory=dict, init=False, repr=False)  # of the model that is asked now
    _tags: dict[str, Record] = field(default_factory=dict, init=False, repr=False)

    # --- Asking -------------------------------------------------------------------------------------------------------

    def answer(self, ask: Ask[T]) -> T:
        """Return what the first LLM gives that does not fail, with the record; `ask` makes the call."""
        return self._answered(self._first(ask))

    async def aanswer(self, ask: Ask[Awaitable[T]]) -> T:
        """Do what `answer` does, asynchronously."""
        return self._answered(await self._afirst(ask))

    def stream(self, ask: Ask[Generator[T]]) -> Generator[T]:
        """Return what the first LLM streams that does not fail before it says something; it is called at once."""
        return self._streamed(ask, self._first(ask), _Streamed(self))

    async def astream(self, ask: Ask[Awaitable[AsyncGenerator[T]]]) -> AsyncGenerator[T]:
        """Do what `stream` does, asynchronously; who stops listening stops the LLM."""
        return self._astreamed(ask, await self._afirst(ask), _Streamed(self))

    @property
    def stream_parameters(self) -> dict[str, Any]:
        """What the LLM is called with to stream: LiteLLM tells what a stream took only when it is asked to."""
        asked = {"stream_options": {"include_usage": True}} if self.llms.given is None else {}
        return {**asked, **self.parameters}

    def _first(self, ask: Ask[T]) -> T:
        while True:
            try:
                llm = self._llm()
                with self._listening():
                    return ask(llm)
            except Exception as failed:
                self.note(failed)

    async def _afirst(self, ask: Ask[Awaitable[T]]) -> T:
        while True:
            try:
                llm = self._llm()
                with self._listening():
                    return await ask(llm)
            except Exception as failed:
                self.note(failed)

    def _streamed(self, ask: Ask[Generator[T]], parts: Generator[T], streamed: _Streamed) -> Generator[T]:
        while True:
            begun: list[T] = []
            try:
                parts = each_in(self._listening, parts)
                for part in parts:
                    begun.append(part)
                    if says_something(part):
                        break
                break
            except Exception as failed:
                self.note(failed)
                parts = self._first(ask)
        streamed.begin()
        with closing(parts):
            for part in itertools.chain(begun, parts):
                yield streamed.marked(part)
        streamed.end()

    async def _astreamed(
        self, ask: Ask[Awaitable[AsyncGenerator[T]]], parts: AsyncGenerator[T], streamed: _Streamed
    ) -> AsyncGenerator[T]:
        while True:
            begun: list[T] = []
            try:
                parts = aeach_in(self._listening, parts)
                async for part in parts:
                    begun.append(part)
                    if says_something(part):
                        break
                break
            except Exception as failed:
                self.note(failed)
                parts = await self._afirst(ask)
        streamed.begin()
        async with aclosing(parts):
            for part in begun:
                yield streamed.marked(part)
            async for part in parts:
                yield streamed.marked(part)
        streamed.end()

    def note(self, failed: Exception) -> None:
        """Move on to the next model; raise when no other may answer."""
        with loud():
            self.attempts.note(failed)

    def _llm(self) -> LLM:
        llm = self.llms.llm(self.pool[self.attempts.model], is_last=self.attempts.is_last)
        if self.callbacks.handlers:
            llm.callback_manager = self.callbacks  # as LlamaIndex does with the LLMs that it is given
        self._heard = {}
        self._tags = {METADATA: self.record()}
        return llm

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Hear what is answered in the block, in which LlamaIndex's events have the decision among their tags."""
        with instrument_tags({**active_instrument_tags.get(), **self._tags}), hearing(self._heard):
            yield

    # --- Answered -----------------------------------------------------------------------------------------------------

    def _answered(self, response: T) -> T:
        """Return a copy of the answer with the record of the call, which is kept."""
        record = self.record(response)
        self.settle()
        self.keep(record)
        answer: T = marked(response, record)
        return answer

    def keep(self, record: Record) -> None:
        """Keep the record for `last_decision` and for the response of the query."""
        keep(record)
        if self.query is not None:
            self.query.keep(record)

    def settle(self) -> None:
        """Let the query keep the model that answers, unless it was forced for this call."""
        if self.query is not None and self.why != "forced":
            self.query.outermost.models[self.keeper] = self.attempts.model

    def record(self, response: Any = None) -> Record:
        """Return the record of the call, with the cost where the answer, or those below an object, tell the tokens."""
        model = self.attempts.model
        profile = self.pool[model]
        answers = [response] if isinstance(response, ChatResponse | CompletionResponse) else [*self._heard.values()]
        record = CallRecord(
            model=model,
            decision=self.attempts.decision,
            usd=sum(self._usd(profile, answer) for answer in answers) if answers else math.nan,
            usage=usage_of_all(answers),
            seconds=time.perf_counter() - self._began,
            failures=dict(self.attempts.failures),
            differs=self._differs(profile),
        )
        return {**record.as_dict(), "why": self.why}

    def _differs(self, profile: ModelProfile) -> tuple[str, ...]:
        """Return in which ways the model is called otherwise than when it was measured, as far as that is known."""
        if self.llms.given is not None:
            return ()
        return called_otherwise(profile, {**self.llms.settings, **self.parameters})

    def _usd(self, profile: ModelProfile, answer: ChatResponse | CompletionResponse) -> float:
        """Return what an answer cost; NaN where its tokens or the model's prices are not known."""
        usage = usage_told_by(answer)
        if not usage.is_known:
            return math.nan
        if self.llms.given is None:
            quoted = quote(member_of(profile), profile)
        else:
            quoted = None if profile.prices is None else Quote(profile.prices, "profile")
        return math.nan if quoted is None else usd_of(answer.raw, quoted, usage)


class _Streamed:
    """A stream on its way: all its chunks share one record, which is kept at once and whole when the stream has ended.

    Query engines give their response before the stream is read.
    """

    def __init__(self, call: Call) -> None:
        self._call, self._record = call, call.record()
        self._telling: Any = None  # the chunk that tells the usage
        call.keep(self._record)

    def begin(self) -> None:
        """Note who answers: another model, where the first has failed since."""
        self._call.settle()
        self._record.update(self._call.record())

    def marked(self, part: Any) -> Any:
        """Return a copy of a chunk with the record."""
        if self._telling is None or usage_told_by(part).is_known:
            self._telling = part
        return marked(part, self._record)

    def end(self) -> None:
        """Note what the stream cost."""
        self._record.update(self._call.record(self._telling))
