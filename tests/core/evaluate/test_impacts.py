"""What an onboarded model changes, and whether it is worth it."""

import json

import numpy as np
import pytest

from tests.conftest import N_FIT, evaluation, fitted, is_sum
from unirouter_core import Evaluation, InvalidDataError, Outcomes, UniRouter, UnknownModelError, ValidationSet
from unirouter_core.display import weight
from unirouter_core.estimators import ShrunkenClustersEstimator
from unirouter_core.evaluate import held_out, impact, standings


def newcomer(world, errors, costs):
    """A model with these errors and USD on the validation prompts of the world."""
    return Evaluation("newcomer", evaluation(world, "sage").validation, errors, np.broadcast_to(costs, 80))


def test_a_model_that_alone_does_one_kind_of_prompt_cheaply_takes_that_kind(world, asked_router):
    found = impact(asked_router, "poet", cost_weight=300)
    poems = [prompt for prompt in world.prompts[N_FIT:] if not is_sum(prompt)]
    assert found.kind == "worth it"
    assert sorted(found.moved) == sorted(poems)
    assert sum(found.moved_from.values()) == len(poems)
    assert list(found.moved_from.values()) == sorted(found.moved_from.values(), reverse=True)
    assert found.score.interval[1] < 0
    assert found.cost.after < found.cost.before
    assert found.level == "pays"
    assert found.verdict.startswith(f"poet pays: at cost_weight 300 it takes {len(poems)} of 80 prompts")


def test_each_model_stands_by_its_share_and_by_what_the_pool_is_worth_without_it(world, router):
    found = standings(held_out(router), 300)
    assert sum(share for share, _ in found.values()) == pytest.approx(1)
    assert found["poet"][1] == "pays"
    assert {word for share, word in found.values() if not share} <= {"never chosen"}
    for model in [model for model in router.pool if model != "sage"]:
        router.retire(model)
    assert standings(held_out(router), 300) == {"sage": (1.0, "the only model")}


def test_before_is_what_the_pool_without_the_model_gives_and_after_what_it_gives_with_it(world, router):
    found = impact(router, "poet", cost_weight=300)
    held = held_out(router)
    after = held.outcome(held.chosen(300))
    router.retire("poet")
    held = held_out(router)
    before = held.outcome(held.chosen(300))
    for change, column in ((found.quality, [1 - before[0], 1 - after[0]]), (found.cost, [before[1], after[1]])):
        assert (change.before, change.after) == pytest.approx(tuple(np.mean(column, axis=1)))
        assert change.interval[0] <= change.after - change.before <= change.interval[1]
    assert found.score.after == pytest.approx(1 - found.quality.after + 300 * found.cost.after)


def test_the_prompts_that_gain_the_most_come_first(world, router):
    found = impact(router, "poet", cost_weight=300)
    with_it = router.route_batch(found.moved, cost_weight=300)
    router.retire("poet")
    without = router.route_batch(found.moved, cost_weight=300)
    gains = (without.errors + 300 * without.costs) - (with_it.errors + 300 * with_it.costs)
    assert np.all(np.diff(gains) < 0.01)  # the vectors that are kept have half the digits


def test_a_model_that_another_beats_everywhere_is_never_chosen_and_the_verdict_names_it(world, router):
    sage = evaluation(world, "sage")
    router.onboard(newcomer(world, np.maximum(sage.errors, np.arange(80) % 2), 2 * sage.costs))
    found = impact(router, "newcomer", cost_weight=10)
    assert (found.kind, found.moved, found.moved_from) == ("never chosen", (), {})
    assert (found.dominated_by, found.dominated_share, found.chosen_at) == ("sage", 1.0, ())
    assert found.verdict.endswith("sage is expected to be as accurate and no dearer on 100% of 80 prompts.")
    assert found.level == "does not pay"
    assert found.quality.before == found.quality.after


def test_a_model_too_dear_now_says_at_which_cost_weights_it_would_be_chosen(asked_router):
    found = impact(asked_router, "sage", cost_weight=10_000)
    assert found.kind == "never chosen"
    ((low, high),) = found.chosen_at
    assert (low, found.dominated_by) == (0, None)
    assert f"it is chosen for some below {weight(high)}." in found.verdict
    assert impact(asked_router, "sage", cost_weight=0.98 * high).moved
    assert not impact(asked_router, "sage", cost_weight=1.02 * high).moved


def test_a_model_between_two_others_is_chosen_between_two_cost_weights(asked_router):
    ((low, high),) = impact(asked_router, "tutor", cost_weight=0).chosen_at
    assert 0 < low < high < np.inf
    chosen = [bool(impact(asked_router, "tutor", cost_weight=at).moved) for at in (0.98 * low, 1.02 * low, 1.02 * high)]
    assert chosen == [False, True, False]


def test_a_cheap_model_is_chosen_above_some_cost_weight(world, router):
    router.onboard(evaluation(world, "clerk"))
    found = impact(router, "clerk", cost_weight=0)
    ((low, high),) = found.chosen_at
    assert high == np.inf
    assert f"another model's expected error is lower; it is chosen for some above {weight(low)}." in found.verdict
    assert "At cost_weight 0, cost is ignored" in found.verdict
    assert impact(router, "clerk", cost_weight=1.02 * low).moved


def test_a_model_that_luck_alone_recommends_is_not_worth_it():
    rng = np.random.default_rng(3)
    prompts = [f"{word} number {n}" for n in range(30) for word in ("red", "green", "blue", "black", "white", "grey")]
    coins = (rng.random((180, 2)) < 0.5).astype(float)
    table = Outcomes(prompts, ["heads", "tails"], coins, np.ones((180, 2)))
    router = UniRouter(estimator=ShrunkenClustersEstimator(), n_regions=4).fit([f"{prompt}?" for prompt in prompts])
    for model in table.models:
        router.onboard(Evaluation.recorded(model, table))
    verdicts = [impact(router, model) for model in table.models]
    unlucky = [found for found in verdicts if found.kind == "not worth it"]
    assert unlucky
    assert unlucky[0].moved
    assert unlucky[0].score.after >= unlucky[0].score.before
    assert unlucky[0].level != "pays"


def test_a_gain_that_may_be_chance_is_said_to_be(asked_router):
    chance, sure = (impact(asked_router, model, cost_weight=300) for model in ("tutor", "poet"))
    assert (chance.kind, sure.kind) == ("worth it", "worth it")
    assert chance.score.interval[0] < 0 < chance.score.interval[1]
    assert (chance.level, sure.level) == ("about even", "pays")
    assert chance.verdict.endswith(", which may be chance.")


def test_the_first_model_of_a_pool_is_the_only_one(world):
    router = fitted(world)
    router.onboard(evaluation(world, "tutor"))
    found = impact(router, "tutor")
    assert (found.kind, len(found.moved), found.moved_from) == ("the only model", 80, {})
    assert (found.quality.before, found.quality.interval) == (None, None)
    assert found.quality.after == pytest.approx(1 - evaluation(world, "tutor").error)
    assert "it is the only model, and gives quality" in found.verdict


def test_without_shared_prompts_the_numbers_are_expectations_and_said_to_be(world, router):
    own = [f"What is {a} plus {b}?" for a in range(40, 45) for b in range(6)]
    router.onboard(Evaluation("adder", ValidationSet(own), np.zeros(30), costs=np.zeros(30)))
    found = impact(router, "adder", cost_weight=300)
    assert (found.measured, found.n, found.n_judged) == (False, 30, 30)
    assert found.kind == "worth it"
    assert found.moved == tuple(dict.fromkeys(found.moved))
    assert "These are expectations: measurements need 20" in found.verdict
    assert "they share 0." in found.verdict


def test_the_answers_that_are_shared_count_and_not_the_prompts(world, router):
    twin = evaluation(world, "tutor")
    few = np.where(np.arange(80) < 19, twin.errors, np.nan)
    router.onboard(newcomer(world, few, twin.costs))
    assert "they share 19." in impact(router, "newcomer", cost_weight=300).verdict
    few = np.where(np.arange(80) < 20, twin.errors, np.nan)
    router.onboard(newcomer(world, few, twin.costs), replace=True)
    assert impact(router, "newcomer", cost_weight=300).n_judged == 20


def test_at_an_infinite_cost_weight_the_cheapest_is_worth_it(asked_router):
    found = impact(asked_router, "poet", cost_weight=np.inf)
    assert (found.kind, len(found.moved)) == ("worth it", 80)
    assert found.score == found.cost
    assert "all from" in found.verdict or "most from" in found.verdict
    assert found.as_dict()["cost_weight"] == "inf"


def test_every_impact_is_json(asked_router):
    for cost_weight in (0, 300, 10_000, np.inf):
        for model in ("poet", "sage", "tutor", "scholar"):
            found = impact(asked_router, model, cost_weight=cost_weight, trials=20)
            assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["verdict"] == found.verdict


def test_prompts_whose_text_is_not_kept_go_by_their_digest(world, router, tmp_path):
    texts = impact(router, "poet", cost_weight=300).moved
    router.save(tmp_path / "my.router", texts=False)
    moved = impact(UniRouter.load(tmp_path / "my.router"), "poet", cost_weight=300).moved
    assert len(moved) == len(texts)
    assert not set(moved) & set(texts)


def test_a_model_that_is_not_onboarded_is_refused(asked_router):
    with pytest.raises(UnknownModelError, match="'bard' is not in the pool"):
        impact(asked_router, "bard")


def test_a_setting_that_makes_no_sense_is_refused(asked_router):
    for setting, sentence in (
        ({"level": 1.0}, "give a share between 0 and 1"),
        ({"trials": 0}, "draw at least 1"),
        ({"cost_weight": -1.0}, "cost_weight=-1.0 must be a number >= 0"),
    ):
        with pytest.raises(InvalidDataError, match=sentence):
            impact(asked_router, "poet", **setting)
