"""What LangChain calls take through the router beside the picked chat model. Nothing is asserted on time.

python -m pytest tests/benchmarks/test_langchain_overhead.py --benchmark-enable --benchmark-columns=median,iqr,rounds -s
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.tools import tool

from tests.plugins.scripted_chat import chats
from unirouter_core import UniRouter
from unirouter_plugins.langchain import RouterRunnable

PROMPT = "What is 14 plus 37?"
CHAT = [
    SystemMessage("Be brief and kind. " * 100),
    HumanMessage("Write a poem of 3 lines about the rain."),
    AIMessage("Drops fall, and all the roofs of the town begin to sing. " * 40),
    HumanMessage(PROMPT),
]


@tool
def plus(a: int, b: int) -> int:
    """Add two numbers, and return their sum."""
    return a + b


CALLS = {
    "a prompt": lambda model: lambda: model.invoke(PROMPT),
    "a chat of 1,000 tokens": lambda model: lambda: model.invoke(CHAT),
    "a prompt with 5 tools": lambda model: bound(model),
}


def bound(model):
    with_tools = model.bind_tools([plus] * 5)
    return lambda: with_tools.invoke(PROMPT)


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
def test_overhead_of_invoke(benchmark, asked_router: UniRouter, call: str) -> None:
    models = chats(asked_router)
    llm = RouterRunnable(asked_router, models)
    picked = models[llm.invoke(PROMPT).response_metadata["unirouter"]["model"]]
    report(benchmark, CALLS[call](picked), CALLS[call](llm))


def test_overhead_of_invoke_with_50_models(benchmark, text_router: UniRouter) -> None:
    models = chats(text_router)
    llm = RouterRunnable(text_router, models)
    report(benchmark, CALLS["a prompt"](next(iter(models.values()))), CALLS["a prompt"](llm))


def longest_stall(model) -> float:
    """Return how long the event loop was kept from another task while it made 200 calls at once, in ms."""
    gaps = []

    async def tick() -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0)
            gaps.append(time.perf_counter() - began)

    async def calls() -> None:
        ticking = asyncio.create_task(tick())
        await asyncio.gather(*(model.ainvoke(f"What is {a} plus 37?") for a in range(200)))
        ticking.cancel()

    asyncio.run(calls())
    return 1e3 * max(gaps)


def test_the_longest_stall_of_the_loop_in_200_calls_at_once(benchmark, asked_router: UniRouter) -> None:
    models = chats(asked_router, **{name: {"pause": 0.05} for name in asked_router.pool})
    llm = RouterRunnable(asked_router, models)
    stalls = {
        kind: [longest_stall(model) for _ in range(9)] for kind, model in (("direct", models["sage"]), ("router", llm))
    }
    benchmark.extra_info.update(
        {f"{kind}_stall_ms": round(statistics.median(each), 1) for kind, each in stalls.items()}
    )
    print(f"\n{benchmark.name}: {benchmark.extra_info}")
    benchmark.pedantic(longest_stall, args=(llm,), rounds=3)
