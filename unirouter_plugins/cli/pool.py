"""The commands on a router's pool: models, retire, prices."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from unirouter_core.costs import Prices
from unirouter_core.exceptions import UnknownModelError, UnknownPriceError, listed
from unirouter_core.pool import ModelProfile
from unirouter_core.router import UniRouter
from unirouter_plugins.cli import options, show

if TYPE_CHECKING:
    from unirouter_plugins.litellm.pool_file import Members


def list_models(router: options.RouterOrExample, as_json: options.Json = False) -> None:
    """List the models of a router: quality, cost, when and on what they were evaluated."""
    from unirouter_core.evaluate import efforts

    held = options.load(router)
    profiles, found = list(held.pool.values()), efforts(held)
    if as_json:
        rows = [show.profile_row(profile) for profile in profiles]
        known = {"efforts": [each.as_dict() for each in found]} if found else {}
        weight = "inf" if np.isinf(held.cost_weight) else held.cost_weight
        show.emit({"router": options.named(router), "cost_weight": weight, "models": rows, **known})
    elif profiles:
        show.models(profiles)
        show.efforts(found)
    else:
        show.say(f"No models yet; add some with: unirouter onboard {show.quoted(router)} --recorded FILE", wrap=False)


def retire(
    router: options.Router,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model to remove.")],
    as_json: options.Json = False,
) -> None:
    """Remove a model from a router; the others stay as they are."""
    held = options.load(router)
    if model not in held.pool:
        raise UnknownModelError(f"{model!r} is not in the pool, so nothing is removed; it holds {listed(held.pool)}.")
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
        bool, options.flag("Write today's prices, from pool.toml or LiteLLM, into ROUTER.", "--refresh")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Show the models' prices and their source: pool.toml, the day of evaluation, LiteLLM's price map."""
    folder = options.existing(router)
    with show.working("Reading prices"):
        members = options.members(folder, pool)
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
    from unirouter_plugins.litellm.prices import INNER, listed_prices, quote

    member = members.get(profile.model, Member.of(profile))
    quoted = quote(member, profile)
    source = "unknown" if quoted is None else quoted.source
    if source == "profile":
        source = f"evaluation of {profile.provenance.get('date', 'an unknown day')}"
    return {
        "model": profile.model,
        "prices": None if quoted is None or source == INNER else quoted.prices,
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
