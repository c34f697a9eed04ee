"""Many requests at once through a pool that fails, hangs and answers, beside LiteLLM called directly."""

import asyncio
import itertools
import multiprocessing
import time
import warnings
import zlib
from collections import Counter
from contextlib import contextmanager

import numpy as np

from tests.conftest import onboarded
from tests.plugins.servers import KEY, breaks, hangs, says, serve_script
from unirouter_plugins.langchain import RouterRunnable
from unirouter_plugins.litellm import acomplete, configured, open_litellm, record_of
from unirouter_plugins.litellm.pool_file import Member, Members

SUM, ROLES = "What is 14 plus 37?", ("fails", "hangs", "good")  # in the order of the ranking
TIMEOUT, BLOCKS, WARM = 5.0, 10, 100  # seconds; bare and routed take turns; the first requests are not timed


class Load:
    """What came of the requests of one way."""

    def __init__(self):
        self.answered, self.lost, self.seconds, self.cpu = {}, [], [], 0.0  # answered: text and record's model

    def times(self):
        return np.percentile(self.seconds[min(WARM, len(self.seconds) // 2) :], (50, 99))


def is_failing(prompt):
    return zlib.crc32(prompt.encode()) % 10 < 3


async def fails_at_times(request, seen):
    return await (breaks() if is_failing(seen.prompt) else answers("fails"))(request, seen)


def answers(name):
    return says(lambda prompt: f"{name} {prompt}", latency=0.02)


@contextmanager
def server():
    """Run the server in a process of its own; yields its address and a function that returns the prompts it got."""
    ours, theirs = multiprocessing.Pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python's, of threads that are not forked
        process = multiprocessing.get_context("fork").Process(target=_serve, args=(theirs,))
        process.start()
    try:
        yield ours.recv(), lambda: (ours.send("seen"), ours.recv())[1]
    finally:
        process.kill()
        process.join()


def _serve(pipe):
    with serve_script() as scripted:
        scripted.script = {"fails": fails_at_times, "hangs": hangs, "good": answers("good")}
        pipe.send(scripted.url)
        pipe.recv()
        pipe.send([(seen.body["model"], seen.prompt) for seen in scripted.seen])
        pipe.recv()


def wrong(world, way, requests, concurrency, tell=print):
    """Return what was lost, answered twice or by another model than the record says, one line each; "" if none."""
    router = onboarded(world)
    router.cost_weight = 300
    roles = dict(zip([row.model for row in router.route(SUM).ranking], ROLES, strict=False))
    with server() as (url, seen):
        members = {m: Member(m, f"openai/{role}", url, "SERVER_KEY") for m, role in roles.items()}
        table = configured(router, Members(members))
        routed, bare = asyncio.run(_run(table, list(roles), url, way, requests, concurrency))
        asked = Counter(seen())
    for name, load in ("bare", bare), (way, routed):
        p50, p99 = load.times()
        tell(f"{name}: p50 {p50:.3f} s, p99 {p99:.3f} s, {1000 * load.cpu:.1f} ms of processor time a request")
    ratio = routed.times() / bare.times()
    hung = sum(times for (name, _), times in asked.items() if name == "hangs")
    tell(f"p50 x{ratio[0]:.2f}, p99 x{ratio[1]:.2f}, processor x{routed.cpu / bare.cpu:.2f}; {hung} hung")
    lines = [f"lost: {lost}" for lost in routed.lost]
    lines += [f"{name} was called {times} times: {prompt}" for (name, prompt), times in asked.items() if times > 1]
    twice = (p for p in routed.answered if asked["good", p] + asked["fails", p] * (not is_failing(p)) > 1)
    lines += [f"answered twice: {prompt}" for prompt in twice]
    lines += [
        f"misrouted: {text!r} for {prompt!r} of {model}"
        for prompt, (text, model) in routed.answered.items()
        if text != f"{roles.get(model)} {prompt}"
    ]
    return "\n".join(lines[:20])


async def _run(table, models, url, way, requests, concurrency):
    llm, litellm = RouterRunnable(table, timeout=TIMEOUT), open_litellm()
    chosen = {"configurable": {"unirouter_models": models}}

    async def bare(prompt):
        how = {"model": "openai/good", "api_base": url, "api_key": KEY, "num_retries": 0, "max_retries": 0}
        answer = await litellm.acompletion(messages=[{"role": "user", "content": prompt}], timeout=TIMEOUT, **how)
        return answer.choices[0].message.content, models[2]

    async def of_litellm(prompt):
        answer = await acomplete(table, prompt, models=models, timeout=TIMEOUT)
        return answer.choices[0].message.content, record_of(answer).model

    async def of_langchain(prompt):
        answer = await llm.ainvoke(prompt, chosen)
        return answer.text, answer.response_metadata["unirouter"]["model"]

    calls = {"bare": bare, way: {"acomplete": of_litellm, "ainvoke": of_langchain}[way]}
    loads, places = {name: Load() for name in calls}, itertools.count()
    for _ in range(BLOCKS):
        for name, call in calls.items():
            prompts = [f"{SUM} {name} {next(places)}" for _ in range(requests // BLOCKS)]
            began = time.process_time()
            await _block(loads[name], call, prompts, concurrency)
            loads[name].cpu += (time.process_time() - began) / requests
    await litellm.close_litellm_async_clients()
    return loads[way], loads["bare"]


async def _block(load, call, prompts, concurrency):
    waiting = iter(prompts)

    async def worker():
        for prompt in waiting:
            began = time.perf_counter()
            try:
                load.answered[prompt] = await call(prompt)
            except Exception as failed:
                load.lost.append(f"{prompt}: {failed!r:.200}")
            load.seconds.append(time.perf_counter() - began)

    await asyncio.gather(*(worker() for _ in range(concurrency)))
