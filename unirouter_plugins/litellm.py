"""Calls through LiteLLM: the router picks the model, LiteLLM makes the call, the ranking is the way to fall back."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import itertools
import json
import math
import os
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from unirouter_core.decision import Decision
from unirouter_core.exceptions import InvalidDataError
from unirouter_core.router import UniRouter
from unirouter_plugins.providers.chats import Chat, Messages
from unirouter_plugins.providers.door import open_litellm
from unirouter_plugins.providers.failures import unwrapped
from unirouter_plugins.providers.fallback import Attempts
from unirouter_plugins.providers.members import SERVED_AS, Member, Members, read_members
from unirouter_plugins.providers.pricing import Quote, Usage, require_quote, usage_of, usd_of
from unirouter_plugins.providers.redaction import without_keys
from unirouter_plugins.providers.serving import arguments_of, called_otherwise, configured, member_of
from unirouter_plugins.providers.variants import register

if TYPE_CHECKING:
    from litellm import ModelResponse, ModelResponseStream

__all__ = [
    "AsyncStream",
    "CallRecord",
    "Stream",
    "acomplete",
    "astream",
    "complete",
    "load_router",
    "record_of",
    "stream",
]

RECORD = "unirouter"
"""Where a response's hidden parameters hold the record of its call."""

TIMEOUT = 300.0
"""Seconds until a call has failed and the next model is asked, where the caller says nothing."""

_NOT_A_PARAMETER = ("model", "messages", "stream", "api_base", "base_url", "api_key")
"""What the router and the table decide; a key or an address of one model is not for the next."""


def load_router(folder: str | os.PathLike[str], pool: str | os.PathLike[str] | None = None, **how: Any) -> UniRouter:
    """Return the router in `folder`, its models called, priced and filtered as the table `pool` says.

    Parameters
    ----------
    folder : path
    pool : path, optional
        A `pool.toml`; see `unirouter_plugins.providers.members.read_members`. Models that it does not name, or all
        when there is none, are called as they were when they were measured.
    **how
        As in `UniRouter.load`.

    A folder says where its models are called and which environment variable holds the key, as a table does; load only
    those that you trust.

    Raises
    ------
    ArtifactError, InvalidDataError
        When the folder or the table cannot be used.
    """
    router = UniRouter.load(folder, **how)
    members = Members({}) if pool is None else read_members(pool)
    register(members)
    return configured(router, members)


# --- What became of a call --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CallRecord:
    """What became of a call: who answered, why, and what it cost.

    Parameters
    ----------
    model : str
        The one that answered.
    decision : Decision
    usd : float
        What it cost; NaN where the provider does not say how many tokens it took.
    usage : Usage
    seconds : float
        Until the answer was whole, failed models' time included.
    failures : dict of str to str
        The models before it in the ranking that failed, and why.
    differs : tuple of str
        In which ways the model was called otherwise than when it was measured.
    """

    model: str
    decision: Decision
    usd: float
    usage: Usage
    seconds: float
    failures: dict[str, str] = field(default_factory=dict)
    differs: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the record as JSON can hold it, without the ranking's numbers."""
        answered = next(candidate for candidate in self.decision.ranking if candidate.model == self.model)
        weight = self.decision.cost_weight
        return {
            "model": self.model,
            "expected_error": answered.error,
            "expected_usd": answered.cost,
            "usd": _known(self.usd),
            "tokens_in": _known(self.usage.tokens_in),
            "tokens_out": _known(self.usage.tokens_out),
            "seconds": round(self.seconds, 3),
            "cost_weight": "inf" if math.isinf(weight) else weight,
            "region": self.decision.region,
            "ranking": [row.model for row in self.decision.ranking if row.excluded is None],
            "failures": dict(self.failures),
            "differs": list(self.differs),
        }


def _known(number: float) -> float | None:
    return None if math.isnan(number) else number


def record_of(response: Any) -> CallRecord:
    """Return the record of the call that made a response of `complete` or `acomplete`.

    Raises
    ------
    KeyError
        When the response comes from elsewhere.
    """
    record: CallRecord = response._hidden_params[RECORD]
    return record


# --- One call ---------------------------------------------------------------------------------------------------------


class _Call:
    """A decision on its way to an answer: the arguments for the model to try now, and what becomes of it."""

    def __init__(
        self,
        router: UniRouter,
        asked: str | Messages,
        how: dict[str, Any],
        parameters: dict[str, Any],
        *,
        content_policy: bool,
        stream: bool = False,
    ) -> None:
        self.began = time.perf_counter()
        _check(how["requires"], parameters)
        self.chat = Chat.of(asked, parameters)
        router = copy.copy(router)  # its pool stays as it is now, whoever is onboarded meanwhile
        self.pool = router.pool
        requires = tuple(dict.fromkeys([*self.chat.requires, *how.pop("requires")]))
        tokens_in = None if self.chat.is_bare else self._tokens_in(router)
        decision = router.route(self.chat.prompt, requires=requires, tokens_in=tokens_in, **how)
        windows = {name: profile.capabilities.context_window for name, profile in self.pool.items()}
        self.attempts = Attempts(decision, windows, content_policy)
        self.parameters = {"timeout": TIMEOUT, **parameters, **({"stream": True} if stream else {})}
        options = parameters.get("stream_options") or {}
        self.shows_usage = bool(options.get("include_usage"))
        if stream:  # else nobody knows what a stream cost
            self.parameters["stream_options"] = {"include_usage": True, **options}
        self.quoted: Quote

    def _tokens_in(self, router: UniRouter) -> dict[str, float]:
        """Return the tokens that each model would be sent: variants are sent more than the chat."""
        tokens = self.chat.count_tokens(router.token_counter)
        members = {name: member_of(profile) for name, profile in self.pool.items()}
        return {name: member.expanded_tokens(tokens, router.token_counter) for name, member in members.items()}

    def arguments(self) -> dict[str, Any]:
        """Return what LiteLLM's `completion` is given for the model to try now; its price is known."""
        profile = self.pool[self.attempts.model]
        member = member_of(profile)
        if SERVED_AS not in profile.provenance:
            _check_known(member)
        self.quoted = require_quote(member, profile)
        arguments = arguments_of(profile)
        if not self.attempts.is_last:  # to retry is to ask the next model; the last is retried as LiteLLM does
            arguments |= {"num_retries": 0, "max_retries": 0}
        return {**arguments, **self.parameters, "messages": list(self.chat.messages)}

    def record(self, response: Any) -> CallRecord:
        """Return the record of the call, of which `response` is the answer or a stream's last chunk."""
        model = self.attempts.model
        profile, usage = self.pool[model], usage_of(response)
        return CallRecord(
            model=model,
            decision=self.attempts.decision,
            usd=usd_of(response, self.quoted, usage),
            usage=usage,
            seconds=time.perf_counter() - self.began,
            failures=dict(self.attempts.failures),
            differs=called_otherwise(profile, self.parameters),
        )

    def answered(self, response: Any) -> Any:
        """Return the response with the record of the call attached."""
        response._hidden_params[RECORD] = self.record(response)
        return response


def _check_known(member: Member) -> None:
    """Raise `InvalidDataError` when a model is known by its record alone, and LiteLLM has none of its name."""
    try:
        open_litellm().get_llm_provider(member.model)
    except Exception as unknown:
        raise InvalidDataError(
            f"{member.name!r} is known by its record only, and LiteLLM knows no model of that name; say in pool.toml "
            f'how to call it: [models.{json.dumps(member.name)}] model = "provider/name".'
        ) from unknown


def _check(requires: Sequence[str], parameters: Mapping[str, Any]) -> None:
    """Raise `InvalidDataError` when what was given cannot be used as it is meant."""
    if isinstance(requires, str):
        raise InvalidDataError(f"{requires!r} is one name, not a list of names; put it in a list.")
    for name in parameters:
        if name in _NOT_A_PARAMETER:
            cure = (
                "use stream or astream"
                if name == "stream"
                else "use models=[...], or pool.toml for how they are called"
            )
            raise InvalidDataError(f"{name}= is not for the caller to give; {cure}.")


def complete(
    router: UniRouter,
    asked: str | Messages,
    *,
    cost_weight: float | None = None,
    models: Sequence[str] | None = None,
    requires: Sequence[str] = (),
    content_policy: bool = False,
    **parameters: Any,
) -> ModelResponse:
    """Ask the model that the router picks, down its ranking where one fails, and return LiteLLM's own response.

    Models that lack what the call asks for (tools, images, JSON, room for its tokens) are not picked. When all fail,
    the failure of the model that was picked first is raised, as if it had been called directly.

    Parameters
    ----------
    router : UniRouter
        As `load_router` returns it; one that was made otherwise calls its models as they were measured.
    asked : str or sequence of mapping
        A prompt, or chat messages.
    cost_weight, models, requires
        As in `UniRouter.route`.
    content_policy : bool
        Whether a refusal by a provider's content filter goes to the next model.
    **parameters
        As in `litellm.completion`: tools, response_format, temperature, max_tokens, timeout (300 seconds when not
        given), drop_params and the like. What is given here wins over the settings that the model was measured with,
        and the record says so.

    Returns
    -------
    litellm.ModelResponse
        `record_of` gives its decision, cost and failures.

    Raises
    ------
    NoCandidateError
        When no model of the pool can do what is asked.
    UnknownPriceError
        When the price of the model is not known, before it is called.
    Exception
        LiteLLM's own.

    Examples
    --------
    ::

        router = load_router("my.router")
        response = complete(router, "What is 17 times 23?")
        print(response.choices[0].message.content, record_of(response).usd)
    """
    litellm, how = open_litellm(), {"cost_weight": cost_weight, "models": models, "requires": requires}
    call = _Call(router, asked, how, parameters, content_policy=content_policy)
    while True:
        try:
            response = litellm.completion(**call.arguments())
        except Exception as failed:
            call.attempts.note(failed)
        else:
            answered: ModelResponse = call.answered(response)
            return answered


async def _in_thread(
    router: UniRouter,
    asked: str | Messages,
    how: dict[str, Any],
    parameters: dict[str, Any],
    content_policy: bool,
    *,
    stream: bool = False,
) -> tuple[Any, _Call]:
    """Return LiteLLM and the call, made beside the event loop: importing, embedding and counting take their time."""

    def make() -> tuple[Any, _Call]:
        litellm = open_litellm()
        return litellm, _Call(router, asked, how, parameters, content_policy=content_policy, stream=stream)

    return await asyncio.to_thread(make)


async def acomplete(
    router: UniRouter,
    asked: str | Messages,
    *,
    cost_weight: float | None = None,
    models: Sequence[str] | None = None,
    requires: Sequence[str] = (),
    content_policy: bool = False,
    **parameters: Any,
) -> ModelResponse:
    """Do what `complete` does, asynchronously."""
    how = {"cost_weight": cost_weight, "models": models, "requires": requires}
    litellm, call = await _in_thread(router, asked, how, parameters, content_policy)
    while True:
        try:
            response = await litellm.acompletion(**call.arguments())
        except Exception as failed:
            call.attempts.note(failed)
        else:
            answered: ModelResponse = call.answered(response)
            return answered


# --- Streams ----------------------------------------------------------------------------------------------------------


class _Streamed:
    """What both kinds of streams know of their call."""

    def __init__(self, call: _Call, chunks: Any, begun: list[Any]) -> None:
        self.decision, self.model = call.attempts.decision, call.attempts.model
        self.record: CallRecord | None = None
        self._call, self._source, self._begun = call, chunks, begun
        self._telling: Any = None  # the chunk that tells the usage

    def _is_shown(self, chunk: Any) -> bool:
        """Note the usage, and return whether the caller sees the chunk: one without choices only if he asked for it."""
        if self._telling is None or usage_of(chunk).is_known:
            self._telling = chunk
        return bool(chunk.choices) or self._call.shows_usage

    def _end(self) -> None:
        if self.record is None:
            self.record = self._call.record(self._telling)


class Stream(_Streamed):
    """LiteLLM's chunks of one answer, as they come; they are gone through once.

    Each has a choice. The chunk without choices that only tells the usage is part of the record; callers see it when
    they give ``stream_options={"include_usage": True}`` themselves.

    Attributes
    ----------
    decision : Decision
    model : str
        The one that answers.
    record : CallRecord or None
        What became of the call, once the last chunk has come, or the stream was closed; then without a cost.
    """

    def __init__(self, call: _Call, chunks: Any, begun: list[Any]) -> None:
        super().__init__(call, chunks, begun)
        self._chunks = self._run()

    def _run(self) -> Iterator[ModelResponseStream]:
        try:
            yield from filter(self._is_shown, itertools.chain(self._begun, self._source))
        except GeneratorExit:
            self._end()
            raise
        except Exception as failed:
            raise without_keys(unwrapped(failed)) from None
        self._end()

    def __iter__(self) -> Iterator[ModelResponseStream]:
        return self._chunks

    def __next__(self) -> ModelResponseStream:
        return next(self._chunks)

    def close(self) -> None:
        """End the answer here: its model says no more."""
        next(self._chunks, None) if self._telling is None else None  # a generator that never began does not end
        self._chunks.close()  # type: ignore[attr-defined] # it is a generator
        _close(self._source)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncStream(_Streamed):
    """LiteLLM's chunks of one answer, as they come; see `Stream`."""

    def __init__(self, call: _Call, chunks: Any, begun: list[Any]) -> None:
        super().__init__(call, chunks, begun)
        self._chunks = self._run()

    async def _run(self) -> AsyncIterator[ModelResponseStream]:
        try:
            for chunk in filter(self._is_shown, self._begun):
                yield chunk
            async for chunk in self._source:
                if self._is_shown(chunk):
                    yield chunk
        except GeneratorExit:
            self._end()
            raise
        except Exception as failed:
            raise without_keys(unwrapped(failed)) from None
        self._end()

    def __aiter__(self) -> AsyncIterator[ModelResponseStream]:
        return self._chunks

    async def __anext__(self) -> ModelResponseStream:
        return await anext(self._chunks)

    async def aclose(self) -> None:
        """End the answer here: its model says no more."""
        if self._telling is None:
            await anext(self._chunks, None)
        await self._chunks.aclose()  # type: ignore[attr-defined] # it is a generator
        if (close := getattr(self._source, "aclose", None)) is not None:
            await close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _close(chunks: Any) -> None:
    """Close LiteLLM's stream, which has the provider's inside, which has the connection."""
    for source in (chunks, getattr(chunks, "completion_stream", None)):
        for name in ("close", "response"):
            inner = getattr(source, name, None)
            close = inner if name == "close" else getattr(inner, "close", None)
            if callable(close):
                with contextlib.suppress(Exception):  # of any kind: it is over, however it ended
                    close()
                    return


def stream(
    router: UniRouter,
    asked: str | Messages,
    *,
    cost_weight: float | None = None,
    models: Sequence[str] | None = None,
    requires: Sequence[str] = (),
    content_policy: bool = False,
    **parameters: Any,
) -> Stream:
    """Ask as `complete` does, and return the answer's chunks once its first has come.

    Until then a failing model is followed by the next; after it, its failure is raised where it happens.

    Examples
    --------
    ::

        answer = stream(router, "Write a poem about the sea.")
        for chunk in answer:
            print(chunk.choices[0].delta.content or "", end="")
        print(answer.record.model, answer.record.usd)
    """
    litellm, how = open_litellm(), {"cost_weight": cost_weight, "models": models, "requires": requires}
    call = _Call(router, asked, how, parameters, content_policy=content_policy, stream=True)
    while True:
        try:
            chunks = iter(litellm.completion(**call.arguments()))
            begun = []
            for chunk in chunks:
                begun.append(chunk)
                if _says_something(chunk):
                    break
        except Exception as failed:
            call.attempts.note(failed)
        else:
            return Stream(call, chunks, begun)


async def astream(
    router: UniRouter,
    asked: str | Messages,
    *,
    cost_weight: float | None = None,
    models: Sequence[str] | None = None,
    requires: Sequence[str] = (),
    content_policy: bool = False,
    **parameters: Any,
) -> AsyncStream:
    """Do what `stream` does, asynchronously: ``async for chunk in await astream(...)``."""
    how = {"cost_weight": cost_weight, "models": models, "requires": requires}
    litellm, call = await _in_thread(router, asked, how, parameters, content_policy, stream=True)
    while True:
        try:
            chunks = aiter(await litellm.acompletion(**call.arguments()))
            begun = []
            async for chunk in chunks:
                begun.append(chunk)
                if _says_something(chunk):
                    break
        except Exception as failed:
            call.attempts.note(failed)
        else:
            return AsyncStream(call, chunks, begun)


def _says_something(chunk: Any) -> bool:
    """Return whether a chunk holds part of the answer: after it, another model cannot begin anew."""
    if not chunk.choices:
        return False
    delta = chunk.choices[0].delta
    return bool(delta.content or getattr(delta, "tool_calls", None) or getattr(delta, "reasoning_content", None))
