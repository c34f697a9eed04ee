"""Whether fewer validation prompts do, chosen by what training models did on them: Area against random ones.

python tests/benchmarks/chosen_prompts.py --trials 20 mmlu_pro zeroeval bfcl2024
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from sets import VALIDATION, load

from unirouter_core import Outcomes
from unirouter_core.curves import deferral_curve
from unirouter_core.embedding import Array, Labels
from unirouter_core.estimators import DefaultEstimator
from unirouter_core.estimators.linear import fit_ridge
from unirouter_core.evaluate import measure
from unirouter_plugins.bench import split

ASKED = 150
DRAWS = 2  # of the prompts asked, in each trial
PRIOR = 3.0  # how many training models' answers the estimate from vectors counts for in a prompt's hardness
BINS = 8, 24  # along the first factor of the training models' errors, and along the first and second
PENALTY, PRIOR_WEIGHT = 30.0, 0.8  # as of the mixture
SHARE = 2.0  # how much more a vector counts than an answer in the completion


@dataclass(frozen=True)
class Desk:
    """One split: the fitted default, candidates that may be asked, and test prompts.

    `known` are the training models' errors on the candidates and `expected` what their vectors say of them; `errors`
    are the new models'.
    """

    default: DefaultEstimator
    X: Array
    known: Array
    expected: Array
    errors: Array
    X_test: Array
    wrong: Array
    price: Array

    def area(self, rows: Labels, errors: Array, *, with_known: bool = True) -> float:
        """Return the Area of the default, new models profiled on `errors` (n_rows, n_new) of the candidates `rows`."""
        known = self.known[rows] if with_known else None
        features = np.stack([self.default.profile(self.X[rows], column, known) for column in errors.T])
        predicted = self.default.predict(self.X_test, features).errors
        curve = deferral_curve(predicted, self.price, self.wrong, self.price)
        return measure(curve, self.wrong, self.price).area


def open_desk(outcomes: Outcomes, X: Array, seed: int) -> Desk:
    """Return the split of this trial of `unirouter bench`; the candidates are all of its validation prompts."""
    divided = split(outcomes.models, len(outcomes), [0, seed])
    old, new, train, val, test = divided.known, divided.new, divided.train, divided.validation, divided.test
    training = outcomes.of([outcomes.models[j] for j in old]).rows(train)
    axes, intercepts = fit_ridge(X[train], training.errors, 10.0)
    errors = outcomes.errors.astype(np.float64)
    return Desk(
        default=DefaultEstimator().fit(X[train], training),
        X=X[val],
        known=errors[np.ix_(val, old)],
        expected=X[val] @ axes.T + intercepts,
        errors=errors[np.ix_(val, new)],
        X_test=X[test],
        wrong=errors[np.ix_(test, new)],
        price=np.nanmean(outcomes.costs[:, new], axis=0),
    )


# --- Choices: which candidates to ask ---------------------------------------------------------------------------------


def at_random(desk: Desk, n: int, rng: np.random.Generator) -> Labels:
    """Return any `n` candidates."""
    return rng.permutation(len(desk.X))[:n]


def balanced(desk: Desk, n: int, rng: np.random.Generator) -> Labels:
    """Return `n` candidates of which all have the same chance, spread evenly over what training models err on."""
    return _spread(desk.known, np.ones(len(desk.X)), n, rng)


def balanced_by_doubt(desk: Desk, n: int, rng: np.random.Generator) -> Labels:
    """Return `n` candidates spread evenly, with more chance where training models disagree: √(p (1 - p))."""
    n_models = desk.known.shape[1]
    before = np.clip(desk.expected, 0.02, 0.98).mean(1)
    p = np.clip((desk.known.sum(1) + PRIOR * before) / (n_models + PRIOR), 0.01, 0.99)
    return _spread(desk.known, np.sqrt(p * (1 - p)), n, rng)


def balanced_by_expected_doubt(desk: Desk, n: int, rng: np.random.Generator) -> Labels:
    """Return the same from what the candidates' vectors say alone, where no training model has answered them."""
    p = np.clip(desk.expected, 0.02, 0.98).mean(1)
    return _spread(desk.expected, np.sqrt(p * (1 - p)), n, rng)


def _spread(errors: Array, chances: Array, n: int, rng: np.random.Generator) -> Labels:
    """Return `n` candidates by systematic sampling along a path through three factors of `errors`."""
    factors = np.linalg.svd(errors - errors.mean(0), full_matrices=False)[0][:, :3].T
    path = np.argsort(factors[0], kind="stable")
    for factor, bins in zip(factors[1:], BINS, strict=True):
        parts = [part[np.argsort(factor[part], kind="stable")] for part in np.array_split(path, bins)]
        path = np.concatenate([part[:: (-1) ** place] for place, part in enumerate(parts)])
    reached = np.cumsum(_inclusion(chances, n)[path])
    steps = np.searchsorted(reached, rng.random() + np.arange(n))
    return np.asarray(path[np.minimum(steps, len(path) - 1)])


def _inclusion(chances: Array, n: int) -> Array:
    """Return probabilities in proportion to `chances` that sum to `n`, none above 1."""
    sure = np.zeros(len(chances), bool)
    while True:
        scaled = np.where(sure, 1.0, chances * (n - sure.sum()) / chances[~sure].sum())
        if not (above := (scaled > 1) & ~sure).any():
            return np.asarray(scaled)
        sure |= above


# --- Readings: what the answers say -----------------------------------------------------------------------------------


def plainly(desk: Desk, rows: Labels) -> tuple[Labels, Array]:
    """Return the answers as they are."""
    return rows, desk.errors[rows]


def completed(desk: Desk, rows: Labels) -> tuple[Labels, Array]:
    """Return errors on all candidates: those not asked as a ridge on training models' errors and vectors says."""
    m, d = desk.known.shape[1], desk.X.shape[1]
    Z = np.concatenate([desk.known, desk.X * np.sqrt(SHARE)], axis=1)
    start = np.concatenate([np.full(m, PRIOR_WEIGHT / m), np.zeros(d)])
    seen, answers = Z[rows], desk.errors[rows]
    centre, level = seen.mean(0), answers.mean(0)
    centred = seen - centre
    gram = centred @ centred.T + PENALTY * np.eye(len(rows))
    slopes = start[:, None] + centred.T @ np.linalg.solve(gram, answers - level - (centred @ start)[:, None])
    errors = np.clip(level + (Z - centre) @ slopes, 0, 1)
    errors[rows] = answers
    return np.arange(len(Z)), errors


CHOICES: dict[str, Callable[[Desk, int, np.random.Generator], Labels]] = {
    "random": at_random,
    "balanced": balanced,
    "balanced by doubt": balanced_by_doubt,
}
READINGS: dict[str, Callable[[Desk, Labels], tuple[Labels, Array]]] = {"plainly": plainly, "completed": completed}


def trial(desk: Desk, sizes: list[int], seed: int) -> dict[str, float]:
    """Return the mean Area of each size drawn at random, and of each choice and reading of `ASKED` prompts."""
    draws = []
    for draw in range(DRAWS):
        areas = {}
        for n in sizes:
            rows = at_random(desk, n, np.random.default_rng([seed, draw]))
            areas[f"{n} random"] = desk.area(rows, desk.errors[rows])
            if n in (ASKED, max(sizes)):
                areas[f"{n} random, no known"] = desk.area(rows, desk.errors[rows], with_known=False)
        for choice, choose in CHOICES.items():
            chosen = choose(desk, ASKED, np.random.default_rng([seed, draw]))
            for reading, read in READINGS.items():
                areas[f"{ASKED} {choice}, read {reading}"] = desk.area(*read(desk, chosen))
        rows = balanced_by_expected_doubt(desk, ASKED, np.random.default_rng([seed, draw]))
        areas[f"{ASKED} balanced by expected doubt, no known"] = desk.area(rows, desk.errors[rows], with_known=False)
        draws.append(areas)
    return {name: float(np.mean([areas[name] for areas in draws])) for name in draws[0]}


def table(trials: list[dict[str, float]], most: int) -> Iterator[str]:
    """Yield the lines of a Markdown table: mean Area, and paired differences ± their standard error."""
    yield f"| asked | Area | against {most} random | against {ASKED} random |"
    yield "|---|---|---|---|"
    read = {name: np.array([each[name] for each in trials]) for name in trials[0]}
    for name, areas in read.items():
        gaps = [areas - read[f"{n} random"] for n in (most, ASKED)]
        cells = " | ".join(f"{gap.mean():+.4f} ± {gap.std(ddof=1) / len(gap) ** 0.5:.4f}" for gap in gaps)
        yield f"| {name} | {areas.mean():.4f} | {cells} |"


def main() -> None:
    """Print the table of every set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", default=list(VALIDATION))
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=0)
    asked = parser.parse_args()
    for name in asked.sets:
        outcomes, X = load(name)
        most = VALIDATION[name][0]
        sizes = [n for n in (50, 100, 150, 200, 300, 400) if n <= most]
        seeds = range(asked.first_seed, asked.first_seed + asked.trials)
        trials = [trial(open_desk(outcomes, X, seed), sizes, seed) for seed in seeds]
        print(f"\n### {name}: {len(outcomes)} prompts, {len(outcomes.models)} models, {asked.trials} trials\n")
        print("\n".join(table(trials, most)), flush=True)


if __name__ == "__main__":
    main()
