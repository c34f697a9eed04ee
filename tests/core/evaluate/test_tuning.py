"""Goals to cost weights, and whether what is promised is what comes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tests.desk import make_desk, noise_world
from unirouter_core import InvalidDataError, NoCandidateError, Outcomes, UniRouter, report, tune
from unirouter_core.evaluate import HeldOut, held_out


@pytest.fixture(scope="module")
def desk():
    return make_desk()


def test_keeping_97_percent_of_the_quality_sends_the_poems_to_the_poet(desk) -> None:
    tuning = tune(desk[0], keep_quality=0.97)
    assert tuning.met
    assert tuning.best == "routing"
    assert tuning.quality >= 0.97 * tuning.today.quality
    assert tuning.cost < 0.75 * tuning.today.cost
    assert (tuning.today.model, tuning.level) == ("sage", "pays")


def test_saving_a_share_of_today_s_cost_is_a_budget(desk) -> None:
    tuning = tune(desk[0], save_cost=0.4)
    assert tuning.goal == "save 40% of sage's cost"
    assert tuning.cost <= 0.6e-3
    assert (tuning.best, tuning.level, tuning.met) == ("routing", "pays", True)
    budget = tune(desk[0], usd_per_1000=0.6)
    assert budget.cost_weight == tuning.cost_weight


def test_one_quantity_has_one_number(desk) -> None:
    for tuning, place in ((tune(desk[0], keep_quality=0.97), 0), (tune(world_of_two(), usd_per_1000=0.2), 1)):
        shown, given = tuning.as_dict(), tuning.as_dict()["choices"][place]
        for name in ("quality", "quality_interval", "cost", "usd_per_1000", "shares", "met_share"):
            assert shown[name] == given[name], name


def test_the_best_of_routing_one_model_and_a_mixture_is_taken() -> None:
    held = noise_world(1)
    useless = dataclasses.replace(held, predicted_errors=held.predicted_errors[:, ::-1])  # worse than chance
    tuning = tune(useless, usd_per_1000=0.4)
    assert (tuning.best, tuning.level) == ("single model", "does not pay")
    assert tuning.choice.shares == {"medium": 1.0}  # it costs the whole budget
    assert not tuning.gives_best  # no weight gives it
    assert "medium alone gives quality" in tuning.verdict


def test_a_weight_that_gives_the_best_single_model_is_found() -> None:
    cheapest = tune(world_of_two(), usd_per_1000=0.2)
    assert (cheapest.best, cheapest.cost_weight, cheapest.gives_best) == ("single model", np.inf, True)
    assert cheapest.shares == {"poet": 1.0}


def world_of_two() -> HeldOut:
    """A poet and a sage of equal skill, at $0.10 and $1 per 1,000 prompts."""
    errors = np.repeat((np.random.default_rng(0).random((100, 1)) < 0.3).astype(float), 2, axis=1)
    costs = np.tile([1e-4, 1e-3], (100, 1))
    return HeldOut(("poet", "sage"), np.tile([0.3, 0.2], (100, 1)), costs, errors, costs)


def test_the_share_of_resamplings_that_meet_a_goal_is_an_option(desk) -> None:
    shares = [tune(desk[0], keep_quality=0.97, sure=sure).met_share for sure in (0.5, 0.8)]
    assert shares[0] >= 0.5
    assert shares[1] >= 0.8
    with pytest.raises(InvalidDataError, match=r"sure=1\.5 must be a share"):
        tune(desk[0], keep_quality=0.97, sure=1.5)


def test_another_baseline_changes_what_a_share_is_of(desk) -> None:
    tuning = tune(desk[0], keep_quality=1.0, baseline="poet")
    assert tuning.goal == "keep 100% of poet's quality"
    assert tuning.met
    assert tuning.choice.shares == {"poet": 1.0}


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
    assert "Not met (in 0% of resamplings, 80% wanted): spend at most $0.00100" in tuning.verdict
    assert tuning.level == "does not pay"


def test_the_price_of_an_error_is_the_cost_weight_s_inverse(desk) -> None:
    assert tune(desk[0], usd_per_error=0.02).cost_weight == 50


def test_a_single_model_that_does_as_well_is_named(desk) -> None:
    tuning = tune(desk[0], usd_per_1000=0.01)  # the poet's own cost
    assert tuning.as_dict()["alternative"] == "poet"
    assert "poet alone gives" in tuning.verdict


def test_prompts_that_profiles_were_measured_on_do_not_judge_them(desk) -> None:
    router, unseen = desk
    assert len(held_out(router, unseen)) == len(unseen)
    measured = next(iter(router.pool.values())).measured.texts
    again = Outcomes(measured, ["poet", "sage"], np.zeros((len(measured), 2)))
    with pytest.raises(InvalidDataError, match="0 prompts are left"):
        held_out(router, again)


def test_a_goal_that_makes_no_sense_is_refused(desk) -> None:
    for goal, sentence in (
        ({}, "0 goals were given; give one of"),
        ({"keep_quality": 0.9, "usd_per_1000": 1.0}, "2 goals were given; give one of"),
        ({"keep_quality": 1.5}, "keep_quality=1.5 must be a share above 0, at most 1"),
        ({"usd_per_1000": -1.0}, "usd_per_1000=-1.0 must be a finite number of USD above 0"),
        ({"usd_per_error": 0.0}, "usd_per_error=0.0 must be a finite number of USD above 0"),
    ):
        with pytest.raises(InvalidDataError, match=sentence):
            tune(desk[0], **goal)


def test_an_empty_pool_cannot_be_tuned(desk) -> None:
    empty = UniRouter().fit(desk[1])
    with pytest.raises(NoCandidateError, match="onboard one first"):
        tune(empty, keep_quality=0.9)


def test_an_interval_holds_the_quality_of_fresh_prompts_as_often_as_it_says() -> None:
    truth, inside = 1 - 0.35, []
    for seed in range(40):
        held = noise_world(seed)
        always = np.tile([0.9, 0.1, 0.9], (len(held), 1))  # the medium model whatever the weight
        fixed = HeldOut(held.models, always, held.predicted_costs * 0, held.errors, held.costs)
        low, high = tune(fixed, usd_per_error=0.02, trials=60).quality_interval
        inside.append(low <= truth <= high)
    assert 0.8 < np.mean(inside) < 1  # 90 % stated; of 40 worlds, one standard error is 5 %


def test_a_goal_that_noise_alone_meets_is_said_to_be_met_seldom() -> None:
    routing = tune(noise_world(3), keep_quality=0.97).choices[0]
    assert routing.met_share < 0.9


def test_an_interval_that_makes_no_sense_is_refused(desk) -> None:
    for parameters, sentence in (({"level": 90}, "give a share between 0 and 1"), ({"trials": 0}, "draw at least 1")):
        for judge in (lambda **how: tune(desk[0], keep_quality=0.9, **how), lambda **how: report(desk[0], **how)):
            with pytest.raises(InvalidDataError, match=sentence):
                judge(**parameters)


def test_held_out_predictions_are_tuned_as_their_router_is(desk) -> None:
    router, unseen = desk
    for outcomes in (None, unseen):
        held = held_out(router, outcomes)
        assert tune(held, keep_quality=0.97) == tune(router, outcomes, keep_quality=0.97)


def test_held_out_predictions_bring_their_own_outcomes(desk) -> None:
    with pytest.raises(InvalidDataError, match="A HeldOut has outcomes of its own"):
        tune(noise_world(0), desk[1], keep_quality=0.97)
