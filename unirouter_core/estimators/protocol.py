"""The estimator protocol: learn prompt features Φ once, measure a model's features Ψ, predict errors from both."""

from __future__ import annotations

import copy
import dataclasses
import numbers
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, Self, TypeAlias, TypeVar

import numpy as np

from unirouter_core.data import Outcomes
from unirouter_core.embedding import Array
from unirouter_core.exceptions import InvalidDataError, NotFittedError, as_number, shown

Arrays: TypeAlias = dict[str, np.ndarray[Any, Any]]
Part = TypeVar("Part")  # an estimator or embedder

# On one row, numpy takes as long to convert a Python number, or to broadcast (m,) to (1, m), as for the operation.
ZERO, ONE = np.zeros((), np.float32), np.ones((), np.float32)


@dataclass(eq=False)
class Prediction:
    """Expected errors (n, m) of m models on n prompts; their standard errors are computed when first read."""

    errors: Array
    make_stderrs: Callable[[], Array]

    @cached_property
    def stderrs(self) -> Array:
        """Standard errors of `errors`, shape (n, m)."""
        return self.make_stderrs()


class Estimator(Protocol):
    """Predicts models' errors on prompts (γ(x, h) = Φ(x)·Ψ(h) in the paper, §4).

    An estimator is a dataclass: what its constructor takes are settings that JSON can hold, what `fit` sets are
    arrays whose names end in an underscore. That is all that saving a router needs to know of it.
    """

    def fit(self, X: Array, outcomes: Outcomes | None = None) -> Self:
        """Learn prompt features from the vectors X (n, d) and, where it needs them, the training models' outcomes."""
        ...

    def profile(self, X: Array, errors: Array, known: Array | None = None) -> Array:
        """Return a model's features Ψ(h) from its errors (n,), none NaN, on validation prompts of vectors X (n, d).

        `known` holds the training models' errors on the same prompts, (n, n_training_models), NaN where not known.
        """
        ...

    def predict(self, X: Array, features: Array) -> Prediction:
        """Return the errors expected of m models, whose features are stacked (m, ...), on the vectors X (n, d)."""
        ...


Compiled: TypeAlias = Callable[[Array, Array], Array]  # from X (n, d) and its products (n, k) to errors (n, m)


class AxesEstimator:
    """A base of estimators that see of a vector only its products with a few axes.

    A router stacks the axes of all its parts, so that a decision begins with one product of matrices.
    """

    def axes(self) -> tuple[Array, Array]:
        """Return the axes (k, d) and intercepts (k,)."""
        require_fitted(self, "axes_")
        return self.axes_, self.intercepts_  # type: ignore[attr-defined]

    def compiled(self, features: Array, shares: Array) -> Compiled:
        """Return what gives `shares` (m,) of the errors of m models, features (m, ...), from X and its products."""
        raise NotImplementedError

    def stderrs(self, X: Array, products: Array, features: Array) -> Array:
        """Return the standard errors of the errors, (n, m)."""
        raise NotImplementedError

    def products(self, X: Array) -> Array:
        """Return the products of the vectors (n, d) with the axes, (n, k)."""
        axes, intercepts = self.axes()
        return np.asarray(X @ axes.T + intercepts)

    def predict(self, X: Array, features: Array) -> Prediction:
        """Return the errors expected of m models, whose features are stacked (m, ...), on the vectors X (n, d)."""
        return self.predicted(X, self.products(X), features)

    def predicted(self, X: Array, products: Array, features: Array) -> Prediction:
        """Return the same from the products, where they are known."""
        errors = self.compiled(features, np.ones(len(features), np.float32))(X, products)
        return Prediction(errors, lambda: self.stderrs(X, products, features))


class WithoutAxes(AxesEstimator):
    """An estimator that reads the whole vector."""

    def __init__(self, estimator: Estimator) -> None:
        self.estimator = estimator
        self.axes_, self.intercepts_ = np.empty((0, 0), np.float32), np.empty(0, np.float32)

    def compiled(self, features: Array, shares: Array) -> Compiled:
        """Return its own `predict`."""
        return lambda X, _: self.estimator.predict(X, features).errors * shares

    def products(self, X: Array) -> Array:
        """Return none of them, (n, 0)."""
        return np.empty((len(X), 0), np.float32)

    def predicted(self, X: Array, products: Array, features: Array) -> Prediction:
        """Return its own `predict`, which may be costly, so errors and standard errors are of one call."""
        return self.estimator.predict(X, features)


def with_axes(estimator: Estimator) -> AxesEstimator:
    """Return the estimator, as one with axes; one that has a `predict` of its own is wrapped."""
    if not isinstance(estimator, AxesEstimator):
        return WithoutAxes(estimator)
    own: Any = type(estimator).predict
    return estimator if own is AxesEstimator.predict else WithoutAxes(estimator)


def check_settings(estimator: Any, **least: float) -> None:
    """Raise `InvalidDataError` when a setting, or one of a grid, is smaller than its least value or no number.

    A setting whose least value is above 0 is a count and must be whole; one that is None by default may be None.
    """
    for name, lowest in least.items():
        given = getattr(estimator, name)
        if given is None and getattr(type(estimator), name) is None:
            continue
        values = list(given) if name == "grid" and isinstance(given, Iterable) else [given]
        kind = numbers.Integral if lowest else numbers.Real
        if not values or not all(isinstance(value, kind) and lowest <= as_number(value) < np.inf for value in values):
            whole = "a whole number, " if lowest else ""
            raise InvalidDataError(
                f"{type(estimator).__name__}: {name}={shown(given)} must be {whole}at least {lowest:g}."
            )


def require_fitted(estimator: Any, attribute: str) -> None:
    """Raise `NotFittedError` unless `fit` has set `attribute`."""
    if not hasattr(estimator, attribute):
        raise NotFittedError(f"This {type(estimator).__name__} is not fitted; call fit(X, outcomes) first.")


# --- Settings and arrays: what is saved of an estimator or an embedder ------------------------------------------------


def parts_of(part: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (prefix of its arrays' names, estimator) for an estimator and those inside it, to any depth."""
    yield prefix, part
    for place in dataclasses.fields(part):
        value = getattr(part, place.name, None) if place.init else None
        inside = {f".{i}": item for i, item in enumerate(value)} if isinstance(value, (list, tuple)) else {"": value}
        for position, inner in inside.items():
            if dataclasses.is_dataclass(inner):
                yield from parts_of(inner, f"{prefix}{place.name}{position}.")


def arrays_of(part: Any, prefix: str = "") -> Arrays:
    """Return the fitted arrays of an estimator or embedder and of those inside it, by dotted name."""
    return {
        f"{start}{name}": np.asarray(value)
        for start, each in parts_of(part, prefix)
        for name, value in vars(each).items()
        if name.endswith("_")
    }


def settings_of(part: Any) -> dict[str, Any]:
    """Return the class and the constructor's parameters of an estimator or embedder, as JSON can hold them."""
    values = {place.name: getattr(part, place.name) for place in dataclasses.fields(part) if place.init}
    return {"class": type(part).__name__, **{name: _jsonable(value) for name, value in values.items()}}


def _jsonable(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return settings_of(value)
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    return [_jsonable(item) for item in value] if isinstance(value, (list, tuple)) else value


def clone(part: Part) -> Part:
    """Return an unfitted estimator or embedder with the same settings, sharing nothing with `part`."""
    if not dataclasses.is_dataclass(part):
        return copy.deepcopy(part)
    settings = {place.name: _cloned(getattr(part, place.name)) for place in dataclasses.fields(part) if place.init}
    make: Callable[..., Part] = type(part)
    return make(**settings)


def _cloned(setting: Any) -> Any:
    return type(setting)(map(_cloned, setting)) if type(setting) in (list, tuple) else clone(setting)
