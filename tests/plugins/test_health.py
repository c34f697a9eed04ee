"""Models that fail cool down: who is avoided, for how long, and who tries them again."""

import threading

import pytest

from tests.plugins import scripted_chat
from tests.plugins.servers import KEY, breaks, fails, hangs, rate_limited, refuses_the_content, refuses_the_key, says
from tests.plugins.test_failures import failure
from unirouter_plugins.langchain import RouterRunnable
from unirouter_plugins.litellm import complete, configured, record_of
from unirouter_plugins.litellm.health import HEALTH, LONGEST, HealthTable
from unirouter_plugins.litellm.pool_file import Member, Members
from unirouter_plugins.litellm.timeouts import CallTimeoutError

SUM = "What is 14 plus 37?"
BUSY = failure("RateLimitError")


class Clock:
    """A clock that stands still."""

    now = 1_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def table(clock):
    return HealthTable(clock=clock)


def seconds_out(table, clock, key="m"):
    """How long a model is avoided from now."""
    return max(table.store[key].until - clock.now, 0.0) if key in table.store else 0.0


def test_failures_in_a_row_cool_a_model_down_for_longer_each_time(table, clock):
    pauses = []
    for _ in range(10):
        assert table.may_try("m")
        table.failed("m", BUSY)
        pauses.append(seconds_out(table, clock))
        clock.now += pauses[-1]
    assert pauses == [0, 5, 10, 20, 40, 80, 160, 300, 300, 300]


@pytest.mark.parametrize(
    ("failed", "pause"),
    [
        (failure("AuthenticationError"), LONGEST),
        (failure("NotFoundError"), LONGEST),
        (CallTimeoutError("slow"), 5),  # the next call would wait as long
        (failure("InternalServerError"), 0),  # one may be by chance
        (failure("ContentPolicyViolationError"), 0),
        (failure("ContextWindowExceededError"), 0),
        (failure("BadRequestError"), 0),
        (failure("UnsupportedParamsError"), 0),
        (KeyboardInterrupt(), 0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_failure_means_tells_how_long_its_model_is_avoided(table, clock, failed, pause):
    table.failed("m", failed)
    assert seconds_out(table, clock) == pause


def test_a_provider_s_own_wait_is_kept_up_to_a_limit(table, clock):
    for asked, pause in ((30, 30), (86_400, LONGEST)):
        busy = failure("RateLimitError")
        busy.litellm_response_headers = {"retry-after": str(asked)}
        table.failed(key := f"m{asked}", busy)
        assert seconds_out(table, clock, key) == pause


def test_after_a_cool_down_one_call_tries_and_an_answer_ends_it(table, clock):
    table.failed("m", CallTimeoutError("slow"))
    assert not table.may_try("m")
    clock.now += 5
    assert table.cooling({"poet": "m"}) == {}
    assert [table.may_try("m") for _ in range(3)] == [True, False, False]
    assert "being tried again" in table.cooling({"poet": "m"})["poet"]
    table.failed("m", failure("BadRequestError"))  # says nothing of the model: another call may try
    assert table.may_try("m")
    table.answered("m")
    assert table.store == {}


def test_calls_that_had_begun_before_neither_lengthen_nor_end_a_cool_down(table, clock):
    for _ in range(50):
        table.failed("m", CallTimeoutError("slow"))
        table.answered("m", seconds=1)
    assert seconds_out(table, clock) == 5


def test_an_answer_between_two_failures_counts_however_long_it_took(table, clock):
    for _ in range(10):
        table.failed("m", BUSY)
        clock.now += 1
        table.answered("m", seconds=10)
    assert table.store == {}


def test_an_old_call_neither_ends_nor_spoils_a_try(table, clock):
    for _ in range(2):
        table.failed("m", BUSY)
    for end in (BUSY, failure("BadRequestError")):
        clock.now += 6
        assert table.may_try("m")
        clock.now += 1
        table.failed("m", end, seconds=30)
        assert not table.may_try("m")
        clock.now += 1
        table.answered("m", seconds=2)
    assert table.store == {}


@pytest.mark.parametrize(("failures", "answers"), [(1, 1), (2, 2), (4, 4), (9, 5)])
def test_a_model_is_well_after_as_many_answers_in_a_row_as_it_failed_but_five(table, clock, failures, answers):
    for _ in range(failures):
        table.failed("m", CallTimeoutError("slow"))
        clock.now += LONGEST
        assert [table.may_try("m"), table.may_try("m")] == [True, False]
    for _ in range(answers - 1):
        table.answered("m")
        assert [table.may_try("m"), table.may_try("m")] == [True, False]
    table.answered("m")
    assert table.store == {}


def test_a_try_that_never_ends_and_a_clock_set_back_are_outlived(table, clock):
    table.failed("m", CallTimeoutError("slow"))
    clock.now += 5
    assert table.may_try("m")
    clock.now += LONGEST
    assert table.may_try("m")
    clock.now -= 10 * LONGEST
    assert table.may_try("m")


def test_many_threads_try_once(table, clock):
    table.failed("m", CallTimeoutError("slow"))
    clock.now += 5
    tries = []
    threads = [threading.Thread(target=lambda: tries.append(table.may_try("m"))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(tries) == 1


# --- In calls ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def served(asked_router, scripted_server, monkeypatch):
    """The router, all models of which are on the scripted server; sums go to the tutor, then to the scholar."""
    monkeypatch.setenv("SERVER_KEY", KEY)
    members = {m: Member(m, f"openai/{m}", scripted_server.url, "SERVER_KEY") for m in asked_router.pool}
    served = configured(asked_router, Members(members))
    served.cost_weight = 300
    return served


def test_a_dead_model_costs_one_request_its_timeout_whichever_way_the_next_are_made(served, scripted_server):
    complete(served, SUM, models=["sage"])  # the first call imports clients
    scripted_server.script["tutor"] = hangs
    assert list(record_of(complete(served, SUM, timeout=1)).failures) == ["tutor"]
    later = [complete(served, SUM, timeout=1) for _ in range(3)]
    assert [list(record_of(response).failures) for response in later] == [[], [], []]
    assert scripted_chat.record(RouterRunnable(served).invoke(SUM))["failures"] == {}
    assert len(scripted_server.asked("tutor")) == 1
    decision = record_of(later[0]).decision
    assert decision.candidate("tutor").excluded.startswith("cooling down until ")
    assert "CallTimeoutError" in (why := decision.candidate("tutor").excluded) or "Timeout" in why
    assert decision.ranking[-1].model == "tutor"


@pytest.mark.parametrize(
    ("reply", "is_avoided"),
    [
        (rate_limited(30), True),
        (refuses_the_key(), True),
        (fails(404, "No such model.", code="model_not_found"), True),
        (breaks(500), False),
        (refuses_the_content(), False),
        (fails(400, "Thinking mode does not support this tool_choice"), False),
    ],
    ids=["429 with retry-after", "401", "404", "500", "content filter", "a parameter"],
)
def test_the_next_call_avoids_a_model_where_it_would_fail_again(served, scripted_server, reply, is_avoided):
    scripted_server.script["tutor"] = reply
    first, second = (record_of(complete(served, SUM, content_policy=True)) for _ in range(2))
    assert (list(first.failures), list(second.failures)) == (["tutor"], [] if is_avoided else ["tutor"])


def test_when_all_models_cool_down_they_are_tried_anyway(served, scripted_server):
    scripted_server.script = dict.fromkeys(served.pool, refuses_the_key())
    with pytest.raises(Exception, match="Incorrect API key"):
        complete(served, SUM)
    scripted_server.script |= dict.fromkeys(served.pool, says("51"))
    assert record_of(complete(served, SUM)).model == served.route(SUM).model == "tutor"  # the rule's choice


def test_when_all_others_fail_a_model_that_cools_down_is_tried_last(served, scripted_server):
    scripted_server.script["tutor"] = [refuses_the_key(), says("51")]
    complete(served, SUM)
    scripted_server.script |= dict.fromkeys(("scholar", "sage", "poet"), breaks(500))
    assert record_of(complete(served, SUM)).model == "tutor"


def test_a_forced_model_is_called_whatever_its_health(served, scripted_server):
    scripted_server.script["tutor"] = [refuses_the_key(), says("51")]
    complete(served, SUM)
    llm = RouterRunnable(served)
    assert scripted_chat.record(llm.invoke(SUM, model="tutor"))["model"] == "tutor"
    assert HEALTH.store == {}  # it has answered


def test_a_model_that_was_only_decided_on_is_not_taken_for_tried(served, scripted_server):
    scripted_server.script["tutor"] = [refuses_the_key(), says("51")]
    complete(served, SUM)
    (key,) = HEALTH.store
    HEALTH.store[key] = type(HEALTH.store[key])(1, "AuthenticationError", until=1.0)  # long ago
    llm = RouterRunnable(served)
    assert [llm.decide(SUM).model for _ in range(3)] == ["tutor"] * 3
    assert record_of(complete(served, SUM)).model == "tutor"
