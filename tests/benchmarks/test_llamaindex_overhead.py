"""What LlamaIndex calls take through the router beside the picked LLM. Nothing is asserted on time.

python -m pytest tests/benchmarks/test_llamaindex_overhead.py --benchmark-enable --benchmark-columns=median,iqr -s
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable

import pytest
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool

from tests.plugins.scripted_llm import POEM, SUM, index, record, scripted, settings  # noqa: F401 - the last is a fixture
from tests.shop import routing, shop
from unirouter_core import UniRouter
from unirouter_plugins.llamaindex import UniRouterLLM

CHAT = [
    ChatMessage("Be brief and kind. " * 100, role="system"),
    ChatMessage(POEM),
    ChatMessage("Drops fall, and all the roofs of the town begin to sing. " * 40, role="assistant"),
    ChatMessage(SUM),
]


def plus(a: int, b: int) -> int:
    """Add two numbers, and return their sum."""
    return a + b


TOOLS = [FunctionTool.from_defaults(plus, name=f"plus_{n}") for n in range(5)]

CALLS = {
    "a prompt": lambda llm: lambda: llm.complete(SUM),
    "a chat of 1,000 tokens": lambda llm: lambda: llm.chat(CHAT),
    "a prompt with 5 tools": lambda llm: lambda: llm.chat_with_tools(TOOLS, SUM),
    "a stream": lambda llm: lambda: list(llm.stream_complete(SUM)),
}


def report(benchmark, direct: Callable[[], object], routed: Callable[[], object], rounds: int = 300) -> None:
    """Time both in turns, so that a busy machine slows both, and note what the router adds."""
    times = {direct: [], routed: []}
    for _ in range(rounds):
        for call in times:
            began = time.perf_counter()
            call()
            times[call].append(1e3 * (time.perf_counter() - began))
    benchmark.extra_info["direct_ms"] = round(statistics.median(times[direct]), 3)
    for name, kind in ("overhead_ms", statistics.median), ("least_overhead_ms", min):  # the latter on a busy machine
        benchmark.extra_info[name] = round(kind(times[routed]) - kind(times[direct]), 3)
    print(f"\n{benchmark.name}: {benchmark.extra_info}")
    benchmark(routed)


@pytest.mark.parametrize("call", CALLS)
def test_overhead_of_a_call(benchmark, asked_router: UniRouter, call: str) -> None:
    llms = scripted(asked_router)
    llm = UniRouterLLM(asked_router, llms)
    report(benchmark, CALLS[call](llms[record(llm.complete(SUM))["model"]]), CALLS[call](llm))


def test_overhead_of_an_async_call(benchmark, asked_router: UniRouter) -> None:
    llms = scripted(asked_router)
    llm = UniRouterLLM(asked_router, llms)
    with asyncio.Runner() as runner:
        direct = llms[record(llm.complete(SUM))["model"]]
        report(benchmark, lambda: runner.run(direct.acomplete(SUM)), lambda: runner.run(llm.acomplete(SUM)))


@pytest.mark.usefixtures("settings")
def test_overhead_of_a_query(benchmark, asked_router: UniRouter) -> None:
    llms, whole = scripted(asked_router), index()
    llm = UniRouterLLM(asked_router, llms)
    routed, direct = whole.as_query_engine(llm), whole.as_query_engine(llms[record(llm.complete(SUM))["model"]])
    report(benchmark, lambda: direct.query(SUM), lambda: routed.query(SUM), rounds=100)


@pytest.mark.usefixtures("settings")
def test_overhead_of_a_query_that_reads_its_documents(benchmark) -> None:
    router, whole = routing(shop()), index()
    llms = scripted(router)
    llm = UniRouterLLM(router, llms)
    routed = whole.as_query_engine(llm)
    direct = whole.as_query_engine(llms[routed.query(SUM).metadata["unirouter"]["model"]])
    report(benchmark, lambda: direct.query(SUM), lambda: routed.query(SUM), rounds=100)


def test_overhead_of_a_call_with_50_models(benchmark, text_router: UniRouter) -> None:
    llms = scripted(text_router)
    llm = UniRouterLLM(text_router, llms)
    report(benchmark, CALLS["a prompt"](next(iter(llms.values()))), CALLS["a prompt"](llm))
