"""What stopping early saves and loses: unseen models join a pool by recorded answers, until decided or to the end.

python tests/benchmarks/stopping_rule.py --trials 5 mmlu_pro zeroeval bfcl2024
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from sets import VALIDATION, areas_of, load

from unirouter_core import Evaluation, Outcomes, UniRouter, ValidationSet, tune
from unirouter_core.curves import sweep
from unirouter_core.embedding import Array, Labels
from unirouter_core.evaluate.stopping import ask_order, undecided
from unirouter_core.pool import Expected, Pool
from unirouter_core.rule import choose, score
from unirouter_plugins.bench import Areas, split

POOL = 8  # models that are there before the new one
FIRST, EVERY = 50, 25  # answers at the first check, and between checks
SHARE, LOOSE = 0.01, 0.05  # of the validation prompts, that may go elsewhere
TESTED = 2_000  # prompts that the loss is measured on


@dataclass(frozen=True)
class Side:
    """Prompts with what all models did on them, their vectors and their tokens."""

    table: Outcomes
    X: Array
    tokens: Array

    def expect(self, router: UniRouter, pool: Pool) -> Expected:
        """Return what the models of `pool` are expected to do on these prompts."""
        return router.fit_.expect(pool, self.X, self.tokens)


@dataclass(frozen=True)
class Desk:
    """One split: a router with its pool, the models that are new to it, and both sides of the prompts."""

    router: UniRouter
    new: list[int]
    validation: ValidationSet
    asked: Side
    tested: Side

    def evaluation(self, j: int, rows: Labels) -> Evaluation:
        """Return the recorded answers of model `j` on these rows; the other prompts are open."""
        table, model = self.asked.table, self.asked.table.models[j]
        answered = np.isin(np.arange(len(table)), rows)
        columns = (table.errors, table.costs, table.tokens_in, table.tokens_out)
        given = [np.where(answered, column[:, j], np.nan) for column in columns]
        return Evaluation(model, self.validation, *given, prices=table.prices.get(model), provenance={"date": "any"})


def open_desk(outcomes: Outcomes, X: Array, n_val: int, seed: int, without_known: bool) -> Desk:
    """Return a router fitted on training models, some of them its pool, tuned to keep 97 % of the quality."""
    rng = np.random.default_rng(seed)
    divided = split(outcomes.models, len(outcomes), [0, seed])
    train_models, new = divided.known, divided.new.tolist()
    train, val, test = divided.train, divided.validation, divided.test
    training = outcomes.of([outcomes.models[j] for j in train_models])
    router = UniRouter(embedder=lambda prompts: np.ones((len(prompts), X.shape[1]), np.float32), seed=seed)
    router.fit(training.rows(train), vectors=X[train])

    def side(rows: Labels) -> Side:
        table = outcomes.rows(rows)
        return Side(table, X[rows], router.fit_.token_counter.count(table.prompts))

    asked, tested = side(val[:n_val]), side(test[:TESTED])
    known = None if without_known else training.rows(val[:n_val])
    desk = Desk(router, new, ValidationSet(asked.table.prompts, known=known), asked, tested)
    for j in rng.choice(train_models, POOL, replace=False):
        router.onboard(desk.evaluation(j, np.arange(n_val)), vectors=asked.X)
    router.cost_weight = tune(router, keep_quality=0.97).cost_weight
    return desk


@dataclass(frozen=True)
class Stage:
    """How a new model stands after `n` answers.

    `changed` is what `undecided` says, and `seconds` how long it took. `chosen` are the columns of the validation
    prompts' models, the new one last; `areas` and `score` are the pool's with it, on the test prompts.
    """

    n: int
    changed: float
    seconds: float
    chosen: Labels
    areas: Areas
    score: float


def stages(desk: Desk, j: int, weight: float, others: tuple[Expected, Expected], seed: int) -> list[Stage]:
    """Return how model `j` stands at each check, and last with all its answers."""
    labels, _ = desk.router.fit_.regions.locate(desk.asked.X)
    order, table = ask_order(labels, seed), desk.tested.table
    columns = [*(table.column(name) for name in desk.router.pool), j]
    wrong, paid = table.errors[:, columns], np.nan_to_num(table.costs[:, columns])
    found = []
    for n in [*range(FIRST, len(order), EVERY), len(order)]:
        evaluation = desk.evaluation(j, order[:n])
        start = time.perf_counter()
        changed = undecided(desk.router, evaluation, cost_weight=weight, seed=seed).changed
        seconds = time.perf_counter() - start
        own = Pool({"new": desk.router.profile(evaluation)})
        asked, tested = (
            (np.c_[theirs.prediction.errors, ours.prediction.errors], np.c_[theirs.costs, ours.costs])
            for theirs, ours in zip(
                others, (side.expect(desk.router, own) for side in (desk.asked, desk.tested)), strict=True
            )
        )
        at, picks = np.arange(len(wrong)), choose(*tested, weight)
        areas = areas_of(sweep(*tested, wrong, paid), paid)
        real = float(score(wrong[at, picks], paid[at, picks], weight).mean())
        found.append(Stage(n, changed, seconds, choose(*asked, weight), areas, real))
    return found


def trial(outcomes: Outcomes, X: Array, n_val: int, seed: int, without_known: bool) -> dict[str, list[list[Stage]]]:
    """Return the stages of every unseen model of one split, by what cost_weight is."""
    desk = open_desk(outcomes, X, n_val, seed, without_known)
    pool = Pool(desk.router.pool)
    others = desk.asked.expect(desk.router, pool), desk.tested.expect(desk.router, pool)
    weights = {"97 %": desk.router.cost_weight, "0": 0.0}
    return {name: [stages(desk, j, weight, others, seed) for j in desk.new] for name, weight in weights.items()}


def row(name: str, runs: list[list[Stage]], stops: list[int], share: float) -> str:
    """Return a line of the table: what stopping each run at its stage of `stops` asks, keeps and loses.

    The promise is kept, of the runs that stop early, by those where at most `share` go elsewhere in the end.
    """
    stopped, ends = [run[stop] for run, stop in zip(runs, stops, strict=True)], [run[-1] for run in runs]
    asked = np.array([stage.n for stage in stopped])
    elsewhere = np.array([(at.chosen != end.chosen).mean() for at, end in zip(stopped, ends, strict=True)])
    early = asked < np.array([end.n for end in ends])
    areas = np.array([np.subtract(end.areas, at.areas) for at, end in zip(stopped, ends, strict=True)])
    lost = np.array([at.score - end.score for at, end in zip(stopped, ends, strict=True)])
    kept = f"{np.mean(elsewhere[early] <= share):.0%}" if early.any() else "-"
    area, score = (f"{each.mean():+.4f} ± {each.std() / len(each) ** 0.5:.4f}" for each in (areas[:, 0], lost))
    others = f"{areas[:, 1].mean():+.4f}, {areas[:, 2].mean():+.4f}"
    shares = f"{asked.mean():.0f} | {early.mean():.0%} | {kept} | {elsewhere.mean():.1%}"
    return f"| {name} | {shares} | {area} | {others} | {score} |"


def table(runs: list[list[Stage]]) -> list[str]:
    """Return the lines of a Markdown table: the rule at two shares, and stopping at the same mean number of answers."""
    lines = [
        "| rule | answers | stop early | promise kept | go elsewhere | Area lost | raw, hull | error + weight * cost |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for share in (SHARE, LOOSE):
        stops = [next(at for at, stage in enumerate(run) if stage.changed <= share) for run in runs]
        mean = np.mean([run[stop].n for run, stop in zip(runs, stops, strict=True)])
        plain = int(np.abs([stage.n - mean for stage in runs[0]]).argmin())
        lines.append(row(f"until at most {share:.0%} would go elsewhere", runs, stops, share))
        lines += by_kind(runs, stops) if share == SHARE else []
        lines.append(row(f"plainly {runs[0][plain].n}", runs, [plain] * len(runs), share))
    covered = [stage.changed >= (stage.chosen != run[-1].chosen).mean() for run in runs for stage in run[:-1]]
    seconds = np.mean([stage.seconds for run in runs for stage in run[:-1]])
    return [*lines, f"At all checks the stated share held {np.mean(covered):.0%} of the time; {seconds:.2f} s a check."]


def by_kind(runs: list[list[Stage]], stops: list[int]) -> Iterator[str]:
    """Yield the lines of the models that in the end take no prompt, most, or some."""
    takes = np.array([(run[-1].chosen == POOL).mean() for run in runs])
    kinds = {"takes no prompt": takes == 0, "takes most": takes > 0.5, "takes some": (takes > 0) & (takes <= 0.5)}
    for kind, among in kinds.items():
        rows = np.flatnonzero(among)
        if len(rows):
            yield row(
                f"… {kind} ({len(rows)} of {len(runs)})", [runs[i] for i in rows], [stops[i] for i in rows], SHARE
            )


def main() -> None:
    """Print the table of every set at both cost_weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", default=list(VALIDATION))
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument(
        "--without-known", action="store_true", help="no training models' answers on validation prompts"
    )
    asked = parser.parse_args()
    for name in asked.sets:
        outcomes, X = load(name)
        n_val = VALIDATION[name][0]
        trials = [trial(outcomes, X, n_val, seed, asked.without_known) for seed in range(asked.trials)]
        for goal in trials[0]:
            runs = [run for each in trials for run in each[goal]]
            weight = "cost_weight 0" if goal == "0" else f"cost_weight tuned to keep {goal}"
            print(f"\n### {name}, {weight}: {len(runs)} joins in {asked.trials} trials, all is {n_val}\n")
            print("\n".join(table(runs)), flush=True)


if __name__ == "__main__":
    main()
