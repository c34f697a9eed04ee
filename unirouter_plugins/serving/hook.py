"""The hook in LiteLLM's proxy: decides on each request of the group, so that the proxy's retries are the fallback."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import weakref
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from litellm.caching.dual_cache import DualCache
from litellm.caching.in_memory_cache import InMemoryCache
from litellm.integrations.custom_logger import CustomLogger

from unirouter_core.exceptions import InvalidDataError, UniRouterError
from unirouter_plugins.litellm.chat import RECORD, Chat
from unirouter_plugins.litellm.failures import open_litellm
from unirouter_plugins.litellm.health import HEALTH
from unirouter_plugins.litellm.panels import enter
from unirouter_plugins.litellm.routed import NoAnswerError
from unirouter_plugins.litellm.shared_health import RedisStore
from unirouter_plugins.litellm.telemetry import LOG
from unirouter_plugins.serving.calls import ProxyCall, tool_calls_of
from unirouter_plugins.serving.checked import as_checked
from unirouter_plugins.serving.config import GROUP, is_native
from unirouter_plugins.serving.requests import ProxyRequest, forced_by, name_of
from unirouter_plugins.serving.watch import WatchedRouter

T = TypeVar("T")

APIS = ("acompletion", "anthropic_messages", "aresponses")
"""What of LiteLLM's router goes to models that were measured in chats."""

SHORT = 10_000  # bytes of a request that is read, and decided on, in less than a millisecond
WAIT = 0.2  # seconds that Redis is waited for
CONVERSATIONS, REMEMBERED = 50_000, 3600
"""Of how many conversations it is known which model answered them, and for how many seconds."""


class RoutingHook(CustomLogger):  # type: ignore[misc]  # its types are not read
    """Picks the deployment of each request of the group, and tells which it was in headers, metadata and logs."""

    def __init__(self, served: WatchedRouter) -> None:
        super().__init__()
        self.served = served
        memory = InMemoryCache(max_size_in_memory=CONVERSATIONS, default_ttl=REMEMBERED)
        self.authors = DualCache(memory, default_in_memory_ttl=REMEMBERED, default_redis_ttl=REMEMBERED)
        self._tasks: set[asyncio.Task[Any]] = set()

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
        logged, known = given.get("litellm_logging_obj"), _call_of(given)
        there = {name_of(str(deployment["model_info"]["id"])): deployment for deployment in healthy_deployments}
        if (refusal := getattr(logged, "unirouter_refusal", None)) is not None:
            raise refusal  # LiteLLM tries again what was refused
        try:
            if known is None and _api_of(given) not in APIS:
                raise InvalidDataError(f"{GROUP} serves chat, messages and responses.")
            call = await self._new_call(given, messages, there) if known is None else known
            name = call.pick() if known is None else call.next_attempt()
            while name not in there:  # retired since the request came
                call.newest_failure = NoAnswerError(f"{name!r} is not in the pool any more.")
                name = call.next_attempt()
        except UniRouterError as failed:
            refusal = open_litellm().BadRequestError(str(failed), model, GROUP)
            if logged is not None:
                logged.unirouter_refusal = refusal
            raise refusal from failed
        except Exception:
            if known is not None:  # what its models raised
                raise
            LOG.exception("A request could not be decided on; the cheapest model that can take it answers.")
            return [there[self._cheapest(given, messages, [*there])]]
        enter(call.inside)  # the proxy calls the model in this task
        call.show(given.setdefault("litellm_metadata" if "litellm_metadata" in given else "metadata", {}))
        return [as_checked(there[name], call) if call.is_checked else there[name]]

    async def _new_call(self, given: dict[str, Any], messages: Any, there: Mapping[str, Any]) -> ProxyCall:
        self.served.start()
        router, models = self.served.router, self.served.models
        headers = (given.get("proxy_server_request") or {}).get("headers") or {}
        size = int(headers.get("content-length", SHORT + 1))
        is_quick = size <= SHORT and models.is_quick(router, "")

        def read() -> tuple[ProxyRequest, list[str], list[str]]:
            request = ProxyRequest.of(given, messages)
            return request, request.digests, request.called

        request, (*before, digest), called = await _made(is_quick, read)
        writers = await self._writers(before, called) if before else []

        def make() -> ProxyCall:
            check = not models.snapshot(router).checks or not _is_native(_api_of(given), there.values())
            return ProxyCall.made(models, router, request.written_by(writers), [*there], check=check)

        call = await _made(is_quick, make)
        call.digest = digest
        if (logged := given.get("litellm_logging_obj")) is not None:
            logged.unirouter_call, logged.model_call_details[RECORD] = call, weakref.ref(call)
        return call

    def _cheapest(self, given: Mapping[str, Any], messages: Any, there: Sequence[str]) -> str:
        """Return the cheapest model among those `there` that can take a request, as far as that can be read."""
        pool, needs, named = self.served.router.pool, list[str](), forced_by(given)
        with contextlib.suppress(Exception):  # of any kind: it may be why nothing was decided
            needs += Chat.of(messages, given).requires
        able = [name for name in there if name in pool and not pool[name].capabilities.lacks(needs)]
        usd = dict.fromkeys(able or there, math.inf)
        for name in usd:
            with contextlib.suppress(Exception):
                quoted = self.served.models.snapshot(self.served.router).quote(name)
                usd[name] = math.inf if quoted is None else quoted.prices.input + quoted.prices.output
        return named if named is not None and named in there else min(usd, key=usd.__getitem__)

    # --- Which model a conversation is with ---------------------------------------------------------------------------

    async def _writers(self, digests: Sequence[str], called: Sequence[str]) -> list[str | None]:
        """Return the model that each answer of a conversation came from: by its tool call, else by what was before."""
        self.authors.redis_cache = self.served.redis
        keys, found = [*map(_key, digests, called), *map(_key, digests)], None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WAIT):
                found = await self.authors.async_batch_get_cache(keys, throttle_redis=False)
        known = found or self.authors.in_memory_cache.batch_get_cache(keys)
        return [by_call or other for by_call, other in zip(known[: len(digests)], known[len(digests) :], strict=True)]

    def _remember(self, call: ProxyCall, answer: Any = None) -> None:
        """Remember which model has answered, in a task of its own: Redis may hang."""
        self.authors.redis_cache = self.served.redis
        keys = [_key(call.digest, name) for name in ("", *tool_calls_of(answer))]
        task = asyncio.create_task(self.authors.async_set_cache_pipeline([(key, call.attempts.model) for key in keys]))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

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
        """Yield a stream's chunks: with one beginning, the model and its cost at the end, usage where it is wanted."""
        if (call := _call_of(request_data)) is None:
            async for chunk in response:
                yield chunk
            return
        wanted, has_begun, last = (request_data.get("stream_options") or {}).get("include_usage"), False, None
        async for chunk in response:
            if (choices := getattr(chunk, "choices", None)) and choices[0].delta.role is not None:
                if has_begun and call.attempts.failures and not choices[0].delta.content:
                    continue  # of the model that took over
                has_begun = True
            if last is not None:
                yield call.signed(last, chunk)
                last = None
            if choices and choices[0].finish_reason is not None:
                last = chunk  # until its usage is known
            elif wanted or choices is None or choices:
                yield chunk
        if last is not None:
            yield call.signed(last)

    async def async_post_call_success_deployment_hook(
        self, request_data: dict[str, Any], response: Any, call_type: Any
    ) -> Any:
        """Return the answer, with the cost of a program's, of a vote that of all samples; of an empty one the next."""
        call = _call_of(request_data)
        if call is not None and call.finished is None and hasattr(response, "choices"):
            return await call.answered(response)
        return None

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
        self._remember(call, None if call.streams else response)
        return call.headers(response)

    async def async_logging_hook(self, kwargs: dict[str, Any], result: Any, call_type: str) -> tuple[Any, Any]:
        """End the record of an answer that is whole, a stream's too, before callbacks and logs read it."""
        if RECORD in kwargs and (call := kwargs[RECORD]()) is not None:
            call.end(result)
            if call.streams:
                self._remember(call, result)
        return kwargs, result

    async def async_log_failure_event(
        self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        """Note that a stream has broken off, unless another model has taken its place."""
        if RECORD in kwargs and (call := kwargs[RECORD]()) is not None and call.streams and call.finished is None:
            told = kwargs.get("standard_logging_object") or {}
            if name_of(str(told.get("model_id"))) == call.attempts.model and call.over is None:
                call.broke_off(kwargs["exception"])


async def _made(is_quick: bool, make: Callable[[], T]) -> T:
    """Return what `make` returns, made in a thread where that takes a while."""
    return make() if is_quick else await asyncio.to_thread(make)


def _is_native(api: str, deployments: Iterable[Mapping[str, Any]]) -> bool:
    """Return whether one of the deployments serves an API other than chat itself."""
    each = (deployment["litellm_params"] for deployment in deployments)
    own = (is_native(api, params["model"], bool(params.get("use_chat_completions_api"))) for params in each)
    return api != "acompletion" and any(own)


def _key(digest: str, called: str = "") -> str:
    """Return the key of an answer in a conversation, by the tool call in it where there is one."""
    return f"{GROUP}:conversation:{digest}:{called}"


def _api_of(data: Mapping[str, Any]) -> str:
    return str(getattr(data.get("litellm_logging_obj"), "call_type", ""))


def _call_of(data: Mapping[str, Any]) -> ProxyCall | None:
    call: ProxyCall | None = getattr(data.get("litellm_logging_obj"), "unirouter_call", None)
    return call


def __getattr__(name: str) -> RoutingHook:
    """Return `handler`, which is made when the proxy asks for it: an import serves nothing."""
    if name != "handler":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if not logging.getLogger().handlers and all(isinstance(each, logging.NullHandler) for each in LOG.handlers):
        LOG.addHandler(shown := logging.StreamHandler())  # the proxy's own log is on stderr, too
        shown.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s: %(message)s"))
    if url := os.environ.get("REDIS_URL"):  # where LiteLLM's replicas share their counters, too
        HEALTH.store = RedisStore(url)
    made = globals()[name] = RoutingHook(WatchedRouter.from_environment())
    return made
