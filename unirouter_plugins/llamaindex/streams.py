"""Streams, each part of which is made in a block of its own: who reads them may do so in another context."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractContextManager, aclosing, closing
from typing import Any, TypeVar

T = TypeVar("T")


def each_in(block: Callable[[], AbstractContextManager[Any]], parts: Generator[T]) -> Generator[T]:
    """Yield the parts of a stream, each made in a block of its own."""
    with closing(parts):
        while True:
            with block():
                try:
                    part = next(parts)
                except StopIteration:
                    return
            yield part


async def aeach_in(block: Callable[[], AbstractContextManager[Any]], parts: AsyncGenerator[T]) -> AsyncGenerator[T]:
    """Do what `each_in` does, asynchronously."""
    async with aclosing(parts):
        while True:
            with block():
                try:
                    part = await anext(parts)
                except StopAsyncIteration:
                    return
            yield part
