"""The command that adds models to a router: by evaluating them, with a bill first, or from recorded results."""

from __future__ import annotations

import dataclasses
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unirouter_core.exceptions import ArtifactError, InvalidDataError
from unirouter_core.router import UniRouter
from unirouter_plugins.cli import show
from unirouter_plugins.cli.options import FLAG, Json, NoTexts, PoolFile, Router, pool_file
from unirouter_plugins.cli.pool import onboard_recorded

if TYPE_CHECKING:
    from unirouter_plugins.onboarding import Onboarded, Plan, Progress

INTERRUPTED = 130  # the exit code after Ctrl-C
NOT_ADDED = 3  # the exit code when a model was evaluated and not added
LIVE, RECORDED = "Evaluate models", "From recorded results"  # the groups of options in the help


def onboard(
    context: typer.Context,
    router: Router,
    models: Annotated[
        list[str] | None, typer.Argument(metavar="MODEL...", help="As pool.toml or LiteLLM calls them.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", metavar=FLAG, help="Evaluate models of the pool again.")
    ] = False,
    starter: Annotated[
        bool,
        typer.Option("--starter", metavar=FLAG, help="Begin with ready-made prompt features if ROUTER does not exist."),
    ] = False,
    no_texts: NoTexts = False,
    as_json: Json = False,
    validation: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Prompts, references and graders (.jsonl), or bare prompts (.txt); 300 of ours when not given.",
            rich_help_panel=LIVE,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", metavar=FLAG, help="Show the bill and stop.", rich_help_panel=LIVE)
    ] = False,
    budget: Annotated[float | None, typer.Option(metavar="USD", help="Maximum spend.", rich_help_panel=LIVE)] = None,
    concurrency: Annotated[int, typer.Option(metavar="N", min=1, help="Concurrent calls.", rich_help_panel=LIVE)] = 8,
    repeats: Annotated[int, typer.Option(metavar="N", min=1, help="Answers to each prompt.", rich_help_panel=LIVE)] = 1,
    max_tokens: Annotated[
        int, typer.Option(metavar="N", min=1, help="Maximum length of an answer.", rich_help_panel=LIVE)
    ] = 1024,
    until_decided: Annotated[
        bool,
        typer.Option(
            "--until-decided", metavar=FLAG, help="Stop when more answers would hardly matter.", rich_help_panel=LIVE
        ),
    ] = False,
    judge: Annotated[
        str | None, typer.Option(metavar="MODEL", help="LLM judge for free-text answers.", rich_help_panel=LIVE)
    ] = None,
    judge_prompt: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The judge's prompt.", rich_help_panel=LIVE)
    ] = None,
    reference_model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Model that generates missing references.", rich_help_panel=LIVE)
    ] = None,
    pool: PoolFile = None,
    store: Annotated[
        str | None,
        typer.Option(
            metavar="PLACE",
            help="A file or database URL for the answers; evaluations.sqlite beside the router when not given.",
            rich_help_panel=LIVE,
        ),
    ] = None,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=1, help="Per-call timeout.", rich_help_panel=LIVE)
    ] = 120,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", metavar=FLAG, help="Skip the cost confirmation.", rich_help_panel=LIVE)
    ] = False,
    recorded: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Recorded answers of the models.", rich_help_panel=RECORDED)
    ] = None,
    every: Annotated[
        bool,
        typer.Option(
            "--all", metavar=FLAG, help="All models of FILE that are not in the pool.", rich_help_panel=RECORDED
        ),
    ] = False,
    price_in: Annotated[
        float | None, typer.Option(metavar="USD", help="Per million prompt tokens.", rich_help_panel=RECORDED)
    ] = None,
    price_out: Annotated[
        float | None, typer.Option(metavar="USD", help="Per million answer tokens.", rich_help_panel=RECORDED)
    ] = None,
) -> None:
    """Add models to a router by evaluating them (cost shown first) or from recorded results (--recorded)."""
    if recorded is not None:
        _refuse_others(context, recorded)
    elif every or price_in is not None or price_out is not None:
        raise InvalidDataError("--all, --price-in and --price-out go with --recorded FILE; prices are in pool.toml.")
    if not router.exists() and not starter:
        raise ArtifactError(
            f"{router} does not exist; learn it from your own prompts with: unirouter fit DATA --router {router}, or "
            "begin with ready-made prompt features by adding --starter."
        )
    into = UniRouter.load(router) if router.exists() else UniRouter.starter()
    if recorded is not None:
        onboard_recorded(
            into,
            router,
            models,
            recorded,
            every,
            price_in,
            price_out,
            replace=replace,
            no_texts=no_texts,
            as_json=as_json,
        )
        return
    if not models:
        raise InvalidDataError("Name the models to evaluate, or give recorded results with --recorded FILE.")
    if not replace and (known := [name for name in models if name in into.pool]):
        raise InvalidDataError(f"{known[0]!r} is in the pool already; give --replace to evaluate it again.")
    if judge is None and judge_prompt is not None:
        raise InvalidDataError("--judge-prompt is for a judge; name one with --judge MODEL.")
    with show.working("Counting tokens"):
        plan = _plan(context, into, models)
    _onboard(plan, into, router, dry_run=dry_run, sure=yes, as_json=as_json)


def _refuse_others(context: typer.Context, recorded: Path) -> None:
    """Raise `InvalidDataError` when an option of live evaluation was given beside a record."""
    live = [p for p in context.command.params if getattr(p, "rich_help_panel", None) == LIVE]
    given = [p for p in live if str(context.get_parameter_source(str(p.name))).endswith("COMMANDLINE")]
    if given:
        raise InvalidDataError(
            f"{given[0].opts[0]} is for evaluating models; leave it out, or leave out --recorded {recorded}."
        )


def _plan(context: typer.Context, into: UniRouter, models: list[str]) -> Plan:
    """Return the plan of the command's options, which are called as the fields of `OnboardingOptions`."""
    from unirouter_plugins.onboarding import OnboardingOptions, plan_onboarding

    given, router = context.params, Path(context.params["router"])
    named = {f.name: given[f.name] for f in dataclasses.fields(OnboardingOptions) if f.name in given}
    named["pool"] = pool_file(router, named["pool"])
    named["store"] = named["store"] or router.resolve().parent / "evaluations.sqlite"
    return plan_onboarding(into, models, OnboardingOptions(**named, texts=not given["no_texts"]))


def _onboard(plan: Plan, into: UniRouter, router: Path, *, dry_run: bool, sure: bool, as_json: bool) -> None:
    """Show the bill, evaluate the models, save the router after each, and show the results."""
    bill, options = plan.bill, plan.options
    if not as_json:
        show.bill(bill, options.budget)
    if dry_run:
        if as_json:
            show.emit({"router": str(router), "bill": bill.as_dict(), "onboarded": []})
        return
    if options.until_decided and not into.cost_weight:
        show.note(
            "cost_weight is 0 (cost ignored), so --until-decided stops on quality alone. Run unirouter tune "
            f"{router} --save first if you route on cost."
        )
    if not sure and options.budget is None:
        if as_json or not sys.stdin.isatty():
            between = f"{show.usd(bill.usd.low)} to {show.usd(bill.usd.high)}"
            raise InvalidDataError(f"The expected cost is {between}; confirm with --yes, or set a limit with --budget.")
        typer.confirm("Go on?", abort=True, err=True)
    try:
        done = _run(plan, router, quiet=as_json)
    except KeyboardInterrupt:
        spent = f"Stopped after spending {show.usd(plan.spent_usd)} at most"  # calls in flight count at their worst
        show.say(f"\n{spent}. Answers are kept in {plan.place}; run the same command to resume.", err=True, wrap=False)
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        rows = [one.as_dict() for one in done]
        show.emit({"router": str(router), "bill": bill.as_dict(), "spent_usd": plan.spent_usd, "onboarded": rows})
    else:
        show.say(f"Spent: {show.usd(plan.spent_usd)}. The answers are kept in {plan.place}.", wrap=False)
    if any(one.profile is None for one in done):
        raise typer.Exit(NOT_ADDED)


def _run(plan: Plan, router: Path, *, quiet: bool) -> list[Onboarded]:
    """Run a plan with a progress bar, save its router in `router` after each model, and show each unless `quiet`."""
    from unirouter_plugins.onboarding import run_onboarding

    with _bar() as progress, _ending_as_by_ctrl_c():
        return run_onboarding(plan, progress, folder=router, onboarded=None if quiet else show.onboarded)


@contextmanager
def _ending_as_by_ctrl_c() -> Iterator[None]:
    """Take SIGTERM, and SIGHUP of a closed terminal, as Ctrl-C: what was answered is kept, what is spent is shown."""
    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {}
    for name in names:
        number = getattr(signal, name)
        before[number] = signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _bar() -> Iterator[Any]:
    """Give a callback of `Progress`; on a terminal, a bar shows it with the spend so far."""
    with show.progress_bar("spent") as bar:
        tasks: dict[str, Any] = {}

        def progress(now: Progress) -> None:
            if now.model not in tasks:
                tasks[now.model] = bar.add_task(now.model, total=now.total, spent="")
            failed = f", {now.failed} failed" if now.failed else ""
            spent = f"{show.usd(now.spent_usd)} spent{failed}"
            bar.update(tasks[now.model], completed=now.done, total=now.total, spent=spent)

        yield progress
