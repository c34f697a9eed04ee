"""The command that says what a check of a model's answers is worth, by the answers that are in the store."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unirouter_core.exceptions import InvalidDataError
from unirouter_plugins.cli import options, show

if TYPE_CHECKING:
    from unirouter_plugins.litellm.pool_file import Members
    from unirouter_plugins.onboarding.run import Checked

CHECK = 'A name of pool.toml\'s [checks], a ready-made check, or JSON: {"check": NAME, ...}.'


def check(
    router: options.Router,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model of the pool.")],
    name: Annotated[str, typer.Argument(metavar="CHECK", help=CHECK)],
    validation: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What the model was evaluated on; 300 of ours when not given.")
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            metavar="PLACE", help="Where its answers are; evaluations.sqlite beside the router when not given."
        ),
    ] = None,
    wrong_at_most: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Accept answers only where so few of them are wrong.")
    ] = None,
    confidence: Annotated[float, typer.Option(metavar="SHARE", help="How sure that must be.")] = 0.95,
    pool: options.PoolFile = None,
    dry_run: Annotated[bool, options.flag("Show how many answers there are, the bill, and stop.", "--dry-run")] = False,
    budget: Annotated[
        float | None, typer.Option(metavar="USD", help="Maximum spend on members that the check calls.")
    ] = None,
    concurrency: Annotated[int, typer.Option(metavar="N", help="Concurrent calls.", min=1)] = 8,
    yes: Annotated[bool, options.flag("Accept the bill.", "--yes", "-y")] = False,
    as_json: options.Json = False,
) -> None:
    """Judge a check by stored answers; keep it unless it does not pay, or for its limit. Exit code 3: not kept."""
    from unirouter_plugins.litellm.checks import named_checks
    from unirouter_plugins.litellm.programs import register
    from unirouter_plugins.onboarding.ask import Budget, Callers, OnboardingOptions, PreflightError, run_to_end
    from unirouter_plugins.onboarding.bill import TRIFLE, total
    from unirouter_plugins.onboarding.questions import read_questions
    from unirouter_plugins.onboarding.store import AnswerStore
    from unirouter_plugins.onboarding.stored import Replay, stored_answers

    learned = options.load(router)
    profile, members = learned.pool[model], options.members(router, pool)
    ((name, run),) = named_checks(specs([name], members), members, learned.pool.models).items()
    place = store or router.resolve().parent / "evaluations.sqlite"
    wanted = OnboardingOptions(budget=budget, concurrency=concurrency)
    with AnswerStore(place, create=False) as kept:
        texts = {digest: a.text or "" for (digest, repeat), a in stored_answers(kept, profile).items() if not repeat}
        questions = read_questions(validation, embedder=learned.fit_.embedder, judged=True)
        callers = Callers(wanted, learned.fit_.token_counter, Budget(budget))
        replay = Replay(learned, members, kept, callers)
        n = replay.note(run, model, [question for question in questions if question.digest in texts], texts)
        bill = total(replay.items(), len(texts))
        found: dict[str, Any] = {"router": str(router), "model": model, "check": name, "calls": n}
        found |= {"bill": bill.as_dict()} if n else {}
        if n and not as_json:
            show.bill(bill, budget)
        if dry_run:
            said = f"{n:,} calls: {name} would be run on {len(texts):,} stored answers of {model}."
            show.emit({**found, "answers": len(texts)}) if as_json else show.say(said)
            return
        if n:
            if not yes and budget is None:
                options.confirm(bill.usd, as_json=as_json)
            register(members)
            callers.clear()
            callers.budget = Budget(max(bill.usd.high, TRIFLE) if budget is None else budget)
            try:
                with show.working(f"Asking {n} times"):
                    run_to_end(replay.ask())
            except PreflightError as failed:
                raise options.ProviderError(str(failed)) from failed
            if replay.ended:
                show.note(f"Not all was asked: {replay.ended}")
        with show.working(f"Checking {len(texts)} answers"):
            made = replay.judge(model, run, questions, wrong_at_most, confidence)
    if made.saved:
        learned.save(router)
    if as_json:
        show.emit({**found, **made.as_dict(), "spent_usd": callers.budget.spent})
    else:
        show.say(str(made.value))
        show.say(f"Saved: {router} can use {name} on {model}'s answers." if made.saved else "Not saved.", wrap=False)
        to_be_named([made], members)
    if not made.saved:
        raise typer.Exit(options.NOT_MET)


def to_be_named(checks: Iterable[Checked], members: Members) -> None:
    """Say which of the checks that are kept no call would run yet."""
    for name in dict.fromkeys(
        each.value.check for each in checks if each.saved and each.value.check not in members.checks
    ):
        show.say(f"next: name {name} under [checks] in pool.toml, so that calls run it.", wrap=False)


def specs(texts: Iterable[str], members: Members) -> dict[str, Any]:
    """Return the checks of the command line by their names: what pool.toml says of a name, or parameters as JSON."""
    found = dict[str, Any]()
    for text in texts:
        if not text.lstrip().startswith("{"):
            found[text] = members.checks.get(text, text)
            continue
        try:
            spec = json.loads(text)
            found[str(spec.pop("name", spec["check"]))] = spec
        except (ValueError, KeyError, RecursionError) as failed:
            raise InvalidDataError(
                f'{text!r:.60} is no JSON such as {{"check": "parses", "language": "sql"}}.'
            ) from failed
    return found
