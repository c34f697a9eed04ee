"""Each row's model is called once and paid for once, whatever is killed, within one budget."""

import asyncio
import json
import sqlite3
import time
from collections import Counter
from contextlib import closing

import pyarrow as pa
import pytest
import sqlalchemy as sa

from tests.plugins.servers import KEY, breaks, fails, rate_limited, says
from unirouter_core import InvalidDataError
from unirouter_plugins.onboarding.ask import OverBudgetError
from unirouter_plugins.onboarding.store import AnswerStore, StoreError
from unirouter_plugins.ray.calls import CallBatch, CallStore, Permits, call_dataset

PROMPTS = [f"What is {n} plus 3?" for n in range(12)]
pytestmark = [
    pytest.mark.filterwarnings("ignore:Items? .* on TypedDict class:UserWarning"),
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def place(monkeypatch, scripted_server, router, tmp_path):
    """The options of calls to the scripted server, at 1 USD per 1,000 tokens."""
    monkeypatch.setenv("LOOPBACK", KEY)
    where = f'api_base = "{scripted_server.url}"\napi_key_env = "LOOPBACK"\nprices = {{ input = 1000, output = 1000 }}'
    table = "\n".join(f'[models.{name}]\nmodel = "openai/{name}"\n{where}' for name in router.pool)
    (tmp_path / "pool.toml").write_text(table)
    router.save(tmp_path / "some.router")
    scripted_server.script |= dict.fromkeys(router.pool, says(lambda prompt: f"It is {prompt}"))
    return {
        "router": tmp_path / "some.router",
        "store": tmp_path / "calls.sqlite",
        "pool": tmp_path / "pool.toml",
        "max_tokens": 10,
    }


@pytest.fixture
def call(place):
    """Return a function that calls the models of a list of prompts, in a worker of its own."""

    def answered(prompts, **options):
        worker = CallBatch(**{**place, **options})
        try:
            return worker(pa.table({"prompt": prompts})).to_pylist()
        finally:
            worker.close()

    return answered


def asked(server):
    return Counter(seen.prompt for seen in server.seen)


def test_each_row_has_its_answer_its_bill_and_its_record(call, scripted_server):
    done = call([*PROMPTS, None])
    assert [row["answer"] for row in done] == [*(f"It is {prompt}" for prompt in PROMPTS), None]
    assert {row["unirouter_model"] for row in done[:-1]} == {seen.body["model"] for seen in scripted_server.seen}
    assert done[0]["usd"] == json.loads(done[0]["record"])["usd"] > 0
    assert done[-1]["error"] == "The prompt is null; give it a text."


def test_what_is_kept_is_not_paid_for_again(call, scripted_server):
    first = call(PROMPTS)
    again = call([*PROMPTS, "What is 99 plus 3?", "What is 99 plus 3?"])
    assert again[: len(PROMPTS)] == first
    assert set(asked(scripted_server).values()) == {1}


def test_other_options_are_other_calls(call, scripted_server):
    for tokens in (10, 20):
        call(PROMPTS[:1], max_tokens=tokens)
    assert asked(scripted_server) == {PROMPTS[0]: 2}


def test_the_answer_of_another_model_or_of_other_settings_is_not_taken(call, place, scripted_server):
    first = call(PROMPTS[:1], models=["sage"])
    assert call(PROMPTS[:1], models=["sage"], cost_weight=None, requires=(), temperature=None) == first
    assert len(scripted_server.seen) == 1
    assert call(PROMPTS[:1], models=["tutor"])[0]["unirouter_model"] == "tutor"
    table = place["pool"].read_text()
    place["pool"].write_text(table.replace('"openai/sage"\n', '"openai/sage"\nsettings = { temperature = 0.5 }\n'))
    call(PROMPTS[:1], models=["sage"])
    assert [seen.body["model"] for seen in scripted_server.seen] == ["sage", "tutor", "sage"]


def test_another_router_that_chooses_another_model_is_another_call(call, place, router, scripted_server):
    (first,) = call(PROMPTS[:1])
    router.retire(first["unirouter_model"])
    router.save(place["router"])
    (other,) = call(PROMPTS[:1])
    assert other["unirouter_model"] != first["unirouter_model"]


def test_an_answer_that_arrow_cannot_hold_is_a_row_like_others_now_and_when_it_is_taken_from_the_store(
    call, scripted_server
):
    scripted_server.script |= dict.fromkeys(scripted_server.script, says("half \ud83d"))
    assert [call(PROMPTS[:1])[0]["answer"] for _ in range(2)] == ["half ?"] * 2
    assert len(scripted_server.seen) == 1


def test_calls_that_have_begun_are_kept_though_the_store_refuses_one(call, place, scripted_server):
    with CallStore(place["store"]), closing(sqlite3.connect(place["store"])) as database:
        database.executescript(
            f"CREATE TRIGGER full BEFORE INSERT ON calls WHEN NEW.answer = 'It is {PROMPTS[0]}'"
            " BEGIN SELECT RAISE(ABORT, 'the disk is full'); END;"
        )
        with pytest.raises(StoreError, match="the disk is full"):
            call(PROMPTS)
        database.execute("DROP TRIGGER full")
        assert len(call(PROMPTS)) == len(PROMPTS)
    assert asked(scripted_server) == {**dict.fromkeys(PROMPTS, 1), PROMPTS[0]: 2}


def test_a_chat_is_not_called_by_a_part_of_it(call, scripted_server):
    (row,) = call([[{"role": "user", "content": PROMPTS[0]}]])
    assert row["error"] == "The prompt is of type list, not a text; make it one."
    assert not scripted_server.seen


def test_a_pool_beside_a_router_that_is_no_folder_is_refused(router, place):
    with pytest.raises(InvalidDataError, match="leave pool= out"):
        CallBatch(router, store=place["store"], pool=place["pool"])


def test_a_failed_row_has_its_sentence_and_is_tried_again_by_the_next_run(call, scripted_server):
    working = dict(scripted_server.script)
    scripted_server.script |= dict.fromkeys(working, breaks(400))
    (failed,) = call(PROMPTS[:1])
    assert failed["answer"] is None
    assert "error while processing your request" in failed["error"]
    scripted_server.script |= working
    assert call(PROMPTS[:1])[0]["error"] is None


def test_the_budget_is_never_exceeded_and_the_rest_says_so(call, scripted_server):
    permits = Permits(usd=0.1)
    done = call(PROMPTS, permits=permits)
    paid = [row for row in done if row["answer"] is not None]
    assert 0 < len(paid) < len(PROMPTS)
    assert sum(row["usd"] for row in paid) == pytest.approx(permits.spent)
    assert permits.spent <= 0.1
    assert all("of the budget of $0.1 are spent" in row["error"] for row in done if row["answer"] is None)
    assert len(scripted_server.seen) == len(paid)


@pytest.mark.parametrize(
    ("failure", "counted"),
    [(fails(404, "There is no such model.", code="model_not_found"), 0), (breaks(400), 0.026)],
    ids=["unbilled", "perhaps billed"],
)
def test_a_fallback_is_paid_from_the_budget_with_what_the_failure_may_have_cost(
    failure, counted, call, scripted_server
):
    scripted_server.script["sage"] = failure
    permits = Permits(usd=0.06)
    (row,) = call(PROMPTS[:1], permits=permits, models=["sage", "tutor"])
    assert row["unirouter_model"] == "tutor"
    assert permits.spent - row["usd"] == pytest.approx(counted, rel=0.1)


class Counting(Permits):
    calls = 0

    async def permit(self, who, worst):
        self.calls += 1
        await super().permit(who, worst)

    def count(self, who, calls):
        self.calls += calls
        super().count(who, calls)


def test_every_call_counts_in_the_rate_retries_fallbacks_and_votes_too(call, place, scripted_server):
    place["pool"].write_text(place["pool"].read_text().replace("\n[models.tutor]", "\n[models.tutor]\nvotes = VOTES"))
    place["pool"].write_text(place["pool"].read_text().replace("VOTES", '{ samples = 3, same = "text" }'))
    scripted_server.script["sage"] = fails(404, "There is no such model.", code="model_not_found")
    permits, busy = Counting(per_minute=60_000), rate_limited()
    one, answers = says("One."), iter([busy])
    scripted_server.script["poet"] = lambda *given: next(answers, one)(*given)
    done = [call(PROMPTS[:1], permits=permits, models=models)[0] for models in (["sage", "tutor"], ["poet"])]
    assert [row["answer"] for row in done] == [f"It is {PROMPTS[0]}", "One."]
    assert permits.calls == len(scripted_server.seen) == 1 + 3 + 2


@pytest.mark.parametrize("first", [True, False])
def test_rows_wait_for_calls_that_had_no_permit_of_their_own_those_in_the_queue_too(first):
    async def wait():
        permits = Permits(per_minute=6_000)
        permits.begin("place", "one")
        began = time.monotonic()
        rows = [asyncio.ensure_future(permits.permit("one", 0.0)) for _ in range(30)]
        if not first:
            await rows[0]
        permits.count("one", 20)
        await asyncio.gather(*rows)
        return time.monotonic() - began

    assert asyncio.run(wait()) > 0.38  # 30 + 20 calls at 100 a second, .1 s of them at once


def test_rows_that_the_budget_cannot_pay_do_not_wait_for_the_time():
    async def wait():
        permits = Permits(usd=1.0, per_minute=1e-3)
        permits.begin("place", "one")
        await permits.permit("one", 0.5)
        permits.settle_for("one", 0.5, 0.5)
        with pytest.raises(OverBudgetError):
            await permits.permit("one", 0.75)

    asyncio.run(asyncio.wait_for(wait(), 60))


def begun(*workers, **options):
    permits = Permits(**options)
    for who in workers:
        permits.enter(who, f"place of {who}")
    return permits


def test_one_worker_at_a_time_calls_for_an_answer_and_another_goes_on_when_it_is_lost():
    async def claimed():
        permits = begun("one", "two", "three")
        assert await permits.claim("one", "answer") is None
        assert await permits.claim("one", "answer") is None  # its reply was lost
        tasks = [asyncio.ensure_future(permits.claim(who, "answer")) for who in ("two", "three")]
        await permits.claim("two", "other answer")  # at once
        permits.free("two", "answer", "")  # which is not its own
        await asyncio.sleep(0)
        assert not tasks[0].done()
        permits.begin("place of one", "next")
        assert await tasks[0] is None
        permits.begin("place of three", "replaced")
        permits.free("two", "answer")
        with pytest.raises(OverBudgetError, match="The worker three has been replaced"):
            await tasks[1]
        assert await permits.claim("next", "answer") is None

    asyncio.run(asyncio.wait_for(claimed(), 60))


@pytest.mark.parametrize("outcome", ["", "It failed."])
def test_those_who_wait_for_an_answer_get_its_outcome_and_later_ones_call(outcome):
    async def claimed():
        permits = begun("one", "two", "three")
        await permits.claim("one", "answer")
        waiting = [asyncio.ensure_future(permits.claim(who, "answer")) for who in ("two", "three")]
        await asyncio.sleep(0)
        permits.free("one", "answer", outcome)
        return [await each for each in waiting], await permits.claim("two", "answer")

    assert asyncio.run(asyncio.wait_for(claimed(), 60)) == ([outcome, outcome], None)


def test_what_a_worker_holds_is_free_when_there_is_no_message_of_it_in_the_time_of_a_lease():
    async def silent():
        permits = begun("lost", "other", usd=1.0, lease=0.2)
        await permits.permit("lost", 0.5)
        await permits.claim("lost", "answer")
        claim = asyncio.ensure_future(permits.claim("other", "answer"))
        paid = asyncio.ensure_future(permits.permit("other", 0.75))
        while not (claim.done() and paid.done()):
            permits.alive("other")
            await asyncio.sleep(0.01)
        assert claim.result() is None
        with pytest.raises(OverBudgetError, match=r"\$0.5 of the budget"):
            paid.result()

    asyncio.run(asyncio.wait_for(silent(), 60))


class Beaten(Permits):
    beats = 0

    def alive(self, who):
        self.beats += 1
        super().alive(who)


def test_a_worker_sends_that_it_is_alive_while_it_calls(call, scripted_server):
    permits = Beaten(lease=0.12)

    def slow(*given):
        return says("It is late.", latency=0.5)(*given)

    scripted_server.script |= dict.fromkeys(scripted_server.script, slow)
    assert call(PROMPTS[:1], permits=permits)[0]["answer"] == "It is late."
    assert permits.beats > 5  # one for each step of a call, and some


class Silenced(Permits):
    def free(self, who, key, outcome=None):
        raise ConnectionError("The message was lost.")


def test_an_answer_that_is_kept_is_a_row_s_though_its_claim_could_not_be_freed(call, caplog):
    assert [row["error"] for row in call([*PROMPTS[:2], None], permits=Silenced())] == [
        None,
        None,
        "The prompt is null; give it a text.",
    ]
    assert "Equal prompts wait for the end of a batch" in caplog.text


def test_a_store_that_cannot_be_read_once_is_read_again(place, scripted_server):
    worker = CallBatch(**place)
    with closing(sqlite3.connect(place["store"])) as database:
        database.execute("ALTER TABLE calls RENAME TO away")
        failures = []

        def mend(failed):
            failures.append(failed)
            with closing(sqlite3.connect(place["store"])) as other:
                other.execute("ALTER TABLE away RENAME TO calls")

        sa.event.listen(sa.Engine, "handle_error", mend)
        try:
            done = worker({"prompt": PROMPTS[:1]})
        finally:
            sa.event.remove(sa.Engine, "handle_error", mend)
            worker.close()
    assert len(failures) == 1
    assert done["answer"][0] == f"It is {PROMPTS[0]}"


def test_the_sentence_on_a_store_that_cannot_be_read_says_so(place):
    with CallStore(place["store"]) as store, closing(sqlite3.connect(place["store"])) as database:
        database.execute("DROP TABLE calls")
        with pytest.raises(StoreError, match=r"Answers cannot be read from .*no such table"):
            store.kept(["a"])


def test_what_a_lost_worker_had_reserved_counts_as_spent():
    permits = Permits(usd=1)
    permits.begin("a", "lost")
    permits.begin("b", "other")
    assert permits.more("lost", 0.75)
    assert not permits.more("other", 0.5)
    permits.begin("a", "next")
    assert permits.spent == 0.75
    assert not permits.more("lost", 0.25)
    assert permits.more("other", 0.25)


def test_workers_get_paths_that_hold_in_any_folder_and_no_more_calls_than_permits_can_serve(ray, place, monkeypatch):
    class Dataset:
        def map_batches(self, _, **given):
            return given["fn_constructor_args"], given["fn_constructor_kwargs"]

    monkeypatch.chdir(place["store"].parent)
    relative = {"router": "some.router", "store": "calls.sqlite", "pool": "pool.toml"}
    (router,), given = call_dataset(Dataset(), **relative)
    assert {"router": router, "store": given["store"], "pool": given["pool"]} == {n: str(place[n]) for n in relative}
    with pytest.raises(InvalidDataError, match="100 workers with 100 calls at once are above 5,000; lower one"):
        call_dataset(Dataset(), **relative, workers=100, calls_at_once=100)


def test_calls_and_evaluations_share_a_database(tmp_path):
    with AnswerStore(tmp_path / "one.sqlite"), CallStore(tmp_path / "one.sqlite") as calls:
        assert calls.keep("a", "\0 \ud800", "{}") == calls.keep("a", "another", "{}") == ("\0 \ud800", "{}")
        assert calls.kept(["a", "b"]) == {"a": ("\0 \ud800", "{}")}
