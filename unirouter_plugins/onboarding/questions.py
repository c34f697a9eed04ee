"""What models are asked when they are onboarded, and how each answer is graded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, overload

from unirouter_core.data import FEWEST, ValidationSet
from unirouter_core.documents import as_one_prompt
from unirouter_core.exceptions import InvalidDataError
from unirouter_plugins.graders import Grader
from unirouter_plugins.litellm.chat import Chat, Messages
from unirouter_plugins.onboarding.grades import reads_reference

JUDGE = "judge"
"""What a line names as its grader when a judge is to grade it."""

UNNAMED = "the question"


@dataclass(frozen=True)
class Question:
    """One prompt that models are asked, and how to tell whether an answer is right.

    Parameters
    ----------
    prompt : str
        The text to route on; with `messages` their newest text from the user, when it is left out.
    reference : str, optional
        A right answer.
    grader : Grader, optional
        None leaves it to a judge.
    messages : sequence of mapping, optional
        The whole chat that is sent; its last message is the user's. The prompt alone, when it is left out.
    documents : tuple of str, optional
        What was retrieved for the prompt, and is sent before it, as `unirouter_core.documents.as_one_prompt` says;
        `messages` are sent as they are, and should hold it.
    name : str
        What messages call it.
    fields : mapping
        What else stood in its line.

    Raises
    ------
    InvalidDataError
        When there is no text to route on, or the last message is not the user's.

    Examples
    --------
    >>> from unirouter_plugins.graders import parse_grader
    >>> Question("What is 2 + 2?", "4", parse_grader("number")).messages
    ({'role': 'user', 'content': 'What is 2 + 2?'},)
    """

    prompt: str = ""
    reference: str | None = None
    grader: Grader | None = None
    messages: Messages = ()
    documents: tuple[str, ...] | None = None
    name: str = field(default=UNNAMED, compare=False)
    fields: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        chat = Chat.of(self.messages or (as_one_prompt(self.prompt, self.documents or ()) if self.prompt else ""))
        if (last := chat.messages[-1]["role"]) != "user":
            raise InvalidDataError(
                f"The last message is of role {last!r}, not the user's; leave the answer out, or make it the reference."
            )
        object.__setattr__(self, "messages", tuple(dict(message) for message in chat.messages))
        object.__setattr__(self, "prompt", self.prompt if self.prompt.strip() else chat.prompt)
        try:
            hash(self)
        except (TypeError, ValueError) as failed:
            raise InvalidDataError(
                f"The messages are not JSON-able ({failed}); give texts and plain parts."
            ) from failed

    def __hash__(self) -> int:
        return hash(self.digest)

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the chat, in hexadecimal: what a store knows it by."""
        chat = json.dumps(self.messages, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return _digest(chat)

    @property
    def grader_key(self) -> str | None:
        """What a store keeps with a program's grade: another one when grader or reference change; None for a judge.

        Texts of the file are in it as a digest only.
        """
        if self.grader is None:
            return None
        return f"{self.grader.name} {_digest(json.dumps([self.grader.key, self.reference]))[:16]}"

    @property
    def lacks_reference(self) -> bool:
        """Whether a right answer is still to be found before its answers can be compared with one."""
        return self.reference is None and (self.grader is None or reads_reference(self.grader))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, eq=False, repr=False)
class Questions(Sequence[Question]):
    """Questions, each chat once.

    Parameters
    ----------
    questions : sequence of Question
        Of several with the same chat, the first is kept.
    source : str
        Where they come from, for a profile's provenance: the name of the file and the digest of its content.

    Raises
    ------
    InvalidDataError
        When there are fewer than 2, or the same chat has two references or graders.

    Examples
    --------
    >>> from unirouter_plugins.graders import parse_grader
    >>> sums = Questions([Question(f"What is {n} + {n}?", str(2 * n), parse_grader("number")) for n in range(50)])
    >>> len(sums), sums[3].reference
    (50, '6')
    """

    questions: Sequence[Question]
    source: str = "given"

    def __post_init__(self) -> None:
        kept: dict[str, Question] = {}
        for place, question in enumerate(self.questions, 1):
            named = replace(question, name=f"question {place}") if question.name == UNNAMED else question
            if _differs(first := kept.setdefault(named.digest, named), named):
                raise InvalidDataError(
                    f"{first.name} and {named.name} send the same chat, but their reference, grader or documents "
                    "differ; keep one of them."
                )
        if len(kept) < FEWEST:
            raise InvalidDataError(f"{len(kept)} different prompts are too few; give at least {FEWEST}.")
        object.__setattr__(self, "questions", tuple(kept.values()))

    def __repr__(self) -> str:
        return f"Questions({len(self)} prompts, {self.source!r})"

    def __len__(self) -> int:
        """Return the number of questions."""
        return len(self.questions)

    def __iter__(self) -> Iterator[Question]:
        return iter(self.questions)

    @overload
    def __getitem__(self, place: int) -> Question: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Question]: ...
    def __getitem__(self, place: int | slice) -> Question | Sequence[Question]:
        """Return the question at `place`, or those of a slice."""
        return self.questions[place]

    @cached_property
    def without_reference(self) -> tuple[Question, ...]:
        """Those that a reference model must answer first, or a judge grade alone."""
        return tuple(question for question in self if question.lacks_reference)

    @cached_property
    def for_judge(self) -> tuple[Question, ...]:
        """Those that no program grades."""
        return tuple(question for question in self if question.grader is None)

    def check(self, *, judge: bool = False, reference_model: bool = False) -> None:
        """Raise `InvalidDataError` when some cannot be graded with what there is.

        Parameters
        ----------
        judge, reference_model : bool
            Whether there is a judge to grade, and a model to answer what has no reference.
        """
        if not reference_model and (
            lacking := [q for q in self.without_reference if not judge or q.grader is not None]
        ):
            unread = sorted({name for question in lacking for name in question.fields} - {"id"})
            passed_over = (
                f" A right answer is called 'reference'; {', '.join(unread)} were passed over." if unread else ""
            )
            cure = "give them one, or name a reference model" + ("." if judge else " or a judge.")
            raise InvalidDataError(f"{self._count(lacking)} no reference; {cure}{passed_over}")
        if not judge and (unjudged := [q for q in self.for_judge if q.reference is not None]):
            raise InvalidDataError(
                f"{self._count(unjudged)} no grader but a judge, as no program can tell whether a free text says the "
                "same; name a judge, or give them a grader."
            )

    def _count(self, some: Sequence[Question]) -> str:
        first = f" (the first is {some[0].name})"
        return f"{len(some)} of {len(self)} prompts{first} {'has' if len(some) == 1 else 'have'}"

    def validation_set(self) -> ValidationSet:
        """Return them as a router keeps them; a missing reference is "", and the grader of a judge's "judge"."""
        documents = [question.documents or () for question in self]
        is_bare = all(Chat.of(question.messages).is_bare for question in self)
        return ValidationSet(
            [question.prompt for question in self],
            [question.reference or "" for question in self] if any(q.reference is not None for q in self) else None,
            [JUDGE if question.grader is None else question.grader.spec for question in self],
            None if is_bare else [question.messages for question in self],
            documents if any(documents) else None,
        )


def _differs(one: Question, other: Question) -> bool:
    return (one.reference, one.grader, one.documents) != (other.reference, other.grader, other.documents)
