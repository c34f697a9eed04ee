"""Onboarding killed twenty times; minutes, so it is run by hand: pytest tests/soak --override-ini addopts=''."""

import pytest

from tests.conftest import fitted
from tests.plugins.onboarding.killing import SUMS, check_kills
from tests.plugins.servers import KEY, says, serve_script


@pytest.mark.parametrize("seed", range(3))
def test_twenty_kills_lose_nothing_and_ask_nothing_twice(world, tmp_path, monkeypatch, seed):
    monkeypatch.setenv("LOOPBACK", KEY)
    right = {question.prompt: question.reference for question in SUMS}
    with serve_script() as server:
        server.script["sage"] = says(right.get, latency=0.02)
        check_kills(server, fitted(world), tmp_path, kills=20, seed=seed)
