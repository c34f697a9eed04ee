"""Whether routing pays: beside rivals that do not read the prompt, and beside chance."""

import dataclasses
import json

import numpy as np
import pytest

from tests.desk import make_desk, noise_world
from unirouter_core import Evaluation, InvalidDataError, Outcomes, UniRouter, report, tune
from unirouter_core.evaluate import HeldOut, held_out, level_of


@pytest.fixture(scope="module")
def desk():
    return make_desk()


def world(n: int = 400, told: float = 1.0, free: bool = False) -> HeldOut:
    """Sums, which only the sage can, and poems, which both can; `told` is how much of that the predictions tell."""
    rng = np.random.default_rng(0)
    is_sum = rng.random(n) < 0.5
    errors = np.stack([np.where(is_sum, 0.9, 0.1), np.full(n, 0.1)], axis=1)
    seen = (rng.random((n, 2)) < errors).astype(float)
    predicted = told * errors + (1 - told) * errors.mean(axis=0) + 0.01 * rng.normal(size=(n, 2))
    costs = np.tile([0.0, 0.0] if free else [1e-4, 1e-3], (n, 1))
    return HeldOut(("poet", "sage"), predicted, costs, seen, costs)


def test_less_cost_is_told_in_quality_by_routing_by_one_model_and_by_a_mixture() -> None:
    held = world()
    today = report(held, trials=200).today
    poet, sage = 1 - held.errors.mean(axis=0)
    assert (today.model, today.cost, today.is_cheapest) == ("sage", pytest.approx(1e-3), False)
    assert [row.saved for row in today.savings] == [0.25, 0.4, 0.6]
    row = today.savings[1]
    assert row.cost == pytest.approx(0.6e-3)
    assert row.single_model == "poet"
    assert row.single == pytest.approx(poet)
    assert row.mixture == pytest.approx(poet + (sage - poet) * 5 / 9)  # .6 = .1 + .9 * 5 / 9
    assert row.routing > row.mixture + 0.1  # poems, half of all, cost a tenth: .55 of the cost keeps all
    assert row.change[0] < 0.0 < row.change[1]
    assert row.ahead > 0.99


def test_a_cost_that_no_model_has_gives_nothing() -> None:
    held = world()
    costs = held.costs * [8.0, 1.0]  # the poet costs .8 of the sage
    near = dataclasses.replace(held, costs=costs, predicted_costs=costs)
    made = report(near, trials=20)
    assert [row.routing is None for row in made.today.savings] == [True, True, True]
    assert ["-60%", "$0.400", "-", "-", "-"] in [line.split() for line in str(made).splitlines()]


def test_beside_the_cheapest_model_quality_alone_is_compared() -> None:
    made = report(world(), baseline="poet", trials=100)
    assert made.today.is_cheapest
    assert made.today.savings == ()
    assert "points of quality over poet, for $" in made.verdict
    assert "It is already the cheapest model, so quality alone is compared." in str(made)
    assert "costs" not in str(made)


def test_a_baseline_that_is_not_in_the_pool_is_refused() -> None:
    with pytest.raises(InvalidDataError, match=r"The baseline 'bard' is not in the pool \(poet, sage\)"):
        report(world(), baseline="bard")


def test_a_pool_of_one_has_its_own_sentence() -> None:
    held = world()
    alone = HeldOut(
        ("sage",),
        *(table[:, 1:] for table in (held.predicted_errors, held.predicted_costs)),
        *(table[:, 1:] for table in (held.errors, held.costs)),
    )
    made, tuning = report(alone, trials=20), tune(alone, save_cost=0.4, trials=20)
    only = "Routing does not pay: sage is the only model of the pool; onboard another to have a choice."
    assert made.verdict == only
    assert tuning.verdict.endswith(only)


def test_of_very_many_prompts_a_sample_is_resampled_and_all_are_counted() -> None:
    held = world(12_000)
    found = report(held, trials=20, permutations=20)
    assert (found.n, found.kind, len(held.sampled), held.sampled.sampled) == (12_000, "pays", 10_000, held.sampled)
    assert found.quality == pytest.approx(1 - held.outcome(held.chosen(0.0))[0].mean())
    kept = {row.tobytes() for row in np.hstack([held.predicted_errors, held.errors])}  # rows stay together
    assert all(row.tobytes() in kept for row in np.hstack([held.sampled.predicted_errors, held.sampled.errors]))


def test_routing_pays_where_models_differ_by_kind_of_prompt(desk) -> None:
    made = report(desk[0])
    assert made.pays
    assert made.area_gain[0] > 0
    assert made.verdict.startswith("Routing pays: it keeps ")
    assert made.verdict.count(" ± ") == 1
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
    assert made.use == "heads"  # as good, for a hundredth of the cost
    assert made.verdict.startswith("Routing does not pay: use heads, which is as good as ") or made.today.is_cheapest


def test_routing_by_noise_is_seldom_said_to_pay() -> None:
    verdicts = [report(noise_world(seed), trials=2, permutations=60).pays for seed in range(24)]
    assert sum(verdicts) <= 4  # 1.2 expected at p = .05; five or more have a chance of .6 %


def test_models_that_are_all_free_need_no_routing() -> None:
    held = noise_world(0)
    free = HeldOut(held.models, held.predicted_errors, held.costs * 0, held.errors, held.costs * 0)
    with pytest.raises(InvalidDataError, match="nothing to save: use the most accurate, large"):
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
    assert "mixing models without reading the prompt" in made.verdict


def test_nothing_is_saved_against_a_free_model() -> None:
    held = noise_world(0)
    costs = held.costs * np.array([1.0, 1.0, 0.0])
    freed = HeldOut(held.models, held.predicted_errors, costs, held.errors, costs)
    assert report(freed, trials=20).saving_at_97 == (0.0, 0.0)


def test_a_dearer_model_is_never_named_as_the_cure() -> None:
    for seed in range(2):
        for baseline in ("small", "medium", "large"):
            made = report(noise_world(seed), baseline=baseline, trials=50, permutations=20)
            costs = {model: cost for model, (cost, _) in made.models.items()}
            assert costs[made.use] <= costs[baseline]
            assert [model for model in costs if costs[model] > costs[baseline] and model in made.verdict] == []


def test_one_of_two_tests_alone_is_about_even() -> None:
    intervals = {(0.01, 0.03): "pays", (-0.01, 0.03): "about even", (-0.03, -0.01): "does not pay"}
    assert [level_of(interval) for interval in intervals] == list(intervals.values())
    by_chance = [level_of(interval, by_chance=0.2) for interval in intervals]
    assert by_chance == ["about even", "does not pay", "does not pay"]


def test_a_share_of_quality_is_at_most_all_of_it() -> None:
    made = report(world(), baseline="poet", trials=50)
    assert made.quality_at_97 == (1.0, 1.0)  # the sage's is twice the poet's


def test_a_report_is_a_verdict_and_tables_as_text_and_as_html(desk) -> None:
    made = report(desk[0], trials=20)
    assert str(made).startswith(made.verdict + "\n\nToday: sage, quality 93.0% ± ")
    page = made._repr_html_()
    assert page.count("<table>") == 2
    assert "sage&#x27;s quality" in page  # escaped


def test_a_report_says_what_a_right_answer_costs(desk) -> None:
    made = report(desk[0], trials=20)
    cost, quality = made.models["sage"]
    assert made.as_dict()["models"]["sage"]["usd_per_right"] == cost / quality
    assert made.as_dict()["usd_per_right"] == made.cost / made.quality
    assert "$/1,000 right" in str(made)


def test_a_report_takes_outcomes_by_position_and_held_out_predictions(desk) -> None:
    router, unseen = desk
    made, held = report(router, unseen, trials=20), report(held_out(router, unseen), trials=20)
    assert made.n == len(unseen)
    assert made.as_dict() == held.as_dict()
    assert made.cost_weight == router.cost_weight
