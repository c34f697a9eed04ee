"""Many tasks' entries in few transactions: none lost, none acknowledged too early."""

import asyncio
import random
import sqlite3
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest

pytest.importorskip("sqlalchemy")

import sqlalchemy as sa

from unirouter_core.exceptions import InvalidDataError
from unirouter_plugins.onboarding.answers import Answer, AnswerKey, AnswerStore, Entry, Grade
from unirouter_plugins.onboarding.committer import Committer

ANSWER = Answer("4", 9.0, 1.0, None, None, 2e-6, 0.4, "stop", False, "2026-11-23")
STRAY = Entry(AnswerKey("sage", "p", "s"), None, "exact v1", Grade(0.0))  # a grade whose answer is not kept


def entry(n):
    return Entry(AnswerKey("poet", str(n), "s"), ANSWER)


@pytest.fixture
def store(tmp_path):
    with AnswerStore(tmp_path / "answers.sqlite") as store:
        yield store


def kept(store):
    """The numbers of the entries that are in the store."""
    return sorted(int(prompt) for prompt, _ in store.answers("poet", "s"))


@contextmanager
def on_commit(do):
    """Call `do` in the thread that commits, before each transaction is."""
    sa.event.listen(sa.Engine, "commit", do)
    try:
        yield
    finally:
        sa.event.remove(sa.Engine, "commit", do)


@contextmanager
def held_back():
    """Let no transaction end before the first event that is given is set; the second says that one has begun."""
    release, begun = threading.Event(), threading.Event()

    def hold(connection):
        begun.set()
        assert release.wait(60)

    with on_commit(hold):
        yield release, begun


async def until(event):
    """Wait for another thread's event."""
    await asyncio.to_thread(event.wait, 60)


def test_entries_that_come_together_are_written_in_one_transaction(store):
    commits = []

    async def work():
        async with Committer(store) as commit:
            await asyncio.gather(*(commit(entry(n)) for n in range(32)))

    with on_commit(commits.append):
        asyncio.run(work())
    assert len(commits) == 1
    assert kept(store) == list(range(32))


def test_entries_that_come_during_a_transaction_are_written_in_the_next(store):
    commits = []

    async def work(release, begun):
        async with Committer(store) as commit, asyncio.TaskGroup() as tasks:
            tasks.create_task(commit(entry(0)))
            await until(begun)
            for n in range(1, 10):
                tasks.create_task(commit(entry(n)))
                await asyncio.sleep(0)
            release.set()

    with held_back() as events, on_commit(commits.append):
        asyncio.run(work(*events))
    assert len(commits) == 2
    assert kept(store) == list(range(10))


def test_a_commit_returns_only_when_its_entry_can_be_read(store):
    async def work(release, begun):
        async with Committer(store) as commit:
            task = asyncio.create_task(commit(entry(0)))
            await until(begun)
            assert not task.done()
            assert kept(store) == []
            release.set()
            await task
            assert kept(store) == [0]

    with held_back() as events:
        asyncio.run(work(*events))


def test_a_failure_reaches_every_task_of_its_transaction_and_no_later_one(store):
    async def work():
        async with Committer(store) as commit:
            together = [commit(entry(0)), commit(STRAY), commit(entry(1))]
            outcomes = await asyncio.gather(*together, return_exceptions=True)
            await commit(entry(2))
        return outcomes

    outcomes = asyncio.run(work())
    assert [type(outcome) for outcome in outcomes] == [InvalidDataError] * 3
    assert kept(store) == [2]


@pytest.mark.parametrize("when", ["before its transaction", "during its transaction"])
def test_a_cancelled_task_loses_neither_its_own_entry_nor_the_others(store, when):
    async def work(release, begun):
        async with Committer(store) as commit:
            tasks = [asyncio.create_task(commit(entry(n))) for n in range(3)]
            await (asyncio.sleep(0) if when == "before its transaction" else until(begun))
            tasks[1].cancel()
            release.set()
            return await asyncio.gather(*tasks, return_exceptions=True)

    with held_back() as events:
        first, cancelled, last = asyncio.run(work(*events))
    assert (first, type(cancelled), last) == (None, asyncio.CancelledError, None)
    assert kept(store) == [0, 1, 2]


def test_leaving_writes_what_still_waits(store):
    async def work(release, begun):
        async with Committer(store) as commit:
            tasks = [asyncio.create_task(commit(entry(0)))]
            await until(begun)
            tasks.append(asyncio.create_task(commit(entry(1))))
            await asyncio.sleep(0)
            release.set()
        assert kept(store) == [0, 1]
        await asyncio.gather(*tasks)

    with held_back() as events:
        asyncio.run(work(*events))


def test_being_cancelled_while_leaving_writes_what_still_waits_first(store):
    async def work(begun, both):
        async with Committer(store) as commit:
            tasks = [asyncio.create_task(commit(entry(0)))]
            await until(begun)
            tasks.append(asyncio.create_task(commit(entry(1))))
            await asyncio.sleep(0)
            both.set()

    async def interrupted(release, begun):
        both = asyncio.Event()
        task = asyncio.create_task(work(begun, both))
        await both.wait()
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0)
        assert not task.done()
        release.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    with held_back() as events:
        asyncio.run(interrupted(*events))
    assert kept(store) == [0, 1]


def test_a_failure_that_no_task_is_left_to_hear_of_is_raised_when_leaving(store):
    async def work():
        async with Committer(store) as commit:
            task = asyncio.create_task(commit(STRAY))
            await asyncio.sleep(0)
            task.cancel()

    with pytest.raises(InvalidDataError, match="add the answer first"):
        asyncio.run(work())


def test_an_exception_in_the_block_is_the_one_that_is_raised(store):
    async def work():
        async with Committer(store) as commit:
            task = asyncio.create_task(commit(STRAY))
            await asyncio.sleep(0)
            task.cancel()
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        asyncio.run(work())


KILLED = """
import asyncio, os, sys
from unirouter_plugins.onboarding.answers import *
from unirouter_plugins.onboarding.committer import Committer
ANSWER = Answer("a" * 2000, 9, 1, None, None, 2e-6, 0.4, "stop", False, "2026-11-23")

async def worker(commit, first):
    for n in range(first, 1_000_000, 8):
        await commit(Entry(AnswerKey("poet", str(n), "s"), ANSWER, "exact v1", Grade(0.5)))
        os.write(1, f"{n}\\n".encode())

async def work():
    with AnswerStore(sys.argv[1]) as store:
        async with Committer(store) as commit:
            await asyncio.gather(*(worker(commit, first) for first in range(8)))

asyncio.run(work())
"""


@pytest.mark.parametrize("seed", range(4))
def test_what_was_acknowledged_survives_kill_9(tmp_path, seed):
    place = tmp_path / "answers.sqlite"
    with subprocess.Popen([sys.executable, "-c", KILLED, place], stdout=subprocess.PIPE, text=True) as process:
        acknowledged = [process.stdout.readline() for _ in range(random.Random(seed).randrange(1, 400))]
        process.kill()
        acknowledged += process.stdout.readlines()
    with AnswerStore(place) as store:
        assert {int(line) for line in acknowledged} <= set(kept(store))
        assert len(kept(store)) <= len(acknowledged) + 8  # and no more than were in flight
        assert len(store.grades("poet", "s")) == len(kept(store))
    with sqlite3.connect(place) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
