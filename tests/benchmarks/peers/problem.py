"""What every router is told of one split, and how its choices and times are handed back; numpy alone."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np

Item, Made = TypeVar("Item"), TypeVar("Made")
Choices = dict[str, np.ndarray]
"""For each router of a package: the chosen models, (n_points, n_test); the last row chooses from the whole pool."""

DECISIONS = 10_000


@dataclass(frozen=True)
class Problem:
    """A pool of models, cheapest first, measured on validation prompts; the test prompts' outcomes are not here.

    Parameters
    ----------
    prompts, vectors, topics
        Of every prompt of the set: its text, its vector (384,), and the part of the set that it comes from.
    train, val, test : array of int
        Rows of these; no outcome of the pool is known on `train`.
    models : list of str
    qualities : array (n_val, n_models)
    prices : array (n_models,)
        Mean USD of a prompt.
    others : array (n_train, n_training_models)
        The qualities of models outside the pool on `train`: only unirouter has a use for them.
    """

    prompts: list[str]
    vectors: np.ndarray
    topics: list[str]
    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    models: list[str]
    qualities: np.ndarray
    prices: np.ndarray
    others: np.ndarray
    seed: int

    def texts(self, rows: np.ndarray) -> list[str]:
        return [self.prompts[row] for row in rows]

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        return self.vectors[[self.rows[text] for text in texts]]

    @cached_property
    def rows(self) -> dict[str, int]:
        return {prompt: row for row, prompt in enumerate(self.prompts)}

    def pools(self) -> list[list[str]]:
        """Return the cheapest model, the two cheapest, and so on: what a limit on the price leaves to choose from."""
        return [self.models[: size + 1] for size in range(len(self.models))]


def read(path: Path) -> Problem:
    """Return the problem at `path`, with the prompts and vectors of its set beside it."""
    name = path.stem.rsplit("-", 1)[0]
    with np.load(path) as arrays, np.load(path.with_name(f"{name}.npz")) as shared:
        known = {key: arrays[key] for key in ("train", "val", "test", "qualities", "prices", "others")}
        models, vectors = arrays["models"].tolist(), shared["vectors"]
    texts = json.loads(path.with_name(f"{name}.json").read_text())
    return Problem(**texts, **known, models=models, vectors=vectors, seed=int(path.stem.rsplit("-", 1)[1]))


def seconds(call: Callable[[], object], rounds: int = 1) -> float:
    """Return the least seconds of processor that `call` takes in some rounds: other programs count least there."""
    return min(timed(call)[0] for _ in range(rounds))


def timed(call: Callable[[], Made]) -> tuple[float, Made]:
    """Return the seconds of processor that `call` takes, and what it returns."""
    start = time.process_time()
    made = call()
    return time.process_time() - start, made


def one_of(call: Callable[[Item], object], items: Sequence[Item], rounds: int = 5) -> float:
    """Return the seconds of processor that `call` takes for one of `items`: the median over items of each one's least.

    A round goes through all items, so that no two calls in a row are the same.
    """
    taken = [[timed(lambda: call(item))[0] for item in items] for _ in range(rounds)]  # noqa: B023
    return statistics.median(map(min, zip(*taken, strict=True)))


def answer(choose: Callable[[Problem], Choices], clock: Callable[[Problem], dict[str, dict[str, float]]]) -> None:
    """Write what the routers choose on each problem named on the command line, or with --clock how long they take."""
    if sys.argv[1] == "--clock":
        Path(sys.argv[2]).write_text(json.dumps(clock(read(Path(sys.argv[3])))))
        return
    for path in map(Path, sys.argv[2:]):
        np.savez(Path(sys.argv[1]) / path.name, **choose(read(path)))
