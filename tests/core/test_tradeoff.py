"""Goals to cost weights, and whether what is promised is what comes."""

from __future__ import annotations

import json

import numpy as np
import pytest

from unirouter_core import Evaluation, InvalidDataError, NoCandidateError, Outcomes, UniRouter, report, tune
from unirouter_core.evaluate.held_out import HeldOut, held_out


@pytest.fixture(scope="module")
def desk() -> tuple[UniRouter, Outcomes]:
    """A router between a dear sage and a cheap poet on 200 measured prompts, and 400 prompts it has not seen."""
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


def test_keeping_97_percent_of_the_quality_sends_the_poems_to_the_poet(desk) -> None:
    tuning = tune(desk[0], keep_quality=0.97)
    assert tuning.met
    assert tuning.quality >= 0.97 * tuning.single_quality
    assert tuning.cost < 0.75 * tuning.single_cost
    assert tuning.single_model == "sage"
    assert tuning.alternative is None


def test_the_promised_quality_and_cost_come_true_on_prompts_never_seen(desk) -> None:
    router, unseen = desk
    tuning = tune(router, keep_quality=0.97)
    chosen = router.route_batch(unseen.prompts, cost_weight=tuning.cost_weight).models
    columns = [unseen.column(model) for model in chosen]
    quality = 1 - unseen.errors[np.arange(len(unseen)), columns].mean()
    cost = unseen.costs[np.arange(len(unseen)), columns].mean()
    noise = 1.64 * np.sqrt(0.05 / len(unseen))
    assert tuning.quality_interval[0] - noise < quality < tuning.quality_interval[1] + noise
    assert tuning.cost_interval[0] * 0.9 < cost < tuning.cost_interval[1] * 1.1


def test_a_budget_is_kept(desk) -> None:
    tuning = tune(desk[0], usd_per_1000=0.3)
    assert tuning.met
    assert tuning.cost <= 0.3 / 1000
    assert tuning.shares["poet"] > 0.5


def test_a_budget_below_the_cheapest_model_is_not_met_and_says_so(desk) -> None:
    tuning = tune(desk[0], usd_per_1000=0.001)
    assert not tuning.met
    assert "No routing met the goal" in tuning.verdict


def test_the_price_of_an_error_is_the_cost_weight_s_inverse(desk) -> None:
    assert tune(desk[0], usd_per_error=0.02).cost_weight == 50


def test_a_single_model_that_does_as_well_is_named(desk) -> None:
    tuning = tune(desk[0], usd_per_1000=0.01)  # the poet's own cost
    assert tuning.alternative == "poet"
    assert "always using poet" in tuning.verdict


def test_prompts_that_profiles_were_measured_on_do_not_judge_them(desk) -> None:
    router, unseen = desk
    assert len(held_out(router, unseen)) == len(unseen)
    measured = next(iter(router.pool.values())).measured.texts
    again = Outcomes(measured, ["poet", "sage"], np.zeros((len(measured), 2)))
    with pytest.raises(InvalidDataError, match="0 prompts are left"):
        held_out(router, again)


def test_routing_pays_where_models_differ_by_kind_of_prompt(desk) -> None:
    made = report(desk[0])
    assert made.pays
    assert made.area_gain[0] > 0
    assert "Routing pays" in made.verdict
    json.dumps(made.as_dict())


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


@pytest.mark.parametrize(
    ("goal", "sentence"),
    [
        ({}, "0 goals were given; give one of"),
        ({"keep_quality": 0.9, "usd_per_1000": 1.0}, "2 goals were given; give one of"),
        ({"keep_quality": 1.5}, "keep_quality=1.5 must be a share above 0, at most 1"),
        ({"usd_per_1000": -1.0}, "usd_per_1000=-1.0 must be a finite number of USD above 0"),
        ({"usd_per_error": 0.0}, "usd_per_error=0.0 must be a finite number of USD above 0"),
    ],
)
def test_a_goal_that_makes_no_sense_is_refused(desk, goal: dict[str, float], sentence: str) -> None:
    with pytest.raises(InvalidDataError, match=sentence):
        tune(desk[0], **goal)


def test_an_empty_pool_cannot_be_tuned(desk) -> None:
    empty = UniRouter().fit(desk[1])
    with pytest.raises(NoCandidateError, match="onboard one first"):
        tune(empty, keep_quality=0.9)


def noise_world(seed: int, n: int = 150) -> HeldOut:
    """Three models whose errors no prompt tells, predicted by their means and noise."""
    rng = np.random.default_rng(seed)
    means, costs = np.array([0.5, 0.35, 0.2]), np.array([1e-4, 4e-4, 1e-3])
    errors = (rng.random((n, 3)) < means).astype(float)
    predicted = np.clip(means + 0.05 * rng.normal(size=(n, 3)), 0, 1)
    return HeldOut(("small", "medium", "large"), predicted, np.tile(costs, (n, 1)), errors, np.tile(costs, (n, 1)))


def test_routing_by_noise_is_seldom_said_to_pay(desk, monkeypatch) -> None:
    monkeypatch.setattr("unirouter_core.evaluate.report.PERMUTATIONS", 60)
    verdicts = []
    for seed in range(24):
        monkeypatch.setattr("unirouter_core.evaluate.report.held_out", lambda *_, seed=seed, **__: noise_world(seed))
        verdicts.append(report(desk[0], trials=2).pays)
    assert sum(verdicts) <= 4  # 1.2 expected at p = .05; five or more have a chance of .6 %


def test_an_interval_holds_the_quality_of_fresh_prompts_as_often_as_it_says(desk, monkeypatch) -> None:
    truth, inside = 1 - 0.35, []
    for seed in range(40):
        held = noise_world(seed)
        always = np.tile([0.9, 0.1, 0.9], (len(held), 1))  # the medium model whatever the weight
        fixed = HeldOut(held.models, always, held.predicted_costs * 0, held.errors, held.costs)
        monkeypatch.setattr("unirouter_core.evaluate.tune.held_out", lambda *_, fixed=fixed, **__: fixed)
        low, high = tune(desk[0], usd_per_error=0.02, trials=60).quality_interval
        inside.append(low <= truth <= high)
    assert 0.75 <= np.mean(inside) <= 1  # 90 % stated, 40 worlds


def test_a_goal_that_noise_alone_meets_is_said_to_be_met_seldom(desk, monkeypatch) -> None:
    monkeypatch.setattr("unirouter_core.evaluate.tune.held_out", lambda *_, **__: noise_world(3))
    tuning = tune(desk[0], keep_quality=0.97)
    assert tuning.met_share < 0.9
    assert f"met in {tuning.met_share:.0%} of resamplings" in tuning.verdict


def test_models_that_are_all_free_need_no_routing(desk, monkeypatch) -> None:
    held = noise_world(0)
    free = HeldOut(held.models, held.predicted_errors, held.costs * 0, held.errors, held.costs * 0)
    monkeypatch.setattr("unirouter_core.evaluate.report.held_out", lambda *_, **__: free)
    with pytest.raises(InvalidDataError, match="is free on these prompts: use the most accurate, large"):
        report(desk[0])


@pytest.mark.parametrize(
    ("parameters", "sentence"), [({"level": 90}, "give a share between 0 and 1"), ({"trials": 0}, "draw at least 1")]
)
def test_an_interval_that_makes_no_sense_is_refused(desk, parameters, sentence) -> None:
    for judge in (lambda **how: tune(desk[0], keep_quality=0.9, **how), lambda **how: report(desk[0], **how)):
        with pytest.raises(InvalidDataError, match=sentence):
            judge(**parameters)


def test_routing_that_is_worse_than_a_mixture_does_not_pay_however_little_chance_it_is(desk, monkeypatch) -> None:
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 2, 600)
    truth = np.array([[0.6, 0.5, 0.3, 0.25], [0.5, 0.3, 0.3, 0.2]])[kind]
    costs = np.tile([1e-5, 2e-4, 5e-4, 1e-3], (600, 1))
    off = np.array([0.0, -0.25, 0.1, 0.1])  # the second model looks much better than it is
    errors = (rng.random(truth.shape) < truth).astype(float)
    held = HeldOut(("a", "b", "c", "d"), np.clip(truth + off, 0, 1), costs, errors, costs)
    monkeypatch.setattr("unirouter_core.evaluate.report.held_out", lambda *_, **__: held)
    made = report(desk[0], trials=100)
    assert made.metrics.area < made.mixture_metrics.area
    assert not made.pays
    assert "no better than mixing models" in made.verdict


def test_nothing_is_saved_against_a_free_model(desk, monkeypatch) -> None:
    held = noise_world(0)
    costs = held.costs * np.array([1.0, 1.0, 0.0])
    freed = HeldOut(held.models, held.predicted_errors, costs, held.errors, costs)
    monkeypatch.setattr("unirouter_core.evaluate.report.held_out", lambda *_, **__: freed)
    assert report(desk[0], trials=20).saving == (0.0, 0.0)


def test_a_saving_that_chance_may_have_made_is_said_to_be_undecided(desk, monkeypatch) -> None:
    monkeypatch.setattr("unirouter_core.evaluate.report._areas_by_chance", lambda *_: np.ones(9))  # chance does better
    made = report(desk[0], trials=50)
    assert made.mixed.saving is not None
    assert made.mixed.saving[0] > 0
    assert not made.pays
    assert "cannot tell whether routing pays here" in made.verdict
    assert f"use {next(iter(made.single.rival))}" in made.verdict


def test_a_saving_that_is_no_luck_but_costs_elsewhere_is_not_called_luck(desk, monkeypatch) -> None:
    monkeypatch.setattr("unirouter_core.evaluate.report.interval", lambda *_: (-0.1, 0.1))  # of the gain in Area
    made = report(desk[0], trials=50)
    assert not made.pays
    assert made.chance <= 0.05
    assert "Routing does not pay here: use " in made.verdict
    assert "chance" not in made.verdict
