import numpy as np
import pytest

from unirouter_core.estimators.calibration import interval_coverage, reliability
from unirouter_core.exceptions import InvalidDataError


def test_bins_hold_equal_counts_from_the_smallest_prediction_to_the_largest():
    found = reliability([[0.9, 0.1], [0.8, 0.2]], [[1, 0], [0, 0]], bins=2)
    assert found.predicted.tolist() == [pytest.approx(0.15), pytest.approx(0.85)]
    assert found.seen.tolist() == [0.0, 0.5]
    assert found.counts.tolist() == [2, 2]
    assert found.expected_error == pytest.approx((0.15 + 0.35) / 2)


def test_predictions_that_are_true_have_a_calibration_error_near_zero():
    rng = np.random.default_rng(0)
    predicted = rng.random((20_000, 3))
    assert reliability(predicted, rng.random(predicted.shape) < predicted).expected_error < 0.01


def test_predictions_too_low_by_a_tenth_have_that_calibration_error():
    rng = np.random.default_rng(0)
    predicted = 0.8 * rng.random((20_000, 3))
    wrong = rng.random(predicted.shape) < predicted + 0.1
    assert reliability(predicted, wrong).expected_error == pytest.approx(0.1, abs=0.01)


def test_fewer_predictions_than_bins_are_a_bin_each():
    assert len(reliability([0.5, 0.6], [1, 0]).counts) == 2


def test_predictions_of_another_shape_are_refused():
    with pytest.raises(InvalidDataError, match=r"shape \(2,\) and errors of shape \(1,\)"):
        reliability([0.5, 0.5], [1.0])


def test_an_interval_covers_a_region_whose_error_lies_inside():
    for stderr, share in ((0.0, 0.5), (0.4, 1.0)):
        regions = np.repeat([0, 1], 100)
        errors = np.repeat([[0.0], [1.0]], 100, axis=0)  # no sampling noise: each region is all right or all wrong
        predicted = np.repeat([[0.0], [0.5]], 100, axis=0)  # true in the first, off by half in the second
        assert interval_coverage(predicted, np.full_like(errors, stderr), errors, regions) == share


def test_the_sampling_of_a_region_is_allowed_for():
    rng = np.random.default_rng(1)
    regions = np.repeat(np.arange(200), 50)
    wrong = (rng.random((10_000, 1)) < 0.5).astype(float)
    covered = interval_coverage(np.full_like(wrong, 0.5), np.zeros_like(wrong), wrong, regions)
    assert covered == pytest.approx(0.8, abs=0.06)


def test_a_region_of_few_prompts_says_nothing():
    errors = np.zeros((24, 1))
    assert np.isnan(interval_coverage(errors, errors, errors, np.zeros(24, int)))


def test_the_coverage_of_a_method_without_standard_errors_is_nan():
    errors = np.zeros((30, 1))
    assert np.isnan(interval_coverage(errors, np.full_like(errors, np.nan), errors, np.zeros(30, int)))
