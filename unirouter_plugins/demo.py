"""What the tour shows: three real members with real differences, easy questions for them, and others kept back."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from unirouter_core.outcomes import Outcomes
from unirouter_core.router import UniRouter
from unirouter_plugins.litellm import CallRecord, complete, record_of
from unirouter_plugins.local.server import LocalModel, available, serve_model
from unirouter_plugins.measuring.grades import grade_answer
from unirouter_plugins.measuring.questions import Question, Questions
from unirouter_plugins.measuring.reading import read_questions
from unirouter_plugins.onboarding import Onboarded
from unirouter_plugins.providers.members import Member, Members, read_members
from unirouter_plugins.providers.serving import configured

FAMILIES = ("arithmetic", "yes_no", "classification")
"""Of the packaged questions: those that are answered with a number, yes or no, or a label."""

HARDEST = 3
"""Of 1 to 5: a model of 135 million parameters has no chance beyond, and nothing to tell."""

SUMS = (
    "What is {a} + {b}?",
    "{a} - {b} = ?",
    "What is {b} times {c}? Answer with the number only.",
    "How much is {a} plus {b}? Just the number.",
    "Calculate {b} * {c}. Give only the result.",
)
N_SUMS = 12
"""Plain sums beside them, made by a program: about half of this traffic is work for a calculator."""

ASKED = 0.6
"""The share of the questions that members are onboarded on; the others are kept back."""

MEMBERS = ("smol", "smol-votes", "calculator")

MAX_TOKENS = 16
"""A word or a number; small models go on and on."""

KEY, ITS_KEY = "UNIROUTER_DEMO_KEY", "none"
"""LiteLLM asks for a key, and the local server for none."""

POOL = """\
# Made by unirouter demo. The prices are assumed: what runs on your own machine costs what you say.
# For models of your own, write their LiteLLM names ("openai/gpt-4.1-nano"), leave api_base, api_key_env and prices
# out, and set your provider's key in the environment.

[models.smol]
model = "openai/{name}"
api_base = "{url}"
api_key_env = "{key}"
prices = {{ input = 0.10, output = 0.40 }}
capabilities = {{ tools = false, vision = false, context_window = 1000 }}
settings = {{ temperature = 0, max_tokens = {max_tokens} }}

# The same model, shown worked examples and asked five times; the answer that most agree on is given.
[models.smol-votes]
model = "openai/{name}"
api_base = "{url}"
api_key_env = "{key}"
prices = {{ input = 0.10, output = 0.40 }}
capabilities = {{ tools = false, vision = false, context_window = 1000 }}
settings = {{ temperature = 0.5, max_tokens = {max_tokens} }}
votes = {{ samples = 5, same = "text" }}
examples = [
  {{ prompt = "What is the opposite of big? Answer with one word.", answer = "small" }},
  {{ prompt = "Is a rose a flower? Answer yes or no.", answer = "yes" }},
  {{ prompt = "Is 'The lamp was broken.' positive or negative? Answer with one word.", answer = "negative" }},
  {{ prompt = "What is 6 + 2?", answer = "8" }},
  {{ prompt = "Is the moon made of cheese? Answer yes or no.", answer = "no" }},
]

# A program that only does arithmetic.
[models.calculator]
model = "calculator/calculator"
prices = {{ input = 0.02, output = 0.02 }}
settings = {{ max_tokens = {max_tokens} }}
capabilities = {{ tools = false, vision = false, json = false }}

[providers]
calculator = "unirouter_plugins.local.calculator:provider"
"""


@dataclass(frozen=True)
class Tour:
    """Where the tour takes place, and with whom.

    Parameters
    ----------
    folder : Path
        Holds all that it makes.
    members : Members
    missing : str
        What a real model lacks, in a sentence; "" where one runs. LiteLLM's mock then stands in for it.
    """

    folder: Path
    members: Members
    missing: str = ""

    @property
    def router(self) -> Path:
        """The router's folder."""
        return self.folder / "my.router"

    @property
    def validation(self) -> Path:
        """The questions that members are onboarded on."""
        return self.folder / "validation.jsonl"

    @property
    def kept_back(self) -> Path:
        """The questions that nobody has seen when they are routed."""
        return self.folder / "kept_back.jsonl"


@contextmanager
def begin(folder: Path, questions: int | None = None) -> Iterator[Tour]:
    """Write the files of the tour, and serve its model while the block runs.

    Parameters
    ----------
    folder : Path
        Made where it is not there.
    questions : int, optional
        How many to ask, and how many to keep back; all 50 when not given, 30 to ask and 20 to keep back.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = easy_questions()
    asked = round(ASKED * len(rows))
    for name, part in (("validation", rows[:asked]), ("kept_back", rows[asked:])):
        lines = [json.dumps(row, ensure_ascii=False) for row in part[:questions]]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.environ.setdefault(KEY, ITS_KEY)
    if missing := available():
        yield Tour(folder, _with_mocks(_write_pool(folder, LocalModel("mock", "http://127.0.0.1:9/v1"))), missing)
        return
    with serve_model() as local:
        yield Tour(folder, _write_pool(folder, local))


def easy_questions() -> list[dict[str, Any]]:
    """Return the tour's questions: the easy end of the packaged validation set, and plain sums, in a mixed order."""
    rng = np.random.default_rng(0)
    text = resources.files("unirouter_core").joinpath("starter/validation.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    rows = [row for row in rows if row["family"] in FAMILIES and row["difficulty"] <= HARDEST]
    for place in range(N_SUMS):
        a, b, c = int(rng.integers(40, 90)), int(rng.integers(11, 40)), int(rng.integers(2, 10))
        kind = SUMS[place % len(SUMS)]
        answer = b * c if "{c}" in kind else a - b if "-" in kind else a + b
        rows.append({"prompt": kind.format(a=a, b=b, c=c), "reference": str(answer), "grader": "number"})
    return [rows[place] for place in rng.permutation(len(rows))]


def _write_pool(folder: Path, local: LocalModel) -> Members:
    table = POOL.format(name=local.name, url=local.url, key=KEY, max_tokens=MAX_TOKENS)
    (folder / "pool.toml").write_text(table, encoding="utf-8")
    return read_members(folder / "pool.toml")


def _with_mocks(members: Members) -> Members:
    """Return the members with LiteLLM's mock in the place of the model: it says the same to everything."""
    said = {"smol": "yes", "smol-votes": "positive"}
    mocks = {
        name: Member(name, "openai/mock", prices=members[name].prices, settings=_mock(said[name])) for name in said
    }
    return Members({**members, **mocks}, members.providers)


def _mock(text: str) -> dict[str, Any]:
    return {"mock_response": text}


# --- The questions that were kept back --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Routed:
    """A question, who answered it, what was said, and whether that is right."""

    question: Question
    answer: str
    error: float
    record: CallRecord


def route_and_ask(router: UniRouter, members: Members, questions: Iterable[Question]) -> Iterator[Routed]:
    """Yield each question with the answer of the member that the router picks, called for real."""
    table = configured(router, members)
    for question in questions:
        response = complete(table, question.prompt if len(question.messages) == 1 else question.messages)
        said = response.choices[0].message.content or ""
        grade = grade_answer(question, said)
        yield Routed(question, said, 1.0 if grade is None else grade.error, record_of(response))


def read_kept_back(tour: Tour) -> Questions:
    """Return the questions that were kept back."""
    return read_questions(tour.kept_back)


def outcomes_of(onboarded: Sequence[Onboarded], questions: Questions) -> Outcomes:
    """Return what each member did on the questions, as a table."""
    made = {one.model: one.evaluation for one in onboarded if one.evaluation is not None}
    errors, costs = (np.stack([getattr(e, name) for e in made.values()], axis=1) for name in ("errors", "costs"))
    return Outcomes([question.prompt for question in questions], list(made), errors, costs)
