"""`call_dataset`: each row's model called, by many workers within one budget; no kept answer is paid for twice."""

from __future__ import annotations

import asyncio
import datetime
import inspect
import json
import logging
import math
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa
from tenacity import (
    AsyncRetrying,
    retry_if_exception,
    retry_if_exception_type,
    stop_after_attempt,
    wait_exponential_jitter,
    wait_random_exponential,
)

from unirouter_core.exceptions import InvalidDataError, UniRouterError, missing_package
from unirouter_core.router import UniRouter
from unirouter_plugins.litellm import (
    BESIDE,
    LiteLLMCall,
    Members,
    check_parameters,
    load_router,
    record_of,
    snapshot_of,
)
from unirouter_plugins.litellm.chat import texts_of
from unirouter_plugins.litellm.failures import classify, open_litellm
from unirouter_plugins.litellm.pool_file import members_for
from unirouter_plugins.litellm.redaction import described
from unirouter_plugins.litellm.snapshot import Snapshot
from unirouter_plugins.onboarding.ask import LONGEST_PAUSE, OTHER_TOKENIZERS, OverBudgetError, shaping_of
from unirouter_plugins.onboarding.questions import digest_of
from unirouter_plugins.onboarding.store import AnyText, Database, StoreError
from unirouter_plugins.ray.evaluations import WORKER_CPUS, SharedBudget, room_for
from unirouter_plugins.ray.routing import (
    COLUMNS,
    ERROR,
    MODEL,
    USD,
    WHY,
    RouteBatch,
    at_batch_tariffs,
    check_alone,
    prompts_of,
    why_unusable,
    with_columns,
)

if TYPE_CHECKING:
    from ray.data import Dataset

T = TypeVar("T")
_LOG = logging.getLogger(__name__)
ANSWER, PAID, RECORD = "answer", "usd", "record"
CALLED = (*COLUMNS[:-1], ANSWER, PAID, RECORD, WHY)
"""The columns that a call adds."""

ATTEMPTS = 4  # how often a row is tried, all its models each time, where its failure may pass
LEASE = 120.0  # seconds without a message, after which a worker that is calling counts as lost
_BEATS = 12  # messages in the time of a lease
_LATE = 0.1  # seconds that a rate makes up for, as no sleep ends on time
_MOST_AT_ONCE = 5_000  # calls, over all workers
_MOST_KEYS = 500  # in one query
_NOT_HERE = ("n", "tools", "functions", "stream")  # their answers are more than a text

_tables = sa.MetaData()
_calls = sa.Table(
    "calls",
    _tables,
    sa.Column("key", AnyText, primary_key=True),  # the digest of the prompt and of all that was asked with it
    sa.Column("answer", AnyText, nullable=False),
    sa.Column("record", AnyText, nullable=False),
    sa.Column("date", AnyText, nullable=False),
)


def _read(query: Any, connection: sa.Connection) -> Any:
    return connection.execute(query).all()


class CallStore(Database):
    """Answers of routed calls with their records, as JSON, in a SQLite file or a PostgreSQL database."""

    tables = _tables

    def kept(self, keys: Sequence[str]) -> dict[str, tuple[str, str]]:
        """Return the answer and the record of each key that has them."""
        found: dict[str, tuple[str, str]] = {}
        for start in range(0, len(keys), _MOST_KEYS):
            wanted = _calls.c.key.in_(keys[start : start + _MOST_KEYS])
            query = sa.select(_calls.c.key, _calls.c.answer, _calls.c.record).where(wanted)
            for key, *answered in self.in_transaction(partial(_read, query), writes=False):
                found[key] = tuple(answered)
        return found

    def keep(self, key: str, answer: str, record: str) -> tuple[str, str]:
        """Keep an answer, on disk when this returns, and return what is kept: one that is there stays."""
        date = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        row = {"key": key, "answer": answer, "record": record, "date": date}
        insert = self.insert(_calls).on_conflict_do_nothing()
        self.in_transaction(lambda connection: connection.execute(insert, [row]))
        return self.kept([key])[key]


class Permits(SharedBudget):
    """The budget and the rate of all workers, and who calls for which answer, in a process of its own.

    A worker of which there is no message for `lease` seconds is lost.
    """

    def __init__(self, usd: float | None = None, per_minute: float | None = None, *, lease: float = LEASE) -> None:
        super().__init__(usd)
        self._gap, self._next, self._turn = 60 / per_minute if per_minute else 0.0, 0.0, asyncio.Lock()
        self._claims = dict[str, tuple[str, asyncio.Future[str | None]]]()
        self._lease, self._seen = lease, dict[str, float]()

    def enter(self, who: str, place: int | str) -> tuple[bool, float]:
        """Let a worker `begin`; return whether calls are to be counted, and how often it is to be `alive`."""
        self.begin(place, who)
        self.alive(who)
        return self._gap > 0, self._lease / _BEATS

    def end(self, who: str) -> None:
        """End a worker that is lost as `SharedBudget` does; answers that it called for are free."""
        super().end(who)
        self._seen.pop(who, None)
        for key in [key for key, (other, _) in self._claims.items() if other == who]:
            self.free(who, key)

    def alive(self, who: str) -> None:
        """Note that a worker is at work, and end those that are lost: whoever waits for them has such a worker, too."""
        now = time.monotonic()
        if who in self._held:
            self._seen[who] = now
        for other in [other for other, seen in self._seen.items() if seen < now - self._lease]:
            self.end(other)

    async def claim(self, who: str, key: str) -> str | None:
        """Return None when `who` is to call for the answer that is kept by `key`; no others will until it is free.

        Otherwise return the outcome of a call that another worker was making meanwhile, as `free` was given it.
        """
        self.alive(who)
        while key in self._claims and self._claims[key][0] != who:
            if (outcome := await asyncio.shield(self._claims[key][1])) is not None:
                return outcome
        self.require(who)
        self._claims.setdefault(key, (who, asyncio.get_running_loop().create_future()))
        return None

    def free(self, who: str, key: str, outcome: str | None = None) -> None:
        """Give those who wait for an answer its outcome: "" when it is kept, or why it failed; None: one calls."""
        if key in self._claims and self._claims[key][0] == who:
            self._claims.pop(key)[1].set_result(outcome)

    def count(self, who: str, calls: int) -> None:
        """Let all rows that wait wait for calls that were made without a permit of their own."""
        self._next = max(self._next, time.monotonic()) + calls * self._gap

    async def permit(self, who: str, worst: float) -> None:
        """Return when a call may be made, `worst` USD of the budget reserved for it."""
        self.alive(who)
        async with self._turn:  # a queue: only its head waits for the time
            if self._gap and self.spent + worst <= self._limit:  # else it is refused at once
                while (pause := self._next - time.monotonic()) > 0:
                    self.require(who)
                    await asyncio.sleep(pause)
                self.require(who)
                self._next = max(self._next, time.monotonic() - _LATE) + self._gap
        await self.reserve_for(who, worst)

    def more(self, who: str, worst: float) -> bool:
        """Reserve `worst` more USD and return True, or return False at once where they are not left."""
        if who not in self._held or self.spent + self._reserved + worst > self._limit:
            return False
        self._reserved += worst
        self._held[who] += worst
        return True


class CallBatch:
    """Calls the model of each row of a batch; see `call_dataset`, which has the parameters.

    `permits` is a `Permits` of this one alone, or the handle of Ray's actor of one.
    """

    def __init__(
        self,
        router: UniRouter | str | os.PathLike[str],
        *,
        store: str | os.PathLike[str],
        prompt: str = "prompt",
        permits: Any = None,
        calls_at_once: int = 16,
        cost_weight: float | None = None,
        models: Sequence[str] | None = None,
        requires: Sequence[str] = (),
        pool: Members | str | os.PathLike[str] | None = BESIDE,
        trust: bool = False,
        **parameters: Any,
    ) -> None:
        self.router = open_router(router, pool, trust=trust)
        which: dict[str, Any] = {"cost_weight": cost_weight, "models": models, "requires": requires}
        self._route = RouteBatch(self.router, prompt=prompt, **which)
        self._store, self._how = CallStore(os.fspath(store)), {**which, **parameters}
        given = {name: value for name, value in parameters.items() if value is not None}
        self._asked = [None if models is None else sorted(models), sorted(requires), given]
        self._who = secrets.token_hex(8)
        self._permits: Any = Permits() if permits is None else permits
        self._at_once, self._most_in = calls_at_once, dict[str, float]()
        self._runner = asyncio.Runner()  # LiteLLM's clients belong to one event loop
        self._place, self._is_counted = self._who, False
        if hasattr(self._permits.enter, "remote"):
            import ray

            self._place = ray.get_runtime_context().get_actor_id() or self._who  # that of the one that it replaces

    def __call__(self, batch: Any) -> Any:
        """Return the batch with the columns of `CALLED`."""
        rows = self._runner.run(self._called(prompts_of(batch, self._route.prompt, CALLED)))
        return with_columns(batch, {name: [row.get(name) for row in rows] for name in CALLED}, (ERROR, USD, PAID))

    def close(self) -> None:
        """Close the connections to providers and to the store."""
        self._runner.run(open_litellm().close_litellm_async_clients())
        self._runner.close()
        self._store.__exit__()

    async def _called(self, prompts: Sequence[Any]) -> list[dict[str, Any]]:
        unusable = [why_unusable(prompt) for prompt in prompts]  # as a chat is: a part of it is another question
        routed = self._route.route([None if why else prompt for prompt, why in zip(prompts, unusable, strict=True)])
        unusable = [why or each.error for why, each in zip(unusable, routed, strict=True)]
        keys = [each.model and self._key(each.model, p) for p, each in zip(prompts, routed, strict=True)]
        wanted = {
            key: (p, each.model) for key, p, each in zip(keys, prompts, routed, strict=True) if key and each.model
        }
        kept, at_once = await _lasting(self._store.kept, list(wanted)), asyncio.Semaphore(self._at_once)
        found = {key: _columns(*answered) for key, answered in kept.items()}
        lost: list[StoreError] = []

        async def fill(key: str) -> None:
            async with at_once:
                if not lost:  # what has begun is paid, and ends
                    try:
                        found[key] = await self._answered(key, *wanted[key])
                    except StoreError as failed:
                        lost.append(failed)

        if missing := [key for key in wanted if key not in kept]:
            async with self._entered(), asyncio.TaskGroup() as tasks:
                for key in missing:
                    tasks.create_task(fill(key))
        if lost:
            raise lost[0]
        return [found[key] if key else {WHY: why} for key, why in zip(keys, unusable, strict=True)]

    @asynccontextmanager
    async def _entered(self) -> AsyncIterator[None]:
        """Be a worker that is alive, of another name for each batch: what is left of the last one is not held."""
        self._who = secrets.token_hex(8)
        retrying = AsyncRetrying(stop=stop_after_attempt(ATTEMPTS), wait=wait_random_exponential(1, 10), reraise=True)
        entered: tuple[bool, float] = await retrying(self._permit, "enter", self._place)
        self._is_counted, pause = entered

        async def beat() -> None:
            while True:
                await asyncio.sleep(pause)
                with suppress(Exception):  # the next one is soon
                    await self._permit("alive")

        beating = asyncio.create_task(beat())
        try:
            yield
        finally:
            beating.cancel()
            await asyncio.wait([beating])

    def _key(self, model: str, prompt: str) -> str:
        """Return what an answer is kept by: all that shapes it, of the chosen model and of the call."""
        shaping = shaping_of(snapshot_of(self.router).members[model])
        asked = [model, shaping, *self._asked, prompt]
        return digest_of(json.dumps(asked, sort_keys=True, ensure_ascii=False, default=str))

    async def _answered(self, key: str, prompt: str, model: str) -> dict[str, Any]:
        """Return the columns of a row: its answer is kept by another worker meanwhile, or its model is called now."""
        outcome: str | None = None
        try:
            if why := await self._permit("claim", key):
                return {WHY: why}
            kept = await _lasting(self._store.kept, [key])
            answered = kept.get(key) or await self._paid(key, prompt, model)
            outcome = ""
            return _columns(*answered)
        except StoreError:
            raise
        except Exception as failed:  # of any kind: LiteLLM's, and what a provider of the user's own may raise
            outcome = str(failed) if isinstance(failed, UniRouterError) else described(failed)
            return {WHY: outcome}
        finally:
            try:
                await self._permit("free", key, outcome)
            except Exception as failed:  # the answer is kept; the end of the batch, or of the lease, frees it
                _LOG.warning("Equal prompts wait for the end of a batch: %s", described(failed))

    async def _paid(self, key: str, prompt: str, model: str) -> tuple[str, str]:
        """Return the answer of a model that is called now, and its record, both kept first."""
        retried = retry_if_exception(lambda failed: classify(failed).may_pass)
        wait = wait_exponential_jitter(1, LONGEST_PAUSE)
        retrying = AsyncRetrying(stop=stop_after_attempt(ATTEMPTS), retry=retried, wait=wait, reraise=True)
        response: Any = await retrying(self._call, prompt, model)
        answer = "\n".join(texts_of(response.choices[0].message.content))
        record = json.dumps(record_of(response).as_dict(), ensure_ascii=False)
        return await _lasting(self._store.keep, key, answer, record)

    async def _call(self, prompt: str, chosen: str) -> Any:
        """Return the response of the first model that does not fail, each attempt paid from the budget."""
        held, counted = self._worst(snapshot_of(self.router), chosen, prompt), 1
        await self._permit("permit", held)
        try:
            call = await LiteLLMCall.aof(self.router, prompt, check=False, **self._how)  # its time begins here

            async def paid(arguments: dict[str, Any]) -> Any:
                nonlocal held, counted
                model = call.attempts.model
                member, inner = call.snapshot.members[model], call.inside.calls if call.inside is not None else []
                spent = worst = self._worst(call.snapshot, model, prompt)  # what a call counts whose bill is not known
                if worst > held:
                    if not await self._permit("more", worst - held):
                        raise OverBudgetError(f"The budget has no ${worst:.4g} left for {model!r}; give a larger one.")
                    held = worst
                await self._count(member.samples - counted)
                counted, before = 0, len(inner)
                try:
                    response = await open_litellm().acompletion(**{**arguments, "num_retries": 0, "max_retries": 0})
                    usage = call.usage_of(response)
                    usd = call.usd_of(response, usage)
                    spent = worst if math.isnan(usd) else usd
                    if usage.is_known:
                        ratio = usage.tokens_in / self._tokens(call.snapshot, model, prompt)
                        self._most_in[model] = max(self._most_in.get(model, 0.0), ratio)
                except Exception as failed:
                    spent = worst if classify(failed).may_be_billed else 0.0
                    raise
                finally:
                    if call.inside is not None and member.panel is not None:
                        spent = call.inside.spent.get(model, 0.0)  # what its calls took, if it fails too
                        members, names = call.snapshot.members, [each["model"] for each in inner[before:]]
                        made = sum(members[name].samples if name in members else 1 for name in names)
                        await self._count(made - 1)  # it has been counted as one
                    if spent:
                        held -= worst
                        await self._permit("settle_for", worst, spent)
                return response

            return await call.arun(paid)
        finally:
            if held:
                await self._permit("settle_for", held, 0.0)

    def _tokens(self, snapshot: Snapshot, model: str, prompt: str) -> float:
        counter = self.router.fit_.token_counter
        return snapshot.members[model].expanded_tokens(float(counter.count([prompt])[0]), counter)

    def _worst(self, snapshot: Snapshot, model: str, prompt: str) -> float:
        """Return the most USD that a call may cost, as far as calls so far tell; 0 where its price is not known."""
        if (panel := snapshot.members[model].panel) is not None:
            return panel.budget
        quoted, most_out = snapshot.quote(model), most_tokens(snapshot, model, self._how)
        if quoted is None or most_out is None:
            return 0.0
        most_in = max(OTHER_TOKENIZERS, self._most_in.get(model, 0.0)) * self._tokens(snapshot, model, prompt)
        return quoted.prices.cost(most_in, most_out)

    async def _count(self, calls: int) -> None:
        if calls > 0 and self._is_counted:
            await self._permit("count", calls)

    async def _permit(self, name: str, *given: Any) -> Any:
        """Return what a method of the permits returns, here or in their own process."""
        method = getattr(self._permits, name)
        made = (getattr(method, "remote", None) or method)(self._who, *given)
        return await made if inspect.isawaitable(made) else made


async def _lasting(work: Callable[..., T], *given: Any) -> T:
    """Return what is read from the store or kept in it, tried again where it fails."""
    retried, wait = retry_if_exception_type(StoreError), wait_random_exponential(1, LONGEST_PAUSE)
    retrying = AsyncRetrying(stop=stop_after_attempt(ATTEMPTS), retry=retried, wait=wait, reraise=True)
    return await retrying(asyncio.to_thread, work, *given)


def _columns(answer: str, record: str) -> dict[str, Any]:
    told = json.loads(record)
    expected = {ERROR: told["expected_error"], USD: told["expected_usd"]}
    return {ANSWER: answer, RECORD: record, MODEL: told["model"], PAID: told["usd"], **expected}


def open_router(router: UniRouter | str | os.PathLike[str], pool: Any, *, trust: bool) -> UniRouter:
    """Return the router at what its models cost in a batch; a folder is read with the models of `pool`."""
    if isinstance(router, UniRouter):
        check_alone(pool)
        return router
    members = members_for(router, pool)
    return at_batch_tariffs(load_router(router, members, trust=trust, warm=False), members)


def most_tokens(snapshot: Snapshot, model: str, parameters: Mapping[str, Any]) -> float | None:
    """Return the most output tokens that a call of a model is charged for; None where there is no limit."""
    member = snapshot.members[model]
    given = {**member.settings, **{name: value for name, value in parameters.items() if value is not None}}
    limit = given.get("max_completion_tokens") or given.get("max_tokens") or snapshot.longest.get(model)
    return None if limit is None else limit * member.samples


def _absolute(place: Any) -> Any:
    """Return the path of a file or folder from the root; anything else as it is."""
    is_path = isinstance(place, str | os.PathLike) and place != BESIDE and "://" not in os.fspath(place)
    return os.path.abspath(place) if is_path else place


def call_dataset(
    ds: Dataset,
    router: UniRouter | str | os.PathLike[str],
    *,
    store: str | os.PathLike[str],
    budget: float | None = None,
    calls_per_minute: float | None = None,
    workers: int = 4,
    calls_at_once: int = 16,
    batch_size: int = 64,
    prompt: str = "prompt",
    cost_weight: float | None = None,
    models: Sequence[str] | None = None,
    requires: Sequence[str] = (),
    pool: Members | str | os.PathLike[str] | None = BESIDE,
    trust: bool = False,
    **parameters: Any,
) -> Dataset:
    """Return the dataset with the answer of each row's model, which is called when the dataset is read.

    The columns ``answer``, ``usd`` and ``record`` (JSON, see `CallRecord`) are added to those of `RouteBatch`, which
    are here of the model that answered. A row that fails has its ``error``, and is tried again by the next run; what
    was answered is in the `store`, and never paid for again, whatever was killed meanwhile. Equal prompts are one call,
    whose ``usd`` or ``error`` each of them has, in whichever batches and workers they are at the time. Answers are not
    checked.

    Parameters
    ----------
    ds : ray.data.Dataset
    router : UniRouter or path
        A folder that all workers reach.
    store : path or URL
        Where answers are kept: a SQLite file where all workers are on one machine, else a ``postgresql://`` URL. They
        are kept by the prompt, the chosen model and its settings, `models`, `requires` and `parameters`.
    budget : float, optional
        The most USD that the reading may cost, over all workers: each call at its estimated worst is reserved before.
        Answers of earlier runs cost nothing.
    calls_per_minute : float, optional
        Calls in a minute, over all workers: rows wait for their turn, and for the retries and fallbacks of others.
    workers, calls_at_once, batch_size : int
        Workers, the calls of each at once, and the rows that each is given at once.
    prompt : str
        The column of the prompts.
    cost_weight, models, requires
        As in `UniRouter.route`.
    pool : Members or path, optional
        A `pool.toml`, by default the one beside the folder. Its `batch` tariffs count.
    trust : bool
        As in `load_router`.
    **parameters
        As in `complete`: temperature, max_tokens, timeout and the like.

    Raises
    ------
    InvalidDataError
        When a parameter cannot be used, or a model has no limit of output tokens though there is a budget.

    Examples
    --------
    ::

        ds = ray.data.read_parquet("prompts")
        done = call_dataset(ds, "my.router", store="postgresql://me@host/answers", budget=200.0, max_tokens=800)
        done.write_parquet("answers")
    """
    try:
        import ray.data
    except ImportError as missing:
        raise missing_package("Ray", "ray") from missing
    if wrong := next((name for name in _NOT_HERE if parameters.get(name)), None):
        raise InvalidDataError(f"{wrong}= gives more than a text, which is all that a row keeps; leave it out.")
    for name, amount in {"budget": budget, "calls_per_minute": calls_per_minute}.items():
        if amount is not None and not (isinstance(amount, int | float) and 0 < amount < math.inf):
            raise InvalidDataError(f"{name}={amount!r} must be a finite number above 0, or None.")
    if workers * calls_at_once > _MOST_AT_ONCE:
        raise InvalidDataError(
            f"{workers} workers with {calls_at_once} calls at once are above {_MOST_AT_ONCE:,}; lower one."
        )
    router, pool, store = (_absolute(each) for each in (router, pool, store))  # workers may be in other folders
    opened = open_router(router, pool, trust=trust)
    RouteBatch(opened, models=models, requires=requires)  # here, where what is wrong with them is one sentence
    snapshot = snapshot_of(opened)
    check_parameters(parameters, snapshot.members.values())
    for model in (models or snapshot.pool) if budget is not None else ():
        if most_tokens(snapshot, model, parameters) is None:
            raise InvalidDataError(
                f"How long answers of {model!r} may be is not known; give max_tokens= with a budget."
            )
    CallStore(os.fspath(store)).__exit__()  # here, where it is one sentence
    how = {"cost_weight": cost_weight, "models": models, "requires": requires, **parameters}
    permits = (
        ray.remote(Permits)
        .options(
            name=f"unirouter-permits-{secrets.token_hex(4)}",
            num_cpus=0,
            max_concurrency=room_for(workers * calls_at_once),
        )
        .remote(budget, calls_per_minute)
    )
    given = {"store": store, "prompt": prompt, "permits": permits, "calls_at_once": calls_at_once, "pool": pool}
    return ds.map_batches(
        CallBatch,
        fn_constructor_args=(router,),
        fn_constructor_kwargs={**given, "trust": trust, **how},
        batch_size=batch_size,
        batch_format="pyarrow",
        num_cpus=WORKER_CPUS,
        compute=ray.data.ActorPoolStrategy(size=workers),
    )
