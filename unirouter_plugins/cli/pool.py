"""The commands on a router's pool: models, retire, prices; and models onboarded from recorded outcomes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from unirouter_core.costs import Prices
from unirouter_core.data import Evaluation, Outcomes
from unirouter_core.exceptions import InvalidDataError, UnknownPriceError
from unirouter_core.outcome_files import read_outcomes
from unirouter_core.pool import ModelProfile
from unirouter_core.router import UniRouter
from unirouter_plugins.cli import options, show

if TYPE_CHECKING:
    from unirouter_plugins.litellm.pool_file import Members


def list_models(router: options.RouterOrExample, as_json: options.Json = False) -> None:
    """List the models of a router: quality, cost, when and on what they were evaluated."""
    held = options.load(router)
    profiles = list(held.pool.values())
    if as_json:
        rows = [show.profile_row(profile) for profile in profiles]
        weight = "inf" if np.isinf(held.cost_weight) else held.cost_weight
        show.emit({"router": options.named(router), "cost_weight": weight, "models": rows})
    elif profiles:
        show.models(profiles)
    else:
        show.say(f"No models yet; add some with: unirouter onboard {router} --all --recorded FILE", wrap=False)


def retire(
    router: options.Router,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model to remove.")],
    as_json: options.Json = False,
) -> None:
    """Remove a model from a router; the others stay as they are."""
    held = options.load(router)
    held.retire(model)
    held.save(router)
    if as_json:
        show.emit({"router": str(router), "retired": model, "models": list(held.pool)})
    else:
        show.say(f"{model} is retired; {router} holds {', '.join(held.pool) or 'no model'}.")


def prices(
    router: options.Router,
    pool: options.PoolFile = None,
    refresh: Annotated[
        bool,
        options.flag("Write today's prices, from pool.toml or LiteLLM, into ROUTER.", "--refresh"),
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Show the models' prices and their source: pool.toml, the day of evaluation, LiteLLM's price map."""
    folder = options.existing(router)
    with show.working("Reading prices"):
        from unirouter_plugins.litellm.pool_file import Members, read_members

        table = options.pool_file(folder, pool)
        members = Members({}) if table is None else read_members(table)
        held = UniRouter.load(folder)
        rows = [_price_row(profile, members) for profile in held.pool.values()]
    changed, kept = _refresh(held, rows) if refresh else ([], {})
    if changed:
        held.save(folder)
    for model, why in kept.items():
        show.note(f"{model} was left as it is: {why}")
    if as_json:
        shown = [{**row, "prices": _json(row["prices"]), "today": _json(row["today"])} for row in rows]
        show.emit({"router": str(folder), "models": shown, "refreshed": changed})
        return
    show.prices(rows)
    if refresh:
        show.say(f"Refreshed: {', '.join(changed)}." if changed else "Every price was up to date.")


def _price_row(profile: ModelProfile, members: Members) -> dict[str, Any]:
    """Return a model's prices, their source, and what they are today by pool.toml or LiteLLM."""
    from unirouter_plugins.litellm.pool_file import Member
    from unirouter_plugins.litellm.prices import listed_prices, quote

    member = members.get(profile.model, Member.of(profile))
    quoted = quote(member, profile)
    source = "unknown" if quoted is None else quoted.source
    if source == "profile":
        source = f"evaluation of {profile.provenance.get('date', 'an unknown day')}"
    return {
        "model": profile.model,
        "prices": None if quoted is None else quoted.prices,
        "source": source,
        "snapshot": _json(profile.prices),
        "today": member.prices if member.prices is not None else listed_prices(member),
    }


def _json(known: Prices | None) -> dict[str, float | None] | None:
    return None if known is None else dataclasses.asdict(known)


def _refresh(router: UniRouter, rows: list[dict[str, Any]]) -> tuple[list[str], dict[str, str]]:
    """Bring the profiles to today's prices; return the models whose changed, and why others could not."""
    changed, kept = [], {}
    for row in rows:
        model, today = row["model"], row["today"]
        profile = router.pool[model]
        if today is None or today == profile.prices:
            continue
        if profile.provenance.get("prices") == "pool.toml" and row["source"] != "pool.toml":
            kept[model] = "its price is from a pool.toml that is not here."
            continue
        try:
            router.reprice(model, today)
            changed.append(model)
        except UnknownPriceError as unpriced:
            kept[model] = str(unpriced)
    return changed, kept


def onboard_recorded(
    into: UniRouter,
    router: Path,
    models: Sequence[str] | None,
    recorded: Path,
    every: bool,
    price_in: float | None,
    price_out: float | None,
    *,
    replace: bool,
    no_texts: bool,
    as_json: bool,
) -> None:
    """Add models by the file `recorded`: all of them, or none when one cannot be added."""
    if bool(models) == every:
        raise InvalidDataError("Name the models to add, or give --all for all models of the file: one of the two.")
    with show.working(f"Reading {recorded}"):
        table, seen = _unseen(into, read_outcomes(recorded))
    names = list(dict.fromkeys(models or table.models))
    if known := [name for name in names if name in into.pool and not replace]:
        if not every:
            raise InvalidDataError(f"{known[0]!r} is in the pool already; --replace evaluates it again.")
        names = [name for name in names if name not in known]
    priced = _given_prices(price_in, price_out, names)
    with show.each(names, "Onboarding") as counted:
        added = [_onboard(into, Evaluation.recorded(name, table, prices=priced)) for name in counted]
    into.save(router, texts=False if no_texts else None)
    if as_json:
        rows = [show.profile_row(profile) for profile in added]
        show.emit({"router": str(router), "onboarded": rows, "skipped": known})
        return
    if seen:
        show.note(seen)
    for name in known:
        show.note(f"{name} is in the pool already; --replace evaluates it again.")
    if added:
        show.say(f"{router} now holds {len(into.pool)} models; added:", wrap=False)
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


def _onboard(router: UniRouter, evaluation: Evaluation) -> ModelProfile:
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
