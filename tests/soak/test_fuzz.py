"""Five thousand hostile inputs; minutes, so it is run by hand: pytest tests/soak --override-ini addopts=''."""

import pytest

from tests.soak.fuzz import KINDS, Inputs, failing

EACH = 850  # 5,100 in all


@pytest.fixture(scope="module")
def inputs(world, tmp_path_factory):
    return Inputs(world, tmp_path_factory.mktemp("good"))


@pytest.mark.parametrize("part", range(10))
@pytest.mark.parametrize("kind", KINDS)
def test_a_hostile_input_is_accepted_or_refused_in_one_sentence(inputs, tmp_path, kind, part):
    seeds = range(part * EACH // 10, (part + 1) * EACH // 10)
    assert failing(inputs, kind, seeds, tmp_path) == ""
