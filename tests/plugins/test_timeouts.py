"""The thread of a blocking call: its context, what it raises, who stops waiting for it, and what is left behind."""

import signal
import threading
import time
from contextvars import ContextVar

import pytest

from tests.plugins import scripted_chat
from unirouter_core import InvalidDataError
from unirouter_plugins.langchain import RouterRunnable
from unirouter_plugins.litellm.timeouts import CallTimeoutError, Limits, Steps

PLACE = ContextVar("place", default="nowhere")


def steps(seconds=30.0):
    return Steps(lambda: seconds, lambda: CallTimeoutError("late"))


def test_all_steps_are_made_in_one_copy_of_the_caller_s_context():
    token = PLACE.set("here")
    with steps() as made:
        assert made.make(PLACE.get) == "here"
        made.make(lambda: PLACE.set("there"))
        assert (made.make(PLACE.get), PLACE.get()) == ("there", "here")
    PLACE.reset(token)


def test_what_a_step_raises_is_raised_here():
    with steps() as made, pytest.raises(ZeroDivisionError):
        made.make(lambda: 1 / 0)


def test_what_comes_late_is_dropped_and_closed_after_it():
    may_go, closed, opened = threading.Event(), threading.Event(), []
    with pytest.raises(CallTimeoutError), steps(0.01) as made:  # noqa: PT012
        made.close = lambda: closed.set() if opened else None
        made.make(lambda: opened.append(may_go.wait(30)))
    assert not closed.is_set()
    may_go.set()
    assert closed.wait(30)


@pytest.mark.parametrize("given", [{"timeout": 0}, {"deadline": -1}, {"timeout": "soon"}, {"deadline": float("nan")}])
def test_a_time_that_is_none_is_refused(given):
    with pytest.raises(InvalidDataError, match=r"must be a number of seconds, more than 0"):
        Limits.of(**given)


def slow(router, pause):
    chats = scripted_chat.chats(router)

    class Slow(type(chats["poet"])):
        def _generate(self, *args, **kwargs):
            time.sleep(pause)
            return super()._generate(*args, **kwargs)

    first = RouterRunnable(router, chats).decide("What is 14 plus 37?").model
    return first, chats | {first: Slow(model_name=first)}


def test_models_of_the_user_s_own_are_called_in_the_caller_s_thread_where_no_limit_is_given(asked_router):
    threads, chats = [], scripted_chat.chats(asked_router)

    class Seen(type(chats["poet"])):
        def _generate(self, *args, **kwargs):
            threads.append(threading.current_thread())
            return super()._generate(*args, **kwargs)

    seen = {name: Seen(model_name=name) for name in chats}
    for limits in ({}, {"timeout": 30}):
        RouterRunnable(asked_router, seen, **limits).invoke("What is 14 plus 37?")
    assert [thread is threading.current_thread() for thread in threads] == [True, False]


def test_an_interrupt_ends_a_call_that_blocks(asked_router):
    first, chats = slow(asked_router, 60)
    timer = threading.Timer(0.5, signal.pthread_kill, [threading.main_thread().ident, signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        RouterRunnable(asked_router, chats, timeout=50).invoke("What is 14 plus 37?", model=first)
    assert any(thread.name == "unirouter call" for thread in threading.enumerate())  # it is left alone


def test_models_of_the_user_s_own_have_timeouts_too(asked_router):
    first, chats = slow(asked_router, 2)
    answer = RouterRunnable(asked_router, chats, timeout=0.1, deadline=20).invoke("What is 14 plus 37?")
    assert list(scripted_chat.record(answer)["failures"]) == [first]
    with pytest.raises(CallTimeoutError, match=r"gave no content within 0\.025 s"):
        RouterRunnable(asked_router, {**chats}, deadline=0.05).invoke("What is 14 plus 37?", model=first)
