"""The command that judges methods by recorded outcomes: its options, and what it prints and writes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from unirouter_core.exceptions import InvalidDataError
from unirouter_plugins.cli.options import Json, split
from unirouter_plugins.cli.show import emit


def bench(
    data: Annotated[
        list[Path], typer.Argument(metavar="DATA...", help="Recorded outcomes: .jsonl, .csv, .parquet or a folder.")
    ],
    trials: Annotated[int, typer.Option(min=1, help="Random splits of models and prompts.")] = 400,
    n_val: Annotated[
        list[int] | None,
        typer.Option(
            metavar="N", help="Answers measured of each new model; give it once for each size; 50, 100, 200 and 400."
        ),
    ] = None,
    methods: Annotated[
        str | None, typer.Option(metavar="A,B", help="Of K-NN, K-Means (paper), K-Means, LearnedMap, A, B, C, default.")
    ] = None,
    estimator: Annotated[
        list[str] | None, typer.Option(metavar="MODULE:CLASS", help="An estimator of your own; may be repeated.")
    ] = None,
    embedder: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Vectors, a .npy beside each DATA; default learns them; minilm.npy, where a folder has it.",
        ),
    ] = None,
    costs: Annotated[str, typer.Option(metavar="mean|per-prompt", help="One cost a model, or each prompt's.")] = "mean",
    known: Annotated[
        bool, typer.Option("--known/--no-known", help="Known models have answered the prompts measured on.")
    ] = True,
    seed: Annotated[int, typer.Option(min=0, help="Of the splits.")] = 0,
    processes: Annotated[int | None, typer.Option(min=1, help="At once; all cores when not given.")] = None,
    out: Annotated[
        Path,
        typer.Option("--out", metavar="FOLDER", help="Where trials, table and page go; a killed run goes on there."),
    ] = Path("bench"),
    as_json: Json = False,
) -> None:
    """Compare routing methods on recorded outcomes: new models, random splits, paired."""
    from unirouter_plugins.cli import bench_trials, standings_table  # here: no other command should wait for them

    if costs not in ("mean", "per-prompt"):
        raise InvalidDataError(f"--costs is {costs!r}; it is mean or per-prompt.")
    chosen = bench_trials.chosen_methods(split(methods), estimator or [], known=known)
    settings = bench_trials.settings_of(n_val, chosen, seed, cast("Literal['mean', 'per-prompt']", costs), known)
    tables = bench_trials.read_tables(data, embedder, every_cost=costs == "per-prompt")
    made = bench_trials.run(tables, settings, out, trials=trials, processes=processes)
    if as_json:
        about = {table.name: standings_table.describe(table) for table in tables}
        emit({"out": str(out), "tables": about, "standings": standings_table.rows(made.standings)})
        return
    standings_table.show(made.standings, tables, settings)
    pictures = sum(path.suffix == ".svg" for path in made.written)
    others = ", ".join(path.name for path in made.written if path.suffix != ".svg")
    typer.echo(f"Written to {out}: {others}" + (f" and {pictures} pictures." if pictures else "."))
