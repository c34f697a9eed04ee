"""Graders that compare words, and how every grader reads an answer: without thoughts, at most `LONGEST` characters.

No pattern in this package repeats without a limit, so that the time is linear in the answer.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationInfo, field_validator, model_validator

from unirouter_core.embedding import Embedder, embed

LONGEST = 100_000
"""Characters of an answer that a grader of this package reads: half from the start and half from the end."""

Phrase = Annotated[str, Field(pattern=r"\S")]
Alternatives = Annotated[list[Phrase], Field(min_length=1)]
Phrases = Annotated[list[Phrase | Alternatives], Field(min_length=1)]
"""Texts to look for; a list among them holds alternatives."""


class Spec(BaseModel):
    """A grader with its parameters; a subclass implements `_accepts`."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    def __call__(self, answer: str, reference: str) -> float:
        """Return 1 for a wrong answer, and for "I do not know" unless the reference or a parameter expects it."""
        if is_shrug(answer) and not _UNSURE.search(f"{reference[:LONGEST]} {self}".casefold()):
            return 1.0
        texts = [text.strip() for text in (answer, reference)]
        cut = [t if len(t) <= LONGEST else f"{t[: LONGEST // 2]}\n{t[-LONGEST // 2 :]}" for t in texts]
        return 1.0 - self._accepts(*cut)

    def _accepts(self, answer: str, reference: str) -> bool:
        """Return whether the answer is right; there is no white space around the texts."""
        raise NotImplementedError


# Thoughts, "I do not know" and refusals

_TAG = r"(?:think(?:ing)?|thoughts?|reasoning|seed:think)\s?>"
_THOUGHT = re.compile(
    rf"(?P<closing></{_TAG}|\[/THINK\]|◁/think▷|<\|END_THINKING\|>)|<{_TAG}|\[THINK\]|◁think▷|<\|START_THINKING\|>",
    re.IGNORECASE,
)
_SHRUG = re.compile(
    r"(?:(?:sorry|unfortunately|honestly|hmm|well|i'm sorry|(?:the )?answer(?: is)?)\W{1,3}(?:but )?)?"
    r"(?:(?:(?:i|we) (?:really |just )?(?:do not|don't|cannot|can't|can not) (?:really )?(?:know|tell|say|be sure)"
    r"|(?:(?:i'm|i am|we are) )?(?:really )?(?:not (?:really )?|un)(?:sure|certain)|(?:i have )?no (?:idea|clue)"
    r"|ich weiss (?:es |das )?(?:leider )?nicht|keine ahnung|je ne (?:le )?sais pas|(?:yo )?no (?:lo )?sé)"
    r"(?=\W{0,9}$|\W{1,3}(?:it|that|this|the|enough|for|at all|with|exactly|either|what|which|how|if|whether|who"
    r"|where|when|why|about|of|sorry|to|no|i|ob|was|wie|si|que)\b)"
    r"|(?:it is |it's |that is |that's )?(?:unknown|unclear|n/a|idk|dunno|no answer)\W{0,9}$)"
    r"(?!.{0,300}\b(?:but|however|maybe|perhaps|probably|guess|think|believe|(?:could|might|may|must) be|aber|mais)\b)"
)
_PLEA = re.compile(
    r"(?:(?:i'm |i am )?(?:so |very )?sorry|apologies|i apologi[sz]e|please|c(?:an|ould) you|.{0,13}no info)"
)
_UNSURE = re.compile(
    r"know(?!l)|\b(?:un)?sure|certain|determin|no idea|unclear|can(?:no|')t (?:say|tell)|weiss|ahnung|sais|n/a"
)
_OPENING = 300  # characters: the longest "I do not know", and where a refusal says so
_REFUSAL = re.compile(
    r"\b(?:i(?:'m| am)? (?:really |truly )?(?:can't|cannot|can not|won't|will not|(?:am |'m )?(?:not able|unable) to"
    r"|not able to|unable to|must decline to|have to decline to|not comfortable)"
    r"(?: \w{1,20}){0,2}? (?:help|assist|provide|comply|fulfil|answer|do (?:that|this)|discuss|engage|generate|create"
    r"|support|share|give|continue|participat|process|respond)"
    r"|(?:sorry|apologi[sz]e),? (?:but )?(?:i |that )?(?:can't|cannot|can not|won't|am unable|'m unable"
    r"|isn't something)(?! (?:find|see|come|make|attend|be|wait))"
    r"|as an ai(?: \w{1,20}){0,3},? i (?:can't|cannot|am unable|'m unable|don't|do not)"
    r"|(?:against|violates?) (?:my|our) (?:guidelines|policy|policies|programming)"
    r"|(?:ich kann|tut mir leid).{0,40}\bnicht (?:helfen|beantworten|weiterhelfen|unterstützen|erfüllen)"
    r"|je (?:ne peux|suis désolée?).{0,40}\b(?:pas|aider) ?(?:vous |t')?(?:aider|répondre|fournir|à cela)?"
    r"|(?:no puedo|lo siento).{0,40}\b(?:ayudar|responder|proporcionar|cumplir))"
)


def after_thoughts(text: str) -> str:
    """Return the last text that is outside a model's thoughts and not blank, else "".

    Thoughts are between tags such as ``<think>`` and ``</think>``; either may be missing.

    >>> after_thoughts("<think>4? No, 5.</think> 5"), after_thoughts("So 4? No.</think> 5"), after_thoughts("<think>4")
    (' 5', ' 5', '')
    """
    answer, position, inside = "", 0, False
    for tag in _THOUGHT.finditer(f"{text}<think>"):  # the one that is added ends the last part
        if not inside:
            part = text[position : tag.start()]
            answer = "" if tag["closing"] else part if part.strip() else answer
        position, inside = tag.end(), not tag["closing"]
    return answer


def is_shrug(answer: str) -> bool:
    """Return whether all of `answer` is an "I do not know", in English, German, French or Spanish."""
    if len(answer := answer.strip()) > _OPENING:
        return False
    sentences = re.split(r"\n|[.!?;](?=\s|$)", answer.translate(_QUOTES).casefold())
    texts = [sentence.strip(" *_\"'.!?\n\t") for sentence in sentences if re.search(r"\w", sentence)]
    return any(map(_SHRUG.match, texts)) and all(_SHRUG.match(text) or _PLEA.match(text) for text in texts)


def is_refusal(answer: str) -> bool:
    """Return whether the opening of `answer` declines the task, in English, German, French or Spanish.

    >>> is_refusal("I'm sorry, but I can't help with that."), is_refusal("I do not know.")  # a wrong answer
    (True, False)
    """
    opening = " ".join(after_thoughts(answer)[:_OPENING].replace("’", "'").split()).casefold()
    return _REFUSAL.search(opening) is not None


# Which part of an answer is the answer

_CUE = re.compile(
    r"\b(?:answer|antwort|lösung|réponse|respuesta|solución)\b[*_`]{0,3}(?:\s(?:to|of|for|auf|à|a)\b[^.:\n]{0,60}?)?"
    r"\s{0,3}(?:\b(?:is|are|would be|should be|must be|ist|lautet|est|es)\b\s{0,3}:?|[:=])"
    r"(?!\s{0,9}(?:not|nicht)\b)(?:[*_]{1,2}(?=\s))?|^####\s{0,9}(?=\W?\d)",
    re.IGNORECASE | re.MULTILINE,
)
_BOX = re.compile(r"\\boxed\s?\{")
_WRAPPING = re.compile(r"\\(?:text|textbf|mathrm|mathbf|operatorname)\s?\{([^{}]{0,400})\}")
_MARKED = re.compile(r"(?<!not )(?:`([^`\n]{1,400})`|\*\*([^*\n]{1,400})\*\*)", re.IGNORECASE)
_STATED = re.compile(
    r".{0,400}\b(?:is|are|was|were|ist|sind|lautet|heißt|est|sont|es|son)\s(?:called\s|known as\s)?(.{1,400})",
    re.IGNORECASE,
)
_LONGEST_SENTENCE, _LONGEST_BOX = 400, 2_000  # characters; a longer box is not a final answer
_MOST_BOXES = 3  # looked at from the end, while their braces do not close


def final_part(answer: str) -> str | None:
    r"""Return the part that the answer marks as final, or None.

    That is the last ``\boxed{...}``; without one, what follows the last "the answer is" or "Answer:" (in English,
    German, French and Spanish; "the answer is not" does not count) or ``#### `` before a number.
    """
    for box in list(_BOX.finditer(answer))[: -_MOST_BOXES - 1 : -1]:
        depth = 1
        for position, sign in enumerate(answer[box.end() : box.end() + _LONGEST_BOX], box.end()):
            depth += {"{": 1, "}": -1}.get(sign, 0)
            if not depth:
                return _WRAPPING.sub(r"\1", answer[box.end() : position])
    end = max((cue.end() for cue in _CUE.finditer(answer)), default=None)
    return None if end is None else answer[end:].lstrip()


def marked_parts(answer: str) -> list[str]:
    """Return the parts that may be all that counts: the only code fence, back-ticks or bold; the final part."""
    parts = fenced(answer)
    spans = {code or bold for code, bold in _MARKED.findall(answer)} if not parts else set()
    parts = [*(parts if len(parts) == 1 else []), *(spans if len(spans) == 1 else [])]
    final = final_part(answer)
    return parts if final is None else [*parts, final, first_line(final), first_line(final).removesuffix(".")]


def first_line(text: str) -> str:
    """Return the first line that is not blank, or an empty string."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def fenced(answer: str) -> list[str]:
    """Return the content of each closed code fence."""
    blocks: list[str] = []
    start: int | None = None
    lines = answer.split("\n")
    for number, line in enumerate(line.lstrip(" \t") for line in lines):
        if start is not None and line.startswith("```"):
            blocks.append("\n".join(lines[start:number]))
            start = None
        elif start is None and line.startswith("```") and "`" not in line[3:]:
            start = number + 1
    return blocks


def bare(text: str) -> str:
    """Return `text` without white space around it, and without one pair of back-ticks or asterisks around it all."""
    text = "\n".join(line.rstrip() for line in text.strip().splitlines())
    for mark in ("```", "**", "`", "*"):
        inner = text[len(mark) : -len(mark)]
        if text.startswith(mark) and text.endswith(mark) and inner.strip() and mark not in inner:
            return inner.strip()
    return text


# Text made comparable

_QUOTES = str.maketrans("‘’‛“”„«»−‐‑‒–—", '\'\'\'"""""------')
_PUNCTUATION = re.compile(r"[;!?¿¡\"()\[\]{}`…·•~]|(?<!\d),|,(?!\d)|(?<!\w)[.:'*_]|[.:'*_](?!\w)")
_HYPHEN = re.compile(r"(?<=\w)-|-(?!\d)")
_ARTICLES = frozenset({"a", "an", "the"})


def unicode_form(text: str, form: Any = "NFKC") -> str:
    """Return a Unicode normal form, piece by piece, as Python's time is quadratic in the marks on one letter."""
    if text.isascii():
        return text
    return "".join(unicodedata.normalize(form, piece) for piece in re.findall(r"\s|\S{1,400}", text))[: 2 * LONGEST]


@lru_cache(maxsize=16)  # an answer is read again for each phrase
def normalised(text: str) -> str:
    """Return `text` without case, kinds of quotes and dashes, punctuation and English articles.

    Dots, colons and apostrophes inside a word or a number stay ("3.5", "10:30", "don't"), as do commas inside a number,
    the sign of a number, accents and symbols (%, €, +, #). Other hyphens become spaces.

    >>> normalised("**The** well-known  café, at 10:30!")
    'well known café at 10:30'
    """
    text = unicode_form(text).translate(_QUOTES).casefold()
    words = _PUNCTUATION.sub(" ", _HYPHEN.sub(" ", _PUNCTUATION.sub(" ", text))).split()
    return " ".join([word for word in words if word not in _ARTICLES] or words)


def mentions(text: str, phrases: str | Sequence[str]) -> bool:
    """Return whether `text` has one of the phrases, as whole words."""
    padded = f" {normalised(text)} "
    return any(f" {normalised(phrase)} " in padded for phrase in ([phrases] if isinstance(phrases, str) else phrases))


# Graders


class Exact(Spec):
    """Accept the same characters: the whole answer, or the one part that it marks (fence, back-ticks, bold, final)."""

    ignore_case: bool = False
    ignore_spaces: bool = False

    def _accepts(self, answer: str, reference: str) -> bool:
        return not self._forms(answer, *marked_parts(answer)).isdisjoint(self._forms(reference))

    def _forms(self, *texts: str) -> set[str]:
        forms = {form for text in texts for form in (bare(text), text.strip())}
        forms = {"".join(form.split()) for form in forms} if self.ignore_spaces else forms
        return {form.casefold() for form in forms} if self.ignore_case else forms


class Text(Spec):
    """Accept the same words: the whole answer, its first line, what that states ("... is X"), or the part it marks.

    `also` lists other right answers. With a `separator`, items between it are compared one by one, in order.
    """

    also: list[str] = []
    separator: Annotated[str, Field(min_length=1)] | None = None

    def _accepts(self, answer: str, reference: str) -> bool:
        opening = first_line(answer)
        stated = _STATED.match(opening[:_LONGEST_SENTENCE])
        candidates = [answer, opening, *([stated[1]] if stated else []), *marked_parts(answer)]
        wanted = {self._items(text) for text in [reference, *self.also]}
        return not wanted.isdisjoint(map(self._items, candidates))

    def _items(self, text: str) -> tuple[str, ...]:
        items = [text] if self.separator is None else text.split(self.separator)
        return tuple(normalised(item) for item in items if item.strip())


class Contains(Spec):
    """Accept an answer that mentions `all` phrases (a list in it is alternatives), one of `any`, and none of `none`.

    With no lists, the reference must be mentioned.
    """

    all: Phrases | None = None
    any: Alternatives | None = None
    none: Phrases | None = None

    def _accepts(self, answer: str, reference: str) -> bool:
        wanted = [*(self.all or []), *([self.any] if self.any else [])]
        wanted = wanted if wanted or self.none else [reference]
        return all(mentions(answer, one) for one in wanted) and not any(mentions(answer, o) for o in self.none or [])


class Similarity(Spec):
    """Accept an answer whose vector has a cosine of `at_least` with the reference's; needs an embedder."""

    at_least: float = Field(ge=-1, le=1)
    _embedder: Any = PrivateAttr(None)

    @model_validator(mode="after")
    def _keep_embedder(self, info: ValidationInfo) -> Similarity:
        self._embedder: Embedder | None = (info.context or {}).get("embedder")
        if self._embedder is None:
            raise ValueError("The similarity grader needs an embedder; give parse_grader one.")
        return self

    def _accepts(self, answer: str, reference: str) -> bool:
        one, other = embed(self._embedder, [answer, reference])
        return bool(one @ other >= self.at_least - 1e-6)  # rounding of float32


class Choice(Spec):
    """Accept the same option: letters A to J, with `options` {letter: text} also by text, with a list by text only."""

    options: dict[str, str] | list[str] | None = None

    @field_validator("options")
    @classmethod
    def _usable(cls, options: dict[str, str] | list[str] | None) -> dict[str, str] | list[str] | None:
        texts = options.values() if isinstance(options, dict) else options
        if texts is not None and not (texts and all(map(normalised, texts))):
            raise ValueError(f"Options are a list of texts or an object of letter: text, not {options!r:.60}.")
        if isinstance(options, dict) and not LETTERS.issuperset(options):
            raise ValueError(f"Option letters are A to J, not {', '.join(map(repr, options))}.")
        return options

    def _accepts(self, answer: str, reference: str) -> bool:
        labelled = self.options.items() if isinstance(self.options, dict) else [(o, o) for o in self.options or []]
        names = {normalised(text): label for label, text in labelled}
        find = find_label if isinstance(self.options, list) else find_letter
        picked = find(answer, names)
        return picked is not None and picked == find(reference, names)


# Text to the option that it picks

LETTERS = frozenset("ABCDEFGHIJ")
_LETTER = r"(?:[B-HJ](?![\w'’])|[AI](?![\w'’])(?!\s{1,9}(?!(?:is|was|because|since|as)\b)[a-z]))"  # not the words A, I
_AFTER_CUE = re.compile(rf"[\W_]{{0,20}}(?:(?:option|choice|answer|letter)\s{{1,3}})?[\W_]{{0,9}}({_LETTER})")
_AFTER_CUE_WORD = re.compile(r"[\W_]{0,20}(?:option|choice|letter)[\W_]{1,9}([A-J])(?!\w)", re.IGNORECASE)
_LINE_START = re.compile(r"[*_`(\[\s]{0,9}([A-J])(?:[*_`\s]{0,9}[).:\],;](?!\w)|[*_`]{1,9}(?!\w)|\s{1,9}[-–—=]\s)")
_PICKED = (  # named ("option B", "B is right"); in brackets, bold or quotes; alone before a stop
    re.compile(
        rf"\b(?i:option|choice|letter|choose|pick|select)\s{{0,3}}[*_`(\[\"]{{0,3}}({_LETTER})"
        r"|(?<![\w'’-])([A-J])[*_`)\]]{0,3}\s{1,3}is\s{1,3}(?:the\s{1,3})?(?:correct|right|true|best|answer)\b"
    ),
    re.compile(r"(?<!\w)(?:\(([A-J])\)|\*\*\(?([A-J])[).:]?\*\*|\[([A-J])\]|[\"'`]([A-J])[\"'`])(?!\w)"),
    re.compile(r"(?<![\w'’-])([A-J])(?=\s{0,3}(?:[.,;:!?)]|$)|\s{1,3}(?:or|and)\s{1,3}\(?[A-J]\b)", re.MULTILINE),
)
_DENIED = re.compile(
    r"[)\]*_`\"'.]{0,5}\s{0,3}(?:is|are|was|seems?)?\s{0,3}(?:n't|not\b|wrong\b|incorrect\b|false\b|out\b)"
)
_NOT = re.compile(r"(?:\bnot|n['’]t)\W{0,5}$")
_ANOTHER = re.compile(r"\s(?:and|or|und|oder|et|ou|y|o)\s")


def find_letter(answer: str, names: Mapping[str, str]) -> str | None:
    """Return the letter (A to J) that `answer` picks, or None; `names` are normalised texts of options.

    In this order: the whole answer; what follows "the answer is"; a letter that opens the first line as options do
    ("B)", "B.", "B - Paris"); the one letter that "option", brackets or bold mark, or that is alone before a
    stop, passing over those that are called wrong; the one option whose text is in the answer. The article "A"
    and the pronoun "I" are followed by a word, so they are never taken. Two letters that both may be meant are None.
    """
    part = final_part(answer)
    for whole in (answer, first_line(part or "")):
        if (letter := bare(whole).strip("()[]{}.*_`:\"' \t$").upper()) in LETTERS:
            return letter
    if part is not None:
        picked = _AFTER_CUE.match(part) or _LINE_START.match(part) or _AFTER_CUE_WORD.match(part)
        if named := picked[1].upper() if picked else find_label(first_line(part), names):
            return named
    opening = _LINE_START.match(first_line(answer))
    opened = {found[1] for line in answer.splitlines() if (found := _LINE_START.match(line))}
    if opening and not _is_denied(opening) and len(opened) == 1:
        return opening[1]
    for pattern in _PICKED:
        matches = [found for found in pattern.finditer(answer) if not _is_denied(found)]
        if letters := {found[found.lastindex or 0] for found in matches}:
            return letters.pop() if len(letters) == 1 else None
    return find_label(answer, names)


def _is_denied(found: re.Match[str]) -> bool:
    """Return whether the text calls the letter wrong, right before or right after it."""
    before = found.string[max(0, found.start() - 8) : found.start()]
    return bool(_DENIED.match(found.string, found.end()) or _NOT.search(before))


def find_label(answer: str, names: Mapping[str, str]) -> str | None:
    """Return the label whose name `answer` has, or None; `names` are labels by their normalised names.

    In this order: what follows "the answer is", when it has one; the one that opens the first line; the only one in the
    answer. One right after "not" or "rather than" does not count, and the longest is looked for first: "not spam".
    """
    if not names:
        return None
    longest_first = sorted(names, key=len, reverse=True)
    denied = r"(?<!not )(?<!nicht )(?<!pas )(?<!rather than )(?<!instead of )"
    pattern = re.compile(rf"(?<!\S){denied}(?:{'|'.join(map(re.escape, longest_first))})(?!\S)")
    if first := pattern.search(normalised(first_line(final_part(answer) or ""))):
        return names[first[0]]
    opening = normalised(first_line(answer)) + " "
    for name in longest_first:
        if opening.startswith(f"{name} ") and not _ANOTHER.match(opening, len(name)):
            return names[name]
    named = set(pattern.findall(normalised(answer)))
    return names[named.pop()] if len(named) == 1 else None
