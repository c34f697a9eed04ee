"""The command line: fit, onboard, models, retire, route, tune and report, each a few calls of the library."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from unirouter_core.costs import Prices
from unirouter_core.exceptions import ArtifactError, InvalidDataError, UniRouterError, UnknownPriceError
from unirouter_core.outcomes import Outcomes
from unirouter_core.readers import read_outcomes
from unirouter_core.router import UniRouter
from unirouter_core.validation import Evaluation
from unirouter_plugins import tables
from unirouter_plugins.prompts import read_fitting, read_prompts

BAD_INPUT, NOT_WORTH_IT = 2, 3
_UNUSABLE = (UniRouterError, ImportError, FileNotFoundError, IsADirectoryError, PermissionError, UnicodeError)


class _Commands(TyperGroup):
    """The commands; what they cannot use ends in one sentence and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except _UNUSABLE as failed:
            typer.echo(f"Error: {_sentence(failed)}", err=True)
            raise typer.Exit(BAD_INPUT) from failed


def _sentence(failed: BaseException) -> str:
    if isinstance(failed, OSError) and failed.filename is not None:
        return f"{failed.filename}: {failed.strerror}."
    if isinstance(failed, UnicodeError):
        return f"the input is not UTF-8 ({failed}); save it as UTF-8."
    return " ".join(str(failed).split())


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Send each prompt to the cheapest model that will answer it well.",
    epilog="Every command takes --json. Exit codes: 0 fine; 2 usage or bad input; 3 a goal that cannot be met (tune), "
    "or routing that does not pay (report).",
)

Router = Annotated[Path, typer.Argument(metavar="ROUTER", help="The router's folder.")]
MaybeRouter = Annotated[
    Path | None,
    typer.Option("--router", "-r", metavar="ROUTER", help="The router's folder; recorded examples when not given."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else.")]
Data = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="What the models did on other prompts; the router's own when not given."),
]


def _load(folder: Path | None) -> UniRouter:
    """Return the router in `folder`, or the starter's with its examples, and say so."""
    if folder is None:
        router = UniRouter.starter(examples=True)
        dates = [str(profile.provenance.get("date", "")) for profile in router.pool.values()]
        until = f", the newest of {max(dates)}" if any(dates) else ""
        typer.echo(
            f"No --router given: these are the starter's recorded examples{until}, at list prices of their day, "
            "not live ones.",
            err=True,
        )
        return router
    if not folder.exists():
        raise ArtifactError(f"{folder} does not exist; make it with: unirouter fit DATA --router {folder}")
    return UniRouter.load(folder)


def _split(names: str | None) -> list[str] | None:
    return None if names is None else [name.strip() for name in names.split(",") if name.strip()]


def _emit(document: object, *, line: bool = False) -> None:
    typer.echo(json.dumps(document, indent=None if line else 2, allow_nan=False))


def _named(folder: Path | None) -> str:
    return "starter" if folder is None else str(folder)


# --- A router and its models ------------------------------------------------------------------------------------------


@app.command()
def fit(
    data: Annotated[
        Path, typer.Argument(help="What models did (.jsonl, .csv, .parquet, a folder), or prompts (.txt, .jsonl).")
    ],
    router: Annotated[
        Path, typer.Option("--router", "-r", metavar="ROUTER", help="The folder to save the router in.")
    ] = Path("my.router"),
    models: Annotated[str | None, typer.Option(metavar="A,B", help="Learn from these models of DATA only.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a router that holds models.")] = False,
    as_json: Json = False,
) -> None:
    """Learn prompt features from DATA and save a router with an empty pool."""
    if not force and (held := len(list((router / "pool").glob("*.json")))):
        raise InvalidDataError(
            f"{router} holds {held} model{'s' * (held > 1)}, which a new fit removes; give --force to do so, or name "
            "another folder with --router."
        )
    with tables.working(f"Learning from {data}"), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted = UniRouter().fit(given := read_fitting(data, _split(models)))
        fitted.save(router)
    for warning in caught:
        typer.echo(f"Note: {warning.message}", err=True)
    if as_json:
        _emit({"router": str(router), "prompts": len(given), "training_models": list(fitted.training_models)})
        return
    learned = f"{len(given):,} prompts" + (f" and {n} models" if (n := len(fitted.training_models)) else "")
    typer.echo(f"{router} has learned from {learned}. Now add the models to choose from:")
    typer.echo(f"  unirouter onboard {router} --all --recorded {data if n else 'OUTCOMES'}")


@app.command()
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
    with tables.working("Onboarding") as status:
        table = read_outcomes(recorded)
        names = list(dict.fromkeys(models or table.models))
        if known := [name for name in names if name in into.pool and not replace]:
            if not every:
                raise InvalidDataError(f"{known[0]!r} is in the pool already; give --replace to measure it anew.")
            names = [name for name in names if name not in known]
        prices = _prices(price_in, price_out, names)
        added = []
        for name in names:
            status.update(f"Onboarding {name}")
            added.append(_onboard(into, Evaluation.recorded(name, table, prices=prices)))
        into.save(router)
    if as_json:
        _emit({"router": str(router), "onboarded": [tables.profile_row(p) for p in added], "skipped": known})
        return
    for name in known:
        typer.echo(f"Note: {name} is in the pool already; --replace measures it anew.", err=True)
    tables.show_models(added, f"{router} now holds {len(into.pool)} models; added:" if added else "Nothing to add.")


def _onboard(router: UniRouter, evaluation: Evaluation) -> Any:
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


@app.command("models")
def list_models(router: MaybeRouter = None, as_json: Json = False) -> None:
    """List the models of a router, and how and when they were measured."""
    held = _load(router)
    profiles = list(held.pool.values())
    if as_json:
        weight = tables.weight_json(held.cost_weight)
        _emit({"router": _named(router), "cost_weight": weight, "models": [tables.profile_row(p) for p in profiles]})
        return
    none = "No models yet; add some with: unirouter onboard ROUTER --all --recorded FILE"
    tables.show_models(profiles, "" if profiles else none)


@app.command()
def retire(
    router: Router, model: Annotated[str, typer.Argument(help="The model to take out.")], as_json: Json = False
) -> None:
    """Take a model out of a router; the others stay as they were."""
    held = _load(router)
    held.retire(model)
    held.save(router)
    if as_json:
        _emit({"router": str(router), "retired": model, "models": list(held.pool)})
        return
    typer.echo(f"{model} is retired; {router} holds {', '.join(held.pool) or 'no model'}.")


# --- Route ------------------------------------------------------------------------------------------------------------


@app.command()
def route(
    prompt: Annotated[str | None, typer.Argument(help="The prompt; - reads it from stdin.")] = None,
    router: MaybeRouter = None,
    cost_weight: Annotated[
        float | None, typer.Option(metavar="W", help="The error that one USD is worth; inf for the cheapest model.")
    ] = None,
    models: Annotated[str | None, typer.Option(metavar="A,B", help="Choose among these only.")] = None,
    requires: Annotated[str | None, typer.Option(metavar="A,B", help="Of tools, vision, json.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Show what the choice rests on.")] = False,
    file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Many prompts: one a line, or .jsonl with a prompt each.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON on stdout and nothing else; with --file, a line each.")
    ] = False,
) -> None:
    """Choose the model for a prompt: the least expected error + cost weight * USD."""
    if (prompt is None) == (file is None):
        raise InvalidDataError("Give a prompt, - for stdin, or --file with many: one of the three.")
    prompts = read_prompts(file) if file is not None else [sys.stdin.read().strip() if prompt == "-" else str(prompt)]
    chosen_by = _load(router)
    how: dict[str, Any] = {
        "cost_weight": cost_weight,
        "models": _split(models),
        "requires": _split(requires) or (),
    }
    if file is not None:
        _route_many(chosen_by, prompts, how, explain, as_json)
    elif explain:
        explanation = chosen_by.explain(prompts[0], **how)
        if as_json:
            _emit({"router": _named(router), "prompt": prompts[0], **explanation.as_dict()})
        else:
            tables.show_decision(explanation.decision, explanation)
    else:
        decision = chosen_by.route(prompts[0], **how)
        if as_json:
            _emit({"router": _named(router), "prompt": prompts[0], **decision.as_dict()})
        else:
            tables.show_decision(decision)


def _route_many(router: UniRouter, prompts: Sequence[str], how: dict[str, Any], explain: bool, as_json: bool) -> None:
    if explain:
        for prompt in prompts:
            explanation = router.explain(prompt, **how)
            if as_json:
                _emit({"prompt": prompt, **explanation.as_dict()}, line=True)
            else:
                typer.echo(f"\n{tables.shortened(prompt)}")
                tables.show_decision(explanation.decision, explanation)
        return
    with tables.working(f"Routing {len(prompts):,} prompts"):
        decisions = router.route_batch(prompts, **how)
    if as_json:
        for row in tables.decision_rows(prompts, decisions):
            _emit(row, line=True)
    else:
        tables.show_decisions(prompts, decisions)


# --- What it is worth -------------------------------------------------------------------------------------------------


@app.command()
def tune(
    router: MaybeRouter = None,
    keep_quality: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Keep this share of the most accurate model's quality.")
    ] = None,
    usd_per_1000: Annotated[
        float | None, typer.Option("--usd-per-1000", metavar="USD", help="Spend at most this on 1,000 prompts.")
    ] = None,
    usd_per_error: Annotated[
        float | None, typer.Option(metavar="USD", help="Pay this much to avoid one wrong answer.")
    ] = None,
    data: Data = None,
    save: Annotated[bool, typer.Option("--save", help="Write the cost weight into the router.")] = False,
    as_json: Json = False,
) -> None:
    """Find the cost weight for one goal, and what it will give. Exit code 3: the goal cannot be met."""
    from unirouter_core.tradeoff import tune as find

    goals = {"keep_quality": keep_quality, "usd_per_1000": usd_per_1000, "usd_per_error": usd_per_error}
    if sum(goal is not None for goal in goals.values()) != 1:
        raise InvalidDataError("Give one goal: --keep-quality, --usd-per-1000 or --usd-per-error.")
    if save and router is None:
        raise InvalidDataError("There is no router to save to; name it with --router.")
    tuned = _load(router)
    with tables.working("Tuning"):
        tuning = find(tuned, outcomes=_other_outcomes(data), **goals)
    saved = save and tuning.met and router is not None
    if saved and router is not None:
        newest = UniRouter.load(router)  # tuning took a while, and others may have saved
        newest.cost_weight = tuning.cost_weight
        newest.save(router)
    if as_json:
        _emit({"router": _named(router), **tuning.as_dict(), "saved": saved})
    else:
        tables.show_tuning(tuning)
        if saved:
            typer.echo(f"Saved: {router} now routes with cost weight {tuning.cost_weight:.6g}.")
    if not tuning.met:
        raise typer.Exit(NOT_WORTH_IT)


@app.command()
def report(
    router: MaybeRouter = None,
    data: Data = None,
    png: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the curve there; needs 'unirouter[report]'.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what routing is worth beside single models. Exit code 3: routing does not pay."""
    from unirouter_core.tradeoff import report as measure

    if png is not None:
        from unirouter_plugins.report import draw  # before the work, so that a missing matplotlib is said at once
    measured = _load(router)
    with tables.working("Measuring"):
        made = measure(measured, outcomes=_other_outcomes(data))
    if png is not None:
        draw(made, png)
    if as_json:
        _emit({"router": _named(router), **made.as_dict(), "png": None if png is None else str(png)})
    else:
        tables.show_report(made)
        if png is not None:
            typer.echo(f"Drawn: {png}")
    if not made.pays:
        raise typer.Exit(NOT_WORTH_IT)


def _other_outcomes(data: Path | None) -> Outcomes | None:
    return None if data is None else read_outcomes(data)
