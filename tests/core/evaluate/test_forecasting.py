"""What prompts to come will cost, and whether the interval holds what is then spent."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.conftest import N_FIT, evaluation, fitted
from unirouter_core import InvalidDataError, NoCandidateError
from unirouter_core.evaluate import Bootstrap, forecast
from unirouter_core.evaluate.forecasting import future_ratios


@pytest.fixture(scope="module")
def lone_sage(world):
    """A router whose every choice is the sage, measured on the last prompts of the world."""
    router = fitted(world)
    router.onboard(evaluation(world, "sage"))
    return router


def spent_on_the_last(world, model="sage"):
    return world.of([model]).costs[N_FIT:, 0]


def test_a_number_of_prompts_costs_what_the_held_out_ones_did(lone_sage, world) -> None:
    found = forecast(lone_sage, 1000)
    assert (found.n_prompts, found.n) == (1000, 240 - N_FIT)
    assert found.cost == pytest.approx(spent_on_the_last(world).mean())
    assert found.cost_interval[0] < found.cost < found.cost_interval[1]


def test_prompts_that_are_given_cost_what_is_expected_of_them(lone_sage, world) -> None:
    sums = [prompt for prompt in world.prompts if prompt.startswith("What is")]
    poems = [prompt for prompt in world.prompts if not prompt.startswith("What is")]
    cheap, dear = forecast(lone_sage, sums), forecast(lone_sage, poems)
    assert dear.cost_interval[0] > cheap.cost_interval[1]  # the sage's poems are three times as long
    for found, asked in ((cheap, sums), (dear, poems)):
        spent = world.of(["sage"]).costs[[world.prompts.index(prompt) for prompt in asked], 0].mean()
        assert found.cost == pytest.approx(spent, rel=0.25)  # ten answers of any kind pull at each region's length


def test_prompts_that_are_given_cost_the_expected_times_how_much_more_was_spent(router, world) -> None:
    dearer = world.rows(range(N_FIT, 240))
    for model in router.pool:  # measured at one price, and billed at twice that on prompts of one's own
        dearer.costs[:, dearer.column(model)] *= 2
    fresh = [f"{prompt} Now." for prompt in dearer.prompts]
    own = type(dearer)(fresh, dearer.models, dearer.errors, dearer.costs)
    expected = router.route_batch(fresh, cost_weight=100).costs.mean()
    found = forecast(router, fresh, cost_weight=100, outcomes=own)
    assert found.cost == pytest.approx(2 * expected, rel=0.15)


def test_few_prompts_to_come_are_less_sure_than_many(lone_sage) -> None:
    widths = [np.ptp(forecast(lone_sage, n).cost_interval) for n in (10, 100, 10_000)]
    assert widths[0] > widths[1] > widths[2] > 0


def test_an_interval_is_wider_the_more_often_it_is_to_hold(lone_sage) -> None:
    half, most = (forecast(lone_sage, 100, level=level).cost_interval for level in (0.5, 0.95))
    assert most[0] < half[0] < half[1] < most[1]


def test_an_interval_holds_what_is_spent_as_often_as_it_says() -> None:
    for n_prompts in (30, 1000):
        generator, inside = np.random.default_rng(0), []
        for seed in range(300):
            held = generator.gamma(2.0, size=100)
            low, high = np.quantile(
                future_ratios(Bootstrap(trials=200, seed=seed), held, np.ones(100), n_prompts), [0.05, 0.95]
            )
            inside.append(low <= generator.gamma(2.0, size=n_prompts).mean() <= high)
        assert 0.84 < np.mean(inside) < 0.95  # 90 % stated; a standard error is 1.7 %


def test_knowing_the_prompts_narrows_the_interval() -> None:
    generator = np.random.default_rng(0)
    expected = generator.uniform(1, 9, 200)
    spent = expected * generator.uniform(0.9, 1.1, 200)
    boot = Bootstrap(trials=300)
    alike = np.ptp(future_ratios(boot, spent, np.full(200, expected.mean()), 100))
    assert np.ptp(future_ratios(boot, spent, expected, 100)) < alike / 5


def test_a_free_pool_spends_nothing(world) -> None:
    router = fitted(world)
    router.onboard(evaluation(world, "sage"))
    table = world.rows(range(N_FIT, 240))
    free = type(evaluation(world, "sage"))("free", evaluation(world, "sage").validation, table.errors[:, 0], [0.0] * 80)
    router.onboard(free)
    found = forecast(router, ["What is 2 plus 2?"], cost_weight=np.inf)
    assert (found.cost, found.cost_interval) == (0, (0, 0))


def test_a_forecast_is_told_in_a_sentence_and_as_json(lone_sage) -> None:
    found = forecast(lone_sage, 2000, cost_weight=np.inf, level=0.8)
    assert "2,000 prompts will cost about $" in found.verdict
    assert "with a chance of 80% between $" in found.verdict
    assert json.loads(json.dumps(found.as_dict()))["cost_weight"] == "inf"


def test_a_forecast_that_makes_no_sense_is_refused(lone_sage) -> None:
    for prompts, how, sentence in (
        (0, {}, "0 prompts cost nothing; give at least 1"),
        ([], {}, "0 prompts cost nothing"),
        (10, {"level": 90}, "give a share between 0 and 1"),
        (10, {"trials": 0}, "draw at least 1"),
        ("What is 2 plus 2?", {}, "must be a list of strings"),
    ):
        with pytest.raises(InvalidDataError, match=sentence):
            forecast(lone_sage, prompts, **how)


def test_an_empty_pool_spends_nothing_that_can_be_told(world) -> None:
    with pytest.raises(NoCandidateError, match="onboard one first"):
        forecast(fitted(world), 10)
