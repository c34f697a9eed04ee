"""The command that adds models to a router: by evaluating them, with a bill first, or from recorded results."""

from __future__ import annotations

import dataclasses
import functools
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from unirouter_core.costs import Prices
from unirouter_core.data import Evaluation, Outcomes
from unirouter_core.exceptions import ArtifactError, InvalidDataError, UnknownPriceError
from unirouter_core.outcome_files import read_outcomes
from unirouter_core.pool import ModelProfile
from unirouter_core.router import UniRouter
from unirouter_plugins.cli import show
from unirouter_plugins.cli.options import FLAG, Json, NoTexts, PoolFile, Router, members

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
    _check_options(context)
    if not router.exists() and not starter:
        raise ArtifactError(
            f"{router} does not exist; learn it from your own prompts with: unirouter fit DATA --router {router}, or "
            "begin with ready-made prompt features by adding --starter."
        )
    into = UniRouter.load(router) if router.exists() else UniRouter.starter()
    if recorded is not None:
        _record(context, into)
    else:
        with show.working("Counting tokens"):
            plan = _plan(context, into)
        _run(plan, into, router, dry_run=dry_run, sure=yes, as_json=as_json)


def _check_options(context: typer.Context) -> None:
    """Raise `InvalidDataError` for options of the one way to onboard that are given with the other."""
    given, recorded = context.params, context.params["recorded"]
    if recorded is None and (given["every"] or given["price_in"] is not None or given["price_out"] is not None):
        raise InvalidDataError("--all, --price-in and --price-out go with --recorded FILE; prices are in pool.toml.")
    if recorded is None and not given["models"]:
        raise InvalidDataError("Name the models to evaluate, or give recorded results with --recorded FILE.")
    for option in context.command.params if recorded is not None else ():
        is_given = str(context.get_parameter_source(str(option.name))).endswith("COMMANDLINE")
        if is_given and getattr(option, "rich_help_panel", None) == LIVE:
            cure = f"leave it out, or leave out --recorded {recorded}"
            raise InvalidDataError(f"{option.opts[0]} is for evaluating models; {cure}.")
    if recorded is not None and bool(given["models"]) == given["every"]:
        raise InvalidDataError("Name the models to add, or give --all for all models of the file: one of the two.")


# --- From recorded results --------------------------------------------------------------------------------------------


def _record(context: typer.Context, into: UniRouter) -> None:
    """Add models by the file of recorded results: all of them, or none when one cannot be added."""
    given = context.params
    with show.working(f"Reading {given['recorded']}"):
        table, seen = _unseen(into, read_outcomes(given["recorded"]))
    names = list(dict.fromkeys(given["models"] or table.models))
    if known := [name for name in names if name in into.pool and not given["replace"]]:
        if not given["every"]:
            raise InvalidDataError(f"{known[0]!r} is in the pool already; --replace evaluates it again.")
        names = [name for name in names if name not in known]
    prices = _given_prices(given["price_in"], given["price_out"], names)
    with show.each(names, "Onboarding") as counted:
        added = [_add(into, Evaluation.recorded(name, table, prices=prices)) for name in counted]
    into.save(given["router"], texts=False if given["no_texts"] else None)
    if given["as_json"]:
        rows = [show.profile_row(profile) for profile in added]
        show.emit({"router": str(given["router"]), "onboarded": rows, "skipped": known})
        return
    for note in [seen] * bool(seen) + [
        f"{name} is in the pool already; --replace evaluates it again." for name in known
    ]:
        show.note(note)
    if added:
        show.say(f"{given['router']} now holds {len(into.pool)} models; added:", wrap=False)
        show.models(added)
    else:
        show.say("Nothing to add.")


def _unseen(router: UniRouter, table: Outcomes) -> tuple[Outcomes, str]:
    """Return the prompts that the router was not fitted on, and a note; all prompts, when it was fitted on all."""
    seen = router.fit_.has_seen(table.prompts)
    if not seen.any():
        return table, ""
    if seen.all():
        return table, "the router was fitted on these very prompts, so results are optimistic; evaluate on others."
    new = table.rows(np.flatnonzero(~seen))
    return new, f"evaluated on the {len(new):,} of {len(table):,} prompts that the router was not fitted on."


def _add(router: UniRouter, evaluation: Evaluation) -> ModelProfile:
    """Add or replace a model; its capabilities stay as they were."""
    before = router.pool.get(evaluation.model)
    try:
        return router.onboard(evaluation, capabilities=None if before is None else before.capabilities, replace=True)
    except UnknownPriceError as unpriced:
        cure = "add a cost column (USD), or tokens_in and tokens_out with --price-in and --price-out."
        raise UnknownPriceError(f"The cost of {evaluation.model!r} is unknown; {cure}") from unpriced


def _given_prices(price_in: float | None, price_out: float | None, models: Sequence[str]) -> Prices | None:
    if price_in is None and price_out is None:
        return None
    if price_in is None or price_out is None:
        raise InvalidDataError("Only one price was given; give both --price-in and --price-out.")
    if len(models) > 1:
        raise InvalidDataError(f"One price for {len(models)} models; onboard models with --price-in one at a time.")
    return Prices(price_in, price_out)


# --- By evaluating models ---------------------------------------------------------------------------------------------


def _plan(context: typer.Context, into: UniRouter) -> Plan:
    """Return the plan of the command's options, which are called as the fields of `OnboardingOptions`."""
    from unirouter_plugins.onboarding import OnboardingOptions, plan_onboarding

    given, router = context.params, Path(context.params["router"])
    named = {f.name: given[f.name] for f in dataclasses.fields(OnboardingOptions) if f.name in given}
    named["pool"] = members(router, named["pool"])
    named["store"] = named["store"] or router.resolve().parent / "evaluations.sqlite"
    return plan_onboarding(into, given["models"], OnboardingOptions(**named, texts=not given["no_texts"]))


def _run(plan: Plan, into: UniRouter, router: Path, *, dry_run: bool, sure: bool, as_json: bool) -> None:
    """Show the bill, evaluate the models, save the router after each, and show the results."""
    from unirouter_plugins.onboarding import run_onboarding

    bill, options, shown = plan.bill, plan.options, {"router": str(router), "bill": plan.bill.as_dict()}
    if not as_json:
        show.bill(bill, options.budget)
    if dry_run:
        if as_json:
            show.emit({**shown, "onboarded": []})
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
        with _bar() as progress, ending_as_by_ctrl_c():
            done = run_onboarding(plan, progress, folder=router, onboarded=None if as_json else show.onboarded)
    except KeyboardInterrupt:
        spent = f"Stopped after spending {show.usd(plan.spent_usd)} at most"  # calls in flight count at their worst
        show.say(f"\n{spent}. Answers are kept in {plan.place}; run the same command to resume.", err=True, wrap=False)
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        show.emit({**shown, "spent_usd": plan.spent_usd, "onboarded": [one.as_dict() for one in done]})
    else:
        show.say(f"Spent: {show.usd(plan.spent_usd)}. The answers are kept in {plan.place}.", wrap=False)
    if any(one.profile is None for one in done):
        raise typer.Exit(NOT_ADDED)


@contextmanager
def ending_as_by_ctrl_c() -> Iterator[None]:
    """Take SIGTERM, and SIGHUP of a closed terminal, as Ctrl-C; under nohup, which ignores SIGHUP, go on."""
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    taken = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


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
