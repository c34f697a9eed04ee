"""The judge at work: its grades, and whether to trust them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from unirouter_plugins.litellm.chat import Messages
from unirouter_plugins.onboarding.answers import AnswerKey, AnswerStore, Entry, Grade
from unirouter_plugins.onboarding.ask import Caller, CallFailedError, NoGradeError, Reply, kept
from unirouter_plugins.onboarding.budget import Hold
from unirouter_plugins.onboarding.committer import Committer
from unirouter_plugins.onboarding.judge import Judge, parse_verdict
from unirouter_plugins.onboarding.known_pairs import JudgeCheck, KnownPair
from unirouter_plugins.onboarding.pacing import together
from unirouter_plugins.onboarding.questions import Question

VERDICTS = 2
"""How often a judge is asked for a verdict that can be read."""

TRIED = "known pairs v1"
"""Who grades the judge's own answers, which are verdicts on known pairs."""


class Bench:
    """A judge and how it is called.

    Parameters
    ----------
    judge : Judge
    caller : Caller
    """

    def __init__(self, judge: Judge, caller: Caller) -> None:
        self.judge, self.caller = judge, caller

    def tokens(self, question: Question) -> float:
        """Return about how many prompt tokens one verdict is charged, besides the answer's."""
        return self.caller.tokens(self.judge.messages(question, ""))

    def worst(self, question: Question, answer_tokens: float) -> float:
        """Return the most USD that one verdict may cost, on an answer of at most so many tokens."""
        return self.caller.worst(self.tokens(question) + answer_tokens)

    async def grade(self, question: Question, answer: str, hold: Hold) -> Grade:
        """Return the judge's grade; one whose verdict cannot be read is asked once more.

        Raises
        ------
        NoGradeError
            When the judge failed, or gave no verdict.
        OverBudgetError
            When the budget does not allow to ask it.
        """
        messages, usd = self.judge.messages(question, answer), 0.0
        for _ in range(VERDICTS):
            reply = await self._reply(messages, hold)
            usd += 0.0 if math.isnan(reply.usd) else reply.usd
            if (error := parse_verdict(reply.text)) is not None:
                return Grade(error, usd, reply.text)
        raise NoGradeError(f"The judge {self.caller.member.name} gave no verdict that can be read.", "verdict")

    async def _reply(self, messages: Messages, hold: Hold) -> Reply:
        try:
            return await self.caller(messages, self.caller.tokens(messages), hold)
        except CallFailedError as failed:
            raise NoGradeError(f"The judge {self.caller.member.name} failed: {failed}", failed.kind) from failed

    async def try_on(self, pairs: Sequence[KnownPair], store: AnswerStore, commit: Committer) -> JudgeCheck:
        """Return what the judge makes of answers of which it is known whether they are right.

        What it says is kept as its own answers, so that it is tried once.

        Raises
        ------
        NoGradeError
            When the judge failed.
        OverBudgetError
            When the budget does not allow to ask it.
        """
        tried = self.tried(pairs, store)
        open_ = [pair for pair in pairs if pair not in tried]
        errors = {pair: await self._try(pair, commit) for pair in open_[:1]}  # alone: a wrong key is seen first
        found = await together(self._try(pair, commit) for pair in open_[1:])
        errors |= tried | dict(zip(open_[1:], found, strict=True))
        return JudgeCheck.of(pairs, [errors[pair] for pair in pairs])

    def tried(self, pairs: Sequence[KnownPair], store: AnswerStore) -> dict[KnownPair, float | None]:
        """Return the verdicts on those of the pairs that it was tried on before."""
        known = store.grades(self.caller.member.name, self.caller.settings_digest, [TRIED])
        names = {pair: self._name(self.judge.messages(pair.question, pair.answer)) for pair in pairs}
        return {pair: known[key].error for pair, n in names.items() if (key := (n.prompt, n.repeat, TRIED)) in known}

    async def _try(self, pair: KnownPair, commit: Committer) -> float | None:
        messages = self.judge.messages(pair.question, pair.answer)
        async with self.caller.budget.hold() as hold:
            reply = await self._reply(messages, hold)
        error = parse_verdict(reply.text)
        if error is not None:  # one that cannot be read is asked again another time
            await commit(Entry(self._name(messages), kept(reply), TRIED, Grade(error)))
        return error

    def _name(self, messages: Messages) -> AnswerKey:
        asked = Question(messages=messages)
        return AnswerKey(self.caller.member.name, asked.digest, self.caller.settings_digest)
