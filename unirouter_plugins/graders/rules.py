"""Graders that check an answer against rules: a pattern, a JSON schema or value, constraints such as lengths."""

from __future__ import annotations

import json
import math
import operator
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from contextvars import ContextVar
from functools import cache
from itertools import groupby, product
from typing import Annotated, Any, Literal, TypeAlias

import regex
from pydantic import Field, TypeAdapter, ValidationError, field_validator

from unirouter_core.exceptions import shown
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


_deadline = ContextVar("the processor time at which grading the answer times out", default=math.inf)


def _left() -> float:
    """Return the processor seconds that are left for this answer, or raise `TimeoutError`."""
    if (left := _deadline.get() - time.thread_time()) <= 0:
        raise TimeoutError
    return left


def _found(pattern: str, text: str, *, whole: bool = False) -> bool:
    match = regex.fullmatch if whole else regex.search
    while left := _left():
        with suppress(TimeoutError):  # regex counts the processor time of all threads, so it may come too early
            return match(pattern, text, timeout=left, concurrent=True) is not None  # concurrent: other threads go on
    return False


class _TimeLimited(Spec):
    """A grader with a timeout of `SECONDS`, for patterns, schemas and deep values."""

    def _accepts(self, answer: str, reference: str) -> bool:
        token = _deadline.set(time.thread_time() + SECONDS)
        try:
            return self._fits(answer, reference)
        except (TimeoutError, RecursionError, ArithmeticError):  # too much work, too deep, 1e999 / .1
            return False
        finally:
            _deadline.reset(token)

    def _fits(self, answer: str, reference: str) -> bool:
        raise NotImplementedError


class Regex(_TimeLimited):
    """Accept an answer in which the Python `pattern` is found, or which it matches as a `whole`."""

    pattern: str
    whole: bool = False

    _check = field_validator("pattern")(check_pattern)

    def _fits(self, answer: str, reference: str) -> bool:
        return _found(self.pattern, answer, whole=self.whole)


Json: TypeAlias = Any  # what json.loads gives
NOTHING = object()  # the value of an answer that has none, or only one that repeats a key or holds NaN
_BRACKET = re.compile(r"[{\[]")
_MOST_BRACKETS = 5_000  # in prose at which a value may start


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
    for text in (answer, *reversed(fenced(answer))):
        flaws.clear()
        with suppress(ValueError):
            value = decoder.decode(text.strip())
            return NOTHING if flaws else value
    found, position = NOTHING, 0
    for _ in range(_MOST_BRACKETS):
        if (bracket := _BRACKET.search(answer, position)) is None or not _left():
            break
        flaws.clear()
        try:
            value, position = decoder.raw_decode(answer, bracket.start())
            found = NOTHING if flaws else value
        except ValueError as failed:  # go on where it failed, so that the time is linear
            position = max(getattr(failed, "pos", 0), bracket.end())
    return found


def _form(value: Json, like: Json = None, *, ignore_case: bool = False, unordered: bool = False) -> Any:
    """Return a hashable canonical form: key order and number format do not matter, true is not 1.

    With `like`, objects keep only the keys that they have in it.
    """
    options = {"ignore_case": ignore_case, "unordered": unordered}
    if isinstance(value, dict):
        likes = like if isinstance(like, dict) else dict.fromkeys(value)
        return "object", frozenset((key, _form(value[key], likes[key], **options)) for key in value.keys() & likes)
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
    return "number", str(
        int(value) if value == int(value) else value
    )  # as text: an answer could choose numbers of one hash


class JsonSpec(_TimeLimited):
    """Accept an answer with a JSON value that fits `schema` and, with `compare`, equals the reference's value.

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
        return _checked_schema(schema) if isinstance(schema, dict) else schema

    def _fits(self, answer: str, reference: str) -> bool:
        if (value := find_json(answer)) is NOTHING or not (self.schema_ is None or _is_valid(value, self.schema_)):
            return False
        if not self.compare:
            return True
        if (wanted := find_json(reference)) is NOTHING:
            return False
        like, how = wanted if self.extra else None, {"ignore_case": self.ignore_case, "unordered": self.unordered}
        return bool(_form(value, like, **how) == _form(wanted, like, **how))


@cache
def _validator() -> Any:
    """Return jsonschema's class for draft 2020-12 with a timeout of `SECONDS`; imported late, as that takes .1 s."""
    from jsonschema import Draft202012Validator, validators
    from jsonschema.exceptions import ValidationError as Misfit

    def pattern(validator: Any, wanted: str, instance: Json, schema: Any) -> Iterator[Misfit]:
        if isinstance(instance, str) and not _found(wanted, instance):
            yield Misfit("It does not match the pattern.")

    def unique_items(validator: Any, wanted: bool, instance: Json, schema: Any) -> Iterator[Misfit]:
        if wanted and isinstance(instance, list) and not _is_unique([*map(_form, instance)]):
            yield Misfit("It has an item twice.")

    def timed(keyword: Callable[..., Any]) -> Callable[..., Any]:
        # A schema that refers to itself twice doubles the work at each level of the value.
        return lambda *arguments: keyword(*arguments) if _left() else None

    keywords = {**Draft202012Validator.VALIDATORS, "pattern": pattern, "uniqueItems": unique_items}
    return validators.extend(Draft202012Validator, {name: timed(keyword) for name, keyword in keywords.items()})


def _is_valid(value: Json, schema: dict[str, Any] | bool) -> bool:
    from referencing import Registry  # an empty one: no other document is read

    return bool(_validator()(schema, registry=Registry()).is_valid(value))


_UNSUPPORTED = ("patternProperties", "unevaluatedProperties", "unevaluatedItems")  # more than linear in jsonschema


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
            if keyword in _UNSUPPORTED:
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
        raise ValueError(f"{shown(schema)} is not a JSON schema: {failed}.") from failed
    return schema


# Constraints

_ITEM = re.compile(r"(?:(?P<bullet>[-*•])|\d{1,3}[.)])\s{1,9}")
_SENTENCE_END = re.compile(r"[.!?…][\"'”’)*_]{0,5}(?=\s|$)")


def _words(text: str) -> list[str]:
    """Return the words between white space that have a letter or a digit."""
    return [word for word in text.split() if any(map(str.isalnum, word))]


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _contents(text: str) -> list[str]:
    """Return the lines without bullets and list numbers."""
    return [line[item.end() :] if (item := _ITEM.match(line)) else line for line in _lines(text)]


def _items(text: str) -> list[str | None]:
    """Return the bullets of a list, None for a number."""
    return [item["bullet"] for item in map(_ITEM.match, _lines(text)) if item]


def _paragraphs(text: str) -> list[str]:
    return ["\n".join(lines) for filled, lines in groupby(text.splitlines(), lambda line: bool(line.strip())) if filled]


def _sentences(text: str) -> int:
    return len(_SENTENCE_END.findall(text))


def _initials(lines: list[str]) -> str:
    return "".join(next(filter(str.isalnum, line), "") for line in lines).casefold()


def _is_unique(items: list[Any]) -> bool:
    return len(set(items)) == len(items)


def _is_json(text: str) -> bool:
    blocks = fenced(text)
    inside = (blocks[0] if len(blocks) == 1 and text.startswith("```") and text.endswith("```") else text).strip()
    return inside[:1] + inside[-1:] in ("{}", "[]") and find_json(inside) is not NOTHING


_Count = Annotated[int, Field(ge=0, le=LONGEST)]
_Letters = Annotated[str, Field(min_length=1)]
_Yes = Literal[True]

_COUNTS: dict[str, Callable[[str], int]] = {
    "words": lambda text: len(_words(text)),
    "characters": len,
    "lines": lambda text: len(_lines(text)),
    "paragraphs": lambda text: len(_paragraphs(text)),
    "sentences": _sentences,
    "bullets": lambda text: len(_items(text)) - _items(text).count(None),
    "numbered": lambda text: _items(text).count(None),
}
_COMPARISONS: dict[str, Callable[[int, int], bool]] = {"": operator.eq, "min_": operator.ge, "max_": operator.le}


def _compared(count: Callable[[str], int], compare: Callable[[int, int], bool]) -> Callable[[str, int], bool]:
    return lambda text, n: compare(count(text), n)


# For each rule: what it takes, and whether a text keeps it. Each count has three: words, min_words and max_words.
RULES: dict[str, tuple[Any, Callable[[str, Any], bool]]] = {
    **{
        f"{prefix}{what}": (_Count, _compared(count, compare))
        for (what, count), (prefix, compare) in product(_COUNTS.items(), _COMPARISONS.items())
    },
    "words_per_line": (_Count, lambda text, n: all(len(_words(line)) == n for line in _contents(text))),
    "sentences_by_paragraph": (list[_Count], lambda text, ns: [*map(_sentences, _paragraphs(text))] == ns),
    "starts_with": (_Letters, str.startswith),
    "ends_with": (_Letters, str.endswith),
    "first_letters": (_Letters, lambda text, letters: _initials(_lines(text)) == letters.casefold()),
    "no_letters": (_Letters, lambda text, letters: set(letters.casefold()).isdisjoint(text.casefold())),
    "must_include": (Phrases, lambda text, phrases: all(mentions(text, phrase) for phrase in phrases)),
    "must_not_include": (Phrases, lambda text, phrases: not any(mentions(text, phrase) for phrase in phrases)),
    "all_lowercase": (_Yes, lambda text, _: text == text.lower()),
    "all_uppercase": (_Yes, lambda text, _: text == text.upper()),
    "no_commas": (_Yes, lambda text, _: "," not in text),
    "no_digits": (_Yes, lambda text, _: not any(map(str.isdecimal, text))),
    "only_letters": (_Yes, lambda text, _: all(sign.isalpha() or sign.isspace() for sign in text)),
    "different_first_letters": (_Yes, lambda text, _: _is_unique([word[0].casefold() for word in _words(text)])),
    "sorted_lines": (_Yes, lambda text, _: (lines := [*map(str.casefold, _contents(text))]) == sorted(lines)),
    "is_json": (_Yes, lambda text, _: _is_json(text)),
}


class Constraints(_TimeLimited):
    """Accept an answer that keeps all the `rules`, {name: value}; `RULES` has their names and what they take."""

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
                raise ValueError(f"The rule {name!r}: {failed.errors()[0]['msg']}, not {shown(value)}.") from failed
        return rules

    def _fits(self, answer: str, reference: str) -> bool:
        return all(RULES[name][1](answer, value) for name, value in self.rules.items())
