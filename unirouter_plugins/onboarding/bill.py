"""What onboarding will cost, before anything is asked: calls, tokens and USD, expected and at worst."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from unirouter_core.costs import TOKENS_PER_PRICE, Prices
from unirouter_core.embedding import Array, Labels
from unirouter_core.pool import ModelProfile
from unirouter_core.router import UniRouter
from unirouter_plugins.litellm.pool_file import SERVED_AS
from unirouter_plugins.onboarding.ask import Caller
from unirouter_plugins.onboarding.bench import VERDICTS, Bench
from unirouter_plugins.onboarding.measurement import Measurement
from unirouter_plugins.onboarding.pacing import ATTEMPTS
from unirouter_plugins.onboarding.references import References
from unirouter_plugins.onboarding.run import Run

Role: TypeAlias = Literal["measured", "reference", "judge"]

VERDICT_TOKENS = (10.0, 200.0)
"""Tokens of a judge's reason and verdict."""

USUAL_TOKENS = (10.0, 400.0)
"""Tokens of an answer where no model of the pool tells: from a word to half a page."""

WIDER = 1.5
"""A new model may be so many times terser or wordier than those of the pool."""


@dataclass(frozen=True)
class Spread:
    """From a lower to an upper amount."""

    low: float
    high: float

    def __add__(self, other: Spread) -> Spread:
        """Return the sum of the lower and of the upper amounts."""
        return Spread(self.low + other.low, self.high + other.high)


NOTHING = Spread(0.0, 0.0)


@dataclass(frozen=True)
class Item:
    """What one model does on the bill.

    Parameters
    ----------
    model : str
    role : {"measured", "reference", "judge"}
    calls, paid : int
        Calls to make, and those that are paid for already.
    tokens_in : float
        Prompt tokens of the calls to make, as counted here.
    tokens_out : Spread
        Tokens of their answers, as expected.
    max_tokens : int
        The most tokens of one answer.
    usd : Spread
        As expected.
    usd_longest : float
        When every answer is as long as it may be, and the provider's tokenizer finds twice the tokens.
    usd_worst : float
        When every call, besides, is made as often as it may be and billed each time.
    prices : Prices
        USD per million tokens.
    price_source : str
        "pool.toml", "profile" or "LiteLLM".
    """

    model: str
    role: Role
    calls: int
    paid: int
    tokens_in: float
    tokens_out: Spread
    max_tokens: int
    usd: Spread
    usd_longest: float
    usd_worst: float
    prices: Prices
    price_source: str


@dataclass(frozen=True)
class Bill:
    """What all of it will cost.

    Parameters
    ----------
    prompts, repeats : int
        Every model answers each prompt so many times.
    items : tuple of Item
    is_assumed : bool
        Whether the lengths of answers are assumed, as no model of the pool tells them.
    """

    prompts: int
    repeats: int
    items: tuple[Item, ...]
    is_assumed: bool

    @property
    def calls(self) -> int:
        """Calls to make."""
        return sum(item.calls for item in self.items)

    @property
    def usd(self) -> Spread:
        """What is expected."""
        return sum((item.usd for item in self.items), NOTHING)

    @property
    def usd_longest(self) -> float:
        """When every answer is as long as it may be; see `Item`."""
        return sum(item.usd_longest for item in self.items)

    @property
    def usd_worst(self) -> float:
        """When every call, besides, is made as often as it may be; a budget holds even then."""
        return sum(item.usd_worst for item in self.items)

    def as_dict(self) -> dict[str, Any]:
        """Return the bill as JSON can hold it."""
        whole = {"calls": self.calls, "usd": dataclasses.asdict(self.usd)}
        most = {"usd_longest": self.usd_longest, "usd_worst": self.usd_worst}
        return {**dataclasses.asdict(self), **whole, **most}


class Lengths:
    """How long answers to each question will be, as the pool's models tell.

    Parameters
    ----------
    router : UniRouter
    regions : array (n_questions,)
        The region of each question.
    """

    def __init__(self, router: UniRouter, regions: Labels) -> None:
        by_model = [tokens for profile in router.pool.values() if (tokens := _answer_tokens(profile)) is not None]
        self.is_assumed = not by_model
        if by_model:
            each = np.stack([tokens[regions] for tokens in by_model])
            self._low, self._high = each.min(axis=0) / WIDER, each.max(axis=0) * WIDER
        else:
            self._low, self._high = (np.full(len(regions), tokens) for tokens in USUAL_TOKENS)

    def of(self, rows: Sequence[int], caller: Caller) -> Spread:
        """Return the tokens of the caller's answers to these questions together.

        A model that thinks before it answers may take all that it is allowed.
        """
        each = (np.minimum(tokens[list(rows)], caller.max_tokens).sum() for tokens in (self._low, self._high))
        low, high = (caller.samples * float(total) for total in each)
        longest = float(caller.samples * len(rows) * caller.max_tokens)
        return Spread(low, longest if caller.reasons else high)

    def usual(self, row: int, max_tokens: float) -> float:
        """Return the tokens of one answer to the question in this row, as many as likely."""
        return float(min(self._high[row], max_tokens))


def _answer_tokens(profile: ModelProfile) -> Array | None:
    """Return the expected tokens of a model's answers in each region, (n_regions,); None where only USD are known."""
    prices = profile.prices
    if prices is None or not prices.output or not profile.cost.per_token:
        return None
    served = profile.provenance.get(SERVED_AS, {})
    samples = (served.get("votes") or {}).get("samples", 1)
    return np.asarray(profile.cost.per_answer * (TOKENS_PER_PRICE / prices.output / samples))


# --- Drawing it up ----------------------------------------------------------------------------------------------------


def draw_up(run: Run, lengths: Lengths) -> Bill:
    """Return the bill of a run, for what is not in its store yet."""
    items = [_measured(measurement, lengths) for measurement in run.measurements]
    if run.references is not None:
        items.append(_reference(run, run.references, lengths))
    if run.bench is not None:
        items.append(_judge(run, run.bench, lengths))
    return Bill(len(run.asked.questions), run.asked.repeats, tuple(items), lengths.is_assumed)


def _measured(measurement: Measurement, lengths: Lengths) -> Item:
    rows = [job.row for job in measurement.to_ask()]
    tokens = [measurement.tokens_of(row) for row in rows]
    return _item(measurement.caller, "measured", tokens, lengths.of(rows, measurement.caller), len(measurement.answers))


def _reference(run: Run, references: References, lengths: Lengths) -> Item:
    caller, questions = references.caller, run.asked.questions
    wanted = {job.row for measurement in run.measurements for job in measurement.jobs(range(len(questions)))}
    rows = [row for row in sorted(wanted) if questions[row].lacks_reference and not references.has(questions[row])]
    tokens = [caller.charged(run.asked.sizes[row]) for row in rows]
    return _item(caller, "reference", tokens, lengths.of(rows, caller), len(run.asked.lacking) - len(rows))


def _judge(run: Run, bench: Bench, lengths: Lengths) -> Item:
    """Return what the judge does: verdicts on the answers, and on what it is tried on first."""
    tokens, worst, paid = [], [], 0
    for measurement in run.measurements:
        rows = [job.row for job in measurement.jobs(range(len(run.asked.questions)))]
        for row in rows:
            question = run.asked.questions[row]
            if question.grader is None:
                tokens.append(bench.tokens(question) + lengths.usual(row, measurement.caller.max_tokens))
                worst.append(bench.worst(question, measurement.caller.max_tokens))
        paid += sum(run.asked.questions[row].grader is None for row in measurement.graded_rows)
    tried = bench.tried(run.asked.pairs, run.store)
    for pair in run.asked.pairs:
        if pair not in tried:
            tokens.append(bench.caller.tokens(bench.judge.messages(pair.question, pair.answer)))
            worst.append(bench.caller.worst(tokens[-1]))
    said = Spread(*(len(tokens) * min(usual, bench.caller.max_tokens) for usual in VERDICT_TOKENS))
    return _item(bench.caller, "judge", tokens, said, paid + len(tried), worst=worst, attempts=VERDICTS * ATTEMPTS)


def _item(
    caller: Caller,
    role: Role,
    tokens_in: Sequence[float],
    tokens_out: Spread,
    paid: int,
    *,
    worst: Sequence[float] | None = None,
    attempts: int = ATTEMPTS,
) -> Item:
    """Return what one model does, by the prompt tokens of each call to make, and the USD of each at worst."""
    prices, sent = caller.quoted.prices, sum(tokens_in)
    usd = Spread(prices.cost(sent, tokens_out.low), prices.cost(sent, tokens_out.high))
    longest = sum(map(caller.worst, tokens_in) if worst is None else worst)
    return Item(
        caller.member.name,
        role,
        len(tokens_in),
        paid,
        sent,
        tokens_out,
        caller.max_tokens,
        usd,
        longest,
        attempts * longest,
        prices,
        caller.quoted.source,
    )
