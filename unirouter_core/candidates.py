"""Which models of the pool may answer a prompt, and why the others may not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from unirouter_core.embedding import Array, Mask
from unirouter_core.exceptions import InvalidDataError, NoCandidateError
from unirouter_core.pool import Pool


@dataclass(frozen=True)
class Candidates:
    """The models asked for, that can do what is required and have room for the prompt.

    Parameters
    ----------
    models : tuple of str, optional
        None is the whole pool.
    requires : tuple of str
        Of "tools", "vision", "json".
    """

    models: tuple[str, ...] | None = None
    requires: tuple[str, ...] = ()

    @classmethod
    def of(cls, models: Iterable[str] | None, requires: Iterable[str]) -> Candidates:
        """Return the candidates that `route` was asked for; generators are read once.

        Raises
        ------
        InvalidDataError
            When one name was given in the place of a list of names.
        """
        if models is None and not requires:
            return ALL
        for given in (models, requires):
            if isinstance(given, str):
                raise InvalidDataError(f"{given!r} is one name, not a list of names; put it in a list.")
        return cls(None if models is None else tuple(models), tuple(requires))

    def among(self, pool: Pool, tokens: Array, first: int = 0) -> Mask | None:
        """Return who may answer prompts of so many tokens, (n,) or by model (n, m), as a mask (m,) or (n, m).

        None is when all may.

        `first` is the number of the first of them, for messages.

        Raises
        ------
        UnknownModelError
            When one of `models` is not in the pool.
        NoCandidateError
            When nobody may answer one of the prompts; the reasons are named.
        """
        allowed = None if self.models is None else pool.columns(self.models)
        if self.requires:
            able = np.array([not profile.capabilities.lacks(self.requires) for profile in pool.profiles.values()])
            allowed = able if allowed is None else allowed & able
        if pool.smallest_window < np.inf and tokens.max(initial=0) > pool.smallest_window:
            fits = (tokens if tokens.ndim == 2 else tokens[:, None]) <= pool.windows
            allowed = fits if allowed is None else allowed & fits
        if allowed is not None and not allowed.any(axis=-1).all():
            row = int(np.argmin(np.atleast_2d(allowed).any(axis=1)))
            each = "; ".join(f"{model}: {why}" for model, why in self.reasons(pool, tokens[row]).items())
            which = f"Prompt {first + row}: " if first + len(tokens) > 1 else ""
            raise NoCandidateError(f"{which}No model may answer this prompt ({each}). Onboard one, or ask for less.")
        return allowed

    def reasons(self, pool: Pool, sent: Array) -> dict[str, str]:
        """Return why each excluded model may not answer a prompt of so many tokens, () or by model (m,)."""
        reasons = {}
        each = zip(pool.profiles.items(), np.broadcast_to(sent, len(pool)).tolist(), strict=True)
        for (model, profile), tokens in each:
            window = profile.capabilities.context_window
            if self.models is not None and model not in self.models:
                reasons[model] = "not among the models asked for"
            elif lacking := profile.capabilities.lacks(self.requires):
                reasons[model] = f"lacks {', '.join(lacking)}"
            elif window is not None and tokens > window:
                reasons[model] = f"its context window of {window:,} tokens is less than the prompt's {tokens:,.0f}"
        return reasons


ALL = Candidates()
"""The whole pool."""
