"""Right answers to questions that bring none, from a model that is asked first."""

from __future__ import annotations

import asyncio
from collections import defaultdict

from unirouter_core.exceptions import UniRouterError
from unirouter_plugins.measuring.answers import AnswerKey, AnswerStore, Entry
from unirouter_plugins.measuring.asking import Caller, CallFailedError, NoGradeError, kept
from unirouter_plugins.measuring.budget import Hold
from unirouter_plugins.measuring.committer import Committer
from unirouter_plugins.measuring.grades import with_reference
from unirouter_plugins.measuring.questions import Question


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
        self._texts = {prompt: answer.text for (prompt, _), answer in known.items() if answer.text is not None}
        self._asking: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def has(self, question: Question) -> bool:
        """Return whether the model has answered the question."""
        return question.digest in self._texts

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
            if question.digest not in self._texts:
                self._texts[question.digest] = await self._ask(question, hold)
        found = with_reference(question, self._texts[question.digest], judged=self._judged)
        if found is None:
            name = self.caller.member.name
            raise UngradableError(f"What {name} answers to {question.name} cannot serve as a reference.")
        return found

    async def _ask(self, question: Question, hold: Hold) -> str:
        caller = self.caller
        try:
            reply = await caller(question.messages, caller.tokens(question.messages), hold)
        except CallFailedError as failed:
            raise NoGradeError(f"The reference model {caller.member.name} failed: {failed}", failed.kind) from failed
        await self._commit(Entry(AnswerKey(caller.member.name, question.digest, caller.settings_digest), kept(reply)))
        return reply.text
