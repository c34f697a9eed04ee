"""Models onboarded by asking them: the bill first, then the answers, each paid for once, then what they change."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from unirouter_core.data import Evaluation
from unirouter_core.embedding import Array, Labels
from unirouter_core.evaluate.impact import joining
from unirouter_core.evaluate.stopping import Undecided, ask_order, undecided
from unirouter_core.exceptions import InvalidDataError, UnknownPriceError
from unirouter_core.router import UniRouter
from unirouter_plugins.graders import GradeFunction
from unirouter_plugins.litellm.chat import Chat
from unirouter_plugins.litellm.door import open_litellm
from unirouter_plugins.litellm.members import Member, Members, read_members
from unirouter_plugins.litellm.prices import capabilities, listed_prices, require_quote
from unirouter_plugins.litellm.serving import member_of
from unirouter_plugins.litellm.variants import register
from unirouter_plugins.onboarding.answers import AnswerStore
from unirouter_plugins.onboarding.bill import Bill, Lengths, draw_up
from unirouter_plugins.onboarding.budget import Budget
from unirouter_plugins.onboarding.committer import Committer
from unirouter_plugins.onboarding.judge import Judge
from unirouter_plugins.onboarding.known_pairs import JudgeCheck
from unirouter_plugins.onboarding.measurement import Measurement
from unirouter_plugins.onboarding.onboarded import (
    Onboarded,
    Progress,
    Stop,
    onboarded,
    why_no_more,
    why_not,
    why_stopped,
)
from unirouter_plugins.onboarding.pacing import together
from unirouter_plugins.onboarding.questions import Questions
from unirouter_plugins.onboarding.reading import read_questions
from unirouter_plugins.onboarding.run import Asked, Run

__all__ = ["Onboarded", "Plan", "Progress", "onboard", "plan_onboarding"]

STORE = "evaluations.sqlite"
"""Where answers are kept when no other place is named."""

FIRST_CHECK, NEXT_CHECK = 50, 25
"""Answers before the first look at whether more are needed, and from one look to the next."""


# --- Plan -------------------------------------------------------------------------------------------------------------


def plan_onboarding(
    router: UniRouter,
    models: Sequence[str],
    questions: Questions | str | os.PathLike[str] | None = None,
    *,
    functions: Mapping[str, GradeFunction] | None = None,
    members: Members | str | os.PathLike[str] | None = None,
    store: str | os.PathLike[str] = STORE,
    repeats: int = 1,
    max_tokens: int = 1024,
    judge: Judge | str | None = None,
    reference_model: str | None = None,
    budget: float | None = None,
    concurrency: int = 8,
    until_decided: bool = False,
    replace: bool = False,
    texts: bool = True,
    seed: int = 0,
    timeout: float = 120.0,
) -> Plan:
    """Return what onboarding these models will take, its bill first of all; no model is called.

    Parameters
    ----------
    router : UniRouter
        Fitted; its pool gains the models.
    models : sequence of str
        By their names in `members`, or as LiteLLM calls them.
    questions : Questions or path, optional
        What they are asked; see `read_questions`. The 300 of this package when not given.
    functions : mapping of name to function (answer, reference) -> error, optional
        Graders of your own, for lines of the file that name them.
    members : Members or path, optional
        A `pool.toml`: how models are called, with which settings, at which prices.
    store : path or URL
        Where every answer is kept, and found again: a SQLite file, or a PostgreSQL database.
    repeats : int
        Answers to each prompt.
    max_tokens : int
        The most tokens of an answer while it is measured. A model whose own settings say max_tokens keeps to those;
        otherwise this is no setting of the model, and it is served without it.
    judge : Judge or str, optional
        Who grades what no program can; by name, with the prompt that this package brings.
    reference_model : str, optional
        Who answers first what has no right answer.
    budget : float, optional
        The most USD that the run may cost. Answers of earlier runs cost nothing.
    concurrency : int
        Calls of a model at once.
    until_decided : bool
        Whether to stop when more answers would hardly change where prompts go.
    replace : bool
        Whether models of the pool may be measured anew. What is in the store is not asked again; another store, or
        other settings, ask anew.
    texts : bool
        Whether prompts and answers are kept in the store. Without them, only grades are.
    seed : int
        Of the order of the prompts, and of the answers that a judge is tried on.
    timeout : float
        Seconds until a call has failed.

    Raises
    ------
    InvalidDataError
        When a model is in the pool already, questions cannot be graded, or a setting is outside its range.
    UnknownPriceError
        When nobody knows what one of the models costs.
    NotFittedError
        When the router is not.
    StoreError
        When the store cannot be opened.

    Examples
    --------
    ::

        router = UniRouter.starter()
        plan = plan_onboarding(router, ["openai/gpt-4.1-mini"], "validation.jsonl", budget=2.0)
        print(plan.bill.usd)
        joined = await plan.run()
        print(joined[0].joining.verdict)
    """
    _check_settings(repeats=repeats, max_tokens=max_tokens, concurrency=concurrency, timeout=timeout)
    Budget(budget)
    table = members if isinstance(members, Members) else Members({}) if members is None else read_members(members)
    names = _checked_models(router, models, replace=replace)
    if isinstance(judge, str):
        judge = Judge(_member(router, table, judge))
    if isinstance(questions, Questions):
        read = questions
    else:
        read = read_questions(questions, functions=functions, embedder=router.embedder, judged=judge is not None)
    read.check(judge=judge is not None, reference_model=reference_model is not None)
    register(table)
    measured = tuple(_member(router, table, name) for name in names)
    reference = None if reference_model is None else _member(router, table, reference_model)
    called = [*measured, *([judge.member] if judge else []), *([reference] if reference else [])]
    asked = Asked(
        members=measured,
        questions=read,
        sizes=tuple(Chat.of(question.messages).count_tokens(router.token_counter) for question in read),
        quotes={member.name: require_quote(member) for member in called},
        judge=judge,
        reference=reference,
        repeats=repeats,
        max_tokens=max_tokens,
        concurrency=concurrency,
        timeout=timeout,
        seed=seed,
    )
    return Plan(router, asked, os.fspath(store), budget, until_decided=until_decided, texts=texts)


def _member(router: UniRouter, table: Members, name: str) -> Member:
    """Return how a model is called: as the table says, else as it was measured before, else by its own name.

    What was measured before and LiteLLM's map does not know keeps its prices and capabilities.
    """
    if name in table or name not in router.pool:
        return table.named(name)
    profile = router.pool[name]
    member = member_of(profile)
    if listed_prices(member) is not None:
        return member
    return dataclasses.replace(member, prices=profile.prices, capabilities=dataclasses.asdict(profile.capabilities))


def _check_settings(**settings: float) -> None:
    for name, value in settings.items():
        whole = name == "timeout" or isinstance(value, int)
        if isinstance(value, bool) or not whole or not 0 < value < float("inf"):
            kind = "number of seconds" if name == "timeout" else "whole number"
            raise InvalidDataError(f"{name}={value!r} must be a {kind}, more than 0.")


def _checked_models(router: UniRouter, models: Sequence[str], *, replace: bool) -> list[str]:
    if isinstance(models, str):
        raise InvalidDataError(f"{models!r} is one name, not a list of names; put it in a list.")
    if not models:
        raise InvalidDataError("No model is named; name at least one.")
    for name in models:
        if name in router.pool and not replace:
            raise InvalidDataError(f"{name!r} is in the pool already; pass replace=True to measure it anew.")
    return list(dict.fromkeys(models))


class Plan:
    """What onboarding some models will take; `plan_onboarding` makes it, `run` does it.

    Attributes
    ----------
    bill : Bill
        What it will cost, when all that is in the store now is not asked again.
    asked : Asked
        What is asked, of whom.
    spent_usd : float
        What the last run cost, all in all.
    """

    def __init__(
        self, router: UniRouter, asked: Asked, store: str, budget: float | None, *, until_decided: bool, texts: bool
    ) -> None:
        self.asked = asked
        self._router, self._place, self._budget = router, store, budget
        self._until_decided, self._texts = until_decided, texts
        self._validation = asked.questions.validation_set()
        self._vectors: Array = router.encode(self._validation.prompts, documents=self._validation.documents)
        self._regions: Labels = router.regions.locate(self._vectors)[0]
        self._order = ask_order(self._regions, asked.seed).tolist()
        self.spent_usd = 0.0
        with AnswerStore(store, texts=texts) as opened:
            run = Run(asked, opened, Committer(opened), Budget(), router.token_counter)
            self.bill: Bill = draw_up(run, Lengths(router, self._regions))

    def __repr__(self) -> str:
        low, high = self.bill.usd.low, self.bill.usd.high
        models = ", ".join(member.name for member in self.asked.members)
        return f"Plan({models}: {self.bill.calls} calls, ${low:.4g} to ${high:.4g})"

    async def run(
        self,
        progress: Callable[[Progress], None] | None = None,
        *,
        folder: str | os.PathLike[str] | None = None,
    ) -> list[Onboarded]:
        """Ask the models one after the other, and add to the router's pool those that were measured well.

        Whatever ends it, Ctrl-C or a power cut, the same plan made again goes on where this one was: answers are kept
        as they come.

        Parameters
        ----------
        progress : function of Progress, optional
            Called after every answer.
        folder : path, optional
            Where the router is saved after each model that joins it; what other processes add there stays. Without
            `texts`, prompts are left out there too.

        Raises
        ------
        PreflightError
            When the first call of one of them fails, before more is asked; the sentence names the cure.
        StoreError
            When answers cannot be kept.
        """
        async with aclosing(self.each(progress)) as all_of_them:
            done = []
            async for one in all_of_them:
                if folder is not None and one.profile is not None:
                    self._router.save(folder, texts=None if self._texts else False)
                done.append(one)
            return done

    async def each(self, progress: Callable[[Progress], None] | None = None) -> AsyncGenerator[Onboarded]:
        """Yield what becomes of each model, as soon as it is known; see `run`."""
        budget = Budget(self._budget)

        def told(of: Measurement) -> None:
            if progress is not None:
                progress(Progress(of.model, of.n_done, of.n_jobs, of.calls.failed, budget.spent))

        with AnswerStore(self._place, texts=self._texts) as store:
            try:
                async with Committer(store) as commit:
                    run = Run(self.asked, store, commit, budget, self._router.token_counter, told)
                    check, _ = await together([run.first_calls(self._order), asyncio.to_thread(run.describe)])
                    for measurement in run.measurements:
                        yield await self._onboard(measurement, check)
            finally:
                self.spent_usd = budget.spent

    # --- One model ----------------------------------------------------------------------------------------------------

    async def _onboard(self, measurement: Measurement, check: JudgeCheck | None) -> Onboarded:
        looked = await self._ask(measurement)
        stopped = why_stopped(measurement, looked)
        if not (reason := why_not(measurement, stopped)):
            try:
                return await self._join(measurement, check, looked, stopped)
            except (InvalidDataError, UnknownPriceError) as failed:  # its answers do not make a profile
                reason = str(failed)
        notes = self._notes(measurement, check, looked, stopped)
        return onboarded(measurement, stopped=stopped, looked=looked, reason=reason, notes=notes)

    async def _join(
        self, measurement: Measurement, check: JudgeCheck | None, looked: Undecided | None, stopped: Stop | None
    ) -> Onboarded:
        """Add a model to the pool, and say what that changes."""
        evaluation = self._evaluation(measurement)
        able = capabilities(measurement.caller.member)
        profile = self._router.onboard(evaluation, capabilities=able, replace=True, vectors=self._vectors)
        return onboarded(
            measurement,
            stopped=stopped,
            looked=looked,
            notes=self._notes(measurement, check, looked, stopped),
            profile=profile,
            evaluation=evaluation,
            joining=await asyncio.to_thread(joining, self._router, measurement.model),
        )

    async def _ask(self, measurement: Measurement) -> Undecided | None:
        """Ask all questions, or until what is known decides; return the last look at that."""
        if not self._until_decided:
            await measurement.ask(self._order)
            return None
        looked: Undecided | None = None
        upto, n = 0, len(self._order)
        while upto < n and not measurement.is_stopped:
            upto, begin = min(max(upto + NEXT_CHECK, FIRST_CHECK), n), upto
            await measurement.ask(self._order[begin:upto])
            if upto < n and measurement.n_answered >= FIRST_CHECK:
                looked = await self._look(measurement)
                if looked is not None and looked.decided:
                    break
        return looked

    async def _look(self, measurement: Measurement) -> Undecided | None:
        """Return whether more answers are needed; None where the answers so far do not make a profile."""
        try:
            evaluation = self._evaluation(measurement)
            return await asyncio.to_thread(undecided, self._router, evaluation, vectors=self._vectors)
        except (InvalidDataError, UnknownPriceError):
            return None

    def _evaluation(self, measurement: Measurement) -> Evaluation:
        how = self.asked.how_measured(measurement)
        return measurement.evaluation(self._validation, measurement.caller.quoted.prices, how)

    def _notes(
        self, measurement: Measurement, check: JudgeCheck | None, looked: Undecided | None, stopped: Stop | None
    ) -> list[str]:
        """Return what to know of a measurement besides its numbers, in a sentence each."""
        notes = [] if check is None else [str(check)]
        if self.asked.questions.without_reference:
            notes.append(self.asked.worth_of_grades(len(measurement.ungradable)))
            if measurement.caller.member == self.asked.reference:
                notes.append(f"{measurement.model} gave those answers, so it is measured against its own.")
        if sentence := why_no_more(measurement, looked, stopped):
            notes.append(sentence)
        if n_seen := int(self._router.has_seen(self._validation.prompts).sum()):
            notes.append(
                f"The router has learned from {n_seen} of these {len(self._validation)} prompts, which flatters it; "
                "measure on others."
            )
        return notes


def onboard(
    router: UniRouter,
    models: Sequence[str],
    questions: Questions | str | os.PathLike[str] | None = None,
    *,
    folder: str | os.PathLike[str] | None = None,
    progress: Callable[[Progress], None] | None = None,
    **how: Any,
) -> list[Onboarded]:
    """Plan and run at once, where nothing else is awaited.

    Parameters
    ----------
    router, models, questions
        As in `plan_onboarding`.
    folder, progress
        As in `Plan.run`.
    **how
        As in `plan_onboarding`.

    Raises
    ------
    RuntimeError
        Within an event loop, as notebooks are; besides what `plan_onboarding` and `Plan.run` raise.

    Examples
    --------
    ::

        router = UniRouter.load("my.router")
        onboard(router, ["openai/gpt-4.1-mini"], "validation.jsonl", folder="my.router", budget=2.0)
    """
    _check_no_loop()
    plan = plan_onboarding(router, models, questions, **how)

    async def run() -> list[Onboarded]:
        try:
            return await plan.run(progress, folder=folder)
        finally:
            await open_litellm().close_litellm_async_clients()  # they belong to this event loop, which ends

    return asyncio.run(run())


def _check_no_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError("An event loop runs here, as in a notebook; write: await plan_onboarding(...).run(...)")
