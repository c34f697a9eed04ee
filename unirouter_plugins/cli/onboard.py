"""The command that adds models to a router: by evaluating them, with a bill first, or from recorded results."""

from __future__ import annotations

import dataclasses
import functools
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
from unirouter_plugins.cli.options import FLAG, Json, NoTexts, PoolFile, Router, members
from unirouter_plugins.cli.pool import onboard_recorded

if TYPE_CHECKING:
    from unirouter_plugins.onboarding import Plan, Progress

INTERRUPTED = 130  # the exit code after Ctrl-C
NOT_ADDED = 3  # the exit code when a model was evaluated and not added
LIVE, RECORDED = "Evaluate models", "From recorded results"  # the groups of options in the help


def _option(panel: str, metavar: str, text: str, *names: str, **limits: Any) -> Any:
    return typer.Option(*names, metavar=metavar, help=text, rich_help_panel=panel, **limits)


_live, _recorded = functools.partial(_option, LIVE), functools.partial(_option, RECORDED)
_VALIDATION = "Prompts, references and graders (.jsonl), or bare prompts (.txt); 300 of ours when not given."
_STORE = "A file or database URL for the answers; evaluations.sqlite beside the router when not given."
_STARTER = "Begin with ready-made prompt features if ROUTER does not exist."
_REPLACE = "Evaluate models of the pool again."
_UNTIL_DECIDED = "Stop when more answers would hardly matter."
_MODELS = "As pool.toml or LiteLLM calls them."


def onboard(
    context: typer.Context,
    router: Router,
    models: Annotated[list[str] | None, typer.Argument(metavar="MODEL...", help=_MODELS)] = None,
    replace: Annotated[bool, typer.Option("--replace", metavar=FLAG, help=_REPLACE)] = False,
    starter: Annotated[bool, typer.Option("--starter", metavar=FLAG, help=_STARTER)] = False,
    no_texts: NoTexts = False,
    as_json: Json = False,
    validation: Annotated[Path | None, _live("FILE", _VALIDATION)] = None,
    dry_run: Annotated[bool, _live(FLAG, "Show the bill and stop.", "--dry-run")] = False,
    budget: Annotated[float | None, _live("USD", "Maximum spend.")] = None,
    concurrency: Annotated[int, _live("N", "Concurrent calls.", min=1)] = 8,
    repeats: Annotated[int, _live("N", "Answers to each prompt.", min=1)] = 1,
    max_tokens: Annotated[int, _live("N", "Maximum length of an answer.", min=1)] = 1024,
    until_decided: Annotated[bool, _live(FLAG, _UNTIL_DECIDED, "--until-decided")] = False,
    judge: Annotated[str | None, _live("MODEL", "LLM judge for free-text answers.")] = None,
    judge_prompt: Annotated[Path | None, _live("FILE", "The judge's prompt.")] = None,
    reference_model: Annotated[str | None, _live("MODEL", "Model that generates missing references.")] = None,
    pool: PoolFile = None,
    store: Annotated[str | None, _live("PLACE", _STORE)] = None,
    timeout: Annotated[float, _live("SECONDS", "Per-call timeout.", min=1)] = 120,
    yes: Annotated[bool, _live(FLAG, "Skip the cost confirmation.", "--yes", "-y")] = False,
    recorded: Annotated[Path | None, _recorded("FILE", "Recorded answers of the models.")] = None,
    every: Annotated[bool, _recorded(FLAG, "All models of FILE that are not in the pool.", "--all")] = False,
    price_in: Annotated[float | None, _recorded("USD", "Per million prompt tokens.")] = None,
    price_out: Annotated[float | None, _recorded("USD", "Per million answer tokens.")] = None,
) -> None:
    """Add models to a router by evaluating them (cost shown first) or from recorded results (--recorded)."""
    if recorded is not None:
        live = [p for p in context.command.params if getattr(p, "rich_help_panel", None) == LIVE]
        given = [p for p in live if str(context.get_parameter_source(str(p.name))).endswith("COMMANDLINE")]
        if given:
            cure = f"leave it out, or leave out --recorded {recorded}"
            raise InvalidDataError(f"{given[0].opts[0]} is for evaluating models; {cure}.")
    elif every or price_in is not None or price_out is not None:
        raise InvalidDataError("--all, --price-in and --price-out go with --recorded FILE; prices are in pool.toml.")
    if not router.exists() and not starter:
        raise ArtifactError(
            f"{router} does not exist; learn it from your own prompts with: unirouter fit DATA --router {router}, or "
            "begin with ready-made prompt features by adding --starter."
        )
    into = UniRouter.load(router) if router.exists() else UniRouter.starter()
    if recorded is not None:
        prices, how = (price_in, price_out), {"replace": replace, "no_texts": no_texts, "as_json": as_json}
        onboard_recorded(into, router, models, recorded, every, *prices, **how)
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


def _plan(context: typer.Context, into: UniRouter, models: list[str]) -> Plan:
    """Return the plan of the command's options, which are called as the fields of `OnboardingOptions`."""
    from unirouter_plugins.onboarding import OnboardingOptions, plan_onboarding

    given, router = context.params, Path(context.params["router"])
    named = {f.name: given[f.name] for f in dataclasses.fields(OnboardingOptions) if f.name in given}
    named["pool"] = members(router, named["pool"])
    named["store"] = named["store"] or router.resolve().parent / "evaluations.sqlite"
    return plan_onboarding(into, models, OnboardingOptions(**named, texts=not given["no_texts"]))


def _onboard(plan: Plan, into: UniRouter, router: Path, *, dry_run: bool, sure: bool, as_json: bool) -> None:
    """Show the bill, evaluate the models, save the router after each, and show the results."""
    from unirouter_plugins.onboarding import run_onboarding

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
        with _bar() as progress, _ending_as_by_ctrl_c():
            done = run_onboarding(plan, progress, folder=router, onboarded=None if as_json else show.onboarded)
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


@contextmanager
def _ending_as_by_ctrl_c() -> Iterator[None]:
    """Take SIGTERM, and SIGHUP of a closed terminal, as Ctrl-C: what was answered is kept, what is spent is shown."""
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT)) for number in numbers}
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
