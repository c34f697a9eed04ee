"""Text to the JSON value it holds; whether that value fits a schema, and whether it equals another."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from unirouter_core.exceptions import InvalidDataError
from unirouter_plugins.graders.answers import fenced
from unirouter_plugins.graders.patterns import check_pattern, found

Json: TypeAlias = Any
"""What ``json.loads`` gives."""

_BRACKET = re.compile(r'[{}\[\]]|"(?:[^"\\\n]|\\.)*"')
_DEEPEST = 60  # levels of a value that are compared, well within Python's recursion
_MOST_SPANS = 200  # values that prose may hold before the last one


class Flawed:
    """Stands where an answer has a key twice or a number that JSON does not know; equals nothing, fits nothing."""


def find_json(answer: str) -> Json | Flawed:
    """Return the JSON value of `answer`: the whole of it, else that of its last code fence, else the last in its prose.

    `Flawed` when there is none, or when it repeats a key, holds NaN or is nested absurdly deep.

    Examples
    --------
    >>> find_json('Here you are: {"city": "Graz"}. Anything else?')
    {'city': 'Graz'}
    """
    for text in (answer, *reversed(fenced(answer)), *reversed(_bracketed(answer))):
        try:
            value = json.loads(text, object_pairs_hook=_without_repeats, parse_constant=lambda name: Flawed())
            return Flawed() if _is_too_deep(value) else value
        except (ValueError, RecursionError):
            continue
    return Flawed()


def _is_too_deep(value: Json) -> bool:
    level = [value]
    for _ in range(_DEEPEST):
        level = [inner for item in level if isinstance(item, dict | list) for inner in _inside(item)]
    return bool(level)


def _inside(value: dict[str, Json] | list[Json]) -> Iterable[Json]:
    return value.values() if isinstance(value, dict) else value


def _without_repeats(pairs: list[tuple[str, Json]]) -> Json:
    value = dict(pairs)
    return value if len(value) == len(pairs) else Flawed()


def _bracketed(text: str) -> list[str]:
    """Return the outermost stretches of `text` from a bracket to the one that closes it, minding strings."""
    spans: list[str] = []
    position, start, depth = 0, 0, 0
    while len(spans) < _MOST_SPANS and (token := _BRACKET.search(text, position)):
        position = token.end()
        if token[0] in "{[":
            start = start if depth else token.start()
            depth += 1
        elif token[0] in "}]":
            depth -= depth > 0
            if not depth:
                spans.append(text[start:position])
        elif not depth:
            position = token.start() + 1  # a quote in prose may stand alone
    return spans


def same(one: Json, other: Json, *, ignore_case: bool = False, unordered: bool = False, extra: bool = False) -> bool:
    """Return whether two values are equal: key order and number format do not matter, true is not 1.

    Parameters
    ----------
    ignore_case : bool
        Compare strings without case. White space around strings never counts.
    unordered : bool
        Compare lists as bags.
    extra : bool
        `one` may have keys that `other` has not.
    """
    options = {"ignore_case": ignore_case, "unordered": unordered, "extra": extra}
    if isinstance(other, dict):
        if not isinstance(one, dict) or not other.keys() <= one.keys() or (len(one) > len(other) and not extra):
            return False
        return all(same(one[key], value, **options) for key, value in other.items())
    if isinstance(other, list):
        if not isinstance(one, list) or len(one) != len(other):
            return False
        if not unordered:
            return all(same(*pair, **options) for pair in zip(one, other, strict=True))
        left = list(one)
        for value in other:
            match = next((place for place, item in enumerate(left) if same(item, value, **options)), None)
            if match is None:
                return False
            del left[match]
        return True
    if isinstance(other, str):
        return isinstance(one, str) and _text(one, ignore_case) == _text(other, ignore_case)
    if _is_number(other):
        return _is_number(one) and one == other
    return one is other  # true, false, null


def _text(text: str, ignore_case: bool) -> str:
    text = unicodedata.normalize("NFC", text).strip()
    return text.casefold() if ignore_case else text


def _is_number(value: Json) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


_TYPES: dict[str, Callable[[Json], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "number": _is_number,
    "integer": lambda value: _is_number(value) and value == int(value),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
}
_ANNOTATIONS = {"$schema", "$id", "title", "description", "default", "examples", "format"}
# For each keyword: the type it speaks of (None is any), and whether a value of that type keeps it.
_KEYWORDS: dict[str, tuple[str | None, Callable[[Json, Any], bool]]] = {
    "type": (None, lambda value, types: any(_TYPES[name](value) for name in _listed(types))),
    "enum": (None, lambda value, allowed: any(same(value, item) for item in allowed)),
    "const": (None, lambda value, wanted: same(value, wanted)),
    "required": ("object", lambda value, names: all(name in value for name in names)),
    "minimum": ("number", lambda value, bound: value >= bound),
    "maximum": ("number", lambda value, bound: value <= bound),
    "exclusiveMinimum": ("number", lambda value, bound: value > bound),
    "exclusiveMaximum": ("number", lambda value, bound: value < bound),
    "minLength": ("string", lambda value, bound: len(value) >= bound),
    "maxLength": ("string", lambda value, bound: len(value) <= bound),
    "pattern": ("string", lambda value, pattern: found(pattern, value)),
    "minItems": ("array", lambda value, bound: len(value) >= bound),
    "maxItems": ("array", lambda value, bound: len(value) <= bound),
    "uniqueItems": (
        "array",
        lambda value, wanted: (
            not wanted or not any(same(item, other) for n, item in enumerate(value) for other in value[:n])
        ),
    ),
    "items": ("array", lambda value, schema: all(fits(item, schema) for item in value)),
    "properties": (
        "object",
        lambda value, schemas: all(fits(value[name], schema) for name, schema in schemas.items() if name in value),
    ),
}


def _listed(names: str | list[str]) -> list[str]:
    return [names] if isinstance(names, str) else names


def fits(value: Json | Flawed, schema: Mapping[str, Any] | bool) -> bool:
    """Return whether `value` fits a `schema` that `check_schema` passed.

    Examples
    --------
    >>> fits({"n": 3.0}, {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}})
    True
    """
    if isinstance(value, Flawed) or isinstance(schema, bool):
        return schema is True and not isinstance(value, Flawed)
    for keyword, wanted in schema.items():
        of_type, holds = _KEYWORDS.get(keyword, ("", None))
        if holds and (of_type is None or _TYPES[of_type](value)) and not holds(value, wanted):
            return False
    others = schema.get("additionalProperties", True)
    named = schema.get("properties", {})
    return not isinstance(value, dict) or all(fits(item, others) for name, item in value.items() if name not in named)


def is_sound(value: Json | Flawed) -> bool:
    """Return whether `value` is JSON all the way down."""
    if isinstance(value, dict | list):
        return all(is_sound(item) for item in _inside(value))
    return not isinstance(value, Flawed) and (not isinstance(value, float) or math.isfinite(value))


def check_schema(schema: Any) -> None:
    """Raise `InvalidDataError` unless `schema` is within the part of JSON Schema that `fits` knows.

    That part: type, enum, const, required, properties, additionalProperties, items, minimum, maximum,
    exclusiveMinimum, exclusiveMaximum, minLength, maxLength, pattern, minItems, maxItems, uniqueItems. Titles,
    descriptions, defaults, examples and formats are passed over.
    """
    if isinstance(schema, bool):
        return
    if not isinstance(schema, Mapping):
        raise InvalidDataError(f"A JSON schema is an object, true or false, not {schema!r:.60}.")
    for keyword, wanted in schema.items():
        if keyword in _ANNOTATIONS:
            continue
        if keyword not in _KEYWORDS and keyword != "additionalProperties":
            known = ", ".join([*_KEYWORDS, "additionalProperties"])
            raise InvalidDataError(f"The JSON schema keyword {keyword!r} is not known here; use {known}.")
        if not _is_wanted(keyword, wanted):
            raise InvalidDataError(f"The JSON schema keyword {keyword!r} cannot be {wanted!r:.60}.")
        inner = wanted.values() if keyword == "properties" else [wanted]
        if keyword in ("properties", "items", "additionalProperties"):
            for part in inner:
                check_schema(part)
        if keyword == "pattern":
            check_pattern(wanted)


def _is_wanted(keyword: str, wanted: Any) -> bool:
    """Return whether a keyword's value has the right type."""
    if keyword == "type":
        names = [wanted] if isinstance(wanted, str) else wanted
        return isinstance(names, list) and all(isinstance(name, str) and name in _TYPES for name in names)
    if keyword == "required":
        return isinstance(wanted, list) and all(isinstance(name, str) for name in wanted)
    if keyword.endswith(("imum", "Length")) or keyword in ("minItems", "maxItems"):
        return _is_number(wanted)
    kinds = {"enum": list, "properties": dict, "pattern": str, "uniqueItems": bool}
    return isinstance(wanted, kinds.get(keyword, object))
