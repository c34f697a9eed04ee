"""What the command line shows: models, decisions, tunings and reports as tables of 80 columns or as rows for JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from unirouter_core.decision import Candidate, Decision, Decisions
from unirouter_core.explanation import Explanation
from unirouter_core.profiles import CAPABILITIES, Capabilities, ModelProfile

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from unirouter_core.tradeoff import Report, Tuning

CANDIDATES_SHOWN = 5
"""Of a ranking, unless it is to be explained."""

PROMPTS_SHOWN = 20
"""Of many; --json gives them all."""

POINTS_SHOWN = 8
"""Of a curve."""

BAR = 20
"""Characters of the longest bar."""


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console  # here, because --json needs none of it

    return Console(stderr=stderr, markup=False, highlight=False, emoji=False)


def _table(*columns: str) -> Table:
    """Return an empty table; columns of numbers, whose heads begin with ">", stand to the right."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        number = column.startswith(">")
        table.add_column(
            column.lstrip(">"), justify="right" if number else "left", no_wrap=number, overflow="fold"
        )
    return table


@contextmanager
def working(what: str) -> Iterator[Any]:
    """Show on stderr that something takes a while; nothing where nobody looks."""
    with _console(stderr=True).status(what) as status:
        yield status


# --- Numbers as text --------------------------------------------------------------------------------------------------


def usd(amount: float) -> str:
    """Return USD in three digits and never in powers of ten.

    Examples
    --------
    >>> usd(0.0000123), usd(0.5), usd(1234.5)
    ('$0.0000123', '$0.5', '$1,234.50')
    """
    if amount >= 100:
        return f"${amount:,.2f}"
    return "$" + np.format_float_positional(amount, precision=3, unique=False, fractional=False, trim="-")


def shortened(prompt: str, length: int = 60) -> str:
    """Return the beginning of a prompt on one line."""
    line = " ".join(prompt.split())
    return line if len(line) <= length else line[: length - 1] + "…"


def weight_json(cost_weight: float) -> float | str:
    """Return a cost_weight as JSON can hold it."""
    return "inf" if np.isinf(cost_weight) else cost_weight


# --- Models -----------------------------------------------------------------------------------------------------------


def profile_row(profile: ModelProfile) -> dict[str, Any]:
    """Return what a router knows of a model, as JSON can hold it."""
    return {
        "model": profile.model,
        "error": profile.error,
        "stderr": _stderr(profile),
        "n": profile.n,
        "usd_per_1000": 1000 * float(np.nanmean(profile.usd)),
        "prices": None if profile.prices is None else asdict(profile.prices),
        "capabilities": asdict(profile.capabilities),
        "provenance": dict(profile.provenance),
    }


def _stderr(profile: ModelProfile) -> float:
    return float(np.nanstd(profile.errors) / np.sqrt(profile.n))


def show_models(profiles: Sequence[ModelProfile], title: str) -> None:
    """Print a title, when there is one, and a table of models."""
    console = _console()
    if title:
        console.print(title)
    if not profiles:
        return
    table = _table("model", ">error ± stderr", ">answers", ">USD per 1,000", "measured", "lacks")
    for profile in profiles:
        table.add_row(
            profile.model,
            f"{profile.error:.3f} ± {_stderr(profile):.3f}",
            f"{profile.n:,}",
            usd(1000 * float(np.nanmean(profile.usd))),
            str(profile.provenance.get("date", "not known")),
            _lacking(profile.capabilities),
        )
    console.print(table)
    for source in sorted({str(p.provenance["source"]) for p in profiles if "source" in p.provenance}):
        console.print(f"Source: {source}", style="dim")


def _lacking(capabilities: Capabilities) -> str:
    lacking = [name for name in CAPABILITIES if not getattr(capabilities, name)]
    window = capabilities.context_window
    return ", ".join(lacking + ([] if window is None else [f"> {window:,} tokens"])) or "-"


# --- Decisions --------------------------------------------------------------------------------------------------------


def show_decision(decision: Decision, explanation: Explanation | None = None) -> None:
    """Print the chosen model and those after it; with an explanation, all of them and what the choice rests on."""
    from rich.text import Text

    console = _console()
    console.print(Text(decision.model, style="bold green"))
    shown = decision.ranking if explanation is not None else decision.ranking[:CANDIDATES_SHOWN]
    table = _table("", "model", ">error ± stderr", ">answers", ">USD per 1,000", ">score")
    for candidate in shown:
        table.add_row(*_candidate_cells(candidate, chosen=candidate is decision.ranking[0]))
    console.print(table)
    if left_out := len(decision.ranking) - len(shown):
        console.print(f"… and {left_out} more; --explain shows all.", style="dim")
    for candidate in shown:
        if candidate.excluded is not None:
            console.print(f"{candidate.model} is excluded: {candidate.excluded}.")
    weight = "cost alone" if np.isinf(decision.cost_weight) else f"error + {decision.cost_weight:g} * USD"
    console.print(f"The least score wins: {weight}.", style="dim")
    if explanation is not None:
        _show_grounds(console, decision, explanation)


def _candidate_cells(candidate: Candidate, *, chosen: bool) -> list[str]:
    return [
        "→" if chosen else "×" if candidate.excluded is not None else "",
        candidate.model,
        f"{candidate.error:.3f} ± {candidate.stderr:.3f}",
        f"{candidate.n:,}",
        usd(1000 * candidate.cost),
        f"{candidate.score:.4g}",
    ]


def _show_grounds(console: Console, decision: Decision, explanation: Explanation) -> None:
    far = f"; {decision.far:.0%} far from all that was learned from" if decision.far else ""
    margin = "no second candidate" if np.isinf(decision.margin) else f"{decision.margin:.4g} to the next"
    console.print(f"Region {decision.region}{far}. Margin: {margin}.")
    console.print("\nWhat the models did on the prompts most like it:")
    chosen = decision.model
    table = _table(">alike", "prompt", ">its error", ">all models'")
    for near in explanation.neighbours:
        own = near.errors.get(chosen)
        mean = f"{np.mean(list(near.errors.values())):.2f}" if near.errors else "-"
        table.add_row(f"{near.similarity:.2f}", shortened(near.prompt, 46), "-" if own is None else f"{own:.2f}", mean)
    console.print(table)


def decision_rows(prompts: Sequence[str], decisions: Decisions) -> Iterator[dict[str, Any]]:
    """Yield each decision on many prompts, as JSON can hold it."""
    columns = (decisions.errors, decisions.costs, decisions.regions, decisions.far)
    rows = zip(prompts, decisions.models, *(column.tolist() for column in columns), strict=True)
    for prompt, model, error, cost, region, far in rows:
        yield {"prompt": prompt, "model": model, "error": error, "cost": cost, "region": region, "far": far}


def show_decisions(prompts: Sequence[str], decisions: Decisions) -> None:
    """Print the first decisions on many prompts, and the share of each model."""
    console = _console()
    table = _table("model", ">error", ">USD per 1,000", "prompt")
    for row in list(decision_rows(prompts[:PROMPTS_SHOWN], decisions)) if len(prompts) <= PROMPTS_SHOWN else []:
        table.add_row(row["model"], f"{row['error']:.3f}", usd(1000 * row["cost"]), shortened(row["prompt"], 36))
    console.print(table)
