"""Deferral curves: quality over cost of the choices at every cost_weight, exact, on a test set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from unirouter_core.embedding import Array, Labels, Mask
from unirouter_core.exceptions import InvalidDataError

SAME_COST_DIGITS = 12  # mean costs that agree to this many digits are one point: sums round differently
SAME_QUALITY = 1e-9  # a curve this close below a quality has reached it, for the same reason
HALVINGS = 10  # of a cross-fit: the luck of one moves the Area of 500 prompts by .007, about as much as methods differ


@dataclass(frozen=True, eq=False)
class Curve:
    """Mean quality over mean cost; between two points lie their mixtures, outside them it is flat.

    Raises `InvalidDataError` when there is no point, shapes differ, or the costs do not increase.

    Parameters
    ----------
    costs : array (n_points,)
        Mean USD a prompt, increasing.
    qualities : array (n_points,)
        Mean quality, in [0, 1].
    cost_weights : array (n_points,)
        A cost_weight that gives the point: 0 for where the sweep starts, inf for where it ends, else the middle
        of the range that gives it, where rounding tips no choice.

    Examples
    --------
    >>> curve = Curve(np.array([1.0, 3.0]), np.array([0.5, 0.9]), np.array([np.inf, 0.0]))
    >>> float(curve.quality_at(2.0)), curve.cost_at(0.6), curve.cost_at(0.95)
    (0.7, 1.5, inf)
    """

    costs: Array
    qualities: Array
    cost_weights: Array

    def __post_init__(self) -> None:
        for name in ("costs", "qualities", "cost_weights"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), np.float64))
        shapes = self.costs.shape, self.qualities.shape, self.cost_weights.shape
        if len(set(shapes)) > 1 or self.costs.ndim != 1 or not self.costs.size:
            raise InvalidDataError(f"Costs, qualities and cost_weights have shapes {shapes}; give one of each a point.")
        if not (np.diff(self.costs) > 0).all():
            raise InvalidDataError("The costs of a curve must increase; sort the points and merge equal costs.")

    def __len__(self) -> int:
        return len(self.costs)

    @property
    def peak(self) -> float:
        """The highest quality on the curve."""
        return float(self.qualities.max())

    def hull(self) -> Curve:
        """Return the upper concave hull up to the peak: the best mixtures of the points at each cost."""
        peak = int(self.qualities.argmax())
        corners, chords = {0, peak}, [(0, peak)]
        while chords:  # the point farthest above a chord is a corner, and makes two chords
            first, last = chords.pop()
            runs = self.costs[first : last + 1] - self.costs[first]
            rises = self.qualities[first : last + 1] - self.qualities[first]
            above = rises * runs[-1] - rises[-1] * runs
            corner = first + int(above.argmax())
            if above.max() > 0 and corner not in corners:
                corners.add(corner)
                chords += [(first, corner), (corner, last)]
        kept = sorted(corners)
        return Curve(self.costs[kept], self.qualities[kept], self.cost_weights[kept])

    def quality_at(self, cost: npt.ArrayLike) -> Array:
        """Return the quality at each mean `cost` in USD, of any shape."""
        return np.asarray(np.interp(np.asarray(cost, np.float64), self.costs, self.qualities))

    def cost_at(self, quality: float) -> float:
        """Return the least mean cost in USD at which the curve reaches `quality`; inf when it never does."""
        reached = np.flatnonzero(self.qualities >= quality - SAME_QUALITY)
        if not len(reached):
            return float("inf")
        ends = slice(max(reached[0] - 1, 0), reached[0] + 1)
        return float(np.interp(quality, self.qualities[ends], self.costs[ends]))

    def area(self, dearest: float, *, upto: float = 1.0) -> float:
        """Return the integral of quality over cost / `dearest`, from 0 to `upto`, not divided by `upto`.

        `dearest` is the mean USD of the most expensive model; `upto` is 1 for the paper's Area, 0.5 for its Area(50%).
        """
        if not 0 < dearest < np.inf:
            raise InvalidDataError(f"The dearest model costs {dearest:g} USD; an area needs a finite cost above 0.")
        end = upto * dearest
        inside = self.costs[(self.costs > 0) & (self.costs < end)]
        x = np.concatenate([[0.0], inside, [end]])
        y = self.quality_at(x)
        return float((np.diff(x) * (y[1:] + y[:-1])).sum() / 2 / dearest)


@dataclass(frozen=True, eq=False)
class Sweep:
    """The changes (n_changes,) of prompts' choices as cost_weight grows from 0 to inf; made by `sweep`.

    Each has its prompt, the cost_weight from which the new choice holds (non-decreasing), and what it adds to the
    prompt's quality and USD; the first is the choice at 0. A bootstrap only sums them with other weights.
    """

    prompts: Labels
    cost_weights: Array
    quality_changes: Array
    cost_changes: Array

    def curve(self, counts: npt.ArrayLike | None = None) -> Curve:
        """Return the curve, every prompt counting once, or `counts` (n_prompts,) times."""
        counts = np.ones(self.prompts.max() + 1) if counts is None else np.asarray(counts, np.float64)
        (step_ends, middles), each = self._steps, counts[self.prompts]
        return curve_through(
            np.cumsum(each * self.cost_changes)[step_ends] / counts.sum(),
            (np.cumsum(each * self.quality_changes)[step_ends] / counts.sum()).clip(0, 1),
            middles,
        )

    def crossfit(self, seed: int = 0, halvings: int = HALVINGS) -> list[Curve]:
        """Return curves through the hull's corners on one random half of the prompts, scored on the other; both ways.

        A hull is optimistic on the prompts that chose its corners, the more so the more points the curve has. The mean
        Area of these curves is not. Fewer than 2 prompts are an `InvalidDataError`.

        Examples
        --------
        >>> errors, costs = [[1, 0], [0, 1]] * 8, [1.0, 2.0]
        >>> by_chance = sweep(np.random.default_rng(0).random((16, 2)), costs, errors, costs)
        >>> crossfitted = np.mean([curve.area(2.0) for curve in by_chance.crossfit()])
        >>> bool(crossfitted < by_chance.curve().hull().area(2.0))
        True
        """
        n, rng, curves = int(self.prompts.max()) + 1, np.random.default_rng(seed), list[Curve]()
        if n < 2:
            raise InvalidDataError(f"{n} prompt has no two halves; a cross-fitted curve needs at least 2 prompts.")
        for _ in range(halvings):
            order = rng.permutation(n)
            halves = self._of(order < n // 2), self._of(order >= n // 2)
            curves += [judged._through(chosen.curve().hull().cost_weights) for chosen, judged in (halves, halves[::-1])]
        return curves

    def _of(self, kept: Mask) -> Sweep:
        """Return the sweep of some of the prompts, (n_prompts,)."""
        rows = kept[self.prompts]
        parts = (self.cost_weights, self.quality_changes, self.cost_changes)
        return Sweep(np.cumsum(kept)[self.prompts[rows]] - 1, *(part[rows] for part in parts))

    def _through(self, cost_weights: Array) -> Curve:
        """Return the curve through the choices at these cost_weights alone."""
        ends, n = np.searchsorted(self.cost_weights, cost_weights, side="right") - 1, self.prompts.max() + 1
        quality, cost = (changes.cumsum()[ends] / n for changes in (self.quality_changes, self.cost_changes))
        return curve_through(cost, quality.clip(0, 1), cost_weights)

    @cached_property
    def _steps(self) -> tuple[Mask, Array]:
        """Where the changes at one cost_weight end, (n_changes,), and a cost_weight from each step's middle."""
        step_ends = np.append(np.diff(self.cost_weights) > 0, True)
        starts = self.cost_weights[step_ends]
        middles = np.append(starts[:-1] + np.diff(starts) / 2, np.inf)
        middles[0] = 0.0
        return step_ends, middles

    def at(self, cost_weight: float, weights: Array) -> tuple[float, float]:
        """Return quality and USD of the choices at `cost_weight`, summed with `weights` (n_prompts,)."""
        until = int(np.searchsorted(self.cost_weights, cost_weight, side="right"))
        kept = weights[self.prompts[:until]]
        return float(kept @ self.quality_changes[:until]), float(kept @ self.cost_changes[:until])


def sweep(
    predicted_errors: npt.ArrayLike, predicted_costs: npt.ArrayLike, errors: npt.ArrayLike, costs: npt.ArrayLike
) -> Sweep:
    """Return each prompt's choices by the predictions at every cost_weight from 0 to inf, with their real outcomes.

    Ties go to the cheaper model, then to the more accurate (on the prompt, then on average), then to the first. There
    is no grid: a choice moves along the lower envelope of the models' lines, and changes at finitely many cost_weights.
    Raises `InvalidDataError` when shapes do not fit, a number is missing or infinite, or out of its range.

    Parameters
    ----------
    predicted_errors : array (n_prompts, n_models) or (n_models,)
        One row stands for every prompt. Finite; outside [0, 1] is allowed.
    predicted_costs : array (n_prompts, n_models) or (n_models,)
        USD.
    errors : array (n_prompts, n_models)
        The models' real errors.
    costs : array (n_prompts, n_models) or (n_models,)
        Their real costs, in USD.
    """
    realised, paid = check_table(errors, costs)
    predicted = _full(predicted_errors, "Predicted error", realised.shape, -np.inf)
    expected = _full(predicted_costs, "Predicted cost", realised.shape)
    ranking = np.argsort(predicted.mean(0), kind="stable")  # the first of equals is then the more accurate
    quality, cost = np.zeros((2, len(realised)))
    changes = []
    for rows, reached, places in _envelope(predicted[:, ranking], expected[:, ranking]):
        models = ranking[places]
        new_quality, new_cost = 1 - realised[rows, models], paid[rows, models]
        changes.append((rows, reached, new_quality - quality[rows], new_cost - cost[rows]))
        quality[rows], cost[rows] = new_quality, new_cost
    prompts, cost_weights, quality_changes, cost_changes = map(np.concatenate, zip(*changes, strict=True))
    order = np.argsort(cost_weights, kind="stable")
    return Sweep(prompts[order], cost_weights[order], quality_changes[order], cost_changes[order])


def _envelope(errors: Array, costs: Array) -> Iterator[tuple[Labels, Array, Labels]]:
    """Yield the steps along the prompts' lower envelopes: prompts that change, their cost_weights, their new models."""
    chosen = _cheapest(costs, errors == errors.min(1, keepdims=True))
    rows, reached = np.arange(len(costs)), np.zeros(len(costs))
    while rows.size:
        yield rows, reached, chosen
        saved = np.take_along_axis(costs, chosen[:, None], 1) - costs
        lost = errors - np.take_along_axis(errors, chosen[:, None], 1)
        cheaper = saved > 0
        with np.errstate(over="ignore"):  # costs that differ by next to nothing cross at inf
            crossings = np.divide(lost, saved, out=np.full_like(lost, np.inf), where=cheaper)
        nearest = crossings.min(1)
        chosen = _cheapest(costs, cheaper & (crossings == nearest[:, None]))
        reached = np.maximum(reached, nearest)  # rounding must not put a prompt's changes out of order
        moving = cheaper.any(1)
        rows, reached, chosen = rows[moving], reached[moving], chosen[moving]
        errors, costs = errors[moving], costs[moving]


def _cheapest(costs: Array, candidates: Mask) -> Labels:
    """Return the first of each row's cheapest `candidates`, shape (n_prompts,)."""
    return np.asarray(np.where(candidates, costs, np.inf).argmin(1))


def curve_through(costs: Array, qualities: Array, cost_weights: Array) -> Curve:
    """Return the curve through points in any order; of those at one cost the most accurate stays."""
    rounded = np.round(costs / (costs.max() or 1.0), SAME_COST_DIGITS)
    order = np.lexsort((-qualities, rounded))
    order = order[np.diff(rounded[order], prepend=-1.0) > 0]
    return Curve(np.where(rounded > 0, costs, 0.0)[order], qualities[order], cost_weights[order])


def deferral_curve(
    predicted_errors: npt.ArrayLike, predicted_costs: npt.ArrayLike, errors: npt.ArrayLike, costs: npt.ArrayLike
) -> Curve:
    """Return the exact deferral curve: route by the predictions at every cost_weight, evaluate by the real outcomes.

    Parameters, rule and exceptions are those of `sweep`. The x-axis is the real mean cost of the choices.

    Examples
    --------
    >>> curve = deferral_curve([[0.9, 0.1], [0.2, 0.1]], [1.0, 2.0], errors=[[1, 0], [0, 0]], costs=[1.0, 2.0])
    >>> curve.costs.tolist(), curve.qualities.tolist()
    ([1.0, 1.5, 2.0], [0.5, 1.0, 1.0])
    """
    return sweep(predicted_errors, predicted_costs, errors, costs).curve()


def zero_router_curve(
    val_errors: npt.ArrayLike, val_costs: npt.ArrayLike, errors: npt.ArrayLike, costs: npt.ArrayLike
) -> Curve:
    """Return the curve of a router that ignores the prompt (ZeroRouter in the paper).

    It mixes the models on the upper concave hull of mean cost and mean quality on the validation set: those that the
    rule chooses when every prompt has the same predictions. `errors` and `costs` are of the test set, as in `sweep`.
    """
    known, paid = check_table(val_errors, val_costs)
    return deferral_curve(known.mean(0), paid.mean(0), errors, costs)


def best_within(value: Array, limited: Array, least: float, nearest: int | None = None) -> int:
    """Return the position of the greatest value where `limited` is at least `least`; `nearest` where none is.

    All are (n_options,); without `nearest`, it is the option of the greatest `limited`.
    """
    reaching = limited >= least - SAME_QUALITY * abs(least)
    if reaching.any():
        return int(np.where(reaching, value, -np.inf).argmax())
    return int(limited.argmax()) if nearest is None else nearest


def best_mixture(value: Array, limited: Array, least: float, nearest: int | None = None) -> Array:
    """Return the shares (n_options,) of the best mixture of at most two options that reaches the limit.

    Parameters as in `best_within`.

    Examples
    --------
    >>> best_mixture(np.array([-1.0, -3.0]), np.array([0.5, 0.9]), 0.6)  # cost, quality: a quarter of the better
    array([0.75, 0.25])
    """
    best, reaching = best_within(value, limited, least, nearest), limited >= least - SAME_QUALITY * abs(least)
    shares = np.eye(len(value))[best]
    above, below = np.flatnonzero(reaching)[:, None], np.flatnonzero(~reaching)
    if above.size and below.size:
        part = ((least - limited[below]) / (limited[above] - limited[below])).clip(0, 1)  # of the one that reaches
        mixed = part * value[above] + (1 - part) * value[below]
        i, j = np.unravel_index(mixed.argmax(), mixed.shape)
        if mixed[i, j] > value[best]:
            shares = np.zeros(len(value))
            shares[above[i, 0]], shares[below[j]] = part[i, j], 1 - part[i, j]
    return np.asarray(shares)


def check_table(errors: npt.ArrayLike, costs: npt.ArrayLike) -> tuple[Array, Array]:
    """Return errors and costs, checked, as float64 (n_prompts, n_models); costs (n_models,) are repeated."""
    shape = np.shape(errors)
    if len(shape) != 2 or 0 in shape:
        raise InvalidDataError(f"Errors have shape {shape}; give one row a prompt and one column a model.")
    return _full(errors, "Error", shape, most=1.0), _full(costs, "Cost", shape)


def _full(values: npt.ArrayLike, what: str, shape: tuple[int, ...], least: float = 0.0, most: float = np.inf) -> Array:
    """Return `values` as float64 of `shape`, one row repeated for every prompt; refuse what is not in range."""
    array = np.asarray(values, np.float64)
    if array.shape not in (shape, shape[1:]):
        raise InvalidDataError(f"{what}s have shape {array.shape}, but the errors need {shape} or {shape[1:]}.")
    array = np.broadcast_to(array, shape)
    usable = np.isfinite(array) & (array >= least) & (array <= most)
    if not usable.all():
        row, column = np.argwhere(~usable)[0]
        raise InvalidDataError(
            f"{what} {array[row, column]:g} of prompt {row}, model {column} must be a number from {least:g} to "
            f"{most:g}; keep the prompts and models where all is known."
        )
    return array
