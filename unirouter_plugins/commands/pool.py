"""The commands that make a router and change its pool: fit, onboard, models, retire."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from unirouter_core.costs import Prices
from unirouter_core.exceptions import ArtifactError, InvalidDataError, UnknownPriceError
from unirouter_core.outcomes import Outcomes
from unirouter_core.profiles import ModelProfile
from unirouter_core.readers import read_outcomes
from unirouter_core.router import UniRouter
from unirouter_core.validation import Evaluation
from unirouter_plugins.commands import tables
from unirouter_plugins.commands.options import Json, MaybeRouter, NoTexts, Router, emit, load, named, split
from unirouter_plugins.commands.progress import each, working
from unirouter_plugins.commands.prompts import read_fitting


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
        emit({"router": str(router), **counts, "training_models": list(fitted.training_models)})
        return
    from_what = f"{len(learned):,} prompts" + (f" and {n} models" if (n := len(fitted.training_models)) else "")
    kept = f" {len(given) - len(learned):,} prompts were kept back to onboard on." if len(given) > len(learned) else ""
    typer.echo(f"{router} has learned from {from_what}.{kept} Now add the models to choose from:")
    typer.echo(f"  unirouter onboard {router} --all --recorded {data if n else 'OUTCOMES'}")


def _part(outcomes: Outcomes, share: float) -> Outcomes:
    """Return a random part of the prompts, the same each time."""
    order = np.random.default_rng(0).permutation(len(outcomes))
    return outcomes.rows(np.sort(order[: math.ceil(share * len(outcomes))]))


def onboard(
    router: Router,
    models: Annotated[list[str] | None, typer.Argument(metavar="MODEL...", help="The models to add.")] = None,
    recorded: Annotated[Path | None, typer.Option(metavar="FILE", help="What the models did on prompts.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All models of FILE that are not in the pool yet.")] = False,
    price_in: Annotated[float | None, typer.Option(metavar="USD", help="Per million prompt tokens.")] = None,
    price_out: Annotated[float | None, typer.Option(metavar="USD", help="Per million answer tokens.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Measure models of the pool anew.")] = False,
    starter: Annotated[
        bool, typer.Option("--starter", help="Begin with the starter's prompt features if ROUTER does not exist.")
    ] = False,
    no_texts: NoTexts = False,
    as_json: Json = False,
) -> None:
    """Add models to a router by what they did on prompts: all of them, or none when one cannot be added."""
    if recorded is None:
        raise InvalidDataError("What the models did is missing; give --recorded FILE.")
    if bool(models) == every:
        raise InvalidDataError("Name the models to add, or give --all for all those of the file: one of the two.")
    if not router.exists() and not starter:
        raise ArtifactError(
            f"{router} does not exist; learn it from your own prompts with: unirouter fit DATA --router {router}, or "
            "begin with ready-made prompt features by adding --starter."
        )
    into = UniRouter.load(router) if router.exists() else UniRouter.starter()
    with working(f"Reading {recorded}"):
        table, seen = _unseen(into, read_outcomes(recorded))
    names = list(dict.fromkeys(models or table.models))
    if known := [name for name in names if name in into.pool and not replace]:
        if not every:
            raise InvalidDataError(f"{known[0]!r} is in the pool already; give --replace to measure it anew.")
        names = [name for name in names if name not in known]
    prices = _prices(price_in, price_out, names)
    with each(names, "Onboarding") as counted:
        added = [_onboard(into, Evaluation.recorded(name, table, prices=prices)) for name in counted]
    into.save(router, texts=False if no_texts else None)
    if as_json:
        emit({"router": str(router), "onboarded": [tables.profile_row(p) for p in added], "skipped": known})
        return
    if seen:
        typer.echo(f"Note: {seen}", err=True)
    for name in known:
        typer.echo(f"Note: {name} is in the pool already; --replace measures it anew.", err=True)
    tables.show_models(added, f"{router} now holds {len(into.pool)} models; added:" if added else "Nothing to add.")


def _unseen(router: UniRouter, table: Outcomes) -> tuple[Outcomes, str]:
    """Return the prompts that the router did not learn from, and what to say of it; all, when it has seen all."""
    seen = router.has_seen(table.prompts)
    if not seen.any():
        return table, ""
    if seen.all():
        return table, "the router has learned from these very prompts, which flatters it; measure on others if you can."
    new = table.rows(np.flatnonzero(~seen))
    return new, f"measured on the {len(new):,} of {len(table):,} prompts that the router has not learned from."


def _onboard(router: UniRouter, evaluation: Evaluation) -> ModelProfile:
    """Add a model, or measure it anew; what it can do stays as it was."""
    before = router.pool.get(evaluation.model)
    try:
        return router.onboard(evaluation, capabilities=None if before is None else before.capabilities, replace=True)
    except UnknownPriceError as unpriced:
        raise UnknownPriceError(
            f"What {evaluation.model!r} costs is not known; give the file a cost column (USD), or tokens_in and "
            "tokens_out with --price-in and --price-out."
        ) from unpriced


def _prices(price_in: float | None, price_out: float | None, models: Sequence[str]) -> Prices | None:
    if price_in is None and price_out is None:
        return None
    if price_in is None or price_out is None:
        raise InvalidDataError("Only one price was given; give both --price-in and --price-out.")
    if len(models) > 1:
        raise InvalidDataError(f"One price for {len(models)} models; onboard models with --price-in one at a time.")
    return Prices(price_in, price_out)


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
