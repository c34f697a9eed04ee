"""Variants of models, called through the real LiteLLM; their own model is a scripted provider or a real server."""

import asyncio
import gc
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.plugins.servers import (
    KEY,
    breaks,
    cuts,
    hangs,
    overflows,
    rate_limited,
    refuses_the_content,
    refuses_the_key,
    says,
    serve_script,
)
from unirouter_core import InvalidDataError
from unirouter_core.costs import BY_CHARACTERS, TokenCounter
from unirouter_plugins.graders import parse_grader
from unirouter_plugins.litellm.chat import Chat
from unirouter_plugins.litellm.failures import Failure, classify, open_litellm, retry_after, unwrapped
from unirouter_plugins.litellm.pool_file import Member, Members
from unirouter_plugins.litellm.pool_schema import Votes
from unirouter_plugins.litellm.prices import summed, usage_of
from unirouter_plugins.litellm.programs import VOTES, Ballot, elected, enter_provider, register, transformed

pytestmark = [
    # LiteLLM leaves connections open
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"),
]

MESSAGES = [{"role": "user", "content": "What is 17 times 23?"}]


@pytest.fixture(autouse=True, scope="module")
def connections_end():
    """Drop the connections that LiteLLM keeps open; else they are warned of in some later module."""
    yield
    open_litellm().in_memory_llm_clients_cache.flush_cache()
    gc.collect()


@pytest.fixture
def litellm():
    """LiteLLM, its table of providers as it was before when the test is over."""
    module = open_litellm()
    before = list(module.custom_provider_map)
    yield module
    module.custom_provider_map[:] = before


@pytest.fixture
def scripted(litellm):
    """A provider "scripted/..." that gives one answer of the list after the other, and keeps its calls."""

    class Scripted(litellm.CustomLLM):
        def __init__(self):
            super().__init__()
            self.answers, self.calls, self.lock = ["It is 391."], [], threading.Lock()
            self.usage = {"prompt_tokens": 10, "completion_tokens": 5}

        def completion(self, model, messages, **given):
            with self.lock:
                said = self.answers[len(self.calls) % len(self.answers)]
                self.calls.append({"messages": messages, **given})
            if isinstance(said, Exception):
                raise said
            message = {"role": "assistant"} | ({"content": said} if isinstance(said, str) else said)
            usage = litellm.Usage(**self.usage)
            return litellm.ModelResponse(
                model=model, choices=[{"message": message, "finish_reason": "stop"}], usage=usage
            )

        async def acompletion(self, model, messages, **given):
            await asyncio.sleep(0)
            return self.completion(model, messages, **given)

        @property
        def parameters(self):
            return self.calls[-1]["optional_params"]

    provider = Scripted()
    litellm.custom_provider_map.append({"provider": "scripted", "custom_handler": provider})
    return provider


def variant(**how):
    """A registered variant of the scripted model."""
    member = Member("careful", **{"model": "scripted/model", **how})
    register([member])
    return member


def voting(samples=3, same="number", **how):
    return variant(votes=Votes(samples, same), **how)


@pytest.fixture
def served(litellm, monkeypatch):
    """A function that makes a registered variant of a model on a real server, which replies as told."""
    monkeypatch.setenv("HOME_KEY", KEY)
    with serve_script() as server:

        def make(*replies, **how):
            server.script["told"] = list(replies)
            return variant(model="openai/told", api_base=server.url, api_key_env="HOME_KEY", **how)

        make.server = server
        yield make


def run(awaited):
    """What a coroutine returns; LiteLLM's connections are closed with the event loop that they belong to."""

    async def closing():
        try:
            return await awaited
        finally:
            await open_litellm().close_litellm_async_clients()

    return asyncio.run(closing())


def text(response):
    return response.choices[0].message.content


async def gathered(chunks):
    return [chunk async for chunk in chunks]


def joined(chunks):
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


# --- What is sent -----------------------------------------------------------------------------------------------------


def test_the_system_prompt_comes_before_the_caller_s_in_one_message():
    member = Member("careful", "m", system="Be right.")
    own = {"role": "system", "content": "Be brief."}
    assert transformed(member, [own, *MESSAGES])[0] == {"role": "system", "content": "Be right.\n\nBe brief."}
    assert transformed(member, MESSAGES) == [{"role": "system", "content": "Be right."}, *MESSAGES]


def test_a_caller_s_system_prompt_in_parts_keeps_its_parts_and_its_role():
    cached = {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}
    sent = transformed(
        Member("careful", "m", system="Be right."), [{"role": "developer", "content": [cached]}, *MESSAGES]
    )
    assert sent[0] == {"role": "developer", "content": [{"type": "text", "text": "Be right."}, cached]}


def test_examples_are_turns_between_the_system_prompts_and_the_conversation():
    member = Member("careful", "m", examples=(("2 + 2?", "4"), ("3 + 3?", "6")))
    sent = transformed(member, [{"role": "system", "content": "Be brief."}, *MESSAGES])
    assert [message["role"] for message in sent] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert [message["content"] for message in sent[1:5]] == ["2 + 2?", "4", "3 + 3?", "6"]


def test_the_template_takes_the_newest_prompt_alone_and_leaves_its_braces_alone():
    chat = [{"role": "user", "content": "Hi {x}."}, {"role": "assistant", "content": "Hi."}]
    chat += [{"role": "user", "content": 'What is {"a": {prompt}}?'}]
    sent = transformed(Member("careful", "m", template="Q: {prompt} A:"), chat)
    assert [message["content"] for message in sent] == ["Hi {x}.", "Hi.", 'Q: What is {"a": {prompt}}? A:']


def test_the_template_takes_the_texts_of_a_message_with_images_and_leaves_the_images():
    image = {"type": "image_url", "image_url": {"url": "data:,"}}
    parts = [image, {"type": "text", "text": "What is"}, image, {"type": "text", "text": "this?"}]
    sent = transformed(Member("careful", "m", template="{prompt} Think."), [{"role": "user", "content": parts}])
    assert sent[0]["content"] == [image, {"type": "text", "text": "What is\nthis? Think."}, image]


def test_in_a_tool_loop_the_template_stays_with_the_prompt():
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    loop = [*MESSAGES, {"role": "assistant", "content": None, "tool_calls": [call]}]
    loop += [{"role": "tool", "tool_call_id": "1", "content": "391"}]
    sent = transformed(Member("careful", "m", template="{prompt} Think."), loop)
    assert sent == [{"role": "user", "content": "What is 17 times 23? Think."}, *loop[1:]]


def test_the_caller_s_messages_are_left_as_they_were(scripted, litellm):
    chat = [{"role": "system", "content": "Be brief."}, *MESSAGES]
    before = json.dumps(chat)
    litellm.completion(model=variant(system="Be right.", template="{prompt} Think.").called, messages=chat)
    assert json.dumps(chat) == before
    assert scripted.calls[0]["messages"] == [
        {"role": "system", "content": "Be right.\n\nBe brief."},
        {"role": "user", "content": "What is 17 times 23? Think."},
    ]


def test_tokens_are_expanded_by_all_that_is_put_around_a_chat_for_each_vote():
    count = TokenCounter(BY_CHARACTERS)  # a token for 4 characters
    member = Member("m", "m", system="s" * 40, examples=(("e" * 8, "a" * 4),), template="{prompt}" + "t" * 12)
    assert member.expanded_tokens(100.0, count) == 100 + 10 + (2 + 1) + 3 + 3 * 4  # and 4 for each message
    assert Member("m", "m", votes=Votes(5, "number")).expanded_tokens(100.0, count) == 500
    assert Member("m", "m").expanded_tokens(100.0, count) == 100


def test_expanded_tokens_are_those_of_the_messages_that_are_sent():
    count = TokenCounter(BY_CHARACTERS)
    member = Member("m", "m", system="s" * 40, examples=(("e" * 8, "a" * 4),), template="{prompt}" + "t" * 12)
    chat = Chat.of("p" * 400)
    sent = Chat.of(transformed(member, chat.messages))
    assert member.expanded_tokens(chat.count_tokens(count), count) == sent.count_tokens(count)


# --- With which parameters --------------------------------------------------------------------------------------------


def test_what_the_caller_gives_wins_over_the_settings(scripted, litellm):
    member = variant(system="s", settings={"temperature": 0.7, "top_p": 0.5, "reasoning_effort": "low"})
    with pytest.raises(litellm.UnsupportedParamsError, match="reasoning_effort"):  # the own model refuses its setting
        litellm.completion(model=member.called, messages=MESSAGES, temperature=0.1, seed=3)
    litellm.completion(model=member.called, messages=MESSAGES, temperature=0.1, seed=3, drop_params=True)
    assert {n: scripted.parameters.get(n) for n in ("temperature", "top_p", "seed")} == {
        "temperature": 0.1,
        "top_p": 0.5,
        "seed": 3,
    }


def test_the_caller_s_limit_takes_the_place_of_a_limit_of_the_other_name(scripted, litellm):
    member = variant(system="s", settings={"max_completion_tokens": 500})
    litellm.completion(model=member.called, messages=MESSAGES, max_tokens=20)
    assert scripted.parameters["max_tokens"] == 20
    assert "max_completion_tokens" not in scripted.parameters


def test_address_key_headers_and_timeout_reach_the_own_model(scripted, litellm, monkeypatch):
    monkeypatch.setenv("HOME_KEY", "planted-key-1")
    member = variant(system="s", api_base="http://127.0.0.1:9/v1", api_key_env="HOME_KEY")
    litellm.completion(model=member.called, messages=MESSAGES, timeout=7, extra_headers={"x-tag": "1"})
    call = scripted.calls[0]
    assert (call["api_base"], call["api_key"]) == ("http://127.0.0.1:9/v1", "planted-key-1")
    assert call["timeout"] == 7
    assert call["headers"] == {"x-tag": "1"}


def test_a_caller_s_key_serves_a_variant_that_names_none(scripted, litellm):
    litellm.completion(model=variant(system="s").called, messages=MESSAGES, api_key="planted-key-2")
    assert scripted.calls[0]["api_key"] == "planted-key-2"


def test_a_key_that_is_not_set_is_an_authentication_failure(scripted, litellm, monkeypatch):
    monkeypatch.delenv("HOME_KEY", raising=False)
    with pytest.raises(
        litellm.AuthenticationError, match=r"'careful' takes its key from .* HOME_KEY, which is not set"
    ):
        litellm.completion(model=variant(system="s", api_key_env="HOME_KEY").called, messages=MESSAGES)


def test_num_retries_0_reaches_the_own_model(scripted, litellm):
    litellm.completion(model=variant(system="s").called, messages=MESSAGES, num_retries=0, max_retries=0)
    assert scripted.parameters["max_retries"] == 0


# --- Votes ------------------------------------------------------------------------------------------------------------


def test_the_answer_is_the_first_of_those_that_most_agree_on(scripted, litellm):
    scripted.answers = ["381", "It is 391.", "17 * 23 = 391"]
    response = litellm.completion(model=voting().called, messages=MESSAGES)
    assert text(response) in ("It is 391.", "17 * 23 = 391")  # the samples run at once, in any order
    assert response._hidden_params[VOTES] == {"samples": 3, "answered": 3, "agreed": 2}


@pytest.mark.parametrize(
    ("answers", "same", "place", "agreed"),
    [
        (["1", "2", "2", "1"], "number", 0, 2),  # equal groups: the earlier
        (["1", "2", "2"], "number", 1, 2),
        (["", "I cannot.", "2"], "number", 2, 1),  # what is no number has no vote
        (["", "I cannot.", ""], "number", 0, 0),
        (["Paris.", "London", "the paris"], "text", 0, 2),
        (["The capital is Paris.", "Rome", "Paris"], "text", 0, 2),  # right by each other, one way round
        (['{"a": 1, "b": 2}', '{"a": 2}', '{"b": 2, "a": 1}'], "json", 0, 2),
    ],
)
def test_the_election(answers, same, place, agreed):
    assert elected([Ballot(answer) for answer in answers], parse_grader(same)) == (place, agreed)


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=12))
def test_the_elected_answer_is_the_commonest_and_the_first_of_its_kind(answers):
    place, agreed = elected([Ballot(f"word {answer}") for answer in answers], parse_grader("exact"))
    assert agreed == answers.count(answers[place]) == max(map(answers.count, answers))
    assert answers.index(answers[place]) == place


def test_calls_of_tools_agree_when_name_and_arguments_do():
    def calling(arguments, said=""):
        return Ballot(said, json.dumps([["add", arguments]], sort_keys=True))

    ballots = [calling({"a": 2}), calling({"a": 1, "b": 2}, "Let me add."), Ballot("3"), calling({"b": 2, "a": 1})]
    assert elected(ballots, parse_grader("number")) == (1, 2)


def test_the_elected_call_of_a_tool_is_the_answer(scripted, litellm):
    def calls(a):
        function = {"name": "add", "arguments": json.dumps({"a": a})}
        return {"content": None, "tool_calls": [{"id": f"call-{a}", "type": "function", "function": function}]}

    scripted.answers = [calls(1), calls(2), calls(2)]
    tools = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
    response = litellm.completion(model=voting().called, messages=MESSAGES, tools=tools)
    assert json.loads(response.choices[0].message.tool_calls[0].function.arguments) == {"a": 2}
    assert scripted.parameters["tools"] == tools


def test_answers_held_to_json_agree_by_value(scripted, litellm):
    scripted.answers = ['{"sum": 391, "unit": 1}', '{"unit": 1, "sum": 391}', '{"sum": 381, "unit": 1}']
    model = voting(same="exact").called
    held = litellm.completion(model=model, messages=MESSAGES, response_format={"type": "json_object"})
    assert json.loads(text(held)) == {"sum": 391, "unit": 1}
    assert held._hidden_params[VOTES]["agreed"] == 2
    assert litellm.completion(model=model, messages=MESSAGES)._hidden_params[VOTES]["agreed"] == 1


def test_usage_is_the_sum_over_the_samples(scripted, litellm):
    details = {"completion_tokens_details": {"reasoning_tokens": 2}, "prompt_tokens_details": {"cached_tokens": 4}}
    scripted.usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15, **details}
    usage = litellm.completion(model=voting(5).called, messages=MESSAGES).usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (50, 25, 75)
    assert usage.completion_tokens_details.reasoning_tokens == 10
    assert usage.prompt_tokens_details.cached_tokens == 20


def test_usage_is_not_known_when_one_sample_does_not_tell(served, litellm):
    member = served(says("391"), says("391", usage=False), says("391"), votes=Votes(3, "number"))
    assert not usage_of(litellm.completion(model=member.called, messages=MESSAGES)).is_known
    served(says("391"))
    assert usage_of(litellm.completion(model=member.called, messages=MESSAGES)).is_known


def test_a_sum_of_usages_is_field_by_field():
    one = {"prompt_tokens": 10, "details": {"cached_tokens": 4, "audio_tokens": None}, "note": "x"}
    assert summed([one, {"prompt_tokens": 1, "details": None}]) == {
        "prompt_tokens": 11,
        "details": {"cached_tokens": 4},
    }
    assert summed([]) == {}


def test_a_sample_that_fails_is_no_vote(scripted, litellm):
    failed = litellm.RateLimitError("Slow down.", "scripted", "model")
    scripted.answers = [failed, "391", failed]
    response = litellm.completion(model=voting().called, messages=MESSAGES)
    assert text(response) == "391"
    assert response.usage.prompt_tokens == 10
    assert response._hidden_params[VOTES] == {"samples": 3, "answered": 1, "agreed": 1}


def test_when_all_samples_fail_the_failure_is_theirs(scripted, litellm):
    scripted.answers = [litellm.RateLimitError("Slow down.", "scripted", "model")]
    with pytest.raises(litellm.RateLimitError, match="Slow down"):
        litellm.completion(model=voting().called, messages=MESSAGES)
    with pytest.raises(litellm.RateLimitError, match="Slow down"):
        run(litellm.acompletion(model=voting().called, messages=MESSAGES))


def test_each_sample_has_its_own_seed(scripted, litellm):
    litellm.completion(model=voting(settings={"seed": 7}).called, messages=MESSAGES)
    assert sorted(call["optional_params"]["seed"] for call in scripted.calls) == [7, 8, 9]
    litellm.completion(model=voting(settings={"seed": 7}).called, messages=MESSAGES, seed=1)
    assert sorted(call["optional_params"]["seed"] for call in scripted.calls[3:]) == [1, 2, 3]


def test_samples_are_called_concurrently(scripted, litellm, monkeypatch):
    all_there, plain = threading.Barrier(3, timeout=20), scripted.completion
    monkeypatch.setattr(scripted, "completion", lambda *a, **how: (all_there.wait(), plain(*a, **how))[1])
    assert text(litellm.completion(model=voting().called, messages=MESSAGES)) == "It is 391."  # else the barrier breaks


def test_more_than_one_answer_cannot_be_voted_for(scripted, litellm):
    with pytest.raises(litellm.BadRequestError, match="n=2: votes and panels give one answer; leave out n"):
        litellm.completion(model=voting().called, messages=MESSAGES, n=2)
    assert text(litellm.completion(model=voting().called, messages=MESSAGES, n=1)) == "It is 391."


def test_samples_are_not_taken_from_litellm_s_cache(scripted, litellm, monkeypatch):
    monkeypatch.setattr(litellm, "cache", litellm.Cache())
    model = voting(settings={"temperature": 1}).called
    litellm.completion(model=model, messages=MESSAGES)
    litellm.completion(model=model, messages=[{"role": "user", "content": "Another."}])
    assert len(scripted.calls) == 6


def test_a_cancelled_call_cancels_its_samples(scripted, litellm, monkeypatch):
    cancelled, begun = [], []

    async def hangs(model, messages, **_):
        begun.append(model)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(model)
            raise

    async def cancel():
        call = asyncio.create_task(litellm.acompletion(model=voting(4).called, messages=MESSAGES))
        while len(begun) < 4:
            await asyncio.sleep(0.01)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    monkeypatch.setattr(scripted, "acompletion", hangs)
    run(asyncio.wait_for(cancel(), 20))
    assert len(cancelled) == 4


# --- Sync, async, streams ---------------------------------------------------------------------------------------------

BOTH = pytest.mark.parametrize("how", [{"system": "s"}, {"votes": Votes(3, "text")}], ids=["transform", "votes"])
WITH_USAGE = {"messages": MESSAGES, "stream": True, "stream_options": {"include_usage": True}}


def streamed(litellm, model, **how):
    """The chunks of a call, synchronous and asynchronous."""

    async def asynchronous():
        return [chunk async for chunk in await litellm.acompletion(model=model, **{**WITH_USAGE, **how})]

    return list(litellm.completion(model=model, **{**WITH_USAGE, **how})), run(asynchronous())


@BOTH
def test_sync_async_and_streams_give_the_same_answer(litellm, served, how):
    member = served(says("It is 391, I think."), **how)
    arguments = {"model": member.called, "messages": MESSAGES}
    whole = [litellm.completion(**arguments), run(litellm.acompletion(**arguments))]
    answers = [text(response) for response in whole] + [joined(chunks) for chunks in streamed(litellm, member.called)]
    assert answers == ["It is 391, I think."] * 4


def test_a_stream_is_the_own_model_s_with_its_reason_and_its_usage(litellm, served):
    member = served(says("It is 391, I think.", finish="length", reasoning=7), system="Be right.")
    for chunks in streamed(litellm, member.called):
        assert [c.choices[0].delta.content for c in chunks if c.choices and c.choices[0].delta.content] == [
            "It ",
            "is ",
            "391, ",
            "I ",
            "think.",
        ]
        assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == ["length"]
        assert chunks[-1].usage.prompt_tokens == 2 + 5  # the server counts words
        assert chunks[-1].usage.completion_tokens_details.reasoning_tokens == 7


@BOTH
def test_calls_of_tools_stream(litellm, served, how):
    member = served(says(tools=[("add", {"a": 1}), ("mul", {"b": 2})]), **how)
    tools = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
    for chunks in streamed(litellm, member.called, tools=tools):
        message = litellm.stream_chunk_builder(chunks).choices[0].message
        called = [(call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls]
        assert called == [("add", {"a": 1}), ("mul", {"b": 2})]
        assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices].count("tool_calls") == 1
    assert served.server.seen[0].body["tools"] == tools


def test_a_stream_of_votes_comes_whole_with_the_usage_of_all_samples(litellm, served):
    member = served(says("It is 391."), votes=Votes(4, "number"))
    for chunks in streamed(litellm, member.called):
        assert [c.choices[0].delta.content for c in chunks if c.choices and c.choices[0].delta.content] == [
            "It is 391."
        ]
        assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (4 * 5, 4 * 3)


def test_an_empty_answer_of_votes_streams_its_usage_too(litellm, served):
    for chunks in streamed(litellm, served(says(""), votes=Votes(3, "number")).called):
        assert joined(chunks) == ""
        assert chunks[-1].usage.prompt_tokens == 3 * 5


def test_a_stream_that_is_left_closes_the_own_model_s(litellm, served):
    member = served(says("It is 391, I think.", breaks_off=(3, "stall")), system="s")

    async def leave():
        chunks = await litellm.acompletion(model=member.called, messages=MESSAGES, stream=True)
        await anext(aiter(chunks))
        await chunks.aclose()

    run(asyncio.wait_for(leave(), 20))  # a stalled server would hold an open stream for ever


# --- Failures ---------------------------------------------------------------------------------------------------------

FAILURES = {
    "too many calls": (rate_limited(retry_after=7), Failure.RATE_LIMIT),
    "a broken server": (breaks(500), Failure.SERVER),
    "a busy server": (breaks(503), Failure.SERVER),
    "too long a prompt": (overflows(), Failure.OVERFLOW),
    "a content filter": (refuses_the_content(), Failure.CONTENT_FILTER),
    "a wrong key": (refuses_the_key(), Failure.ACCESS),
}
EACH = pytest.mark.parametrize(("reply", "failure"), FAILURES.values(), ids=FAILURES)
ONCE = {"messages": MESSAGES, "max_retries": 0, "num_retries": 0}


def caught(call):
    with pytest.raises(Exception, match=r"\S") as failed:
        call()
    return failed.value


async def first(litellm, **arguments):
    return await anext(aiter(await litellm.acompletion(stream=True, **arguments)))


@BOTH
@EACH
def test_a_failure_is_the_one_that_litellm_raises_for_the_own_model(litellm, served, reply, failure, how):
    member = served(reply, **how)
    arguments = {"model": member.called, **ONCE}
    own = caught(lambda: litellm.completion(**{**arguments, **member.arguments()}))
    assert classify(own) is failure
    for call in (
        lambda: litellm.completion(**arguments),
        lambda: run(litellm.acompletion(**arguments)),
        lambda: litellm.completion(stream=True, **arguments),
    ):
        failed = caught(call)
        assert (type(failed), str(failed)) == (type(own), str(own))
        assert classify(failed) is failure
        assert retry_after(failed) == retry_after(own) == (7 if failure is Failure.RATE_LIMIT else None)


@BOTH
@EACH
def test_an_asynchronous_stream_that_never_begins_holds_that_failure(litellm, served, reply, failure, how):
    arguments = {"model": served(reply, **how).called, **ONCE}
    failed = caught(lambda: run(first(litellm, **arguments)))
    assert classify(failed) is failure  # LiteLLM opens the stream with its first chunk
    assert retry_after(failed) == (7 if failure is Failure.RATE_LIMIT else None)


def test_a_cut_connection_and_a_timeout_are_what_they_are(litellm, served):
    arguments = {"model": served(cuts, system="s").called, **ONCE}
    assert type(caught(lambda: litellm.completion(**arguments))).__name__ in (
        "InternalServerError",
        "APIConnectionError",
    )
    served(hangs, system="s")
    with pytest.raises(litellm.Timeout):
        litellm.completion(timeout=0.3, **arguments)


def test_a_stream_that_breaks_off_keeps_what_was_said_and_fails(litellm, served):
    arguments = {"model": served(says("It is 391, I think.", breaks_off=(3, "cut")), system="s").called, **ONCE}
    chunks = litellm.completion(stream=True, **arguments)
    assert joined([next(chunks), next(chunks), next(chunks)][1:]) == "It is "
    failed = caught(lambda: next(chunks))
    assert isinstance(failed, litellm.exceptions.MidStreamFallbackError)
    assert unwrapped(failed) is failed  # it had begun: another model cannot go on


def test_an_unregistered_variant_is_not_found(litellm, served):
    served(says(), system="s")
    with pytest.raises(litellm.NotFoundError, match="unirouter/careful@00000000 is not registered; register its table"):
        litellm.completion(model="unirouter/careful@00000000", messages=MESSAGES)


# --- The bill ---------------------------------------------------------------------------------------------------------


def test_callbacks_see_one_call_with_the_cost_of_all_samples(litellm, monkeypatch):
    seen = []

    class Callback(litellm.integrations.custom_logger.CustomLogger):
        def log_success_event(self, kwargs, response_obj, start_time, end_time):
            seen.append((kwargs["model"], kwargs["response_cost"]))

    monkeypatch.setattr(litellm, "callbacks", [Callback()])
    member = voting(model="openai/gpt-4.1-nano", settings={"mock_response": "391"})
    response = litellm.completion(model=member.called, messages=MESSAGES)
    once = litellm.completion(model="openai/gpt-4.1-nano", messages=MESSAGES, mock_response="391", **{"no-log": True})
    for _ in range(500):  # LiteLLM calls back from a thread
        if seen:
            break
        time.sleep(0.02)
    usd = pytest.approx(3 * once._hidden_params["response_cost"])
    assert seen == [(member.called.removeprefix("unirouter/"), usd)]
    assert response._hidden_params["response_cost"] == usd


def test_an_answer_of_unknown_cost_is_not_free(scripted, litellm):
    assert litellm.completion(model=voting().called, messages=MESSAGES)._hidden_params["response_cost"] is None


# --- Registration -----------------------------------------------------------------------------------------------------


def entries(litellm):
    return [entry["provider"] for entry in litellm.custom_provider_map]


def test_registering_twice_changes_nothing_and_leaves_others_alone(litellm, scripted):
    before = list(litellm.custom_provider_map)
    members = [Member("careful", "scripted/model", system="s"), Member("plain", "scripted/model")]
    register(members)
    register(members)
    assert litellm.custom_provider_map[: len(before)] == before
    assert entries(litellm).count("unirouter") == 1


def test_a_table_without_variants_registers_nothing(litellm):
    litellm.custom_provider_map.clear()
    register([Member("plain", "openai/gpt-4.1-nano")])
    assert entries(litellm) == []


def test_many_threads_register_one_provider(litellm):
    made = []

    def make() -> litellm.CustomLLM:
        made.append(litellm.CustomLLM())
        time.sleep(0.02)  # so that the others come meanwhile
        return made[-1]

    with ThreadPoolExecutor(8) as threads:
        providers = list(threads.map(lambda _: enter_provider("threaded", "here:make", make), range(8)))
    assert set(providers) == set(made)
    assert len(made) == entries(litellm).count("threaded") == 1


def test_many_threads_register_every_variant(litellm, scripted):
    members = [Member(f"m{i}", "scripted/model", system=f"s{i}") for i in range(40)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda member: register([member]), members))
    for member in members:
        assert text(litellm.completion(model=member.called, messages=MESSAGES)) == "It is 391."


def test_a_provider_is_registered_before_the_first_call(litellm, own_module):
    name = f"fresh{own_module}"
    register(Members({}, {name: f"{own_module}:handler"}))
    assert "tools" in litellm.get_supported_openai_params(model="m", custom_llm_provider=name)


def test_two_tables_with_one_name_are_not_confused(litellm, scripted):
    one, other = (Members({"careful": Member("careful", "scripted/model", system=said)}) for said in ("one", "other"))
    register(one)
    register(other)
    for members, said in ((one, "one"), (other, "other")):
        litellm.completion(model=members["careful"].called, messages=MESSAGES)
        assert scripted.calls[-1]["messages"][0]["content"] == said


OWN = """
import litellm

class Own(litellm.CustomLLM):
    def completion(self, model, messages, model_response, **_):
        model_response.choices[0].message.content = f"{model} of {type(self).__name__}"
        return model_response

handler = Own()
def make() -> litellm.CustomLLM:
    return Own()
number = 3
def fails() -> litellm.CustomLLM:
    raise RuntimeError("no config, key sk-planted-123456")
"""


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """A module of the user's, importable under a name of its own; returns the name."""
    name = f"own_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    return name


@pytest.mark.parametrize("what", ["handler", "Own", "make"])
def test_the_table_s_own_providers_are_called(litellm, own_module, what):
    members = Members({"mine": Member("mine", "mine/m7")}, {"mine": f"{own_module}:{what}"})
    register(members)
    register(members)  # the same place is the same provider, though a class would make another
    assert text(litellm.completion(model=members["mine"].called, messages=MESSAGES)) == "m7 of Own"
    assert entries(litellm).count("mine") == 1


def test_a_variant_of_an_own_provider_s_model_is_called(litellm, own_module):
    members = Members({"mine": Member("mine", "mine/m7", votes=Votes(3, "text"))}, {"mine": f"{own_module}:handler"})
    register(members)
    assert text(litellm.completion(model=members["mine"].called, messages=MESSAGES)) == "m7 of Own"


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (
            "nowhere_at_all:handler",
            r"'mine' is 'nowhere_at_all:handler', but there is no module 'nowhere_at_all'; install",
        ),
        ("MODULE:missing", r"which cannot be loaded: AttributeError: .*no attribute 'missing'"),
        ("MODULE:number", r"which is of type int; it must be a litellm.CustomLLM, a class of them, or"),
        ("MODULE:fails", r"which cannot be loaded: RuntimeError: no config, key \[key\]"),
    ],
)
def test_an_own_provider_that_cannot_be_had_is_refused(litellm, own_module, what, message):
    with pytest.raises(InvalidDataError, match=message):
        register(Members({}, {"mine": what.replace("MODULE", own_module)}))
    assert "mine" not in entries(litellm)


def test_a_provider_s_name_is_taken_once(litellm, own_module, scripted):
    with pytest.raises(InvalidDataError, match=r"'scripted' is registered with LiteLLM already, as .*; give your"):
        register(Members({}, {"scripted": f"{own_module}:handler"}))
    with pytest.raises(InvalidDataError, match="'openai' is a provider of LiteLLM's own; give yours another name"):
        register(Members({}, {"openai": f"{own_module}:handler"}))
    assert litellm.custom_provider_map[-1]["custom_handler"] is scripted


def test_the_very_same_provider_registered_by_the_user_is_kept(litellm, own_module):
    handler = __import__(own_module).handler
    litellm.custom_provider_map.append({"provider": "mine", "custom_handler": handler})
    register(Members({}, {"mine": f"{own_module}:handler"}))
    assert entries(litellm).count("mine") == 1


# --- Frameworks -------------------------------------------------------------------------------------------------------


@BOTH
def test_langchain_calls_a_variant_like_any_model(litellm, served, how):
    chat_models = pytest.importorskip("langchain_litellm")
    model = chat_models.ChatLiteLLM(model=served(says("It is 391."), **how).called)
    answer = model.invoke("What is 17 times 23?")
    assert answer.content == "It is 391."
    assert answer.usage_metadata["output_tokens"] == 3 * (3 if "votes" in how else 1)
    assert "".join(chunk.content for chunk in model.stream("What is 17 times 23?")) == "It is 391."

    async def asynchronous():
        said = await model.ainvoke("What is 17 times 23?")
        return said.content, "".join([chunk.content async for chunk in model.astream("What is 17 times 23?")])

    assert run(asynchronous()) == ("It is 391.", "It is 391.")


@BOTH
def test_llama_index_calls_a_variant_like_any_model(litellm, served, how):
    llms = pytest.importorskip("llama_index.llms.litellm")
    types = pytest.importorskip("llama_index.core.llms")
    model = llms.LiteLLM(model=served(says("It is 391."), **how).called)
    arguments = [types.ChatMessage(role="user", content="What is 17 times 23?")]
    assert model.chat(arguments).message.content == "It is 391."
    assert list(model.stream_chat(arguments))[-1].message.content == "It is 391."

    async def asynchronous():
        said = (await model.achat(arguments)).message.content
        return said, [chunk async for chunk in await model.astream_chat(arguments)][-1].message.content

    assert run(asynchronous()) == ("It is 391.", "It is 391.")


def test_langchain_s_tools_reach_a_variant_s_model(litellm, served):
    chat_models = pytest.importorskip("langchain_litellm")

    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    member = served(says(tools=[("add", {"a": 1, "b": 2})]), votes=Votes(3, "text"))
    answer = chat_models.ChatLiteLLM(model=member.called).bind_tools([add]).invoke("What is 1 + 2?")
    assert [(call["name"], call["args"]) for call in answer.tool_calls] == [("add", {"a": 1, "b": 2})]
