"""Many tasks' entries, committed together: one wait for the disk serves all that came while the last one lasted."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

from unirouter_plugins.onboarding.answers import AnswerStore, Entry


class Committer:
    """Keeps the entries of many tasks, those that come while one transaction is written together in the next.

    ``await commit(entry)`` returns when the entry is on disk, or raises what `AnswerStore.add` raised for those it was
    written with. An entry whose task is cancelled meanwhile is written all the same. Leaving the block waits for
    all; there, a failure that no task was left to hear of is raised.

    Parameters
    ----------
    store : AnswerStore

    Examples
    --------
    >>> async def keep(store, entries):
    ...     async with Committer(store) as commit:
    ...         await asyncio.gather(*(commit(entry) for entry in entries))
    """

    def __init__(self, store: AnswerStore) -> None:
        self._store = store
        self._waiting: list[tuple[Entry, asyncio.Future[None]]] = []
        self._writing: asyncio.Future[None] | None = None
        self._unheard: BaseException | None = None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="committer")
        return self

    async def __call__(self, entry: Entry) -> None:
        """Return when `entry` is on disk."""
        kept: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append((entry, kept))
        self._loop.call_soon(self._write)  # soon: tasks that are woken together come together
        await kept

    async def __aexit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, _: TracebackType | None
    ) -> None:
        cancelled: asyncio.CancelledError | None = None
        while (writing := self._write()) is not None:
            try:
                await asyncio.wait([writing])
            except asyncio.CancelledError as asked:
                cancelled = asked  # after what was paid for is on disk
        self._thread.shutdown()
        if cancelled is not None:
            raise cancelled
        if self._unheard is not None and raised is None:
            raise self._unheard

    def _write(self) -> asyncio.Future[None] | None:
        """Return the transaction that is being written, or begin one for all that waits; None when nothing does."""
        if self._writing is None and self._waiting:
            group, self._waiting = self._waiting, []
            self._writing = self._loop.run_in_executor(self._thread, self._store.add, [entry for entry, _ in group])
            self._writing.add_done_callback(lambda written: self._tell(group, written))
        return self._writing

    def _tell(self, group: Sequence[tuple[Entry, asyncio.Future[None]]], written: asyncio.Future[None]) -> None:
        self._writing = None
        failed = written.exception()
        hearing = [kept for _, kept in group if not kept.done()]  # the others' tasks were cancelled
        for kept in hearing:
            if failed is None:
                kept.set_result(None)
            else:
                kept.set_exception(failed)
        if not hearing:
            self._unheard = failed or self._unheard
        self._write()
