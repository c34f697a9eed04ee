"""A benchmark from files to files: tables read, trials run or found, the tidy table and the page written."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import typer

from unirouter_core.data import read_outcomes
from unirouter_core.embedding import Array
from unirouter_core.exceptions import InvalidDataError
from unirouter_plugins.bench import (
    METHODS,
    N_VALS,
    Costs,
    Method,
    Record,
    Recorded,
    Settings,
    Standing,
    benchmark,
    methods_named,
    reachable,
    recorded,
    standings,
)
from unirouter_plugins.bench.trial_files import TrialFiles
from unirouter_plugins.cli.progress import each, working
from unirouter_plugins.cli.standings_table import describe

VECTORS, LEARNED = "minilm.npy", "default"

NEEDS_KNOWN = "C"
"""A method that says nothing of a model without the known models' answers on the same prompts."""


@dataclass(frozen=True)
class Made:
    """What a benchmark came to, and the files it is in."""

    standings: list[Standing]
    written: list[Path]


def settings_of(
    n_val: Sequence[int] | None, methods: tuple[Method, ...], seed: int, costs: Costs, known: bool
) -> Settings:
    """Return the settings, N_val from the smallest; the paper's sizes when none is given."""
    return Settings(sorted(set(n_val or N_VALS)), methods, seed, costs, known)


def chosen_methods(names: Sequence[str] | None, own: Sequence[str], *, known: bool) -> tuple[Method, ...]:
    """Return the methods of these names, all that can be run when there are none, and one's own."""
    every = [method.name for method in METHODS if known or method.name != NEEDS_KNOWN]
    return methods_named(every if names is None else names, [_own(name) for name in own])


def read_tables(paths: Sequence[Path], embedder: str | None, *, every_cost: bool) -> list[Recorded]:
    """Return the tables in these files and folders, with the vectors beside them.

    Raises
    ------
    InvalidDataError
        When two tables have one name.
    """
    names = [path.resolve().stem for path in paths]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InvalidDataError(f"Two tables are called {twice[0]!r}; give each once, under a name of its own.")
    with working("Reading"):
        return [_read(path, embedder, every_cost) for path in paths]


def run(tables: Sequence[Recorded], settings: Settings, out: Path, *, trials: int, processes: int | None) -> Made:
    """Run the trials that are not in the folder `out` yet, and write what all of them come to."""
    most = max(len(table) for table in tables)
    if not reachable(settings.n_vals, most)[0]:
        raise InvalidDataError(
            f"N_val {min(settings.n_vals)} is more than {most} prompts reach; give a smaller --n-val."
        )
    files = TrialFiles(out)
    how = {"seed": settings.seed, "costs": settings.costs, "known": settings.known}
    files.stamp(how, {table.name: {"digest": table.digest, "prompts": len(table)} for table in tables})
    records: list[Record] = []
    for table in tables:
        records += _run(table, settings, files, trials, processes or _cores())
    found = standings(records)
    return Made(found, [*files.export(records), *_page(found, records, tables, out)])


def _own(name: str) -> Method:
    """Return the method of a class named "package.module:Class", found from the folder one is in too; try it once."""
    module, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        method = Method(attribute, getattr(importlib.import_module(module), attribute))
        made = method.estimator(n_val=max(N_VALS))
    except (ImportError, SyntaxError, AttributeError, TypeError, ValueError) as missing:
        raise InvalidDataError(
            f"--estimator {name} cannot be loaded ({missing}); write package.module:Class, of a class that needs no "
            "arguments."
        ) from missing
    lacking = [each for each in ("fit", "profile", "predict") if not callable(getattr(made, each, None))]
    if lacking:
        raise InvalidDataError(f"--estimator {name} has no {lacking[0]}; an estimator has fit, profile and predict.")
    return method


def _read(path: Path, embedder: str | None, every_cost: bool) -> Recorded:
    outcomes = read_outcomes(path)
    beside = (path if path.is_dir() else path.parent) / (embedder or VECTORS)
    usual = embedder is None and (not path.is_dir() or not beside.exists())
    vectors = None if usual or embedder == LEARNED else _vectors(beside)
    return recorded(path.resolve().stem, outcomes, vectors, every_cost=every_cost)


def _vectors(path: Path) -> Array:
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except ValueError as failed:  # what numpy raises for a file that is no array
        raise InvalidDataError(f"{path} holds no array of numbers; write it with numpy.save.") from failed


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _run(table: Recorded, settings: Settings, files: TrialFiles, trials: int, processes: int) -> list[Record]:
    """Run the trials that are not there yet; return the records of all that were asked for."""
    if not reachable(settings.n_vals, len(table))[0]:
        return []  # which sizes are not reached is said in the end
    asked = {(n, name) for n in reachable(settings.n_vals, len(table))[0] for name in settings.names}
    there = [r for r in files.read() if r.table == table.name and r.trial < trials and (r.n_val, r.method) in asked]
    done = {record.key for record in there}
    left = [t for t in range(trials) if any((n, t, name) not in done for n, name in asked)]
    results = benchmark(table, settings, trials=trials, processes=processes, done=done)
    with each(left, f"{table.name}: trials") as steps:
        for _, made in zip(steps, results, strict=True):
            files.append(made)
            there += made
    places = {name: place for place, name in enumerate(settings.names)}
    return sorted(there, key=lambda record: (record.n_val, places[record.method], record.trial))


def _page(found: Sequence[Standing], records: Sequence[Record], tables: Sequence[Recorded], out: Path) -> list[Path]:
    """Write the page and its pictures; without matplotlib say so and write none."""
    try:
        from unirouter_plugins.bench.page import write_page
    except ImportError as missing:
        typer.echo(f"Note: no pictures and no page: {missing}", err=True)
        return []
    return write_page(found, records, {table.name: describe(table) for table in tables}, out)
