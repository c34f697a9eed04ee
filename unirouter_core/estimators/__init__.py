"""Estimators: prompt features Φ and model features Ψ to expected errors, one file each."""

from unirouter_core.estimators.clusters import KMeansEstimator, ShrunkenClustersEstimator
from unirouter_core.estimators.default import DefaultEstimator
from unirouter_core.estimators.known_models import KnownModelsEstimator
from unirouter_core.estimators.learned_map import LearnedMapEstimator
from unirouter_core.estimators.linear import clairvoyant
from unirouter_core.estimators.low_rank import LowRankEstimator
from unirouter_core.estimators.neighbours import NeighboursEstimator
from unirouter_core.estimators.protocol import Estimator, Prediction

__all__ = [
    "DefaultEstimator", "Estimator", "KMeansEstimator", "KnownModelsEstimator", "LearnedMapEstimator",
    "LowRankEstimator", "NeighboursEstimator", "Prediction", "ShrunkenClustersEstimator", "clairvoyant",
]  # fmt: skip


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
