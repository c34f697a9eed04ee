"""A file to its lines of questions, each checked field by field."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from importlib.resources.abc import Traversable
from typing import Any, NoReturn

from unirouter_core.documents import as_one_prompt
from unirouter_core.exceptions import InvalidDataError

try:
    from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError
except ImportError as missing:
    raise ImportError("pydantic is missing: pip install 'unirouter[litellm]'.") from missing

_EXPECTED = {
    "prompt": "a text",
    "messages": 'a list of messages, [{"role": "user", "content": "..."}]',
    "system": "a text",
    "reference": "a text",
    "grader": 'a name or {"grader": name, ...}',
    "documents": "a list of texts",
}


class Line(BaseModel):
    """What stands in one line; other fields are kept in `model_extra`."""

    model_config = ConfigDict(extra="allow", strict=True)

    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    system: str | None = None
    reference: str | None = None
    grader: str | dict[str, Any] | None = None
    documents: list[str] | None = None
    _place: int = PrivateAttr(default=0)

    @property
    def name(self) -> str:
        """The number of the line, and its id where it has one."""
        known_as = (self.model_extra or {}).get("id")
        return f"line {self._place}" + (f" ({known_as!s:.40})" if known_as is not None else "")

    @property
    def chat(self) -> list[dict[str, Any]]:
        """The messages that are sent."""
        if self.messages is not None:
            return self.messages
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": as_one_prompt(self.prompt or "", self.documents or ())}]

    @classmethod
    def of(cls, record: object, place: int) -> Line:
        """Return what `record`, a JSON value, holds.

        Raises
        ------
        InvalidDataError
            When a field has a value that cannot be used, or there is nothing to send.
        """
        try:
            line = cls.model_validate({"prompt": record} if isinstance(record, str) else record)
        except ValidationError as failed:
            first = failed.errors(include_url=False)[0]
            _refuse(first["loc"], first["input"], place)
        line._place = place
        line._check()
        return line

    def _check(self) -> None:
        for name in ("prompt", "reference"):
            text = getattr(self, name)
            if text is not None and not text.strip():
                raise InvalidDataError(f"{self.name}: {name} is {text!r}; write a text, or leave the field out.")
        if self.messages is not None and self.system is not None:
            raise InvalidDataError(f"{self.name}: it has system and messages; put the system text into the messages.")
        if self.messages is None and self.prompt is None:
            has = f"it has {', '.join(self.model_extra)}" if self.model_extra else "it has nothing else"
            raise InvalidDataError(f"{self.name}: there is no 'prompt' and no 'messages'; {has}.")


def _refuse(where: tuple[int | str, ...], value: object, place: int) -> NoReturn:
    """Raise `InvalidDataError` for the value of a field, with what it must be."""
    if not where:
        raise InvalidDataError(f'line {place}: {value!r:.60} is no object; write {{"prompt": "..."}}.')
    name = str(where[0])
    cure = ""
    if _EXPECTED[name] == "a text":
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        cure = f": write {json.dumps(text, ensure_ascii=False):.60}"
    if name == "reference" and isinstance(value, list):
        cure = ': write one, and the others in the grader, {"grader": "text", "also": [...]}'
    at = f"{name}[{where[1]}]" if len(where) > 1 and isinstance(where[1], int) else name
    raise InvalidDataError(f"line {place}: {at} is {value!r:.60}; {name} must be {_EXPECTED[name]}{cure}.")


def read_lines(place: Traversable) -> tuple[bytes, list[Line]]:
    """Return the content of a file and its lines, without the blank ones.

    Raises
    ------
    InvalidDataError
        When the file cannot be read, or a line cannot be used.
    """
    if not place.name.lower().endswith((".jsonl", ".txt")):
        raise InvalidDataError(f"{place} is neither .jsonl nor .txt; write one object or one prompt a line.")
    try:
        content = place.read_bytes()
        text = content.decode("utf-8-sig")
    except OSError as failed:
        raise InvalidDataError(f"{place} cannot be read: {failed.strerror}.") from failed
    except UnicodeDecodeError as failed:
        raise InvalidDataError(f"{place} is not UTF-8 (byte {failed.start}); save it as UTF-8.") from failed
    try:
        return content, list(_lines(text, is_json=place.name.lower().endswith(".jsonl")))
    except InvalidDataError as failed:
        raise InvalidDataError(f"{place}: {failed}") from failed


def _lines(text: str, *, is_json: bool) -> Iterator[Line]:
    for place, line in enumerate(io.StringIO(text, newline=None), 1):
        if not line.isspace():
            yield Line.of(_record(line, place) if is_json else line.rstrip("\n"), place)


def _record(line: str, place: int) -> object:
    """Return the JSON value of a line, which must be one that can be sent."""
    try:
        record = json.loads(line, parse_constant=_no_constant)
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError as failed:
        half = ascii(failed.object[failed.start])
        raise InvalidDataError(
            f"line {place}: {half} is half of a character; write the whole character, or both halves."
        ) from failed
    except (ValueError, RecursionError) as failed:
        raise InvalidDataError(
            f"line {place}: {line[:60]!r} is not JSON ({failed}); write one object a line."
        ) from failed
    return record


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
