"""Trials of a benchmark: every method on one random split after the other, in as many processes as are given."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

import numpy as np

from unirouter_core.curves import Curve, deferral_curve, oracle_curve, zero_router_curve
from unirouter_core.embedding import Array, Labels
from unirouter_core.estimators import Estimator, clairvoyant
from unirouter_core.exceptions import InvalidDataError
from unirouter_core.rule import choose
from unirouter_plugins.bench.case import Case, Costs
from unirouter_plugins.bench.methods import AFTER, BEFORE, CEILING, METHODS, ZERO, Method
from unirouter_plugins.bench.recorded import Recorded
from unirouter_plugins.bench.records import Record, Routed, record
from unirouter_plugins.bench.splits import reachable, split

N_VALS = (50, 100, 200, 400)
"""The paper's sizes of a validation set."""

Key: TypeAlias = tuple[int, int, str]
"""N_val, trial and method."""


@dataclass(frozen=True)
class Settings:
    """What a benchmark runs, apart from the table.

    Parameters
    ----------
    n_vals : sequence of int
    methods : sequence of Method
        The references come in any case.
    seed : int
        Trial t of a seed is the same split whatever else is run, in whatever order.
    costs : {"mean", "per-prompt"}
        Scalar mean USD of a model, as in the paper; or each prompt's USD on the axis, and those of its region as
        the router's expectation.
    known : bool
        Whether the known models have answered the validation prompts; prompts of a user's own they have not.
    groups : mapping of model to group
        Models that stay on one side of a split; others are grouped by their names.
    """

    n_vals: Sequence[int] = N_VALS
    methods: Sequence[Method] = METHODS
    seed: int = 0
    costs: Costs = "mean"
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
    done: Collection[Key] = frozenset(),
) -> Iterator[list[Record]]:
    """Yield each trial's records, in the order of the trials; a trial is a random split of models and prompts.

    Parameters
    ----------
    table : Recorded
    settings : Settings, optional
    trials : int
        400 in the paper.
    processes : int
        The numbers are the same however many, but for the seconds.
    done : collection of (n_val, trial, method)
        What needs no second run.

    Raises
    ------
    InvalidDataError
        When the table reaches no N_val of the settings, or has too few models for a split.
    """
    asked = Settings() if settings is None else settings
    reached, _ = reachable(asked.n_vals, len(table))
    if not reached:
        raise InvalidDataError(f"{table.name} has {len(table)} prompts, too few for N_val {min(asked.n_vals)}.")
    settings = dataclasses.replace(asked, n_vals=reached)
    wanted = {(n_val, name) for n_val in reached for name in settings.names}
    made: dict[int, set[tuple[int, str]]] = {}
    for n_val, trial, name in done:
        made.setdefault(trial, set()).add((n_val, name))
    left = [trial for trial in range(trials) if not wanted <= made.get(trial, set())]
    run = partial(run_trial, table, settings, done=frozenset(done))
    if processes == 1 or len(left) < 2:
        yield from map(run, left)
        return
    import multiprocessing  # here, because every command would wait for them
    from concurrent.futures import ProcessPoolExecutor

    context = multiprocessing.get_context("spawn")  # a fork would copy threads in the middle of their work
    with ProcessPoolExecutor(min(processes, len(left)), mp_context=context) as workers:
        yield from workers.map(run, left)


def run_trial(table: Recorded, settings: Settings, trial: int, *, done: Collection[Key] = frozenset()) -> list[Record]:
    """Return the records of one trial, those in `done` left out."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):  # sums in one order: the same bits however many cores there are
        divided = split(table.outcomes.models, len(table), [settings.seed, trial], settings.groups)
        case = Case.of(table, divided, settings.costs)
        todo = [(n, name) for n in settings.n_vals for name in settings.names if (n, trial, name) not in done]
        routed = _Routing(case, settings, [settings.seed, trial])
        return [record(case, routed.by(name, n), table.name, n, trial, name) for n, name in todo]


class _Routing:
    """What each method does on a case; one whose settings are the same at every N_val is fitted once."""

    def __init__(self, case: Case, settings: Settings, seed: Sequence[int]) -> None:
        self.case, self.known, self.seed = case, settings.known, seed
        self.methods = {method.name: method for method in settings.methods}
        self.fitted: dict[tuple[str, str], tuple[Estimator, float]] = {}
        self.ceiling: Array | None = None

    def by(self, name: str, n_val: int) -> Routed:
        """Return what the method of this name does with `n_val` answers of each new model."""
        if name in self.methods:
            return self._estimated(self.methods[name], n_val)
        case, costs = self.case, self.case.validation_costs(n_val)
        means = case.answers[:n_val].mean(axis=0)
        if name == ZERO:
            curve = zero_router_curve(case.answers[:n_val], costs, case.errors, case.costs)
            return Routed(curve, self._chosen(np.broadcast_to(means, case.errors.shape), costs))
        if name == "models' hull":
            real, paid = case.errors.mean(axis=0), np.broadcast_to(case.costs, case.errors.shape).mean(axis=0)
            curve = deferral_curve(real, paid, case.errors, case.costs)
            return Routed(curve, self._chosen(np.broadcast_to(real, case.errors.shape), paid))
        if name == "single model":
            return self._point(self._chosen(np.broadcast_to(means, case.errors.shape), costs))
        if name == "random":
            rng = np.random.default_rng([*self.seed, 1])  # another draw than the split's
            return self._point(rng.integers(case.errors.shape[1], size=len(case.errors)))
        if name == CEILING:
            return self._clairvoyant(n_val)
        return Routed(oracle_curve(case.errors, case.costs), self._chosen(case.errors, case.costs))

    def _estimated(self, method: Method, n_val: int) -> Routed:
        case, estimator = self.case, method.estimator(n_val)
        key = method.name, repr(estimator)  # two classes may have one name and so one repr
        if key not in self.fitted:
            begun = time.perf_counter()
            fitted = estimator.fit(case.X_train, case.training)
            self.fitted[key] = fitted, time.perf_counter() - begun
        fitted, seconds = self.fitted[key]
        begun = time.perf_counter()
        prediction = case.predict(fitted, n_val, known=self.known)
        seconds += time.perf_counter() - begun
        costs = case.expected_costs(n_val)
        curve = deferral_curve(prediction.errors, costs, case.errors, case.costs)
        return Routed(curve, self._chosen(prediction.errors, costs), prediction, seconds)

    def _clairvoyant(self, n_val: int) -> Routed:
        case = self.case
        if self.ceiling is None:
            self.ceiling = clairvoyant(case.X_train, case.train_new, case.X_test)
        costs = case.expected_costs(n_val)
        return Routed(deferral_curve(self.ceiling, costs, case.errors, case.costs), self._chosen(self.ceiling, costs))

    def _chosen(self, predicted: Array, costs: Array) -> Labels:
        return choose(predicted, np.broadcast_to(costs, predicted.shape), 0.0)

    def _point(self, chosen: Labels) -> Routed:
        """Return a method that is one point: it has no choice between cost and quality."""
        case, rows = self.case, np.arange(len(chosen))
        cost = np.broadcast_to(case.costs, case.errors.shape)[rows, chosen].mean()
        quality = 1 - case.errors[rows, chosen].mean(dtype=np.float64)
        return Routed(Curve(np.array([cost]), np.array([quality]), np.array([0.0])), chosen, trades=False)
