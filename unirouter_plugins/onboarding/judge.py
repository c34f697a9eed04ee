"""Grades of answers: by the question's own program, by a reference model's answer, or by a model as judge."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import Any

from unirouter_core.exceptions import InvalidDataError
from unirouter_plugins.graders import Grader, after_thoughts, is_refusal
from unirouter_plugins.graders.text import bare, fenced, final_part, first_line, normalised
from unirouter_plugins.litellm.pool_file import Member
from unirouter_plugins.onboarding.ask import NO_VERDICT, Caller, CallFailedError, shaping_of
from unirouter_plugins.onboarding.questions import Question, digest_of, holds_json, is_short, read_text, suitable_grader
from unirouter_plugins.onboarding.store import Answer, AnswerKey, AnswerStore, Grade

JUDGE_VERSION = 1  # part of every judge's key; raised when blocks are written or verdicts are read differently
ERRORS = {"correct": 0.0, "part": 0.5, "incorrect": 1.0}  # the error that each verdict means, by its beginning
NO_REFERENCE = "(No right answer is known.)"  # what a judge reads where a question has no reference
TRIED = 300  # prompts among which a wrong answer for a judge's trial is looked for
VERDICTS = 2  # how often a judge is called for a verdict that can be read
AGREEMENT = "agreement v1"  # the grader_key without a judge where a model gives the reference; see `with_reference`
_PLACE = re.compile(r"^\{(prompt|reference|answer)\}[ \t]*$", re.MULTILINE)
_VERDICT = re.compile(
    r"[\s*_`#\-–—]*verdict[\s*_`]*[:：=–—-]?[\s*_`\"'(\[]*"
    r"(?:(correct|incorrect)|(part)(?:ly|ially)(?: correct)?)[\s*_`\"')\].,;!]*",
    re.IGNORECASE,
)
_VERBATIM = ("text", "exact", "contains")  # compare words, so a sentence around the answer is in their way


def read_judge_prompt(path: str | os.PathLike[str] | None = None) -> str:
    """Return the prompt of a judge; without a path, the one of this package.

    ``{prompt}`` and ``{answer}`` stand in it once each, alone on a line, and so may ``{reference}``; without it the
    judge judges alone. It must ask for a last line "VERDICT: CORRECT", "VERDICT: PARTLY" or "VERDICT: INCORRECT".

    >>> read_judge_prompt().splitlines()[0]
    'You grade an answer to a prompt. The only thing that counts is whether it is right.'
    """
    place = resources.files(__package__) / "judge.md" if path is None else Path(path)
    text = read_text(place, str(place))[1]
    _check_prompt(text, str(place))
    return text


def _check_prompt(text: str, name: str) -> None:
    for place in ("prompt", "answer", "reference"):
        mark, n = f"{{{place}}}", _PLACE.findall(text).count(place)
        if text.count(mark) != n or n > 1 or (n == 0 and place != "reference"):
            raise InvalidDataError(f"{name}: {mark} must stand in it once, alone on a line.")
    if "VERDICT:" not in text:
        verdicts = '"VERDICT: CORRECT", "... PARTLY" or "... INCORRECT"'
        raise InvalidDataError(f"{name}: it must ask for a last line {verdicts}.")


@dataclass(frozen=True)
class Judge:
    """A model that grades: how it is called, its prompt (see `read_judge_prompt`), and its room to reason in.

    >>> judge = Judge(Member("critic", "openai/gpt-4.1"))
    >>> asked = judge.asks(Question("Capital of Italy?", "Rome"), "Rome, of course.")
    >>> [line for line in asked.prompt.splitlines() if line.startswith(">")]
    ['> Capital of Italy?', '> Rome', '> Rome, of course.']
    """

    member: Member
    prompt: str = field(default_factory=read_judge_prompt, repr=False)
    max_tokens: int = 1024

    def __post_init__(self) -> None:
        _check_prompt(self.prompt, "the judge's prompt")

    def grader_key(self, question: Question) -> str:
        """Return the key of the judge's grades of a question, wherever the judge is served.

        It is another one when the judge, its prompt or the reference change, and holds texts as a digest only.
        """
        shaping = json.dumps([shaping_of(self.member), self.prompt, question.reference], sort_keys=True)
        return f"judge {self.member.model} v{JUDGE_VERSION} {digest_of(shaping)[:16]}"

    def asks(self, question: Question, answer: str, **fields: Any) -> Question:
        """Return the question that asks for a verdict on `answer`.

        Each line of what others wrote is quoted with "> ", so none of it can end its block or pass for a verdict.
        """
        blocks = {
            "prompt": _quoted(_written(question)),
            "reference": NO_REFERENCE if question.reference is None else _quoted(question.reference),
            "answer": _quoted(after_thoughts(answer)),
        }
        return Question(_PLACE.sub(lambda place: blocks[place[1]], self.prompt), **fields)


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}" for line in text.strip("\r\n").splitlines() or [""])


def _written(question: Question) -> str:
    """Return a question's chat as one text; a bare prompt as it is."""
    written = [(message["role"], "\n".join(_parts(message.get("content")))) for message in question.messages]
    return written[0][1] if len(written) == 1 else "\n\n".join(f"[{role}]\n{text}" for role, text in written)


def _parts(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, Sequence):
        for part in content:
            yield str(part.get("text", f"[{part.get('type', 'part')}]") if isinstance(part, Mapping) else part)


def parse_verdict(text: str) -> float | None:
    r"""Return the error that a judge's verdict means; None where there is no verdict, or there are two.

    It is the last line: VERDICT, and CORRECT (0), PARTLY (.5) or INCORRECT (1). None is a failed call of the judge and
    never a wrong answer of the model.

    >>> parse_verdict("Both say Rome.\n\n**Verdict: correct.**")
    0.0
    >>> parse_verdict("It looks right to me.") is None
    True
    """
    lines = [line for line in after_thoughts(text).splitlines() if any(map(str.isalnum, line))]
    verdicts = [_VERDICT.fullmatch(line) for line in lines]
    found = {(verdict[1] or verdict[2]).casefold() for verdict in verdicts if verdict is not None}
    return ERRORS[found.pop()] if len(found) == 1 and verdicts[-1] is not None else None


def trial_questions(judge: Judge, questions: Sequence[Question], n: int = 10, seed: int = 0) -> list[Question]:
    """Return questions for the judge itself: verdicts on `n` right answers and, after each, on a wrong one.

    Right answers are references, wrong ones the references of other questions, of a similar kind where there are any.
    """
    rng, made = random.Random(seed), []
    trial = Grader("trial v1", lambda said, verdict: parse_verdict(said) != ERRORS[verdict])
    known = [question for question in questions if question.reference is not None]

    @cache
    def kind(question: Question) -> tuple[Any, Grader | None]:
        return question.fields.get("family"), question.grader or suitable_grader(question.reference or "")

    def differs(one: Question, other: Question) -> int:
        (family, grader), (other_family, other_grader) = kind(one), kind(other)
        return int(family != other_family) + int((grader and grader.name) != (other_grader and other_grader.name))

    picked = sorted(rng.sample(known, len(known)), key=lambda question: question.grader is not None)
    for question in picked[:n]:
        right, grader = question.reference or "", kind(question)[1]
        some = rng.sample(known, min(len(known), TRIED))
        others = [other.reference or "" for other in sorted(some, key=partial(differs, question))]
        wrong = (w for w in others if normalised(w) != normalised(right) and (grader is None or grader(w, right) == 1))
        pairs = [(right, "correct"), *((answer, "incorrect") for answer in itertools.islice(wrong, 1))]
        made += [judge.asks(question, answer, reference=verdict, grader=trial) for answer, verdict in pairs]
    return made


def trial_result(questions: Sequence[Question], errors: Mapping[tuple[int, int], float]) -> tuple[str, bool]:
    """Return how a judge did in its trial, and whether it passes: at 4 in 5 of each, a coin would once in 300 times."""
    (accepted, right), (refused, wrong) = (
        (sum(errors.get((row, 0)) == 0 for row in rows), len(rows))
        for verdict in ("correct", "incorrect")
        for rows in [[row for row, question in enumerate(questions) if question.reference == verdict]]
    )
    said = f"The judge accepted {accepted} of {right} right answers and refused {refused} of {wrong} wrong ones."
    return said, 5 * accepted >= 4 * right and 5 * refused >= 4 * wrong


def with_reference(question: Question, answer: str, *, judged: bool) -> Question | None:
    """Return the question with a reference model's answer as its reference; None where it cannot serve as one.

    Without a judge, other answers are graded by whether they agree with it. That can be told only where its answer is
    short, a JSON value, or marked as final ("The answer is 42."). Free text is not compared by its vectors: two
    sentences with other facts in the same words are nearer to each other there than the same fact in other words.
    """
    answer = after_thoughts(answer)
    if not answer or is_refusal(answer):
        return None
    if question.grader is None and judged:
        return replace(question, reference=answer)
    blocks, final = fenced(answer), final_part(answer)
    parts = [] if final is None else [bare(first_line(final).removesuffix("."))]
    parts += blocks if len(blocks) == 1 and holds_json(blocks[0]) else []
    for part in (*parts, answer):
        grader = suitable_grader(part) if question.grader is None else question.grader
        if grader is None or (grader.name in _VERBATIM and not is_short(part)):
            continue
        referenced = replace(question, reference=part, grader=grader)
        if referenced.error(part) == 0:
            return referenced
    return None


def worth(*, reference_model: str | None = None, judge: str | None = None, ungraded: int = 0) -> str:
    """Return what grades of prompts without a right answer are worth, in a sentence or two."""
    said = f"the grades are the opinion of {judge}."
    if reference_model is not None:
        how = f"by the judge {judge}" if judge is not None else "where that is short or marked as final"
        said = (
            f"the grades say how far a model agrees with what {reference_model} answered, compared {how}: its mistakes "
            "count as right, and no model can be seen to do better."
        )
    ending = f" {ungraded} prompts could not be graded and do not count." if ungraded else ""
    return f"Where no right answer was given, {said}{ending}"


@dataclass
class Grading:
    """Grades answers, with a judge where no program does, and a model (`references`) that gives missing references."""

    store: AnswerStore
    judge: Judge | None = None
    judge_caller: Caller | None = None
    references: Caller | None = None

    def __post_init__(self) -> None:
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._answers: dict[str, Answer] = {}
        if (caller := self.references) is not None:
            known = self.store.answers(caller.member.name, caller.settings_digest)
            self._answers = {prompt: a for (prompt, repeat), a in known.items() if not repeat and a.text is not None}

    def key(self, question: Question) -> str:
        """Return what the store keeps with a grade: another one when grader, reference or judge change."""
        by = question.grader_key or (AGREEMENT if self.judge is None else self.judge.grader_key(question))
        if question.lacks_reference and self.references is not None:
            return f"{by}, right is {self.references.member.name} {self.references.settings_digest[:16]}"
        return by

    def is_reference(self, caller: Caller, question: Question) -> bool:
        """Return whether `caller` calls the model that gives the question's reference."""
        return question.lacks_reference and self.references is caller

    def reference_answer(self, question: Question) -> Answer | None:
        """Return the reference model's answer, if there is one yet."""
        return self._answers.get(question.digest)

    def cannot_grade(self, question: Question) -> bool:
        """Return whether the reference model's answer cannot serve as a reference."""
        has = question.lacks_reference and question.digest in self._answers
        return has and self._referenced(question) is None

    def _referenced(self, question: Question) -> Question | None:
        return with_reference(question, self._answers[question.digest].text or "", judged=self.judge is not None)

    async def with_reference(self, question: Question) -> Question | None:
        """Return the question with a reference where it needs one, from the reference model, which is called once.

        None where its answer cannot serve as a reference. Raises `CallFailedError` when the call fails.
        """
        caller = self.references
        if caller is None or not question.lacks_reference:
            return question
        async with self._locks[question.digest]:
            if question.digest not in self._answers:
                answer = await caller(question)
                await self.keep(caller, question, answer)
                self._answers[question.digest] = answer
        return self._referenced(question)

    async def grade(self, question: Question, answer: str) -> Grade:
        """Return the grade of an answer; raise `CallFailedError` when the judge fails, or gives no verdict twice."""
        if (error := await asyncio.to_thread(question.error, answer)) is not None:
            return Grade(error)
        caller = self.judge_caller
        if self.judge is None or caller is None:
            raise InvalidDataError(f"{question.name} has no grader but a judge; name one.")
        asked, usd = self.judge.asks(question, answer), 0.0
        for _ in range(VERDICTS):
            reply = await caller(asked)
            usd += reply.usd or 0.0
            if (error := parse_verdict(reply.text or "")) is not None:
                return Grade(error, usd, reply.text or "")
        raise CallFailedError("Its verdict cannot be read.", NO_VERDICT, caller.member)

    def keep(
        self,
        caller: Caller,
        question: Question,
        answer: Answer | None,
        grader_key: str | None = None,
        grade: Grade | None = None,
        repeat: int = 0,
    ) -> asyncio.Future[None]:
        """Hand an answer, a grade, or both to the store; return a future that is done when they are on disk."""
        key = AnswerKey(caller.member.name, question.digest, caller.settings_digest, repeat)
        chat, settings = (None, None) if answer is None else (question.messages, caller.settings)
        added = self.store.add(key, answer, chat=chat, settings=settings, grader_key=grader_key, grade=grade)
        return asyncio.wrap_future(added)
