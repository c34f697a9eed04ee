"""Each row's model is called once and paid for once, whatever is killed, within one budget."""

import json
from collections import Counter

import pyarrow as pa
import pytest

from tests.plugins.servers import KEY, breaks, fails, says
from unirouter_plugins.onboarding.store import AnswerStore
from unirouter_plugins.ray.calls import CallBatch, CallStore, Permits

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


def test_what_a_lost_worker_had_reserved_counts_as_spent():
    permits = Permits(usd=1)
    assert permits.more("lost", 0.75)
    assert not permits.more("other", 0.5)
    permits.begin("lost")
    assert permits.spent == 0.75
    assert permits.more("other", 0.25)


def test_calls_and_evaluations_share_a_database(tmp_path):
    with AnswerStore(tmp_path / "one.sqlite"), CallStore(tmp_path / "one.sqlite") as calls:
        calls.keep("a", "\0 \ud800", "{}")
        calls.keep("a", "another", "{}")
        assert calls.kept(["a", "b"]) == {"a": ("\0 \ud800", "{}")}
