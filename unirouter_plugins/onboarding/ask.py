"""One call to one model: paced, retried, within the budget, and what came of it."""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import json
import math
import time
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from unirouter_core.costs import TokenCounter
from unirouter_core.exceptions import UniRouterError
from unirouter_plugins.graders import is_refusal
from unirouter_plugins.litellm.chat import Chat, Message
from unirouter_plugins.litellm.failures import Failure, classify, open_litellm, status_of
from unirouter_plugins.litellm.pool_file import Member
from unirouter_plugins.litellm.prices import Quote, Usage, usage_of, usd_of
from unirouter_plugins.litellm.programs import register
from unirouter_plugins.litellm.redaction import described, redacted
from unirouter_plugins.onboarding.answers import Answer
from unirouter_plugins.onboarding.budget import Budget, Hold
from unirouter_plugins.onboarding.pacing import ATTEMPTS, Gate, with_retries

OTHER_TOKENIZERS = 2.0
"""How many tokens a provider may charge for one that is counted here."""

LIMITS = ("max_tokens", "max_completion_tokens")
"""LiteLLM's names for the most tokens of an answer."""

LATER = 1.0
"""Seconds after LiteLLM's time-out that end what it misses: it counts from the last byte, and some send blanks."""


class CallFailedError(UniRouterError, RuntimeError):
    """A call that came to nothing, after all attempts; its message is one line, without keys.

    Parameters
    ----------
    said : str
    kind : str
        The name of the provider's exception, which is not kept, since its text may hold a key.
    member : Member
        Who was called.
    failure : Failure
    status : int
        Of HTTP; 0 where there was none.
    """

    def __init__(
        self, said: str, kind: str, member: Member, failure: Failure = Failure.SERVER, status: int = 0
    ) -> None:
        super().__init__(said)
        self.kind, self.member, self.failure, self.status = kind, member, failure, status


class NoGradeError(UniRouterError, RuntimeError):
    """A judge or a reference model that failed: a grade is missing, which is no wrong answer.

    Parameters
    ----------
    said : str
    kind : str
        Tells failures apart.
    """

    def __init__(self, said: str, kind: str) -> None:
        super().__init__(said)
        self.kind = kind


@dataclass(frozen=True)
class Reply:
    """What a call came to.

    Parameters
    ----------
    text : str
    usage : Usage
    usd : float
        NaN where the provider does not say how many tokens it took.
    seconds : float
        Of the attempt that was answered.
    finish : str or None
        Why the answer ended, as LiteLLM says it.
    refused : bool
        Whether the model, or its provider's content filter, declined.
    """

    text: str
    usage: Usage
    usd: float
    seconds: float
    finish: str | None
    refused: bool


FILTERED = Reply("", Usage(math.nan, math.nan), math.nan, 0.0, "content_filter", refused=True)
"""What a provider's content filter that raises comes to: the model would not answer its user either.

Some providers charge for what they filtered, so its bill is not known.
"""


def kept(reply: Reply) -> Answer:
    """Return a reply, of now, as the store keeps it."""
    usage, known = reply.usage, reply.usage.is_known
    return Answer(
        text=reply.text,
        tokens_in=usage.tokens_in if known else None,
        tokens_out=usage.tokens_out if known else None,
        reasoning_tokens=usage.reasoning_tokens if known else None,
        cached_tokens=usage.cached_tokens if known else None,
        usd=None if math.isnan(reply.usd) else reply.usd,
        seconds=reply.seconds,
        finish=reply.finish,
        refused=reply.refused,
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
    )


class Caller:
    """Calls one model, always with the same settings.

    Parameters
    ----------
    member : Member
    quoted : Quote
    max_tokens : int
        The most tokens of an answer, where the member's own settings do not say.
    counter : TokenCounter
    budget : Budget
    concurrency : int
        The most calls at once.
    timeout : float
        Seconds until a call has failed.
    """

    def __init__(
        self,
        member: Member,
        quoted: Quote,
        *,
        max_tokens: int,
        counter: TokenCounter,
        budget: Budget,
        concurrency: int,
        timeout: float,
    ) -> None:
        self.member, self.quoted, self.counter, self.budget = member, quoted, counter, budget
        self.max_tokens = limit_of(member, max_tokens)
        self.settings = settings_of(member, max_tokens)
        self.settings_digest = digest_of(self.settings)
        self._gate = Gate(concurrency)
        self._timeout = timeout
        self._most_in, self._most_out = OTHER_TOKENIZERS, float(self.max_tokens)

    @property
    def samples(self) -> int:
        """How many answers the model is asked for at once, to vote on."""
        return 1 if self.member.votes is None else self.member.votes.samples

    @property
    def reasons(self) -> bool:
        """Whether LiteLLM knows the model to think before it answers."""
        return bool(open_litellm().supports_reasoning(model=self.member.model))

    @cached_property
    def _arguments(self) -> dict[str, Any]:
        """What LiteLLM is given besides the messages; it retries nothing itself, nor answers from a cache."""
        own = {"timeout": self._timeout, "num_retries": 0, "max_retries": 0, "caching": False}
        return {**_arguments(self.member, self.max_tokens), **own}

    @cached_property
    def _acompletion(self) -> Any:
        return open_litellm().acompletion

    def tokens(self, messages: Sequence[Message]) -> float:
        """Return about how many prompt tokens the model is charged for these messages."""
        return self.charged(Chat.of(messages).count_tokens(self.counter))

    def charged(self, tokens: float) -> float:
        """Return about how many prompt tokens the model is charged for a chat of `tokens`."""
        return self.member.expanded_tokens(tokens, self.counter)

    def worst(self, tokens: float) -> float:
        """Return the most USD that a call with so many prompt tokens may cost, as far as calls so far tell."""
        return self.quoted.prices.cost(self._most_in * tokens, self._most_out * self.samples)

    async def __call__(
        self, messages: Sequence[Message], tokens: float, hold: Hold, *, ahead: float = 0.0, attempts: int = ATTEMPTS
    ) -> Reply:
        """Return the model's reply, after retries where failures may pass.

        Parameters
        ----------
        messages : sequence of mapping
        tokens : float
            As `tokens` counts them: once for all repeats.
        hold : Hold
            Pays for every attempt.
        ahead : float
            USD to set aside besides, for the call that will follow: to grade the reply.
        attempts : int

        Raises
        ------
        CallFailedError
            When the last attempt has failed.
        OverBudgetError
            When the budget does not allow the next attempt.
        """

        async def attempt() -> tuple[Any, float]:
            await hold.ensure(self.worst(tokens) + ahead)
            return await self._attempt(messages, tokens, hold)

        try:
            response, seconds = await with_retries(attempt, self._gate, attempts)
        except UniRouterError:
            raise
        except Exception as failed:  # of any kind: LiteLLM's, and what a provider of the user's own may raise
            how = classify(failed), status_of(failed)
            failure = CallFailedError(self._said(failed), type(failed).__name__, self.member, *how)
        else:
            reply = replace(FILTERED, seconds=seconds) if response is None else self._reply(response, seconds)
            hold.spend(self.worst(tokens), usd=reply.usd)
            self._learn(tokens, reply.usage)
            if response is None or response.choices:
                return reply
            failure = CallFailedError("The provider sent a response without an answer.", "no answer", self.member)
        raise failure  # here: what the provider raised, which may hold a key, is then not part of it

    async def _attempt(self, messages: Sequence[Message], tokens: float, hold: Hold) -> tuple[Any, float]:
        """Return a response and its seconds; a call that failed, or was cancelled, is paid for here.

        None is the response of a content filter.
        """
        arguments = self._arguments
        async with self._gate.passage():
            began = time.perf_counter()
            try:
                response = await self._in_time(self._acompletion(messages=messages, **arguments))
            except BaseException as failed:
                failure = classify(failed)
                if failure.may_be_billed or not isinstance(failed, Exception):
                    hold.spend(self.worst(tokens), usd=math.nan)
                if failure is not Failure.CONTENT_FILTER:
                    raise
                response = None
            return response, time.perf_counter() - began

    async def _in_time(self, answering: Awaitable[Any]) -> Any:
        try:
            async with asyncio.timeout(self._timeout + LATER):
                return await answering
        except TimeoutError:
            said = f"{self.member.name} had not answered after {self._timeout:g} s."
            raise open_litellm().Timeout(message=said, model=self.member.model, llm_provider="") from None

    def _learn(self, tokens: float, usage: Usage) -> None:
        """Raise what calls are feared to take: for a server with a system prompt of its own, for hidden reasoning."""
        if usage.is_known:
            self._most_in = max(self._most_in, usage.tokens_in / tokens)
            self._most_out = max(self._most_out, usage.tokens_out / self.samples)

    def _reply(self, response: Any, seconds: float) -> Reply:
        usage, choice = usage_of(response), next(iter(response.choices), None)
        text, finish = ("", None) if choice is None else (choice.message.content or "", choice.finish_reason)
        refused = finish == "content_filter" or is_refusal(text)
        return Reply(text, usage, usd_of(response, self.quoted, usage), seconds, finish, refused)

    def _said(self, failed: Exception) -> str:
        return redacted(described(failed), [key] if (key := self.member.key()) else [])


def limit_of(member: Member, max_tokens: int) -> int:
    """Return the most tokens of an answer: as the member's settings say, else `max_tokens`."""
    return next((int(member.settings[name]) for name in LIMITS if name in member.settings), max_tokens)


def settings_of(member: Member, max_tokens: int) -> dict[str, Any]:
    """Return all that shapes a member's answers when it is measured, JSON-able: what is kept once for all of them."""
    return {**shaping_of(member), "max_tokens": limit_of(member, max_tokens)}


def shaping_of(member: Member) -> dict[str, Any]:
    """Return all of a member that shapes its answers, JSON-able: where it is served does not."""
    return {name: value for name, value in member.served_as.items() if name not in ("api_base", "api_key_env")}


def digest_of(settings: Mapping[str, Any]) -> str:
    """Return what the settings go by in the store."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _arguments(member: Member, max_tokens: int) -> dict[str, Any]:
    """Return what LiteLLM is given besides the messages."""
    if member.is_program:
        register([member])
        return {"model": member.called, "max_tokens": max_tokens}
    given = member.arguments()
    return given if any(name in given for name in LIMITS) else {**given, "max_tokens": max_tokens}
