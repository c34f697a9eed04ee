r"""Text to the number it ends on: separators, signs, %, fractions, powers, units, words, LaTeX."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction

from unirouter_plugins.graders.answers import final_part

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_LATEX = (
    (re.compile(r"(-?)\\[dtc]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}"), r" \1\2/\3 "),
    (re.compile(r"(-?)\\[dtc]?frac\s*(\d)\s*(\d)"), r" \1\2/\3 "),
    (re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox)\s*\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\\times|\\cdot"), "×"),
    (re.compile(r"\{,\}|\\!"), ","),
    (re.compile(r"(?<=\d)\\[,;: ](?=\d{3})"), " "),
    (re.compile(r"\^\s*\{?\\circ\}?"), "°"),
    (re.compile(r"\^\{([^{}]*)\}"), r"^\1"),
    (re.compile(r"\\([%$€£#])"), r"\1"),
    (re.compile(r"\\[()\[\],;: ]"), " "),
    (re.compile(r"\\(?:left|right|approx|quad)\b"), " "),
)
_CODES = re.compile(r"\b(?:USD|EUR|GBP|CHF|JPY|INR|Rs)\b\.?\s?(?=[-\d])")
_MINUS_WORD = re.compile(r"(?<!\w )\b(?:minus|negative|moins|menos)\s+(?=[$€£]?\d)", re.IGNORECASE)
_POWERS = {
    **dict.fromkeys(("k", "thousand", "tausend", "mille", "mil"), 3),
    **dict.fromkeys(("m", "million", "millions", "millionen", "millón", "millones", "mio"), 6),
    **dict.fromkeys(("b", "bn", "billion", "billions", "milliarde", "milliarden", "milliard", "milliards", "mrd"), 9),
    **dict.fromkeys(("trillion", "trillions"), 12),
}
_NUMBER = re.compile(
    r"""
    (?: (?<![\w)\]}^]) (?P<sign>[-+]) (?=[$€£¥₹]?[.0-9]) )?
    (?P<money> [$€£¥₹] \s? (?P<inner>-)? (?=[.0-9]) )?
    (?<! [\w^] ) (?<! [0-9][.,] )
    (?: (?P<whole> [0-9]{1,9} ) \s (?:and\s)? (?= [0-9]{1,9} / [0-9] ) )?
    (?P<digits> [0-9]+ (?: [.,'_][0-9]+ | [ ][0-9]{3}(?![0-9]) )* | \.[0-9]+ )
    (?:
        [eE] (?P<e> [-+]?[0-9]{1,3} ) (?!\w)
      | \s? [x×·*] \s? 10 \s? (?:\^|\*\*) \s? [({]? (?P<ten> [-+]?[0-9]{1,3} ) (?![0-9]) [)}]?
      | (?:\^|\*\*) [({]? (?P<power> -?[0-9]{1,2} ) (?![0-9]) [)}]?
      | \s? / \s? (?P<below> [0-9]{1,9} ) (?! [0-9.,]*[0-9] | \s?/\s?[0-9] )
    )?
    (?: \s? (?P<times> (?i:thousand|tausend|mil|mille|millionen|millions?|millones|millón|mio
          |billions?|milliarden?|milliards?|mrd|trillions?) ) \b | (?P<short> k | K | M | B | bn ) \b )?
    (?P<percent> \s? (?: % | (?i: per\s?cent | prozent | pour\s?cent | por\s?ciento ) \b ) )?
    """,
    re.VERBOSE,
)
_ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_WORDS = {word: n for n, word in enumerate(_ONES)} | {word: 10 * n for n, word in enumerate(_TENS, 2)}
_WORD = re.compile(
    rf"\b(?:(?P<tens>{'|'.join(_TENS)})(?:[-\s](?P<ones>{'|'.join(_ONES[1:10])}))?|(?P<one>{'|'.join(_ONES)}))\b",
    re.IGNORECASE,
)
_MARKER = re.compile(r"^\s*(?:[-*•]\s+)?\d{1,2}[.)]\s+(?=\S)")
_BOLD = re.compile(r"\*\*([^*]+)\*\*")
_REMARK = re.compile(r"(?<=[\w%°$€£*)]) ?\([^()]*\)")
_REASON = re.compile(
    r"(?:,\s*as|,?\s(?:because|since|weil|denn|car|porque))\b(?!.*\b(?:so|thus|hence|therefore|also|donc)\b).*",
    re.IGNORECASE,
)
_EQUATION = re.compile(r"(?:(?!\b(?:because|since|as|weil|denn|car|porque)\b)(?:[^,;\n]|,(?=\d)))*=", re.IGNORECASE)
_LONGEST_NUMERAL = 60
_UNIT_WORDS = 2  # a line of one number and so many words after it is "nothing but a number"


@dataclass(frozen=True)
class Number:
    """A number in a text, and whether it was written as a percentage (then `value` is the number before the sign)."""

    value: Fraction
    percent: bool = False

    def equals(self, other: Number, *, tolerance: Fraction, relative: Fraction) -> bool:
        """Return whether the two are as near as asked.

        12 % is 12 (the sign as a unit) and also 0.12, unless the other is in % too.
        """
        mine, theirs = {self.value}, {other.value}
        if self.percent and not other.percent:
            mine.add(self.value / 100)
        if other.percent and not self.percent:
            theirs.add(other.value / 100)
        return any(abs(one - two) <= max(tolerance, relative * abs(two)) for one in mine for two in theirs)


def final_number(answer: str, *, decimal: str = ".") -> Number | None:
    r"""Return the number that `answer` gives in the end, or None.

    Looked for in this order: in the last ``\boxed{}``; after the last "the answer is"; on the last line that has a
    number, or on the first line if that is nothing but a number with its unit and the last is prose. On a line the
    number in bold counts, else the last one outside a remark in brackets or a reason ("because ..."). List markers
    ("2.") do not count.

    "1,234" is 1234 and "1.234" is a decimal fraction, the other way round with `decimal` ","; "1.234,5", "1 234",
    "12,5" and "1'234" are read as the only thing they can be.

    Examples
    --------
    >>> final_number("6 boxes of 7 make **42** eggs.").value
    Fraction(42, 1)
    """
    text = _plain(answer)
    part = final_part(text)
    if part is not None:
        marked = _number_after_cue(part, decimal)
        if marked is not None:
            return marked
    lines = [line for line in text.splitlines() if line.strip()]
    unmarked = [_MARKER.sub("", line) for line in lines]
    for read in (unmarked, lines):
        numbered = [line for line in read if _numbers(line, decimal)]
        if numbered:
            last = numbered[-1]
            if not _is_only_number(last, decimal) and _is_only_number(read[0], decimal):
                last = read[0]
            return _number_on(last, decimal)
    words = list(_WORD.finditer(text))
    return _from_words(words[-1]) if words else None


def _plain(text: str) -> str:
    """Return `text` with LaTeX, superscripts, odd minus signs and currency codes written as ASCII would."""
    for pattern, replacement in _LATEX:
        text = pattern.sub(replacement, text)
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺]+", lambda found: "^" + found[0].translate(_SUPERSCRIPTS), text)
    text = re.sub("-?[¼-¾⅐-⅞]", lambda found: " " + unicodedata.normalize("NFKC", found[0]) + " ", text)
    text = unicodedata.normalize("NFKC", text).replace("⁄", "/").replace("−", "-").replace("’", "'")
    text = re.sub(r"(?<!\w)–(?=\d)", "-", text)
    return _MINUS_WORD.sub("-", _CODES.sub("$", text))


def _number_after_cue(part: str, decimal: str) -> Number | None:
    """Return the first number of `part`, or the one that an equation at its start comes to."""
    for line in part.splitlines()[:3]:  # "The answer is:", a blank line, the number
        sums = _EQUATION.match(line)
        numbers = _numbers(line[sums.end() :] if sums else line, decimal) or _numbers(line, decimal)
        if numbers:
            return numbers[0]
        word = _WORD.search(line)
        if word:
            return _from_words(word)
    return None


def _number_on(line: str, decimal: str) -> Number | None:
    bold = [found for span in _BOLD.findall(line) for found in _numbers(span, decimal)]
    bare = _REMARK.sub(" ", line)
    numbers = bold or _numbers(_REASON.sub(" ", bare), decimal) or _numbers(bare, decimal) or _numbers(line, decimal)
    return numbers[-1] if numbers else None


def _is_only_number(line: str, decimal: str) -> bool:
    found = _NUMBER.search(line)
    if found is None or len(_numbers(line, decimal)) != 1 or line.rstrip().endswith(":"):
        return False
    before = line[: found.start()]
    return not re.search(r"[^\W_]", before) and len(re.findall(r"[^\W\d_]+", line[found.end() :])) <= _UNIT_WORDS


def _numbers(line: str, decimal: str) -> list[Number]:
    return [number for found in _NUMBER.finditer(line) if (number := _read(found, decimal)) is not None]


def _read(found: re.Match[str], decimal: str) -> Number | None:
    """Return the number that a match of `_NUMBER` stands for; None for "1.2.3", "5/0" and the like."""
    digits = _ungrouped(found["digits"], decimal)
    if digits is None or len(digits) > _LONGEST_NUMERAL:
        return None
    value = Fraction(digits)
    if found["power"]:
        if not value:
            return None
        value **= int(found["power"])
    if found["below"]:
        if not int(found["below"]):
            return None
        value = int(found["whole"] or 0) + value / int(found["below"])
    value *= Fraction(10) ** int(found["e"] or found["ten"] or 0)
    power = (found["times"] or found["short"] or "").lower()
    if found["short"] in ("K", "M", "B", "bn") and not found["money"]:
        power = ""  # 300K is a temperature
    value *= 10 ** _POWERS.get(power, 0)
    negative = found["sign"] == "-" or found["inner"]
    return Number(-value if negative else value, bool(found["percent"]))


def _ungrouped(digits: str, decimal: str) -> str | None:
    """Return `digits` with no group separators and a decimal point, or None when it is no one number."""
    for mark in " '_":
        if mark in digits:
            grouped = re.fullmatch(rf"\d{{1,3}}(?:{mark}\d{{3}})+([.,]\d+)?", digits)
            digits = digits.replace(mark, "") if grouped else digits.rpartition(mark)[2]
            if grouped and grouped[1]:
                return digits.replace(",", ".")
    separators = re.sub(r"\d", "", digits)
    if not separators:
        return digits
    last = separators[-1]
    if len(set(separators)) > 1:  # 1,234.5 or 1.234,5
        head, _, tail = digits.rpartition(last)
        return None if last in head else re.sub("[.,]", "", head) + "." + tail
    head, *groups = digits.split(last)
    is_grouped = 1 <= len(head) <= 3 and head != "0" and all(len(group) in (2, 3) for group in groups)
    is_grouped = is_grouped and len(groups[-1]) == 3
    if len(groups) > 1:
        if is_grouped:
            return head + "".join(groups)
        return groups[-1] if last == "," else None  # 1,2,3 is a list; 1.2.3 a version or a date
    return head + groups[0] if is_grouped and last != decimal else f"{head or 0}.{groups[0]}"


def _from_words(found: re.Match[str]) -> Number:
    """Return 23 for "twenty-three"."""
    words = [found[name].lower() for name in ("tens", "ones", "one") if found[name]]
    return Number(Fraction(sum(_WORDS[word] for word in words)))
