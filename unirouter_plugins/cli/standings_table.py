"""The standings of a benchmark as tables of 80 columns, and as rows for JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from unirouter_plugins.bench import DEFAULT, N_VALS, Recorded, Settings, Standing, reachable, validation_share
from unirouter_plugins.bench.splits import TEST_SHARE
from unirouter_plugins.cli.show import console as open_console
from unirouter_plugins.cli.show import table as empty_table

ROUGH = 0.1
"""Smaller shares are shown to a tenth of a per cent."""


def describe(table: Recorded) -> str:
    """Return how a table is split, in a sentence."""
    share, n = validation_share(len(table)), len(table)
    kept = f"{n:,} prompts, {len(table.outcomes.models)} models (two thirds known, the rest new)"
    vectors = "vectors of the default embedder" if table.X is None else "given vectors"
    shares = f"{1 - TEST_SHARE - share:.0%} to learn from, {share:.0%} to measure on, {TEST_SHARE:.0%} to judge by"
    why = "" if share == 0.1 else f" (10 % are fewer than {max(N_VALS)} prompts)"
    left = f"; {len(table.left_out)} models with gaps or no cost left out" if table.left_out else ""
    return f"{kept}, {shares}{why}, {vectors}{left}."


def rows(found: Sequence[Standing]) -> list[dict[str, Any]]:
    """Return the standings as JSON can hold them: NaN as null."""
    return [{name: _plain(value) for name, value in asdict(standing).items()} for standing in found]


def show(found: Sequence[Standing], tables: Sequence[Recorded], settings: Settings) -> None:
    """Print two tables for each table and N_val, and say which N_val is not reached."""
    console = open_console()
    for table in tables:
        console.print(f"{table.name}: {describe(table)}", style="bold", soft_wrap=True)
        for n in reachable(settings.n_vals, len(table))[1]:
            most = int(validation_share(len(table)) * len(table))
            console.print(f"N_val {n} is not reached: {most} prompts are there to measure on.")
        for n in reachable(settings.n_vals, len(table))[0]:
            part = [standing for standing in found if (standing.table, standing.n_val) == (table.name, n)]
            console.print(f"\nN_val {n}, {part[0].trials} trials", style="bold")
            console.print(_curves(part))
            console.print()
            console.print(_comparison(part))
        console.print()


def _curves(rows: Sequence[Standing]) -> Any:
    heads = (">Area", ">50 %", ">QNC", ">own", ">reach", ">peak", ">AIQ", ">Brier", ">ECE")
    table = empty_table("method", *heads)
    for row in rows:
        areas = [decimals(value) for value in (row.area, row.area_half)]
        shares = [percent(value) for value in (row.qnc, row.qnc_own, row.reached)]
        rest = [decimals(row.peak), decimals(row.aiq), decimals(row.brier), decimals(row.ece, 3)]
        table.add_row(row.method, *areas, *shares, *rest, style="bold" if row.method == DEFAULT else "")
    return table


def _comparison(rows: Sequence[Standing]) -> Any:
    table = empty_table("method", ">covers", ">gap", ">ahead", ">p", ">by", ">90 % interval", ">s")
    for row in rows:
        compared = row.method != DEFAULT and not math.isnan(row.by)
        ahead = f"{row.ahead}/{row.ahead + row.behind}" if compared else ""
        between = f"{decimals(row.by_low, sign='+')} to {decimals(row.by_high, sign='+')}" if compared else ""
        p, by = (decimals(row.p, 3), decimals(row.by, sign="+")) if compared else ("", "")
        first = row.method, percent(row.covered), percent(row.gap_closed)
        seconds = f"{row.seconds:.1f}" if row.seconds else ""
        table.add_row(*first, ahead, p, by, between, seconds, style="bold" if row.method == DEFAULT else "")
    return table


def decimals(value: float, digits: int = 4, sign: str = "") -> str:
    """Return a number as tables show it, without the 0 before the point; nothing for NaN.

    Examples
    --------
    >>> decimals(0.61234), decimals(-0.5, 1), decimals(1.0), decimals(float("nan"))
    ('.6123', '-.5', '1.0000', '')
    """
    return "" if math.isnan(value) else f"{value:{sign}.{digits}f}".replace("0.", ".", 1 if abs(value) < 1 else 0)


def percent(value: float) -> str:
    """Return a share in per cent; nothing for NaN.

    Examples
    --------
    >>> percent(0.875), percent(0.0026), percent(float("nan"))
    ('88%', '0.3%', '')
    """
    return "" if math.isnan(value) else f"{value:.{1 if 0 < value < ROUGH else 0}%}"


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
