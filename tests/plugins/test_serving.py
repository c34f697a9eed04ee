"""LiteLLM's proxy with the router in it, as the clients of its APIs see it: real HTTP, models on loopback."""

import asyncio
import dataclasses
import json
import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import httpx
import openai
import pytest
import yaml
from typer.testing import CliRunner

from tests.conftest import evaluation, onboarded
from tests.plugins.servers import (
    KEY,
    breaks,
    fails,
    free_port,
    missing_of_extra,
    overflows,
    rate_limited,
    refuses_the_key,
    run_proxy,
    says,
    sends,
    serve_script,
)
from tests.soak.proxy import Replica
from unirouter_core import UniRouter
from unirouter_plugins.cli import app
from unirouter_plugins.litellm import open_litellm

if missing := missing_of_extra("litellm", "proxy"):
    pytest.skip(f"LiteLLM's proxy needs {', '.join(missing)}: pip install '.[serve]'.", allow_module_level=True)

ROOT = Path(__file__).parents[2]
HOME_KEY = "sk-home-5b1d02c7"
SUM, POEM = "What is 12 plus 34?", "Write a poem of 3 lines about the sea."
ADD = {
    "name": "add",
    "description": "Adds.",
    "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
}
TOOLS = [{"type": "function", "function": ADD}]
SCHEMA = {"type": "json_schema", "json_schema": {"name": "city", "schema": {"type": "object"}}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}

PRICES = {"poet": "0.1, output = 0.4", "sage": "5, output = 20, cached_input = 0.5", "tutor": "0.8, output = 3.2"}
MORE = {
    "poet": "capabilities = { vision = false, context_window = 1000 }",
    "scholar": 'template = "{prompt} Think."\nvotes = { samples = 3, same = "text" }',
}
SEEN = """
import json
from litellm.integrations.custom_logger import CustomLogger

class Seen(CustomLogger):
    async def async_log_success_event(self, kwargs, response_obj, start_time, end_time):
        told = kwargs["standard_logging_object"]["metadata"].get("spend_logs_metadata") or {}
        if "unirouter" in told:
            own = {"id": kwargs["litellm_call_id"], "litellm_usd": kwargs["response_cost"]}
            with open("seen.jsonl", "a") as out:
                out.write(json.dumps({**told["unirouter"], **own}) + "\\n")

handler = Seen()
"""


def table(url):
    """The pool.toml of four models at that address."""
    parts = []
    for name in ("poet", "sage", "tutor", "scholar"):
        prices = PRICES.get(name, "3, output = 12")
        parts += [f'[models.{name}]\nmodel = "openai/{name}"\napi_base = "{url}"\napi_key_env = "HOME_KEY"']
        parts += [f"prices = {{ input = {prices} }}", MORE.get(name, "")]
    return "\n".join(parts)


@pytest.fixture(scope="module")
def running(world, tmp_path_factory):
    """The proxy as `unirouter serve --config-only` configures it, with a callback of the user's own."""
    folder = tmp_path_factory.mktemp("served")
    router = onboarded(world)
    router.cost_weight = 600
    router.save(folder / "my.router")
    with serve_script() as server:
        (folder / "pool.toml").write_text(table(server.url))
        (folder / "seen.py").write_text(SEEN)
        made = CliRunner().invoke(app, ["serve", str(folder / "my.router"), "--config-only"])
        config = yaml.safe_load(made.stdout)
        config["litellm_settings"]["callbacks"].append("seen.handler")
        variables = {"LITELLM_MASTER_KEY": KEY, "HOME_KEY": HOME_KEY, "PYTHONPATH": str(ROOT)}
        with run_proxy(config, folder, **variables) as url:
            yield SimpleNamespace(url=url, server=server, folder=folder, router=router)


@pytest.fixture
def served(running):
    """The proxy, every model well and saying "Paris."."""
    scripted = [*running.server.script]
    running.server.script.clear()
    running.server._turns.clear()
    running.openai = openai.OpenAI(base_url=f"{running.url}/v1", api_key=KEY, max_retries=0)
    for model in 3 * scripted:  # as many answers as failures end a cool-down
        ask(running, SUM, model=f"unirouter/{model}")
    running.server.seen.clear()
    yield running
    running.openai.close()


def ask(served, prompt=SUM, *, model="unirouter", headers=None, **more):
    """The answer to a prompt or to messages, with its headers as `told`: `model`, `cost`, ..."""
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    create = served.openai.chat.completions.with_raw_response.create
    raw = create(model=model, messages=messages, extra_headers=headers, **more)
    answer = raw.parse()
    prefix = "x-unirouter-"
    told = {name.removeprefix(prefix): value for name, value in raw.headers.items() if name.startswith(prefix)}
    got = SimpleNamespace(told=told, id=raw.headers["x-litellm-call-id"])
    if more.get("stream"):
        got.chunks = list(answer)
    else:
        got.answer, got.message = answer, answer.choices[0].message
    return got


def asked(served):
    """The models that were called, in order."""
    return [seen.body["model"] for seen in served.server.seen]


def end_cool_downs(served, *models):
    """Have the models say "46.", each as often as it may have failed."""
    for model in 3 * models:
        served.server.script[model] = says("46")
        ask(served, SUM, model=f"unirouter/{model}")
    served.server.seen.clear()


def record_of(served, got):
    """The record of an answer in the proxy's log, which is written after it."""
    deadline, file = time.monotonic() + 20, served.folder / "seen.jsonl"
    while time.monotonic() < deadline:
        lines = file.read_text().split("\n")[:-1] if file.exists() else []  # the last may be being written
        if found := [record for record in map(json.loads, lines) if record["id"] == got.id]:
            return found[0]
        time.sleep(0.1)
    raise AssertionError("no record")


# --- Every client, the same answers as from the model itself ----------------------------------------------------------


@pytest.mark.parametrize("more", [{}, {"tools": TOOLS}, {"response_format": SCHEMA}, {"n": 2}])
def test_the_openai_client_gets_what_the_model_says(served, more):
    served.server.script["poet"] = says(tools=[("add", {"a": 1})]) if "tools" in more else says('{"city": "Paris"}')
    direct = openai.OpenAI(base_url=served.server.url, api_key=HOME_KEY).chat.completions
    expected = direct.create(model="poet", messages=[{"role": "user", "content": POEM}], **more)
    got = ask(served, POEM, **more)
    assert got.told["model"] == "poet"
    plain = [choice.message.model_dump(exclude_none=True) for choice in expected.choices]
    assert [choice.message.model_dump(exclude_none=True) for choice in got.answer.choices] == plain
    assert got.answer.usage.model_dump(exclude_none=True) == expected.usage.model_dump(exclude_none=True)
    by_proxy, by_client = (seen.body for seen in reversed(served.server.seen))
    assert {name: by_proxy[name] for name in by_client} == by_client


@pytest.mark.parametrize("usage", [False, True])
def test_a_stream_has_the_models_chunks_and_the_usage_where_it_is_wanted(served, usage):
    served.server.script["poet"] = says("The sea is wide.")
    options = {"stream_options": {"include_usage": True}} if usage else {}
    direct = openai.OpenAI(base_url=served.server.url, api_key=HOME_KEY).chat.completions
    expected = direct.create(model="poet", messages=[{"role": "user", "content": POEM}], stream=True, **options)
    texts = [chunk.choices[0].delta.content for chunk in expected if chunk.choices and chunk.choices[0].delta.content]
    got = ask(served, POEM, stream=True, **options)
    each = [chunk.choices[0].delta.content for chunk in got.chunks if chunk.choices and chunk.choices[0].delta.content]
    assert each == texts == ["The ", "sea ", "is ", "wide."]
    told = [chunk.usage.total_tokens for chunk in got.chunks if chunk.usage is not None]
    assert told == ([13] if usage else [])
    assert got.told["model"] == "poet"
    (last,) = [chunk for chunk in got.chunks if chunk.choices and chunk.choices[0].finish_reason]
    assert last.provider_specific_fields["unirouter"] == {
        "model": "poet",
        "usd": pytest.approx((9 * 0.1 + 4 * 0.4) / 1e6),
    }


@pytest.mark.parametrize("with_tools", [False, True])
def test_messages_and_responses_are_those_of_the_model_itself(served, with_tools, monkeypatch):
    litellm = open_litellm()
    monkeypatch.setattr(litellm, "use_chat_completions_url_for_anthropic_messages", True)  # as the proxy has it
    served.server.script["poet"] = says("Wide.", tools=[("add", {"a": 1})] if with_tools else ())
    headers = {"authorization": f"Bearer {KEY}"}
    direct = {"model": "openai/poet", "api_base": served.server.url, "api_key": HOME_KEY}
    asking = {"messages": [{"role": "user", "content": POEM}], "max_tokens": 50}
    answering = {"input": POEM}
    if with_tools:
        asking["tools"] = [{"name": "add", "description": "Adds.", "input_schema": ADD["parameters"]}]
        answering["tools"] = [{"type": "function", **ADD}]
    as_chat = {"use_chat_completions_api": True}
    for path, sent, expected in (
        ("messages", asking, asyncio.run(litellm.anthropic_messages(**direct, **asking))),
        ("responses", answering, litellm.responses(**direct, **answering, **as_chat).model_dump()),
    ):
        got = httpx.post(f"{served.url}/v1/{path}", json={"model": "unirouter", **sent}, headers=headers, timeout=60)
        assert got.headers["x-unirouter-model"] == "poet"
        for name in ("content", "output", "usage", "stop_reason", "status"):
            assert without_ids(got.json().get(name)) == without_ids(expected.get(name))


def without_ids(told):
    """What is told, without the ids that are made for each answer, and without what is not said."""
    if isinstance(told, list):
        return [*map(without_ids, told)]
    if not isinstance(told, dict):
        return told
    return {name: without_ids(each) for name, each in told.items() if name not in ("id", "cost") and each is not None}


def test_the_anthropic_client_routes(served):
    anthropic = pytest.importorskip("anthropic")
    served.server.script["poet"] = says(tools=[("add", {"a": 1})])
    with anthropic.Anthropic(base_url=served.url, api_key=KEY, max_retries=0) as client:
        tools = [{"name": "add", "description": "Adds.", "input_schema": ADD["parameters"]}]
        how = {"model": "unirouter", "max_tokens": 50, "messages": [{"role": "user", "content": POEM}], "tools": tools}
        raw = client.messages.with_raw_response.create(**how)
        used = raw.parse().content[0]
        assert (raw.headers["x-unirouter-model"], used.name, used.input) == ("poet", "add", {"a": 1})
        assert float(raw.headers["x-unirouter-cost"]) == pytest.approx((9 * 0.1 + 0.4) / 1e6)
        with client.messages.stream(**how) as stream:
            assert stream.get_final_message().content[0].input == {"a": 1}
        # The results of tools, with a reminder beside them, go back to the model that called them.
        served.server.script["sage"] = says(tools=[("add", {"a": 1})])
        how["messages"] = [{"role": "user", "content": f"{POEM} Add."}]
        called = client.messages.create(**how, extra_headers={"x-unirouter-candidates": "sage"}).content[0]
        result = {"type": "tool_result", "tool_use_id": called.id, "content": "2"}
        how["messages"] += [
            {"role": "assistant", "content": [called.model_dump(exclude_none=True)]},
            {"role": "user", "content": [result, {"type": "text", "text": "Remember to be brief."}]},
        ]
        assert client.messages.with_raw_response.create(**how).headers["x-unirouter-model"] == "sage"


def test_the_responses_api_routes_and_a_conversation_kept_by_id_stays(served):
    raw = served.openai.responses.with_raw_response.create(model="unirouter", input=POEM)
    answer = raw.parse()
    assert (answer.output_text, raw.headers["x-unirouter-model"]) == ("Paris.", "poet")
    assert float(raw.headers["x-unirouter-cost"]) == pytest.approx((9 * 0.1 + 0.4) / 1e6)
    with served.openai.responses.stream(model="unirouter", input=SUM) as stream:
        assert stream.get_final_response().output_text == "Paris."
    more = {"model": "unirouter", "input": SUM, "previous_response_id": answer.id}
    assert served.openai.responses.with_raw_response.create(**more).headers["x-unirouter-model"] == "poet"


def test_curl_routes_with_the_key_alone(served):
    body = json.dumps({"model": "unirouter", "messages": [{"role": "user", "content": POEM}]})
    command = [
        "curl",
        "-sD",
        "-",
        f"{served.url}/v1/chat/completions",
        "-H",
        "content-type: application/json",
        "-d",
        body,
    ]
    assert (
        "x-unirouter-model: poet"
        in subprocess.run(
            [*command, "-H", f"authorization: Bearer {KEY}"], capture_output=True, text=True, check=True
        ).stdout
    )
    refused = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "200 OK" not in refused  # 401, or 500 where LiteLLM misses its database's package
    assert asked(served) == ["poet"]


# --- Which model ------------------------------------------------------------------------------------------------------


def test_a_model_is_forced_by_its_name_and_all_are_listed(served):
    assert ask(served, POEM, model="unirouter/sage").told["model"] == "sage"
    assert {each.id for each in served.openai.models.list()} == {
        "unirouter", *(f"unirouter/{name}" for name in ("poet", "sage", "tutor", "scholar"))
    }  # fmt: skip


def test_headers_and_metadata_set_weight_candidates_question_and_baseline(served):
    assert ask(served, SUM, headers={"x-unirouter-cost-weight": "inf"}).told["model"] == "poet"
    assert ask(served, SUM, headers={"x-unirouter-candidates": "poet, scholar"}).told["model"] == "scholar"
    own = {"candidates": ["poet", "sage"], "question": SUM, "cost_weight": 0, "baseline": "sage"}
    got = ask(served, POEM, extra_body={"metadata": {"unirouter": own}})
    assert got.told["model"] == "sage"
    assert record_of(served, got)["routed_on"] == "question"
    assert float(ask(served, POEM, headers={"x-unirouter-baseline": "poet"}).told["saved"]) < 0.0005


@pytest.mark.parametrize("header", [{"cost-weight": "much"}, {"candidates": "bard"}, {"baseline": "bard"}])
def test_what_cannot_be_set_is_the_clients_fault(served, header):
    with pytest.raises(openai.BadRequestError, match=r"must be a number|is not in the pool"):
        ask(served, headers={f"x-unirouter-{name}": value for name, value in header.items()})
    assert not served.server.seen


def test_images_and_long_conversations_go_to_models_that_can_take_them(served):
    cheapest = {"x-unirouter-cost-weight": "inf"}
    assert ask(served, [{"role": "user", "content": [{"type": "text", "text": POEM}, IMAGE]}], headers=cheapest).told[
        "model"
    ] in ("tutor", "scholar")
    long = [{"role": "user", "content": "word " * 1500}, {"role": "assistant", "content": "Yes."}]
    assert ask(served, [*long, {"role": "user", "content": POEM}], headers=cheapest).told["model"] != "poet"


def test_a_tool_loop_stays_with_its_model_in_any_client(served):
    served.server.script["sage"] = [says(tools=[("add", {"a": 1})]), says("2")]
    messages = [{"role": "user", "content": f"{POEM} Twice."}]
    called = ask(served, messages, tools=TOOLS, headers={"x-unirouter-candidates": "sage"}).message
    calls = [{"id": c.id, "type": "function", "function": c.function.model_dump()} for c in called.tool_calls]
    messages += [
        {"role": "assistant", "tool_calls": calls},
        {"role": "tool", "tool_call_id": calls[0]["id"], "content": "2"},
    ]
    got = ask(served, messages, tools=TOOLS)
    assert (got.told["model"], record_of(served, got)["why"]) == ("sage", "tool loop")
    assert ask(served, [*messages[:1]], tools=TOOLS).told["model"] == "poet"


def test_tool_loops_with_the_same_prompt_stay_apart(served):
    def calls(name):
        called = {"id": f"call_{name}", "type": "function", "function": {"name": "add", "arguments": "{}"}}
        message = {"role": "assistant", "content": None, "tool_calls": [called]}
        return sends(choices=[{"index": 0, "message": message, "finish_reason": "tool_calls"}])

    loops = {}
    for model in ("tutor", "sage"):
        served.server.script[model] = [calls(model), says("2")]
        messages = [{"role": "user", "content": f"{POEM} Thrice."}]
        called = ask(served, messages, tools=TOOLS, headers={"x-unirouter-candidates": model}).message
        result = {"role": "tool", "tool_call_id": called.tool_calls[0].id, "content": "2"}
        loops[model] = [*messages, called.model_dump(exclude_none=True), result]
    for model, messages in loops.items():
        assert ask(served, messages, tools=TOOLS).told["model"] == model


def test_what_the_prompt_cache_saves_counts(served):
    history = [{"role": "user", "content": "word " * 900}]
    forced = {"model": "unirouter/sage"}
    text = ask(served, history, **forced).message.content
    again = [*history, {"role": "assistant", "content": text}, {"role": "user", "content": SUM}]
    other = [{"role": "user", "content": "ward " * 900}, *again[1:]]
    cached, fresh = (record_of(served, ask(served, each, **forced))["expected_usd"] for each in (again, other))
    assert fresh - cached == pytest.approx(900 * (5 - 0.5) / 1e6, rel=0.05)


# --- When models fail -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reply", [breaks(), rate_limited(30), overflows(), fails(404, "gone", code="model_not_found"), refuses_the_key()]
)
@pytest.mark.parametrize("stream", [False, True])
def test_the_next_in_the_ranking_answers_at_once(served, reply, stream):
    served.server.script["poet"] = reply
    assert ask(served, POEM, stream=stream).told["model"] == "tutor"
    first, second = served.server.seen[:2]
    assert asked(served) == ["poet", "tutor"]
    assert second.time - first.time < 5  # not the 30 s that the first one asks for


def test_a_model_that_failed_cools_down_until_it_answers(served):
    served.server.script["poet"] = rate_limited(30)
    for _ in range(3):
        ask(served, POEM)
    assert asked(served) == ["poet", "tutor", "tutor", "tutor"]


def test_a_timeout_of_the_client_s_own_cools_nothing_down(served):
    served.server.script["poet"] = says(latency=3)
    assert ask(served, POEM, extra_body={"timeout": 1}).told["model"] == "tutor"
    served.server.script["poet"] = says()
    assert ask(served, POEM).told["model"] == "poet"


def test_what_is_no_chat_is_refused_and_cools_nothing_down(served):
    with pytest.raises(openai.BadRequestError, match="serves chat, messages and responses"):
        served.openai.completions.create(model="unirouter", prompt=POEM)
    with pytest.raises(openai.BadRequestError, match="serves chat, messages and responses"):
        served.openai.images.generate(model="unirouter", prompt=POEM)
    assert not served.server.seen
    assert ask(served, POEM).told["model"] == "poet"


def test_the_requests_own_fault_and_that_of_a_model_that_is_named_are_raised_once(served):
    for model in ("poet", "sage", "tutor", "scholar"):
        served.server.script[model] = fails(400, "temperature must be at most 2")
    with pytest.raises(openai.BadRequestError, match="temperature must be"):
        ask(served, POEM, temperature=3)
    assert asked(served) == ["poet"]
    served.server.script["sage"] = breaks()
    with pytest.raises(openai.InternalServerError):  # and no other takes the place of a model that is named
        ask(served, POEM, model="unirouter/sage")
    assert asked(served) == ["poet", "sage"]


@pytest.mark.parametrize(
    "body",
    [
        {"messages": "hi"},
        {"messages": [1]},
        {"messages": [{"role": "user"}]},
        {"messages": [{"role": "user", "content": 5}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        {"messages": [{"role": "user", "content": SUM}], "tools": 5},
        {"messages": [{"role": "user", "content": SUM}], "response_format": "json"},
    ],
)
@pytest.mark.parametrize("path", ["chat/completions", "messages"])
def test_nonsense_is_no_failure_of_the_server(served, body, path):
    sent = {"model": "unirouter", "max_tokens": 9, **body}
    answer = httpx.post(f"{served.url}/v1/{path}", json=sent, headers={"authorization": f"Bearer {KEY}"}, timeout=60)
    assert answer.status_code in (200, 400, 422), answer.text


def test_when_all_fail_the_first_failure_is_raised_without_a_key(served):
    for model in ("poet", "sage", "tutor", "scholar"):
        served.server.script[model] = breaks()
    served.server.script["poet"] = fails(401, "Incorrect API key provided: {key}.", code="invalid_api_key")
    with pytest.raises(openai.AuthenticationError) as failed:
        ask(served, POEM)
    assert HOME_KEY not in str(failed.value.body)
    assert sorted(asked(served)) == ["poet", "sage", "scholar", "scholar", "scholar", "tutor"]  # which votes


def test_a_stream_falls_back_until_its_first_content_and_breaks_after_it(served):
    served.server.script["poet"] = says("one two", breaks_off=(1, "error"))
    got = ask(served, POEM, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in got.chunks) == "Paris."
    assert [chunk.choices[0].delta.role for chunk in got.chunks].count("assistant") == 1
    assert record_of(served, got)["failures"].keys() == {"poet"}
    assert ask(served, POEM, headers={"x-unirouter-candidates": "tutor, sage"}).told["model"] == "tutor"  # not blamed
    served.server.script["tutor"] = says("one two", breaks_off=(2, "cut"))
    with pytest.raises(openai.APIError):
        ask(served, POEM, stream=True)


# --- What is told -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_callbacks_and_logs_have_the_record_with_litellms_own_cost(served, stream):
    got = ask(served, POEM, stream=stream)
    told, record = got.told, record_of(served, got)
    assert (record["model"], record["tokens_in"], record["tokens_out"]) == ("poet", 9, 1)
    assert record["usd"] == pytest.approx(record["litellm_usd"]) == pytest.approx(1.3e-6)
    assert float(told["error"]) == pytest.approx(record["expected_error"], rel=1e-4)
    assert float(told["cost"]) == pytest.approx(record["expected_usd" if stream else "usd"], rel=1e-4)
    assert record["saved_usd"] > 0


def test_a_vote_costs_all_of_its_samples(served):
    got = ask(served, SUM, model="unirouter/scholar")
    told, record = got.told, record_of(served, got)
    assert record["tokens_in"] == 3 * 6
    assert record["litellm_usd"] == pytest.approx(record["usd"]) == pytest.approx(3 * (6 * 3 + 12) / 1e6)
    assert float(told["cost"]) == pytest.approx(record["usd"])


def test_prometheus_counts_answers(served):
    pytest.importorskip("prometheus_client")
    get = {"url": f"{served.url}/metrics/", "headers": {"authorization": f"Bearer {KEY}"}}
    ask(served, POEM)
    assert 'unirouter_answers_total{model="poet",why="routed"}' in httpx.get(**get).text


# --- A pool that changes ----------------------------------------------------------------------------------------------


def soon(holds):
    """Wait until it holds: 2 s on a quiet machine."""
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
    return True


def test_what_is_onboarded_retired_or_tuned_is_served_within_two_seconds_and_no_request_fails(served, world):
    router, folder = UniRouter.load(served.folder / "my.router"), served.folder / "my.router"

    stop = time.monotonic() + 8

    def keeps_asking(_):
        return [ask(served, POEM) for _ in iter(lambda: time.monotonic() < stop, False)]

    with ThreadPoolExecutor(4) as clients:
        each = clients.map(keeps_asking, range(4))
        router.retire("poet")
        router.save(folder)
        assert soon(lambda: ask(served, POEM).told["model"] == "tutor")
        router.onboard(evaluation(world, "poet"))
        router.save(folder)
        assert soon(lambda: ask(served, POEM).told["model"] == "poet")
        router.cost_weight = 0.0
        router.save(folder)
        assert soon(lambda: ask(served, SUM).told["model"] == "sage")
        router.cost_weight = 600.0
        router.save(folder)
        assert soon(lambda: ask(served, SUM).told["model"] != "sage")
        assert all(map(len, each))


def test_without_a_key_the_command_serves_the_programs_of_this_machine_alone(running):
    own = {"LITELLM_MASTER_KEY": "", "HOME_KEY": HOME_KEY, "PYTHONPATH": str(ROOT)}
    replica = Replica(running.folder / "my.router", free_port(), {**os.environ, **own})
    replica.start()
    try:
        replica.wait()
        body = {"model": "unirouter/poet", "messages": [{"role": "user", "content": POEM}]}
        for headers, status in (({}, 200), ({"origin": "https://evil.example"}, 403), ({"host": "evil.example"}, 403)):
            answer = httpx.post(f"{replica.url}/v1/chat/completions", json=body, headers=headers, timeout=60)
            assert answer.status_code == status
        (running.folder / "my.router" / "router.json").replace(kept := running.folder / "kept.json")
        (running.folder / "my.router" / "router.json").write_text("{")
        assert soon(lambda: "cannot be served" in replica.log.read_text())
        kept.replace(running.folder / "my.router" / "router.json")
    finally:
        replica.kill()


def test_a_real_model_that_is_onboarded_meanwhile_gives_its_own_answers(served, world, llama_server):
    router, name = UniRouter.load(served.folder / "my.router"), llama_server.name
    entry = f'\n[models.small]\nmodel = "openai/{name}"\napi_base = "{llama_server.url}"\napi_key_env = "HOME_KEY"\n'
    more = "prices = { input = 1, output = 2 }\nsettings = { temperature = 0, max_tokens = 8 }\n"
    (served.folder / "pool.toml").write_text(table(served.server.url) + entry + more)
    router.onboard(dataclasses.replace(evaluation(world, "poet"), model="small"))
    router.save(served.folder / "my.router")
    assert soon(lambda: "unirouter/small" in [each.id for each in served.openai.models.list()])
    messages = [{"role": "system", "content": "Answer."}, {"role": "user", "content": "What is the opposite of hot?"}]
    with openai.OpenAI(base_url=llama_server.url, api_key="none") as direct:
        expected = direct.chat.completions.create(model=name, messages=messages, temperature=0, max_tokens=8)
    got = ask(served, messages, model="unirouter/small")
    assert got.message.content == expected.choices[0].message.content
    assert got.answer.usage.total_tokens == expected.usage.total_tokens


# --- Answers that are checked -----------------------------------------------------------------------------------------

CHECKS = '\n[checks]\nwhole = { check = "json_schema", schema = { type = "integer" } }\n'
AT = {"x-unirouter-cost-weight": "200"}  # scholar answers unchecked, tutor checked, and sage after a rejection


@pytest.fixture
def checking(served):
    """The proxy once `unirouter check` has saved a check of the tutor's answers, and its table says what it is."""
    router = UniRouter.load(served.folder / "my.router")
    for name in router.pool.keys() - served.router.pool.keys():  # of other tests
        router.retire(name)
    router.add_check("tutor", "whole", served.router.pool["tutor"].errors < 0.5)
    (served.folder / "pool.toml").write_text(table(served.server.url) + CHECKS)
    router.save(served.folder / "my.router")
    served.server.script |= {name: says("46") for name in served.router.pool}
    assert soon(lambda: "checked" in ask(served, SUM, headers=AT).told)
    served.server.seen.clear()
    yield served
    served.server.script |= {name: says("46") for name in served.router.pool}
    (served.folder / "pool.toml").write_text(table(served.server.url))
    assert soon(lambda: "checked" not in ask(served, SUM, headers=AT).told)


def posted(served, api, stream=False, headers=AT, **more):
    """The text that an API answers to SUM with, its usage, and its headers as `told`."""
    asks = {"responses": {"input": SUM}}.get(api, {"messages": [{"role": "user", "content": SUM}], "max_tokens": 50})
    asks |= {"stream_options": {"include_usage": True}} if stream and api == "chat/completions" else {}
    sent = {"model": "unirouter", "stream": stream, **asks, **more}
    headers = {"authorization": f"Bearer {KEY}", **headers}
    raw = httpx.post(f"{served.url}/v1/{api}", json=sent, headers=headers, timeout=60)
    raw.raise_for_status()
    prefix = "x-unirouter-"
    told = {name.removeprefix(prefix): value for name, value in raw.headers.items() if name.startswith(prefix)}
    got = SimpleNamespace(told=told, id=raw.headers["x-litellm-call-id"], raw=raw, text="")
    if not stream:
        got.body = raw.json()
        texts = {
            "chat/completions": lambda: got.body["choices"][0]["message"]["content"],
            "messages": lambda: got.body["content"][0]["text"],
            "responses": lambda: got.body["output"][0]["content"][0]["text"],
        }
        got.text = texts[api]()
        return got
    got.events = [json.loads(line[6:]) for line in raw.text.splitlines() if line.startswith("data: {")]
    for event in got.events:
        if event.get("choices"):
            got.text += event["choices"][0]["delta"].get("content") or ""
        elif event.get("type") == "content_block_delta":
            got.text += event["delta"].get("text", "")
        elif event.get("type") == "response.output_text.delta":
            got.text += event["delta"]
    return got


@pytest.mark.parametrize("stream", [False, True])
def test_drafts_are_checked_in_every_api(checking, stream):
    for api in ("chat/completions", "messages", "responses"):
        checking.server.script["tutor"] = says("46")
        got = posted(checking, api, stream)
        record = record_of(checking, got)
        assert (got.text, record["model"], record["checked"]["tutor"]["signal"]) == ("46", "tutor", 1)
        assert record["usd"] == pytest.approx(record["litellm_usd"]) == pytest.approx((5 * 0.8 + 3.2) / 1e6)

        checking.server.script["tutor"] = says("I do not know.")
        got = posted(checking, api, stream)
        record = record_of(checking, got)
        assert (got.text, record["model"], record["checked"]["tutor"]["signal"]) == ("46", "sage", 0)
        usd = (5 * 0.8 + 4 * 3.2 + 5 * 5 + 20) / 1e6
        assert record["usd"] == pytest.approx(record["litellm_usd"]) == pytest.approx(usd)
        if not stream or api == "chat/completions":  # else LiteLLM sends the headers before it calls a model
            assert (got.told["model"], got.told["checked"]) == ("sage", "tutor")
            begun = record["expected_usd"] + (5 * 0.8 + 4 * 3.2) / 1e6  # sage's answer is not checked: it streams
            assert float(got.told["cost"]) == pytest.approx(begun if stream else usd, rel=1e-4)
        assert asked(checking) == ["tutor", "tutor", "sage"]

        got = posted(checking, api, stream, {**AT, "x-unirouter-check": "false"})
        assert (record_of(checking, got)["model"], "checked" in got.told) == ("scholar", False)
        checking.server.seen.clear()


def test_a_rejected_draft_is_given_where_no_other_model_answers(checking):
    checking.server.script |= {"tutor": says("I do not know."), "sage": breaks(), "scholar": breaks()}
    for stream in (False, True):
        got = posted(checking, "chat/completions", stream, {**AT, "x-unirouter-candidates": "tutor, sage"})
        record = record_of(checking, got)
        assert (got.text, record["model"], record["failures"].keys()) == ("I do not know.", "tutor", {"sage"})
    checking.server.seen.clear()
    got = posted(checking, "chat/completions", True, {**AT, "x-unirouter-candidates": "tutor"})
    assert (got.text, asked(checking)) == ("I do not know.", ["tutor"])


@pytest.mark.parametrize("stream", [False, True])
def test_checked_models_that_fail_are_followed_by_the_next_until_all_have_failed(checking, stream):
    only = {**AT, "x-unirouter-candidates": "tutor, sage"}
    checking.server.script |= {"tutor": fails(400, "temperature must be at most 2"), "sage": breaks()}
    with pytest.raises(openai.BadRequestError, match="temperature must be"):
        ask(checking, SUM, headers=only, stream=stream)
    checking.server.script["tutor"] = refuses_the_key()
    with pytest.raises(openai.AuthenticationError) as failed:
        ask(checking, SUM, headers=only, stream=stream)
    assert HOME_KEY not in str(failed.value.body)
    assert asked(checking) == ["tutor", "tutor", "sage"]
    end_cool_downs(checking, "tutor", "sage")
    checking.server.script["tutor"] = breaks()
    for api in ("chat/completions", "messages", "responses"):
        assert posted(checking, api, stream).text == "46"
    checking.server.script |= dict.fromkeys(checking.router.pool, breaks())
    if stream:
        with pytest.raises(httpx.HTTPStatusError, match="500"):
            posted(checking, "messages", stream)
        assert posted(checking, "responses", stream).events[0]["type"] == "response.failed"


def test_a_checked_stream_is_the_models_own_and_its_last_chunk_tells_all_it_cost(checking):
    checking.server.script["tutor"] = [says("46"), says("I do not know.")]
    checking.server.script["sage"] = says("It is 46.")
    for texts, told in (["46"], "tutor"), (["It ", "is ", "46."], "sage"):
        chunks = ask(checking, SUM, headers=AT, stream=True).chunks
        assert [text for chunk in chunks if (text := chunk.choices[0].delta.content)] == texts
        (last,) = [chunk for chunk in chunks if chunk.choices[0].finish_reason]
        usd = {"tutor": 5 * 0.8 + 3.2, "sage": 5 * 0.8 + 4 * 3.2 + 5 * 5 + 3 * 20}[told] / 1e6
        assert last.provider_specific_fields["unirouter"] == {"model": told, "usd": pytest.approx(usd)}


def test_models_that_are_named_and_tool_loops_are_not_checked(checking):
    assert "checked" not in ask(checking, SUM, model="unirouter/tutor", headers=AT).told
    checking.server.script |= dict.fromkeys(("tutor", "sage"), says(tools=[("add", {"a": 1})]))
    messages = [{"role": "user", "content": f"{SUM} Add."}]
    got = ask(checking, messages, tools=TOOLS, headers=AT)
    assert got.told["checked"] == "tutor"
    result = {"role": "tool", "tool_call_id": got.message.tool_calls[0].id, "content": "46"}
    loop = [*messages, got.message.model_dump(exclude_none=True), result]
    again = ask(checking, loop, tools=TOOLS, headers=AT)
    assert (again.told["model"], "checked" in again.told) == (got.told["model"], False)


def test_a_response_goes_on_with_the_model_whose_answer_was_given(checking):
    checking.server.script["tutor"] = says("I do not know.")
    first = posted(checking, "responses")
    again = posted(checking, "responses", previous_response_id=first.body["id"])
    assert (again.told["model"], record_of(checking, again)["why"]) == ("sage", "follow-up")


def test_an_empty_answer_is_followed_by_the_next_model_s(served):
    for api in ("chat/completions", "messages", "responses"):
        end_cool_downs(served, "poet")
        served.server.script["poet"] = says("")
        got = posted(served, api, headers={"x-unirouter-candidates": "poet, sage", "x-unirouter-cost-weight": "inf"})
        record = record_of(served, got)
        assert (api, got.text, got.told["model"], record["failures"].keys()) == (api, "Paris.", "sage", {"poet"})
        assert record["litellm_usd"] == pytest.approx(record["usd"]) == pytest.approx((5 * 5.1 + 20) / 1e6)
    got = posted(served, "chat/completions", model="unirouter/poet")
    assert (got.text, got.told["model"]) == ("", "poet")
