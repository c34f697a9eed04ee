import itertools
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest

from unirouter_core.curves import deferral_curve
from unirouter_core.data import Outcomes
from unirouter_core.embedding import normalise
from unirouter_core.estimators import (
    DefaultEstimator,
    KMeansEstimator,
    KnownModelsEstimator,
    LearnedMapEstimator,
    LowRankEstimator,
    NeighboursEstimator,
    ShrunkenClustersEstimator,
    clairvoyant,
)
from unirouter_core.estimators.calibration import calibrated_scale
from unirouter_core.estimators.clusters import best_of
from unirouter_core.estimators.default import UNCALIBRATED, _Fold
from unirouter_core.estimators.linear import fit_ridge, fit_shift, shift_odds
from unirouter_core.estimators.low_rank import sigmoid
from unirouter_core.estimators.protocol import Prediction, WithoutAxes
from unirouter_core.exceptions import InvalidDataError, MissingOutcomesError

RNG = np.random.default_rng(0)
X = normalise(RNG.normal(size=(120, 8)))
X_VAL = normalise(RNG.normal(size=(60, 8)))
ERRORS = RNG.integers(0, 2, 60).astype(float)


def table(errors, costs=None):
    """Outcomes of nameless prompts and models."""
    n, m = np.shape(errors)
    costs = np.tile(np.geomspace(1e-4, 1e-2, m), (n, 1)) if costs is None else costs
    return Outcomes([f"prompt {i}" for i in range(n)], [f"model {j}" for j in range(m)], errors, costs)


def predict(estimator, errors=ERRORS, known=None):
    """What `estimator` expects on X of the one model that erred so on X_VAL."""
    return estimator.predict(X, estimator.profile(X_VAL, errors, known)[None]).errors[:, 0]


# --- The paper's estimators -------------------------------------------------------------------------------------------


def test_neighbours_are_the_indicator_of_the_nearest_k_over_k_times_the_errors():
    for k in (1, 5, 60, 1_000):
        nearest = np.argsort(-X @ X_VAL.T, axis=1)[:, :k]
        phi = np.zeros((120, 60))
        np.put_along_axis(phi, nearest, 1 / min(k, 60), axis=1)
        assert np.allclose(predict(NeighboursEstimator(k=k).fit(X)), phi @ ERRORS, atol=1e-6)


def test_neighbours_of_models_measured_on_different_prompts_are_their_own():
    estimator = NeighboursEstimator(k=1).fit(X)
    long, short = estimator.profile(X[:4], np.array([0.0, 1.0, 0.0, 1.0])), estimator.profile(X[4:6], np.ones(2))
    padded = np.pad(short, [(0, 2), (0, 0)], constant_values=np.nan)  # as a pool stacks them
    assert estimator.predict(X[:2], np.stack([long, padded])).errors.tolist() == [[0.0, 1.0], [1.0, 1.0]]


def test_fewer_neighbours_than_k_are_less_sure():
    estimator = NeighboursEstimator(k=30).fit(X)
    few, many = (estimator.profile(X_VAL[:n], ERRORS[:n]) for n in (4, 60))
    assert estimator.predict(X, few[None]).stderrs.mean() > 2 * estimator.predict(X, many[None]).stderrs.mean()


def test_of_validation_prompts_equally_near_the_same_count_alone_and_in_a_batch():
    copies = X[RNG.integers(0, 12, 50)]
    estimator = NeighboursEstimator(k=7).fit(X)
    features = estimator.profile(copies, RNG.integers(0, 2, 50))[None]
    alone = [estimator.predict(X[[row]], features).errors for row in range(len(X))]
    assert np.array_equal(np.concatenate(alone), estimator.predict(X, features).errors)


def test_one_cluster_of_all_prompts_ignores_the_prompt():
    for estimator in (
        KMeansEstimator(k=1),
        ShrunkenClustersEstimator(grid=(1,), prior=0),
        ShrunkenClustersEstimator(grid=(1,), prior=50),
        LearnedMapEstimator(k=1),
        NeighboursEstimator(k=60),
    ):
        estimator.fit(X, table(RNG.integers(0, 2, (120, 3))))
        assert np.allclose(predict(estimator), ERRORS.mean(), atol=1e-6)


def test_k_means_is_the_indicator_of_the_nearest_centroid_times_the_clusters_mean_errors():
    estimator = KMeansEstimator(k=5).fit(X)
    nearest = [((V[:, None] - estimator.centroids_) ** 2).sum(2).argmin(1) for V in (X, X_VAL)]
    psi = [ERRORS[nearest[1] == k].mean() for k in range(5)]
    assert np.allclose(predict(estimator), np.eye(5)[nearest[0]] @ psi, atol=1e-6)


def test_an_empty_cluster_has_the_models_overall_error():
    corners = np.eye(3, dtype=np.float32)
    for estimator in (KMeansEstimator(k=3), ShrunkenClustersEstimator(grid=(3,))):
        estimator.fit(corners[[0, 1, 2] * 4])
        features = estimator.profile(corners[[0, 1, 1, 1]], np.array([1.0, 0.0, 0.0, 0.0]))
        assert estimator.predict(corners[[2]], features[None]).errors.tolist() == [[0.25]]


def test_k_is_20_clusters_and_30_neighbours_without_outcomes_or_without_costs():
    free = table(RNG.integers(0, 2, (120, 3)), np.zeros((120, 3)))
    unknown = table(RNG.integers(0, 2, (120, 3)), np.full((120, 3), np.nan))
    assert len(KMeansEstimator().fit(X).centroids_) == 20
    assert NeighboursEstimator().fit(X).k_ == 30
    for outcomes in (free, unknown):
        with pytest.warns(UserWarning, match="K = 20 was not chosen: that needs 2 training models"):
            assert len(KMeansEstimator().fit(X, outcomes).centroids_) == 20
        with pytest.warns(UserWarning, match="k = 30 was not chosen"):
            assert NeighboursEstimator().fit(X, outcomes).k_ == 30


def test_a_grid_with_nothing_but_more_clusters_than_prompts_gives_a_cluster_a_prompt():
    outcomes = table(RNG.integers(0, 2, (25, 3)))
    assert len(KMeansEstimator(grid=(40, 80)).fit(X[:25], outcomes).centroids_) == 25
    assert len(ShrunkenClustersEstimator(grid=(40, 80)).fit(X[:25]).centroids_) == 1


def fine_world(seed):
    """Forty groups of prompts; in each, models err as they please: more than 40 answers can tell apart."""
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 40, 1_200)
    vectors = normalise(np.repeat(rng.normal(size=(40, 16)), 1, axis=0)[groups] + 0.05 * rng.normal(size=(1_200, 16)))
    chance = np.linspace(0.6, 0.2, 8) + rng.choice([-0.2, 0.2], (40, 8))
    return vectors, table(rng.random((1_200, 8)) < chance[groups])


def test_the_papers_rule_takes_more_clusters_than_a_small_validation_set_can_measure():
    for seed in (0, 1):
        vectors, outcomes = fine_world(seed)
        paper, ours = (
            KMeansEstimator(rule=rule, grid=(1, 5, 40), n_val=40).fit(vectors, outcomes) for rule in ("paper", "n_val")
        )
        assert len(paper.centroids_) == 40
        assert len(ours.centroids_) < 40


def test_the_chosen_candidate_routes_training_models_with_the_largest_area():
    vectors, outcomes = fine_world(0)
    costs = outcomes.costs.mean(0)
    order = np.random.default_rng([0, 0]).permutation(1_200)
    measured, routed = order[:960], order[960:]
    candidates = [KMeansEstimator(k=k).fit(vectors) for k in (1, 40)]
    areas = []
    for candidate in candidates:
        features = np.stack([candidate.profile(vectors[measured], outcomes.errors[measured, j]) for j in range(8)])
        predicted = candidate.predict(vectors[routed], features).errors
        curve = deferral_curve(predicted, costs, outcomes.errors[routed], costs)
        areas.append(curve.hull().area(costs.max()))
    assert areas[1] > areas[0]
    assert best_of(candidates, "K", vectors, outcomes, None, seed=0) is candidates[1]


def test_learned_map_moves_the_borders_that_clusters_put_in_the_wrong_place():
    vectors = normalise(np.random.default_rng(0).normal(size=(800, 2)))
    wrong = (vectors[:, 1] > 0.3).astype(float)  # a border that runs through clusters on the circle
    plain = KMeansEstimator(k=7).fit(vectors)
    learned = LearnedMapEstimator(k=7).fit(vectors, table(np.c_[wrong, 1 - wrong]))
    gaps = [
        np.abs(estimator.predict(vectors, estimator.profile(vectors, wrong)[None]).errors[:, 0] - wrong).mean()
        for estimator in (plain, learned)
    ]
    assert np.array_equal(plain.centroids_, learned.centroids_)
    assert np.array_equal(plain.profile(vectors, wrong), learned.profile(vectors, wrong))  # Ψ is of the clusters
    assert gaps[1] < 0.8 * gaps[0]


def test_learned_map_without_an_answer_to_judge_by_keeps_its_start():
    errors = np.full((120, 2), np.nan)
    errors[0] = [0.0, 1.0]
    learned = LearnedMapEstimator(k=4).fit(X, table(errors))
    assert np.allclose(learned.theta_, 10 * learned.centroids_, atol=1e-5)


def test_an_estimator_that_learns_from_training_models_says_so():
    for estimator in (LearnedMapEstimator(), LowRankEstimator(), KnownModelsEstimator()):
        with pytest.raises(MissingOutcomesError, match=f"{type(estimator).__name__} needs training models' outcomes"):
            estimator.fit(X)


# --- Shrunken clusters ------------------------------------------------------------------------------------------------


def test_shrunken_clusters_without_a_prior_are_k_means():
    shrunken, plain = ShrunkenClustersEstimator(grid=(6,), prior=0).fit(X), KMeansEstimator(k=6).fit(X)
    nearly = ShrunkenClustersEstimator(grid=(6,), prior=1e-9).fit(X)
    assert np.array_equal(predict(shrunken), predict(plain))
    assert np.allclose(predict(nearly), predict(plain), atol=1e-6)


def test_shrunken_clusters_with_a_huge_prior_are_the_overall_error():
    assert np.allclose(predict(ShrunkenClustersEstimator(grid=(4, 6), prior=1e9).fit(X)), ERRORS.mean(), atol=1e-6)


def test_shrunken_clusters_are_the_mean_of_one_for_each_k():
    both = predict(ShrunkenClustersEstimator(grid=(4, 9)).fit(X))
    four, nine = (predict(ShrunkenClustersEstimator(grid=(k,)).fit(X)) for k in (4, 9))
    assert np.allclose(both, (four + nine) / 2, atol=1e-6)


# --- Low rank ---------------------------------------------------------------------------------------------------------


def test_low_rank_finds_the_difficulty_that_all_models_share():
    rng = np.random.default_rng(0)
    vectors = normalise(rng.normal(size=(2_000, 8)) + 0.5)
    difficulty = 3 * vectors[:, 0]
    ability = rng.normal(size=12)
    outcomes = table(rng.random((2_000, 12)) < sigmoid(3 * difficulty[:, None] - ability))
    estimator = LowRankEstimator(rank=1).fit(vectors, outcomes)
    axis = (vectors @ estimator.axes_.T + estimator.intercepts_)[:, 0]
    assert abs(np.corrcoef(axis, difficulty)[0, 1]) > 0.97
    assert axis.mean() == pytest.approx(0, abs=1e-3)
    assert axis.std() == pytest.approx(1, abs=1e-3)


def test_low_rank_has_no_more_axes_than_the_training_models_differ_along():
    wrong = (X[:, [0]] > 0).astype(float)
    assert LowRankEstimator(rank=2).fit(X, table(np.repeat(wrong, 3, axis=1))).axes_.shape == (1, 8)
    assert LowRankEstimator(rank=2).fit(X, table(np.full((120, 3), 0.3))).axes_.shape == (0, 8)


def test_low_rank_meets_the_optimum_of_its_penalised_logistic_regression():
    estimator = LowRankEstimator().fit(X, table(X[:, :3] > 0))
    b, *a = estimator.profile(X_VAL, ERRORS)[:3].astype(float)
    axes = X_VAL @ estimator.axes_.T + estimator.intercepts_
    gap = sigmoid(b + axes @ a) - ERRORS
    assert gap.sum() + 1e-3 * b == pytest.approx(0, abs=1e-3)
    assert np.allclose(axes.T @ gap + estimator.penalty * np.array(a), 0, atol=1e-3)


def test_low_rank_stays_finite_for_models_that_are_always_or_never_right():
    estimator = LowRankEstimator().fit(X, table(X[:, :3] > 0))
    for errors in (np.zeros(60), np.ones(60)):
        assert np.allclose(predict(estimator, errors), errors[0], atol=0.01)


# --- Known models -----------------------------------------------------------------------------------------------------


def test_the_copy_of_a_training_model_is_known_as_its_twin():
    rng = np.random.default_rng(0)
    outcomes = table(rng.random((120, 5)) < 0.5)
    known = (rng.random((60, 5)) < 0.5).astype(float)
    estimator = KnownModelsEstimator(penalty=0.1).fit(X, outcomes)
    intercept, *weights = estimator.profile(X_VAL, known[:, 2], known)[:6]
    assert np.allclose(weights, [0, 0, 1, 0, 0], atol=0.03)
    assert intercept == pytest.approx(0, abs=0.03)


def test_known_models_are_linear_in_what_the_training_models_are_expected_to_do():
    outcomes = table(RNG.integers(0, 2, (120, 4)))
    known = RNG.integers(0, 2, (60, 4)).astype(float)
    estimator = KnownModelsEstimator().fit(X, outcomes)
    features = estimator.profile(X_VAL, ERRORS, known)
    axes, intercepts = fit_ridge(X, outcomes.errors, 10.0)
    expected = (X @ axes.T + intercepts) @ features[1:-1] + features[0]
    assert np.allclose(estimator.predict(X, features[None]).errors[:, 0], expected.clip(0, 1), atol=1e-5)


def test_known_models_without_a_signal_weigh_the_same():
    estimator = KnownModelsEstimator(penalty=1e9).fit(X, table(RNG.integers(0, 2, (120, 4))))
    features = estimator.profile(X_VAL, ERRORS, RNG.integers(0, 2, (60, 4)).astype(float))
    assert np.allclose(features[1:-1], 0.8 / 4, atol=1e-5)


def test_known_models_need_the_training_models_answers_on_the_validation_prompts():
    estimator = KnownModelsEstimator().fit(X, table(RNG.integers(0, 2, (120, 4))))
    for known in (None, np.full((60, 4), np.nan)):
        with pytest.raises(MissingOutcomesError, match="answers on the validation prompts; give them as known"):
            estimator.profile(X_VAL, ERRORS, known)


def test_the_clairvoyant_is_the_mean_of_clusters_and_a_ridge_on_all_labels():
    errors = RNG.integers(0, 2, (120, 2)).astype(float)
    clusters = ShrunkenClustersEstimator().fit(X)
    axes, intercepts = fit_ridge(X, errors, 30.0)
    by_cluster = clusters.predict(X_VAL, clusters.profiles(X, errors)).errors
    expected = np.clip((X_VAL @ axes.T + intercepts + by_cluster) / 2, 0, 1)
    assert np.allclose(clairvoyant(X, errors, X_VAL), expected, atol=1e-6)


def test_ridge_fits_each_column_on_the_rows_where_it_is_known():
    Y = RNG.normal(size=(120, 3))
    Y[:50, 0], Y[60:, 1], Y[:, 2] = np.nan, np.nan, np.nan
    axes, intercepts = fit_ridge(X, Y, 2.0)
    for column, rows in ((0, slice(50, None)), (1, slice(None, 60))):
        centred = X[rows] - X[rows].mean(0)
        slopes = np.linalg.solve(centred.T @ centred + 2 * np.eye(8), centred.T @ Y[rows, column])
        assert np.allclose(axes[column], slopes, atol=1e-4)
        assert intercepts[column] == pytest.approx(Y[rows, column].mean() - X[rows].mean(0) @ slopes, abs=1e-4)
    assert np.isnan(axes[2]).all()


# --- Default ----------------------------------------------------------------------------------------------------------


def test_the_default_fitted_on_bare_prompts_leaves_out_members_that_need_outcomes():
    default = DefaultEstimator().fit(X)
    assert default.left_out == ["LowRankEstimator", "KnownModelsEstimator"]
    assert np.allclose(predict(default), predict(ShrunkenClustersEstimator().fit(X)), atol=1e-6)
    assert (default.scale_ == UNCALIBRATED).all()


def test_the_default_takes_known_models_only_for_models_whose_prompts_training_models_answered():
    outcomes = table(RNG.integers(0, 2, (120, 4)))
    known = RNG.integers(0, 2, (60, 4)).astype(float)
    default = DefaultEstimator().fit(X, outcomes)
    a, b, c = (
        ShrunkenClustersEstimator().fit(X),
        LowRankEstimator().fit(X, outcomes),
        KnownModelsEstimator().fit(X, outcomes),
    )
    with_c, without_c = default.profile(X_VAL, ERRORS, known), default.profile(X_VAL, ERRORS)
    both = default.predict(X, np.stack([with_c, without_c]))  # one pool holds both
    assert default.left_out == []
    mixed = (
        predict(a) + predict(b) + 0.4 * predict(c, known=known)
    ) / 2.4  # 4 known models of the 10 that count as one
    assert np.allclose(both.errors[:, 0], mixed, atol=1e-5)
    assert np.allclose(both.errors[:, 1], (predict(a) + predict(b)) / 2, atol=1e-5)
    assert np.isfinite(both.stderrs).all()


def test_a_model_that_is_always_wrong_is_expected_to_be_and_no_more():
    for models in range(1, 30):  # of some of these numbers the shares of the members round to more than 1
        outcomes = table(np.ones((120, models)))
        errors = predict(DefaultEstimator().fit(X, outcomes), np.ones(60), np.ones((60, models)))
        assert (errors <= 1).all()
        assert np.allclose(errors, 1, atol=0.01)


def test_members_that_disagree_make_the_default_less_sure():
    members = [ShrunkenClustersEstimator(grid=(k,)) for k in (2, 9)]
    default = DefaultEstimator(members).fit(X)
    both = default.predict(X, default.profile(X_VAL, ERRORS)[None])
    a, b = (member.predict(X, member.profile(X_VAL, ERRORS)[None]) for member in members)
    apart = ((a.errors - b.errors) / 2) ** 2  # the variance of two numbers
    assert np.allclose(both.stderrs, 1.5 * np.sqrt(((a.stderrs + b.stderrs) / 2) ** 2 + apart), atol=1e-6)


def test_known_models_put_no_weight_on_training_models_without_answers_here():
    known = RNG.integers(0, 2, (60, 4)).astype(float)
    known[:, 1] = np.nan
    estimator = KnownModelsEstimator().fit(X, table(RNG.integers(0, 2, (120, 4))))
    weights = estimator.profile(X_VAL, ERRORS, known)[1:-1]
    assert weights[1] == 0
    assert (weights[[0, 2, 3]] > 0).all()


def test_a_default_that_no_member_can_serve_says_what_is_missing():
    with pytest.raises(
        MissingOutcomesError, match="LowRankEstimator, KnownModelsEstimator need training models' outcomes"
    ):
        DefaultEstimator([LowRankEstimator(), KnownModelsEstimator()]).fit(X)
    default = DefaultEstimator([KnownModelsEstimator()]).fit(X, table(RNG.integers(0, 2, (120, 4))))
    with pytest.raises(MissingOutcomesError, match="give them as known"):
        default.profile(X_VAL, ERRORS)


def test_the_default_refuses_features_that_grow_with_the_prompts():
    with pytest.raises(InvalidDataError, match="NeighboursEstimator cannot be a member"):
        DefaultEstimator([NeighboursEstimator()]).fit(X)


def many_models(n=1_500, m=30):
    """Vectors, chances of error by region-like kinds and by a shared difficulty, and errors drawn from them."""
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 8, n)
    vectors = normalise(rng.normal(size=(8, 12))[kinds] + 0.3 * rng.normal(size=(n, 12)))
    slopes = rng.normal(1, 0.3, m)
    logits = slopes * (2 * vectors[:, [0]]) + rng.normal(size=m) + 0.5 * rng.normal(size=(8, m))[kinds]
    return vectors, sigmoid(logits), rng.random((n, m)) < sigmoid(logits), kinds


def test_intervals_of_80_percent_hold_new_models_errors_after_few_answers_and_many_with_known_models_and_without():
    vectors, chances, errors, kinds = many_models()
    outcomes, seen = table(errors), slice(1_200, None)
    default = DefaultEstimator().fit(vectors[:1_000], outcomes.rows(range(1_000)).of(outcomes.models[:20]))
    assert default.sizes_.tolist() == [50, 100, 200, 400]
    for n, known in itertools.product((50, 200), (errors[:, :20].astype(float), None)):
        rows = slice(1_000, 1_000 + n)
        answers = None if known is None else known[rows]
        features = [default.profile(vectors[rows], column, answers) for column in errors[rows, 20:].T]
        predicted = default.predict(vectors[seen], np.stack(features))
        inside = []
        for kind in range(8):
            rows = kinds[seen] == kind
            gap = chances[seen, 20:][rows].mean(0) - predicted.errors[rows].mean(0)
            inside.append(np.abs(gap) <= 1.2816 * predicted.stderrs[rows].mean(0))
        assert 0.7 <= np.mean(inside) <= 0.95, (n, known is None)


def test_held_out_models_are_each_measured_on_prompts_of_their_own():
    vectors, _, errors, _ = many_models(600, 12)
    Watched.measured.clear()
    DefaultEstimator([Watched(ShrunkenClustersEstimator(grid=(4,)))]).fit(vectors, table(errors.astype(float)))
    assert len({first for n, first in Watched.measured if n == 100}) == 12


def test_intervals_do_not_hide_what_models_err_in_common_by_a_shift_learned_from_themselves():
    rng, regions = np.random.default_rng(0), np.arange(400) % 4
    expected = Prediction(np.full((400, 2), 0.5), lambda: np.full((400, 2), 0.1))

    class Held(DefaultEstimator):
        def _held_out(self, X, outcomes):
            for chance in (0.7, 0.3):
                errors = (rng.random((400, 2)) < chance).astype(float)
                yield _Fold(np.array([100]), expected, [expected, expected], errors, np.zeros(400), regions)

    vectors, _, errors, _ = many_models(400, 6)
    assert Held().fit(vectors, table(errors.astype(float))).scale_.min() > 2  # gaps of .4; of .2 with one level for all


def test_a_fit_with_one_scale_for_all_numbers_of_answers_keeps_its_features_and_intervals():
    default, errors = DefaultEstimator([ShrunkenClustersEstimator(grid=(4,))]).fit(X), ERRORS
    scaled = default.predict(X_VAL, default.profile(X_VAL, errors)[None]).stderrs
    default.scale_ = np.array(2.0)  # as saved by version 0.1
    features = default.profile(X_VAL, errors)
    assert len(features) == default.widths_.sum()
    assert np.allclose(default.predict(X_VAL, features[None]).stderrs, scaled / UNCALIBRATED * 2)


def test_ten_known_models_have_the_weight_of_one_member():
    outcomes, known = table(RNG.integers(0, 2, (120, 30))), RNG.integers(0, 2, (60, 30)).astype(float)
    members = ShrunkenClustersEstimator(grid=(4,)), KnownModelsEstimator()
    a, c = (member.fit(X, outcomes) for member in members)
    default = DefaultEstimator(members).fit(X, outcomes)  # on too few prompts for a shift
    expected = (predict(a) + 3 * predict(c, known=known)) / 4  # 30 known models: three to one
    assert np.allclose(predict(default, known=known), expected, atol=1e-5)


def test_predicted_errors_are_calibrated_after_the_odds_are_shifted_by_difficulty():
    vectors, chances, errors, _ = many_models()
    errors = errors.astype(float)
    training = table(errors[:1_000, :20])
    default = DefaultEstimator(n_val=200).fit(vectors[:1_000], training)
    measured, seen = slice(1_000, 1_200), slice(1_200, None)
    features = np.stack([default.profile(vectors[measured], e, errors[measured, :20]) for e in errors[measured, 20:].T])
    shifted = default.predict(vectors[seen], features).errors
    default.shift_ = np.zeros_like(default.shift_)
    plain = default.predict(vectors[seen], features).errors
    truth = chances[seen, 20:]
    assert ((shifted - truth) ** 2).mean() < 0.9 * ((plain - truth) ** 2).mean()
    assert (shifted.argsort(axis=1) == plain.argsort(axis=1)).all()  # the ranking of models stays the same


def test_shifting_odds_keeps_certainty_and_never_leaves_the_unit_interval():
    shifted = shift_odds(np.array([[0.0, 0.2, 1.0]] * 3), np.array([-50.0, np.log(4), 50.0]))
    assert shifted[:, 0].tolist() == [0, 0, 0]
    assert shifted[:, 2].tolist() == [1, 1, 1]
    assert shifted[1, 1] == pytest.approx(0.5)  # odds 1 : 4 become 4 : 4


def test_the_shift_that_was_applied_is_found_again():
    rng = np.random.default_rng(0)
    hardness, predicted = rng.normal(size=20_000), rng.uniform(0.2, 0.8, 20_000)
    errors = (rng.random(20_000) < shift_odds(predicted[:, None], 0.7 * hardness - 0.3)[:, 0]).astype(float)
    assert fit_shift(predicted, hardness, errors) == pytest.approx((0.7, -0.3), abs=0.05)


def test_a_shift_learned_from_certain_predictions_is_none():
    assert fit_shift(np.zeros(10), np.arange(10.0), np.zeros(10)) == (0, 0)


def test_a_default_with_too_few_answers_to_calibrate_on_is_not_calibrated():
    for answered in (299, 30, 2):
        vectors, _, errors, _ = many_models(600, 6)
        errors = errors.astype(float)
        errors[answered:] = np.nan
        n = 299 if answered == 299 else 600
        default = DefaultEstimator().fit(vectors[:n], table(errors[:n]))
        assert (default.scale_ == UNCALIBRATED).all()
        assert not default.shift_.any()


def test_the_calibrated_scale_is_never_absurd():
    for n in (300, 400):
        vectors, _, errors, _ = many_models(n, 6)
        errors = errors.astype(float)
        errors[3:, 5] = np.nan  # a model with next to no answers
        scale = DefaultEstimator().fit(vectors, table(errors)).scale_
        assert 0.5 <= scale.min() <= scale.max() < 5


def test_the_calibrated_scale_is_the_least_that_covers_80_percent_and_of_few_models_more():
    # Ten gaps of .1 to 1.0 at a standard error of .1: the eighth, .8, is reached at .8 / (1.2816 * .1) = 6.24.
    gaps = np.stack([np.arange(1, 11) / 10, np.full(10, 0.1), np.zeros(10)], axis=1)
    assert calibrated_scale(gaps, 10**9) == calibrated_scale(gaps, 10) == pytest.approx(7.02, rel=0.03)  # the ninth
    assert calibrated_scale(gaps, 2) == pytest.approx(7.8, rel=0.03)  # all ten


def test_an_estimator_without_axes_can_be_a_member_and_stays_so_inside_another_default():
    members = [ShrunkenClustersEstimator(grid=(4,)), ShrunkenClustersEstimator(grid=(9,))]
    plain = DefaultEstimator([WithPredict(members[0]), members[1]]).fit(X)
    nested = DefaultEstimator([DefaultEstimator([members[0]]), WithPredict(members[1])]).fit(X)
    both = [
        each.predict(X, each.profile(X_VAL, ERRORS)[None]) for each in (DefaultEstimator(members).fit(X), plain, nested)
    ]
    assert all(np.allclose(each.errors, both[0].errors, atol=1e-6) for each in both)
    assert np.allclose(both[0].stderrs, both[1].stderrs, atol=1e-6)


def test_an_estimator_without_axes_predicts_once_for_errors_and_standard_errors():
    inner = ShrunkenClustersEstimator(grid=(4,))
    wrapped = WithoutAxes(counted := Counted(inner.fit(X)))
    features, products = inner.profile(X_VAL, ERRORS)[None], np.empty((len(X), 0))
    prediction = wrapped.predict(X, features)
    assert np.array_equal(prediction.stderrs, inner.predict(X, features).stderrs)
    assert counted.calls == 1
    default = DefaultEstimator([counted]).fit(X)
    counted.calls = 0
    default.stderrs(X, np.hstack([products, np.zeros((len(X), 1))]), features)
    assert counted.calls == 1


def test_features_of_a_member_that_are_nan_reach_it_as_they_are():
    inner = DefaultEstimator([KnownModelsEstimator(), ShrunkenClustersEstimator(grid=(4,))])
    outcomes, known = table(RNG.integers(0, 2, (120, 4))), RNG.integers(0, 2, (60, 4)).astype(float)
    for member in (inner, NanFirst(ShrunkenClustersEstimator(grid=(4,)))):
        outer = DefaultEstimator([member]).fit(X, outcomes)
        for answers in (None, known):  # without, the first part of the inner default has no features
            features = outer.profile(X_VAL, ERRORS, answers)[None]
            assert np.allclose(outer.predict(X, features).errors, member.predict(X, features).errors, atol=1e-6)


@dataclass(eq=False)
class WithPredict:
    """Another estimator by its protocol alone."""

    inner: Any

    def fit(self, X, outcomes=None):
        self.inner.fit(X, outcomes)
        return self

    def profile(self, X, errors, known=None):
        return self.inner.profile(X, errors, known)

    def predict(self, X, features):
        return self.inner.predict(X, features)


class Watched(WithPredict):
    """One that keeps how many prompts a model was measured on, and the first."""

    measured: ClassVar[list[tuple[int, bytes]]] = []

    def profile(self, X, errors, known=None):
        self.measured.append((len(X), X[0].tobytes()))
        return super().profile(X, errors, known)


@dataclass(eq=False)
class Counted(WithPredict):
    """One that counts its calls."""

    calls: int = 0

    def predict(self, X, features):
        self.calls += 1
        return super().predict(X, features)


class NanFirst(WithPredict):
    """One that means something by a NaN in its features."""

    def profile(self, X, errors, known=None):
        return np.concatenate([[np.nan], super().profile(X, errors, known)])

    def predict(self, X, features):
        return super().predict(X, np.where(np.isnan(features[:, :1]), features[:, 1:], 1))


def test_settings_that_make_no_sense_are_refused_at_once():
    for make, sentence in [
        (lambda: KMeansEstimator(k=0), "KMeansEstimator: k=0 must be a whole number, at least 1"),
        (lambda: KMeansEstimator(rule="papper"), "rule='papper' must be 'n_val' or 'paper'"),
        (
            lambda: NeighboursEstimator(grid=(5, -3)),
            r"NeighboursEstimator: grid=\(5, -3\) must be a whole number, at least 1",
        ),
        (lambda: KMeansEstimator(k=2.5), "k=2.5 must be a whole number"),
        (lambda: NeighboursEstimator(grid=()), r"grid=\(\) must be a whole number"),
        (lambda: LowRankEstimator(ridge=None), "ridge=None must be at least 0"),
        (lambda: KnownModelsEstimator(penalty=-1), "KnownModelsEstimator: penalty=-1 must be at least 0"),
        (lambda: DefaultEstimator(n_val=0), "DefaultEstimator: n_val=0 must be a whole number, at least 2"),
    ]:
        with pytest.raises(InvalidDataError, match=sentence):
            make()
