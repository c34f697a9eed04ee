"""An answer to its grade by a program; which program suits a reference; what a reference model's answers are worth."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from unirouter_core.exceptions import InvalidDataError
from unirouter_plugins.graders import Grader, is_refusal, parse_grader
from unirouter_plugins.graders.text import bare, fenced, final_part, first_line, normalised
from unirouter_plugins.onboarding.answers import Grade

if TYPE_CHECKING:
    from unirouter_plugins.onboarding.questions import Question

MOST_WORDS = 5
"""A longer reference is free text: a right answer rarely has the very words of a whole sentence."""

_GROUPED = r"\d{1,3}(?:[,.' ]\d{3})+(?:[.,]\d+)?"
_NUMBER = re.compile(rf"[-+−]?\s?[$€£¥₹]?\s?(?:{_GROUPED}|\d+(?:[.,]\d+)?|\d+\s?/\s?\d+)\s?[%$€£¥₹°]?")
_LETTER = re.compile(r"\(?[A-J][).]?|\(?[A-J]\)\s.*")
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff]{1,2}")  # Thai, Lao, kana, Chinese: two are a word
_VERBATIM = ("text", "exact", "contains")  # compare words, so a sentence around the answer is in their way
_PAIRS = (("yes", "no"), ("true", "false"))


def grade_answer(question: Question, answer: str) -> Grade | None:
    """Return the grade of an answer, or None where only a judge can tell.

    A blank answer is wrong, whoever grades.

    Raises
    ------
    InvalidDataError
        When the question's grader compares with a reference and there is none, or a grader of the user's own fails.

    Examples
    --------
    >>> from unirouter_plugins.onboarding.questions import Question
    >>> question = Question("What is 2 + 2?", "4", parse_grader("number"))
    >>> grade_answer(question, "It is 4.").error, grade_answer(question, "It is 5.").error
    (0.0, 1.0)
    """
    if not answer.strip():
        return Grade(1.0)
    if question.grader is None:
        return None
    if question.reference is None and reads_reference(question.grader):
        raise InvalidDataError(f"{question.name} has no reference; the grader {question.grader.name!r} needs one.")
    with _failures_of(question.grader, question.name):
        return Grade(question.grader(answer, question.reference or ""))


def check_reference(grader: Grader, reference: str, name: str) -> None:
    """Raise `InvalidDataError` unless the reference is a right answer by its grader; `name` is the question's."""
    with _failures_of(grader, name):
        grader.check(reference)


@contextmanager
def _failures_of(grader: Grader, name: str) -> Iterator[None]:
    try:
        yield
    except InvalidDataError as failed:
        raise InvalidDataError(f"{name}: {failed}") from failed
    except Exception as failed:  # of any kind: it is the user's own function
        raise InvalidDataError(
            f"{name}: the grader {grader.name!r} failed ({type(failed).__name__}: {failed}); it must give any answer "
            "an error in [0, 1]."
        ) from failed


def reads_reference(grader: Grader) -> bool:
    """Return whether a grader compares with a reference; others hold the answer to what they were made with."""
    match grader.name:
        case "regex" | "constraints":
            return False
        case "contains":
            return not grader.parameters
        case "json":
            return bool(grader.parameters.get("compare", True))
    return True


def suitable_grader(reference: str) -> Grader | None:
    """Return the grader that the shape of a reference asks for; None for free text, which only a judge can grade.

    A lone letter from A to J is an option ("choice"), as are yes and no, true and false; a lone number is a "number";
    an object or a list is "json"; any other text of at most five words is "text".

    Examples
    --------
    >>> [suitable_grader(text).spec for text in ("42", "C", "New York")]
    ['number', 'choice', 'text']
    >>> suitable_grader("Bring it back within 30 days, with the receipt.") is None
    True
    """
    spec = _suitable(bare(reference))
    grader = None if spec is None else parse_grader(spec)
    return None if grader is None or grader(reference, reference) else grader


def _suitable(text: str) -> str | None:
    """Return the spec of the grader for a text."""
    for labels in _PAIRS:
        if normalised(text) in labels:
            return json.dumps({"grader": "choice", "options": list(labels)})
    if _LETTER.fullmatch(text):
        return "choice"
    if _NUMBER.fullmatch(text):
        return "number"
    if _holds_json(text):
        return "json"
    return "text" if _is_short(text) else None


def _is_short(text: str) -> bool:
    return len(_UNSPACED.sub("x ", text).split()) <= MOST_WORDS


def _holds_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict | list)
    except (ValueError, RecursionError):
        return False


def with_reference(question: Question, answer: str, *, judged: bool) -> Question | None:
    """Return the question with a reference model's answer as its reference; None where it cannot serve as one.

    Without a judge, other answers are graded by whether they agree with it. That is told only where its answer is
    short, a JSON value, or marked as final ("The answer is 42."). Free text is not compared by its vectors: two
    sentences with other facts in the same words are nearer to each other there than the same fact in other words.

    Parameters
    ----------
    question : Question
        Without a reference.
    answer : str
        Of the reference model.
    judged : bool
        Whether a judge grades against it.
    """
    if not answer.strip() or is_refusal(answer):
        return None
    if question.grader is None and judged:
        return replace(question, reference=answer)
    for part in _final_parts(answer):
        grader = suitable_grader(part) if question.grader is None else question.grader
        if grader is None or (grader.name in _VERBATIM and not _is_short(part)):
            continue
        asked = replace(question, reference=part, grader=grader)
        if (grade := grade_answer(asked, part)) is not None and not grade.error:
            return asked
    return None


def _final_parts(answer: str) -> list[str]:
    """Return what may be all that counts: what it marks as final, its only JSON value in a fence, the whole of it."""
    blocks, final = fenced(answer), final_part(answer)
    only = blocks if len(blocks) == 1 and _holds_json(blocks[0]) else []
    return [*([] if final is None else [bare(first_line(final).removesuffix("."))]), *only, answer]


def worth(*, reference_model: str | None = None, judge: str | None = None, ungraded: int = 0) -> str:
    """Return what a report says of the grades of prompts that came without a right answer.

    Parameters
    ----------
    reference_model : str, optional
        Whose answers stood in for right ones.
    judge : str, optional
        Who compared with them, or judged alone.
    ungraded : int
        Prompts that nothing could grade.

    Examples
    --------
    >>> worth(judge="openai/gpt-4.1")
    'Where no right answer was given, the grades are the opinion of openai/gpt-4.1.'
    """
    if reference_model is not None:
        how = f"by the judge {judge}" if judge is not None else "where that is short or marked as final"
        said = (
            f"Where no right answer was given, the grades say how far a model agrees with what {reference_model} "
            f"answered, compared {how}: its mistakes count as right, and no model can be seen to do better."
        )
    else:
        said = f"Where no right answer was given, the grades are the opinion of {judge}."
    return said + (f" {ungraded} prompts could not be graded and do not count." if ungraded else "")
