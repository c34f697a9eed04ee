"""A plan of onboarding to a store on PostgreSQL that many workers fill, each answer asked for by one of them."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np

from unirouter_core.exceptions import InvalidDataError, missing_package
from unirouter_plugins.onboarding import Onboarded, Plan, Progress, run_onboarding
from unirouter_plugins.onboarding.ask import Budget, OverBudgetError
from unirouter_plugins.onboarding.store import AnswerStore

SHARES = 64  # of the questions, by their digests: what a worker claims, the same in every process
BATCHES = 4  # for each worker, so that one with slow answers does not keep all waiting
WORKER_CPUS = 0.1  # a worker waits for its models
MOST_AT_ONCE = 5_000  # calls, over all workers: half of what a shared budget takes, so that bills always get in


class SharedBudget(Budget):
    """The budget of several workers, in a process of its own; `who` is one of them, which has begun."""

    def __init__(self, usd: float | None = None) -> None:
        super().__init__(usd)
        self._held, self._at = dict[str, float](), dict[int | str, str]()

    def begin(self, place: int | str, who: str) -> None:
        """Let a worker spend in the place of the one before it, which is lost.

        What that one had reserved counts as spent, as its calls may be billed; what it still waits for it cannot get.
        """
        if lost := self._held.pop(self._at.get(place, who), 0.0):
            self.settle(lost, usd=lost)
        self._at[place], self._held[who] = who, 0.0

    async def reserve_for(self, who: str, worst: float) -> None:
        """Reserve as `Budget.reserve`."""
        await self.reserve(worst)
        if who not in self._held:
            self.settle(worst, usd=0.0)
        self.require(who)
        self._held[who] += worst

    def require(self, who: str) -> None:
        """Raise `OverBudgetError` where a worker was lost while it waited."""
        if who not in self._held:
            raise OverBudgetError(f"The worker {who} has been replaced; run again to go on.")

    def settle_for(self, who: str, worst: float, usd: float) -> None:
        """Count a call as `Budget.settle`; those of a lost worker have been counted."""
        if who in self._held:
            self._held[who] -= worst
            self.settle(worst, usd=usd)

    def total(self) -> float:
        """Return the USD that were spent."""
        return self.spent


class _Part(Budget):
    """What one worker sees of a `SharedBudget` in another process, `actor`."""

    def __init__(self, actor: Any, share: int) -> None:
        import ray

        super().__init__()
        self._actor, self._who = actor, secrets.token_hex(8)
        ray.get(actor.begin.remote(share, self._who))

    async def reserve(self, worst: float) -> None:
        await self._actor.reserve_for.remote(self._who, worst)

    def settle(self, worst: float, *, usd: float) -> None:
        self._actor.settle_for.remote(self._who, worst, usd)
        self.spent += usd


class Filler:
    """A worker that fills a plan's store, for Ray's `map_batches`: a batch has the shares of the questions to answer.

    `budget` returns what calls for shares are paid from, given the first of them.
    """

    def __init__(self, plan: Plan, budget: Callable[[int], Budget]) -> None:
        self._plan, self._budget = plan, budget
        self._store = AnswerStore(os.fspath(plan.options.store), texts=plan.options.texts)
        self._runner = asyncio.Runner()  # LiteLLM's clients belong to one event loop

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Return how many answers were asked for."""
        shares = sorted(int(share) for share in batch["share"])
        rows = [row for row, digest in enumerate(self._plan.digests) if share_of(digest) in shares]
        with self._store.claimed(shares):  # what another worker has answered is seen after it ends
            asked = self._runner.run(self._plan.fill(self._store, rows, self._budget(shares[0])))
        return {"asked": np.array([asked])}


def share_of(digest: str) -> int:
    """Return the share that a question belongs to."""
    return int(digest[:8], 16) % SHARES


def onboard_dataset(
    plan: Plan,
    progress: Callable[[Progress], None] | None = None,
    *,
    workers: int = 4,
    folder: str | os.PathLike[str] | None = None,
    onboarded: Callable[[Onboarded], None] | None = None,
) -> list[Onboarded]:
    """Run a plan with many of Ray's workers, which fill its store on PostgreSQL; then onboard its models from there.

    Each worker asks for all models' answers to its share of the questions. It claims the share first, so nothing is
    asked for twice, though two workers, or two runs of the plan, are at it; the claims of one that is killed are free
    at once, and another goes on from what was kept. All spend one budget. The concurrency of the plan's options is
    that of one worker and model: `workers` x models x concurrency, at most 5,000, are the calls at once.

    Parameters
    ----------
    plan : Plan
        Of `plan_onboarding`, its store a ``postgresql://`` URL that all workers reach.
    progress : function of Progress, optional
        Called after every answer that is asked for here: first calls, and what workers could not get.
    workers : int
        More than 64 have nothing to do.
    folder, onboarded
        As `Plan.run` takes them.

    Raises
    ------
    InvalidDataError
        When the store is no PostgreSQL database, questions are to be answered `until_decided` only, or there would be
        more than 5,000 calls at once.
    PreflightError, OverBillError, StoreError
        As `Plan.run` does.

    Examples
    --------
    ::

        options = OnboardingOptions(validation="mine.jsonl", store="postgresql://me@host/answers", budget=50.0)
        plan = plan_onboarding(router, ["openai/gpt-4.1-mini", "openai/gpt-4.1"], options)
        print(plan.bill.usd.expected)
        onboard_dataset(plan, workers=32, folder="my.router")
    """
    try:
        import ray.data
    except ImportError as missing:
        raise missing_package("Ray", "ray") from missing
    options = plan.options
    if options.until_decided:
        raise InvalidDataError("Workers answer all questions, whatever is decided; leave until_decided out.")
    n_called = len([*plan.models, *filter(None, (options.judge, options.reference_model))])
    if min(workers, SHARES) * n_called * options.concurrency > MOST_AT_ONCE:
        raise InvalidDataError(
            f"{workers} workers with {options.concurrency} calls at once of each of {n_called} models are above "
            f"{MOST_AT_ONCE:,}; give fewer workers, or a smaller concurrency."
        )

    def work(actor: Any) -> None:
        n_batches = min(BATCHES * workers, SHARES)
        shares = ray.data.from_items([{"share": share} for share in range(SHARES)], override_num_blocks=n_batches)
        arguments: Any = (plan, lambda share: _Part(actor, share))
        pool = ray.data.ActorPoolStrategy(size=min(workers, SHARES))
        how = {"batch_size": None, "num_cpus": WORKER_CPUS, "compute": pool}
        shares.map_batches(Filler, fn_constructor_args=arguments, **how).materialize()

    with AnswerStore(os.fspath(options.store), texts=options.texts) as store, ExitStack() as claims:

        async def fill(budget: Budget) -> None:
            left = None if budget.usd is None else max(budget.usd - budget.spent, 0.0)
            actor = ray.remote(SharedBudget).options(num_cpus=0, max_concurrency=10_000).remote(left)
            claims.close()
            await asyncio.to_thread(work, actor)
            await asyncio.to_thread(claims.enter_context, store.claimed(range(SHARES)))
            budget.spent += await actor.total.remote()

        claims.enter_context(store.claimed(range(SHARES)))
        return run_onboarding(plan, progress, folder=folder, onboarded=onboarded, workers=fill)
