"""All who are called in one run: the models to measure, the judge and the reference model, on one budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from unirouter_core.costs import TokenCounter
from unirouter_plugins.litellm.pool_file import SERVED_AS, Member
from unirouter_plugins.litellm.prices import Quote
from unirouter_plugins.onboarding.answers import AnswerStore
from unirouter_plugins.onboarding.ask import Caller, NoGradeError, digest_of
from unirouter_plugins.onboarding.bench import Bench
from unirouter_plugins.onboarding.budget import Budget, OverBudgetError
from unirouter_plugins.onboarding.committer import Committer
from unirouter_plugins.onboarding.grades import worth
from unirouter_plugins.onboarding.judge import Judge
from unirouter_plugins.onboarding.known_pairs import JudgeCheck, KnownPair, known_pairs
from unirouter_plugins.onboarding.marking import Marker
from unirouter_plugins.onboarding.measurement import Measurement
from unirouter_plugins.onboarding.preflight import PreflightError, check_first
from unirouter_plugins.onboarding.questions import Question, Questions
from unirouter_plugins.onboarding.references import References

FIRST_ATTEMPTS = 3
"""How often a first call is made: somebody waits for it, and what is wrong with it rarely passes."""


@dataclass(frozen=True)
class Asked:
    """What is asked, of whom, and how.

    Parameters
    ----------
    members : tuple of Member
        To be measured.
    questions : Questions
    sizes : tuple of float
        The tokens of each question's chat, counted once for all models.
    quotes : mapping of str to Quote
        The prices of all who are called, by name.
    judge : Judge, optional
    reference : Member, optional
    repeats, max_tokens, concurrency : int
    timeout : float
    seed : int
    """

    members: tuple[Member, ...]
    questions: Questions
    sizes: tuple[float, ...]
    quotes: Mapping[str, Quote]
    judge: Judge | None
    reference: Member | None
    repeats: int
    max_tokens: int
    concurrency: int
    timeout: float
    seed: int

    @property
    def judged(self) -> Sequence[Question]:
        """Questions that the judge grades."""
        return () if self.judge is None else self.questions.for_judge

    @property
    def lacking(self) -> Sequence[Question]:
        """Questions that the reference model answers first."""
        return () if self.reference is None else self.questions.without_reference

    @property
    def pairs(self) -> Sequence[KnownPair]:
        """What the judge is tried on before it is trusted."""
        return known_pairs(self.questions, seed=self.seed) if self.judged else ()

    def how_measured(self, measurement: Measurement) -> dict[str, Any]:
        """Return what a profile's provenance says of a measurement."""
        caller, answers = measurement.caller, measurement.answers
        how = {
            "date": max((answer.date for answer in answers), default="")[:10],
            "source": f"asked through LiteLLM {version('litellm')}",
            "questions": self.questions.source,
            "graders": sorted({"judge" if q.grader is None else q.grader.name for q in self.questions}),
            "max_tokens": caller.max_tokens,
            "judge": self.judge.member.served_as if self.judge is not None and self.judged else None,
            "reference_model": self.reference.served_as if self.reference is not None and self.lacking else None,
            "prices": caller.quoted.source,
            "refused": sum(answer.refused for answer in answers),
            SERVED_AS: caller.member.served_as,
        }
        return {name: value for name, value in how.items() if value is not None}

    def worth_of_grades(self, ungraded: int) -> str:
        """Return what the grades of prompts without a right answer are worth, of which so many have none."""
        judge = self.judge.member.name if self.judge is not None and self.judged else None
        reference = None if self.reference is None else self.reference.name
        return worth(reference_model=reference, judge=judge, ungraded=ungraded)


class Run:
    """All who are called, each with what it needs.

    Parameters
    ----------
    asked : Asked
    store : AnswerStore
    commit : Committer
        Into that store.
    budget : Budget
    counter : TokenCounter
    told : function of a Measurement
        Called after each of its answers.
    """

    def __init__(
        self,
        asked: Asked,
        store: AnswerStore,
        commit: Committer,
        budget: Budget,
        counter: TokenCounter,
        told: Callable[[Measurement], None] = lambda _: None,
    ) -> None:
        self.asked, self.budget = asked, budget
        self.store = store
        self._commit, self._counter, self._told = commit, counter, told
        self._callers: dict[str, Caller] = {}
        self.bench = self._bench() if asked.judged else None
        self.references = self._references() if asked.lacking else None
        self.measurements = [self._measurement(member) for member in asked.members]

    def _caller(self, member: Member, max_tokens: int) -> Caller:
        """Return who calls a member; one that has two roles is paced as one."""
        name = digest_of({**member.served_as, "called": member.name, "max_tokens": max_tokens})
        if name not in self._callers:
            self._callers[name] = Caller(
                member,
                self.asked.quotes[member.name],
                max_tokens=max_tokens,
                counter=self._counter,
                budget=self.budget,
                concurrency=self.asked.concurrency,
                timeout=self.asked.timeout,
            )
        return self._callers[name]

    def _bench(self) -> Bench:
        judge = self.asked.judge
        assert judge is not None  # there are questions for it
        return Bench(judge, self._caller(judge.member, judge.max_tokens))

    def _references(self) -> References:
        reference = self.asked.reference
        assert reference is not None  # there are questions for it
        caller = self._caller(reference, self.asked.max_tokens)
        return References(caller, self.store, self._commit, judged=self.bench is not None)

    def _measurement(self, member: Member) -> Measurement:
        made = Measurement(
            self._caller(member, self.asked.max_tokens),
            self.asked.questions,
            self.asked.sizes,
            Marker(self.bench, self.references),
            self.store,
            self._commit,
            repeats=self.asked.repeats,
            concurrency=self.asked.concurrency,
        )
        made.told = lambda: self._told(made)
        return made

    def describe(self) -> None:
        """Keep in the store what the digests in it stand for."""
        settings = {caller.settings_digest: caller.settings for caller in self._callers.values()}
        self.store.describe(chats={q.digest: list(q.messages) for q in self.asked.questions}, settings=settings)

    async def first_calls(self, order: Sequence[int]) -> JudgeCheck | None:
        """Make one call of each model, then try the judge: what is wrong with them is seen before much is spent.

        Raises
        ------
        PreflightError
            When one of them failed, or the judge is not to be trusted; what was answered is kept.
        """
        try:
            for measurement in self.measurements:
                await self._first_call(measurement, order)
            return await self._try_judge()
        except OverBudgetError as refused:
            for measurement in self.measurements:
                measurement.out_of_budget = str(refused)
            return None

    async def _try_judge(self) -> JudgeCheck | None:
        if self.bench is None or not self.asked.pairs:
            return None
        try:
            check = await self.bench.try_on(self.asked.pairs, self.store, self._commit)
        except NoGradeError as failed:
            check_first(failed)
            raise
        if not check.passes:
            raise PreflightError(f"{check} That is too few to trust it; take another judge, or another prompt for it.")
        return check

    async def _first_call(self, measurement: Measurement, order: Sequence[int]) -> None:
        job = next(measurement.jobs(order), None)
        if job is None:
            return
        check_first(await measurement.do(job, attempts=FIRST_ATTEMPTS))
        prices = measurement.caller.quoted.prices
        unbilled = measurement.answers and all(answer.usd is None for answer in measurement.answers)
        if unbilled and (prices.input or prices.output) and not any(a.refused for a in measurement.answers):
            raise PreflightError(
                f"{measurement.model} answers without saying how many tokens it took, so what it costs is not known; "
                "use an address that reports usage, or, if it is free, give it prices of 0 in pool.toml."
            )
