"""Ten thousand requests at once, minutes; times are printed: pytest tests/soak --override-ini addopts='' -s."""

import pytest

from tests.plugins.servers import KEY
from tests.soak.load import wrong


@pytest.mark.parametrize("way", ["acomplete", "ainvoke"])
def test_nothing_is_lost_answered_twice_or_misrouted(world, monkeypatch, way):
    monkeypatch.setenv("SERVER_KEY", KEY)
    assert wrong(world, way, requests=5_000, concurrency=64) == ""
