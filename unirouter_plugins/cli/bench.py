"""The command that judges methods by recorded outcomes: tables read, trials run or resumed, standings shown."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from unirouter_core.exceptions import InvalidDataError
from unirouter_plugins.cli import options, show
from unirouter_plugins.cli.data import ColumnNames, PriceFile, ScaleOfGrades, read_graded

if TYPE_CHECKING:
    import pandas as pd

    from unirouter_core.data import Outcomes
    from unirouter_plugins.bench import Method, Recorded, Settings, TrialFiles

VECTORS, LEARNED = "minilm.npy", "default"

CURVES = ("Area", "raw", "hull", "QNC", "reach", "$/1k right", "Brier", "ECE")  # the two tables' columns
FEW_TRIALS = 20
COMPARED = ("covers", "gap", "ahead", "p", "by", "90 % interval", "s")

_METHODS = (
    "nearest neighbours, k-means (paper), k-means, learned map, shrunken clusters, low rank, known models, default"
)
_EMBEDDER = "Vectors, a .npy beside each DATA; default learns them; minilm.npy, where a folder has it."
_OUT = "For trials, table and page; rerun to resume an interrupted run."


def bench(
    data: Annotated[
        list[Path], typer.Argument(metavar="DATA...", help="Answers with grades: files or folders; see the docs.")
    ],
    trials: Annotated[int, typer.Option(min=1, help="Random splits of models and prompts.")] = 400,
    n_val: Annotated[
        list[int] | None,
        typer.Option(metavar="N", help="Answers measured of each new model; repeatable; 50, 100, 200 and 400."),
    ] = None,
    methods: Annotated[str | None, typer.Option(metavar="NAME,NAME", help=f"Of {_METHODS}.")] = None,
    estimator: Annotated[
        list[str] | None, typer.Option(metavar="MODULE:CLASS", help="An estimator of your own; repeatable.")
    ] = None,
    embedder: Annotated[str | None, typer.Option(metavar="FILE", help=_EMBEDDER)] = None,
    costs: Annotated[str, typer.Option(metavar="mean|per-prompt", help="One cost a model, or each prompt's.")] = "mean",
    known: Annotated[
        bool, typer.Option("--known/--no-known", help="Known models have answered the validation prompts.")
    ] = True,
    seed: Annotated[int, typer.Option(min=0, help="Of the splits.")] = 0,
    processes: Annotated[int | None, typer.Option(min=1, help="At once; all cores when not given.")] = None,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help=_OUT)] = Path("bench"),
    columns: ColumnNames = None,
    scale: ScaleOfGrades = None,
    prices: PriceFile = None,
    as_json: options.Json = False,
) -> None:
    """Compare routing methods on recorded outcomes: new models, random splits, paired."""
    from unirouter_plugins.bench import METHODS, N_VALS, Settings, TrialFiles, methods_named, reachable, standings
    from unirouter_plugins.bench.methods import NEEDS_KNOWN
    from unirouter_plugins.bench.page import write_page

    if costs not in ("mean", "per-prompt"):
        raise InvalidDataError(f"--costs is {costs!r}; it is mean or per-prompt.")
    every = [method.name for method in METHODS if known or method.name != NEEDS_KNOWN]
    chosen = methods_named(options.split(methods) or every, [_own(name) for name in estimator or []])
    cost_kind = cast("Literal['mean', 'per-prompt']", costs)
    settings = Settings(sorted(set(n_val or N_VALS)), chosen, seed, cost_kind, known)
    outcomes = [read_graded(path, columns, scale, prices, quiet=as_json) for path in data]
    with show.working("Reading"):
        tables = _read(data, outcomes, embedder, every_cost=costs == "per-prompt")
    if not reachable(settings.n_vals, most := max(map(len, tables)))[0]:
        raise InvalidDataError(f"N_val {min(settings.n_vals)} is more than {most} prompts reach; lower --n-val.")
    files = TrialFiles(out, {"seed": seed, "costs": costs, "known": known})
    if processes is None:
        processes = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    records = [record for table in tables for record in _run(table, settings, files, trials, processes)]
    found, about = standings(records), {table.name: str(table) for table in tables}
    written = [*files.export(records), *write_page(found, records, about, out)]
    if as_json:
        rows = found.astype(object).where(found.notna(), None).to_dict("records")
        show.emit({"out": str(out), "tables": about, "standings": rows})
        return
    _show(found, tables, settings)
    pictures = sum(path.suffix == ".svg" for path in written)
    others = ", ".join(path.name for path in written if path.suffix != ".svg")
    show.say(f"Written to {out}: {others} and {pictures} pictures.", wrap=False)


def _own(name: str) -> Method:
    """Return the method of a class named "package.module:Class", found from the current folder too; try it once."""
    from unirouter_plugins.bench import N_VALS, Method

    module, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        method = Method(attribute, getattr(importlib.import_module(module), attribute))
        made = method.estimator(n_val=max(N_VALS))
    except (ImportError, SyntaxError, AttributeError, TypeError, ValueError) as missing:
        cure = "write package.module:Class, of a class that needs no arguments."
        raise InvalidDataError(f"--estimator {name} cannot be loaded ({missing}); {cure}") from missing
    if lacking := [each for each in ("fit", "profile", "predict") if not callable(getattr(made, each, None))]:
        raise InvalidDataError(f"--estimator {name} has no {lacking[0]}; an estimator has fit, profile and predict.")
    return method


def _read(
    paths: Sequence[Path], outcomes: Sequence[Outcomes], embedder: str | None, *, every_cost: bool
) -> list[Recorded]:
    """Return the tables in these files and folders, with the vectors beside them."""
    import numpy as np

    from unirouter_plugins.bench import recorded
    from unirouter_plugins.figures import printable

    names, found = [printable(path.resolve().stem) for path in paths], []
    if twice := [name for name in names if names.count(name) > 1]:
        raise InvalidDataError(f"Two tables are called {twice[0]!r}; give each once, under a name of its own.")
    for name, path, table in zip(names, paths, outcomes, strict=True):
        beside = (path if path.is_dir() else path.parent) / (embedder or VECTORS)
        given = embedder != LEARNED if embedder else path.is_dir() and beside.exists()
        try:
            vectors = np.load(beside, allow_pickle=False) if given else None
        except ValueError as failed:  # what numpy raises for a file that is no array
            raise InvalidDataError(f"{beside} holds no array of numbers; write it with numpy.save.") from failed
        found.append(recorded(name, table, vectors, every_cost=every_cost))
    return found


def _run(table: Recorded, settings: Settings, files: TrialFiles, trials: int, processes: int) -> list[dict[str, Any]]:
    """Run the trials that are not in the folder yet; return the records of all that the settings want."""
    from unirouter_plugins.bench import benchmark, reachable

    if not (reached := reachable(settings.n_vals, len(table))[0]):
        return []  # the summary names the sizes that the table is too small for
    places = {(n, name): place for n in reached for place, name in enumerate(settings.names)}
    there = files.read(table.name, table.digest)
    records = [each for each in there if each["trial"] < trials and (each["n_val"], each["method"]) in places]
    done = {(each["n_val"], each["trial"], each["method"]) for each in records}
    results = benchmark(table, settings, trials=trials, processes=processes, done=done)
    with show.each(range(trials), f"{table.name}: trials") as steps:
        for _, made in zip(steps, results, strict=True):
            files.append(made, table.digest)
            records += made
    return sorted(records, key=lambda row: (row["n_val"], places[row["n_val"], row["method"]], row["trial"]))


def _found(part: pd.DataFrame) -> str:
    """Return in a sentence whether the default routes better than what ignores the prompt."""
    from unirouter_core.evaluate.verdict import level_of
    from unirouter_plugins.bench import DEFAULT, ZERO

    by_method = {row["method"]: row for row in part.to_dict("records")}
    if DEFAULT not in by_method or ZERO not in by_method:
        return ""
    zero = by_method[ZERO]
    pays = {"pays": "reading the prompt pays", "about even": "about even", "does not pay": "no clear gain"}
    few = f"; with fewer than {FEW_TRIALS} trials the interval is too narrow" if zero["trials"] < FEW_TRIALS else ""
    return (
        f"The default is ahead of the zero router, which ignores the prompt, in {zero['ahead']} of {zero['trials']} "
        f"trials: cross-fitted Area {zero['by']:+.4f} ({zero['by_low']:+.4f} to {zero['by_high']:+.4f}), "
        f"{pays[level_of((zero['by_low'], zero['by_high']), zero['p'])]}{few}."
    )


def _show(found: pd.DataFrame, tables: Sequence[Recorded], settings: Settings) -> None:
    """Print two tables of 80 columns for each table and N_val, and say which N_val is not reached."""
    from unirouter_plugins.bench import DEFAULT, reachable, shown
    from unirouter_plugins.bench.protocol import validation_share

    console = show.console()
    for table in tables:
        console.print(f"{table.name}: {table}", style="bold", soft_wrap=True)
        for n in reachable(settings.n_vals, len(table))[1]:
            most = int(validation_share(len(table)) * len(table))
            console.print(f"N_val {n} is not reached: there are {most} validation prompts.")
        for n_val, part in found[found["table"] == table.name].groupby("n_val"):
            console.print(f"\nN_val {n_val}, {part['trials'].iloc[0]} trials", style="bold")
            if answer := _found(part):
                show.say(answer)
            for columns in (CURVES, COMPARED):
                drawn = show.table("method", *(f">{heading}" for heading in columns))
                for cells in shown(part)[["method", *columns]].to_numpy():
                    drawn.add_row(*cells, style="bold" if cells[0] == DEFAULT else "")
                console.print(drawn, "")
        console.print()
