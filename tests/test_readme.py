"""The README's code and commands, in order, as a reader would run them."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.fixture
def fresh_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "cookbook").symlink_to(ROOT / "cookbook")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_readme_s_python_runs_in_order(fresh_folder: Path) -> None:
    namespace: dict[str, object] = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), namespace)  # our own README
    assert (fresh_folder / "my.router" / "router.json").is_file()


def test_the_readme_s_commands_run_in_order(fresh_folder: Path) -> None:
    commands = [line for block in blocks("bash") for line in block.splitlines() if line.startswith("unirouter ")]
    assert len(commands) >= 5
    for command in commands:
        arguments = [sys.executable, "-m", "unirouter_plugins.cli", *shlex.split(command)[1:]]
        done = subprocess.run(arguments, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
        assert done.returncode in (0, 3), f"{command}\n{done.stderr}"  # 3 is a verdict, not a failure
        assert done.stdout.strip(), command


def test_the_readme_is_short_and_its_links_lead_somewhere() -> None:
    assert len(README.splitlines()) < 220
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
