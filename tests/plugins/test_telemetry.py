"""What watchers of an application get to see of a call: a log, OpenTelemetry's span, LiteLLM's callbacks."""

import logging
import subprocess
import sys
import threading

import litellm
import pytest
from litellm.integrations.custom_logger import CustomLogger
from opentelemetry import trace
from opentelemetry.trace import INVALID_SPAN_CONTEXT, NonRecordingSpan

from tests.plugins.scripted_chat import chats
from tests.plugins.scripted_llm import scripted
from tests.plugins.servers import KEY
from unirouter_plugins.langchain import RouterRunnable, last_decision
from unirouter_plugins.litellm import complete, configured, record_of, stream
from unirouter_plugins.litellm.pool_file import Member, Members
from unirouter_plugins.llamaindex import UniRouterLLM

SUM, WEIGHT = "What is 14 plus 37?", 300


class Span(NonRecordingSpan):
    """A span that keeps its attributes; the SDK's is not installed."""

    def __init__(self):
        super().__init__(INVALID_SPAN_CONTEXT)
        self.attributes = {}

    def is_recording(self):
        return True

    def set_attributes(self, attributes):
        self.attributes |= attributes


class Seen(CustomLogger):
    """What LiteLLM tells a callback of the calls that have succeeded."""

    def __init__(self):
        self.calls, self.has_one = [], threading.Event()

    def log_success_event(self, kwargs, response_obj, start_time, end_time):
        self.calls.append(kwargs)
        self.has_one.set()


@pytest.fixture
def served(asked_router, scripted_server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    members = {name: Member(name, f"openai/{name}", scripted_server.url) for name in asked_router.pool}
    return configured(asked_router, Members(members))


@pytest.fixture
def seen():
    seen = Seen()
    litellm.callbacks = [seen]
    yield seen
    litellm.logging_callback_manager._reset_all_callbacks()  # it keeps one of each class


def test_a_call_is_one_line_of_the_log_and_a_failure_one_warning(asked_router, caplog):
    first, second = (candidate.model for candidate in asked_router.route(SUM, cost_weight=WEIGHT).ranking[:2])
    secret = TimeoutError(f"{SUM} sk-12345678901234567890")
    models = chats(asked_router, **{first: {"failure": secret}})
    with caplog.at_level(logging.INFO, "unirouter"):
        RouterRunnable(asked_router, models, cost_weight=WEIGHT).invoke(SUM)
    lines = [(line.levelname, line.getMessage()) for line in caplog.records]
    assert lines[0] == ("WARNING", f"{first} failed with TimeoutError (server); {second} is next")
    assert lines[1][1].startswith(f"{second} answered (routed, routed on the prompt): $0.0")
    assert lines[1][0] == "INFO"
    assert lines[1][1].endswith(f" s, after {first}")
    assert len(lines) == 2
    assert not any(SUM in text or "sk-1" in text for _, text in lines)


def test_a_call_of_llamaindex_is_one_line_of_the_log_whole_or_streamed(asked_router, caplog):
    llm = UniRouterLLM(asked_router, scripted(asked_router))
    with caplog.at_level(logging.INFO, "unirouter"):
        llm.complete(SUM)
        list(llm.stream_complete(SUM))
    assert [line.getMessage().split()[1] for line in caplog.records] == ["answered", "answered"]


def test_a_span_that_is_recording_gets_the_attributes_of_genai(asked_router):
    llm, spans = RouterRunnable(asked_router, chats(asked_router), cost_weight=WEIGHT), []
    for ask in (llm.invoke, lambda asked: list(llm.stream(asked))):
        with trace.use_span(Span()) as span:
            ask(SUM)
        spans.append(span.attributes)
    record = last_decision()
    for told in spans:
        assert told["gen_ai.request.model"] == told["gen_ai.response.model"] == record["model"]
        assert told["gen_ai.usage.input_tokens"] == record["tokens_in"] > 0
        assert told["gen_ai.usage.output_tokens"] == record["tokens_out"] > 0
        assert told["unirouter.usd"] == pytest.approx(record["usd"])
        assert (told["unirouter.why"], told["unirouter.failures"]) == ("routed", [])
        assert None not in told.values()


@pytest.mark.parametrize("streams", [False, True])
def test_litellm_s_callbacks_have_the_decision_beside_the_caller_s_metadata(served, seen, streams):
    if streams:
        chunks = stream(served, SUM, cost_weight=WEIGHT, metadata={"tenant": "acme"})
        assert list(chunks)
        record = chunks.record
    else:
        record = record_of(complete(served, SUM, cost_weight=WEIGHT, metadata={"tenant": "acme"}))
    assert seen.has_one.wait(20)
    metadata = seen.calls[0]["litellm_params"]["metadata"]
    assert metadata["tenant"] == "acme"
    told = metadata["unirouter"]
    assert (told["model"], told["why"], told["expected_usd"]) == (record.model, "routed", record.decision.cost)


def test_what_is_sent_to_a_provider_has_no_record(served, scripted_server):
    complete(served, SUM, cost_weight=WEIGHT, metadata={"tenant": "acme"})
    assert "metadata" not in scripted_server.seen[-1].body


def test_litellm_is_imported_behind_load_router_and_nothing_is_behind_an_import(asked_router, tmp_path):
    asked_router.save(tmp_path / "my.router")
    code = """
import sys, threading
from unirouter_plugins.litellm import load_router
assert threading.active_count() == 1
load_router(sys.argv[1], warm=False)
assert threading.active_count() == 1 and "litellm" not in sys.modules
load_router(sys.argv[1])
[thread] = [each for each in threading.enumerate() if each.name == "unirouter warms LiteLLM"]
thread.join()
assert "litellm" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code, tmp_path / "my.router"], check=True)
