"""An answer and its reference to an error in [0, 1]; graders by name, so that a line of a file can say which."""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, TypeAlias

from unirouter_core.embedding import Embedder, embed
from unirouter_core.exceptions import InvalidDataError
from unirouter_plugins.graders.answers import bare, first_line, marked_parts, normalised, stated
from unirouter_plugins.graders.choices import LETTERS, find_label, find_letter
from unirouter_plugins.graders.constraints import broken_rules, check_rules, holds_any
from unirouter_plugins.graders.json_values import check_schema, find_json, fits, is_sound, same
from unirouter_plugins.graders.numbers import final_number
from unirouter_plugins.graders.patterns import check_pattern, found
from unirouter_plugins.graders.refusals import is_refusal

__all__ = ["GRADERS", "GRADER_VERSION", "Grade", "Grader", "is_refusal", "parse_grader"]

GRADER_VERSION = 1
"""Part of every grader's `key`; raised when a grader here starts to judge an answer differently."""

Grade: TypeAlias = Callable[[str, str], float]
"""From an answer and its reference to an error in [0, 1]; a bool is a number."""


@dataclass(frozen=True)
class Grader:
    """How wrong an answer is. Its reference is always itself a right answer.

    Parameters
    ----------
    name : str
        For an own function: any name, and another one when the function changes.
    grade : function (answer, reference) -> float
        The error, in [0, 1].
    parameters : mapping, optional
        What the grader was made with, JSON-able.

    Examples
    --------
    >>> Grader("shorter", lambda answer, reference: len(answer) > len(reference))("Hello there.", "Hi.")
    1.0
    """

    name: str
    grade: Grade = field(repr=False, compare=False)
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, answer: str, reference: str) -> float:
        """Return the error of `answer`, in [0, 1]; that of an empty answer is 1.

        Raises
        ------
        InvalidDataError
            When an own function returns something else. The graders of this package never raise.
        """
        if not answer.strip():
            return 1.0
        error = float(self.grade(answer, reference))
        if not 0 <= error <= 1:
            raise InvalidDataError(f"The grader {self.name!r} gave {error:g}; an error must be in [0, 1].")
        return error

    def check(self, reference: str) -> None:
        """Raise `InvalidDataError` unless `reference` is a right answer by this grader; ask before paying for any."""
        error = self(reference, reference)
        if error:
            raise InvalidDataError(
                f"The reference {reference!r:.60} is itself graded wrong (error {error:g}) by {self.spec}; "
                "a reference must be a right answer."
            )

    @property
    def spec(self) -> str:
        """What `parse_grader` makes the same grader of: its name, or JSON when it has parameters."""
        if not self.parameters:
            return self.name
        return json.dumps({"grader": self.name, **self.parameters}, sort_keys=True, ensure_ascii=False)

    @property
    def key(self) -> str:
        """The spec and the version: what a store keeps with a grade to know it again."""
        return f"{self.spec} v{GRADER_VERSION}"


def _exact(*, ignore_case: bool = False, ignore_spaces: bool = False) -> Grade:
    """Take the same characters: the whole answer, or the one part that it marks (fence, back-ticks, bold, final)."""

    def same_form(text: str) -> str:
        text = re.sub(r"\s+", "", text) if ignore_spaces else text
        return text.casefold() if ignore_case else text

    def grade(answer: str, reference: str) -> float:
        candidates = [answer, *marked_parts(answer)]
        wanted = {same_form(bare(reference)), same_form(reference.strip())}
        return not wanted & {form for text in candidates for form in (same_form(bare(text)), same_form(text.strip()))}

    return grade


def _text(*, also: list[str] | None = None, separator: str | None = None) -> Grade:
    """Take the same words: the whole answer, its first line, what that states ("... is X"), or the part it marks.

    `also` lists other right answers. With a `separator`, items between it are compared one by one, in order.
    """
    if separator == "":
        raise InvalidDataError("The separator is empty; leave it out or give a comma, a line break or the like.")

    def items(text: str) -> tuple[str, ...]:
        return tuple(normalised(item) for item in (text.split(separator) if separator else [text]) if item.strip())

    def grade(answer: str, reference: str) -> float:
        opening = first_line(answer)
        candidates = [answer, opening, *stated(opening), *marked_parts(answer)]
        wanted = {items(text) for text in [reference, *(also or [])]}
        return not wanted & {items(text) for text in candidates}

    return grade


def _number(*, tolerance: float = 0, relative: float = 0, decimal: str = ".") -> Grade:
    """Take the same final number, within `tolerance` or within a `relative` part of the reference."""
    if not (0 <= tolerance < math.inf and 0 <= relative < math.inf):
        raise InvalidDataError(f"Tolerances must be finite and >= 0, not {tolerance:g} and {relative:g}.")
    if decimal not in (".", ","):
        raise InvalidDataError(f"The decimal sign must be '.' or ',', not {decimal!r}.")
    near = {"tolerance": Fraction(str(tolerance)), "relative": Fraction(str(relative))}

    def grade(answer: str, reference: str) -> float:
        given, wanted = final_number(answer, decimal=decimal), final_number(reference, decimal=decimal)
        return given is None or wanted is None or not given.equals(wanted, **near)

    return grade


def _choice(*, options: Any = None) -> Grade:
    """Take the same option: letters A to J, with `options` {letter: text} also by text, with a list by text only."""
    labels = options if isinstance(options, list) else None
    letters = options if isinstance(options, dict) else None
    texts = labels or list((letters or {}).values())
    if (options is not None and not texts) or not all(isinstance(text, str) and normalised(text) for text in texts):
        raise InvalidDataError(f"Options are a list of texts or an object of letter: text, not {options!r:.60}.")
    if letters and not all(isinstance(letter, str) and letter in tuple(LETTERS) for letter in letters):
        raise InvalidDataError(f"Option letters are A to J, not {', '.join(map(repr, letters))}.")

    def find(text: str) -> str | None:
        return find_label(text, labels) if labels else find_letter(text, letters)

    def grade(answer: str, reference: str) -> float:
        picked = find(answer)
        return picked is None or picked != find(reference)

    return grade


def _regex(*, pattern: str, whole: bool = False) -> Grade:
    """Take an answer in which the Python `pattern` is found, or which it matches as a `whole`."""
    check_pattern(pattern)
    return lambda answer, _: not found(pattern, answer.strip(), whole=whole)


def _contains(
    *, all_of: list[Any] | None = None, any_of: list[str] | None = None, none_of: list[str] | None = None
) -> Grade:
    """Take an answer that mentions `all_of` (a list in it is alternatives), one of `any_of`, and none of `none_of`.

    With no lists, the reference must be mentioned.
    """
    given = [texts for texts in (all_of, any_of, none_of) if texts is not None]
    for texts in given:
        check_rules({"must_include": texts})
    wanted = [*(all_of or []), *([any_of] if any_of else [])]

    def grade(answer: str, reference: str) -> float:
        phrases = wanted if given else [reference]
        return not all(holds_any(answer, phrase) for phrase in phrases) or holds_any(answer, none_of or [])

    return grade


def _json(
    *,
    schema: dict[str, Any] | None = None,
    compare: bool = True,
    ignore_case: bool = False,
    unordered: bool = False,
    extra: bool = False,
) -> Grade:
    """Take an answer with a JSON value that fits `schema` and, with `compare`, equals the reference's value.

    Key order and number format do not matter; `ignore_case`, `unordered` lists and `extra` keys are allowed if asked.
    """
    if schema is not None:
        check_schema(schema)

    def grade(answer: str, reference: str) -> float:
        value = find_json(answer)
        if not is_sound(value) or (schema is not None and not fits(value, schema)):
            return 1.0
        wanted = find_json(reference) if compare else value
        options = {"ignore_case": ignore_case, "unordered": unordered, "extra": extra}
        return not (is_sound(wanted) and (not compare or same(value, wanted, **options)))

    return grade


def _constraints(*, rules: dict[str, Any]) -> Grade:
    """Take an answer that keeps all the `rules` (`graders/constraints.py` lists them)."""
    check_rules(rules)
    return lambda answer, _: bool(broken_rules(answer, rules))


def _similarity(embedder: Embedder | None, *, at_least: float) -> Grade:
    """Take an answer whose vector has a cosine of `at_least` with the reference's; an `embedder` must be given."""
    if embedder is None:
        raise InvalidDataError("The similarity grader needs an embedder; give parse_grader one.")
    if not -1 <= at_least <= 1:
        raise InvalidDataError(f"at_least is a cosine, in [-1, 1], not {at_least:g}.")

    def grade(answer: str, reference: str) -> float:
        one, other = embed(embedder, [answer, reference])
        return float(one @ other) < at_least - _ROUNDING

    return grade


_ROUNDING = 1e-6  # of a float32 cosine

_MAKERS: dict[str, Callable[..., Grade]] = {
    "exact": _exact,
    "text": _text,
    "number": _number,
    "choice": _choice,
    "regex": _regex,
    "contains": _contains,
    "json": _json,
    "constraints": _constraints,
    "similarity": _similarity,
}

GRADERS = tuple(_MAKERS)
"""The names that `parse_grader` knows without being given functions."""


def parse_grader(
    spec: str | Mapping[str, Any],
    *,
    functions: Mapping[str, Grade] | None = None,
    embedder: Embedder | None = None,
) -> Grader:
    """Return the grader that `spec` names.

    Parameters
    ----------
    spec : str or mapping
        A name, or ``{"grader": name, parameter: value, ...}``, or that as JSON text:

        ============  ===================================================  =============================================
        name          an answer is right when it has                       parameters
        ============  ===================================================  =============================================
        exact         the same characters                                  ignore_case, ignore_spaces
        text          the same words; case, punctuation, articles ignored  also: [other right answers]
        number        the same final number                                tolerance, relative, decimal: "." or ","
        choice        the same option                                      options: {letter: text} or [labels]
        regex         a match of a Python pattern                          pattern, whole
        contains      the reference, or what the lists say                 all, any, none: [texts]
        json          a JSON value that fits and is equal                  schema, compare, ignore_case, unordered,
                                                                           extra
        constraints   all the rules kept                                   rules: {rule: value}
        similarity    a vector near the reference's                        at_least: cosine
        ============  ===================================================  =============================================
    functions : mapping of name to function (answer, reference) -> error, optional
        Your own graders. They take no parameters.
    embedder : Embedder, optional
        For "similarity".

    Raises
    ------
    InvalidDataError
        When the name or a parameter is not known, or a value cannot be used.

    Examples
    --------
    >>> grader = parse_grader({"grader": "number", "tolerance": 0.01})
    >>> grader("It is about 3.14.", "3.14159"), grader("I do not know.", "3.14159")
    (0.0, 1.0)
    """
    name, parameters = _read_spec(spec)
    if functions and name in functions:
        if parameters:
            raise InvalidDataError(f"{name!r} is a function and takes no parameters, not {', '.join(parameters)}.")
        return Grader(name, functions[name])
    if name not in _MAKERS:
        raise InvalidDataError(f"No grader is named {name!r}; use one of {', '.join([*_MAKERS, *(functions or {})])}.")
    make = _MAKERS[name]
    _check_parameters(name, parameters, make)
    given = (embedder,) if name == "similarity" else ()
    return Grader(name, make(*given, **parameters), parameters)


def _read_spec(spec: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the name and the parameters of a spec."""
    fields: Any = spec
    if isinstance(spec, str):
        if not spec.lstrip().startswith("{"):
            return spec, {}
        try:
            fields = json.loads(spec)
        except ValueError as failed:
            raise InvalidDataError(f"The grader {spec!r:.80} is not JSON: {failed}.") from failed
    if not isinstance(fields, Mapping) or not isinstance(fields.get("grader"), str):
        raise InvalidDataError(f'A grader is a name or {{"grader": name, ...}}, not {spec!r:.80}.')
    return fields["grader"], {name: value for name, value in fields.items() if name != "grader"}


_ACCEPTS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "bool": (lambda value: isinstance(value, bool), "true or false"),
    "str": (lambda value: isinstance(value, str), "a string"),
    "float": (lambda value: isinstance(value, int | float) and not isinstance(value, bool), "a number"),
    "list[str]": (
        lambda value: isinstance(value, list) and all(isinstance(x, str) for x in value),
        "a list of strings",
    ),
    "list[Any]": (lambda value: isinstance(value, list), "a list"),
    "dict[str, Any]": (lambda value: isinstance(value, dict), "an object"),
    "Any": (lambda value: True, "anything"),
}


def _check_parameters(name: str, parameters: Mapping[str, Any], make: Callable[..., Grade]) -> None:
    """Raise `InvalidDataError` unless the parameters are those of `make`'s signature, each of its type."""
    known = {p.name: p for p in inspect.signature(make).parameters.values() if p.kind is p.KEYWORD_ONLY}
    for parameter, value in parameters.items():
        if parameter not in known:
            raise InvalidDataError(f"The grader {name!r} has no parameter {parameter!r}; it has {', '.join(known)}.")
        accepts, what = _ACCEPTS[str(known[parameter].annotation).removesuffix(" | None")]
        if not accepts(value):
            raise InvalidDataError(f"{parameter!r} of the grader {name!r} must be {what}, not {value!r:.60}.")
    missing = [p.name for p in known.values() if p.default is p.empty and p.name not in parameters]
    if missing:
        raise InvalidDataError(f"The grader {name!r} needs {' and '.join(map(repr, missing))}.")
