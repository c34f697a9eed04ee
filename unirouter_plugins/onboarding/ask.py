"""Calls of one model: within the budget, so many at once, retried, each to an answer that can be kept."""

from __future__ import annotations

import asyncio
import datetime
import json
import math
import os
import random
import time
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self, TypeVar

from unirouter_core.costs import TokenCounter
from unirouter_core.exceptions import InvalidDataError, UniRouterError
from unirouter_plugins.graders import GradeFunction as Function
from unirouter_plugins.graders import is_refusal
from unirouter_plugins.litellm.chat import Message
from unirouter_plugins.litellm.failures import Failure, classify, open_litellm, retry_after, status_of
from unirouter_plugins.litellm.pool_file import Member, Members
from unirouter_plugins.litellm.prices import Quote, Usage, usage_of, usd_of
from unirouter_plugins.litellm.programs import register
from unirouter_plugins.litellm.redaction import described
from unirouter_plugins.onboarding.questions import Question, Questions, digest_of
from unirouter_plugins.onboarding.store import Answer

try:
    from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt
    from tenacity.wait import wait_exponential, wait_random
except ImportError as missing:
    raise ImportError("tenacity is missing: pip install 'unirouter[litellm]'.") from missing

T = TypeVar("T")

ATTEMPTS = 6  # how often a call is made before it has failed
LONGEST_PAUSE = 60.0  # the most seconds between two attempts, where the provider does not say
LONGEST_WAIT = 600.0  # a provider that asks to wait longer than these seconds is not called again
TIMEOUT_GRACE = 1.0  # seconds after LiteLLM's timeout, which counts from the last byte, that end a call
OTHER_TOKENIZERS = 2.0  # how many tokens a provider may charge for one that is counted here
ROUNDING = 1e-9  # sums of USD that differ by this share are one
_LIMITS = ("max_tokens", "max_completion_tokens")


class OverBudgetError(UniRouterError, RuntimeError):
    """The next call, at its worst, costs more than is left."""


class CallFailedError(UniRouterError, RuntimeError):
    """A call that failed after all attempts. The provider's exception, named by `kind`, may hold a key: not kept."""

    def __init__(
        self, text: str, kind: str, member: Member, failure: Failure = Failure.SERVER, status: int = 0
    ) -> None:
        super().__init__(text)
        self.kind, self.member, self.failure, self.status = kind, member, failure, status


@dataclass(frozen=True, kw_only=True)
class OnboardingOptions:
    """How models are evaluated; each is an option of `unirouter onboard`, too.

    Parameters
    ----------
    validation : Questions or path, optional
        What they are asked; see `read_questions`. The 300 questions of this package when not given.
    functions : mapping of name to function (answer, reference) -> error, optional
        Graders of your own, for lines of the file that name them.
    pool : Members or path, optional
        A `pool.toml`: how models are called, with which settings, at which prices.
    store : path or URL
        Where every answer is kept, and found again: a SQLite file, or a PostgreSQL database.
    judge : str, optional
        The model that grades what no program can.
    judge_prompt : path, optional
        Its prompt, when not the one of this package; see `read_judge_prompt`.
    reference_model : str, optional
        The model that answers first what has no reference.
    budget : float, optional
        The most USD that the run may cost. Answers of earlier runs cost nothing.
    concurrency : int
        Calls of a model at once.
    repeats : int
        Answers to each prompt.
    max_tokens : int
        The most tokens of an answer while it is evaluated. A model whose own settings have max_tokens keeps to those;
        otherwise this is no setting of the model, and it is served without it.
    timeout : float
        Seconds until a call has failed.
    until_decided : bool
        Whether to stop when more answers would hardly change where prompts go.
    replace : bool
        Whether models of the pool may be evaluated again. What is in the store is not asked again.
    texts : bool
        Whether prompts and answers are kept in the store. Without them, only grades are.
    seed : int
        Of the order of the prompts, and of the answers that a judge is tried on.
    retry_pause : float
        Seconds before a failed call is made again, doubled each time, where the provider does not say.
    """

    validation: Questions | str | os.PathLike[str] | None = None
    functions: Mapping[str, Function] | None = None
    pool: Members | str | os.PathLike[str] | None = None
    store: str | os.PathLike[str] = "evaluations.sqlite"
    judge: str | None = None
    judge_prompt: str | os.PathLike[str] | None = None
    reference_model: str | None = None
    budget: float | None = None
    concurrency: int = 8
    repeats: int = 1
    max_tokens: int = 1024
    timeout: float = 120.0
    until_decided: bool = False
    replace: bool = False
    texts: bool = True
    seed: int = 0
    retry_pause: float = 1.0

    def __post_init__(self) -> None:
        for name in ("concurrency", "repeats", "max_tokens", "timeout", "retry_pause"):
            value, seconds = getattr(self, name), name in ("timeout", "retry_pause")
            if isinstance(value, bool) or not (seconds or isinstance(value, int)) or not 0 < value < math.inf:
                kind = "number of seconds" if seconds else "whole number"
                raise InvalidDataError(f"{name}={value!r} must be a {kind}, more than 0.")
        if self.budget is not None and not 0 <= self.budget < math.inf:
            raise InvalidDataError(f"budget={self.budget!r} must be a finite number of USD, >= 0, or None.")
        if self.judge_prompt is not None and self.judge is None:
            raise InvalidDataError("A judge prompt is for a judge; name one.")


class Budget:
    """The USD that a run may cost, None without limit: the worst of each call is reserved before it is made.

    >>> async def call(budget):
    ...     async with budget.hold() as hold:
    ...         await hold.ensure(0.02)  # the call at its worst
    ...         hold.spend(0.02, usd=0.005)  # what it was
    ...     return budget.spent
    >>> asyncio.run(call(Budget(0.1)))
    0.005
    """

    def __init__(self, usd: float | None = None) -> None:
        self.usd, self.spent, self.held = usd, 0.0, 0.0
        self._limit = math.inf if usd is None else usd * (1 + ROUNDING)
        self._changed = asyncio.Event()

    def hold(self) -> Hold:
        """Return what one task reserves, nothing yet."""
        return Hold(self)

    async def reserve(self, usd: float) -> None:
        """Return when `usd` more are reserved; raise `OverBudgetError` when they are more than can be left."""
        while self.spent + self.held + usd > self._limit:
            if self.spent + usd > self._limit:
                raise OverBudgetError(
                    f"${self.spent:.4g} of the budget of ${self.usd:.4g} are spent, and the next call may cost "
                    f"${usd:.4g}; give a larger budget to go on from here."
                )
            self._changed.clear()
            await self._changed.wait()
        self.held += usd

    def settle(self, held: float, spent: float) -> None:
        """Give back `held` USD, of which `spent` are gone."""
        self.held = max(self.held - held, 0.0)
        self.spent += spent
        self._changed.set()


class Hold:
    """What one task has reserved (`left`) and spent (`spent`); leaving the block gives the rest back."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.left = self.spent = 0.0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._give_back()

    async def ensure(self, usd: float) -> None:
        """Return when at least `usd` are reserved; raise `OverBudgetError` when the budget does not have them."""
        if self.left < usd:
            self._give_back()  # a task that waits for others holds nothing, so no two wait for each other
            await self._budget.reserve(usd)
            self.left = usd

    def spend(self, worst: float, *, usd: float | None) -> None:
        """Count a call that cost `usd`, for which `worst` were reserved; None is a bill not known, and so the worst."""
        usd = worst if usd is None else usd
        held = min(worst, self.left)
        self.left -= held
        self.spent += usd
        self._budget.settle(held, usd)

    def _give_back(self) -> None:
        left, self.left = self.left, 0.0
        self._budget.settle(left, 0.0)


class Caller:
    """Calls one model, always with the same settings; `max_tokens` is that of the options when not given."""

    def __init__(
        self,
        member: Member,
        quoted: Quote,
        options: OnboardingOptions,
        *,
        counter: TokenCounter,
        budget: Budget,
        max_tokens: int | None = None,
    ) -> None:
        self.member, self.quoted, self.counter, self.budget = member, quoted, counter, budget
        limit = options.max_tokens if max_tokens is None else max_tokens
        self.settings, self.settings_digest = settings_of(member, limit), settings_digest(member, limit)
        self.max_tokens = int(self.settings["max_tokens"])
        self.samples = 1 if member.votes is None else member.votes.samples
        self._timeout, pause = options.timeout, options.retry_pause
        self._at_once = asyncio.Semaphore(options.concurrency)
        self._resumes = 0.0  # no call before this, by time.monotonic: the provider asked for a pause
        self._usual_pause = wait_exponential(pause, LONGEST_PAUSE) + wait_random(0, pause)
        self._most_in, self._most_out = OTHER_TOKENIZERS, float(self.max_tokens)

    @cached_property
    def _arguments(self) -> dict[str, Any]:
        """What LiteLLM is given besides the messages; it retries nothing itself, nor answers from a cache."""
        if self.member.is_program:
            register([self.member])
        given = {"model": self.member.called} if self.member.is_program else self.member.arguments()
        limit = {} if any(name in given for name in _LIMITS) else {"max_tokens": self.max_tokens}
        return {**given, **limit, "timeout": self._timeout, "num_retries": 0, "max_retries": 0, "caching": False}

    def tokens(self, question: Question) -> float:
        """Return about how many prompt tokens the model is charged for a question."""
        return self.member.expanded_tokens(question.count_tokens(self.counter), self.counter)

    def worst(self, tokens: float) -> float:
        """Return the most USD that a call with `tokens` prompt tokens may cost, as far as calls so far tell."""
        return self.quoted.prices.cost(self._most_in * tokens, self._most_out * self.samples)

    async def __call__(self, question: Question, hold: Hold, *, ahead: float = 0.0, attempts: int = ATTEMPTS) -> Answer:
        """Return the model's answer, after retries where failures may pass.

        `hold` pays for every attempt; `ahead` is reserved besides, for the call that will grade the answer. Raises
        `CallFailedError` when the last attempt has failed, `OverBudgetError` when there is not enough for the next one.
        """
        tokens = self.tokens(question)
        soon = retry_if_exception(lambda e: classify(e).may_pass and (retry_after(e) or 0.0) <= LONGEST_WAIT)
        stop = stop_after_attempt(attempts)
        try:
            async for attempt in AsyncRetrying(stop=stop, retry=soon, wait=self._wait, reraise=True):
                with attempt:
                    await hold.ensure(self.worst(tokens) + ahead)
                    response, seconds = await self._attempt(question.messages, tokens, hold)
        except UniRouterError:
            raise
        except Exception as failed:  # of any kind: LiteLLM's, and what a provider of the user's own may raise
            text = described(failed, self.member.secrets)
            failure = CallFailedError(text, type(failed).__name__, self.member, classify(failed), status_of(failed))
        else:
            answer = self._answer(response, seconds)
            hold.spend(self.worst(tokens), usd=answer.usd)
            if answer.tokens_in is not None and answer.tokens_out is not None:
                # Some servers have a system prompt of their own, some models hidden reasoning.
                self._most_in = max(self._most_in, answer.tokens_in / tokens)
                self._most_out = max(self._most_out, answer.tokens_out / self.samples)
            if response is None or response.choices:
                return answer
            failure = CallFailedError("The provider sent a response without an answer.", "no answer", self.member)
        raise failure  # here: what the provider raised, which may hold a key, is then not part of it

    def _wait(self, state: RetryCallState) -> float:
        """Return the seconds before the next attempt; a provider that was called too fast pauses all calls."""
        failed = state.outcome.exception() if state.outcome is not None else None
        pause = None if failed is None else retry_after(failed)
        if failed is None or (pause is None and classify(failed) is not Failure.RATE_LIMIT):
            return self._usual_pause(state)
        self._resumes = max(self._resumes, time.monotonic() + (self._usual_pause(state) if pause is None else pause))
        return 0.0

    async def _attempt(self, messages: Sequence[Message], tokens: float, hold: Hold) -> tuple[Any, float]:
        """Return a response, None from a content filter, and its seconds; a call that failed is paid for here."""
        arguments, acompletion = self._arguments, open_litellm().acompletion  # its import takes seconds, once
        async with self._at_once:
            while (pause := self._resumes - time.monotonic()) > 0:
                await asyncio.sleep(pause * random.uniform(1, 2))  # calls that waited together part
            began = time.perf_counter()
            try:
                async with asyncio.timeout(self._timeout + TIMEOUT_GRACE):
                    response = await acompletion(messages=messages, **arguments)
            except BaseException as failed:
                if classify(failed) is Failure.CONTENT_FILTER:  # the model would not answer its user either
                    return None, time.perf_counter() - began
                if isinstance(failed, TimeoutError):
                    said = f"{self.member.name} had not answered after {self._timeout:g} s."
                    failed = open_litellm().Timeout(message=said, model=self.member.model, llm_provider="")
                if classify(failed).may_be_billed or not isinstance(failed, Exception):
                    hold.spend(self.worst(tokens), usd=None)
                raise failed from None
            return response, time.perf_counter() - began

    def _answer(self, response: Any, seconds: float) -> Answer:
        """Return a response as it is kept; a content filter's (None) is a refusal whose bill is not known."""
        usage, usd, text = Usage(math.nan, math.nan), math.nan, ""
        finish: str | None = "content_filter"
        if response is not None:
            usage, choice = usage_of(response), next(iter(response.choices), None)
            usd = usd_of(response, self.quoted, usage)
            text, finish = ("", None) if choice is None else (choice.message.content or "", choice.finish_reason)
        names = ("tokens_in", "tokens_out", "reasoning_tokens", "cached_tokens")
        tokens: dict[str, Any] = {name: getattr(usage, name) if usage.is_known else None for name in names}
        return Answer(
            text,
            **tokens,
            usd=None if math.isnan(usd) else usd,
            seconds=seconds,
            finish=finish,
            refused=finish == "content_filter" or is_refusal(text),
            date=datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
        )


def settings_of(member: Member, max_tokens: int) -> dict[str, Any]:
    """Return all that shapes a member's answers while it is evaluated, JSON-able: what they are kept under."""
    limit = next((int(member.settings[name]) for name in _LIMITS if name in member.settings), max_tokens)
    return {**shaping_of(member), "max_tokens": limit}


def settings_digest(member: Member, max_tokens: int) -> str:
    """Return the key of these settings in a store."""
    return digest_of(json.dumps(settings_of(member, max_tokens), sort_keys=True, ensure_ascii=False))


def shaping_of(member: Member) -> dict[str, Any]:
    """Return all of a member that shapes its answers: where it is served does not."""
    return {name: value for name, value in member.served_as.items() if name not in ("api_base", "api_key_env")}


async def together(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Return what the coroutines return; when one fails, or the caller is cancelled, all end before it raises."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class PreflightError(UniRouterError, RuntimeError):
    """The first call of a model failed, before more was spent; the message names the cure."""


def check_first(failed: BaseException | None) -> None:
    """Raise `PreflightError` when a first call failed for a reason that the other calls would share."""
    failed = failed if isinstance(failed, CallFailedError) else getattr(failed, "__cause__", None)  # of a missing grade
    if isinstance(failed, CallFailedError) and failed.failure is not Failure.OVERFLOW:
        raise PreflightError(f"{failed.member.name}: {str(failed).rstrip('. ;')}; {_cure(failed)}.")


def _cure(failed: CallFailedError) -> str:
    member, said = failed.member, str(failed).lower()
    if "provider not provided" in said:
        return "write the model with its provider, as LiteLLM does: openai/gpt-4.1-mini"
    if "connection" in said and failed.failure is Failure.SERVER:
        at = f"that the server runs at {member.api_base}" if member.api_base else "the model's name and the network"
        return f"check {at}"
    if "quota" in said or "credit" in said or failed.status == 402:
        return "the account has no quota left: add credit, or use another key"
    if "missing credentials" in said or "api_key" in said:
        return f"set its key: {_key_variables(member)}"
    if failed.kind == "UnsupportedParamsError":  # LiteLLM's own, before it calls
        return "take the setting out of pool.toml"
    key = f"the key in {_key_variables(member)}"
    cures = {
        400: "check the model's name, its region and its settings in pool.toml",
        401: f"check {key}",
        403: f"check that the account of {key} may use this model, and its region",
        404: "check the model's name, and its region or address",
        408: "give a longer timeout, or a smaller max_tokens",
        422: "check the model's name, its region and its settings in pool.toml",
        429: "wait, then run the same again with a smaller concurrency",
    }
    return cures.get(failed.status, "when this has passed, run the same again")


def _key_variables(member: Member) -> str:
    if member.api_key_env is not None:
        return member.api_key_env
    litellm = open_litellm()
    try:
        if missing := litellm.validate_environment(member.model)["missing_keys"]:
            return " and ".join(missing)
        return f"{litellm.get_llm_provider(member.model)[1].upper()}_API_KEY"
    except Exception:  # of any kind: it does not know the provider
        return "the environment"
