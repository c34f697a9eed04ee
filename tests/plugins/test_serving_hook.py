"""The hook of the proxy without the proxy: what it refuses, decides, remembers, and does when something is broken."""

import asyncio
import importlib
import json
import shutil
import threading
from types import SimpleNamespace

import pytest

from tests.plugins.redis_server import serve_redis
from unirouter_core import InvalidDataError, NoCandidateError
from unirouter_core.pool import Pool
from unirouter_plugins.cli.serve import LocalOnly
from unirouter_plugins.litellm import configured, open_litellm, read_members
from unirouter_plugins.litellm.health import HEALTH
from unirouter_plugins.litellm.pool_file import Members
from unirouter_plugins.litellm.timeouts import CallTimeoutError
from unirouter_plugins.serving.calls import ProxyCall
from unirouter_plugins.serving.requests import ProxyRequest
from unirouter_plugins.serving.watch import Deployments, WatchedRouter

SUM, POEM = "What is 12 plus 34?", "Write a poem of 3 lines about the sea."
POOL = ("poet", "sage", "tutor", "scholar")
TABLE = "".join(f'[models.{name}]\nmodel = "openai/{name}"\napi_base = "http://127.0.0.1:1/v1"\n' for name in POOL)
VOTES = 'votes = { samples = 3, same = "text" }\n'  # of the scholar
DEPLOYMENTS = [{"model_info": {"id": f"{name}@1"}} for name in POOL]


@pytest.fixture
def folder(router, tmp_path):
    (tmp_path / "pool.toml").write_text(TABLE + VOTES)
    router.save(tmp_path / "my.router")
    return tmp_path / "my.router"


@pytest.fixture
def hook(folder, router, monkeypatch):
    """The hook for a router that nothing changes."""
    monkeypatch.setenv("UNIROUTER_ROUTER", str(folder))
    module = importlib.import_module("unirouter_plugins.serving.hook")
    router = configured(router, read_members(folder.parent / "pool.toml"))
    router.cost_weight = 600
    served = SimpleNamespace(router=router, models=Deployments(), redis=None, start=lambda: None)
    return module.RoutingHook(served)


def given(prompt=SUM, *, api="acompletion", **more):
    """What LiteLLM's router gives the hook of a request, and its messages."""
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    size = {"headers": {"content-length": str(len(str(messages)))}}
    logged = SimpleNamespace(call_type=api, model_call_details={})
    return {"litellm_logging_obj": logged, "proxy_server_request": size, **more}, messages


async def picked(hook, request):
    """The model that the hook picks."""
    sent, messages = request
    (one,) = await hook.async_filter_deployments("unirouter", DEPLOYMENTS, messages, sent)
    return one["model_info"]["id"].removesuffix("@1")


# --- What is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("api", ["atext_completion", "aimage_generation", "acompact_responses", "aembedding"])
async def test_other_apis_are_refused_each_time_that_litellm_tries_again(hook, api):
    request = given(api=api)
    for _ in range(2):
        with pytest.raises(open_litellm().BadRequestError, match="serves chat, messages and responses"):
            await picked(hook, request)


async def test_a_refusal_is_not_decided_again(hook):
    class Counted(Deployments):
        begun = 0

        def is_quick(self, router, asked):
            self.begun += 1
            return True

    hook.served.models = models = Counted()
    request = given(metadata={"unirouter": {"baseline": "absent"}})
    for _ in range(3):
        with pytest.raises(open_litellm().BadRequestError, match="'absent' is not in the pool"):
            await picked(hook, request)
    assert models.begun == 1


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        ({"metadata": {"unirouter": "cheap"}}, "metadata.unirouter is 'cheap'"),
        ({"metadata": {"unirouter": {"candidates": 5}}}, "candidates is 5"),
        ({"metadata": {"unirouter": {"candidates": [{}]}}}, "candidates is"),
        ({"metadata": {"unirouter": {"candidates": []}}}, "candidates is"),
        ({"metadata": {"unirouter": {"baseline": [1]}}}, "baseline is"),
        ({"metadata": {"unirouter": {"check": "no"}}}, "check is 'no'; give true or false"),
        ({"metadata": {"unirouter": {"qestion": "x"}}}, "did you mean 'question'"),
        ({"proxy_server_request": {"headers": {"X-Unirouter-Canditates": "a"}}}, "did you mean 'candidates'"),
    ],
)
def test_options_of_a_wrong_form_or_name_are_refused(sent, why):
    with pytest.raises(InvalidDataError, match=why):
        ProxyRequest.of(sent, given()[1])


# --- What is decided --------------------------------------------------------------------------------------------------


class Watched(dict):
    """A message that notes the threads in which it is read."""

    threads = frozenset()

    def __getitem__(self, name):
        Watched.threads |= {threading.current_thread()}
        return super().__getitem__(name)


@pytest.mark.parametrize(("n_words", "is_here"), [(10, True), (80_000, False)])
async def test_long_histories_are_read_and_decided_on_in_a_thread(hook, n_words, is_here):
    await picked(hook, given())  # the snapshot is known
    Watched.threads = frozenset()
    history = [("user", "word " * n_words), ("assistant", "Yes."), ("user", SUM)]
    await picked(hook, given([Watched(role=role, content=text) for role, text in history]))
    assert (threading.current_thread() in Watched.threads) == is_here
    assert Watched.threads


async def test_a_failure_that_litellm_handles_while_it_calls_the_next_model_is_the_one_that_is_raised(hook):
    request, litellm, tried = given(api="anthropic_messages"), open_litellm(), []

    async def call():
        tried.append(await picked(hook, request))
        try:
            raise litellm.InternalServerError(f"{tried[-1]} broke.", "openai", tried[-1])
        except litellm.InternalServerError:  # of a stream of messages, of which no hook is told
            await call()

    with pytest.raises(litellm.InternalServerError, match="broke") as raised:
        await call()
    assert sorted(tried) == sorted(POOL)
    assert raised.value.message.endswith(f"{tried[0]} broke.")


async def test_a_bug_of_ours_is_logged_and_the_cheapest_model_that_can_answer_does(hook, caplog):
    class Broken(Deployments):
        def is_quick(self, router, asked):
            raise ZeroDivisionError

    hook.served.models = Broken()
    assert await picked(hook, given()) == "poet"
    assert await picked(hook, given(metadata={"model_group": "unirouter/sage"})) == "sage"
    assert "ZeroDivisionError" in caplog.text


def test_votes_give_neither_several_answers_nor_logprobs(hook):
    snapshot = hook.served.models.snapshot(hook.served.router)
    for more in ({"n": 2}, {"logprobs": True}):
        assert snapshot.able(None, more) == ["poet", "sage", "tutor"]
        with pytest.raises(NoCandidateError, match="leave out n and logprobs"):
            snapshot.able(["scholar"], more)
    assert snapshot.able(None, {"n": 1}) is None


def test_a_response_goes_on_with_the_model_that_holds_it_unless_another_is_named_or_it_has_left(hook):
    from litellm.responses.utils import ResponsesAPIRequestUtils

    build = ResponsesAPIRequestUtils._build_responses_api_response_id

    def call(holder, **more):
        held = build(custom_llm_provider="openai", model_id=f"{holder}@1", response_id="resp_1")
        request = ProxyRequest.of({"previous_response_id": held, **more}, given()[1])
        made = ProxyCall.made(hook.served.models, hook.served.router, request, POOL)
        return made.attempts.model, made.why

    routed = hook.served.router.route(SUM).model
    assert routed != "sage"
    assert call("sage") == ("sage", "follow-up")
    assert call("retired") == (routed, "routed")
    assert call("sage", metadata={"model_group": "unirouter/poet"}) == ("poet", "forced")


@pytest.mark.parametrize(
    ("api", "model", "is_checked"),
    [
        ("acompletion", "anthropic/claude-sonnet-4-5", True),
        ("anthropic_messages", "anthropic/claude-sonnet-4-5", False),
        ("anthropic_messages", "openai/gpt-4.1", True),
        ("aresponses", "openai/gpt-4.1", False),
        ("aresponses", "my_own/small", True),
    ],
)
async def test_where_a_model_serves_the_api_itself_its_answers_are_not_checked(hook, router, api, model, is_checked):
    router.add_check("tutor", "json", router.pool["tutor"].errors < 0.5)
    hook.served.router = configured(router, Members(checks={"json": "parses"}))
    there = [{**DEPLOYMENTS[place], "litellm_params": {"model": model}} for place in range(len(POOL))]
    sent, messages = given(api=api, max_tokens=50, metadata={"unirouter": {"cost_weight": 200}})
    (one,) = await hook.async_filter_deployments("unirouter", there, messages, sent)
    assert one["litellm_params"]["model"] == ("unirouter_checked/tutor" if is_checked else model)


# --- What is told -----------------------------------------------------------------------------------------------------


def made(hook, options=None, **more):
    sent, messages = given(**more)
    request = ProxyRequest.of({**sent, "metadata": {"unirouter": options or {}}}, messages)
    return ProxyCall.made(hook.served.models, hook.served.router, request, POOL)


def test_when_all_cool_down_savings_are_told_all_the_same(hook):
    for key in hook.served.models.snapshot(hook.served.router).keys.values():
        HEALTH.failed(key, CallTimeoutError("slow"))
    call = made(hook)
    call.streams = True
    assert call.baseline_model == "sage"
    assert float(call.headers(None)["x-unirouter-saved"]) >= 0


def answer(tokens_in, tokens_out):
    usage = open_litellm().Usage(prompt_tokens=tokens_in, completion_tokens=tokens_out)
    return open_litellm().ModelResponse(usage=usage)


def test_savings_are_what_the_baseline_charges_for_the_same_tokens(hook):
    hook.served.router.cost_weight = float("inf")
    call = made(hook, {"baseline": "sage"})
    record = call.end(answer(1000, 100))
    assert record.model == "poet"
    assert call._shown["saved_usd"] == pytest.approx((1000 * (5 - 0.1) + 100 * (20 - 0.4)) / 1e6)
    own = made(hook, {"baseline": "poet"})
    own.end(answer(1000, 100))
    assert own._shown["saved_usd"] == 0


def test_a_timeout_shorter_than_the_router_s_says_nothing_of_a_model(hook):
    hook.served.models = Deployments(settings={"timeout": 20})
    for wait, is_well in ((10, True), (20, False)):
        call = made(hook, timeout=wait)
        call.failed(open_litellm().Timeout("slow", call.attempts.model, "openai"))
        assert (not HEALTH.store) == is_well


# --- What is remembered -----------------------------------------------------------------------------------------------


def test_conversations_of_two_clients_differ():
    ours, theirs = (ProxyRequest.of({"metadata": {"user_api_key_hash": key}}, given()[1]) for key in ("a", "b"))
    assert ours.digests != theirs.digests


class Hanging:
    """A Redis that never answers."""

    async def async_batch_get_cache(self, *args, **how):
        await asyncio.Event().wait()

    async_set_cache_pipeline = async_batch_get_cache


async def test_a_redis_that_hangs_delays_nothing(hook):
    hook.served.redis = Hanging()
    call = made(hook)
    call.digest = "d"
    hook._remember(call)
    await asyncio.sleep(0)
    assert await hook._writers(["d"], [""]) == [call.attempts.model]
    (task,) = hook._tasks
    task.cancel()


async def test_replicas_share_which_model_a_conversation_is_with(hook):
    with serve_redis() as server:
        hook.served.redis = open_litellm().RedisCache(host="127.0.0.1", port=server.port)
        call = made(hook)
        call.digest = "d"
        hook._remember(call)
        await asyncio.gather(*hook._tasks)
        assert await type(hook)(hook.served)._writers(["d"], ["call_1"]) == [call.attempts.model]
        assert server.client().keys() == [b"unirouter:conversation:d:"]


# --- A folder that changes --------------------------------------------------------------------------------------------


async def test_what_cannot_be_served_is_logged_once_and_the_router_stays(folder, router, caplog):
    watched = WatchedRouter(folder)
    watched._task.cancel()
    before = watched.router
    for content in ("{", "[1]", json.dumps({"pool": 7})):
        caplog.clear()
        (folder / "router.json").write_text(content)
        for _ in range(3):
            await watched.refresh()
        assert len(caplog.records) == 1
        assert watched.router is before
    caplog.clear()
    for pool in (Pool({}), router.pool):
        shutil.rmtree(folder)
        router.with_pool(pool).save(folder)
        await watched.refresh()
        assert "Its pool is empty" in caplog.text
    assert watched.router.pool.keys() == router.pool.keys()
    assert watched.router is not before


def test_a_command_of_a_table_beside_the_router_is_not_served_unless_the_table_is_named(folder, router):
    router.add_check("tutor", "tests", router.pool["tutor"].errors < 0.5)
    router.save(folder)
    table = folder.parent / "pool.toml"
    table.write_text(f'{TABLE}{VOTES}[checks]\ntests = {{ command = ["true"] }}\n')
    with pytest.raises(InvalidDataError, match=r"runs a command.*add --pool"):
        WatchedRouter(folder)
    assert WatchedRouter(folder, str(table)).router.pool.keys() == router.pool.keys()


# --- A proxy without a key --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "is_passed"),
    [
        ({}, True),
        ({"host": "127.0.0.1:4000"}, True),
        ({"host": "[::1]:4000", "origin": "http://localhost:3000"}, True),
        ({"host": "127.0.0.1:4000", "origin": "https://evil.example"}, False),
        ({"host": "127.0.0.1:4000", "origin": "null"}, False),
        ({"host": "evil.example:4000"}, False),
    ],
)
async def test_without_a_key_no_page_of_another_site_is_served(headers, is_passed):
    told = []

    async def app(scope, receive, send):
        told.append(200)

    async def send(message):
        told.append(message.get("status", message["type"]))

    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await LocalOnly(app)({"type": "http", "headers": raw}, None, send)
    assert told[0] == (200 if is_passed else 403)
