"""The command that adds models to a router: by evaluating them, with a bill first, or from recorded results."""

from __future__ import annotations

import dataclasses
import functools
import math
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from unirouter_core.costs import Prices
from unirouter_core.data import Evaluation, Outcomes
from unirouter_core.exceptions import ArtifactError, InvalidDataError, UnknownPriceError
from unirouter_core.outcome_files import COST_UNKNOWN, count
from unirouter_core.pool import ModelProfile
from unirouter_core.router import UniRouter
from unirouter_plugins.cli import options, show
from unirouter_plugins.cli.check import specs, to_be_named
from unirouter_plugins.cli.data import ColumnNames, PriceFile, ScaleOfGrades, read, read_graded

if TYPE_CHECKING:
    from unirouter_core.evaluate import Efforts
    from unirouter_plugins.logs import Log
    from unirouter_plugins.onboarding import Plan, Progress

USUAL_GOAL = 0.4  # of the best model's cost is saved: where a router that is not tuned yet is looked at
MOST_STANDING = 200  # models that are tried one by one whether the pool is worse without them
LIVE, RECORDED = "Evaluate models", "From recorded results"  # the groups of options in the help


def _option(panel: str, metavar: str, text: str, *names: str, **limits: Any) -> Any:
    return typer.Option(*names, metavar=metavar, help=text, rich_help_panel=panel, **limits)


_live, _recorded = functools.partial(_option, LIVE), functools.partial(_option, RECORDED)
_VALIDATION = "Prompts, references and graders (.jsonl), or bare prompts (.txt); 300 of ours when not given."
_ANSWERS = "Logs whose answers to these prompts are graded instead of paid for again."
_CHECKS = "Judge this check of their answers, too, and keep it if it pays; repeatable; see unirouter check."
_STORE = "A file or database URL for the answers; evaluations.sqlite beside the router when not given."
_STARTER = "Begin with ready-made prompt features if ROUTER does not exist."
_REPLACE = "Evaluate models of the pool again."
_UNTIL_DECIDED = "Stop when more answers would hardly matter."
_YES = "Accept the bill; first answers that exceed its range still stop the run."
_MODELS = "As pool.toml, LiteLLM or FILE calls them."
_ALL = "All models of --recorded FILE (as when none is named), or of pool.toml, that are not in the pool."


def onboard(
    context: typer.Context,
    router: options.Router,
    models: Annotated[list[str] | None, typer.Argument(metavar="MODEL...", help=_MODELS)] = None,
    replace: Annotated[bool, options.flag(_REPLACE, "--replace")] = False,
    starter: Annotated[bool, options.flag(_STARTER, "--starter")] = False,
    every: Annotated[bool, options.flag(_ALL, "--all")] = False,
    columns: ColumnNames = None,
    verbose: Annotated[bool, options.flag("Show each model's details.", "--verbose")] = False,
    no_texts: options.NoTexts = False,
    as_json: options.Json = False,
    validation: Annotated[Path | None, _live("FILE", _VALIDATION)] = None,
    answers: Annotated[Path | None, _live("LOGS", _ANSWERS)] = None,
    dry_run: Annotated[bool, _live(options.FLAG, "Show the bill and stop.", "--dry-run")] = False,
    budget: Annotated[float | None, _live("USD", "Maximum spend.")] = None,
    concurrency: Annotated[int, _live("N", "Concurrent calls.", min=1)] = 8,
    repeats: Annotated[int, _live("N", "Answers to each prompt.", min=1)] = 1,
    max_tokens: Annotated[int, _live("N", "Maximum length of an answer.", min=1)] = 1024,
    until_decided: Annotated[bool, _live(options.FLAG, _UNTIL_DECIDED, "--until-decided")] = False,
    judge: Annotated[str | None, _live("MODEL", "LLM judge for free-text answers.")] = None,
    judge_prompt: Annotated[Path | None, _live("FILE", "The judge's prompt.")] = None,
    reference_model: Annotated[str | None, _live("MODEL", "Model that generates missing references.")] = None,
    checks: Annotated[list[str] | None, _live("CHECK", _CHECKS, "--check")] = None,
    pool: options.PoolFile = None,
    store: Annotated[str | None, _live("PLACE", _STORE)] = None,
    timeout: Annotated[float, _live("SECONDS", "Per-call timeout.", min=1)] = 120,
    yes: Annotated[bool, _live(options.FLAG, _YES, "--yes", "-y")] = False,
    recorded: Annotated[Path | None, _recorded("FILE", "Recorded answers of the models.")] = None,
    scale: ScaleOfGrades = None,
    prices: PriceFile = None,
    price_in: Annotated[float | None, _recorded("USD", "Per million prompt tokens.")] = None,
    price_out: Annotated[float | None, _recorded("USD", "Per million answer tokens.")] = None,
) -> None:
    """Add models to a router by evaluating them (cost shown first) or from recorded results (--recorded)."""
    _check_options(context)
    if not router.exists() and not starter:
        raise ArtifactError(
            f"{router} does not exist; learn it from your own prompts with: unirouter fit {show.quoted(router)} DATA, "
            "or begin with ready-made prompt features by adding --starter."
        )
    into = UniRouter.load(router) if router.exists() else UniRouter.starter()
    if recorded is not None:
        _record(context, into)
        return
    log = None if answers is None else read(answers, columns, beside=router, quiet=as_json)
    with show.working("Counting tokens"):
        plan = _plan(context, into, log)
    while not _ran(plan, into, context):
        plan = _plan(context, into, log)  # its bill rests on the answers so far


def _check_options(context: typer.Context) -> None:
    """Raise `InvalidDataError` for options of the one way to onboard that are given with the other."""
    given, recorded = context.params, context.params["recorded"]
    if given["models"] and given["every"]:
        raise InvalidDataError("Name the models to add, or give --all for all of them: one of the two.")
    if recorded is None:
        if unfit := [name for name in ("scale", "prices", "price_in", "price_out") if given[name] is not None]:
            named = unfit[0].replace("_", "-")
            raise InvalidDataError(
                f"--{named} goes with --recorded FILE; prices of models that are called, in pool.toml."
            )
        if given["columns"] is not None and given["answers"] is None:
            raise InvalidDataError("--columns goes with --recorded FILE or --answers LOGS.")
        if not given["models"] and not given["every"]:
            cure = "give --all for those of pool.toml, or give recorded results with --recorded FILE"
            raise InvalidDataError(f"Name the models to evaluate, {cure}.")
        return
    for param in context.command.params:
        is_given = str(context.get_parameter_source(str(param.name))).endswith("COMMANDLINE")
        if is_given and getattr(param, "rich_help_panel", None) == LIVE:
            cure = f"leave it out, or leave out --recorded {recorded}"
            raise InvalidDataError(f"{param.opts[0]} is for evaluating models; {cure}.")


# --- From recorded results --------------------------------------------------------------------------------------------


def _record(context: typer.Context, into: UniRouter) -> None:
    """Add models by the file of recorded results: all of them, or none when one cannot be added."""
    given, router = context.params, context.params["router"]
    how = given["columns"], given["scale"], given["prices"]
    table = read_graded(given["recorded"], *how, beside=router, quiet=given["as_json"])
    with show.working("Comparing prompts"):
        table, note = _unseen(into, table)
    names = list(dict.fromkeys(given["models"] or table.models))
    if known := [name for name in names if name in into.pool and not given["replace"]]:
        if given["models"]:
            raise InvalidDataError(f"{known[0]!r} is in the pool already; --replace evaluates it again.")
        names = [name for name in names if name not in known]
    priced = _prices_of(given, names, table, into)
    with show.each(names, "Onboarding") as counted:
        added = [_add(into, Evaluation.recorded(name, table, **priced)) for name in counted]
    into.save(router, texts=False if given["no_texts"] else None)
    if given["as_json"]:
        rows = [show.profile_row(profile) for profile in added]
        show.emit({"router": str(router), "onboarded": rows, "skipped": known, **standing_of(into).as_dict()})
        return
    free = "no costs are known, so routing is on quality alone; with --prices FILE and --replace it weighs cost."
    notes = [note, free if priced == COST_UNKNOWN and added else ""]
    for said in [*filter(None, notes), *(f"{name} is in the pool already; --replace adds it again." for name in known)]:
        show.note(said)
    if not added:
        show.say("Nothing to add.")
        return
    if given["verbose"]:
        show.models(added)
    show.say(f"{router} now holds {len(into.pool)} models, {len(added)} of them new.", wrap=False)
    _finish(into, router)


def _unseen(router: UniRouter, table: Outcomes) -> tuple[Outcomes, str]:
    """Return the prompts that the router was not fitted on, and a note; all prompts, when it was fitted on all."""
    seen = router.fit_.has_seen(table.prompts)
    if not seen.any():
        return table, ""
    if seen.all():
        return table, "the router was fitted on these very prompts, so results are optimistic; evaluate on others."
    new = table.rows(np.flatnonzero(~seen))
    return new, f"evaluated on the {len(new):,} of {len(table):,} prompts that the router was not fitted on."


def _prices_of(given: Mapping[str, Any], names: Sequence[str], table: Outcomes, into: UniRouter) -> Mapping[str, Any]:
    """Return how the models are recorded: at the given prices, at the table's, or as free where no cost is known.

    Raises `InvalidDataError` where models with and without a known cost would stand side by side.
    """
    price_in, price_out = given["price_in"], given["price_out"]
    one = None if price_in is None or price_out is None else Prices(price_in, price_out)
    if (price_in is None) != (price_out is None):
        raise InvalidDataError("Only one price was given; give both --price-in and --price-out.")
    if one is not None and len(names) > 1:
        raise InvalidDataError(f"One price for {len(names)} models; give each its own with --prices FILE.")
    unpriced = [n for n in names if n not in table.prices and np.isnan(table.costs[:, table.column(n)]).all()]
    is_free = one is None and bool(names) and len(unpriced) == len(names)
    into.pool.check_costs(names, known=not is_free)
    return COST_UNKNOWN if is_free else {"prices": one}


def _add(router: UniRouter, evaluation: Evaluation) -> ModelProfile:
    """Add or replace a model; its capabilities stay as they were."""
    before = router.pool.get(evaluation.model)
    try:
        return router.onboard(evaluation, capabilities=None if before is None else before.capabilities, replace=True)
    except UnknownPriceError as unpriced:
        cure = "give it in --prices FILE or a column of costs (USD), or name the other models only"
        raise UnknownPriceError(f"What {evaluation.model!r} costs is not known; {cure}.") from unpriced


# --- The end ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Standing:
    """The share of the prompts and the verdict of each model at a cost weight; `goal` is what that weight keeps."""

    cost_weight: float = 0.0
    goal: str = ""
    models: Mapping[str, tuple[float, str]] = field(default_factory=dict)
    efforts: Sequence[Efforts] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        rows = [{"model": model, "share": share, "verdict": word} for model, (share, word) in self.models.items()]
        known = {"efforts": [each.as_dict() for each in self.efforts]} if self.efforts else {}
        return {"cost_weight": str(w) if math.isinf(w := self.cost_weight) else w, "standing": rows, **known}


def standing_of(router: UniRouter) -> Standing:
    """Return how the models stand at the router's cost weight, or at a usual goal's where it is not tuned yet.

    Empty where the models do not share enough answered prompts to tell, or are too many to try one by one.
    """
    from unirouter_core.evaluate import efforts, held_out, standings, tune

    weight, goal, pool, found = router.cost_weight, "", router.pool.values(), efforts(router)
    if not 0 < len(pool) <= MOST_STANDING:
        return Standing(weight, efforts=found)
    try:
        held = held_out(router)
    except InvalidDataError:  # too few prompts that all have answered
        return Standing(weight, efforts=found)
    if not weight and len(pool) > 1 and _has_costs(router):
        weight, goal = tune(held, save_cost=USUAL_GOAL).cost_weight, f"saves {USUAL_GOAL:.0%} of the best model's cost"
    return Standing(weight, goal, standings(held, weight), found)


def _has_costs(router: UniRouter) -> bool:
    return any(profile.usd.any() for profile in router.pool.values())


def _finish(into: UniRouter, router: Path) -> None:
    """Print one table of the pool, and the command that comes next."""
    with show.working("Comparing the models"):
        standing = standing_of(into)
    show.standing(list(into.pool.values()), standing)
    show.efforts(standing.efforts)
    named = show.quoted(router)
    if len(into.pool) < 2:
        following = f"onboard {named} MODEL..., for routing needs two models"
    else:
        following = f"tune {named} --save-cost {USUAL_GOAL:g} --save" if _has_costs(into) else f"route {named} PROMPT"
    show.say(f"next: unirouter {following}", wrap=False)


# --- By evaluating models ---------------------------------------------------------------------------------------------


def _plan(context: typer.Context, into: UniRouter, log: Log | None) -> Plan:
    """Return the plan of the command's options, which are called as the fields of `OnboardingOptions`."""
    from unirouter_plugins.onboarding import OnboardingOptions, plan_onboarding

    given, router = context.params, Path(context.params["router"])
    named = {f.name: given[f.name] for f in dataclasses.fields(OnboardingOptions) if f.name in given}
    named["pool"] = options.members(router, named["pool"])
    named["store"] = named["store"] or router.resolve().parent / "evaluations.sqlite"
    named["checks"] = specs(given["checks"] or (), named["pool"])
    models = named["pool"].expanded(given["models"] or []) or [
        name for name in named["pool"] if given["replace"] or name not in into.pool
    ]
    if not models:
        raise InvalidDataError("All models of pool.toml are in the pool already; --replace evaluates them again.")
    named |= {"answers": log, "texts": not given["no_texts"]}
    return plan_onboarding(into, models, OnboardingOptions(**named))


def _ran(plan: Plan, into: UniRouter, context: typer.Context) -> bool:
    """Show the bill, evaluate the models, save the router after each, and show the results.

    False when the first answers cost more than the bill says, and its reader has not agreed in advance to whatever it
    is: then there is a new bill to ask about.
    """
    from unirouter_plugins.onboarding import OverBillError, run_onboarding
    from unirouter_plugins.onboarding.ask import PreflightError

    given, router = context.params, Path(context.params["router"])
    bill, wanted, as_json = plan.bill, plan.options, given["as_json"]
    shown = {"router": str(router), "missing_keys": plan.missing_keys, "bill": bill.as_dict()}
    shown |= {"check_calls": plan.check_calls} if plan.check_calls else {}
    keys = ", ".join(f"{key} missing ({count(len(of), 'model')})" for key, of in plan.missing_keys.items())
    if keys and not given["dry_run"]:
        raise InvalidDataError(f"keys: {keys}; set them. --dry-run shows the bill without.")
    if not as_json:
        for said in [f"keys: {keys}"] * bool(keys) + plan.reused:
            show.say(said)
        show.bill(bill, wanted.budget)
        for name, n in plan.check_calls.items():
            show.say(f"Check {name}: {count(n, 'extra call')}; it reads the answers once they are graded.", "dim")
    if given["dry_run"]:
        if as_json:
            show.emit({**shown, "onboarded": []})
        return True
    if wanted.until_decided and not into.cost_weight:
        show.note(
            "cost_weight is 0 (cost ignored), so --until-decided stops on quality alone. Run unirouter tune "
            f"{router} --save first if you route on cost."
        )
    if not given["yes"] and wanted.budget is None:
        options.confirm(bill.usd, as_json=as_json)
    details = None if as_json or not given["verbose"] else show.onboarded
    try:
        with _bar() as progress, ending_as_by_ctrl_c():
            done = run_onboarding(plan, progress, folder=router, onboarded=details)
    except PreflightError as failed:
        raise options.ProviderError(str(failed)) from failed
    except OverBillError as over:
        if given["yes"]:
            cure = "run the same command again to go on from the new bill, or set a limit with --budget"
            raise InvalidDataError(f"{over.fact}; {cure}.") from over
        show.say(f"{over.fact}. Spent until now: {show.usd(plan.spent_usd)}. The new bill:")
        return False
    except KeyboardInterrupt:
        spent = f"Stopped after spending {show.usd(plan.spent_usd)} at most"  # calls in flight count at their worst
        show.say(f"\n{spent}. Answers are kept in {plan.place}; run the same command to resume.", err=True, wrap=False)
        raise typer.Exit(options.INTERRUPTED) from None
    if as_json:
        rows = [one.as_dict() for one in done]
        show.emit({**shown, "spent_usd": plan.spent_usd, "onboarded": rows, **standing_of(into).as_dict()})
    else:
        if details is None:
            show.outcome(done)
        if any(one.profile is not None for one in done):
            _finish(into, router)
        checked = [each for one in done for each in one.checks]
        for each in checked:
            show.say(f"{each.value.verdict} {'Kept.' if each.saved else 'Not kept.'}")
        to_be_named(checked, plan.table)
        show.say(f"Spent: {show.usd(plan.spent_usd)}. The answers are kept in {plan.place}.", wrap=False)
    if all(one.profile is None and one.stopped == "failures" for one in done):
        raise typer.Exit(options.PROVIDERS_FAILED)
    if any(one.profile is None for one in done):
        raise typer.Exit(options.NOT_MET)
    return True


@contextmanager
def ending_as_by_ctrl_c() -> Iterator[None]:
    """Take SIGTERM, and SIGHUP of a closed terminal, as Ctrl-C; under nohup, which ignores SIGHUP, go on."""
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    taken = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def _bar() -> Iterator[Any]:
    """Give a callback of `Progress`; on a terminal, a bar shows it with the spend so far."""
    with show.progress_bar("spent") as bar:
        tasks: dict[str, Any] = {}

        def progress(now: Progress) -> None:
            if now.model not in tasks:
                tasks[now.model] = bar.add_task(now.model, total=now.total, spent="")
            failed = f", {now.failed} failed" if now.failed else ""
            spent = f"{show.usd(now.spent_usd)} spent{failed}"
            bar.update(tasks[now.model], completed=now.done, total=now.total, spent=spent)

        yield progress
