"""What may still be spent: the worst of every call is set aside before it is made, and what was too much given back."""

from __future__ import annotations

import asyncio
import math
from types import TracebackType
from typing import Self

from unirouter_core.exceptions import InvalidDataError, UniRouterError

ROUNDING = 1e-9
"""Sums of USD that differ by this share are one."""


class OverBudgetError(UniRouterError, RuntimeError):
    """The next call, at its worst, costs more than is left."""


class Budget:
    """The USD that a run of calls may cost.

    Every task takes a `Hold` and lets it ensure the worst of each call before it makes it. A task that must wait for
    others to give back holds nothing meanwhile, so that no two can wait for each other.

    Parameters
    ----------
    usd : float, optional
        None is without limit.

    Raises
    ------
    InvalidDataError
        When `usd` is negative or not finite.

    Examples
    --------
    >>> async def ask(budget):
    ...     async with budget.hold() as hold:
    ...         await hold.ensure(0.02)  # the call at its worst
    ...         hold.spend(0.02, usd=0.005)  # what it was
    ...     return budget.spent
    >>> asyncio.run(ask(Budget(0.1)))
    0.005
    """

    def __init__(self, usd: float | None = None) -> None:
        if usd is not None and not 0 <= usd < math.inf:
            raise InvalidDataError(f"budget={usd!r} must be a finite number of USD, >= 0, or None for no limit.")
        self.usd = usd
        self.spent = 0.0
        self._limit = math.inf if usd is None else usd * (1 + ROUNDING)
        self._held = 0.0
        self._changed = asyncio.Event()

    def hold(self) -> Hold:
        """Return what one task sets aside, nothing yet."""
        return Hold(self)

    async def set_aside(self, usd: float) -> None:
        """Return when `usd` more are set aside.

        Raises
        ------
        OverBudgetError
            When they are more than is left, whatever the calls in flight give back.
        """
        while self.spent + self._held + usd > self._limit:
            if self.spent + usd > self._limit:
                raise OverBudgetError(
                    f"${self.spent:.4g} of the budget of ${self.usd:.4g} are spent, and the next call may cost "
                    f"${usd:.4g}; give a larger budget to go on from here."
                )
            self._changed.clear()
            await self._changed.wait()
        self._held += usd

    def settle(self, held: float, spent: float) -> None:
        """Give back `held` USD, of which `spent` are gone."""
        self._held = max(self._held - held, 0.0)
        self.spent += spent
        self._changed.set()


class Hold:
    """What one task has set aside of a budget; leaving the block gives the rest back.

    Attributes
    ----------
    left : float
        USD that are set aside now.
    spent : float
        USD that the task's calls have cost.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.left = 0.0
        self.spent = 0.0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, _: TracebackType | None
    ) -> None:
        self._give_back()

    async def ensure(self, usd: float) -> None:
        """Return when at least `usd` are set aside.

        Raises
        ------
        OverBudgetError
            When the budget does not have them.
        """
        if self.left < usd:
            self._give_back()  # before it waits for others, who may wait for this
            await self._budget.set_aside(usd)
            self.left = usd

    def spend(self, worst: float, *, usd: float) -> None:
        """Count a call that cost `usd`, for which `worst` were set aside; NaN is a bill not known, and so the worst."""
        usd = worst if math.isnan(usd) else usd
        held = min(worst, self.left)
        self.left -= held
        self.spent += usd
        self._budget.settle(held, usd)

    def _give_back(self) -> None:
        left, self.left = self.left, 0.0
        self._budget.settle(left, 0.0)
