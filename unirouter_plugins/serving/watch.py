"""The router that the proxy serves, loaded again when its folder changes."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import os
from pathlib import Path
from typing import Any

from unirouter_core.exceptions import InvalidDataError, UniRouterError
from unirouter_core.router import UniRouter
from unirouter_plugins.litellm import load_router
from unirouter_plugins.litellm.failures import open_litellm
from unirouter_plugins.litellm.pool_file import BESIDE
from unirouter_plugins.litellm.snapshot import PoolModels
from unirouter_plugins.litellm.telemetry import LOG
from unirouter_plugins.serving.config import GROUP, POOL, ROUTER, TRUST, deployments, group_settings

EVERY, PAUSE = 0.5, 60.0
"""Seconds between two looks at the folder, and after a failure that is a bug."""


class Deployments(PoolModels[str]):
    """The models of a pool as the proxy's deployments."""

    def make(self, arguments: dict[str, Any], *, is_last: bool) -> str:
        """Return the name that LiteLLM calls."""
        return str(arguments["model"])


class WatchedRouter:
    """The router in a folder, its models called as a `pool.toml` says; both are read again when they change."""

    def __init__(self, folder: Path, pool: str = BESIDE, *, trust: bool = False) -> None:
        self.folder, self.pool, self.trust = folder, pool, trust
        self.models, self.redis = Deployments(), None
        self._stamp = self._look()
        self.router, self._deployments = self._load()
        self._task: asyncio.Task[None] | None = None
        try:
            asyncio.get_running_loop()
        except RuntimeError:  # none runs yet: the first request starts it
            return
        self.start()

    @classmethod
    def from_environment(cls) -> WatchedRouter:
        """Return the router that the proxy's config names."""
        trust = os.environ.get(TRUST, "").lower() == "true"
        return cls(Path(os.environ[ROUTER]), os.environ.get(POOL, BESIDE), trust=trust)

    def start(self) -> None:
        """Begin to watch, in the running loop, unless that is done already."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while True:
            try:
                self._serve()
                await asyncio.sleep(EVERY)
                await self.refresh()
            except Exception:  # of any kind: what is served goes on being served
                LOG.exception("%s could not be looked at; it is tried again in a minute.", self.folder)
                await asyncio.sleep(PAUSE)

    async def refresh(self) -> None:
        """Load the router again if it has changed; what cannot be served is logged once, and the old one is kept."""
        if (before := await asyncio.to_thread(self._look)) == self._stamp:
            return
        try:
            router, made = await asyncio.to_thread(self._load)
        except Exception as failed:  # of any kind: files may hold anything
            self._stamp = before
            LOG.warning(
                "%s has changed and cannot be served; the router stays as it was. %s: %s",
                *(self.folder, type(failed).__name__, failed),
                exc_info=None if isinstance(failed, UniRouterError | OSError) else failed,
            )
            return
        if before == await asyncio.to_thread(self._look):  # else it was being written meanwhile
            self._stamp, self.router, self._deployments = before, router, made  # served before anything is awaited

    def _load(self) -> tuple[UniRouter, dict[str, Any]]:
        from litellm.types.router import Deployment

        router = load_router(self.folder, self.pool, trust=self.trust, warm=False)
        if not router.pool:
            raise InvalidDataError("Its pool is empty; onboard a model.")
        made = {each["model_info"]["id"]: each for each in deployments(router)}
        for each in made.values():
            Deployment(**copy.deepcopy(each))  # raises here, before any is exchanged
        return router, made

    def _look(self) -> list[Any]:
        """Return what changes when the router is saved, or its `pool.toml` is."""
        table = self.folder.resolve().parent / "pool.toml" if self.pool == BESIDE else Path(self.pool)
        found = []
        for path in (*(self.folder / name for name in ("", "router.json", "weights.npz", "pool")), table):
            with contextlib.suppress(OSError):
                seen = path.stat()
                found.append((str(path), seen.st_ino, seen.st_mtime_ns, seen.st_size))
        return found

    def _serve(self) -> None:
        """Give LiteLLM's router the pool's deployments: at once for requests, as nothing is awaited."""
        from litellm.proxy import proxy_server
        from litellm.types.router import Deployment

        if (proxy := proxy_server.llm_router) is None:  # not yet
            return
        served = {each["model_info"]["id"] for each in proxy.model_list if each["model_name"] == GROUP}
        if self.models.timeout == proxy.timeout and served == self._deployments.keys():
            return
        self.models, self.redis = Deployments(settings={"timeout": proxy.timeout}), proxy.cache.redis_cache
        for new in self._deployments.keys() - served:
            made = copy.deepcopy(self._deployments[new])
            if "api_key" in (params := made["litellm_params"]):
                params["api_key"] = open_litellm().get_secret(params["api_key"])
            proxy.add_deployment(Deployment(**made))
        for old in served - self._deployments.keys():
            proxy.delete_deployment(old)
        for name, settings in group_settings(self.router).items():
            others = {key: value for key, value in (getattr(proxy, name) or {}).items() if not key.startswith(GROUP)}
            setattr(proxy, name, others | settings)
