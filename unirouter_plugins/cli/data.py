"""What commands take as recorded answers, prompts and logs: the options that say what is what, and what was read."""

from __future__ import annotations

import dataclasses
import re
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from unirouter_core.costs import Prices
from unirouter_core.data import Outcomes
from unirouter_core.exceptions import InvalidDataError
from unirouter_core.outcome_files import count, for_models, priced
from unirouter_plugins.cli import show
from unirouter_plugins.logs import Log, read_log, read_prices

ColumnNames = Annotated[
    str | None,
    typer.Option("--columns", metavar="NAME=COLUMN,...", help="Which column of DATA is what: prompt=text,quality=acc."),
]
ScaleOfGrades = Annotated[
    str | None, typer.Option("--scale", metavar="SCALE", help="What grades are worth: 0-100, 1-5, or A=1,B=0.8,C=0.")
]
PriceFile = Annotated[
    Path | None,
    typer.Option(
        "--prices",
        metavar="FILE",
        help="Prices (.csv, .json, .toml) for answers without a cost; else pool.toml's and LiteLLM's.",
    ),
]

NAMED = 3  # models that are named; more are counted


def read(
    path: Path,
    columns: str | None = None,
    scale: str | None = None,
    prices: Path | None = None,
    *,
    beside: Path | None = None,
    quiet: bool = False,
) -> Log:
    """Return what DATA holds, and print in one line what was understood.

    Answers with token counts and no cost get it from the file of prices, else from the pool.toml beside the router and
    LiteLLM's list.
    """
    with show.working(f"Reading {path}"):
        given = None if prices is None else read_prices(prices)
        log = read_log(path, columns=_columns(columns), scale=scale, prices=given)
        log = log if given is not None else _with_known_prices(log, beside)
    if not quiet:
        show.say(log.source, err=True, wrap=False)
    return log


def read_graded(path: Path, *options: Any, **how: Any) -> Outcomes:
    """Return the outcomes that DATA holds; raise `InvalidDataError` where answers have no grades."""
    log = read(path, *options, **how)
    if log.outcomes is None:
        raise InvalidDataError(f"{path}: the answers have no grades; name their column with --columns quality=NAME.")
    return log.outcomes


def _columns(text: str | None) -> dict[str, str | list[str]]:
    """Return the columns in "prompt=text,quality=acc", a list where a name comes again."""
    found: dict[str, list[str]] = {}
    for part in re.split(r",(?=\s*\w+=)", text or ""):
        name, equals, column = part.strip().partition("=")
        if text is not None and not (equals and column):
            raise InvalidDataError(f"--columns {text!r}: {part!r} is not NAME=COLUMN, such as prompt=text,quality=acc.")
        if equals:
            found.setdefault(name, []).append(column)
    return {name: columns if len(columns) > 1 else columns[0] for name, columns in found.items()}


def _with_known_prices(log: Log, beside: Path | None) -> Log:
    """Return the log with the costs that token counts and known prices give, where answers have none."""
    if (table := log.outcomes) is None:
        return log
    countable = (np.isnan(table.costs) & ~np.isnan(table.tokens_in + table.tokens_out)).any(axis=0)
    models = [table.models[column] for column in np.flatnonzero(countable).tolist()]
    if not (known := _known_prices(models, beside) if models else {}):
        return log
    names = ", ".join(known) if len(known) <= NAMED else count(len(known), "model")
    said = log.source.replace("; no costs)", f"; costs of {names} by list prices)")
    return dataclasses.replace(log, outcomes=priced(table, known), source=said)


def _known_prices(models: list[str], beside: Path | None) -> dict[str, Prices]:
    """Return the prices in the pool.toml beside the router, and in LiteLLM's list."""
    found: dict[str, Prices] = {}
    if beside is not None and (pool := beside.resolve().parent / "pool.toml").is_file():
        with suppress(InvalidDataError):  # it need not have prices
            found = for_models(models, read_prices(pool))
    with suppress(ImportError):
        from unirouter_plugins.litellm.pool_file import Member
        from unirouter_plugins.litellm.prices import listed_prices

        listed = {model: listed_prices(Member(model, model)) for model in models if model not in found}
        found |= {model: prices for model, prices in listed.items() if prices is not None}
    return found
