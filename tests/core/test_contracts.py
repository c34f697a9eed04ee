"""What every estimator and every embedder keeps, whatever it does inside."""

import dataclasses

import numpy as np
import pytest

from tests.conftest import N_FIT, evaluation, fitted, small_default
from unirouter_core import Outcomes
from unirouter_core.embedding import HashingEmbedder, as_embedder, embed, normalise
from unirouter_core.estimators import (
    KMeansEstimator,
    KnownModelsEstimator,
    LearnedMapEstimator,
    LowRankEstimator,
    NeighboursEstimator,
    Prediction,
    ShrunkenClustersEstimator,
)
from unirouter_core.estimators.protocol import arrays_of, settings_of
from unirouter_core.exceptions import NotFittedError
from unirouter_core.router import UniRouter

# Tables too small to choose K by are what some of these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore:. = .* was not chosen")

ESTIMATORS = {
    "k-means": lambda: KMeansEstimator(k=6),
    "k-means, k chosen": lambda: KMeansEstimator(grid=(2, 5), n_val=40),
    "k-means, paper's k": lambda: KMeansEstimator(grid=(2, 5), rule="paper"),
    "learned map": lambda: LearnedMapEstimator(k=4),
    "neighbours": lambda: NeighboursEstimator(k=7),
    "neighbours, k chosen": lambda: NeighboursEstimator(grid=(3, 9), n_val=40),
    "shrunken clusters": lambda: ShrunkenClustersEstimator(grid=(4, 8)),
    "low rank": LowRankEstimator,
    "mixture": lambda: KnownModelsEstimator(),
    "default": small_default,
}


def each(makers):
    """Each of `makers`; a failing test prints the name of the last."""
    for name, make in makers.items():
        print(name)
        yield make


@pytest.fixture(scope="session")
def measured(world):
    """Vectors of all prompts, the table to fit on, the table to measure on, and their vectors."""
    table, validation = world.rows(range(N_FIT)), world.rows(range(N_FIT, len(world)))
    embedder = HashingEmbedder(dims=24).fit(table.prompts)
    return embed(embedder, table.prompts), table, embed(embedder, validation.prompts), validation


def profiles(estimator, X, validation, models=None, n=None):
    """The stacked features of `models`, measured on the first n validation prompts."""
    rows = slice(None, n)
    errors = (validation if models is None else validation.of(models)).errors[rows].T
    return np.stack([estimator.profile(X[rows], column, validation.errors[rows]) for column in errors])


def test_errors_and_their_standard_errors_have_a_row_a_prompt_and_a_column_a_model(measured):
    X, table, X_val, validation = measured
    for make in each(ESTIMATORS):
        features = profiles(make_fitted := make().fit(X, table), X_val, validation)
        prediction = make_fitted.predict(X, features)
        assert features.dtype == np.float32
        assert np.isfinite(features).all()
        assert prediction.errors.shape == prediction.stderrs.shape == (len(X), len(table.models))
        assert ((prediction.errors >= 0) & (prediction.errors <= 1)).all()
        assert np.isfinite(prediction.stderrs).all()
        assert (prediction.stderrs >= 0).all()


def test_the_poet_is_predicted_to_fail_on_sums_and_the_sage_is_not(measured):
    X, table, X_val, validation = measured
    for make in each(ESTIMATORS):
        estimator = make().fit(X, table)
        poet, sage = estimator.predict(X_val, profiles(estimator, X_val, validation, ["poet", "sage"])).errors.T
        sums = validation.errors[:, validation.column("poet")] == 1
        assert poet[sums].mean() > 0.65
        assert poet[~sums].mean() < 0.35
        assert sage.mean() < 0.1


def test_one_prompt_alone_is_as_in_a_batch(measured):
    X, table, X_val, validation = measured
    for make in each(ESTIMATORS):
        estimator = make().fit(X, table)
        features = profiles(estimator, X_val, validation)
        batch = estimator.predict(X_val, features)
        alone = [estimator.predict(X_val[[row]], features) for row in range(len(X_val))]
        assert np.allclose(np.concatenate([one.errors for one in alone]), batch.errors, atol=1e-5)
        assert np.allclose(np.concatenate([one.stderrs for one in alone]), batch.stderrs, atol=1e-5)


def test_the_same_seed_gives_the_same_numbers(measured):
    X, table, X_val, validation = measured
    for make in each(ESTIMATORS):
        first, second = (profiles(make().fit(X, table), X_val, validation) for _ in range(2))
        assert np.array_equal(first, second)


def test_before_fit_it_says_how_to_fit(measured):
    _, _, X_val, validation = measured
    for make in each(ESTIMATORS):
        with pytest.raises(NotFittedError, match="not fitted; call fit"):
            make().profile(X_val, validation.errors[:, 0], validation.errors)
        with pytest.raises(NotFittedError, match="not fitted; call fit"):
            make().predict(X_val, np.zeros((2, 80, 25), np.float32))


def test_the_order_of_pool_models_changes_nothing(measured):
    X, table, X_val, validation = measured
    for make in each(ESTIMATORS):
        estimator = make().fit(X, table)
        features = profiles(estimator, X_val, validation)
        turned = estimator.predict(X_val, features[::-1])
        assert np.allclose(turned.errors[:, ::-1], estimator.predict(X_val, features).errors, atol=1e-6)
        assert np.allclose(turned.stderrs[:, ::-1], estimator.predict(X_val, features).stderrs, atol=1e-6)


def test_the_order_of_training_models_changes_nothing(measured):
    X, table, X_val, validation = measured
    for make in each(ESTIMATORS):
        estimator, other = make().fit(X, table), make().fit(X, table.of(table.models[::-1]))
        turned = validation.of(validation.models[::-1])
        errors = estimator.predict(X_val, profiles(estimator, X_val, validation)).errors
        other_errors = other.predict(X_val, profiles(other, X_val, turned, validation.models)).errors
        assert np.allclose(errors, other_errors, atol=1e-3)


def test_it_takes_training_models_with_gaps_and_one_without_answers(measured):
    X, table, X_val, validation = measured
    for make in each(ESTIMATORS):
        errors = table.errors.copy()
        errors[np.random.default_rng(0).random(errors.shape) < 0.2] = np.nan
        errors[:, 3], errors[5] = np.nan, np.nan
        gapped = Outcomes(table.prompts, table.models, errors, table.costs)
        estimator = make().fit(X, gapped)
        known = validation.errors.copy()
        known[:7, :2], known[:, 3] = np.nan, np.nan
        sage = estimator.profile(X_val, validation.errors[:, 1], known)
        prediction = estimator.predict(X_val, sage[None])
        assert np.isfinite(sage).all()
        assert prediction.errors.mean() < 0.15
        assert np.isfinite(prediction.stderrs).all()


def test_models_that_are_always_right_or_always_wrong_are_seen_so(measured):
    X, table, X_val, _ = measured
    for make in each(ESTIMATORS):
        constant = Outcomes(table.prompts, ["right", "wrong"], np.tile([0.0, 1.0], (len(X), 1)), table.costs[:, :2])
        estimator = make().fit(X, constant)
        known = np.tile([0.0, 1.0], (len(X_val), 1))
        features = np.stack([estimator.profile(X_val, column, known) for column in known.T])
        prediction = estimator.predict(X_val, features)
        assert np.allclose(prediction.errors, [0.0, 1.0], atol=0.05)
        assert np.isfinite(prediction.stderrs).all()


def test_one_training_model_is_enough(measured):
    X, table, X_val, validation = measured
    for make in each(ESTIMATORS):
        estimator = make().fit(X, table.of(["poet"]))
        poet = estimator.profile(X_val, validation.errors[:, 0], validation.errors[:, :1])
        assert np.abs(estimator.predict(X_val, poet[None]).errors[:, 0] - validation.errors[:, 0]).mean() < 0.25


def test_a_model_may_be_measured_on_hardly_any_prompts(measured):
    X, table, X_val, validation = measured
    for make in each(ESTIMATORS):
        estimator = make().fit(X, table)
        for n_val in (2, 3):
            prediction = estimator.predict(X_val, profiles(estimator, X_val, validation, n=n_val))
            assert ((prediction.errors >= 0) & (prediction.errors <= 1)).all()
            assert np.isfinite(prediction.stderrs).all()


def test_it_takes_prompts_without_structure():
    for make in each(ESTIMATORS):
        for X in (
            np.tile(np.eye(2, dtype=np.float32)[[0]], (40, 1)),
            np.ones((40, 1), np.float32),
            np.zeros((40, 3), np.float32),
            np.eye(2, dtype=np.float32)[[0, 1]],
        ):
            errors = np.tile([[0.0, 1.0, 1.0], [1.0, 1.0, 0.0]], (len(X) // 2, 1))
            costs = np.tile([1e-3, 1e-2, 1e-1], (len(X), 1))
            table = Outcomes([f"prompt {i}" for i in range(len(X))], ["a", "b", "c"], errors, costs)
            estimator = make().fit(X, table)
            prediction = estimator.predict(X, profiles(estimator, X, table))
            assert ((prediction.errors >= 0) & (prediction.errors <= 1)).all()
            assert np.isfinite(prediction.stderrs).all()
            assert np.allclose(prediction.errors[:, 1], 1, atol=0.25)


def test_vectors_of_double_precision_serve_as_well(measured):
    X, table, X_val, validation = measured
    for make in each(ESTIMATORS):
        single, double = make().fit(X, table), make().fit(X.astype(np.float64), table)
        errors = single.predict(X_val, profiles(single, X_val, validation)).errors
        doubled = double.predict(
            X_val.astype(np.float64), profiles(double, X_val.astype(np.float64), validation)
        ).errors
        assert np.abs(errors - doubled).mean() < 0.02


def test_a_saved_router_predicts_as_before(world, tmp_path):
    for number, make in enumerate(each(ESTIMATORS)):
        router = fitted(world, make())
        for model in ("poet", "sage"):
            router.onboard(evaluation(world, model))
        router.save(tmp_path / f"{number}.router")
        loaded = UniRouter.load(tmp_path / f"{number}.router")
        assert settings_of(loaded.fit_.estimator) == settings_of(router.fit_.estimator)
        kept, again = arrays_of(router.fit_.estimator), arrays_of(loaded.fit_.estimator)
        assert kept.keys() == again.keys()
        assert all(np.array_equal(kept[name], again[name]) for name in kept)
        X, features = embed(router.fit_.embedder, world.prompts), router.pool.features
        prediction = router.fit_.estimator.predict(X, features)
        after = loaded.fit_.estimator.predict(X, loaded.pool.features)
        assert np.array_equal(prediction.errors, after.errors)
        assert np.array_equal(prediction.stderrs, after.stderrs)


def test_what_fit_sets_are_arrays_and_what_the_constructor_takes_are_settings(measured):
    X, table, _, _ = measured
    for make in each(ESTIMATORS):
        estimator = make().fit(X, table)
        settings = {field.name for field in dataclasses.fields(estimator) if field.init}
        assert all(name in settings or name.endswith("_") for name in vars(estimator))
        assert all(array.dtype != object for array in arrays_of(estimator).values())


@dataclasses.dataclass(eq=False)
class Pessimist(KMeansEstimator):
    """Expects the opposite of what its base does, and counts its calls."""

    calls = 0

    def predict(self, X, features):
        Pessimist.calls += 1
        base = super().predict(X, features)
        return Prediction(1 - base.errors, lambda: base.stderrs)


def test_a_subclass_with_a_predict_of_its_own_routes_by_that(world):
    router = fitted(world, Pessimist(k=4))
    for model in ("poet", "sage"):
        router.onboard(evaluation(world, model))
    own = router.fit_.estimator.predict(router.encode(world.prompts), router.pool.features)
    expected = router.expect(world.prompts)
    near = expected.far == 0
    assert near.sum() > 100
    assert np.allclose(expected.prediction.stderrs[near], own.stderrs[near])
    before = Pessimist.calls
    assert len(router.route("What is 2 plus 3?").ranking) == 2
    assert Pessimist.calls == before + 1  # for errors and standard errors
    assert np.allclose(expected.prediction.errors[near], own.errors[near], atol=1e-6)


# --- Embedders --------------------------------------------------------------------------------------------------------


def lengths(prompts):
    return [[len(prompt), prompt.count("e"), 1.0] for prompt in prompts]


class LikeSentenceTransformers:
    def encode(self, sentences, batch_size=32):
        return np.array(lengths(sentences), np.float64)


class LikeLangChain:
    def embed_documents(self, texts):
        return lengths(texts)

    def embed_query(self, text):
        return lengths([text])[0]


class LikeLlamaIndex:
    def get_text_embedding_batch(self, texts, show_progress=False):
        return lengths(texts)


EMBEDDERS = {
    "hashing": lambda: HashingEmbedder(dims=16),
    "sentence-transformers": LikeSentenceTransformers,
    "LangChain": LikeLangChain,
    "LlamaIndex": LikeLlamaIndex,
    "function": lambda: lengths,
}


def learned(make_embedder, world):
    embedder = as_embedder(make_embedder())
    return embedder.fit(world.prompts) if hasattr(embedder, "fit") else embedder


def test_vectors_are_single_precision_rows_of_length_1(world):
    for make_embedder in each(EMBEDDERS):
        X = embed(learned(make_embedder, world), world.prompts)
        assert X.dtype == np.float32
        assert X.shape[0] == len(world)
        assert np.allclose(np.linalg.norm(X, axis=1), 1, atol=1e-5)


def test_a_prompts_vector_is_the_same_alone_in_a_batch_and_the_next_time(world):
    for make_embedder in each(EMBEDDERS):
        embedder, again = learned(make_embedder, world), learned(make_embedder, world)
        X = embed(embedder, world.prompts[:20])
        assert np.allclose(np.concatenate([embed(embedder, [prompt]) for prompt in world.prompts[:20]]), X, atol=1e-5)
        assert np.array_equal(embed(again, world.prompts[:20]), X)


def test_a_saved_router_routes_as_before_with_the_same_embedder(world, tmp_path):
    for number, make_embedder in enumerate(each(EMBEDDERS)):
        router = fitted(world, KMeansEstimator(k=4), embedder=make_embedder(), cost_weight=300.0)
        for model in ("poet", "sage"):
            router.onboard(evaluation(world, model))
        router.save(tmp_path / f"{number}.router")
        own = isinstance(router.fit_.embedder, HashingEmbedder)
        loaded = UniRouter.load(tmp_path / f"{number}.router", embedder=None if own else make_embedder())
        assert np.array_equal(loaded.route_batch(world.prompts).errors, router.route_batch(world.prompts).errors)


def test_normalising_twice_is_normalising_once():
    X = normalise(np.random.default_rng(0).normal(size=(20, 5)))
    assert np.allclose(normalise(X), X, atol=1e-7)
