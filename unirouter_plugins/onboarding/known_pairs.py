"""Whether to trust a judge: what it makes of answers of which it is known whether they are right."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from unirouter_plugins.graders import Grader
from unirouter_plugins.graders.text import normalised
from unirouter_plugins.onboarding.grades import suitable_grader
from unirouter_plugins.onboarding.questions import Question


@dataclass(frozen=True)
class KnownPair:
    """A question, and an answer of which it is known whether it is right."""

    question: Question
    answer: str
    is_right: bool


def known_pairs(questions: Sequence[Question], n: int = 10, seed: int = 0) -> list[KnownPair]:
    """Return up to `n` right and `n` wrong answers, to try a judge on before it is trusted.

    The right answer to a question is its reference; a wrong one is the reference of another question, one of the same
    family and shape where there is one. Questions for the judge come first; without references there are none.
    """
    rng = random.Random(seed)
    known = [question for question in questions if question.reference is not None]
    picked = sorted(rng.sample(known, len(known)), key=lambda question: question.grader is not None)
    pairs: list[KnownPair] = []
    for question in picked[:n]:
        pairs.append(KnownPair(question, question.reference or "", True))
        if (wrong := _wrong_answer(question, known, rng)) is not None:
            pairs.append(KnownPair(question, wrong, False))
    return pairs


def _wrong_answer(question: Question, known: Sequence[Question], rng: random.Random) -> str | None:
    """Return another question's reference that does not answer `question`, one of a like question if there is one."""
    kind = _kind(question)
    others = rng.sample(known, len(known))
    others.sort(key=lambda other: sum(one != two for one, two in zip(_kind(other), kind, strict=True)))
    return next((other.reference for other in others if _is_wrong(question, other.reference or "")), None)


def _kind(question: Question) -> tuple[str, str]:
    """Return the family that a question names, and the shape of its reference."""
    grader = _program(question)
    return str(question.fields.get("family")), "free text" if grader is None else grader.name


def _is_wrong(question: Question, answer: str) -> bool:
    grader, reference = _program(question), question.reference or ""
    return normalised(answer) != normalised(reference) and (grader is None or grader(answer, reference) == 1)


def _program(question: Question) -> Grader | None:
    return suitable_grader(question.reference or "") if question.grader is None else question.grader


@dataclass(frozen=True)
class JudgeCheck:
    """What a judge made of answers of which it is known whether they are right.

    Parameters
    ----------
    accepted, n_right : int
        Right answers that it called correct, of how many.
    refused, n_wrong : int
        Wrong answers that it called incorrect, of how many.
    """

    accepted: int
    n_right: int
    refused: int
    n_wrong: int

    @classmethod
    def of(cls, pairs: Sequence[KnownPair], errors: Sequence[float | None]) -> JudgeCheck:
        """Return the check of the pairs by the errors that the judge gave them, None where it gave no verdict."""
        right = [error for pair, error in zip(pairs, errors, strict=True) if pair.is_right]
        wrong = [error for pair, error in zip(pairs, errors, strict=True) if not pair.is_right]
        return cls(right.count(0.0), len(right), wrong.count(1.0), len(wrong))

    @property
    def passes(self) -> bool:
        """Whether it told at least four in five of each right; with ten of each, a coin would once in 300 times."""
        return 5 * self.accepted >= 4 * self.n_right and 5 * self.refused >= 4 * self.n_wrong

    def __str__(self) -> str:
        if not self.n_right:
            return "The judge could not be tried, as no right answer is known."
        return (
            f"The judge accepted {self.accepted} of {self.n_right} right answers and refused {self.refused} of "
            f"{self.n_wrong} wrong ones."
        )
