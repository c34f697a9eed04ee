"""What the command line shows: models, decisions, tunings and reports as tables of 80 columns or as rows for JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from unirouter_core.decision import Decision, Decisions
from unirouter_core.explanation import Explanation
from unirouter_core.profiles import CAPABILITIES, Capabilities, ModelProfile
from unirouter_core.tradeoff import Tuning
from unirouter_core.verdict import Report

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

CANDIDATES_SHOWN = 5
"""Of a ranking, unless it is to be explained."""

PROMPTS_SHOWN = 20
"""Of many; --json gives them all."""

POINTS_SHOWN = 8
"""Of a curve."""

LEVEL = 0.9
"""Of the intervals that are shown."""

BAR = 20
"""Characters of the longest bar."""

EIGHTHS = ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console  # here, because --json needs none of it

    return Console(stderr=stderr, markup=False, highlight=False, emoji=False)


def _table(*columns: str) -> Table:
    """Return an empty table; columns of numbers, whose heads begin with ">", stand to the right."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        number = column.startswith(">")
        table.add_column(column.lstrip(">"), justify="right" if number else "left", no_wrap=number, overflow="fold")
    return table


@contextmanager
def working(what: str) -> Iterator[Any]:
    """Show on stderr that something takes a while; nothing where nobody looks."""
    with _console(stderr=True).status(what) as status:
        yield status


# --- Numbers as text --------------------------------------------------------------------------------------------------


def usd(amount: float) -> str:
    """Return USD in three digits, or to the cent, and never in powers of ten.

    Examples
    --------
    >>> usd(0), usd(0.0000123), usd(0.5), usd(1234.5)
    ('$0', '$0.0000123', '$0.500', '$1,234.50')
    """
    digits = 2 - int(np.floor(np.log10(amount))) if amount > 0 else 0
    return f"${amount:,.{max(digits, 2 if amount >= 100 else 0)}f}"


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
    dates = [str(profile.provenance.get("date", "not known")) for profile in profiles]
    lacking = [_lacking(profile.capabilities) for profile in profiles]
    columns = [("measured", dates)] * (len(set(dates)) > 1) + [("lacks", lacking)] * any(lacking)
    table = _table("model", ">error ± stderr", ">answers", ">USD per 1,000", *(name for name, _ in columns))
    for row, profile in enumerate(profiles):
        error = f"{profile.error:.3f} ± {_stderr(profile):.3f}"
        cost = usd(1000 * float(np.nanmean(profile.usd)))
        table.add_row(profile.model, error, f"{profile.n:,}", cost, *(values[row] for _, values in columns))
    console.print(table)
    sources = sorted({str(p.provenance["source"]) for p in profiles if "source" in p.provenance})
    when = f"Measured: {dates[0]}. " if len(set(dates)) == 1 else ""
    console.print(f"{when}Source: {'; '.join(sources) or 'not known'}.", style="dim")


def _lacking(capabilities: Capabilities) -> str:
    lacking = [name for name in CAPABILITIES if not getattr(capabilities, name)]
    window = capabilities.context_window
    return ", ".join(lacking + ([] if window is None else [f"> {window:,} tokens"]))


# --- Decisions --------------------------------------------------------------------------------------------------------


def show_decision(decision: Decision, explanation: Explanation | None = None, title: str = "") -> None:
    """Print the chosen model and those after it; with an explanation, all of them and what the choice rests on."""
    console = _console()
    if title:
        console.print(f"\n{shortened(title)}", style="bold")
    console.print(decision.model, style="bold green")
    candidates = [candidate for candidate in decision.ranking if candidate.excluded is None]
    shown = candidates if explanation is not None else candidates[:CANDIDATES_SHOWN]
    table = _table("model", ">error ± stderr", ">USD per 1,000", ">score")
    for row in shown:
        table.add_row(row.model, f"{row.error:.3f} ± {row.stderr:.3f}", usd(1000 * row.cost), f"{row.score:.4g}")
    console.print(table)
    if left_out := len(candidates) - len(shown):
        console.print(f"… and {left_out} more; --explain shows all.", style="dim")
    excluded = [candidate for candidate in decision.ranking if candidate.excluded is not None]
    for reason in dict.fromkeys(str(row.excluded) for row in excluded):
        console.print(f"Excluded, {reason}: {_few([row.model for row in excluded if row.excluded == reason])}.")
    if decision.far:
        console.print(f"{decision.far:.0%} far from all that was learned from: expect overall errors, less sure.")
    weight = "USD alone" if np.isinf(decision.cost_weight) else f"error + {decision.cost_weight:g} * USD"
    console.print(f"The least score wins: {weight}.", style="dim")
    if explanation is not None:
        _show_grounds(console, decision, explanation)


def _few(names: Sequence[str]) -> str:
    more = len(names) - CANDIDATES_SHOWN
    return ", ".join(names[:CANDIDATES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _show_grounds(console: Console, decision: Decision, explanation: Explanation) -> None:
    margin = "no second candidate" if np.isinf(decision.margin) else f"{decision.margin:.4g} to the next"
    console.print(f"Region {decision.region}. Margin: {margin}.")
    console.print("\nWhat the models did on the prompts most like it:")
    chosen = decision.model
    table = _table(">alike", "prompt", ">its error", ">mean of all")
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
    for row in islice(decision_rows(prompts, decisions), PROMPTS_SHOWN):
        table.add_row(row["model"], f"{row['error']:.3f}", usd(1000 * row["cost"]), shortened(row["prompt"], 36))
    console.print(table)
    if (left_out := len(prompts) - PROMPTS_SHOWN) > 0:
        console.print(f"… and {left_out:,} more; --json writes them all.", style="dim")
    console.print()
    console.print(_shares(decisions.shares))
    expected = f"error {decisions.errors.mean():.3f}, {usd(1000 * float(decisions.costs.mean()))} per 1,000 prompts"
    console.print(f"Expected on these {len(prompts):,} prompts: {expected}.")


def _shares(shares: Mapping[str, float]) -> Table:
    table = _table("model", ">share", "")
    for model, share in sorted(shares.items(), key=lambda item: -item[1]):
        if share:
            table.add_row(model, f"{share:.1%}", _bar(share, 1))
    return table


def _bar(value: float, longest: float) -> str:
    """Return a bar in eighths of a character."""
    eighths = round(8 * BAR * value / longest) if longest > 0 else 0
    return "█" * (eighths // 8) + EIGHTHS[eighths % 8]


# --- Goals and verdicts -----------------------------------------------------------------------------------------------


def show_tuning(tuning: Tuning) -> None:
    """Print what a goal's cost_weight gives, beside the most accurate model alone."""
    console = _console()
    met = "Goal" if tuning.met else "Goal that cannot be met"
    console.print(f"{met}: {tuning.goal}", style="bold")
    table = _table("", ">quality", f">{LEVEL:.0%} interval", ">USD per 1,000", f">{LEVEL:.0%} interval")
    low, high = tuning.quality_interval
    least, most = tuning.cost_interval
    between = f"{usd(1000 * least)} to {usd(1000 * most)}"
    table.add_row("routing", f"{tuning.quality:.3f}", f"{low:.3f} to {high:.3f}", usd(1000 * tuning.cost), between)
    single = tuning.single_model
    table.add_row(single, f"{tuning.single_quality:.3f}", "", usd(1000 * tuning.single_cost), "")
    for part in (table, "", _shares(tuning.shares), "", tuning.verdict):
        console.print(part)


def show_report(report: Report) -> None:
    """Print the curve in a few points, the single models beside it, and the verdict."""
    console = _console()
    for part in (_curve(report), "", _single_models(report), "", report.verdict):
        console.print(part)


def _curve(report: Report) -> Table:
    """Return points of the curve's hull at even steps of quality, each beside the best mixture for its cost."""
    hull, mixture = report.curve.hull(), report.mixture.hull()
    steps = np.linspace(hull.qualities[0], hull.qualities[-1], POINTS_SHOWN)
    points = np.unique(np.abs(hull.qualities - steps[:, None]).argmin(axis=1))
    lowest, highest = hull.qualities[0], hull.qualities[-1]
    table = _table(">USD per 1,000", ">quality", "", ">best mixture", ">cost weight")
    for cost, quality, weight in zip(
        hull.costs[points], hull.qualities[points], hull.cost_weights[points], strict=True
    ):
        table.add_row(
            usd(1000 * cost),
            f"{quality:.3f}",
            _bar(quality - lowest, highest - lowest),
            f"{mixture.quality_at(cost):.3f}",
            f"{weight:.4g}",
        )
    return table


def _single_models(report: Report) -> Table:
    """Return the models by quality, and the router as it is set beside them."""
    table = _table("always", ">USD per 1,000", ">quality", ">routing's share")
    rows = [
        (quality, model, cost, f"{report.shares.get(model, 0):.1%}") for model, (cost, quality) in report.models.items()
    ]
    rows.append((report.quality, f"routing at cost weight {report.cost_weight:.4g}", report.cost, ""))
    for quality, model, cost, share in sorted(rows, key=lambda row: -row[0]):
        table.add_row(model, usd(1000 * cost), f"{quality:.3f}", share, style="" if share else "bold")
    return table
