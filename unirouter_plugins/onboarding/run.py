"""One model on all questions: its answers are asked for, graded and kept, and become an evaluation."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np

from unirouter_core.data import Evaluation, ValidationSet
from unirouter_core.embedding import Array
from unirouter_core.evaluate import CheckValue, Impact
from unirouter_core.evaluate.stopping import Undecided
from unirouter_core.pool import ModelProfile
from unirouter_plugins.onboarding.ask import ATTEMPTS, Caller, CallFailedError, OverBudgetError
from unirouter_plugins.onboarding.judge import Grading
from unirouter_plugins.onboarding.questions import Question
from unirouter_plugins.onboarding.store import Answer

TOO_MANY = 0.2  # a larger share of failed calls leaves prompts out that have something in common: no fair evaluation
IN_A_ROW = 10  # this number of failures in a row is no bad luck: the provider is down, or a key has been withdrawn
LAST_ANSWERS = 5.0  # seconds that answers in flight are waited for after Ctrl-C
FEWEST_ANSWERS = 50  # a model that the budget leaves with fewer has an error not known to better than 7 %
Stopped: TypeAlias = Literal["budget", "decided", "failures"] | None
Job: TypeAlias = tuple[int, int]  # one answer: the row of its question, and the number of the repeat


@dataclass(frozen=True, eq=False)
class Checked:
    """What a check of a model's answers is worth, its mean USD, the answers without a signal, whether it is kept."""

    value: CheckValue
    usd: float
    unknown: int
    saved: bool

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {**self.value.as_dict(), "usd": self.usd, "unknown": self.unknown, "saved": self.saved}


@dataclass(frozen=True, eq=False)
class Onboarded:
    """The result of one model.

    `profile`, `evaluation` and `impact` (what the model changes in the pool) are None where it was not onboarded;
    `reason` then says why. Of `prompts` in the validation set, `answered` have a graded answer, of this run or an
    earlier one. Of this run are `asked` (answers), `failed` and `judge_failures` (calls of the model, and of judge and
    reference model for it, that failed after all attempts) and `spent_usd`, in which a bill not known counts at its
    worst. `ungradable` counts prompts that nothing can grade, `truncated` and `refused` answers. `stopped` says why not
    all prompts were answered, `undecided` is the last check whether more were needed, `notes` is what else to know.
    `checks` are those of its answers, as judged once all models were onboarded.
    """

    model: str
    profile: ModelProfile | None
    evaluation: Evaluation | None
    impact: Impact | None
    prompts: int
    answered: int
    asked: int
    failed: int
    judge_failures: int
    ungradable: int
    truncated: int
    refused: int
    spent_usd: float
    stopped: Stopped
    undecided: Undecided | None
    reason: str
    notes: tuple[str, ...]
    checks: tuple[Checked, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it, without the evaluation and the profile's arrays."""
        told = {name: value for name, value in vars(self).items() if name not in ("profile", "evaluation")}
        told |= {
            name: part and part.as_dict() for name, part in (("impact", self.impact), ("undecided", self.undecided))
        }
        if self.profile is not None:
            told |= {"error": self.profile.error, "provenance": dict(self.profile.provenance)}
        listed = {"notes": list(self.notes), "checks": [each.as_dict() for each in self.checks]}
        return {**told, **listed, "onboarded": self.profile is not None}


@dataclass
class Tally:
    """How many calls of one kind (`what`) were answered, and which failed."""

    what: str
    done: int = 0
    failures: list[CallFailedError] = field(default_factory=list)
    in_a_row: int = 0

    def count(self, failure: CallFailedError | None = None) -> None:
        """Count a call that was answered, or one that failed."""
        if failure is None:
            self.done, self.in_a_row = self.done + 1, 0
        else:
            self.failures.append(failure.with_traceback(None))
            self.in_a_row += 1

    @property
    def failed(self) -> int:
        """How many failed."""
        return len(self.failures)

    def is_hopeless(self, n: int) -> bool:
        """Return whether to stop before all `n` calls are made."""
        return self.in_a_row >= IN_A_ROW or self.failed > TOO_MANY * n

    def __str__(self) -> str:
        (kind, _), *_ = Counter(failure.kind for failure in self.failures).most_common(1)
        first = next(failure for failure in self.failures if failure.kind == kind)
        by = f" by {first.member.name}" if self.what == "grades" else ""
        return f"{self.failed} of {self.done + self.failed} {self.what}{by} failed, most often so: {first}"


class Run:
    """One model on the questions, each answered `repeats` times; `told` is called after every answer.

    `answers` and `errors` are those of this run and of earlier ones, `n_asked` counts the answers of this run; `spent`
    is its USD for answers, references and grades, a bill not known at its worst; `ungradable` are the rows of questions
    that nothing can grade; `out_of_budget` says why it stopped.
    """

    def __init__(
        self,
        caller: Caller,
        questions: Sequence[Question],
        grading: Grading,
        repeats: int = 1,
        told: Callable[[Run], None] = lambda _: None,
    ) -> None:
        self.caller, self.questions, self.repeats, self.told = caller, questions, repeats, told
        self.calls, self.grades = Tally("calls"), Tally("grades")
        self.n_asked, self.spent = 0, 0.0
        self.out_of_budget: str | None = None
        self._grading = grading
        self._keys = [grading.key(question) for question in questions]
        self.answers: dict[Job, Answer] = {}
        self.errors: dict[Job, float] = {}
        self.failed: set[Job] = set()
        self.ungradable = {row for row, question in enumerate(questions) if grading.cannot_grade(question)}
        answers = grading.store.answers(self.model, caller.settings_digest)
        grades = grading.store.grades(self.model, caller.settings_digest)
        for (row, question), repeat in itertools.product(enumerate(questions), range(repeats)):
            answer = answers.get((question.digest, repeat))
            grade = grades.get((question.digest, repeat, self._keys[row]))
            if answer is not None and (grade is not None or answer.text is not None):
                self.answers[row, repeat] = answer
                if grade is not None:
                    self.errors[row, repeat] = grade.error
        self.calls.done, self.grades.done = len(self.answers), len(self.errors)

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
        """How many are graded, failed or cannot be graded."""
        return len(self.errors) + len(self.failed) + self.repeats * len(self.ungradable)

    @property
    def n_answered(self) -> int:
        """How many questions have a graded answer."""
        return len({row for row, _ in self.errors})

    def jobs(self, rows: Iterable[int]) -> Iterator[Job]:
        """Yield the answers to these questions that are still to be asked for or graded, row by row."""
        for job in itertools.product(rows, range(self.repeats)):
            if not (job in self.errors or job in self.failed or job[0] in self.ungradable):
                yield job

    def to_ask(self, rows: Iterable[int] | None = None) -> list[Job]:
        """Return the answers (to these questions) that are not paid for yet, nor as the reference model's."""
        jobs = self.jobs(range(len(self.questions)) if rows is None else rows)
        return [job for job in jobs if job not in self.answers and not self._is_reference(job)]

    def _is_reference(self, job: Job) -> bool:
        return job[1] == 0 and self._grading.is_reference(self.caller, self.questions[job[0]])

    @property
    def is_stopped(self) -> bool:
        """Whether no more is to be asked: too much has failed, or the budget is used up."""
        hopeless = self.calls.is_hopeless(self.n_jobs) or self.grades.is_hopeless(self.n_jobs)
        return hopeless or self.out_of_budget is not None

    async def ask(self, jobs: Iterable[Job], concurrency: int, *, attempts: int = ATTEMPTS) -> CallFailedError | None:
        """Get the answers that are missing and grade them, until it is hopeless; return the last failure.

        After Ctrl-C, or a grader's failure, what is in flight is still waited for, as it is paid for.
        """
        left, before = (job for job in jobs), self.caller.budget.spent
        failed: CallFailedError | None = None

        async def work() -> None:
            nonlocal failed
            for job in left:
                if self.is_stopped:
                    return
                failed = await self._do(job, attempts) or failed
                self.told(self)

        tasks = [asyncio.ensure_future(work()) for _ in range(min(concurrency, self.n_jobs))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            left.close()
            await asyncio.wait(tasks, timeout=LAST_ANSWERS)
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            self.spent += self.caller.budget.spent - before
        for error in ended:
            if error is not None:
                raise error
        return failed

    async def _do(self, job: Job, attempts: int) -> CallFailedError | None:
        """Get one answer and its grade, and keep both; return the failure if there is one."""
        try:
            await self._answer_and_grade(job, attempts)
        except OverBudgetError as refused:
            self.out_of_budget = str(refused)
        except CallFailedError as failed:
            (self.calls if failed.member == self.caller.member else self.grades).count(failed)
            self.failed.add(job)
            return failed
        return None

    async def _answer_and_grade(self, job: Job, attempts: int) -> None:
        row, repeat = job
        question = await self._grading.with_reference(self.questions[row])
        if question is None:
            self.ungradable.add(row)
            return
        answer = self.answers.get(job)
        if answer is None and self._is_reference(job):
            answer = self._grading.reference_answer(question)
        kept: list[asyncio.Future[None]] = []
        if answer is None:
            answer = await self.caller(self.questions[row], attempts=attempts)
            kept.append(self._grading.keep(self.caller, question, answer, repeat=repeat))
            self.n_asked += 1
        if job not in self.answers:
            self.answers[job] = answer
            self.calls.count()
        try:
            grade = await self._grading.grade(question, answer.text or "")
            kept.append(self._grading.keep(self.caller, question, None, self._keys[row], grade, repeat))
        finally:
            await asyncio.gather(*kept)
        self.errors[job] = grade.error
        self.grades.count()

    def evaluation(self, validation: ValidationSet, provenance: Mapping[str, Any]) -> Evaluation:
        """Return what the model did so far; questions not asked yet are NaN and not `failed`."""
        rows = np.arange(len(self.questions))
        errors = means_of(((row, error) for (row, _), error in self.errors.items()), len(rows))
        failed = np.isnan(errors) & np.isin(rows, list(self.ungradable | {row for row, _ in self.failed}))
        times = Counter(row for row, _ in self.errors)
        return Evaluation(
            self.model,
            validation,
            errors,
            costs=self._means("usd"),
            tokens_in=self._means("tokens_in"),
            tokens_out=self._means("tokens_out"),
            latencies=self._means("seconds"),
            repeats=min(times.values(), default=self.repeats),
            failed=failed,
            truncated=np.isin(rows, [row for (row, _), answer in self.answers.items() if answer.truncated]),
            prices=None if self.caller.member.panel else self.caller.quoted.prices,  # its calls have several
            provenance=provenance,
        )

    def _means(self, name: str) -> Array:
        """Return the mean of a number of the answers to each question, (n_questions,)."""
        numbers = ((row, getattr(answer, name)) for (row, _), answer in self.answers.items())
        return means_of(((row, number) for row, number in numbers if number is not None), len(self.questions))

    def why_stopped(self, looked: Undecided | None) -> Stopped:
        """Return why not all questions were answered; None where they were."""
        if next(self.jobs(range(len(self.questions))), None) is None:
            return None
        if self.out_of_budget is not None:
            return "budget"
        return "decided" if looked is not None and looked.decided else "failures"

    def why_not_onboarded(self, looked: Undecided | None) -> str:
        """Return why the model is not to be onboarded, or ""."""
        stopped = self.why_stopped(looked)
        for tally in (self.calls, self.grades):
            too_many = tally.failed > TOO_MANY * (tally.done + tally.failed)
            if too_many or (stopped == "failures" and tally.is_hopeless(self.n_jobs)):
                return (
                    f"{str(tally).rstrip('. ;')}; when that is mended, run the same again: what was answered is kept."
                )
        if stopped == "budget" and self.n_answered < min(FEWEST_ANSWERS, len(self.questions)):
            ended = f"The budget ended after {self.n_answered} answers, and fewer than {FEWEST_ANSWERS} say too little."
            return f"{ended} {self.out_of_budget}"
        return ""

    def result(self, undecided: Undecided | None, **made: Any) -> Onboarded:
        """Return the run as users see it, with what was `made` of it."""
        return Onboarded(
            model=self.model,
            prompts=len(self.questions),
            answered=self.n_answered,
            asked=self.n_asked,
            failed=self.calls.failed,
            judge_failures=self.grades.failed,
            ungradable=len(self.ungradable),
            truncated=sum(answer.truncated for answer in self.answers.values()),
            refused=sum(answer.refused for answer in self.answers.values()),
            spent_usd=self.spent,
            stopped=self.why_stopped(undecided),
            undecided=undecided,
            **made,
        )


def means_of(numbers: Iterable[tuple[int, float]], n: int) -> Array:
    """Return the mean of the numbers of each row, (n,), NaN where there are none."""
    sums, counts = np.zeros(n), np.zeros(n)
    for row, number in sorted(numbers):  # sorted, so that sums do not depend on which answer came first
        sums[row] += number
        counts[row] += 1
    return np.asarray(np.divide(sums, counts, out=np.full(n, np.nan), where=counts > 0))
