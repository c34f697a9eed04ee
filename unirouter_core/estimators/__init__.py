"""Estimators: prompt features Φ and model features Ψ to expected errors, one file each."""

from unirouter_core.estimators.clairvoyant import clairvoyant
from unirouter_core.estimators.default import BlendEstimator
from unirouter_core.estimators.estimator import Estimator, Prediction
from unirouter_core.estimators.kmeans import KMeansEstimator
from unirouter_core.estimators.known_models import MixtureEstimator
from unirouter_core.estimators.learned_map import LearnedMapEstimator
from unirouter_core.estimators.low_rank import LowRankEstimator
from unirouter_core.estimators.neighbours import NeighboursEstimator
from unirouter_core.estimators.shrunken_clusters import ShrunkenClustersEstimator

__all__ = [
    "BlendEstimator",
    "Estimator",
    "KMeansEstimator",
    "LearnedMapEstimator",
    "LowRankEstimator",
    "MixtureEstimator",
    "NeighboursEstimator",
    "Prediction",
    "ShrunkenClustersEstimator",
    "clairvoyant",
]
