"""RouterRunnable: who is asked and why, who is next, what may be set for one call, and what it says when it cannot."""

import asyncio
import dataclasses
import importlib
import json
import pickle
import subprocess
import sys
import threading
from contextlib import aclosing, closing

import pytest
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import ConfigurableField, RunnableLambda, RunnableParallel
from langchain_litellm import ChatLiteLLM
from pydantic import BaseModel

from tests.conftest import evaluation, fitted
from tests.plugins.scripted_chat import ScriptedChat, chats, last_of, record
from unirouter_core import InvalidDataError, NoCandidateError, UnknownModelError
from unirouter_plugins.langchain import (
    RouterRunnable,
    UniRouterMiddleware,
    last_decision,
    model_selector,
    record_decisions,
)
from unirouter_plugins.langchain.pool_models import ChatModels
from unirouter_plugins.litellm import configured
from unirouter_plugins.litellm.pool_file import Member, Members

SUM, POEM = "What is 14 plus 37?", "Write a poem of 3 lines about the rain."
WEIGHT = 300
"""At it a poem goes to the poet and a sum does not."""


def router_of(router, **instead):
    return RouterRunnable(router, chats(router, **instead), cost_weight=WEIGHT)


@pytest.fixture
def llm(asked_router):
    return router_of(asked_router)


class Person(BaseModel):
    """Somebody."""

    name: str
    born: int


# --- Who is asked -----------------------------------------------------------------------------------------------------


def test_a_prompt_goes_to_the_model_that_the_router_picks(llm, asked_router):
    for prompt in (SUM, POEM):
        picked = asked_router.route(prompt, cost_weight=WEIGHT).model
        assert llm.invoke(prompt).text == f"{picked} heard: {prompt}"
    assert llm.decide(SUM).model != llm.decide(POEM).model == "poet"


def test_every_answer_says_who_gave_it_why_and_what_it_cost(llm, asked_router):
    answer = llm.invoke(POEM)
    prices, usage, said = asked_router.pool["poet"].prices, answer.usage_metadata, record(answer)
    decision = llm.decide(POEM)
    assert (said["model"], said["why"], said["failures"]) == ("poet", "routed", {})
    assert said["usd"] == pytest.approx(prices.cost(usage["input_tokens"], usage["output_tokens"]))
    assert (said["expected_error"], said["expected_usd"]) == (decision.error, decision.cost)
    assert json.loads(json.dumps(said)) == said
    assert len(json.dumps(said)) < 600


def test_a_model_that_joins_later_is_asked_through_litellm(world):
    router = fitted(world, cost_weight=WEIGHT)
    router.onboard(evaluation(world, "poet"))
    llm = RouterRunnable(router)
    router.onboard(evaluation(world, "scholar"))
    assert {row.model for row in llm.decide(SUM).ranking} == {"poet", "scholar"}
    router.retire("poet")
    router.cost_weight = 7
    assert llm.decide(SUM).model == "scholar"
    assert llm.decide(SUM).cost_weight == 7


def test_a_litellm_model_is_called_as_the_table_says_and_with_the_router_s_settings(asked_router, monkeypatch):
    monkeypatch.setenv("HOME_KEY", "not-a-secret")
    member = Member("poet", "openai/rhyme", "http://127.0.0.1:9/v1", "HOME_KEY", settings={"temperature": 0, "seed": 7})
    llm = RouterRunnable(configured(asked_router, Members({"poet": member})), max_tokens=50, timeout=3)
    models = ChatModels(llm.router, None, llm.settings)
    model = models.model(models.snapshot(llm.router), "poet")
    assert isinstance(model, ChatLiteLLM)
    assert (model.model, model.api_base, model.api_key) == ("openai/rhyme", "http://127.0.0.1:9/v1", "not-a-secret")
    assert (model.temperature, model.max_tokens) == (0, 50)
    assert model.model_kwargs == {"seed": 7, "timeout": 3}
    assert "not-a-secret" not in repr(RouterRunnable(llm.router, api_key="not-a-secret"))


def test_only_the_last_model_of_the_ranking_is_asked_again(asked_router):
    models = ChatModels(asked_router, None, {"max_retries": 3, "num_retries": 2, "timeout": 9})
    last, other = (models.make({"model": "openai/rhyme"}, is_last=is_last) for is_last in (True, False))
    assert (last.max_retries, last.model_kwargs) == (3, {"num_retries": 2, "timeout": 9})
    assert (other.max_retries, other.model_kwargs) == (1, {"num_retries": 0, "max_retries": 0, "timeout": 9})


def test_the_record_says_what_a_model_was_not_measured_with(asked_router):
    members = {name: Member(name, f"openai/{name}", settings={"mock_response": "51"}) for name in asked_router.pool}
    llm = RouterRunnable(configured(asked_router, Members(members)), temperature=0.5)
    assert record(llm.invoke(SUM, max_tokens=9))["differs"] == [
        "temperature is 0.5 and was 'not given'",
        "max_tokens is 9 and was 'not given'",
    ]


def test_a_variant_is_called_with_its_prompt_around_the_user_s(asked_router):
    member = Member("poet", "openai/rhyme", template="{prompt} Rhyme.", settings={"mock_response": "Drops, stops."})
    llm = RouterRunnable(configured(asked_router, Members({"poet": member})), cost_weight=WEIGHT)
    answer = llm.invoke(POEM, model="poet")
    assert answer.text == "Drops, stops."
    assert answer.response_metadata["model_name"].startswith("unirouter/poet@")
    plain = RouterRunnable(asked_router, cost_weight=WEIGHT)
    chat = [("system", "Be brief."), ("user", POEM)]
    assert cost_of(llm, "poet", chat) > cost_of(plain, "poet", chat)


def test_a_variant_passes_on_the_parameters_that_only_its_model_knows(asked_router):
    member = Member("poet", "openai/gpt-5", template="{prompt} Rhyme.", settings={"mock_response": "Drops, stops."})
    llm = RouterRunnable(configured(asked_router, Members({"poet": member})))
    assert llm.invoke(POEM, model="poet", reasoning_effort="low").text == "Drops, stops."


def cost_of(llm, model, asked, config=None):
    return next(row.cost for row in llm.decide(asked, config).ranking if row.model == model)


# --- What may be set for one call -------------------------------------------------------------------------------------


def ask(llm, **configurable):
    return record(llm.invoke(SUM, config={"configurable": {f"unirouter_{n}": v for n, v in configurable.items()}}))


def test_for_one_call_a_model_the_candidates_and_the_cost_weight_can_be_set(llm):
    assert (ask(llm, model="poet")["model"], ask(llm, model="poet")["why"]) == ("poet", "forced")
    assert ask(llm, models=["poet", "sage"])["model"] in ("poet", "sage")
    assert ask(llm, cost_weight=0)["cost_weight"] == 0
    assert ask(llm, cost_weight=0)["model"] == llm.router.route(SUM, cost_weight=0).model
    assert ask(llm, cost_weight=float("inf"))["model"] == "poet"
    assert ask(llm)["cost_weight"] == WEIGHT


def test_a_model_named_as_a_parameter_is_the_one_that_answers(llm):
    assert record(llm.invoke(SUM, model="scholar"))["model"] == "scholar"


def test_a_forced_model_that_fails_is_followed_by_nobody(asked_router):
    down = router_of(asked_router, poet={"failure": TimeoutError("slow")})
    with pytest.raises(TimeoutError, match="slow"):
        ask(down, model="poet")


def test_what_is_set_for_a_chain_holds_inside_it(llm):
    chain = (ChatPromptTemplate.from_template("{x}") | llm).with_config(configurable={"unirouter_model": "poet"})
    assert record(chain.invoke({"x": SUM}))["model"] == "poet"
    assert "unirouter_cost_weight" in {spec.id for spec in chain.config_specs}


def test_pinned_documents_and_the_system_text_are_read_when_the_user_says_so(asked_router):
    llm, follow_up = router_of(asked_router), [("system", POEM), ("user", "And again.")]
    pinned = {"configurable": {"unirouter_documents": [Document(POEM)]}}
    reads = RouterRunnable(asked_router, chats(asked_router), cost_weight=WEIGHT, reads_system=True)
    alone, both = (errors(asked_router.route(text)) for text in ("And again.", f"{POEM}\n\nAnd again."))
    assert errors(llm.decide(follow_up)) == alone != both
    assert errors(llm.decide("And again.", pinned)) == errors(reads.decide(follow_up)) == both


def test_pinned_documents_are_read_and_not_paid_for(llm):
    contract = {"configurable": {"unirouter_documents": ["The tenant pays. " * 500]}}
    for asked in (SUM, [("system", "Be brief."), ("user", SUM)]):
        costs = [cost_of(llm, "sage", asked, config) for config in ({}, contract)]
        assert costs[1] == pytest.approx(costs[0], rel=0.05)


def test_a_router_fitted_with_documents_reads_them_as_such(world):
    texts = [[f"Page {row} of the manual."] for row in range(len(world))]
    table = dataclasses.replace(world, documents=texts)
    router = fitted(table)
    for model in ("poet", "sage"):
        router.onboard(evaluation(table, model))
    pinned = {"configurable": {"unirouter_documents": [Document(POEM)]}}
    llm = router_of(router)
    assert errors(llm.decide(SUM, pinned)) == errors(router.route(SUM, documents=[POEM]))
    assert errors(llm.decide(SUM, pinned)) != errors(router.route(f"{POEM}\n\n{SUM}"))
    assert errors(llm.decide(SUM)) == errors(router.route(SUM))


def test_a_schema_is_paid_for_with_a_prompt_alone_too(llm):
    shape = {"type": "json_schema", "json_schema": {"name": "wide", "description": "Very. " * 300}}
    prices = llm.router.pool["sage"].prices
    held = llm.decide(SUM, response_format=shape)
    more = next(row.cost for row in held.ranking if row.model == "sage") - cost_of(llm, "sage", SUM)
    assert more > 300 * prices.input / 1e6


def test_a_system_text_that_is_alone_is_read_once(asked_router):
    reads = RouterRunnable(asked_router, chats(asked_router), reads_system=True)
    assert errors(reads.decide([("system", POEM)])) == errors(reads.decide(POEM))


def errors(decision):
    return {row.model: row.error for row in decision.ranking}


@pytest.mark.parametrize(
    ("configurable", "message"),
    [
        (
            {"unirouter_weight": 1},
            "unirouter_weight is not known under 'configurable'; there are unirouter_cost_weight",
        ),
        ({"unirouter_documents": "one"}, "'one' is one document; put it in a list"),
        ({"unirouter_documents": [3]}, "3 is no document"),
        ({"unirouter_models": "poet"}, "'poet' is one name, not a list"),
        ({"unirouter_cost_weight": -1}, "cost_weight=-1 must be a number >= 0"),
    ],
)
def test_what_cannot_be_set_is_said(llm, configurable, message):
    with pytest.raises(InvalidDataError, match=message):
        llm.invoke(SUM, config={"configurable": configurable})


def test_a_model_that_is_not_in_the_pool_cannot_be_asked(llm):
    with pytest.raises(UnknownModelError, match="'gpt-4' is not in the pool"):
        ask(llm, model="gpt-4")


# --- What models can do -----------------------------------------------------------------------------------------------

IMAGE = HumanMessage([{"type": "text", "text": SUM}, {"type": "image", "url": "https://example.org/a.png"}])
ADD = {"type": "function", "function": {"name": "plus", "parameters": {"type": "object", "properties": {}}}}


@pytest.mark.parametrize(
    ("lacks", "call"),
    [
        ("tool_calling", lambda llm: llm.bind_tools([ADD]).invoke(SUM)),
        ("image_inputs", lambda llm: llm.invoke([IMAGE])),
        (
            "structured_output",
            lambda llm: llm.with_structured_output(Person, method="json_mode", include_raw=True).invoke(SUM)["raw"],
        ),
    ],
)
def test_a_chat_model_that_says_it_cannot_is_not_asked(asked_router, lacks, call):
    models = chats(asked_router)
    for name in ("sage", "scholar", "poet"):
        models[name].profile = {lacks: False}
    assert record(call(RouterRunnable(asked_router, models)))["model"] == "tutor"
    models["tutor"].profile = {lacks: False}
    with pytest.raises(NoCandidateError, match="No model may answer this prompt"):
        call(RouterRunnable(asked_router, models))


def test_the_profile_is_what_all_models_can_do(asked_router):
    models = chats(asked_router)
    assert not RouterRunnable(asked_router, models).profile
    for window, model in enumerate(models.values(), 1):
        model.profile = {"tool_calling": True, "image_inputs": window > 1, "max_input_tokens": 1000 * window}
    models["sage"].profile = {**models["sage"].profile, "reasoning_output": True}
    profile = RouterRunnable(asked_router, models).profile
    assert profile == {"tool_calling": True, "image_inputs": False, "max_input_tokens": 1000}


def test_tokens_are_counted_without_a_tokenizer_of_another_package(llm):
    assert llm.get_num_tokens("one two three") == 3
    alone = llm.get_num_tokens_from_messages([HumanMessage("one two three")])
    assert 3 < alone < llm.get_num_tokens_from_messages([HumanMessage("one two three")], tools=[ADD])


# --- Where decisions are found ----------------------------------------------------------------------------------------


def test_the_last_decision_is_that_of_a_parsed_answer(llm):
    parsed = llm.with_structured_output(Person)
    assert isinstance(parsed.invoke("Ada, 1815"), Person)
    assert last_decision()["model"] == llm.decide("Ada, 1815").model
    list(parsed.stream(POEM))
    assert last_decision()["model"] == llm.decide(POEM).model


@pytest.mark.parametrize("include_raw", [False, True])
@pytest.mark.parametrize("door", ["invoke", "ainvoke", "stream", "astream"])
def test_the_record_of_a_parsed_answer_says_what_it_cost(llm, door, include_raw):
    parsed, asked = llm.with_structured_output(Person, include_raw=include_raw), "Ada, 1815"
    ask = {
        "invoke": lambda: parsed.invoke(asked),
        "ainvoke": lambda: asyncio.run(parsed.ainvoke(asked)),
        "stream": lambda: list(parsed.stream(asked)),
        "astream": lambda: asyncio.run(last_of(parsed.astream(asked))),
    }
    with record_decisions() as decisions:
        ask[door]()
    prices = llm.router.pool[decisions[0]["model"]].prices
    assert [decision["usd"] for decision in decisions] == [pytest.approx(prices.cost(2, 1))]


async def test_the_last_decision_is_the_task_s_own(llm):
    parsed = llm.with_structured_output(Person)

    async def one(model):
        await parsed.ainvoke(SUM, {"configurable": {"unirouter_model": model}})
        await asyncio.sleep(0)
        return last_decision()["model"]

    models = list(llm.router.pool) * 5
    assert await asyncio.gather(*map(one, models)) == models


def test_the_last_decision_is_never_an_older_one(llm):
    llm.invoke(SUM)
    assert last_decision()["model"] == llm.decide(SUM).model
    (RunnableLambda(str) | llm).invoke(POEM)
    with pytest.raises(LookupError, match="with record_decisions"):
        last_decision()


def test_decisions_of_chains_and_threads_are_collected(llm):
    chain = RunnableParallel(a=llm.with_structured_output(Person), b=RunnableLambda(lambda x: POEM) | llm)
    with record_decisions() as outer, record_decisions() as decisions:
        chain.invoke(SUM)
    llm.invoke(SUM)
    assert {each["model"] for each in decisions} == {llm.decide(SUM).model, "poet"}
    assert outer == decisions


def test_a_stream_that_is_stopped_is_recorded_once(llm):
    async def begin(streamed):
        async with aclosing(streamed) as parts:
            async for _ in parts:
                break

    as_json = llm.with_structured_output(Person.model_json_schema(), method="json_mode")
    with record_decisions() as decisions:
        for model in (llm, as_json):
            with closing(model.stream(SUM)) as parts:
                next(parts)
            asyncio.run(begin(model.astream(SUM)))
        with closing(llm.stream(SUM)) as parts:
            next(part for part in parts if part.chunk_position == "last")
    assert [decision["model"] for decision in decisions] == [llm.decide(SUM).model] * 5
    assert [decision["usd"] is None for decision in decisions] == [True] * 4 + [False]


# --- Many at once -----------------------------------------------------------------------------------------------------


async def test_two_hundred_calls_at_once_lose_and_mix_nothing(llm):
    prompts = [f"What is {a} plus {b}?" for a in range(11, 21) for b in range(31, 51)]
    picked = {prompt: llm.decide(prompt).model for prompt in prompts}
    answers = await asyncio.gather(*map(llm.ainvoke, prompts))
    assert [answer.text for answer in answers] == [f"{picked[prompt]} heard: {prompt}" for prompt in prompts]
    assert [record(answer)["model"] for answer in answers] == list(picked.values())


async def test_the_event_loop_runs_while_a_prompt_is_embedded(world):
    embedding, go_on = threading.Event(), threading.Event()

    def embed(prompts):
        if len(prompts) == 1:  # not while the router is fitted
            embedding.set()
            assert go_on.wait(20), "the loop was blocked"
        return [[len(prompt), prompt.count("a") + 1.0] for prompt in prompts]

    router = fitted(world, embedder=embed)
    router.onboard(evaluation(world, "poet"))
    llm = router_of(router)
    for call in (llm.ainvoke(SUM), last_of(llm.astream(SUM)), llm.with_structured_output(Person).ainvoke(SUM)):
        embedding.clear(), go_on.clear()
        task = asyncio.create_task(call)
        while not embedding.is_set():
            await asyncio.sleep(0)
        go_on.set()
        assert await task


# --- What it says when it cannot --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("models", "kind", "message"),
    [
        (["poet"], InvalidDataError, r"models=\['poet'\] is no mapping"),
        ({"poet": "gpt-4"}, InvalidDataError, r"models\['poet'\] is of type str; give a chat model of LangChain"),
        (
            {"gpt-4": ScriptedChat(model_name="x")},
            UnknownModelError,
            "'gpt-4' is not in the pool; the pool holds 'poet'",
        ),
        ({"poet": ScriptedChat(model_name="x")}, InvalidDataError, "'sage' is in the pool but not in models="),
    ],
)
def test_models_that_do_not_fit_the_pool_are_refused(asked_router, models, kind, message):
    with pytest.raises(kind, match=message):
        RouterRunnable(asked_router, models)


def test_what_belongs_to_the_models_of_the_user_is_refused(asked_router):
    with pytest.raises(InvalidDataError, match=r"cache= is for models that are called through LiteLLM; give it to"):
        RouterRunnable(asked_router, chats(asked_router), cache=True)
    with pytest.raises(InvalidDataError, match=r"router=3 is no UniRouter"):
        RouterRunnable(3)
    with pytest.raises(InvalidDataError, match=r"router=RouterRunnable\(.* is no UniRouter"):
        model_selector(router_of(asked_router))
    with pytest.raises(InvalidDataError, match=r"llm=UniRouter\(4 models.* is no RouterRunnable"):
        UniRouterMiddleware(asked_router)
    with pytest.raises(InvalidDataError, match="cost_weight=-1 must be"):
        RouterRunnable(asked_router, chats(asked_router), cost_weight=-1)


def test_without_text_there_is_nothing_to_route_on(llm):
    with pytest.raises(InvalidDataError, match="There is no text to route on"):
        llm.invoke([HumanMessage("")])
    bill = HumanMessage([{"type": "file", "base64": "JVBERi0=", "mime_type": "application/pdf"}])
    assert errors(llm.decide([bill])) == errors(llm.decide("an attached file"))


async def test_a_copy_for_another_process_routes_as_the_first(llm):
    await llm.ainvoke(SUM)
    copied = pickle.loads(pickle.dumps(llm))  # noqa: S301 - what was just made
    assert (await copied.ainvoke(POEM)).text == llm.invoke(POEM).text


def test_copies_with_other_fields_route_by_them(llm):
    dear = llm.model_copy(update={"cost_weight": 0})
    assert dear.decide(SUM).cost_weight == 0
    chosen = llm.configurable_fields(cost_weight=ConfigurableField(id="weight"))
    assert record(chosen.invoke(SUM, config={"configurable": {"weight": 5}}))["cost_weight"] == 5


def test_a_selector_names_the_picked_model_for_init_chat_model(asked_router):
    selector = model_selector(asked_router, cost_weight=WEIGHT)
    assert selector.invoke(POEM) == "litellm:poet"
    assert asyncio.run(selector.ainvoke([("user", POEM)])) == "litellm:poet"
    names = {name: f"openai:{name}-5" for name in asked_router.pool}
    named = model_selector(asked_router, names=names)
    assert named.invoke(POEM, config={"configurable": {"unirouter_model": "sage"}}) == "openai:sage-5"
    with pytest.raises(InvalidDataError, match="'sage' is in the pool but has no name for init_chat_model"):
        model_selector(asked_router, names={"poet": "openai:poet-5"})


def test_a_saved_router_is_loaded_with_its_table(asked_router, tmp_path):
    asked_router.save(tmp_path / "my.router")
    (tmp_path / "pool.toml").write_text('[models.poet]\nmodel = "openai/rhyme"\nsettings = { temperature = 0.9 }')
    llm = RouterRunnable.from_folder(tmp_path / "my.router", tmp_path / "pool.toml", cost_weight=WEIGHT)
    answer = llm.invoke(POEM, mock_response="Drops.")
    assert (answer.text, answer.response_metadata["model_name"]) == ("Drops.", "openai/rhyme")


def test_a_router_s_folder_is_as_good_as_a_router_and_its_table_is_read(asked_router, tmp_path):
    asked_router.save(tmp_path / "my.router")
    (tmp_path / "pool.toml").write_text('[models.poet]\nmodel = "openai/rhyme"')
    for llm in (RouterRunnable(tmp_path / "my.router"), RouterRunnable.from_folder(tmp_path / "my.router")):
        assert llm.invoke(POEM, model="poet", mock_response="Drops.").response_metadata["model_name"] == "openai/rhyme"
    plain = RouterRunnable.from_folder(tmp_path / "my.router", pool=None)
    assert model_selector(plain.router).invoke(POEM, {"configurable": {"unirouter_model": "poet"}}) == "litellm:poet"


def test_a_misspelt_field_is_refused_with_the_nearest_name(asked_router, tmp_path):
    asked_router.save(tmp_path / "my.router")
    for make, router in ((RouterRunnable, asked_router), (RouterRunnable.from_folder, tmp_path / "my.router")):
        with pytest.raises(InvalidDataError, match=r"temprature= is no parameter .* did you mean temperature"):
            make(router, temprature=0)


def test_an_empty_answer_goes_to_the_next_model(llm, asked_router):
    class Silent(ScriptedChat):
        def _reply(self, messages, **_):
            return AIMessage("", usage_metadata={"input_tokens": 1, "output_tokens": 0, "total_tokens": 1})

    first = llm.decide(SUM).model
    models = chats(asked_router) | {first: Silent(model_name=first)}
    silent = RouterRunnable(asked_router, models, cost_weight=WEIGHT)
    for said in (record(silent.invoke(SUM)), record(list(silent.stream(SUM))[-1])):
        assert list(said["failures"]) == [first]


@pytest.mark.parametrize(
    ("missing", "needs", "message"),
    [
        ("langchain_core.language_models", "unirouter_plugins.langchain", r"LangChain is missing: pip install 'uni"),
        ("langchain.agents.middleware", "unirouter_plugins.langchain.middleware", "agents: pip install langchain"),
    ],
)
def test_a_package_that_is_missing_is_named_with_the_cure(monkeypatch, missing, needs, message):
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(sys.modules, needs, raising=False)
    with pytest.raises(ImportError, match=message):
        importlib.import_module(needs)


def test_without_langchain_litellm_the_user_s_own_models_are_asked(asked_router, monkeypatch):
    monkeypatch.setitem(sys.modules, "langchain_litellm", None)
    with pytest.raises(
        ImportError, match=r"langchain-litellm is missing: pip install 'unirouter\[langchain\]' .*, or give a"
    ):
        RouterRunnable(asked_router)
    assert record(router_of(asked_router).invoke(POEM))["model"] == "poet"


def test_importing_the_plugin_loads_neither_litellm_nor_langchain_s_agents():
    heavy = ("litellm", "langchain", "langgraph", "openai", "sklearn")
    code = f"import sys, unirouter_plugins.langchain; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
