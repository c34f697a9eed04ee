"""A store on PostgreSQL that several workers fill: nothing asked twice, nothing lost with a worker."""

import asyncio
import multiprocessing
import os
import warnings
from collections import Counter

import pytest

from tests.conftest import fitted
from tests.plugins.onboarding.killing import SUMS, wait_for
from tests.plugins.servers import KEY, says
from unirouter_core import InvalidDataError, Prices, UniRouter
from unirouter_plugins.litellm.pool_file import Member, Members
from unirouter_plugins.onboarding import OnboardingOptions, plan_onboarding, run_onboarding
from unirouter_plugins.onboarding.ask import Budget, OverBudgetError
from unirouter_plugins.onboarding.questions import Questions
from unirouter_plugins.onboarding.store import AnswerStore
from unirouter_plugins.ray.evaluations import SHARES, Filler, SharedBudget, onboard_dataset, share_of

MODELS = ("sage", "poet")
AT_ONCE = 2
QUESTIONS = SUMS[:24]
ALL = {(model, question.prompt) for model in MODELS for question in QUESTIONS}
BATCHES = [range(start, start + 16) for start in range(0, SHARES, 16)]
pytestmark = [
    pytest.mark.filterwarnings("ignore:Items? .* on TypedDict class:UserWarning"),
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def place(monkeypatch, scripted_server, world, tmp_path, postgres_url):
    """The server's URL, the store's, and the folder of a router; "sage" can add and "poet" cannot."""
    monkeypatch.setenv("LOOPBACK", KEY)
    right = {question.prompt: question.reference for question in QUESTIONS}
    scripted_server.script |= {"sage": says(right.get), "poet": says("A rose is a rose.")}
    fitted(world).save(tmp_path / "some.router")
    return scripted_server.url, postgres_url, str(tmp_path / "some.router")


def plan_of(url, store, folder, **options):
    pool = Members({name: Member(name, f"openai/{name}", url, "LOOPBACK", Prices(1, 2)) for name in MODELS})
    given = {"concurrency": AT_ONCE, "retry_pause": 0.01, **options}
    options = OnboardingOptions(validation=Questions(QUESTIONS), pool=pool, store=store, **given)
    return plan_onboarding(UniRouter.load(folder), MODELS, options)


def fill(place):
    """What a worker's process does."""
    os.environ["LOOPBACK"] = KEY
    filler = Filler(plan_of(*place), lambda who: Budget())
    for shares in BATCHES:
        filler({"share": shares})


def start(place):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.plugins.onboarding.preloaded"])
    process = context.Process(target=fill, args=(place,))
    process.start()
    return process


def asked(server):
    return Counter((seen.body["model"], seen.prompt) for seen in server.seen)


def test_two_workers_at_the_same_shares_ask_for_each_answer_once(place, scripted_server):
    workers = [start(place), start(place)]
    for worker in workers:
        worker.join(300)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert asked(scripted_server) == dict.fromkeys(ALL, 1)


def test_a_killed_workers_shares_are_taken_over_and_only_calls_in_flight_repeat(place, scripted_server):
    killed = start(place)
    wait_for(lambda: len(scripted_server.seen) >= 8, killed)
    killed.kill()
    other = start(place)  # it would wait for ever if the claims stayed
    other.join(300)
    times = asked(scripted_server)
    assert times.keys() == ALL
    assert times.total() <= len(ALL) + AT_ONCE * len(MODELS)
    done = run_onboarding(plan_of(*place))
    assert asked(scripted_server) == times
    assert [(one.model, one.profile.error) for one in done] == [("sage", 0.0), ("poet", 1.0)]


def test_every_question_is_in_one_share():
    assert {share_of(question.digest) for question in SUMS} <= set(range(SHARES))


def budget_of(usd, *workers):
    budget = SharedBudget(usd)
    for who in workers:
        budget.begin(f"place of {who}", who)
    return budget


def test_a_reservation_that_a_lost_worker_still_waited_for_keeps_nothing_from_the_others():
    async def lose():
        budget = budget_of(1.0, "lost", "other")
        await budget.reserve_for("lost", 0.25)
        await budget.reserve_for("other", 0.5)
        waiting = asyncio.ensure_future(budget.reserve_for("lost", 0.5))
        await asyncio.sleep(0)
        budget.begin("place of lost", "next")
        budget.settle_for("lost", 0.25, 0.125)  # too late: it has been counted
        budget.settle_for("other", 0.5, 0.0)
        with pytest.raises(OverBudgetError, match="The worker lost has been replaced"):
            await waiting
        await asyncio.wait_for(budget.reserve_for("next", 0.75), 60)
        return budget.total()

    assert asyncio.run(lose()) == 0.25


def test_what_a_lost_worker_had_reserved_is_spent_when_another_takes_over():
    async def lose():
        budget = budget_of(1.0, "lost", "other")
        await budget.reserve_for("lost", 0.75)
        waiting = asyncio.ensure_future(budget.reserve_for("other", 0.5))
        await asyncio.sleep(0)
        budget.begin("place of lost", "next")
        with pytest.raises(OverBudgetError, match=r"\$0.75 of the budget"):
            await waiting
        return budget.total()

    assert asyncio.run(lose()) == 0.75


def test_a_sqlite_file_cannot_be_claimed_by_shares(tmp_path):
    claim = AnswerStore(tmp_path / "answers.sqlite").claimed([1])
    with pytest.raises(InvalidDataError, match="give a postgresql:// URL"), claim:
        pass


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_more_calls_at_once_than_a_budget_can_serve_are_refused(place):
    pytest.importorskip("ray.data", reason="Ray Data is not installed: pip install 'unirouter[ray]'")
    with pytest.raises(InvalidDataError, match="90 workers with 40 calls at once of each of 2 models are above 5,000"):
        onboard_dataset(plan_of(*place, concurrency=40), workers=90)


def test_ray_workers_fill_the_store_within_one_budget_and_onboard_the_models(place, scripted_server, ray):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own
        done = onboard_dataset(plan_of(*place, budget=1.0), workers=2)
    assert asked(scripted_server) == dict.fromkeys(ALL, 1)
    assert [(one.model, one.answered, one.profile.error) for one in done] == [("sage", 24, 0.0), ("poet", 24, 1.0)]
