"""Run everything that the README and docs/results.md state a number of, one after the other; a killed run goes on.

python tests/benchmarks/reproduce.py --trials 20 --out build/measured [NAME ...]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from sets import DATA, HEADS, RULE, VALIDATION, lead, mean_areas

from unirouter_plugins.bench import BEFORE, CLAIRVOYANT, DEFAULT, ZERO, shown, standings

HERE = Path(__file__).parent
ALONE = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "UNIROUTER_DATA": str(DATA)}
OWN_SIZES = (50, 300)
"""Validation sets of a user's own, whose prompts no known model has answered."""

Commands = dict[str, list[list[str]]]


def commands(trials: int, out: Path) -> Commands:
    """Return the commands of each part, by its name; what they print goes to a file of that name."""

    def script(name: str, *arguments: str) -> list[str]:
        return [sys.executable, str(HERE / f"{name}.py"), *arguments]

    def bench(folder: str, name: str, sizes: tuple[int, ...], *options: str) -> list[str]:
        asked = [part for n in sorted(sizes) for part in ("--n-val", str(n))]
        place = ["--out", str(out / folder / name), "--trials", str(trials)]
        return [str(Path(sys.executable).with_name("unirouter")), "bench", str(DATA / name), *asked, *place, *options]

    def timed(name: str) -> list[str]:
        return [sys.executable, "-m", "pytest", str(HERE / f"{name}.py"), "--benchmark-enable", "-s", "-q"]

    own = ("--no-known", "--methods", DEFAULT)
    return {
        "picture": [script("draw_curve", str(out / "curve.png"))],
        "methods": [bench("methods", name, sizes) for name, sizes in VALIDATION.items()],
        "own-prompts": [bench("own-prompts", name, OWN_SIZES, *own) for name in VALIDATION],
        "embedder": [script("embedder_area", "--trials", "10")],
        "starter": [script("starter_distance", "--trials", "10")],
        "costs": [script("cost_curves", "--trials", str(trials))],
        "spending": [script("spending_coverage", "--trials", str(trials))],
        "stopping": [script("stopping_rule", "--trials", "5")],
        "paraphrases": [script("robustness", "--trials", "5")],
        "intervals": [script("interval_coverage", "--trials", "10")],
        "chosen-prompts": [script("chosen_prompts", "--trials", str(trials))],
        "speed": [timed("test_speed"), timed("test_langchain_overhead"), timed("test_llamaindex_overhead")],
        "scale": [timed("test_scale")],
        "onboarding-speed": [timed("test_onboarding_speed")],
        "peers": [script("peers/run", "--trials", "10")],
    }


def markdown(found: pd.DataFrame) -> Iterator[str]:
    """Yield a Markdown table for each set and N_val."""
    columns = ["method", "Area", "raw", "hull", "gap", "QNC", "$/1k right", "Brier", "ECE", "covers"]
    columns += ["ahead", "p", "by", "90 % interval"]
    found = found[~found["method"].isin(BEFORE[1:])]
    for (name, n_val), rows in found.groupby(["table", "n_val"], sort=False):
        yield f"\n### {name}, N_val {n_val}, {rows['trials'].iloc[0]} trials\n"
        yield f"| {' | '.join(columns)} |"
        yield f"|{'---|' * len(columns)}"
        for cells in shown(rows)[columns].replace({"p": {".000": "<.001"}}).to_numpy():
            yield f"| {' | '.join(cells)} |"


def leads(trials: pd.DataFrame) -> Iterator[str]:
    """Yield a Markdown table of what the default and the clairvoyant lead the zero router by."""
    yield f"\n| set, N_val | method | {HEADS} |\n|---|---|{RULE}"
    for (name, n_val), rows in trials.groupby(["table", "n_val"], sort=False):
        by_method = rows.sort_values("trial").set_index("method")[["crossfit_area", "raw_area", "area"]]
        for method in (ZERO, DEFAULT, CLAIRVOYANT):
            own, base = (by_method.loc[each].to_numpy() for each in (method, ZERO))
            cells = " | | " if method == ZERO else lead(own, base)
            yield f"| {name}, {n_val} | {method} | {mean_areas(own)} | {cells} |"


def main() -> None:
    """Run the parts named, or all, and write what they print and the tables of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="picture, methods, own-prompts, …; all when not given")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("build/measured"))
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    parts = commands(asked.trials, asked.out)
    for name in asked.names or list(parts):
        with (asked.out / f"{name}.txt").open("w") as file:
            for command in parts[name]:
                print(" ".join(command), flush=True)
                subprocess.run(command, env={**os.environ, **ALONE}, stdout=file, check=True)
        tables = [asked.out / name / each / "trials.parquet" for each in VALIDATION]
        if any(path.exists() for path in tables):
            trials = pd.concat([pd.read_parquet(path) for path in tables])
            lines = [*markdown(standings(trials)), *leads(trials)]
            (asked.out / f"{name}.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
