"""The commands that learn from recorded outcomes and judge by them: fit, tune, report."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

import unirouter_core
from unirouter_core.data import Outcomes, read_outcomes
from unirouter_core.exceptions import InvalidDataError
from unirouter_core.router import UniRouter
from unirouter_plugins.cli import show
from unirouter_plugins.cli.options import (
    EXAMPLES,
    FLAG,
    Data,
    Json,
    NoTexts,
    Router,
    RouterOrExample,
    is_bare,
    load,
    named,
    read_prompts,
    split,
)

NOT_WORTH_IT = 3
"""The exit code of a goal that cannot be met, and of routing that does not pay."""


def fit(
    router: Router,
    data: Annotated[
        Path,
        typer.Argument(metavar="DATA", help="Outcomes (.jsonl, .csv, .parquet, folder) or prompts (.txt, .jsonl)."),
    ],
    models: Annotated[str | None, typer.Option(metavar="A,B", help="Learn from these models of DATA only.")] = None,
    hold_out: Annotated[
        float, typer.Option(metavar="SHARE", min=0, max=0.9, help="Share of the outcomes held out for onboarding.")
    ] = 0.3,
    force: Annotated[bool, typer.Option("--force", metavar=FLAG, help="Replace a router that holds models.")] = False,
    no_texts: NoTexts = False,
    as_json: Json = False,
) -> None:
    """Learn prompt features from DATA and save a router with an empty pool."""
    if router.is_file():
        raise InvalidDataError(f"{router} is a file; the router's folder comes first: unirouter fit ROUTER {router}")
    if not force and (held := len(list((router / "pool").glob("*.json")))):
        raise InvalidDataError(
            f"{router} holds {held} model{'s' * (held > 1)}, which fit would remove; --force does so, or name another "
            "folder."
        )
    with show.working(f"Learning from {data}"):
        given = _outcomes_or_prompts(data, split(models))
        learned = _part(given, 1 - hold_out) if isinstance(given, Outcomes) else given
        fitted = UniRouter().fit(learned)
        fitted.save(router, texts=False if no_texts else None)
    held_out, n = len(given) - len(learned), len(fitted.fit_.training_models)
    if as_json:
        counts = {"prompts": len(learned), "held_out": held_out}
        show.emit({"router": str(router), **counts, "training_models": list(fitted.fit_.training_models)})
        return
    of_models, kept = (
        f" and {n} models" if n else "",
        f"; {held_out:,} prompts held out for onboarding" * (held_out > 0),
    )
    show.say(f"{router}: learned from {len(learned):,} prompts{of_models}{kept}.", wrap=False)
    models_from = f"--all --recorded {data}" if n else "MODEL... --validation FILE"
    show.say(f"Next: unirouter onboard {router} {models_from}", wrap=False)


def _outcomes_or_prompts(path: Path, models: list[str] | None) -> Outcomes | list[str]:
    if is_bare(path):
        if models is not None:
            raise InvalidDataError(f"{path} holds prompts and no models; leave --models out.")
        return read_prompts(path)
    outcomes = read_outcomes(path)
    return outcomes if models is None else outcomes.of(models)


def _part(outcomes: Outcomes, share: float) -> Outcomes:
    """Return a random part of the prompts, the same each time."""
    order = np.random.default_rng(0).permutation(len(outcomes))
    return outcomes.rows(np.sort(order[: math.ceil(share * len(outcomes))]))


def tune(
    router: RouterOrExample,
    keep_quality: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Keep this share of the most accurate model's quality.")
    ] = None,
    usd_per_1000: Annotated[
        float | None, typer.Option("--usd-per-1000", metavar="USD", help="Maximum cost of 1,000 calls.")
    ] = None,
    usd_per_error: Annotated[
        float | None, typer.Option(metavar="USD", help="What avoiding one wrong answer is worth.")
    ] = None,
    data: Data = None,
    save: Annotated[bool, typer.Option("--save", metavar=FLAG, help="Save the cost weight in the router.")] = False,
    as_json: Json = False,
) -> None:
    """Find the cost weight for a goal, and forecast its quality and cost. Exit code 3: the goal cannot be met."""
    if [keep_quality, usd_per_1000, usd_per_error].count(None) != 2:  # the options' names, not the library's
        raise InvalidDataError("Give one goal: --keep-quality, --usd-per-1000 or --usd-per-error.")
    if save and router == EXAMPLES:
        raise InvalidDataError("The examples cannot be saved; leave out --save, or name a ROUTER of your own.")
    tuned = load(router)
    with show.working("Tuning"):
        tuning = unirouter_core.tune(
            tuned,
            keep_quality=keep_quality,
            usd_per_1000=usd_per_1000,
            usd_per_error=usd_per_error,
            outcomes=None if data is None else read_outcomes(data),
            level=show.LEVEL,
        )
    saved = save and tuning.met
    if saved:
        newest = UniRouter.load(router)  # tuning took a while, and others may have saved
        newest.cost_weight = tuning.cost_weight
        newest.save(router)
    if as_json:
        show.emit({"router": named(router), **tuning.as_dict(), "saved": saved})
    else:
        show.tuning(tuning)
        if saved:
            show.say(f"Saved: {router} now routes with cost weight {show.weight(tuning.cost_weight)}.", wrap=False)
    if not tuning.met:
        raise typer.Exit(NOT_WORTH_IT)


def report(
    router: RouterOrExample,
    data: Data = None,
    png: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the curve to this file; needs 'unirouter\\[report]'.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Report what routing saves compared with single models. Exit code 3: routing does not pay."""
    if png is not None:
        from unirouter_plugins.figures import check_picture, draw  # before the work: what is missing is said at once

        check_picture(png)
    measured = load(router)
    with show.working("Evaluating"):
        made = unirouter_core.report(measured, outcomes=None if data is None else read_outcomes(data))
    if png is not None:
        draw(made, png)
    if as_json:
        show.emit({"router": named(router), **made.as_dict(), "png": None if png is None else str(png)})
    else:
        show.report(made)
        if png is not None:
            show.say(f"Drawn: {png}", wrap=False)
    if not made.pays:
        raise typer.Exit(NOT_WORTH_IT)
