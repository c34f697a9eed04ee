"""A little of tests/soak: each fault by one way to call, and sixty requests at once."""

import pytest

from tests.plugins.servers import KEY
from tests.soak import load
from tests.soak.faults import FAULTS, IGNORED, WAYS, bench

pytestmark = [pytest.mark.filterwarnings(ignored) for ignored in IGNORED]


def test_each_fault_ends_in_its_time_with_the_right_model_and_bill_by_some_way(world, monkeypatch):
    ways = list(WAYS)
    cells = [(fault, ways[place % len(ways)]) for place, fault in enumerate(FAULTS)]
    with bench(world, monkeypatch) as table:
        assert table.broken(cells) == ""


def test_requests_at_once_are_each_answered_once_by_the_model_of_the_record(world, monkeypatch):
    monkeypatch.setenv("SERVER_KEY", KEY)
    assert load.wrong(world, "acomplete", requests=60, concurrency=16) == ""
