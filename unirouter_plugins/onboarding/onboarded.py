"""A measurement to what is told of it: how far it is, whether the model joins, and if not, why."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from unirouter_core.data import Evaluation
from unirouter_core.evaluate.impact import Joining
from unirouter_core.evaluate.stopping import Undecided
from unirouter_core.pool import ModelProfile
from unirouter_plugins.onboarding.measurement import Measurement

Stop: TypeAlias = Literal["budget", "decided", "failures"]
"""Why not all prompts were asked."""

FEWEST_ANSWERS = 50
"""A model that the budget leaves with fewer is not onboarded: its error is not known to better than 7 %."""


@dataclass(frozen=True)
class Progress:
    """How far the measurement of a model is.

    Parameters
    ----------
    model : str
    done, total : int
        Answers graded, failed or not gradable, of this run and of earlier ones, and how many there are to be.
    failed : int
    spent_usd : float
        By the whole run so far; a bill not known counts at its worst.
    """

    model: str
    done: int
    total: int
    failed: int
    spent_usd: float


@dataclass(frozen=True, eq=False)
class Onboarded:
    """What became of one model.

    Parameters
    ----------
    model : str
    profile : ModelProfile or None
        None where it was not onboarded, as are the next two; `reason` then says why.
    evaluation : Evaluation or None
        What it did on the prompts.
    joining : Joining or None
        What it changes in the pool, with a verdict.
    prompts : int
        In the validation set.
    answered : int
        Prompts with a graded answer, of this run or an earlier one.
    asked : int
        Answers of this run.
    failed, judge_failures : int
        Calls of the model, and of judge and reference model for it, that failed in this run after all attempts.
    ungradable : int
        Prompts that nothing can grade.
    truncated, refused : int
        Answers that met the token limit, and that decline.
    spent_usd : float
        In this run, for its answers and their grades; a bill not known counts at its worst.
    stopped : {"budget", "decided", "failures"} or None
        Why not all prompts were asked.
    undecided : Undecided or None
        The last look at whether more answers were needed.
    reason : str
        Why it was not onboarded, in a sentence, or "".
    notes : tuple of str
        What else to know, in a sentence each: what the grades are worth, why asking stopped.
    """

    model: str
    profile: ModelProfile | None
    evaluation: Evaluation | None
    joining: Joining | None
    prompts: int
    answered: int
    asked: int
    failed: int
    judge_failures: int
    ungradable: int
    truncated: int
    refused: int
    spent_usd: float
    stopped: Literal["budget", "decided", "failures"] | None
    undecided: Undecided | None
    reason: str
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it, without the evaluation and the profile's arrays."""
        left_out = ("profile", "evaluation", "joining", "undecided")
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in left_out}
        profile = self.profile
        measured = {} if profile is None else {"error": profile.error, "provenance": dict(profile.provenance)}
        parts = {"joining": self.joining, "undecided": self.undecided}
        return {
            **plain,
            "notes": list(self.notes),
            "onboarded": profile is not None,
            **measured,
            **{name: None if part is None else part.as_dict() for name, part in parts.items()},
        }


def onboarded(
    measurement: Measurement,
    *,
    stopped: Stop | None,
    looked: Undecided | None,
    notes: Sequence[str],
    reason: str = "",
    profile: ModelProfile | None = None,
    evaluation: Evaluation | None = None,
    joining: Joining | None = None,
) -> Onboarded:
    """Return what became of a model, with what its measurement counted."""
    answers = measurement.answers
    return Onboarded(
        model=measurement.model,
        profile=profile,
        evaluation=evaluation,
        joining=joining,
        prompts=len(measurement.questions),
        answered=measurement.n_answered,
        asked=measurement.asked,
        failed=measurement.calls.failed,
        judge_failures=measurement.grades.failed,
        ungradable=len(measurement.ungradable),
        truncated=sum(answer.truncated for answer in answers),
        refused=sum(answer.refused for answer in answers),
        spent_usd=measurement.spent,
        stopped=stopped,
        undecided=looked,
        reason=reason,
        notes=tuple(notes),
    )


def why_stopped(measurement: Measurement, looked: Undecided | None) -> Stop | None:
    """Return why not all questions were asked; None where they were."""
    if next(measurement.jobs(range(len(measurement.questions))), None) is None:
        return None
    if measurement.out_of_budget is not None:
        return "budget"
    return "decided" if looked is not None and looked.decided else "failures"


def why_not(measurement: Measurement, stopped: Stop | None) -> str:
    """Return why a model is not to be onboarded, or ""."""
    for tally in (measurement.calls, measurement.grades):
        if tally.is_too_many or (stopped == "failures" and tally.is_hopeless(measurement.n_jobs)):
            return f"{tally}; when that is mended, run the same again: what was answered is kept."
    if stopped == "budget" and measurement.n_answered < min(FEWEST_ANSWERS, len(measurement.questions)):
        return (
            f"The budget ended after {measurement.n_answered} answers, and fewer than {FEWEST_ANSWERS} say too "
            f"little. {measurement.out_of_budget}"
        )
    return ""


def why_no_more(measurement: Measurement, looked: Undecided | None, stopped: Stop | None) -> str:
    """Return why a model was not asked all questions, in a sentence, or ""."""
    asked = f"{measurement.n_answered} of {len(measurement.questions)} prompts"
    if stopped == "budget":
        return f"The budget ended after {asked}. {measurement.out_of_budget}"
    if stopped == "decided" and looked is not None:
        return (
            f"Asking stopped after {asked}: with {looked.confidence:.0%} confidence, all others would change where at "
            f"most {looked.changed:.1%} of them go."
        )
    return ""
