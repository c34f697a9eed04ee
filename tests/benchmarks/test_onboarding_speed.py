"""How much longer onboarding takes than the calls alone, side by side in the same run; nothing is asserted on time.

python -m pytest tests/benchmarks/test_onboarding_speed.py -rP
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from unirouter_core import Prices, UniRouter
from unirouter_plugins.graders import parse_grader
from unirouter_plugins.litellm.failures import open_litellm
from unirouter_plugins.litellm.pool_file import Member, Members
from unirouter_plugins.onboarding import OnboardingOptions, Progress, plan_onboarding
from unirouter_plugins.onboarding.questions import Question, Questions

N, AT_ONCE, LATENCY, ROUNDS = 400, 32, 0.05, 7
SUMS = Questions([Question(f"What is {n} plus {n}?", str(2 * n), parse_grader("number")) for n in range(N)])

SERVER = f"""
import sys
from tests.plugins.servers import says, serve_script
with serve_script() as server:
    server.script["m"] = says("4", latency={LATENCY})
    print(server.url, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def url() -> Iterator[str]:
    """A server in a process of its own, so that it does not slow what it measures."""
    child = subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin is not None
    assert child.stdout is not None
    yield child.stdout.readline().strip()
    child.stdin.close()
    child.wait()


async def calls_alone(url: str) -> tuple[float, float]:
    """Make the calls, and return the seconds and the processor's seconds that they took."""
    how = {"api_base": url, "api_key": "x", "max_tokens": 1024, "timeout": 120, "num_retries": 0, "max_retries": 0}
    left, litellm = iter(SUMS), open_litellm()

    async def work() -> None:
        for question in left:
            await litellm.acompletion(model="openai/m", messages=question.messages, **how)

    began, used = time.perf_counter(), time.process_time()
    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    return time.perf_counter() - began, time.process_time() - used


async def onboarding(url: str, store: Path, router: UniRouter) -> tuple[float, float]:
    """Onboard a model, and return the seconds and the processor's seconds until its last answer was graded and kept."""
    table = Members({"m": Member("m", "openai/m", url, prices=Prices(1, 2))})
    options = OnboardingOptions(validation=SUMS, pool=table, store=store, concurrency=AT_ONCE, replace=True)
    plan = plan_onboarding(router, ["m"], options)
    took: list[tuple[float, float]] = []
    began, used = time.perf_counter(), time.process_time()

    def told(progress: Progress) -> None:
        if progress.done == N:
            took.append((time.perf_counter() - began, time.process_time() - used))

    (onboarded,) = await plan.run(told)
    assert onboarded.asked == N
    return took[0]


def test_400_answers_at_once_with_32_and_50_ms_each(url: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    router = UniRouter.starter()

    async def side_by_side() -> list[tuple[tuple[float, float], tuple[float, float]]]:
        await calls_alone(url)
        found = [
            (await calls_alone(url), await onboarding(url, tmp_path / f"{n}.sqlite", router)) for n in range(ROUNDS)
        ]
        await open_litellm().close_litellm_async_clients()
        return found

    found = asyncio.run(side_by_side())
    ratio = statistics.median(ours[0] / bare[0] for bare, ours in found)
    alone, all_in_all = (statistics.median(pair[side][0] for pair in found) for side in (0, 1))
    overhead = statistics.median((ours[1] - bare[1]) / N for bare, ours in found)
    print(f"calls alone {alone:.2f} s, onboarding {all_in_all:.2f} s, ratio {ratio:.2f} (median of {ROUNDS})")
    print(f"processor time of our own: {1000 * overhead:.2f} ms a call")
