"""Calls through LiteLLM: the router picks the model, LiteLLM makes the call, the ranking is the way to fall back."""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from unirouter_core.decision import Decision
from unirouter_core.router import UniRouter
from unirouter_plugins.providers.chats import Chat, Messages
from unirouter_plugins.providers.door import open_litellm
from unirouter_plugins.providers.fallback import Attempts
from unirouter_plugins.providers.members import Members, differences, read_members
from unirouter_plugins.providers.pricing import Quote, Usage, require_quote, usage_of, usd_of
from unirouter_plugins.providers.serving import configured, member_of
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

_OF_SOME = ("reasoning_effort", "thinking", "verbosity", "user")
"""Parameters that a variant passes on to its model, which LiteLLM takes from providers that it knows only."""


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
        self.chat = Chat.of(asked, parameters)
        self.pool = router.pool
        requires = tuple(dict.fromkeys([*self.chat.requires, *how.pop("requires")]))
        tokens_in = None if self.chat.is_bare else self._tokens_in(router)
        decision = router.route(self.chat.prompt, requires=requires, tokens_in=tokens_in, **how)
        windows = {name: profile.capabilities.context_window for name, profile in self.pool.items()}
        self.attempts = Attempts(decision, windows, content_policy)
        self.parameters = {**parameters, **({"stream": True} if stream else {})}
        if stream:  # else nobody knows what a stream cost
            self.parameters["stream_options"] = {"include_usage": True, **(parameters.get("stream_options") or {})}
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
        self.quoted = require_quote(member, profile)
        if member.is_variant:
            register([member])
            arguments: dict[str, Any] = {"model": member.called, "allowed_openai_params": list(_OF_SOME)}
        else:
            arguments = member.arguments()
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
            differs=tuple(differences(member_of(profile), profile)),
        )

    def answered(self, response: Any) -> Any:
        """Return the response with the record of the call attached."""
        response._hidden_params[RECORD] = self.record(response)
        return response


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
        As in `litellm.completion`: tools, response_format, temperature, max_tokens, timeout and the like. What is
        given here wins over the settings that the model was measured with.

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
    litellm, how = open_litellm(), {"cost_weight": cost_weight, "models": models, "requires": requires}
    call = _Call(router, asked, how, parameters, content_policy=content_policy)
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
        self._call, self._chunks, self._begun = call, chunks, begun
        self._telling: Any = None  # the chunk that tells the usage

    def _noted(self, chunk: Any) -> Any:
        if self._telling is None or getattr(chunk, "usage", None) is not None:
            self._telling = chunk
        return chunk


class Stream(_Streamed):
    """LiteLLM's chunks of one answer, as they come.

    Attributes
    ----------
    decision : Decision
    model : str
        The one that answers.
    record : CallRecord or None
        What became of the call, once the last chunk has come.
    """

    def __iter__(self) -> Iterator[ModelResponseStream]:
        for chunk in itertools.chain(self._begun, self._chunks):
            yield self._noted(chunk)
        self.record = self._call.record(self._telling)


class AsyncStream(_Streamed):
    """LiteLLM's chunks of one answer, as they come; see `Stream`."""

    async def __aiter__(self) -> AsyncIterator[ModelResponseStream]:
        for chunk in self._begun:
            yield self._noted(chunk)
        async for chunk in self._chunks:
            yield self._noted(chunk)
        self.record = self._call.record(self._telling)


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
    litellm, how = open_litellm(), {"cost_weight": cost_weight, "models": models, "requires": requires}
    call = _Call(router, asked, how, parameters, content_policy=content_policy, stream=True)
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
