"""What the router reads of a conversation, what of it costs money, and when a model is kept."""

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from tests.plugins.scripted_chat import ScriptedChat, chats, record
from unirouter_core.costs import TokenCounter
from unirouter_plugins.langchain import RouterRunnable
from unirouter_plugins.langchain.pool_models import chat_of

SUM, POEM = "What is 14 plus 37?", "Write a poem of 3 lines about the rain."
LONG = "Remember the manual. " * 500
TOOL = {"type": "function", "function": {"name": "plus", "description": "Add. " * 300}}


@pytest.fixture
def llm(asked_router):
    return RouterRunnable(asked_router, chats(asked_router), cost_weight=300)


def by(model, text="", **message):
    """An answer that a model of the pool gave."""
    return AIMessage(text, response_metadata={"unirouter": {"model": model}}, **message)


def costs(decision):
    return {row.model: row.cost for row in decision.ranking}


def test_a_conversation_is_routed_on_its_newest_prompt(llm):
    chat = [SystemMessage("Be brief."), HumanMessage(POEM), AIMessage("Drops."), HumanMessage(SUM)]
    assert llm.decide(chat).error == llm.decide(SUM).error != llm.decide(POEM).error
    assert llm.decide([*chat, AIMessage("51"), HumanMessage([{"type": "text", "text": POEM}])]).model == "poet"


def test_all_that_is_sent_is_paid_for_tools_too(llm):
    prices = llm.router.pool["sage"].prices
    before = costs(llm.decide([HumanMessage(LONG), AIMessage("Yes."), HumanMessage(SUM)]))
    counter = TokenCounter()
    sent = chat_of([HumanMessage(LONG), AIMessage("Yes."), HumanMessage(SUM)]).count_sent_before(counter)[0]
    assert sent > counter.count([LONG, SUM]).sum()
    answer = llm.router.pool["sage"].cost.per_answer[llm.decide(SUM).region]
    assert before["sage"] == pytest.approx(prices.input * sent / 1e6 + answer)
    with_tools = costs(llm.decide(SUM, tools=[TOOL]))
    assert with_tools["sage"] - costs(llm.decide(SUM))["sage"] > 300 * prices.input / 1e6


def test_what_a_model_was_sent_before_costs_it_the_price_for_cached_tokens(llm):
    chat = [SystemMessage(LONG), HumanMessage(POEM), by("sage", "Drops."), HumanMessage(SUM)]
    alone = [SystemMessage(LONG), HumanMessage(POEM), AIMessage("Drops."), HumanMessage(SUM)]
    sent = chat_of(chat[:2]).count_sent_before(llm.router.fit_.token_counter)[0]
    listed, cached = costs(llm.decide(alone)), costs(llm.decide(chat))
    prices = llm.router.pool["sage"].prices
    assert listed["sage"] - cached["sage"] == pytest.approx(sent * (prices.input - prices.cached_input) / 1e6)
    assert {m: c for m, c in listed.items() if m != "sage"} == {m: c for m, c in cached.items() if m != "sage"}


def test_a_conversation_leaves_its_model_only_when_that_gains_more_than_the_lost_cache(llm):
    chat = [SystemMessage(LONG), HumanMessage(POEM), by("sage", "Drops."), HumanMessage(SUM)]
    two = {"configurable": {"unirouter_models": ["sage", "tutor"]}}
    sage, tutor = sorted(llm.decide([*chat[:2], AIMessage("Drops."), chat[3]], two).ranking[:2], key=lambda c: c.model)
    worse, saved = tutor.error - sage.error, sage.cost - tutor.cost
    lost = sage.cost - costs(llm.decide(chat, two))["sage"]
    leaves, stays = (
        worse / saved,
        worse / (saved - lost),
    )  # the cost_weights from which tutor gains, without cache and with
    assert worse > 0 < saved - lost
    for weight, alone, kept in [
        (0.99 * leaves, "sage", "sage"),
        (1.01 * leaves, "tutor", "sage"),
        (0.99 * stays, "tutor", "sage"),
        (1.01 * stays, "tutor", "tutor"),
    ]:
        llm = llm.model_copy(update={"cost_weight": weight})
        assert llm.decide([*chat[:2], AIMessage("Drops."), chat[3]], two).model == alone
        assert llm.decide(chat, two).model == kept


def test_each_model_has_cached_what_it_was_sent_last():
    chat = [
        HumanMessage("a b c"),
        by("sage", "d"),
        HumanMessage("e f"),
        by("poet", "g"),
        by("gone", "h"),
        HumanMessage("i"),
    ]
    counter = TokenCounter("characters / 4")
    total, cached = chat_of(chat).count_sent_before(counter)
    each = [chat_of([message]).count_sent_before(counter)[0] for message in chat]
    assert (total, cached) == (sum(each), {"sage": each[0], "poet": sum(each[:3]), "gone": sum(each[:4])})


LOOP = [
    HumanMessage(SUM),
    by("sage", tool_calls=[{"name": "plus", "args": {"a": 14, "b": 37}, "id": "1"}]),
    ToolMessage("51", tool_call_id="1"),
]


def test_inside_a_tool_loop_the_model_is_kept(llm):
    assert llm.decide(LOOP).model != "sage"
    said = record(llm.invoke(LOOP))
    assert (said["model"], said["why"]) == ("sage", "tool loop")
    next_turn = record(llm.invoke([*LOOP, AIMessage("51"), HumanMessage(POEM)]))
    assert (next_turn["model"], next_turn["why"]) == ("poet", "routed")


def test_a_kept_model_that_fails_or_may_not_answer_is_followed_by_the_ranking(llm, asked_router):
    failing = chats(asked_router, sage={"failure": TimeoutError("slow")})
    said = record(RouterRunnable(asked_router, failing, cost_weight=300).invoke(LOOP))
    assert (said["model"], list(said["failures"])) == (llm.decide(LOOP).model, ["sage"])
    said = record(llm.invoke(LOOP, {"configurable": {"unirouter_models": ["poet", "tutor"]}}))
    assert (said["model"], said["why"]) == (llm.decide(LOOP).model, "routed")
    foreign = [LOOP[0], by("gpt-4", tool_calls=LOOP[1].tool_calls), LOOP[2]]
    assert record(llm.invoke(foreign))["model"] == llm.decide(LOOP).model


def test_answers_carry_what_the_next_turn_needs(llm):
    first = llm.invoke([SystemMessage(LONG), HumanMessage(POEM)], model="sage")
    again = AIMessage.model_validate_json(first.model_dump_json())  # as a store of conversations keeps it
    chat = [SystemMessage(LONG), HumanMessage(POEM), again, HumanMessage(SUM)]
    assert costs(llm.decide(chat))["sage"] < costs(llm.decide([*chat[:2], AIMessage("x"), chat[3]]))["sage"] / 2


def test_a_conversation_too_long_for_a_window_goes_to_a_larger_one(asked_router):
    models = chats(asked_router)
    for name in ("poet", "tutor", "scholar"):
        models[name] = ScriptedChat(model_name=name, profile={"max_input_tokens": 500})
    llm = RouterRunnable(asked_router, models, cost_weight=300)
    assert llm.decide([HumanMessage(LONG), AIMessage("Yes."), HumanMessage(POEM)]).model == "sage"
    assert llm.decide(POEM).model == "poet"
