"""Every fault of a model in every way to call it: the next model answers, once, in time, and the record says why."""

import asyncio

import pytest
from llama_index.core.llms import ChatMessage

from tests.plugins import scripted_chat, scripted_llm
from tests.plugins.servers import KEY, cuts, fails, garbles, hangs, rate_limited, replies, says, sends, trickles
from unirouter_plugins.langchain import RouterRunnable
from unirouter_plugins.litellm import acomplete, astream, complete, configured, record_of, stream
from unirouter_plugins.litellm.health import HEALTH
from unirouter_plugins.litellm.pool_file import Member, Members
from unirouter_plugins.llamaindex import UniRouterLLM

SUM, SAID = "What is 14 plus 37?", "It is 51."


def said(chunks):
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


async def read(opened):
    """The parts of an asynchronous stream, and itself."""
    opened = await opened if asyncio.iscoroutine(opened) else opened
    return [part async for part in opened], opened


def of_litellm(answer):
    return answer.choices[0].message.content, record_of(answer).as_dict()


def of_stream(both):
    parts, answer = both
    return said(parts), answer.record.as_dict()


def of_chain(both):
    chunks = both[0]
    records = [scripted_chat.record(chunk) for chunk in chunks if "unirouter" in chunk.response_metadata]
    return "".join(chunk.text for chunk in chunks), records[-1]


def of_index(both):
    return both[0][-1].message.content, scripted_llm.record(both[0][-1])


def both(streamed):
    return list(streamed), streamed


async def then(convert, awaited):
    return convert(await awaited)


CHAT = [ChatMessage(SUM)]
WAYS = {
    "complete": lambda r, **o: of_litellm(complete(r, SUM, **o)),
    "acomplete": lambda r, **o: then(of_litellm, acomplete(r, SUM, **o)),
    "stream": lambda r, **o: of_stream(both(stream(r, SUM, **o))),
    "astream": lambda r, **o: then(of_stream, read(astream(r, SUM, **o))),
    "invoke": lambda r, **o: of_chain([[RouterRunnable(r, **o).invoke(SUM)]]),
    "ainvoke": lambda r, **o: then(lambda said: of_chain([[said]]), RouterRunnable(r, **o).ainvoke(SUM)),
    "LangChain's stream": lambda r, **o: of_chain(both(RouterRunnable(r, **o).stream(SUM))),
    "LangChain's astream": lambda r, **o: then(of_chain, read(RouterRunnable(r, **o).astream(SUM))),
    "chat": lambda r, **o: of_index([[UniRouterLLM(r, **o).chat(CHAT)]]),
    "achat": lambda r, **o: then(lambda said: of_index([[said]]), UniRouterLLM(r, **o).achat(CHAT)),
    "stream_chat": lambda r, **o: of_index(both(UniRouterLLM(r, **o).stream_chat(CHAT))),
    "astream_chat": lambda r, **o: then(of_index, read(UniRouterLLM(r, **o).astream_chat(CHAT))),
}
STREAMED = [way for way in WAYS if "stream" in way]

STATUSES = (401, 402, 403, 404, 405, 408, 409, 410, 413, 415, 423, 424, 425, 429, 451, 498, 499, 500, 503, 529)
STATUS_FAULTS = {f"status {status}": fails(status, "No.") for status in STATUSES}
DELTA = b'data: {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [{"index": 0, '
FAULTS = {
    "a status that LiteLLM has no exception for": fails(423, "No."),
    "a limit of the model's own": fails(400, "Thinking mode does not support this tool_choice"),
    "a 429 that says when to come again": rate_limited(30),
    "a connection that is cut": cuts,
    "a page of HTML": garbles,
    "an error with status 200": replies('{"error": {"message": "Overloaded.", "code": 503}}'),
    "an empty body": replies(""),
    "an end without a beginning": replies("data: [DONE]\n\n", "text/event-stream"),
    "no text": says(""),
    "no text, cut at the limit": says("", finish="length"),
    "a content filter's empty answer": says("", finish="content_filter"),
    "no choices": sends(choices=[]),
    "no content": sends(choices=[{"index": 0, "message": {"role": "assistant", "content": None}}]),
}
SLOW = {
    "silence": hangs,
    "blanks": trickles(b" "),
    "comments of a stream": trickles(b": ping\n\n"),
    "parts without content": trickles(DELTA + b'"delta": {"content": ""}, "finish_reason": null}]}\n\n'),
}


@pytest.fixture
def table(asked_router, scripted_server, monkeypatch):
    """The router, all models of which are on the scripted server; sums go to the tutor, then to the scholar."""
    monkeypatch.setenv("SERVER_KEY", KEY)
    members = {m: Member(m, f"openai/{m}", scripted_server.url, "SERVER_KEY") for m in asked_router.pool}
    table = configured(asked_router, Members(members))
    table.cost_weight = 300
    scripted_server.script["scholar"] = says(SAID)
    return table


async def outcome(way, table, **options):
    """What a way to call returns: what was said, who said it, who failed; or the exception's name."""
    try:
        found = await asyncio.to_thread(WAYS[way], table, **options)
        text, record = await found if asyncio.iscoroutine(found) else found
    except Exception as failed:
        return f"{type(failed).__name__}: {failed}"
    return text, record["model"], [*record["failures"]]


async def outcomes(ways, table, **options):
    """The outcomes of ways to call that are taken all at once."""
    return dict(zip(ways, await asyncio.gather(*(outcome(way, table, **options) for way in ways)), strict=True))


@pytest.mark.parametrize("way", WAYS)
async def test_a_fault_of_one_model_is_followed_by_the_next(table, scripted_server, way):
    wrong = {}
    for name, fault in (FAULTS | (STATUS_FAULTS if way == "complete" else {})).items():
        HEALTH.store.clear()
        scripted_server.script["tutor"], before = fault, len(scripted_server.seen)
        found = await outcome(way, table, content_policy=True)
        n_asked = len(scripted_server.seen) - before
        if (found, n_asked) != ((SAID, "scholar", ["tutor"]), 2):
            wrong[name] = found, n_asked
    assert wrong == {}


@pytest.mark.parametrize("fault", SLOW)
async def test_whatever_trickles_the_next_model_is_tried_in_time(table, scripted_server, fault):
    scripted_server.script["tutor"] = SLOW[fault]
    complete(table, SUM, models=["scholar"])  # LiteLLM is imported
    ways = [way for way in WAYS if fault in ("silence", "blanks") or way in STREAMED]
    found = await outcomes(ways, table, timeout=2)
    assert {way: each[:2] for way, each in found.items()} == dict.fromkeys(ways, (SAID, "scholar"))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # LiteLLM leaves a coroutine
@pytest.mark.parametrize("fault", ["silence", "blanks"])
async def test_a_deadline_ends_a_call_whatever_is_left_to_try(table, scripted_server, fault):
    scripted_server.script = dict.fromkeys(table.pool, SLOW[fault])
    found = await outcomes(WAYS, table, timeout=1, deadline=1.5)
    assert all("Timeout" in failed.split(":")[0] for failed in found.values()), found
    assert len(scripted_server.seen) <= 2 * len(WAYS)  # of four models
