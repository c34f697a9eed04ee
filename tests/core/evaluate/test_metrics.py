import numpy as np
import pytest

from unirouter_core.curves import deferral_curve
from unirouter_core.evaluate import Bootstrap, measure
from unirouter_core.exceptions import InvalidDataError

# Models that cost $1, $4 and $8 are right on 2, 3 and 0 of 4 prompts.
ERRORS = np.array([[0, 0, 1], [0, 0, 1], [1, 0, 1], [1, 1, 1]])
COSTS = np.array([1.0, 4.0, 8.0])


def test_neutral_cost_is_a_share_of_the_dearest_and_of_the_most_accurate_model():
    measured = measure(deferral_curve(ERRORS, COSTS, ERRORS, COSTS), ERRORS, COSTS)
    # The $4 model is right on 3 of 4; so is the curve, when one prompt of four pays for it: (1 + 1 + 4 + 1) / 4.
    assert measured.qnc == 1.75 / 8
    assert measured.qnc_own == 1.75 / 4
    assert measured.reached
    assert measured.peak == 0.75
    assert measured.usd_per_right == 1.75 / 0.75


def test_areas_are_on_the_cost_of_the_dearest_model():
    curve = deferral_curve(ERRORS, COSTS, ERRORS, COSTS)
    rise = 0.625 * 0.09375  # from $1 to $1.75, of $8
    measured = measure(curve, ERRORS, COSTS)
    assert measured.area == 0.5 * 0.125 + rise + 0.75 * 0.78125
    assert measured.area_half == 0.5 * 0.125 + rise + 0.75 * 0.28125


def test_the_hull_reaches_a_quality_before_the_curve_does():
    errors, costs = np.array([[1, 1, 0], [1, 1, 0]]), np.array([1.0, 2.0, 3.0])
    curve = deferral_curve([0.9, 0.4, 0.0], costs, errors, costs)
    measured = measure(curve, [[1, 1, 0], [1, 1, 1]], costs)
    assert measured.qnc == 2 / 3  # half right is asked for
    assert curve.cost_at(0.5) == 2.5
    assert measured.area > curve.area(3.0)


def test_a_quality_never_reached_counts_as_full_cost():
    measured = measure(deferral_curve([0.0, 0.5, 0.5], COSTS, ERRORS, COSTS), ERRORS, COSTS)  # always the $1 model
    assert (measured.reached, measured.qnc, measured.qnc_own, measured.peak) == (False, 1.0, 1.0, 0.5)
    assert measured.usd_per_right == 4 / 0.75  # by the most accurate model alone


def test_models_that_are_never_right_have_no_finite_cost_of_a_right_answer():
    errors, costs = [[1, 1]], [1.0, 2.0]
    assert measure(deferral_curve(errors, costs, errors, costs), errors, costs).usd_per_right == np.inf


def test_of_equally_accurate_models_the_cheaper_is_the_mark():
    errors, costs = [[0, 0]], [2.0, 1.0]
    assert measure(deferral_curve(errors, costs, errors, costs), errors, costs).qnc_own == 1.0


def test_nothing_is_saved_on_a_free_most_accurate_model():
    errors, costs = [[0, 1]], [0.0, 1.0]
    measured = measure(deferral_curve(errors, costs, errors, costs), errors, costs)
    assert (measured.qnc, measured.qnc_own) == (0.0, 1.0)


def test_free_models_only_have_no_area():
    with pytest.raises(InvalidDataError, match="above 0"):
        measure(deferral_curve([[0]], [0.0], [[0]], [0.0]), [[0]], [0.0])


def test_a_paired_interval_is_as_wide_as_the_normal_law_says():
    low, high = Bootstrap(level=0.95, trials=4000).mean_interval(np.linspace(-1, 1, 400) + 0.5)
    deviation = (1 / 3 / 400) ** 0.5  # of the mean of 400 numbers spread evenly over [-1, 1]
    assert (low, high) == (
        pytest.approx(0.5 - 1.96 * deviation, abs=0.005),
        pytest.approx(0.5 + 1.96 * deviation, abs=0.005),
    )


def test_differences_that_are_not_known_are_refused():
    for differences in ([], [np.nan, 1.0], [[1.0]]):
        with pytest.raises(InvalidDataError, match="leave out pairs"):
            Bootstrap().mean_interval(differences)


def test_a_level_is_a_share():
    for level in (0.0, 1.0, 90):
        with pytest.raises(InvalidDataError, match="give a share between 0 and 1"):
            Bootstrap(level=level)


def test_without_a_draw_there_is_no_interval():
    with pytest.raises(InvalidDataError, match="at least 1"):
        Bootstrap(trials=0)
