"""One routed call, whichever framework makes it: the fallback from model to model, and the record of the call."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
import logging
import math
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeAlias, TypeVar

from unirouter_core.exceptions import UniRouterError, UnknownPriceError
from unirouter_core.router import UniRouter
from unirouter_core.rule import Decision
from unirouter_plugins.litellm.chat import RECORD, Chat, Messages
from unirouter_plugins.litellm.failures import (
    Failure,
    classify,
    is_about_thoughts,
    is_of_reading,
    open_litellm,
    unwrapped,
)
from unirouter_plugins.litellm.panels import inside
from unirouter_plugins.litellm.pool_file import Members
from unirouter_plugins.litellm.prices import UNKNOWN, Usage
from unirouter_plugins.litellm.redaction import described, secrets_in, without_keys
from unirouter_plugins.litellm.snapshot import PoolModels
from unirouter_plugins.litellm.telemetry import LOG, log_fallback, tell
from unirouter_plugins.litellm.timeouts import CallTimeoutError, Steps

if TYPE_CHECKING:
    from unirouter_plugins.litellm.checks import AnswerCheck, Found

T = TypeVar("T")
M = TypeVar("M")

Record: TypeAlias = dict[str, Any]
"""A `CallRecord` as JSON can hold it."""

METADATA = RECORD
"""Where an answer's metadata hold the record."""

_END = object()
"""What comes after the last part of a stream."""


class NoAnswerError(UniRouterError):
    """A model responded without an answer: no choices, or no text, tool call, refusal; or nothing that can be read."""


class ContentFilterError(UniRouterError):
    """A model's content filter left nothing of its answer; LiteLLM's own class is raised where LiteLLM is used."""


# --- The record -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CallRecord:
    """Which model answered a call, why, and what it cost."""

    model: str  # the one that answered
    decision: Decision
    usd: float  # empty responses, rejected drafts and checks included; NaN where the provider tells no tokens
    usage: Usage
    seconds: float  # until the answer was whole, failed models' time included
    failures: dict[str, str]  # the models that failed before it, in order, and why
    differs: tuple[str, ...]  # how the call differs from those that the model was evaluated with
    why: str  # why the first model was tried: "routed", "forced", "tool loop", "query" or "follow-up"
    routed_on: str = "prompt"  # the newest text of the user; or the "question" of a longer message, or of a query
    checked: Mapping[str, Record] = field(default_factory=dict)  # the models whose answers were checked, in order
    seconds_to_first_token: float | None = None  # of a stream with checks
    inner: tuple[Record, ...] = ()  # the calls of panels: role, model, tokens and USD of each

    def as_dict(self) -> Record:
        """Return the record as JSON can hold it, with what was expected of the model that answered."""
        error, usd = self.decision.expected(self.model)
        weight = self.decision.cost_weight
        told = {"usd": self.usd, "tokens_in": self.usage.tokens_in, "tokens_out": self.usage.tokens_out}
        return {
            "model": self.model,
            "why": self.why,
            "routed_on": self.routed_on,
            "expected_error": error,
            "expected_usd": usd,
            **{name: None if math.isnan(number) else number for name, number in told.items()},
            "seconds": round(self.seconds, 3),
            "cost_weight": "inf" if math.isinf(weight) else weight,
            "region": self.decision.region,
            "failures": dict(self.failures),
            "differs": list(self.differs),
            **({"checked": {model: dict(told) for model, told in self.checked.items()}} if self.checked else {}),
            **({} if (first := self.seconds_to_first_token) is None else {"seconds_to_first_token": round(first, 3)}),
            **({"inner": [dict(told) for told in self.inner]} if self.inner else {}),
        }


_NEWEST: ContextVar[list[Record]] = ContextVar("newest record")  # emptied by a newer call in a copied context
_COLLECTING: ContextVar[tuple[list[Record], ...]] = ContextVar("lists of records", default=())


def keep(record: Record) -> None:
    """Keep the record of a call for `last_decision` and `record_decisions`."""
    _NEWEST.get([]).clear()
    _NEWEST.set([record])
    for records in _COLLECTING.get():
        records.append(record)


def last_decision() -> Record:
    """Return the record of the newest call made here: for answers that are parsed, and have no metadata.

    It knows of calls that were made or awaited in the current context. Steps of a chain or an agent, and other tasks,
    run in contexts of their own: use `record_decisions` for theirs. Raises `LookupError` when no call was made here, or
    a newer one was made in a chain or task::

        person = llm.with_structured_output(Person).invoke("Ada Lovelace was born in 1815.")
        print(last_decision()["model"])
    """
    if not (newest := _NEWEST.get([])):
        raise LookupError(
            "The newest call was made in a chain or task, not here, or there was none; "
            "collect its record around it: with record_decisions() as decisions."
        )
    return newest[0]


@contextmanager
def record_decisions() -> Iterator[list[Record]]:
    """Collect the records of all calls made in the block, those in chains, agents, threads and tasks included.

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


# --- The fallback loop ------------------------------------------------------------------------------------------------


class Attempts:
    """The model to try now: `kept` or the chosen one, then the rule's choice without those that have failed.

    After a prompt was too long for a model, only those with a larger window, or one not known, are tried. After one
    refused the thoughts in the history, `writer`, which wrote them, is the next. `decision` is the rule's newest, and
    `model` may be one that has answered: its draft is the answer then, and none is raised. A draft over its check's
    limit is one only where no other model may answer, the time is over, or a failure is not passed on.
    """

    def __init__(
        self,
        decision: Decision,
        windows: Mapping[str, int | None] | None = None,
        content_policy: bool = False,
        kept: str | None = None,
        writer: str | None = None,
    ) -> None:
        self.decision, self.content_policy, self.writer = decision, content_policy, writer
        self.model = kept if kept is not None and decision.is_eligible(kept) else decision.model
        self.failures: dict[str, str] = {}
        self._windows, self._too_small = windows or {}, list[str]()
        self._over_limit = set[str]()
        self._first: BaseException | None = None
        self._failed, self._secrets = list[BaseException](), set[str]()  # what failed, and what it was sent with

    @property
    def is_last(self) -> bool:
        """Whether no other model is left to try, and no draft to give."""
        return not self.decision.answered and not any(map(self._may_be_next, self.decision.pool))

    def postpone(self, cooling: Mapping[str, str]) -> bool:
        """Go on with the rule's choice without models that cool down; return False, nothing changed, without one."""
        before, answered = self.decision, self.decision.answered
        self.decision = before.avoiding({model: why for model, why in cooling.items() if model not in answered})
        able = (model for model in self._able() if model in answered or model not in cooling)
        if (following := next(able, None)) is None:
            self.decision = before
            return False
        self.model = following
        return True

    def note(self, failed: Exception, secrets: Iterable[str] = (), *, is_over: bool = False) -> None:
        """Note that the model failed and move on to the next; raise when no other may answer, or the time `is_over`.

        What is raised then is the failure of the model that was tried first, as if it had been called directly, with a
        note on each of the others; a failure that is not passed on is raised as it is.
        """
        failure, cause = classify(failed), unwrapped(failed)
        self.failures[self.model] = described(cause, secrets)
        self._failed += [failed, cause]
        self._secrets |= {*secrets}
        self.decision = self.decision.avoiding(self.failures)
        unpriced = isinstance(cause, UnknownPriceError) and self._first is not None  # no way out
        draft = next(self._drafts(), None)
        if not unpriced and not failure.falls_back(content_policy=self.content_policy):
            log_fallback(self.model, cause, failure.name, draft)
            if draft is not None:
                self.model = draft
                return
            raise self._cleaned(cause)
        self._first = self._first or cause
        if failure is Failure.OVERFLOW:
            self._too_small.append(self.model)
        first = [self.writer] if self.writer is not None and is_about_thoughts(failed) else []
        following = next(itertools.chain(filter(self._may_be_next, first), self._able()), None)
        following = draft if following is None or is_over else following
        log_fallback(self.model, cause, failure.name, following)
        if following is None:
            for other, why in list(self.failures.items())[1:]:
                self._first.add_note(f"Then {other} was tried: {why}")
            vars(self._first)["failures_by_model"] = dict(self.failures)
            raise self._cleaned(self._first)
        self.model = following

    def decide(self, decision: Decision, limit: float, *, is_over: bool = False) -> None:
        """Go on with the rule's decision after a check: with its model, or where the time `is_over` the best draft.

        The answer is one of those over their limit where its expected error is over `limit`.
        """
        self.decision = decision
        self._over_limit |= {self.model} if decision.expected(self.model)[0] > limit else set()
        self.model = next(itertools.chain(() if is_over else self._able(), self._drafts()))

    def _able(self) -> Iterator[str]:
        """Yield the models that may be next, in the rule's order."""
        return filter(self._may_be_next, _in_order(self.decision))

    def _drafts(self) -> Iterator[str]:
        """Yield the models that have answered, in the rule's order."""
        return filter(self.decision.answered.__contains__, _in_order(self.decision))

    def _cleaned(self, shown: BaseException) -> BaseException:
        """Return the failure that is raised, without keys in it or in any other: it may have them as its context."""
        for failed in self._failed:  # here alone: most failures are never shown
            without_keys(failed, self._secrets)
        return shown

    def _may_be_next(self, model: str) -> bool:
        if model in self.decision.answered:
            return model not in self._over_limit
        if model == self.model or model in self.failures or not self.decision.is_eligible(model):
            return False
        window, too_small = self._windows.get(model), map(self._windows.get, self._too_small)
        return window is None or all(small is None or window > small for small in too_small)


def _in_order(decision: Decision) -> Iterator[str]:
    yield decision.model
    yield from decision.fallbacks()


class Content(NamedTuple):
    """What an answer, or a part of one, holds."""

    has_content: bool  # text, thoughts, a tool call or a refusal: after it no other model can begin
    finish: str | None = None  # why it ended; None where it does not tell, or has no choice at all
    is_thought: bool = False  # whether thoughts are all of it: alone they are no answer


class Draft(NamedTuple):
    """A whole answer that was checked and is not yet given."""

    given: Any  # the answer, or all parts of a stream
    usage: Usage
    usd: float  # its check's included
    rest: Any = None  # the stream itself, which has ended


class RoutedCall(ABC, Generic[M]):
    """One call on its way to an answer.

    A plugin gives the hooks `content`, `usage_of`, `attach`, `seen` and `whole`, and where it needs to `model_for`,
    `usd_of`, `scope`, `passed`, `is_shown` and `forget`; it calls `run`, `arun`, `stream` or `astream` with a function
    that calls a model. `request` is as in `Snapshot.decide`: text, cost_weight, requires, documents.

    An answer whose decision has a check is a draft: the check's signal goes to the rule, which gives that draft, or an
    earlier one, or has the next model called. Streams with a check are read to their end before they are given.
    """

    def __init__(
        self,
        models: PoolModels[M],
        router: UniRouter,
        chat: Chat,
        *,
        parameters: Mapping[str, Any],  # what the model is called with besides the chat; and `LIMITS`
        candidates: Sequence[str] | None = None,  # the models to choose among
        forced: str | None = None,  # the model to call, whatever the router would choose
        kept: str | None = None,  # the model of the query that this call is a step of; a tool loop comes before it
        content_policy: bool = False,  # whether a refusal by a content filter is passed on to the next model
        routed_on: str = "prompt",  # or "question", where `text` is one
        check: bool = True,  # whether answers may be checked; those of a forced or kept model are not
        sources: Sequence[str] = (),  # what was retrieved, for checks to read
        **request: Any,
    ) -> None:
        self._began = time.monotonic()
        self.models, self.chat, self.parameters = models, chat, dict(parameters)
        timeout, deadline = self.parameters.get("timeout"), self.parameters.pop("deadline", None)
        self.limits, self._is_unlimited = models.limits_of(timeout, deadline)
        self._ends = self._until = self._began + self.limits.deadline
        self._tried = self._began  # since when the newest model is tried
        self.snapshot = snapshot = models.snapshot(router)
        avoid = models.health.cooling(snapshot.keys) if models.health.store and not forced else {}
        able = [forced] if forced else snapshot.able(candidates, {**models.settings, **parameters})
        keeps = {"tool loop": chat.in_loop_of, "query": kept, "follow-up": chat.follow_up_of}
        may = (each for each in keeps.items() if each[1] and each[1] not in avoid and (able is None or each[1] in able))
        why, kept = next(may, ("", None))
        self._checks = snapshot.checks if check and not forced and kept is None else {}
        self.decision = snapshot.decide(chat, models=able, avoid=avoid, checks=tuple(self._checks), **request)
        writer = next(filter(None, reversed(chat.answered_by)), None)
        self.attempts = Attempts(self.decision, snapshot.windows, content_policy, None if forced else kept, writer)
        self.why = "forced" if forced else why if kept is not None and self.attempts.model == kept else "routed"
        self._routed_on, self._usd_of_failures, self._usd_inside_before = routed_on, 0.0, 0.0
        self.inside = snapshot.inside(request.get("cost_weight")) if snapshot.panels else None
        self._prompt, self._sources = request.get("text") or chat.text, sources
        self._drafts, self._checked, self._first = dict[str, Draft](), dict[str, Record](), 0.0
        self._telling: Any = None  # the part of a stream that tells the usage
        self._shown: Record = {}  # the record as it is told while the model is called; made whole in place at the end
        self.finished: CallRecord | None = None

    @abstractmethod
    def content(self, answer: Any) -> Content:
        """Return what an answer, or a part of a stream, holds."""

    @abstractmethod
    def usage_of(self, answer: Any) -> Usage:
        """Return the tokens that an answer, or a part of a stream, says it took."""

    def attach(self, answer: T, record: CallRecord) -> T:
        """Return the answer with the record of the call, as a copy where others may hold the answer."""
        return answer

    @abstractmethod
    def seen(self, answer: Any) -> tuple[str, dict[str, Any]]:
        """Return what a check sees of an answer: its text, and the parts of a `Context` that it holds."""

    @abstractmethod
    def whole(self, parts: list[Any]) -> Any:
        """Return all parts of a stream as one answer."""

    def ask(self, model: M, messages: Messages) -> Any:
        """Return the answer of a model of the framework's own to a chat, for a check that calls it."""
        raise LookupError("no member of the framework's own can be asked here")

    def forget(self) -> None:
        """Forget what an answer took, if anything is kept of it besides the answer: its draft is billed."""

    def model_for(self, model: M) -> Any:
        """Return what the function given to `run` is called with: the model, prepared for the call."""
        return model

    def usd_of(self, answer: Any, usage: Usage) -> float:
        """Return what an answer cost besides `usd_inside`; NaN where its tokens or the prices are not known."""
        quoted = self.snapshot.quote(self.attempts.model)
        return math.nan if quoted is None else quoted.usd(usage)

    @property
    def usd_inside(self) -> float:
        """What the calls of panels have cost so far, whether these have answered or not."""
        return 0.0 if self.inside is None else self.inside.usd

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
        while self._goes_on():
            with self._attempt():
                model = self._model()
                if self._is_direct:
                    answer = self._in_scope(call, model)
                else:
                    with Steps(self._left, self._late) as steps:
                        answer = steps.make(partial(self._in_scope, call, model))
                self._require_content([answer])
                if self._check is None:
                    break
                self._run_check(answer, answer)
        else:
            answer = self._drafts[self.attempts.model].given
        return self.attach(answer, self._answered(answer))

    async def arun(self, call: Callable[[Any], Awaitable[T]]) -> T:
        """Return the same as `run`, asynchronously."""
        while self._goes_on():
            with self._attempt():
                model = self._model()
                with self._scope():
                    answer = await self._in_time(call(model))
                self._require_content([answer])
                if self._check is None:
                    break
                await self._arun_check(answer, answer)
        else:
            answer = self._drafts[self.attempts.model].given
        return self.attach(answer, self._answered(answer))

    # --- Streams: another model is tried until the first content ------------------------------------------------------

    def begin(self, call: Callable[[Any], Iterable[T]]) -> tuple[list[T], Generator[T]]:
        """Return the parts up to the first content of the first model that does not fail, and those to come."""
        while self._goes_on():
            begun: list[T] = []
            with self._attempt():
                parts, check = self._each(call, self._model()), self._check
                for part in parts:
                    begun.append(part)
                    if self.content(part).has_content:
                        self._until, self._first = self._ends, time.monotonic()
                        if check is None:
                            return begun, parts
                self._require_content(begun)
                if check is None:
                    return begun, parts
                self._run_check(begun, self.whole(begun), parts)
        return self._replayed()

    def stream(self, call: Callable[[Any], Iterable[T]]) -> Generator[T]:
        """Yield the parts of the first model that does not fail before its first content."""
        begun, parts = self.begin(call)
        yield from self.rest(begun, parts)

    def rest(self, begun: Sequence[T], parts: Generator[T]) -> Generator[T]:
        """Yield the parts of a stream that has begun; the record is made when it has ended, or is closed."""
        with contextlib.closing(parts), self._ending():
            yield from filter(self.is_shown, map(self._passed, itertools.chain(begun, parts)))

    async def abegin(self, call: Callable[[Any], Any]) -> tuple[list[Any], AsyncGenerator[Any]]:
        """Return the same as `begin`, asynchronously; `call` may return what is to be awaited for the parts."""
        while self._goes_on():
            begun: list[Any] = []
            with self._attempt():
                parts, check = self._aeach(call, self._model()), self._check
                async for part in parts:
                    begun.append(part)
                    if self.content(part).has_content:
                        self._until, self._first = self._ends, time.monotonic()
                        if check is None:
                            return begun, parts
                self._require_content(begun)
                if check is None:
                    return begun, parts
                await self._arun_check(begun, self.whole(begun), parts)
        return self._replayed()

    async def astream(self, call: Callable[[Any], Any]) -> AsyncGenerator[Any]:
        """Yield the same as `stream`, asynchronously; closing it stops the model."""
        begun, parts = await self.abegin(call)
        async with contextlib.aclosing(self.arest(begun, parts)) as rest:
            async for part in rest:
                yield part

    async def arest(self, begun: Sequence[Any], parts: AsyncGenerator[Any]) -> AsyncGenerator[Any]:
        """Yield the same as `rest`, asynchronously."""
        async with contextlib.aclosing(parts):
            with self._ending():
                for part in filter(self.is_shown, map(self._passed, begun)):
                    yield part
                async for part in parts:
                    if self.is_shown(passed := self._passed(part)):
                        yield passed

    def _each(self, call: Callable[[Any], Iterable[T]], model: Any) -> Generator[T]:
        """Yield the parts, each made in the call's scope: the reader may be in another context."""
        opened: list[Iterator[T]] = []
        with Steps(self._left, self._late, is_direct=self._is_direct) as steps:
            steps.close = lambda: [*map(_close, opened)]
            steps.make(partial(self._in_scope, lambda on: opened.append(iter(call(on))), model))
            step = partial(self._in_scope, next, opened[0], _END)
            while (part := steps.make(step)) is not _END:
                yield part

    async def _aeach(self, call: Callable[[Any], Any], model: Any) -> AsyncGenerator[Any]:
        with self._scope():
            opened = call(model)
            source = aiter(await self._in_time(opened) if inspect.isawaitable(opened) else opened)
        try:
            while True:
                with self._scope():
                    if (part := await self._in_time(anext(source, _END))) is _END:
                        return
                yield part
        finally:
            if (close := getattr(source, "aclose", None)) is not None:
                await close()

    def _in_scope(self, function: Callable[..., T], *args: Any) -> T:
        with self._scope():
            return function(*args)

    @contextmanager
    def _scope(self) -> Iterator[None]:
        with self.scope(), inside(self.inside):
            yield

    # --- Checks of answers --------------------------------------------------------------------------------------------

    @property
    def _draft(self) -> Draft | None:
        """The answer to give, once the rule has settled on a model that has answered."""
        return self._drafts.get(self.attempts.model)

    @property
    def _check(self) -> AnswerCheck | None:
        """The check of the answer of the model that is tried now; None where it is given as it is."""
        check = self.attempts.decision.check_of(self.attempts.model)
        return None if check is None else self._checks[check.name]

    def _run_check(self, given: Any, answer: Any, rest: Any = None) -> None:
        """Check an answer, within the call's deadline, and let the rule decide again."""
        steps = Steps(self._left, self._late, is_direct=self._is_direct)
        with self._deciding(given, answer, rest) as (run, found), steps:
            found.append(steps.make(run))

    async def _arun_check(self, given: Any, answer: Any, rest: Any = None) -> None:
        """Do the same as `_run_check`, asynchronously."""
        with self._deciding(given, answer, rest, is_async=True) as (run, found):
            found.append(await self._in_time(run()))

    @contextmanager
    def _deciding(
        self, given: Any, answer: Any, rest: Any, *, is_async: bool = False
    ) -> Iterator[tuple[Callable[[], Any], list[Found]]]:
        """Yield what runs the check, and a list for what it found; keep the draft, and decide again."""
        # With the graders, so here: few calls have checks.
        from unirouter_plugins.litellm.checks import Asked, Context, Found, asking

        found, check, model, decision = list[Found](), self._check, self.attempts.model, self.attempts.decision
        assert check is not None
        if self.models.health.store:
            self.models.health.answered(self._key, time.monotonic() - self._tried)
        self._until, usage, (text, held), chat = self._ends, self.usage_of(answer), self.seen(answer), self.chat
        members, usd = Members({**self.snapshot.table, **self.snapshot.members}), self.usd_of(answer, usage)
        by_litellm = asking(members, lambda name: self.snapshot.quote(name) if name in self.snapshot.pool else None)

        def ask(name: str, messages: Messages, sample: int) -> tuple[str, float]:
            if (own := self.models.given.get(name)) is None:
                return by_litellm(name, messages, sample)
            said = self.ask(own, messages)
            quoted = self.snapshot.quote(name)
            return self.seen(said)[0], math.nan if quoted is None else quoted.usd(self.usage_of(said))

        asked = Asked(ask)
        held = {"documents": self._sources, "tool_results": chat.tool_results, "response": answer, **held}
        context = Context(model, chat.messages, tools=chat.tools, schema=chat.schema, ask=asked, **held)
        with contextlib.suppress(CallTimeoutError):
            yield partial(check.acall if is_async else check, self._prompt, text, context), found
        asked.close()
        seen = found[0] if found else Found(None, check.spent(asked))
        after, usd, rule = decision.after(seen.signal, model), usd + seen.usd, decision.check_of(model)
        assert rule is not None
        told = {"check": check.name, "signal": seen.signal, "expected_error": after.expected(model)[0]}
        paid = usd + self.usd_inside - self._usd_inside_before
        self._checked[model] = {**told, "usd": None if math.isnan(paid) else paid}
        self._drafts[model] = Draft(given, usage, usd, rest)
        self.forget()
        self.attempts.decide(after, rule.limit, is_over=time.monotonic() >= self._ends)

    def _replayed(self) -> tuple[list[Any], Any]:
        draft, self._first = self._drafts[self.attempts.model], time.monotonic()
        return draft.given, draft.rest

    # --- Time ---------------------------------------------------------------------------------------------------------

    @property
    def _is_direct(self) -> bool:
        """Whether the caller makes the steps of an attempt, no thread: for the user's own objects without a limit."""
        return self._is_unlimited and self.attempts.model in self.models.given

    def _left(self) -> float:
        """Return the seconds until the model must have given its first content; then, until the call must end."""
        return self._until - time.monotonic()

    def _late(self) -> CallTimeoutError:
        if time.monotonic() >= self._ends:
            return CallTimeoutError(f"The call had no whole answer within its deadline of {self.limits.deadline:g} s.")
        return CallTimeoutError(f"{self.attempts.model!r} gave no content within {self.limits.timeout:g} s.")

    async def _in_time(self, awaited: Awaitable[T]) -> T:
        """Return what is awaited; raise `CallTimeoutError` when it takes too long."""
        try:
            async with asyncio.timeout(self._left()) as limit:
                return await awaited
        except TimeoutError:
            if not limit.expired():
                raise
        raise self._late()

    # --- What they share ----------------------------------------------------------------------------------------------

    def _goes_on(self) -> bool:
        """Return whether a model is to be called now, which is begun with; else a draft is the answer."""
        if self._draft is None:
            self.start()
        return self._draft is None

    @contextmanager
    def _attempt(self) -> Iterator[None]:
        """Note the failure of a model; raise it when no other model may answer, else the next one is to be tried."""
        try:
            yield
        except Exception as failed:
            self.failed(failed)
        except BaseException as cancelled:
            self.unwell(cancelled)
            raise

    def start(self) -> str:
        """Return the model to call now, which does not cool down, unless all do; or one whose draft is the answer."""
        health = self.models.health
        if health.store and self.why != "forced":
            while self._draft is None and not health.may_try(self._key):
                if not self.attempts.postpone(health.cooling(self.snapshot.keys)):
                    break
        self._tried, self._usd_inside_before = time.monotonic(), self.usd_inside
        self._until = min(self._tried + self.limits.attempt, self._ends)
        return self.attempts.model

    def failed(self, failed: Exception) -> None:
        """Note that the model failed, so that the next is tried; raise when no other may answer."""
        failed = self._readable(failed)
        self.unwell(failed)
        self.attempts.note(failed, self._secrets, is_over=time.monotonic() >= self._ends)

    def unwell(self, failed: BaseException) -> None:
        """Note in the table of health that a call to the model failed."""
        self.models.health.failed(self._key, failed, time.monotonic() - self._tried)

    def _model(self) -> Any:
        """Return the model to call now, prepared; begin its record."""
        name = self.attempts.model
        own = self.models.given.get(name)
        model = self.models.model(self.snapshot, name, is_last=self.attempts.is_last) if own is None else own
        self._shown = self.record().as_dict()
        return self.model_for(model)

    @property
    def _key(self) -> str:
        return self.snapshot.keys[self.attempts.model]

    @property
    def _secrets(self) -> list[str]:
        """What the model was called with and a provider may repeat in what it says: keys and headers."""
        member = self.snapshot.members.get(self.attempts.model)
        own = [] if member is None else member.secrets
        return [*own, *secrets_in({**self.models.settings, **self.parameters})]

    @contextmanager
    def _ending(self) -> Iterator[None]:
        """Make the record when the block has ended, or was left; raise what fails in it without keys."""
        try:
            yield
        except (GeneratorExit, asyncio.CancelledError):
            self._answered()
            raise
        except Exception as failed:
            failed = self._readable(failed)
            self.unwell(failed)
            raise without_keys(unwrapped(failed), self._secrets) from None
        self._answered()

    def _readable(self, failed: Exception) -> Exception:
        """Return the failure; that of an answer which cannot be read as one of its model."""
        if classify(failed) is not Failure.OTHER or not is_of_reading(failed):
            return failed
        unread = NoAnswerError(f"{self.attempts.model!r} gave an answer that cannot be read: {type(failed).__name__}.")
        unread.__cause__ = failed
        return unread

    def _answered(self, answer: Any = None) -> CallRecord:
        if self.models.health.store and self._draft is None:
            self.models.health.answered(self._key, time.monotonic() - self._tried)
        return self.finish(answer)

    def _require_content(self, parts: Sequence[Any]) -> None:
        """Raise where a response holds no answer; the last model's is given as it is, if it tells why it ended."""
        held = [self.content(part) for part in parts]
        if any(each.has_content and not each.is_thought for each in held):
            return
        model, finish = self.attempts.model, next((e.finish for e in reversed(held) if e.finish is not None), None)
        is_filtered = finish == "content_filter"
        if finish is not None and not is_filtered and self.attempts.is_last:
            return
        bills = (self.usd_of(part, self.usage_of(part)) for part in reversed(parts))
        self._usd_of_failures += next(itertools.filterfalse(math.isnan, bills), 0.0)
        ended = "without a finish reason" if finish is None else f"with finish reason {finish!r}"
        message = f"{model!r} gave no answer: its response is empty and ended {ended}."
        if is_filtered and model in self.snapshot.members:
            raise open_litellm().ContentPolicyViolationError(message, model, self.snapshot.members[model].model)
        raise ContentFilterError(message) if is_filtered else NoAnswerError(message)

    def _passed(self, part: T) -> T:
        if self._telling is None or self.usage_of(part).is_known:
            self._telling = part
        return self.passed(part)

    def record(self, answer: Any = None) -> CallRecord:
        """Return the record of the call as it stands, with the cost where `answer` tells its tokens."""
        model, draft = self.attempts.model, self._draft
        if draft is not None:
            usage, usd = draft.usage, draft.usd
        else:
            usage = UNKNOWN if answer is None else self.usage_of(answer)
            usd = math.nan if answer is None else self.usd_of(answer, usage)
        inner = () if self.inside is None else tuple(self.inside.calls)
        usd += (
            self.usd_inside
            + self._usd_of_failures
            + sum(other.usd for other in self._drafts.values() if other is not draft)
        )
        first = self._first - self._began if self._checked and self._first else None
        differs = self.snapshot.differs(model, {**self.models.settings, **self.parameters})
        seconds, failures = time.monotonic() - self._began, dict(self.attempts.failures)
        told = self.why, self._routed_on, dict(self._checked), first, inner
        return CallRecord(model, self.decision, usd, usage, seconds, failures, differs, *told)

    def finish(self, answer: Any = None) -> CallRecord:
        """Return the record of the call, which has ended, and keep it; doing it again changes nothing."""
        if self.finished is None:
            self.finished = self.record(self._telling if answer is None else answer)
            self._shown |= self.finished.as_dict()
            self.keep()
            if LOG.isEnabledFor(logging.INFO) or "opentelemetry.trace" in sys.modules:
                tell(self.decision.model, self._shown)
        return self.finished

    def keep(self) -> None:
        """Keep the record for `last_decision` and `record_decisions`."""
        keep(self._shown if self.finished is None else dict(self._shown))  # what is whole, its reader may change


def _close(source: Any) -> None:
    """Close a stream; LiteLLM's has the provider's inside, which has the connection."""
    for stream in (source, getattr(source, "completion_stream", None)):
        for closable in (stream, getattr(stream, "response", None)):
            if callable(close := getattr(closable, "close", None)):
                with contextlib.suppress(Exception):  # of any kind: it has ended
                    close()
                    return
