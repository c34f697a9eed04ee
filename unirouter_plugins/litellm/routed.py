"""One routed call: the model that the router picks, the next one when it fails, and the record of the call.

Every plugin calls through this: LiteLLM, LangChain and LlamaIndex. What differs between them are the hooks of `PoolModels`
and `RoutedCall`.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import math
import time
from abc import ABC, abstractmethod
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar

from unirouter_core.documents import GivenDocuments
from unirouter_core.exceptions import InvalidDataError, UniRouterError, UnknownModelError, UnknownPriceError
from unirouter_core.pool import Capabilities, ModelProfile, Pool
from unirouter_core.router import UniRouter
from unirouter_core.rule import Decision
from unirouter_plugins.litellm import programs
from unirouter_plugins.litellm.chat import Chat
from unirouter_plugins.litellm.failures import Failure, classify, unwrapped
from unirouter_plugins.litellm.pool_file import SERVED_AS, Member
from unirouter_plugins.litellm.prices import UNKNOWN, Quote, Usage, quote
from unirouter_plugins.litellm.redaction import described, without_keys

T = TypeVar("T")
M = TypeVar("M")

Record: TypeAlias = dict[str, Any]
"""A `CallRecord` as JSON can hold it; see `CallRecord.as_dict`."""

METADATA = "unirouter"
"""Where an answer's metadata hold the record."""

_SHAPING = (
    *("temperature", "top_p", "max_tokens", "max_completion_tokens"),
    *("reasoning_effort", "thinking", "seed", "stop"),
)
"""Parameters of a call that make its model another than was evaluated."""


class NoAnswerError(UniRouterError):
    """A model responded without an answer: no choices, or no text, tool call or refusal."""


# --- The record -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CallRecord:
    """Which model answered a call, why, and what it cost.

    Parameters
    ----------
    model : str
        The one that answered.
    decision : Decision
    usd : float
        What it cost, responses without an answer included; NaN where the provider does not say how many tokens it took.
    usage : Usage
    seconds : float
        Until the answer was whole, failed models' time included.
    failures : dict of str to str
        The models that failed before it, in order, and why.
    differs : tuple of str
        In which ways the model was called otherwise than when it was evaluated.
    why : {"routed", "forced", "tool loop", "query"}
        Why the first model was tried: the router picked it, or the caller, a tool loop or a query keeps to it.
    """

    model: str
    decision: Decision
    usd: float
    usage: Usage
    seconds: float
    failures: dict[str, str] = field(default_factory=dict)
    differs: tuple[str, ...] = ()
    why: str = "routed"

    def as_dict(self) -> Record:
        """Return the record as JSON can hold it, with what was expected of the model that answered."""
        error, cost = _expected(self.decision, self.model)
        weight = self.decision.cost_weight
        return {
            "model": self.model,
            "why": self.why,
            "expected_error": error,
            "expected_usd": cost,
            "usd": _known(self.usd),
            "tokens_in": _known(self.usage.tokens_in),
            "tokens_out": _known(self.usage.tokens_out),
            "seconds": round(self.seconds, 3),
            "cost_weight": "inf" if math.isinf(weight) else weight,
            "region": self.decision.region,
            "failures": dict(self.failures),
            "differs": list(self.differs),
        }


def _known(number: float) -> float | None:
    return None if math.isnan(number) else number


def _expected(decision: Decision, model: str) -> tuple[float, float]:
    """Return the expected error and USD of a model."""
    if model == decision.model:
        return decision.error, decision.cost
    candidate = decision.candidate(model)
    return candidate.error, candidate.cost


@dataclass
class _Newest:
    record: Record
    is_outdated: bool = False  # by a call in a context that was copied from this one


_NEWEST: ContextVar[_Newest | None] = ContextVar("newest decision", default=None)
_COLLECTING: ContextVar[tuple[list[Record], ...]] = ContextVar("lists of decisions", default=())


def keep(record: Record) -> None:
    """Keep the record of a call for `last_decision` and `record_decisions`."""
    if (before := _NEWEST.get()) is not None:
        before.is_outdated = True
    _NEWEST.set(_Newest(record))
    for records in _COLLECTING.get():
        records.append(record)


def last_decision() -> Record:
    """Return the record of the newest call made here: for answers that are parsed, and have no metadata.

    It knows of calls that were made or awaited in the current context. Steps of a chain or an agent, and other tasks,
    run in contexts of their own: use `record_decisions` for theirs.

    Raises
    ------
    LookupError
        When no call was made here, or a newer one was made in a chain or task.

    Examples
    --------
    ::

        person = llm.with_structured_output(Person).invoke("Ada Lovelace was born in 1815.")
        print(last_decision()["model"])
    """
    newest = _NEWEST.get()
    if newest is None or newest.is_outdated:
        raise LookupError(
            "The newest call was made in a chain or task, not here, or there was none; "
            "collect its record around it: with record_decisions() as decisions."
        )
    return newest.record


@contextmanager
def record_decisions() -> Iterator[list[Record]]:
    """Collect the records of all calls made in the block, those in chains, agents, threads and tasks included.

    Examples
    --------
    ::

        with record_decisions() as decisions:
            agent.invoke({"messages": [("user", "What is the weather in Rome?")]})
        print([decision["model"] for decision in decisions])
    """
    records: list[Record] = []
    token = _COLLECTING.set((*_COLLECTING.get(), records))
    try:
        yield records
    finally:
        _COLLECTING.reset(token)


# --- The pool, as a framework calls it --------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A router's pool at one moment, as it is called.

    Parameters
    ----------
    router : UniRouter
        A copy that decides among the models that can be called, each with the capabilities it has here.
    pool : mapping of str to ModelProfile
    members : mapping of str to Member
        How LiteLLM calls each; empty where the user gave objects of the framework.
    """

    router: UniRouter
    pool: Mapping[str, ModelProfile]
    members: Mapping[str, Member]
    _quotes: dict[str, Quote] = field(default_factory=dict)
    _differences: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, router: UniRouter) -> Snapshot:
        """Return the pool as it is now, its models called through LiteLLM."""
        pool = router.pool
        return cls(router.with_pool(pool), pool, {name: Member.of(profile) for name, profile in pool.items()})

    @property
    def windows(self) -> dict[str, int | None]:
        """The context windows in tokens; None where one is not known."""
        return {name: profile.capabilities.context_window for name, profile in self.pool.items()}

    def decide(
        self,
        chat: Chat,
        *,
        text: str | None = None,
        cost_weight: float | None = None,
        models: Sequence[str] | None = None,
        requires: Sequence[str] = (),
        documents: GivenDocuments | None = None,
    ) -> Decision:
        """Return the decision on a chat: the rule of `UniRouter.route`, with the price of lost prompt caches.

        Model m was sent k_m of the T tokens before (0 for most), and charges its price for cached tokens for them. So the
        rule is the least of ::

            error_m + cost_weight * ((T - k_m) * input_m + k_m * cached_input_m + answer_m)

        and a conversation leaves model c for m only when what is gained at list prices is more than what is lost::

            (error_c + cost_weight * cost_c) - (error_m + cost_weight * cost_m)
                > cost_weight * (k_c * (input_c - cached_input_c) - k_m * (input_m - cached_input_m))

        where k_m is 0 for a model that has not answered in the conversation. The prices are those of the profiles; where
        no price for cached tokens is known, nothing is lost.

        Parameters
        ----------
        chat : Chat
        text : str, optional
            What to route on; the chat's own text when not given.
        cost_weight, models, documents
            As in `UniRouter.route`.
        requires : sequence of str
            Besides what the chat requires.
        """
        text, tokens_in, cached = chat.text if text is None else text, None, {}
        if not (chat.is_bare and chat.messages[0]["content"] == text and not documents):
            tokens, sent = chat.count_sent_before(self.router.fit_.token_counter)
            cached = {model: count for model, count in sent.items() if model in self.pool}
            tokens_in = self._expanded(tokens)
        return self.router.route(
            text,
            cost_weight=cost_weight,
            models=models,
            requires=tuple(dict.fromkeys([*chat.requires, *requires])),
            documents=documents,
            tokens_in=tokens_in,
            cached_tokens=cached,
        )

    def _expanded(self, tokens: float) -> float | dict[str, float]:
        """Return the tokens that each model is sent of a chat of `tokens`: programs are sent more."""
        counter, programs = self.router.fit_.token_counter, [m for m in self.members.values() if m.is_program]
        more = {member.name: member.expanded_tokens(tokens, counter) for member in programs}
        return {**dict.fromkeys(self.pool, tokens), **more} if more else tokens

    def quote(self, model: str) -> Quote | None:
        """Return the prices of a model; None where they are not known."""
        profile = self.pool[model]
        if model not in self.members:
            return None if profile.prices is None else Quote(profile.prices, "profile")
        if model not in self._quotes and (found := quote(self.members[model], profile)) is not None:
            self._quotes[model] = found
        return self._quotes.get(model)

    def differs(self, model: str, parameters: Mapping[str, Any]) -> tuple[str, ...]:
        """Return in which ways a call with `parameters` is not the one that its model was evaluated with, where known."""
        if model not in self.members:
            return ()
        member, profile = self.members[model], self.pool[model]
        if model not in self._differences:
            self._differences[model] = member.differences(profile)
        if SERVED_AS not in profile.provenance:
            return tuple(self._differences[model])
        changed = [
            f"{name} is {parameters[name]!r} and was {member.settings.get(name, 'not given')!r}"
            for name in _SHAPING
            if name in parameters and parameters[name] != member.settings.get(name)
        ]
        return (*self._differences[model], *changed)


class PoolModels(ABC, Generic[M]):
    """The models of a pool as objects of a framework: the user's own, by name, or made for LiteLLM as the pool says.

    Parameters
    ----------
    given : mapping of str to M, optional
    settings : mapping
        LiteLLM's parameters of every call; they win over the settings that models were evaluated with.
    """

    def __init__(self, given: Mapping[str, M] | None = None, settings: Mapping[str, Any] | None = None) -> None:
        self.given, self.settings = given, dict(settings or {})
        self._newest: tuple[Any, Snapshot] | None = None

    @abstractmethod
    def make(self, arguments: dict[str, Any], *, is_last: bool) -> M:
        """Return a model that calls LiteLLM with `arguments`; only where `is_last` are failed calls retried."""

    def able(self, profile: ModelProfile, model: M) -> Capabilities:
        """Return what a model of the user's own can do."""
        return profile.capabilities

    def model(self, snapshot: Snapshot, name: str, *, is_last: bool = True) -> M:
        """Return the model of that name; one for LiteLLM has the key that the environment has now.

        Raises
        ------
        MissingKeyError
            When the environment variable that has its key is not set.
        """
        if self.given is not None:
            return self.given[name]
        return self.make(programs.arguments_of(snapshot.members[name]), is_last=is_last)

    def snapshot(self, router: UniRouter) -> Snapshot:
        """Return the router's pool as it is now; it is made again when the pool has changed."""
        pool = router.pool
        if (
            self._newest is None
            or self._newest[0] is not pool
            or self._newest[1].router.cost_weight != router.cost_weight
        ):
            self._newest = pool, self._snapshot(router, pool)
        return self._newest[1]

    def _snapshot(self, router: UniRouter, pool: Mapping[str, ModelProfile]) -> Snapshot:
        if self.given is None:
            return Snapshot.of(router)
        able = {name: self.able(pool[name], model) for name, model in self.given.items() if name in pool}
        pool = Pool({n: dataclasses.replace(p, capabilities=able[n]) for n, p in pool.items() if n in able})
        return Snapshot(router.with_pool(pool), pool, {})


def check_given(models: Any, router: Any, kind: type, what: str) -> None:
    """Raise one sentence unless `router` is one, and `models` has a model of that kind for each of its pool.

    Parameters
    ----------
    models : mapping of str to kind, or None
    router : UniRouter
    kind : type
    what : str
        What to call one, for messages: "a chat model".

    Raises
    ------
    InvalidDataError
        When it is no mapping of names to such models, or a model of the pool has none.
    UnknownModelError
        When it names a model that is not in the pool.
    """
    if not isinstance(router, UniRouter):
        raise InvalidDataError(f"router={router!r:.60} is no UniRouter; load one: UniRouter.load('my.router').")
    if models is None:
        return
    if not isinstance(models, Mapping):
        raise InvalidDataError(f"models={models!r:.60} is no mapping; give {{name in the pool: {what}}}.")
    for name, model in models.items():
        if not isinstance(model, kind):
            raise InvalidDataError(f"models[{name!r}] is of type {type(model).__name__}; give {what}.")
    pool = router.pool
    if strangers := [name for name in models if name not in pool]:
        held = ", ".join(map(repr, pool)) or "no model"
        raise UnknownModelError(f"{strangers[0]!r} is not in the pool, which holds {held}; onboard it first.")
    if missing := [name for name in pool if name not in models]:
        raise InvalidDataError(f"{missing[0]!r} is in the pool but not in models={{...}}; add it, or retire it.")


# --- The fallback loop ------------------------------------------------------------------------------------------------


@dataclass
class Attempts:
    """The model to try now: the chosen one, then the next in the fallback order after each failure that is passed on.

    Parameters
    ----------
    decision : Decision
    windows : mapping of model to int, optional
        The known context windows in tokens: after a prompt was too long for one, only larger ones are tried.
    content_policy : bool
        Whether a refusal by a provider's content filter is passed on to the next model.
    kept : str, optional
        The model to try first whatever its rank, where it is eligible.
    """

    decision: Decision
    windows: Mapping[str, int | None] = field(default_factory=dict)
    content_policy: bool = False
    kept: str | None = None
    model: str = field(init=False)
    failures: dict[str, str] = field(default_factory=dict, init=False)
    _first: BaseException | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        order = itertools.chain([self.decision.model], self.decision.fallbacks())
        kept = self.kept if self.kept in self.decision.pool and self.decision.is_eligible(self.kept) else None
        self._left = order if kept is None else itertools.chain([kept], (model for model in order if model != kept))
        self.model = next(self._left)
        self._next = next(self._left, None)

    @property
    def is_last(self) -> bool:
        """Whether no other model is left to try."""
        return self._next is None

    def note(self, failed: Exception, secrets: Iterable[str] = ()) -> None:
        """Note that the model failed and move on to the next; raise when no other model is left that may answer.

        What is raised then is the failure of the model that was tried first, as if it had been called directly, with a
        note on each of the others; a failure that is not passed on is raised as it is.
        """
        failure, cause = classify(failed), without_keys(unwrapped(failed), secrets)
        self.failures[self.model] = described(cause, secrets)
        unpriced = isinstance(cause, UnknownPriceError) and self._first is not None  # no way out
        if not unpriced and not failure.falls_back(content_policy=self.content_policy):
            raise cause
        self._first = self._first or cause
        if failure is Failure.OVERFLOW:
            left = [m for m in (self._next, *self._left) if m is not None and self._is_larger(m, self.model)]
            self._left, self._next = iter(left), None
            self._next = next(self._left, None)
        if self._next is None:
            for other, why in list(self.failures.items())[1:]:
                self._first.add_note(f"Then {other} was tried: {why}")
            raise self._first
        self.model, self._next = self._next, next(self._left, None)

    def _is_larger(self, other: str, model: str) -> bool:
        """Return whether `other` may take a prompt too long for `model`; a window not known may be larger."""
        theirs, ours = self.windows.get(other), self.windows.get(model)
        return theirs is None or ours is None or theirs > ours


@dataclass(frozen=True)
class Content:
    """What an answer, or a part of one, holds.

    Parameters
    ----------
    has_content : bool
        Text, thoughts, a tool call or a refusal: after it no other model can begin.
    finish : str or None
        Why the answer ended; None where it does not say, or has no choice at all.
    """

    has_content: bool
    finish: str | None = None


class RoutedCall(ABC, Generic[M]):
    """One call on its way to an answer.

    A plugin gives the hooks `content`, `usage_of` and `attach`, and where it needs to `model_for`, `usd_of`, `scope` and
    `passed`; and calls `run`, `arun`, `stream` or `astream` with a function that calls the framework's model.

    Parameters
    ----------
    models : PoolModels
    router : UniRouter
    chat : Chat
    text, cost_weight, requires, documents
        As in `Snapshot.decide`.
    candidates : sequence of str, optional
        The models of the pool to choose among.
    forced : str, optional
        The model to call, whatever the router would choose.
    kept : str, optional
        The model that was picked before for what this call is a step of; a tool loop comes before it.
    content_policy : bool
        Whether a refusal by a provider's content filter is passed on to the next model.
    parameters : mapping
        What the model is called with besides the chat.
    """

    def __init__(
        self,
        models: PoolModels[M],
        router: UniRouter,
        chat: Chat,
        *,
        text: str | None = None,
        cost_weight: float | None = None,
        candidates: Sequence[str] | None = None,
        requires: Sequence[str] = (),
        documents: GivenDocuments | None = None,
        forced: str | None = None,
        kept: str | None = None,
        content_policy: bool = False,
        parameters: Mapping[str, Any] | None = None,
    ) -> None:
        self._began = time.perf_counter()
        self.models, self.parameters = models, dict(parameters or {})
        self.snapshot = models.snapshot(router)
        self.decision = self.snapshot.decide(
            chat,
            text=text,
            cost_weight=cost_weight,
            models=candidates if forced is None else [forced],
            requires=requires,
            documents=documents,
        )
        in_loop = None if forced else chat.in_loop_of
        kept = None if forced else in_loop or kept
        self.attempts = Attempts(self.decision, self.snapshot.windows, content_policy, kept)
        is_kept = kept is not None and self.attempts.model == kept
        self.why = "forced" if forced else "routed" if not is_kept else "tool loop" if in_loop else "query"
        self._usd_of_failures = 0.0
        self._telling: Any = None  # the part of a stream that tells the usage
        self.finished: CallRecord | None = None

    # --- What a plugin gives ------------------------------------------------------------------------------------------

    @abstractmethod
    def content(self, answer: Any) -> Content:
        """Return what an answer, or a part of a stream, holds."""

    @abstractmethod
    def usage_of(self, answer: Any) -> Usage:
        """Return the tokens that an answer, or a part of a stream, says it took."""

    def attach(self, answer: T, record: CallRecord) -> T:
        """Return the answer with the record of the call, as a copy where others may hold the answer."""
        return answer

    def model_for(self, model: M) -> Any:
        """Return what the function given to `run` is called with: the model, prepared for the call."""
        return model

    def usd_of(self, answer: Any, usage: Usage) -> float:
        """Return what an answer cost; NaN where its tokens or the model's prices are not known."""
        quoted = self.snapshot.quote(self.attempts.model)
        if quoted is None or not usage.is_known:
            return math.nan
        return quoted.prices.cost(usage.tokens_in, usage.tokens_out, usage.cached_tokens)

    def scope(self) -> AbstractContextManager[Any]:
        """Return the context in which the model's own code runs, each part of a stream too."""
        return nullcontext()

    def passed(self, part: T) -> T:
        """Return a part of a stream as the caller gets it."""
        return part

    def is_shown(self, part: Any) -> bool:
        """Return whether the caller gets a part of a stream."""
        return True

    # --- One answer ---------------------------------------------------------------------------------------------------

    def run(self, call: Callable[[Any], T]) -> T:
        """Return the answer of the first model that does not fail, with the record; `call` calls a model."""
        while True:
            with self._attempt():
                model = self._model()
                with self.scope():
                    answer = call(model)
                self._require_content([answer])
                break
        return self.attach(answer, self.finish(answer))

    async def arun(self, call: Callable[[Any], Awaitable[T]]) -> T:
        """Return the same as `run`, asynchronously."""
        while True:
            with self._attempt():
                model = self._model()
                with self.scope():
                    answer = await call(model)
                self._require_content([answer])
                break
        return self.attach(answer, self.finish(answer))

    # --- Streams: another model is tried until the first content ------------------------------------------------------

    def begin(self, call: Callable[[Any], Iterable[T]]) -> tuple[list[T], Iterator[T]]:
        """Return the parts up to the first content of the first model that does not fail, and those to come."""
        while True:
            begun: list[T] = []
            with self._attempt():
                model = self._model()
                with self.scope():
                    parts = self._each(call(model))
                for part in parts:
                    begun.append(part)
                    if self.content(part).has_content:
                        return begun, parts
                self._require_content(begun)
                return begun, parts

    def stream(self, call: Callable[[Any], Iterable[T]]) -> Generator[T]:
        """Yield the parts of the first model that does not fail before its first content."""
        begun, parts = self.begin(call)
        yield from self.rest(begun, parts)

    def rest(self, begun: Sequence[T], parts: Iterator[T]) -> Generator[T]:
        """Yield the parts of a stream that has begun; the record is made when it has ended, or is closed."""
        with contextlib.closing(parts):  # type: ignore[type-var]  # it is a generator
            try:
                yield from filter(self.is_shown, map(self._passed, itertools.chain(begun, parts)))
            except GeneratorExit:
                self.finish()
                raise
            except Exception as failed:
                raise without_keys(unwrapped(failed), self._secrets) from None
        self.finish()

    async def abegin(self, call: Callable[[Any], Awaitable[AsyncIterable[T]]]) -> tuple[list[T], AsyncIterator[T]]:
        """Return the same as `begin`, asynchronously."""
        while True:
            begun: list[T] = []
            with self._attempt():
                model = self._model()
                with self.scope():
                    parts = self._aeach(await call(model))
                async for part in parts:
                    begun.append(part)
                    if self.content(part).has_content:
                        return begun, parts
                self._require_content(begun)
                return begun, parts

    async def astream(self, call: Callable[[Any], Awaitable[AsyncIterable[T]]]) -> AsyncGenerator[T]:
        """Yield the same as `stream`, asynchronously; closing it stops the model."""
        begun, parts = await self.abegin(call)
        async with contextlib.aclosing(self.arest(begun, parts)) as rest:
            async for part in rest:
                yield part

    async def arest(self, begun: Sequence[T], parts: AsyncIterator[T]) -> AsyncGenerator[T]:
        """Yield the same as `rest`, asynchronously."""
        async with contextlib.aclosing(parts):  # type: ignore[type-var]  # it is a generator
            try:
                for part in filter(self.is_shown, map(self._passed, begun)):
                    yield part
                async for part in parts:
                    if self.is_shown(passed := self._passed(part)):
                        yield passed
            except (GeneratorExit, asyncio.CancelledError):
                self.finish()
                raise
            except Exception as failed:
                raise without_keys(unwrapped(failed), self._secrets) from None
        self.finish()

    def _each(self, parts: Iterable[T]) -> Iterator[T]:
        """Yield the parts, each made in the call's scope: the reader may be in another context."""
        source = iter(parts)
        try:
            while True:
                with self.scope():
                    try:
                        part = next(source)
                    except StopIteration:
                        return
                yield part
        finally:
            _close(source)

    async def _aeach(self, parts: AsyncIterable[T]) -> AsyncIterator[T]:
        source = aiter(parts)
        try:
            while True:
                with self.scope():
                    try:
                        part = await anext(source)
                    except StopAsyncIteration:
                        return
                yield part
        finally:
            if (close := getattr(source, "aclose", None)) is not None:
                await close()

    # --- What they share ----------------------------------------------------------------------------------------------

    @contextmanager
    def _attempt(self) -> Iterator[None]:
        """Note the failure of a model; raise it when no other model may answer, else the next one is to be tried."""
        try:
            yield
        except Exception as failed:
            self.attempts.note(failed, self._secrets)

    def _model(self) -> Any:
        model = self.models.model(self.snapshot, self.attempts.model, is_last=self.attempts.is_last)
        return self.model_for(model)

    @property
    def _secrets(self) -> list[str]:
        """The key that the model was called with, which a provider may repeat in what it says."""
        member = self.snapshot.members.get(self.attempts.model)
        with contextlib.suppress(InvalidDataError):  # it is not set
            return [key] if member is not None and (key := member.key()) else []
        return []

    def _require_content(self, parts: Sequence[Any]) -> None:
        """Raise `NoAnswerError` where a response holds no answer; the last model's is given as it is, if it ended."""
        held = [self.content(part) for part in parts]
        finish = next((each.finish for each in reversed(held) if each.finish is not None), None)
        filtered = finish == "content_filter" and not self.attempts.content_policy
        if any(each.has_content for each in held) or filtered or (finish is not None and self.attempts.is_last):
            return
        usd = self.usd_of(parts[-1], self.usage_of(parts[-1])) if parts else math.nan
        self._usd_of_failures += 0.0 if math.isnan(usd) else usd
        ended = "without a finish reason" if finish is None else f"with finish reason {finish!r}"
        raise NoAnswerError(f"{self.attempts.model!r} gave no answer: its response is empty and ended {ended}.")

    def _passed(self, part: T) -> T:
        if self._telling is None or self.usage_of(part).is_known:
            self._telling = part
        return self.passed(part)

    def record(self, answer: Any = None) -> CallRecord:
        """Return the record of the call as it stands, with the cost where `answer` tells its tokens."""
        model, usage = self.attempts.model, UNKNOWN if answer is None else self.usage_of(answer)
        return CallRecord(
            model=model,
            decision=self.decision,
            usd=self._usd_of_failures + (math.nan if answer is None else self.usd_of(answer, usage)),
            usage=usage,
            seconds=time.perf_counter() - self._began,
            failures=dict(self.attempts.failures),
            differs=self.snapshot.differs(model, {**self.models.settings, **self.parameters}),
            why=self.why,
        )

    def finish(self, answer: Any = None) -> CallRecord:
        """Return the record of the call, which has ended, and keep it; doing it again changes nothing."""
        if self.finished is None:
            self.finished = self.record(self._telling if answer is None else answer)
            keep(self.finished.as_dict())
        return self.finished


def _close(source: Any) -> None:
    """Close a stream; LiteLLM's has the provider's inside, which has the connection."""
    for stream in (source, getattr(source, "completion_stream", None)):
        for closable in (stream, getattr(stream, "response", None)):
            if callable(close := getattr(closable, "close", None)):
                with contextlib.suppress(Exception):  # of any kind: it has ended
                    close()
                    return
