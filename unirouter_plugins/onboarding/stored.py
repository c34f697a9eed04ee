"""What a check says of the answers that are in the store; what its members must answer besides is asked for once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from unirouter_core.data import digests
from unirouter_core.documents import Documents
from unirouter_core.embedding import Array
from unirouter_core.evaluate import check_value
from unirouter_core.exceptions import InvalidDataError
from unirouter_core.pool import ModelProfile
from unirouter_core.router import UniRouter
from unirouter_plugins.graders import Grader
from unirouter_plugins.litellm.chat import Messages
from unirouter_plugins.litellm.checks import AnswerCheck, Context
from unirouter_plugins.litellm.pool_file import Member, Members
from unirouter_plugins.onboarding.ask import FIRST_ATTEMPTS, Caller, Callers, check_first, member_of, settings_digest
from unirouter_plugins.onboarding.bill import FREE_TOKENS, Item, for_check
from unirouter_plugins.onboarding.judge import Grading
from unirouter_plugins.onboarding.questions import Question
from unirouter_plugins.onboarding.run import Checked, Run
from unirouter_plugins.onboarding.store import Answer, AnswerStore

_UNGRADED = Grader("none, a check asked v1", lambda answer, reference: 0.0)  # a run grades; its grades are not used


def stored_answers(store: AnswerStore, profile: ModelProfile) -> dict[tuple[str, int], Answer]:
    """Return the answers, with their texts, that a profile was measured by, by the question's digest and repeat.

    Raises `InvalidDataError` for a model that was onboarded from recorded results.
    """
    name, limit = profile.model, profile.provenance.get("max_tokens")
    if not isinstance(limit, int):
        raise InvalidDataError(
            f"{name!r} was onboarded from recorded results, so its answers are not in the store; evaluate it with "
            "unirouter onboard, or give the signals of your own check to router.add_check."
        )
    found = store.answers(name, settings_digest(Member.of(profile), limit))
    return {key: answer for key, answer in found.items() if answer.text is not None}


class Replay:
    """What members answer to checks: from the store; what it lacks is noted in `missing`, to be asked for.

    `members` say how they are called, else their profiles, but for those in `fresh`, which are onboarded now.
    """

    def __init__(
        self, router: UniRouter, members: Members, store: AnswerStore, callers: Callers, fresh: Collection[str] = ()
    ) -> None:
        self.missing: defaultdict[str, dict[tuple[Question, int], float]] = defaultdict(dict)
        self.ended = ""  # why not all of it was answered
        self._router, self._members, self._store, self._callers = router, members, store, callers
        self._fresh, self._kept = fresh, dict[str, dict[tuple[str, int], Answer]]()

    def _called(self, name: str) -> tuple[Member, int]:
        """Return how a member is called, and the most tokens of its answers here."""
        known = None if name in self._fresh else self._router.pool.get(name)
        limit = None if known is None else known.provenance.get("max_tokens")
        member = member_of(self._router, self._members, name)
        return member, limit if isinstance(limit, int) else self._callers.options.max_tokens

    def _caller(self, name: str) -> Caller:
        member, limit = self._called(name)
        member.require_trust()
        return self._callers.of(member, limit)

    def answer(self, name: str, question: Question, sample: int) -> Answer | None:
        """Return a member's answer where the store has its text."""
        if name not in self._kept:
            found = self._store.answers(name, settings_digest(*self._called(name)))
            self._kept[name] = {key: answer for key, answer in found.items() if answer.text is not None}
        return self._kept[name].get((question.digest, sample))

    def note(
        self,
        check: AnswerCheck,
        model: str,
        questions: Sequence[Question],
        texts: Mapping[str, str],
        coming: Collection[tuple[str, str, int]] = (),
    ) -> int:
        """Note which calls a check of a model's answers needs that the store does not hold; return how many.

        `texts` are its answers by the question's digest, where there are any yet; `coming` are answers that are asked
        for anyway, by model, digest and repeat.
        """
        if not check.calls_members:
            return 0
        before = sum(map(len, self.missing.values()))
        for question in questions:
            text = texts.get(question.digest)

            def ask(
                name: str, messages: Messages, sample: int, question: Question = question, text: str | None = text
            ) -> tuple[str, float]:
                asked = Question(messages=messages, reference="", grader=_UNGRADED)
                if self.answer(name, asked, sample) is None and (name, asked.digest, sample) not in coming:
                    holds_answer = text is None and asked.digest != question.digest
                    self.missing[name][asked, sample] = FREE_TOKENS * holds_answer
                return "", 0.0

            given = f"(the answer of {model})" if text is None else text
            check(question.prompt, given, Context(model, question.messages, ask=ask))
        return sum(map(len, self.missing.values())) - before

    def items(self) -> list[Item]:
        """Return what is missing as it stands on a bill."""
        made = []
        for name, calls in self.missing.items():
            caller = self._caller(name)
            tokens = [caller.tokens(question) + more for (question, _), more in calls.items()]
            made.append(for_check(caller, tokens, list(self._kept[name].values())))
        return made

    async def ask(self, told: Callable[[Run], None] = lambda _: None) -> None:
        """Ask for what is missing, and keep it, within the budget.

        Raises `PreflightError` when the first call of a member fails.
        """
        for name, calls in self.missing.items():
            questions = list(dict.fromkeys(question for question, _ in calls))
            rows = {question: row for row, question in enumerate(questions)}
            repeats = 1 + max(sample for _, sample in calls)
            run = Run(self._caller(name), questions, Grading(self._store), repeats, told)
            jobs = [(rows[question], sample) for question, sample in calls]
            self._kept.pop(name)  # there will be more
            check_first(await run.ask(jobs[:1], 1, attempts=FIRST_ATTEMPTS))
            await run.ask(jobs[1:], self._callers.options.concurrency)
            self.ended = run.out_of_budget or (str(run.calls) if run.is_stopped else self.ended)
        self.missing.clear()

    def signals(self, model: str, check: AnswerCheck, questions: Sequence[Question]) -> tuple[Array, float]:
        """Return what a check says of a model's stored answers, as `UniRouter.add_check` takes it, and its mean USD.

        Where the store has no answer of a member that a check calls, the signal is not known. `questions` are those
        that the model was evaluated on.
        """
        profile = self._router.pool[model]
        first = {question: row for question, row in stored_answers(self._store, profile).items() if not question[1]}
        if not first:
            raise InvalidDataError(
                f"{self._store.shown} holds no answers of {model!r} with texts as it was evaluated; name their place "
                "(--store), or evaluate it again."
            )

        def ask(name: str, messages: Messages, sample: int) -> tuple[str, float]:
            answer = self.answer(name, Question(messages=messages), sample)
            if answer is None or answer.text is None:
                raise LookupError(self.ended or f"the store has no answer of {name!r} to this")
            return answer.text, answer.usd or 0.0

        rows = {name: row for row, name in enumerate(profile.measured.digests)}
        signals, spent = np.full(len(rows), np.nan), list[float]()
        documents = [Documents.of(question.documents or ()) for question in questions]
        named = digests([question.prompt for question in questions], documents)
        for question, name in zip(questions, named, strict=True):
            if name in rows and (answer := first.get((question.digest, 0))) is not None:
                told = {"content": [{"logprob": each} for each in answer.logprobs or ()]}
                response = {"choices": [{"logprobs": told}]}
                context = Context(
                    model, question.messages, documents=question.documents or (), response=response, ask=ask
                )
                found = check(question.prompt, answer.text or "", context)
                if found.signal is not None:
                    signals[rows[name]] = found.signal
                    spent.append(found.usd)
        if not spent:
            why = check.failure or (
                "it gave no signal; is the validation file the one that the model was evaluated on? Stored answers are "
                "texts: a check of tool calls is for router.add_check"
            )
            raise InvalidDataError(
                f"The check {check.name!r} says nothing of {model!r}'s stored answers: {why.rstrip('.')}."
            )
        return signals, float(np.mean(spent))

    def judge(
        self,
        model: str,
        check: AnswerCheck,
        questions: Sequence[Question],
        wrong_at_most: float | None = None,
        confidence: float = 0.95,
    ) -> Checked:
        """Return what a check of a model's stored answers is worth; the router can use it from now on, if it is kept.

        It is unless it does not pay; one with a limit is kept whatever that costs. See `check_value`.
        """
        signals, usd = self.signals(model, check, questions)
        limits = {"wrong_at_most": wrong_at_most, "confidence": confidence}
        value = check_value(self._router, model, check.name, signals, usd=usd, **limits)  # type: ignore[arg-type]
        if kept := value.level != "does not pay" or 0 < value.limit < 1:
            self._router.add_check(model, check.name, signals, usd=usd, limit=value.limit)
        return Checked(value, usd, int(np.isnan(signals).sum()), kept)
