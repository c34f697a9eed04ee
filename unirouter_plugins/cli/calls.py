"""The commands about calling models: ask one a prompt, see what they cost."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unirouter_core.costs import Prices
from unirouter_core.exceptions import UniRouterError, UnknownPriceError
from unirouter_core.pool import ModelProfile
from unirouter_core.router import UniRouter
from unirouter_plugins.cli import tables
from unirouter_plugins.cli.options import Json, PoolFile, Router, emit, existing, pool_file, split
from unirouter_plugins.cli.progress import working
from unirouter_plugins.cli.prompts import asked_prompt

if TYPE_CHECKING:
    from unirouter_plugins.litellm import CallRecord, Stream
    from unirouter_plugins.litellm.pool_file import Members

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""What a model must not write to a terminal: it may set its title, its colours, or worse."""


def ask(
    router: Router,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="The prompt; - reads it from stdin.")],
    pool: PoolFile = None,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="A system prompt before it.")] = None,
    cost_weight: Annotated[
        float | None, typer.Option(metavar="W", help="The error that one USD is worth; inf for the cheapest model.")
    ] = None,
    models: Annotated[str | None, typer.Option(metavar="A,B", help="Choose among these only.")] = None,
    max_tokens: Annotated[int | None, typer.Option(metavar="N", min=1, help="Of the answer, at most.")] = None,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=1, help="Until a model has failed, and the next is asked.")
    ] = 300,
    as_json: Json = False,
) -> None:
    """Ask the model that the router picks; the answer on stdout, who gave it, why and for how much on stderr."""
    folder, text = existing(router), asked_prompt(prompt)
    with working("Loading"):
        from unirouter_plugins.litellm import load_router, stream
        from unirouter_plugins.litellm.failures import open_litellm

        open_litellm()  # takes seconds, which are not the model's

        table = load_router(folder, pool_file(folder, pool))
        messages: Any = text if system is None else [_message("system", system), _message("user", text)]
        how: dict[str, Any] = {} if max_tokens is None else {"max_tokens": max_tokens}
        with _in_a_sentence():
            answer = stream(table, messages, cost_weight=cost_weight, models=split(models), timeout=timeout, **how)
    with _in_a_sentence(), answer:
        said = _shown(answer, quietly=as_json)
    if answer.record is None:
        raise CallError("The answer ended before its last chunk; ask again.")
    if as_json:
        emit({"router": str(folder), "answer": said, **answer.record.as_dict(), "dearest": _dearest(answer.record)})
    else:
        typer.echo(_why(answer.record), err=True)


class CallError(UniRouterError, RuntimeError):
    """No model could answer."""


@contextmanager
def _in_a_sentence() -> Iterator[None]:
    """Raise what a provider fails with as one sentence of ours."""
    from unirouter_plugins.litellm.redaction import described

    try:
        yield
    except (UniRouterError, OSError):
        raise
    except Exception as failed:  # of any kind: LiteLLM's, and what a provider of the user's own may raise
        raise CallError(" ".join([described(failed), *getattr(failed, "__notes__", [])])) from None


def _message(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def _shown(answer: Stream, *, quietly: bool) -> str:
    """Print the answer as it comes, unless `quietly`, and return it."""
    said, to_terminal = [], sys.stdout.isatty()
    for chunk in answer:
        part = (chunk.choices[0].delta.content or "") if chunk.choices else ""
        said.append(part)
        if not quietly:
            sys.stdout.write(_CONTROL.sub("", part) if to_terminal else part)
            sys.stdout.flush()
    if not quietly:
        sys.stdout.write("\n")
    return "".join(said)


def _dearest(record: CallRecord) -> dict[str, Any]:
    dearest = max((row for row in record.decision.ranking if row.excluded is None), key=lambda row: row.cost)
    return {"model": dearest.model, "expected_usd": dearest.cost}


def _why(record: CallRecord) -> str:
    """Return who answered, why, and the cost beside the dearest model's, in a few lines."""
    rows = {row.model: row for row in record.decision.ranking if row.excluded is None}
    answered = rows[record.model]
    weight = record.decision.cost_weight
    rule = "the least cost" if weight == float("inf") else f"the least error + {weight:g} * USD"
    lines = [f"{record.model}: expected error {answered.error:.3f}, {rule} of {len(rows)} models"]
    lines += [f"{model} failed before it: {why}" for model, why in record.failures.items()]
    lines += [f"It is not served as it was measured: {'; '.join(record.differs)}."] if record.differs else []
    usd = "unknown: its provider does not say how many tokens" if record.usd != record.usd else tables.usd(record.usd)
    cost, dearest = f"cost {usd} (expected {tables.usd(answered.cost)})", _dearest(record)
    if dearest["model"] != record.model:
        cost += f"; {dearest['model']}, the dearest, is expected to cost {tables.usd(dearest['expected_usd'])}"
    return "\n".join(["", *lines, cost])


# --- Prices -----------------------------------------------------------------------------------------------------------


def prices(
    router: Router,
    pool: PoolFile = None,
    refresh: Annotated[
        bool,
        typer.Option("--refresh", help="Write the prices of pool.toml, or of the LiteLLM installed, into the router."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Show the models' prices and where each comes from: pool.toml, the day of measuring, LiteLLM's map."""
    folder = existing(router)
    with working("Reading prices"):
        from unirouter_plugins.litellm.pool_file import Members, read_members

        table = pool_file(folder, pool)
        members = Members({}) if table is None else read_members(table)
        held = UniRouter.load(folder)
        rows = [_price_row(profile, members) for profile in held.pool.values()]
    changed, kept = _refresh(held, rows) if refresh else ([], {})
    if changed:
        held.save(folder)
    for model, why in kept.items():
        typer.echo(f"Note: {model} was left as it is: {why}", err=True)
    if as_json:
        shown = [{**row, "prices": _json(row["prices"]), "today": _json(row["today"])} for row in rows]
        emit({"router": str(folder), "models": shown, "refreshed": changed})
        return
    tables.show_prices(rows)
    if refresh:
        typer.echo(f"Refreshed: {', '.join(changed)}." if changed else "Every price was up to date.")


def _price_row(profile: ModelProfile, members: Members) -> dict[str, Any]:
    """Return a model's prices, their source, and what they are today by the table or LiteLLM."""
    from unirouter_plugins.litellm.pool_file import Member
    from unirouter_plugins.litellm.prices import listed_prices, quote

    member = members.get(profile.model, Member.of(profile))
    quoted = quote(member, profile)
    today = member.prices if member.prices is not None else listed_prices(member)
    source = "not known" if quoted is None else quoted.source
    if source == "profile":
        source = f"measured {profile.provenance.get('date', 'on a day not known')}"
    return {
        "model": profile.model,
        "prices": None if quoted is None else quoted.prices,
        "source": source,
        "snapshot": _json(profile.prices),
        "today": today,
    }


def _json(prices: Prices | None) -> dict[str, float | None] | None:
    return None if prices is None else dataclasses.asdict(prices)


def _refresh(router: UniRouter, rows: list[dict[str, Any]]) -> tuple[list[str], dict[str, str]]:
    """Bring the profiles to today's prices; return the models whose changed, and why others could not."""
    changed, kept = [], {}
    for row in rows:
        model, today = row["model"], row["today"]
        profile = router.pool[model]
        if today is None or today == profile.prices:
            continue
        if profile.provenance.get("prices") == "pool.toml" and row["source"] != "pool.toml":
            kept[model] = "its price is of a pool.toml, which is not here."
            continue
        try:
            router.reprice(model, today)
            changed.append(model)
        except UnknownPriceError as unpriced:
            kept[model] = str(unpriced)
    return changed, kept
