"""A model that grades other models' answers: what it is asked, and how its verdict is read."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from unirouter_core.exceptions import InvalidDataError
from unirouter_plugins.litellm.pool_file import Member
from unirouter_plugins.onboarding.ask import shaping_of
from unirouter_plugins.onboarding.questions import Question

JUDGE_VERSION = 1
"""Part of every judge's key; raised when blocks are written or verdicts are read differently."""

ERRORS = {"correct": 0.0, "partly": 0.5, "incorrect": 1.0}
"""What each verdict is worth."""

NO_REFERENCE = "(No right answer is known.)"
"""What a judge reads where a question has no reference."""

_PLACE = re.compile(r"^\{(prompt|reference|answer)\}[ \t]*$", re.MULTILINE)
_VERDICT = re.compile(
    r"[\s*_`#\-–—]*verdict[\s*_`]*[:：=–—-]?[\s*_`\"'(\[]*"
    r"(correct|incorrect|part(?:ly|ially)(?: correct)?)[\s*_`\"')\].,;!]*",
    re.IGNORECASE,
)
_THOUGHT = "</think>"  # ends what some servers leave in the text of a model that thinks aloud


def read_judge_prompt(path: str | os.PathLike[str] | None = None) -> str:
    """Return the text that a judge is sent; without a path, the one that this package brings.

    ``{prompt}`` and ``{answer}`` stand in it once each, alone on a line, and so may ``{reference}``; without it the
    judge judges alone. It must ask for a last line "VERDICT: CORRECT", "VERDICT: PARTLY" or "VERDICT: INCORRECT".

    Parameters
    ----------
    path : path, optional
        UTF-8.

    Raises
    ------
    InvalidDataError
        When the file cannot be read, or a place or the verdict is missing.

    Examples
    --------
    >>> read_judge_prompt().splitlines()[0]
    'You grade an answer to a prompt. The only thing that counts is whether it is right.'
    """
    place = resources.files(__package__) / "judge.md" if path is None else Path(path)
    try:
        text = place.read_bytes().decode("utf-8-sig")
    except OSError as failed:
        raise InvalidDataError(f"{place} cannot be read: {failed.strerror}.") from failed
    except UnicodeDecodeError as failed:
        raise InvalidDataError(f"{place} is not UTF-8 (byte {failed.start}); save it as UTF-8.") from failed
    _check_prompt(text, str(place))
    return text


def _check_prompt(text: str, name: str) -> None:
    alone = _PLACE.findall(text)
    for place in ("prompt", "answer", "reference"):
        mark = f"{{{place}}}"
        if (
            text.count(mark) != alone.count(place)
            or alone.count(place) > 1
            or (place not in alone and mark != "{reference}")
        ):
            raise InvalidDataError(f"{name}: {mark} must stand in it once, alone on a line.")
    if "VERDICT:" not in text:
        raise InvalidDataError(
            f'{name}: it must ask for a last line "VERDICT: CORRECT", "... PARTLY" or "... INCORRECT".'
        )


@dataclass(frozen=True)
class Judge:
    """A model that grades.

    Parameters
    ----------
    member : Member
        How it is called.
    prompt : str
        What it is sent, see `read_judge_prompt`.
    max_tokens : int
        Of its reason and verdict; a model that thinks needs room for its thoughts too.

    Raises
    ------
    InvalidDataError
        When the prompt lacks a place or the verdict.

    Examples
    --------
    >>> judge = Judge(Member("critic", "openai/gpt-4.1"))
    >>> chat = judge.messages(Question("Capital of Italy?", "Rome"), "Rome, of course.")
    >>> [line for line in chat[0]["content"].splitlines() if line.startswith(">")]
    ['> Capital of Italy?', '> Rome', '> Rome, of course.']
    """

    member: Member
    prompt: str = field(default_factory=read_judge_prompt, repr=False)
    max_tokens: int = 1024

    def __post_init__(self) -> None:
        _check_prompt(self.prompt, "the judge's prompt")

    def grader_key(self, question: Question) -> str:
        """Return what a store keeps with the judge's grades of this question.

        It is another one when the judge, its prompt or the reference change, and the same wherever the judge is served.
        Texts are in it as a digest only.
        """
        shaping = json.dumps([shaping_of(self.member), self.prompt, question.reference], sort_keys=True)
        return f"judge {self.member.model} v{JUDGE_VERSION} {hashlib.sha256(shaping.encode()).hexdigest()[:16]}"

    def messages(self, question: Question, answer: str) -> list[dict[str, Any]]:
        """Return the chat that asks for a verdict on `answer`.

        Each line of what others wrote is quoted with "> ", so none of it can end its block or pass for a verdict.
        """
        blocks = {
            "prompt": _quoted(_written(question)),
            "reference": NO_REFERENCE if question.reference is None else _quoted(question.reference),
            "answer": _quoted(answer),
        }
        return [{"role": "user", "content": _PLACE.sub(lambda place: blocks[place[1]], self.prompt)}]


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}" for line in text.strip("\r\n").splitlines() or [""])


def _written(question: Question) -> str:
    """Return a question's chat as one text; a bare prompt as it is."""
    written = [(message["role"], "\n".join(_parts(message.get("content")))) for message in question.messages]
    if len(written) == 1:
        return written[0][1]
    return "\n\n".join(f"[{role}]\n{text}" for role, text in written)


def _parts(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, Sequence):
        for part in content:
            text = part.get("text", f"[{part.get('type', 'part')}]") if isinstance(part, Mapping) else part
            yield str(text)


def parse_verdict(text: str) -> float | None:
    r"""Return the error that a judge's answer comes to; None where there is no verdict, or there are two.

    It is the last line: VERDICT, and CORRECT (0), PARTLY (.5) or INCORRECT (1). None is a failed call of the judge and
    never a wrong answer of the model.

    Examples
    --------
    >>> parse_verdict("Both say Rome.\n\n**Verdict: correct.**")
    0.0
    >>> parse_verdict("It looks right to me.") is None
    True
    """
    lines = [line for line in text.rpartition(_THOUGHT)[2].splitlines() if any(map(str.isalnum, line))]
    verdicts = [_VERDICT.fullmatch(line) for line in lines]
    found = {_error_of(verdict[1]) for verdict in verdicts if verdict is not None}
    return found.pop() if len(found) == 1 and verdicts[-1] is not None else None


def _error_of(word: str) -> float:
    return ERRORS["partly" if word.casefold().startswith("part") else word.casefold()]
