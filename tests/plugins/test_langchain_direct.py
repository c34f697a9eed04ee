"""Calls through the router and of the picked chat model itself: equal messages, chunks, traces, usage and failures."""

import asyncio
import functools
import json
import operator
from contextlib import aclosing
from uuid import uuid4

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler, CallbackManager, get_usage_metadata_callback
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage, message_to_dict
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration, LLMResult
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda, RunnableParallel
from langchain_core.tools import tool
from langchain_litellm import ChatLiteLLM
from pydantic import BaseModel, Field

from tests.plugins.scripted_chat import ScriptedChat
from unirouter_plugins.langchain import RouterRunnable
from unirouter_plugins.litellm import configured
from unirouter_plugins.litellm.pool_file import Member, Members

pytestmark = pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")  # of the v3 events

SUM = "What is 14 plus 37?"


class Person(BaseModel):
    """Somebody."""

    name: str = Field(description="The first name.")
    born: int = Field(description="The year.")


@tool
def plus(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


async def collected(stream):
    return [part async for part in stream]


async def v3(model):
    stream = await model.astream_events(SUM, version="v3")
    return [await collected(stream), await stream]


CALLS = {
    "invoke": lambda model: model.invoke(SUM),
    "ainvoke": lambda model: asyncio.run(model.ainvoke(SUM)),
    "a chat": lambda model: model.invoke([SystemMessage("Be brief."), HumanMessage(SUM)], stop=["\n"]),
    "stream": lambda model: list(model.stream(SUM)),
    "astream": lambda model: asyncio.run(collected(model.astream(SUM))),
    "batch": lambda model: model.batch([SUM, "What is 15 plus 36?"]),
    "abatch": lambda model: asyncio.run(model.abatch([SUM, "What is 15 plus 36?"])),
    "generate": lambda model: model.generate([[HumanMessage(SUM)], [HumanMessage("What is 15 plus 36?")]]),
    "agenerate": lambda model: asyncio.run(model.agenerate([[HumanMessage(SUM)]])),
    "tools": lambda model: model.bind_tools([plus]).invoke(SUM),
    "streamed tools": lambda model: list(model.bind_tools([plus], tool_choice="any").stream(SUM)),
    "generated from a prompt": lambda model: model.generate_prompt([ChatPromptTemplate.from_template(SUM).invoke({})]),
    "parsed": lambda model: model.with_structured_output(Person, method="json_schema").invoke("Ada, 1815"),
    "parsed from a tool": lambda model: model.with_structured_output(
        Person, method="function_calling", include_raw=True
    ).invoke("Ada, 1815"),
    "parsed in JSON mode": lambda model: list(
        model.with_structured_output(Person.model_json_schema(), method="json_mode").stream("Ada, 1815")
    ),
    "parsed asynchronously": lambda model: asyncio.run(model.with_structured_output(Person).ainvoke("Ada, 1815")),
    "v2 events": lambda model: asyncio.run(collected(model.astream_events(SUM, version="v2"))),
    "v3 events": lambda model: [*model.stream_events(SUM, version="v3")],
    "v3 events of tools": lambda model: [*model.bind_tools([plus]).stream_events(SUM, version="v3")],
    "v3 events asynchronously": lambda model: asyncio.run(v3(model)),
    "a chain": lambda model: (ChatPromptTemplate.from_template("{x}") | model | StrOutputParser()).invoke({"x": SUM}),
    "a streamed chain": lambda model: list((model | StrOutputParser()).stream(SUM)),
    "in parallel": lambda model: RunnableParallel(a=model, b=model).invoke(SUM),
    "with retry": lambda model: model.with_retry(wait_exponential_jitter=False).invoke(SUM),
    "with fallbacks": lambda model: model.with_fallbacks([model]).invoke(SUM),
}


OWN_WAYS = ["invoke", "ainvoke", "stream", "astream", "generate", "agenerate", "streamed tools", "parsed"]
OWN_WAYS += ["v3 events", "v3 events asynchronously"]
"""Those with code of the router's own."""


@pytest.fixture
def scripted(asked_router):
    """The picked chat model, and the router over four of its kind."""
    models = {name: ScriptedChat(model_name=name) for name in asked_router.pool}
    return models[asked_router.route(SUM).model], RouterRunnable(asked_router, models)


@pytest.fixture
def litellms(asked_router):
    """The same with LiteLLM's mock."""
    settings = {"mock_response": '{"name": "Ada", "born": 1815}', "temperature": 0.5}
    members = {name: Member(name, f"openai/{name}", settings=settings) for name in asked_router.pool}
    picked = f"openai/{asked_router.route(SUM).model}"
    mock = {"mock_response": settings["mock_response"]}
    direct = ChatLiteLLM(model=picked, temperature=0.5, model_kwargs=mock)
    return direct, RouterRunnable(configured(asked_router, Members(members)))


def plain(value, ids=None):
    """A value without what differs between any two runs, and without the router's record."""
    ids = {} if ids is None else ids
    if isinstance(value, BaseMessage):
        return plain(message_to_dict(value), ids)
    if isinstance(value, ChatGeneration):
        return plain({"message": value.message, "text": value.text, "beside": value.generation_info}, ids)
    if isinstance(value, LLMResult):
        return plain([value.generations, value.llm_output, len(value.run or [])], ids)
    if isinstance(value, BaseModel):
        return plain(value.model_dump(), ids)
    if isinstance(value, dict):
        dropped = ("unirouter", "run_id", "parent_ids", "id", "created", "repr")
        return {name: plain(inner, ids) for name, inner in value.items() if name not in dropped}
    return [plain(inner, ids) for inner in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("call", CALLS)
def test_a_call_gives_what_the_picked_model_gives(scripted, call):
    direct, llm = scripted
    assert plain(CALLS[call](llm)) == plain(CALLS[call](direct))


@pytest.mark.parametrize("call", OWN_WAYS)
def test_a_call_gives_what_litellm_gives(litellms, call):
    direct, llm = litellms
    assert plain(CALLS[call](llm)) == plain(CALLS[call](direct))


class Trace(BaseCallbackHandler):
    """What callbacks are told, in order, with runs numbered as they come."""

    def __init__(self):
        self.seen, self.runs = [], {None: None}

    def note(self, event, run_id, parent_run_id, *what):
        number = self.runs.setdefault(run_id, len(self.runs))
        self.seen.append((event, number, self.runs[parent_run_id], plain(what)))

    def on_chat_model_start(self, serialized, messages, *, run_id, parent_run_id, tags, metadata, **how):
        shown = {name: how.get(name) for name in ("invocation_params", "options", "name")}
        self.note("start", run_id, parent_run_id, serialized, messages, tags, metadata, shown)

    def on_chain_start(self, serialized, inputs, *, run_id, parent_run_id, tags, metadata, **how):
        self.note("chain", run_id, parent_run_id, inputs, tags, metadata, how.get("name"))

    def on_llm_new_token(self, token, *, chunk, run_id, parent_run_id, **_):
        self.note("token", run_id, parent_run_id, token, chunk.message)

    def on_llm_end(self, response, *, run_id, parent_run_id, **_):
        self.note("end", run_id, parent_run_id, response)

    def on_llm_error(self, error, *, run_id, parent_run_id, **_):
        self.note("error", run_id, parent_run_id, type(error), str(error))


TRACED = ["invoke", "stream", "tools", "parsed", "a chain", "v3 events"]


def traced(call, model):
    """What callbacks are told of a call in a chain, which passes its config on."""
    trace = Trace()
    config = {"callbacks": [trace], "tags": ["ours"], "metadata": {"user": "ada"}, "run_name": "outside"}
    RunnableLambda(lambda _: CALLS[call](model)).invoke(None, config)
    return trace.seen


@pytest.mark.parametrize("call", TRACED)
@pytest.mark.parametrize("kind", ["scripted", "litellms"])
def test_callbacks_are_told_what_the_picked_model_tells_them(kind, call, request):
    direct, llm = request.getfixturevalue(kind)
    told = traced(call, llm)
    assert told == traced(call, direct)
    assert [event for event, *_ in told].count("start") == 1


def test_the_run_is_the_picked_model_s_with_the_decision_in_its_metadata(scripted):
    direct, llm = scripted
    trace = Trace()
    trace.note = lambda event, run, parent, *what: trace.seen.append((event, *what))
    llm.invoke(SUM, config={"callbacks": [trace]})
    _, serialized, _, _, metadata, _ = trace.seen[0]
    assert serialized["name"] == "ScriptedChat"
    assert metadata["ls_model_name"] == metadata["unirouter"]["model"] == direct.model_name
    assert json.loads(json.dumps(metadata["unirouter"])) == metadata["unirouter"]


def test_the_router_s_own_callbacks_tags_and_metadata_are_those_of_the_run(scripted):
    direct, llm = scripted
    own = {"tags": ["ours"], "metadata": {"user": "ada"}}
    traces = Trace(), Trace()
    RouterRunnable(llm.router, llm.models, callbacks=[traces[0]], **own).invoke(SUM)
    ScriptedChat(model_name=direct.model_name, callbacks=[traces[1]], **own).invoke(SUM)
    assert traces[0].seen == traces[1].seen


def managed(handlers):
    return CallbackManager(handlers, handlers)


@pytest.mark.parametrize("models", [list, managed])
@pytest.mark.parametrize("router", [list, managed])
@pytest.mark.parametrize("callers", [list, managed])
def test_all_callbacks_are_told_once_however_they_are_given(asked_router, models, router, callers):
    class Runs(BaseCallbackHandler):
        def __init__(self):
            self.ended = 0

        def on_llm_end(self, response, **_):
            self.ended += 1

    heard = Runs(), Runs(), Runs()
    chats = {name: ScriptedChat(model_name=name, callbacks=models([heard[0]])) for name in asked_router.pool}
    llm = RouterRunnable(asked_router, chats, callbacks=router([heard[1]]))
    llm.with_structured_output(Person).invoke("Ada, 1815", {"callbacks": callers([heard[2]])})
    assert [runs.ended for runs in heard] == [1, 1, 1]


def test_each_run_of_generate_has_an_id_of_its_own_and_the_first_the_given_one(scripted):
    _, llm = scripted
    chats, given = [[HumanMessage(SUM)], [HumanMessage("What is 15 plus 36?")]], uuid4()
    for result in (llm.generate(chats, run_id=given), asyncio.run(llm.agenerate(chats, run_id=given))):
        first, second = [run.run_id for run in result.run]
        assert first == given != second


@pytest.mark.parametrize("call", OWN_WAYS)
def test_a_failure_is_the_picked_model_s_own(scripted, call):
    direct, llm = scripted
    direct.failure = ValueError("temperature must be below 2")
    raised = []
    for model in (direct, llm):
        with pytest.raises(ValueError, match="temperature") as failed:
            CALLS[call](model)
        raised.append(failed.value)
    assert raised[0] is raised[1]


def test_a_usage_callback_counts_each_call_once(scripted):
    direct, llm = scripted
    counts = []
    for model in (direct, llm):
        with get_usage_metadata_callback() as usage:
            model.invoke(SUM)
            list(model.stream(SUM))
        counts.append(usage.usage_metadata)
    assert counts[0] == counts[1]


def test_a_cached_answer_is_not_changed_and_costs_nothing(asked_router):
    cache = InMemoryCache()
    models = {name: ScriptedChat(model_name=name, cache=cache) for name in asked_router.pool}
    llm = RouterRunnable(asked_router, models)
    first, second = llm.invoke(SUM), llm.invoke(SUM)
    assert second.response_metadata["unirouter"]["usd"] == 0 < first.response_metadata["unirouter"]["usd"]
    assert second.text == first.text
    kept = next(iter(cache._cache.values()))[0].message
    assert "unirouter" not in kept.response_metadata


def test_a_cache_given_to_the_router_is_that_of_each_litellm_model(litellms):
    llm = RouterRunnable(litellms[1].router, cache=InMemoryCache())
    usd = [llm.invoke(SUM, model=name).response_metadata["unirouter"]["usd"] for name in ("sage", "sage", "poet")]
    assert usd[1] == 0 < usd[2] < usd[0]


def test_what_is_bound_to_the_router_reaches_the_model(asked_router):
    settings = {"mock_response": "hello"}
    members = Members({name: Member(name, f"openai/{name}", settings=settings) for name in asked_router.pool})
    llm = RouterRunnable(configured(asked_router, members))
    assert llm.bind(mock_response="bound").invoke(SUM).text == "bound"


def test_a_model_that_does_not_stream_gives_its_answer_whole(asked_router):
    class Whole(ScriptedChat):
        _stream = BaseChatModel._stream

    llm = RouterRunnable(asked_router, {name: Whole(model_name=name) for name in asked_router.pool})
    (chunk,) = llm.stream(SUM)
    assert chunk.response_metadata["unirouter"]["model"] in chunk.text


def test_a_stream_ends_with_the_record_and_adds_up_to_the_answer(scripted):
    direct, llm = scripted
    *begun, last = llm.stream(SUM)
    assert last.response_metadata["unirouter"]["model"] == direct.model_name
    assert not any("unirouter" in chunk.response_metadata for chunk in begun)
    whole = functools.reduce(operator.add, [*begun, last])
    assert whole.response_metadata["unirouter"]["usd"] > 0
    assert whole.text == direct.invoke(SUM).text


def test_who_stops_listening_stops_the_model(scripted):
    class Ends(BaseCallbackHandler):
        raised = None

        def on_llm_error(self, error, **_):
            Ends.raised = type(error)

    async def listen():
        async with aclosing(scripted[1].astream(SUM, config={"callbacks": [Ends()]})) as chunks:
            async for _ in chunks:
                break

    asyncio.run(listen())
    assert Ends.raised is GeneratorExit


def test_v3_events_end_with_the_record(scripted):
    direct, llm = scripted
    stream = llm.stream_events(SUM, version="v3")
    assert str(stream.text) == direct.invoke(SUM).text
    assert stream.output.response_metadata["unirouter"]["model"] == direct.model_name
    assert stream.output.usage_metadata == direct.invoke(SUM).usage_metadata


async def test_v3_events_end_when_the_run_has_ended_and_set_nothing_private_of_langchain(scripted):
    class Ends(BaseCallbackHandler):
        ended = 0

        def on_llm_end(self, response, **_):
            Ends.ended += 1

    _, llm = scripted
    stream = await llm.astream_events(SUM, {"callbacks": [Ends()]}, version="v3")
    text, message = await asyncio.gather(stream.text, stream)
    assert text == message.text
    assert (Ends.ended, vars(stream)["_producer_task"]) == (1, None)


async def test_v3_events_that_nobody_reads_to_the_end_are_stopped(scripted):
    _, llm = scripted
    async with await llm.astream_events(SUM, version="v3") as stream:
        async for _ in stream:
            break
    with pytest.raises(asyncio.CancelledError):
        await stream
