"""The files of the demo, from which a reader can repeat it with models and prompts of their own."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from unirouter_plugins.local.server import LocalModel

DATA = f"{__package__}:demo_data"
POOL, PROMPTS, VALIDATION, KEPT_BACK = "pool.toml", "prompts.jsonl", "validation.jsonl", "kept_back.jsonl"

NAMES = ("smol", "smol-votes", "calculator")
"""The members, as pool.toml calls them."""

FAMILIES = ("arithmetic", "vocabulary", "yes_no", "classification")
"""Of the packaged prompts: those with a short answer that a model of 135 million parameters sometimes gets right."""

EASIEST = 1
"""Of 1 to 5: what is harder, such a model mostly gets wrong, however it is asked."""


def write_files(folder: Path, served: LocalModel) -> None:
    """Write the table of members and the three files of prompts.

    Members are measured on the easiest prompts of four families of the packaged validation set, and on 8 sums more, so
    that nearly half are sums. Prompt features are learned from the rest of the packaged set, which nobody answers. 20
    prompts of the same four families are kept back.

    Parameters
    ----------
    folder : Path
        Is there already.
    served : LocalModel
        Who answers.
    """
    packaged = list(_lines("unirouter_core.starter", "validation.jsonl"))
    easy = [line for line in packaged if line["family"] in FAMILIES and line["difficulty"] == EASIEST]
    _write(folder / PROMPTS, ({"prompt": line["prompt"]} for line in packaged if line not in easy))
    _write(folder / VALIDATION, [*easy, *_lines(DATA, "sums.jsonl")])
    _write(folder / KEPT_BACK, _lines(DATA, KEPT_BACK))
    table = Template(_text(DATA, POOL)).substitute(name=served.name, url=served.url)
    (folder / POOL).write_text(table, encoding="utf-8")


def _text(package: str, name: str) -> str:
    package, _, folder = package.partition(":")
    return (resources.files(package) / folder / name).read_text(encoding="utf-8")


def _lines(package: str, name: str) -> Iterable[dict[str, Any]]:
    return (json.loads(line) for line in _text(package, name).splitlines())


def _write(place: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    texts = [json.dumps(line, ensure_ascii=False) for line in lines]
    place.write_text("\n".join(texts) + "\n", encoding="utf-8")


def write_outcomes(place: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write what members did on prompts, a line for each, as `unirouter_core.read_outcomes` takes it."""
    _write(place, rows)
