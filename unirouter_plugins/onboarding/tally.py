"""How calls go: how many failed, of what, and whether it is too many to go on."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

TOO_MANY = 0.2
"""A larger share of failed calls leaves prompts out that have something in common: no fair measurement."""

IN_A_ROW = 10
"""So many failures in a row are no bad luck: the provider is down, or a key has been withdrawn."""


@dataclass
class Tally:
    """Calls of one kind, as they end.

    Parameters
    ----------
    what : str
        What is counted, for messages.
    done, failed : int
        Calls that were answered and that failed.
    """

    what: str
    done: int = 0
    failed: int = 0
    _in_a_row: int = 0
    _kinds: Counter[str] = field(default_factory=Counter)
    _said: dict[str, str] = field(default_factory=dict)

    def went_well(self) -> None:
        """Count a call that was answered."""
        self.done += 1
        self._in_a_row = 0

    def went_wrong(self, kind: str, said: str) -> None:
        """Count a failed call: its kind, and what it said."""
        self.failed += 1
        self._in_a_row += 1
        self._kinds[kind] += 1
        self._said.setdefault(kind, said)

    def is_hopeless(self, n: int) -> bool:
        """Return whether to stop before all `n` calls are made."""
        return self._in_a_row >= IN_A_ROW or self.failed > TOO_MANY * n

    @property
    def is_too_many(self) -> bool:
        """Whether too many of the calls that were made failed."""
        return self.failed > TOO_MANY * (self.done + self.failed)

    def __str__(self) -> str:
        if not self.failed:
            return f"no {self.what} failed of {self.done}"
        (kind, _), *_ = self._kinds.most_common(1)
        return f"{self.failed} of {self.done + self.failed} {self.what} failed, most often so: {self._said[kind]}"
