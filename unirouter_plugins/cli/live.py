"""Models added by asking them, on a terminal: the bill, the progress, what became of each."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from unirouter_core.exceptions import InvalidDataError
from unirouter_core.router import UniRouter
from unirouter_plugins.cli import show as shows
from unirouter_plugins.cli.show import emit, progress_bar, working

if TYPE_CHECKING:
    from unirouter_plugins.onboarding import Onboarded, Plan, Progress
    from unirouter_plugins.onboarding.bill import Bill

INTERRUPTED = 130
"""The exit code after Ctrl-C."""

NOT_ADDED = 3
"""The exit code when a model was asked and not added."""

MOVED_SHOWN = 5
"""Of the prompts that move to a new model."""


@dataclass(frozen=True)
class Asking:
    """How models are asked; see `unirouter_plugins.onboarding.plan_onboarding`."""

    validation: Path | None
    table: Path | None
    store: str
    budget: float | None
    concurrency: int
    repeats: int
    max_tokens: int
    until_decided: bool
    judge: str | None
    judge_prompt: Path | None
    reference_model: str | None
    timeout: float
    replace: bool
    texts: bool

    def plan(self, router: UniRouter, models: Sequence[str]) -> Plan:
        """Return what asking the models will take."""
        from unirouter_plugins.litellm.pool_file import Members, read_members
        from unirouter_plugins.onboarding import plan_onboarding
        from unirouter_plugins.onboarding.judge import Judge, read_judge_prompt

        if not models:
            raise InvalidDataError("Name the models to ask, or give what they did with --recorded FILE.")
        if not self.replace and (known := [name for name in models if name in router.pool]):
            raise InvalidDataError(f"{known[0]!r} is in the pool already; give --replace to measure it anew.")
        if self.judge is None and self.judge_prompt is not None:
            raise InvalidDataError("--judge-prompt is for a judge; name one with --judge MODEL.")
        members = Members({}) if self.table is None else read_members(self.table)
        judge = None
        if self.judge is not None:
            judge = Judge(members.named(self.judge), read_judge_prompt(self.judge_prompt))
        same = (
            "store",
            "budget",
            "concurrency",
            "repeats",
            "max_tokens",
            "until_decided",
            "reference_model",
            "timeout",
        )
        how: dict[str, Any] = {name: getattr(self, name) for name in (*same, "replace", "texts")}
        return plan_onboarding(router, models, self.validation, members=members, judge=judge, **how)


def onboard_asked(
    into: UniRouter, router: Path, models: Sequence[str], asking: Asking, *, dry_run: bool, sure: bool, as_json: bool
) -> None:
    """Show the bill, ask the models, save the router after each, and show what became of them."""
    with working("Counting tokens"):
        plan = asking.plan(into, models)
    from unirouter_plugins.onboarding.store import shown

    place = shown(asking.store)
    if not as_json:
        shows.bill(plan.bill, asking.budget)
    if dry_run:
        if as_json:
            emit({"router": str(router), "bill": plan.bill.as_dict(), "onboarded": []})
        return
    if asking.until_decided and not into.cost_weight:
        typer.echo(
            f"Its cost weight is 0: --until-decided stops as quality at any price would have it. If that is not how "
            f"{router} will route, tune it first.",
            err=True,
        )
    if not sure and asking.budget is None:
        if as_json or not sys.stdin.isatty():
            between = f"{shows.usd(plan.bill.usd.low)} to {shows.usd(plan.bill.usd.high)}"
            raise InvalidDataError(
                f"It will cost {between}, and nobody is there to ask; add --yes, or a limit with --budget."
            )
        typer.confirm("Go on?", abort=True, err=True)
    try:
        done = run_plan(plan, into, router, texts=asking.texts, show=not as_json)
    except KeyboardInterrupt:
        spent = f"Stopped after spending {shows.usd(plan.spent_usd)} at most"  # calls in flight count at their worst
        typer.echo(f"\n{spent}. What was answered is kept in {place}; the same command goes on.", err=True)
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        rows = [one.as_dict() for one in done]
        emit({"router": str(router), "bill": plan.bill.as_dict(), "spent_usd": plan.spent_usd, "onboarded": rows})
    else:
        typer.echo(f"Spent: {shows.usd(plan.spent_usd)}. The answers are kept in {place}.")
    if any(one.profile is None for one in done):
        raise typer.Exit(NOT_ADDED)


def run_plan(
    plan: Plan, into: UniRouter, router: Path | None, *, texts: bool = True, show: bool = True
) -> list[Onboarded]:
    """Ask the models of a plan with a progress bar, save `into` after each that joins it, and show each."""
    return asyncio.run(_run(plan, into, router, texts=texts, show=show))


async def _run(plan: Plan, into: UniRouter, router: Path | None, *, texts: bool, show: bool) -> list[Onboarded]:
    from unirouter_plugins.litellm.failures import open_litellm

    done = []
    try:
        with _bar(plan.bill) as progress:
            async for one in plan.each(progress):
                if one.profile is not None and router is not None:
                    into.save(router, texts=None if texts else False)
                done.append(one)
                if show:
                    _show(one)
        return done
    finally:
        await open_litellm().close_litellm_async_clients()  # they belong to this event loop, which ends


@contextmanager
def _bar(bill: Bill) -> Iterator[Any]:
    """Give what is told of each answer; on a terminal, a bar on stderr shows it with the spend so far."""
    if not sys.stderr.isatty():
        yield None
        return
    with progress_bar("spent") as bar:
        tasks: dict[str, Any] = {}

        def progress(now: Progress) -> None:
            if now.model not in tasks:
                tasks[now.model] = bar.add_task(now.model, total=now.total, spent="")
            failed = f", {now.failed} failed" if now.failed else ""
            spent = f"{shows.usd(now.spent_usd)} spent{failed}"
            bar.update(tasks[now.model], completed=now.done, total=now.total, spent=spent)

        yield progress


def _show(one: Onboarded) -> None:
    """Print what became of a model."""
    console = shows.console()
    if one.profile is None:
        console.print(f"{one.model} was not added: {one.reason}", style="bold")
    else:
        error = f"{one.profile.error:.3f} ± {shows.stderr_of(one.profile):.3f}"
        usd = shows.usd(1000 * shows.mean_usd(one.profile))
        console.print(f"{one.model}: error {error}, {usd} per 1,000 prompts", style="bold green")
    counts = {
        "answers of this run": one.asked,
        "cut off at the token limit": one.truncated,
        "refused": one.refused,
        "calls failed": one.failed,
        "judgements failed": one.judge_failures,
        "not gradable": one.ungradable,
    }
    said = ", ".join(f"{n} {what}" for what, n in counts.items() if n)
    console.print(f"{one.answered} of {one.prompts} prompts answered{f'; {said}' if said else ''}.")
    for note in one.notes:
        console.print(note)
    if one.joining is not None:
        console.print(one.joining.verdict)
        for prompt in one.joining.moved[:MOVED_SHOWN] if one.joining.kind != "the only model" else ():
            console.print(f"  moves to it: {shows.shortened(prompt)}", style="dim")
    console.print()
