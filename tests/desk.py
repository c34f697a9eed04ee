"""A router with a pool of two on one hand, held-out predictions of noise on the other."""

import numpy as np

from unirouter_core import Evaluation, Outcomes, UniRouter
from unirouter_core.evaluate import HeldOut


def make_desk() -> tuple[UniRouter, Outcomes]:
    """Return a router between a dear sage and a cheap poet on 200 measured prompts, and 400 prompts it has not seen."""
    rng = np.random.default_rng(0)
    sums = [f"What is {a} plus {b}?" for a in range(25) for b in range(14)]
    poems = [
        f"Write {n} lines of verse about the {thing}."
        for n in range(2, 37)
        for thing in ["sea", "moon", "rain", "fog", "sun", "elm", "owl", "oak", "fen", "ivy"]
    ]
    prompts = [str(prompt) for prompt in rng.permutation(sums + poems)]
    adds = np.array([prompt.startswith("What") for prompt in prompts])
    wrong = np.stack([np.where(adds, 0.9, 0.05), np.full(len(prompts), 0.05), np.where(adds, 0.1, 0.9)], axis=1)
    errors = (rng.random(wrong.shape) < wrong).astype(float)
    table = Outcomes(prompts, ["poet", "sage", "clerk"], errors, np.tile([1e-5, 1e-3, 9e-4], (len(prompts), 1)))
    made = UniRouter(cost_weight=300).fit(table.rows(range(100)))
    for model in ("poet", "sage"):
        made.onboard(Evaluation.recorded(model, table.rows(range(100, 300))))
    return made, table.rows(range(300, 700))


def noise_world(seed: int, n: int = 150) -> HeldOut:
    """Three models whose errors no prompt tells, predicted by their means and noise."""
    rng = np.random.default_rng(seed)
    means, costs = np.array([0.5, 0.35, 0.2]), np.array([1e-4, 4e-4, 1e-3])
    errors = (rng.random((n, 3)) < means).astype(float)
    predicted = np.clip(means + 0.05 * rng.normal(size=(n, 3)), 0, 1)
    return HeldOut(("small", "medium", "large"), predicted, np.tile(costs, (n, 1)), errors, np.tile(costs, (n, 1)))
