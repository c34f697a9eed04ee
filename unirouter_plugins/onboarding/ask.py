"""Calls of one model: within the budget, a few at once, retried, each to an answer that can be kept."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import json
import math
import os
import random
import re
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from unirouter_core.costs import TokenCounter
from unirouter_core.exceptions import InvalidDataError, UniRouterError, missing_package
from unirouter_core.router import UniRouter
from unirouter_plugins.graders import GradeFunction as Function
from unirouter_plugins.graders import is_refusal
from unirouter_plugins.litellm.checks import logprobs_of
from unirouter_plugins.litellm.failures import Failure, classify, open_litellm, retry_after, status_of
from unirouter_plugins.litellm.panels import Inside, inside
from unirouter_plugins.litellm.pool_file import Member, Members
from unirouter_plugins.litellm.prices import UNKNOWN, Quote, listed_prices, require_quote, usage_of, usd_of
from unirouter_plugins.litellm.programs import register
from unirouter_plugins.litellm.redaction import described
from unirouter_plugins.onboarding.questions import Question, Questions, digest_of
from unirouter_plugins.onboarding.store import Answer

try:
    from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt
    from tenacity.wait import wait_exponential, wait_random
except ImportError as missing:
    raise missing_package("tenacity", "litellm") from missing

if TYPE_CHECKING:
    from unirouter_plugins.logs import Log

T = TypeVar("T")
ATTEMPTS = 6  # how often a call is made before it has failed
FIRST_ATTEMPTS = 3  # of a model's first call: a user waits for it, and what is wrong with it rarely passes
LONGEST_PAUSE = 60.0  # the most seconds between two attempts, where the provider does not say
LONGEST_WAIT = 600.0  # a provider that asks to wait longer than these seconds is not called again
TIMEOUT_GRACE = 1.0  # seconds after LiteLLM's timeout, which counts from the last byte, that end a call
OTHER_TOKENIZERS = 2.0  # how many tokens a provider may charge for one that is counted here
ROUNDING = 1e-9  # sums of USD that differ by this share are one
NO_VERDICT = "no verdict"  # the kind of a judge's failure whose reply cannot be read
_BOUNDS: Mapping[str, tuple[float, float]] = {  # of the options that are numbers
    **{"concurrency": (1, 10_000), "repeats": (1, 1_000), "max_tokens": (1, 10**9), "seed": (0, 2**32)},
    **{"timeout": (0.001, 1e6), "retry_pause": (0.001, 1e6)},
}
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
    answers : Log or path, optional
        Logs of calls, as `unirouter_plugins.logs.read_log` takes them: what the models have answered there to these
        prompts is graded instead of asked for again. It is taken as given with the settings of the `pool`.
    functions : mapping of name to function (answer, reference) -> error, optional
        Graders of your own, for lines of the file that name them.
    pool : Members or path, optional
        A `pool.toml`: how models are called, with which settings, at which prices.
    checks : mapping of str to check, or names, optional
        Checks of the models' answers, as `named_checks` takes them; those that pay are kept. Answers that members must
        give to them besides are on the bill.
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
    answers: Log | str | os.PathLike[str] | None = None
    functions: Mapping[str, Function] | None = None
    pool: Members | str | os.PathLike[str] | None = None
    checks: Mapping[str, Any] | Iterable[str] = ()
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
        for name, (least, most) in _BOUNDS.items():
            value, kind = getattr(self, name), "number of seconds" if isinstance(least, float) else "whole number"
            if isinstance(value, bool) or not isinstance(value, (type(least), int)) or not least <= value <= most:
                raise InvalidDataError(f"{name}={value!r} must be a {kind} from {least:,} to {most:,}.")
        if self.budget is not None and not (type(self.budget) in (int, float) and 0 <= self.budget < math.inf):
            raise InvalidDataError(f"budget={self.budget!r} must be a finite number of USD, >= 0, or None.")
        if self.judge_prompt is not None and self.judge is None:
            raise InvalidDataError("A judge prompt is for a judge; name one (--judge MODEL).")
        if self.checks and not self.texts:
            raise InvalidDataError("Checks read the answers' texts; keep these (no --no-texts), or give no check.")


class Budget:
    """The USD that a run may cost, None without limit: the worst of each call is reserved before it is made.

    >>> async def call(budget):
    ...     await budget.reserve(0.02)  # the call at its worst
    ...     budget.settle(0.02, usd=0.005)  # what it was
    ...     return budget.spent
    >>> asyncio.run(call(Budget(0.1)))
    0.005
    """

    def __init__(self, usd: float | None = None) -> None:
        self.spent, self._reserved = 0.0, 0.0
        self.limit(usd)
        self._changed = asyncio.Event()

    def limit(self, usd: float | None) -> None:
        """Allow this many USD from now on, those that are spent included."""
        self.usd = usd
        self._limit = math.inf if usd is None else usd * (1 + ROUNDING)

    async def reserve(self, worst: float) -> None:
        """Return when `worst` USD more are reserved; raise `OverBudgetError` when they are more than can be left."""
        while self.spent + self._reserved + worst > self._limit:
            if self.spent + worst > self._limit:
                raise OverBudgetError(
                    f"${self.spent:.4g} of the budget of ${self.usd:.4g} are spent, and the next call may cost "
                    f"${worst:.4g}; give a larger budget to go on from here."
                )
            self._changed.clear()
            await self._changed.wait()
        self._reserved += worst

    def settle(self, worst: float, *, usd: float) -> None:
        """Count a call that cost `usd`, for which `worst` were reserved."""
        self._reserved = max(self._reserved - worst, 0.0)
        self.spent += usd
        self._changed.set()


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
        router: Callable[[], Inside | None] = lambda: None,
    ) -> None:
        self.member, self.quoted, self.counter, self.budget = member, quoted, counter, budget
        limit = options.max_tokens if max_tokens is None else max_tokens
        self.settings, self.settings_digest = settings_of(member, limit), settings_digest(member, limit)
        self.max_tokens = int(self.settings["max_tokens"])
        self.samples, self._router = member.samples, router  # the latter is what a panel asks
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
        if self.member.panel is not None:
            return self.member.panel.budget
        return self.quoted.prices.cost(self._most_in * tokens, self._most_out * self.samples)

    async def __call__(self, question: Question, *, attempts: int = ATTEMPTS) -> Answer:
        """Return the model's answer, after retries where failures may pass.

        Raises `CallFailedError` when the last attempt has failed, `OverBudgetError` when the budget has not enough for
        the next one.
        """
        soon = retry_if_exception(lambda e: classify(e).may_pass and (retry_after(e) or 0.0) <= LONGEST_WAIT)
        retrying = AsyncRetrying(stop=stop_after_attempt(attempts), retry=soon, wait=self._wait, reraise=True)
        try:
            return await retrying(self._attempt, question)
        except UniRouterError:
            raise
        except Exception as failed:  # of any kind: LiteLLM's, and what a provider of the user's own may raise
            text = described(failed, self.member.secrets)
            failure = CallFailedError(text, type(failed).__name__, self.member, classify(failed), status_of(failed))
        raise failure  # here: what the provider raised, which may hold a key, is then not part of it

    def _wait(self, state: RetryCallState) -> float:
        """Return the seconds before the next attempt; a provider that was called too fast pauses all calls."""
        failed = state.outcome.exception() if state.outcome is not None else None
        pause = None if failed is None else retry_after(failed)
        if failed is None or (pause is None and classify(failed) is not Failure.RATE_LIMIT):
            return self._usual_pause(state)
        self._resumes = max(self._resumes, time.monotonic() + (self._usual_pause(state) if pause is None else pause))
        return 0.0

    async def _attempt(self, question: Question) -> Answer:
        """Return the answer of one call, which is paid for here; a content filter's refusal is an answer."""
        arguments, litellm, tokens = self._arguments, open_litellm(), self.tokens(question)  # its import takes seconds
        async with self._at_once:
            while (pause := self._resumes - time.monotonic()) > 0:
                await asyncio.sleep(pause * random.uniform(1, 2))  # calls that waited together part
            spent = worst = self.worst(tokens)  # what a call counts whose bill is not known
            asks = self._router() if self.member.panel else None
            await self.budget.reserve(worst)
            began, response = time.perf_counter(), None
            try:
                try:
                    async with asyncio.timeout(self._timeout + TIMEOUT_GRACE):
                        with inside(asks):
                            response = await litellm.acompletion(messages=question.messages, **arguments)
                except TimeoutError:
                    said = f"{self.member.name} had not answered after {self._timeout:g} s."
                    raise litellm.Timeout(message=said, model=self.member.model, llm_provider="") from None
                except Exception as failed:
                    if (why := classify(failed)) is not Failure.CONTENT_FILTER:
                        spent = worst if why.may_be_billed else 0.0
                        raise
                answer = self._answer(response, time.perf_counter() - began, 0.0 if asks is None else asks.usd)
                spent = worst if answer.usd is None else answer.usd
            finally:
                if asks is not None:  # what the panel's calls took, if it fails too
                    spent = asks.spent.get(self.member.name, 0.0)
                self.budget.settle(worst, usd=spent)
        if answer.tokens_in is not None and answer.tokens_out is not None:
            # Some servers have a system prompt of their own, some models hidden reasoning.
            self._most_in = max(self._most_in, answer.tokens_in / tokens)
            self._most_out = max(self._most_out, answer.tokens_out / self.samples)
        if response is not None and not response.choices:
            raise CallFailedError("The provider sent a response without an answer.", "no answer", self.member)
        return answer

    def _answer(self, response: Any, seconds: float, usd_inside: float) -> Answer:
        """Return a response as it is kept; a content filter's (None) is a refusal whose bill is not known."""
        usage, usd, text = UNKNOWN, math.nan, ""
        finish: str | None = "content_filter"
        if response is not None:
            usage, choice = usage_of(response), next(iter(response.choices), None)
            usd = usd_of(response, self.quoted, usage) + usd_inside
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
            logprobs=logprobs_of(response) or None,
        )


def run_to_end(work: Coroutine[Any, Any, T]) -> T:
    """Return what a coroutine that calls models returns, where no event loop runs."""

    async def run() -> T:
        try:
            return await work
        finally:
            await open_litellm().close_litellm_async_clients()  # they belong to this event loop, which ends

    return asyncio.run(run())


class Callers(dict[tuple[str, str], Caller]):
    """The callers of members, made when they are first needed: they share a budget, and two roles share one."""

    def __init__(
        self,
        options: OnboardingOptions,
        counter: TokenCounter,
        budget: Budget,
        quotes: Mapping[str, Quote] = {},
        router: Callable[[], Inside | None] = lambda: None,
    ) -> None:
        super().__init__()
        self.options, self.counter, self.budget, self.quotes, self.router = options, counter, budget, quotes, router

    def of(self, member: Member, max_tokens: int | None = None) -> Caller:
        """Return what calls a member; raise `UnknownPriceError` where its price is not known."""
        limit = self.options.max_tokens if max_tokens is None else max_tokens
        key = member.name, settings_digest(member, limit)
        if key not in self:
            quoted = self.quotes.get(member.name) or require_quote(member)
            how: dict[str, Any] = {"counter": self.counter, "budget": self.budget, "router": self.router}
            self[key] = Caller(member, quoted, self.options, **how, max_tokens=limit)
        return self[key]


def member_of(router: UniRouter, table: Members, name: str) -> Member:
    """Return how a model is called: as the table says, else as it was evaluated before, else by its own name.

    What was evaluated before and LiteLLM's map does not know keeps its prices and capabilities.
    """
    if name in table or name not in router.pool:
        return table.named(name)
    profile = router.pool[name]
    member = Member.of(profile)
    if listed_prices(member) is not None:
        return member
    return dataclasses.replace(member, prices=profile.prices, capabilities=dataclasses.asdict(profile.capabilities))


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


class PreflightError(UniRouterError, RuntimeError):
    """The first call of a model failed, before more was spent; the message names the cure."""


def check_first(failed: CallFailedError | None) -> None:
    """Raise `PreflightError` when a first call failed for a reason that the other calls would share."""
    if failed is not None and failed.failure is not Failure.OVERFLOW and failed.kind != NO_VERDICT:
        raise PreflightError(f"{failed.member.name}: {str(failed).rstrip('. ;')}; {_cure(failed)}.")


def _cure(failed: CallFailedError) -> str:
    member, said, status = failed.member, str(failed).lower(), failed.status
    keys = _key_variables(member)
    at = f"that the server runs at {member.api_base}" if member.api_base else "the model's name and the network"
    cures = {
        "write the model with its provider, as LiteLLM does: openai/gpt-4.1-mini": "provider not provided" in said,
        f"check {at}": "connection" in said and failed.failure is Failure.SERVER,
        "the account has no quota left: add credit, or use another key": status == 402
        or re.search("quota|credit", said),
        f"set its key: {keys}": "missing credentials" in said or "api_key" in said,
        "take the setting out of pool.toml": failed.kind == "UnsupportedParamsError",  # LiteLLM's, before it calls
        "check the model's name, its region and its settings in pool.toml": status in (400, 422),
        f"check the key in {keys}": status == 401,
        f"check that the account of the key in {keys} may use this model, and its region": status == 403,
        "check the model's name, and its region or address": status == 404,
        "give a longer timeout, or a smaller max_tokens": status == 408,
        "wait, then run the same again with a smaller concurrency": status == 429,
    }
    return next((cure for cure, fits in cures.items() if fits), "when this has passed, run the same again")


def missing_keys(members: Iterable[Member]) -> dict[str, list[str]]:
    """Return the environment variables of keys that are not set, each with the models that need it.

    What LiteLLM says of its providers counts where it is one key; others have many ways to log in.
    """
    missing: dict[str, list[str]] = {}
    for member in members:
        needed = [member.api_key_env] if member.api_key_env else []
        if not needed and member.api_base is None and not {"api_key", "api_base"} & member.settings.keys():
            with contextlib.suppress(Exception):  # of any kind: it does not know the provider
                needed = open_litellm().validate_environment(member.model)["missing_keys"]
        unset = [name for name in needed if not os.environ.get(name)]
        if len(unset) == 1 and (member.api_key_env or unset[0].endswith("_API_KEY")):
            names = missing.setdefault(unset[0], [])
            names += [member.name] * (member.name not in names)
    return missing


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
