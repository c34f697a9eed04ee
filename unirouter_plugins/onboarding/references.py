"""Right answers to questions that bring none, from a model that is asked first."""

from __future__ import annotations

import asyncio
from collections import defaultdict

from unirouter_core.exceptions import UniRouterError
from unirouter_plugins.onboarding.answers import Answer, AnswerKey, AnswerStore, Entry
from unirouter_plugins.onboarding.ask import Caller, CallFailedError, NoGradeError, kept
from unirouter_plugins.onboarding.budget import Hold
from unirouter_plugins.onboarding.committer import Committer
from unirouter_plugins.onboarding.grades import with_reference
from unirouter_plugins.onboarding.questions import Question


class UngradableError(UniRouterError, RuntimeError):
    """A question that nothing can grade: what the reference model answers cannot serve as a reference."""


class References:
    """The right answers to questions that bring none, as a model gives them; each is asked once.

    Parameters
    ----------
    caller : Caller
    store : AnswerStore
    commit : Committer
        Into that store.
    judged : bool
        Whether a judge compares with them.
    """

    def __init__(self, caller: Caller, store: AnswerStore, commit: Committer, *, judged: bool) -> None:
        self.key = f"{caller.member.name} {caller.settings_digest[:16]}"
        self.caller, self._commit, self._judged = caller, commit, judged
        known = store.answers(caller.member.name, caller.settings_digest)
        self._answers = {
            prompt: answer for (prompt, repeat), answer in known.items() if not repeat and answer.text is not None
        }
        self._asking: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def has(self, question: Question) -> bool:
        """Return whether the model has answered the question."""
        return question.digest in self._answers

    def answer_to(self, question: Question) -> Answer:
        """Return what the model has answered to a question."""
        return self._answers[question.digest]

    def given(self, question: Question) -> Question | None:
        """Return an answered question with its reference; None where the answer cannot serve as one."""
        return with_reference(question, self.answer_to(question).text or "", judged=self._judged)

    async def answered(self, question: Question, hold: Hold) -> Question:
        """Return the question with its reference.

        Raises
        ------
        UngradableError
            When the model's answer cannot serve as one.
        NoGradeError
            When the model failed.
        OverBudgetError
            When the budget does not allow to ask it.
        """
        async with self._asking[question.digest]:
            if not self.has(question):
                self._answers[question.digest] = await self._ask(question, hold)
        if (found := self.given(question)) is None:
            name = self.caller.member.name
            raise UngradableError(f"What {name} answers to {question.name} cannot serve as a reference.")
        return found

    async def _ask(self, question: Question, hold: Hold) -> Answer:
        caller = self.caller
        try:
            reply = await caller(question.messages, caller.tokens(question.messages), hold)
        except CallFailedError as failed:
            raise NoGradeError(f"The reference model {caller.member.name} failed: {failed}", failed.kind) from failed
        answer = kept(reply)
        await self._commit(Entry(AnswerKey(caller.member.name, question.digest, caller.settings_digest), answer))
        return answer
