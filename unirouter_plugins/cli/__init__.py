"""The command line, each command a few calls of the library: the app, route, tune and report."""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from typer.core import TyperGroup

import unirouter_core
from unirouter_core.data import Outcomes, read_outcomes
from unirouter_core.exceptions import InvalidDataError, NoCandidateError, UniRouterError
from unirouter_core.router import UniRouter
from unirouter_core.rule import Decisions
from unirouter_plugins.cli import tables
from unirouter_plugins.cli.bench import bench
from unirouter_plugins.cli.calls import ask, prices
from unirouter_plugins.cli.demo import demo
from unirouter_plugins.cli.explained import show_grounds
from unirouter_plugins.cli.onboard import onboard
from unirouter_plugins.cli.options import Data, Json, MaybeRouter, emit, load, named, split
from unirouter_plugins.cli.pool import fit, list_models, retire
from unirouter_plugins.cli.progress import each, working
from unirouter_plugins.cli.prompts import asked_prompt, read_prompts

BAD_INPUT, NOT_WORTH_IT = 2, 3
_UNUSABLE = (UniRouterError, ImportError, OSError, UnicodeDecodeError)

SLICE = 8_192
"""Prompts routed between two steps of the progress bar."""


class _Commands(TyperGroup):
    """The commands; what they cannot use ends in one sentence and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")  # a pipe that is not UTF-8 loses a bar, not the answer
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("always", UserWarning)
                warnings.showwarning = lambda message, *_, **__: typer.echo(f"Note: {message}", err=True)
                return super().invoke(ctx)
        except BrokenPipeError:
            raise  # the reader has had enough; typer ends quietly
        except _UNUSABLE as failed:
            typer.echo(f"Error: {_sentence(failed)}", err=True)
            raise typer.Exit(BAD_INPUT) from failed


def _sentence(failed: BaseException) -> str:
    if isinstance(failed, OSError) and failed.filename is not None:
        return f"{failed.filename}: {failed.strerror}."
    if isinstance(failed, UnicodeDecodeError):
        return f"the input is not UTF-8 ({failed}); save it as UTF-8."
    return " ".join(str(failed).split())


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Send each prompt to the cheapest model that will answer it well.",
    epilog="Every command takes --json. Exit codes: 0 fine; 2 usage or bad input; 3 a goal that cannot be met (tune), "
    "or routing that does not pay (report).",
)

app.command()(fit)
app.command()(onboard)
app.command("models")(list_models)
app.command()(retire)
app.command()(ask)
app.command()(prices)
app.command()(bench)
app.command()(demo)


def _show_version(asked: bool) -> None:
    if not asked:
        return
    from importlib.metadata import PackageNotFoundError, version

    try:
        typer.echo(f"unirouter {version('unirouter')}")
    except PackageNotFoundError:
        typer.echo("unirouter, of no known version: it runs from its source and is not installed")
    raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None: ...


@app.command()
def route(
    prompt: Annotated[str | None, typer.Argument(metavar="PROMPT", help="The prompt; - reads it from stdin.")] = None,
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
    prompts = read_prompts(file) if file is not None else [asked_prompt(str(prompt))]
    chosen_by = load(router)
    how: dict[str, Any] = {
        "cost_weight": cost_weight,
        "models": split(models),
        "requires": split(requires) or (),
    }
    if file is not None and not explain:
        _route_many(chosen_by, prompts, how, as_json)
        return
    with each(prompts, "Explaining", prints=True) as texts:
        for text in texts:
            explanation = chosen_by.explain(text, **how) if explain else None
            decision = chosen_by.route(text, **how) if explanation is None else explanation.decision
            if as_json:
                made = (decision if explanation is None else explanation).as_dict()
                rest = {"prompt": text, "error": decision.error, "cost": decision.cost, **made}
                emit(rest if file is not None else {"router": named(router), **rest}, line=file is not None)
            else:
                tables.show_decision(decision, text if file is not None else "", every=explain)
                if explanation is not None:
                    show_grounds(explanation)


def _route_many(router: UniRouter, prompts: Sequence[str], how: dict[str, Any], as_json: bool) -> None:
    decisions = _in_slices(router, prompts, how)
    if as_json:
        for row in tables.decision_rows(prompts, decisions):
            emit(row, line=True)
    else:
        tables.show_decisions(prompts, decisions)


def _in_slices(router: UniRouter, prompts: Sequence[str], how: dict[str, Any]) -> Decisions:
    """Return the decisions of one `route_batch`, made slice by slice."""
    parts = []
    with each(range(0, len(prompts), SLICE), f"Routing {len(prompts):,} prompts") as starts:
        for start in starts:
            try:
                parts.append(router.route_batch(prompts[start : start + SLICE], **how))
            except NoCandidateError as failed:
                raise NoCandidateError(f"Counted from prompt {start:,}: {failed}" if start else str(failed)) from failed

    def joined(name: str) -> Any:
        return np.concatenate([getattr(part, name) for part in parts])

    arrays = {name: joined(name) for name in ("chosen", "errors", "costs", "regions", "far")}
    return Decisions(parts[0].pool_models, **arrays, decide=lambda at: parts[at // SLICE][at % SLICE])


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
    if [keep_quality, usd_per_1000, usd_per_error].count(None) != 2:  # the options' names, not the library's
        raise InvalidDataError("Give one goal: --keep-quality, --usd-per-1000 or --usd-per-error.")
    if save and router is None:
        raise InvalidDataError("There is no router to save to; name it with --router.")
    tuned = load(router)
    with working("Tuning"):
        tuning = unirouter_core.tune(
            tuned,
            keep_quality=keep_quality,
            usd_per_1000=usd_per_1000,
            usd_per_error=usd_per_error,
            outcomes=_other_outcomes(data),
            level=tables.LEVEL,
        )
    saved = save and tuning.met and router is not None
    if saved and router is not None:
        newest = UniRouter.load(router)  # tuning took a while, and others may have saved
        newest.cost_weight = tuning.cost_weight
        newest.save(router)
    if as_json:
        emit({"router": named(router), **tuning.as_dict(), "saved": saved})
    else:
        tables.show_tuning(tuning)
        if saved:
            typer.echo(f"Saved: {router} now routes with cost weight {tuning.cost_weight:.6g}.")
    if not tuning.met:
        raise typer.Exit(NOT_WORTH_IT)


@app.command()
def report(
    folder: Annotated[Path | None, typer.Argument(metavar="ROUTER", help="The same as --router.")] = None,
    outcomes: Annotated[Path | None, typer.Argument(metavar="DATA", help="The same as --data.")] = None,
    router: MaybeRouter = None,
    data: Data = None,
    png: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the curve there; needs 'unirouter\\[report]'.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what routing is worth beside single models. Exit code 3: routing does not pay."""
    if png is not None:
        from unirouter_plugins.figures import check_picture, draw  # before the work: what is missing is said at once

        check_picture(png)
    router, data = _one(folder, router, "router"), _one(outcomes, data, "data")
    measured = load(router)
    with working("Measuring"):
        made = unirouter_core.report(measured, outcomes=_other_outcomes(data))
    if png is not None:
        draw(made, png)
    if as_json:
        emit({"router": named(router), **made.as_dict(), "png": None if png is None else str(png)})
    else:
        tables.show_report(made)
        if png is not None:
            typer.echo(f"Drawn: {png}")
    if not made.pays:
        raise typer.Exit(NOT_WORTH_IT)


def _one(argument: Path | None, option: Path | None, name: str) -> Path | None:
    """Return what was given in either place."""
    if argument is not None and option is not None:
        raise InvalidDataError(f"{argument} and --{name} {option} are both given; give one of them.")
    return option if argument is None else argument


def _other_outcomes(data: Path | None) -> Outcomes | None:
    return None if data is None else read_outcomes(data)


if __name__ == "__main__":
    app()
