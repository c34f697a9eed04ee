"""Agents and graphs that route: LangChain's create_agent, its middleware, and LangGraph's own loop."""

import asyncio

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import wrap_model_call
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.messages import AIMessage, AIMessageChunk, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from pydantic import BaseModel

from tests.plugins.scripted_chat import ScriptedChat, chats, record
from unirouter_plugins.langchain import RouterRunnable, UniRouterMiddleware, record_decisions

BOTH = {"messages": [("user", "What is the weather in Rome, and what is 14 plus 37?")]}


@tool
def weather(city: str) -> str:
    """Return the weather in a city."""
    return f"It is sunny in {city}."


@tool
def plus(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


class Person(BaseModel):
    """Somebody."""

    name: str
    born: int


@pytest.fixture
def llm(asked_router):
    return RouterRunnable(asked_router, chats(asked_router), cost_weight=300)


def agents(llm, tools=(weather, plus), **how):
    """The same agent three ways: the router as its model, as its middleware, and in a graph of one's own."""
    loop = StateGraph(MessagesState)
    bound = llm.bind_tools(list(tools))
    loop.add_node("model", lambda state: {"messages": [bound.invoke(state["messages"])]})
    loop.add_node("tools", ToolNode(list(tools)))
    loop.add_edge(START, "model").add_conditional_edges("model", tools_condition).add_edge("tools", "model")
    return {
        "model": create_agent(llm, list(tools), **how),
        "middleware": create_agent(ScriptedChat(model_name="none"), list(tools), middleware=[UniRouterMiddleware(llm)]),
        "graph": loop.compile(),
    }


@pytest.mark.parametrize("kind", ["model", "middleware", "graph"])
def test_an_agent_calls_two_tools_and_stays_with_its_model(llm, kind):
    messages = agents(llm)[kind].invoke(BOTH)["messages"]
    answers = [message for message in messages if isinstance(message, AIMessage)]
    assert [call["name"] for call in answers[0].tool_calls] == ["weather", "plus"]
    assert [m.text for m in messages if isinstance(m, ToolMessage)] == ["It is sunny in Rome.", "51"]
    picked = llm.decide(BOTH["messages"], tools=[{}]).model
    assert [record(answer)["model"] for answer in answers] == [picked, picked]
    assert [record(answer)["why"] for answer in answers] == ["routed", "tool loop"]


@pytest.mark.parametrize("kind", ["model", "middleware"])
def test_an_agent_does_the_same_asynchronously_and_falls_back(asked_router, llm, kind):
    first = llm.decide(BOTH["messages"], tools=[{}]).model
    failing = RouterRunnable(asked_router, chats(asked_router, **{first: {"failure": TimeoutError()}}), cost_weight=300)
    with record_decisions() as decisions:
        messages = asyncio.run(agents(failing)[kind].ainvoke(BOTH))["messages"]
    assert first not in {record(m)["model"] for m in messages if isinstance(m, AIMessage)}
    assert [list(decision["failures"]) for decision in decisions] == [[first], []]


@pytest.mark.parametrize("kind", ["model", "middleware", "graph"])
def test_an_agent_streams_the_picked_model_s_words(llm, kind):
    chunks = [message for message, _ in agents(llm)[kind].stream(BOTH, stream_mode="messages")]
    words = [chunk.text for chunk in chunks if isinstance(chunk, AIMessageChunk) and chunk.text]
    assert len(words) > 2
    assert words[0].strip() in llm.router.pool


def test_what_is_set_for_an_agent_s_call_holds_in_it(llm):
    config = {"configurable": {"unirouter_model": "scholar"}}
    for agent in agents(llm).values():
        assert record(agent.invoke(BOTH, config)["messages"][-1])["model"] == "scholar"


def test_the_run_inside_a_middleware_has_the_decision_in_its_metadata(llm):
    async def runs():
        events = agents(llm)["middleware"].astream_events(BOTH, version="v2")
        return [event["metadata"] async for event in events if event["event"] == "on_chat_model_start"]

    seen = asyncio.run(runs())
    assert [metadata["ls_model_name"] for metadata in seen] == [metadata["unirouter"]["model"] for metadata in seen]
    assert len(seen) == 2


def test_a_middleware_further_in_sees_the_picked_model(llm):
    seen = []

    @wrap_model_call
    def look(request, handler):
        seen.append(request.model.model_name)
        return handler(request)

    agent = create_agent(llm, [plus], middleware=[UniRouterMiddleware(llm), look])
    answer = agent.invoke({"messages": [("user", "Write a poem of 3 lines about the rain.")]})["messages"][-1]
    assert seen == [record(answer)["model"]] == ["poet"]


@pytest.mark.parametrize("how", [ToolStrategy, ProviderStrategy])
@pytest.mark.parametrize("inside", [True, False])
def test_an_agent_s_answer_is_held_to_a_schema(llm, how, inside):
    middleware = [UniRouterMiddleware(llm)] if inside else []
    agent = create_agent(llm, [], response_format=how(Person), middleware=middleware)
    answer = agent.invoke({"messages": [("user", "Ada, 1815")]})
    assert answer["structured_response"] == Person(name="Ada", born=1815)
    assert record(next(m for m in answer["messages"] if isinstance(m, AIMessage)))["model"] in llm.router.pool


def test_a_conversation_that_is_kept_by_langgraph_goes_on_where_it_was(llm):
    agent = create_agent(llm, [plus], checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "1"}}
    agent.invoke({"messages": [("user", "What is 14 plus 37?")]}, config)
    messages = agent.invoke({"messages": [("user", "Write a poem of 3 lines about the rain.")]}, config)["messages"]
    answers = [record(message) for message in messages if isinstance(message, AIMessage)]
    assert [answer["why"] for answer in answers] == ["routed", "tool loop", "routed"]
    assert answers[-1]["model"] == "poet"
