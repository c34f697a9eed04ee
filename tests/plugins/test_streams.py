"""Streams of every shape that servers send, in each way to call: every part is readable, the usage is counted once."""

import asyncio
import math

import pytest
from llama_index.core.llms import ChatMessage

from tests.plugins import scripted_chat, scripted_llm
from tests.plugins.servers import KEY, says
from unirouter_plugins.langchain import RouterRunnable
from unirouter_plugins.litellm import astream, configured, stream
from unirouter_plugins.litellm.failures import open_litellm
from unirouter_plugins.litellm.pool_file import Member, Members
from unirouter_plugins.litellm.pool_schema import Votes
from unirouter_plugins.litellm.programs import register
from unirouter_plugins.llamaindex import UniRouterLLM

SUM = "What is 14 plus 37?"  # five words, and so five tokens to our server
SAID = "It is 51."

UNCOUNTED = "no usage"
SHAPES = {
    "the usage last, without choices": says(SAID, usage="last"),
    "the usage with the end": says(SAID, usage="end"),
    "the usage in every chunk": says(SAID, usage="every"),
    "a first chunk without choices": says(SAID, empty=True),
    UNCOUNTED: says(SAID, usage=False),
}
EACH_SHAPE = pytest.mark.parametrize("shape", SHAPES)


@pytest.fixture
def table(asked_router, scripted_server, monkeypatch):
    """A function that returns the router, each of its models a server that streams in the shape of that name."""
    monkeypatch.setenv("SERVER_KEY", KEY)

    def serve(shape, **how):
        scripted_server.script = dict.fromkeys(asked_router.pool, SHAPES[shape])
        members = {m: Member(m, f"openai/{m}", scripted_server.url, "SERVER_KEY", **how) for m in asked_router.pool}
        register(table := Members(members))
        return configured(asked_router, table)

    return serve


def check_tokens(shape, tokens_in, tokens_out, expected=(5, 3)):
    """The tokens are the server's; where it does not count them, they are LiteLLM's own guess."""
    assert (tokens_in, tokens_out) == expected or (shape == UNCOUNTED and tokens_out > 0)


def run(awaited):
    """What a coroutine returns; LiteLLM's connections are closed with the event loop that they belong to."""

    async def closing():
        try:
            return await awaited
        finally:
            await open_litellm().close_litellm_async_clients()

    return asyncio.run(closing())


async def gathered(parts):
    return [part async for part in parts]


# --- LiteLLM ----------------------------------------------------------------------------------------------------------


@EACH_SHAPE
def test_each_chunk_has_a_choice_and_the_record_the_usage(table, shape):
    answer = stream(table(shape), SUM)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in answer) == SAID
    check_tokens(shape, answer.record.usage.tokens_in, answer.record.usage.tokens_out)
    assert answer.record.usd > 0


@EACH_SHAPE
def test_an_async_stream_does_the_same(table, shape):
    async def read():
        answer = await astream(table(shape), SUM)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in answer]), answer.record

    said, record = run(read())
    assert said == SAID
    check_tokens(shape, record.usage.tokens_in, record.usage.tokens_out)


@EACH_SHAPE
def test_who_asks_for_the_usage_sees_it_once(table, shape):
    chunks = stream(table(shape), SUM, stream_options={"include_usage": True})
    (usage,) = [chunk.usage for chunk in chunks if getattr(chunk, "usage", None) is not None]
    check_tokens(shape, usage.prompt_tokens, usage.completion_tokens)


@EACH_SHAPE
def test_a_stream_that_is_left_early_has_a_record(table, shape):
    with stream(table(shape), SUM) as answer:
        assert next(answer).choices
    assert answer.record.model == answer.model


# --- LangChain --------------------------------------------------------------------------------------------------------


@EACH_SHAPE
@pytest.mark.parametrize("waits", [False, True], ids=["stream", "astream"])
def test_langchain_s_chunks_end_with_one_record(table, shape, waits):
    llm = RouterRunnable(table(shape))
    chunks = run(gathered(llm.astream(SUM))) if waits else list(llm.stream(SUM))
    assert "".join(chunk.text for chunk in chunks) == SAID
    (record,) = [scripted_chat.record(chunk) for chunk in chunks if "unirouter" in chunk.response_metadata]
    check_tokens(shape, record["tokens_in"], record["tokens_out"])
    assert record["usd"] > 0


def test_a_usage_that_every_chunk_of_a_chat_model_tells_so_far_is_counted_once(asked_router):
    counting = {name: {"counts_so_far": True} for name in asked_router.pool}
    *_, last = RouterRunnable(asked_router, scripted_chat.chats(asked_router, **counting)).stream(SUM)
    whole = RouterRunnable(asked_router, scripted_chat.chats(asked_router)).invoke(SUM)
    told, expected = scripted_chat.record(last), scripted_chat.record(whole)
    assert (told["tokens_in"], told["tokens_out"]) == (expected["tokens_in"], expected["tokens_out"])


# --- LlamaIndex -------------------------------------------------------------------------------------------------------


@EACH_SHAPE
@pytest.mark.parametrize("waits", [False, True], ids=["stream_chat", "astream_chat"])
def test_llama_index_s_parts_hold_all_that_was_said_and_the_record(table, shape, waits):
    llm, messages = UniRouterLLM(table(shape)), [ChatMessage(SUM)]

    async def read():
        return await gathered(await llm.astream_chat(messages))

    parts = run(read()) if waits else list(llm.stream_chat(messages))
    assert "".join(part.delta or "" for part in parts) == parts[-1].message.content == SAID
    record = scripted_llm.record(parts[-1])
    check_tokens(shape, record["tokens_in"], record["tokens_out"])
    assert record["usd"] > 0


# --- Variants ---------------------------------------------------------------------------------------------------------


@EACH_SHAPE
def test_a_variant_streams_whatever_its_own_model_streams(table, shape):
    answer = stream(table(shape, template="{prompt} Think."), SUM)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in answer) == SAID
    check_tokens(shape, answer.record.usage.tokens_in, answer.record.usage.tokens_out, (6, 3))
    assert answer.record.usd > 0


@EACH_SHAPE
def test_votes_stream_the_elected_answer_and_what_all_samples_took(table, shape):
    answer = stream(table(shape, votes=Votes(3, "number")), SUM)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in answer) == SAID
    if shape == UNCOUNTED:
        assert math.isnan(answer.record.usd)  # the samples are not streamed: LiteLLM counts no tokens of theirs
    else:
        check_tokens(shape, answer.record.usage.tokens_in, answer.record.usage.tokens_out, (15, 9))
