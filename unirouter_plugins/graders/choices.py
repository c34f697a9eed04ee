"""Text to the option it picks: a letter, or one of some labels."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from unirouter_plugins.graders.answers import bare, final_part, first_line, normalised

LETTERS = "ABCDEFGHIJ"

_LETTER = r"(?:[B-HJ](?![\w'’])|[AI](?![\w'’])(?!\s+(?!(?:is|was|because|since|as)\b)[a-z]))"  # not the words A and I
_AFTER_CUE = re.compile(rf"[\W_]*(?:(?:option|choice|answer|letter)\s+)?[\W_]*({_LETTER})")
_AFTER_CUE_WORD = re.compile(r"[\W_]*(?:option|choice|letter)[\W_]+([A-J])(?!\w)", re.IGNORECASE)
_LINE_START = re.compile(r"[*_`(\[\s]*([A-J])(?:[*_`\s]*[).:\],;](?!\w)|[*_`]+(?!\w)|\s+[-–—=]\s)")
_NAMED = re.compile(
    rf"\b(?i:option|choice|letter|choose|pick|select)\s*[*_`(\[\"]*({_LETTER})"
    r"|(?<![\w'’-])([A-J])[*_`)\]]*\s+is\s+(?:the\s+)?(?:correct|right|true|best|answer)\b"
)
_MARKED = re.compile(r"(?<!\w)(?:\(([A-J])\)|\*\*\(?([A-J])[).:]?\*\*|\[([A-J])\]|[\"'`]([A-J])[\"'`])(?!\w)")
_ALONE = re.compile(r"(?<![\w'’-])([A-J])(?=\s*(?:[.,;:!?)]|$)|\s+(?:or|and)\s+\(?[A-J]\b)", re.MULTILINE)
_DENIED = re.compile(r"[)\]*_`\"'.]*\s*(?:is|are|was|seems?)?\s*(?:n't|not\b|wrong\b|incorrect\b|false\b|out\b)")
_ANOTHER = re.compile(r"\s(?:and|or|und|oder|et|ou|y|o)\s")
_NOT = re.compile(r"(?:\bnot|n['’]t)\W*$")


def find_letter(answer: str, options: Mapping[str, str] | None = None) -> str | None:
    """Return the letter (A to J) that `answer` picks, or None.

    In this order: the whole answer; what follows "the answer is"; a letter that opens the first line as options do
    ("B)", "B.", "B - Paris"); the one letter that "option", brackets or bold mark, or that stands alone before a
    stop, passing over those that are called wrong; the one option whose text stands in the answer. The article "A"
    and the pronoun "I" are followed by a word, so they are never taken. Two letters that both may be meant are None.

    Examples
    --------
    >>> find_letter("A careful look shows that it is (C)."), find_letter("A good one.")
    ('C', None)
    """
    whole = bare(answer).strip("()[]{}.*_`:\"' \t$")
    if len(whole) == 1 and whole.upper() in LETTERS:
        return whole.upper()
    part = final_part(answer)
    if part is not None:
        alone = bare(first_line(part)).strip("()[]{}.*_`:\"' \t$")
        if len(alone) == 1 and alone.upper() in LETTERS:
            return alone.upper()
        picked = _AFTER_CUE.match(part) or _LINE_START.match(part) or _AFTER_CUE_WORD.match(part)
        if picked:
            return picked[1].upper()
        named = _option_named(first_line(part), options)
        if named is not None:
            return named
    opening = _LINE_START.match(first_line(answer))
    if (
        opening
        and not _is_denied(opening)
        and len({found[1] for line in answer.splitlines() if (found := _LINE_START.match(line))}) == 1
    ):
        return opening[1]
    for pattern in (_NAMED, _MARKED, _ALONE):
        letters = {
            next(filter(None, found.groups())).upper() for found in pattern.finditer(answer) if not _is_denied(found)
        }
        if letters:
            return letters.pop() if len(letters) == 1 else None
    return _option_named(answer, options)


def _is_denied(found: re.Match[str]) -> bool:
    """Return whether the text calls the letter wrong, right before or right after it."""
    before = found.string[max(0, found.start() - 8) : found.start()]
    return bool(_DENIED.match(found.string, found.end()) or _NOT.search(before))


def _option_named(text: str, options: Mapping[str, str] | None) -> str | None:
    label = find_label(text, list(options.values())) if options else None
    return next((letter for letter, option in (options or {}).items() if option == label), None)


def find_label(answer: str, labels: Sequence[str]) -> str | None:
    """Return the one of `labels` that `answer` names, or None.

    In this order: what follows "the answer is", when it names one; the label that opens the first line; the only
    one in the answer. One right after "not" or "rather than" does not count. The longest is looked for first, so
    "not spam" is not "spam".

    Examples
    --------
    >>> find_label("No, a whale is a mammal. Yes, it swims.", ["yes", "no"])
    'no'
    """
    names = {normalised(label): label for label in labels}
    part = final_part(answer)
    if part is not None:
        first = _names_in(first_line(part), names)[:1]
        if first:
            return names[first[0]]
    opening = normalised(first_line(answer)) + " "
    opened = [name for name in names if opening.startswith(name + " ") and not _ANOTHER.match(opening, len(name))]
    if opened:
        return names[max(opened, key=len)]
    named = set(_names_in(answer, names))
    return names[named.pop()] if len(named) == 1 else None


def _names_in(text: str, names: Mapping[str, str]) -> list[str]:
    """Return the names in `text` that are not denied, in their order; of overlapping ones the longest."""
    longest_first = sorted(names, key=len, reverse=True)
    undenied = r"(?<!\S)(?<!not )(?<!nicht )(?<!pas )(?<!rather than )(?<!instead of )"
    return re.findall(undenied + "(?:" + "|".join(map(re.escape, longest_first)) + r")(?!\S)", normalised(text))
