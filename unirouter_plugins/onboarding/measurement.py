"""One model on all questions: what is still to be asked, asking it, and the evaluation that comes of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from unirouter_core.costs import Prices
from unirouter_core.data import Evaluation, ValidationSet
from unirouter_core.embedding import Array
from unirouter_core.exceptions import InvalidDataError
from unirouter_plugins.onboarding.answers import Answer, AnswerKey, AnswerStore, Entry, Grade
from unirouter_plugins.onboarding.ask import Caller, CallFailedError, NoGradeError, kept
from unirouter_plugins.onboarding.budget import Hold, OverBudgetError
from unirouter_plugins.onboarding.committer import Committer
from unirouter_plugins.onboarding.grades import grade_answer
from unirouter_plugins.onboarding.marking import Marker
from unirouter_plugins.onboarding.pacing import ATTEMPTS, together
from unirouter_plugins.onboarding.questions import Question, Questions
from unirouter_plugins.onboarding.references import UngradableError
from unirouter_plugins.onboarding.tally import Tally


class Job(NamedTuple):
    """One answer: to the question in this row, for the so many-th time."""

    row: int
    repeat: int


class Measurement:
    """One model on the questions.

    Parameters
    ----------
    caller : Caller
    questions : Questions
    sizes : sequence of float
        The tokens of each question's chat.
    marker : Marker
    store : AnswerStore
    commit : Committer
        Into that store.
    repeats : int
        Answers to each question.
    concurrency : int
        Answers asked for at once.

    Attributes
    ----------
    calls, grades : Tally
    asked : int
        Answers of this run.
    spent : float
        USD of this run, for answers, references and grades; a bill not known counts at its worst.
    ungradable : set of int
        Rows of questions that nothing can grade.
    out_of_budget : str or None
        Why no more was asked.
    told : function
        Called after every answer.
    """

    def __init__(
        self,
        caller: Caller,
        questions: Questions,
        sizes: Sequence[float],
        marker: Marker,
        store: AnswerStore,
        commit: Committer,
        *,
        repeats: int,
        concurrency: int,
    ) -> None:
        self.caller, self.questions, self.marker, self.repeats = caller, questions, marker, repeats
        self.calls, self.grades = Tally("calls"), Tally("grades")
        self.asked = 0
        self.spent = 0.0
        self.ungradable: set[int] = set()
        self.out_of_budget: str | None = None
        self.told: Callable[[], None] = lambda: None
        self._sizes = sizes
        self._store, self._commit, self._concurrency = store, commit, concurrency
        self._answers: dict[Job, Answer] = {}
        self._errors: dict[Job, float] = {}
        self._failed: set[Job] = set()
        self._keys = [marker.key(question) for question in questions]
        self._take_kept()

    # --- What there is ------------------------------------------------------------------------------------------

    @property
    def model(self) -> str:
        """The model's name in the pool."""
        return self.caller.member.name

    @property
    def n_jobs(self) -> int:
        """How many answers there are to be."""
        return len(self.questions) * self.repeats

    @property
    def n_done(self) -> int:
        """How many there are, graded, and how many failed or cannot be graded."""
        return len(self._errors) + len(self._failed) + self.repeats * len(self.ungradable)

    def jobs(self, rows: Iterable[int]) -> Iterator[Job]:
        """Yield the answers to these questions that are still to be asked for or graded, row by row."""
        for row in rows:
            for repeat in range(self.repeats):
                job = Job(row, repeat)
                if not (job in self._errors or job in self._failed or row in self.ungradable):
                    yield job

    def to_ask(self) -> list[Job]:
        """Return the answers that are not paid for yet, nor as the reference model's."""
        jobs = self.jobs(range(len(self.questions)))
        return [job for job in jobs if job not in self._answers and not self._is_reference(job)]

    def _is_reference(self, job: Job) -> bool:
        return job.repeat == 0 and self.marker.gives_reference(self.caller, self.questions[job.row])

    @property
    def graded_rows(self) -> list[int]:
        """The question of every graded answer."""
        return [job.row for job in self._errors]

    def tokens_of(self, row: int) -> float:
        """Return about how many prompt tokens one answer to this question is charged."""
        return self.caller.charged(self._sizes[row])

    def _take_kept(self) -> None:
        """Take the answers and grades of earlier runs from the store."""
        caller = self.caller
        answers = self._store.answers(self.model, caller.settings_digest)
        grades = self._store.grades(self.model, caller.settings_digest, sorted(set(self._keys)))
        for row, question in enumerate(self.questions):
            for repeat in range(self.repeats):
                answer = answers.get((question.digest, repeat))
                grade = grades.get((question.digest, repeat, self._keys[row]))
                if answer is not None and (grade is not None or answer.text is not None):
                    self._answers[Job(row, repeat)] = answer
                if answer is not None and grade is not None:
                    self._errors[Job(row, repeat)] = grade.error
        self.ungradable = {row for row, question in enumerate(self.questions) if self.marker.cannot_grade(question)}
        self.calls.done, self.grades.done = len(self._answers), len(self._errors)

    # --- Asking -------------------------------------------------------------------------------------------------

    @property
    def is_stopped(self) -> bool:
        """Whether no more is to be asked: too much has failed, or the budget is used up."""
        hopeless = self.calls.is_hopeless(self.n_jobs) or self.grades.is_hopeless(self.n_jobs)
        return hopeless or self.out_of_budget is not None

    async def ask(self, rows: Sequence[int]) -> None:
        """Ask for all answers to these questions that there are not yet, and grade them; stop when it is hopeless."""
        jobs = self.jobs(rows)

        async def work() -> None:
            for job in jobs:
                if self.is_stopped:
                    return
                await self.do(job)

        await together(work() for _ in range(self._concurrency))

    async def do(self, job: Job, *, attempts: int = ATTEMPTS) -> CallFailedError | NoGradeError | None:
        """Get one answer and its grade, keep both, and return what failed, if anything did."""
        failure: CallFailedError | NoGradeError | None = None
        try:
            await self._do(job, attempts)
        except OverBudgetError as refused:
            self.out_of_budget = str(refused)
        except UngradableError:
            self.ungradable.add(job.row)
        except NoGradeError as failed:
            self.grades.went_wrong(failed.kind, str(failed))
            failure = failed
        except CallFailedError as failed:
            self.calls.went_wrong(failed.kind, str(failed))
            failure = failed
        if failure is not None:
            self._failed.add(job)
        self.told()
        return failure

    async def _do(self, job: Job, attempts: int) -> None:
        async with self.caller.budget.hold() as hold:
            try:
                question = await self.marker.ready(self.questions[job.row], hold)
                answer = self._answers.get(job) or self._reference(job)
                if answer is None:
                    await self._ask_and_grade(job, question, hold, attempts)
                else:
                    await self._grade(job, question, answer, hold)
            finally:
                self.spent += hold.spent

    def _reference(self, job: Job) -> Answer | None:
        """Take the answer that the model gave as the reference model; None where it gave none."""
        answer = self.marker.own_answer(self.caller, self.questions[job.row]) if job.repeat == 0 else None
        if answer is not None:
            self._answers[job] = answer
            self.calls.went_well()
        return answer

    async def _ask_and_grade(self, job: Job, question: Question, hold: Hold, attempts: int) -> None:
        ahead = self.marker.worst(question, self.caller.max_tokens)
        tokens = self.tokens_of(job.row)
        answer = kept(await self.caller(question.messages, tokens, hold, ahead=ahead, attempts=attempts))
        self.asked += 1
        self.calls.went_well()
        self._answers[job] = answer
        try:
            grade = grade_answer(question, answer.text or "")
        except InvalidDataError:  # of the user's own grader, whose cure should cost nothing
            await self._commit(Entry(self._name(job), answer))
            raise
        if grade is None:  # a judge takes its time, and what is paid for is kept first
            await self._commit(Entry(self._name(job), answer))
            await self._grade(job, question, answer, hold)
        else:
            await self._commit(Entry(self._name(job), answer, self._keys[job.row], grade))
            self._has_grade(job, grade)

    async def _grade(self, job: Job, question: Question, answer: Answer, hold: Hold) -> None:
        grade = await self.marker.grade(question, answer.text or "", hold)
        await self._commit(Entry(self._name(job), None, self._keys[job.row], grade))
        self._has_grade(job, grade)

    def _has_grade(self, job: Job, grade: Grade) -> None:
        self._errors[job] = grade.error
        self.grades.went_well()

    def _name(self, job: Job) -> AnswerKey:
        return AnswerKey(self.model, self.questions[job.row].digest, self.caller.settings_digest, job.repeat)

    # --- What comes of it ---------------------------------------------------------------------------------------

    @property
    def n_answered(self) -> int:
        """How many questions have a graded answer."""
        return len(set(self.graded_rows))

    @property
    def answers(self) -> list[Answer]:
        """All answers, of this run and of earlier ones."""
        return list(self._answers.values())

    def evaluation(
        self, validation: ValidationSet, prices: Prices, provenance: Mapping[str, Any] | None = None
    ) -> Evaluation:
        """Return what the model did so far; questions not asked yet are NaN and not `failed`.

        Raises
        ------
        InvalidDataError
            When fewer than 2 questions have a graded answer.
        """
        n = len(self.questions)
        fields = ("usd", "tokens_in", "tokens_out", "seconds")
        costs, tokens_in, tokens_out, seconds = (self._means(name) for name in fields)
        errors = means_of(((job.row, error) for job, error in self._errors.items()), n)
        without = self.ungradable | {job.row for job in self._failed}
        failed = np.isnan(errors) & np.isin(np.arange(n), list(without))
        truncated = np.isin(np.arange(n), [job.row for job, answer in self._answers.items() if answer.truncated])
        times = Counter(job.row for job in self._errors)
        return Evaluation(
            self.model,
            validation,
            errors,
            costs,
            tokens_in,
            tokens_out,
            seconds,
            min(times.values(), default=self.repeats),
            failed,
            truncated,
            prices,
            provenance,
        )

    def _means(self, name: str) -> Array:
        """Return the mean of a number of the answers to each question, (n_questions,)."""
        numbers = ((job.row, getattr(answer, name)) for job, answer in self._answers.items())
        return means_of(((row, number) for row, number in numbers if number is not None), len(self.questions))


def means_of(numbers: Iterable[tuple[int, float]], n: int) -> Array:
    """Return the mean of the numbers of each row, (n,), NaN where there are none."""
    sums, counts = np.zeros(n), np.zeros(n)
    for row, number in sorted(numbers):  # sorted, so that sums do not depend on who was faster
        sums[row] += number
        counts[row] += 1
    return np.asarray(np.divide(sums, counts, out=np.full(n, np.nan), where=counts > 0))
