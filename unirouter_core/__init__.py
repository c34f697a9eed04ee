"""unirouter: send each prompt to the cheapest model that will answer it well."""

from unirouter_core.costs import Prices
from unirouter_core.curves import Curve, Sweep, deferral_curve, oracle_curve, sweep, zero_router_curve
from unirouter_core.data import Evaluation, Outcomes, ValidationSet, read_outcomes
from unirouter_core.decision import Candidate, Decision, Decisions
from unirouter_core.documents import Documents
from unirouter_core.embedding import Embedder, HashingEmbedder, as_embedder
from unirouter_core.estimators import (
    DefaultEstimator,
    Estimator,
    KMeansEstimator,
    KnownModelsEstimator,
    LearnedMapEstimator,
    LowRankEstimator,
    NeighboursEstimator,
    Prediction,
    ShrunkenClustersEstimator,
    clairvoyant,
)
from unirouter_core.evaluate.bootstrap import Metrics, bootstrap, measure, paired_interval, sign_test_p
from unirouter_core.evaluate.forecast import Spending, spending
from unirouter_core.evaluate.impact import Change, Joining, joining
from unirouter_core.evaluate.report import Report, report
from unirouter_core.evaluate.stopping import Undecided, ask_order, undecided
from unirouter_core.evaluate.tune import Tuning, tune
from unirouter_core.exceptions import (
    ArtifactError,
    EmbedderMismatchError,
    InvalidDataError,
    MissingOutcomesError,
    NoCandidateError,
    NotFittedError,
    UniRouterError,
    UnknownModelError,
    UnknownPriceError,
)
from unirouter_core.explanation import Explanation
from unirouter_core.profiles import Capabilities, ModelProfile
from unirouter_core.router import UniRouter

__all__ = [
    "ArtifactError",
    "Candidate",
    "Capabilities",
    "Change",
    "Curve",
    "Decision",
    "Decisions",
    "DefaultEstimator",
    "Documents",
    "Embedder",
    "EmbedderMismatchError",
    "Estimator",
    "Evaluation",
    "Explanation",
    "HashingEmbedder",
    "InvalidDataError",
    "Joining",
    "KMeansEstimator",
    "KnownModelsEstimator",
    "LearnedMapEstimator",
    "LowRankEstimator",
    "Metrics",
    "MissingOutcomesError",
    "ModelProfile",
    "NeighboursEstimator",
    "NoCandidateError",
    "NotFittedError",
    "Outcomes",
    "Prediction",
    "Prices",
    "Report",
    "ShrunkenClustersEstimator",
    "Spending",
    "Sweep",
    "Tuning",
    "Undecided",
    "UniRouter",
    "UniRouterError",
    "UnknownModelError",
    "UnknownPriceError",
    "ValidationSet",
    "as_embedder",
    "ask_order",
    "bootstrap",
    "clairvoyant",
    "deferral_curve",
    "joining",
    "measure",
    "oracle_curve",
    "paired_interval",
    "read_outcomes",
    "report",
    "sign_test_p",
    "spending",
    "sweep",
    "tune",
    "undecided",
    "zero_router_curve",
]
