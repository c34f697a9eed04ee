"""Answers of logs to answers of a store: what models have answered to the questions already is graded, not paid for."""

from __future__ import annotations

import asyncio
import datetime
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from unirouter_core.costs import TokenCounter
from unirouter_core.exceptions import InvalidDataError
from unirouter_core.outcome_files import count
from unirouter_core.tables import is_empty
from unirouter_plugins.graders import is_refusal
from unirouter_plugins.litellm.pool_file import Member
from unirouter_plugins.litellm.prices import Quote
from unirouter_plugins.logs import Log, read_log
from unirouter_plugins.onboarding.ask import OnboardingOptions, settings_digest, settings_of
from unirouter_plugins.onboarding.questions import Question, Questions
from unirouter_plugins.onboarding.store import Answer, AnswerKey, AnswerStore

_AMOUNTS = ("tokens_in", "tokens_out", "cost")


class Logged:
    """The answers in `options.answers` to the questions, under the members as they are asked; `said` counts them."""

    def __init__(
        self,
        options: OnboardingOptions,
        questions: Questions,
        members: Sequence[Member],
        quotes: Mapping[str, Quote],
        counter: TokenCounter,
    ) -> None:
        self.answers: dict[AnswerKey, Answer] = {}
        log = options.answers if isinstance(options.answers, Log) else read_log(options.answers)
        rows = _rows(log)
        by_digest, today = {q.digest: q for q in questions}, datetime.datetime.now(datetime.UTC).isoformat()
        self._chats = {q.digest: q.messages for q in questions}
        self._settings: dict[tuple[str, str], Mapping[str, Any]] = {}
        times = Counter[tuple[str, str]]()
        for row in rows:
            for member in members:
                if not _is_of(member, row["model"]) or (found := by_digest.get(_digest(row, member))) is None:
                    continue
                at, settings = (member.name, found.digest), settings_digest(member, options.max_tokens)
                key = AnswerKey(member.name, found.digest, settings, times[at])
                times[at] += 1
                text, tokens_in, tokens_out, usd = row["answer"], *map(partial(_number, row), _AMOUNTS)
                if tokens_in is None:
                    tokens_in = member.expanded_tokens(found.count_tokens(counter), counter)
                if tokens_out is None:
                    tokens_out = float(counter.count([text])[0])
                if usd is None:
                    usd = quotes[member.name].prices.cost(tokens_in, tokens_out)
                self._settings[member.name, settings] = settings_of(member, options.max_tokens)
                told = tokens_in, tokens_out, None, None, usd, None, None
                self.answers[key] = Answer(text, *told, refused=is_refusal(text), date=today)
        if not self.answers:
            there = ", ".join(sorted({str(row["model"]) for row in rows})[:5]) or "none that names its model"
            asked = ", ".join(member.name for member in members)
            raise InvalidDataError(
                f"None of the {len(rows)} answers in the logs (of {there}) is of {asked} and to a prompt of the "
                "validation file; give logs of them, or leave answers (--answers) out."
            )
        n = Counter(key.model for key in self.answers if key.repeat < options.repeats)
        self.said = [
            f"{count(n[member.name], 'answer')} of {member.name} from the logs: graded, not paid for again."
            for member in members
            if n[member.name]
        ]

    async def keep(self, store: AnswerStore) -> None:
        """Write the answers to the store, where they stay; those that it holds already are not replaced."""
        store.known = self.answers
        kept = [
            store.add(key, answer, chat=self._chats[key.prompt], settings=self._settings[key.model, key.settings])
            for key, answer in self.answers.items()
        ]
        await asyncio.gather(*map(asyncio.wrap_future, kept))


def _rows(log: Log) -> list[dict[str, Any]]:
    """Return the rows that hold an answer of a model."""
    if log.rows is None:
        return []
    columns = log.rows.values
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return [row for row in rows if not is_empty(row.get("answer")) and not is_empty(row.get("model"))]


def _is_of(member: Member, named: str) -> bool:
    """Return whether a log's name of a model is this one: the pool's, LiteLLM's, or its last part."""
    return named in (member.name, member.model) or named == member.model.rpartition("/")[2]


def _digest(row: Mapping[str, Any], member: Member) -> str:
    """Return the digest of the chat of a row, without the system prompt that the member adds itself."""
    chat = row["messages"] if isinstance(row.get("messages"), list) else []
    if chat and chat[0] == {"role": "system", "content": member.system}:
        chat = chat[1:]
    try:
        return (Question(messages=chat) if chat else Question(str(row["prompt"]))).digest
    except InvalidDataError:  # a chat that cannot be a question: it ends with an answer, or with a tool's
        return ""


def _number(row: Mapping[str, Any], name: str) -> float | None:
    try:
        value = float(row.get(name))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return value if np.isfinite(value) and value >= 0 else None
