"""Whether routing pays: beside rivals that do not read the prompt, and beside chance."""

import dataclasses
import json

import numpy as np
import pytest

from tests.desk import make_desk, noise_world
from unirouter_core import Evaluation, InvalidDataError, Outcomes, UniRouter, report
from unirouter_core.evaluate import Bootstrap, Comparison, HeldOut, held_out
from unirouter_core.evaluate.reporting import compare, mixture_of


@pytest.fixture(scope="module")
def desk():
    return make_desk()


BOOT = Bootstrap(trials=200)


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
    beside = compare(held, {"sage": 1.0}, BOOT)
    assert beside.saving is not None
    low, high = beside.saving
    assert low < 0.45 < high  # poems, half of all, cost a tenth: 1 - (.5 + .05)
    assert low > 0.25
    assert beside.quality == pytest.approx(1 - held.errors[:, 1].mean())


def test_at_the_cost_of_a_mixture_routing_gains_what_the_mixture_loses_on_sums() -> None:
    held = world()
    beside = compare(held, {"poet": 0.5, "sage": 0.5}, BOOT)
    assert beside.gain[0] < 0.2 < beside.gain[1]  # half the sums at .8 more errors
    assert beside.gain[0] > 0.1


def test_routing_that_knows_nothing_cannot_be_told_from_a_mixture() -> None:
    held = world(told=0.0)
    beside = compare(held, {"poet": 0.5, "sage": 0.5}, BOOT)
    assert beside.gain[0] < 0 < beside.gain[1]


def test_of_very_many_prompts_a_sample_is_resampled_and_all_are_counted() -> None:
    held = world(12_000)
    found = report(held, trials=20, permutations=20)
    assert (found.n, found.kind, len(held.sampled), held.sampled.sampled) == (12_000, "pays", 10_000, held.sampled)
    assert found.quality == pytest.approx(1 - held.outcome(held.chosen(0.0))[0].mean())
    kept = {row.tobytes() for row in np.hstack([held.predicted_errors, held.errors])}  # rows stay together
    assert all(row.tobytes() in kept for row in np.hstack([held.sampled.predicted_errors, held.sampled.errors]))


def test_nothing_is_said_to_be_saved_where_routing_falls_short_of_the_quality() -> None:
    held = world()
    wrong = HeldOut(held.models, held.predicted_errors[:, ::-1], held.predicted_costs, held.errors, held.costs)
    assert compare(wrong, {"sage": 1.0}, BOOT).saving is None


def test_nothing_is_saved_beside_a_free_rival() -> None:
    held = world(free=True)
    assert compare(held, {"sage": 1.0}, BOOT).saving is None


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
        low, high = compare(part, {"poet": 0.5, "sage": 0.5}, Bootstrap(trials=60)).gain
        inside.append(low <= truth + 0.01 and high >= truth - 0.01)
    assert np.mean(inside) >= 0.75


def test_routing_that_can_choose_its_rival_is_not_said_to_fall_short_of_it() -> None:
    same = Comparison({"sage": 1.0}, quality=0.9, cost=0.001, saving=None, gain=(0.0, 0.0))
    assert str(same) == "saves nothing at equal quality and gains +0.0 to +0.0 points of quality at equal cost"


def test_routing_pays_where_models_differ_by_kind_of_prompt(desk) -> None:
    made = report(desk[0])
    assert made.pays
    assert made.area_gain[0] > 0
    assert "Routing pays" in made.verdict
    assert json.loads(json.dumps(made.as_dict(), allow_nan=False))["verdict"] == made.verdict


def test_routing_does_not_pay_between_equals(desk) -> None:
    unseen = desk[1]
    coin = np.random.default_rng(1).random((200, 2)) < 0.3  # errors that no prompt tells
    table = Outcomes(unseen.prompts[:200], ["heads", "tails"], coin.astype(float), np.tile([1e-5, 1e-3], (200, 1)))
    plain = UniRouter().fit(unseen.of(["poet", "sage", "clerk"]).rows(range(200, 400)))
    for model in table.models:
        plain.onboard(Evaluation.recorded(model, table))
    made = report(plain)
    assert not made.pays
    assert "Routing does not pay here: use " in made.verdict
    assert made.use in made.verdict


def test_routing_by_noise_is_seldom_said_to_pay() -> None:
    verdicts = [report(noise_world(seed), trials=2, permutations=60).pays for seed in range(24)]
    assert sum(verdicts) <= 4  # 1.2 expected at p = .05; five or more have a chance of .6 %


def test_models_that_are_all_free_need_no_routing() -> None:
    held = noise_world(0)
    free = HeldOut(held.models, held.predicted_errors, held.costs * 0, held.errors, held.costs * 0)
    with pytest.raises(InvalidDataError, match="is free on these prompts: use the most accurate, large"):
        report(free)


def test_routing_that_is_worse_than_a_mixture_does_not_pay_however_little_chance_it_is() -> None:
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 2, 600)
    truth = np.array([[0.6, 0.5, 0.3, 0.25], [0.5, 0.3, 0.3, 0.2]])[kind]
    costs = np.tile([1e-5, 2e-4, 5e-4, 1e-3], (600, 1))
    off = np.array([0.0, -0.25, 0.1, 0.1])  # the second model looks much better than it is
    errors = (rng.random(truth.shape) < truth).astype(float)
    held = HeldOut(("a", "b", "c", "d"), np.clip(truth + off, 0, 1), costs, errors, costs)
    made = report(held, trials=100)
    assert made.metrics.area < made.mixture_metrics.area
    assert not made.pays
    assert "no better than mixing models" in made.verdict


def test_nothing_is_saved_against_a_free_model() -> None:
    held = noise_world(0)
    costs = held.costs * np.array([1.0, 1.0, 0.0])
    freed = HeldOut(held.models, held.predicted_errors, costs, held.errors, costs)
    assert report(freed, trials=20).saving_at_97 == (0.0, 0.0)


def test_a_saving_that_chance_may_have_made_is_inconclusive(desk) -> None:
    made = dataclasses.replace(report(desk[0], trials=50), p_value=0.2)
    assert made.mixed.saving is not None
    assert made.mixed.saving[0] > 0
    assert (made.kind, made.pays) == ("inconclusive", False)
    assert "cannot tell whether routing pays here" in made.verdict
    assert "p = 0.2" in made.verdict
    assert "use sage" in made.verdict


def test_a_saving_that_is_no_luck_but_costs_elsewhere_is_not_called_luck(desk) -> None:
    made = dataclasses.replace(report(desk[0], trials=50), area_gain=(-0.1, 0.1))
    assert made.p_value <= 0.05
    assert made.kind == "does not pay"
    assert "Routing does not pay here: use " in made.verdict
    assert "inconclusive" not in made.verdict.lower()


def test_a_negative_saving_is_told_as_a_cost(desk) -> None:
    beside = Comparison({"sage": 1.0}, quality=0.9, cost=0.001, saving=(-0.8, -0.2), gain=(0.0, 0.01))
    assert str(beside).startswith("costs 1.2 to 1.8 × as much at equal quality")


def test_a_report_takes_outcomes_by_position_and_held_out_predictions(desk) -> None:
    router, unseen = desk
    made, held = report(router, unseen, trials=20), report(held_out(router, unseen), trials=20)
    assert made.n == len(unseen)
    assert made.as_dict() == held.as_dict()
    assert made.cost_weight == router.cost_weight
