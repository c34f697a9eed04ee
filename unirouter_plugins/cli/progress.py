"""Work that takes a while, as a spinner or a bar on stderr; nothing where nobody looks."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 1.0
"""Seconds of work before a progress bar appears."""


@contextmanager
def working(what: str) -> Iterator[None]:
    """Show on stderr that something takes a while; nothing where nobody looks."""
    from rich.console import Console  # here, because routing one prompt needs none of it

    with Console(stderr=True).status(what):
        yield


@contextmanager
def each(items: Sequence[T], what: str, *, prints: bool = False) -> Iterator[Iterable[T]]:
    """Give the items; on a terminal, and when it takes long, a bar on stderr says how many are done.

    Where each item `prints` on a terminal there is no bar: what is printed shows the progress.
    """
    if len(items) < 2 or not sys.stderr.isatty() or (prints and sys.stdout.isatty()):
        yield items
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    bar = Progress(*columns, console=console, transient=True, redirect_stdout=False, disable=not console.is_interactive)
    task, began = bar.add_task(what, total=len(items)), monotonic()

    def counted() -> Iterator[T]:
        for item in items:
            yield item
            bar.advance(task)
            if monotonic() - began > PATIENCE:
                bar.start()  # once; later it does nothing

    try:
        yield counted()
    finally:
        bar.stop()
