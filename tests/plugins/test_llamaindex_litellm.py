"""The LLM that routes, its models called by LlamaIndex's LiteLLM: what is sent, what it costs, who is next."""

import asyncio
import sys

import pytest
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.core.query_engine import RouterQueryEngine
from llama_index.core.tools import FunctionTool, QueryEngineTool
from pydantic import BaseModel

from tests.plugins.scripted_llm import (
    POEM,
    SUM,
    dumped,
    index,
    memory,
    record,
    settings,  # noqa: F401 - a fixture
    without_record,
)
from tests.plugins.servers import KEY, breaks, refuses_the_key, says, sends
from unirouter_core import InvalidDataError, Prices
from unirouter_plugins.litellm import configured
from unirouter_plugins.litellm.failures import MissingKeyError
from unirouter_plugins.litellm.health import HEALTH
from unirouter_plugins.litellm.pool_file import Member, Members
from unirouter_plugins.llamaindex import UniRouterLLM, UniRouterSelector, record_decisions

pytestmark = [
    pytest.mark.usefixtures("settings"),
    pytest.mark.filterwarnings(
        "ignore::pydantic.warnings.PydanticDeprecatedSince20",  # LlamaIndex's workflows look at all that an agent has
        "ignore::pydantic.warnings.PydanticDeprecatedSince211",
        "ignore:Pydantic serializer warnings:UserWarning",  # LiteLLM's types, when FunctionAgent dumps raw answers
    ),
]

WEATHER = FunctionTool.from_defaults(lambda city: f"Rain in {city}.", name="weather", description="Of a city.")


class City(BaseModel):
    """A city."""

    city: str


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def routed(router, members, **how):
    """An LLM over the pool, served as `members` say: sums go to the tutor, poems to the poet."""
    return UniRouterLLM(configured(router, Members(members)), cost_weight=300, **how)


@pytest.fixture
def members(asked_router, scripted_server):
    """All models at one server, which answers to their names."""
    return {name: Member(name, f"openai/{name}", api_base=scripted_server.url) for name in asked_router.pool}


# --- What is sent ----------------------------------------------------------------------------------------------------


def test_a_model_is_called_as_it_was_measured(asked_router, members, scripted_server, monkeypatch):
    monkeypatch.setenv("TUTOR_KEY", "sk-of-the-tutor")
    own = {"temperature": 1.5, "max_tokens": 60, "seed": 3}
    members["tutor"] = Member("tutor", "openai/tutor", scripted_server.url, "TUTOR_KEY", settings=own)
    llm = routed(asked_router, members)
    llm.complete(SUM)
    llm.complete(POEM)
    tutor, poet = (scripted_server.asked(name)[0] for name in ("tutor", "poet"))
    assert {name: tutor.body[name] for name in own} == own
    assert tutor.headers["authorization"] == "Bearer sk-of-the-tutor"
    assert set(poet.body) == {"model", "messages"}  # LlamaIndex would send a temperature of its own


def test_parameters_for_all_models_win_over_those_of_one(asked_router, members, scripted_server):
    members["tutor"] = Member("tutor", "openai/tutor", scripted_server.url, settings={"temperature": 1, "seed": 3})
    llm = routed(asked_router, members, temperature=0, max_tokens=50)
    llm.chat([ChatMessage(SUM)], seed=4)
    body = scripted_server.asked("tutor")[0].body
    assert (body["temperature"], body["max_tokens"], body["seed"]) == (0, 50, 4)
    assert llm.metadata.num_output == 50


def test_the_cost_is_the_usage_at_the_table_s_prices(asked_router, members, scripted_server):
    members["tutor"] = Member("tutor", "openai/tutor", scripted_server.url, prices=Prices(10, 100))
    members = {name: members["tutor"] if name == "tutor" else member for name, member in members.items()}
    scripted_server.script["tutor"] = says("It is 51.")
    llm = routed(asked_router, members)
    answer, chunks = llm.complete(SUM, model="tutor"), list(llm.stream_complete(SUM, model="tutor"))
    assert record(answer)["usd"] == (5 * 10 + 3 * 100) / 1e6
    assert record(chunks[-1])["usd"] == record(answer)["usd"]


def test_a_model_that_is_called_otherwise_than_it_was_measured_is_told_of(asked_router, members):
    answer = routed(asked_router, members, temperature=0).complete(SUM, seed=4)
    assert record(answer)["differs"] == ["temperature is 0 and was 'not given'", "seed is 4 and was 'not given'"]
    assert record(routed(asked_router, members).complete(SUM))["differs"] == []


async def test_the_tokens_of_objects_are_known_in_streams_too(asked_router, members, scripted_server):
    scripted_server.script["tutor"] = says('{"city": "Oslo"}')
    llm, prompt = routed(asked_router, members, pydantic_program_mode="llm"), PromptTemplate("{asked}")
    with record_decisions() as told:
        llm.structured_predict(City, prompt, asked=SUM)
        await llm.astructured_predict(City, prompt, asked=SUM)
        list(llm.stream_structured_predict(City, prompt, asked=SUM))
        [part async for part in await llm.astream_structured_predict(City, prompt, asked=SUM)]
    assert [(each["tokens_in"] > 5, each["tokens_out"], each["usd"] > 0) for each in told] == [(True, 2, True)] * 4


def test_fields_of_all_llms_are_those_of_each(asked_router, members, scripted_server):
    scripted_server.script["tutor"] = says('{"city": "Oslo"}')
    llm = routed(asked_router, members, system_prompt="Be brief.", pydantic_program_mode="llm")
    assert llm.structured_predict(City, PromptTemplate("{asked}"), asked=SUM) == City(city="Oslo")
    sent = scripted_server.asked("tutor")[0].body["messages"]
    assert sent[0] == {"role": "system", "content": "Be brief."}
    assert sent[1]["content"].startswith(SUM)


def test_a_variant_is_called_with_its_own_prompt(asked_router, members, scripted_server):
    members["tutor"] = Member("tutor", "openai/tutor", scripted_server.url, template="{prompt} Think.")
    llm = routed(asked_router, members)
    assert record(llm.complete(SUM))["model"] == "tutor"
    assert scripted_server.asked("tutor")[0].prompt == f"{SUM} Think."


def test_a_table_s_folder_is_all_it_takes(router, scripted_server, tmp_path):
    router.save(tmp_path / "my.router")
    lines = [f'[models.{name}]\nmodel = "openai/{name}"\napi_base = "{scripted_server.url}"\n' for name in router.pool]
    (tmp_path / "pool.toml").write_text("\n".join(lines))
    for pool in ({}, {"pool": tmp_path / "pool.toml"}):
        llm = UniRouterLLM.from_folder(tmp_path / "my.router", **pool, cost_weight=300)
        assert llm.complete(SUM).text == "Paris."
    assert UniRouterLLM(tmp_path / "my.router", cost_weight=300).complete(SUM).text == "Paris."
    assert [seen.body["model"] for seen in scripted_server.seen] == ["tutor"] * 3
    without = UniRouterLLM.from_folder(tmp_path / "my.router", pool=None)
    assert {member.api_base for member in without._models.snapshot(without.router).members.values()} == {None}


def test_a_misspelt_parameter_is_refused_with_the_nearest(asked_router, members):
    with pytest.raises(InvalidDataError, match=r"temprature= is no parameter that LiteLLM knows; did you mean temper"):
        routed(asked_router, members, temprature=0)
    with pytest.raises(InvalidDataError, match="model= is not for the caller"):
        UniRouterLLM(configured(asked_router, members), extra_body={"model": "x"})


def test_no_key_is_shown(asked_router, members, scripted_server, monkeypatch):
    monkeypatch.setenv("TUTOR_KEY", "sk-of-the-tutor")
    members["tutor"] = Member("tutor", "openai/tutor", scripted_server.url, "TUTOR_KEY")
    scripted_server.script["tutor"] = refuses_the_key()
    llm = routed(asked_router, members, api_key="sk-for-all-of-them")
    answer = llm.complete(SUM)
    assert "AuthenticationError" in record(answer)["failures"]["tutor"]
    shown = f"{llm!r} {llm} {llm.to_json()} {llm.to_payload()} {record(answer)}"
    assert "sk-of-the-tutor" not in shown
    assert "sk-for-all-of-them" not in shown


# --- Tools -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streaming", [True, False])
async def test_an_agent_calls_tools_through_litellm(asked_router, members, scripted_server, streaming):
    scripted_server.script["tutor"] = [says(tools=[("weather", {"city": "Oslo"})]), says("It rains.")]
    llm = routed(asked_router, members)
    with record_decisions() as decisions:
        output = await FunctionAgent(tools=[WEATHER], llm=llm, streaming=streaming).run(SUM, memory=memory())
    assert str(output) == "It rains."
    assert [(decision["model"], decision["why"]) for decision in decisions] == [
        ("tutor", "routed"),
        ("tutor", "tool loop"),
    ]
    second = scripted_server.asked("tutor")[1].body
    assert [message["role"] for message in second["messages"]] == ["user", "assistant", "tool"]
    assert second["messages"][2]["content"] == "Rain in Oslo."
    assert "unirouter" not in str(second)


# --- Who is next -----------------------------------------------------------------------------------------------------


async def test_a_failing_model_is_asked_once_and_the_next_answers(asked_router, members, scripted_server):
    scripted_server.script["tutor"] = breaks(500)
    llm = routed(asked_router, members)
    answers = [llm.complete(SUM), await llm.acomplete(SUM)]
    HEALTH.store.clear()
    answers += [list(llm.stream_complete(SUM))[-1], [part async for part in await llm.astream_complete(SUM)][-1]]
    assert {record(answer)["model"] for answer in answers} == {"scholar"}
    assert {answer.text for answer in answers} == {"Paris."}
    assert len(scripted_server.asked("tutor")) == 4  # and never retried


async def test_a_response_without_an_answer_is_the_model_s_failure(asked_router, members, scripted_server):
    llm = routed(asked_router, members)
    for nothing in (sends(choices=[]), says("")):
        scripted_server.script["tutor"] = nothing
        HEALTH.store.clear()
        for answer in (llm.complete(SUM), await llm.achat([ChatMessage(SUM)])):
            assert record(answer)["model"] == "scholar"
            assert "'tutor' gave no answer" in record(answer)["failures"]["tutor"]


def test_the_last_of_the_ranking_is_retried_as_when_it_is_called_directly(asked_router, members, scripted_server):
    scripted_server.script["tutor"] = [breaks(500), says("It is 51.")]
    llm = routed(asked_router, members)
    assert llm.complete(SUM, model="tutor").text == "It is 51."


async def test_a_key_that_is_not_set_is_the_model_s_failure(asked_router, members, scripted_server, monkeypatch):
    monkeypatch.delenv("TUTOR_KEY", raising=False)
    members["tutor"] = Member("tutor", "openai/tutor", scripted_server.url, "TUTOR_KEY")
    llm = routed(asked_router, members)
    assert "TUTOR_KEY, which is not set" in record(llm.complete(SUM))["failures"]["tutor"]
    with pytest.raises(MissingKeyError, match="TUTOR_KEY"):
        await llm.acomplete(SUM, model="tutor")


def test_in_a_query_a_missing_key_is_no_empty_answer(asked_router, scripted_server, monkeypatch):
    monkeypatch.delenv("NO_KEY", raising=False)
    keyless = {name: Member(name, f"openai/{name}", scripted_server.url, "NO_KEY") for name in asked_router.pool}
    with pytest.raises(MissingKeyError, match="NO_KEY, which is not set"):
        index().as_query_engine(llm=routed(asked_router, keyless)).query(SUM)


async def test_concurrent_calls_mix_nothing(asked_router, members, scripted_server):
    for name in members:
        scripted_server.script[name] = says(lambda prompt, name=name: f"{name}: {prompt}", latency=0.02)
    llm = routed(asked_router, members)
    prompts = [(SUM if n % 2 else POEM).replace("3", str(n + 30)) for n in range(30)]
    answers = await asyncio.gather(*map(llm.acomplete, prompts))
    assert [answer.text for answer in answers] == [f"{llm.decide(p).model}: {p}" for p in prompts]
    assert [record(answer)["model"] for answer in answers] == [llm.decide(p).model for p in prompts]


def test_a_caller_may_stop_listening(asked_router, members, scripted_server):
    scripted_server.script["tutor"] = says("one two three four five")
    chunks = routed(asked_router, members).stream_complete(SUM)
    while not (part := next(chunks)).text:
        pass
    chunks.close()
    assert (record(part)["model"], record(part)["usd"]) == ("tutor", None)


def test_without_litellm_s_llm_the_cure_is_said(asked_router, monkeypatch):
    monkeypatch.setitem(sys.modules, "llama_index.llms.litellm", None)
    with pytest.raises(ImportError, match=r"pip install 'unirouter\[llamaindex\]'"):
        UniRouterLLM(asked_router)


# --- A real model ----------------------------------------------------------------------------------------------------


@pytest.fixture
def real(asked_router, llama_server):
    """Every model of the pool is the one behind llama.cpp, which gives the same answer to the same chat."""
    exact = {"temperature": 0, "max_tokens": 12, "seed": 1}
    how = {"model": f"openai/{llama_server.name}", "api_base": llama_server.url, "settings": exact}
    return routed(asked_router, {name: Member(name, **how) for name in asked_router.pool})


@pytest.fixture
def direct(real):
    return real._models.model(real._models.snapshot(real.router), "tutor")


async def test_a_real_model_answers_as_when_it_is_called_directly(real, direct):
    chat = [ChatMessage("You are a helpful assistant.", role="system"), ChatMessage("Name a colour.")]
    assert without_record(real.chat(chat)) == dumped(direct.chat(chat))
    assert without_record(await real.acomplete("Name a city.")) == dumped(await direct.acomplete("Name a city."))
    streamed = list(real.stream_chat(chat))
    assert streamed[-1].message.content == list(direct.stream_chat(chat))[-1].message.content
    assert len([part for part in streamed if part.delta]) > 3
    assert record(streamed[-1])["tokens_out"] > 3


def test_a_router_query_engine_asks_a_real_model(real, direct):
    whole = index()
    engines = [
        QueryEngineTool.from_defaults(whole.as_query_engine(llm=real), name=name, description="Shops.")
        for name in ("sage", "poet")
    ]
    response = RouterQueryEngine(UniRouterSelector(real), engines, llm=real).query("Where are umbrellas sold?")
    assert response.response == whole.as_query_engine(llm=direct).query("Where are umbrellas sold?").response
    assert "is expected to err by" in response.metadata["selector_result"].reason


async def test_queries_to_a_real_model_are_answered_as_directly(real, direct):
    whole = index()
    routed_engine, direct_engine = whole.as_query_engine(llm=real), whole.as_query_engine(llm=direct)
    response = routed_engine.query("Where are umbrellas sold?")
    assert response.response == direct_engine.query("Where are umbrellas sold?").response
    assert response.metadata["unirouter"]["tokens_in"] > 50
    streamed = await whole.as_query_engine(llm=real, streaming=True).aquery("Where are umbrellas sold?")
    assert "".join([part async for part in streamed.response_gen]) == response.response
