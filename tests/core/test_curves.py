import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from unirouter_core.curves import Curve, deferral_curve, sweep, zero_router_curve
from unirouter_core.exceptions import InvalidDataError

# Two models that cost $1 and $4; the dear one answers one prompt more.
ERRORS = [[0, 0], [0, 0], [1, 0], [1, 1]]
COSTS = [1.0, 4.0]


def grid(shape, parts):
    """Tables of whole parts: sums of these are exact, so ties are ties."""
    return arrays(np.int64, shape, elements=st.integers(0, parts)).map(lambda table: table / parts)


@st.composite
def worlds(draw):
    """Predicted errors, costs (of a prompt or of a model), errors; few values, so that ties are many."""
    shape = draw(st.tuples(st.integers(1, 5), st.integers(1, 4)))
    costs = grid(draw(st.sampled_from([shape, shape[1:]])), 8)
    return draw(grid(shape, 4)), draw(costs), draw(grid(shape, 1))


def swept(predicted, costs, errors, cost_weight):
    """Mean cost and quality of the rule, one prompt and one model at a time."""
    average, costs = predicted.mean(0), np.broadcast_to(costs, predicted.shape)

    def rank(row, model):
        error, cost = predicted[row, model], costs[row, model]
        score = cost if cost_weight == np.inf else error + cost_weight * cost
        return score, cost, error, average[model], model

    chosen = [min(range(len(average)), key=lambda model: rank(row, model)) for row in range(len(predicted))]
    rows = np.arange(len(predicted))
    return costs[rows, chosen].mean(), 1 - errors[rows, chosen].mean()


def points(*pairs):
    costs, qualities = zip(*pairs, strict=True)
    return Curve(np.array(costs), np.array(qualities), np.zeros(len(pairs)))


def test_a_curve_has_one_point_for_every_choice_a_cost_weight_can_make():
    curve = deferral_curve(ERRORS, COSTS, ERRORS, COSTS)
    # At 0 only prompt 2 pays for the dear model: (1 + 1 + 4 + 1) / 4. One error for $3 more: it stops at 1 / 3.
    assert curve.costs.tolist() == [1.0, 1.75]
    assert curve.qualities.tolist() == [0.5, 0.75]
    assert sweep(ERRORS, COSTS, ERRORS, COSTS).cost_weights.tolist() == [0, 0, 0, 0, 1 / 3]


def test_a_choice_skips_a_model_that_no_cost_weight_prefers():
    predicted, costs = [[0.9, 0.8, 0.1]], [1.0, 2.0, 3.0]  # at $2, the mixture of the others errs 0.5
    assert deferral_curve(predicted, costs, [[1, 0, 0]], costs).costs.tolist() == [1.0, 3.0]


def test_models_that_tie_at_one_cost_weight_give_way_to_the_cheapest():
    predicted, costs = [[1.0, 0.5, 0.0]], [1.0, 2.0, 3.0]  # on one line: all tie at 0.5
    assert deferral_curve(predicted, costs, [[1, 0, 0]], costs).costs.tolist() == [1.0, 3.0]


def test_equal_errors_go_to_the_cheaper_model():
    assert deferral_curve([[0.5, 0.5]], [2.0, 1.0], [[0, 0]], [2.0, 1.0]).costs.tolist() == [1.0]


def test_full_ties_go_to_the_model_that_is_more_accurate_on_average():
    predicted, errors = [[0.5, 0.5], [0.5, 0.25]], [[1, 0], [0, 0]]
    assert deferral_curve(predicted, [1.0, 1.0], errors, [1.0, 1.0]).qualities.tolist() == [1.0]


def test_models_equal_in_everything_go_to_the_first():
    assert deferral_curve([[0.5, 0.5]], [1.0, 1.0], [[1, 0]], [1.0, 1.0]).qualities.tolist() == [0.0]


def test_a_free_model_ends_the_curve_at_exactly_no_cost():
    curve = deferral_curve([[0.5, 0.1]] * 3, [0.0, 0.1], [[1, 0]] * 3, [0.0, 0.1])
    assert curve.costs.tolist() == [0.0, pytest.approx(0.1)]
    assert curve.cost_weights.tolist() == [np.inf, 0.0]


def test_the_cost_axis_is_what_the_choices_really_cost():
    curve = deferral_curve([[0.5, 0.1]], [1.0, 2.0], [[0, 1]], [[7.0, 5.0]])
    assert curve.costs.tolist() == [5.0, 7.0]
    assert curve.cost_weights.tolist() == [0.0, np.inf]


def test_points_of_equal_cost_keep_the_more_accurate():
    curve = deferral_curve([[0.5, 0.1]], [1.0, 2.0], [[0, 1]], [3.0, 3.0])
    assert curve.costs.tolist() == [3.0]
    assert curve.qualities.tolist() == [1.0]


def test_costs_equal_up_to_rounding_are_one_point():
    curve = deferral_curve([[0.5, 0.1]], [1.0, 2.0], [[0, 1]], [0.1 + 0.2, 0.3])
    assert curve.qualities.tolist() == [1.0]


def test_nearly_equal_prices_still_end_at_the_cheapest():
    curve = deferral_curve([[0.5, 0.1]], [1e-320, 2e-320], [[1, 0]], [1.0, 2.0])
    assert curve.qualities.tolist() == [0.0, 1.0]


def test_the_zero_router_mixes_only_models_on_the_validation_hull():
    val_errors = [[1, 1, 0], [0, 0, 0]]  # the second model is no better than the first, and dearer
    curve = zero_router_curve(val_errors, [[1.0, 2.0, 3.0]] * 2, [[1, 0, 0]], [1.0, 2.0, 3.0])
    assert curve.costs.tolist() == [1.0, 3.0]
    assert curve.quality_at(1.5) == 0.25


def test_the_oracle_pays_for_the_cheapest_right_model():
    errors, costs = [[1, 0, 0], [1, 1, 1], [0, 0, 0]], [1.0, 3.0, 5.0]
    curve = deferral_curve(errors, costs, errors, costs)
    assert curve.costs.tolist() == [1.0, pytest.approx((3 + 1 + 1) / 3)]
    assert curve.peak == pytest.approx(2 / 3)


def test_the_hull_drops_what_a_mixture_beats():
    hull = points((1, 0.2), (2, 0.3), (3, 0.6), (4, 0.65), (5, 0.8)).hull()  # at 2 and at 4 mixtures give 0.4, 0.7
    assert hull.costs.tolist() == [1, 3, 5]


def test_the_hull_never_pays_more_for_less():
    hull = points((1, 0.5), (2, 0.75), (3, 0.75), (4, 0.25)).hull()
    assert hull.costs.tolist() == [1, 2]
    assert hull.quality_at(4) == 0.75


def test_the_hull_of_one_point_is_this_point():
    assert points((1, 0.5)).hull().costs.tolist() == [1]


def test_area_is_flat_outside_the_points():
    curve = points((1, 0.5), (1.75, 0.75))
    # On cost / 4: 0.5 up to 0.25, then 0.625 on average up to 0.4375, then 0.75.
    assert curve.area(4.0) == 0.5 * 0.25 + 0.625 * 0.1875 + 0.75 * 0.5625
    assert curve.area(4.0, upto=0.5) == 0.5 * 0.25 + 0.625 * 0.1875 + 0.75 * 0.0625


def test_area_stops_within_a_segment():
    assert points((0, 0.0), (4, 1.0)).area(4.0, upto=0.5) == 0.125  # a triangle of 0.5 by 0.5


def test_area_needs_a_cost_above_0():
    with pytest.raises(InvalidDataError, match="costs 0 USD"):
        points((0, 0.5)).area(0.0)


def test_cost_at_is_the_least_cost_that_reaches_a_quality():
    curve = points((1, 0.5), (2, 0.75), (3, 0.5), (4, 1.0))
    assert [curve.cost_at(quality) for quality in (0.25, 0.5, 0.625, 0.75, 1.0)] == [1, 1, 1.5, 2, 4]
    assert curve.cost_at(1.0 + 1e-12) == 4
    assert curve.cost_at(1.1) == np.inf


def test_what_is_not_known_is_refused():
    for place in range(4):
        for value in (np.nan, np.inf):
            tables = [np.full((2, 2), 0.5) for _ in range(4)]
            tables[place][1, 0] = value
            with pytest.raises(InvalidDataError, match=r"of prompt 1, model 0 must be .* keep the prompts and models"):
                sweep(*tables)


def test_quality_in_percent_is_refused():
    with pytest.raises(InvalidDataError, match=r"Error 73 of prompt 0, model 0 must be a number from 0 to 1"):
        deferral_curve([[0.5]], [1.0], [[73.0]], [1.0])


def test_errors_without_a_prompt_or_a_model_are_refused():
    for errors in ([], [0.5], np.zeros((0, 2)), np.zeros((2, 0))):
        with pytest.raises(InvalidDataError, match="one row a prompt"):
            deferral_curve(ERRORS, [1.0, 2.0], errors, [1.0, 2.0])


def test_costs_of_another_shape_are_refused():
    with pytest.raises(InvalidDataError, match=r"Costs have shape \(3,\), but the errors need \(4, 2\) or \(2,\)"):
        deferral_curve(ERRORS, [1.0, 2.0], ERRORS, [1.0, 2.0, 3.0])


def test_a_curve_checks_its_points():
    for costs, match in (([], "one of each"), ([1.0, 2.0], "one of each"), ([1.0, 1.0, 2.0], "must increase")):
        with pytest.raises(InvalidDataError, match=match):
            Curve(costs, [0.5] * len(costs) if len(costs) != 2 else [0.5], [0.0] * len(costs))


def test_prompts_counted_twice_are_prompts_standing_twice():
    predicted, costs, errors = np.random.default_rng(0).random((3, 20, 4))
    rows = [3, 3, 5, 11, 11, 11, 19]
    counted = sweep(predicted, costs, errors, costs).curve(np.bincount(rows, minlength=20))
    stood = deferral_curve(predicted[rows], costs[rows], errors[rows], costs[rows])
    assert counted.costs == pytest.approx(stood.costs)
    assert counted.qualities == pytest.approx(stood.qualities)


def test_a_cross_fitted_curve_has_the_corners_of_one_half_and_the_outcomes_of_the_other():
    predicted, costs, errors = np.random.default_rng(0).random((3, 21, 4))
    order = np.random.default_rng(5).permutation(21)
    halves = [np.flatnonzero(order < 10), np.flatnonzero(order >= 10)]
    curves = sweep(predicted, costs, errors, costs).crossfit(seed=5, halvings=1)
    for curve, (chosen, judged) in zip(curves, (halves, halves[::-1]), strict=True):
        corners = deferral_curve(predicted[chosen], costs[chosen], errors[chosen], costs[chosen]).hull().cost_weights
        assert set(curve.cost_weights) <= set(corners)
        for cost, quality, cost_weight in zip(curve.costs, curve.qualities, curve.cost_weights, strict=True):
            by_hand = swept(predicted[judged], costs[judged], errors[judged], cost_weight)
            assert by_hand == (pytest.approx(cost), pytest.approx(quality))


def test_predictions_without_skill_gain_under_the_hull_and_nothing_when_cross_fitted():
    rng, costs, leads = np.random.default_rng(0), np.array([1.0, 2.0, 4.0]), []
    for _ in range(20):
        errors = (rng.random((200, 3)) < [0.6, 0.5, 0.4]).astype(float)
        routed = sweep(rng.normal([0.6, 0.5, 0.4], 0.05, errors.shape), costs, errors, costs)
        mixed = sweep([0.6, 0.5, 0.4], costs, errors, costs)
        leads.append(
            [
                np.mean([one.area(4.0) for one in each])
                for each in ([routed.curve().hull()], [mixed.curve().hull()], routed.crossfit(), mixed.crossfit())
            ]
        )
    hull, hull_mixed, crossfitted, crossfitted_mixed = np.mean(leads, axis=0)
    assert hull - hull_mixed > 0.01
    assert crossfitted - crossfitted_mixed < 0.002


def test_one_prompt_cannot_be_cross_fitted():
    with pytest.raises(InvalidDataError, match="1 prompt has no two halves"):
        sweep([[0.5, 0.1]], [1.0, 2.0], [[0, 1]], [1.0, 2.0]).crossfit()


@given(worlds(), st.sampled_from([0, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4, 8, 100, np.inf]))
def test_every_point_of_a_sweep_by_hand_is_on_the_curve(world, cost_weight):
    predicted, costs, errors = world
    cost, quality = swept(predicted, costs, errors, cost_weight)
    curve = deferral_curve(predicted, costs, errors, costs)
    place = np.abs(curve.costs - cost).argmin()
    assert curve.costs[place] == pytest.approx(cost, abs=1e-12)
    assert curve.qualities[place] == pytest.approx(quality)


@given(worlds())
def test_every_point_is_what_its_cost_weight_gives(world):
    predicted, costs, errors = world
    curve = deferral_curve(predicted, costs, errors, costs)
    for cost, quality, cost_weight in zip(curve.costs, curve.qualities, curve.cost_weights, strict=True):
        assert swept(predicted, costs, errors, cost_weight) == (pytest.approx(cost), pytest.approx(quality))


@given(worlds())
def test_mean_predicted_cost_never_rises_with_cost_weight(world):
    predicted, costs, errors = world
    curve = deferral_curve(predicted, costs, errors, costs)
    assert (np.diff(curve.cost_weights) < 0).all()


@given(worlds())
def test_the_ends_are_the_most_accurate_and_the_cheapest_choices(world):
    predicted, costs, _ = world
    curve = deferral_curve(predicted, costs, predicted, costs)
    assert curve.qualities[-1] == pytest.approx(1 - predicted.min(1).mean())
    assert curve.costs[0] == pytest.approx(np.broadcast_to(costs, predicted.shape).min(1).mean())


@given(worlds())
def test_the_hull_is_concave_rising_and_nowhere_below_the_curve(world):
    predicted, costs, errors = world
    curve = deferral_curve(predicted, costs, errors, costs)
    hull = curve.hull()
    assert (np.diff(np.diff(hull.qualities) / np.diff(hull.costs)) < 1e-9).all()
    assert (np.diff(hull.qualities) > 0).all()
    assert (hull.quality_at(curve.costs) >= curve.qualities - 1e-12).all()


@given(worlds(), st.floats(0.125, 2))
def test_area_is_between_0_and_1_and_the_hull_has_more(world, dearest):
    predicted, costs, errors = world
    curve = deferral_curve(predicted, costs, errors, costs)
    assert 0 <= curve.area(dearest) <= curve.hull().area(dearest) + 1e-12 <= 1 + 2e-12
