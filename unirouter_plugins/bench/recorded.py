"""Recorded outcomes to a table that a benchmark can judge every method by: no gaps, known costs, no prompt twice."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from unirouter_core.data import Outcomes
from unirouter_core.embedding import Array, as_rows, normalise
from unirouter_core.exceptions import InvalidDataError

SCORED = 0.98
"""A model with a smaller share of the prompts answered stays out: it would cost the others their prompts."""

FEWEST_MODELS, FEWEST_PROMPTS = 6, 200
"""With fewer, nothing is left of a third of them to judge by."""


@dataclass(frozen=True, eq=False)
class Recorded:
    """Outcomes without gaps; see `recorded`.

    Parameters
    ----------
    name : str
    outcomes : Outcomes
    X : array (n, d) or None
        Vectors of the prompts, of length 1; None for those that the default embedder learns in each trial from the
        training prompts.
    left_out : tuple of str
        The models that stay out, for want of answers or of costs.
    """

    name: str
    outcomes: Outcomes
    X: Array | None
    left_out: tuple[str, ...]

    def __len__(self) -> int:
        """Return the number of prompts."""
        return len(self.outcomes)

    @property
    def digest(self) -> str:
        """What the numbers of a benchmark rest on, in 16 letters: another table has another digest."""
        found = hashlib.sha256("\0".join([*self.outcomes.models, *self.outcomes.prompts]).encode())
        for array in (self.outcomes.errors, self.outcomes.costs, self.X):
            found.update(b"none" if array is None else np.ascontiguousarray(array).tobytes())
        return found.hexdigest()[:16]


def recorded(name: str, outcomes: Outcomes, vectors: Array | None = None, *, every_cost: bool = False) -> Recorded:
    """Return the part of `outcomes` that every method can be judged by.

    It holds the models with at least 98 % of the prompts answered and a mean cost above 0, and the prompts that all of
    these answered; of prompts that stand twice the first, so that none is both learned from and judged.

    Parameters
    ----------
    name : str
    outcomes : Outcomes
    vectors : array (n_prompts, d), optional
    every_cost : bool
        Keep only prompts whose costs are all known, as per-prompt costs need.

    Raises
    ------
    InvalidDataError
        When fewer than 6 models or 200 prompts are left, or the vectors are not one for each prompt.
    """
    known = ~np.isnan(outcomes.errors)
    spent = np.nan_to_num(outcomes.costs).mean(axis=0) if len(outcomes) else np.zeros(len(outcomes.models))
    kept = np.asarray((known.mean(axis=0) >= SCORED) & (spent > 0)) if len(outcomes) else np.zeros(len(spent), bool)
    models = [model for model, stays in zip(outcomes.models, kept, strict=True) if stays]
    complete = known[:, kept].all(axis=1)
    if every_cost:
        complete &= ~np.isnan(outcomes.costs[:, kept]).any(axis=1)
    first = np.zeros(len(outcomes), bool)
    first[np.unique(np.array(outcomes.prompts, dtype=object), return_index=True)[1]] = True
    rows = np.flatnonzero(complete & first)
    if len(models) < FEWEST_MODELS or len(rows) < FEWEST_PROMPTS:
        raise InvalidDataError(
            f"{name} holds {len(rows)} different prompts that all of {len(models)} models with a cost answered; a "
            f"benchmark needs {FEWEST_PROMPTS} prompts and {FEWEST_MODELS} models."
        )
    X = None if vectors is None else normalise(as_rows(vectors, len(outcomes)))[rows]
    left_out = tuple(model for model in outcomes.models if model not in models)
    return Recorded(name, outcomes.of(models).rows(rows), X, left_out)
