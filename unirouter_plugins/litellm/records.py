"""The record of each call, where callers find it when the answer itself has no room for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeAlias

Record: TypeAlias = dict[str, Any]
"""Who answered, why, and what it cost, as JSON can hold it; see `unirouter_plugins.litellm.CallRecord.as_dict`."""

METADATA = "unirouter"
"""Where an answer's metadata hold the record."""


@dataclass
class _Newest:
    record: Record
    is_outdated: bool = False  # by a call in a context that was copied from this one


_NEWEST: ContextVar[_Newest | None] = ContextVar("newest decision", default=None)
_WANTED: ContextVar[tuple[list[Record], ...]] = ContextVar("lists of decisions", default=())


def keep(record: Record) -> None:
    """Note the record of a call that has been answered."""
    if (before := _NEWEST.get()) is not None:
        before.is_outdated = True
    _NEWEST.set(_Newest(record))
    for records in _WANTED.get():
        records.append(record)


def last_decision() -> Record:
    """Return the record of the newest call made here: for answers that are parsed, and have no metadata.

    It knows of calls that were made or awaited right here. Steps of a chain or an agent, and other tasks, run in
    contexts of their own: to know of theirs, use `record_decisions`.

    Raises
    ------
    LookupError
        When no call was made here, or a newer one was made in a chain or task.

    Examples
    --------
    ::

        person = llm.with_structured_output(Person).invoke("Ada Lovelace was born in 1815.")
        print(last_decision()["model"])
    """
    newest = _NEWEST.get()
    if newest is None or newest.is_outdated:
        raise LookupError(
            "The newest call was not made right here but in a chain or task, or there was none; "
            "collect its decision around it: with record_decisions() as decisions."
        )
    return newest.record


@contextmanager
def record_decisions() -> Iterator[list[Record]]:
    """Collect the records of all calls made in the block, those in chains, agents, threads and tasks included.

    Examples
    --------
    ::

        with record_decisions() as decisions:
            agent.invoke({"messages": [("user", "What is the weather in Rome?")]})
        print([decision["model"] for decision in decisions])
    """
    records: list[Record] = []
    token = _WANTED.set((*_WANTED.get(), records))
    try:
        yield records
    finally:
        _WANTED.reset(token)
