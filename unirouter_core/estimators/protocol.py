"""What an estimator is: prompt features Φ learned once, a model's features Ψ measured, errors predicted from both."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterable
from typing import Any, Protocol, Self

from unirouter_core.data import Outcomes
from unirouter_core.embedding import Array
from unirouter_core.exceptions import InvalidDataError, NotFittedError


class Prediction:
    """Expected errors of m models on n prompts, and how sure they are.

    Parameters
    ----------
    errors : array (n, m)
        In [0, 1].
    stderrs : function
        Called when `stderrs` is first read, since most decisions never ask; returns an array (n, m).
    """

    __slots__ = ("_make_stderrs", "_stderrs", "errors")

    def __init__(self, errors: Array, stderrs: Callable[[], Array]) -> None:
        self.errors = errors
        self._make_stderrs = stderrs
        self._stderrs: Array | None = None

    @property
    def stderrs(self) -> Array:
        """Standard errors of `errors`, shape (n, m)."""
        if self._stderrs is None:
            self._stderrs = self._make_stderrs()
        return self._stderrs


class Estimator(Protocol):
    """Predicts models' errors on prompts (γ(x, h) = Φ(x)·Ψ(h) in the paper, §4).

    An estimator is a dataclass: what its constructor takes are settings that JSON can hold, what `fit` sets are
    arrays whose names end in an underscore. That is all that saving a router needs to know of it.
    """

    def fit(self, X: Array, outcomes: Outcomes | None = None) -> Self:
        """Learn prompt features from the vectors X (n, d) and, where it needs them, the training models' outcomes."""
        ...

    def profile(self, X: Array, errors: Array, known: Array | None = None) -> Array:
        """Return a model's features Ψ(h) from its errors on a validation set.

        Parameters
        ----------
        X : array (n, d)
            Vectors of the validation prompts.
        errors : array (n,)
            The model's errors on them, none NaN.
        known : array (n, n_training_models), optional
            The training models' errors on the same prompts, NaN where not known.
        """
        ...

    def predict(self, X: Array, features: Array) -> Prediction:
        """Return the errors expected of m models, whose features are stacked (m, ...), on the vectors X (n, d)."""
        ...


def check_settings(estimator: Any, **least: float) -> None:
    """Raise `InvalidDataError` when a setting, or one of a grid, is not a number of at least so much.

    A setting that must be at least 1 or more counts something and is a whole number; one that is None by default may
    be None.
    """
    for name, lowest in least.items():
        given = getattr(estimator, name)
        if given is None and getattr(type(estimator), name) is None:
            continue
        values = list(given) if name == "grid" and isinstance(given, Iterable) else [given]
        kind = numbers.Integral if lowest else numbers.Real
        if not values or not all(isinstance(value, kind) and lowest <= float(value) < float("inf") for value in values):
            whole = "a whole number, " if lowest else ""
            raise InvalidDataError(f"{type(estimator).__name__}: {name}={given!r} must be {whole}at least {lowest:g}.")


def require_fitted(estimator: Any, attribute: str) -> None:
    """Raise `NotFittedError` unless `fit` has set `attribute`."""
    if not hasattr(estimator, attribute):
        raise NotFittedError(f"This {type(estimator).__name__} is not fitted; call fit(X, outcomes) first.")
