"""Every fault by every way to call, about a thousand cells; minutes: pytest tests/soak --override-ini addopts=''."""

import pytest

from tests.soak.faults import FAULTS, IGNORED, WAYS, bench

pytestmark = [pytest.mark.filterwarnings(ignored) for ignored in IGNORED]


@pytest.fixture(scope="module")
def table(world):
    with pytest.MonkeyPatch.context() as monkeypatch, bench(world, monkeypatch) as made:
        yield made


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_ends_in_its_time_with_the_right_model_and_bill_by_every_way(table, fault):
    if wrong := table.broken([(fault, way) for way in WAYS]):
        pytest.fail(wrong, pytrace=False)
