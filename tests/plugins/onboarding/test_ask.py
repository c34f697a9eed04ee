"""One call: its budget, its pace and its retries, against a real server on loopback."""

import asyncio
import json
import math

import pytest
from aiohttp import web
from hypothesis import example, given
from hypothesis import strategies as st

from tests.plugins.servers import KEY, breaks, cuts, fails, rate_limited, refuses_the_content, refuses_the_key, says
from unirouter_core import InvalidDataError, Prices
from unirouter_core.costs import BY_CHARACTERS, TokenCounter
from unirouter_plugins.litellm.failures import MissingKeyError, open_litellm
from unirouter_plugins.litellm.pool_file import Member
from unirouter_plugins.litellm.pool_schema import Votes
from unirouter_plugins.litellm.prices import TABLE, Quote
from unirouter_plugins.onboarding.ask import (
    ATTEMPTS,
    Budget,
    Caller,
    CallFailedError,
    OnboardingOptions,
    OverBudgetError,
    settings_of,
)
from unirouter_plugins.onboarding.questions import Question

pytestmark = [
    # LiteLLM's client takes the loop's sockets with it
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"),
]

CAPITAL = Question("What is the capital of France?")
PRICES = Prices(1000, 2000)  # so that tokens are tenths of cents


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("LOOPBACK", KEY)


@pytest.fixture
async def ask(scripted_server):
    """Ask the model of the scripted server that does as told; returns the reply or what failed, and the budget."""

    async def asked(reply, budget=None, attempts=ATTEMPTS, **how):
        scripted_server.script["m"] = reply
        caller = made(scripted_server.url, budget := budget or Budget(), **how)
        try:
            return await caller(CAPITAL, attempts=attempts), budget, caller
        except CallFailedError as failed:
            return failed, budget, caller

    yield asked
    await open_litellm().close_litellm_async_clients()


def made(url, budget, *, max_tokens=100, timeout=60.0, concurrency=4, **fields):
    member = Member("m", "openai/m", api_base=url, api_key_env="LOOPBACK", **fields)
    how = {"max_tokens": max_tokens, "timeout": timeout, "concurrency": concurrency, "retry_pause": 0.01}
    counter = TokenCounter(BY_CHARACTERS)
    return Caller(member, Quote(PRICES, TABLE), OnboardingOptions(**how), counter=counter, budget=budget)


async def sends_blanks(request, seen):
    """Send a line break every 50 ms and never an answer, as some servers do while a model is busy."""
    response = web.StreamResponse(headers={"content-type": "application/json"})
    await response.prepare(request)
    while True:
        await response.write(b"\n")
        await asyncio.sleep(0.05)


async def says_nothing(request, seen):
    """200 and usage, but no choice among which an answer could be."""
    body = json.loads((await says()(request, seen)).body)
    return web.json_response({**body, "choices": []})


def counts(**usage):
    """Answer, and say that how many tokens it took."""

    async def replies(request, seen):
        body = json.loads((await says("Paris.")(request, seen)).body)
        return web.json_response({**body, "usage": {**body["usage"], **usage}})

    return replies


ODD_USAGES = [
    {"completion_tokens": -3},
    {"prompt_tokens": -1_000_000},
    {"completion_tokens": 10**12},
    {"completion_tokens": 10**400},
]
"""Numbers that a provider sends and that cannot be."""


# --- One call ---------------------------------------------------------------------------------------------------------


async def test_a_reply_has_the_text_the_tokens_and_the_usd(ask):
    reply, budget, _ = await ask(says("It is Paris."))
    assert (reply.text, reply.finish, reply.refused) == ("It is Paris.", "stop", False)
    assert (reply.tokens_in, reply.tokens_out) == (6, 3)
    assert reply.usd == pytest.approx((6 * 1000 + 3 * 2000) / 1e6) == budget.spent


async def test_reasoning_tokens_are_paid_for(ask):
    reply, _, _ = await ask(says("Paris.", reasoning=50))
    assert (reply.tokens_out, reply.reasoning_tokens) == (51, 50)
    assert reply.usd == pytest.approx((6 * 1000 + 51 * 2000) / 1e6)


async def test_the_member_s_own_limit_wins_over_the_measurement_s(ask, scripted_server):
    await ask(says(), max_tokens=77)
    await ask(says(), max_tokens=77, settings={"max_tokens": 33})
    assert [seen.body["max_tokens"] for seen in scripted_server.seen] == [77, 33]


@pytest.mark.parametrize(
    "reply",
    [
        says("I'm sorry, but I can't help with that."),
        refuses_the_content(),
        fails(400, "Refused.", code="content_filter"),
        fails(400, "Refused.", code="content_policy_violation"),
    ],
)
async def test_declining_is_a_refusal_and_no_failure(ask, reply):
    answered, _, _ = await ask(reply)
    assert answered.refused
    assert answered.seconds > 0


async def test_an_answer_comes_from_the_model_and_not_from_a_cache_of_litellm(ask, scripted_server, monkeypatch):
    litellm = open_litellm()
    monkeypatch.setattr(litellm, "cache", litellm.Cache(type="local"))
    await ask(says("one"))
    reply, _, _ = await ask(says("two"))
    assert (reply.text, len(scripted_server.seen)) == ("two", 2)


async def test_a_failure_that_may_pass_is_asked_again(ask, scripted_server):
    reply, _, _ = await ask([breaks(), cuts, says("Paris.")])
    assert reply.text == "Paris."
    assert len(scripted_server.seen) == 3


async def test_litellm_retries_nothing_behind_our_back(ask, scripted_server):
    failed, _, _ = await ask(breaks())
    assert isinstance(failed, CallFailedError)
    assert len(scripted_server.seen) == ATTEMPTS


async def test_a_failure_that_stays_is_not_asked_again(ask, scripted_server):
    failed, budget, _ = await ask(fails(404, "The model does not exist.", code="model_not_found"))
    assert failed.kind == "NotFoundError"
    assert (len(scripted_server.seen), budget.spent) == (1, 0)


async def test_a_quota_that_is_used_up_is_not_asked_again(ask, scripted_server):
    message = "You exceeded your current quota."
    failed, _, _ = await ask(fails(429, message, code="insufficient_quota", kind="insufficient_quota"))
    assert failed.kind == "RateLimitError"
    assert len(scripted_server.seen) == 1


async def test_a_provider_that_asks_to_wait_for_an_hour_is_not_asked_again(ask, scripted_server):
    await ask(rate_limited(3600))
    assert len(scripted_server.seen) == 1


async def test_a_failure_s_message_has_no_key_in_it_nor_has_what_stands_behind_it(ask):
    failed, _, _ = await ask(refuses_the_key())
    assert "[key]" in str(failed)
    seen = set()
    while failed is not None and failed not in seen:
        seen.add(failed)
        assert KEY not in repr(failed) + str(vars(failed))
        failed = failed.__cause__ or failed.__context__


async def test_a_key_that_is_not_set_is_an_error_before_any_call(ask, scripted_server, monkeypatch):
    monkeypatch.delenv("LOOPBACK")
    with pytest.raises(MissingKeyError, match="LOOPBACK, which is not set"):
        await ask(says())
    assert not scripted_server.seen


# --- The budget -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "attempts", "how"),
    [
        (breaks(), ATTEMPTS, {}),
        (cuts, ATTEMPTS, {}),
        (says("Paris.", latency=1.0), ATTEMPTS, {"timeout": 0.2}),
        (says("Paris.", usage=False), 1, {}),
        (refuses_the_content(), 1, {}),
        *((counts(**usage), 1, {}) for usage in ODD_USAGES),
    ],
)
async def test_a_bill_that_is_not_known_counts_at_its_worst(ask, reply, attempts, how):
    _, budget, caller = await ask(reply, **how)
    assert budget.spent == pytest.approx(attempts * caller.worst(caller.tokens(CAPITAL)))


@pytest.mark.parametrize("reply", [rate_limited(0), refuses_the_key(), fails(404, "No such model.")])
async def test_a_call_that_was_turned_away_costs_nothing(ask, reply):
    failed, budget, _ = await ask(reply)
    assert isinstance(failed, CallFailedError)
    assert budget.spent == 0


async def test_a_call_that_is_kept_alive_by_blanks_ends_in_time(ask):
    failed, budget, caller = await ask(sends_blanks, timeout=0.3, attempts=2)
    assert failed.kind == "Timeout"
    assert "m had not answered after 0.3 s" in str(failed)
    assert budget.spent == pytest.approx(2 * caller.worst(caller.tokens(CAPITAL)))


async def test_a_response_without_an_answer_is_a_failure_that_is_paid_for(ask):
    failed, budget, _ = await ask(says_nothing)
    assert "without an answer" in str(failed)
    assert budget.spent == pytest.approx((6 * 1000 + 1 * 2000) / 1e6)


async def test_every_attempt_needs_its_worst_in_the_budget(ask, scripted_server):
    worst = made("http://127.0.0.1:1", Budget()).worst(made("http://127.0.0.1:1", Budget()).tokens(CAPITAL))
    with pytest.raises(OverBudgetError, match="larger budget"):
        await ask(breaks(), Budget(2.5 * worst))
    assert len(scripted_server.seen) == 2


async def test_the_worst_grows_with_what_calls_are_seen_to_take(ask):
    _, _, caller = await ask(says("Paris.", reasoning=500), max_tokens=10)
    assert caller.worst(0) >= 501 * PRICES.output / 1e6


def test_votes_count_as_many_times_as_there_are_samples():
    one, five = (made("http://127.0.0.1:1", Budget(), votes=votes) for votes in (None, Votes(5, "text")))
    assert five.worst(five.tokens(CAPITAL)) == pytest.approx(5 * one.worst(one.tokens(CAPITAL)))


@given(
    st.lists(st.tuples(st.floats(0.1, 1), st.floats(0, 1)), min_size=3, max_size=40), st.floats(0, 3), st.integers(1, 8)
)
@example([(1.0, 1.0)] * 3, 1.0, 3)
def test_a_budget_is_never_overspent_by_concurrent_calls(calls, usd, concurrency):
    budget, refused = Budget(usd), []

    async def work(left):
        for worst, part in left:
            try:
                await budget.reserve(worst)
                await asyncio.sleep(0)
                budget.settle(worst, usd=worst * part)
            except OverBudgetError:
                refused.append(worst)

    async def all_at_once():
        left = iter(calls)
        await asyncio.wait_for(asyncio.gather(*(work(left) for _ in range(concurrency))), 10)

    asyncio.run(all_at_once())
    assert budget.spent <= usd + 1e-6
    if not refused:
        assert budget.spent == pytest.approx(sum(worst * part for worst, part in calls))


async def test_a_call_waits_for_what_others_may_leave_of_the_budget():
    budget = Budget(1.0)
    await budget.reserve(0.8)
    waiting = asyncio.ensure_future(budget.reserve(0.8))
    await asyncio.sleep(0)
    assert not waiting.done()
    budget.settle(0.8, usd=0.1)
    await waiting


@pytest.mark.parametrize("usd", [-1, math.nan, math.inf])
def test_a_budget_that_is_no_amount_is_refused(usd):
    with pytest.raises(InvalidDataError, match="finite number of USD"):
        OnboardingOptions(budget=usd)


# --- The pace ---------------------------------------------------------------------------------------------------------


async def test_a_pause_that_a_provider_asks_for_holds_for_all_calls(scripted_server):
    scripted_server.script["m"] = [rate_limited(0.4), *[says("Paris.")] * 4]
    caller = made(scripted_server.url, Budget())
    first = asyncio.ensure_future(caller(CAPITAL))
    while not scripted_server.seen:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.2)  # the refusal has come back
    answers = await asyncio.gather(*(caller(CAPITAL) for _ in range(3)))
    assert {answer.text for answer in (*answers, await first)} == {"Paris."}
    times = [seen.time for seen in scripted_server.seen]
    assert min(times[1:]) - times[0] >= 0.4
    await open_litellm().close_litellm_async_clients()


async def test_no_more_calls_are_made_at_once_than_told(scripted_server):
    inside, most = 0, []

    async def replies(request, seen):
        nonlocal inside
        inside += 1
        most.append(inside)
        await asyncio.sleep(0.02)
        inside -= 1
        return await says("Paris.")(request, seen)

    scripted_server.script["m"] = replies
    caller = made(scripted_server.url, Budget(), concurrency=3)
    await asyncio.gather(*(caller(CAPITAL) for _ in range(12)))
    assert max(most) == 3
    await open_litellm().close_litellm_async_clients()


# --- Settings ---------------------------------------------------------------------------------------------------------


def test_where_a_model_is_served_does_not_change_what_its_answers_are_kept_under():
    here, there = (Member("m", "openai/m", api_base=f"http://127.0.0.1:{port}") for port in (1, 2))
    assert settings_of(here, 100) == settings_of(there, 100) == {"model": "openai/m", "max_tokens": 100}


@pytest.mark.parametrize(
    "changed", [{"settings": {"temperature": 0.5}}, {"system": "Be brief."}, {"model": "openai/n"}]
)
def test_what_shapes_answers_changes_what_they_are_kept_under(changed):
    plain = {"name": "m", "model": "openai/m"}
    assert settings_of(Member(**plain), 100) != settings_of(Member(**(plain | changed)), 100)
    assert settings_of(Member(**plain), 100) != settings_of(Member(**plain), 200)
