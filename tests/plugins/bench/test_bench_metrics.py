"""The sign test, RouterBench's AIQ and RouterEval's entropy, by numbers worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unirouter_core.curves import Curve, deferral_curve
from unirouter_core.exceptions import InvalidDataError

pytest.importorskip("pandas")

from unirouter_plugins.bench.results import choice_entropy, mean_quality, sign_test_p

# Models that cost $1, $4 and $8 are right on 2, 3 and 0 of 4 prompts.
ERRORS = np.array([[0, 0, 1], [0, 0, 1], [1, 0, 1], [1, 1, 1]])
COSTS = np.array([1.0, 4.0, 8.0])


def test_the_sign_test_counts_coin_tosses():
    for wins, losses, p in ((0, 0, 1), (5, 5, 1), (1, 0, 1), (10, 0, 2 / 1024), (3, 1, 10 / 16)):
        assert sign_test_p(wins, losses) == p  # 3 to 1: twice (1 + 4) of 16


def test_the_sign_test_holds_for_many_tosses():
    assert sign_test_p(1060, 940) == pytest.approx(0.0078, abs=5e-4)  # z = 119.5 / sqrt(2000), with half a toss off


@given(st.integers(0, 60), st.integers(0, 60))
def test_the_sign_test_takes_neither_side(wins, losses):
    assert 0 < sign_test_p(wins, losses) == sign_test_p(losses, wins) <= 1


def test_negative_counts_are_refused():
    with pytest.raises(InvalidDataError, match="must be >= 0"):
        sign_test_p(-1, 3)


def test_aiq_is_the_mean_quality_between_the_cheapest_and_the_dearest_model():
    curve = deferral_curve(ERRORS, COSTS, ERRORS, COSTS)  # from (1, .5) to (1.75, .75), then flat to 8
    assert mean_quality(curve, 1.0, 8.0) == pytest.approx((0.625 * 0.75 + 0.75 * 6.25) / 7)


def test_aiq_is_on_the_non_decreasing_hull():
    falling = Curve([1.0, 2.0, 3.0], [0.2, 0.8, 0.4], [np.inf, 1.0, 0.0])
    assert mean_quality(falling, 1.0, 3.0) == pytest.approx((0.5 + 0.8) / 2)


def test_aiq_of_models_at_one_cost_is_refused():
    with pytest.raises(InvalidDataError, match="must be finite and above the cheapest"):
        mean_quality(Curve([1.0], [0.5], [0.0]), 1.0, 1.0)


def test_choices_spread_over_four_models_have_two_bits():
    assert choice_entropy([0, 1, 2, 3]) == 2.0
    assert choice_entropy([0, 0, 0, 1]) == pytest.approx(0.811278)  # -(3/4 log2 3/4 + 1/4 log2 1/4)
