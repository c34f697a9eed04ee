"""Graders that hold an answer to rules: a pattern, a JSON schema or value, constraints such as lengths and lines."""

from __future__ import annotations

import json
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from contextvars import ContextVar
from functools import cache
from itertools import groupby
from typing import Annotated, Any, Literal, TypeAlias

import regex
from pydantic import Field, TypeAdapter, ValidationError, field_validator

from unirouter_plugins.graders.text import LONGEST, Phrases, Spec, fenced, mentions, unicode_form

SECONDS = 1.0  # of processor time for a pattern or a JSON schema on one answer; what takes longer is wrong
_LONGEST_PATTERN = 10_000  # characters
_MOST_REPEATS = 100_000  # that counts such as {1000} multiply to: `regex` writes them all out in memory


def check_pattern(pattern: str) -> str:
    """Return `pattern`, or raise `ValueError` unless it is a regular expression of Python that can be run."""
    counts = [int(count) for count in re.findall(r"\{(\d{1,9})", pattern)]
    if len(pattern) > _LONGEST_PATTERN or math.prod(filter(None, counts)) > _MOST_REPEATS:
        raise ValueError(f"{pattern!r:.60} is too long a pattern, or its counts multiply to more than {_MOST_REPEATS}.")
    try:
        re.compile(pattern)  # regex takes more: recursion, fuzzy counts
        regex.compile(pattern)
    except (re.error, regex.error, ArithmeticError, RecursionError, ValueError, Warning) as failed:
        raise ValueError(f"{pattern!r:.60} is not a regular expression of Python: {failed}.") from failed
    return pattern


_end: ContextVar[float] = ContextVar("when the processor time for the answer that is being graded is over")


def _left() -> float:
    """Return the processor seconds that are left for this answer, or raise `TimeoutError`."""
    if (left := _end.get() - time.thread_time()) <= 0:
        raise TimeoutError
    return left


def _found(pattern: str, text: str, *, whole: bool = False) -> bool:
    match = regex.fullmatch if whole else regex.search
    return match(pattern, text, timeout=_left(), concurrent=True) is not None  # concurrent: other threads go on


class Regex(Spec):
    """Take an answer in which the Python `pattern` is found, or which it matches as a `whole`."""

    pattern: str
    whole: bool = False

    _check = field_validator("pattern")(check_pattern)

    def _accepts(self, answer: str, reference: str) -> bool:
        _end.set(time.thread_time() + SECONDS)
        try:
            return _found(self.pattern, answer, whole=self.whole)
        except TimeoutError:
            return False


Json: TypeAlias = Any  # what json.loads gives
NOTHING = object()  # the value of an answer that has none, or only one that repeats a key, holds NaN or is too deep
_OPENING = re.compile(r"[{\[]")
_MOST_OPENINGS = 5_000  # brackets in prose at which a value may start


def find_json(answer: str) -> Json:
    """Return the JSON value of `answer`: the whole of it, else that of its last code fence, else the last in its prose.

    >>> find_json('Here you are: {"city": "Graz"}. Anything else?')
    {'city': 'Graz'}
    """
    flaws: list[object] = []  # what Python's decoder takes and JSON does not
    decoder = json.JSONDecoder(
        object_pairs_hook=lambda pairs: value if len(value := dict(pairs)) == len(pairs) else flaws.append(pairs),
        parse_float=lambda text: value if math.isfinite(value := float(text)) else flaws.append(text),
        parse_constant=flaws.append,
    )
    found, position = NOTHING, 0
    try:
        for text in (answer, *reversed(fenced(answer))):
            flaws.clear()
            with suppress(ValueError):
                value = decoder.decode(text.strip())
                return NOTHING if flaws else value
        for _ in range(_MOST_OPENINGS):
            if (opening := _OPENING.search(answer, position)) is None:
                break
            flaws.clear()
            try:
                value, position = decoder.raw_decode(answer, opening.start())
                found = NOTHING if flaws else value
            except ValueError as failed:  # go on where it failed, so that the time is linear
                position = max(getattr(failed, "pos", 0), opening.end())
    except RecursionError:
        return NOTHING
    return found


def _form(value: Json, like: Json = None, *, ignore_case: bool = False, unordered: bool = False) -> Any:
    """Return something hashable that equal values share: key order and number format do not matter, true is not 1.

    With `like`, objects keep only the keys that they have there.
    """
    options = {"ignore_case": ignore_case, "unordered": unordered}
    if isinstance(value, dict):
        likes = like if isinstance(like, dict) else {}
        keys = value.keys() & likes.keys() if isinstance(like, dict) else value.keys()
        return "object", frozenset((key, _form(value[key], likes.get(key), **options)) for key in keys)
    if isinstance(value, list):
        rows: list[Json] = like if isinstance(like, list) and len(like) == len(value) else [None] * len(value)
        if unordered and all(isinstance(row, dict) for row in rows):  # any item may be any other
            rows = [{key: inner for row in rows for key, inner in row.items()}] * len(value)
        items = [_form(item, row, **options) for item, row in zip(value, rows, strict=True)]
        return "list", frozenset(Counter(items).items()) if unordered else tuple(items)
    if isinstance(value, str):
        text = unicode_form(value, "NFC").strip()
        return "text", text.casefold() if ignore_case else text
    if isinstance(value, bool) or value is None:
        return value
    return "number", str(int(value) if value == int(value) else value)  # as text: who writes a number chooses its hash


class JsonSpec(Spec):
    """Take an answer with a JSON value that fits `schema` and, with `compare`, equals the reference's value.

    Key order and number format do not matter; `ignore_case`, `unordered` lists and `extra` keys are allowed if asked.
    The schema is of draft 2020-12; references to other documents are not followed.
    """

    schema_: dict[str, Any] | bool | None = Field(None, alias="schema")
    compare: bool = True
    ignore_case: bool = False
    unordered: bool = False
    extra: bool = False

    @field_validator("schema_")
    @classmethod
    def _usable(cls, schema: dict[str, Any] | bool | None) -> dict[str, Any] | bool | None:
        return schema if schema is None or isinstance(schema, bool) else _checked_schema(schema)

    def _accepts(self, answer: str, reference: str) -> bool:
        value, wanted = find_json(answer), find_json(reference) if self.compare else None
        like = wanted if self.extra else None
        options = {"ignore_case": self.ignore_case, "unordered": self.unordered}
        _end.set(time.thread_time() + SECONDS)
        try:
            return (
                not (value is NOTHING or wanted is NOTHING)
                and (self.schema_ is None or _fits(value, self.schema_))
                and bool(not self.compare or _form(value, like, **options) == _form(wanted, like, **options))
            )
        except (TimeoutError, RecursionError, ArithmeticError):  # too much work, too deep, 1e999 / .1
            return False


@cache
def _validator() -> Any:
    """Return jsonschema's class for draft 2020-12, held to `SECONDS`; imported late, as that takes .1 s."""
    from jsonschema import Draft202012Validator, validators
    from jsonschema.exceptions import ValidationError as Misfit

    def pattern(validator: Any, wanted: str, instance: Json, schema: Any) -> Iterator[Misfit]:
        if isinstance(instance, str) and not _found(wanted, instance):
            yield Misfit("It does not match the pattern.")

    def unique_items(validator: Any, wanted: bool, instance: Json, schema: Any) -> Iterator[Misfit]:
        if wanted and isinstance(instance, list) and len(set(map(_form, instance))) < len(instance):
            yield Misfit("It has an item twice.")

    def timed(keyword: Callable[..., Any]) -> Callable[..., Any]:
        def check(*arguments: Any) -> Any:
            _left()  # a schema that refers to itself twice doubles the work at each level of the value
            return keyword(*arguments)

        return check

    keywords = {**Draft202012Validator.VALIDATORS, "pattern": pattern, "uniqueItems": unique_items}
    return validators.extend(Draft202012Validator, {name: timed(keyword) for name, keyword in keywords.items()})


def _fits(value: Json, schema: dict[str, Any] | bool) -> bool:
    from referencing import Registry  # an empty one: no other document is read

    return bool(_validator()(schema, registry=Registry()).is_valid(value))


_UNKNOWN = ("patternProperties", "unevaluatedProperties", "unevaluatedItems")  # more than linear in jsonschema


def _checked_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema without the names of drafts, or raise `ValueError` unless it can be used."""
    from jsonschema.exceptions import SchemaError
    from referencing import Registry
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    keywords: list[tuple[str, Json]] = []

    def visit(part: dict[str, Json]) -> dict[str, Json]:
        keywords.extend(part.items())
        return {key: value for key, value in part.items() if key != "$schema" or not isinstance(value, str)}

    try:
        schema = json.loads(json.dumps(schema, allow_nan=False), object_hook=visit)
        _validator().check_schema(schema)
        resolver = Registry().resolver_with_root(DRAFT202012.create_resource(schema))
        for keyword, wanted in keywords:
            if keyword in _UNKNOWN:
                raise ValueError(f"The JSON schema keyword {keyword!r} is not known here; use additionalProperties.")
            if keyword in ("$ref", "$dynamicRef") and isinstance(wanted, str):
                resolver.lookup(wanted)
            elif keyword == "pattern" and isinstance(wanted, str):
                check_pattern(wanted)
    except SchemaError as failed:
        place = "/".join(map(str, failed.absolute_path)) or "schema"
        raise ValueError(f"{place!r} is not JSON Schema (draft 2020-12): {failed.message:.200}.") from failed
    except Unresolvable as failed:
        raise ValueError(f"The schema refers to {failed.ref!r}, which is not in it; no other is read.") from failed
    except (RecursionError, TypeError) as failed:
        raise ValueError(f"{schema!r:.60} is not a JSON schema: {failed}.") from failed
    return schema


# Constraints

_BULLET = re.compile(r"[-*•]\s{1,9}\S")
_NUMBERED = re.compile(r"\d{1,3}[.)]\s{1,9}\S")
_ITEM = re.compile(r"(?:[-*•]|\d{1,3}[.)])\s{1,9}")
_SENTENCE_END = re.compile(r"[.!?…][\"'”’)*_]{0,5}(?=\s|$)")


def _words(text: str) -> list[str]:
    """Return what stands between white space and has a letter or a digit."""
    return [word for word in text.split() if any(map(str.isalnum, word))]


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _contents(text: str) -> list[str]:
    """Return the lines without bullets and list numbers."""
    return [line[item.end() :] if (item := _ITEM.match(line)) else line for line in _lines(text)]


def _paragraphs(text: str) -> list[str]:
    return ["\n".join(lines) for filled, lines in groupby(text.splitlines(), lambda line: bool(line.strip())) if filled]


def _sentences(text: str) -> int:
    return len(_SENTENCE_END.findall(text))


def _initials(text: str) -> str:
    return "".join(next(filter(str.isalnum, line), "") for line in _lines(text)).casefold()


def _is_json(text: str) -> bool:
    blocks = fenced(text)
    inside = (blocks[0] if len(blocks) == 1 and text.startswith("```") and text.endswith("```") else text).strip()
    return inside[:1] + inside[-1:] in ("{}", "[]") and find_json(inside) is not NOTHING


_Count = Annotated[int, Field(ge=0, le=LONGEST)]
_Letters = Annotated[str, Field(min_length=1)]
_Yes = Literal[True]

# For each rule: what it takes, and whether a text keeps it.
RULES: dict[str, tuple[Any, Callable[[str, Any], bool]]] = {
    "min_words": (_Count, lambda text, n: len(_words(text)) >= n),
    "max_words": (_Count, lambda text, n: len(_words(text)) <= n),
    "words": (_Count, lambda text, n: len(_words(text)) == n),
    "min_characters": (_Count, lambda text, n: len(text) >= n),
    "max_characters": (_Count, lambda text, n: len(text) <= n),
    "lines": (_Count, lambda text, n: len(_lines(text)) == n),
    "max_lines": (_Count, lambda text, n: len(_lines(text)) <= n),
    "words_per_line": (_Count, lambda text, n: all(len(_words(line)) == n for line in _contents(text))),
    "paragraphs": (_Count, lambda text, n: len(_paragraphs(text)) == n),
    "sentences": (_Count, lambda text, n: _sentences(text) == n),
    "sentences_by_paragraph": (list[_Count], lambda text, ns: [*map(_sentences, _paragraphs(text))] == ns),
    "bullets": (_Count, lambda text, n: sum(bool(_BULLET.match(line)) for line in _lines(text)) == n),
    "numbered": (_Count, lambda text, n: sum(bool(_NUMBERED.match(line)) for line in _lines(text)) == n),
    "starts_with": (_Letters, str.startswith),
    "ends_with": (_Letters, str.endswith),
    "first_letters": (_Letters, lambda text, letters: _initials(text) == letters.casefold()),
    "no_letters": (_Letters, lambda text, letters: set(letters.casefold()).isdisjoint(text.casefold())),
    "must_include": (Phrases, lambda text, phrases: all(mentions(text, phrase) for phrase in phrases)),
    "must_not_include": (Phrases, lambda text, phrases: not any(mentions(text, phrase) for phrase in phrases)),
    "all_lowercase": (_Yes, lambda text, _: text == text.lower()),
    "all_uppercase": (_Yes, lambda text, _: text == text.upper()),
    "no_commas": (_Yes, lambda text, _: "," not in text),
    "no_digits": (_Yes, lambda text, _: not any(map(str.isdecimal, text))),
    "only_letters": (_Yes, lambda text, _: all(sign.isalpha() or sign.isspace() for sign in text)),
    "different_first_letters": (
        _Yes,
        lambda text, _: len({w[0].casefold() for w in _words(text)}) == len(_words(text)),
    ),
    "sorted_lines": (_Yes, lambda text, _: (lines := [*map(str.casefold, _contents(text))]) == sorted(lines)),
    "is_json": (_Yes, lambda text, _: _is_json(text)),
}


class Constraints(Spec):
    """Take an answer that keeps all the `rules`, {name: value}; `RULES` has their names and what they take."""

    rules: dict[str, Any]

    @field_validator("rules")
    @classmethod
    def _usable(cls, rules: dict[str, Any]) -> dict[str, Any]:
        if not rules:
            raise ValueError(f"The constraints grader has no rules; give some of {', '.join(RULES)}.")
        for name, value in rules.items():
            if name not in RULES:
                raise ValueError(f"The rule {name!r} is not known; use some of {', '.join(RULES)}.")
            try:
                TypeAdapter(RULES[name][0]).validate_python(value, strict=True)
            except ValidationError as failed:
                raise ValueError(f"The rule {name!r}: {failed.errors()[0]['msg']}, not {value!r:.60}.") from failed
        return rules

    def _accepts(self, answer: str, reference: str) -> bool:
        return all(RULES[name][1](answer, value) for name, value in self.rules.items())
