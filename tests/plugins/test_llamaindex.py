"""The LLM that routes, in LlamaIndex's query and chat engines: who answers, what is told of it, who is next."""

import asyncio
import contextvars
import json

import pytest
from llama_index.core import Settings
from llama_index.core.base.llms.types import ToolCallBlock
from llama_index.core.callbacks import CallbackManager, CBEventType, TokenCountingHandler
from llama_index.core.callbacks.base_handler import BaseCallbackHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.llms import ChatMessage, ImageBlock, TextBlock
from llama_index.core.query_engine import SubQuestionQueryEngine
from llama_index.core.question_gen import LLMQuestionGenerator
from llama_index.core.response_synthesizers import get_response_synthesizer
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.tools import FunctionTool, QueryEngineTool
from pydantic import Field

from tests.conftest import evaluation
from tests.plugins.scripted_llm import (
    POEM,
    SUM,
    OverloadedError,
    dumped,
    index,
    memory,
    record,
    scripted,
    settings,  # noqa: F401 - a fixture
    without_record,
)
from unirouter_core import ArtifactError, Capabilities, InvalidDataError, NoCandidateError, UnknownModelError
from unirouter_plugins.llamaindex import UniRouterLLM, last_decision, one_query, record_decisions
from unirouter_plugins.llamaindex.pool_llms import chat_of

pytestmark = pytest.mark.usefixtures("settings")

SHOPS = FunctionTool.from_defaults(lambda city: city, name="shops", description="Shops of a city.")


@pytest.fixture
def llms(asked_router):
    return scripted(asked_router)


@pytest.fixture
def llm(asked_router, llms):
    """Sums go to the tutor, poems to the poet."""
    return UniRouterLLM(asked_router, llms, cost_weight=300)


# --- The doors -------------------------------------------------------------------------------------------------------


async def from_all_doors(llm, prompt):
    """The answers of all eight doors, streams by their chunks."""
    messages = [ChatMessage("Be brief.", role="system"), ChatMessage(prompt)]
    yield [llm.chat(messages)]
    yield [await llm.achat(messages)]
    yield list(llm.stream_chat(messages))
    yield [part async for part in await llm.astream_chat(messages)]
    yield [llm.complete(prompt)]
    yield [await llm.acomplete(prompt)]
    yield list(llm.stream_complete(prompt))
    yield [part async for part in await llm.astream_complete(prompt)]


@pytest.mark.parametrize(("prompt", "model"), [(SUM, "tutor"), (POEM, "poet")])
async def test_every_door_gives_what_the_picked_llm_gives_directly(llm, llms, prompt, model):
    routed = [answers async for answers in from_all_doors(llm, prompt)]
    direct = [answers async for answers in from_all_doors(llms[model], prompt)]
    assert len(routed) == 8
    for ours, theirs in zip(routed, direct, strict=True):
        assert [without_record(answer) for answer in ours] == [dumped(answer) for answer in theirs]
        assert [answer.raw for answer in ours] == [answer.raw for answer in theirs]
        assert {record(answer)["model"] for answer in ours} == {model}


def test_the_record_says_who_answered_why_and_what_it_cost(llm, asked_router):
    answer = llm.chat([ChatMessage(SUM)])
    told, decision = record(answer), asked_router.route(SUM, cost_weight=300)
    assert json.loads(json.dumps(told)) == told == answer.message.additional_kwargs["unirouter"]
    assert (told["model"], told["why"], told["region"]) == (decision.model, "routed", decision.region)
    assert told["expected_usd"] == decision.cost
    assert told["usd"] == asked_router.pool["tutor"].prices.cost(5, 7)  # "tutor heard: What is 14 plus 37?"


def test_a_stream_s_record_is_whole_when_it_has_ended(llm):
    chunks = llm.stream_chat([ChatMessage(SUM)])
    first = next(chunks)
    assert (record(first)["model"], record(first)["usd"]) == ("tutor", None)
    assert list(chunks)
    assert record(first)["usd"] > 0


def test_a_stream_s_record_is_kept_once_and_before_it_is_read(llm):
    with record_decisions() as decisions:
        chunks = llm.stream_chat([ChatMessage(SUM)])
    assert [decision["model"] for decision in decisions] == ["tutor"]
    assert all(record(chunk) is decisions[0] for chunk in chunks)
    assert len(decisions) == 1
    assert decisions[0]["usd"] > 0


def test_a_chat_is_routed_on_the_newest_text_of_the_user(llm):
    chat = [ChatMessage(POEM), ChatMessage("Drops.", role="assistant"), ChatMessage(SUM)]
    assert record(llm.chat(chat))["model"] == "tutor"
    assert llm.decide(chat).model == "tutor"
    assert llm.decide(POEM).model == "poet"


def test_what_a_model_was_sent_before_costs_it_the_price_for_cached_tokens(llm, asked_router):
    system, asks = ChatMessage("Be brief. " * 200, role="system"), ChatMessage(POEM)
    told = {"unirouter": {"model": "sage"}}
    said = [ChatMessage("Drops.", role="assistant", additional_kwargs=given) for given in ({}, told)]
    listed, cached = (
        {row.model: row.cost for row in llm.decide([system, asks, answer, ChatMessage(SUM)]).ranking} for answer in said
    )
    prices = asked_router.pool["sage"].prices
    sent = chat_of([system, asks]).count_tokens(asked_router.fit_.token_counter)
    assert listed.pop("sage") - cached.pop("sage") == pytest.approx(sent * (prices.input - prices.cached_input) / 1e6)
    assert listed == cached


def test_tool_calls_of_before_are_paid_for_in_both_of_llamaindex_s_forms(llm):
    said, given = ChatMessage("Well.", role="assistant"), {"text": "umbrella " * 100}
    block = ToolCallBlock(tool_call_id="1", tool_name="shops", tool_kwargs=given)
    in_blocks = ChatMessage(blocks=[*said.blocks, block], role="assistant")
    beside = ChatMessage("Well.", role="assistant", additional_kwargs={"tool_calls": [given]})
    plain, *with_calls = (llm.decide([ChatMessage(SUM), m, ChatMessage(SUM)]).cost for m in (said, in_blocks, beside))
    assert min(with_calls) > 1.5 * plain


def test_llms_are_sent_no_record_of_an_earlier_answer(llm, llms):
    first = llm.chat([ChatMessage(POEM)]).message
    llm.chat([ChatMessage(POEM), first, ChatMessage(POEM)])
    sent, _ = llms["poet"].asked[-1]
    assert [message.additional_kwargs for message in sent] == [{}, {}, {}]
    assert first.additional_kwargs["unirouter"]["model"] == "poet"


def test_a_model_may_be_forced_for_one_call(llm, llms):
    assert record(llm.chat([ChatMessage(POEM)], model="sage", temperature=0))["why"] == "forced"
    assert llms["sage"].asked[0][1] == {"temperature": 0}
    with pytest.raises(UnknownModelError, match="nobody"):
        llm.complete(POEM, model="nobody")


def test_decisions_are_collected_around_other_code(llm):
    with record_decisions() as decisions:
        llm.complete(SUM)
        list(llm.stream_complete(POEM))
    assert [decision["model"] for decision in decisions] == ["tutor", "poet"]
    assert last_decision()["model"] == "poet"


def test_the_metadata_are_what_the_router_can_do_with_its_pool(asked_router):
    llms = scripted(asked_router, poet={"calls_tools": False, "context_window": 8_000})
    told = UniRouterLLM(asked_router, llms).metadata
    assert (told.context_window, told.is_chat_model, told.is_function_calling_model) == (8_000, True, True)
    none = scripted(asked_router, {"calls_tools": False})
    assert not UniRouterLLM(asked_router, none).metadata.is_function_calling_model


def test_the_metadata_are_those_of_the_member_that_leaves_the_least_room_for_a_prompt(asked_router):
    sizes = {"poet": (8_000, 256), "sage": (200_000, 199_000), "tutor": (4_000, 4_000)}
    how = {name: {"context_window": window, "num_output": output} for name, (window, output) in sizes.items()}
    told = UniRouterLLM(asked_router, scripted(asked_router, **{**how, "tutor": {}})).metadata
    assert (told.context_window, told.num_output) == sizes["sage"]
    llm = UniRouterLLM(asked_router, scripted(asked_router, **{**how, "sage": {}}), cost_weight=300)
    assert (llm.metadata.context_window, llm.metadata.num_output) == (4_000, 2_000)  # else it would leave none
    assert index().as_query_engine(llm=llm).query(SUM).metadata["unirouter"]["model"] == "tutor"


def test_handlers_are_registered_when_an_llm_is_first_used_and_only_once(asked_router, llms, monkeypatch):
    handlers = []
    monkeypatch.setattr(get_dispatcher("llama_index.core.base.base_query_engine"), "event_handlers", handlers)
    llm = UniRouterLLM(asked_router, llms)
    assert not handlers
    assert llm.metadata == llm.metadata
    assert len(handlers) == 1


def test_a_model_that_joins_or_retires_does_so_here(router):
    llm = UniRouterLLM(router, scripted(router), cost_weight=300)
    assert record(llm.complete(SUM))["model"] == "tutor"
    router.retire("tutor")
    assert record(llm.complete(SUM))["model"] == "scholar"


def test_images_and_tools_narrow_the_candidates(router, world):
    for name in ("poet", "tutor"):
        blind = Capabilities(vision=False)
        router.onboard(evaluation(world, name), capabilities=blind, replace=True)
    llm = UniRouterLLM(router, scripted(router, scholar={"calls_tools": False}), cost_weight=300)
    picture = ImageBlock(image=b"\x89PNG", image_mimetype="image/png")
    assert llm.decide([ChatMessage(blocks=[TextBlock(text=SUM), picture])]).model == "scholar"
    with pytest.raises(NoCandidateError, match="poet: lacks vision"):
        llm.chat([ChatMessage(blocks=[picture])], model="poet")
    assert {c.model: c.excluded for c in llm.decide(SUM, tools=[SHOPS]).ranking}["scholar"] == "lacks tools"


# --- Queries ---------------------------------------------------------------------------------------------------------


def test_settings_llm_answers_a_query_on_what_it_asks(llm):
    Settings.llm = llm
    response = index().as_query_engine().query(SUM)
    assert "umbrellas" in response.response
    assert response.metadata["unirouter"]["model"] == "tutor"
    assert response.metadata["unirouter"]["tokens_in"] > 50
    assert response.metadata["unirouter"]["expected_usd"] > llm.decide(SUM).cost  # the context is paid for, too
    assert index().as_query_engine().query(POEM).metadata["unirouter"]["model"] == "poet"


async def test_an_async_query_is_answered_alike(llm, llms):
    whole = index()
    engine, direct = whole.as_query_engine(llm=llm), whole.as_query_engine(llm=llms["tutor"])
    response = await engine.aquery(SUM)
    assert response.metadata["unirouter"]["model"] == "tutor"
    assert response.response == (await direct.aquery(SUM)).response


def test_a_query_streams_as_the_picked_llm_does(llm, llms):
    whole = index()
    response = whole.as_query_engine(llm=llm, streaming=True).query(SUM)
    direct = whole.as_query_engine(llm=llms["tutor"], streaming=True).query(SUM)
    assert list(response.response_gen) == list(direct.response_gen)
    assert response.metadata["unirouter"]["model"] == "tutor"
    assert response.metadata["unirouter"]["usd"] > 0


async def test_an_async_query_streams_alike(llm):
    response = await index().as_query_engine(llm=llm, streaming=True).aquery(POEM)
    parts = [part async for part in response.response_gen]
    assert len(parts) > 10
    assert response.metadata["unirouter"]["model"] == "poet"
    assert response.metadata["unirouter"]["usd"] > 0


@pytest.mark.parametrize("mode", ["compact", "refine", "tree_summarize", "accumulate", "generation"])
async def test_synthesizers_keep_the_model_for_a_query(llm, mode):
    nodes = [NodeWithScore(node=TextNode(text=f"{n}: {'umbrella ' * 40}")) for n in range(4)]
    synthesizer = get_response_synthesizer(llm=llm, response_mode=mode)
    for response in (synthesizer.synthesize(SUM, nodes), await synthesizer.asynthesize(SUM, nodes)):
        calls = response.metadata["unirouter_calls"]
        assert {call["model"] for call in calls} == {"tutor"}
        assert len(calls) == (4 if mode in ("refine", "accumulate") else 1)
        assert response.metadata["unirouter"] == calls[-1]


SUB_QUESTIONS = json.dumps(
    {"items": [{"sub_question": POEM, "tool_name": "shops"}, {"sub_question": SUM, "tool_name": "shops"}]}
)


def sub_question_engine(router, *, use_async, **how):
    said = {"says": {"# Example 1": f"```json\n{SUB_QUESTIONS}\n```"}}
    llm = UniRouterLLM(router, scripted(router, said), cost_weight=300, **how)
    shops = QueryEngineTool.from_defaults(index().as_query_engine(llm=llm), name="shops", description="Shops.")
    return SubQuestionQueryEngine.from_defaults(
        [shops], llm=llm, question_gen=LLMQuestionGenerator.from_defaults(llm), use_async=use_async, verbose=False
    )


@pytest.mark.parametrize("use_async", [False, True])
def test_a_query_of_several_steps_keeps_the_model(asked_router, use_async):
    response = sub_question_engine(asked_router, use_async=use_async).query(SUM)
    calls = response.metadata["unirouter_calls"]
    assert [call["model"] for call in calls] == ["tutor"] * 4  # the questions, two answers, and the answer
    assert [call["why"] for call in calls] == ["routed", "query", "query", "query"]


async def test_each_step_of_a_query_is_routed_anew_when_asked_for(asked_router):
    response = await sub_question_engine(asked_router, use_async=True, per_step=True).aquery(SUM)
    calls = response.metadata["unirouter_calls"]
    assert [calls[0]["model"], *sorted(call["model"] for call in calls[1:3]), calls[3]["model"]] == [
        "tutor",
        *["poet", "tutor"],
        "tutor",
    ]


def test_other_code_of_several_steps_can_be_one_query(llm):
    with one_query():
        models = [record(llm.complete(prompt))["model"] for prompt in (SUM, POEM)]
    assert models == ["tutor", "tutor"]
    assert record(llm.complete(POEM))["model"] == "poet"


async def test_steps_that_llamaindex_runs_in_a_thread_belong_to_the_query(asked_router):
    response = sub_question_engine(asked_router, use_async=True).query(SUM)  # a loop is running here
    assert [call["model"] for call in response.metadata["unirouter_calls"]] == ["tutor"] * 4


def test_a_task_that_a_query_leaves_behind_is_no_part_of_it(llm):
    with one_query():
        assert record(llm.complete(SUM))["model"] == "tutor"
        left_behind = contextvars.copy_context()
    assert record(left_behind.run(llm.complete, POEM))["model"] == "poet"


def test_a_forced_model_is_not_kept(llm):
    with one_query():
        assert record(llm.complete(SUM, model="sage"))["model"] == "sage"
        assert record(llm.complete(SUM))["model"] == "tutor"


def test_two_llms_in_a_query_each_keep_their_own_model(llm, asked_router, llms):
    cheap = UniRouterLLM(asked_router, llms, cost_weight=float("inf"))
    with one_query():
        assert [record(one.complete(SUM))["model"] for one in (llm, cheap, llm, cheap)] == ["tutor", "poet"] * 2


def test_a_query_that_fails_leaves_nothing_behind(asked_router):
    llm = UniRouterLLM(asked_router, scripted(asked_router, tutor={"failure": RuntimeError("No.")}), cost_weight=300)
    engine = index().as_query_engine(llm=llm)
    with pytest.raises(RuntimeError, match="No"):
        engine.query(SUM)
    assert engine.query(POEM).metadata["unirouter_calls"][0]["why"] == "routed"
    assert record(llm.complete(POEM))["model"] == "poet"


async def test_a_hundred_concurrent_queries_mix_nothing(llm, llms):
    for one in llms.values():
        one.pause = 0.005
    engine = index().as_query_engine(llm=llm)
    asked = [(SUM if n % 2 else POEM).replace("3", str(n + 30)) for n in range(100)]
    responses = await asyncio.gather(*map(engine.aquery, asked))
    for question, response in zip(asked, responses, strict=True):
        assert f"Query: {question}\n" in response.response
        assert [call["model"] for call in response.metadata["unirouter_calls"]] == [llm.decide(question).model]
        assert response.response.startswith(response.metadata["unirouter"]["model"])


# --- Chat engines ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["simple", "context", "condense_plus_context", "condense_question"])
async def test_chat_engines_answer_as_with_the_picked_llm(llm, llms, mode):
    whole = index()
    routed, direct = (whole.as_chat_engine(mode, one, memory=memory()) for one in (llm, llms["tutor"]))
    assert routed.chat(SUM).response == direct.chat(SUM).response
    assert (await routed.achat(SUM)).response == (await direct.achat(SUM)).response
    assert "".join(routed.stream_chat(SUM).response_gen) == "".join(direct.stream_chat(SUM).response_gen)


def test_a_chat_engine_remembers_who_answered_each_turn(llm, llms):
    engine = index().as_chat_engine("simple", llm, memory=memory())
    engine.chat(SUM)
    engine.chat(POEM)
    told = [message.additional_kwargs.get("unirouter", {}).get("model") for message in engine.chat_history]
    assert told == [None, "tutor", None, "poet"]
    assert all(not message.additional_kwargs for message in llms["poet"].asked[0][0])


# --- What is told of a call ------------------------------------------------------------------------------------------


class Listener(BaseEventHandler):
    """Keeps the events that it is told of."""

    seen: list = Field(default_factory=list)

    def handle(self, event, **kwargs):
        self.seen.append(event)


@pytest.fixture
def events():
    listener, root = Listener(), get_dispatcher()
    root.add_event_handler(listener)
    yield listener.seen
    root.event_handlers.remove(listener)


def test_events_come_once_with_the_picked_model_s_name(llm, events):
    llm.chat([ChatMessage(SUM)])
    names = [event.class_name() for event in events]
    assert names == ["LLMChatStartEvent", "LLMChatEndEvent"]
    assert events[0].model_dict["model_name"] == "scripted/tutor"
    assert events[0].tags["unirouter"]["model"] == "tutor"


async def test_all_events_of_a_stream_tell_the_picked_model(llm, events):
    list(llm.stream_chat([ChatMessage(SUM)]))
    [part async for part in await llm.astream_complete(SUM)]
    assert {event.class_name() for event in events} >= {"LLMChatEndEvent", "LLMCompletionEndEvent"}
    assert {event.tags["unirouter"]["model"] for event in events} == {"tutor"}


class Calls(BaseCallbackHandler):
    """Keeps the names of the models that LLM events tell of."""

    def __init__(self):
        super().__init__([], [])
        self.models = []

    def on_event_start(self, event_type, payload=None, **kwargs):
        if event_type == CBEventType.LLM:
            self.models.append(payload["serialized"]["model_name"])

    def on_event_end(self, *args, **kwargs):
        pass

    def start_trace(self, trace_id=None):
        pass

    def end_trace(self, trace_id=None, trace_map=None):
        pass


def test_callbacks_and_token_counts_come_once(llm):
    calls, tokens = Calls(), TokenCountingHandler()
    Settings.callback_manager = CallbackManager([calls, tokens])
    Settings.llm = llm
    told = index().as_query_engine().query(SUM).metadata["unirouter"]
    assert calls.models == ["scripted/tutor"]
    assert (tokens.prompt_llm_token_count, tokens.completion_llm_token_count) == (told["tokens_in"], told["tokens_out"])


def test_llms_that_are_given_keep_their_own_callbacks(asked_router, llms):
    own, ours = Calls(), Calls()
    llms["tutor"].callback_manager = CallbackManager([own])
    llm = UniRouterLLM(asked_router, llms, cost_weight=300, callback_manager=CallbackManager([ours]))
    assert {record(one)["model"] for one in (llm.complete(SUM), llm.complete(SUM))} == {"tutor"}
    llms["tutor"].complete(SUM)
    llms["poet"].complete(POEM)
    assert (len(own.models), len(ours.models)) == (3, 2)


# --- Who is next -----------------------------------------------------------------------------------------------------


@pytest.fixture
def failing(asked_router):
    """The tutor fails, whom sums go to."""
    return UniRouterLLM(
        asked_router, scripted(asked_router, tutor={"failure": OverloadedError("Busy.")}), cost_weight=300
    )


async def test_where_a_model_fails_the_next_of_the_ranking_answers(failing):
    second = failing.decide(SUM).ranking[1].model
    async for answers in from_all_doors(failing, SUM):
        assert record(answers[-1])["model"] == second
        assert record(answers[-1])["failures"] == {"tutor": "OverloadedError: Busy."}


def test_a_query_is_answered_by_the_next_and_kept_there(failing):
    nodes = [NodeWithScore(node=TextNode(text=f"{n}: {'umbrella ' * 40}")) for n in range(2)]
    synthesizer = get_response_synthesizer(llm=failing, response_mode="refine", streaming=True)
    response = synthesizer.synthesize(SUM, nodes)
    assert "scholar heard" in "".join(response.response_gen)
    assert [call["why"] for call in response.metadata["unirouter_calls"]] == ["routed", "query"]
    assert [bool(call["failures"]) for call in response.metadata["unirouter_calls"]] == [True, False]


def test_after_the_first_word_a_failure_is_raised(asked_router):
    llm = UniRouterLLM(
        asked_router, scripted(asked_router, tutor={"breaks": OverloadedError("Gone.")}), cost_weight=300
    )
    chunks = llm.stream_chat([ChatMessage(SUM)])
    assert next(chunks).delta == "tutor "
    with pytest.raises(OverloadedError, match="Gone"):
        next(chunks)


def test_the_request_s_own_failures_are_raised_at_once(asked_router):
    llms = scripted(asked_router, tutor={"failure": TypeError("temperature must be a number.")})
    with pytest.raises(TypeError, match="temperature"):
        UniRouterLLM(asked_router, llms, cost_weight=300).complete(SUM)
    assert not llms["scholar"].asked


def test_when_all_fail_the_failure_of_the_first_is_raised(asked_router):
    failing = {name: {"failure": OverloadedError(f"{name} is busy.")} for name in asked_router.pool}
    llm = UniRouterLLM(asked_router, scripted(asked_router, **failing), cost_weight=300)
    with pytest.raises(OverloadedError, match="tutor is busy") as raised:
        llm.complete(SUM)
    assert len(raised.value.__notes__) == 3


# --- Bad input -------------------------------------------------------------------------------------------------------


def test_bad_input_is_one_clear_sentence(asked_router, llms, llm):
    for make, kind, match in [
        (lambda: UniRouterLLM(3), InvalidDataError, "router=3 is no UniRouter; load one"),
        (lambda: UniRouterLLM("my.router"), ArtifactError, "my.router is not a router"),
        (lambda: UniRouterLLM(asked_router, list(llms)), InvalidDataError, "no mapping"),
        (
            lambda: UniRouterLLM(asked_router, {**llms, "sage": "gpt"}),
            InvalidDataError,
            r"models\['sage'\] is of type str",
        ),
        (lambda: UniRouterLLM(asked_router, {**llms, "nobody": llms["sage"]}), UnknownModelError, "'nobody' is not in"),
        (lambda: UniRouterLLM(asked_router, {"sage": llms["sage"]}), InvalidDataError, "'poet' is in the pool but not"),
        (lambda: UniRouterLLM(asked_router, llms, temperature=0), InvalidDataError, "temperature= is for models that"),
        (lambda: UniRouterLLM(asked_router, llms, cost_weight=-1), InvalidDataError, "cost_weight=-1"),
        (lambda: llm.chat([]), InvalidDataError, "no text to route on"),
        (lambda: llm.chat([ChatMessage(" ")]), InvalidDataError, "no text to route on"),
        (lambda: llm.chat("Hello."), InvalidDataError, "'Hello.' is no list of messages"),
        (lambda: llm.chat(None), InvalidDataError, "None is no list of messages"),
        (lambda: llm.chat_with_tools([len], SUM), InvalidDataError, "len> is no tool"),
        (lambda: llm.chat(["Hello."]), InvalidDataError, "'Hello.' is no ChatMessage"),
        (lambda: llm.complete(""), InvalidDataError, "no text to route on"),
    ]:
        with pytest.raises(kind, match=match) as raised:
            make()
        assert str(raised.value).count("\n") == 0


async def test_a_query_raises_the_router_s_own_error(llm):
    engine = index().as_query_engine(llm=llm)
    llm.cost_weight = -1  # after a ValueError, LlamaIndex's synthesizers would give an empty answer
    with pytest.raises(InvalidDataError, match="cost_weight=-1"):
        engine.query(SUM)
    with pytest.raises(InvalidDataError, match="cost_weight=-1"):
        await engine.aquery(SUM)


def test_a_prompt_too_long_for_all_is_one_clear_sentence(asked_router):
    llms = scripted(asked_router, {"context_window": 50})
    with pytest.raises(NoCandidateError, match="its context window of 50 tokens is less than"):
        UniRouterLLM(asked_router, llms).complete("umbrella " * 60)
