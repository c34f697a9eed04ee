"""Exceptions, one class for each failure that a caller may handle, and values as messages show them."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable
from itertools import islice
from typing import Any

LONGEST_MESSAGE = 950


class UniRouterError(Exception):
    """The base of every exception that unirouter raises on purpose; what a message quotes may be long, it is not."""

    def __str__(self) -> str:
        said = str(self.args[0]) if len(self.args) == 1 else super().__str__()
        return said if len(said) <= LONGEST_MESSAGE else f"{said[:650]} ... {said[-250:]}"


class InvalidDataError(UniRouterError):
    """Input that cannot be used: a wrong shape, a value outside its range, a bad line in a file."""


class MissingOutcomesError(InvalidDataError):
    """An estimator that learns from training models' answers was not given them."""


class NotFittedError(UniRouterError):
    """A method that needs ``fit`` was called before it."""


class UnknownModelError(UniRouterError, KeyError):
    """A model that is not in the pool; a `KeyError`, as a pool is a mapping."""


class UnknownPriceError(UniRouterError):
    """A model whose price is not known; it is never taken as $0."""


class NoCandidateError(UniRouterError):
    """No model of the pool may answer this prompt."""


class EmbedderMismatchError(UniRouterError):
    """An embedder that gives other vectors than the router was fitted on."""


class ArtifactError(UniRouterError):
    """A router folder that cannot be read or written: truncated, edited, foreign, newer, or of mixed fits."""


def as_number(value: Any) -> float:
    """Return a number as a float; NaN for anything else, and for an int that is too large for a float."""
    try:
        return float(value) if isinstance(value, (int, float, numbers.Real)) else math.nan
    except OverflowError:
        return math.nan


def shown(value: Any) -> str:
    """Return the start of `repr(value)` for a message; Python refuses that of some values."""
    try:
        return f"{value!r:.60}"
    except ValueError:
        return "an int of thousands of digits"
    except RecursionError:
        return "nested too deeply to show"


def missing_package(package: str, extra: str, otherwise: str = "") -> ImportError:
    """Return the error that says how to install a package that an extra brings; `otherwise` is another way."""
    return ImportError(f"{package} is missing: pip install 'unirouter[{extra}]' (in a clone: '.[{extra}]'){otherwise}.")


def listed(items: Iterable[str], separator: str = ", ", most: int = 20) -> str:
    """Return the items joined for a message, those after the first `most` as a count."""
    items = iter(items)
    some, more = list(islice(items, most)), sum(1 for _ in items)
    return separator.join([*some, f"and {more:,} more"] if more else some)
