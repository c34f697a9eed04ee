"""The command that says what a check of a model's answers is worth, by the answers that are in the store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from unirouter_core.exceptions import InvalidDataError
from unirouter_plugins.cli import options, show


def check(
    router: options.Router,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model of the pool.")],
    name: Annotated[
        str,
        typer.Argument(
            metavar="CHECK", help='A name of pool.toml\'s [checks], a ready-made check, or JSON: {"check": NAME, ...}.'
        ),
    ],
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
    dry_run: Annotated[bool, options.flag("Show how many answers there are and stop.", "--dry-run")] = False,
    as_json: options.Json = False,
) -> None:
    """Judge a check by a model's stored answers, and use it if it pays. Exit code 3: it does not pay."""
    from unirouter_core.evaluate import check_value
    from unirouter_plugins.litellm.checks import named_checks
    from unirouter_plugins.onboarding.questions import read_questions
    from unirouter_plugins.onboarding.store import AnswerStore
    from unirouter_plugins.onboarding.stored import check_stored, stored_answers

    learned = options.load(router)
    profile, given = learned.pool[model], _spec(name)
    members = options.members(router, pool)
    ((name, run),) = named_checks(given, members, learned.pool.models).items()
    with AnswerStore(store or router.resolve().parent / "evaluations.sqlite", create=False) as kept:
        found: dict[str, Any] = {"router": str(router), "model": model, "check": name, "calls": 0}
        if dry_run:
            n = sum(not repeat for _, repeat in stored_answers(kept, profile))
            said = f"0 calls: {name} would be run on {n:,} stored answers of {model}."
            show.emit({**found, "answers": n}) if as_json else show.say(said)
            return
        questions = read_questions(validation, embedder=learned.fit_.embedder, judged=True)
        with show.working(f"Checking {len(questions)} answers"):
            signals, usd = check_stored(learned, model, run, questions, kept)
            limits = {"wrong_at_most": wrong_at_most, "confidence": confidence}
            made = check_value(learned, model, name, signals, usd=usd, **limits)  # type: ignore[arg-type]
    pays = made.level != "does not pay"
    if pays:
        newest = options.load(router)  # judging took a while, and others may have saved
        newest.add_check(model, name, signals, usd=usd, limit=made.limit)
        newest.save(router)
    if as_json:
        show.emit({**found, **made.as_dict(), "usd": usd, "unknown": int(np.isnan(signals).sum()), "saved": pays})
    else:
        show.say(str(made), wrap=False)
        show.say(f"Saved: {router} can use {name} on {model}'s answers." if pays else "Not saved.", wrap=False)
        if pays and name not in members.checks:
            show.say(f"next: name {name} under [checks] in pool.toml, so that calls run it.", wrap=False)
    if not pays:
        raise typer.Exit(options.NOT_MET)


def _spec(text: str) -> dict[str, Any] | list[str]:
    """Return the check of the command line by its name, or its parameters under its name."""
    if not text.lstrip().startswith("{"):
        return [text]
    try:
        spec = json.loads(text)
        return {str(spec.pop("name", spec["check"])): spec}
    except (ValueError, KeyError, RecursionError) as failed:
        raise InvalidDataError(f'{text!r:.60} is no JSON such as {{"check": "parses", "language": "sql"}}.') from failed
