"""An answer to its grade, by whatever grades its question: a program, a judge, or agreement with a model."""

from __future__ import annotations

from unirouter_core.exceptions import InvalidDataError
from unirouter_plugins.onboarding.answers import Answer, Grade
from unirouter_plugins.onboarding.ask import Caller
from unirouter_plugins.onboarding.bench import Bench
from unirouter_plugins.onboarding.budget import Hold
from unirouter_plugins.onboarding.grades import grade_answer
from unirouter_plugins.onboarding.questions import Question
from unirouter_plugins.onboarding.references import References

AGREEMENT = "agreement v1"
"""Who graded where no judge does and the reference is a model's; raised when `with_reference` tells otherwise."""


class Marker:
    """Grades answers.

    Parameters
    ----------
    bench : Bench, optional
        For questions that no program grades.
    references : References, optional
        For questions without a right answer.
    """

    def __init__(self, bench: Bench | None = None, references: References | None = None) -> None:
        self.bench, self.references = bench, references

    def key(self, question: Question) -> str:
        """Return what the store keeps with a grade: another one when grader, reference, or judge change."""
        by = question.grader_key
        if by is None:
            by = AGREEMENT if self.bench is None else self.bench.judge.grader_key(question)
        if question.lacks_reference and self.references is not None:
            return f"{by}, right is {self.references.key}"
        return by

    async def ready(self, question: Question, hold: Hold) -> Question:
        """Return the question with a reference, where it needs one; see `References.answered`."""
        if question.lacks_reference and self.references is not None:
            return await self.references.answered(question, hold)
        return question

    def gives_reference(self, caller: Caller, question: Question) -> bool:
        """Return whether `caller` is itself who answers first what has no right answer."""
        return question.lacks_reference and self.references is not None and self.references.caller is caller

    def own_answer(self, caller: Caller, question: Question) -> Answer | None:
        """Return what `caller` has answered to a question that is `ready` as its reference; None where it gave none."""
        if self.references is None or not self.gives_reference(caller, question):
            return None
        return self.references.answer_to(question)

    def cannot_grade(self, question: Question) -> bool:
        """Return whether it is known already that nothing can grade a question."""
        references = self.references
        if references is None or not question.lacks_reference or not references.has(question):
            return False
        return references.given(question) is None

    def worst(self, question: Question, answer_tokens: float) -> float:
        """Return the most USD that a grade may cost, on an answer of at most so many tokens."""
        return 0.0 if question.grader is not None or self.bench is None else self.bench.worst(question, answer_tokens)

    async def grade(self, question: Question, answer: str, hold: Hold) -> Grade:
        """Return the grade of an answer; see `Bench.grade`."""
        if (by_program := grade_answer(question, answer)) is not None:
            return by_program
        if self.bench is None:
            raise InvalidDataError(f"{question.name} has no grader but a judge; name one.")
        return await self.bench.grade(question, answer, hold)
