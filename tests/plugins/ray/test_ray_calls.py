"""Each row's model is called once and paid for once, whatever is killed, within one budget."""

import asyncio
import json
import sqlite3
import time
from collections import Counter
from contextlib import closing

import pyarrow as pa
import pytest

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


def test_rows_wait_for_calls_that_had_no_permit_of_their_own():
    async def wait():
        permits = Permits(per_minute=6_000)
        permits.begin("place", "one")
        began = time.monotonic()
        permits.count("one", 20)
        await permits.permit("one", 0.0)
        return time.monotonic() - began

    assert asyncio.run(wait()) > 0.19


def test_one_worker_at_a_time_calls_for_an_answer_and_another_goes_on_when_it_is_lost():
    async def claimed():
        permits, order = Permits(), list[str]()
        for who in ("one", "two", "three"):
            permits.begin(f"place of {who}", who)
        await permits.claim("one", "answer")

        async def claim(who):
            await permits.claim(who, "answer")
            order.append(who)

        tasks = [asyncio.ensure_future(claim(who)) for who in ("two", "three")]
        await permits.claim("two", "other answer")  # at once
        permits.free("two", "answer")  # which is not its own
        await asyncio.sleep(0)
        assert not order
        permits.begin("place of one", "next")
        await tasks[0]
        assert order == ["two"]
        permits.begin("place of three", "replaced")
        permits.free("two", "answer")
        with pytest.raises(OverBudgetError, match="The worker three has been replaced"):
            await tasks[1]
        await permits.claim("next", "answer")

    asyncio.run(asyncio.wait_for(claimed(), 60))


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
