"""Which part of an answer is the answer (a box, a code fence, what follows a cue), and text made comparable."""

from __future__ import annotations

import re
import unicodedata

_CUE = re.compile(
    r"\b(?:answer|antwort|lösung|réponse|respuesta|solución)\b[*_`]*"
    r"(?:\s(?:to|of|for|auf|à|a)\b[^.:\n]{0,60}?)?"
    r"\s*(?:\b(?:is|are|would be|should be|must be|ist|lautet|est|es)\b\s*:?|[:=])"
    r"(?!\s*(?:not|nicht)\b)(?:[*_]{1,2}(?=\s))?\s*"
    r"|^####\s*(?=\W?\d)",
    re.IGNORECASE | re.MULTILINE,
)
_FENCE = re.compile(r"^[ \t]*```[^\n`]*\n((?:.*?\n)??)[ \t]*```", re.DOTALL | re.MULTILINE)
_BOX = re.compile(r"\\boxed\s*\{")
_WRAPPING = re.compile(r"\\(?:text|textbf|mathrm|mathbf|operatorname)\s*\{([^{}]*)\}")
_QUOTES = str.maketrans("‘’‛“”„«»−‐‑‒–—", '\'\'\'"""""------')
_PUNCTUATION = re.compile(r"[;!?¿¡\"()\[\]{}`…·•~]|(?<!\d),|,(?!\d)|(?<!\w)[.:'*_]|[.:'*_](?!\w)")
_HYPHEN = re.compile(r"(?<=\w)-|-(?!\d)")
_ARTICLES = frozenset({"a", "an", "the"})
_MARKED = re.compile(r"(?<!not )(?:`([^`\n]+)`|\*\*([^*\n]+)\*\*)", re.IGNORECASE)
_STATED = re.compile(
    r".*\b(?:is|are|was|were|ist|sind|lautet|heißt|est|sont|es|son)\s+(?:called\s|known as\s)?(.+)", re.IGNORECASE
)
_LONGEST_SENTENCE = 400  # characters
_LONGEST_BOX = 2_000  # characters between the braces; what is longer is not a final answer
_MOST_BOXES = 3  # looked at from the end, while their braces do not close


def final_part(answer: str) -> str | None:
    r"""Return what the answer itself marks as final, or None.

    That is the last ``\boxed{...}``; without one, what follows the last "the answer is" or "Answer:" (in English,
    German, French and Spanish; "the answer is not" does not count) or ``#### `` before a number.

    Examples
    --------
    >>> final_part("3 + 4 = 7, so the answer is 7.")
    '7.'
    """
    for box in list(_BOX.finditer(answer))[: -_MOST_BOXES - 1 : -1]:
        depth = 1
        for position in range(box.end(), min(len(answer), box.end() + _LONGEST_BOX)):
            depth += {"{": 1, "}": -1}.get(answer[position], 0)
            if not depth:
                return _WRAPPING.sub(r"\1", answer[box.end() : position])
    end = None
    for cue in _CUE.finditer(answer):
        end = cue.end()
    return None if end is None else answer[end:]


def marked_parts(answer: str) -> list[str]:
    """Return the parts of `answer` that may be all that counts.

    Its only code fence; its only stretch in back-ticks or in bold; what it marks as final, and the first line of that.

    Examples
    --------
    >>> marked_parts("It prints `[1, 2]`.")
    ['[1, 2]']
    """
    parts = fenced(answer)
    spans = {code or bold for code, bold in _MARKED.findall(answer)} if not parts else set()
    parts = [*(parts if len(parts) == 1 else []), *(spans if len(spans) == 1 else [])]
    final = final_part(answer)
    return parts if final is None else [*parts, final, first_line(final), first_line(final).removesuffix(".")]


def stated(line: str) -> list[str]:
    """Return what a sentence like "The capital of France is Paris." says last; nothing for other sentences."""
    found = _STATED.match(line[:_LONGEST_SENTENCE])
    return [found[1]] if found else []


def first_line(text: str) -> str:
    """Return the first line that is not blank, or an empty string."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def fenced(answer: str) -> list[str]:
    """Return what stands in each code fence."""
    return [block.removesuffix("\n") for block in _FENCE.findall(answer)]


def bare(text: str) -> str:
    """Return `text` without white space around it, and without one pair of back-ticks or asterisks around it all."""
    text = "\n".join(line.rstrip() for line in text.strip().splitlines())
    for mark in ("```", "**", "`", "*"):
        inner = text[len(mark) : -len(mark)]
        if text.startswith(mark) and text.endswith(mark) and inner.strip() and mark not in inner:
            return inner.strip()
    return text


def normalised(text: str) -> str:
    """Return `text` with what rarely matters made the same.

    Unicode forms (NFKC), case, white space, quotes and dashes; punctuation goes, except dots, colons and apostrophes
    inside a word or a number ("3.5", "10:30", "don't") and commas inside a number; hyphens become spaces, except the
    sign of a number; the English articles go, unless nothing else is there. Accents, symbols (%, €, +, #) and the
    articles of other languages stay.

    Examples
    --------
    >>> normalised("**The** well-known  café, at 10:30!")
    'well known café at 10:30'
    """
    text = unicodedata.normalize("NFKC", text).translate(_QUOTES).casefold()
    text = _HYPHEN.sub(" ", _PUNCTUATION.sub(" ", text))
    words = _PUNCTUATION.sub(" ", text).split()
    return " ".join([word for word in words if word not in _ARTICLES] or words)


def mentions(text: str, phrase: str) -> bool:
    """Return whether the normalised `text` holds the normalised `phrase`, as whole words.

    Examples
    --------
    >>> mentions("We sell the Cat.", "cat"), mentions("Concatenate them.", "cat")
    (True, False)
    """
    return f" {normalised(phrase)} " in f" {normalised(text)} "
