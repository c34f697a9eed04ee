"""Timeouts of a call, and the thread that makes its blocking steps, for which its caller stops waiting in time."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass
from functools import cached_property, partial
from queue import Empty, SimpleQueue
from typing import Any, Self, TypeVar

from unirouter_core.exceptions import InvalidDataError, UniRouterError

T = TypeVar("T")

TIMEOUT = 300.0
"""Seconds of one attempt until its first content, where none are given; a call's deadline is twice its timeout."""

_GRACE = 0.5
"""Seconds after `timeout`, at most a quarter of it, in which LiteLLM's own, which counts from the last byte, may end an
attempt and tell more."""

_CLOSING = 1.0  # seconds that closing a stream is waited for


class CallTimeoutError(UniRouterError, TimeoutError):
    """A model gave no content within `timeout` seconds, or the call took longer than its `deadline`."""


@dataclass(frozen=True)
class Limits:
    """The wall-clock seconds that a call may take: `timeout` an attempt, until its first content, `deadline` all."""

    timeout: float
    deadline: float

    @classmethod
    def of(cls, timeout: Any = None, deadline: Any = None) -> Limits:
        """Return the limits as given; the timeout may be an `httpx.Timeout`, whose time to read counts.

        >>> Limits.of(), Limits.of(20), Limits.of(deadline=20)
        (Limits(timeout=300.0, deadline=600.0), Limits(timeout=20, deadline=40), Limits(timeout=10.0, deadline=20))
        """
        timeout = getattr(timeout, "read", timeout)
        for name, given in (("timeout", timeout), ("deadline", deadline)):
            is_number = isinstance(given, int | float) and not isinstance(given, bool)
            if given is not None and not (is_number and 0 < given < threading.TIMEOUT_MAX):
                raise InvalidDataError(f"{name}={given!r} must be a number of seconds, more than 0.")
        if timeout is None:
            timeout = TIMEOUT if deadline is None else min(TIMEOUT, deadline / 2)
        return cls(timeout, 2 * timeout if deadline is None else deadline)

    @cached_property
    def attempt(self) -> float:
        """The seconds after which an attempt is ended from outside."""
        return self.timeout + min(_GRACE, self.timeout / 4)


class Steps:
    """The blocking steps of one attempt, made in turn by one thread in one copy of the caller's context.

    `left` returns the seconds that are left for a step, `late` the exception for one that takes longer. The thread is
    then left alone with it: what it still returns is dropped, and what `close` closes is closed after it. A thread of
    its own costs a call 0.05 ms; one that was kept would have to be woken, which takes longer on a busy machine. Where
    it `is_direct`, the caller makes them, without a limit.
    """

    def __init__(self, left: Callable[[], float], late: Callable[[], Exception], *, is_direct: bool = False) -> None:
        self._left, self._late, self._is_direct = left, late, is_direct
        self._steps: SimpleQueue[Callable[[], Any] | None] = SimpleQueue()
        self._results: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._is_waiting = False
        self.close: Callable[[], Any] | None = None  # what is to be done at the end

    def make(self, step: Callable[[], T]) -> T:
        """Return what a step returns, or raise what it raises."""
        if self._is_direct:
            return step()
        self._submit(step)
        try:
            result, failed = self._results.get(timeout=max(self._left(), 0))
        except Empty:
            raise self._late() from None
        self._is_waiting = False
        if failed is not None:
            try:
                raise failed
            finally:
                del failed  # a cycle with the traceback
        made: T = result
        return made

    def _submit(self, step: Callable[[], Any]) -> None:
        self._is_waiting = True
        self._steps.put(step)
        if self._thread is None:  # a daemon, for an interrupt must not wait for it
            work = partial(copy_context().run, self._work)
            self._thread = threading.Thread(target=work, daemon=True, name="unirouter call")
            self._thread.start()

    def _work(self) -> None:
        done: tuple[Any, BaseException | None]
        while (step := self._steps.get()) is not None:
            try:
                done = step(), None
            except BaseException as failed:  # of any kind: it is the caller's
                done = None, failed
            self._results.put(done)
            del step, done  # they hold an answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        is_stuck, close = self._is_waiting, self.close
        if self._is_direct and close is not None:
            close()
        elif not self._is_direct:
            if close is not None:
                self._submit(close)
            self._steps.put(None)
            if close is not None and not is_stuck:
                with contextlib.suppress(Empty):
                    self._results.get(timeout=_CLOSING)
