import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unirouter_core.embedding import normalise
from unirouter_core.estimators.clusters import closeness, cluster_sums, fit_centroids, offsets, shrunken_means

RNG = np.random.default_rng(0)
X = normalise(RNG.normal(size=(300, 6)))


def test_the_closest_centroid_is_the_nearest_one():
    centroids = fit_centroids(X, 7, seed=0)
    distances = ((X[:, None] - centroids) ** 2).sum(2)
    near = closeness(X, centroids, offsets(centroids))
    assert np.array_equal(near.argmax(1), distances.argmin(1))
    assert np.allclose(1 - 2 * near, distances, atol=1e-5)


def test_each_centroid_is_near_the_mean_of_its_vectors():
    centroids = fit_centroids(X, 7, seed=0)
    labels = closeness(X, centroids, offsets(centroids)).argmax(1)
    assert centroids.dtype == np.float32
    assert np.allclose([X[labels == k].mean(0) for k in range(7)], centroids, atol=0.05)


def test_there_are_no_more_centroids_than_distinct_prompts():
    for vectors, k in (
        (X[:5], 9),
        (X[[0, 1, 2] * 20], 9),
        (np.ones((30, 1), np.float32), 4),
        (np.zeros((30, 3), np.float32), 4),
        (X[:2], 2),
    ):
        distinct = len(np.unique(vectors, axis=0))
        centroids = fit_centroids(vectors, k, seed=0)
        assert len(centroids) == distinct
        assert np.allclose(np.sort(centroids, axis=0), np.sort(np.unique(vectors, axis=0), axis=0), atol=1e-6)


def test_the_same_seed_gives_the_same_centroids():
    assert np.array_equal(fit_centroids(X, 7, seed=3), fit_centroids(X, 7, seed=3))


def test_one_vector_is_as_close_as_in_a_batch():
    centroids = fit_centroids(X, 7, seed=0)
    alone = [closeness(X[[row]], centroids, offsets(centroids)) for row in range(300)]
    assert np.allclose(np.concatenate(alone), closeness(X, centroids, offsets(centroids)), atol=1e-6)


def test_what_is_not_known_is_not_summed():
    sums, counts = cluster_sums(np.array([0, 0, 2]), np.array([[1.0, np.nan], [0.5, 1.0], [np.nan, np.nan]]), 3)
    assert sums.tolist() == [[1.5, 1.0], [0.0, 0.0], [0.0, 0.0]]
    assert counts.tolist() == [[2, 1], [0, 0], [0, 0]]


def test_shrunken_means_are_as_if_the_overall_mean_had_been_seen_prior_times():
    means, _ = shrunken_means(np.array([0, 0, 0, 1]), np.array([[1.0], [1.0], [0.0], [0.0]]), 3, prior=2.0)
    # Overall 1/2. (2 + 2/2) / (3 + 2), (0 + 2/2) / (1 + 2), and nothing seen.
    assert means[:, 0] == pytest.approx([3 / 5, 1 / 3, 1 / 2])


def test_one_answer_does_not_claim_certainty():
    _, stderrs = shrunken_means(np.array([0, 1, 1]), np.array([[0.0], [1.0], [1.0]]), 2, prior=0)
    # Overall 2/3. With two such answers more: (0 + 4/3) / 3 = 4/9 of one answer counted twice.
    assert stderrs[0, 0] == pytest.approx(np.sqrt(4 / 9 * 5 / 9 / 2))


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 1)), min_size=1, max_size=30), st.floats(0, 1e6))
def test_means_lie_between_the_clusters_and_the_overall_one_and_errors_stay_errors(answers, prior):
    labels, values = np.array([label for label, _ in answers]), np.array([[value] for _, value in answers])
    means, stderrs = shrunken_means(labels, values, 4, prior)
    for k in range(4):
        own = values[labels == k].mean() if (labels == k).any() else values.mean()
        low, high = sorted((own, values.mean()))
        assert low - 1e-9 <= means[k, 0] <= high + 1e-9
    assert (stderrs >= 0).all()
    assert (stderrs <= 0.5).all()
