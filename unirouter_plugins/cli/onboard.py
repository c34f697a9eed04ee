"""The command that adds models to a router: by asking them, or by what they are recorded to have done."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unirouter_core.exceptions import ArtifactError, InvalidDataError
from unirouter_core.router import UniRouter
from unirouter_plugins.cli.live import Asking, onboard_asked
from unirouter_plugins.cli.options import Json, NoTexts, PoolFile, Router, pool_file
from unirouter_plugins.cli.pool import onboard_recorded

LIVE, RECORDED = "Asking them", "By a record"
"""The groups of options in the help."""


def onboard(
    context: typer.Context,
    router: Router,
    models: Annotated[
        list[str] | None, typer.Argument(metavar="MODEL...", help="As pool.toml or LiteLLM calls them.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Measure models of the pool anew.")] = False,
    starter: Annotated[
        bool, typer.Option("--starter", help="Begin with ready-made prompt features if ROUTER does not exist.")
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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the bill and stop.", rich_help_panel=LIVE)] = False,
    budget: Annotated[
        float | None, typer.Option(metavar="USD", help="Spend at most this, at worst.", rich_help_panel=LIVE)
    ] = None,
    concurrency: Annotated[int, typer.Option(metavar="N", min=1, help="Calls at once.", rich_help_panel=LIVE)] = 8,
    repeats: Annotated[int, typer.Option(metavar="N", min=1, help="Answers to each prompt.", rich_help_panel=LIVE)] = 1,
    max_tokens: Annotated[
        int, typer.Option(metavar="N", min=1, help="Of an answer, while it is measured.", rich_help_panel=LIVE)
    ] = 1024,
    until_decided: Annotated[
        bool,
        typer.Option("--until-decided", help="Stop when more answers would hardly matter.", rich_help_panel=LIVE),
    ] = False,
    judge: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Grades what no program can.", rich_help_panel=LIVE)
    ] = None,
    judge_prompt: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What the judge is told.", rich_help_panel=LIVE)
    ] = None,
    reference_model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Answers first what has no reference.", rich_help_panel=LIVE),
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
        float, typer.Option(metavar="SECONDS", min=1, help="Until a call has failed.", rich_help_panel=LIVE)
    ] = 120,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask whether the bill is all right.", rich_help_panel=LIVE)
    ] = False,
    recorded: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What the models did on prompts.", rich_help_panel=RECORDED)
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="All models of FILE that are not in the pool.", rich_help_panel=RECORDED)
    ] = False,
    price_in: Annotated[
        float | None, typer.Option(metavar="USD", help="Per million prompt tokens.", rich_help_panel=RECORDED)
    ] = None,
    price_out: Annotated[
        float | None, typer.Option(metavar="USD", help="Per million answer tokens.", rich_help_panel=RECORDED)
    ] = None,
) -> None:
    """Add models to a router: ask them, for a bill that is shown first, or give what they did with --recorded."""
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
    asking = Asking(
        validation=validation,
        table=pool_file(router, pool),
        store=str(router.resolve().parent / "evaluations.sqlite") if store is None else store,
        budget=budget,
        concurrency=concurrency,
        repeats=repeats,
        max_tokens=max_tokens,
        until_decided=until_decided,
        judge=judge,
        judge_prompt=judge_prompt,
        reference_model=reference_model,
        timeout=timeout,
        replace=replace,
        texts=not no_texts,
    )
    onboard_asked(into, router, models or [], asking, dry_run=dry_run, sure=yes, as_json=as_json)


def _refuse_others(context: typer.Context, recorded: Path) -> None:
    """Raise `InvalidDataError` when an option of asking was given beside a record."""
    live = [p for p in context.command.params if getattr(p, "rich_help_panel", None) == LIVE]
    given = [p for p in live if str(context.get_parameter_source(str(p.name))).endswith("COMMANDLINE")]
    if given:
        raise InvalidDataError(
            f"{given[0].opts[0]} is for asking models; leave it out, or leave out --recorded {recorded}."
        )
