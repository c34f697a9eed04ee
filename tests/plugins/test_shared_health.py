"""Cool-downs that processes share in a real Redis; without it each has its own."""

import logging

import pytest

from tests.plugins.redis_server import serve_redis
from tests.plugins.servers import free_port
from unirouter_plugins.litellm.health import Health, HealthTable
from unirouter_plugins.litellm.shared_health import KEY, RedisStore
from unirouter_plugins.litellm.timeouts import CallTimeoutError

SLOW = CallTimeoutError("slow")
NEVER = 3600.0  # seconds: the tests exchange themselves


@pytest.fixture(scope="module")
def running():
    with serve_redis() as server:
        yield server


@pytest.fixture
def tables(running):
    """The tables of two processes."""
    made = [HealthTable(RedisStore(running.url, every=NEVER)) for _ in range(2)]
    running.client().flushall()
    yield made
    for table in made:
        table.store.close()


def exchange(*tables):
    return [table.store.exchange() for table in tables]


def test_what_fails_in_one_process_is_avoided_in_the_other_until_it_answers(tables):
    ours, theirs = tables
    ours.failed("m", SLOW)
    assert "CallTimeoutError" in ours.cooling({"poet": "m"})["poet"]
    assert theirs.cooling({"poet": "m"}) == {}
    exchange(ours, theirs)
    assert theirs.cooling({"poet": "m"}) == ours.cooling({"poet": "m"})
    theirs.answered("m")
    exchange(theirs, ours)
    assert dict(ours.store) == dict(theirs.store) == {}


def test_while_redis_is_away_each_process_has_its_own_table_and_then_both_are_joined(running, tables, caplog):
    ours, theirs = tables
    ours.failed("m", SLOW)
    exchange(ours, theirs)
    running.kill()
    with caplog.at_level(logging.WARNING, "unirouter"):
        assert exchange(ours, theirs, ours) == [False] * 3
    assert [record.getMessage().partition(" (")[0] for record in caplog.records] == ["Redis is away"] * 2
    theirs.failed("n", SLOW)
    assert not theirs.may_try("m")
    assert not theirs.may_try("n")
    running.start()  # it has forgotten all
    assert exchange(ours, theirs, ours) == [True] * 3
    assert set(ours.store) == set(theirs.store) == {"m", "n"}


def test_the_copy_is_kept_up_to_date_by_itself(running, tables):
    ours = tables[0]
    ours.failed("m", SLOW)
    exchange(ours)
    other = RedisStore(running.url, every=0.01)
    for _ in range(1000):
        if other.get("m"):
            break
        other._closing.wait(0.02)
    other.close()
    assert other["m"] == ours.store["m"]


def test_entries_that_cannot_be_read_are_left_out(running, tables):
    store = tables[0].store
    for field, value in {
        "a": "{",
        "b": '{"until": 1}',
        "c": "[]",
        "d": '{"failures": 1, "kind": "T", "until": "soon", "tried": 0}',
    }.items():
        running.client().hset(KEY, field, value)
    store["m"] = Health(1, "Timeout")
    assert exchange(tables[0], tables[1]) == [True, True]
    assert dict(tables[1].store) == {"m": Health(1, "Timeout")}


def test_a_redis_that_was_never_there_costs_nothing_but_the_sharing():
    pytest.importorskip("redis", reason="Redis needs its client: pip install redis.")
    table = HealthTable(RedisStore(f"redis://127.0.0.1:{free_port()}", every=NEVER))
    table.failed("m", SLOW)
    assert exchange(table) == [False]
    assert not table.may_try("m")
    table.answered("m")
    assert table.may_try("m")
    table.store.close()
