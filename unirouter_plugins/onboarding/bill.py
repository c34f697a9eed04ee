"""What onboarding will cost, before any model is called: calls, tokens and USD, expected and at worst."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.special import stdtrit

from unirouter_core.costs import TOKENS_PER_PRICE, Prices
from unirouter_core.embedding import Array, Labels
from unirouter_core.pool import ModelProfile
from unirouter_core.router import UniRouter
from unirouter_plugins.litellm.failures import open_litellm
from unirouter_plugins.litellm.pool_file import Member
from unirouter_plugins.onboarding.ask import ATTEMPTS, Caller
from unirouter_plugins.onboarding.judge import VERDICTS, Grading
from unirouter_plugins.onboarding.questions import Question, Questions
from unirouter_plugins.onboarding.run import Run, means_of
from unirouter_plugins.onboarding.store import Answer

VERDICT_TOKENS = (25.0, 75.0, 200.0)  # tokens of a judge's reason and verdict: low, expected, high
FORM_TOKENS = {"number": 60.0, "choice": 40.0, "text": 40.0, "exact": 25.0, "contains": 60.0, "json": 120.0}
FREE_TOKENS = 250.0  # tokens of an answer that is graded otherwise, or by a judge, where no model tells more
ASSUMED, WIDER, OWN = 3.0, 1.5, 1.25  # an answer may be so much shorter or longer than assumed, the pool's, its own
PROBE = 5  # answers of each model after which the bill is compared with what they cost
TRIFLE = 0.1  # USD: a total below is not worth another question


@dataclass(frozen=True)
class Spread:
    """An expected amount, and the range that holds it in about 90 % of cases."""

    low: float
    expected: float
    high: float


@dataclass(frozen=True)
class Item:
    """What one model does on the bill: `calls` to make, those `paid` for already, and their expected tokens.

    `max_tokens` is that of one answer; `usd` is as expected, `usd_longest` when every answer is as long as it may be
    and the provider's tokenizer finds twice the tokens, `usd_worst` when every call, besides, is billed for all its
    attempts; `prices` are from "pool.toml", "profile" or "LiteLLM" (`price_source`).
    """

    model: str
    role: Literal["measured", "reference", "judge", "check"]
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
    """What all of it will cost: each model answers the prompts `repeats` times; totals are of `items`, which see.

    `is_assumed` says that neither the pool nor answers in the store tell how long answers are. A budget holds even at
    `usd_worst`.
    """

    prompts: int
    repeats: int
    items: tuple[Item, ...]
    is_assumed: bool
    calls: int
    usd: Spread
    usd_longest: float
    usd_worst: float

    def as_dict(self) -> dict[str, Any]:
        """Return the bill as JSON can hold it."""
        return dataclasses.asdict(self)


class Lengths:
    """How long answers to each question will be, as the models of the pool tell; else as the graders ask for."""

    def __init__(self, router: UniRouter, regions: Labels, questions: Questions) -> None:
        self._own = {name: t[regions] for name, p in router.pool.items() if (t := _answer_tokens(p)) is not None}
        self.is_assumed = not self._own
        each = np.stack(list(self._own.values())) if self._own else np.array([_of_form(q) for q in questions])[None]
        self._usual, wider = each.mean(axis=0), ASSUMED if self.is_assumed else WIDER
        self._low, self._high = each.min(axis=0) / wider, each.max(axis=0) * wider

    def of(self, rows: Sequence[int], run: Run | Caller) -> Spread:
        """Return the tokens of a model's answers to these questions together; its own answers tell most."""
        caller = run if isinstance(run, Caller) else run.caller
        own, wider = self._own.get(caller.member.name), OWN
        if not isinstance(run, Caller) and (known := _known(run)):
            mean, wider = _mean(known)
            own = np.full(len(self._usual), mean / caller.samples)
        each = (self._low, self._usual, self._high) if own is None else (own / wider, own, own * wider)
        totals = (float(np.minimum(tokens[list(rows)], caller.max_tokens).sum()) for tokens in each)
        low, usual, high = (caller.samples * total for total in totals)
        if open_litellm().supports_reasoning(model=caller.member.model):  # it may take all that it is allowed
            high = float(caller.samples * len(rows) * caller.max_tokens)
            usual = usual if own is not None else (usual * high) ** 0.5
        return Spread(low, usual, high)

    def usual(self, row: int, max_tokens: float) -> float:
        """Return the tokens of one answer to the question in this row, as many as likely."""
        return float(min(self._usual[row], max_tokens))


def _known(run: Run) -> list[float]:
    """Return the tokens of a model's own answers to each question that has any, their mean where it has several."""
    tokens = ((row, answer.tokens_out) for (row, _), answer in run.answers.items() if answer.tokens_out)
    means = means_of(tokens, len(run.questions))
    return [float(mean) for mean in means if not np.isnan(mean)]


def _mean(known: Sequence[float]) -> tuple[float, float]:
    """Return the mean over questions, and the factor to each end of its 90 % range; one question says little."""
    mean, n = float(np.mean(known)), len(known)
    if n == 1:
        return mean, ASSUMED
    stderr = float(np.std(known, ddof=1)) / n**0.5
    return mean, max(OWN, 1 + float(stdtrit(n - 1, 0.95)) * stderr / mean)


def _of_form(question: Question) -> float:
    return FREE_TOKENS if question.grader is None else FORM_TOKENS.get(question.grader.name, FREE_TOKENS)


def _answer_tokens(profile: ModelProfile) -> Array | None:
    """Return the expected tokens of a model's answers in each region, (n_regions,); None where only USD are known."""
    prices = profile.prices
    if prices is None or not prices.output or not profile.cost.per_token:
        return None
    votes = Member.of(profile).votes
    return np.asarray(profile.cost.per_answer * (TOKENS_PER_PRICE / prices.output / (votes.samples if votes else 1)))


def draw_up(
    questions: Questions,
    runs: Sequence[Run],
    trial: Run | None,
    grading: Grading,
    lengths: Lengths,
    for_checks: Sequence[Item] = (),
) -> Bill:
    """Return the bill of these models, for what is not in their store yet."""
    items = list[Item]()
    for run in runs:
        rows = [row for row, _ in run.to_ask()]
        told = [(a.tokens_in, run.caller.tokens(questions[row])) for (row, _), a in run.answers.items() if a.tokens_in]
        charged = sum(theirs for theirs, _ in told) / sum(ours for _, ours in told) if told else 1.0
        tokens = [charged * run.caller.tokens(questions[row]) for row in rows]
        items.append(_item(run.caller, "measured", tokens, lengths.of(rows, run), len(run.answers)))
    to_grade = [(run, row) for run in runs for row, _ in run.jobs(range(len(questions)))]
    if (caller := grading.references) is not None and questions.without_reference:
        lacking = [row for row in sorted({row for _, row in to_grade}) if questions[row].lacks_reference]
        rows = [row for row in lacking if grading.reference_answer(questions[row]) is None]
        tokens = [caller.tokens(questions[row]) for row in rows]
        paid = len(questions.without_reference) - len(rows)
        items.append(_item(caller, "reference", tokens, lengths.of(rows, caller), paid))
    if (judge := grading.judge) is not None and (caller := grading.judge_caller) is not None and questions.for_judge:
        judged = [(run, row) for run, row in to_grade if questions[row].grader is None]
        base = {row: caller.tokens(judge.asks(questions[row], "")) for row in {row for _, row in judged}}
        tokens = [base[row] + lengths.usual(row, run.caller.max_tokens) for run, row in judged]
        worst = [caller.worst(base[row] + run.caller.max_tokens) for run, row in judged]
        paid = sum(questions[row].grader is None for run in runs for row, _ in run.errors)
        if trial is not None:
            tokens += (tried := [caller.tokens(trial.questions[row]) for row, _ in trial.to_ask()])
            worst, paid = worst + list(map(caller.worst, tried)), paid + len(trial.answers)
        usual = VERDICT_TOKENS
        if trial is not None and (known := _known(trial)):
            mean, wider = _mean(known)
            usual = mean / wider, mean, mean * wider
        said = Spread(*(len(tokens) * min(each, caller.max_tokens) for each in usual))
        items.append(_item(caller, "judge", tokens, said, paid, worst, VERDICTS * ATTEMPTS))
    assumed = lengths.is_assumed and not all(map(_known, runs))
    return total([*items, *for_checks], len(questions), runs[0].repeats, is_assumed=assumed)


def total(items: Sequence[Item], prompts: int, repeats: int = 1, *, is_assumed: bool = False) -> Bill:
    """Return the bill of these items."""
    usd = Spread(*(sum(getattr(item.usd, end) for item in items) for end in ("low", "expected", "high")))
    longest, worst_usd = sum(item.usd_longest for item in items), sum(item.usd_worst for item in items)
    calls = sum(item.calls for item in items)
    return Bill(prompts, repeats, tuple(items), is_assumed, calls, usd, longest, worst_usd)


def for_check(caller: Caller, tokens: Sequence[float], answers: Sequence[Answer]) -> Item:
    """Return what a member does for checks, by the prompt tokens of each call to make and its answers in the store."""
    known = [answer.tokens_out for answer in answers if answer.tokens_out]
    mean, wider = _mean(known) if known else (FREE_TOKENS * caller.samples, ASSUMED)
    most = float(caller.samples * caller.max_tokens)
    said = Spread(*(len(tokens) * min(each, most) for each in (mean / wider, mean, mean * wider)))
    return _item(caller, "check", tokens, said, 0)


def _item(
    caller: Caller,
    role: Literal["measured", "reference", "judge", "check"],
    tokens_in: Sequence[float],
    tokens_out: Spread,
    paid: int,
    worst: Sequence[float] | None = None,
    attempts: int = ATTEMPTS,
) -> Item:
    """Return what one model does, by the prompt tokens of each call to make, and the USD of each at worst."""
    prices, sent = caller.quoted.prices, sum(tokens_in)
    longest = sum(map(caller.worst, tokens_in) if worst is None else worst)
    usd = Spread(*(prices.cost(sent, tokens) for tokens in (tokens_out.low, tokens_out.expected, tokens_out.high)))
    if caller.member.panel is not None:  # what its calls cost is known once they are made
        usd = Spread(0.0, longest, longest)
    name, limit, source = caller.member.name, caller.max_tokens, caller.quoted.source
    return Item(
        name, role, len(tokens_in), paid, sent, tokens_out, limit, usd, longest, attempts * longest, prices, source
    )
