"""The commands that learn from recorded outcomes and judge by them: fit, tune, report."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

import unirouter_core
from unirouter_core.data import Outcomes
from unirouter_core.evaluate import Report, Tuning
from unirouter_core.exceptions import InvalidDataError
from unirouter_core.router import UniRouter
from unirouter_plugins.cli import options, show
from unirouter_plugins.cli.data import NAMED, ColumnNames, PriceFile, ScaleOfGrades, read, read_graded
from unirouter_plugins.logs import Log

Now = Annotated[
    str | None,
    typer.Option("--now", metavar="MODEL", help="The model that you use today; the most accurate by default."),
]

PerMonth = Annotated[str | None, typer.Option(metavar="N", help="Prompts a month, such as 2M: shows the monthly cost.")]


def fit(
    router: options.Router,
    data: Annotated[
        Path,
        typer.Argument(metavar="DATA", help="Answers with grades, a log or prompts: a file or a folder; see the docs."),
    ],
    models: Annotated[str | None, typer.Option(metavar="A,B", help="Learn from these models of DATA only.")] = None,
    hold_out: Annotated[
        float, typer.Option(metavar="SHARE", min=0, max=0.9, help="Share of the outcomes held out for onboarding.")
    ] = 0.3,
    columns: ColumnNames = None,
    scale: ScaleOfGrades = None,
    prices: PriceFile = None,
    force: Annotated[bool, options.flag("Replace a router that holds models.", "--force")] = False,
    no_texts: options.NoTexts = False,
    as_json: options.Json = False,
) -> None:
    """Learn prompt features from DATA and save a router with an empty pool."""
    if router.is_file():
        raise InvalidDataError(f"{router} is a file; the router's folder comes first: unirouter fit ROUTER {router}")
    if not force and (held := len(list((router / "pool").glob("*.json")))):
        removed = f"{held} model{'s' * (held > 1)}, which fit would remove"
        raise InvalidDataError(f"{router} holds {removed}; --force does so, or name another folder.")
    log = read(data, columns, scale, prices, beside=router, quiet=as_json)
    chosen = options.split(models)
    if log.outcomes is None and chosen is not None:
        raise InvalidDataError(f"{data} holds prompts and no grades; leave --models out.")
    with show.working(f"Learning from {data}"):
        learned = given = log.prompts if log.outcomes is None else log.outcomes.of(chosen or log.outcomes.models)
        if isinstance(given, Outcomes):  # a random part of the prompts, the same each time
            order = np.random.default_rng(0).permutation(len(given))
            learned = given.rows(np.sort(order[: math.ceil((1 - hold_out) * len(given))]))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Fitted without")  # the last lines say it in other words
            fitted = UniRouter().fit(learned)
        fitted.save(router, texts=False if no_texts else None)
    held_out, n = len(given) - len(learned), len(fitted.fit_.training_models)
    if as_json:
        counts = {"prompts": len(learned), "held_out": held_out}
        show.emit({"router": str(router), **counts, "training_models": list(fitted.fit_.training_models)})
        return
    of_models = f" and {n} models" if n else ""
    kept = f"; {held_out:,} prompts held out for onboarding" if held_out else ""
    show.say(f"{router}: learned from {len(learned):,} prompts{of_models}{kept}.", wrap=False)
    how = {"--recorded": data, "--columns": columns, "--scale": scale, "--prices": prices}
    again = " ".join(f"{name} {show.quoted(value)}" for name, value in how.items() if value is not None)
    models = again if n else _to_evaluate(log, data)
    show.say(f"next: unirouter onboard {show.quoted(router)} {models}", wrap=False)
    if not n:
        show.say(
            "Learned from prompts without grades. That and --starter are about equally good beginnings; your own "
            "graded answers are a little better.",
            "dim",
        )


def _to_evaluate(log: Log, data: Path) -> str:
    """Return what evaluates models on prompts that were learned from: with the log's answers, where it has some."""
    values = {} if log.rows is None else log.rows.values
    pairs = zip(values.get("model", ()), values.get("answer", ()), strict=False)
    models = list(dict.fromkeys(str(model) for model, answer in pairs if model and answer))
    if not models:
        return "MODEL... --validation FILE"
    named = " ".join(map(show.quoted, models)) if len(models) <= NAMED else "MODEL..."
    return f"{named} --validation FILE --answers {show.quoted(data)}"


def tune(
    router: options.RouterOrExample,
    save_cost: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Save this share of today's cost, such as 0.4.")
    ] = None,
    keep_quality: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Keep this share of today's quality, such as 0.97.")
    ] = None,
    usd_per_1000: Annotated[
        float | None, typer.Option("--usd-per-1000", metavar="USD", help="Maximum cost of 1,000 calls.")
    ] = None,
    usd_per_error: Annotated[
        float | None, typer.Option(metavar="USD", help="What avoiding one wrong answer is worth.")
    ] = None,
    now: Now = None,
    per_month: PerMonth = None,
    sure: Annotated[
        float, typer.Option(metavar="SHARE", help="In which share of resamplings the goal must be met.")
    ] = 0.8,
    data: options.Data = None,
    columns: ColumnNames = None,
    scale: ScaleOfGrades = None,
    prices: PriceFile = None,
    save: Annotated[bool, options.flag("Save the cost weight in the router.", "--save")] = False,
    as_json: options.Json = False,
) -> None:
    """Find the best way to a goal: routing, one model or a mixture. Exit code 3: the goal is not met."""
    goals = {"save_cost": save_cost, "keep_quality": keep_quality}
    goals |= {"usd_per_1000": usd_per_1000, "usd_per_error": usd_per_error}
    if len(given := {name: value for name, value in goals.items() if value is not None}) != 1:
        raise InvalidDataError("Give one goal: --save-cost, --keep-quality, --usd-per-1000 or --usd-per-error.")
    if save and router == options.EXAMPLES:
        raise InvalidDataError("The examples cannot be saved; leave out --save, or name a ROUTER of your own.")
    monthly, how = _count(per_month), {**given, "sure": sure, "level": show.LEVEL}
    tuned = options.load(router)
    outcomes = None if data is None else read_graded(data, columns, scale, prices, beside=router, quiet=as_json)
    with show.working("Tuning"):
        tuning = unirouter_core.tune(tuned, outcomes, baseline=now, **how)  # type: ignore[arg-type]
    saved = save and tuning.met and (tuning.gives_best or usd_per_error is not None)  # that one is a weight itself
    if saved:
        newest = UniRouter.load(router)  # tuning took a while, and others may have saved
        newest.cost_weight = tuning.cost_weight
        newest.save(router)
    if as_json:
        show.emit({"router": options.named(router), **tuning.as_dict(), **_a_month(tuning, monthly), "saved": saved})
    else:
        show.findings(tuning, monthly)
        if saved:
            show.say(f"Saved: {router} now routes with cost weight {show.weight(tuning.cost_weight)}.", wrap=False)
        elif save and tuning.met:
            show.say(f"Not saved: no cost weight gives {tuning.choice.words}; call it without a router.", wrap=False)
    if not tuning.met:
        raise typer.Exit(options.NOT_MET)


def _a_month(made: Report | Tuning, prompts: float | None) -> dict[str, float]:
    """Return the USD a month of this number of prompts, today and then, as JSON names them."""
    costs = {} if prompts is None else {"today": prompts * made.today.cost, "then": prompts * show.proposed(made)[1]}
    return {f"usd_per_month_{name}": usd for name, usd in costs.items()}


def _count(text: str | None) -> float | None:
    """Return the number in text such as "2M", "500k" or "1,000"."""
    if text is None:
        return None
    factor = {"k": 1e3, "m": 1e6, "b": 1e9}.get(text[-1:].lower(), 1.0)
    try:
        count = factor * float(text[: len(text) - (factor > 1)].replace(",", ""))
    except ValueError:
        count = math.nan
    if not 0 < count < math.inf:
        raise InvalidDataError(f"--per-month {text} is no number of prompts; write such as 2M, 500k or 20000.")
    return count


def report(
    router: options.RouterOrExample,
    now: Now = None,
    per_month: PerMonth = None,
    data: options.Data = None,
    columns: ColumnNames = None,
    scale: ScaleOfGrades = None,
    prices: PriceFile = None,
    png: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the curve to this file; needs 'unirouter\\[report]'.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Report what routing saves compared with single models. Exit code 3: routing does not pay."""
    if png is not None:
        from unirouter_plugins.figures import check_picture, draw

        check_picture(png)  # raises for a missing package before any work
    monthly, measured = _count(per_month), options.load(router)
    outcomes = None if data is None else read_graded(data, columns, scale, prices, beside=router, quiet=as_json)
    with show.working("Evaluating"):
        made = unirouter_core.report(measured, outcomes, baseline=now)
    if png is not None:
        draw(made, png)
    if as_json:
        drawn = {"png": None if png is None else str(png)}
        show.emit({"router": options.named(router), **made.as_dict(), **_a_month(made, monthly), **drawn})
    else:
        show.findings(made, monthly)
        if png is not None:
            show.say(f"Drawn: {png}", wrap=False)
    if made.level == "does not pay":
        raise typer.Exit(options.NOT_MET)
