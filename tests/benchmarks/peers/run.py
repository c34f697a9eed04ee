"""Compare unirouter with other routers on the same splits of recorded outcomes: quality over cost, and time.

python tests/benchmarks/peers/run.py --trials 10 --slow-trials 3 mmlu_pro zeroeval bfcl2024
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

sys.path.append(str(Path(__file__).parents[1]))
from sets import DATA, HEADS, RULE, VALIDATION, areas_of, lead, load, mean_areas

from unirouter_core.curves import Sweep, sweep
from unirouter_core.estimators import DefaultEstimator
from unirouter_plugins.bench import split
from unirouter_plugins.bench.results import decimals

HERE = Path(__file__).parent
UNIROUTER = "unirouter"
PEERS = {  # what pip installs for each
    "nordlys": "nordlys[cpu]",
    "semantic_router": "semantic-router",
    "llmrouter": "llmrouter-lib",
    "routellm": "routellm",
}
SLOW = ("llmrouter", "routellm")  # trained again for every pool: minutes a split
MODULES = {  # whose import is timed
    "unirouter": "unirouter_core",
    "nordlys": "nordlys",
    "semantic_router": "semantic_router",
    "llmrouter": "llmrouter.models",
    "routellm": "routellm.controller",
}
ALONE = {
    **{f"{name}_NUM_THREADS": "1" for name in ("OPENBLAS", "OMP", "MKL")},
    "HF_HUB_OFFLINE": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # or two of the packages wait for a download when imported
    "OPENAI_API_KEY": "none",
}


@dataclass(frozen=True)
class Trial:
    """One split, with what the routers are not told."""

    prices: np.ndarray
    wrong: np.ndarray  # (n_test, n_models)
    ours: dict[str, Sweep]


def open_trial(name: str, seed: int, folder: Path) -> Trial:
    """Write the problem of one trial of `unirouter bench`; return it with the curves of what needs no other package."""
    (outcomes, X), n_val = load(name), VALIDATION[name][0]
    divided, means = split(outcomes.models, len(outcomes), [0, seed]), np.nanmean(outcomes.costs, axis=0)
    train, val, test, known = divided.train, divided.validation[:n_val], divided.test, divided.known
    pool = divided.new[np.argsort(means[divided.new], kind="stable")]
    errors, prices = outcomes.errors, means[pool]
    problem = {
        **{"train": train, "val": val, "test": test, "prices": prices},
        "models": [outcomes.models[j] for j in pool],
        "qualities": 1 - errors[np.ix_(val, pool)],
        "others": 1 - errors[np.ix_(train, known)],
    }
    np.savez(folder / f"{name}-{seed}.npz", **problem)
    if not (folder / f"{name}.npz").exists():
        rows = pq.read_table(DATA / name / "prompts.parquet").to_pydict()
        topic = dict(zip(rows["prompt"], rows["task"], strict=True))
        texts = {"prompts": list(outcomes.prompts), "topics": [topic[prompt] for prompt in outcomes.prompts]}
        (folder / f"{name}.json").write_text(json.dumps(texts))
        np.savez(folder / f"{name}.npz", vectors=X.astype(np.float32))
    wrong, answers = errors[np.ix_(test, pool)], errors[np.ix_(val, pool)]
    training = outcomes.of([outcomes.models[j] for j in known]).rows(train)
    estimator, ours = DefaultEstimator(n_val=n_val).fit(X[train], training), {}
    for label, others in ((UNIROUTER, errors[np.ix_(val, known)]), (f"{UNIROUTER}, the pool's answers alone", None)):
        features = np.stack([estimator.profile(X[val], each, others) for each in answers.T])
        predicted = estimator.predict(X[test], features).errors
        ours[label] = sweep(predicted, prices, wrong, prices)
    blind = sweep(answers.mean(axis=0), prices, wrong, prices)
    return Trial(prices, wrong, ours | {"no prompt (zero router)": blind})


def sweep_through(chosen: np.ndarray, each: Trial) -> Sweep:
    """Return the sweep through rows of choices (n_points, n_test), as if a cost_weight led from each to the next.

    Every curve begins with the cheapest model for all prompts, which a user has without any router.
    """
    chosen = np.concatenate([np.zeros((1, chosen.shape[1]), int), chosen])
    moves = np.diff(chosen, axis=0, prepend=-1) != 0
    points, prompts = np.nonzero(moves)
    quality, cost = 1 - each.wrong[np.arange(chosen.shape[1]), chosen], each.prices[chosen]
    changes = (np.diff(table, axis=0, prepend=0)[moves] for table in (quality, cost))
    return Sweep(prompts, points.astype(float), *changes)


def install(peer: str, environments: Path) -> None:
    """Make the environment of a peer, if there is none."""
    installed = environments / peer / "installed"  # written last: an install that was stopped begins again
    if not installed.exists():
        venv.create(environments / peer, with_pip=True)
        pip = [python_of(peer, environments), "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, "--constraint", str(HERE / "requirements.txt"), PEERS[peer]], check=True)
        installed.touch()


def python_of(peer: str, environments: Path) -> str:
    return sys.executable if peer == "unirouter" else str(environments / peer / "bin" / "python")


def ask(peer: str, environments: Path, *arguments: object) -> None:
    """Run a peer's script in its own environment."""
    command = [python_of(peer, environments), HERE / f"{peer}_peer.py", *arguments]
    done = subprocess.run(list(map(str, command)), env={**os.environ, **ALONE}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{peer} failed:\n{done.stderr[-3000:]}")


def answers(name: str, trials: list[Trial], peers: dict[str, int], folder: Path, environments: Path) -> None:
    """Print, for every router of the set, Areas and its own point beside unirouter at the same cost.

    `peers` says on how many of the trials each is asked.
    """
    sweeps = [dict(each.ours) for each in trials]
    points: list[dict[str, tuple[float, float]]] = [{} for _ in trials]
    for peer, n_trials in peers.items():
        (folder / peer).mkdir(exist_ok=True)
        problems = [folder / f"{name}-{seed}.npz" for seed in range(n_trials)]
        if missing := [each for each in problems if not (folder / peer / each.name).exists()]:
            ask(peer, environments, folder / peer, *missing)
        for seed, each in enumerate(trials[:n_trials]):
            with np.load(folder / peer / f"{name}-{seed}.npz") as found:
                for router in found.files:
                    sweeps[seed][router] = sweep_through(found[router], each)
                    last = found[router][-1]
                    if not router.startswith("routellm"):  # it has no choice of its own: a user sets the cut
                        quality = 1 - each.wrong[np.arange(len(last)), last].mean()
                        points[seed][router] = float(each.prices[last].mean()), float(quality)
    print(
        f"\n### {name}: {len(trials)} splits, N_val {VALIDATION[name][0]}\n\n"
        + "\n".join(table(trials, sweeps, points)),
        flush=True,
    )


def table(
    trials: list[Trial], sweeps: list[dict[str, Sweep]], points: list[dict[str, tuple[float, float]]]
) -> Iterator[str]:
    """Yield the lines of a Markdown table: means over the splits, and what unirouter's Area is more."""
    yield f"| router | splits | {HEADS} | its own choice: cost, quality | unirouter there | unirouter ahead |"
    yield f"|---|---|{RULE}---|---|---|"
    areas = [
        {router: areas_of(swept, trial.prices) for router, swept in each.items()}
        for trial, each in zip(trials, sweeps, strict=True)
    ]
    for router in sweeps[0]:
        asked = [seed for seed, each in enumerate(areas) if router in each]
        here, ours = ([areas[seed][name] for seed in asked] for name in (router, UNIROUTER))
        cells = " | | " if router == UNIROUTER else lead(ours, here)
        line = f"| {router} | {len(asked)} | {mean_areas(here)} | {cells} |"
        if router not in points[0]:
            yield f"{line} | | |"
            continue
        own = np.array([points[seed][router] for seed in asked])
        there = [sweeps[seed][UNIROUTER].curve().quality_at(cost) for seed, cost in zip(asked, own[:, 0], strict=True)]
        share = np.mean(own[:, 0] / [trials[seed].prices[-1] for seed in asked])
        theirs, here = (decimals(float(np.mean(each))) for each in (own[:, 1], there))
        yield f"{line} {share:.0%}, {theirs} | {here} | {(np.array(there) > own[:, 1]).sum()}/{len(asked)} |"


def times(problem: Path, peers: list[str], environments: Path) -> Iterator[str]:
    """Yield the lines of a Markdown table of seconds of processor."""
    yield "| router | import | one decision, text given | vector given | 10,000 vectors | a model joins |"
    yield "|---|---|---|---|---|---|"
    for peer in ["unirouter", *peers]:
        code = f"import time, {MODULES[peer]}; print(time.process_time())"
        command = [python_of(peer, environments), "-c", code]
        runs = [subprocess.check_output(command, env={**os.environ, **ALONE}, text=True) for _ in range(4)][1:]
        start = min(float(run.split()[-1]) for run in runs)
        ask(peer, environments, "--clock", problem.with_suffix(".times"), problem)
        for router, taken in json.loads(problem.with_suffix(".times").read_text()).items():
            text, one, many, join = taken["text"] * 1e6, taken["one"] * 1e6, taken["many"], taken["join"] * 1e3
            yield f"| {router} | {start:.2f} s | {text:,.0f} µs | {one:,.0f} µs | {many:.2g} s | {join:,.0f} ms |"


def main() -> None:
    """Print a table of quality for each set, and one of times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", default=list(VALIDATION))
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--slow-trials", type=int, default=3, help="of " + " and ".join(SLOW))
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--work", type=Path, default=HERE / "build", help="where environments and splits are kept")
    parser.add_argument("--no-times", action="store_true")
    parser.add_argument("--no-quality", action="store_true", help="times alone")
    asked = parser.parse_args()
    folder = asked.work / "splits"
    folder.mkdir(parents=True, exist_ok=True)
    for peer in asked.peers:
        install(peer, asked.work)
    if asked.no_quality:
        open_trial(asked.sets[0], 0, folder)
    for name in () if asked.no_quality else asked.sets:
        trials = [open_trial(name, seed, folder) for seed in range(asked.trials)]
        counts = {peer: min(asked.trials, asked.slow_trials if peer in SLOW else asked.trials) for peer in asked.peers}
        answers(name, trials, counts, folder, asked.work)
    if not asked.no_times:
        print("\n### Times\n\n" + "\n".join(times(folder / f"{asked.sets[0]}-0.npz", asked.peers, asked.work)))


if __name__ == "__main__":
    main()
