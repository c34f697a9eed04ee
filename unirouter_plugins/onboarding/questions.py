"""Questions of a validation file: each a chat to send, a reference, and the grader that compares answers with it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, NoReturn, Self

from unirouter_core.costs import TokenCounter
from unirouter_core.data import FEWEST, ValidationSet
from unirouter_core.documents import as_one_prompt
from unirouter_core.embedding import Embedder
from unirouter_core.exceptions import InvalidDataError
from unirouter_core.reading import MOST_JSON, read_bytes
from unirouter_plugins.graders import GradeFunction as Function
from unirouter_plugins.graders import Grader, after_thoughts, parse_grader
from unirouter_plugins.graders.text import bare, normalised
from unirouter_plugins.litellm.chat import Chat, Messages

JUDGE = "judge"  # what a line names as its grader when a judge is to grade it
FEW = 50  # a file with fewer prompts is warned of
MOST_WORDS = 5  # a longer reference is free text: a right answer rarely has the very words of a whole sentence
UNNAMED = "the question"
_ENCODER = json.JSONEncoder(sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_parsed = cache(parse_grader)


@dataclass(frozen=True)
class Question:
    """A prompt, and how to grade answers to it: by a `grader`, or by a judge where that is None.

    `prompt` is the text to route on; with `messages` their newest text from the user when not given. `messages` is the
    whole chat that is sent, and ends with the user's; the prompt alone when not given. `documents` were retrieved for
    the prompt and are sent before it; `messages` are sent as they are, and should hold them. `reference` is a right
    answer, `name` stands in exceptions, `fields` are the other fields of its line.

    >>> from unirouter_plugins.graders import parse_grader
    >>> question = Question("What is 2 + 2?", "4", parse_grader("number"))
    >>> question.messages, question.error("It is 4."), question.error("It is 5.")
    (({'role': 'user', 'content': 'What is 2 + 2?'},), 0.0, 1.0)
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
        hash(self)  # raises unless the messages are JSON-able

    def __hash__(self) -> int:
        return hash(self.digest)

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the chat, in hexadecimal: the key of its answers in a store."""
        try:
            return digest_of(_ENCODER.encode(self.messages))
        except (TypeError, ValueError, RecursionError) as failed:
            reason = f"The messages are not JSON-able ({failed}); give texts and plain parts."
            raise InvalidDataError(reason) from failed

    def count_tokens(self, counter: TokenCounter) -> float:
        """Return the tokens of the chat; they are counted once."""
        if "_tokens" not in vars(self):
            vars(self)["_tokens"] = Chat(self.messages).count_tokens(counter)
        return float(vars(self)["_tokens"])

    @cached_property
    def grader_key(self) -> str | None:
        """The key of a program's grades in a store, which holds the reference as a digest; None for a judge."""
        if self.grader is None:
            return None
        return f"{self.grader.name} {digest_of(json.dumps([self.grader.key, self.reference]))[:16]}"

    @property
    def lacks_reference(self) -> bool:
        """Whether its answers cannot be compared until a reference is found."""
        return self.reference is None and (self.grader is None or _reads_reference(self.grader))

    def error(self, answer: str) -> float | None:
        """Return the error of an answer, 1 for none, or for thoughts alone; None where only a judge can tell.

        Raises `InvalidDataError` when the reference is missing, or when a grader of the user's own fails.
        """
        if not after_thoughts(answer):
            return 1.0
        if (grader := self.grader) is None:
            return None
        if self.lacks_reference:
            raise InvalidDataError(f"{self.name} has no reference; the grader {grader.name!r} needs one.")
        try:
            return grader(answer, self.reference or "")
        except InvalidDataError as failed:
            raise InvalidDataError(f"{self.name}: {failed}") from failed


def digest_of(text: str) -> str:
    """Return the SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class Questions(tuple[Question, ...]):
    """Questions, each chat once; `source` is the file's name and digest, for a profile's provenance.

    >>> from unirouter_plugins.graders import parse_grader
    >>> sums = Questions([Question(f"What is {n} + {n}?", str(2 * n), parse_grader("number")) for n in range(50)])
    >>> len(sums), sums[3].reference
    (50, '6')
    """

    source: str

    def __new__(cls, questions: Iterable[Question], source: str = "given") -> Self:
        """Return those with different chats; raise `InvalidDataError` where one chat has two references."""
        kept: dict[str, Question] = {}
        for place, question in enumerate(questions, 1):
            named = replace(question, name=f"question {place}") if question.name == UNNAMED else question
            first = kept.setdefault(named.digest, named)
            if (first.reference, first.grader, first.documents) != (named.reference, named.grader, named.documents):
                raise InvalidDataError(
                    f"{first.name} and {named.name} send the same chat, but their reference, grader or documents "
                    "differ; keep one of them."
                )
        if len(kept) < FEWEST:
            raise InvalidDataError(f"{len(kept)} different prompts are too few; give at least {FEWEST}.")
        made = super().__new__(cls, kept.values())
        made.source = source
        return made

    def __repr__(self) -> str:
        return f"Questions({len(self)} prompts, {self.source!r})"

    @cached_property
    def without_reference(self) -> tuple[Question, ...]:
        """Those that a reference model must answer first, or a judge grade alone."""
        return tuple(question for question in self if question.lacks_reference)

    @cached_property
    def for_judge(self) -> tuple[Question, ...]:
        """Those that no program grades."""
        return tuple(question for question in self if question.grader is None)

    def check(self, *, judge: bool = False, reference_model: bool = False) -> None:
        """Raise `InvalidDataError` when some cannot be graded with what there is: a judge, a reference model."""
        lacking = [q for q in self.without_reference if not judge or q.grader is not None]
        if lacking and not reference_model:
            ignored = sorted({name for question in lacking for name in question.fields} - {"id"})
            hint = f" A right answer is called 'reference'; {', '.join(ignored)} were ignored." if ignored else ""
            cure = "give them one, or name a reference model" + ("." if judge else " or a judge.")
            raise InvalidDataError(f"{self._count(lacking)} no reference; {cure}{hint}")
        if not judge and (unjudged := [q for q in self.for_judge if q.reference is not None]):
            raise InvalidDataError(
                f"{self._count(unjudged)} no grader but a judge, as no program can tell whether a free text says the "
                "same; name a judge, or give them a grader."
            )

    def _count(self, some: Sequence[Question]) -> str:
        verb = "has" if len(some) == 1 else "have"
        return f"{len(some)} of {len(self)} prompts (the first is {some[0].name}) {verb}"

    def validation_set(self) -> ValidationSet:
        """Return them as a router keeps them; a missing reference is "", and the grader of a judge's "judge"."""
        documents = [q.documents or () for q in self]
        return ValidationSet(
            [q.prompt for q in self],
            [q.reference or "" for q in self] if any(q.reference is not None for q in self) else None,
            [JUDGE if q.grader is None else q.grader.spec for q in self],
            None if all(Chat(q.messages).is_bare for q in self) else [q.messages for q in self],
            documents if any(documents) else None,
        )


_GROUPED = r"\d{1,3}(?:[,.' ]\d{3})+(?:[.,]\d+)?"
_NUMBER = re.compile(rf"[-+−]?\s?[$€£¥₹]?\s?(?:{_GROUPED}|\d+(?:[.,]\d+)?|\d+\s?/\s?\d+)\s?[%$€£¥₹°]?")
_LETTER = re.compile(r"\(?[A-J][).]?|\(?[A-J]\)\s.*")
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff]{1,2}")  # Thai, Lao, kana, Chinese: two are a word
_PAIRS = (["yes", "no"], ["true", "false"])


def suitable_grader(reference: str) -> Grader | None:
    """Return the grader that the shape of a reference asks for; None for free text, which only a judge can grade.

    A lone letter from A to J is an option ("choice"), as are yes and no, true and false; a lone number is a "number";
    an object or a list is "json"; any other text of at most five words is "text".

    >>> [suitable_grader(text).spec for text in ("42", "C", "New York")]
    ['number', 'choice', 'text']
    >>> suitable_grader("Bring it back within 30 days, with the receipt.") is None
    True
    """
    text = bare(reference)
    fits: dict[str, Callable[[str], object]]
    fits = {"choice": _LETTER.fullmatch, "number": _NUMBER.fullmatch, "json": holds_json, "text": is_short}
    specs = [json.dumps({"grader": "choice", "options": pair}) for pair in _PAIRS if normalised(text) in pair]
    specs += [name for name, fit in fits.items() if fit(text)]
    grader = _parsed(specs[0]) if specs else None
    return None if grader is None or grader(reference, reference) else grader


def is_short(text: str) -> bool:
    """Return whether a text has few enough words to be compared word by word."""
    return len(_UNSPACED.sub("x ", text).split()) <= MOST_WORDS


def holds_json(text: str) -> bool:
    """Return whether a text is a JSON object or list."""
    try:
        return isinstance(json.loads(text), dict | list)
    except (ValueError, RecursionError):
        return False


def _reads_reference(grader: Grader) -> bool:
    """Return whether a grader compares with a reference; others hold the answer to what they were made with."""
    if grader.name == "json":
        return bool(grader.parameters.get("compare", True))
    return grader.name not in ("regex", "constraints") and not (grader.name == "contains" and grader.parameters)


_TEXT = "a text"
# Of each field of a line: what it must be, in words and as types of the value and of its items
_EXPECTED: Mapping[str, tuple[str, type | tuple[type, ...], type | None]] = {
    "prompt": (_TEXT, str, None),
    "messages": ('a list of messages, [{"role": "user", "content": "..."}]', list, dict),
    "system": (_TEXT, str, None),
    "reference": (_TEXT, str, None),
    "grader": ('a name or {"grader": name, ...}', (str, dict), None),
    "documents": ("a list of texts", list, str),
}


def read_questions(
    path: str | os.PathLike[str] | None = None,
    *,
    functions: Mapping[str, Function] | None = None,
    embedder: Embedder | None = None,
    judged: bool = False,
) -> Questions:
    r"""Return the questions in a file; without one, the 300 of this package.

    Each line of a ``.jsonl`` is an object, of which only a prompt or messages must be there::

        {"prompt": "What is 12 * 12?", "reference": "144", "grader": "number"}
        {"system": "Answer with a city.", "prompt": "Capital of Italy?", "reference": "Rome"}
        {"messages": [{"role": "user", "content": "..."}, ...], "reference": "...", "grader": "judge"}
        {"prompt": "Name a prime above 90.", "grader": {"grader": "regex", "pattern": "\\b97\\b"}}

    A ``grader`` is what `unirouter_plugins.graders.parse_grader` takes, or "judge". Without one, a judge grades where
    there is one; else the reference's shape tells which program does, see `suitable_grader`. ``documents`` is a list of
    texts that are sent before a ``prompt``; ``messages`` are sent as they are. ``id`` names the line in messages,
    other fields are ignored. A ``.txt`` has one bare prompt a line. Every reference must be a right answer by its own
    grader.

    `functions` are graders of your own, (answer, reference) -> error, by the names that lines give; `embedder` is for
    the grader "similarity"; `judged` says whether there is a judge. An `InvalidDataError` names file, line and value.

    >>> starter = read_questions()
    >>> len(starter), starter[0].prompt, starter[0].reference
    (300, 'Repeat this word and write nothing else: lantern', 'lantern')
    """
    place = Path(path) if path is not None else resources.files("unirouter_core") / "starter" / "validation.jsonl"
    shown = place.name if path is None else str(path)
    if not place.name.lower().endswith((".jsonl", ".txt")):
        raise InvalidDataError(f"{shown} is neither .jsonl nor .txt; write one object or one prompt a line.")
    content, text = read_text(place, shown)
    is_json, questions = place.name.lower().endswith(".jsonl"), []
    parse = cache(partial(parse_grader, functions=functions, embedder=embedder))
    try:
        for number, line in enumerate(io.StringIO(text, newline=""), 1):
            if not line.isspace():
                record = _record(line, number) if is_json else line.rstrip("\r\n")
                questions.append(_question(record, number, parse, judged))
        source = f"{place.name if path is not None else 'starter'} sha256:{hashlib.sha256(content).hexdigest()[:16]}"
        read = Questions(questions, source)
    except InvalidDataError as failed:
        raise InvalidDataError(f"{shown}: {failed}") from failed
    if len(read) < FEW:
        said = f"{place.name} holds {len(read)} prompts, too few to say much of a model; a few hundred do."
        warnings.warn(said, stacklevel=2)
    return read


def read_text(place: Path | Traversable, shown: str) -> tuple[bytes, str]:
    """Return a UTF-8 file's content and text; exceptions name it as `shown`."""
    try:
        content = read_bytes(place, MOST_JSON) if isinstance(place, Path) else place.read_bytes()
        return content, content.decode("utf-8-sig")
    except UnicodeDecodeError as failed:
        raise InvalidDataError(f"{shown} is not UTF-8 (byte {failed.start}); save it as UTF-8.") from failed
    except (OSError, ValueError) as failed:
        raise InvalidDataError(f"{shown} cannot be read: {getattr(failed, 'strerror', failed)}.") from failed


def _question(record: object, number: int, parse: Callable[[str], Grader], judged: bool) -> Question:
    """Return the question of a line, its reference checked."""
    line = {"prompt": record} if isinstance(record, str) else record
    if not isinstance(line, dict):
        raise InvalidDataError(f'line {number}: {line!r:.60} is no object; write {{"prompt": "..."}}.')
    given = {name: line[name] for name in _EXPECTED if line.get(name) is not None}
    others = {name: value for name, value in line.items() if name not in _EXPECTED}
    for name, value in given.items():
        _check_field(name, value, f"line {number}")
    place = f"line {number}" + (f" ({others['id']!s:.40})" if others.get("id") is not None else "")
    if "messages" in given and "system" in given:
        raise InvalidDataError(f"{place}: it has system and messages; put the system text into the messages.")
    if "messages" not in given and "prompt" not in given:
        has = f"it has {', '.join(others)}" if others else "it has nothing else"
        raise InvalidDataError(f"{place}: there is no 'prompt' and no 'messages'; {has}.")
    prompt, reference, grader = given.get("prompt", ""), given.get("reference"), given.get("grader")
    documents = tuple(given["documents"]) if "documents" in given else None
    system = [{"role": "system", "content": given["system"]}] if given.get("system") else []
    chat = given.get("messages") or [*system, {"role": "user", "content": as_one_prompt(prompt, documents or ())}]
    try:
        program = None
        if grader is not None and grader not in (JUDGE, {"grader": JUDGE}):
            program = parse(grader if isinstance(grader, str) else json.dumps(grader))
        elif grader is None and reference is not None and not judged:
            program = suitable_grader(reference)
        if program is not None and reference is not None and grader is not None:  # a suitable one has been tried
            program.check(reference)
        return Question(prompt, reference, program, chat, documents, place, others)
    except (InvalidDataError, RecursionError) as failed:
        raise InvalidDataError(f"{place}: {failed}") from failed


def _check_field(name: str, value: Any, place: str) -> None:
    """Raise `InvalidDataError` for a field's value that cannot be used, with what it must be."""
    expected, kind, of = _EXPECTED[name]
    where, cure, is_right = name, "", isinstance(value, kind)
    wrong = [] if of is None or not is_right else [at for at, item in enumerate(value) if not isinstance(item, of)]
    if is_right and not wrong:
        if name in ("prompt", "reference") and not value.strip():
            raise InvalidDataError(f"{place}: {name} is {value!r:.60}; write a text, or leave the field out.")
        return
    if wrong:
        where, value = f"{name}[{wrong[0]}]", value[wrong[0]]
    elif name == "reference" and isinstance(value, list):
        cure = ': write one, and the others in the grader, {"grader": "text", "also": [...]}'
    elif expected == _TEXT:
        cure = f": write {json.dumps(json.dumps(value, ensure_ascii=False), ensure_ascii=False):.60}"
    raise InvalidDataError(f"{place}: {where} is {value!r:.60}; {name} must be {expected}{cure}.")


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


_DECODER = json.JSONDecoder(parse_constant=_refuse)


def _record(line: str, number: int) -> object:
    """Return the JSON value of a line, which must be one that can be sent."""
    try:
        record = _DECODER.decode(line)
        if "\\u" in line:
            json.dumps(record, ensure_ascii=False).encode()
        return record
    except UnicodeEncodeError as failed:
        said = f"{failed.object[failed.start]!a} is half of a character; write the whole character, or both halves."
        raise InvalidDataError(f"line {number}: {said}") from failed
    except (ValueError, RecursionError) as failed:
        said = f"{line[:60]!r} is not JSON ({failed}); write one object a line."
        raise InvalidDataError(f"line {number}: {said}") from failed
