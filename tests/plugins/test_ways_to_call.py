"""LiteLLM's functions, LangChain and LlamaIndex: the same call has the same model, the same bill, the same limits."""

import asyncio
import base64

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.messages import AIMessageChunk, HumanMessage, SystemMessage
from langchain_core.outputs import ChatGenerationChunk
from llama_index.core.llms import AudioBlock, ChatMessage, ImageBlock

from tests.plugins.scripted_chat import ScriptedChat, chats
from tests.plugins.scripted_llm import scripted
from tests.plugins.servers import KEY, says, sends
from unirouter_core import InvalidDataError
from unirouter_plugins.langchain import RouterRunnable, last_decision, record_decisions
from unirouter_plugins.litellm import complete, configured, stream
from unirouter_plugins.litellm.failures import open_litellm
from unirouter_plugins.litellm.pool_file import Member, Members
from unirouter_plugins.litellm.prices import listed_prices
from unirouter_plugins.llamaindex import UniRouterLLM

SUM, WEIGHT = "What is 14 plus 37?", 300

WAYS = {
    "complete": lambda router, asked: complete(router, asked, cost_weight=WEIGHT),
    "stream": lambda router, asked: list(stream(router, asked, cost_weight=WEIGHT)),
    "LangChain": lambda router, asked: RouterRunnable(router, cost_weight=WEIGHT).invoke(asked),
    "LangChain's stream": lambda router, asked: list(RouterRunnable(router, cost_weight=WEIGHT).stream(asked)),
    "LlamaIndex": lambda router, asked: UniRouterLLM(router, cost_weight=WEIGHT).complete(asked),
    "LlamaIndex's stream": lambda router, asked: list(UniRouterLLM(router, cost_weight=WEIGHT).stream_complete(asked)),
}
WHOLE = [way for way in WAYS if "stream" not in way]


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def served(asked_router, scripted_server):
    """The router with all its models at one server."""
    members = {name: Member(name, f"openai/{name}", scripted_server.url) for name in asked_router.pool}
    return configured(asked_router, Members(members))


def record_of(way, router, asked=SUM):
    WAYS[way](router, asked)
    return last_decision()


# --- The bill ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def listed(router, scripted_server, monkeypatch):
    """A router that calls one model, whose cache, reasoning and long prompts LiteLLM's map prices apart."""
    litellm = open_litellm()
    monkeypatch.setattr(litellm, "model_cost", dict(litellm.model_cost))
    monkeypatch.setenv("OPENAI_BASE_URL", scripted_server.url)
    prices = {"input_cost_per_token": 1e-6, "output_cost_per_token": 4e-6, "input_cost_per_token_above_1k_tokens": 3e-6}
    caches = {"cache_read_input_token_cost": 1e-7, "cache_creation_input_token_cost": 1.25e-6}
    litellm.register_model({"openai/tiered": {"litellm_provider": "openai", "mode": "chat", **prices, **caches}})
    member = Member("tutor", "openai/tiered")
    for name in [name for name in router.pool if name != "tutor"]:
        router.retire(name)
    router.reprice("tutor", listed_prices(member))
    return configured(router, Members({"tutor": member}))


USAGES = {
    "cached": {"prompt_tokens": 900, "prompt_tokens_details": {"cached_tokens": 700}},
    "written": {"prompt_tokens": 900, "cache_creation_input_tokens": 800, "cache_read_input_tokens": 0},
    "reasoned": {"completion_tokens_details": {"reasoning_tokens": 40}, "total_tokens": 75},
    "long": {"prompt_tokens": 5_000},
}


@pytest.mark.parametrize("kind", USAGES)
def test_the_bill_is_litellm_s_whichever_way_is_called(listed, scripted_server, kind):
    usage = {"prompt_tokens": 5, "completion_tokens": 30, **USAGES[kind]}
    usage = {"total_tokens": usage["prompt_tokens"] + usage["completion_tokens"], **usage}
    scripted_server.script["tiered"] = sends(usage=usage)
    direct = open_litellm().completion("openai/tiered", [{"role": "user", "content": SUM}])
    usd = pytest.approx(direct._hidden_params["response_cost"])
    assert {way: record_of(way, listed)["usd"] for way in WHOLE} == dict.fromkeys(WHOLE, usd)


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}])
def test_without_usage_no_cost_is_told(served, scripted_server, usage):
    scripted_server.script["tutor"] = sends(usage=usage)
    assert {way: record_of(way, served)["usd"] for way in WHOLE} == dict.fromkeys(WHOLE)


def test_a_stream_has_a_cost_only_with_its_usage(served, scripted_server):
    streams = [way for way in WAYS if way not in WHOLE]
    whole = record_of("complete", served)["usd"]
    assert {way: record_of(way, served)["usd"] for way in streams} == dict.fromkeys(streams, whole)
    scripted_server.script["tutor"] = says(usage=False)
    for way in streams:
        usd = record_of(way, served)["usd"]
        assert usd is None or usd > 0  # LiteLLM counts the tokens itself, where it can


# --- What is sent -----------------------------------------------------------------------------------------------------

PIXEL = base64.b64encode(b"\x89PNG").decode()
URL = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
SOUND = {"type": "input_audio", "input_audio": {"data": PIXEL, "format": "wav"}}
ALONE = {
    "image": ([URL], ImageBlock(image=b"\x89PNG", image_mimetype="image/png")),
    "audio": ([SOUND], AudioBlock(audio=b"RIFF", format="wav")),
}


@pytest.mark.parametrize("kind", ALONE)
def test_a_message_without_text_is_routed_alike(served, kind):
    content, block = ALONE[kind]
    with record_decisions() as records:
        complete(served, [{"role": "user", "content": content}])
        RouterRunnable(served).invoke([HumanMessage(content)])
        UniRouterLLM(served, models=scripted(served)).chat([ChatMessage(blocks=[block])])
    assert [told["model"] for told in records] == [served.route(f"an attached {kind}").model] * 3


def test_a_system_text_that_is_alone_is_routed_alike(served):
    with record_decisions() as records:
        complete(served, [{"role": "system", "content": SUM}])
        RouterRunnable(served).invoke([SystemMessage(SUM)])
        UniRouterLLM(served).chat([ChatMessage(SUM, role="system")])
    assert [told["model"] for told in records] == [served.route(SUM).model] * 3


# --- Mixed pools ------------------------------------------------------------------------------------------------------


def test_some_models_may_be_given_and_the_others_are_called_through_litellm(served, scripted_server):
    given = {"poet": chats(served)["poet"]}
    llm = RouterRunnable(served, given, cost_weight=WEIGHT, temperature=0)
    assert llm.invoke(SUM, model="poet").text == f"poet heard: {SUM}"
    assert llm.invoke(SUM).text == "Paris."
    index = UniRouterLLM(served, {"poet": scripted(served)["poet"]}, cost_weight=WEIGHT, temperature=0)
    assert index.complete(SUM, model="poet").text == f"poet heard: {SUM}"
    assert index.complete(SUM).text == "".join(part.delta for part in index.stream_complete(SUM)) == "Paris."
    assert {seen.body["temperature"] for seen in scripted_server.seen} == {0}


def test_a_model_that_neither_is_given_nor_litellm_knows_is_refused(asked_router):
    for kind, models in ((RouterRunnable, chats(asked_router)), (UniRouterLLM, scripted(asked_router))):
        del models["sage"]
        with pytest.raises(InvalidDataError, match=r"'sage' is in the pool but not in models=.*, and LiteLLM knows no"):
            kind(asked_router, models)


# --- Records and caches -----------------------------------------------------------------------------------------------


class SaysLastTwice(ScriptedChat):
    """Its text ends with a chunk that says it is the last, and so does the usage after it."""

    def _stream(self, *_, **__):
        usage = {"input_tokens": 5, "output_tokens": 2, "total_tokens": 7}
        yield ChatGenerationChunk(message=AIMessageChunk("It is 51.", chunk_position="last"))
        yield ChatGenerationChunk(message=AIMessageChunk("", usage_metadata=usage, chunk_position="last"))


async def collected(stream):
    return [part async for part in stream]


def test_a_stream_has_its_record_once_however_many_chunks_say_they_are_the_last(asked_router):
    llm = RouterRunnable(asked_router, {name: SaysLastTwice(model_name=name) for name in asked_router.pool})
    for chunks in (list(llm.stream(SUM)), asyncio.run(collected(llm.astream(SUM)))):
        (told,) = [c.response_metadata["unirouter"] for c in chunks if "unirouter" in c.response_metadata]
        assert (told["tokens_in"], told["tokens_out"], told["usd"] > 0) == (5, 2, True)


def test_two_members_never_share_an_entry_of_a_cache(asked_router, scripted_server):
    """LiteLLM calls both alike, at two addresses."""
    url = scripted_server.url
    members = {name: Member(name, "openai/same", url) for name in asked_router.pool}
    members["sage"] = Member("sage", "openai/same", url.replace("127.0.0.1", "localhost"))
    llm = RouterRunnable(configured(asked_router, Members(members)), cache=InMemoryCache())
    usd = [llm.invoke(SUM, model=name).response_metadata["unirouter"]["usd"] for name in ("poet", "sage", "poet")]
    assert usd[0] > 0 < usd[1]
    assert usd[2] == 0
    assert len(scripted_server.seen) == 2
