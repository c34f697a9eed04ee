"""The command that shows it all on one machine: real members join a pool, and a router chooses between them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import unirouter_core
from unirouter_core.held_out import FEWEST_PROMPTS
from unirouter_core.router import UniRouter
from unirouter_plugins.commands import tables
from unirouter_plugins.commands.explained import show_grounds
from unirouter_plugins.commands.live import run_plan
from unirouter_plugins.commands.options import Json, emit
from unirouter_plugins.commands.progress import each, working

if TYPE_CHECKING:
    from unirouter_core.verdict import Report
    from unirouter_plugins.demo import Routed, Tour
    from unirouter_plugins.onboarding import Onboarded

USD_PER_ERROR = 0.001
"""What the tour pays to avoid a wrong answer: ten calls of its dearest member."""

EXPLAINED = 3
"""Prompts whose choice is explained."""

MOCKED = "  (LiteLLM's mock in the place of a real model)"


def demo(
    folder: Annotated[
        Path, typer.Option("--folder", metavar="FOLDER", help="Where its files go; they stay, to be looked at.")
    ] = Path("unirouter-demo"),
    questions: Annotated[
        int | None, typer.Option(metavar="N", min=2, help="To ask, and to keep back; 30 and 20 when not given.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Onboard a real small model, the same with votes, and a calculator, and route between them, in three minutes."""
    with working("Starting the model"):
        from unirouter_plugins import demo as tour_of
    with warnings.catch_warnings(), tour_of.begin(folder, questions) as tour:
        warnings.filterwarnings("ignore", ".*too few to say much")  # on purpose, and said below
        say = _quiet if as_json else typer.echo
        _introduce(tour, say)
        router = UniRouter.starter()
        router.cost_weight = 1 / USD_PER_ERROR
        joined = _onboard(tour, router, show=not as_json)
        _tune(tour, router, say)
        routed = _route(tour, router, say)
        alone = _ask_all(tour, say)
        made = _report(tour, router, alone, show=not as_json)
        if not as_json:
            _explain(router, routed)
    if as_json:
        emit(_as_json(tour, joined, routed, alone, made))
    else:
        _conclude(tour, made)


def _quiet(_: str) -> None:
    return None


def _introduce(tour: Tour, say: Any) -> None:
    if tour.missing:
        say(f"{tour.missing}\nWithout it, LiteLLM's mock stands in for the model: it says the same to everything.\n")
    else:
        say("A real language model runs on this machine now: SmolLM2-135M-Instruct, on llama.cpp.\n")
    say(
        "Three members: smol (the model asked once), smol-votes (shown worked examples, asked five\ntimes, the answer "
        "that most agree on), calculator (a program that only does arithmetic).\nLiteLLM calls all of them. Prices are "
        f"ASSUMED; {tour.folder}/pool.toml has them.\n"
    )


def _onboard(tour: Tour, router: UniRouter, *, show: bool) -> list[Onboarded]:
    from unirouter_plugins.demo import MEMBERS
    from unirouter_plugins.onboarding import plan_onboarding

    if show:
        _command(tour, f"unirouter onboard my.router {' '.join(MEMBERS)} --validation validation.jsonl --starter")
    store = tour.folder / "evaluations.sqlite"
    plan = plan_onboarding(router, MEMBERS, tour.validation, members=tour.members, store=store, concurrency=4)
    if show:
        tables.show_bill(plan.bill, None)
    return run_plan(plan, router, tour.router, show=show)


def _command(tour: Tour, command: str) -> None:
    mark = MOCKED if tour.missing else ""
    tables.open_console().print(f"\n$ {command}{mark}", style="bold cyan")


def _tune(tour: Tour, router: UniRouter, say: Any) -> None:
    if say is not _quiet:
        _command(tour, f"unirouter tune --router my.router --usd-per-error {USD_PER_ERROR} --save")
    n = router.pool["smol"].n
    if n < FEWEST_PROMPTS:
        say(f"{n} prompts are too few to say what that gives.")
        return
    tuning = unirouter_core.tune(router, usd_per_error=USD_PER_ERROR)
    router.cost_weight = tuning.cost_weight
    router.save(tour.router)
    say(f"{tuning.verdict}\nIt rests on {n} prompts; a few hundred is what routing wants.")


def _route(tour: Tour, router: UniRouter, say: Any) -> list[Routed]:
    from unirouter_plugins.demo import read_kept_back, route_and_ask

    questions = read_kept_back(tour)
    if say is not _quiet:
        _command(
            tour, f'unirouter ask my.router "{questions[0].prompt.splitlines()[0]}"    # and {len(questions) - 1} more'
        )
    with each(questions, "Routing the prompts that were kept back") as counted:
        routed = list(route_and_ask(router, tour.members, counted))
    right = sum(one.error == 0 for one in routed)
    usd = tables.usd(1000 * sum(one.record.usd for one in routed) / len(routed))
    say(f"Of {len(routed)} prompts that nobody had seen, {right} were answered right, for {usd} per 1,000:")
    if say is not _quiet:
        table = tables.empty_table("went to", "", "prompt", "answer")
        for one in routed[:10]:
            mark = "right" if one.error == 0 else "wrong"
            prompt = tables.shortened(one.question.prompt, 38)
            table.add_row(one.record.model, mark, prompt, tables.shortened(one.answer, 18))
        tables.open_console().print(table)
    return routed


def _ask_all(tour: Tour, say: Any) -> list[Onboarded]:
    """Return what every member does on the prompts that were kept back, each asked alone."""
    from unirouter_plugins.demo import MEMBERS
    from unirouter_plugins.onboarding import plan_onboarding

    say("\nTo judge that, every member now answers all of them:")
    store = tour.folder / "evaluations.sqlite"
    beside = UniRouter.starter()
    plan = plan_onboarding(beside, MEMBERS, tour.kept_back, members=tour.members, store=store, concurrency=4)
    return run_plan(plan, beside, None, show=False)


def _report(tour: Tour, router: UniRouter, alone: Sequence[Onboarded], *, show: bool) -> Report | None:
    """Return what routing is worth on the prompts that were kept back; None where they are too few to say."""
    from unirouter_plugins.demo import outcomes_of, read_kept_back

    kept_back = read_kept_back(tour)
    if len(kept_back) < FEWEST_PROMPTS:
        return None
    made = unirouter_core.report(router, outcomes=outcomes_of(alone, kept_back))
    if show:
        _command(tour, "unirouter report --router my.router --png curve.png")
        tables.show_report(made)
        try:
            from unirouter_plugins.report import draw

            draw(made, tour.folder / "curve.png")
            typer.echo(f"Drawn: {tour.folder / 'curve.png'}")
        except ImportError as missing:
            typer.echo(str(missing))
    return made


def _explain(router: UniRouter, routed: Sequence[Routed]) -> None:
    for one in routed[:EXPLAINED]:
        explanation = router.explain(one.question.prompt, neighbours=3)
        tables.show_decision(explanation.decision, one.question.prompt)
        show_grounds(explanation)


def _conclude(tour: Tour, made: Report | None) -> None:
    if made is None:
        paid = f"Whether routing pays takes {FEWEST_PROMPTS} prompts or more to say."
    elif made.pays:
        paid = f"Routing paid here, on {made.n} prompts."
    else:
        paid = f"Routing did not pay here, or {made.n} prompts cannot show that it did."
    typer.echo(
        f"\n{paid} The model has stopped; its files are in {tour.folder}.\nFor models of your own: write their names "
        f"in {tour.folder}/pool.toml (it says how), your prompts in\nvalidation.jsonl, and repeat the commands above "
        "there."
    )


def _as_json(
    tour: Tour, joined: Sequence[Onboarded], routed: Sequence[Routed], alone: Sequence[Onboarded], made: Report | None
) -> dict[str, Any]:
    answers = [
        {"prompt": one.question.prompt, "answer": one.answer, "error": one.error, **one.record.as_dict()}
        for one in routed
    ]
    return {
        "folder": str(tour.folder),
        "mock": bool(tour.missing),
        "prices": "assumed",
        "onboarded": [one.as_dict() for one in joined],
        "routed": answers,
        "alone": {one.model: None if one.evaluation is None else 1 - one.evaluation.error for one in alone},
        "report": None if made is None else made.as_dict(),
    }
