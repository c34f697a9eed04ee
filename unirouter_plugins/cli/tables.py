"""What the command line shows: models, decisions, tunings and reports as tables of 80 columns or as rows for JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from unirouter_core.evaluate.report import NEARLY, Report
from unirouter_core.evaluate.tune import Tuning
from unirouter_core.pool import CAPABILITIES, Capabilities, ModelProfile
from unirouter_core.rule import Decision, Decisions

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from unirouter_plugins.onboarding.bill import Bill

CANDIDATES_SHOWN = 5
"""Of a ranking, unless it is to be explained."""

PROMPTS_SHOWN = 20
"""Of many; --json gives them all."""

POINTS_SHOWN = 8
"""Of a curve."""

LEVEL = 0.9
"""Of the intervals that are shown."""

USD_PER_1000 = ">USD per\n1,000"
"""A heading of two lines, which leaves room for long names."""

BAR = 20
"""Characters of the longest bar."""

PROMPT_WIDTH = 24
"""Characters of a prompt that are shown at least."""

EIGHTHS = ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")


def open_console() -> Console:
    """Return stdout as rich prints to it."""
    from rich.console import Console  # here, because --json needs none of it

    return Console(markup=False, highlight=False, emoji=False)


def empty_table(*columns: str) -> Table:
    """Return an empty table; columns of numbers, whose heads begin with ">", stand to the right."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        number = column.startswith(">")
        table.add_column(column.lstrip(">"), justify="right" if number else "left", no_wrap=number, overflow="fold")
    return table


def _fitting(console: Console, columns: Mapping[str, Sequence[str]], spare: Sequence[str]) -> Table:
    """Return columns as a table; those in `spare` are left out, in that order, until its lines fit."""
    table, wide = _filled(columns), console.options.update(max_width=1_000)
    for heading in spare:
        if console.measure(table, options=wide).maximum <= console.width:
            break
        columns = {head: cells for head, cells in columns.items() if head != heading}
        table = _filled(columns)
    return table


def _filled(columns: Mapping[str, Sequence[str]]) -> Table:
    table = empty_table(*columns)
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    return table


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
        "stderr": stderr_of(profile),
        "n": profile.n,
        "usd_per_1000": 1000 * mean_usd(profile),
        "prices": None if profile.prices is None else asdict(profile.prices),
        "capabilities": asdict(profile.capabilities),
        "provenance": dict(profile.provenance),
    }


def stderr_of(profile: ModelProfile) -> float:
    """Return the standard error of the overall error, with one right and one wrong answer more: all right is not 0."""
    errors = np.append(profile.errors[~np.isnan(profile.errors)], [0.0, 1.0])
    return float(errors.std() / np.sqrt(len(errors)))


def mean_usd(profile: ModelProfile) -> float:
    """Return the mean USD of the validation answers."""
    return float(np.nanmean(profile.usd))


def show_models(profiles: Sequence[ModelProfile], title: str) -> None:
    """Print a title, when there is one, and a table of models."""
    console = open_console()
    if title:
        console.print(title)
    if not profiles:
        return
    dates = [str(profile.provenance.get("date", "unknown")) for profile in profiles]
    lacking = [_lacking(profile.capabilities) for profile in profiles]
    columns = {
        "model": [profile.model for profile in profiles],
        ">error": [f"{profile.error:.3f}" for profile in profiles],
        "± stderr": [f"± {stderr_of(profile):.3f}" for profile in profiles],
        ">answers": [f"{profile.n:,}" for profile in profiles],
        USD_PER_1000: [usd(1000 * mean_usd(profile)) for profile in profiles],
    }
    columns |= {"dated": dates} if len(set(dates)) > 1 else {}
    columns |= {"lacks": lacking} if any(lacking) else {}
    console.print(_fitting(console, columns, ("dated", "± stderr", ">answers")))
    sources = sorted({str(p.provenance["source"]) for p in profiles if "source" in p.provenance})
    known = sorted(date for date in dates if date[:1].isdigit())
    when = " to ".join(dict.fromkeys(known[:1] + known[-1:])) or "unknown"
    console.print(f"Dated: {when}. Source: {'; '.join(sources) or 'not known'}.", style="dim")


def _lacking(capabilities: Capabilities) -> str:
    lacking = [name for name in CAPABILITIES if not getattr(capabilities, name)]
    window = capabilities.context_window
    return ", ".join(lacking + ([] if window is None else [f"> {window:,} tokens"]))


def show_prices(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print what models cost per million tokens, where that comes from, and what has changed since."""
    table = empty_table("model", ">in", ">out", ">cached in", "from", "today")
    for row in rows:
        prices, today = row["prices"], row["today"]
        shown = ["?", "?", "?"] if prices is None else [usd(prices.input), usd(prices.output), usd(prices.cached)]
        changed = "" if today in (None, prices) else f"{usd(today.input)} / {usd(today.output)}"
        table.add_row(row["model"], *shown, row["source"], changed)
    console = open_console()
    console.print(table)
    console.print("USD per million tokens.", style="dim")


# --- What onboarding costs --------------------------------------------------------------------------------------------


def show_bill(bill: Bill, budget: float | None) -> None:
    """Print what onboarding will cost: calls, tokens and USD of each model, expected and at most."""
    items, roles = bill.items, {"measured": "", "reference": "answers first", "judge": "grades"}
    columns = {
        "model": [item.model for item in items],
        "role": [roles[item.role] for item in items],
        ">calls": [f"{item.calls:,}" for item in items],
        ">paid\nbefore": [f"{item.paid:,}" for item in items],
        ">tokens in": [f"{item.tokens_in:,.0f}" for item in items],
        ">tokens out": [f"{item.tokens_out.low:,.0f} to {item.tokens_out.high:,.0f}" for item in items],
        ">USD": [f"{usd(item.usd.low)} to {usd(item.usd.high)}" for item in items],
        ">at most": [usd(item.usd_longest) for item in items],
    }
    for name in ("role", ">paid\nbefore"):
        if not any(cell not in ("", "0") for cell in columns[name]):
            del columns[name]
    console = open_console()
    console.print(_fitting(console, columns, (">tokens in", ">tokens out", ">at most")))
    whole = f"{usd(bill.usd.low)} to {usd(bill.usd.high)}"
    limits = " or ".join(f"{n:,}" for n in sorted({item.max_tokens for item in bill.items}))
    most = f"{usd(bill.usd_longest)} at most, with every answer at its limit of {limits} tokens"
    console.print(f"{bill.calls:,} calls, {whole} expected; {most}.", style="bold")
    if bill.is_assumed:
        console.print("How long answers will be is assumed, as no model of the pool tells yet.", style="dim")
    sources = sorted({f"{item.model}: {item.price_source}" for item in bill.items})
    console.print(f"Prices from {'; '.join(sources)}.", style="dim")
    if budget is not None:
        console.print(
            f"No more than {usd(budget)} will be spent, even when every call is made again and billed.", style="dim"
        )


# --- Decisions --------------------------------------------------------------------------------------------------------


def show_decision(decision: Decision, title: str = "", *, every: bool = False) -> None:
    """Print the chosen model and those after it: the first few, or `every` one with its place and its answers."""
    console = open_console()
    if title:
        console.print(f"\n{shortened(title)}", style="bold")
    console.print(decision.model, style="bold green")
    candidates = [candidate for candidate in decision.ranking if candidate.excluded is None]
    shown = candidates if every else candidates[:CANDIDATES_SHOWN]
    columns = {
        **({">#": [str(place) for place in range(1, len(shown) + 1)]} if every else {}),
        "model": [row.model for row in shown],
        ">error": [f"{row.error:.3f}" for row in shown],
        "± stderr": [f"± {row.stderr:.3f}" for row in shown],
        **({">n": [f"{row.n:,}" for row in shown]} if every else {}),
        USD_PER_1000: [usd(1000 * row.cost) for row in shown],
        ">score": [f"{row.score:.4g}" for row in shown],
    }
    console.print(_fitting(console, columns, ("± stderr", ">score")))
    if every:
        console.print("n: the answers behind the model's profile.", style="dim")
    if left_out := len(candidates) - len(shown):
        console.print(f"… and {left_out} more; --explain shows all.", style="dim")
    excluded = [candidate for candidate in decision.ranking if candidate.excluded is not None]
    for reason in dict.fromkeys(str(row.excluded) for row in excluded):
        console.print(f"Excluded, {reason}: {_few([row.model for row in excluded if row.excluded == reason])}.")
    if (far := f"{decision.far:.0%}") != "0%":
        console.print(
            f"{far} far from all that was learned: predictions are pulled that much towards the models' overall errors."
        )
    weight = "USD alone" if np.isinf(decision.cost_weight) else f"error + {decision.cost_weight:g} * USD"
    free = " Cost does not count yet: see unirouter tune." if not decision.cost_weight else ""
    console.print(f"The least score wins: {weight}.{free}", style="dim")


def _few(names: Sequence[str]) -> str:
    more = len(names) - CANDIDATES_SHOWN
    return ", ".join(names[:CANDIDATES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def decision_rows(prompts: Sequence[str], decisions: Decisions) -> Iterator[dict[str, Any]]:
    """Yield each decision on many prompts, as JSON can hold it."""
    columns = (decisions.errors, decisions.costs, decisions.regions, decisions.far)
    rows = zip(prompts, decisions.models, *(column.tolist() for column in columns), strict=True)
    for prompt, model, error, cost, region, far in rows:
        yield {"prompt": prompt, "model": model, "error": error, "cost": cost, "region": region, "far": far}


def show_decisions(prompts: Sequence[str], decisions: Decisions) -> None:
    """Print the first decisions on many prompts, and the share of each model."""
    console = open_console()
    rows = list(islice(decision_rows(prompts, decisions), PROMPTS_SHOWN))
    longest = max(len(row["model"]) for row in rows)
    room = max(console.width - longest - 20, PROMPT_WIDTH)  # 20: the numbers, and the gaps between columns
    table = empty_table("model", ">error", USD_PER_1000, "prompt")
    for row in rows:
        table.add_row(row["model"], f"{row['error']:.3f}", usd(1000 * row["cost"]), shortened(row["prompt"], room))
    console.print(table)
    if (left_out := len(prompts) - PROMPTS_SHOWN) > 0:
        console.print(f"… and {left_out:,} more; --json writes them all.", style="dim")
    console.print()
    console.print(_shares(decisions.shares))
    expected = f"error {decisions.errors.mean():.3f}, {usd(1000 * float(decisions.costs.mean()))} per 1,000 prompts"
    console.print(f"Expected on these {len(prompts):,} prompts: {expected}.")


def _shares(shares: Mapping[str, float]) -> Table:
    table = empty_table("model", ">share", "")
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
    console = open_console()
    met = "Goal" if tuning.met else "Goal that cannot be met"
    console.print(f"{met}: {tuning.goal} (met in {tuning.met_share:.0%} of resamplings)", style="bold")
    table = empty_table("", ">quality", f">{LEVEL:.0%} interval", ">USD per 1,000", f">{LEVEL:.0%} interval")
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
    console = open_console()
    for part in (_curve(report), "", _single_models(report), "", _beside(report), "", report.verdict):
        console.print(part)


def _beside(report: Report) -> Table:
    """Return what routing saves at a rival's quality and gains at its cost."""
    table = empty_table("routing beside", ">quality", ">USD per 1,000", ">saves at it", ">gains at that")
    for name, rival in (("the most accurate model", report.single), (f"a mixture {NEARLY:.0%} as good", report.mixed)):
        saving = "nothing" if rival.saving is None else f"{rival.saving[0]:.0%} to {rival.saving[1]:.0%}"
        gain = f"{rival.gain[0]:+.3f} to {rival.gain[1]:+.3f}"
        table.add_row(name, f"{rival.quality:.3f}", usd(1000 * rival.cost), saving, gain)
    return table


def _curve(report: Report) -> Table:
    """Return points of the curve's hull at even steps of quality, each beside the best mixture for its cost."""
    hull, mixture = report.curve.hull(), report.mixture.hull()
    steps = np.linspace(hull.qualities[0], hull.qualities[-1], POINTS_SHOWN)
    points = np.unique(np.abs(hull.qualities - steps[:, None]).argmin(axis=1))
    lowest, highest = hull.qualities[0], hull.qualities[-1]
    table = empty_table(">USD per 1,000", ">quality", "", ">best mixture", ">cost weight")
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
    table = empty_table("always", ">USD per 1,000", ">quality", ">routing's share")
    rows = [
        (quality, model, cost, f"{report.shares.get(model, 0):.1%}") for model, (cost, quality) in report.models.items()
    ]
    rows.append((report.quality, f"routing at cost weight {report.cost_weight:.4g}", report.cost, ""))
    for quality, model, cost, share in sorted(rows, key=lambda row: -row[0]):
        table.add_row(model, usd(1000 * cost), f"{quality:.3f}", share, style="" if share else "bold")
    return table
