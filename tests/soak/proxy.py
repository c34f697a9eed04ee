"""A router served by LiteLLM's proxy: replicas to be killed, members that fail, and what came of each request."""

import asyncio
import contextlib
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import numpy as np
import pytest

from tests.conftest import onboarded
from tests.plugins.servers import KEY, free_port, serve_proxy
from tests.soak.load import BLOCKS, ROLES, SUM, Load, _block, is_failing, server

REQUESTS = int(os.environ.get("SOAK_REQUESTS", "10000"))
TIMEOUT = os.environ.get("SOAK_TIMEOUT", "5")  # seconds of an attempt; more where the machine is busy
CONCURRENCY = 64
FORBIDDEN = "forbidden"  # the role of the model that no request may go to
RETRIES = 5  # of a client, when its connection is lost


@dataclass
class Replica:
    """One `unirouter serve` in a process of its own."""

    folder: Path
    port: int
    env: dict
    process: subprocess.Popen | None = None

    @property
    def log(self):
        return self.folder.with_name(f"{self.port}.log")

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def start(self):
        command = [sys.executable, "-m", "unirouter_plugins.cli", "serve", str(self.folder), "--port", str(self.port)]
        with self.log.open("ab") as log:
            own = {"stdout": log, "stderr": log, "env": self.env, "start_new_session": True}
            self.process = subprocess.Popen([*command, "--timeout", TIMEOUT], **own)

    def wait(self, seconds=240):
        ends = time.monotonic() + seconds
        while time.monotonic() < ends and self.process.poll() is None:
            with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
                urllib.request.urlopen(f"{self.url}/health/liveliness", timeout=5).close()
                return
            time.sleep(0.1)
        pytest.fail(f"unirouter serve did not answer within {seconds} s:\n{self.log.read_text()[-3000:]}")

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # its own group: it was started in a session of its own
        self.process.wait()


def process_at(url):
    """The place in /proc of the process that was started to serve at an address."""
    port = b"--port\0%s\0" % url.rpartition(":")[2].encode()
    return next(path.parent for path in Path("/proc").glob("[0-9]*/cmdline") if port in path.read_bytes())


def usage(url):
    """The memory in MiB, and the open files, of the process that serves at an address."""
    place = process_at(url)
    pages = int((place / "statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20, len([*(place / "fd").iterdir()])


def processor_time(url):
    """The seconds of processor time of the process that serves at an address."""
    times = (process_at(url) / "stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, times)) / os.sysconf("SC_CLK_TCK")


class Fleet:
    """Members on loopback, and replicas that serve a router whose ranking for `SUM` is `ROLES`, then one forbidden."""

    def __init__(self, folder, router, url, seen):
        self.folder, self.router, self.url, self._seen = folder / "my.router", router, url, seen
        self.models = [row.model for row in router.route(SUM).ranking]
        self.roles = dict(zip(self.models, [*ROLES, FORBIDDEN], strict=True))
        router.save(self.folder)
        tables = "".join(
            f'[models."{name}"]\nmodel = "openai/{role}"\napi_base = "{url}"\napi_key_env = "SERVER_KEY"\n'
            for name, role in self.roles.items()
        )
        (folder / "pool.toml").write_text(tables)
        self.replicas = []

    def start(self, n, **env):
        own = {"SERVER_KEY": KEY, "PYTHONPATH": str(Path(__file__).parents[2]), "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        kept = {k: v for k, v in os.environ.items() if k not in ("DATABASE_URL", "REDIS_URL", "LITELLM_MASTER_KEY")}
        self.replicas = [Replica(self.folder, free_port(), {**kept, **own, **env}) for _ in range(n)]
        for replica in self.replicas:
            replica.start()
        for replica in self.replicas:
            replica.wait()

    def asked(self):
        """How often each member was asked each prompt; it can be asked for once, as the members end then."""
        return Counter(self._seen())


@contextlib.contextmanager
def fleet(world, folder):
    router = onboarded(world)
    router.cost_weight = 300
    with server() as (url, seen):
        made = Fleet(folder, router, url, seen)
        try:
            yield made
        finally:
            for replica in made.replicas:
                replica.kill()


@contextlib.contextmanager
def bare_proxy(url):
    """Run LiteLLM's proxy without us, with the good member alone; yields its address."""
    with serve_proxy({"good": {"api_base": url, "api_key": KEY}}) as address:
        yield address


@contextlib.contextmanager
def balancer(folder, replicas):
    """Run nginx as cookbook/serve configures it, in front of replicas; yields its address."""
    if (nginx := shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")) is None:
        pytest.skip("There is no nginx here: apt-get install nginx-light.")
    written, port = (Path(__file__).parents[2] / "cookbook" / "serve" / "nginx.conf").read_text(), free_port()
    for replica in replicas:
        written = written.replace(
            " proxy:4000 resolve ", f" 127.0.0.1:{replica.port} max_fails=1; server proxy:4000 resolve ", 1
        )
    written = re.sub("server proxy:4000 resolve .*?;", "", written).replace("listen 4000", f"listen 127.0.0.1:{port}")
    (folder / "nginx.conf").write_text(f"pid nginx.pid; error_log stderr;\n{written}")
    process = subprocess.Popen([nginx, "-p", str(folder), "-c", "nginx.conf", "-g", "daemon off;"])
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


class Client:
    """Sends requests to replicas by turns, to the next one when a connection is lost."""

    def __init__(self, session, urls, model, headers=None):
        self.session, self.urls, self.model, self.headers = session, urls, model, headers or {}
        self.turns, self.retried = itertools.count(), []

    async def __call__(self, prompt):
        turn = next(self.turns)
        for attempt in range(RETRIES + 1):
            try:
                return await self._ask(self.urls[(turn + attempt) % len(self.urls)], prompt)
            except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError):
                self.retried.append(prompt)
                await asyncio.sleep(0.2 * attempt)
        raise AssertionError("The connection was lost at every replica.")

    async def _ask(self, url, prompt):
        body = {"model": self.model, "messages": [{"role": "user", "content": prompt}]}
        async with self.session.post(f"{url}/v1/chat/completions", json=body, headers=self.headers) as response:
            told = await response.json()
            assert response.status == 200, f"{response.status}: {told}"
            return told["choices"][0]["message"]["content"], response.headers.get("x-unirouter-model")


async def run(calls, requests, between=()):
    """Send requests in blocks, the calls taking turns; returns a `Load` for each, by name.

    `between` are coroutine functions, each run beside one block of those after the first.
    """
    loads, places, events = {name: Load() for name in calls}, itertools.count(), list(between)
    for block in range(BLOCKS):
        event = asyncio.ensure_future(events.pop(0)()) if events and block else None
        for name, call in calls.items():
            prompts = [f"{SUM} {name} {next(places)}" for _ in range(requests // BLOCKS)]
            await _block(loads[name], call, prompts, CONCURRENCY)
        if event is not None:
            await event
    return loads


async def one_by_one(calls, times=300):
    """Send requests one at a time, by turns; returns p50, p99 and the server's processor time in ms, by name."""
    seconds, spent = {name: [] for name in calls}, {name: processor_time(call.urls[0]) for name, call in calls.items()}
    for place in range(times):
        for name, call in calls.items():
            began = time.perf_counter()
            await call(f"{SUM} alone {name} {place}")
            seconds[name].append(time.perf_counter() - began)
    spent = {name: (processor_time(call.urls[0]) - spent[name]) / times for name, call in calls.items()}
    return {name: 1000 * np.append(np.percentile(each, (50, 99)), spent[name]) for name, each in seconds.items()}


def session():
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=CONCURRENCY, keepalive_timeout=2),  # before the servers close theirs
        timeout=aiohttp.ClientTimeout(total=120),
    )


def faults(load, asked, roles, retried=()):
    """What was lost, answered twice, or by another model than the headers say or may be, one line each; "" if none."""
    lines = [f"lost: {lost}" for lost in load.lost]
    again = {*retried}
    lines += [
        f"{name} was called {times} times: {prompt}"
        for (name, prompt), times in asked.items()
        if times > 1 and prompt not in again
    ]
    lines += [f"forbidden: {prompt}" for name, prompt in asked if name == FORBIDDEN]
    for prompt, (text, model) in load.answered.items():
        answers = asked["good", prompt] + asked["fails", prompt] * (not is_failing(prompt))
        if answers != 1 and prompt not in again:
            lines.append(f"answered {answers} times: {prompt}")
        if text != f"{roles.get(model)} {prompt}":
            lines.append(f"misrouted: {text!r} for {prompt!r} of {model}")
    return "\n".join(lines[:20])
