"""Files of prompts, and of outcomes to learn from, as the command line takes them."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from unirouter_core.data import Outcomes, read_outcomes
from unirouter_core.exceptions import InvalidDataError


def read_fitting(path: Path, models: Sequence[str] | None) -> Outcomes | list[str]:
    """Return what a router can learn from a file: outcomes (of `models`, when they are given), or bare prompts."""
    if path.suffix == ".txt" or (path.suffix == ".jsonl" and _is_bare(path)):
        if models is not None:
            raise InvalidDataError(f"{path} holds prompts and no models; leave --models out.")
        return read_prompts(path)
    outcomes = read_outcomes(path)
    return outcomes if models is None else outcomes.of(models)


def _is_bare(path: Path) -> bool:
    """Return whether the first line is a prompt with nothing about models beside it."""
    with path.open("rb") as text:
        first = _decoded(next((line for line in text if not line.isspace()), b"null"), str(path))
    try:
        record = json.loads(first)
    except ValueError:
        return False  # the reader of outcomes says what is wrong
    if not isinstance(record, dict):
        return isinstance(record, str)
    answers = any(isinstance(value, dict) or name.endswith("|total_cost") for name, value in record.items())
    return "prompt" in record and not answers and not {"model", "model_name"} & record.keys()


def read_prompts(path: Path) -> list[str]:
    """Return the prompts of a file: one a line, or in ``.jsonl`` a string or an object with ``prompt`` a line.

    Blank lines are passed over.

    Raises
    ------
    InvalidDataError
        When there is no prompt, or a line of ``.jsonl`` holds none.
    """
    text = io.StringIO(_decoded(path.read_bytes(), str(path)), newline=None)
    lines = [(place, line.rstrip("\n")) for place, line in enumerate(text, 1) if not line.isspace()]
    if not lines:
        raise InvalidDataError(f"{path} holds no prompts; give at least one a line.")
    if path.suffix != ".jsonl":
        return [line for _, line in lines]
    return [_prompt_of(line, f"{path}: line {place}") for place, line in lines]


def asked_prompt(argument: str) -> str:
    """Return the prompt of the command line; ``-`` reads it from stdin.

    Raises
    ------
    InvalidDataError
        When stdin is closed, or the text is not UTF-8.
    """
    if argument != "-":
        given = argument.encode("utf-8", "surrogateescape")
    elif sys.stdin is None:
        raise InvalidDataError("Stdin is closed; give the prompt as an argument, or pipe it in.")
    else:
        given = sys.stdin.buffer.read()
    return _decoded(given, "the prompt").strip()


def _decoded(given: bytes, what: str) -> str:
    try:
        return given.decode("utf-8-sig")
    except UnicodeDecodeError as failure:
        raise InvalidDataError(f"{what} is not UTF-8 (byte {failure.start}); save or send it as UTF-8.") from failure


def _prompt_of(line: str, place: str) -> str:
    try:
        record = json.loads(line)
    except ValueError as failure:
        raise InvalidDataError(f"{place}: {line[:60]!r} is not JSON; write one object a line.") from failure
    prompt = record.get("prompt") if isinstance(record, dict) else record
    if not isinstance(prompt, str) or not prompt.strip():
        raise InvalidDataError(f'{place}: {line[:60]!r} holds no prompt; write {{"prompt": "..."}}.')
    return prompt
