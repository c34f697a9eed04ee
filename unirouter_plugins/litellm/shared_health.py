"""The cool-downs of several processes in one Redis: each works on its own copy, which a thread keeps up to date."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Iterator, MutableMapping

from unirouter_core.exceptions import missing_package
from unirouter_plugins.litellm.health import LONGEST, Health
from unirouter_plugins.litellm.telemetry import LOG

KEY = "unirouter:health"
EVERY = 0.5
"""Seconds between two exchanges with Redis; what fails in one process is known in the others as late."""


class RedisStore(MutableMapping[str, Health]):
    """A store for `HealthTable` that processes share: `HEALTH.store = RedisStore("redis://localhost:6379")`.

    Calls read and write the process's own copy and never wait for Redis. While Redis is away the copy is all there is;
    when it is back, it gets what the copy holds.
    """

    def __init__(self, url: str, key: str = KEY, every: float = EVERY) -> None:
        try:
            from redis import Redis, RedisError
        except ImportError as missing:
            raise missing_package("redis", "serve") from missing
        self._redis, self._failures = (
            Redis.from_url(url, socket_timeout=5, socket_connect_timeout=5),
            (RedisError, OSError),
        )
        self._key, self._every = key, every
        self._copy: dict[str, Health] = {}
        self._unsent: dict[str, Health | None] = {}  # None is deleted
        self._lock, self._closing, self._is_away = threading.Lock(), threading.Event(), False
        threading.Thread(target=self._keep_up, name="unirouter cool-downs", daemon=True).start()

    def __getitem__(self, key: str) -> Health:
        return self._copy[key]

    def __setitem__(self, key: str, health: Health) -> None:
        with self._lock:
            self._copy[key] = self._unsent[key] = health

    def __delitem__(self, key: str) -> None:
        with self._lock:
            del self._copy[key]
            self._unsent[key] = None

    def __iter__(self) -> Iterator[str]:
        return iter([*self._copy])

    def __len__(self) -> int:
        return len(self._copy)

    def exchange(self) -> bool:
        """Send what has changed here and get what has changed elsewhere; return whether Redis was there."""
        with self._lock:
            sent, self._unsent = self._unsent, {}
        try:
            with self._redis.pipeline(transaction=True) as pipe:
                for key, health in sent.items():
                    pipe.hdel(self._key, key) if health is None else pipe.hset(self._key, key, _as_json(health))
                pipe.expire(self._key, int(4 * LONGEST))
                held = pipe.hgetall(self._key).execute()[-1]
        except self._failures as failed:
            if not self._is_away:
                LOG.warning("Redis is away (%s): cool-downs are not shared until it is back.", type(failed).__name__)
            self._is_away = True
            with self._lock:
                self._unsent = {**self._copy, **sent, **self._unsent}
            return False
        self._is_away, found = False, {key.decode(): _read(value) for key, value in held.items()}
        with self._lock:
            known = {key: health for key, health in {**found, **self._unsent}.items() if health is not None}
            self._copy = known
        return True

    def close(self) -> None:
        """End the exchange with Redis."""
        self._closing.set()

    def _keep_up(self) -> None:
        while not self._closing.wait(self._every):
            self.exchange()
        self._redis.close()


def _as_json(health: Health) -> str:
    return json.dumps(dataclasses.asdict(health))


def _read(value: bytes) -> Health | None:
    """Return what another process wrote; None where another version of this library did."""
    try:
        told = json.loads(value)
        until, tried, since = (float(told[name]) for name in ("until", "tried", "since"))
        return Health(int(told["failures"]), str(told["kind"]), until, tried, int(told["answers"]), since)
    except (LookupError, TypeError, ValueError):
        return None
