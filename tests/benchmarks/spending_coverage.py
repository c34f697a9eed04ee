"""How often stated intervals of spending hold what is spent on unseen prompts.

python tests/benchmarks/spending_coverage.py --trials 20 zeroeval bfcl2024
"""

from __future__ import annotations

import argparse
import warnings
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
from sets import VALIDATION, load

from unirouter_core import Evaluation, Outcomes, UniRouter, tune
from unirouter_core.embedding import Array, Labels
from unirouter_core.estimators import DefaultEstimator
from unirouter_core.evaluate import forecast
from unirouter_core.rule import choose
from unirouter_plugins.bench import split

FEW = 100  # unseen prompts; the other case is all of the split's test prompts
DRAWS = 5  # of the few
Told = tuple[str, str, bool, float]
"""The weight, the interval, whether it held, and its width as a share of what was spent."""


def open_router(outcomes: Outcomes, X: Array, n_val: int, seed: int) -> tuple[UniRouter, Labels, Array]:
    """Return a router with the new models of a split, the test prompts' rows, and the USD of each model there."""
    at = {prompt: row for row, prompt in enumerate(outcomes.prompts)}
    divided = split(outcomes.models, len(outcomes), [0, seed])

    def vectors(prompts: list[str]) -> Array:
        return X[[at.get(prompt, 0) for prompt in prompts]]  # the router's own check prompts are in no set

    router = UniRouter(vectors, DefaultEstimator(n_val=n_val))
    router.fit(outcomes.rows(divided.train).of([outcomes.models[j] for j in divided.known]))
    measured = outcomes.rows(divided.validation[:n_val])
    for j in divided.new:
        router.onboard(Evaluation.recorded(outcomes.models[j], measured))
    usd = outcomes.costs[np.ix_(divided.test, divided.new)]
    return router, divided.test, np.where(np.isnan(usd), np.nanmean(usd, axis=0), usd)


def trial(outcomes: Outcomes, X: Array, n_val: int, seed: int) -> Iterator[Told]:
    """Yield, for weights fixed and tuned, whether each interval held what was spent."""
    router, rows, usd = open_router(outcomes, X, n_val, seed)
    prompts, dearest = [outcomes.prompts[row] for row in rows], float(usd.mean(axis=0).max())
    found, rng = router.expect(prompts), np.random.default_rng(seed)
    tuned = {
        "tuned to keep 97 %": tune(router, keep_quality=0.97, trials=200),
        "tuned to a budget": tune(router, usd_per_1000=1000 * 0.2 * dearest, trials=200),
    }
    weights = {"fixed": 1 / dearest, **{name: tuning.cost_weight for name, tuning in tuned.items()}}
    for name, weight in weights.items():
        spent = usd[np.arange(len(usd)), choose(found.prediction.errors, found.costs, weight)]
        for n in (FEW, len(rows)):
            intervals = {f"forecast({'n' if n > FEW else n})": forecast(router, n, cost_weight=weight).cost_interval}
            if name in tuned and n > FEW:
                intervals["tune"] = tuned[name].cost_interval
            for _ in range(DRAWS if n == FEW else 1):
                drawn = rng.choice(len(rows), n, replace=False)
                own = forecast(router, [prompts[row] for row in drawn], cost_weight=weight, trials=400)
                for label, (low, high) in {**intervals, "forecast(prompts)": own.cost_interval}.items():
                    yield name, label, low <= spent[drawn].mean() <= high, (high - low) / float(spent.mean())


def main() -> None:
    """Print a table for every set and both sizes of the validation set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", default=["zeroeval", "bfcl2024"])
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=200)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    print("| set, N_val | weight | interval | 90 % stated holds | width |\n|---|---|---|---|---|")
    for name in asked.sets:
        outcomes, X = load(name)
        for n_val in VALIDATION[name]:
            told = defaultdict(list)
            for seed in range(asked.first_seed, asked.first_seed + asked.trials):
                for weight, label, held, width in trial(outcomes, X, n_val, seed):
                    told[weight, label].append((held, width))
            for (weight, label), rows in told.items():
                held, width = np.array(rows, float).mean(axis=0)
                cells = f"{name}, {n_val} | {weight} | {label} | {held:.0%} of {len(rows)} | {width:.0%}"
                print(f"| {cells} |", flush=True)


if __name__ == "__main__":
    main()
