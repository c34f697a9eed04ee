"""The commands that make a router and change its pool: fit, onboard, models, retire."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from unirouter_core.data import Outcomes
from unirouter_core.exceptions import InvalidDataError
from unirouter_core.router import UniRouter
from unirouter_plugins.cli import tables
from unirouter_plugins.cli.options import Json, MaybeRouter, NoTexts, Router, emit, load, named, split
from unirouter_plugins.cli.progress import working
from unirouter_plugins.cli.prompts import read_fitting


def fit(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA", help="What models did (.jsonl, .csv, .parquet, a folder), or prompts (.txt, .jsonl)."
        ),
    ],
    router: Annotated[
        Path, typer.Option("--router", "-r", metavar="ROUTER", help="The folder to save the router in.")
    ] = Path("my.router"),
    models: Annotated[str | None, typer.Option(metavar="A,B", help="Learn from these models of DATA only.")] = None,
    hold_out: Annotated[
        float, typer.Option(metavar="SHARE", min=0, max=0.9, help="Of the outcomes, kept back to onboard models on.")
    ] = 0.3,
    force: Annotated[bool, typer.Option("--force", help="Replace a router that holds models.")] = False,
    no_texts: NoTexts = False,
    as_json: Json = False,
) -> None:
    """Learn prompt features from DATA and save a router with an empty pool."""
    if not force and (held := len(list((router / "pool").glob("*.json")))):
        raise InvalidDataError(
            f"{router} holds {held} model{'s' * (held > 1)}, which a new fit removes; give --force to do so, or name "
            "another folder with --router."
        )
    with working(f"Learning from {data}"):
        given = read_fitting(data, split(models))
        learned = _part(given, 1 - hold_out) if isinstance(given, Outcomes) else given
        fitted = UniRouter().fit(learned)
        fitted.save(router, texts=False if no_texts else None)
    if as_json:
        counts = {"prompts": len(learned), "held_out": len(given) - len(learned)}
        emit({"router": str(router), **counts, "training_models": list(fitted.fit_.training_models)})
        return
    from_what = f"{len(learned):,} prompts" + (f" and {n} models" if (n := len(fitted.fit_.training_models)) else "")
    kept = f" {len(given) - len(learned):,} prompts were kept back to onboard on." if len(given) > len(learned) else ""
    typer.echo(f"{router} has learned from {from_what}.{kept} Now add the models to choose from:")
    typer.echo(f"  unirouter onboard {router} --all --recorded {data if n else 'OUTCOMES'}")


def _part(outcomes: Outcomes, share: float) -> Outcomes:
    """Return a random part of the prompts, the same each time."""
    order = np.random.default_rng(0).permutation(len(outcomes))
    return outcomes.rows(np.sort(order[: math.ceil(share * len(outcomes))]))


def list_models(router: MaybeRouter = None, as_json: Json = False) -> None:
    """List the models of a router, and how and when they were measured."""
    held = load(router)
    profiles = list(held.pool.values())
    if as_json:
        weight = tables.weight_json(held.cost_weight)
        emit({"router": named(router), "cost_weight": weight, "models": [tables.profile_row(p) for p in profiles]})
        return
    none = "No models yet; add some with: unirouter onboard ROUTER --all --recorded FILE"
    tables.show_models(profiles, "" if profiles else none)


def retire(
    router: Router,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model to take out.")],
    as_json: Json = False,
) -> None:
    """Take a model out of a router; the others stay as they were."""
    held = load(router)
    held.retire(model)
    held.save(router)
    if as_json:
        emit({"router": str(router), "retired": model, "models": list(held.pool)})
        return
    typer.echo(f"{model} is retired; {router} holds {', '.join(held.pool) or 'no model'}.")
