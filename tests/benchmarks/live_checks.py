"""What checks of answers are worth live: a small language model on this machine and a calculator, at assumed prices.

python tests/benchmarks/live_checks.py --store live.sqlite

Each prompt is asked once (some minutes); answers stay in the store, and a second run asks nothing. They are then split
into halves at random, one to measure the models and fit the checks, the other to judge them. The standard deviation of
a number over such halves is the standard error of it on all prompts (the half-sample, or delete-half, jackknife).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from tests.benchmarks.answer_checks import WEIGHTS
from unirouter_core import Outcomes, UniRouter
from unirouter_core.checks import Check
from unirouter_core.costs import TokenCounter
from unirouter_core.curves import Curve, curve_through
from unirouter_core.embedding import Array
from unirouter_core.evaluate import check_value
from unirouter_core.evaluate.checking import follow
from unirouter_core.evaluate.reporting import NEARLY
from unirouter_plugins.litellm.checks import parse_check
from unirouter_plugins.litellm.pool_file import Members
from unirouter_plugins.local.server import serve_model
from unirouter_plugins.onboarding import OnboardingOptions, plan_onboarding, run_onboarding
from unirouter_plugins.onboarding.ask import Budget, Callers
from unirouter_plugins.onboarding.questions import read_questions
from unirouter_plugins.onboarding.store import AnswerStore
from unirouter_plugins.onboarding.stored import Replay

Signals: TypeAlias = dict[str, tuple[Array, float]]  # of each check, and its USD

POOL = """
[models.small]
model = "llamafile/{name}"
api_base = "{url}"
prices = {{ input = 0.10, output = 0.40 }}
settings = {{ temperature = 0, max_tokens = 12, logprobs = true }}
template = "{{prompt}} Answer briefly."
[models.calculator]
model = "calculator/calculator"
prices = {{ input = 3, output = 15 }}
[providers]
calculator = "unirouter_plugins.local.calculator:provider"
"""
MODELS = ["calculator", "small"]  # as pools order them
CHECKS = {  # of small's answers
    "log-probability, mean": "logprob",
    "log-probability, lowest": {"check": "logprob", "of": "lowest"},
    "agreement with the calculator": {"check": "agreement", "member": "calculator", "same": "number"},
}
CAPITALS = """France Paris, Italy Rome, Spain Madrid, Japan Tokyo, China Beijing, Egypt Cairo, Kenya Nairobi, Peru Lima,
Norway Oslo, Sweden Stockholm, Cuba Havana, Chile Santiago, Greece Athens, Turkey Ankara, Austria Vienna, Poland Warsaw,
Russia Moscow, India Delhi, Portugal Lisbon, Ireland Dublin, Finland Helsinki, Denmark Copenhagen, Hungary Budapest,
Romania Bucharest, Bulgaria Sofia, Canada Ottawa, Australia Canberra, Thailand Bangkok, Vietnam Hanoi, Nepal Kathmandu,
Iraq Baghdad, Iran Tehran, Syria Damascus, Morocco Rabat, Ghana Accra, Uganda Kampala, Mongolia Ulaanbaatar, Qatar Doha,
Indonesia Jakarta, Colombia Bogota, Ecuador Quito, Bolivia Sucre, Venezuela Caracas, Senegal Dakar, Latvia Riga"""
OPPOSITES = """hot cold, up down, day night, black white, left right, open closed, in out, good bad, fast slow,
happy sad, wet dry, light dark, high low, hard soft, rich poor, true false, full empty, early late, near far,
long short, push pull, loud quiet, win lose, love hate, old young, first last, strong weak, thick thin, buy sell,
north south, east west, yes no, inside outside, clean dirty, cheap expensive, deep shallow, wide narrow, heavy light,
begin end, tall short, awake asleep, sweet sour, alive dead, question answer, above below"""


def write_prompts(place: Path, seed: int) -> int:
    """Write a validation file of prompts that a small model is sometimes right on; return their number."""
    rng, lines = np.random.default_rng(seed), dict[str, dict[str, str]]()

    def numbers(n: int, least: int, most: int, prompt: str, result: Callable[[int, int], int]) -> None:
        pairs = [(a, b) for a in range(least, most + 1) for b in range(least, most + 1)]
        for a, b in (pairs[i] for i in rng.permutation(len(pairs))[:n]):
            asked = prompt.format(a=a, b=b, sum=a + b)
            lines[asked] = {"prompt": asked, "reference": str(result(a, b)), "grader": "number"}

    numbers(100, 2, 15, "What is {a} + {b}?", lambda a, b: a + b)
    numbers(80, 2, 12, "What is {a} times {b}?", lambda a, b: a * b)
    numbers(50, 2, 15, "What is {sum} - {b}?", lambda a, b: a)
    numbers(50, 16, 99, "What is {a} + {b}?", lambda a, b: a + b)
    numbers(40, 1, 9, "Ann has {a} apples and buys {b} more. How many apples has she?", lambda a, b: a + b)
    for prompt, pairs in (("What is the capital of {}?", CAPITALS), ("What is the opposite of {}?", OPPOSITES)):
        for asked, reference in (pair.split() for pair in pairs.replace("\n", " ").split(",")):
            lines[prompt.format(asked)] = {"prompt": prompt.format(asked), "reference": reference, "grader": "text"}
    place.write_text("".join(json.dumps(line) + "\n" for line in lines.values()))
    return len(lines)


def asked(store: Path, seed: int) -> tuple[UniRouter, Outcomes, Signals]:
    """Return a router with both models, what they did on the prompts, and what the checks say of it."""
    folder, router, found = Path(tempfile.mkdtemp()), UniRouter.starter(), Signals()
    print(write_prompts(folder / "prompts.jsonl", seed), "prompts")
    with serve_model() as local:
        (folder / "pool.toml").write_text(POOL.format(name=local.name, url=local.url))
        given = {"validation": folder / "prompts.jsonl", "pool": folder / "pool.toml", "store": store, "timeout": 600}
        done = run_onboarding(plan_onboarding(router, MODELS, OnboardingOptions(**given, concurrency=4)))
    questions, evaluations = read_questions(folder / "prompts.jsonl"), [one.evaluation for one in done]
    with AnswerStore(store) as kept:
        replay = Replay(router, Members(), kept, Callers(OnboardingOptions(), TokenCounter(), Budget(0)))
        for kind, spec in CHECKS.items():
            found[kind] = replay.signals("small", parse_check(kind, spec, members=MODELS), questions)
    errors, costs = (np.stack([getattr(each, name) for each in evaluations], axis=1) for name in ("errors", "costs"))
    return router, Outcomes([question.prompt for question in questions], MODELS, errors, costs), found


def trial(router: UniRouter, table: Outcomes, found: Signals, seed: int) -> Iterator[dict[str, object]]:
    """Yield what each way to answer gives on one half of the prompts, the models being measured on the other."""
    val, test = np.array_split(np.random.default_rng(seed).permutation(len(table)), 2)
    for model in router.pool:
        router.retire(model)
    router.onboard(table.rows(val))
    expected, measured = router.expect([table.prompts[row] for row in test]), table.rows(val)
    errors, costs, every = table.errors[test], table.costs[test], np.arange(len(WEIGHTS))
    dearest, halves = float(costs.mean(axis=0).max()), np.array_split(np.arange(len(test)), 2)

    def curves(kind: str) -> list[Curve]:
        """Return the curve of each half through the points that are corners of the other half's."""
        predicted, usd, checks = expected.prediction.errors, expected.costs, list[tuple[Check, Array]]()
        if kind == "best mixture":
            predicted, usd = (np.tile(of.mean(axis=0), (len(test), 1)) for of in (measured.errors, measured.costs))
        if kind in found:
            signals, price = found[kind]
            check = Check.fit(kind, MODELS.index("small"), signals[val], measured.errors, price)
            checks += [] if check is None else [(check, signals[test])]
        paths = [follow(predicted, usd, errors, costs, checks, weight) for weight in WEIGHTS / dearest]
        wrong, spent = map(np.stack, zip(*paths, strict=True))

        def through(rows: Array, points: Array) -> Curve:
            quality, cost = 1 - wrong[points][:, rows].mean(axis=1), spent[points][:, rows].mean(axis=1)
            return curve_through(cost, quality, points.astype(float))

        pairs = (halves, halves[::-1])
        return [through(judged, through(tried, every).hull().cost_weights.astype(int)) for tried, judged in pairs]

    made = {kind: curves(kind) for kind in ("no checks", *found, "best mixture")}
    for column, model in enumerate(table.models):
        alone = costs[:, column].mean(keepdims=True), 1 - errors[:, column].mean(keepdims=True)
        made[f"{model} alone"] = [Curve(*alone, np.zeros(1))] * 2
    for kind, pair in made.items():
        for curve, base in zip(pair, made["no checks"], strict=True):
            equal = curve.cost_at(NEARLY * base.peak) / dearest
            row = {"Area": curve.area(dearest), "gain": curve.area(dearest) - base.area(dearest)}
            yield {"kind": kind, "trial": seed, **row, "highest": curve.peak, "cost at equal": equal}


def main() -> None:
    """Print what `unirouter check` says of each check, and the means over the trials with their standard errors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=Path("live.sqlite"))
    parser.add_argument("--trials", type=int, default=20)
    given = parser.parse_args()
    router, table, found = asked(given.store, 0)
    for kind, (signals, price) in found.items():
        print(check_value(router, "small", kind, signals, usd=price).verdict)
    rows = [row for seed in range(given.trials) for row in trial(router, table, found, seed)]
    trials = pd.DataFrame(rows).groupby(["kind", "trial"], sort=False).mean().groupby("kind", sort=False)
    shown = trials.agg(["mean", "std"]).round(4)
    shown["ahead", "share"] = trials["gain"].agg(lambda gains: (gains > 0).mean())
    print(shown.to_string())


if __name__ == "__main__":
    with threadpool_limits(1):
        main()
