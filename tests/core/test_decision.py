import json

import numpy as np
import pytest

from tests.conftest import evaluation
from unirouter_core.data import Evaluation, ValidationSet
from unirouter_core.estimators import Prediction
from unirouter_core.exceptions import InvalidDataError, UnknownModelError
from unirouter_core.pool import Capabilities
from unirouter_core.rule import Decision, Request, check_cost_weight, choose

SUM, POEM = "What is 14 plus 33?", "Write a poem of 5 lines about the moon."


def chosen(errors, costs, cost_weight, **eligible):
    return choose(np.array([errors], np.float32), np.array([costs]), cost_weight, **eligible).tolist()[0]


def test_the_rule_is_the_least_error_plus_cost_weight_times_cost():
    # .5 + 10 * .001 = .51 against .1 + 10 * .01 = .2; at 100: .6 against 1.1.
    assert chosen([0.5, 0.1], [0.001, 0.01], 10.0) == 1
    assert chosen([0.5, 0.1], [0.001, 0.01], 100.0) == 0


def test_equal_scores_go_to_the_cheaper():
    assert chosen([0.25, 0.5, 0.75], [3.0, 2.0, 1.0], 0.25) == 2  # 1.0 each


def test_equal_scores_and_costs_go_to_the_more_accurate():
    assert chosen([0.5, 0.25], [1.0, 1.0], np.inf) == 1


def test_what_is_equal_in_all_goes_by_name(world, router):
    for name in ("twin b", "twin a"):
        table = evaluation(world, "sage")
        router.onboard(Evaluation(name, table.validation, table.errors, table.costs))
    assert router.route(SUM, models=["twin b", "twin a"]).model == "twin a"


def test_infinity_takes_the_cheapest_also_at_0_usd():
    assert chosen([0.0, 0.9, 0.8], [1e-9, 0.0, 0.0], np.inf) == 2


def test_0_takes_the_most_accurate_at_any_price():
    assert chosen([0.01, 0.02], [1e6, 0.0], 0.0) == 0


def test_rounding_of_single_precision_is_a_tie():
    assert chosen([0.3, 0.3 + 1e-7], [2.0, 1.0], 0.0) == 1


def test_only_the_eligible_are_chosen():
    assert chosen([0.0, 0.5, 0.9], [1.0, 1.0, 1.0], 0.0, eligible=np.array([False, True, True])) == 1
    assert chosen([0.0, 0.5], [0.0, 1.0], np.inf, eligible=np.array([[False, True]])) == 1


def test_a_cost_weight_is_a_number_that_is_not_negative():
    for wrong in (-1, float("nan"), "3", None, -np.inf, np.array([1.0])):
        with pytest.raises(InvalidDataError, match="must be a number >= 0"):
            check_cost_weight(wrong)


def test_a_cost_weight_may_be_any_number():
    for number in (3, 3.0, np.float32(3), np.int64(3)):
        assert check_cost_weight(number) == 3.0
        assert type(check_cost_weight(number)) is float


def test_neither_the_choice_nor_the_fallbacks_need_standard_errors(asked_router):
    def refuse():
        raise AssertionError("standard errors")

    expected = asked_router.expect([SUM])
    expected.prediction = Prediction(expected.prediction.errors, refuse)
    decision = Decision(asked_router.pool, expected, Request(cost_weight=100, models=["sage", "poet"]), np.array([9.0]))
    assert [decision.model, *decision.fallbacks()] == ["sage", "poet"]
    assert [decision.is_eligible(name) for name in ("poet", "tutor", "unknown")] == [True, False, False]
    with pytest.raises(AssertionError, match="standard errors"):
        decision.candidate("sage")


def test_a_candidate_is_its_row_of_the_ranking(asked_router):
    decision = asked_router.route(SUM, cost_weight=100, models=["sage", "poet"])
    assert tuple(decision.candidate(row.model) for row in decision.ranking) == decision.ranking
    assert [row.model for row in decision.ranking[:2]] == [decision.model, *decision.fallbacks()]
    with pytest.raises(UnknownModelError, match="'wizard' is not in the pool"):
        decision.candidate("wizard")


def test_the_ranking_is_the_rule_again_and_again(asked_router):
    for cost_weight in (0.0, 100.0, 600.0, 1e4, np.inf):
        for prompt in (SUM, POEM, "bonjour"):
            left, order = list(asked_router.pool), []
            while left:
                order.append(asked_router.route(prompt, cost_weight=cost_weight, models=left).model)
                left.remove(order[-1])
            decision = asked_router.route(prompt, cost_weight=cost_weight)
            assert [row.model for row in decision.ranking] == order
            assert order[0] == decision.model


def test_the_excluded_come_last_by_name_each_with_its_reason(world, router):
    router.onboard(evaluation(world, "coder"), capabilities=Capabilities(tools=False, vision=False))
    router.onboard(evaluation(world, "bard"), capabilities=Capabilities(context_window=3))
    decision = router.route(SUM, models=["bard", "coder", "sage", "tutor"], requires=["tools", "vision"], tokens_in=20)
    assert [row.excluded is None for row in decision.ranking] == [True, True, False, False, False, False]
    assert {row.model: row.excluded for row in decision.ranking[2:]} == {
        "bard": "its context window of 3 tokens is less than the prompt's 20",
        "coder": "lacks tools, vision",
        "poet": "not among the models asked for",
        "scholar": "not among the models asked for",
    }
    assert [row.model for row in decision.ranking[2:]] == ["bard", "coder", "poet", "scholar"]


def test_a_ranked_candidate_has_its_numbers(asked_router):
    decision = asked_router.route(SUM, cost_weight=100)
    first = decision.ranking[0]
    assert (first.model, first.error, first.cost) == (decision.model, decision.error, decision.cost)
    assert first.score == pytest.approx(first.error + 100 * first.cost)
    assert (first.n, first.excluded) == (80, None)
    assert 0 < first.stderr < 0.5


def test_the_score_is_the_cost_when_only_cost_counts(asked_router):
    assert all(row.score == row.cost for row in asked_router.route(SUM, cost_weight=np.inf).ranking)


def test_the_margin_is_to_the_next_in_the_ranking(asked_router):
    decision = asked_router.route(SUM, cost_weight=100)
    assert decision.margin == pytest.approx(decision.ranking[1].score - decision.ranking[0].score)
    assert asked_router.route(SUM, models=["sage"]).margin == np.inf


def test_a_decision_is_json(asked_router):
    read = json.loads(
        json.dumps(asked_router.route(SUM, cost_weight=np.inf, models=["poet"]).as_dict(), allow_nan=False)
    )
    assert (read["model"], read["cost_weight"]) == ("poet", "inf")
    assert [row["model"] for row in read["ranking"]] == ["poet", "sage", "scholar", "tutor"]


def test_a_decision_shows_its_numbers(asked_router):
    assert repr(asked_router.route(POEM, cost_weight=600)).startswith("Decision(model='poet', error=0.")


def test_decisions_are_the_single_decisions_by_position(world, asked_router):
    decisions = asked_router.route_batch(world.prompts[:9], cost_weight=300)
    assert len(decisions) == len(list(decisions)) == 9
    assert [decision.model for decision in decisions] == decisions.models
    assert decisions[-1].model == decisions[8].model == decisions.models[8]
    with pytest.raises(IndexError, match="There are 9 decisions; 9 is none of them"):
        decisions[9]


def test_shares_count_every_model_of_the_pool(world, asked_router):
    decisions = asked_router.route_batch(world.prompts, cost_weight=np.inf)
    assert decisions.shares == {"poet": 1.0, "sage": 0.0, "scholar": 0.0, "tutor": 0.0}


def test_decisions_stay_those_of_their_pool(world, router):
    decisions = router.route_batch(world.prompts, models=["sage", "poet"])
    before = decisions.models
    router.retire("sage")
    assert [decision.model for decision in decisions] == before


def test_a_far_prompt_pulls_errors_to_the_overall_error_and_is_less_sure(asked_router):
    near, far = asked_router.route(SUM), asked_router.route("Übermäßig zärtliche Grüße")
    assert (near.far, far.far) == (0, pytest.approx(1, abs=0.05))
    for row in far.ranking:
        assert row.error == pytest.approx(asked_router.pool[row.model].error, abs=0.02)
        assert row.stderr >= 0.09
        assert row.stderr > next(same.stderr for same in near.ranking if same.model == row.model)


def test_how_unsure_a_far_prompt_is_follows_how_models_differ_between_kinds(asked_router):
    stderrs = {row.model: row.stderr for row in asked_router.route("Übermäßig zärtliche Grüße").ranking}
    assert stderrs["poet"] > 0.5  # it is right on all poems and wrong on all sums
    assert stderrs["sage"] < 0.2


def test_a_validation_set_of_one_kind_still_routes(router):
    validation = ValidationSet(["one and one?", "two and two?"])
    router.onboard(Evaluation("novice", validation, [0, 1], costs=[0.0, 0.0]))
    assert router.route(SUM, cost_weight=np.inf).model == "novice"


def test_names_may_come_as_any_sequence():
    for names in (["a", "b"], ("a", "b"), np.array(["a", "b"]), {"a": 1, "b": 2}.keys()):
        assert list(Request(models=names).models) == ["a", "b"]
    assert list(Request(models=()).models) == []
