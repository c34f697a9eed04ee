"""Which models have failed of late: they cool down, then one call at a time tries them again until they are well."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass

from unirouter_plugins.litellm.failures import Failure, classify, retry_after

FIRST, LONGEST = 5.0, 300.0
"""Seconds of a cool-down: the first, doubled with each failure in a row, and the most."""

MOST_TRIES = 5
"""Answers in a row, one call at a time, after which a model is well again: as many as it failed, but no more."""


@dataclass(frozen=True)
class Health:
    """The failures of a model since its last answer."""

    failures: int  # in a row
    kind: str  # the class of the newest
    until: float = 0.0  # when it has cooled down, in seconds since the epoch; 0 where it need not
    tried: float = 0.0  # since when one call tries it again; 0 while none does
    answers: int = 0  # in a row, of calls that tried it again
    since: float = 0.0  # when the newest failure came

    def is_out(self, now: float) -> bool:
        """Return whether it is not to be called now; a clock that was set back delays nothing for long."""
        return now < self.until <= now + LONGEST or now - LONGEST < self.tried <= now

    def __str__(self) -> str:
        until = time.strftime("%H:%M:%S", time.localtime(self.until))
        again = ", being tried again" if self.tried else ""
        return f"cooling down until {until} ({self.kind}, {self.failures} in a row{again})"


class HealthTable:
    """The models that have failed, by how they are called: all routers of a process share one table, `HEALTH`.

    `store` keeps a `Health` by key and may be any mutable mapping, also one that several processes share; `clock`
    returns seconds since the epoch.
    """

    def __init__(
        self, store: MutableMapping[str, Health] | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self.store: MutableMapping[str, Health] = {} if store is None else store
        self._clock, self._lock = clock, threading.Lock()

    def cooling(self, keys: Mapping[str, str]) -> dict[str, str]:
        """Return why each model that cools down is to be avoided, by its name; `keys` are how models are called."""
        now, found = self._clock(), ((name, self.store.get(key)) for name, key in keys.items())
        return {name: str(health) for name, health in found if health is not None and health.is_out(now)}

    def may_try(self, key: str) -> bool:
        """Return whether a call may go to a model; after a cool-down this is the one call that tries it again."""
        with self._lock:
            health, now = self.store.get(key), self._clock()
            if health is None or not health.until:
                return True
            if health.is_out(now):
                return False
            self.store[key] = dataclasses.replace(health, tried=now)
            return True

    def answered(self, key: str, seconds: float = 0.0) -> None:
        """Note that a model has answered after `seconds`; a call from before a cool-down does not end it."""
        with self._lock:
            before = self.store.get(key)
            if before is None or (before.until and self._clock() - seconds < before.since):
                return
            answers = before.answers + 1
            if before.until and answers < min(before.failures, MOST_TRIES):
                self.store[key] = dataclasses.replace(before, tried=0.0, answers=answers)
            else:
                self.store.pop(key, None)

    def failed(self, key: str, failed: BaseException, seconds: float = 0.0) -> None:
        """Note that a call has failed after `seconds`; what is the request's own fault, or was cancelled, ends a try.

        A call from before the newest failure or the try only lengthens a cool-down, by what its Retry-After asks.
        """
        failure, kind = classify(failed), type(failed).__name__
        asked = min(retry_after(failed) or 0.0, LONGEST)
        with self._lock:
            before, now = self.store.get(key), self._clock()
            is_old = before is not None and before.until and now - seconds < max(before.since, before.tried)
            if failure not in (Failure.ACCESS, Failure.RATE_LIMIT, Failure.SERVER):
                if before is not None and not is_old:
                    self.store[key] = dataclasses.replace(before, tried=0.0)
                return
            n = 1 if before is None else before.failures + 1
            if before is not None and (is_old or (not before.tried and before.is_out(now))):
                since = before.since if is_old else now
                self.store[key] = dataclasses.replace(before, until=max(before.until, now + asked), since=since)
                return
            is_slow = "Timeout" in kind  # which costs the next call as long
            pause = FIRST * 2.0 ** min(n - 2, 9) if n > 1 else FIRST if is_slow else 0.0
            pause = LONGEST if failure is Failure.ACCESS else min(max(pause, asked), LONGEST)
            self.store[key] = Health(n, kind, now + pause if pause else 0.0, since=now)


HEALTH = HealthTable()
"""The one of this process."""
