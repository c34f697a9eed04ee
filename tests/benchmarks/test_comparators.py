import importlib

import numpy as np
import pytest
from comparators import AvengersPro, GuardedNeighbours, HierShrink, RetrainedFactors, RetrainedMLP
from comparators.item_response import DefaultWithItemResponse, ItemResponse

from unirouter_core import Outcomes


def finds_who_fails_at_what(estimator):
    rng = np.random.default_rng(0)
    kinds = rng.integers(2, size=400)
    X = (np.eye(8)[kinds] + rng.normal(0, 0.1, (400, 8))).astype(np.float32)
    errors = np.eye(2)[kinds]  # one model fails at each kind
    trained = np.tile(errors[:200], 3)  # and three known models each
    names = [f"known {j}" for j in range(6)]
    prompts = [str(i) for i in range(200)]
    estimator.fit(X[:200], Outcomes(prompts, names, trained, costs=np.ones_like(trained) * [1, 2, 3, 4, 5, 6]))
    features = np.stack([estimator.profile(X[200:300], column) for column in errors[200:300].T])
    predicted = estimator.predict(X[300:], features).errors
    assert predicted.shape == (100, 2)
    assert (predicted >= 0).all()
    assert (predicted <= 1).all()
    assert (predicted.argmax(axis=1) == kinds[300:]).mean() > 0.95


@pytest.mark.parametrize(
    "estimator",
    [
        RetrainedMLP(epochs=300),
        RetrainedFactors(rank=1, penalty=1.0),
        AvengersPro(k=2, nearest=1),
        HierShrink(large=2, small=4),
        GuardedNeighbours(n_val=100),
        ItemResponse(rank=1),
        DefaultWithItemResponse(n_val=100),
    ],
)
def test_a_comparator_finds_who_fails_at_what(estimator):
    finds_who_fails_at_what(estimator)


@pytest.mark.parametrize("place", ["router_dc:RouterDC", "graph_router:GraphRouter", "radial_router:RadialRouter"])
def test_a_learned_head_finds_who_fails_at_what_among_models_it_has_not_seen(place):
    pytest.importorskip("torch")
    module, _, name = place.partition(":")
    head = getattr(importlib.import_module(f"comparators.{module}"), name)
    finds_who_fails_at_what(head(clusters=2, hidden=16, steps=100))
