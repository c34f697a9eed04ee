"""What holds for any router, whatever was learned and whatever is asked."""

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.conftest import evaluation, fitted, make_world, small_default
from unirouter_core.data import Evaluation, ValidationSet
from unirouter_core.estimators import KMeansEstimator, NeighboursEstimator
from unirouter_core.router import UniRouter
from unirouter_core.rule import choose, in_order

WORLD = make_world()
ESTIMATORS = {
    "k-means": lambda: KMeansEstimator(k=4),
    "neighbours": lambda: NeighboursEstimator(k=5),
    "default": small_default,
}
FITTED = {name: fitted(WORLD, make()) for name, make in ESTIMATORS.items()}
EVALUATIONS = {model: evaluation(WORLD, model) for model in WORLD.models}
EVALUATIONS["free"] = Evaluation("free", EVALUATIONS["bard"].validation, EVALUATIONS["bard"].errors, costs=np.zeros(80))
FEW = EVALUATIONS["clerk"]
EVALUATIONS["brief"] = Evaluation("brief", ValidationSet(WORLD.prompts[220:]), FEW.errors[60:], FEW.costs[60:])
NAMES = sorted(EVALUATIONS)

estimators = st.sampled_from(sorted(FITTED))
pools = st.lists(st.sampled_from(NAMES), min_size=1, unique=True)
cost_weights = st.one_of(st.just(0.0), st.floats(1e-3, 1e300), st.just(np.inf))
prompts = st.lists(
    st.one_of(st.sampled_from(WORLD.prompts), st.text(min_size=1).filter(str.strip)), min_size=1, max_size=5
)
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def with_pool(estimator, models):
    """The fitted router with these models, onboarded in this order."""
    router = FITTED[estimator]
    for model in router.pool:
        router.retire(model)
    for model in models:
        router.onboard(EVALUATIONS[model])
    return router


def numbers(router, texts):
    expected = router.expect(texts)
    arrays = [a.astype(float) for a in (expected.prediction.errors, expected.prediction.stderrs, expected.costs)]
    return {model: tuple(array[:, j].tobytes() for array in arrays) for j, model in enumerate(router.pool)}


@quick
@given(estimators, pools, prompts, cost_weights, cost_weights)
def test_mean_predicted_cost_never_rises_with_cost_weight(estimator, models, texts, one, other):
    router = with_pool(estimator, models)
    low, high = (router.route_batch(texts, cost_weight=weight).costs.mean() for weight in sorted((one, other)))
    assert high <= low * (1 + 1e-9)


@quick
@given(estimators, pools, prompts, cost_weights)
def test_many_routes_are_one_route_batch(estimator, models, texts, cost_weight):
    router = with_pool(estimator, models)
    batch = router.route_batch(texts, cost_weight=cost_weight)
    assert [router.route(text, cost_weight=cost_weight).model for text in texts] == batch.models
    assert [decision.model for decision in batch] == batch.models


@quick
@given(estimators, pools, prompts, st.randoms(use_true_random=False))
def test_the_order_of_onboarding_changes_nothing(estimator, models, texts, random):
    before = numbers(with_pool(estimator, models), texts)
    assert numbers(with_pool(estimator, random.sample(models, len(models))), texts) == before


@quick
@given(estimators, pools, prompts)
def test_0_is_the_most_accurate_and_infinity_the_cheapest(estimator, models, texts):
    router = with_pool(estimator, models)
    expected = router.expect(texts)
    accurate, cheap = router.route_batch(texts, cost_weight=0), router.route_batch(texts, cost_weight=np.inf)
    assert (accurate.errors <= expected.prediction.errors.min(axis=1) + 2e-6).all()
    assert np.allclose(cheap.costs, expected.costs.min(axis=1), rtol=1e-9, atol=0)
    if "free" in models:
        assert set(cheap.models) == {"free"}


@quick
@given(estimators, pools, prompts)
def test_a_model_onboarded_twice_is_there_once(estimator, models, texts):
    router = with_pool(estimator, models)
    before = numbers(router, texts)
    router.onboard(EVALUATIONS[models[0]], replace=True)
    assert numbers(router, texts) == before


@quick
@given(estimators, pools, prompts, st.sampled_from(NAMES))
def test_a_new_model_changes_no_other_and_retiring_undoes_it(estimator, models, texts, new):
    router = with_pool(estimator, [model for model in models if model != new] or ["sage" if new != "sage" else "poet"])
    before = numbers(router, texts)
    router.onboard(EVALUATIONS[new])
    during = numbers(router, texts)
    for model, was in before.items():  # BLAS rounds by the width of its matrices
        for column, column_was in zip(during[model], was, strict=True):
            assert np.allclose(np.frombuffer(column), np.frombuffer(column_was), atol=1e-6)
    router.retire(new)
    assert numbers(router, texts) == before


@settings(quick, max_examples=15)
@given(estimators, pools, prompts, cost_weights)
def test_what_is_saved_and_loaded_routes_the_same_to_the_bit(tmp_path_factory, estimator, models, texts, cost_weight):
    router = with_pool(estimator, models)
    folder = tmp_path_factory.mktemp("law") / "my.router"
    router.save(folder)
    loaded = UniRouter.load(folder)
    assert numbers(loaded, texts) == numbers(router, texts)
    one, other = (each.route(texts[0], cost_weight=cost_weight).as_dict() for each in (router, loaded))
    assert one == other


@quick
@given(estimators, pools, prompts, cost_weights)
def test_the_chosen_model_has_the_least_score(estimator, models, texts, cost_weight):
    router = with_pool(estimator, models)
    decision = router.route(texts[0], cost_weight=cost_weight)
    tolerance = 1e-9 * decision.cost if np.isinf(cost_weight) else 2e-6
    assert decision.ranking[0].model == decision.model
    assert decision.ranking[0].score <= min(row.score for row in decision.ranking) + tolerance
    assert [row.model for row in sorted(decision.ranking, key=lambda row: row.model)] == sorted(models)


@st.composite
def tables(draw):
    """Errors and costs in quarters, so that ties are exact and many; a cost_weight; who is allowed."""
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 5)))
    quarters = arrays(np.int64, shape, elements=st.integers(0, 4)).map(lambda table: table / 4)
    allowed = draw(arrays(bool, shape))
    allowed[:, 0] |= ~allowed.any(axis=1)
    return draw(quarters), draw(quarters), draw(st.sampled_from([0.0, 0.25, 1.0, 4.0, np.inf])), allowed


@settings(max_examples=300, deadline=None)
@given(tables())
def test_exact_ties_go_to_the_cheaper_then_the_more_accurate_then_the_first(table):
    errors, costs, weight, allowed = table

    def rank(row, j):
        score = costs[row, j] if np.isinf(weight) else errors[row, j] + weight * costs[row, j]
        return score, costs[row, j], errors[row, j], j

    by_hand = [min(np.flatnonzero(mask), key=lambda j: rank(row, j)) for row, mask in enumerate(allowed)]
    assert choose(errors.astype(np.float32), costs, weight, allowed).tolist() == by_hand


near_ties = st.sampled_from([0.0, 5e-7, 1e-6, 1.5e-6, 0.25, 0.25 + 8e-7, 0.5, 0.75])


@settings(max_examples=500, deadline=None)
@given(
    st.integers(1, 9).flatmap(lambda m: st.tuples(*[arrays(kind, m, elements=near_ties) for kind in "fd"])),
    st.sampled_from([0.0, 0.25, 1.0, 4.0, np.inf]),
    st.sets(st.integers(0, 8)),
)
def test_the_order_is_the_rule_again_and_again(table, weight, left_out):
    errors, costs = table
    columns = np.array(sorted(set(range(len(errors))) - left_out), int)
    left, by_hand = np.isin(np.arange(len(errors)), columns), []
    while left.any():
        by_hand.append(int(choose(errors[None], costs[None], weight, left)[0]))
        left[by_hand[-1]] = False
    assert list(in_order(errors, costs, weight, columns)) == by_hand


@settings(max_examples=200, deadline=None)
@given(
    arrays(np.float32, (3, 4), elements=st.floats(0, 1, width=32)),
    arrays(np.float64, (3, 4), elements=st.floats(0, 1)),
    st.tuples(st.floats(0, 1e9), st.floats(0, 1e9) | st.just(np.inf)),
)
def test_the_cost_of_a_choice_never_rises_with_cost_weight(errors, costs, weights):
    dear, cheap = (np.take_along_axis(costs, choose(errors, costs, w)[:, None], 1) for w in sorted(weights))
    assert (cheap <= dear * (1 + 1e-9)).all()


def test_two_fits_are_one():
    for estimator in sorted(ESTIMATORS):
        again = fitted(WORLD, ESTIMATORS[estimator]())
        again.onboard(EVALUATIONS["sage"])
        assert numbers(again, WORLD.prompts) == numbers(with_pool(estimator, ["sage"]), WORLD.prompts)
