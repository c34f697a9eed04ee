"""What we rely on in LiteLLM, on real servers: answers, what failures mean, where streams break, how often it asks."""

import asyncio
import json

import pytest

from tests.plugins.servers import (
    KEY,
    breaks,
    cuts,
    fails,
    free_port,
    garbles,
    hangs,
    overflows,
    rate_limited,
    refuses_the_content,
    refuses_the_key,
    says,
)
from unirouter_plugins.litellm.failures import Failure, classify, open_litellm, status_of

ASK = [{"role": "user", "content": "What is the capital of France?"}]  # six words, and so six tokens to our server
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}

streamed_or_whole = pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
sync_or_async = pytest.mark.parametrize("waits", [False, True], ids=["sync", "async"])
contract = pytest.mark.contract


def call(url, model="any", *, streamed=False, waits=False, provider="openai", heard=None, **changes):
    """LiteLLM's response, a stream read to its end into `heard` and put together; `waits` is the async way."""
    litellm, heard = open_litellm(), [] if heard is None else heard
    settings = {"api_base": url, "api_key": KEY, "num_retries": 0, "timeout": 30, "stream": streamed}
    settings |= {"stream_options": {"include_usage": True}} if streamed else {}
    settings |= {"model": f"{provider}/{model}", "messages": ASK, **changes}
    if waits:
        return asyncio.run(acall(settings, heard))
    answer = litellm.completion(**settings)
    if not streamed:
        return answer
    heard.extend(answer)
    return litellm.stream_chunk_builder(heard)


async def acall(settings, heard):
    litellm = open_litellm()
    try:
        answer = await litellm.acompletion(**settings)
        if settings["stream"]:
            async for chunk in answer:
                heard.append(chunk)
            return litellm.stream_chunk_builder(heard)
        return answer
    finally:
        await litellm.close_litellm_async_clients()


def failure(*args, **settings):
    """The exception that a call ends with."""
    with pytest.raises(Exception, match="litellm") as caught:
        call(*args, **settings)
    return caught.value


# Answers


@streamed_or_whole
@sync_or_async
def test_an_answer_comes_with_its_text_tokens_and_finish_reason(scripted_server, streamed, waits):
    answer = call(scripted_server.url, streamed=streamed, waits=waits)
    assert answer.choices[0].message.content == "Paris."
    assert answer.choices[0].finish_reason == "stop"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (6, 1)
    assert len(scripted_server.seen) == 1


@streamed_or_whole
@pytest.mark.parametrize("finish", ["length", "content_filter"])
def test_an_answer_that_was_cut_short_says_why(scripted_server, finish, streamed):
    scripted_server.script["short"] = says("Par", finish=finish)
    answer = call(scripted_server.url, "short", streamed=streamed)
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("Par", finish)


@streamed_or_whole
def test_a_tool_call_comes_whole(scripted_server, streamed):
    scripted_server.script["caller"] = says(tools=[("weather", {"city": "Paris"})])
    answer = call(scripted_server.url, "caller", streamed=streamed, tools=[WEATHER])
    called = answer.choices[0].message.tool_calls[0].function
    assert (called.name, json.loads(called.arguments)) == ("weather", {"city": "Paris"})
    assert answer.choices[0].finish_reason == "tool_calls"
    assert scripted_server.seen[0].body["tools"] == [WEATHER]


@streamed_or_whole
def test_hidden_tokens_are_part_of_the_answers_tokens(scripted_server, streamed):
    scripted_server.script["thinker"] = says("Paris.", reasoning=7)
    usage = call(scripted_server.url, "thinker", streamed=streamed).usage
    assert (usage.completion_tokens, usage.completion_tokens_details.reasoning_tokens) == (8, 7)


@contract
def test_usage_that_is_not_sent_reads_as_zero_tokens_whole_and_as_litellms_own_count_streamed(scripted_server):
    scripted_server.script["uncounted"] = says(usage=False)
    assert call(scripted_server.url, "uncounted").usage.total_tokens == 0
    assert call(scripted_server.url, "uncounted", streamed=True).usage.prompt_tokens > 6


def test_several_choices_and_the_form_of_an_answer_are_passed_on(scripted_server):
    scripted_server.script["json"] = says('{"city": "Paris"}')
    answer = call(scripted_server.url, "json", n=3, response_format={"type": "json_object"})
    assert [json.loads(choice.message.content)["city"] for choice in answer.choices] == ["Paris"] * 3
    assert scripted_server.seen[0].body["response_format"] == {"type": "json_object"}


def test_the_server_keeps_what_came_in_and_answers_by_the_prompt_in_its_own_time(scripted_server):
    scripted_server.script["echo"] = says(lambda prompt: prompt.upper(), latency=0.2)
    answer = call(scripted_server.url, "echo")
    call(scripted_server.url, "other")
    first, second = scripted_server.seen
    assert answer.choices[0].message.content == "WHAT IS THE CAPITAL OF FRANCE?"
    assert scripted_server.asked("echo") == [first]
    assert first.headers["authorization"] == f"Bearer {KEY}"
    assert second.time - first.time >= 0.2


# Failures before the first token: what they mean, after one request

FAILURES = {
    "429": (rate_limited(), Failure.RATE_LIMIT, 429),
    "the quota is spent": (fails(429, "Quota.", code="insufficient_quota"), Failure.ACCESS, 429),
    "500": (breaks(500), Failure.SERVER, 500),
    "502": (breaks(502), Failure.SERVER, 502),
    "503": (breaks(503), Failure.SERVER, 503),
    "504": (breaks(504), Failure.SERVER, 504),
    "529": (breaks(529), Failure.SERVER, 529),
    "408": (breaks(408), Failure.SERVER, 408),
    "409": (breaks(409), Failure.SERVER, 409),
    "a wrong key": (refuses_the_key(), Failure.ACCESS, 401),
    "402": (fails(402, "Payment required."), Failure.ACCESS, 402),
    "403": (fails(403, "Country not supported."), Failure.ACCESS, 403),
    "404": (fails(404, "The model does not exist.", code="model_not_found"), Failure.ACCESS, 404),
    "413": (fails(413, "The body is too large."), Failure.MODEL, 413),
    "a wrong request": (fails(400, "Invalid temperature."), Failure.REQUEST, 400),
    "422": (fails(422, "Unprocessable."), Failure.REQUEST, 422),
    "too long a prompt": (overflows(), Failure.OVERFLOW, 400),
    "a filter": (refuses_the_content(), Failure.CONTENT_FILTER, 400),
    "no answer": (hangs, Failure.SERVER, 408),
    "cut before the answer": (cuts, Failure.SERVER, 500),
}


@pytest.mark.parametrize("case", FAILURES)
@streamed_or_whole
@sync_or_async
def test_a_failure_before_the_first_token_means_what_the_server_said(scripted_server, case, streamed, waits):
    reply, meant, status = FAILURES[case]
    scripted_server.script["failing"] = reply
    failed = failure(scripted_server.url, "failing", streamed=streamed, waits=waits, timeout=0.5)
    assert (classify(failed), status_of(failed)) == (meant, status)
    assert len(scripted_server.seen) == 1


@streamed_or_whole
@sync_or_async
def test_a_server_that_is_not_there_is_a_failing_server(streamed, waits):
    failed = failure(f"http://127.0.0.1:{free_port()}/v1", streamed=streamed, waits=waits)
    assert classify(failed) is Failure.SERVER


@pytest.mark.parametrize("reply", [says(breaks_off=(0, "cut")), garbles], ids=["half a body", "no JSON"])
@sync_or_async
def test_a_body_that_cannot_be_read_is_a_failing_server(scripted_server, reply, waits):
    scripted_server.script["broken"] = reply
    assert classify(failure(scripted_server.url, "broken", waits=waits)) is Failure.SERVER


@contract
def test_a_wrong_keys_message_has_the_key_in_it(scripted_server):
    scripted_server.script["locked"] = refuses_the_key()
    assert KEY in str(failure(scripted_server.url, "locked"))


@contract
@pytest.mark.parametrize(("retries", "requests"), [({}, 3), ({"num_retries": 0}, 1), ({"max_retries": 0}, 1)])
@sync_or_async
def test_a_call_is_tried_three_times_unless_told_not_to(scripted_server, retries, requests, waits):
    scripted_server.script["limited"] = rate_limited(retry_after=0.01)
    failure(scripted_server.url, "limited", waits=waits, **({"num_retries": None} | retries))
    assert len(scripted_server.seen) == requests


@contract
def test_litellms_retries_come_on_top_of_its_clients(scripted_server):
    scripted_server.script["limited"] = rate_limited(retry_after=0.01)
    failure(scripted_server.url, "limited", num_retries=2)
    assert len(scripted_server.seen) == 5  # three of the client's, then two more


def test_a_script_goes_on_after_a_failure(scripted_server):
    scripted_server.script["busy"] = [rate_limited(), says("Paris."), says("Rome.")]
    assert classify(failure(scripted_server.url, "busy")) is Failure.RATE_LIMIT
    said = [call(scripted_server.url, "busy").choices[0].message.content for _ in range(3)]
    assert said == ["Paris.", "Rome.", "Rome."]


# Failures within a stream


@pytest.mark.parametrize("how", ["cut", "stall", "error"])
@pytest.mark.parametrize(("chunks", "said"), [(0, ""), (1, ""), (3, "one two ")])
@sync_or_async
def test_a_stream_that_breaks_off_fails_as_a_server_after_what_had_come(scripted_server, how, chunks, said, waits):
    scripted_server.script["frail"] = says("one two three four", breaks_off=(chunks, how))
    heard = []
    with pytest.raises(Exception, match="litellm") as caught:
        call(scripted_server.url, "frail", streamed=True, waits=waits, timeout=0.5, heard=heard)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in heard) == said
    assert classify(caught.value) is Failure.SERVER


@contract
@sync_or_async
def test_a_page_of_html_passes_for_an_empty_stream(scripted_server, waits):
    scripted_server.script["portal"] = garbles
    answer = call(scripted_server.url, "portal", streamed=True, waits=waits)
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("", "stop")


# LiteLLM's own proxy


@streamed_or_whole
@sync_or_async
def test_the_proxy_answers(proxy_server, streamed, waits):
    answer = call(proxy_server, "says-paris", provider="litellm_proxy", streamed=streamed, waits=waits)
    assert answer.choices[0].message.content == "Paris."


def test_the_proxy_calls_a_tool(proxy_server):
    answer = call(proxy_server, "calls-a-tool", provider="litellm_proxy", tools=[WEATHER])
    assert answer.choices[0].message.tool_calls[0].function.name == "weather"


@pytest.mark.parametrize(
    ("model", "meant"),
    [
        ("rate-limited", Failure.RATE_LIMIT),
        ("broken", Failure.SERVER),
        ("overflowing", Failure.OVERFLOW),
    ],
)
@streamed_or_whole
def test_the_proxy_passes_on_what_a_model_failed_with(proxy_server, model, meant, streamed):
    failed = failure(proxy_server, model, provider="litellm_proxy", streamed=streamed)
    assert classify(failed) is meant


def test_the_proxy_takes_its_own_key_only(proxy_server):
    failed = failure(proxy_server, "says-paris", provider="litellm_proxy", api_key="sk-some-other-key")
    assert status_of(failed) in (400, 401)  # 401 where the proxy has a database to look the key up in
