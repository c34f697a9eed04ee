"""Calls over HTTP: a scripted server with every fault, LiteLLM's own proxy, a real small model on llama.cpp."""

import asyncio
import json
import time

import pytest

from tests.plugins.servers import (
    KEY,
    breaks,
    cuts,
    fails,
    hangs,
    overflows,
    rate_limited,
    refuses_the_content,
    refuses_the_key,
    says,
    sends,
)
from unirouter_plugins.litellm import acomplete, astream, complete, configured, record_of, stream
from unirouter_plugins.litellm.failures import open_litellm
from unirouter_plugins.litellm.health import HEALTH
from unirouter_plugins.litellm.pool_file import Member, Members

SUM = "What is 14 plus 37?"
MODELS = ("poet", "sage", "tutor", "scholar")
PLANTED = "sk-planted-7d2e9c4b18"


@pytest.fixture
def table(router, scripted_server, monkeypatch):
    """The router, all models of which answer on the scripted server; the sage's $0.0014 are worth 0.4."""
    monkeypatch.setenv("SERVER_KEY", PLANTED)
    router.cost_weight = 300
    members = {m: Member(m, f"openai/{m}", scripted_server.url, "SERVER_KEY") for m in MODELS}
    return configured(router, Members(members))


@pytest.fixture
def places(table):
    """The models in the order of the ranking for the sum."""
    return [row.model for row in table.route(SUM).ranking]


def text(response):
    return response.choices[0].message.content


def streamed(answer):
    return "".join(chunk.choices[0].delta.content or "" for chunk in answer if chunk.choices)


FAULTS = {
    "a 429 with retry-after": rate_limited(30),
    "a 500": breaks(500),
    "a 503": breaks(503),
    "a 401 that echoes the key": refuses_the_key(),
    "a 402": fails(402, "No credit left."),
    "a 403": fails(403, "Not in your region."),
    "a context that is too long": overflows(),
    "a cut before the first byte": cuts,
    "an answer that never comes": hangs,
    "an answer cut in its middle": says("Half.", breaks_off=(1, "cut")),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_a_fault_of_one_model_goes_to_the_next_at_once(table, places, scripted_server, fault):
    first, second, *_ = places
    scripted_server.script[first] = fault
    began = time.monotonic()
    for waits in (False, True):
        HEALTH.store.clear()
        record = record_of(await acomplete(table, SUM, timeout=1) if waits else complete(table, SUM, timeout=1))
        assert (record.model, list(record.failures)) == (second, [first])
        assert PLANTED not in json.dumps(record.as_dict())
        assert record.usd > 0
    assert len(scripted_server.asked(first)) == 2  # asked once a call, and not again
    assert time.monotonic() - began < 29  # nobody waited for the 429


@pytest.mark.parametrize("how", ["cut", "error"])
async def test_after_the_first_token_a_failure_is_the_caller_s(table, places, scripted_server, how):
    scripted_server.script[places[0]] = says("One two three four five.", breaks_off=(3, how))
    answer, said = stream(table, SUM, timeout=5), []
    broken = (
        open_litellm().APIError,
        open_litellm().exceptions.MidStreamFallbackError,
        open_litellm().APIConnectionError,
    )
    with pytest.raises(broken):
        said.extend(chunk.choices[0].delta.content or "" for chunk in answer)
    answer = await astream(table, SUM, timeout=5)
    with pytest.raises(broken):
        said.extend([chunk.choices[0].delta.content or "" async for chunk in answer])
    assert "One" in "".join(said)
    assert answer.record is None
    assert not any(scripted_server.asked(model) for model in places[1:])


def test_a_refused_content_is_not_passed_on(table, places, scripted_server):
    scripted_server.script[places[0]] = refuses_the_content()
    with pytest.raises(open_litellm().BadRequestError, match="safety system"):
        complete(table, SUM)
    assert record_of(complete(table, SUM, content_policy=True)).model == places[1]


def test_an_overflow_goes_to_larger_windows_only(router, scripted_server, places, table):
    first, second, third, fourth = places
    windows = {first: 1000, second: 900, third: 2000, fourth: 500}
    members = {
        m: Member(m, f"openai/{m}", scripted_server.url, "SERVER_KEY", capabilities={"context_window": n})
        for m, n in windows.items()
    }
    scripted_server.script[first] = overflows()
    assert record_of(complete(configured(router, Members(members)), SUM)).model == third


def test_tools_and_json_reach_the_model_and_come_back(table, places, scripted_server):
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
    scripted_server.script[places[0]] = says("", tools=[("add", {"a": 14, "b": 37})])
    response = complete(table, SUM, tools=[tool])
    (call,) = response.choices[0].message.tool_calls
    assert json.loads(call.function.arguments) == {"a": 14, "b": 37}
    chunks = [chunk for chunk in stream(table, SUM, tools=[tool]) if chunk.choices]
    arguments = "".join(
        call.function.arguments or "" for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []
    )
    assert json.loads(arguments) == {"a": 14, "b": 37}
    scripted_server.script[places[0]] = says('{"sum": 51}')
    response = complete(table, SUM, response_format={"type": "json_object"})
    assert json.loads(text(response)) == {"sum": 51}
    assert scripted_server.asked(places[0])[-1].body["response_format"] == {"type": "json_object"}


def test_hidden_thoughts_are_in_the_bill(table, places, scripted_server):
    first = places[0]
    scripted_server.script[first] = says("51")
    plain = record_of(complete(table, SUM))
    scripted_server.script[first] = says("51", reasoning=500)
    thinking = record_of(complete(table, SUM))
    assert thinking.usage.reasoning_tokens == 500
    assert thinking.usd - plain.usd == pytest.approx(500 * table.pool[first].prices.output / 1e6)


def test_what_is_sent_is_what_was_asked_with_the_settings_of_the_table(router, scripted_server, monkeypatch):
    monkeypatch.setenv("SERVER_KEY", PLANTED)
    member = Member(
        "sage", "openai/sage", scripted_server.url, "SERVER_KEY", settings={"temperature": 0.2, "top_p": 0.9}
    )
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": SUM}]
    complete(
        configured(router, Members({"sage": member})),
        chat,
        models=["sage"],
        top_p=0.5,
        max_tokens=7,
        extra_body={"k": 3},
    )
    (seen,) = scripted_server.seen
    assert seen.body["messages"] == chat
    assert [seen.body[name] for name in ("temperature", "top_p", "max_tokens", "k")] == [0.2, 0.5, 7, 3]
    assert seen.headers["authorization"] == f"Bearer {PLANTED}"


def test_when_all_fail_no_key_is_in_what_is_raised(table, scripted_server):
    scripted_server.script = dict.fromkeys(MODELS, refuses_the_key())
    with pytest.raises(open_litellm().AuthenticationError) as raised:
        complete(table, SUM)
    assert PLANTED not in str(raised.value) + "".join(raised.value.__notes__)


async def test_a_cancelled_call_stays_cancelled(table, scripted_server):
    scripted_server.script = dict.fromkeys(MODELS, hangs)
    call = asyncio.create_task(acomplete(table, SUM, timeout=30))
    while not scripted_server.seen:
        await asyncio.sleep(0.01)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert len(scripted_server.seen) == 1


# --- A response that is no answer, and what it cost -------------------------------------------------------------------

NO_ANSWERS = {
    "no text": says(""),
    "no text, cut at the limit": says("", finish="length"),
    "no choices": sends(choices=[]),
    "no content": sends(choices=[{"index": 0, "message": {"role": "assistant", "content": None}}]),
}


@pytest.mark.parametrize("reply", NO_ANSWERS.values(), ids=NO_ANSWERS)
async def test_a_response_without_an_answer_goes_to_the_next_and_stays_in_the_bill(
    table, places, scripted_server, reply
):
    first, second, *_ = places
    paid = record_of(complete(table, SUM)).usd
    scripted_server.script |= {first: reply, second: says("51")}
    alone = record_of(complete(table, SUM, models=[second])).usd
    for response in (complete(table, SUM), await acomplete(table, SUM)):
        record = record_of(response)
        assert (text(response), record.model, list(record.failures)) == ("51", second, [first])
        assert "NoAnswerError" in record.failures[first]
        assert alone < record.usd <= alone + paid


def test_the_last_model_s_empty_answer_is_given_as_it_is(table, places, scripted_server):
    scripted_server.script = dict.fromkeys(MODELS, says("", finish="length"))
    response = complete(table, SUM)
    assert (text(response) or "", response.choices[0].finish_reason) == ("", "length")
    assert list(record_of(response).failures) == places[:-1]


def test_an_answer_that_a_filter_ended_is_passed_on_when_asked_for(table, places, scripted_server):
    first, second, *_ = places
    scripted_server.script[first] = says("", finish="content_filter")
    with pytest.raises(open_litellm().ContentPolicyViolationError, match="content_filter"):
        complete(table, SUM)
    assert record_of(complete(table, SUM, content_policy=True)).model == second


@pytest.mark.parametrize("counts", [(-3, 5), (10**10, 5), (0, 0), (None, None)])
def test_a_usage_that_cannot_be_is_not_known(table, scripted_server, counts):
    usage = {"prompt_tokens": counts[0], "completion_tokens": counts[1], "total_tokens": 8}
    scripted_server.script = dict.fromkeys(MODELS, sends(usage=usage))
    record = record_of(complete(table, SUM))
    assert record.as_dict()["usd"] is None
    assert record.as_dict()["tokens_in"] is None


def test_a_key_that_was_sent_is_never_shown_whatever_its_variable_is_called(
    router, places, scripted_server, monkeypatch
):
    key = "nothing like a key"
    monkeypatch.setenv("HOME_SERVER", key)
    members = {m: Member(m, f"openai/{m}", scripted_server.url, "HOME_SERVER") for m in MODELS}
    scripted_server.script[places[0]] = refuses_the_key()
    record = record_of(complete(configured(router, Members(members)), SUM))
    assert list(record.failures) == places[:1]
    assert key not in json.dumps(record.as_dict())
    scripted_server.script = dict.fromkeys(MODELS, refuses_the_key())
    with pytest.raises(open_litellm().AuthenticationError) as raised:
        complete(configured(router, Members(members)), SUM)
    assert key not in str(raised.value) + "".join(raised.value.__notes__)


# --- LiteLLM's proxy --------------------------------------------------------------------------------------------------


@pytest.fixture
def through_proxy(router, proxy_server, monkeypatch):
    """Return a router whose models are the proxy's: the first of the ranking as told, the others says-paris."""
    monkeypatch.setenv("PROXY_KEY", KEY)
    router.cost_weight = 300
    first = router.route(SUM).model

    def serve(model):
        names = dict.fromkeys(MODELS, "says-paris") | {first: model}
        members = {m: Member(m, f"openai/{name}", f"{proxy_server}/v1", "PROXY_KEY") for m, name in names.items()}
        return configured(router, Members(members))

    return serve


@pytest.mark.parametrize("model", ["rate-limited", "overflowing", "broken"])
def test_a_failure_that_comes_through_the_proxy_is_passed_on(through_proxy, model):
    response = complete(through_proxy(model), SUM)
    assert text(response) == "Paris."
    assert len(record_of(response).failures) == 1
    assert streamed(stream(through_proxy(model), SUM)) == "Paris."


def test_tools_come_through_the_proxy(through_proxy):
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
    (call,) = complete(through_proxy("calls-a-tool"), SUM, tools=[tool]).choices[0].message.tool_calls
    assert call.function.name == "weather"


def test_a_wrong_key_of_the_proxy_is_named_and_not_shown(through_proxy, monkeypatch):
    monkeypatch.setenv("PROXY_KEY", PLANTED)
    refused = (open_litellm().AuthenticationError, open_litellm().BadRequestError)  # the latter when it has no database
    with pytest.raises(refused) as raised:
        complete(through_proxy("says-paris"), SUM)
    assert PLANTED not in str(raised.value)


# --- A real model -----------------------------------------------------------------------------------------------------


@pytest.fixture
def through_llama(router, llama_server):
    router.cost_weight = 300
    settings = {"temperature": 0, "max_tokens": 12, "api_key": "none"}
    member = Member("sage", f"openai/{llama_server.name}", llama_server.url, settings=settings)
    return configured(router, Members({"sage": member}))


CHAT = [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": "Say hello."}]


async def test_a_real_model_answers_whole_and_streamed(through_llama):
    whole = complete(through_llama, CHAT, models=["sage"])
    parts = streamed(stream(through_llama, CHAT, models=["sage"]))
    again = await acomplete(through_llama, CHAT, models=["sage"])
    assert text(whole).strip()
    assert parts == text(whole) == text(again)
    assert record_of(whole).usage.tokens_out <= 12
    assert record_of(whole).usd > 0


def test_a_real_model_s_overflow_is_known_as_one(through_llama):
    long = [*CHAT[:1], {"role": "user", "content": "word " * 20_000}]
    with pytest.raises(open_litellm().ContextWindowExceededError):
        complete(through_llama, long, models=["sage"])


def test_a_real_model_keeps_to_a_schema(through_llama):
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "place", "schema": schema, "strict": True}}
    response = complete(through_llama, "Where is the Louvre?", models=["sage"], response_format=wanted, max_tokens=60)
    assert isinstance(json.loads(text(response))["city"], str)


def test_a_variant_passes_on_what_only_its_own_model_knows(router, scripted_server, monkeypatch):
    monkeypatch.setenv("SERVER_KEY", PLANTED)
    member = Member("sage", "openai/o3-mini", scripted_server.url, "SERVER_KEY", template="{prompt} Think.")
    response = complete(configured(router, Members({"sage": member})), SUM, models=["sage"], reasoning_effort="low")
    (seen,) = scripted_server.seen
    assert seen.prompt == f"{SUM} Think."
    assert seen.body["reasoning_effort"] == "low"
    assert record_of(response).model == "sage"
