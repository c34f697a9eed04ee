import numpy as np
import pytest
from comparators import AvengersPro, GuardedNeighbours, HierShrink, RetrainedFactors, RetrainedMLP


@pytest.mark.parametrize(
    "estimator",
    [
        RetrainedMLP(epochs=300),
        RetrainedFactors(rank=1, penalty=1.0),
        AvengersPro(k=2, nearest=1),
        HierShrink(large=2, small=4),
        GuardedNeighbours(k=10, prior=1.0, far=0.2),
    ],
)
def test_a_comparator_finds_who_fails_at_what(estimator):
    rng = np.random.default_rng(0)
    kinds = rng.integers(2, size=300)
    X = (np.eye(8)[kinds] + rng.normal(0, 0.1, (300, 8))).astype(np.float32)
    errors = np.eye(2)[kinds]  # one model fails at each kind
    estimator.fit(X[:100])
    features = np.stack([estimator.profile(X[100:200], column) for column in errors[100:200].T])
    predicted = estimator.predict(X[200:], features).errors
    assert predicted.shape == (100, 2)
    assert (predicted >= 0).all()
    assert (predicted <= 1).all()
    assert (predicted.argmax(axis=1) == kinds[200:]).mean() > 0.95
