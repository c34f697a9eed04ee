"""The number that an answer ends on: separators, signs, %, fractions, powers of ten, LaTeX, English words."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from unirouter_plugins.graders.text import Spec, final_part, unicode_form

_PLAIN = tuple(
    (re.compile(pattern, re.IGNORECASE), replacement)
    for pattern, replacement in (
        (r"(-?)\\[dtc]?frac\s?\{([^{}]{0,200})\}\s?\{([^{}]{0,200})\}", r" \1\2/\3 "),
        (r"(-?)\\[dtc]?frac\s?(\d)\s?(\d)", r" \1\2/\3 "),
        (r"\\(?:text|textbf|mathrm|mathbf|mbox)\s?\{([^{}]{0,200})\}", r" \1 "),
        (r"\\times|\\cdot", "×"),
        (r"\{,\}|\\!", ","),
        (r"(?<=\d)\\[,;: ](?=\d{3})", " "),
        (r"\^\{([^{}]{0,20})\}", r"^\1"),
        (r"\\([%$€£#])", r"\1"),
        (r"\\[()\[\],;: ]|\\(?:left|right|approx|quad)\b", " "),
        (r"(-?[¼-¾⅐-⅞])", r" \1 "),
        (r"(?<=\d)(?=[⁰¹²³⁴-⁹⁻])", "^"),
        (r"\b(?:USD|EUR|GBP|CHF|JPY|INR|Rs)\b\.?\s?(?=[-\d])", "$"),
        (r"(?<!\w)–(?=\d)", "-"),
        (r"(?<!\w )\b(?:minus|negative|moins|menos)\s{1,3}(?=[$€£]?\d)", "-"),
    )
)
_ASCII = str.maketrans("⁄−’", "/-'")
_SCALES = {"k": 3, "thousand": 3, **dict.fromkeys(("m", "million", "mio"), 6)}
_SCALES |= dict.fromkeys(("b", "bn", "billion", "milliarde", "mrd"), 9)
_NUMBER = re.compile(
    r"""
    (?: (?<![\w)\]}^]) (?P<sign>[-+]) (?=[$€£¥₹]?[.0-9]) )?
    (?P<money> [$€£¥₹] \s? (?P<inner>-)? (?=[.0-9]) )?
    (?<! [\w^] ) (?<! [0-9][.,] )
    (?: (?P<whole> [0-9]{1,9} ) \s (?:and\s)? (?= [0-9]{1,9} / [0-9] ) )?
    (?P<digits> [0-9]{1,60}(?![0-9]) (?: [.,'_][0-9]{1,60}(?![0-9]) | [ ][0-9]{3}(?![0-9]) ){0,999} | \.[0-9]{1,60} )
    (?:
        [eE] (?P<e> [-+]?[0-9]{1,3} ) (?!\w)
      | \s? [x×·*] \s? 10 \s? (?:\^|\*\*) \s? [({]? (?P<ten> [-+]?[0-9]{1,3} ) (?![0-9]) [)}]?
      | (?:\^|\*\*) [({]? (?P<power> -?[0-9]{1,2} ) (?![0-9]) [)}]?
      | \s? / \s? (?P<below> [0-9]{1,9} ) (?! [0-9.,]{0,9}[0-9] | \s?/\s?[0-9] )
    )?
    (?: \s? (?P<scale> (?i:thousand|million|mio|billion|milliarde|mrd) ) (?:s|n|en)? \b | (?P<short>k|K|M|B|bn) \b )?
    (?P<percent> \s? (?: % | (?i: per\s?cent | prozent | pour\s?cent | por\s?ciento ) \b ) )?
    """,
    re.VERBOSE,
)
_ONES = "zero|one|two|three|four|five|six|seven|eight|nine"
_TEENS = "ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen|eighteen|nineteen"
_TENS = "twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety"
_WORD = re.compile(rf"\b(?:({_TENS})(?:[-\s]({_ONES[5:]}))?|({_ONES}|{_TEENS}))\b", re.IGNORECASE)
_WORDS = {word: n for n, word in enumerate(f"{_ONES}|{_TEENS}".split("|"))}
_WORDS |= {word: 10 * n for n, word in enumerate(_TENS.split("|"), 2)}
_MARKER = re.compile(r"\s{0,9}(?:[-*•]\s{1,9})?\d{1,2}[.)]\s{1,9}(?=\S)")
_BOLD = re.compile(r"\*\*([^*]{1,400})\*\*")
_REMARK = re.compile(r"(?<=[\w%°$€£*)]) ?\([^()]{0,400}\)")
_BECAUSE = r"because|since|weil|denn|car|porque"
_REASON = re.compile(rf"(?:,\s{{0,3}}as|,?\s(?:{_BECAUSE}))\b", re.IGNORECASE)
_SO = re.compile(r"\b(?:so|thus|hence|therefore|also|donc)\b", re.IGNORECASE)
_CLAUSE_END = re.compile(rf";|,(?!\d)|\b(?:{_BECAUSE}|as)\b", re.IGNORECASE)
_LONGEST_LINE = 4_000  # characters; of a longer one the beginning and the end are read
_UNIT_WORDS = 2  # the most after the one number of a line that is "nothing but a number"


class Number(NamedTuple):
    """A number in a text, and whether it was written as a percentage (then `value` is the number before the sign)."""

    value: Fraction
    percent: bool = False

    def values(self, other: Number) -> list[Fraction]:
        """Return the values it may have when compared with `other`."""
        return [self.value, self.value / 100] if self.percent and not other.percent else [self.value]


class NumberSpec(Spec):
    """Accept the same final number, within `tolerance` or within a `relative` part of the reference.

    12 % is 12 (the sign as a unit) and also 0.12, unless the other number is in % too.
    """

    tolerance: Annotated[float, Field(ge=0)] = 0
    relative: Annotated[float, Field(ge=0)] = 0
    decimal: Literal[".", ","] = "."

    def _accepts(self, answer: str, reference: str) -> bool:
        given, wanted = final_number(answer, decimal=self.decimal), final_number(reference, decimal=self.decimal)
        if given is None or wanted is None:
            return False
        tolerance, relative = Fraction(str(self.tolerance)), Fraction(str(self.relative))
        pairs = ((one, two) for one in given.values(wanted) for two in wanted.values(given))
        return any(abs(one - two) <= max(tolerance, relative * abs(two)) for one, two in pairs)


@lru_cache(maxsize=64)  # a reference is read twice when it is checked, and once for each answer to it
def final_number(answer: str, *, decimal: str = ".") -> Number | None:
    r"""Return the number that `answer` gives in the end, or None.

    In this order: the last ``\boxed{}``; what follows the last "the answer is"; the last line that has a number, or the
    first line if that is nothing but a number with its unit and the last is prose. On a line the number in bold counts,
    else the last one outside a remark in brackets or a reason ("because ..."). List markers ("2.") do not count.

    "1,234" is 1234 and "1.234" is a decimal fraction, the other way round with `decimal` ",".
    """
    text = answer
    for pattern, replacement in _PLAIN:
        text = pattern.sub(replacement, text)
    text = unicode_form(text).translate(_ASCII)
    for line in (final_part(text) or "").splitlines()[:3]:  # "The answer is:", a blank line, the number
        sums = _CLAUSE_END.split(line, maxsplit=1)[0].rpartition("=")
        if numbers := _numbers(line[len(sums[0]) :], decimal) or _numbers(line, decimal):
            return numbers[0]
        if word := _WORD.search(line):
            return _from_words(word)
    lines = [line for line in text.splitlines() if line.strip()]
    for read in ([line[marker.end() :] if (marker := _MARKER.match(line)) else line for line in lines], lines):
        if (last := next((line for line in reversed(read) if _numbers(line, decimal)), None)) is not None:
            is_first = _is_only_number(read[0], decimal) and not _is_only_number(last, decimal)
            return _number_on(read[0] if is_first else last, decimal)
    words = list(_WORD.finditer(text))
    return _from_words(words[-1]) if words else None


def _number_on(line: str, decimal: str) -> Number:
    """Return the number that counts on a line that has one."""
    bold = [number for span in _BOLD.findall(line) for number in _numbers(span, decimal)]
    bare = _REMARK.sub(" ", line)
    concluded = max((found.end() for found in _SO.finditer(bare)), default=0)
    reason = _REASON.search(bare, concluded)
    claim = bare[: reason.start()] if reason else bare
    return (bold or _numbers(claim, decimal) or _numbers(bare, decimal) or _numbers(line, decimal))[-1]


def _is_only_number(line: str, decimal: str) -> bool:
    found = _NUMBER.search(line)
    if found is None or len(_numbers(line, decimal)) != 1 or line.rstrip().endswith(":"):
        return False
    before, after = line[: found.start()], line[found.end() :]
    return not re.search(r"[^\W_]", before) and len(re.sub(r"[\W\d_]", " ", after).split()) <= _UNIT_WORDS


@lru_cache(maxsize=64)  # a line is read several times
def _numbers(line: str, decimal: str) -> tuple[Number, ...]:
    if len(line) > _LONGEST_LINE:
        line = f"{line[: _LONGEST_LINE // 2]}\n{line[-_LONGEST_LINE // 2 :]}"
    return tuple(number for found in _NUMBER.finditer(line) if (number := _read(found, decimal)) is not None)


def _read(found: re.Match[str], decimal: str) -> Number | None:
    """Return the number in a match of `_NUMBER`; None for "1.2.3", "5/0" and the like."""
    if (digits := _ungrouped(found["digits"], decimal)) is None:
        return None
    value = Fraction(digits)
    if found["power"] and value:
        value **= int(found["power"])
    if found["below"]:
        if not int(found["below"]):
            return None
        value = int(found["whole"] or 0) + value / int(found["below"])
    value *= Fraction(10) ** int(found["e"] or found["ten"] or 0)
    short = found["short"] if found["money"] or found["short"] == "k" else None  # 5 M are metres, $5M are millions
    value *= 10 ** _SCALES.get((found["scale"] or short or "").lower(), 0)
    return Number(-value if found["sign"] == "-" or found["inner"] else value, bool(found["percent"]))


def _ungrouped(digits: str, decimal: str) -> str | None:
    """Return `digits` with no group separators and a decimal point, or None when it is no one number."""
    for mark in " '_":
        if mark in digits:
            grouped = re.fullmatch(rf"\d{{1,3}}(?:{mark}\d{{3}}){{1,20}}([.,]\d{{1,60}})?", digits)
            digits = digits.replace(mark, "") if grouped else digits.rpartition(mark)[2]
            if grouped and grouped[1]:
                return digits.replace(",", ".")
    if not (separators := re.sub(r"\d", "", digits)):
        return digits
    last = separators[-1]
    if len(set(separators)) > 1:  # 1,234.5 or 1.234,5
        head, _, tail = digits.rpartition(last)
        return None if last in head else re.sub("[.,]", "", head) + "." + tail
    head, *groups = digits.split(last)
    is_grouped = 1 <= len(head) <= 3 and head != "0" and len(groups[-1]) == 3 and {*map(len, groups)} <= {2, 3}
    if len(groups) > 1:  # 1,2,3 is a list; 1.2.3 a version or a date
        return head + "".join(groups) if is_grouped else groups[-1] if last == "," else None
    return head + groups[0] if is_grouped and last != decimal else f"{head or 0}.{groups[0]}"


def _from_words(found: re.Match[str]) -> Number:
    return Number(Fraction(sum(_WORDS[word.lower()] for word in found.groups() if word)))
