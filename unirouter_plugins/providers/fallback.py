"""A decision's ranking as the order in which models are tried, and what became of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from unirouter_core.decision import Decision
from unirouter_core.exceptions import UnknownPriceError
from unirouter_plugins.providers.failures import Failure, classify, unwrapped
from unirouter_plugins.providers.redaction import described, without_keys


@dataclass
class Attempts:
    """The model to try on one call: the chosen one, then down the ranking after each failure that is passed on.

    Parameters
    ----------
    decision : Decision
    windows : mapping of model to int, optional
        The context windows that are known, in tokens: after a prompt was too long for one, only larger are tried.
    content_policy : bool
        Whether a provider's content filter counts as a failure of that model.
    kept : str, optional
        The model to begin with whatever its rank, where it may answer.

    Examples
    --------
    How a call is made, with or without ``await``::

        attempts = Attempts(decision)
        while True:
            try:
                return call(attempts.model)
            except Exception as failed:
                attempts.note(failed)  # moves on, or raises what no other model may mend
    """

    decision: Decision
    windows: Mapping[str, int | None] = field(default_factory=dict)
    content_policy: bool = False
    kept: str | None = None
    failures: dict[str, str] = field(default_factory=dict, init=False)
    _left: list[str] = field(init=False, repr=False)
    _first: BaseException | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self._left = [candidate.model for candidate in self.decision.ranking if candidate.excluded is None]
        if self.kept in self._left:
            self._left.sort(key=lambda model: model != self.kept)

    @property
    def model(self) -> str:
        """The model to try now."""
        return self._left[0]

    @property
    def is_last(self) -> bool:
        """Whether nobody is left after it."""
        return len(self._left) == 1

    def note(self, failed: Exception) -> None:
        """Note that the model failed and move on to the next; raise when no other may answer.

        What is raised then is the failure of the model that was chosen, as if it had been called directly, with a
        note on each of the others; a failure that is not passed on is raised as it is.
        """
        model, failure, cause = self.model, classify(failed), without_keys(unwrapped(failed))
        self.failures[model] = described(cause)
        unpriced = isinstance(cause, UnknownPriceError) and self._first is not None  # a way out that is none
        if not unpriced and not failure.falls_back(content_policy=self.content_policy):
            raise cause
        self._first = self._first or cause
        left = self._left[1:]
        if failure is Failure.OVERFLOW:
            left = [other for other in left if self._is_larger(other, model)]
        if not left:
            for other, why in list(self.failures.items())[1:]:
                self._first.add_note(f"Then {other} was tried: {why}")
            raise self._first
        self._left = left

    def _is_larger(self, other: str, model: str) -> bool:
        """Return whether `other` may take a prompt too long for `model`; a window not known may be larger."""
        theirs, ours = self.windows.get(other), self.windows.get(model)
        return theirs is None or ours is None or theirs > ours
