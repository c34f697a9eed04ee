"""The one place that prints: sentences, tables, decisions, bills, tunings, reports, progress and JSON."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from functools import cache
from itertools import islice
from textwrap import TextWrapper
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import typer

from unirouter_core.display import Table as PlainTable
from unirouter_core.display import usd as usd
from unirouter_core.display import weight as weight
from unirouter_core.outcome_files import count
from unirouter_core.pool import CAPABILITIES, Capabilities, ModelProfile
from unirouter_core.rule import NORMAL_90, Decision, Decisions, Explanation

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table
    from rich.text import Text

    from unirouter_core.evaluate import Efforts, Report, Tuning
    from unirouter_plugins.cli.onboard import Standing
    from unirouter_plugins.litellm import CallRecord
    from unirouter_plugins.onboarding import Onboarded
    from unirouter_plugins.onboarding.bill import Bill, Spread

T = TypeVar("T")

# The last are marks that turn the direction of what follows.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
TEXT_WIDTH = 88  # columns of text; tables may be wider where the terminal is
CANDIDATES_SHOWN, PROMPTS_SHOWN = 5, 20  # of a ranking, of many prompts
LEVEL = 0.9  # of the intervals that are shown
UNLIKE = 0.05  # prompts whose similarity is less have no words in common worth showing
PER_1000 = ">$/1,000"  # USD per 1,000 calls


def without_control(text: str) -> str:
    """Return the text of a model or a file without what sets a terminal's title or colours, or does worse."""
    return _CONTROL.sub("", text)


def console(*, err: bool = False) -> Console:
    """Return stdout or stderr as rich prints to it; where both are one terminal, one console, so bars stay below.

    Whatever is printed passes `without_control`.
    """
    return _console(err and not _one_terminal())


@cache
def _one_terminal() -> bool:
    return sys.stdout.isatty() and sys.stderr.isatty()  # once: rich replaces both while it shows a bar


@cache
def _console(err: bool) -> Console:
    from rich.console import Console  # here, because --json needs none of it
    from rich.segment import Segment

    class Filtered(Console):
        def render(self, *given: Any, **how: Any) -> Iterator[Segment]:
            for text, style, control in super().render(*given, **how):
                yield Segment(text if control else without_control(text), style, control)

    return Filtered(markup=False, highlight=False, emoji=False, stderr=err)


_whole: list[str] = []  # what is never broken, though it has spaces


def reset(words: Sequence[str] = ()) -> None:
    """Forget the consoles, whose width and streams may have changed; of the words given, spaced ones stay whole."""
    _one_terminal.cache_clear()
    _console.cache_clear()
    paths = [word.partition("=")[2] if word.startswith("--") else word for word in words] + [os.getcwd()]
    _whole[:] = [part for path in paths for part in (path, os.path.dirname(path)) if " " in part]


def quoted(path: object) -> str:
    """Return a path as a shell takes it."""
    return shlex.quote(str(path))


def say(text: str = "", style: str | None = None, *, err: bool = False, wrap: bool = True) -> None:
    """Print text of at most `TEXT_WIDTH` columns; words and the paths of the command line are never broken."""
    out = console(err=err)
    if wrap:
        lines = TextWrapper(min(out.width, TEXT_WIDTH), break_long_words=False, break_on_hyphens=False)
        for path in _whole:
            text = text.replace(path, path.replace(" ", "\0"))
        text = "\n".join(lines.fill(line) for line in text.split("\n")).replace("\0", " ")
    out.print(text, style=style, soft_wrap=True)


def note(text: str) -> None:
    """Print a note on stderr, on one line in a pipe."""
    say(f"Note: {text}", err=True, wrap=console(err=True).is_terminal)


def grouped(failures: Mapping[str, str]) -> list[tuple[list[str], str]]:
    """Return the failed models grouped by their message; messages that differ only in the model's name are one."""
    groups: dict[str, tuple[list[str], str]] = {}
    for model, why in failures.items():
        bare = re.sub("|".join(re.escape(name) for name in sorted(failures, key=len, reverse=True)), "", why)
        groups.setdefault(bare, ([], why))[0].append(model)
    return list(groups.values())


def emit(document: object, *, line: bool = False) -> None:
    """Print JSON on stdout, ASCII so that any terminal and pipe takes it."""
    typer.echo(json.dumps(document, indent=None if line else 2, allow_nan=False))


@contextmanager
def working(what: str) -> Iterator[None]:
    """Show a spinner on the terminal, if there is one."""
    with console(err=True).status(what) if sys.stderr.isatty() else nullcontext():
        yield


@contextmanager
def progress_bar(*fields: str) -> Iterator[Progress]:
    """Show a bar on the terminal, if there is one, with `fields` beside it; what is printed then stands above it."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    out = console(err=True)
    places = ("description", *(f"fields[{field}]" for field in fields))
    name, *texts = (TextColumn(f"{{task.{place}}}", markup=False) for place in places)
    columns = [name, BarColumn(), MofNCompleteColumn(), *texts, TimeRemainingColumn()]
    bar = Progress(*columns, console=out, transient=True, redirect_stdout=_one_terminal(), disable=not out.is_terminal)
    with bar if out.is_terminal else nullcontext():
        yield bar


@contextmanager
def each(items: Sequence[T], what: str) -> Iterator[Iterable[T]]:
    """Give the items; on a terminal, a bar shows how many are done."""
    if len(items) < 2 or not sys.stderr.isatty():
        yield items
        return
    with progress_bar() as bar:
        yield bar.track(items, description=what)


def table(*heads: str, rows: Iterable[Sequence[Any]] = ()) -> Table:
    """Return a table; the first column and those of numbers, whose heads begin with ">", are never broken."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", show_header=any(heads))
    for place, head in enumerate(heads):
        number = head.startswith(">")
        made.add_column(head.lstrip(">"), justify="right" if number else "left", no_wrap=number or not place)
    for row in rows:
        made.add_row(*row)
    return made


def quality(error: float, stderr: float) -> str:
    """Return a quality with half its interval, such as "93.1% ± 1.6"."""
    return f"{1 - error:.1%} ± {100 * NORMAL_90 * stderr:.1f}"


def shortened(prompt: str, length: int = 60) -> str:
    """Return the beginning of a prompt on one line."""
    line = " ".join(prompt.split())
    return line if len(line) <= length else line[: length - 1] + "…"


def one_line(prompt: str) -> Text:
    """Return a prompt as a cell of a table, cut to what fits beside the other columns."""
    from rich.text import Text

    return Text(shortened(prompt), no_wrap=True, overflow="ellipsis")


def _rule(cost_weight: float) -> str:
    return "lowest cost" if np.isinf(cost_weight) else f"lowest error + {weight(cost_weight)} * USD"


def _few(names: Sequence[str]) -> str:
    more = len(names) - CANDIDATES_SHOWN
    return ", ".join(names[:CANDIDATES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def profile_row(profile: ModelProfile) -> dict[str, Any]:
    """Return what a router knows of a model, as JSON can hold it."""
    return {
        "model": profile.model,
        "error": profile.error,
        "stderr": stderr_of(profile),
        "n": profile.n,
        "usd_per_1000": usd_per_1000(profile),
        "prices": None if profile.prices is None else asdict(profile.prices),
        "capabilities": asdict(profile.capabilities),
        "provenance": dict(profile.provenance),
    }


def stderr_of(profile: ModelProfile) -> float:
    """Return the standard error of the overall error, with one right and one wrong answer more: all right is not 0."""
    errors = np.append(profile.errors[~np.isnan(profile.errors)], [0.0, 1.0])
    return float(errors.std() / np.sqrt(len(errors)))


def usd_per_1000(profile: ModelProfile) -> float:
    """Return 1,000 times the mean USD of the validation answers."""
    return 1000 * float(np.nanmean(profile.usd))


def models(profiles: Sequence[ModelProfile]) -> None:
    """Print a table of models; a column that is the same for all is a line below it."""
    columns: dict[str, list[str]] = {
        "model": [profile.model for profile in profiles],
        ">quality": [quality(profile.error, stderr_of(profile)) for profile in profiles],
        PER_1000: [_cost_of(profile) for profile in profiles],
    }
    varying = {
        ">answers": [f"{profile.n:,}" for profile in profiles],
        "evaluated": [str(profile.provenance.get("date", "unknown")) for profile in profiles],
        "lacks": [_lacking(profile.capabilities) for profile in profiles],
    }
    columns |= {head: cells for head, cells in varying.items() if len(set(cells)) > 1 or (head == "lacks" and cells[0])}
    console().print(table(*columns, rows=zip(*columns.values(), strict=True)))
    same = [f"{head.lstrip('>')}: {cells[0]}. " for head, cells in varying.items() if cells[0] and head not in columns]
    sources = "; ".join(sorted({str(p.provenance["source"]) for p in profiles if "source" in p.provenance}))
    about = f"source: {sources or 'unknown'}. ±: {LEVEL:.0%} interval. $/1,000: per 1,000 calls."
    say("".join(same) + about, "dim")


def _lacking(capabilities: Capabilities) -> str:
    lacking = [name for name in CAPABILITIES if not getattr(capabilities, name)]
    window = capabilities.context_window
    return ", ".join(lacking + ([] if window is None else [f"> {window:,} tokens"]))


def prices(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print prices per million tokens, where they come from, and what has changed since."""
    shown = table("model", ">in", ">out", ">cached in", "from", "now")
    for row in rows:
        known, now = row["prices"], row["today"]
        cells = ["?"] * 3 if known is None else [usd(known.input), usd(known.output), usd(known.cached)]
        changed = "" if now in (None, known) else f"{usd(now.input)} / {usd(now.output)}"
        shown.add_row(row["model"], *cells, row["source"], changed)
    console().print(shown)
    say("USD per million tokens.", "dim")


def bill(made: Bill, budget: float | None) -> None:
    """Print what onboarding will cost: calls, tokens and USD of each model, expected and at most."""
    from unirouter_plugins.onboarding.bill import PROBE, TRIFLE

    roles = {"measured": "", "reference": "writes references", "judge": "grades", "check": "checks answers"}
    heads = ("model", "role", ">calls", ">cached", ">tokens in", ">tokens out", ">about", ">at most")
    rows = [
        (
            *(item.model, roles[item.role], f"{item.calls:,}", f"{item.paid:,}" if item.paid else ""),
            *(f"{item.tokens_in:,.0f}", f"{item.tokens_out.expected:,.0f}"),
            *(usd(item.usd.expected), usd(item.usd_longest)),
        )
        for item in made.items
    ]
    filled = {head: cells for head, *cells in zip(heads, *rows, strict=True) if any(cells)}
    console().print(table(*filled, rows=zip(*filled.values(), strict=True)))
    limits = " or ".join(f"{n:,}" for n in sorted({item.max_tokens for item in made.items}))
    say(f"{count(made.calls, 'call')}: about {usd(made.usd.expected)} ({between(made.usd)}),", "bold")
    say(f"{usd(made.usd_longest)} at most (every answer at its limit of {limits} tokens).", "bold")
    if made.is_assumed:
        say("Answers are taken to be as long as their graders ask for: no model of the pool has any yet.", "dim")
    if budget is None and made.calls:
        over = usd(max(made.usd.high, TRIFLE))
        say(f"After {PROBE} answers of each model it stops if they say that the total is above {over}.", "dim")
    say(f"Prices: {'; '.join(sorted({f'{item.model} from {item.price_source}' for item in made.items}))}.", "dim")
    if budget is not None:
        say(f"The budget of {usd(budget)} holds even if every call is retried and billed.", "dim")


def between(amount: Spread) -> str:
    """Return the range of an amount of USD in words."""
    return f"{LEVEL:.0%} range {usd(amount.low)} to {usd(amount.high)}"


def outcome(done: Sequence[Onboarded]) -> None:
    """Print which models were not added and why, and what else to know, each once."""
    failures = {one.model: one.reason for one in done if one.profile is None}
    for models, why in grouped(failures):
        say(f"{', '.join(models)} {'was' if len(models) == 1 else 'were'} not added: {why}", "bold")
    for text in dict.fromkeys(text for one in done for text in one.notes):
        say(text)
    for one in done:
        if lost := one.truncated + one.refused:
            cut = f"{one.truncated} cut off at the token limit, {one.refused} refused"
            say(f"{one.model}: {lost} of {one.answered} answers were no answers ({cut}).")


def standing(profiles: Sequence[ModelProfile], made: Standing) -> None:
    """Print the pool in one table: quality, cost, and where they are known each model's share and verdict."""
    placed = {profile.model: made.models.get(profile.model, (0.0, "")) for profile in profiles}
    ordered = sorted(profiles, key=lambda profile: (-placed[profile.model][0], profile.error))
    shown = table("model", ">quality", PER_1000, *([">share", "verdict"] if made.models else []))
    for profile in ordered[:PROMPTS_SHOWN]:
        share, word = placed[profile.model]
        cells = [profile.model, quality(profile.error, stderr_of(profile)), _cost_of(profile)]
        shown.add_row(*cells, *([f"{share:.0%}", word] if made.models else []))
    console().print(shown)
    if (left_out := len(ordered) - PROMPTS_SHOWN) > 0:
        say(f"… and {left_out:,} more; unirouter models lists all.", "dim")
    at = f"cost weight {weight(made.cost_weight)}" + f", which {made.goal} (not saved)" * bool(made.goal)
    at = "quality alone" if not made.cost_weight and not made.goal else at
    where = f"Share of the prompts and verdict: at {at}. " if made.models else ""
    say(f"{where}±: {LEVEL:.0%} interval. $/1,000: per 1,000 calls.", "dim")


def efforts(found: Sequence[Efforts]) -> None:
    """Print which share of the prompts needs which effort of a model, on all and in the largest regions."""
    from unirouter_core.evaluate.effort_shares import NONE

    for one in found:
        regions = list(one.regions.items())[:CANDIDATES_SHOWN]
        shown = table("needs", f">all {one.n:,}", *(f">region {region} ({n:,})" for region, (n, _) in regions))
        for effort, share in one.shares.items():
            cells = [share, *(shares[effort] for _, (_, shares) in regions)]
            shown.add_row(f"{one.model}@{effort}" if effort != NONE else effort, *(f"{cell:.0%}" for cell in cells))
        console().print(shown)
        say(
            f"Share of the prompts for which an effort of {one.model} is the least that answers right; one answer to "
            "each, so luck counts.",
            "dim",
        )


def _cost_of(profile: ModelProfile) -> str:
    return "unknown" if profile.provenance.get("prices") == "unknown" else usd(usd_per_1000(profile))


def onboarded(one: Onboarded) -> None:
    """Print what onboarding a model gave: its profile, its calls, and what it changes."""
    if one.profile is None:
        say(f"{one.model} was not added: {one.reason}", "bold")
    else:
        value = quality(one.profile.error, stderr_of(one.profile))
        say(f"{one.model}: quality {value}, {usd(usd_per_1000(one.profile))} per 1,000 calls", "bold green")
    counts = {
        "answers of this run": one.asked,
        "cut off at the token limit": one.truncated,
        "refused": one.refused,
        "calls failed": one.failed,
        "judge calls failed": one.judge_failures,
        "not gradable": one.ungradable,
    }
    happened = "".join(f"; {n} {what}" for what, n in counts.items() if n)
    say(f"{one.answered} of {one.prompts} prompts answered{happened}.")
    for text in one.notes:
        say(text)
    if one.impact is not None:
        say(one.impact.verdict)
        for prompt in one.impact.moved[:CANDIDATES_SHOWN] if one.impact.kind != "the only model" else ():
            say(f"  moves to it: {shortened(prompt)}", "dim")
    say()


def decision(made: Decision, prompt: str = "", why: Explanation | None = None) -> None:
    """Print the chosen model and the next ones; with `why`, all of them and what the choice rests on."""
    if prompt:
        say(f"\n{shortened(prompt)}", "bold")
    say(made.model, "bold green")
    candidates = [row for row in made.ranking if row.excluded is None]
    shown = candidates[: None if why else CANDIDATES_SHOWN]
    columns = table(*([">#"] if why else []), "model", ">quality", *([">answers"] if why else []), PER_1000, ">score")
    for place, row in enumerate(shown, 1):
        value, cost = quality(row.error, row.stderr), usd(1000 * row.cost)
        named = [str(place), row.model, value, f"{row.n:,}"] if why else [row.model, value]
        columns.add_row(*named, cost, f"{row.score:.3g}")
    console().print(columns)
    if left_out := len(candidates) - len(shown):
        say(f"… and {left_out} more; --explain shows all.", "dim")
    excluded = [row for row in made.ranking if row.excluded is not None]
    for reason in dict.fromkeys(str(row.excluded) for row in excluded):
        say(f"Excluded, {reason}: {_few([row.model for row in excluded if row.excluded == reason])}.")
    if (far := f"{made.far:.0%}") != "0%":
        say(f"Unusual prompt ({far} out of distribution): predictions are shrunk towards each model's average quality.")
    untuned = "" if made.cost_weight else " Cost is ignored; set a goal with unirouter tune."
    say(f"Rule: {_rule(made.cost_weight)} (score).{untuned} ±: {LEVEL:.0%} interval. $/1,000: per 1,000 calls.", "dim")
    if why is not None:
        _grounds(why, [row.model for row in candidates])


def _grounds(why: Explanation, ranked: Sequence[str]) -> None:
    """Print the margin, the models' quality in the prompt's region, and on the validation prompts most like it."""
    if np.isfinite(why.decision.margin):
        say(f"Margin to the next model: {why.decision.margin:.3g}.")
    there = [f"{model} {1 - why.in_region[model][0]:.1%}" for model in ranked if model in why.in_region]
    n = max((n for _, n in why.in_region.values()), default=0)
    say(f"Region {why.decision.region}, {n:,} validation prompts: {_few(there) or 'no model was evaluated there'}.")
    if why.decision.far == 1 or all(near.similarity < UNLIKE for near in why.neighbours):
        say("No validation prompt is similar.")
        return
    first = ranked[:CANDIDATES_SHOWN]
    sets = {profile.measured.id: profile.measured for profile in why.decision.pool.values()}.values()
    digests = {digest for measured in sets if measured.texts is None for digest in measured.digests}
    nearest = table(">similarity", "prompt", *(f">{place}" for place in range(1, len(first) + 1)))
    for near in why.neighbours:
        text = one_line("(text not kept)" if near.prompt in digests else near.prompt)
        qualities = (f"{1 - near.errors[model]:.0%}" if model in near.errors else "-" for model in first)
        nearest.add_row(f"{near.similarity:.2f}", text, *qualities)
    say(f"\nQuality of models 1 to {len(first)} on the most similar validation prompts (-: not evaluated):")
    console().print(nearest)


def decision_rows(prompts: Sequence[str], made: Decisions) -> Iterator[dict[str, Any]]:
    """Yield each decision on many prompts, as JSON can hold it."""
    columns = (made.errors, made.costs, made.regions, made.far)
    rows = zip(prompts, made.models, *(column.tolist() for column in columns), strict=True)
    for prompt, model, error, cost, region, far in rows:
        yield {"prompt": prompt, "model": model, "error": error, "cost": cost, "region": region, "far": far}


def decisions(prompts: Sequence[str], made: Decisions) -> None:
    """Print the first decisions on many prompts, and the share of each model."""
    shown = table("model", ">quality", PER_1000, "prompt")
    for row in islice(decision_rows(prompts, made), PROMPTS_SHOWN):
        shown.add_row(row["model"], f"{1 - row['error']:.1%}", usd(1000 * row["cost"]), one_line(row["prompt"]))
    console().print(shown)
    if (left_out := len(prompts) - PROMPTS_SHOWN) > 0:
        say(f"… and {left_out:,} more; --json writes them all.", "dim")
    say()
    shares(made.shares)
    expected = f"quality {1 - made.errors.mean():.1%}, {usd(1000 * float(made.costs.mean()))} per 1,000 calls"
    say(f"Expected on these {len(prompts):,} prompts: {expected}.")


def shares(used_by: Mapping[str, float]) -> None:
    """Print the share of each model that is used."""
    from rich.bar import Bar

    used = sorted((item for item in used_by.items() if item[1]), key=lambda item: -item[1])
    rows = [(model, f"{share:.1%}", Bar(1, 0, share, width=20)) for model, share in used]
    console().print(table("model", ">share", "", rows=rows))


def call(record: CallRecord) -> None:
    """Print on stderr who answered, why, and the cost beside the most expensive model's, in a few lines."""
    eligible = {row.model: row for row in record.decision.ranking if row.excluded is None}
    answered = eligible[record.model]
    rule = f"{_rule(record.decision.cost_weight)} of {len(eligible)} models"
    say(f"\n{record.model}: expected quality {1 - answered.error:.1%}, {rule}", err=True)
    for model, told in record.checked.items():
        signal = "nothing" if told["signal"] is None else f"{told['signal']:g}"
        outcome = "accepted" if model == record.model else "rejected"
        say(
            f"{model}'s draft was {outcome}: {told['check']} gave {signal}, so its expected quality is "
            f"{1 - told['expected_error']:.0%}",
            err=True,
        )
    for failed, failure in grouped(record.failures):
        say(f"{', '.join(failed)} failed before it: {failure}", err=True)
    if record.differs:
        say(f"Called otherwise than it was evaluated: {'; '.join(record.differs)}.", err=True)
    spent = "unknown: the provider reports no tokens" if np.isnan(record.usd) else usd(record.usd)
    most = dearest(record)
    beside = f"; {most['model']}, the most expensive: {usd(most['expected_usd'])}"
    say(f"cost {spent} (expected {usd(answered.cost)}{beside if most['model'] != record.model else ''})", err=True)


def dearest(record: CallRecord) -> dict[str, Any]:
    """Return the eligible model with the highest expected cost."""
    most = max((row for row in record.decision.ranking if row.excluded is None), key=lambda row: row.cost)
    return {"model": most.model, "expected_usd": most.cost}


def proposed(made: Report | Tuning) -> tuple[str, float]:
    """Return what would be used, in words, and its USD a prompt: the best choice for a goal, or the router as it is."""
    from unirouter_core.evaluate import Tuning

    return (made.choice.words, made.choice.cost) if isinstance(made, Tuning) else ("this routing", made.cost)


def findings(made: Report | Tuning, prompts_a_month: float | None = None) -> None:
    """Print today's quality and cost, what lower costs give, how sure that is, the tables and the verdict."""
    for part in made.tables():
        if isinstance(part, PlainTable):
            console().print(table(*part.heads, rows=part.rows), "")
        else:
            say(f"{part}\n")
    if prompts_a_month is not None:
        words, cost = proposed(made)
        now, then = (usd(prompts_a_month * each) for each in (made.today.cost, cost))
        say(f"At {prompts_a_month:,.0f} prompts a month: {now} today, {then} by {words}.\n")
    say(made.verdict, "bold")
