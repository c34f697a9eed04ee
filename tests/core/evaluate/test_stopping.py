"""The order in which a new model is asked, and when its answers so far are enough."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import N_FIT, evaluation, fitted, is_sum
from unirouter_core import Evaluation, InvalidDataError, ValidationSet
from unirouter_core.estimators import KMeansEstimator, NeighboursEstimator
from unirouter_core.evaluate import ask_order, undecided
from unirouter_core.evaluate.stopping import _answers


def so_far(world, model, n, *, name="newcomer", **changes):
    """What a newcomer that is as a model of the world did on the first `n` validation prompts, the others open."""
    whole = evaluation(world, model)
    errors, tokens_out, costs = (np.where(np.arange(80) < n, a, np.nan) for a in columns(whole))
    fields = {"errors": errors, "costs": costs, "tokens_out": tokens_out, "prices": whole.prices, **changes}
    return Evaluation(name, whole.validation, **fields)


def columns(whole):
    return whole.errors, whole.tokens_out, whole.costs


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), max_size=60), st.integers(0, 3))
def test_every_beginning_of_the_order_holds_each_region_s_share_to_within_one_prompt(labels, seed):
    order = ask_order(labels, seed)
    assert sorted(order.tolist()) == list(range(len(labels)))
    for region in set(labels):
        asked = np.cumsum(np.array(labels)[order] == region)
        owed = np.arange(1, len(labels) + 1) * labels.count(region) / len(labels)
        assert np.abs(asked - owed).max() <= 1 - 1 / max(2 * len(set(labels)) - 2, 1) + 1e-9


def test_many_regions_of_one_prompt_are_spread_between_those_of_a_large_one():
    labels = np.array([0] * 50 + list(range(1, 51)))
    asked = np.cumsum(labels[ask_order(labels)] == 0)
    assert np.abs(asked - np.arange(1, 101) / 2).max() <= 0.99


def test_the_seed_decides_who_of_a_region_is_asked_first():
    labels = np.arange(60) % 3
    assert np.array_equal(ask_order(labels, 1), ask_order(labels, 1))
    assert not np.array_equal(ask_order(labels, 1), ask_order(labels, 2))


def test_a_dear_model_that_is_always_wrong_is_decided_after_a_few_answers(world, asked_router):
    found = undecided(asked_router, so_far(world, "sage", 20, errors=np.where(np.arange(80) < 20, 1.0, np.nan)))
    assert found.decided
    assert (found.changed, found.goes) == (0, 0)
    assert (found.n_answered, found.n_open) == (20, 60)


def test_a_free_model_that_is_always_right_is_decided_too(world, asked_router):
    free = so_far(world, "sage", 60, errors=np.where(np.arange(80) < 60, 0.0, np.nan), costs=np.zeros(80), prices=None)
    found = undecided(asked_router, free, cost_weight=500)
    assert (found.decided, found.goes) == (True, 1)


def test_a_model_as_good_as_one_of_the_pool_is_undecided_until_the_end(world, asked_router):
    found = [undecided(asked_router, so_far(world, "tutor", n), cost_weight=300) for n in (20, 60, 80)]
    assert [each.decided for each in found] == [False, False, True]
    assert found[0].changed > 0.05
    assert found[2].changed == 0


def test_the_share_that_is_stated_covers_what_then_happens(world, asked_router):
    rng, held = np.random.default_rng(0), []
    sums = np.array([is_sum(prompt) for prompt in world.prompts[N_FIT:]])
    for _ in range(20):
        skill = np.where(sums, *rng.uniform(0, 0.6, 2))
        errors = (rng.random(80) < skill).astype(float)
        asked = so_far(world, "tutor", 30, errors=np.where(np.arange(80) < 30, errors, np.nan))
        found = undecided(asked_router, asked, cost_weight=300, draws=40)
        goes = [takes(asked_router, each, 300) for each in (asked, so_far(world, "tutor", 80, errors=errors))]
        held.append((goes[0] != goes[1]).mean() <= found.changed)
    assert np.mean(held) >= 0.85


def takes(router, measured, cost_weight):
    """Which validation prompts go to a newcomer of this evaluation."""
    router.onboard(measured)
    chosen = np.array(router.route_batch(measured.validation.prompts, cost_weight=cost_weight).models)
    router.retire(measured.model)
    return chosen == measured.model


def test_the_share_that_goes_to_the_model_now_is_what_routing_says(world, asked_router):
    asked = so_far(world, "scholar", 40)
    expected = takes(asked_router, asked, 100).mean()
    assert 0 < expected < 1
    assert undecided(asked_router, asked, cost_weight=100).goes == pytest.approx(expected, abs=0.02)  # float16 vectors


def test_uneven_costs_leave_a_model_undecided_that_even_ones_decide(world, asked_router):
    right = np.where(np.arange(80) < 40, 0.0, np.nan)
    usd = 0.9 * asked_router.route("What is 14 plus 33?", cost_weight=np.inf).cost
    costs = np.full(80, usd), np.where(np.arange(80) % 8, 0, 8 * usd)
    steady, uneven = (
        Evaluation("newcomer", evaluation(world, "sage").validation, right, np.where(np.isnan(right), np.nan, column))
        for column in costs
    )
    assert undecided(asked_router, steady, cost_weight=np.inf).decided
    assert undecided(asked_router, uneven, cost_weight=np.inf).changed > 0.1


def test_calls_that_failed_are_neither_answers_nor_open(world, asked_router):
    failed = np.arange(80) >= 60
    found = undecided(asked_router, so_far(world, "tutor", 60, failed=failed), cost_weight=500)
    assert (found.decided, found.n_answered, found.n_open) == (True, 60, 0)


def test_the_first_model_of_a_pool_is_asked_everything(world):
    router = fitted(world)
    found = [undecided(router, so_far(world, "tutor", n)) for n in (40, 80)]
    assert [each.decided for each in found] == [False, True]


def test_a_model_that_is_measured_anew_is_not_its_own_rival(world, router):
    free = so_far(world, "sage", 60, errors=np.where(np.arange(80) < 60, 0.0, np.nan), costs=np.zeros(80), prices=None)
    before = undecided(router, free, cost_weight=500)
    router.onboard(free)
    assert undecided(router, free, cost_weight=500) == before
    assert before.goes == 1


def test_of_two_models_that_are_the_same_the_first_by_name_is_taken_as_in_routing(world, asked_router):
    for name, goes in (("a-poet", 0.5), ("z-poet", 0.0)):
        twin = so_far(world, "poet", 80, name=name, tokens_in=evaluation(world, "poet").tokens_in)
        assert takes(asked_router, twin, 300).mean() == goes
        assert undecided(asked_router, twin, cost_weight=300).goes == goes


def test_checks_in_threads_agree_and_change_nothing(world, router):
    asked, before = so_far(world, "bard", 30), router.pool
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: undecided(router, asked, cost_weight=300, draws=20), range(8)))
    assert len(set(found)) == 1
    assert router.pool == before
    json.dumps(found[0].as_dict(), allow_nan=False)


def test_any_estimator_and_the_paper_s_mean_costs_will_do(world):
    for estimator in (KMeansEstimator(k=4), NeighboursEstimator(k=5)):
        router = fitted(world, estimator, cost="mean")
        for model in ("poet", "sage"):
            router.onboard(evaluation(world, model))
        assert not undecided(router, so_far(world, "tutor", 20), cost_weight=500, draws=20).decided


def test_a_model_measured_on_other_prompts_than_the_pool_can_be_checked(world, asked_router):
    sums = ValidationSet([f"What is {a} plus {b}?" for a in range(40, 50) for b in range(6)])
    errors = np.where(np.arange(60) < 30, 1.0, np.nan)
    assert undecided(asked_router, Evaluation("other", sums, errors, costs=np.full(60, 0.1)), cost_weight=1).decided


def test_imagined_answers_have_the_expected_mean_and_are_of_the_kind_seen():
    for seen in ([0, 0, 1, 0], [0.25, 0.5, 0.5, 1.0], [0, 0, 0, 0], [1, 1, 1, 1]):
        for expected in (0.1, 0.4, 0.9):
            drawn = _answers(np.full(20_000, expected), np.array(seen, float), np.random.default_rng(0))
            assert drawn.mean() == pytest.approx(expected, abs=0.015)
            assert set(drawn.tolist()) <= {0.0, 1.0, *seen}


def test_a_setting_that_makes_no_sense_is_refused(world, asked_router):
    for setting, sentence in (
        ({"share": 1.5}, "share=1.5 must be a share of the validation prompts"),
        ({"confidence": 1.0}, "give a share between 0 and 1"),
        ({"draws": 0}, "draw at least 1"),
        ({"cost_weight": -1.0}, "cost_weight=-1.0 must be a number >= 0"),
    ):
        with pytest.raises(InvalidDataError, match=sentence):
            undecided(asked_router, so_far(world, "tutor", 40), **setting)
