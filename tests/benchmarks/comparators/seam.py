"""What comparators share: the validation set as features, and predictions without standard errors."""

from __future__ import annotations

import numpy as np

from unirouter_core.embedding import Array
from unirouter_core.estimators import Prediction


def answers(X: Array, errors: Array) -> Array:
    """Return the validation set as features (n_val, d + 1), for methods that read all of it."""
    return np.concatenate([X, errors[:, None]], axis=1, dtype=np.float32)


def measured(features: Array) -> tuple[Array, Array]:
    """Return the vectors (n_val, d) and the errors (n_val, m) of models measured on the same prompts."""
    return features[0, :, :-1], np.ascontiguousarray(features[:, :, -1].T)


def without_stderrs(errors: Array) -> Prediction:
    """Return predictions of a method that does not say how sure it is."""
    return Prediction(errors, lambda: np.full_like(errors, np.nan))
