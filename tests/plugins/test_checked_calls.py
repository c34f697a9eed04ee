"""Answers are checked in every way to call: accepted drafts are given, rejected ones paid for, each given once."""

import asyncio
import json
import math
import threading
import time

import numpy as np
import pytest
from langchain_core.messages import AIMessage
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel

from tests.plugins.scripted_chat import chats
from tests.plugins.scripted_llm import scripted
from tests.plugins.servers import KEY, breaks, fails, says
from unirouter_core import InvalidDataError
from unirouter_core.rule import Decision
from unirouter_plugins.langchain import RouterRunnable, last_decision, record_decisions
from unirouter_plugins.litellm import acomplete, astream, complete, configured, load_router, snapshot_of, stream
from unirouter_plugins.litellm.checks import Found
from unirouter_plugins.litellm.health import HEALTH
from unirouter_plugins.litellm.pool_file import Member, Members
from unirouter_plugins.litellm.timeouts import CallTimeoutError
from unirouter_plugins.llamaindex import UniRouterLLM

SUM, WEIGHT = (
    "What is 14 plus 37?",
    200,
)  # at which scholar answers unchecked, tutor checked, and sage after a rejection


async def collected(parts):
    return [part async for part in parts]


async def streamed_by_litellm(router, **options):
    return [part async for part in await astream(router, SUM, cost_weight=WEIGHT, **options)]


def text_of(parts):
    return "".join(part.choices[0].delta.content or "" for part in parts)


def chat(router):
    return RouterRunnable(router, cost_weight=WEIGHT)


def llm(router):
    return UniRouterLLM(router, cost_weight=WEIGHT)


def per_call(check=True):
    return {"configurable": {"unirouter_check": check}}


async def streamed_by_llamaindex(router, **how):
    return [part async for part in await llm(router).astream_complete(SUM, **how)]


def joined(parts):
    return "".join(part.text for part in parts)


def deltas(parts):
    return "".join(part.delta for part in parts)


# Each way to call: the text of the answer to SUM.
WAYS = {
    "complete": lambda r, **how: complete(r, SUM, cost_weight=WEIGHT, **how).choices[0].message.content,
    "acomplete": lambda r, **how: asyncio.run(acomplete(r, SUM, cost_weight=WEIGHT, **how)).choices[0].message.content,
    "stream": lambda r, **how: text_of(stream(r, SUM, cost_weight=WEIGHT, **how)),
    "astream": lambda r, **how: text_of(asyncio.run(streamed_by_litellm(r, **how))),
    "LangChain": lambda r, **how: chat(r).invoke(SUM, per_call(**how)).text,
    "LangChain's ainvoke": lambda r, **how: asyncio.run(chat(r).ainvoke(SUM, per_call(**how))).text,
    "LangChain's stream": lambda r, **how: joined(chat(r).stream(SUM, per_call(**how))),
    "LangChain's astream": lambda r, **how: joined(asyncio.run(collected(chat(r).astream(SUM, per_call(**how))))),
    "LangChain's v3": lambda r, **how: chat(r).stream_events(SUM, per_call(**how), version="v3").output.text,
    "LlamaIndex": lambda r, **how: llm(r).complete(SUM, **how).text,
    "LlamaIndex's acomplete": lambda r, **how: asyncio.run(llm(r).acomplete(SUM, **how)).text,
    "LlamaIndex's stream": lambda r, **how: deltas(llm(r).stream_complete(SUM, **how)),
    "LlamaIndex's astream": lambda r, **how: deltas(asyncio.run(streamed_by_llamaindex(r, **how))),
}


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def checked(router, scripted_server):
    """What gives the router at one server, its tutor's answers checked by a function."""
    router.add_check("tutor", "right", router.pool["tutor"].errors < 0.5)
    for name in router.pool:
        scripted_server.script[name] = says(f"{name} says 51.")
    members = {name: Member(name, f"openai/{name}", scripted_server.url) for name in router.pool}
    return lambda function: configured(router, Members(members, checks={"right": function}))


def asked(way, router, **how):
    """The text of the answer, and the record of its call."""
    with record_decisions() as records:
        text = WAYS[way](router, **how)
    (told,) = records
    return text, told


def called(scripted_server):
    models = [seen.body["model"] for seen in scripted_server.seen]
    scripted_server.seen.clear()
    return models


def unchecked_record(router):
    """The record's fields that do not depend on time."""
    complete(router, SUM, cost_weight=WEIGHT)
    return {name: value for name, value in last_decision().items() if name != "seconds"}


@pytest.mark.parametrize("way", WAYS)
def test_an_accepted_draft_is_the_answer(checked, scripted_server, way):
    seen = []
    router = checked(lambda prompt, answer, context: not seen.append((prompt, answer, context.model)))
    text, told = asked(way, router)
    assert (called(scripted_server), seen) == (["tutor"], [(SUM, text, "tutor")])
    assert text == "tutor says 51."
    assert (told["model"], told["why"], told["failures"]) == ("tutor", "routed", {})
    assert told["checked"]["tutor"] | {"expected_error": 0} == {
        **{"check": "right", "signal": 1.0, "usd": told["usd"], "expected_error": 0}
    }
    assert told["usd"] > 0 < told["checked"]["tutor"]["expected_error"] < told["expected_error"]
    assert ("seconds_to_first_token" in told) == ("stream" in way or "v3" in way)


@pytest.mark.parametrize("way", ["complete", "acomplete", "stream", "astream", "LangChain", "LlamaIndex"])
def test_log_probabilities_are_found_in_answers_and_streams(router, scripted_server, way):
    router.add_check("tutor", "sure", router.pool["tutor"].errors < 0.5)
    scripted_server.script = {name: says("tutor says 51.") for name in router.pool}
    members = {
        name: Member(name, f"openai/{name}", scripted_server.url, settings={"logprobs": True}) for name in router.pool
    }
    _, told = asked(way, configured(router, Members(members, checks={"sure": "logprob"})))
    assert told["checked"]["tutor"]["signal"] == pytest.approx(-1.4 / 3)


@pytest.mark.parametrize("way", WAYS)
def test_after_a_rejected_draft_the_next_model_answers_and_both_are_paid(checked, scripted_server, way):
    router = checked(lambda prompt, answer, context: Found(0.0, 0.5))
    usd = {}
    for model in ("tutor", "sage"):
        complete(router, SUM, models=[model], check=False)
        usd[model] = last_decision()["usd"]
    scripted_server.seen.clear()
    text, told = asked(way, router)
    assert called(scripted_server) == ["tutor", "sage"]
    assert (text, told["model"]) == ("sage says 51.", "sage")
    assert told["usd"] == pytest.approx(usd["tutor"] + 0.5 + usd["sage"])
    assert told["checked"]["tutor"]["usd"] == pytest.approx(usd["tutor"] + 0.5)


@pytest.mark.parametrize("way", WAYS)
def test_a_rejected_draft_is_given_where_no_other_model_answers(checked, scripted_server, way):
    failure = (
        breaks() if "stream" in way else fails(400, "Not like this.")
    )  # one that is passed on, and one that is not
    for name in ("sage", "scholar", "poet"):
        scripted_server.script[name] = failure
    text, told = asked(way, checked(lambda *_: False))
    assert called(scripted_server).count("tutor") == 1
    assert (text, told["model"], told["usd"]) == ("tutor says 51.", "tutor", told["checked"]["tutor"]["usd"])
    assert "tutor" not in told["failures"]
    assert "sage" in told["failures"]


@pytest.mark.parametrize("way", WAYS)
def test_check_false_gives_the_answer_as_without_checks(checked, scripted_server, way):
    router = checked(lambda *_: False)
    text, told = asked(way, router, check=False)
    assert (text, called(scripted_server)) == ("scholar says 51.", ["scholar"])
    assert "checked" not in told


@pytest.mark.parametrize("unknown", [lambda *_: math.nan, lambda *_: 1 / 0])
def test_a_check_that_fails_leaves_the_rule_to_what_it_knew_and_warns_once(checked, unknown):
    router = checked(unknown)
    with pytest.warns(UserWarning, match="'right' says nothing of an answer") as warned:
        answers = [asked("complete", router) for _ in range(2)]
    assert len(warned) == 1
    assert {(text, told["checked"]["tutor"]["signal"]) for text, told in answers} == {("tutor says 51.", None)}


def test_a_check_ends_with_the_deadline_of_its_call(checked):
    async def waits(*_):
        await asyncio.sleep(60)

    for way in ("complete", "acomplete"):
        text, told = asked(way, checked(waits), deadline=1, timeout=0.9)
        assert (text, told["checked"]["tutor"]["signal"]) == ("tutor says 51.", None)


def test_nothing_waits_for_a_check_that_is_left_behind_and_it_asks_no_more(checked, scripted_server):
    ended, asked_late = threading.Event(), list[object]()

    def hangs(prompt, answer, context):
        ended.wait(60)
        try:
            asked_late.append(context.ask("scholar", [{"role": "user", "content": SUM}], 0))
        except Exception as failed:
            asked_late.append(failed)

    router = checked(hangs)
    _, told = asked("acomplete", router, deadline=1, timeout=0.9)  # asyncio.run would wait for a thread of its own
    assert (ended.is_set(), told["checked"]["tutor"]["signal"]) == (False, None)
    called(scripted_server)
    ended.set()
    while not asked_late:
        time.sleep(0.01)
    assert "asks too late" in str(asked_late[0])
    assert called(scripted_server) == []


def test_a_check_that_the_deadline_ends_has_paid_for_what_it_asked(checked, scripted_server):
    async def asks_and_waits(prompt, answer, context):
        context.ask("poet", [{"role": "user", "content": prompt}], 0)
        await asyncio.sleep(60)

    _, told = asked("acomplete", checked(asks_and_waits), deadline=2, timeout=1.9)
    _, poet = asked("complete", checked(asks_and_waits), models=["poet"], check=False)
    _, alone = asked("complete", checked(lambda *_: True))
    assert told["checked"]["tutor"]["signal"] is None
    assert told["usd"] == pytest.approx(alone["usd"] + poet["usd"])


@pytest.mark.parametrize("way", ["complete", "astream"])
def test_a_limit_holds_for_the_fallback_of_a_model_that_fails_and_for_the_cheapest(
    checked, scripted_server, router, way
):
    doubted = np.arange(80) % 8 > 0  # a few right ones, too: a check needs answers of both kinds
    for name in router.pool:
        router.add_check(name, "right", (router.pool[name].errors < 0.5) & doubted, limit=0.1)
    served = checked(lambda prompt, answer, context: context.model == "sage")
    with record_decisions() as records:
        complete(served, SUM, cost_weight=math.inf)
    assert list(records[0]["checked"])[-1] == records[0]["model"] == "sage"
    _, order = asked("complete", served)
    scripted_server.script[next(iter(order["checked"]))] = breaks()
    text, told = asked(way, served)
    assert told["failures"]
    assert (text, list(told["checked"])[-1]) == ("sage says 51.", "sage")


def test_a_fallback_that_the_rule_would_not_choose_is_checked(checked, scripted_server, router, monkeypatch):
    doubted = np.arange(80) % 8 > 0
    router.add_check("scholar", "right", (router.pool["scholar"].errors < 0.5) & doubted, limit=0.1)
    scripted_server.script["tutor"] = breaks()
    monkeypatch.setattr(Decision, "avoiding", lambda decision, models: decision)  # its choice stays the tutor
    _, told = asked("complete", checked(lambda *_: False))
    assert (list(told["failures"]), list(told["checked"])) == (["tutor"], ["scholar"])
    assert told["model"] != "scholar"


def test_a_draft_over_its_limit_is_given_before_an_empty_answer(checked, scripted_server, router):
    router.add_check("tutor", "right", router.pool["tutor"].errors < 0.5, limit=0.1)
    scripted_server.script |= dict.fromkeys(set(router.pool) - {"tutor"}, says(""))
    text, told = asked("complete", checked(lambda *_: False))
    assert (text, told["model"]) == ("tutor says 51.", "tutor")
    assert told["failures"].keys() == router.pool.keys() - {"tutor"}


def test_a_model_of_the_chat_that_is_not_a_candidate_leaves_the_check_to_the_others(checked):
    answer = {"role": "assistant", "content": "51.", "provider_specific_fields": {"unirouter": {"model": "sage"}}}
    chat = [{"role": "user", "content": SUM}, answer, {"role": "user", "content": "thanks"}]
    router = checked(lambda *_: True)
    with record_decisions() as records:
        complete(router, chat, cost_weight=WEIGHT, models=["tutor", "scholar"])
    assert (records[0]["why"], records[0]["model"], [*records[0]["checked"]]) == ("routed", "tutor", ["tutor"])


@pytest.mark.parametrize("limit", [1, 0.1])
@pytest.mark.parametrize("call", [complete, lambda *given, **how: list(stream(*given, **how))])
def test_while_better_models_cool_down_the_draft_is_given_unless_it_is_over_its_limit(
    checked, scripted_server, router, limit, call
):
    router.add_check("tutor", "right", router.pool["tutor"].errors < 0.5, limit=limit)
    others = {"sage", "scholar"} if limit == 1 else {*router.pool} - {"tutor"}

    def begin_to_cool_down(prompt, answer, context):
        for name in others:
            HEALTH.failed(snapshot_of(served).keys[name], CallTimeoutError("slow"))

    served = checked(begin_to_cool_down)
    expected = served.route(SUM, cost_weight=100, checks=["right"]).after(None)
    assert [expected.model, *expected.fallbacks()].index("tutor") == (2 if limit == 1 else 3)
    with record_decisions() as records:
        call(served, SUM, cost_weight=100)
    assert len(called(scripted_server)) == len({*records[0]["checked"], records[0]["model"]})
    assert (records[0]["model"] == "tutor") == (limit == 1)


def test_a_check_that_cannot_be_used_is_left_out_of_calls_but_not_one_with_a_limit(checked, scripted_server, router):
    members = {name: Member(name, f"openai/{name}", scripted_server.url) for name in router.pool}
    bare = configured(checked(None), Members(members, checks={"right": {"check": "agreement", "member": "ghost"}}))
    with pytest.warns(UserWarning, match=r"without a check\. The check 'right' asks 'ghost'") as warned:
        texts = [asked("complete", bare)[0] for _ in range(2)]
    assert (texts, len(warned)) == (["scholar says 51."] * 2, 1)
    router.add_check("tutor", "right", router.pool["tutor"].errors < 0.5, limit=0.5)
    limited = configured(router, Members(members, checks={"right": {"check": "agreement", "member": "ghost"}}))
    with pytest.raises(InvalidDataError, match="asks 'ghost'"):
        complete(limited, SUM)


def test_without_a_check_that_models_have_signals_of_nothing_changes(asked_router, checked, scripted_server):
    router = checked(lambda *_: False)
    members = {name: Member(name, f"openai/{name}", scripted_server.url) for name in router.pool}
    plain = unchecked_record(configured(asked_router, Members(members)))
    for one in (asked_router, router):
        assert unchecked_record(configured(one, Members(members, checks={"other": lambda *_: False}))) == plain


def test_forced_and_kept_models_are_not_checked(checked, scripted_server):
    answers = RouterRunnable(checked(lambda *_: False), cost_weight=WEIGHT)
    answers.invoke(SUM, model="tutor")
    told = {"unirouter": {"model": "tutor"}}
    answers.invoke([("user", SUM), AIMessage("51.", response_metadata=told), ("user", "Looks good, go on.")])
    assert called(scripted_server) == ["tutor", "tutor"]
    assert "checked" not in last_decision()


def test_after_a_failure_the_answer_of_the_next_model_is_checked(checked, scripted_server, router):
    doubted = np.arange(80) % 8 > 0  # a few right ones, too: a check needs answers of both kinds
    router.add_check("scholar", "right", (router.pool["scholar"].errors < 0.5) & doubted, limit=0.1)
    scripted_server.script["tutor"] = breaks()
    text, told = asked("complete", checked(lambda *_: False))
    assert (text, list(told["failures"]), list(told["checked"])) == ("sage says 51.", ["tutor"], ["scholar"])


def test_a_check_that_calls_another_member_is_paid_at_its_price(checked, scripted_server):
    agreement = {"check": "agreement", "member": "poet", "same": "number"}
    text, told = asked("complete", checked(agreement))
    assert (text, called(scripted_server), told["checked"]["tutor"]["signal"]) == (
        "tutor says 51.",
        ["tutor", "poet"],
        1,
    )
    _, alone = asked("complete", checked(lambda *_: True))
    _, poet = asked("complete", checked(agreement), models=["poet"], check=False)
    assert told["usd"] == pytest.approx(alone["usd"] + poet["usd"])


def test_a_check_calls_members_that_are_the_framework_s_own(router):
    router.add_check("tutor", "right", router.pool["tutor"].errors < 0.5)
    agreement = {"check": "agreement", "member": "poet", "same": "number"}
    table, models, llms = configured(router, Members(checks={"right": agreement})), chats(router), scripted(router)
    for way in (
        lambda: RouterRunnable(table, models, cost_weight=WEIGHT).invoke(SUM),
        lambda: UniRouterLLM(table, llms, cost_weight=WEIGHT).complete(SUM),
    ):
        with record_decisions() as records:
            way()
        assert (records[0]["model"], records[0]["checked"]["tutor"]["signal"]) == ("tutor", 1)


class Total(BaseModel):
    total: int


def test_checks_see_tool_calls_and_parsed_objects(router):
    router.add_check("tutor", "right", router.pool["tutor"].errors < 0.5)
    seen = []
    served = configured(router, Members(checks={"right": lambda *given: not seen.append(given[2])}))
    answers = RouterRunnable(served, chats(router), cost_weight=WEIGHT)
    parsed = answers.with_structured_output(Total).invoke("What is 14 plus 37? total")
    index = UniRouterLLM(served, scripted(router), cost_weight=WEIGHT)

    def total(n: int) -> int:
        """Add up."""
        return n

    answers.bind_tools([total]).invoke("What is 14 plus 37, in total?")
    index.chat_with_tools([FunctionTool.from_defaults(total)], "What is 14 plus 37, in total?")
    assert [context.model for context in seen] == ["tutor"] * 3
    assert seen[0].parsed == parsed
    assert [[(name, json.loads(given)) for name, given in context.tool_calls] for context in seen[1:]] == [
        [("total", {"n": 14})]
    ] * 2


def test_a_folder_s_checks_come_from_its_table_or_from_python(router, tmp_path):
    router.add_check("tutor", "right", router.pool["tutor"].errors < 0.5)
    router.save(tmp_path / "my.router")
    table = tmp_path / "pool.toml"
    table.write_text('[checks]\nright = { check = "tests", command = ["false"] }\n')
    with pytest.raises(InvalidDataError, match=r"The check 'right' of .* runs a command; .* was not named"):
        load_router(tmp_path / "my.router", warm=False)
    named = load_router(tmp_path / "my.router", table, warm=False)
    assert RouterRunnable(named, chats(router), cost_weight=WEIGHT).invoke(SUM).text == f"sage heard: {SUM}"
    own = load_router(tmp_path / "my.router", checks={"right": lambda *_: True}, warm=False)
    assert RouterRunnable(own, chats(router), cost_weight=WEIGHT).invoke(SUM).text == f"tutor heard: {SUM}"
