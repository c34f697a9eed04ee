"""The command that routes files of prompts: `route-file`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unirouter_plugins.cli import options, show


def route_file(
    router: options.Router,
    source: Annotated[
        str, typer.Argument(metavar="IN", help="A .parquet, .jsonl or .csv file, a folder, or a pattern in quotes.")
    ],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="A file of that format for all rows, or a folder.")],
    prompt: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="The column of the prompts; found by its name by default.")
    ] = None,
    pool: options.PoolFile = None,
    cost_weight: options.CostWeight = None,
    models: options.Models = None,
    requires: Annotated[str | None, typer.Option(metavar="A,B", help="Capabilities: tools, vision, json…")] = None,
    ray: Annotated[bool, options.flag("Work on all cores of this machine.", "--ray")] = False,
    ray_address: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Work on a Ray cluster: host:port, or auto.")
    ] = None,
    replace: Annotated[bool, options.flag("Replace OUT.", "--replace")] = False,
    as_json: options.Json = False,
) -> None:
    """Route the prompts of files: the same rows with model, expected error and USD, or why there is none."""
    from unirouter_plugins.litellm.pool_file import BESIDE
    from unirouter_plugins.ray.files import route_file as route

    folder = options.existing(router)
    with show.progress_bar() as bar:
        task = bar.add_task("Routing", total=None)
        done = route(
            folder,
            source,
            target,
            prompt=prompt,
            cost_weight=cost_weight,
            models=options.split(models),
            requires=options.split(requires) or (),
            pool=BESIDE if pool is None else pool,
            replace=replace,
            ray=ray_address or ("local" if ray else None),
            progress=lambda rows, total: bar.update(task, completed=rows, total=total),
        )
    if as_json:
        show.emit(
            {
                "router": str(folder),
                "out": str(target),
                "rows": done.rows,
                "errors": done.errors,
                "first_error": done.first_error,
                "expected_usd": done.usd,
                "models": dict(done.models.most_common()),
            }
        )
        return
    show.say(f"{done.rows:,} rows in {target}; ${done.usd:.4g} expected for their calls.")
    show.shares({model: count / done.rows for model, count in done.models.most_common()})
    if done.errors:
        show.note(f"{done.errors:,} rows have no model; the column error says why, first: {done.first_error}")
