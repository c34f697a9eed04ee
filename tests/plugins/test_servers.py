"""What LiteLLM makes of what real servers do, streamed and not, sync and async: the facts that our fallbacks rest on."""

import asyncio
import json
import time

import pytest

from tests.plugins.servers import (
    KEY,
    PROXY_MODELS,
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
from unirouter_plugins.providers.door import open_litellm

pytest_plugins = ["tests.plugins.servers"]

ASK = [{"role": "user", "content": "What is the capital of France?"}]
WAYS = [(False, False), (False, True), (True, False), (True, True)]
NAMED_WAYS = ["whole, sync", "whole, async", "streamed, sync", "streamed, async"]
every_way = pytest.mark.parametrize(("streamed", "waits"), WAYS, ids=NAMED_WAYS)


def call(url, model="any", *, streamed=False, waits=False, **changes):
    """Ask through LiteLLM, once; a stream is read to its end and put together. `waits` is the async way."""
    settings = {"api_base": url, "api_key": KEY, "num_retries": 0, "timeout": 30, "stream": streamed, **changes}
    if streamed:
        settings = {"stream_options": {"include_usage": True}, **settings}
    chunks = []
    _, answer = (asyncio.run(_acall(model, settings, chunks)) if waits else _call(model, settings, chunks))
    return open_litellm().stream_chunk_builder(chunks) if streamed else answer


def _call(model, settings, chunks):
    answer = open_litellm().completion(f"openai/{model}", ASK, **settings)
    chunks.extend(answer if settings["stream"] else [])
    return chunks, answer


async def _acall(model, settings, chunks):
    litellm = open_litellm()
    try:
        answer = await litellm.acompletion(f"openai/{model}", ASK, **settings)
        if settings["stream"]:
            async for chunk in answer:
                chunks.append(chunk)
        return chunks, answer
    finally:
        await litellm.close_litellm_async_clients()
