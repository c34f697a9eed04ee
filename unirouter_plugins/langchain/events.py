"""Streams of LangChain's v3 events, whose events come from a generator as the reader asks for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterator
from typing import Any

from langchain_core.language_models.chat_model_stream import AsyncChatModelStream, ChatModelStream


def stream_of(events: Iterator[Any]) -> ChatModelStream:
    """Return a stream of these events."""
    stream = ChatModelStream()

    def pump_one() -> bool:
        try:
            if (event := next(events, None)) is not None:
                stream.dispatch(event)
        except BaseException as failed:  # the reader gets it, as from LangChain's own streams
            stream.fail(failed)
            return False
        return event is not None

    stream.bind_pump(pump_one)
    return stream


async def astream_of(events: AsyncIterator[Any]) -> AsyncChatModelStream:
    """Return an asynchronous stream of these events; closing it closes them."""
    return _PulledStream(events)


class _PulledStream(AsyncChatModelStream):
    """Takes the next event when one of its readers waits for it."""

    def __init__(self, events: AsyncIterator[Any]) -> None:
        super().__init__()
        self._source, self._one_reader = events, asyncio.Lock()
        self.set_arequest_more(self._pull)

    async def _pull(self) -> bool:
        async with self._one_reader:
            try:
                if (event := await anext(self._source, None)) is not None:
                    self.dispatch(event)
            except BaseException as failed:  # the reader gets it, as from LangChain's own streams
                self.fail(failed)
                if isinstance(failed, asyncio.CancelledError):
                    raise
                return False
            return event is not None

    async def aclose(self) -> None:
        """Stop the model, where it has not ended."""
        if not self.done:
            self.fail(asyncio.CancelledError())
        await self._source.aclose()  # type: ignore[attr-defined]  # it is a generator


async def whole(opening: Awaitable[Any]) -> AsyncIterator[Any]:
    """Yield the events of a model's stream, the last when its run has ended; closing it stops the model."""
    async with await opening as stream:
        async for event in stream:
            if event["event"] == "message-finish":
                await stream
            yield event
