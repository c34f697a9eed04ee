"""When a model may be called: as many calls at once as its provider bears, none before a pause it asked for is over."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from unirouter_plugins.litellm.failures import Failure, classify, retry_after

try:
    from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt
    from tenacity.wait import wait_exponential, wait_random
except ImportError as missing:
    raise ImportError("tenacity is missing: pip install 'unirouter[litellm]'.") from missing

T = TypeVar("T")

ATTEMPTS = 6
"""How often a call is made before it has failed."""

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds between the first two attempts, doubled each time, where the provider does not say."""

PATIENCE = 600.0
"""A provider that asks to wait for longer than these seconds is not asked again."""

JITTER = 0.25
"""The part of a pause by which calls that waited together part."""

FEWER = 0.5
"""The part of the calls at once that is left after a provider was asked too fast."""


class Gate:
    """What the calls of one model share: a pause, and how many there may be at once.

    A provider that was asked too fast is asked by half as many at once after the pause, and by one more after as many
    calls went well as there are at once.

    Parameters
    ----------
    most : int
        Calls at once.
    """

    def __init__(self, most: int) -> None:
        self._most, self._room = most, float(most)
        self._inside = 0
        self._opens = 0.0
        self._free = asyncio.Event()

    @asynccontextmanager
    async def passage(self) -> AsyncIterator[None]:
        """Enter when there is room and no pause."""
        while self._inside >= int(self._room):
            self._free.clear()
            await self._free.wait()
        self._inside += 1
        try:
            while (left := self._opens - time.monotonic()) > 0:
                await asyncio.sleep(left * random.uniform(1, 1 + JITTER))
            yield
            self._room = min(self._room + 1 / self._room, self._most)
        finally:
            self._inside -= 1
            self._free.set()

    def pause(self, seconds: float) -> None:
        """Let nobody in for so many seconds; fewer at once afterwards."""
        now = time.monotonic()
        if now >= self._opens:  # calls that left before the pause and fail in it are the same news
            self._room = max(self._room * FEWER, 1.0)
        self._opens = max(self._opens, now + seconds)


async def with_retries(call: Callable[[], Awaitable[T]], gate: Gate, attempts: int = ATTEMPTS) -> T:
    """Return what `call` returns, called again after failures that may pass.

    A provider that says it was asked too fast pauses all calls that share `gate`, for as long as it says; other
    failures, this one only.
    """
    usual = wait_exponential(FIRST_PAUSE, LONGEST_PAUSE) + wait_random(0, FIRST_PAUSE)

    def wait(state: RetryCallState) -> float:
        failed = state.outcome.exception() if state.outcome is not None else None
        asked = None if failed is None else retry_after(failed)
        if failed is None or (asked is None and classify(failed) is not Failure.RATE_LIMIT):
            return usual(state)
        gate.pause(usual(state) if asked is None else asked)
        return 0.0  # the next attempt waits at the gate

    retrying = AsyncRetrying(
        stop=stop_after_attempt(attempts), retry=retry_if_exception(may_pass), wait=wait, reraise=True
    )
    return await retrying(call)


def may_pass(failed: BaseException) -> bool:
    """Return whether to retry: whether the failure may pass, and soon."""
    return classify(failed).may_pass and (retry_after(failed) or 0.0) <= PATIENCE


async def together(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Return what the coroutines return; when one fails, or the caller is cancelled, all have ended before it tells."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
