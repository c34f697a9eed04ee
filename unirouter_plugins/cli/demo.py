"""The command that shows it all on one machine: real members join a pool, and a router chooses between them."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import unirouter_core
from unirouter_core.router import UniRouter
from unirouter_plugins.cli import tables
from unirouter_plugins.cli.onboard import INTERRUPTED, NOT_ADDED, run_plan
from unirouter_plugins.cli.options import Json, emit
from unirouter_plugins.cli.progress import each, working
from unirouter_plugins.local.server import CURE

if TYPE_CHECKING:
    from unirouter_core.data import Outcomes
    from unirouter_core.evaluate.report import Report
    from unirouter_core.rule import Explanation
    from unirouter_plugins.cli.demo_tour import Routed, Tour
    from unirouter_plugins.onboarding import Onboarded, Plan

USD_PER_ERROR = 0.001
"""What a wrong answer is taken to cost: a tenth of a cent."""

EXPLAINED = 3
"""Prompts whose choice is explained."""

LIKE = 3
"""Validation prompts that each choice is explained by."""

ANSWER = 30
"""Characters shown of an answer; what is left of the line is for its prompt."""


def demo(
    folder: Annotated[
        Path, typer.Option("--folder", metavar="FOLDER", help="Where its files go, to be looked at and changed.")
    ] = Path("unirouter-demo"),
    as_json: Json = False,
) -> None:
    """Route between a real small model, the same one with votes, and a calculator: offline, in three minutes."""
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()) if as_json else nullcontext():
            warnings.filterwarnings("ignore", "coroutine .* was never awaited")  # LiteLLM's, when it is interrupted
            found = _run(folder)
    except KeyboardInterrupt:
        typer.echo(f"\nStopped, and so has the model's server. What was made until then is in {folder}.", err=True)
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        emit(found)


def _run(folder: Path) -> dict[str, Any]:
    """Go through the demo, print it as a story, and return what came of it, as JSON can hold it."""
    with working("Loading"):
        from unirouter_plugins.cli.demo_tour import begin
    with begin(folder) as tour:
        _introduce(tour)
        router = _learn(tour)
        plan, joined = _onboard(tour, router)
        tuning = _tune(tour, router)
        routed = _route(tour, router)
        alone = _ask_alone(tour)
        made = unirouter_core.report(router, outcomes=alone)
        _judge(made, routed)
        picture = _draw(tour, made)
        _explain(tour, router, routed)
    _conclude(tour, made, routed)
    return {
        "folder": str(folder),
        "mock": tour.missing or None,
        "prices": "assumed",
        "bill": plan.bill.as_dict(),
        "spent_usd": plan.spent_usd,
        "onboarded": [one.as_dict() for one in joined],
        "tuning": tuning.as_dict(),
        "routed": [_routed_row(one) for one in routed],
        "report": {**made.as_dict(), "png": picture},
    }


def _routed_row(one: Routed) -> dict[str, Any]:
    return {"prompt": one.question.prompt, "answer": one.answer, "error": one.error, **one.record.as_dict()}


def _say(text: str, style: str | None = None) -> None:
    tables.open_console().print(text, style=style)


def _did(tour: Tour, command: str) -> None:
    """Print the command that does what is done next, whole, so that it can be copied."""
    mock = "   # here with LiteLLM's mock" if tour.missing else ""
    tables.open_console().print(f"\n$ {command}{mock}", style="bold cyan", soft_wrap=True)


def _list(rows: Mapping[str, str]) -> None:
    """Print names and what they are."""
    table = tables.empty_table("", "")
    table.show_header = False
    for name, what in rows.items():
        table.add_row(name, what)
    tables.open_console().print(table)


# --- The steps --------------------------------------------------------------------------------------------------------


def _introduce(tour: Tour) -> None:
    """Say what runs, who the members are, and what the files are."""
    from unirouter_plugins.cli.demo_tour import kept_back, prompts, validation

    if tour.missing:
        _say(f"MOCK: {tour.missing}", "bold")
        _say(
            "Until then LiteLLM's mock answers in the model's place, the same to every prompt, under names that begin "
            "with mock-. Only the calculator is real: what the others get right means nothing."
        )
    else:
        _say(
            "A real language model runs on this machine now: SmolLM2-135M-Instruct on llama.cpp, with one thread, no "
            "key and no network. It is about the smallest there is, and mostly wrong: a fine case for routing."
        )
    _say("\nThree members, called through LiteLLM. Their prices are ASSUMED, as an API might charge:\n")
    what = (
        "the model, asked once",
        "the same, shown worked examples and asked five times: what most answers say",
        "a program that only does arithmetic",
    )
    _list(dict(zip(tour.members, what, strict=True)))
    _say(f"\n{tour.folder} holds what it takes, for you to look at and to change:\n")
    _list(
        {
            "pool.toml": "how the members are called, and their prices",
            "prompts.jsonl": f"{len(prompts(tour))} prompts to learn from, which nobody answers",
            "validation.jsonl": f"{len(validation(tour))} prompts to measure members on: the easiest (difficulty 1) of "
            "four families of the packaged set, and 8 sums more",
            "kept_back.jsonl": f"{len(kept_back(tour))} others of these four families, to judge the routing by",
        }
    )
    _did(tour, f"cd {tour.folder}")


def _learn(tour: Tour) -> UniRouter:
    from unirouter_plugins.cli.demo_tour import learn, prompts

    _did(tour, "unirouter fit prompts.jsonl --router my.router")
    with working("Learning"):
        router = learn(tour)
    _say(f"The router has learned from {len(prompts(tour))} prompts what prompts look like. Now its members:")
    return router


def _onboard(tour: Tour, router: UniRouter) -> tuple[Plan, list[Onboarded]]:
    from unirouter_plugins.cli.demo_files import NAMES
    from unirouter_plugins.cli.demo_tour import validation

    _did(tour, f"unirouter onboard my.router {' '.join(NAMES)} \\\n    --validation validation.jsonl")
    plan = tour.plan(router, validation(tour))
    tables.show_bill(plan.bill, None)
    _say("")
    joined = run_plan(plan, tour.router)
    if any(one.profile is None for one in joined):
        raise typer.Exit(NOT_ADDED)
    _say(f"Spent: {tables.usd(plan.spent_usd)}, had the prices been real. The answers are in evaluations.sqlite.")
    return plan, joined


def _tune(tour: Tour, router: UniRouter) -> unirouter_core.Tuning:
    """Set the router's cost_weight by a goal."""
    _did(tour, f"unirouter tune --router my.router --usd-per-error {USD_PER_ERROR} --save")
    with working("Tuning"):
        tuning = unirouter_core.tune(router, usd_per_error=USD_PER_ERROR, level=tables.LEVEL)
    router.cost_weight = tuning.cost_weight
    router.save(tour.router)
    tables.show_tuning(tuning)
    _say(f"\nIt rests on {tuning.n} prompts, which say little: a few hundred of your own are what tuning wants.")
    return tuning


def _route(tour: Tour, router: UniRouter) -> list[Routed]:
    """Call the member that the router picks for each prompt that was kept back, and show what it said."""
    from unirouter_plugins.cli.demo_tour import kept_back, route_and_ask

    questions = kept_back(tour)
    _did(tour, f'unirouter ask my.router "{tables.shortened(questions[0].prompt)}"   # and so on')
    with each(questions, "Routing and asking") as counted:
        routed = list(route_and_ask(router, counted))
    table, console = tables.empty_table("kept back", "goes to", "answer", ""), tables.open_console()
    room = console.width - max(len(model) for model in tour.members) - ANSWER - len("right") - 4 * 2
    for one in routed:
        prompt, answer = tables.shortened(one.question.prompt, room), tables.shortened(one.answer, ANSWER)
        table.add_row(prompt, one.record.model, answer, "" if one.error else "right")
    console.print(table)
    return routed


def _ask_alone(tour: Tour) -> Outcomes:
    """Return what every member does on the prompts that were kept back."""
    from unirouter_plugins.cli.demo_tour import keep_outcomes, kept_back

    questions = kept_back(tour)
    apart = UniRouter.load(tour.router)  # a copy, which is not saved: the router is not to learn from these
    plan = tour.plan(apart, questions, replace=True)
    return keep_outcomes(tour, run_plan(plan, None, show=False), questions)


def _judge(made: Report, routed: Sequence[Routed]) -> None:
    """Show quality and cost of the routing, as it was called, beside each member alone and the best mixture."""
    quality, cost = _quality_and_cost(routed)
    rows = [(alone, f"always {model}", usd) for model, (usd, alone) in made.models.items()]
    rows.append((float(made.mixture.hull().quality_at(cost)), "best mixture for that cost", cost))
    rows.append((quality, "routing, as called above", cost))
    table = tables.empty_table("", ">right", ">USD per 1,000 prompts (assumed)")
    for right, name, usd in sorted(rows, reverse=True):
        style = "bold" if name.startswith("routing") else ""
        table.add_row(name, f"{right:.0%}", tables.usd(1000 * usd), style=style)
    _say(f"\nTo judge that, every member has answered all {len(routed)} of them, too:\n")
    tables.open_console().print(table)
    _say("\nThe mixture deals prompts to members without reading them, in the shares that serve it best.", "dim")


def _quality_and_cost(routed: Sequence[Routed]) -> tuple[float, float]:
    """Return the mean quality and USD of the answers."""
    n = len(routed)
    return 1 - sum(one.error for one in routed) / n, sum(one.record.usd for one in routed) / n


def _draw(tour: Tour, made: Report) -> str | None:
    """Show the curve, draw it where that is possible, and return the picture's place."""
    place = tour.folder / "curve.png"
    _did(tour, "unirouter report --router my.router --data outcomes.jsonl --png curve.png")
    tables.show_report(made)
    try:
        from unirouter_plugins.figures import draw
    except ImportError as missing:
        _say(f"There is no picture of the curve. {missing}")
        return None
    draw(made, place)
    _say(f"Drawn: {place}")
    return str(place)


def _explain(tour: Tour, router: UniRouter, routed: Sequence[Routed]) -> None:
    """Show what the choice rests on for a few prompts, as different as there are."""
    shown = _varied(routed)[:EXPLAINED]
    _did(tour, f'unirouter route --router my.router --explain "{tables.shortened(shown[0].question.prompt)}"')
    _say(f"In short, for {len(shown)} of them; the least score is chosen: error + {router.cost_weight:g} * USD.")
    for one in shown:
        _say(f"\n{tables.shortened(one.question.prompt)}", "bold")
        _show_grounds(router.explain(one.question.prompt, neighbours=LIKE))


def _varied(routed: Sequence[Routed]) -> list[Routed]:
    """Return the first prompt of each member, then the first of each family that is not among them."""
    of_members: dict[str, Routed] = {}
    of_families: dict[str, Routed] = {}
    for one in routed:
        of_members.setdefault(one.record.model, one)
        of_families.setdefault(one.question.fields["family"], one)
    shown = {one.question.fields["family"] for one in of_members.values()}
    return [*of_members.values(), *(one for family, one in of_families.items() if family not in shown)]


def _show_grounds(explanation: Explanation) -> None:
    """Print the ranking, and beside it what each member did on the validation prompts most like this one."""
    console = tables.open_console()
    table = tables.empty_table("", ">error", ">USD per 1,000", ">score", "on prompts like it")
    for row in explanation.decision.ranking:
        there = (near.errors.get(row.model) for near in explanation.neighbours)
        did = ", ".join("wrong" if error else "right" for error in there if error is not None)
        table.add_row(row.model, f"{row.error:.3f}", tables.usd(1000 * row.cost), f"{row.score:.3f}", did)
    console.print(table)
    room = (console.width - len("like it: ")) // LIKE - len("; ")
    likes = "; ".join(tables.shortened(near.prompt, room) for near in explanation.neighbours)
    console.print(f"like it: {likes}", style="dim")


def _conclude(tour: Tour, made: Report, routed: Sequence[Routed]) -> None:
    """Say plainly whether routing paid, and how to go on."""
    quality, cost = _quality_and_cost(routed)
    best = min(made.models, key=lambda model: (-made.models[model][1], made.models[model][0]))
    usd, alone = made.models[best]
    paid = "paid here" if made.pays else "did not pay here, as far as so few prompts can tell"
    _say(
        f"\nRouting {paid}: {quality:.0%} right for {tables.usd(1000 * cost)} per 1,000 prompts; always using {best}, "
        f"{alone:.0%} for {tables.usd(1000 * usd)}. That rests on {len(routed)} prompts: enough to watch it work, too "
        "few to trust the numbers.",
        "bold",
    )
    if tour.missing:
        _say(f"MOCK: two of the three members were none. For the real ones: {CURE}", "bold")
    else:
        _say("\nThe model's server has ended, and all of its answers are kept.")
    _say(
        f"For models of your own, change two lines of each member in {tour.folder / 'pool.toml'} (it says which), put "
        "your prompts into the .jsonl files, remove my.router, and run the commands above in that folder."
    )
