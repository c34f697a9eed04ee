"""The verdict on routing, or on a model: whether it pays, is about even, or does not pay, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from unirouter_core.display import Findings

Level: TypeAlias = Literal["pays", "about even", "does not pay"]

SURE = 0.05  # chance may do as well at most this often
FITTED_ON = "The router learned from answers to these prompts, so this is optimistic: judge it by others."


@dataclass(frozen=True)
class Verdict:
    """A level with the reason in one sentence; `use` is a single model to use instead, where there is one."""

    level: Level
    reason: str
    use: str | None = None
    subject: str = "Routing"

    def __str__(self) -> str:
        return f"{self.subject} {'is ' if self.level == 'about even' else ''}{self.level}: {self.reason}."


def only_model(model: str) -> Verdict:
    """Return the verdict on routing in a pool of one."""
    return Verdict("does not pay", f"{model} is the only model of the pool; onboard another to have a choice", model)


def level_of(gain: tuple[float, float], by_chance: float = 0.0) -> Level:
    """Return the level for the interval of what is gained and the probability that chance gains as much.

    It pays where both tests show a gain, and is about even where one does. It does not pay where neither does, or all
    of the interval is a loss.

    >>> level_of((0.01, 0.03)), level_of((-0.01, 0.03)), level_of((-0.01, 0.03), by_chance=0.4), level_of((-0.2, -0.1))
    ('pays', 'about even', 'does not pay', 'does not pay')
    """
    low, high = gain
    shown = low > 0, by_chance <= SURE
    if high < 0 or not any(shown):
        return "does not pay"
    return "pays" if all(shown) else "about even"


class Judged(Findings):
    """Findings that are judged by a `Verdict`."""

    @property
    def level(self: Any) -> Level:
        """The level of the verdict."""
        return self.judged.level  # type: ignore[no-any-return]

    @property
    def verdict(self: Any) -> str:
        """The verdict in a sentence, and whether these prompts flatter it."""
        return f"{self.judged} {FITTED_ON}" if self.fitted_on else str(self.judged)
