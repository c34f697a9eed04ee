"""LlamaIndex's events: the query that a call is made for, what was retrieved for it, and the answers below a call."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from contextlib import aclosing, closing, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from llama_index.core.base.response.schema import AsyncStreamingResponse, StreamingResponse
from llama_index.core.instrumentation.events.llm import LLMChatEndEvent, LLMCompletionEndEvent
from llama_index.core.instrumentation.events.query import QueryEndEvent, QueryStartEvent
from llama_index.core.instrumentation.events.retrieval import RetrievalEndEvent
from llama_index.core.instrumentation.events.synthesis import SynthesizeEndEvent, SynthesizeStartEvent
from llama_index.core.schema import NodeWithScore
from llama_index.core.types import TokenAsyncGen, TokenGen
from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.event_handlers import BaseEventHandler
from llama_index_instrumentation.events.span import SpanDropEvent
from llama_index_instrumentation.span_handlers.null import NullSpanHandler

from unirouter_core.documents import Documents, GivenDocuments
from unirouter_plugins.litellm.routed import METADATA, Record

CALLS = f"{METADATA}_calls"
"""Where a response's metadata hold the records of all its calls, in order; the last gave the answer."""

_SYNTHESIZER = "llama_index.core.response_synthesizers.base"
_MODULES = (
    "llama_index.core.base.base_query_engine",
    "llama_index.core.base.base_retriever",
    _SYNTHESIZER,
    "llama_index.core.response_synthesizers.generation",
    "llama_index.core.llms.callbacks",
)
"""LlamaIndex's modules that send events when a query begins, retrieves and ends, and when an LLM has answered."""


@dataclass(eq=False)
class Query:
    """A query while it is answered; the calls that are made for it find it in their context."""

    text: str | None = None  # without the context that was retrieved; None where each call's own text counts
    span_id: str | None = None  # LlamaIndex's name of its span
    outer: Query | None = None  # the query that this one is a step of
    documents: Documents | None = None  # what was found for it; None where nothing was looked for
    models: dict[Hashable, str] = field(default_factory=dict, init=False)  # the one that each LLM keeps
    records: list[Record] = field(default_factory=list, init=False)
    is_open: bool = field(default=True, init=False)

    @property
    def lineage(self) -> Iterator[Query]:
        """The query itself, the one that it is a step of, and so on to the outermost."""
        query: Query | None = self
        while query is not None:
            yield query
            query = query.outer

    @property
    def outermost(self) -> Query:
        """The query that all others are steps of: its models are kept for them."""
        return list(self.lineage)[-1]

    def text_for(self, *, per_step: bool) -> str | None:
        """Return the text to route on: that of the outermost query, or of this step."""
        texts = [query.text for query in self.lineage if query.text]
        return texts[0 if per_step else -1] if texts else None

    @property
    def found(self) -> Documents | None:
        """What was found for the query, else for the one that it is a step of; None where nothing was looked for."""
        return next((query.documents for query in self.lineage if query.documents is not None), None)

    def keep(self, record: Record) -> None:
        """Note the record of a call."""
        for query in self.lineage:
            query.records.append(record)


_QUERY: ContextVar[Query | None] = ContextVar("query", default=None)

_NODES: ContextVar[tuple[str, Sequence[NodeWithScore]] | None] = ContextVar("nodes", default=None)
"""The id of a span, and the nodes that its answer is made of: those that rerankers and the like have left."""

_ANSWERS: ContextVar[dict[int, Any] | None] = ContextVar("answers below a call", default=None)


def current_query() -> Query | None:
    """Return the query that is being answered here; None outside of one."""
    query = _QUERY.get()
    while query is not None and not query.is_open:  # its answer was given, but a task that it left behind goes on
        query = query.outer
    return query


@contextmanager
def one_query(text: str | None = None, documents: GivenDocuments | None = None) -> Iterator[None]:
    """Make one query of all calls in the block, or one step of the query around it: they keep the model of the first.

    Parameters
    ----------
    text : str, optional
        What to route on; when not given, each call's own text.
    documents : Documents or sequence of str, optional
        What was retrieved for it, for a router fitted with documents; what a retriever finds in the block comes in its
        place.

    Examples
    --------
    ::

        with one_query():
            draft = llm.complete("Write a kind reply to a customer whose lamp is late.")
            reply = llm.complete(f"Translate into French: {draft.text}")
    """
    query = Query(text, None, current_query(), None if documents is None else Documents.of(documents))
    token = _QUERY.set(query)
    try:
        yield
    finally:
        query.is_open = False
        _QUERY.reset(token)


class EventHandler(BaseEventHandler):
    """Opens a query when one begins, closes it when it ends, and collects the answers of LLMs."""

    def handle(self, event: Any, **_: Any) -> None:
        """Handle an event, in the context of the query: its response gets the records."""
        if isinstance(event, LLMChatEndEvent | LLMCompletionEndEvent):
            answers, answer = _ANSWERS.get(), event.response
            if answers is not None and answer is not None and answer.raw is not None:
                answers[id(answer.raw)] = answer
            return
        if isinstance(event, QueryStartEvent | SynthesizeStartEvent):
            text = event.query if isinstance(event.query, str) else event.query.query_str
            nodes = _NODES.get()
            found = _documents(nodes[1]) if nodes is not None and nodes[0] == event.span_id else None
            _QUERY.set(Query(text, event.span_id, current_query(), found))
            return
        if isinstance(event, RetrievalEndEvent):
            if (asking := current_query()) is not None:
                asking.documents = _documents(event.nodes)
            return
        query = _QUERY.get()
        if query is None or query.span_id != event.span_id:
            return
        if isinstance(event, QueryEndEvent | SynthesizeEndEvent | SpanDropEvent):
            _QUERY.set(query.outer)
            query.is_open = False
        if isinstance(event, QueryEndEvent | SynthesizeEndEvent):
            _end(query, event.response)


class NodesHandler(NullSpanHandler):
    """Keeps the nodes that an answer is made of: the event that follows has only the query's text."""

    def span_enter(self, id_: str, bound_args: Any, *_: Any, **__: Any) -> None:
        """Keep the nodes that a synthesizer is given, in the context of its span."""
        if "nodes" in bound_args.arguments:
            _NODES.set((id_, bound_args.arguments["nodes"]))


def _documents(nodes: Sequence[NodeWithScore]) -> Documents:
    """Return nodes as the router reads them: their own text, without metadata, and their scores where they have any.

    A score that is not finite is none: LlamaIndex drops what is raised here, and the nodes would not be read at all.
    """
    scores = [math.nan if node.score is None or math.isinf(node.score) else node.score for node in nodes]
    return Documents([node.get_content() for node in nodes], scores)


def _end(query: Query, response: Any) -> None:
    """Put the records into a response; of one that streams, the LLM may be called only when it is read."""
    _note(query, response)
    if isinstance(response, StreamingResponse) and response.response_gen is not None:
        response.response_gen = _read(query, response, response.response_gen)
    elif isinstance(response, AsyncStreamingResponse):
        response.response_gen = _aread(query, response, response.response_gen)


def _note(query: Query, response: Any) -> None:
    """Put the records into the metadata of a query's response."""
    if query.records:
        response.metadata = {} if response.metadata is None else response.metadata
        response.metadata |= {METADATA: query.records[-1], CALLS: list(query.records)}


def _read(query: Query, response: Any, parts: TokenGen) -> TokenGen:
    """Yield the parts of a response, each made in the query, whichever context reads them."""
    with closing(parts):
        while True:
            with _resumed(query, response):
                part = next(parts, None)
            if part is None:
                return
            yield part


async def _aread(query: Query, response: Any, parts: TokenAsyncGen) -> TokenAsyncGen:
    """Yield the same as `_read`, asynchronously."""
    async with aclosing(parts):
        while True:
            with _resumed(query, response):
                part = await anext(parts, None)
            if part is None:
                return
            yield part


@contextmanager
def _resumed(query: Query, response: Any) -> Iterator[None]:
    token, query.is_open = _QUERY.set(query), True
    try:
        yield
        _note(query, response)
    finally:
        query.is_open = False
        _QUERY.reset(token)


@contextmanager
def collecting_answers(answers: dict[int, Any]) -> Iterator[None]:
    """Put the answers that LLMs give in the block into `answers`, those in threads and tasks included.

    Objects that are parsed from them do not tell their tokens. Each is there once, by the id of its raw answer, which
    both events have of LLMs that complete by chatting.
    """
    token = _ANSWERS.set(answers)
    try:
        yield
    finally:
        _ANSWERS.reset(token)


def register_handlers() -> None:
    """Register the handlers with LlamaIndex, for the whole process; doing it again changes nothing."""
    if any(isinstance(handler, EventHandler) for handler in get_dispatcher(_MODULES[0]).event_handlers):
        return
    for handlers, kind in (
        *((get_dispatcher(name).event_handlers, EventHandler) for name in _MODULES),
        (get_dispatcher(_SYNTHESIZER).span_handlers, NodesHandler),
    ):
        if not any(isinstance(handler, kind) for handler in handlers):
            handlers.append(kind())
