"""The demo: a part of it on the real small model, where that is installed, and the whole of it on LiteLLM's mock."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.plugins.test_cli import output, refusal, run
from unirouter_core import UniRouter
from unirouter_plugins.demo import tour as steps
from unirouter_plugins.local.server import available

real = pytest.mark.skipif(available() is not None, reason=str(available()))
MEMBERS = ("smol", "smol-votes", "calculator")
pytestmark = pytest.mark.filterwarnings("ignore:.*too few to say much:UserWarning")  # the demo's are few on purpose


@real
async def test_three_real_members_join_and_answer_what_was_kept_back(tmp_path):
    with steps.begin(tmp_path / "tour") as tour:
        for name in ("validation", "kept_back"):
            file = tour.folder / f"{name}.jsonl"
            file.write_text("".join(file.read_text().splitlines(keepends=True)[::12]))
        router = steps.learn(tour)
        joined = await tour.plan(router, steps.validation(tour)).run()
        routed = list(steps.route_and_ask(router, steps.kept_back(tour)))
    assert {one.model for one in joined} == set(MEMBERS) == set(router.pool)
    assert all(one.answered == one.prompts for one in joined)
    assert len(routed) == 2
    assert {one.record.model for one in routed} <= set(MEMBERS)
    assert all(one.record.usd >= 0 for one in routed)


@real
def test_an_interrupt_ends_the_server_too(tmp_path):
    command = [sys.executable, "-m", "unirouter_plugins.cli", "demo", "--folder", str(tmp_path / "tour")]
    tour = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    store, deadline = tmp_path / "tour" / "evaluations.sqlite", time.monotonic() + 90
    while not store.exists():
        assert tour.poll() is None, tour.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(1)
    assert servers_of(tour.pid)
    os.kill(tour.pid, signal.SIGINT)
    _, said = tour.communicate(timeout=60)
    assert tour.returncode == 130, said
    assert "Traceback" not in said
    assert not servers_of(tour.pid)


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


@pytest.fixture
def unserved(monkeypatch):
    monkeypatch.setattr(steps, "available", lambda: "A local model needs xllamacpp: pip install it.")


@pytest.mark.usefixtures("unserved")
def test_without_a_real_model_a_mock_stands_in_and_is_labelled_so(tmp_path):
    done = run("demo", "--folder", tmp_path / "tour")
    assert done.exit_code == 0, done.stderr
    assert "MOCK: A local model needs xllamacpp" in done.stdout
    commands = [line for line in done.stdout.splitlines() if line.startswith("$ unirouter") and "\\" not in line]
    assert len(commands) >= 4
    assert all("LiteLLM's mock" in line for line in commands)
    assert "ASSUMED" in done.stdout
    assert set(UniRouter.load(tmp_path / "tour" / "my.router").pool) == {"mock-smol", "mock-smol-votes", "calculator"}
    assert "may be yours by now" in refusal("demo", "--folder", tmp_path / "tour")


@pytest.mark.usefixtures("unserved")
def test_its_numbers_come_as_json_too(tmp_path):
    shown = output("demo", "--folder", tmp_path / "tour")
    assert shown["mock"]
    assert shown["prices"] == "assumed"
    assert len(shown["routed"]) == 20
    assert set(shown["report"]["models"]) == {"mock-smol", "mock-smol-votes", "calculator"}


@pytest.mark.usefixtures("unserved")
def test_its_files_are_what_its_commands_take(tmp_path):
    with steps.begin(tmp_path / "tour") as tour:
        texts = {name: (tour.folder / f"{name}.jsonl").read_text() for name in ("validation", "kept_back", "prompts")}
    prompts = {name: {json.loads(line)["prompt"] for line in text.splitlines()} for name, text in texts.items()}
    assert not prompts["validation"] & prompts["kept_back"]
    assert not prompts["prompts"] & (prompts["validation"] | prompts["kept_back"])
    folder = tmp_path / "tour"
    asked = ("--starter", "--dry-run", "--validation", folder / "validation.jsonl")
    bill = run("onboard", folder / "my.router", *MEMBERS, *asked)
    assert bill.exit_code == 0, bill.stderr
    assert f"{3 * len(prompts['validation'])} calls" in bill.stdout
