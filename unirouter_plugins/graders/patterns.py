"""Regular expressions on text that a model wrote, which may not hang the caller."""

from __future__ import annotations

import json
import re
import subprocess
import sys

from unirouter_core.exceptions import InvalidDataError

LONGEST = 20_000
"""Characters of the end of an answer that a pattern sees: a pattern with one repeat needs at most their square."""

PATTERN_SECONDS = 5.0
"""How long a pattern with several repeats may take, the start of its process included."""

_MANY = 8  # alternatives and optional parts: at most 2^8 ways through a pattern
_MATCHER = """
import json, re, sys
pattern, text, whole = json.load(sys.stdin)
print(bool((re.fullmatch if whole else re.search)(pattern, text)))
"""


def check_pattern(pattern: str) -> None:
    """Raise `InvalidDataError` unless `pattern` is a regular expression of Python."""
    try:
        re.compile(pattern)
    except (re.error, ValueError, OverflowError, RecursionError) as failed:
        raise InvalidDataError(f"{pattern!r} is not a regular expression of Python: {failed}.") from failed


def found(pattern: str, text: str, *, whole: bool = False) -> bool:
    r"""Return whether `pattern` is found in `text`, or matches the `whole` of it.

    Python's ``re`` can take exponential time, and nothing in the same process can stop it. So a pattern that could
    (two repeats, or a repeat beside alternatives) runs in a process of its own, about 20 ms, and counts as not found
    after `PATTERN_SECONDS`. The others run at once.

    Examples
    --------
    >>> found(r"\d{4}-\d{2}", "In 2024-05."), found("a+", "aab", whole=True)
    (True, False)
    """
    text = text[-LONGEST:]
    if _is_quick(pattern):
        return (re.fullmatch if whole else re.search)(pattern, text) is not None
    try:
        ran = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _MATCHER],
            input=json.dumps([pattern, text, whole]).encode(),
            capture_output=True,
            timeout=PATTERN_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return ran.stdout.strip() == b"True"


def _is_quick(pattern: str) -> bool:
    """Return whether no text of `LONGEST` can make `pattern` slow; read from its signs alone, so often too careful."""
    rest = re.sub(r"(?<!\))\{\d+\}", "", pattern)  # a fixed count of one character is no choice
    repeats = sum(rest.count(sign) for sign in "*+{")
    return repeats <= (0 if "|" in rest else 1) and rest.count("?") + rest.count("|") <= _MANY
