"""Robustness: the share of choices that stay when a prompt is written in another way, and what the others cost.

python tests/benchmarks/robustness.py --trials 5

A model is taken to answer a paraphrase as it answers the prompt, so a choice that changes is at best luck. The default
embedder, at all weights that choose between models.
"""

from __future__ import annotations

import argparse
import random
import re
from collections import defaultdict
from collections.abc import Callable

import numpy as np
from sets import DATA, VALIDATION

from unirouter_core import read_outcomes
from unirouter_core.embedding import HashingEmbedder, embed
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


def main() -> None:
    """Print a table of every set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", default=list(VALIDATION))
    parser.add_argument("--trials", type=int, default=5)
    asked = parser.parse_args()
    print("| set | paraphrase | prompts changed | choices that stay | quality | USD |\n|---|---|---|---|---|---|")
    for name in asked.sets:
        table, found = recorded(name, read_outcomes(DATA / name)), defaultdict(list)
        for trial in range(asked.trials):
            divided, rng = split(table.outcomes.models, len(table), [0, trial]), random.Random(trial)
            case = Case.of(table, divided)
            embedder = HashingEmbedder().fit([table.outcomes.prompts[row] for row in divided.train])
            estimator = DefaultEstimator().fit(case.X_train, case.training)
            features = np.stack(
                [estimator.profile(case.X_validation, errors, case.known) for errors in case.measured.errors.T]
            )
            expected, costs = (
                estimator.predict(case.X_test, features).errors,
                np.broadcast_to(case.costs, case.errors.shape),
            )
            for label, rewrite in PARAPHRASES.items():
                prompts = [rewrite(prompt, rng) for prompt in case.prompts]
                changed = np.array([new != old for new, old in zip(prompts, case.prompts, strict=True)])
                if not changed.any():
                    continue
                again = estimator.predict(embed(embedder, prompts), features).errors
                rows, each = np.flatnonzero(changed), []
                for weight in WEIGHTS / case.costs.max():
                    before, after = (choose(errors, costs, weight)[rows] for errors in (expected, again))
                    if np.bincount(before).max() > MOST * len(rows):
                        continue
                    each.append(
                        [
                            (before == after).mean(),
                            case.errors[rows, before].mean() - case.errors[rows, after].mean(),
                            costs[rows, after].mean() / costs[rows, before].mean() - 1,
                        ]
                    )
                if each:
                    found[label].append([changed.mean(), *np.mean(each, axis=0)])
        for label, rows in found.items():
            share, stay, quality, usd = np.mean(rows, axis=0)
            print(f"| {name} | {label} | {share:.0%} | {stay:.1%} | {quality:+.4f} | {usd:+.1%} |", flush=True)


if __name__ == "__main__":
    main()
