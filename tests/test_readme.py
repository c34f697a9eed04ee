"""The code and commands of the README and of the documentation's pages, in order, as a reader would run them."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from unirouter_plugins.cli import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


PAGES = {str(page.relative_to(ROOT)): page.read_text() for page in sorted((ROOT / "docs").rglob("*.md"))}


def blocks(language: str, page: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


@pytest.fixture
def fresh_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "cookbook").symlink_to(ROOT / "cookbook")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_readme_s_python_and_then_its_commands_run_in_one_folder(fresh_folder: Path) -> None:
    namespace: dict[str, object] = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), namespace)  # our own README
    assert (fresh_folder / "desk.router" / "router.json").is_file()
    assert (namespace["tuning"].level, namespace["made"].level) == (
        "pays",
        "pays",
    )  # what the first page shows must win
    commands = [line for block in blocks("bash") for line in block.splitlines() if line.startswith("unirouter ")]
    assert len(commands) >= 5
    said = ""
    for command in commands:
        done = CliRunner().invoke(app, shlex.split(command)[1:])
        assert done.exit_code == 0, f"{command}\n{done.stderr}"
        assert done.stdout.strip(), command
        said += " ".join(done.stdout.split())
    assert said.count("Routing pays") == 2  # by tune and by report


def test_the_readme_is_short_and_its_links_lead_somewhere() -> None:
    assert len(README.splitlines()) < 220
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


@pytest.mark.filterwarnings("ignore:.*beta:langchain_core._api.LangChainBetaWarning")  # of LangChain's middleware
@pytest.mark.parametrize("page", [name for name, text in PAGES.items() if blocks("python", text)])
def test_a_page_s_python_runs_in_order(page: str, fresh_folder: Path) -> None:
    namespace: dict[str, object] = {}
    for block in blocks("python", PAGES[page]):
        exec(compile(block, page, "exec"), namespace)  # our own pages


def test_the_reference_names_every_grader_rule_and_field_of_pool_toml() -> None:
    from unirouter_plugins.graders import GRADERS
    from unirouter_plugins.graders.rules import RULES
    from unirouter_plugins.litellm import Member

    fields = [
        field.name for field in dataclasses.fields(Member) if field.name not in ("name", "is_trusted", "list_price")
    ]
    for page, names in {
        "graders": [*GRADERS, *{name.removeprefix("min_").removeprefix("max_") for name in RULES}],
        "pool-toml": fields,
    }.items():
        assert [name for name in names if f"`{name}`" not in PAGES[f"docs/reference/{page}.md"]] == []
