"""Who answers when a chat model fails: the next of the ranking, for every door, and what is not passed on."""

import asyncio

import httpx
import openai
import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.exceptions import ModelRateLimitError
from langchain_core.messages import HumanMessage
from pydantic import BaseModel

from tests.plugins.scripted_chat import chats, last_of, record
from unirouter_plugins.langchain import RouterRunnable
from unirouter_plugins.litellm import configured
from unirouter_plugins.litellm.pool_file import Member, Members

SUM, WEIGHT = "What is 14 plus 37?", 300


class Person(BaseModel):
    """Somebody."""

    name: str
    born: int


def router_of(router, **instead):
    return RouterRunnable(router, chats(router, **instead), cost_weight=WEIGHT)


def order(llm):
    """The models in the order in which they are asked."""
    return [row.model for row in llm.decide(SUM).ranking]


@pytest.fixture
def llm(asked_router):
    return router_of(asked_router)


def http(status):
    return httpx.Response(status, request=httpx.Request("POST", "http://127.0.0.1"))


PASSED_ON = [
    openai.RateLimitError("slow down", response=http(429), body=None),
    openai.AuthenticationError("who are you", response=http(401), body=None),
    openai.InternalServerError("oh no", response=http(503), body=None),
    openai.APITimeoutError(request=http(408).request),
    httpx.ConnectError("nobody there"),
    ModelRateLimitError("LangChain's own"),
    TimeoutError("too slow"),
]


WAYS = {
    "invoke": lambda llm: llm.invoke(SUM),
    "ainvoke": lambda llm: asyncio.run(llm.ainvoke(SUM)),
    "stream": lambda llm: list(llm.stream(SUM))[-1],
    "astream": lambda llm: asyncio.run(last_of(llm.astream(SUM))),
    "parsed": lambda llm: llm.with_structured_output(Person, include_raw=True).invoke(SUM)["raw"],
    "generate": lambda llm: llm.generate([[HumanMessage(SUM)]]).generations[0][0].message,
    "v3": lambda llm: llm.stream_events(SUM, version="v3").output,
}
EACH = [*((failure, "invoke") for failure in PASSED_ON), *((PASSED_ON[0], way) for way in WAYS if way != "invoke")]


@pytest.mark.parametrize(("failure", "way"), EACH, ids=lambda value: value if value in WAYS else type(value).__name__)
@pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")  # of the v3 events
def test_a_failing_model_is_followed_by_the_next_of_the_ranking(llm, asked_router, failure, way):
    first, second, *_ = order(llm)
    said = record(WAYS[way](router_of(asked_router, **{first: {"failure": failure}})))
    assert (said["model"], list(said["failures"])) == (second, [first])


def test_a_failed_model_s_run_is_in_the_trace_before_the_answer(llm, asked_router):
    seen = []

    class Runs(BaseCallbackHandler):
        def on_chat_model_start(self, serialized, messages, *, metadata, run_id, **_):
            seen.append((metadata["unirouter"]["model"], list(metadata["unirouter"]["failures"]), run_id))

        def on_llm_error(self, error, **_):
            seen.append(type(error).__name__)

    first, second, *_ = order(llm)
    router_of(asked_router, **{first: {"failure": PASSED_ON[0]}}).invoke(SUM, {"callbacks": [Runs()]})
    assert [seen[0][:2], seen[1], seen[2][:2]] == [(first, []), "RateLimitError", (second, [first])]
    assert seen[0][2] != seen[2][2]


def test_when_all_fail_the_first_failure_is_raised_with_the_others_noted(llm, asked_router):
    first, *others = order(llm)
    down = {name: {"failure": TimeoutError(f"{name} is slow")} for name in asked_router.pool}
    with pytest.raises(TimeoutError, match=f"{first} is slow") as raised:
        router_of(asked_router, **down).invoke(SUM)
    assert [note.split()[1] for note in raised.value.__notes__] == others


@pytest.mark.parametrize("failure", [openai.BadRequestError("no such tool", response=http(400), body=None), KeyError()])
def test_a_request_s_own_fault_is_not_passed_on(llm, asked_router, failure):
    down = router_of(asked_router, **{order(llm)[0]: {"failure": failure}})
    with pytest.raises(type(failure)):
        down.invoke(SUM)


def test_a_content_filter_is_passed_on_only_when_asked_for(llm, asked_router):
    first, second, *_ = order(llm)
    failure = openai.BadRequestError("no", response=http(400), body={"code": "content_filter"})
    models = chats(asked_router, **{first: {"failure": failure}})
    with pytest.raises(openai.BadRequestError):
        RouterRunnable(asked_router, models, cost_weight=WEIGHT).invoke(SUM)
    wanted = RouterRunnable(asked_router, models, cost_weight=WEIGHT, content_policy=True)
    assert record(wanted.invoke(SUM))["model"] == second


def test_a_prompt_too_long_for_a_model_goes_to_a_larger_one(llm, asked_router):
    first, second, third, _ = order(llm)
    failure = openai.BadRequestError("too long", response=http(400), body={"code": "context_length_exceeded"})
    windows = {first: 2000, second: 1000, third: 4000}
    models = chats(asked_router, **{first: {"failure": failure}})
    for name, window in windows.items():
        models[name].profile = {"max_input_tokens": window}
    assert record(RouterRunnable(asked_router, models, cost_weight=WEIGHT).invoke(SUM))["model"] == third


def test_a_stream_that_breaks_after_its_first_word_is_not_begun_anew(llm, asked_router):
    first = order(llm)[0]
    broken = router_of(asked_router, **{first: {"breaks": httpx.ReadError("cut")}})
    heard = []
    with pytest.raises(httpx.ReadError):
        heard.extend(chunk.text for chunk in broken.stream(SUM))
    assert heard == [f"{first} "]


def test_a_model_whose_key_is_not_set_is_followed_by_the_next(asked_router, monkeypatch):
    monkeypatch.delenv("KEY_OF_NOBODY", raising=False)
    settings = {"mock_response": "hello"}
    members = {name: Member(name, f"openai/{name}", settings=settings) for name in asked_router.pool}
    first, second, *_ = order(RouterRunnable(asked_router, cost_weight=WEIGHT))
    members[first] = Member(first, f"openai/{first}", api_key_env="KEY_OF_NOBODY")
    said = record(RouterRunnable(configured(asked_router, Members(members)), cost_weight=WEIGHT).invoke(SUM))
    assert (said["model"], list(said["failures"])) == (second, [first])
    assert "KEY_OF_NOBODY" in said["failures"][first]


def test_a_litellm_model_that_is_limited_is_followed_by_the_next(asked_router):
    mocks = {name: {"mock_response": "hello"} for name in asked_router.pool}
    first, second, *_ = order(RouterRunnable(asked_router, cost_weight=WEIGHT))
    mocks[first] = {"mock_response": "litellm.RateLimitError"}
    members = Members({name: Member(name, f"openai/{name}", settings=mock) for name, mock in mocks.items()})
    llm = RouterRunnable(configured(asked_router, members), cost_weight=WEIGHT)
    for said in (record(llm.invoke(SUM)), record(list(llm.stream(SUM))[-1])):
        assert (said["model"], list(said["failures"])) == (second, [first])
