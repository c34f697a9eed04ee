"""Batches of rows, of any kind and by any framework, get the models that the router chooses."""

import dataclasses

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from tests.conftest import THINGS
from unirouter_core import InvalidDataError, NoCandidateError
from unirouter_core.pool import Capabilities, Pool
from unirouter_plugins.litellm import read_members
from unirouter_plugins.ray import RouteBatch
from unirouter_plugins.ray.routing import COLUMNS

PROMPTS = ["What is 8 plus 3?", f"Write a poem of 3 lines about {THINGS[0]}."]
BAD = [None, 3, "", "  \n", float("nan")]


@pytest.fixture
def folder(router, tmp_path):
    router.save(tmp_path / "some.router")
    return tmp_path / "some.router"


KINDS = {
    "numpy": (lambda rows: {name: np.array(each, object) for name, each in rows.items()}, lambda c: c.tolist()),
    "pandas": (pd.DataFrame, lambda column: [None if pd.isna(value) else value for value in column]),
    "pyarrow": (pa.table, lambda column: column.to_pylist()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_comes_back_in_its_kind_with_the_decisions_of_route_batch(router, kind):
    make, values = KINDS[kind]
    batch = make({"id": [1, 2], "prompt": PROMPTS})
    done, made = RouteBatch(router, cost_weight=600)(batch), router.route_batch(PROMPTS, cost_weight=600)
    assert type(done) is type(batch)
    assert values(done["id"]) == [1, 2]
    assert values(done["unirouter_model"]) == made.models
    np.testing.assert_array_equal(values(done["expected_error"]), made.errors)
    np.testing.assert_array_equal(values(done["expected_usd"]), made.costs)
    assert values(done["error"]) == [None, None]


@pytest.mark.parametrize("kind", ["numpy", "pandas"])
def test_a_bad_row_has_a_sentence_and_fails_nothing(router, kind):
    make, values = KINDS[kind]
    done = RouteBatch(router)(make({"prompt": [*BAD, *PROMPTS]}))
    why = values(done["error"])
    assert all(sentence.startswith("The prompt is ") for sentence in why[:5])
    assert why[5:] == [None, None]
    assert np.isnan(np.array(done["expected_usd"], float)).tolist() == [True] * 5 + [False] * 2


def test_a_prompt_that_no_model_may_answer_has_the_sentence_that_route_raises(router):
    tight = {n: dataclasses.replace(p, capabilities=Capabilities(context_window=50)) for n, p in router.pool.items()}
    router = router.with_pool(Pool(tight))
    done = RouteBatch(router)({"prompt": [PROMPTS[0], "word " * 100, PROMPTS[1]] * 3})
    assert [why is None for why in done["error"]] == [True, False, True] * 3
    with pytest.raises(NoCandidateError) as refused:
        router.route("word " * 100)
    assert done["error"][1] == str(refused.value)


def test_refused_prompts_cost_one_more_routing_of_the_rest_and_not_one_each(router):
    tight = {n: dataclasses.replace(p, capabilities=Capabilities(context_window=50)) for n, p in router.pool.items()}
    router = router.with_pool(Pool(tight))
    seen, route, route_batch = [], RouteBatch(router), router.route_batch
    router.route_batch = lambda prompts, **how: seen.append(len(prompts)) or route_batch(prompts, **how)
    route.route([PROMPTS[0], "word " * 100] * 16)
    assert seen == [32, 16]


def test_options_that_leave_no_model_are_one_sentence_at_once(router):
    with pytest.raises(NoCandidateError, match="not among the models asked for"):
        RouteBatch(router, models=[])
    with pytest.raises(NoCandidateError, match="The pool holds no model"):
        RouteBatch(router.with_pool(Pool({})))


@pytest.mark.parametrize("make", [pa.table, pd.DataFrame, dict], ids=["pyarrow", "pandas", "dict"])
def test_a_chat_is_routed_by_its_users_newest_text(router, make):
    chats = [[{"role": "system", "content": "Be brief."}, {"role": "user", "content": prompt}] for prompt in PROMPTS]
    done = RouteBatch(router, prompt="messages")(make({"messages": chats}))
    assert list(map(str, done["unirouter_model"])) == router.route_batch(PROMPTS).models


@pytest.mark.parametrize("parts", [list, np.array], ids=["lists", "arrays"])
def test_a_chat_of_parts_is_routed_by_their_text_whatever_lists_it_has(router, parts):
    chats = [np.array([{"role": "user", "content": parts([{"type": "text", "text": p}])}]) for p in PROMPTS[:2]]
    assert [each.model for each in RouteBatch(router).route(chats)] == router.route_batch(PROMPTS[:2]).models


@pytest.mark.parametrize("depth", [600, 940, 5_000])
def test_a_value_of_any_depth_is_no_text(router, depth):
    value = []
    for _ in range(depth):
        value = [value]
    assert RouteBatch(router).route([value])[0].error == "The prompt is of type list, not a text; make it one."


def test_the_sentence_on_a_value_that_is_no_text_does_not_quote_it(router):
    (routed,) = RouteBatch(router).route([{"secret": "of a user"}])
    assert routed.error == "The prompt is of type dict, not a text; make it one."


def test_a_pool_beside_a_router_that_is_no_folder_is_refused(router):
    with pytest.raises(InvalidDataError, match="leave pool= out"):
        RouteBatch(router, pool=None)


def test_an_empty_batch_has_the_columns(router):
    assert RouteBatch(router)(pa.table({"prompt": pa.array([], pa.string())})).column_names == ["prompt", *COLUMNS]


def test_columns_of_an_earlier_routing_are_replaced_and_others_are_not(router):
    route = RouteBatch(router)
    once = route({"prompt": PROMPTS})
    assert list(route(once)) == list(once)
    with pytest.raises(InvalidDataError, match="a column 'error', which would be overwritten; rename or drop it"):
        route({"prompt": PROMPTS, "error": [0, 1]})
    with pytest.raises(InvalidDataError, match="no column 'prompt'; name that of the prompts, of 'text'"):
        route({"text": PROMPTS})


def test_a_batch_tariff_is_what_costs_are_in_a_batch(folder):
    table = folder.parent / "pool.toml"
    table.write_text('[models.poet]\nmodel = "openai/gpt-4.1-nano"\nprices = { input = 1, output = 2, batch = 0.5 }\n')
    half = RouteBatch(folder, models=["poet"])({"prompt": PROMPTS})
    table.write_text(table.read_text().replace(", batch = 0.5", ""))
    whole = RouteBatch(folder, models=["poet"])({"prompt": PROMPTS})
    np.testing.assert_allclose(half["expected_usd"], whole["expected_usd"] / 2)
    assert read_members(table)["poet"].batch == 1
