"""Real servers on loopback for the tests of plugins: llama.cpp, LiteLLM's proxy, and one that fails as it is told to.

A test module gets the fixtures with `pytest_plugins = ["tests.plugins.servers"]`; whichever module asks first, each
server of a session is started once. PYTEST_DONT_REWRITE: modules also import from here before pytest has a chance to.
"""

import asyncio
import importlib.metadata
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import defaultdict
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import pytest
from aiohttp import web
from packaging.requirements import Requirement

from unirouter_plugins.local.server import available, serve_model

# LiteLLM's calls that are not async ask for the thread's event loop: without this, Python makes one that nobody closes.
asyncio.set_event_loop(None)

KEY = "sk-loopback-7f3a9c"
"""What the servers here take for a key, where they look at it."""


@pytest.fixture(scope="session")
def llama_server():
    """SmolLM2-135M-Instruct behind llama.cpp's server: a `LocalModel` with `name` and `url`."""
    if (sentence := available()) is not None:
        pytest.skip(sentence)
    with serve_model() as local:
        yield local


@pytest.fixture(scope="session")
def proxy_server():
    """Return the address of LiteLLM's proxy, whose models are those of `PROXY_MODELS`; its key is `KEY`."""
    if missing := missing_of_extra("litellm", "proxy"):
        pytest.skip(f"LiteLLM's proxy needs {', '.join(missing)}: pip install 'litellm[proxy]'.")
    with serve_proxy() as url:
        yield url


@pytest.fixture
def scripted_server():
    """A `ScriptedServer` of this test alone."""
    with serve_script() as server:
        yield server


def free_port():
    """A port of loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def missing_of_extra(package, extra):
    """The names of what an extra of an installed package asks for and is not installed."""
    asked = [Requirement(line) for line in importlib.metadata.requires(package) or []]
    extras = [need for need in asked if need.marker and need.marker.evaluate({"extra": extra})]
    installed = {dist.name.lower().replace("_", "-") for dist in importlib.metadata.distributions()}
    return [need.name for need in extras if need.name.lower().replace("_", "-") not in installed]


# LiteLLM's proxy

PROXY_MODELS = {
    "says-paris": {"mock_response": "Paris."},
    "calls-a-tool": {
        "mock_tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
        ]
    },
    "rate-limited": {"mock_response": "litellm.RateLimitError"},
    "overflowing": {"mock_response": "litellm.ContextWindowExceededError"},
    "broken": {"mock_response": "litellm.InternalServerError"},
}
"""Models of the proxy, each with what LiteLLM's mock does for it."""

_PROXY = """
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
from litellm import run_server
run_server()
"""


@contextmanager
def serve_proxy(models=PROXY_MODELS, *, timeout=180.0):
    """Run LiteLLM's proxy in a process that ends with the block and with this process; yields its address."""
    config = {
        "model_list": [
            {"model_name": name, "litellm_params": {"model": f"openai/{name}", "api_key": "unused", **mock}}
            for name, mock in models.items()
        ],
        "router_settings": {"num_retries": 0, "disable_cooldowns": True},
        "general_settings": {"master_key": KEY},
    }
    with tempfile.TemporaryDirectory() as folder, run_proxy(config, folder, timeout=timeout) as url:
        yield url


@contextmanager
def run_proxy(config, folder, *, timeout=180.0, **variables):
    """Run LiteLLM's proxy with a config, written to a folder, in a process that ends with the block; yields its URL."""
    own = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MODE": "PRODUCTION", **variables}
    env = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"} | own
    url = f"http://127.0.0.1:{(port := free_port())}"
    file = os.path.join(folder, "config.yaml")
    with open(file, "w") as out:
        json.dump(config, out)  # JSON is YAML
    options = ["--config", file, "--host", "127.0.0.1", "--port", str(port), "--telemetry", "False"]
    command = [sys.executable, "-c", _PROXY, *options]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=env, cwd=folder)
        try:
            _wait_until_healthy(process, f"{url}/health/liveliness", log, timeout)
            yield url
        finally:
            process.stdin.close()
            process.wait()


def _wait_until_healthy(process, url, log, timeout):
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
    log.seek(0)
    pytest.fail(f"LiteLLM's proxy did not answer within {timeout:g} s:\n{log.read().decode()[-2000:]}")


# A server that fails as it is told to


@dataclass
class Seen:
    """One request that came in: its body, its headers in lower case, and when (`time.monotonic`)."""

    body: dict
    headers: dict
    time: float

    @property
    def prompt(self):
        """The text of the newest message."""
        return self.body["messages"][-1]["content"]


@dataclass
class ScriptedServer:
    """A chat server as OpenAI's, that does for each model name what `script` says.

    `script[name]` is a reply, or a list of replies of which each request takes the next and the last stays. A reply is
    `says(...)`, `fails(...)` and their kin below, or any coroutine function of (web.Request, Seen). A name that has no
    script says "Paris.".
    """

    url: str = ""
    script: dict = field(default_factory=dict)
    seen: list = field(default_factory=list)
    _turns: dict = field(default_factory=lambda: defaultdict(int))

    def asked(self, model):
        """The requests for one model, in the order they came."""
        return [seen for seen in self.seen if seen.body["model"] == model]

    async def _chat(self, request):
        headers = {name.lower(): value for name, value in request.headers.items()}
        seen = Seen(await request.json(), headers, time.monotonic())
        self.seen.append(seen)
        return await self._next_reply(seen.body["model"])(request, seen)

    def _next_reply(self, model):
        replies = self.script.get(model, says())
        if callable(replies):
            return replies
        turn = self._turns[model]
        self._turns[model] += 1
        return replies[min(turn, len(replies) - 1)]


@contextmanager
def serve_script():
    """Run a `ScriptedServer` in a thread for as long as the block."""
    server, loop, ready, over = ScriptedServer(), asyncio.new_event_loop(), threading.Event(), asyncio.Event()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", server._chat)
    site = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)  # 0 waits for ever on those that hang

    async def serve():
        await site.setup()
        await web.TCPSite(site, "127.0.0.1", 0).start()
        server.url = f"http://127.0.0.1:{site.addresses[0][1]}/v1"
        ready.set()
        await over.wait()
        await site.cleanup()

    def run():
        with asyncio.Runner(loop_factory=lambda: loop) as runner:  # at its end it cancels those that hang
            runner.run(serve())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(30)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(30)
        assert not thread.is_alive()


def says(text="Paris.", *, latency=0.0, finish="stop", tools=(), reasoning=0, usage=True, breaks_off=None, empty=False):
    """Answer with `text`, or with what it returns for a prompt when it is a function; streamed by the word if asked to.

    Parameters
    ----------
    text : str or callable
    latency : float
        Seconds before the first byte.
    finish : str
        OpenAI's finish_reason.
    tools : sequence of (name, arguments)
        Tool calls instead of a text; arguments are a dict.
    reasoning : int
        Hidden tokens, counted in the usage.
    usage : bool or str
        Whether tokens are counted, which here are words; of a stream, where: "last" (as True) is a chunk of its own
        without choices, "end" the chunk with the finish reason, "every" all chunks, each with the count so far.
    breaks_off : (int, str), optional
        After how many chunks of a stream, and how: "cut" is a lost connection, "end" an orderly end without a finish
        reason, "stall" silence, "error" an error as a chunk. What is not streamed is cut in the middle of its body.
    empty : bool
        Whether a stream begins with a chunk without choices, as Azure's do.
    """

    async def reply(request, seen):
        await asyncio.sleep(latency)
        said = text(seen.prompt) if callable(text) else text
        answer = _Answer(seen.body, said, "tool_calls" if tools else finish, tools, reasoning, usage, empty)
        if seen.body.get("stream"):
            return await _stream(request, answer, *(breaks_off or (None, "")))
        if breaks_off is not None:
            return await _half_a_body(request, answer.body())
        return web.json_response(answer.body())

    return reply


def fails(status, message, *, code=None, kind="invalid_request_error", headers=None):
    """Answer with an error as OpenAI writes it; `message` may use {key}, the key that was sent."""

    async def reply(request, seen):
        key = seen.headers.get("authorization", "").removeprefix("Bearer ")
        error = {"message": message.replace("{key}", key), "type": kind, "param": None, "code": code}
        return web.json_response({"error": error}, status=status, headers=headers)

    return reply


def rate_limited(retry_after=None):
    """429, with a retry-after header in seconds if given."""
    headers = {} if retry_after is None else {"retry-after": str(retry_after)}
    return fails(429, "Rate limit reached.", code="rate_limit_exceeded", kind="requests", headers=headers)


def breaks(status=500):
    """A failure of the server."""
    return fails(status, "The server had an error while processing your request.", kind="server_error")


def overflows():
    """400, the prompt is longer than the window, in OpenAI's words."""
    message = "This model's maximum context length is 8192 tokens. However, your messages resulted in 9001 tokens."
    return fails(400, message, code="context_length_exceeded")


def refuses_the_key():
    """401, and the message has the key in it, as some providers' messages do."""
    return fails(401, "Incorrect API key provided: {key}.", code="invalid_api_key")


def refuses_the_content():
    """400, a filter refused the prompt, in OpenAI's words."""
    message = "Your request was rejected as a result of our safety system."
    return fails(400, message, code="content_policy_violation")


def sends(**changes):
    """Answer with OpenAI's body with some fields replaced: `choices=[]`, a `usage` that is wrong."""

    async def reply(request, seen):
        body = _Answer(seen.body, "Paris.", "stop", (), 0, True, False).body()
        return web.json_response(body | changes)

    return reply


def trickles(part, every=0.1):
    """Send the same bytes again and again, and never an answer."""

    async def reply(request, seen):
        kind = "text/event-stream" if seen.body.get("stream") else "application/json"
        response = web.StreamResponse(headers={"content-type": kind})
        await response.prepare(request)
        with suppress(ConnectionError):  # the reader has left
            while True:
                await response.write(part)
                await asyncio.sleep(every)
        return response

    return reply


def replies(text, content_type="application/json"):
    """200, with this body."""

    async def reply(request, seen):
        return web.Response(text=text, content_type=content_type)

    return reply


async def hangs(request, seen):
    """Never answer."""
    await asyncio.Event().wait()


async def cuts(request, seen):
    """Cut the connection before the first byte of an answer."""
    request.transport.abort()
    return web.Response()


async def garbles(request, seen):
    """200, with a body that is not JSON."""
    return web.Response(text="<html>It works!</html>", content_type="text/html")


@dataclass
class _Answer:
    """One answer in OpenAI's two forms, whole and in chunks."""

    asked: dict
    text: str
    finish: str
    tools: tuple
    reasoning: int
    counted: bool | str
    empty: bool

    def body(self):
        """The form that is not streamed, with as many choices as were asked for."""
        message = {"role": "assistant", "content": None if self.tools else self.text}
        if self.tools:
            message["tool_calls"] = self._tool_calls()
        n = self.asked.get("n") or 1
        told = self._logprobs(_words(self.text))
        choices = [{"index": i, "message": message, "finish_reason": self.finish, "logprobs": told} for i in range(n)]
        return self._framed("chat.completion", choices) | ({"usage": self._usage(n)} if self.counted else {})

    def chunks(self):
        """The chunks of a stream, with the usage where it is wanted."""
        deltas = [{"role": "assistant", "content": None if self.tools else ""}]
        if self.tools:
            deltas += [{"tool_calls": [{"index": i, **call}]} for i, call in enumerate(self._tool_calls())]
        else:
            deltas += [{"content": word} for word in _words(self.text)]
        if self.empty:
            yield self._framed("chat.completion.chunk", []) | {"prompt_filter_results": []}
        for n_said, delta in enumerate(deltas):
            told = self._logprobs([delta["content"]] if delta.get("content") else [])
            choices = [{"index": 0, "delta": delta, "finish_reason": None, "logprobs": told}]
            so_far = {"usage": self._usage(1, n_said)} if self.counted == "every" else {}
            yield self._framed("chat.completion.chunk", choices) | so_far
        choices, usage = [{"index": 0, "delta": {}, "finish_reason": self.finish}], {"usage": self._usage(1)}
        yield self._framed("chat.completion.chunk", choices) | (usage if self.counted in ("end", "every") else {})
        if self.counted in (True, "last") and (self.asked.get("stream_options") or {}).get("include_usage"):
            yield self._framed("chat.completion.chunk", []) | usage

    def _logprobs(self, words):
        """A tenth of each word's length, below 0, where they are asked for."""
        tokens = [{"token": word, "logprob": -len(word) / 10, "bytes": None, "top_logprobs": []} for word in words]
        return {"content": tokens, "refusal": None} if self.asked.get("logprobs") and tokens else None

    def _framed(self, kind, choices):
        return {"id": "chatcmpl-1", "object": kind, "created": 1, "model": self.asked["model"], "choices": choices}

    def _tool_calls(self):
        return [
            {"id": f"call_{i}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
            for i, (name, arguments) in enumerate(self.tools)
        ]

    def _usage(self, n, n_said=None):
        sent = sum(len(str(message.get("content")).split()) for message in self.asked["messages"])
        out = n * len(self.text.split()[:n_said]) + self.reasoning
        details = {"completion_tokens_details": {"reasoning_tokens": self.reasoning}} if self.reasoning else {}
        return {"prompt_tokens": sent, "completion_tokens": out, "total_tokens": sent + out, **details}


def _words(text):
    return [word + " " for word in text.split(" ")[:-1]] + text.split(" ")[-1:]


async def _stream(request, answer, last, how):
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    for sent, chunk in enumerate(answer.chunks()):
        if sent == last:
            await _break_off(request, response, how)
            return response
        await response.write(_event(chunk))
    await response.write(b"data: [DONE]\n\n")
    return response


async def _break_off(request, response, how):
    if how == "stall":
        await asyncio.Event().wait()
    elif how == "error":
        await response.write(_event({"error": {"message": "Overloaded.", "type": "server_error", "code": 503}}))
    elif how == "cut":
        await _cut(request)
    else:
        assert how == "end", how


async def _cut(request):
    await asyncio.sleep(0.05)  # else what was written may be lost with the connection
    request.transport.abort()


def _event(chunk):
    return f"data: {json.dumps(chunk)}\n\n".encode()


async def _half_a_body(request, body):
    whole = json.dumps(body).encode()
    response = web.StreamResponse(headers={"content-type": "application/json", "content-length": str(len(whole))})
    await response.prepare(request)
    await response.write(whole[: len(whole) // 2])
    await _cut(request)
    return response
