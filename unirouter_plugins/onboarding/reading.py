"""A file to the questions in it, every reference checked before any answer is paid for."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from unirouter_core.embedding import Embedder
from unirouter_core.exceptions import InvalidDataError
from unirouter_plugins.graders import GradeFunction, Grader, parse_grader
from unirouter_plugins.onboarding.grades import check_reference, suitable_grader
from unirouter_plugins.onboarding.lines import Line, read_lines
from unirouter_plugins.onboarding.questions import JUDGE, Question, Questions

FEW = 50
"""Fewer prompts say little about a model."""


def read_questions(
    path: str | os.PathLike[str] | None = None,
    *,
    functions: Mapping[str, GradeFunction] | None = None,
    embedder: Embedder | None = None,
    judged: bool = False,
) -> Questions:
    r"""Return the questions in a file; without one, the 300 that this package brings.

    Each line of a ``.jsonl`` is an object, of which only a prompt or messages must be there::

        {"prompt": "What is 12 * 12?", "reference": "144", "grader": "number"}
        {"system": "Answer with a city.", "prompt": "Capital of Italy?", "reference": "Rome"}
        {"messages": [{"role": "user", "content": "..."}, ...], "reference": "...", "grader": "judge"}
        {"prompt": "Name a prime above 90.", "grader": {"grader": "regex", "pattern": "\\b97\\b"}}

    A ``grader`` is what `unirouter_plugins.graders.parse_grader` takes, or "judge". Without one, a judge grades where
    there is one; else the reference's shape says which program does, see `suitable_grader`. ``documents`` is a list of
    texts that are sent before a ``prompt``; ``messages`` are sent as they are. ``id`` is what messages call the line,
    other fields are passed over. A ``.txt`` has one bare prompt a line.

    Every reference must be a right answer by its own grader.

    Parameters
    ----------
    path : path, optional
        UTF-8.
    functions : mapping of name to function (answer, reference) -> error, optional
        Graders of your own, for lines that name them.
    embedder : Embedder, optional
        For the grader "similarity".
    judged : bool
        Whether there is a judge.

    Warns
    -----
    UserWarning
        When there are fewer than 50.

    Raises
    ------
    InvalidDataError
        When the file cannot be read or a line cannot be used, with the file, the line, the value and the cure.

    Examples
    --------
    >>> starter = read_questions()
    >>> len(starter), starter[0].prompt, starter[0].reference
    (300, 'Repeat this word and write nothing else: lantern', 'lantern')
    """
    place = Path(path) if path is not None else resources.files("unirouter_core") / "starter" / "validation.jsonl"
    content, lines = read_lines(place)
    source = f"{place.name if path is not None else 'starter'} sha256:{hashlib.sha256(content).hexdigest()[:16]}"
    reading = _Reading(functions, embedder, judged)
    try:
        questions = Questions([reading.question(line) for line in lines], source)
    except InvalidDataError as failed:
        raise InvalidDataError(f"{place.name if path is None else path}: {failed}") from failed
    if len(questions) < FEW:
        warnings.warn(
            f"{place.name} holds {len(questions)} prompts, too few to say much of a model; a few hundred do.",
            stacklevel=2,
        )
    return questions


@dataclass(frozen=True)
class _Reading:
    """How lines become questions."""

    functions: Mapping[str, GradeFunction] | None
    embedder: Embedder | None
    judged: bool

    def question(self, line: Line) -> Question:
        """Return the question of a line, its reference checked."""
        try:
            grader = self._grader(line)
            question = Question(
                line.prompt or "",
                line.reference,
                grader,
                line.chat,
                None if line.documents is None else tuple(line.documents),
                line.name,
                line.model_extra or {},
            )
        except InvalidDataError as failed:
            raise InvalidDataError(f"{line.name}: {failed}") from failed
        if line.reference is not None and grader is not None:
            check_reference(grader, line.reference, line.name)
        return question

    def _grader(self, line: Line) -> Grader | None:
        if line.grader in (JUDGE, {"grader": JUDGE}):
            return None
        if line.grader is not None:
            return parse_grader(line.grader, functions=self.functions, embedder=self.embedder)
        return None if self.judged or line.reference is None else suitable_grader(line.reference)
