"""Graders by name, as validation files give them: an answer and its reference to an error in [0, 1].

To add a grader, write a `Spec` with its parameters and `_accepts`, and name it in `_SPECS`.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from pydantic import ValidationError

from unirouter_core.embedding import Embedder
from unirouter_core.exceptions import InvalidDataError, UniRouterError, shown
from unirouter_plugins.graders.text import Spec, after_thoughts, is_refusal

__all__ = ["GRADERS", "GRADER_VERSION", "GradeFunction", "Grader", "after_thoughts", "is_refusal", "parse_grader"]


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)


GRADER_VERSION = 2
"""Part of every grader's `key`; raised when a grader here starts to grade an answer differently."""

GradeFunction: TypeAlias = Callable[[str, str], float]
"""From an answer and its reference to an error in [0, 1]; a bool is a number."""


@dataclass(frozen=True)
class Grader:
    """A named grading function: `grade` returns the error of (answer, reference); that of a reference itself is 0.

    Change the `name` when your own function changes. Graders of this package are thread-safe, also for an event loop:
    ``await asyncio.to_thread(grader, answer, reference)``. Their time for one answer is bounded, see `rules`.

    Examples
    --------
    >>> Grader("shorter", lambda answer, reference: len(answer) > len(reference))("Hello there.", "Hi.")
    1.0
    """

    name: str
    grade: GradeFunction = field(repr=False, compare=False)
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, answer: str, reference: str) -> float:
        """Return the error of `answer`, in [0, 1]; raise `InvalidDataError` when an own function gives none.

        A model's thoughts before the answer (``<think>...</think>``) are not graded. The error of an empty answer, and
        of thoughts without an answer, is 1. Graders of this package read at most `text.LONGEST` characters, the first
        and the last ones.
        """
        answer = after_thoughts(answer)
        if not answer:
            return 1.0
        try:
            error = float(self.grade(answer, after_thoughts(reference)))
        except UniRouterError:
            raise
        except Exception as failed:  # of any kind: the function may be the user's own
            problem = f"The grader {self.name!r} failed ({type(failed).__name__}: {failed})"
            raise InvalidDataError(f"{problem}; it must give any answer an error in [0, 1].") from failed
        if not 0 <= error <= 1:
            raise InvalidDataError(f"The grader {self.name!r} gave {error:g}; an error must be in [0, 1].")
        return error

    def check(self, reference: str) -> None:
        """Raise `InvalidDataError` unless `reference` is a right answer by this grader; call it before paying."""
        if error := self(reference, reference):
            wrong = f"The reference {reference!r:.60} is itself graded wrong (error {error:g}) by {self.spec}"
            raise InvalidDataError(f"{wrong}; a reference must be a right answer.")

    @property
    def spec(self) -> str:
        """The text from which `parse_grader` makes this grader: its name, or JSON when it has parameters."""
        if not self.parameters:
            return self.name
        return json.dumps({"grader": self.name, **self.parameters}, sort_keys=True, ensure_ascii=False)

    @property
    def key(self) -> str:
        """The spec and the version, under which a store keeps a grade."""
        return f"{self.spec} v{GRADER_VERSION}"


_SPECS = {  # each is imported when a validation file names it
    **{"exact": "text:Exact", "text": "text:Text", "number": "number:NumberSpec", "choice": "text:Choice"},
    **{"regex": "rules:Regex", "contains": "text:Contains", "json": "rules:JsonSpec"},
    **{"constraints": "rules:Constraints", "similarity": "text:Similarity"},
}

GRADERS = tuple(_SPECS)  # the names that `parse_grader` knows without being given functions


def parse_grader(
    spec: str | Mapping[str, Any],
    *,
    functions: Mapping[str, GradeFunction] | None = None,
    embedder: Embedder | None = None,
) -> Grader:
    """Return the grader that `spec` names; raise `InvalidDataError` when the name or a parameter cannot be used.

    Parameters
    ----------
    spec : str or mapping
        A name of `GRADERS`, or ``{"grader": name, parameter: value, ...}``, or that as JSON text. The classes that
        `_SPECS` names and docs/reference/graders.md say what each takes as right, and its parameters. None of them
        takes "I do not know" as right, unless the reference or a parameter says so too.
    functions : mapping of name to function (answer, reference) -> error, optional
        Your own graders. They take no parameters.
    embedder : Embedder, optional
        For "similarity".

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
    if name not in _SPECS:
        raise InvalidDataError(f"No grader is named {name!r}; use one of {', '.join([*_SPECS, *(functions or {})])}.")
    try:
        made = _spec(name).model_validate(parameters, context={"embedder": embedder})
    except ValidationError as failed:
        raise InvalidDataError(_message(name, failed)) from failed
    return Grader(name, made, parameters)


def _spec(name: str) -> type[Spec]:
    module, _, spec = _SPECS[name].partition(":")
    found: type[Spec] = getattr(importlib.import_module(f"{__name__}.{module}"), spec)
    return found


def _read_spec(spec: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    fields: Any = spec
    if isinstance(spec, str):
        if not spec.lstrip().startswith("{"):
            return spec, {}
        try:
            fields = json.loads(spec)
        except (ValueError, RecursionError) as failed:
            raise InvalidDataError(f"The grader {spec!r:.80} is not JSON: {failed}.") from failed
    if not isinstance(fields, Mapping) or not isinstance(fields.get("grader"), str):
        raise InvalidDataError(f'A grader is a name or {{"grader": name, ...}}, not {spec!r:.80}.')
    return fields["grader"], {name: value for name, value in fields.items() if name != "grader"}


def _message(name: str, failed: ValidationError) -> str:
    """Return one sentence on what is wrong with the parameters of a grader."""
    first = failed.errors()[0]
    parameter = ".".join(map(str, first["loc"]))
    match first["type"]:
        case "extra_forbidden":
            known = ", ".join(one.alias or field for field, one in _spec(name).model_fields.items())
            return f"The grader {name!r} has no parameter {parameter!r}; it has {known}."
        case "missing":
            return f"The grader {name!r} needs {parameter!r}."
        case "value_error":
            return str(first["ctx"]["error"])
    return f"{parameter!r} of the grader {name!r}: {first['msg']}, not {shown(first['input'])}."
