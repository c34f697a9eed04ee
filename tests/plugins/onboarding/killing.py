"""Onboarding in processes of their own, to be killed in the middle of it."""

import multiprocessing
import os
import random
import time

import numpy as np

from tests.plugins.servers import KEY
from unirouter_core import Prices, UniRouter
from unirouter_plugins.graders import parse_grader
from unirouter_plugins.litellm.pool_file import Member, Members
from unirouter_plugins.onboarding import OnboardingOptions, plan_onboarding, run_onboarding
from unirouter_plugins.onboarding.ask import settings_digest
from unirouter_plugins.onboarding.questions import Question, Questions
from unirouter_plugins.onboarding.store import AnswerStore

SUMS = [
    Question(f"What is {a} plus {b}?", str(a + b), parse_grader("number")) for a in range(40, 46) for b in range(10)
]
AT_ONCE = 4


def onboard_one(name, url, store, folder):
    """What a process does: onboard one model of a server into the router in `folder`."""
    os.environ["LOOPBACK"] = KEY
    router = UniRouter.load(folder)
    options = OnboardingOptions(validation=Questions(SUMS), pool=table(name, url), store=store, concurrency=AT_ONCE)
    run_onboarding(plan_onboarding(router, [name], options), folder=folder)


def table(name, url):
    return Members({name: Member(name, f"openai/{name}", url, "LOOPBACK", Prices(1, 2))})


def start(name, url, store, folder):
    """Start a process that onboards; it is forked from one that has loaded all, so that it begins at once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.plugins.onboarding.preloaded"])
    process = context.Process(target=onboard_one, args=(name, url, str(store), str(folder)))
    process.start()
    return process


def check_kills(server, router, tmp_path, kills, seed=0):
    """Kill -9 an onboarding some times, and check that nothing is lost and no call is repeated."""
    rng, store = random.Random(seed), tmp_path / "killed.sqlite"
    for folder in ("killed.router", "whole.router"):
        router.save(tmp_path / folder)
    run = ("sage", server.url, store, tmp_path / "killed.router")
    stops = sorted(rng.sample(range(1, len(SUMS)), kills))
    for stop in stops:
        before = kept(store, server.url)
        process, seen = start(*run), len(server.seen)
        wait_for(lambda stop=stop: len(prompts_of(server)) >= stop, process)
        time.sleep(rng.random() * 0.02)
        process.kill()
        process.join()
        assert before.keys() <= kept(store, server.url).keys()
        assert not before.keys() & {seen.prompt for seen in server.seen[seen:]}
    process = start(*run)
    process.join(120)
    assert process.exitcode == 0
    assert len(server.seen) <= len(SUMS) + kills * AT_ONCE
    asked = len(server.seen)
    os.environ["LOOPBACK"] = KEY
    start("sage", server.url, tmp_path / "whole.sqlite", tmp_path / "whole.router").join(120)
    assert len(server.seen) == asked + len(SUMS)
    check_same(*(UniRouter.load(tmp_path / folder).pool["sage"] for folder in ("killed.router", "whole.router")))


def check_same(one, other):
    for name in ("features", "errors", "usd"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    np.testing.assert_array_equal(one.cost.per_answer, other.cost.per_answer)
    assert (one.error, one.n, one.cost.per_token) == (other.error, other.n, other.cost.per_token)
    assert {**one.provenance, "date": ""} == {**other.provenance, "date": ""}


def kept(store, url):
    """The answers that are in the store, by prompt."""
    if not store.exists():
        return {}
    digests = {question.digest: question.prompt for question in SUMS}
    settings = settings_digest(table("sage", url)["sage"], 1024)
    with AnswerStore(store) as opened:
        return {digests[digest]: answer for (digest, _), answer in opened.answers("sage", settings).items()}


def prompts_of(server):
    return {seen.prompt for seen in server.seen}


def wait_for(happened, process, seconds=60):
    until = time.monotonic() + seconds
    while not happened() and process.is_alive() and time.monotonic() < until:
        time.sleep(0.002)
    assert happened(), f"the process ended ({process.exitcode}) or took too long"
