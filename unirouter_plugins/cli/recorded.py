"""Models added by what they are recorded to have done on prompts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import typer

from unirouter_core.costs import Prices
from unirouter_core.data import Evaluation, Outcomes, read_outcomes
from unirouter_core.exceptions import InvalidDataError, UnknownPriceError
from unirouter_core.pool import ModelProfile
from unirouter_core.router import UniRouter
from unirouter_plugins.cli import tables
from unirouter_plugins.cli.options import emit
from unirouter_plugins.cli.progress import each, working


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
        raise InvalidDataError("Name the models to add, or give --all for all those of the file: one of the two.")
    with working(f"Reading {recorded}"):
        table, seen = _unseen(into, read_outcomes(recorded))
    names = list(dict.fromkeys(models or table.models))
    if known := [name for name in names if name in into.pool and not replace]:
        if not every:
            raise InvalidDataError(f"{known[0]!r} is in the pool already; give --replace to measure it anew.")
        names = [name for name in names if name not in known]
    prices = _prices(price_in, price_out, names)
    with each(names, "Onboarding") as counted:
        added = [_onboard(into, Evaluation.recorded(name, table, prices=prices)) for name in counted]
    into.save(router, texts=False if no_texts else None)
    if as_json:
        emit({"router": str(router), "onboarded": [tables.profile_row(p) for p in added], "skipped": known})
        return
    if seen:
        typer.echo(f"Note: {seen}", err=True)
    for name in known:
        typer.echo(f"Note: {name} is in the pool already; --replace measures it anew.", err=True)
    tables.show_models(added, f"{router} now holds {len(into.pool)} models; added:" if added else "Nothing to add.")


def _unseen(router: UniRouter, table: Outcomes) -> tuple[Outcomes, str]:
    """Return the prompts that the router did not learn from, and what to say of it; all, when it has seen all."""
    seen = router.fit_.has_seen(table.prompts)
    if not seen.any():
        return table, ""
    if seen.all():
        return table, "the router has learned from these very prompts, which flatters it; measure on others if you can."
    new = table.rows(np.flatnonzero(~seen))
    return new, f"measured on the {len(new):,} of {len(table):,} prompts that the router has not learned from."


def _onboard(router: UniRouter, evaluation: Evaluation) -> ModelProfile:
    """Add a model, or measure it anew; what it can do stays as it was."""
    before = router.pool.get(evaluation.model)
    try:
        return router.onboard(evaluation, capabilities=None if before is None else before.capabilities, replace=True)
    except UnknownPriceError as unpriced:
        raise UnknownPriceError(
            f"What {evaluation.model!r} costs is not known; give the file a cost column (USD), or tokens_in and "
            "tokens_out with --price-in and --price-out."
        ) from unpriced


def _prices(price_in: float | None, price_out: float | None, models: Sequence[str]) -> Prices | None:
    if price_in is None and price_out is None:
        return None
    if price_in is None or price_out is None:
        raise InvalidDataError("Only one price was given; give both --price-in and --price-out.")
    if len(models) > 1:
        raise InvalidDataError(f"One price for {len(models)} models; onboard models with --price-in one at a time.")
    return Prices(price_in, price_out)
