"""The rule: of the eligible models, the one with the least error + cost_weight * cost; and the decisions it makes."""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from unirouter_core.checks import Check, look_ahead
from unirouter_core.costs import check_cached, check_count, check_counts
from unirouter_core.display import Table, as_html, usd, weight
from unirouter_core.documents import Documents, GivenDocuments
from unirouter_core.embedding import Array, Labels, Mask, normalise
from unirouter_core.estimators.protocol import Prediction
from unirouter_core.exceptions import InvalidDataError, NoCandidateError, as_number, listed, shown
from unirouter_core.pool import Expected, ModelProfile, Pool

TIE = 1e-6  # scores, and errors, this close are equal: float32 sums end differently in a batch of one and of many

NORMAL_90 = 1.645  # standard errors to each side of a 90 % interval

SAME_COST = 1e-12  # relative; the same for costs, which are float64


def check_cost_weight(cost_weight: float) -> float:
    """Return `cost_weight`; raise `InvalidDataError` unless it is a number >= 0, inf included."""
    weight = as_number(cost_weight)
    if not weight >= 0:
        raise InvalidDataError(
            f"cost_weight={shown(cost_weight)} must be a number >= 0, the error that one USD is worth; inf is the "
            "cheapest."
        )
    return weight


def score(errors: Array, costs: Array, cost_weight: float) -> Array:
    """Return error + cost_weight * cost, shape as given; cost alone when the weight is inf. Paper §3, Prop. 1."""
    return costs if math.isinf(cost_weight) else errors + cost_weight * costs


def choose(errors: Array, costs: Array, cost_weight: float, eligible: Mask | None = None) -> Labels:
    """Return the column with the least score in each row (n, m), ties to the cheaper, the more accurate, the first.

    `eligible`, (m,) or (n, m), masks the columns that may be chosen, at least one in each row.

    Examples
    --------
    >>> choose(np.array([[0.5, 0.1]]), np.array([[0.001, 0.01]]), cost_weight=10.0).tolist()
    [1]
    >>> choose(np.array([[0.5, 0.1]]), np.array([[0.001, 0.01]]), cost_weight=100.0).tolist()
    [0]
    """
    scores = score(errors, costs, cost_weight)
    if eligible is not None:
        scores = np.where(eligible, scores, np.inf)
    best = scores.argmin(axis=1)
    # One row is most of the calls, and this half of the time.
    least = scores[0, best[0]] if len(best) == 1 else np.minimum.reduce(scores, axis=1, keepdims=True)
    tied = scores <= least + (SAME_COST * np.abs(least) if math.isinf(cost_weight) else TIE)
    if np.count_nonzero(tied) == len(tied):
        return np.asarray(best)
    tied_costs = np.where(tied, costs, np.inf)
    cheapest = tied_costs.min(axis=1, keepdims=True)
    tied_errors = np.where(tied_costs <= cheapest + SAME_COST * np.abs(cheapest), errors, np.inf)
    return np.asarray((tied_errors <= tied_errors.min(axis=1, keepdims=True) + TIE).argmax(axis=1))


def in_order(errors: Array, costs: Array, cost_weight: float, columns: Labels) -> Iterator[int]:
    """Yield `columns` (ascending) in the order in which `choose` takes them, each from those that are left.

    The scores are sorted once; `choose` then settles the ties of one place at a time, so that the first few places cost
    next to nothing.
    """
    scores = score(errors, costs, cost_weight)[columns]
    order = np.argsort(scores, kind="stable")
    columns, values, left = columns[order], scores[order].tolist(), np.ones(len(order), bool)
    for start, least in enumerate(values):
        while left[start]:  # else it was taken before its turn, in a tie
            limit = least + (SAME_COST * abs(least) if math.isinf(cost_weight) else TIE)
            tied = start + np.flatnonzero(left[start : bisect.bisect_right(values, limit, start)])
            tied = tied[np.argsort(columns[tied])]
            these = columns[tied]
            pick = (
                tied[int(choose(errors[None, these], costs[None, these], cost_weight)[0])] if len(tied) > 1 else start
            )
            left[pick] = False
            yield int(columns[pick])


@dataclass(slots=True, eq=False)
class Request:
    """How a prompt is to be routed: the parameters of `UniRouter.route` besides the prompt, checked once."""

    cost_weight: float = 0.0
    models: Iterable[str] | None = None
    requires: Iterable[str] = ()
    tokens_in: float | Mapping[str, float] | None = None
    cached_tokens: float | Mapping[str, float] = 0
    documents: GivenDocuments | None = None
    avoid: Mapping[str, str] = field(default_factory=dict)
    checks: Iterable[str] = ()

    def __post_init__(self) -> None:
        self.cost_weight = check_cost_weight(self.cost_weight)
        for name in ("models", "requires", "checks"):
            names = getattr(self, name)
            if isinstance(names, str):
                raise InvalidDataError(f"{names!r} is one name, not a list of names; put it in a list.")
            if names is not None:
                setattr(self, name, dict.fromkeys(names))  # an ordered set
        if self.documents is not None:
            self.documents = Documents.of(self.documents)

    def tokens(self, pool: Pool) -> Array | None:
        """Return `tokens_in`, checked: (1,), or by model (1, m); None where they are not given."""
        given = self.tokens_in
        if given is None:
            return None
        if not isinstance(given, Mapping):
            return check_count(given, "tokens_in")
        if missing := [model for model in pool.models if model not in given]:
            raise InvalidDataError(f"tokens_in has no count for {missing[0]!r}; give one for each model of the pool.")
        return check_counts([given[model] for model in pool.models], len(pool), "tokens_in")[None]

    def cached(self, pool: Pool, tokens: Array) -> Array | None:
        """Return `cached_tokens`, checked to be part of `tokens`: (1,), or by model (1, m); None if there are none."""
        given = self.cached_tokens
        if not given:
            return None
        if not isinstance(given, Mapping):
            return check_cached(check_count(given, "cached_tokens"), tokens)
        pool.check_known(given)
        counts = check_counts([given.get(model, 0) for model in pool.models], len(pool), "cached_tokens")
        return check_cached(counts[None], tokens)

    def eligible(self, pool: Pool, tokens: Array, first: int = 0) -> Mask | None:
        """Return the mask of eligible models for the given token counts, (m,) or (n, m); None when all are eligible.

        Tokens are (n,), or by model (n, m); `first` is the number of the first prompt, for messages. A prompt with no
        eligible model raises `NoCandidateError` with the reasons.
        """
        mask: Mask | None = None
        if self.models is not None or self.requires:
            pool.check_known(self.models or ())
            mask = np.array([self.reason(profile) is None for profile in pool.values()])
        windows, smallest = pool.windows
        if smallest < np.inf and tokens.max(initial=0) > smallest:
            fits = (tokens if tokens.ndim == 2 else tokens[:, None]) <= windows
            mask = fits if mask is None else mask & fits
        if mask is not None and not mask.any(axis=-1).all():
            row = int(np.argmin(np.atleast_2d(mask).any(axis=1)))
            sent = np.broadcast_to(tokens[row], len(pool)).tolist()
            why = (f"{each.model}: {self.reason(each, n)}" for each, n in zip(pool.values(), sent, strict=True))
            which = f"Prompt {first + row}: " if first + len(tokens) > 1 else ""
            raise NoCandidateError(
                f"{which}No model may answer this prompt ({listed(why, '; ')}). Onboard one, or ask for less."
            )
        return mask

    def preferred(self, pool: Pool, eligible: Mask | None) -> Mask | None:
        """Return the mask of eligible models that are not to be avoided; `eligible` where none would be left."""
        if not self.avoid:
            return eligible
        mask = np.array([model not in self.avoid for model in pool.models])
        mask = mask if eligible is None else mask & eligible
        return mask if mask.any() else eligible

    def reason(self, profile: ModelProfile, tokens: float = 0) -> str | None:
        """Return why the model is not eligible for a prompt of `tokens`; None when it is."""
        window = profile.capabilities.context_window
        if self.models is not None and profile.model not in self.models:
            return "not among the models asked for"
        if self.requires and (lacking := profile.capabilities.lacks(list(self.requires))):
            return f"lacks {', '.join(lacking)}"
        if window is not None and tokens > window:
            return f"its context window of {window:,} tokens is less than the prompt's {tokens:,.0f}"
        return None


@dataclass(frozen=True, slots=True)
class Candidate:
    """One model of the ranking.

    Parameters
    ----------
    model : str
    error, stderr, cost : float
        The expected error, in [0, 1], its standard error, and the expected USD.
    score : float
        error + cost_weight * cost; the cost alone when cost_weight is inf.
    n : int
        The answers behind the model's profile.
    excluded : str, optional
        Why it may not answer this prompt.
    """

    model: str
    error: float
    stderr: float
    cost: float
    score: float
    n: int
    excluded: str | None = None


class Decision:
    """The model chosen for a prompt; the ranking of the others is computed at first use.

    Attributes
    ----------
    model, pool : str, Pool
        The chosen model, and the pool it was chosen from.
    error, cost : float
        Its expected error, in [0, 1], and its expected USD.
    region : int
        The region of the prompt.
    far : float
        0 for a prompt like those learned from, up to 1 for one unlike them all: predictions are then shrunk to each
        model's overall error, and their standard errors are wider.
    cost_weight : float
        The error that one USD was worth.
    check : Check, optional
        The check to run on its answer; `after` then decides again. `error` and `cost` are those of the whole.
    answered : tuple of str
        The models that have answered before, whose answers were checked.
    """

    def __init__(
        self, pool: Pool, expected: Expected, request: Request, tokens: Array, answered: tuple[str, ...] = ()
    ) -> None:
        self._errors, self._costs = expected.prediction.errors, expected.costs
        self._eligible = request.eligible(pool, tokens)
        self._preferred = request.preferred(pool, self._eligible)
        used = self._look_ahead(pool, request, answered) if request.checks else None
        chosen = int(choose(self._errors, self._costs, request.cost_weight, self._preferred)[0])
        self.model = pool.models[chosen]
        self.error, self.cost = float(self._errors[0, chosen]), float(self._costs[0, chosen])
        self.region, self.far = int(expected.regions[0]), float(expected.far[0])
        self.cost_weight, self.pool, self.answered = request.cost_weight, pool, answered
        self._expected, self._request, self._tokens, self._used = expected, request, tokens, used or {}
        self.check = self.check_of(self.model) if request.checks else None

    def _look_ahead(self, pool: Pool, request: Request, answered: tuple[str, ...]) -> dict[int, Check] | None:
        """Let models be worth what asking them with a check is, where it pays; return the checks by column."""
        if math.isinf(request.cost_weight):
            return None
        may = np.ones(len(pool), bool) if self._preferred is None else self._preferred.ravel()
        may_ask = may.copy()
        may_ask[[pool.positions[model] for model in answered]] = False
        checks = pool.checks(request.checks)
        checks = checks.where(may_ask[checks.columns]) if checks else checks
        if not checks:
            return None
        self._errors, self._costs, used = look_ahead(self._errors, self._costs, request.cost_weight, checks, may)
        return {column: checks[position] for column, position in enumerate(used[0].tolist()) if position >= 0}

    def check_of(self, model: str) -> Check | None:
        """Return the check to run on the answer of a model, chosen or not; None where that is given as it is.

        One with a limit is run whatever it promises: at every weight, and of models to be avoided, too.
        """
        if not self._request.checks or model in self.answered:
            return None
        column = self.pool.positions[model]
        if column in self._used:
            return self._used[column]
        own = (each for each in self.pool.checks(self._request.checks) if each.column == column)
        return next((each for each in own if each.limit < 1), None)

    def after(self, signal: float | bool | None, model: str | None = None) -> Decision:
        """Return the rule's choice once a model has answered, and its check gave `signal`; None is not known.

        The model is the chosen one when not given, else one that was asked in its place, as after a failure.

        Its answer is free now, and what the signal says of all models' errors is known. Where the model of the new
        decision is one of those that have `answered`, that answer is the one to give. An answer whose error is over the
        check's limit is given only where no other model may answer.

        Raises `InvalidDataError` when there was nothing to check.
        """
        model = self.model if model is None else model
        check, expected = self.check_of(model), self._expected
        if check is None:
            raise InvalidDataError(f"The answer of {model!r} was not to be checked; give it as it is.")
        value = math.nan if signal is None else as_number(signal)
        errors, costs = expected.prediction.errors, np.array(expected.costs, np.float64)
        if math.isfinite(value):
            errors = check.errors_after(errors, check.bin_of(value))
        costs[0, check.column] = 0.0
        request = self._request
        if errors[0, check.column] > check.limit:
            why = f"its answer may be wrong ({errors[0, check.column]:.0%}, over the limit of {check.limit:.1%})"
            request = dataclasses.replace(request, avoid={**request.avoid, model: why})
        prediction = Prediction(errors, lambda: expected.prediction.stderrs)
        known = Expected(prediction, costs, expected.regions, expected.far)
        return Decision(self.pool, known, request, self._tokens, (*self.answered, model))

    def avoiding(self, models: Mapping[str, str]) -> Decision:
        """Return the rule's choice where these models, each with the reason, are not to be chosen if another may."""
        request = dataclasses.replace(self._request, avoid={**self._request.avoid, **models})
        return Decision(self.pool, self._expected, request, self._tokens, self.answered)

    def fallbacks(self) -> Iterator[str]:
        """Yield the models to try after the chosen one, best first: each is the rule's choice without those before.

        Those to be avoided come last.
        """
        errors, costs = self._errors[0], self._costs[0]
        every = np.ones(len(self.pool), bool) if self._eligible is None else self._eligible.ravel()
        first = every if self._preferred is None else self._preferred.ravel()
        columns = (np.flatnonzero(mask) for mask in (first, every & ~first))
        order = itertools.chain.from_iterable(in_order(errors, costs, self.cost_weight, each) for each in columns)
        next(order)
        return (self.pool.models[j] for j in order)

    def is_eligible(self, model: str) -> bool:
        """Return whether the model was in the pool and may answer this prompt."""
        known = model in self.pool
        return known and (self._eligible is None or bool(self._eligible.ravel()[self.pool.positions[model]]))

    def expected(self, model: str) -> tuple[float, float]:
        """Return one model's expected error and USD."""
        j = self.pool.positions[model]
        return float(self._expected.prediction.errors[0, j]), float(self._expected.costs[0, j])

    def candidate(self, model: str) -> Candidate:
        """Return one model's expected numbers, and why it is excluded, if it is."""
        profile, j = self.pool[model], self.pool.positions[model]
        prediction, tokens = self._expected.prediction, self._tokens[0]
        error, cost = self._errors[0, j : j + 1], self._costs[0, j : j + 1]
        stderr, points = float(prediction.stderrs[0, j]), float(score(error, cost, self.cost_weight)[0])
        excluded = self._request.reason(profile, float(tokens[j] if tokens.ndim else tokens))
        excluded = excluded or self._request.avoid.get(model)
        return Candidate(model, float(error[0]), stderr, float(cost[0]), points, profile.n, excluded)

    @cached_property
    def ranking(self) -> tuple[Candidate, ...]:
        """All models: the chosen one, then the fallbacks in their order; the excluded last, by name."""
        return tuple(map(self.candidate, dict.fromkeys([self.model, *self.fallbacks(), *self.pool])))

    @property
    def margin(self) -> float:
        """How much larger the score of the first fallback is; inf where there is none."""
        second = next(self.fallbacks(), None)
        return float("inf") if second is None else self.candidate(second).score - self.candidate(self.model).score

    def as_dict(self) -> dict[str, object]:
        """Return the decision as JSON can hold it."""
        ranking = [{name: getattr(row, name) for name in Candidate.__slots__} for row in self.ranking]
        weight = "inf" if math.isinf(self.cost_weight) else self.cost_weight
        numbers = {"error": self.error, "cost": self.cost, "cost_weight": weight}
        return {"model": self.model, **numbers, "region": self.region, "far": self.far, "ranking": ranking}

    def table(self) -> Table:
        """Return the ranking as a table."""
        rows = [
            (
                row.model,
                f"{1 - row.error:.1%} ± {100 * NORMAL_90 * row.stderr:.1f}",
                usd(1000 * row.cost),
                f"{row.score:.3g}",
                row.excluded or "",
            )
            for row in self.ranking
        ]
        return Table(("model", ">quality", ">$/1,000", ">score", "excluded"), rows)

    def _repr_html_(self) -> str:
        return as_html(f"{self.model} at cost_weight {weight(self.cost_weight)}", self.table())

    def __repr__(self) -> str:
        numbers = f"error={self.error:.3f}, cost={self.cost:.3g}, cost_weight={self.cost_weight:g}"
        return f"Decision(model={self.model!r}, {numbers})"


@dataclass(frozen=True, eq=False)
class Decisions:
    """The decisions on many prompts, as arrays; a `Decision` is made when it is read by its position.

    Parameters
    ----------
    pool_models, chosen : tuple of str, array (n,)
        The pool, and the position of each prompt's model in it.
    errors, costs, regions, far : array (n,)
        As in `Decision`.
    decide : function
        From a position to the `Decision` there.
    """

    pool_models: tuple[str, ...]
    chosen: Labels
    errors: Array
    costs: Array
    regions: Labels
    far: Array
    decide: Callable[[int], Decision] = field(repr=False)

    @property
    def models(self) -> list[str]:
        """The chosen model of each prompt."""
        return [self.pool_models[j] for j in self.chosen.tolist()]

    @property
    def shares(self) -> dict[str, float]:
        """The share of the prompts that goes to each model of the pool."""
        counts = np.bincount(self.chosen, minlength=len(self.pool_models)) / max(len(self), 1)
        return dict(zip(self.pool_models, counts.tolist(), strict=True))

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, position: int) -> Decision:
        position = operator.index(position)
        if not -len(self) <= position < len(self):
            raise IndexError(f"There are {len(self)} decisions; {position} is none of them.")
        return self.decide(position % len(self))

    def __iter__(self) -> Iterator[Decision]:
        return (self.decide(position) for position in range(len(self)))


@dataclass(frozen=True)
class Neighbour:
    """A validation prompt like the one explained."""

    prompt: str  # its digest where the text was left out
    similarity: float  # the cosine of the two vectors
    errors: dict[str, float]  # of each model that was measured on it


@dataclass(frozen=True)
class Explanation:
    """A decision with its evidence; `str` gives it as a table.

    Parameters
    ----------
    decision : Decision
    neighbours : tuple of Neighbour
        The most similar validation prompts, the most similar first.
    in_region : dict of model to (float, int)
        Each model's mean error on the validation prompts of the prompt's region, and how many they are.
    """

    decision: Decision
    neighbours: tuple[Neighbour, ...]
    in_region: dict[str, tuple[float, int]]

    def as_dict(self) -> dict[str, object]:
        """Return the explanation as JSON can hold it."""
        margin = self.decision.margin
        return {
            **self.decision.as_dict(),
            "margin": None if math.isinf(margin) else margin,
            "in_region": {model: {"error": error, "n": n} for model, (error, n) in self.in_region.items()},
            "neighbours": [{**vars(near)} for near in self.neighbours],
        }

    def _repr_html_(self) -> str:
        models = list(self.in_region)
        rows = [("", f"region {self.decision.region}", *(f"{1 - error:.0%}" for error, _ in self.in_region.values()))]
        for near in self.neighbours:
            qualities = (f"{1 - near.errors[model]:.0%}" if model in near.errors else "-" for model in models)
            rows.append((f"{near.similarity:.2f}", near.prompt[:80], *qualities))
        heads = ">similarity", "prompts like it, and quality on them", *(f">{model}" for model in models)
        return self.decision._repr_html_() + as_html("", Table(heads, rows))

    def __str__(self) -> str:
        decision = self.decision
        far = f", {decision.far:.0%} far from all that was seen" if decision.far else ""
        least = "cost" if math.isinf(decision.cost_weight) else f"error + {weight(decision.cost_weight)} * cost"
        table = decision.table()
        *heads, excluded = table.heads
        rows = []
        for candidate, (*cells, why) in zip(decision.ranking, table.rows, strict=True):
            error = self.in_region.get(candidate.model, (math.nan, 0))[0]
            near = [one.errors.get(candidate.model, math.nan) for one in self.neighbours]
            rows.append((*cells, *("-" if math.isnan(each) else f"{1 - each:.0%}" for each in (error, *near)), why))
        ns = {candidate.n for candidate in decision.ranking}
        there = {self.in_region.get(candidate.model, (math.nan, 0))[1] for candidate in decision.ranking}
        each, inside = (" to ".join(f"{n:,}" for n in sorted({min(of), max(of)})) for of in (ns, there))
        likes = [f"like {place}" for place in range(1, len(self.neighbours) + 1)]
        lines = [
            f"{decision.model}: least {least} (region {decision.region}{far})",
            str(Table((*heads, f">region {decision.region}", *(f">{like}" for like in likes), excluded), rows)),
            f"margin to the next: {decision.margin:.3g}; answers of a model: {each}, in the region {inside}",
            "quality in the region and on the most similar prompts:",
            *(
                f"{like} ({near.similarity:.2f}): {near.prompt[:60]!r}"
                for like, near in zip(likes, self.neighbours, strict=True)
            ),
        ]
        return "\n".join(lines)


def explain(decision: Decision, X: Array, n_neighbours: int, region_of: Callable[[Array], Labels]) -> Explanation:
    """Return the decision on the prompt of vector X (1, d), its region, and `n_neighbours` prompts like it.

    `region_of` returns the regions (n,) of vectors (n, d).
    """
    there: dict[str, Mask] = {}
    found: dict[str, Neighbour] = {}
    profiles = decision.pool.values()
    for measured in {profile.measured.id: profile.measured for profile in profiles}.values():
        vectors = normalise(measured.vectors)
        there[measured.id] = region_of(vectors) == decision.region
        near = (X @ vectors.T)[0]
        for row in np.argsort(-near, kind="stable")[:n_neighbours].tolist():
            name = measured.digests[row]  # the same prompt may occur twice, with other documents
            errors = found[name].errors if name in found else {}
            for profile in profiles:
                if profile.measured.id == measured.id and not np.isnan(profile.errors[row]):
                    errors[profile.model] = float(profile.errors[row])
            text = name if measured.texts is None else measured.texts[row]
            found[name] = Neighbour(text, float(near[row]), dict(sorted(errors.items())))
    nearest = sorted(found.values(), key=lambda neighbour: -neighbour.similarity)[:n_neighbours]
    in_region = {}
    for profile in profiles:
        errors_there = profile.errors[there[profile.measured.id] & ~np.isnan(profile.errors)]
        if len(errors_there):
            in_region[profile.model] = (float(errors_there.mean()), len(errors_there))
    return Explanation(decision, tuple(nearest), in_region)
