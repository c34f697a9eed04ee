"""A little of tests/soak: each fault by one way to call, deadlines by all, and sixty requests at once."""

import pytest

from tests.plugins.servers import KEY
from tests.soak import load
from tests.soak.faults import FAILS, FAULTS, IGNORED, WAYS, Fault, bench, drips, hangs

pytestmark = [pytest.mark.filterwarnings(ignored) for ignored in IGNORED]


@pytest.fixture(scope="module")
def table(world):
    with pytest.MonkeyPatch.context() as monkeypatch, bench(world, monkeypatch, timeout=2.0) as made:
        yield made


def test_each_fault_ends_in_its_time_with_the_right_model_and_bill_by_some_way(table):
    ways = list(WAYS)
    assert table.broken([(fault, ways[place % len(ways)]) for place, fault in enumerate(FAULTS)], at_once=24) == ""


def test_a_deadline_ends_a_call_whatever_is_left_to_try(table, monkeypatch):
    silent = Fault(hangs, FAILS, others=drips(b" "), options={"timeout": 1, "deadline": 1.5})
    monkeypatch.setitem(FAULTS, "a deadline", silent)
    assert table.broken([("a deadline", way) for way in WAYS], at_once=len(WAYS)) == ""


def test_requests_at_once_are_each_answered_once_by_the_model_of_the_record(world, monkeypatch):
    monkeypatch.setenv("SERVER_KEY", KEY)
    assert load.wrong(world, "acomplete", requests=60, concurrency=16) == ""
