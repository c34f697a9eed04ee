"""The hook in LiteLLM's proxy: decides on each request of the group, so that the proxy's retries are the fallback."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from typing import Any

from litellm.integrations.custom_logger import CustomLogger

from unirouter_core.exceptions import UniRouterError
from unirouter_plugins.litellm.failures import open_litellm
from unirouter_plugins.litellm.health import HEALTH
from unirouter_plugins.litellm.routed import NoAnswerError
from unirouter_plugins.litellm.shared_health import RedisStore
from unirouter_plugins.serving.calls import ProxyCall
from unirouter_plugins.serving.config import GROUP
from unirouter_plugins.serving.watch import WatchedRouter


class RoutingHook(CustomLogger):  # type: ignore[misc]  # its types are not read
    """Picks the deployment of each request of the group, and tells which it was in headers, metadata and logs."""

    def __init__(self, served: WatchedRouter) -> None:
        super().__init__()
        self.served = served

    # --- The choice ---------------------------------------------------------------------------------------------------

    async def async_filter_deployments(
        self,
        model: str,
        healthy_deployments: list[Any],
        messages: Any,
        request_kwargs: dict[str, Any] | None = None,
        parent_otel_span: Any = None,
    ) -> list[Any]:
        """Return the deployment of the model to call now: the rule's choice; after a failure the next in order."""
        if model != GROUP:
            return healthy_deployments
        given = {} if request_kwargs is None else request_kwargs
        there = {_name(deployment): deployment for deployment in healthy_deployments}
        try:
            if (call := _call_of(given)) is None:
                call = await self._new_call(given, messages, [*there])
                name = call.start()
            else:
                name = call.next_attempt()
            while name not in there:  # retired since the request came
                call.newest_failure = NoAnswerError(f"{name!r} is not in the pool any more.")
                name = call.next_attempt()
        except UniRouterError as failed:
            raise open_litellm().BadRequestError(str(failed), model, GROUP) from failed
        call.show(_metadata(given))
        return [there[name]]

    async def _new_call(self, given: dict[str, Any], messages: Any, there: Sequence[str]) -> ProxyCall:
        self.served.start()
        router, models = self.served.router, self.served.models
        call = await asyncio.to_thread(ProxyCall.made, models, router, given, messages, there)
        if (logged := given.get("litellm_logging_obj")) is not None:
            logged.unirouter_call = call
        return call

    # --- What happened ------------------------------------------------------------------------------------------------

    async def async_post_call_failure_deployment_hook(
        self, request_data: Mapping[str, Any], exception: Exception, call_type: Any, fallback_depth: int | None = None
    ) -> None:
        """Keep the failure of a deployment for the next attempt."""
        if (call := _call_of(request_data)) is not None:
            call.newest_failure = exception

    async def async_post_call_response_headers_hook(
        self,
        data: dict[str, Any],
        user_api_key_dict: Any,
        response: Any,
        request_headers: Any = None,
        litellm_call_info: Any = None,
    ) -> dict[str, str] | None:
        """Return the headers that tell which model answered and what it cost."""
        call = _call_of(data)
        if call is None or response is None:
            return None
        return call.headers(response, streams=bool(data.get("stream")))


def _call_of(data: Mapping[str, Any]) -> ProxyCall | None:
    call: ProxyCall | None = getattr(data.get("litellm_logging_obj"), "unirouter_call", None)
    return call


def _metadata(given: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata that the proxy keeps of a request: its own, where the API has metadata for the provider."""
    held: dict[str, Any] = given.setdefault("litellm_metadata" if "litellm_metadata" in given else "metadata", {})
    return held


def _name(deployment: Mapping[str, Any]) -> str:
    return str(deployment["model_info"]["id"]).rpartition("@")[0]


if url := os.environ.get("REDIS_URL"):  # where LiteLLM's replicas share their counters, too
    HEALTH.store = RedisStore(url)
handler = RoutingHook(WatchedRouter.from_environment())
