"""LiteLLM: the router picks the model, LiteLLM calls it, and the next model is tried when it fails."""

from __future__ import annotations

import asyncio
import dataclasses
import difflib
import inspect
import os
import time
import warnings
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Self, TypeAlias
from weakref import WeakKeyDictionary

from unirouter_core.exceptions import InvalidDataError, UnknownPriceError
from unirouter_core.pool import ModelProfile, Pool
from unirouter_core.router import UniRouter
from unirouter_plugins.litellm import prices
from unirouter_plugins.litellm.chat import RECORD, Chat, Messages, portable
from unirouter_plugins.litellm.failures import open_litellm, warm_litellm
from unirouter_plugins.litellm.pool_file import (
    BESIDE,
    MEASURED_AS,
    SERVED_AS,
    Member,
    Members,
    approved,
    members_for,
    read_members,
)
from unirouter_plugins.litellm.programs import register
from unirouter_plugins.litellm.routed import CallRecord, Content, RoutedCall
from unirouter_plugins.litellm.snapshot import LIMITS, TABLES, PoolModels, Snapshot, check_given

if TYPE_CHECKING:
    from litellm import ModelResponse, ModelResponseStream

__all__ = ["BESIDE", "AsyncStream", "CallRecord", "Member", "Members", "Stream", "acomplete", "astream"]
__all__ += ["check_parameters", "complete", "configured", "load_router", "open_litellm"]
__all__ += ["read_members", "record_of", "stream"]

GivenRouter: TypeAlias = "UniRouter | str | os.PathLike[str]"


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)


_ANSWERS = ("content", "tool_calls", "function_call", "refusal", "audio", "images")
_THOUGHTS = ("reasoning_content", "thinking_blocks")
"""What of a message is an answer, and what begins one."""

_NOT_A_PARAMETER = ("model", "messages", "stream", "api_base", "base_url", "api_key")
"""What the router and the table decide; a key or an address of one model is not for the next."""


# --- The router and its pool.toml -------------------------------------------------------------------------------------


def load_router(
    folder: str | os.PathLike[str],
    pool: Members | str | os.PathLike[str] | None = BESIDE,
    *,
    checks: Mapping[str, Any] | None = None,
    trust: bool = False,
    warm: bool = True,
    **options: Any,
) -> UniRouter:
    """Return the router in `folder`, its models called, priced and filtered as a `pool.toml` says.

    `pool` is the path of a `pool.toml` (see `read_members`), or such a table, by default the one beside the folder, if
    there is one; None reads none. Models that it does not name are called as when they were evaluated. `checks` of
    answers, by name, are functions or what ``[checks]`` may hold, and come before those of the table; calls run those
    for which models have signals, see `UniRouter.add_check`. `options` are those of `UniRouter.load`.

    A folder says at which address a model is called, and which environment variable holds the key. One that the table
    does not name, for any of its models, is refused, unless `trust`; a provider with its usual key needs neither. The
    custom providers of a table are programs, and run only where `pool` names it. Raises `ArtifactError` or
    `InvalidDataError` when the folder or the table cannot be used.

    LiteLLM, whose import takes seconds, is imported meanwhile in a background thread, so that the first call need not
    wait for it; `warm=False` leaves that to the first call.
    """
    if warm:
        warm_litellm()
    router = UniRouter.load(folder, **options)
    members = members_for(folder, pool)
    if checks:
        from unirouter_plugins.litellm.checks import named_checks  # with the graders

        own = named_checks(checks, members, router.pool)
        members = Members(members, members.providers, members.beside, {**members.checks, **own})
    register(members)
    made = configured(router.with_pool(approved(router.pool, members, trust=trust)), members)
    if members.checks:
        Snapshot.of(made).require_checks()
    return made


def configured(router: UniRouter, members: Members) -> UniRouter:
    """Return the router with its pool as `members` has it, and its checks for calls; `router` stays as it is.

    Its prices and capabilities count in decisions. A warning names each model that is not called as it was evaluated.
    """
    profiles = {n: _configured(p, members[n]) if n in members else p for n, p in router.pool.items()}
    made = router.with_pool(Pool(profiles))
    TABLES[made] = members
    return made


def _configured(profile: ModelProfile, member: Member) -> ModelProfile:
    if changed := member.differences(profile):
        warnings.warn(
            f"{profile.model!r} is not served as it was measured: {'; '.join(changed)}. Its error and cost may differ; "
            "onboard it again with --replace.",
            stacklevel=4,
        )
    provenance = {**profile.provenance, SERVED_AS: member.served_as}
    if (measured_as := profile.provenance.get(MEASURED_AS, profile.provenance.get(SERVED_AS))) is not None:
        provenance[MEASURED_AS] = measured_as
    able = prices.capabilities(member, profile)
    profile = dataclasses.replace(profile, provenance=provenance, capabilities=able)
    if member.prices is None or member.prices == profile.prices:
        return profile
    try:
        return profile.repriced(member.prices)
    except UnknownPriceError:
        warnings.warn(
            f"{profile.model!r} was evaluated without token prices, so decisions use its old cost; onboard it again "
            "with --replace.",
            stacklevel=4,
        )
        return dataclasses.replace(profile, prices=member.prices)


class FromFolder:
    """A framework's model that routes, made from the folder of a router."""

    @classmethod
    def from_folder(
        cls,
        folder: str | os.PathLike[str],
        pool: str | os.PathLike[str] | None = BESIDE,
        *,
        embedder: Any = None,
        estimator: Any = None,
        checks: Mapping[str, Any] | None = None,
        warm: bool = True,
        **fields: Any,
    ) -> Self:
        """Return one that routes with the router in `folder`, its models called as a `pool.toml` says.

        The arguments are those of `unirouter_plugins.litellm.load_router`, which reads the `pool.toml` beside the
        folder when no `pool` is given, and those of the class.
        """
        router = load_router(folder, pool, checks=checks, warm=warm, embedder=embedder, estimator=estimator)
        made: Self = cls(router, **fields)  # type: ignore[call-arg]
        return made


def opened(router: Any, models: Any, kind: type, what: str) -> UniRouter:
    """Return the router, loaded where its folder is given, if `models` fit it: see `check_given`."""
    router = load_router(router) if isinstance(router, str | os.PathLike) else router
    check_given(models, router, kind, what)
    checked: UniRouter = router
    return checked


# --- Calls ------------------------------------------------------------------------------------------------------------


class _Arguments(PoolModels[dict[str, Any]]):
    """The models of a pool as arguments of `litellm.completion`."""

    def make(self, arguments: dict[str, Any], *, is_last: bool) -> dict[str, Any]:
        return arguments if is_last else {**arguments, "num_retries": 0, "max_retries": 0}


_MODELS: WeakKeyDictionary[UniRouter, _Arguments] = WeakKeyDictionary()


def snapshot_of(router: UniRouter) -> Snapshot:
    """Return the router's pool as it is now, called through LiteLLM; it is made again when the pool has changed."""
    return _MODELS.setdefault(router, _Arguments()).snapshot(router)


class LiteLLMCall(RoutedCall[dict[str, Any]]):
    """A call through LiteLLM's functions."""

    shows_usage: bool

    @classmethod
    def of(
        cls,
        given: GivenRouter,
        asked: str | Messages,
        *,
        cost_weight: float | None = None,
        models: Sequence[str] | None = None,
        requires: Sequence[str] = (),
        content_policy: bool = False,
        check: bool = True,
        streams: bool = False,
        **parameters: Any,
    ) -> LiteLLMCall:
        """Return the call, its model picked."""
        if isinstance(requires, str):
            raise InvalidDataError(f"{requires!r} is one name, not a list of names; put it in a list.")
        router = load_router(given) if isinstance(given, str | os.PathLike) else given
        pool = _MODELS.setdefault(router, _Arguments())
        snapshot = pool.snapshot(router)
        check_parameters(parameters, snapshot.members.values())
        options = parameters.get("stream_options") or {}
        if streams:  # without usage its cost would not be known
            parameters = {**parameters, "stream": True, "stream_options": {"include_usage": True, **options}}
        chat = Chat.of(asked, parameters)
        request: dict[str, Any] = {"cost_weight": cost_weight, "candidates": models, "requires": requires}
        request["check"] = check
        call = cls(pool, router, chat, content_policy=content_policy, parameters=parameters, **request)
        call.shows_usage = bool(options.get("include_usage"))
        return call

    @classmethod
    async def aof(cls, given: GivenRouter, asked: str | Messages, **options: Any) -> LiteLLMCall:
        """Return the same as `of`, made in a thread where that takes a while."""
        begin = partial(cls.of, given, asked, **options)
        if isinstance(given, UniRouter) and (known := _MODELS.get(given)) is not None:
            return await known.abegin(given, asked, begin)
        return await asyncio.to_thread(begin)

    def model_for(self, model: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments of `litellm.completion`, where the model's price is known."""
        name = self.attempts.model
        self.snapshot.require_callable(name)
        messages = self.chat.messages_for(name, self.chat.messages, portable)
        arguments = {**model, **self.parameters, "messages": messages}
        if isinstance(given := arguments.get("metadata") or {}, dict):  # which LiteLLM shows its callbacks
            arguments["metadata"] = {**given, RECORD: self._shown}
        if not hasattr(arguments.get("timeout"), "read"):  # of httpx
            arguments["timeout"] = min(self.limits.timeout, max(self._ends - time.monotonic(), 0.001))
        return arguments

    def content(self, answer: Any) -> Content:
        """Return what the first choice of a response, or of a chunk, holds."""
        if not answer.choices:
            return Content(False)
        choice = answer.choices[0]
        said = getattr(choice, "message", None) or getattr(choice, "delta", None)
        is_read = isinstance(getattr(said, "content", None), str | list | None)
        has_answer = is_read and any(getattr(said, kind, None) for kind in _ANSWERS)
        has_thoughts = not has_answer and any(getattr(said, kind, None) for kind in _THOUGHTS)
        return Content(has_answer or has_thoughts, choice.finish_reason, has_thoughts)

    def seen(self, answer: Any) -> tuple[str, dict[str, Any]]:
        """Return the text and the tool calls of a response."""
        message = answer.choices[0].message
        calls = [(call.function.name, call.function.arguments) for call in message.tool_calls or ()]
        return message.content or "", {"tool_calls": calls}

    def whole(self, parts: list[Any]) -> Any:
        """Return the chunks of a stream as one response."""
        response = open_litellm().stream_chunk_builder(parts)
        told = (getattr(part.choices[0], "logprobs", None) for part in parts if part.choices)
        if tokens := [token for each in told for token in getattr(each, "content", None) or ()]:
            response.choices[0].logprobs = {"content": tokens}  # which LiteLLM leaves out
        return response

    def is_shown(self, part: Any) -> bool:
        """Return whether a chunk has a choice, or the caller wants the usage, too."""
        return bool(part.choices) or self.shows_usage

    def usage_of(self, answer: Any) -> prices.Usage:
        """Return the usage that a response tells."""
        return prices.usage_of(answer)

    def usd_of(self, answer: Any, usage: prices.Usage) -> float:
        """Return what a response cost, as LiteLLM computes it where its prices count."""
        quoted = self.snapshot.quote(self.attempts.model)
        assert quoted is not None
        return prices.usd_of(answer, quoted, usage)

    def attach(self, answer: Any, record: CallRecord) -> Any:
        """Return the response with the record among its hidden parameters, and its messages with their model's name."""
        answer._hidden_params[RECORD] = record
        for choice in answer.choices:
            self._sign(choice.message, *(choice.message.tool_calls or ()))
        return answer

    def passed(self, part: Any) -> Any:
        """Return a chunk as it is; the last has the model's name, which LiteLLM's `stream_chunk_builder` keeps."""
        if part.choices and part.choices[0].finish_reason is not None:
            self._sign(part.choices[0].delta)
        return part

    def _sign(self, *holders: Any) -> None:
        for holder in holders:
            known = getattr(holder, "provider_specific_fields", None) or {}
            holder.provider_specific_fields = {**known, RECORD: {"model": self.attempts.model}}


def complete(
    router: GivenRouter,
    asked: str | Messages,
    *,
    cost_weight: float | None = None,
    models: Sequence[str] | None = None,
    requires: Sequence[str] = (),
    content_policy: bool = False,
    check: bool = True,
    **parameters: Any,
) -> ModelResponse:
    """Call the model that the router picks, the next one where it fails, and return LiteLLM's own response.

    Models that lack what the call needs (tools, images, JSON, room for its tokens) are not picked. When all fail, the
    failure of the model that was picked first is raised, as if it had been called directly.

    Parameters
    ----------
    router : UniRouter or path
        As `load_router` returns it; one that was made otherwise calls its models as they were evaluated. A folder is
        loaded at every call, which takes half a second: load it once where there are more.
    asked : str or sequence of mapping
        A prompt, or chat messages.
    cost_weight, models, requires
        As in `UniRouter.route`.
    content_policy : bool
        Whether a refusal by a provider's content filter is passed on to the next model.
    check : bool
        Whether answers may be checked, where the router has checks; a stream that is checked begins when it is whole.
    **parameters
        As in `litellm.completion`: tools, response_format, temperature, max_tokens and the like. They win over the
        settings that the model was evaluated with, and the record says so. `timeout` (300 s) is the wall-clock time of
        one model until its first content, of its whole answer when not streamed; then the next is tried. `deadline`
        (twice the timeout) is that of the whole call, all models and the rest of a stream together.

    Raises
    ------
    NoCandidateError
        When no model of the pool can do what is required.
    UnknownPriceError
        When the price of the model is not known, before it is called.
    InvalidDataError
        When a parameter is known neither here nor to LiteLLM. LiteLLM's own exceptions come as they are.

    Examples
    --------
    ::

        router = load_router("my.router")
        response = complete(router, "What is 17 times 23?")
        print(response.choices[0].message.content, record_of(response).usd)
    """
    options: dict[str, Any] = {"cost_weight": cost_weight, "models": models, "requires": requires}
    call = LiteLLMCall.of(router, asked, content_policy=content_policy, check=check, **options, **parameters)
    response: ModelResponse = call.run(lambda arguments: open_litellm().completion(**arguments))
    return response


async def acomplete(router: GivenRouter, asked: str | Messages, **options: Any) -> ModelResponse:
    """Return the same as `complete`, asynchronously."""
    call = await LiteLLMCall.aof(router, asked, **options)
    response: ModelResponse = await call.arun(lambda arguments: open_litellm().acompletion(**arguments))
    return response


def stream(router: GivenRouter, asked: str | Messages, **options: Any) -> Stream:
    """Call a model as `complete` does, and return the answer's chunks once the first content has come.

    Until then a failing model is followed by the next; after it, its failure is raised where it happens::

        answer = stream(router, "Write a poem about the sea.")
        for chunk in answer:
            print(chunk.choices[0].delta.content or "", end="")
        print(answer.record.model, answer.record.usd)
    """
    call = LiteLLMCall.of(router, asked, streams=True, **options)
    begun, parts = call.begin(lambda arguments: open_litellm().completion(**arguments))
    return Stream(call, parts, call.rest(begun, parts))


async def astream(router: GivenRouter, asked: str | Messages, **options: Any) -> AsyncStream:
    """Return the same as `stream`, asynchronously: ``async for chunk in await astream(...)``."""
    call = await LiteLLMCall.aof(router, asked, streams=True, **options)
    begun, parts = await call.abegin(lambda arguments: open_litellm().acompletion(**arguments))
    return AsyncStream(call, parts, call.arest(begun, parts))


def record_of(response: Any) -> CallRecord:
    """Return the record of the call that made a response of `complete` or `acomplete`; `KeyError` for any other."""
    record: CallRecord = response._hidden_params[RECORD]
    return record


# --- Streams ----------------------------------------------------------------------------------------------------------


class _Streamed:
    def __init__(self, call: LiteLLMCall, parts: Any, chunks: Any) -> None:
        self._call, self._parts, self._chunks = call, parts, chunks
        self.decision, self.model = call.decision, call.attempts.model

    @property
    def record(self) -> CallRecord | None:
        """The record of the call; None until it has ended."""
        return self._call.finished


class Stream(_Streamed):
    """LiteLLM's chunks of one answer, as they come; they can be iterated once.

    Each has a choice. The chunk without choices that only tells the usage is part of the record; callers get it when
    they give ``stream_options={"include_usage": True}`` themselves.

    Attributes
    ----------
    decision : Decision
    model : str
        The one that answers.
    record : CallRecord or None
        The record of the call, once the last chunk has come, or the stream was closed; then without a cost.
    """

    def __iter__(self) -> Iterator[ModelResponseStream]:
        return self

    def __next__(self) -> ModelResponseStream:
        chunk: ModelResponseStream = next(self._chunks)
        return chunk

    def close(self) -> None:
        """End the answer here, and the connection to its provider."""
        self._chunks.close()
        self._parts.close()
        self._call.finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncStream(_Streamed):
    """LiteLLM's chunks of one answer, as they come; see `Stream`."""

    def __aiter__(self) -> AsyncIterator[ModelResponseStream]:
        return self

    async def __anext__(self) -> ModelResponseStream:
        chunk: ModelResponseStream = await anext(self._chunks)
        return chunk

    async def aclose(self) -> None:
        """End the answer here, and the connection to its provider."""
        await self._chunks.aclose()
        await self._parts.aclose()
        self._call.finish()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


# --- Parameters -------------------------------------------------------------------------------------------------------


def check_parameters(parameters: Mapping[str, Any], members: Iterable[Member], more: Iterable[str] = ()) -> None:
    """Raise `InvalidDataError` where a parameter of a call is known neither to LiteLLM nor among `more`.

    Those of a provider's own that LiteLLM knows are known where one of `members` is called there.
    """
    members = list(members)
    body = parameters.get("extra_body")  # may say it in the place of the router and the table
    for name in [*parameters, *(_NOT_A_PARAMETER & body.keys() if isinstance(body, Mapping) else ())]:
        if name in _NOT_A_PARAMETER and name not in more:
            other = "use models=[...], or pool.toml for how they are called"
            way = "use stream or astream" if name == "stream" else other
            raise InvalidDataError(f"{name}= is not for the caller to give; {way}.")
        if name in more or name in _parameters() or any(name in _provider_parameters(m.model) for m in members):
            continue
        nearest = difflib.get_close_matches(name, [*_parameters(), *more], 1)
        guess = f"did you mean {nearest[0]}?" if nearest else "leave it out."
        raise InvalidDataError(
            f"{name}= is no parameter that LiteLLM knows; {guess} Give one of the provider's own in extra_body={{...}}."
        )


def check_settings(models: PoolModels[Any], router: UniRouter, known: Iterable[str]) -> None:
    """Raise `InvalidDataError` where a setting of a pool's models is known neither to LiteLLM nor among `known`."""
    members = models.snapshot(router).members
    own = {name: value for name, value in models.settings.items() if name not in LIMITS}
    if own and models.given and not members:
        raise InvalidDataError(
            f"{next(iter(own))}= is for models that are called through LiteLLM; give it to those in models={{...}}."
        )
    check_parameters(own, members.values(), known)


@cache
def _parameters() -> frozenset[str]:
    """Return the names of the parameters that LiteLLM knows for all providers."""
    litellm = open_litellm()
    named = inspect.signature(litellm.completion).parameters
    ours = ("cost_weight", "models", "requires", "content_policy", "check", "deadline", "extra_body")
    return frozenset([*named, *litellm.OPENAI_CHAT_COMPLETION_PARAMS, *litellm.types.utils.all_litellm_params, *ours])


@cache
def _provider_parameters(model: str) -> frozenset[str]:
    """Return the names of the parameters of a model's provider that LiteLLM knows."""
    litellm = open_litellm()
    try:
        model, provider, *_ = litellm.get_llm_provider(model)
        kind = litellm.utils.ProviderConfigManager.get_provider_chat_config(model, litellm.LlmProviders(provider))
        return frozenset(name for each in type(kind).__mro__ for name in getattr(each, "__annotations__", {}))
    except Exception:  # of any kind: an unknown model or provider
        return frozenset()
