import numpy as np
import pytest

from unirouter_core.embedding import normalise
from unirouter_core.estimators.clusters import Regions

RNG = np.random.default_rng(0)
KINDS = RNG.integers(0, 4, 800)
X = normalise(np.eye(12)[KINDS] + 0.1 * np.c_[RNG.normal(size=(800, 8)), np.zeros((800, 4))])


def test_prompts_like_those_learned_from_are_not_far():
    labels, far = Regions(k=4).fit(X).locate(X)
    assert np.mean(far == 0) >= 0.99
    assert far.max() < 0.5
    assert [len(set(labels[kind == KINDS])) for kind in range(4)] == [1, 1, 1, 1]


def test_prompts_unlike_them_all_are_far():
    regions = Regions(k=4).fit(X)
    unlike = np.stack([np.eye(12)[9], np.zeros(12), -X.mean(0)]).astype(np.float32)
    assert regions.locate(unlike)[1] == pytest.approx([1, 1, 1], abs=0.01)


def test_a_prompt_half_way_is_half_far():
    regions = Regions(k=1).fit(np.eye(2, dtype=np.float32)[[0] * 30])
    towards = normalise(np.array([[1.0, 0.0], [0.5, np.sqrt(0.75)], [0.0, 1.0]]))
    assert regions.locate(towards)[1] == pytest.approx([0, 0.5, 1], abs=1e-4)


def test_a_prompt_at_right_angles_to_all_is_far_from_tight_and_loose_regions():
    loose = normalise(np.c_[np.ones(60), RNG.normal(size=(60, 3)), np.zeros((60, 2))])
    tight = np.eye(6, dtype=np.float32)[[4] * 60]
    assert Regions(k=2).fit(np.r_[loose, tight]).locate(np.eye(6, dtype=np.float32)[[5]])[1] == pytest.approx([1])


def test_one_prompt_alone_is_as_in_a_batch():
    regions = Regions(k=4).fit(X)
    strangers = normalise(RNG.normal(size=(50, 12)))
    labels, far = regions.locate(strangers)
    alone = [regions.locate(strangers[[row]]) for row in range(50)]
    assert np.array_equal(np.concatenate([label for label, _ in alone]), labels)
    assert np.allclose(np.concatenate([one for _, one in alone]), far, atol=1e-5)


def test_prompts_without_structure_still_have_regions():
    for vectors in (np.zeros((10, 3)), np.ones((10, 1)), X[:2], np.tile(X[:1], (10, 1))):
        vectors = vectors.astype(np.float32)
        regions = Regions().fit(vectors)
        labels, far = regions.locate(vectors)
        assert labels.max() < len(regions.centroids_) <= len(np.unique(vectors, axis=0))
        assert ((far >= 0) & (far <= 1)).all()
        assert (far < 0.01).all() or not vectors.any()  # of a zero vector nothing is known


def test_the_same_seed_gives_the_same_regions():
    assert np.array_equal(Regions(seed=2).fit(X).centroids_, Regions(seed=2).fit(X).centroids_)
