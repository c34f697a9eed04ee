"""Routing beside rivals that do not read the prompt: what it saves at their quality and gains at their cost."""

import numpy as np
import pytest

from unirouter_core.evaluate.comparison import Comparison, compare, mixture_of
from unirouter_core.evaluate.held_out import HeldOut
from unirouter_core.evaluate.report import _beside

HOW = {"level": 0.9, "trials": 200, "seed": 0}


def world(n: int = 400, told: float = 1.0, free: bool = False) -> HeldOut:
    """Sums, which only the sage can, and poems, which both can; `told` is how much of that the predictions tell."""
    rng = np.random.default_rng(0)
    is_sum = rng.random(n) < 0.5
    errors = np.stack([np.where(is_sum, 0.9, 0.1), np.full(n, 0.1)], axis=1)
    seen = (rng.random((n, 2)) < errors).astype(float)
    predicted = told * errors + (1 - told) * errors.mean(axis=0) + 0.01 * rng.normal(size=(n, 2))
    costs = np.tile([0.0, 0.0] if free else [1e-4, 1e-3], (n, 1))
    return HeldOut(("poet", "sage"), predicted, costs, seen, costs)


def test_routing_that_reads_the_prompt_keeps_the_quality_of_the_sage_for_half_its_cost() -> None:
    held = world()
    beside = compare(held, held.sweep, {"sage": 1.0}, **HOW)
    assert beside.saving is not None
    low, high = beside.saving
    assert low < 0.45 < high  # poems, half of all, cost a tenth: 1 - (.5 + .05)
    assert low > 0.25
    assert beside.quality == pytest.approx(1 - held.errors[:, 1].mean())


def test_at_the_cost_of_a_mixture_routing_gains_what_the_mixture_loses_on_sums() -> None:
    held = world()
    beside = compare(held, held.sweep, {"poet": 0.5, "sage": 0.5}, **HOW)
    assert beside.gain[0] < 0.2 < beside.gain[1]  # half the sums at .8 more errors
    assert beside.gain[0] > 0.1


def test_routing_that_knows_nothing_cannot_be_told_from_a_mixture() -> None:
    held = world(told=0.0)
    beside = compare(held, held.sweep, {"poet": 0.5, "sage": 0.5}, **HOW)
    assert beside.gain[0] < 0 < beside.gain[1]


def test_nothing_is_said_to_be_saved_where_routing_falls_short_of_the_quality() -> None:
    held = world()
    wrong = HeldOut(held.models, held.predicted_errors[:, ::-1], held.predicted_costs, held.errors, held.costs)
    assert compare(wrong, wrong.sweep, {"sage": 1.0}, **HOW).saving is None


def test_nothing_is_saved_beside_a_free_rival() -> None:
    held = world(free=True)
    assert compare(held, held.sweep, {"sage": 1.0}, **HOW).saving is None


def test_the_cheapest_mixture_of_a_quality_lies_between_two_models() -> None:
    held = world()
    poet, sage = 1 - held.errors.mean(axis=0)
    mixture = mixture_of(held, poet + 0.25 * (sage - poet))
    assert mixture == pytest.approx({"poet": 0.75, "sage": 0.25})
    assert mixture_of(held, 0.0) == {"poet": 1.0}
    assert mixture_of(held, sage) == {"sage": 1.0}


def test_the_interval_of_the_gain_holds_what_fresh_prompts_give() -> None:
    inside = []
    truth = 0.2
    for seed in range(20):
        whole = world(4000)
        rows = np.random.default_rng(seed).choice(4000, 300, replace=False)
        part = HeldOut(
            whole.models,
            *(table[rows] for table in (whole.predicted_errors, whole.predicted_costs)),
            whole.errors[rows],
            whole.costs[rows],
        )
        low, high = compare(part, part.sweep, {"poet": 0.5, "sage": 0.5}, level=0.9, trials=60, seed=0).gain
        inside.append(low <= truth + 0.01 and high >= truth - 0.01)
    assert np.mean(inside) >= 0.75


def test_routing_that_can_choose_its_rival_is_not_said_to_fall_short_of_it() -> None:
    same = Comparison({"sage": 1.0}, quality=0.9, cost=0.001, saving=None, gain=(0.0, 0.0))
    assert _beside(same) == "saves nothing at equal quality and gains +0.000 to +0.000 quality at equal cost"
