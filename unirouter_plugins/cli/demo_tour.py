"""The steps of the demo: serve the model, learn, onboard, route what was kept back and call who was picked."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unirouter_core.data import Outcomes, read_outcomes
from unirouter_core.exceptions import InvalidDataError
from unirouter_core.router import UniRouter
from unirouter_plugins.cli.demo_files import (
    KEPT_BACK,
    POOL,
    PROMPTS,
    VALIDATION,
    write_files,
    write_outcomes,
)
from unirouter_plugins.litellm import CallRecord, complete, record_of
from unirouter_plugins.litellm.pool_file import Member, Members, read_members
from unirouter_plugins.local.server import LocalModel, available, serve_model
from unirouter_plugins.onboarding import Onboarded, OnboardingOptions, Plan, plan_onboarding
from unirouter_plugins.onboarding.questions import Question, Questions, read_questions

NOWHERE = LocalModel("SmolLM2-135M-Instruct.Q4_1", "http://127.0.0.1:8080/v1")
"""What pool.toml says of the model where it cannot be served; llama.cpp's servers usually listen there."""

MOCKED = {"smol": "yes", "smol-votes": "The answer is positive."}
"""What LiteLLM's mock says in the place of those that need the model, the same to every prompt."""

CONCURRENCY = 2
"""As many answers as the local model gives at once: on one core, more of them take no less time."""


@dataclass(frozen=True)
class Tour:
    """Where the demo takes place, and with whom.

    Parameters
    ----------
    folder : Path
        Holds all that it makes.
    members : Members
    missing : str
        What serving the model lacks, in a sentence, and LiteLLM's mock answers in its place; "" where it is served.
    """

    folder: Path
    members: Members
    missing: str = ""

    @property
    def router(self) -> Path:
        """The router's folder."""
        return self.folder / "my.router"

    @property
    def store(self) -> Path:
        """Where every answer is kept."""
        return self.folder / "evaluations.sqlite"

    def plan(self, router: UniRouter, questions: Questions, *, replace: bool = False) -> Plan:
        """Return what asking all members these questions will take; see `plan_onboarding`."""
        how: dict[str, Any] = {"pool": self.members, "store": self.store, "concurrency": CONCURRENCY}
        options = OnboardingOptions(validation=questions, replace=replace, **how)
        return plan_onboarding(router, list(self.members), options)


@contextmanager
def begin(folder: Path) -> Iterator[Tour]:
    """Write the files of the demo, and serve its model while the block runs.

    Parameters
    ----------
    folder : Path
        Made where it is not there.

    Raises
    ------
    InvalidDataError
        When the folder is not empty: what is in it may be the user's by now.
    ChildProcessError
        When the model's server does not start.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise InvalidDataError(
            f"{folder} is not empty, and what is in it may be yours by now; remove it, or name another folder."
        )
    if missing := available():
        yield _written(folder, NOWHERE, missing)
        return
    with serve_model(slots=CONCURRENCY) as local:
        yield _written(folder, local)


def _written(folder: Path, served: LocalModel, missing: str = "") -> Tour:
    folder.mkdir(parents=True, exist_ok=True)
    write_files(folder, served)
    members = read_members(folder / POOL)
    return Tour(folder, _mocked(members) if missing else members, missing)


def _mocked(members: Members) -> Members:
    """Return the members with LiteLLM's mock in the place of the model, under names that say so."""
    made = {}
    for name, member in members.items():
        if (said := MOCKED.get(name)) is None:
            made[name] = member
            continue
        settings = {**member.settings, "mock_response": said}
        made[f"mock-{name}"] = Member(f"mock-{name}", "openai/mock", prices=member.prices, settings=settings)
    return Members(made, members.providers)


# --- The steps --------------------------------------------------------------------------------------------------------


def learn(tour: Tour) -> UniRouter:
    """Return a router that has learned what prompts look like from those that nobody answers, saved without a model."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Fitted without")  # what learns from training models' answers: there are none
        router = UniRouter().fit(prompts(tour))
    router.save(tour.router)
    return router


def prompts(tour: Tour) -> list[str]:
    """Return the prompts that the router learns from."""
    lines = (tour.folder / PROMPTS).read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["prompt"] for line in lines]


def validation(tour: Tour) -> Questions:
    """Return the questions that members are measured on."""
    return _read(tour.folder / VALIDATION)


def kept_back(tour: Tour) -> Questions:
    """Return the questions that were kept back to judge the routing."""
    return _read(tour.folder / KEPT_BACK)


def _read(place: Path) -> Questions:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*too few to say much")  # they are few so that the demo is short
        return read_questions(place)


@dataclass(frozen=True)
class Routed:
    """A question that was routed.

    Parameters
    ----------
    question : Question
    answer : str
        Of the member that was picked.
    error : float
        How wrong it is, in [0, 1].
    record : CallRecord
        Who was picked, why, and what it cost.
    """

    question: Question
    answer: str
    error: float
    record: CallRecord


def route_and_ask(router: UniRouter, questions: Iterable[Question]) -> Iterator[Routed]:
    """Yield each question with the answer of the member that the router picks, called for real, and its grade."""
    for question in questions:
        response = complete(router, question.messages)
        answer = response.choices[0].message.content or ""
        error = question.error(answer)
        assert error is not None  # a program grades all questions of the demo
        yield Routed(question, answer, error, record_of(response))


def keep_outcomes(tour: Tour, onboarded: Sequence[Onboarded], questions: Questions) -> Outcomes:
    """Write what every member did on the questions to a file that `unirouter report --data` takes; return it, read."""
    rows: list[Mapping[str, Any]] = []
    for one in onboarded:
        if one.evaluation is None:
            continue
        made = one.evaluation
        columns = (made.errors, made.costs, made.tokens_in, made.tokens_out)
        for question, *numbers in zip(questions, *(column.tolist() for column in columns), strict=True):
            named = dict(zip(("error", "cost", "tokens_in", "tokens_out"), numbers, strict=True))
            known = {name: number for name, number in named.items() if number == number}  # NaN is not known
            rows.append({"prompt": question.prompt, "model": one.model, **known})
    place = tour.folder / "outcomes.jsonl"
    write_outcomes(place, rows)
    return read_outcomes(place)
