"""Instructions that a program can check: lengths, lines, what must and must not stand in an answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from unirouter_core.exceptions import InvalidDataError
from unirouter_plugins.graders.answers import fenced, mentions
from unirouter_plugins.graders.json_values import find_json, is_sound

_BULLET = re.compile(r"\s*[-*•]\s+\S")
_NUMBERED = re.compile(r"\s*\d{1,3}[.)]\s+\S")
_MARKER = re.compile(r"(?:[-*•]|\d{1,3}[.)])\s+")
_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’)*_]*(?=\s|$)")


def words_in(text: str) -> list[str]:
    """Return the words of `text`: what stands between white space and has a letter or a digit."""
    return [word for word in text.split() if re.search(r"[^\W_]", word)]


def lines_in(text: str) -> list[str]:
    """Return the lines of `text` that are not blank."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def holds_any(text: str, wanted: str | Sequence[str]) -> bool:
    """Return whether `text` mentions `wanted`, or one of it when it is a list of alternatives."""
    return any(mentions(text, phrase) for phrase in ([wanted] if isinstance(wanted, str) else wanted))


def unmarked_lines_in(text: str) -> list[str]:
    """Return the lines of `text` that are not blank, without bullets and list numbers."""
    return [_MARKER.sub("", line, count=1) if _MARKER.match(line) else line for line in lines_in(text)]


def _is_one_json(text: str) -> bool:
    blocks = fenced(text)
    inside = blocks[0] if len(blocks) == 1 and text.startswith("```") and text.endswith("```") else text
    value = find_json(inside)
    return inside.strip()[:1] + inside.strip()[-1:] in ("{}", "[]") and is_sound(value)


def _first_letters(text: str) -> str:
    return "".join(next((sign for sign in line if sign.isalnum()), "") for line in lines_in(text))


def _paragraphs(text: str) -> list[str]:
    return re.split(r"\n\s*\n", text)


def _sentences(text: str) -> int:
    return len(_SENTENCE_END.findall(text))


# For each rule: what it takes, and whether a text keeps it.
_RULES: dict[str, tuple[str, Callable[[str, Any], bool]]] = {
    "min_words": ("count", lambda text, n: len(words_in(text)) >= n),
    "max_words": ("count", lambda text, n: len(words_in(text)) <= n),
    "words": ("count", lambda text, n: len(words_in(text)) == n),
    "min_characters": ("count", lambda text, n: len(text) >= n),
    "max_characters": ("count", lambda text, n: len(text) <= n),
    "lines": ("count", lambda text, n: len(lines_in(text)) == n),
    "max_lines": ("count", lambda text, n: len(lines_in(text)) <= n),
    "words_per_line": ("count", lambda text, n: all(len(words_in(line)) == n for line in unmarked_lines_in(text))),
    "paragraphs": ("count", lambda text, n: len(_paragraphs(text)) == n),
    "sentences_by_paragraph": ("counts", lambda text, ns: [_sentences(part) for part in _paragraphs(text)] == ns),
    "sentences": ("count", lambda text, n: _sentences(text) == n),
    "bullets": ("count", lambda text, n: sum(bool(_BULLET.match(line)) for line in lines_in(text)) == n),
    "numbered": ("count", lambda text, n: sum(bool(_NUMBERED.match(line)) for line in lines_in(text)) == n),
    "starts_with": ("text", lambda text, start: text.startswith(start)),
    "ends_with": ("text", lambda text, end: text.endswith(end)),
    "first_letters": ("text", lambda text, letters: _first_letters(text).casefold() == letters.casefold()),
    "no_letters": ("text", lambda text, letters: not set(letters.casefold()) & set(text.casefold())),
    "must_include": ("texts", lambda text, phrases: all(holds_any(text, phrase) for phrase in phrases)),
    "must_not_include": ("texts", lambda text, phrases: not any(holds_any(text, phrase) for phrase in phrases)),
    "all_lowercase": ("flag", lambda text, _: text == text.lower()),
    "all_uppercase": ("flag", lambda text, _: text == text.upper()),
    "no_commas": ("flag", lambda text, _: "," not in text),
    "no_digits": ("flag", lambda text, _: not re.search(r"\d", text)),
    "only_letters": ("flag", lambda text, _: all(sign.isalpha() or sign.isspace() for sign in text)),
    "different_first_letters": (
        "flag",
        lambda text, _: len(firsts := [word[0].casefold() for word in words_in(text)]) == len(set(firsts)),
    ),
    "sorted_lines": (
        "flag",
        lambda text, _: (lines := [x.casefold() for x in unmarked_lines_in(text)]) == sorted(lines),
    ),
    "is_json": ("flag", lambda text, _: _is_one_json(text)),
}

_TAKES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "count": (lambda value: _is_count(value), "a whole number that is not negative"),
    "counts": (
        lambda value: isinstance(value, list) and bool(value) and all(_is_count(item) for item in value),
        "a list of whole numbers that are not negative",
    ),
    "text": (lambda value: isinstance(value, str) and value != "", "a string that is not empty"),
    "texts": (
        lambda value: isinstance(value, list) and bool(value) and all(_is_text_or_texts(item) for item in value),
        "a list of strings, or of lists of alternatives",
    ),
    "flag": (lambda value: value is True, "true"),
}


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_text_or_texts(value: Any) -> bool:
    items = value if isinstance(value, list) else [value]
    return bool(items) and all(isinstance(item, str) and item.strip() for item in items)


def check_rules(rules: Mapping[str, Any]) -> None:
    """Raise `InvalidDataError` unless every rule is known and has the value it takes."""
    if not rules:
        raise InvalidDataError(f"The constraints grader has no rules; give some of {', '.join(_RULES)}.")
    for name, value in rules.items():
        if name not in _RULES:
            raise InvalidDataError(f"The rule {name!r} is not known; use some of {', '.join(_RULES)}.")
        accepts, what = _TAKES[_RULES[name][0]]
        if not accepts(value):
            raise InvalidDataError(f"The rule {name!r} takes {what}, not {value!r:.60}.")


def broken_rules(text: str, rules: Mapping[str, Any]) -> list[str]:
    """Return the names of the rules that `text` breaks; white space around it does not count.

    Examples
    --------
    >>> broken_rules("Yes, of course.", {"max_words": 5, "no_commas": True})
    ['no_commas']
    """
    return [name for name, value in rules.items() if not _RULES[name][1](text.strip(), value)]
