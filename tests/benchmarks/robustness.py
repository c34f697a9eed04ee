"""Robustness: the share of choices that stay when a prompt is written in another way, and what the others cost.

python tests/benchmarks/robustness.py --trials 5

A model is taken to answer a paraphrase as it answers the prompt, so a choice that changes is at best luck. The default
embedder, at all weights that choose between models.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from importlib import resources

import numpy as np
from sets import DATA, VALIDATION

from unirouter_core import UniRouter, read_outcomes
from unirouter_core.curves import sweep
from unirouter_core.embedding import Array, HashingEmbedder, embed
from unirouter_core.estimators import DefaultEstimator
from unirouter_core.rule import choose
from unirouter_plugins.bench import Case, recorded, split

WORDS = {
    "what is": "what's", "is not": "isn't", "how many": "what number of", "which of the following": "which of these",
    "calculate": "compute", "find": "determine", "determine": "work out", "suppose": "assume", "given": "provided",
    "provide": "give", "need": "require", "each": "every", "buy": "purchase", "because": "since", "also": "as well",
    "currently": "at present", "large": "big", "begin": "start", "shows": "displays", "get": "obtain",
    "total": "overall",
}  # fmt: skip
WEIGHTS = np.geomspace(0.001, 100, 100)  # errors for the dearest model's cost
STARTER, AS_WRITTEN = "starter", "as written"
MOST = 0.9  # weights at which one model gets more than this share of the prompts choose between nothing
OPTION = re.compile(r"^[A-J]\. ", re.MULTILINE)
Rewrite = Callable[[str, random.Random], str]


def reworded(prompt: str, rng: random.Random) -> str:
    """Return the prompt with common words replaced by others of their meaning."""
    known = re.compile(r"\b(" + "|".join(WORDS) + r")\b", re.IGNORECASE)
    return known.sub(lambda found: WORDS[found[0].lower()], prompt)


def mistyped(prompt: str, rng: random.Random) -> str:
    """Return the prompt with two neighbouring letters swapped in one long word of twenty, at least in one."""
    words = re.split(r"(\W+)", prompt)
    long = [place for place, word in enumerate(words) if len(word) > 4 and word.isalpha()]
    for place in rng.sample(long, min(len(long), 1 + len(long) // 20)):
        word, at = words[place], rng.randrange(1, len(words[place]) - 2)
        words[place] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return "".join(words)


def reordered(prompt: str, rng: random.Random) -> str:
    """Return the prompt with the options of a multiple choice in another order."""
    question, *options = OPTION.split(prompt)
    options = [option.strip() for option in options]
    rng.shuffle(options)
    return question + "\n".join(f"{chr(65 + place)}. {option}" for place, option in enumerate(options))


PARAPHRASES: dict[str, Rewrite] = {
    "upper case": lambda prompt, _: prompt.upper(),
    "a politer request": lambda prompt, _: f"Please help me with this: {prompt} Thank you!",
    "other instructions": lambda prompt, _: (
        f"{prompt}\n\nThink step by step and give the final answer on the last line."
    ),
    "other words": reworded,
    "typing errors": mistyped,
    "options' order": reordered,
}


def changes(
    prompts: Sequence[str],
    predict: Callable[[list[str]], Array],
    errors: Array | None,
    costs: Array,
    rng: random.Random,
) -> Iterator[tuple[str, list[float]]]:
    """Yield each paraphrase, the shares of prompts that it changes and of choices that stay, and what others change.

    Last is the cross-fitted Area of all choices. Costs are (m,). Without real errors (n, m), the quality is the
    expected one of the prompt as it was, and the Area unknown.
    """

    def area(predicted: Array) -> float:
        if errors is None:
            return np.nan
        return float(np.mean([curve.area(costs.max()) for curve in sweep(predicted, costs, errors, costs).crossfit()]))

    expected = predict(list(prompts))
    real, paid = expected if errors is None else errors, np.broadcast_to(costs, expected.shape)
    yield AS_WRITTEN, [0, 1, 0, 0, area(expected)]
    for label, rewrite in PARAPHRASES.items():
        rewritten = [rewrite(prompt, rng) for prompt in prompts]
        changed = np.array([new != old for new, old in zip(rewritten, prompts, strict=True)])
        again, rows, each = predict(rewritten), np.flatnonzero(changed), []
        for weight in WEIGHTS / costs.max() if len(rows) else ():
            before, after = (choose(given, paid, weight)[rows] for given in (expected, again))
            if np.bincount(before).max() > MOST * len(rows):
                continue
            gained = real[rows, before].mean() - real[rows, after].mean()
            each.append([(before == after).mean(), gained, paid[rows, after].mean() / paid[rows, before].mean() - 1])
        if each:
            yield label, [changed.mean(), *np.mean(each, axis=0), area(again)]


def trial_of(name: str, trial: int) -> Iterator[tuple[str, list[float]]]:
    """Return the changes in one split of a set, or, once, those of the starter's prompts."""
    rng = random.Random(trial)
    if name == STARTER:
        lines = (resources.files("unirouter_core") / "starter" / "validation.jsonl").read_text().splitlines()
        router, prompts = UniRouter.starter(examples=True), [json.loads(line)["prompt"] for line in lines]
        features = np.stack([profile.features for profile in router.pool.values()])
        costs = np.array([np.nanmean(profile.usd) for profile in router.pool.values()])
        fit = router.fit_
        return changes(
            prompts, lambda texts: fit.estimator.predict(embed(fit.embedder, texts), features).errors, None, costs, rng
        )
    table = recorded(name, read_outcomes(DATA / name))
    divided = split(table.outcomes.models, len(table), [0, trial])
    embedder = HashingEmbedder().fit([table.outcomes.prompts[row] for row in divided.train])
    case = Case.of(dataclasses.replace(table, X=embed(embedder, table.outcomes.prompts)), divided)
    estimator = DefaultEstimator().fit(case.X_train, case.training)
    profiles = [estimator.profile(case.X_validation, errors, case.known) for errors in case.measured.errors.T]
    features = np.stack(profiles)
    return changes(
        case.prompts,
        lambda texts: estimator.predict(embed(embedder, texts), features).errors,
        case.errors,
        case.costs,
        rng,
    )


def main() -> None:
    """Print a table of every set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", default=[*VALIDATION, STARTER])
    parser.add_argument("--trials", type=int, default=5)
    asked = parser.parse_args()
    print("| set | paraphrase | prompts changed | choices that stay | quality | USD | Area |")
    print("|---|---|---|---|---|---|---|")
    for name in asked.sets:
        found = defaultdict(list)
        for trial in range(1 if name == STARTER else asked.trials):
            for label, row in trial_of(name, trial):
                found[label].append(row)
        for label, rows in found.items():
            share, stay, quality, usd, area = np.mean(rows, axis=0)
            last = "–" if np.isnan(area) else f"{area:.4f}"
            print(f"| {name} | {label} | {share:.0%} | {stay:.1%} | {quality:+.4f} | {usd:+.1%} | {last} |", flush=True)


if __name__ == "__main__":
    main()
