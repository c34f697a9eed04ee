"""The methods of a benchmark: estimators by name, and the references that need none."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from unirouter_core.estimators import (
    DefaultEstimator,
    Estimator,
    KMeansEstimator,
    KnownModelsEstimator,
    LearnedMapEstimator,
    LowRankEstimator,
    NeighboursEstimator,
    ShrunkenClustersEstimator,
)
from unirouter_core.exceptions import InvalidDataError

DEFAULT = "default"
"""The method that the others are compared with."""

ZERO, CEILING = "ZeroRouter", "clairvoyant"
"""The two ends of the gap that a method closes."""

BEFORE = (ZERO, "models' hull", "single model", "random")
AFTER = (CEILING, "oracle")
"""References, and whether they stand before or after the methods; every trial has them."""


@dataclass(frozen=True)
class Method:
    """An estimator to judge, by name.

    Parameters
    ----------
    name : str
    make : callable
        An estimator's class, or a function that returns one, not fitted; one that takes ``n_val`` is told the size of
        the validation set. At the top of a module, so that other processes find it.
    settings : mapping
        What else it is called with.
    """

    name: str
    make: Callable[..., Estimator]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def estimator(self, n_val: int) -> Estimator:
        """Return an estimator for validation sets of `n_val` prompts, not fitted."""
        takes_n_val = "n_val" in inspect.signature(self.make).parameters
        return self.make(**({"n_val": n_val} if takes_n_val else {}) | dict(self.settings))


METHODS = (
    Method("K-NN", NeighboursEstimator),
    Method("K-Means (paper)", KMeansEstimator, {"rule": "paper", "n_val": 400}),  # N_val changes nothing: one fit
    Method("K-Means", KMeansEstimator),
    Method("LearnedMap", LearnedMapEstimator),
    Method("A", ShrunkenClustersEstimator),
    Method("B", LowRankEstimator),
    Method("C", KnownModelsEstimator),
    Method(DEFAULT, DefaultEstimator),
)
"""K by the paper's rule and by one that knows N_val; A: shrunken clusters, B: low-rank logistic, C: mixture of known
models; default: what a router uses when it is told nothing."""


def methods_named(names: Sequence[str], own: Sequence[Method] = ()) -> tuple[Method, ...]:
    """Return the methods of these names, in any letter case, and `own` ones.

    Raises
    ------
    InvalidDataError
        When a name is not known, or stands twice.

    Examples
    --------
    >>> [method.name for method in methods_named(["k-nn", "default"])]
    ['K-NN', 'default']
    """
    known = {method.name.lower(): method for method in METHODS}
    unknown = [name for name in names if name.lower() not in known]
    if unknown:
        raise InvalidDataError(f"{unknown[0]!r} is no method; there are {', '.join(m.name for m in METHODS)}.")
    found = (*(known[name.lower()] for name in names), *own)
    every = [*(method.name for method in found), *BEFORE, *AFTER]
    twice = [name for name in every if every.count(name) > 1]
    if twice:
        raise InvalidDataError(f"Two methods are called {twice[0]!r}; name each once.")
    return found
