"""The proxy under load; many minutes. SOAK_REQUESTS=100 SOAK_TIMEOUT=20 is a smaller run, for a busy machine.

pytest tests/soak/test_proxy.py --override-ini addopts='' -s
"""

import asyncio
import time

import pytest

from tests.conftest import evaluation
from tests.plugins.redis_server import serve_redis
from tests.plugins.servers import KEY, missing_of_extra
from tests.soak.proxy import (
    CONCURRENCY,
    REQUESTS,
    Client,
    balancer,
    bare_proxy,
    faults,
    fleet,
    one_by_one,
    run,
    session,
    usage,
)
from unirouter_plugins.litellm.shared_health import KEY as HEALTH_KEY

if missing := missing_of_extra("litellm", "proxy"):
    pytest.skip(f"LiteLLM's proxy needs {', '.join(missing)}.", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore")  # of threads and forks: the load is what is looked at


def allowed(served):
    """The headers that leave out the forbidden model."""
    return {"x-unirouter-candidates": ",".join(served.models[:3])}


async def test_nothing_is_lost_answered_twice_or_by_an_ineligible_member(world, tmp_path):
    with fleet(world, tmp_path) as served, bare_proxy(served.url) as bare:
        served.start(1)
        (replica,) = served.replicas
        used = {"bare": [], "routed": []}

        async def look():
            for name, url in ("bare", bare), ("routed", replica.url):
                used[name].append(usage(url))

        async with session() as http:
            only_good = {"x-unirouter-candidates": served.models[2]}
            bare_calls = {"bare": Client(http, [bare], "good", {"authorization": f"Bearer {KEY}"})}
            calls = {**bare_calls, "routed": Client(http, [replica.url], "unirouter", allowed(served))}
            loads = await run(calls, REQUESTS, [look] * 9)
            alone = await one_by_one({**bare_calls, "routed": Client(http, [replica.url], "unirouter", only_good)})
        assert faults(loads["routed"], served.asked(), served.roles) == ""
    for name, (p50, p99, cpu) in {**alone, "routing adds": alone["routed"] - alone["bare"]}.items():
        print(f"one at a time, {name}: p50 {p50:.1f} ms, p99 {p99:.1f} ms, {cpu:.1f} ms of processor time a request")
    for name, load in loads.items():
        p50, p99 = load.times()
        print(f"{name}: p50 {1000 * p50:.0f} ms, p99 {1000 * p99:.0f} ms")
    for name, looks in used.items():
        print(f"{name}, memory and files:", *(f"{memory:.0f} MiB {files}," for memory, files in looks))
    grown = {name: looks[-1][0] - looks[2][0] for name, looks in used.items()}
    assert grown["routed"] < grown["bare"] + 64  # MiB; which model answered a conversation is known for an hour
    files = [files for _, files in used["routed"][2:]]
    assert max(files) - min(files) <= 2 * CONCURRENCY  # connections to clients and members


async def test_a_replica_killed_under_load_loses_nothing_that_a_retry_does_not_get(world, tmp_path):
    with fleet(world, tmp_path) as served, serve_redis() as redis:
        served.start(2, REDIS_URL=redis.url)

        async def kill():
            await asyncio.sleep(0.3)
            await asyncio.to_thread(served.replicas[0].kill)

        async with session() as http:
            client = Client(http, [replica.url for replica in served.replicas], "unirouter", allowed(served))
            loads = await run({"routed": client}, REQUESTS, [kill])
        assert len(client.retried) >= 1
        assert faults(loads["routed"], served.asked(), served.roles, client.retried) == ""


async def test_behind_the_balancer_of_the_cookbook_a_killed_replica_is_not_even_noticed(world, tmp_path):
    with fleet(world, tmp_path) as served:
        served.start(2)
        with balancer(tmp_path, served.replicas) as url:

            async def kill():
                await asyncio.sleep(0.3)
                await asyncio.to_thread(served.replicas[0].kill)

            async with session() as http:
                client = Client(http, [url], "unirouter", allowed(served))
                loads = await run({"routed": client}, REQUESTS, [kill])
        assert client.retried == []
        asked = served.asked()
        lines = faults(loads["routed"], asked, served.roles).splitlines()
        assert [line for line in lines if "times" not in line] == []  # those in flight are asked again, by nginx
        assert len(lines) <= 2 * CONCURRENCY


async def test_redis_that_hangs_is_killed_and_started_again_under_load_loses_nothing(world, tmp_path):
    with fleet(world, tmp_path) as served, serve_redis() as redis:
        served.start(2, REDIS_URL=redis.url)

        def each(act, *how):
            return lambda: asyncio.to_thread(act, *how)

        events = [each(redis.hang), each(redis.hang, False), each(redis.kill), each(redis.start)]
        async with session() as http:
            client = Client(http, [replica.url for replica in served.replicas], "unirouter", allowed(served))
            loads = await run({"routed": client}, REQUESTS, events)
        asked = served.asked()
        assert client.retried == []
        assert faults(loads["routed"], asked, served.roles) == ""
        await asyncio.sleep(2)
        assert b"openai/hangs" in b" ".join(redis.client().hkeys(HEALTH_KEY))  # it had forgotten all


async def test_the_router_s_folder_replaced_under_load_loses_nothing_and_is_served_in_two_seconds(world, tmp_path):
    with fleet(world, tmp_path) as served:
        served.start(1)
        first, router = served.models[0], served.router

        async def replace():
            if first in router.pool:
                router.retire(first)
            else:
                router.onboard(evaluation(world, first))
            await asyncio.to_thread(router.save, served.folder)

        async with session() as http:
            client = Client(http, [served.replicas[0].url], "unirouter")
            loads = await run({"routed": client}, REQUESTS, [replace] * 9)
            await asyncio.sleep(2)
            assert first not in router.pool
            ends, late = time.monotonic() + 1, []
            while time.monotonic() < ends:
                late.append((await client(f"What is 14 plus 37? late {len(late)}"))[1])
        asked = served.asked()
        assert first not in late
        lines = faults(loads["routed"], asked, served.roles)
        assert [line for line in lines.splitlines() if not line.startswith("forbidden")] == []
