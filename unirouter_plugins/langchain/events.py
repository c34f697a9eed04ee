"""Streams of LangChain's v3 events: the picked model's own, with the record of the call on the last."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.chat_model_stream import AsyncChatModelStream, ChatModelStream
from langchain_core.runnables import RunnableConfig

from unirouter_plugins.langchain.calling import Call
from unirouter_plugins.litellm.routed import METADATA

if TYPE_CHECKING:
    from unirouter_plugins.langchain.chat_model import PickingChatModel


def stream_events(
    llm: PickingChatModel,
    input: LanguageModelInput,
    config: RunnableConfig,
    stop: list[str] | None,
    kwargs: Mapping[str, Any],
) -> ChatModelStream:
    """Return a stream that decides when it is first read, then takes an event whenever its reader asks for more."""

    def events() -> Iterator[Any]:
        call = llm.begin(input, config, kwargs)

        def ask(model: Any, run: RunnableConfig) -> Iterator[Any]:
            return iter(model.stream_events(input, run, version="v3", stop=stop, **call.parameters))

        for event in call.stream(ask, _says_something):
            yield _marked(event, call)

    stream, taken = ChatModelStream(), events()

    def pump_one() -> bool:
        try:
            stream.dispatch(next(taken))
        except StopIteration:
            return False
        except BaseException as failed:  # the reader gets it, as from LangChain's own streams
            stream.fail(failed)
            return False
        return True

    stream.bind_pump(pump_one)
    return stream


async def astream_events(
    llm: PickingChatModel,
    input: LanguageModelInput,
    config: RunnableConfig,
    stop: list[str] | None,
    kwargs: Mapping[str, Any],
) -> AsyncChatModelStream:
    """Return a stream that decides when it is first read; a task of its own takes the events."""

    async def events() -> AsyncGenerator[Any]:
        call = await llm.abegin(input, config, kwargs)

        async def ask(model: Any, run: RunnableConfig) -> AsyncIterator[Any]:
            async with await model.astream_events(input, run, version="v3", stop=stop, **call.parameters) as source:
                async for event in source:
                    yield event

        async with aclosing(call.astream(ask, _says_something)) as taken:
            async for event in taken:
                yield _marked(event, call)

    stream = AsyncChatModelStream()

    async def produce() -> None:
        try:
            async with aclosing(events()) as taken:
                async for event in taken:
                    stream.dispatch(event)
        except asyncio.CancelledError as cancelled:
            stream.fail(cancelled)
            raise
        except BaseException as failed:  # the reader gets it, as from LangChain's own streams
            stream.fail(failed)

    async def ensure_started() -> None:
        if stream._producer_task is None:  # LangChain has no public way to say who produces
            stream._producer_task = asyncio.get_running_loop().create_task(produce())

    stream.set_start(ensure_started)
    return stream


def _says_something(event: Any) -> bool:
    """Return whether an event is part of the answer: after it, another model cannot begin anew."""
    return bool(event["event"] != "message-start")


def _marked(event: Any, call: Call) -> Any:
    """Return the event as it is, the last as a copy with the record of the call."""
    if event["event"] != "message-finish":
        return event
    return {**event, "metadata": {**event.get("metadata", {}), METADATA: call.finish(event.get("usage"))}}
