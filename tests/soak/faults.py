"""Every fault of a provider, every way to call, and the law that each pair keeps."""

import asyncio
import gc
import itertools
import json
import math
import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from llama_index.core.llms import ChatMessage

from tests.conftest import SKILLS, onboarded
from tests.plugins import servers
from tests.plugins.servers import KEY, breaks, cuts, fails, free_port, garbles, hangs, rate_limited, says
from unirouter_plugins.langchain import RouterRunnable
from unirouter_plugins.litellm import acomplete, astream, complete, configured, record_of, stream
from unirouter_plugins.litellm.failures import open_litellm
from unirouter_plugins.litellm.pool_file import Member, Members
from unirouter_plugins.llamaindex import UniRouterLLM

SUM, GOOD = "What is 14 plus 37?", "Fifty-one it is."  # five and three words, and so tokens to our server
TIMEOUT, SLACK = 4.0, 8.0  # seconds; the slack is for a machine that is shared
OURS = ("litellm", "openai", "unirouter_core", "unirouter_plugins")  # whose exceptions a caller may get

NEXT = "the next model answers"
FIRST = "the first model answers"
OWN = "raised, no other model is called"
BREAKS = "the stream has begun: what came is passed on, then it is raised, or ends"
FAILS = "raised when all have failed"


@dataclass(frozen=True)
class Fault:
    """What the first model of the ranking does, and what has to come of it."""

    reply: Any
    whole: str = NEXT
    streamed: str | None = None  # as whole
    text: str = GOOD
    bill: tuple[int, int] | None = (0, 0)  # tokens that it told before it failed; None where it may be read or not
    told: bool = True  # whether a whole answer's usage can be believed
    address: str | None = None  # in place of the server's
    others: Any = None  # what all other models do, in place of answering
    options: dict = field(default_factory=dict)


# --- Replies ----------------------------------------------------------------------------------------------------------

USAGE = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
DONE = b"data: [DONE]\n\n"


def event(value):
    return b"data: %s\n\n" % json.dumps(value).encode()


def answers(message=None, finish="stop", usage=USAGE, **changes):
    """Answer with that message, whole or as one chunk and an end, `changes` to both forms."""

    async def reply(request, seen):
        framed = {"id": "chatcmpl-1", "created": 1, "model": seen.body["model"]}
        if not seen.body.get("stream"):
            choices = [{"index": 0, "message": message, "finish_reason": finish}]
            return web.json_response({**framed, "choices": choices, "usage": usage} | changes)
        said = [{"index": 0, "delta": message, "finish_reason": None}]
        end = {**framed, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}], "usage": usage}
        return sse(event({**framed, "choices": said} | changes) + event(end | changes) + DONE)

    return reply


def said(text, **changes):
    return answers({"role": "assistant", "content": text}, **changes)


def sse(body):
    return web.Response(body=body, content_type="text/event-stream")


def sends(body, kind="application/json", status=200, **headers):
    """Answer with that body, whatever was asked."""

    async def reply(request, seen):
        return web.Response(body=body, status=status, headers={"content-type": kind, **headers})

    return reply


def drips(*parts, before=b"", kind="text/event-stream", every=0.1):
    """Send `before`, then the parts in turn, for ever; without a kind as a raw socket."""

    async def reply(request, seen):
        if kind is None:
            write, over = request.transport.write, request.transport.is_closing
        else:
            response = web.StreamResponse(headers={"content-type": kind})
            await response.prepare(request)
            write, over = response.write, lambda: False
        with suppress(ConnectionError):  # the caller has left
            for part in itertools.chain([before], itertools.cycle(parts)):
                if over():
                    break
                if (sent := write(part)) is not None:
                    await sent
                await asyncio.sleep(every)
        return web.Response()

    return reply


def by_form(whole, streamed):
    """One reply to calls for a whole answer, another to those for a stream."""

    async def reply(request, seen):
        return await (streamed if seen.body.get("stream") else whole)(request, seen)

    return reply


def redirects(status):
    """Send the caller to another host, where an answer waits that is nobody's."""

    async def reply(request, seen):
        if request.host.startswith("localhost"):
            seen.body["model"] = "elsewhere"
            return await says(f"Elsewhere.{request.headers.get('authorization', '')}")(request, seen)
        return web.Response(status=status, headers={"location": str(request.url.with_host("localhost"))})

    return reply


def chunk(content, finish=None):
    framed = {"id": "chatcmpl-1", "created": 1, "model": "m", "object": "chat.completion.chunk"}
    return {**framed, "choices": [{"index": 0, "delta": {"content": content}, "finish_reason": finish}]}


async def resets(request, seen):
    """Reset the connection with half of the status line sent."""
    request.transport.write(b"HTTP/1.1 2")
    return await cuts(request, seen)


# --- The table --------------------------------------------------------------------------------------------------------

PASSED_ON = (401, 402, 403, 404, 405, 406, 408, 409, 410, 413, 414, 415, 423, 424, 425, 429, 431, 451, 498, 499)
ODD_400S = {  # 400s that are one model's own
    "decommissioned": {"code": "model_decommissioned"},
    "not found": {"code": "model_not_found"},
    "no credit": {"message": "Your credit balance is too low to access the API."},
    "a parameter": {"code": "unsupported_parameter"},
    "tool choice": {"message": "Thinking mode does not support this tool_choice"},
    "response format": {"message": "This response_format type is unavailable now"},
    "a signature": {"message": "messages.1.content.0: Invalid `signature` in `thinking` block"},
    "too long": {"code": "context_length_exceeded"},
    "too long, by Mistral": {"message": "Prompt contains 40000 tokens, too large for model with 32768 maximum context"},
    "a location": {"message": "User location is not supported for the API use."},
    "an output limit": {"message": "max_tokens: 8193 > 4096, the maximum allowed number of output tokens"},
}
USAGES = {
    "negative": {**USAGE, "completion_tokens": -3},
    "very negative": {**USAGE, "completion_tokens": -(10**6), "prompt_tokens": -1},
    "huge": {**USAGE, "completion_tokens": 4 * 10**12},
    "10^400": {**USAGE, "completion_tokens": 10**400},
    "null counts": dict.fromkeys(USAGE),
    "two zeros": dict.fromkeys(USAGE, 0),
    "null": None,
    "an empty table": {},
}
UNREADABLE = {  # LiteLLM itself reads no answer with them
    "text": {**USAGE, "completion_tokens": "many"},
    "fractions": {**USAGE, "completion_tokens": 2.5},
    "nested": {**USAGE, "completion_tokens": {"text": 3}},
    "a list": [1, 2],
}
FILTERED = {"role": "assistant", "content": None}
TOOL = {"id": "call_1", "type": "function", "index": 0, "function": {"name": "add", "arguments": "{}"}}
ERROR = b'{"error": {"message": "Overloaded.", "type": "server_error", "code": 503}}'
EMPTY_DELTA = event(chunk(""))
WORDS = tuple(event(chunk(word)) for word in ("One ", "two "))

FAULTS = {
    "none": Fault(says("Paris."), FIRST, text="Paris."),
    "tool calls alone": Fault(answers({"content": None, "tool_calls": [TOOL]}, "tool_calls"), FIRST, text=""),
    "slow to begin": Fault(says("Paris.", latency=0.3), FIRST, text="Paris."),
    **{f"status {status}": Fault(fails(status, "No.")) for status in PASSED_ON},
    **{f"status {status}": Fault(breaks(status)) for status in (500, 501, 502, 503, 504, 507, 520, 524, 529)},
    **{f"400, {name}": Fault(fails(400, **{"message": "No.", **said})) for name, said in ODD_400S.items()},
    "400": Fault(fails(400, "Invalid temperature."), OWN),
    "422": Fault(fails(422, "Field required."), OWN),
    "429, retry-after 30": Fault(rate_limited(30)),
    "429, retry-after nonsense": Fault(rate_limited("soon")),
    "429, retry-after 10^400": Fault(rate_limited(10**400)),
    "429, quota": Fault(fails(429, "Quota.", code="insufficient_quota")),
    "filter, 400": Fault(servers.refuses_the_content(), OWN),
    "filter, 400, passed on": Fault(servers.refuses_the_content(), options={"content_policy": True}),
    "filter, 200": Fault(answers(FILTERED, "content_filter"), OWN),
    "filter, 200, passed on": Fault(answers(FILTERED, "content_filter"), bill=(5, 3), options={"content_policy": True}),
    "redirect 302": Fault(redirects(302)),
    # LiteLLM's clients follow these, which only they can be told; openai's leaves the key behind
    **{f"redirect {status}": Fault(redirects(status), FIRST, text="Elsewhere.") for status in (307, 308)},
    # no answer at 200
    "HTML": Fault(garbles),
    "error body": Fault(sends(ERROR)),
    "error body, streamed": Fault(by_form(sends(ERROR), sends(b"data: " + ERROR + b"\n\n", "text/event-stream"))),
    "error text": Fault(sends(b'{"error": "Overloaded."}')),
    "no body": Fault(sends(b"")),
    "no content": Fault(sends(b"", status=204)),
    "only done": Fault(sends(DONE, "text/event-stream")),
    "no JSON in an event": Fault(sends(b"data: {oops\n\n" + DONE, "text/event-stream")),
    "a bell, no text": Fault(sends(b"\x07\xff\xfe\x00", "text/event-stream")),
    "bad gzip": Fault(sends(b"garbage", **{"content-encoding": "gzip"})),
    **{f"the body {body}": Fault(sends(body.encode())) for body in ("{}", "[]", "null", "7", '"x"', '{"choices": 1}')},
    "nested 100,000 deep": Fault(sends(b"[" * 100_000)),
    "no choices": Fault(answers(choices=[]), bill=None),  # a stream that does not finish ends before LiteLLM tells
    "null choices": Fault(answers(choices=None)),
    "a null choice": Fault(answers(choices=[None])),
    "null message": Fault(answers(None), bill=None),
    "null content": Fault(said(None), bill=(5, 3)),
    "null content, length": Fault(said(None, finish="length"), bill=(5, 3)),
    "empty content": Fault(said(""), bill=(5, 3)),
    "empty content, length": Fault(said("", finish="length"), bill=(5, 3)),
    "empty, no finish": Fault(said("", finish=None), bill=None),
    "content is a number": Fault(said(7), bill=None),
    "JSON to a stream": Fault(by_form(cuts, sends(json.dumps({"choices": [{"message": {"content": "x"}}]}).encode()))),
    # connections
    "cut": Fault(cuts),
    "reset": Fault(resets),
    "cut in the middle": Fault(by_form(says("Half.", breaks_off=(0, "cut")), says("Half.", breaks_off=(1, "cut")))),
    "closed port": Fault(None, address=f"http://127.0.0.1:{free_port()}/v1"),
    "TLS to a plain port": Fault(None, address="TLS"),
    # time
    "silence": Fault(hangs),
    "all silent": Fault(hangs, FAILS, others=hangs),
    "blanks": Fault(drips(b" ", kind="application/json")),
    "blank lines": Fault(drips(b"\n\n")),
    "headers": Fault(drips(b"x-a: b\r\n", before=b"HTTP/1.1 200 OK\r\n", kind=None)),
    "half a body": Fault(drips(b" ", before=b'{"id": "x",', kind="application/json")),
    "comments": Fault(drips(b": ping\n\n")),
    "empty deltas": Fault(by_form(drips(b" "), drips(EMPTY_DELTA))),
    "all drip": Fault(drips(b": ping\n\n"), FAILS, others=drips(b" ")),
    "one role, then silence": Fault(by_form(hangs, says("One two", breaks_off=(1, "stall")))),
    "no end": Fault(by_form(hangs, drips(*WORDS)), NEXT, BREAKS),
    "a line without an end": Fault(by_form(hangs, drips(b"x" * 4096, before=b"data: "))),
    # after the first word
    "cut after a word": Fault(by_form(cuts, says("One two three", breaks_off=(2, "cut"))), NEXT, BREAKS),
    "an error after a word": Fault(by_form(cuts, says("One two three", breaks_off=(2, "error"))), NEXT, BREAKS),
    "silence after a word": Fault(by_form(hangs, says("One two three", breaks_off=(2, "stall"))), NEXT, BREAKS),
    "pings after a word": Fault(by_form(hangs, drips(b": ping\n\n", before=WORDS[0])), NEXT, BREAKS),
    "an end after a word": Fault(by_form(cuts, says("One two three", breaks_off=(2, "end"))), NEXT, BREAKS),
    # a bill that cannot be
    **{f"usage: {name}": Fault(said(GOOD, usage=usage), FIRST, told=False) for name, usage in USAGES.items()},
    **{f"usage: {name}": Fault(said("One.", usage=usage), NEXT, BREAKS) for name, usage in UNREADABLE.items()},
}


# --- Ways to call -----------------------------------------------------------------------------------------------------


async def gathered(parts):
    return [part async for part in parts]


def of_litellm(answer):
    return answer.choices[0].message.content or "", [record_of(answer).as_dict()]


def of_chunks(chunks, answer):
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks), [answer.record.as_dict()]


async def aof_chunks(answer):
    return of_chunks(await gathered(answer), answer)


def of_messages(messages):
    metadata = [message.response_metadata for message in messages]
    return "".join(message.text for message in messages), [m["unirouter"] for m in metadata if "unirouter" in m]


def of_chats(parts):
    return parts[-1].message.content or "", [parts[-1].additional_kwargs["unirouter"]]


def of_completion(answer):
    return answer.text, [answer.additional_kwargs["unirouter"]]


async def asked(call, read):
    return read(await call)


async def _then(opened, read):
    return await read(await opened)


def lang(table, options):
    return RouterRunnable(table, **options)


def llama(table, options):
    return UniRouterLLM(table, **options)


CHAT = [ChatMessage(SUM)]
WAYS = {
    "complete": lambda t, o: of_litellm(complete(t, SUM, **o)),
    "acomplete": lambda t, o: asked(acomplete(t, SUM, **o), of_litellm),
    "stream": lambda t, o: of_chunks(list(answer := stream(t, SUM, **o)), answer),
    "astream": lambda t, o: _then(astream(t, SUM, **o), aof_chunks),
    "LangChain invoke": lambda t, o: of_messages([lang(t, o).invoke(SUM)]),
    "LangChain ainvoke": lambda t, o: asked(lang(t, o).ainvoke(SUM), lambda message: of_messages([message])),
    "LangChain stream": lambda t, o: of_messages(list(lang(t, o).stream(SUM))),
    "LangChain astream": lambda t, o: asked(gathered(lang(t, o).astream(SUM)), of_messages),
    "LangChain batch": lambda t, o: of_messages(lang(t, o).batch([SUM])),
    "LlamaIndex chat": lambda t, o: of_chats([llama(t, o).chat(CHAT)]),
    "LlamaIndex achat": lambda t, o: asked(llama(t, o).achat(CHAT), lambda answer: of_chats([answer])),
    "LlamaIndex stream_chat": lambda t, o: of_chats(list(llama(t, o).stream_chat(CHAT))),
    "LlamaIndex astream_chat": lambda t, o: asked(_then(llama(t, o).astream_chat(CHAT), gathered), of_chats),
    "LlamaIndex complete": lambda t, o: of_completion(llama(t, o).complete(SUM)),
}


# --- The law ----------------------------------------------------------------------------------------------------------


class Bench:
    """A scripted server, an event loop and a router, on which cells of the table are tried, several at once."""

    def __init__(self, server, loop, router, timeout):
        self.server, self.loop, self.router, self.timeout = server, loop, router, timeout
        self.first, self.second, *self.rest = [row.model for row in router.route(SUM).ranking]
        self._cells = itertools.count()

    def broken(self, cells, at_once=8):
        """Return what is wrong with each (fault, way), a line each; "" where the law is kept.

        Those that fail are tried once more, few at once: on a machine that is shared, the good model can be late, too.
        """
        with ThreadPoolExecutor(at_once) as pool, ThreadPoolExecutor(3) as few:
            failing = [cell for cell, wrong in zip(cells, pool.map(self._tried, cells), strict=True) if wrong]
            wrong = zip(failing, few.map(self._tried, failing), strict=True)
            return "\n".join(f"{fault} x {way}: {line}" for (fault, way), lines in wrong for line in lines)

    def _tried(self, cell, limit=None):
        fault, way = FAULTS[cell[0]], cell[1]
        number, live = next(self._cells), []
        names = {model: f"{model}-{number}" for model in self.router.pool}  # own names: no cell cools down another's
        replies = {self.first: fault.reply, self.second: says(GOOD)}
        for model, name in names.items():
            reply = fault.others if fault.others and model != self.first else replies.get(model, says("Not mine."))
            self.server.script[name] = self._tracked(reply, live)
        url = self.server.url.replace("http:", "https:") if fault.address == "TLS" else fault.address
        places = dict.fromkeys(names, self.server.url) | ({self.first: url} if url else {})
        members = {model: Member(model, f"openai/{name}", places[model], "SERVER_KEY") for model, name in names.items()}
        options = {"timeout": self.timeout, **fault.options}
        limit = limit or options.get("deadline", 2 * options["timeout"]) + SLACK
        ended, got = self._within(limit, lambda: WAYS[way](configured(self.router, Members(members)), options))
        asks = {model: len(self.server.asked(name)) for model, name in names.items()}
        if not ended:
            for loop, transport in live:  # what has ended has given its connections to others
                loop.call_soon_threadsafe(transport.abort)
            return ["hangs"]
        meant = fault.streamed if fault.streamed and "stream" in way else fault.whole
        return list(self._law(fault, meant, got, asks, is_whole="stream" not in way))

    @staticmethod
    def _tracked(reply, live):
        async def tracked(request, seen):
            live.append((asyncio.get_running_loop(), request.transport))
            return await reply(request, seen)

        return tracked

    def _within(self, limit, call):
        """Return whether the call ended in its time, and what it returned or raised."""
        box = queue.SimpleQueue()

        def run():
            try:
                got = call()
                if asyncio.iscoroutine(got):
                    got = asyncio.run_coroutine_threadsafe(got, self.loop).result()
            except BaseException as raised:
                got = raised
            box.put(got)

        threading.Thread(target=run, daemon=True).start()
        try:
            return True, box.get(timeout=limit)
        except queue.Empty:
            return False, None

    def _law(self, fault, meant, got, asks, *, is_whole):
        """Yield what is wrong."""
        called = {model for model, times in asks.items() if times}
        expected = {NEXT: {self.first, self.second}, FAILS: called}.get(meant, {self.first})
        if called != (expected - {self.first} if fault.address else expected):
            yield f"called {asks} where {meant}"
        if any(times > 1 for times in asks.values()) and meant is not FAILS:
            yield f"called again: {asks}"
        if isinstance(got, BaseException):
            kind = type(got)
            if kind.__module__.partition(".")[0] not in OURS and not isinstance(got, TimeoutError):
                yield f"foreign exception {kind.__module__}.{kind.__name__}: {got!s:.100}"
            elif meant in (NEXT, FIRST):
                yield f"raised {kind.__name__} where {meant}: {got!s:.100}"
            if KEY in str(got) + "".join(getattr(got, "__notes__", [])):
                yield "shows the key"
            return
        text, records = got
        if meant in (OWN, FAILS):
            yield f"returned {text!r} where {meant}"
            return
        if len(records) != 1:
            yield f"{len(records)} records"
            return
        (record,), model = records, self.second if meant is NEXT else self.first
        failures = [self.first] if meant is NEXT else []
        if (record["model"], list(record["failures"])) != (model, failures):
            yield f"record of {record['model']} after {record['failures']}"
        if KEY in json.dumps(record):
            yield "the record shows the key"
        if meant is BREAKS:
            if not text.startswith("One"):
                yield f"lost {text!r}"
            return
        if text != fault.text:
            yield f"returned {text!r}"
        yield from self._bill(fault, record["usd"], model, meant, is_whole)

    def _bill(self, fault, usd, model, meant, is_whole):
        prices = SKILLS[model][2]
        if not fault.told:
            if usd is not None and (is_whole or not 0 < usd < 0.01):  # LiteLLM counts a stream's tokens itself
                yield f"believed a bill of {usd}"
        elif meant is NEXT:
            told = [(0, 0), (5, 3)] if fault.bill is None else [fault.bill]
            right = [prices.cost(5, 3) + SKILLS[self.first][2].cost(*tokens) for tokens in told]
            if usd is None or not any(math.isclose(usd, one) for one in right):
                yield f"billed {usd}, not {right[-1]}"
        elif usd is None or usd <= 0:
            yield f"billed {usd}"


IGNORED = (  # of LiteLLM: answers that break its own types, and calls that end before they have begun
    "ignore:Pydantic serializer warnings",
    "ignore:coroutine .* was never awaited",
    "ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning",
)


@contextmanager
def bench(world, monkeypatch, timeout=TIMEOUT):
    """A bench with a server of its own; the first call of each way is made, as it takes seconds to import."""
    monkeypatch.setenv("SERVER_KEY", KEY)
    router = onboarded(world)
    router.cost_weight = 300
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    with servers.serve_script() as server:
        made = Bench(server, loop, router, timeout)
        assert [made._tried(("none", way), limit=300) for way in WAYS] == [[]] * len(WAYS)
        yield made
        asyncio.run_coroutine_threadsafe(_ended(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    gc.collect()  # what LiteLLM leaves is told while `IGNORED` holds


async def _ended():
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.wait(left, timeout=5) if left else None
    await open_litellm().close_litellm_async_clients()
