"""unirouter: send each prompt to the cheapest model that will answer it well."""

from unirouter_core.costs import Prices
from unirouter_core.data import Evaluation, Outcomes, ValidationSet
from unirouter_core.documents import Documents
from unirouter_core.embedding import Embedder, as_embedder
from unirouter_core.estimators import Estimator
from unirouter_core.evaluate import Report, Tuning, report, tune
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
from unirouter_core.outcome_files import read_outcomes
from unirouter_core.pool import Capabilities, ModelProfile
from unirouter_core.router import UniRouter
from unirouter_core.rule import Candidate, Decision, Decisions, Explanation

__all__ = [
    "ArtifactError", "Candidate", "Capabilities", "Decision", "Decisions", "Documents", "Embedder",
    "EmbedderMismatchError", "Estimator", "Evaluation", "Explanation", "InvalidDataError", "MissingOutcomesError",
    "ModelProfile", "NoCandidateError", "NotFittedError", "Outcomes", "Prices", "Report", "Tuning", "UniRouter",
    "UniRouterError", "UnknownModelError", "UnknownPriceError", "ValidationSet", "as_embedder", "read_outcomes",
    "report", "tune",
]  # fmt: skip


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
