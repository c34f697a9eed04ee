"""A little of tests/soak: some hostile inputs of each kind."""

import pytest

from tests.soak.fuzz import KINDS, Inputs, failing

EACH = 33  # 198 in all


@pytest.fixture(scope="module")
def inputs(world, tmp_path_factory):
    return Inputs(world, tmp_path_factory.mktemp("good"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_hostile_input_is_accepted_or_refused_in_one_sentence(inputs, tmp_path, kind):
    assert failing(inputs, kind, range(EACH), tmp_path) == ""
