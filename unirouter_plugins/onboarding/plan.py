"""Options to a plan with its bill, and the plan to models onboarded into the router's pool."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import os
import warnings
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

from unirouter_core.data import Evaluation
from unirouter_core.display import usd
from unirouter_core.embedding import Array, Labels
from unirouter_core.evaluate import impact
from unirouter_core.evaluate.stopping import Undecided, ask_order, undecided
from unirouter_core.exceptions import InvalidDataError, UniRouterError, UnknownPriceError
from unirouter_core.pool import Pool
from unirouter_core.router import UniRouter
from unirouter_plugins.litellm import configured
from unirouter_plugins.litellm.panels import Inside
from unirouter_plugins.litellm.pool_file import SERVED_AS, Members, approved, read_members
from unirouter_plugins.litellm.prices import Quote, capabilities, require_quote
from unirouter_plugins.litellm.programs import register
from unirouter_plugins.litellm.snapshot import Snapshot
from unirouter_plugins.onboarding.ask import (
    FIRST_ATTEMPTS,
    Budget,
    Callers,
    OnboardingOptions,
    PreflightError,
    check_first,
    member_of,
    missing_keys,
    run_to_end,
)
from unirouter_plugins.onboarding.bill import PROBE, TRIFLE, Bill, Lengths, draw_up
from unirouter_plugins.onboarding.judge import Grading, Judge, read_judge_prompt, trial_questions, trial_result, worth
from unirouter_plugins.onboarding.questions import Questions, read_questions
from unirouter_plugins.onboarding.run import Checked, Onboarded, Run
from unirouter_plugins.onboarding.store import AnswerStore, shown

if TYPE_CHECKING:
    from unirouter_plugins.litellm.checks import AnswerCheck
    from unirouter_plugins.onboarding.logged import Logged
    from unirouter_plugins.onboarding.stored import Replay

FIRST_CHECK, NEXT_CHECK = 50, 25  # answers before the first check whether more are needed, and between checks


@dataclass(frozen=True)
class Progress:
    """How many of a model's answers are graded, failed or ungradable; `spent_usd` is the whole run's, at worst."""

    model: str
    done: int
    total: int
    failed: int
    spent_usd: float


class OverBillError(UniRouterError, RuntimeError):
    """The first answers cost more than the bill's range (`fact`); they are kept, and a new plan tells the new bill."""

    def __init__(self, total: float, bill: Bill) -> None:
        self.fact = (
            f"The first {PROBE} answers say about {usd(total)} in total, more than the {usd(bill.usd.high)} of the "
            "bill's range. They are kept"
        )
        super().__init__(f"{self.fact}; make a new plan for the new bill, or set a budget.")


def plan_onboarding(router: UniRouter, models: Sequence[str], options: OnboardingOptions | None = None) -> Plan:
    """Return what onboarding these models will take, with its bill; no model is called, and nothing is written.

    Parameters
    ----------
    router : UniRouter
        Fitted; its pool gains the models.
    models : sequence of str
        By their names in the `pool.toml`, or as LiteLLM calls them.
    options : OnboardingOptions, optional

    Raises
    ------
    InvalidDataError, UnknownPriceError, StoreError
        When a model is in the pool already, or questions cannot be graded; when the price of a model is not known; when
        the store cannot be opened.

    Examples
    --------
    ::

        options = OnboardingOptions(validation="validation.jsonl", budget=2.0)
        plan = plan_onboarding(UniRouter.starter(), ["openai/gpt-4.1-mini"], options)
        print(plan.bill.usd.expected)
        onboarded = await plan.run()  # or run_onboarding(plan)
        print(onboarded[0].impact.verdict)
    """
    return Plan(router, models, options or OnboardingOptions())


class Plan:
    """What onboarding some models will take: `bill` is its expected cost, `spent_usd` that of the last `run`.

    `table` is the `pool` of the options, read. `missing_keys` are the environment variables of keys that are not set,
    each with the called models that need it; `check_calls` counts the calls that each check needs besides.
    """

    def __init__(self, router: UniRouter, models: Sequence[str], options: OnboardingOptions) -> None:
        self.options, self.spent_usd = options, 0.0
        if isinstance(models, str) or not all(isinstance(name, str) for name in models):
            raise InvalidDataError(f"{models!r:.60} is no list of names; put the names in a list.")
        if not models:
            raise InvalidDataError("No model is named; name at least one.")
        pool = options.pool
        pool = Members({}) if pool is None else pool if isinstance(pool, Members) else read_members(pool)
        self.models = list(dict.fromkeys(pool.expanded(models)))
        if known := [name for name in self.models if name in router.pool and not options.replace]:
            raise InvalidDataError(
                f"{known[0]!r} is in the pool already; pass replace=True (--replace) to evaluate it again."
            )
        router.pool.check_costs(self.models, known=True)
        self._router, reference = router, options.reference_model
        judge = None
        if options.judge is not None:
            judge = Judge(member_of(router, pool, options.judge), read_judge_prompt(options.judge_prompt))
        self._members = [member_of(router, pool, name) for name in self.models]
        self.table = pool
        self._asked: tuple[Pool, Snapshot] | None = None
        if (panel := next((m for m in self._members if m.panel), None)) and self._inside_of() is None:
            raise InvalidDataError(
                f"{panel.name!r} is a panel, which asks the models of the router, and there is none yet; onboard them "
                "first, then the panel."
            )
        if judge is not None and judge.member.model in {member.model for member in self._members}:
            said = (
                f"The judge {options.judge} is a candidate itself and would grade its own answers; take another judge."
            )
            warnings.warn(said, stacklevel=3)
        questions, given = options.validation, {"functions": options.functions, "embedder": router.fit_.embedder}
        if not isinstance(questions, Questions):
            questions = read_questions(questions, **given, judged=judge is not None)  # type: ignore[arg-type]
        questions.check(judge=judge is not None, reference_model=reference is not None)
        if pool.providers:
            register(pool)
        called = [*self._members, *([judge.member] if judge else [])]
        called += [member_of(router, pool, reference)] if reference is not None else []
        for member in called:
            member.require_trust()
        self._quotes: dict[str, Quote] = {member.name: require_quote(member) for member in called}
        self._questions = questions
        self._judge = judge if questions.for_judge else None
        self._reference = called[-1] if reference is not None and questions.without_reference else None
        self._trial = [] if self._judge is None else trial_questions(self._judge, questions, seed=options.seed)
        self._checks: dict[str, AnswerCheck] = {}
        if options.checks:
            from unirouter_plugins.litellm.checks import named_checks

            self._checks = named_checks(options.checks, pool, [*router.pool, *self.models])
        self.check_calls = dict.fromkeys(self._checks, 0)
        self._logged: Logged | None = None
        if options.answers is not None:
            from unirouter_plugins.onboarding.logged import Logged

            of_logs = [*self._members, *([self._reference] if self._reference is not None else [])]
            self._logged = Logged(options, questions, of_logs, self._quotes, router.fit_.token_counter)
        self._validation = self._questions.validation_set()
        self._vectors: Array = router.encode(self._validation.prompts, documents=self._validation.documents)
        regions: Labels = router.fit_.regions.locate(self._vectors)[0]
        self._order = ask_order(regions, options.seed).tolist()
        self._lengths = Lengths(router, regions, questions)
        with AnswerStore(os.fspath(options.store), texts=options.texts, create=False) as store:
            store.known = self._logged.answers if self._logged is not None else {}
            runs, trial, grading, callers = self._open(store, Budget())
            items = self._noted(self._replay(store, callers), runs).items() if self._checks else []
            self.bill: Bill = draw_up(questions, runs, trial, grading, self._lengths, items)
        with_calls = {item.model for item in self.bill.items if item.calls}
        called += [caller.member for caller in callers.values() if caller.member not in called]
        self.missing_keys = missing_keys([member for member in called if member.name in with_calls])

    def __repr__(self) -> str:
        return f"Plan({', '.join(self.models)}: {self.bill.calls} calls, about ${self.bill.usd.expected:.4g})"

    @property
    def reused(self) -> list[str]:
        """How many answers of the logs are graded instead of asked for, in a sentence for each model."""
        return self._logged.said if self._logged is not None else []

    @property
    def place(self) -> str:
        """Where answers are kept, without a password."""
        return shown(os.fspath(self.options.store))

    def _open(
        self, store: AnswerStore, budget: Budget, told: Callable[[Run], None] = lambda _: None
    ) -> tuple[list[Run], Run | None, Grading, Callers]:
        """Return a run of each model, the judge's trial, what grades, and their callers."""
        options = self.options
        callers = Callers(options, self._router.fit_.token_counter, budget, self._quotes, self._inside_of)
        judge, reference, trial = self._judge, self._reference, None
        judges = None if judge is None else callers.of(judge.member, judge.max_tokens)
        grading = Grading(store, judge, judges, None if reference is None else callers.of(reference))
        if judges is not None and self._trial:
            trial = Run(judges, self._trial, Grading(store))
        runs = [Run(callers.of(member), self._questions, grading, options.repeats, told) for member in self._members]
        return runs, trial, grading, callers

    def _replay(self, store: AnswerStore, callers: Callers) -> Replay:
        from unirouter_plugins.onboarding.stored import Replay

        return Replay(self._router, self.table, store, callers, fresh=self.models)

    def _noted(self, replay: Replay, runs: Sequence[Run], *, answered: bool = False) -> Replay:
        """Note what checks of these models' answers need besides; before they have `answered`, without what comes."""
        coming = {(run.model, run.questions[row].digest, n) for run in runs for row, n in run.to_ask() if not answered}
        if not answered:
            self.check_calls = dict.fromkeys(self._checks, 0)
        for check, run in itertools.product(self._checks.values(), runs):
            texts = {run.questions[row].digest: a.text or "" for (row, n), a in run.answers.items() if not n}
            asked = run.questions if not answered else [q for q in run.questions if q.digest in texts]
            self.check_calls[check.name] += (not answered) * replay.note(check, run.model, asked, texts, coming)
        return replay

    async def _judge_checks(
        self,
        done: list[Onboarded],
        runs: Sequence[Run],
        replay: Replay,
        budget: Budget,
        told: Callable[[Run], None],
    ) -> list[Onboarded]:
        """Return the results with what checks of the models' answers are worth; where they pay, the router has them.

        What members must answer besides is asked for within the budget, else the range of the bill.
        """
        added = {one.model for one in done if one.profile is not None}
        noted = self._noted(replay, [run for run in runs if run.model in added], answered=True)
        if budget.usd is None:
            budget.limit(max(self.bill.usd.high, TRIFLE))
        try:
            await noted.ask(told)
        except PreflightError as refused:
            replay.ended = str(refused)
        judged = []
        for one in done:
            checks, notes = list[Checked](), [*one.notes]
            for check in self._checks.values() if one.profile is not None else ():
                try:
                    checks.append(await asyncio.to_thread(replay.judge, one.model, check, self._questions))
                except InvalidDataError as failed:  # too few answers or signals: the model is onboarded all the same
                    notes.append(str(failed))
            judged.append(dataclasses.replace(one, checks=tuple(checks), notes=tuple(notes)))
        return judged

    @property
    def digests(self) -> list[str]:
        """The digests of the questions, in their order."""
        return [question.digest for question in self._questions]

    async def fill(self, store: AnswerStore, rows: Sequence[int], budget: Budget) -> int:
        """Get and grade the answers of all models to the questions at `rows` that the store lacks; return how many."""
        runs, *_ = self._open(store, budget)
        await asyncio.gather(*(run.ask(run.jobs(rows), self.options.concurrency) for run in runs))
        return sum(run.n_asked for run in runs)

    def _inside_of(self) -> Inside | None:
        """Return what panels ask: the router's models as they are now; None where there is none but panels."""
        pool = self._router.pool
        if self._asked is None or self._asked[0] is not pool:
            now = self._router.with_pool(approved(pool, self.table))
            self._asked = pool, Snapshot.of(configured(now, self.table))
        return self._asked[1].inside()

    async def run(
        self,
        progress: Callable[[Progress], None] | None = None,
        *,
        folder: str | os.PathLike[str] | None = None,
        onboarded: Callable[[Onboarded], None] | None = None,
        workers: Callable[[Budget], Awaitable[None]] | None = None,
    ) -> list[Onboarded]:
        """Evaluate the models one after the other, and add to the router's pool those that were evaluated well.

        Answers are kept as they come: after Ctrl-C or a power cut, the same plan made again resumes.

        Parameters
        ----------
        progress : function of Progress, optional
            Called after every answer.
        folder : path, optional
            Where the router is saved after each model that is onboarded; what other processes add there stays.
            Without `texts`, prompts are left out there too.
        onboarded : function of Onboarded, optional
            Called after each model.
        workers : coroutine function of Budget, optional
            Awaited after the first calls; answers that it brings into the store are not asked for here.

        Raises
        ------
        PreflightError, OverBillError, StoreError
            When the first call of one of them fails, before more is spent; when there is no budget and the first five
            answers of each say that the total leaves the bill's range; when answers cannot be kept.
        """
        budget, options, done = Budget(self.options.budget), self.options, []

        def told(run: Run) -> None:
            if progress is not None:
                progress(Progress(run.model, run.n_done, run.n_jobs, run.calls.failed, budget.spent))

        with AnswerStore(os.fspath(options.store), texts=options.texts) as store:
            try:
                if self._logged is not None:
                    await self._logged.keep(store)
                runs, trial, grading, callers = self._open(store, budget, told)
                tried, ended = await self._first_calls(runs, trial), ""
                await self._probe(runs, trial, grading, budget, self._replay(store, callers))
                if workers is not None:
                    await workers(budget)
                    runs, _, grading, callers = self._open(store, budget, told)
                for run in runs:
                    one = await self._onboard(run, tried, ended)
                    ended = ended or (one.reason if run.grades.is_hopeless(run.n_jobs) else "")
                    if folder is not None and one.profile is not None:
                        self._router.save(folder, texts=None if options.texts else False)
                    if onboarded is not None:
                        onboarded(one)
                    done.append(one)
                if self._checks:
                    done = await self._judge_checks(done, runs, self._replay(store, callers), budget, told)
                    if folder is not None and any(each.saved for one in done for each in one.checks):
                        self._router.save(folder, texts=None if options.texts else False)
            finally:
                self.spent_usd = budget.spent
        return done

    async def _first_calls(self, runs: Sequence[Run], trial: Run | None) -> str:
        """Make one call of each model, then try the judge; return how it did.

        Raises `PreflightError` when one of them failed, or the judge is not to be trusted; what was answered is kept.
        """
        first = [*runs, *([trial] if trial is not None else [])]
        for run in first:
            rows = [0] if run is trial else self._order
            jobs = run.to_ask(rows) or run.jobs(rows)
            check_first(await run.ask(itertools.islice(jobs, 1), 1, attempts=FIRST_ATTEMPTS))
            unbilled = run.answers and all(answer.usd is None and not answer.refused for answer in run.answers.values())
            if unbilled and (run.caller.quoted.prices.input or run.caller.quoted.prices.output):
                raise PreflightError(
                    f"{run.model} answers without saying how many tokens it took, so what it costs is not known; "
                    "use an address that reports usage, or, if it is free, give it prices of 0 in pool.toml."
                )
        said, passes = "", True
        if trial is not None:
            await trial.ask(trial.jobs(range(len(self._trial))), self.options.concurrency)
            said, passes = trial_result(self._trial, trial.errors)
        if refused := next((run.out_of_budget for run in first if run.out_of_budget), None):
            for run in runs:
                run.out_of_budget = refused
            return ""
        if not passes:
            raise PreflightError(f"{said} That is too few to trust it; take another judge, or another prompt for it.")
        return said or ("The judge could not be tried, as no right answer is known." if self._judge else "")

    async def _probe(
        self, runs: Sequence[Run], trial: Run | None, grading: Grading, budget: Budget, replay: Replay
    ) -> None:
        """Get answers to the first questions; raise `OverBillError` where they say that all will cost too much."""
        if budget.usd is not None:
            return
        for run in runs:
            known = {row for row, _ in run.answers}
            first = [(row, repeat) for row, repeat in run.to_ask(self._order) if not repeat and row not in known]
            await run.ask(first[: max(PROBE - len(known), 0)], self.options.concurrency)
            if run.grades.failed:  # what grades all models may be down
                return
        for_checks = self._noted(replay, runs).items() if self._checks else []
        rest = draw_up(self._questions, runs, trial, grading, self._lengths, for_checks)
        total = budget.spent + rest.usd.expected
        if rest.calls and total > max(self.bill.usd.high, TRIFLE):
            raise OverBillError(total, self.bill)

    async def _onboard(self, run: Run, tried: str, ended: str) -> Onboarded:
        """Return the result of a model; `ended` says why no more is asked: what grades all models has failed."""
        ended = ended if next(run.jobs(self._order), None) is not None else ""
        looked = None if ended else await self._ask(run)
        evaluation = profile = changed = None
        before = self._router.pool.get(run.model)
        if not (reason := ended or run.why_not_onboarded(looked)):
            try:
                evaluation = self._evaluation(run)
                able = capabilities(run.caller.member)
                profile = self._router.onboard(evaluation, capabilities=able, replace=True, vectors=self._vectors)
                changed = await asyncio.to_thread(impact, self._router, run.model)
            except (InvalidDataError, UnknownPriceError) as failed:  # its answers do not make a profile
                evaluation, reason = None, str(failed)
        made = {"profile": profile, "evaluation": evaluation, "impact": changed, "reason": reason}
        notes = self._notes(run, tried, looked)
        if profile is not None and (
            gone := [name for name in (before.checks if before else ()) if name not in self._checks]
        ):
            notes.append(f"What was known of its checks ({', '.join(gone)}) is gone; run unirouter check for each.")
        return run.result(looked, **made, notes=tuple(notes))

    async def _ask(self, run: Run) -> Undecided | None:
        """Ask all questions, or until what is known decides; return the last look at that."""
        options, n = self.options, len(self._order)
        if not options.until_decided:
            await run.ask(run.jobs(self._order), options.concurrency)
            return None
        looked, upto = None, 0
        while upto < n and not run.is_stopped and not (looked is not None and looked.decided):
            upto, begin = min(max(upto + NEXT_CHECK, FIRST_CHECK), n), upto
            await run.ask(run.jobs(self._order[begin:upto]), options.concurrency)
            if upto < n and run.n_answered >= FIRST_CHECK:
                try:
                    made = self._evaluation(run)
                    looked = await asyncio.to_thread(undecided, self._router, made, vectors=self._vectors)
                except (InvalidDataError, UnknownPriceError):  # the answers so far do not make a profile
                    looked = None
        return looked

    def _evaluation(self, run: Run) -> Evaluation:
        """Return a model's evaluation, with how it was made as its provenance."""
        caller, judge, reference = run.caller, self._judge, self._reference
        how = {
            "date": max((answer.date for answer in run.answers.values()), default="")[:10],
            "source": f"asked through LiteLLM {version('litellm')}",
            "questions": self._questions.source,
            "graders": sorted({"judge" if q.grader is None else q.grader.name for q in self._questions}),
            "max_tokens": caller.max_tokens,
            "judge": None if judge is None else judge.member.served_as,
            "reference_model": None if reference is None else reference.served_as,
            "prices": caller.quoted.source,
            "refused": sum(answer.refused for answer in run.answers.values()),
            SERVED_AS: caller.member.served_as,
        }
        return run.evaluation(self._validation, {name: value for name, value in how.items() if value is not None})

    def _notes(self, run: Run, tried: str, looked: Undecided | None) -> list[str]:
        """Return what to know of an evaluation besides its numbers, in a sentence each."""
        notes = [tried] if tried else []
        asked = f"{run.n_answered} of {len(self._questions)} prompts"
        if self._questions.without_reference:
            judge = None if self._judge is None else self._judge.member.name
            reference = None if self._reference is None else self._reference.name
            notes.append(worth(reference_model=reference, judge=judge, ungraded=len(run.ungradable)))
            if run.caller.member == self._reference:
                notes.append(f"{run.model} gave those answers, so it is measured against its own.")
        if (stopped := run.why_stopped(looked)) == "budget":
            notes.append(f"The budget ended after {asked}. {run.out_of_budget}")
        elif stopped == "decided" and looked is not None:
            notes.append(
                f"Asking stopped after {asked}: with {looked.confidence:.0%} confidence, all others would change "
                f"where at most {looked.changed:.1%} of them go."
            )
        fit = self._router.fit_  # prompts that no model's answers were fitted on do not bias results
        if fit.training_models and (n_seen := int(fit.has_seen(self._validation.prompts).sum())):
            notes.append(
                f"The router was fitted on answers to {n_seen} of these {len(self._validation)} prompts, so its "
                "results on them are optimistic; evaluate on others."
            )
        return notes


def run_onboarding(
    plan: Plan,
    progress: Callable[[Progress], None] | None = None,
    *,
    folder: str | os.PathLike[str] | None = None,
    onboarded: Callable[[Onboarded], None] | None = None,
    workers: Callable[[Budget], Awaitable[None]] | None = None,
) -> list[Onboarded]:
    """Run a plan where no event loop runs; see `Plan.run`. In a notebook, await that instead."""
    with contextlib.suppress(RuntimeError):
        asyncio.get_running_loop()
        raise InvalidDataError("An event loop runs here, as in a notebook; write: await plan.run(...)")

    return run_to_end(plan.run(progress, folder=folder, onboarded=onboarded, workers=workers))
