"""A decision's ranking as the order in which models are tried, and what became of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain

from unirouter_core.exceptions import UnknownPriceError
from unirouter_core.rule import Decision
from unirouter_plugins.litellm.failures import described, is_overflow, passes_on, unwrapped, without_keys


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
    model: str = field(init=False)  # the one to try now
    _next: str | None = field(init=False, repr=False)
    _left: Iterator[str] = field(init=False, repr=False)
    _first: BaseException | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        first = self.kept if self.kept is not None and self.decision.is_eligible(self.kept) else self.decision.model
        order = chain([self.decision.model], self.decision.fallbacks())
        self.model, self._left = first, (model for model in order if model != first)
        self._next = next(self._left, None)

    @property
    def is_last(self) -> bool:
        """Whether no model is left after it."""
        return self._next is None

    def note(self, failed: Exception) -> None:
        """Note that the model failed and move on to the next; raise when no other may answer.

        What is raised then is the failure of the model that was chosen, as if it had been called directly, with a
        note on each of the others; a failure that is not passed on is raised as it is.
        """
        model, cause = self.model, without_keys(unwrapped(failed))
        self.failures[model] = described(cause)
        unpriced = isinstance(cause, UnknownPriceError) and self._first is not None  # a way out that is none
        if not unpriced and not passes_on(cause, content_policy=self.content_policy):
            raise cause
        self._first = self._first or cause
        left: Iterator[str] = chain([] if self._next is None else [self._next], self._left)
        if is_overflow(cause):
            left = (other for other in left if self._is_larger(other, model))
        following = next(left, None)
        if following is None:
            for other, why in list(self.failures.items())[1:]:
                self._first.add_note(f"Then {other} was tried: {why}")
            raise self._first
        self.model, self._left = following, left
        self._next = next(left, None)

    def _is_larger(self, other: str, model: str) -> bool:
        """Return whether `other` may take a prompt too long for `model`; a window not known may be larger."""
        theirs, ours = self.windows.get(other), self.windows.get(model)
        return theirs is None or ours is None or theirs > ours
