"""The LLM that routes, in agents, programs and structured LLMs: tool calls, schemas, and who answers in a loop."""

import pytest
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent, ReActAgent
from llama_index.core.base.llms.generic_utils import chat_to_completion_decorator
from llama_index.core.llms import ChatMessage
from llama_index.core.llms.callbacks import llm_completion_callback
from llama_index.core.program import FunctionCallingProgram
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel

from tests.plugins.scripted_llm import (
    POEM,
    SUM,
    OverloadedError,
    ScriptedLLM,
    dumped,
    memory,
    record,
    scripted,
    settings,  # noqa: F401 - a fixture
    without_record,
)
from unirouter_core import InvalidDataError, NoCandidateError
from unirouter_plugins.llamaindex import UniRouterLLM, record_decisions

pytestmark = [
    pytest.mark.usefixtures("settings"),
    pytest.mark.filterwarnings(
        "ignore::pydantic.warnings.PydanticDeprecatedSince20",  # LlamaIndex's workflows look at all that an agent has
        "ignore::pydantic.warnings.PydanticDeprecatedSince211",
        "ignore:is_running called from within a step:DeprecationWarning",  # by LlamaIndex's own ReAct agent
    ),
]


def plus(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def shops(city: str) -> str:
    """Find the shops of a city."""
    return f"Two shops in {city}."


TOOLS = [FunctionTool.from_defaults(plus), FunctionTool.from_defaults(shops)]


@pytest.fixture
def llms(asked_router):
    """Each writes tool calls in a form that the others cannot read."""
    return scripted(asked_router, **{name: {"dialect": name} for name in asked_router.pool})


@pytest.fixture
def llm(asked_router, llms):
    """Sums go to the tutor, poems to the poet."""
    return UniRouterLLM(asked_router, llms, cost_weight=300)


# --- Tools -----------------------------------------------------------------------------------------------------------


async def from_all_doors(llm, prompt):
    history = [ChatMessage("Be brief.", role="system")]
    yield [llm.chat_with_tools(TOOLS, prompt, list(history))]
    yield [await llm.achat_with_tools(TOOLS, prompt, chat_history=list(history), tool_required=True)]
    yield list(llm.stream_chat_with_tools(TOOLS, user_msg=prompt, verbose=False))
    yield [part async for part in await llm.astream_chat_with_tools(TOOLS, ChatMessage(prompt))]


async def test_every_door_for_tools_gives_what_the_picked_llm_gives(llm, llms):
    routed = [answers async for answers in from_all_doors(llm, SUM)]
    direct = [answers async for answers in from_all_doors(llms["tutor"], SUM)]
    for ours, theirs in zip(routed, direct, strict=True):
        assert [without_record(answer) for answer in ours] == [dumped(answer) for answer in theirs]
        assert {record(answer)["model"] for answer in ours} == {"tutor"}


@pytest.mark.parametrize(("prompt", "model"), [(SUM, "tutor"), ("Write a poem of 3 lines about shops.", "poet")])
def test_tool_calls_are_read_by_the_llm_that_was_picked(llm, prompt, model):
    response = llm.chat_with_tools(TOOLS, prompt)
    calls = llm.get_tool_calls_from_response(response)
    assert [call.tool_id.partition("-")[0] for call in calls] == [model]


def test_a_caller_s_history_stays_as_it_was_where_a_model_fails(asked_router):
    llms = scripted(asked_router, tutor={"failure": OverloadedError("Busy.")})
    history = [ChatMessage("Be brief.", role="system")]
    response = UniRouterLLM(asked_router, llms, cost_weight=300).chat_with_tools(TOOLS, SUM, history)
    assert record(response)["failures"] == {"tutor": "OverloadedError: Busy."}
    sent, _ = llms[record(response)["model"]].asked[0]
    assert [message.content for message in sent] == ["Be brief.", SUM]
    assert len(history) == 1


def test_tools_go_to_a_model_that_can_call_them(asked_router):
    llms = scripted(asked_router, tutor={"calls_tools": False})
    llm = UniRouterLLM(asked_router, llms, cost_weight=300)
    assert record(llm.chat_with_tools(TOOLS, SUM))["model"] == "scholar"
    assert record(llm.chat([ChatMessage(SUM)]))["model"] == "tutor"
    with pytest.raises(NoCandidateError, match="tutor: lacks tools"):
        llm.chat_with_tools(TOOLS, SUM, model="tutor")


def test_tools_may_be_prepared_as_llms_do(llm):
    response = llm.chat(**llm._prepare_chat_with_tools(TOOLS, SUM, chat_history=[ChatMessage(POEM)]))
    assert [call.tool_name for call in llm.get_tool_calls_from_response(response)] == ["plus"]


def test_predict_and_call_calls_the_tool(llm):
    assert llm.predict_and_call(TOOLS, SUM).response == "51"


def test_an_answer_from_elsewhere_is_refused_in_one_clear_sentence(llm, llms):
    with pytest.raises(InvalidDataError, match="no record of a model of the pool"):
        llm.get_tool_calls_from_response(llms["sage"].chat_with_tools(TOOLS, SUM))


# --- Agents ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streaming", [True, False])
async def test_a_function_agent_keeps_the_model_in_a_tool_loop(llm, streaming):
    agent = FunctionAgent(tools=TOOLS, llm=llm, system_prompt="Be exact.", streaming=streaming)
    with record_decisions() as decisions:
        output = await agent.run("What is 14 plus 37? And where are shops in Oslo?", memory=memory())
    assert [decision["why"] for decision in decisions] == ["routed", "tool loop"]
    assert len({decision["model"] for decision in decisions}) == 1
    assert {call.tool_name: call.tool_output.raw_output for call in output.tool_calls} == {
        "plus": 51,
        "shops": "Two shops in Oslo.",
    }
    assert output.response.additional_kwargs["unirouter"] == decisions[-1]


async def test_each_turn_of_an_agent_s_chat_is_routed_anew(llm):
    agent, kept = FunctionAgent(tools=TOOLS, llm=llm), memory()
    models = [(await agent.run(p, memory=kept)).response.additional_kwargs["unirouter"]["model"] for p in (SUM, POEM)]
    assert models == ["tutor", "poet"]


async def test_a_workflow_of_agents_keeps_the_model_when_one_hands_over(llm):
    adder = FunctionAgent(name="Adder", description="Adds.", tools=TOOLS[:1], llm=llm, can_handoff_to=["Finder"])
    finder = FunctionAgent(name="Finder", description="Finds.", tools=TOOLS[1:], llm=llm)
    with record_decisions() as decisions:
        output = await AgentWorkflow(agents=[adder, finder], root_agent="Adder").run(
            "Write a poem of 3 lines, or handoff to Finder.", memory=memory()
        )
    assert output.current_agent_name == "Finder"
    assert [(decision["model"], decision["why"]) for decision in decisions] == [
        ("poet", "routed"),
        ("poet", "tool loop"),
    ]


STEP = 'Thought: I need a tool.\nAction: plus\nAction Input: {"a": 14, "b": 37}'


async def test_a_react_agent_is_routed_on_the_question_and_not_on_what_a_tool_said(asked_router):
    says = {SUM: STEP, "Observation: 51": "Thought: I can answer without using any more tools.\nAnswer: It is 51."}
    llm = UniRouterLLM(asked_router, scripted(asked_router, {"says": says}), cost_weight=300)
    with record_decisions() as decisions:
        output = await ReActAgent(tools=TOOLS, llm=llm).run(SUM, memory=memory())
    assert str(output) == "It is 51."
    assert [decision["model"] for decision in decisions] == ["tutor", "tutor"]


# --- Schemas ---------------------------------------------------------------------------------------------------------


class Shop(BaseModel):
    """A shop."""

    city: str
    floors: int


ASKED = PromptTemplate("What is {floors} plus 0, and a shop in {city}?")
SHOP = Shop(city="Oslo", floors=14)


async def test_objects_are_made_as_the_picked_llm_makes_them(llm, llms):
    asked = {"city": "Oslo", "floors": 14}
    for one in (llm, llms["tutor"]):
        assert one.structured_predict(Shop, ASKED, **asked) == SHOP
        assert await one.astructured_predict(Shop, ASKED, **asked) == SHOP
        assert list(one.stream_structured_predict(Shop, ASKED, **asked))[-1].model_dump() == SHOP.model_dump()
        parts = await one.astream_structured_predict(Shop, ASKED, **asked)
        assert [part async for part in parts][-1].model_dump() == SHOP.model_dump()


@pytest.mark.parametrize("calls_tools", [True, False])
async def test_the_record_of_an_object_has_what_the_answer_below_it_took(asked_router, calls_tools):
    how = {"calls_tools": calls_tools, "says": {"plus": SHOP.model_dump_json()}}
    llms = scripted(asked_router, tutor=how)
    llm, asked = UniRouterLLM(asked_router, llms, cost_weight=300), {"city": "Oslo", "floors": 14}
    with record_decisions() as told:
        llm.structured_predict(Shop, ASKED, **asked)
        await llm.astructured_predict(Shop, ASKED, **asked)
        list(llm.stream_structured_predict(Shop, ASKED, **asked))
        [part async for part in await llm.astream_structured_predict(Shop, ASKED, **asked)]
        llm.as_structured_llm(Shop).complete(ASKED.format(**asked))
    tokens_in = [sum(len(message.content.split()) for message in sent) for sent, _ in llms["tutor"].asked]
    assert [record["tokens_in"] for record in told] == tokens_in
    assert min(record["usd"] for record in told) > 0


class CompletesByChatting(ScriptedLLM):
    """Tells of each completion twice: as a chat, and as what was made of it."""

    @property
    def metadata(self):
        return super().metadata.model_copy(update={"is_chat_model": False})

    @llm_completion_callback()
    def complete(self, prompt, formatted=False, **kwargs):
        return chat_to_completion_decorator(self.chat)(prompt, **kwargs)


def test_what_an_llm_tells_twice_is_paid_for_once(asked_router):
    says = {"plus": SHOP.model_dump_json()}
    llms = {name: CompletesByChatting(name=name, calls_tools=False, says=says) for name in asked_router.pool}
    with record_decisions() as told:
        UniRouterLLM(asked_router, llms).structured_predict(Shop, ASKED, city="Oslo", floors=14)
    sent, _ = llms[told[0]["model"]].asked[0]
    assert told[0]["tokens_in"] == len(sent[0].content.split())


def test_a_model_without_tools_makes_objects_in_its_own_way(asked_router):
    tutor = {"calls_tools": False, "says": {"plus": SHOP.model_dump_json()}}
    llm = UniRouterLLM(asked_router, scripted(asked_router, tutor=tutor), cost_weight=300)
    with record_decisions() as decisions:
        assert llm.structured_predict(Shop, ASKED, city="Oslo", floors=14) == SHOP
    assert [decision["model"] for decision in decisions] == ["tutor"]


async def test_a_structured_llm_answers_with_objects(llm):
    structured = llm.as_structured_llm(Shop)
    chat = [ChatMessage(POEM), llm.chat([ChatMessage(POEM)]).message, ChatMessage("What is 14 plus 0, in Oslo?")]
    assert structured.chat(chat).raw == SHOP
    assert (await structured.achat(chat)).raw == SHOP
    assert structured.complete("What is 14 plus 0, in Oslo?").raw == SHOP


def test_a_program_calls_the_picked_llm(llm):
    program = FunctionCallingProgram.from_defaults(Shop, prompt=ASKED, llm=llm)
    with record_decisions() as decisions:
        assert program(city="Oslo", floors=14) == SHOP
    assert [decision["model"] for decision in decisions] == ["tutor"]
