"""The tour: on the real small model where it is installed, and on LiteLLM's mock where it is not."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.plugins.test_cli import output, run
from unirouter_core import UniRouter
from unirouter_plugins import demo
from unirouter_plugins.local.server import available

real = pytest.mark.skipif(available() is not None, reason=str(available()))


@real
def test_three_real_members_join_and_answer_what_was_kept_back(tmp_path):
    shown = output("demo", "--folder", tmp_path / "tour", "--questions", 4)
    assert not shown["mock"]
    assert [one["model"] for one in shown["onboarded"]] == list(demo.MEMBERS)
    assert all(one["onboarded"] and one["answered"] == 4 for one in shown["onboarded"])
    assert set(UniRouter.load(tmp_path / "tour" / "my.router").pool) == set(demo.MEMBERS)
    assert len(shown["routed"]) == 4
    assert all(one["model"] in demo.MEMBERS and one["usd"] >= 0 for one in shown["routed"])
    assert set(shown["alone"]) == set(demo.MEMBERS)


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
    tour.communicate(timeout=60)
    assert tour.returncode == 130
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


@pytest.mark.filterwarnings("ignore:.*too few to say much:UserWarning")  # the tour's are few
def test_without_a_real_model_a_mock_stands_in_and_is_labelled_so(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "available", lambda: "A local model needs xllamacpp: pip install it.")
    done = run("demo", "--folder", tmp_path / "tour")
    assert done.exit_code == 0, done.stderr
    assert "A local model needs xllamacpp" in done.stdout
    assert " ".join(done.stdout.split()).count("LiteLLM's mock in the place of a real model") == 4  # at every command
    assert "$ unirouter onboard my.router smol smol-votes calculator" in done.stdout
    assert "Prices are ASSUMED" in done.stdout
    assert "its files are in" in done.stdout.splitlines()[-3]


@pytest.mark.filterwarnings("ignore:.*too few to say much:UserWarning")
def test_the_tour_s_files_are_what_its_commands_take(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "available", lambda: "none")
        with demo.begin(tmp_path / "tour") as tour:
            asked = [json.loads(line)["prompt"] for line in tour.validation.read_text().splitlines()]
            kept = [json.loads(line)["prompt"] for line in tour.kept_back.read_text().splitlines()]
    assert len(asked) == 30
    assert len(kept) == 20
    assert not set(asked) & set(kept)
    bill = run(
        *("onboard", tmp_path / "tour" / "my.router", *demo.MEMBERS, "--starter", "--dry-run"),
        *("--validation", tour.validation),
    )
    assert bill.exit_code == 0, bill.stderr
    assert "90 calls" in bill.stdout
