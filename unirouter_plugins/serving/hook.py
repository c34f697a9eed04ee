"""The hook in LiteLLM's proxy: decides on each request of the group, so that the proxy's retries are the fallback."""

from __future__ import annotations

import os
import weakref
from collections.abc import AsyncGenerator, Mapping, Sequence
from functools import partial
from typing import Any

from litellm.caching.dual_cache import DualCache
from litellm.caching.in_memory_cache import InMemoryCache
from litellm.integrations.custom_logger import CustomLogger

from unirouter_core.exceptions import UniRouterError
from unirouter_plugins.litellm.chat import RECORD
from unirouter_plugins.litellm.failures import open_litellm
from unirouter_plugins.litellm.health import HEALTH
from unirouter_plugins.litellm.routed import NoAnswerError
from unirouter_plugins.litellm.shared_health import RedisStore
from unirouter_plugins.serving.calls import ProxyCall
from unirouter_plugins.serving.config import GROUP
from unirouter_plugins.serving.requests import ProxyRequest, name_of
from unirouter_plugins.serving.watch import WatchedRouter

CONVERSATIONS, REMEMBERED = 50_000, 3600
"""Of how many conversations it is known which model answered them, and for how many seconds."""


class RoutingHook(CustomLogger):  # type: ignore[misc]  # its types are not read
    """Picks the deployment of each request of the group, and tells which it was in headers, metadata and logs."""

    def __init__(self, served: WatchedRouter) -> None:
        super().__init__()
        self.served = served
        memory = InMemoryCache(max_size_in_memory=CONVERSATIONS, default_ttl=REMEMBERED)
        self.authors = DualCache(memory, default_in_memory_ttl=REMEMBERED, default_redis_ttl=REMEMBERED)

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
        there = {name_of(str(deployment["model_info"]["id"])): deployment for deployment in healthy_deployments}
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
        await self.authors.async_set_cache(call.digest, name)
        call.show(given.setdefault("litellm_metadata" if "litellm_metadata" in given else "metadata", {}))
        return [there[name]]

    async def _new_call(self, given: dict[str, Any], messages: Any, there: Sequence[str]) -> ProxyCall:
        self.served.start()
        self.authors.redis_cache = self.served.redis
        router, models = self.served.router, self.served.models
        request = ProxyRequest.of(given, messages)
        *before, digest = request.digests
        if before:
            request = request.written_by(await self.authors.async_batch_get_cache(before, throttle_redis=False) or ())
        make = partial(ProxyCall.made, models, router, request, there)
        call = await models.abegin(router, request.chat.messages, make)
        call.digest = digest
        if (logged := given.get("litellm_logging_obj")) is not None:
            logged.unirouter_call, logged.model_call_details[RECORD] = call, weakref.ref(call)
        return call

    # --- What happened ------------------------------------------------------------------------------------------------

    async def async_post_call_failure_deployment_hook(
        self, request_data: Mapping[str, Any], exception: Exception, call_type: Any, fallback_depth: int | None = None
    ) -> None:
        """Keep the failure of a deployment for the next attempt."""
        if (call := _call_of(request_data)) is not None:
            call.newest_failure = exception

    async def async_pre_call_deployment_hook(self, kwargs: dict[str, Any], call_type: Any) -> dict[str, Any] | None:
        """Return what a deployment of the group is sent: a stream tells its usage, thoughts go to their writer only."""
        if (call := _call_of(kwargs)) is None or kwargs.get("messages") is None or _api_of(kwargs) != "acompletion":
            return None
        return {**kwargs, **call.changes(kwargs)}

    async def async_post_call_streaming_iterator_hook(
        self, user_api_key_dict: Any, response: Any, request_data: dict[str, Any]
    ) -> AsyncGenerator[Any, None]:
        """Yield a stream's chunks, without the usage that the client has not asked for."""
        call = _call_of(request_data)
        wanted = call is None or (request_data.get("stream_options") or {}).get("include_usage")
        async for chunk in response:
            if wanted or getattr(chunk, "choices", True):
                yield chunk

    async def async_post_call_success_deployment_hook(
        self, request_data: dict[str, Any], response: Any, call_type: Any
    ) -> None:
        """Give LiteLLM the cost of a program's answer: of a vote, that of all samples."""
        if (call := _call_of(request_data)) is not None and hasattr(response, "choices"):
            call.price(response)

    async def async_post_call_response_headers_hook(
        self,
        data: dict[str, Any],
        user_api_key_dict: Any,
        response: Any,
        request_headers: Any = None,
        litellm_call_info: Any = None,
    ) -> dict[str, str] | None:
        """Return the headers that tell which model answered and what it cost."""
        if (call := _call_of(data)) is None or response is None:
            return None
        call.streams = bool(data.get("stream"))
        return call.headers(response)

    async def async_logging_hook(self, kwargs: dict[str, Any], result: Any, call_type: str) -> tuple[Any, Any]:
        """End the record of an answer that is whole, a stream's too, before callbacks and logs read it."""
        if RECORD in kwargs and (call := kwargs[RECORD]()) is not None:
            call.end(result)
        return kwargs, result

    async def async_log_failure_event(
        self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        """Note that a stream has broken off."""
        if RECORD in kwargs and (call := kwargs[RECORD]()) is not None and call.streams and call.finished is None:
            call.broke_off(kwargs["exception"])


def _api_of(data: Mapping[str, Any]) -> str:
    return str(getattr(data.get("litellm_logging_obj"), "call_type", ""))


def _call_of(data: Mapping[str, Any]) -> ProxyCall | None:
    call: ProxyCall | None = getattr(data.get("litellm_logging_obj"), "unirouter_call", None)
    return call


if url := os.environ.get("REDIS_URL"):  # where LiteLLM's replicas share their counters, too
    HEALTH.store = RedisStore(url)
handler = RoutingHook(WatchedRouter.from_environment())
