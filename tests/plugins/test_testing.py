"""Scripted pools: every framework's own model of LiteLLM calls them, streams them and falls back between them."""

import pytest

from unirouter_plugins.litellm import complete, record_of, stream
from unirouter_plugins.testing import ScriptedPool

SUM = "What is 14 plus 37?"


@pytest.fixture
def pool():
    """Of the world's models, a sage that knows, a poet that always fails, and others that only repeat the prompt."""
    return ScriptedPool({"sage": lambda prompt: str(14 + 37), "poet": TimeoutError("too slow")})


def test_complete_answers_by_the_script_and_the_calls_are_kept(asked_router, pool):
    response = complete(pool.serve(asked_router), SUM, models=["sage"])

    assert response.choices[0].message.content == "51"
    assert [(call.model, call.prompt) for call in pool.calls] == [("sage", SUM)]
    assert record_of(response).usd > 0  # the pool's prices


def test_a_failing_model_is_followed_by_the_next(asked_router, pool):
    answer = stream(pool.serve(asked_router), SUM, models=["poet", "sage"], cost_weight=float("inf"))

    assert "".join(chunk.choices[0].delta.content or "" for chunk in answer if chunk.choices) == "51"
    assert list(answer.record.failures) == ["poet"]
    assert [call.model for call in pool.calls] == ["poet", "sage"]


def test_models_without_a_script_repeat_the_prompt(asked_router, pool):
    assert complete(pool.serve(asked_router), "Hi.", models=["tutor"]).choices[0].message.content == "tutor: Hi."


def test_two_pools_and_the_router_itself_stay_apart(asked_router, pool):
    other = ScriptedPool({"sage": "other"})
    mine, theirs = pool.serve(asked_router), other.serve(asked_router)

    assert complete(theirs, SUM, models=["sage"]).choices[0].message.content == "other"
    assert complete(mine, SUM, models=["sage"]).choices[0].message.content == "51"
    assert "served_as" not in asked_router.pool["sage"].provenance


def test_langchain_streams_the_script(asked_router, pool):
    pytest.importorskip("langchain_litellm")
    from unirouter_plugins.langchain import RouterRunnable

    llm = RouterRunnable(router=pool.serve(asked_router))
    config = {"configurable": {"unirouter_model": "tutor"}}

    assert "".join(chunk.text for chunk in llm.stream("Two words.", config=config)) == "tutor: Two words."
    assert [call.prompt for call in pool.calls] == ["Two words."]


def test_llamaindex_completes_by_the_script(asked_router, pool):
    pytest.importorskip("llama_index.llms.litellm")
    from unirouter_plugins.llamaindex import UniRouterLLM

    assert UniRouterLLM(pool.serve(asked_router), cost_weight=0).complete(SUM).text == "51"
