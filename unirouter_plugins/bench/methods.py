"""The methods of a benchmark, estimators and references, and the trials that run them on one random split each."""

from __future__ import annotations

import dataclasses
import inspect
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np

from unirouter_core import estimators
from unirouter_core.embedding import Array
from unirouter_core.estimators import Estimator
from unirouter_core.exceptions import InvalidDataError
from unirouter_plugins.bench.protocol import N_VALS, Case, Recorded, reachable, split
from unirouter_plugins.bench.results import CLAIRVOYANT, DEFAULT, ZERO, record

BEFORE = (ZERO, "models' hull", "single model", "random")
AFTER = (CLAIRVOYANT, "oracle")
"""References, listed before and after the methods; every trial has them."""


@dataclass(frozen=True)
class Method:
    """An estimator to benchmark, by name.

    Parameters
    ----------
    name : str
    make : callable
        An estimator's class, or a function that returns one, not fitted; one that takes ``n_val`` is given the size of
        the validation set. At the top of a module, so that other processes find it.
    settings : mapping
        Its other arguments.
    """

    name: str
    make: Callable[..., Estimator]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def estimator(self, n_val: int) -> Estimator:
        """Return an estimator for validation sets of `n_val` prompts, not fitted."""
        takes_n_val = "n_val" in inspect.signature(self.make).parameters
        return self.make(**({"n_val": n_val} if takes_n_val else {}) | dict(self.settings))


NEEDS_KNOWN = "known models"  # the method that needs the known models' answers on the validation prompts

METHODS = (
    Method("nearest neighbours", estimators.NeighboursEstimator),
    Method("k-means (paper)", estimators.KMeansEstimator, {"rule": "paper", "n_val": 400}),  # one fit for every N_val
    Method("k-means", estimators.KMeansEstimator),
    Method("learned map", estimators.LearnedMapEstimator),
    Method("shrunken clusters", estimators.ShrunkenClustersEstimator),
    Method("low rank", estimators.LowRankEstimator),
    Method(NEEDS_KNOWN, estimators.KnownModelsEstimator),
    Method(DEFAULT, estimators.DefaultEstimator),
)
"""The paper's four methods (K by the paper's rule and by N_val), our three, a router's default."""


def methods_named(names: Sequence[str], own: Sequence[Method] = ()) -> tuple[Method, ...]:
    """Return the methods of these names, letter case and hyphens ignored, and `own` ones.

    Raises `InvalidDataError` when a name is not known, or given twice.

    Examples
    --------
    >>> [method.name for method in methods_named(["K-Means", "low-rank"])]
    ['k-means', 'low rank']
    """

    def key(name: str) -> str:
        return re.sub(r"[-_\s]+", " ", name).strip().lower()

    known = {key(method.name): method for method in METHODS}
    if unknown := [name for name in names if key(name) not in known]:
        raise InvalidDataError(f"{unknown[0]!r} is no method; there are {', '.join(m.name for m in METHODS)}.")
    found = (*(known[key(name)] for name in names), *own)
    every = [*(method.name for method in found), *BEFORE, *AFTER]
    if twice := [name for name in every if every.count(name) > 1]:
        raise InvalidDataError(f"Two methods are called {twice[0]!r}; name each once.")
    return found


@dataclass(frozen=True)
class Settings:
    """The settings of a benchmark.

    Trial t of a seed is the same split whatever else is run. Costs are a model's mean USD, as in the paper, or each
    prompt's on the axis and those of its region as the router's expectation. `known` says whether the known models have
    answered the validation prompts; models of one of the `groups` stay on one side of a split, as `twins` do.
    """

    n_vals: Sequence[int] = N_VALS
    methods: Sequence[Method] = METHODS
    seed: int = 0
    costs: Literal["mean", "per-prompt"] = "mean"
    known: bool = True
    groups: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.n_vals or min(self.n_vals) < 2:
            raise InvalidDataError(f"N_val is {list(self.n_vals)}; give one or more whole numbers of at least 2.")
        if self.costs not in ("mean", "per-prompt"):
            raise InvalidDataError(f"costs={self.costs!r} must be 'mean' or 'per-prompt'.")

    @property
    def names(self) -> list[str]:
        """The methods and references, in the order of a table."""
        return [*BEFORE, *(method.name for method in self.methods), *AFTER]


def benchmark(
    table: Recorded,
    settings: Settings | None = None,
    *,
    trials: int = 400,
    processes: int = 1,
    done: Collection[tuple[int, int, str]] = frozenset(),
) -> Iterator[list[dict[str, Any]]]:
    """Yield the records of each trial, in order; a trial is a random split of models and prompts.

    `processes` change no number but the seconds; `done` has the (n_val, trial, method) that need no second run.

    Raises `InvalidDataError` when the table reaches no N_val of the settings, or has too few models for a split.
    """
    wanted = Settings() if settings is None else settings
    reached, _ = reachable(wanted.n_vals, len(table))
    if not reached:
        raise InvalidDataError(f"{table.name} has {len(table)} prompts, too few for N_val {min(wanted.n_vals)}.")
    run = partial(run_trial, table, dataclasses.replace(wanted, n_vals=reached), done=frozenset(done))
    if processes == 1 or trials * len(reached) * len(wanted.names) - len(done) < 2:
        yield from map(run, range(trials))
        return
    import multiprocessing  # here, because every command would wait for them
    from concurrent.futures import ProcessPoolExecutor

    context = multiprocessing.get_context("spawn")  # a fork would copy threads in the middle of their work
    with ProcessPoolExecutor(min(processes, trials), mp_context=context) as workers:
        yield from workers.map(run, range(trials))


def run_trial(
    table: Recorded, settings: Settings, trial: int, *, done: Collection[tuple[int, int, str]] = frozenset()
) -> list[dict[str, Any]]:
    """Return the records of one trial; those in `done` are left out."""
    from threadpoolctl import threadpool_limits

    seed, fitted = [settings.seed, trial], dict[tuple[str, str], tuple[Estimator, float]]()
    todo = [(n, name) for n in settings.n_vals for name in settings.names if (n, trial, name) not in done]
    if not todo:
        return []
    with threadpool_limits(1):  # sums in one order: the same bits however many cores there are
        case = Case.of(table, split(table.outcomes.models, len(table), seed, settings.groups), settings.costs)
        methods, records = {method.name: method for method in settings.methods}, []
        for n, name in todo:
            if name in methods:
                found = _estimated(case, methods[name], n, settings.known, fitted)
            else:
                found = record(case, *_reference(case, name, n, seed), point=name in ("single model", "random"))
            records.append({"table": table.name, "n_val": n, "trial": trial, "method": name, **found})
        return records


def _estimated(
    case: Case, method: Method, n_val: int, known: bool, fitted: dict[tuple[str, str], tuple[Estimator, float]]
) -> dict[str, Any]:
    """Return the record of an estimator; one whose settings are the same at every N_val is fitted once."""
    estimator = method.estimator(n_val)
    key = method.name, repr(estimator)  # two classes may have one name and so one repr
    if key not in fitted:
        begun = time.perf_counter()
        estimator = estimator.fit(case.X_train, case.training)
        fitted[key] = estimator, time.perf_counter() - begun
    estimator, seconds = fitted[key]
    begun = time.perf_counter()
    prediction = case.predict(estimator, n_val, known=known)
    seconds += time.perf_counter() - begun
    return record(case, prediction.errors, case.expected_costs(n_val), prediction=prediction, seconds=seconds)


def _reference(case: Case, name: str, n_val: int, seed: Sequence[int]) -> tuple[Array, Array]:
    """Return the errors and costs that a reference expects, (m,) or (n_test, m)."""
    n, m = case.errors.shape
    if name == "models' hull":
        return case.errors.mean(axis=0), np.broadcast_to(case.costs, (n, m)).mean(axis=0)
    if name == "random":
        return 1 - np.eye(m)[np.random.default_rng([*seed, 1]).integers(m, size=n)], case.costs
    if name == CLAIRVOYANT:
        return case.clairvoyant_errors, case.expected_costs(n_val)
    if name == "oracle":
        return case.errors, case.costs
    return case.measured.errors[:n_val].mean(axis=0, dtype=np.float64), case.validation_costs(n_val)
