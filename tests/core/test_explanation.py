import json

import numpy as np
import pytest

from tests.conftest import N_FIT, evaluation
from unirouter_core.data import Evaluation, ValidationSet
from unirouter_core.exceptions import InvalidDataError, NotFittedError
from unirouter_core.pool import Capabilities
from unirouter_core.router import UniRouter

SUM = "What is 14 plus 33?"


def test_the_nearest_validation_prompt_is_the_prompt_itself(world, asked_router):
    prompt = world.prompts[N_FIT + 3]
    nearest = asked_router.explain(prompt).neighbours[0]
    assert nearest.prompt == prompt
    assert nearest.similarity == pytest.approx(1, abs=1e-3)
    assert nearest.errors == {model: world.errors[N_FIT + 3, world.column(model)] for model in asked_router.pool}


def test_neighbours_are_the_most_similar_first_and_as_many_as_requested(asked_router):
    neighbours = asked_router.explain(SUM, neighbours=7).neighbours
    similarities = [neighbour.similarity for neighbour in neighbours]
    assert len(neighbours) == 7
    assert similarities == sorted(similarities, reverse=True)
    assert all(neighbour.prompt.startswith("What is") for neighbour in neighbours)
    assert asked_router.explain(SUM, neighbours=0).neighbours == ()


def test_a_number_of_neighbours_is_not_negative(asked_router):
    with pytest.raises(InvalidDataError, match="neighbours=-1 must be >= 0"):
        asked_router.explain(SUM, neighbours=-1)


def test_models_measured_on_prompts_of_their_own_are_explained_by_those(router):
    router.onboard(Evaluation("novice", ValidationSet([SUM, "Sing."]), [1, 0], costs=[0.0, 0.0]))
    found = {neighbour.prompt: neighbour.errors for neighbour in router.explain(SUM).neighbours}
    assert found[SUM]["novice"] == 1


def test_an_answer_that_is_not_known_is_left_out(world, router):
    table = world.rows(range(N_FIT, N_FIT + 20))
    errors = [np.nan, *table.errors[1:, 0]]
    router.onboard(Evaluation("novice", ValidationSet(table.prompts), errors, costs=np.zeros(20)))
    nearest = router.explain(table.prompts[0]).neighbours[0]
    assert "poet" in nearest.errors
    assert "novice" not in nearest.errors


def test_the_decision_explained_is_the_one_that_route_makes(world, asked_router):
    for how in ({"cost_weight": 600}, {"models": ["tutor", "poet"]}, {"tokens_in": 3000, "cached_tokens": 2000}):
        explained, routed = asked_router.explain(SUM, **how).decision, asked_router.route(SUM, **how)
        assert explained.model == routed.model
        assert [row.score for row in explained.ranking] == pytest.approx([row.score for row in routed.ranking])


def test_exclusions_are_explained(world, router):
    router.onboard(evaluation(world, "coder"), capabilities=Capabilities(json=False, context_window=5))
    explained = router.explain(SUM, models=["coder", "sage"], tokens_in=6)
    reasons = {row.model: row.excluded for row in explained.decision.ranking}
    assert reasons["sage"] is None
    assert reasons["poet"] == "not among the models asked for"
    assert reasons["coder"] == "its context window of 5 tokens is less than the prompt's 6"
    assert "  its context window" in str(explained)
    assert "lacks json" in str(router.explain(SUM, requires=["json"]))


def test_a_given_vector_gives_the_same_explanation(asked_router):
    vector = asked_router.fit_.embedder.encode([SUM])[0]
    assert asked_router.explain(SUM, vector=vector).as_dict() == asked_router.explain(SUM).as_dict()


def test_as_dict_is_json(asked_router):
    read = json.loads(json.dumps(asked_router.explain(SUM, cost_weight=600).as_dict(), allow_nan=False))
    assert read["margin"] == pytest.approx(read["ranking"][1]["score"] - read["ranking"][0]["score"])
    assert read["neighbours"][0]["prompt"].startswith("What is")
    assert (
        json.loads(json.dumps(asked_router.explain(SUM, models=["sage"]).as_dict(), allow_nan=False))["margin"] is None
    )


def test_printed_it_is_a_table_of_all_models(asked_router):
    explained = asked_router.explain(SUM, cost_weight=600, neighbours=2)
    lines = str(explained).splitlines()
    assert lines[0].startswith("tutor: least error + 600 * cost (region ")
    assert lines[1].split()[:5] == ["model", "quality", "$/1,000", "score", "region"]
    ranked = [line.split() for line in lines[2:6]]
    assert [cells[0] for cells in ranked] == [row.model for row in asked_router.route(SUM, cost_weight=600).ranking]
    did = {cells[0]: cells[-3:] for cells in ranked}
    assert (did["poet"][:2], did["sage"][:2]) == (["0%", "0%"], ["100%", "100%"])  # in the region, and on the first
    assert lines[6].startswith("margin to the next: 0.")
    assert f"; answers of a model: 80, in the region {explained.in_region['sage'][1]}" in lines[6]
    assert lines[8] == "like 1 (1.00): 'What is 14 plus 33?'"
    assert len(lines) == 10


def test_printed_it_says_when_only_cost_counts_and_when_a_prompt_is_far(asked_router):
    printed = str(asked_router.explain("Übermäßig zärtliche Grüße", cost_weight=np.inf))
    assert printed.startswith("poet: least cost (region ")
    assert "far from all that was seen" in printed


def test_an_unfitted_router_and_an_empty_prompt_explain_nothing(asked_router):
    with pytest.raises(NotFittedError, match="This router is not fitted; call fit"):
        UniRouter().explain(SUM)
    with pytest.raises(InvalidDataError, match="Prompt 0 is empty"):
        asked_router.explain(" ")


def test_without_texts_neighbours_go_by_their_digests(router, tmp_path):
    router.save(tmp_path / "my.router", texts=False)
    nearest = UniRouter.load(tmp_path / "my.router").explain(SUM).neighbours[0]
    assert len(nearest.prompt) == 16
    assert int(nearest.prompt, 16) > 0


def test_prompts_that_stand_twice_are_shown_once(world, router):
    table = world.rows([N_FIT, N_FIT, N_FIT + 1])
    router.onboard(Evaluation.recorded("bard", table))
    prompts = [neighbour.prompt for neighbour in router.explain(table.prompts[0]).neighbours]
    assert len(set(prompts)) == len(prompts) == 5
