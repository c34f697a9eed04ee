"""Files, data frames and rows read as columns; sizes are bounded, and nothing is unpickled."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import re
import threading
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import numpy as np

from unirouter_core.embedding import Array
from unirouter_core.exceptions import InvalidDataError, missing_package

MOST_BYTES, MOST_PER_BYTE = 2**26, 64  # a packed file may unpack to this, and each of its bytes add: a bomb claims more
MOST_ARRAYS = 4_096  # in one .npz
MOST_JSON = 2**27  # bytes of a JSON file
LONGEST_LINE = 2**24  # characters; a chat with some images in it is shorter
MOST_COLUMNS = 2**17  # of a table; some thousand models have fewer
AMOUNT = float(np.finfo(np.float64).max)  # the most that a cost or a count may be: anything finite
ABSENT: Any = type("Absent", (), {"__repr__": lambda self: "None"})()  # stands for a value that a row does not have
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_CSV = threading.Lock()  # the csv module has one limit for the whole process

Wanted: TypeAlias = Callable[[Collection[str]], Iterable[str]]


# --- Bounds: `ValueError` for what is too large, no regular file, or no JSON or arrays --------------------------------


def read_bytes(file: Path, most: int | None = None) -> bytes:
    """Return the content of a regular file of at most `most` bytes; a pipe or a device would never end."""
    if file.exists() and not file.is_file():
        raise ValueError("it is no regular file")
    if most is not None and (size := file.stat().st_size) > most:
        raise ValueError(f"its {size:,} bytes are more than {most:,}")
    return file.read_bytes()


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text."""
    try:
        return json.loads(text)
    except RecursionError as failed:
        raise ValueError("it is nested too deeply") from failed


def parse_npz(content: bytes) -> dict[str, Array]:
    """Return the arrays of an ``.npz``; those of Python objects are refused, as reading them unpickles."""
    with zipfile.ZipFile(io.BytesIO(content)) as packed:
        members = packed.infolist()
        if sum(each.file_size for each in members) > MOST_BYTES + MOST_PER_BYTE * len(content):
            raise ValueError("its arrays are too large for a file of this size")
    if len(members) > MOST_ARRAYS or len({each.filename for each in members}) != len(members):
        raise ValueError(f"it holds more than {MOST_ARRAYS:,} arrays, or two of one name")
    with np.load(io.BytesIO(content), allow_pickle=False) as opened:
        arrays: dict[str, Any] = {name: opened[name] for name in opened.files}
    if not all(isinstance(array, np.ndarray) for array in arrays.values()):
        raise ValueError("it holds something else than arrays")
    if odd := [name for name, array in arrays.items() if array.dtype.kind not in "biufU" or not array.itemsize]:
        raise ValueError(f"{odd[0]!r} holds {arrays[odd[0]].dtype}, neither numbers nor texts")
    return arrays


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a UTF-8 file with their numbers, from 1."""
    if path.exists() and not path.is_file():
        raise ValueError("it is no regular file")
    with path.open(encoding="utf-8-sig", newline="") as text:
        place = 0
        while line := text.readline(LONGEST_LINE + 1):
            place += 1
            if len(line) > LONGEST_LINE:
                raise InvalidDataError(f"line {place}: it has more than {LONGEST_LINE:,} characters; split the file.")
            yield place, line


@contextmanager
def readable(what: str, cure: str) -> Iterator[None]:
    """Turn any exception of the block into an `InvalidDataError` that says `what` failed, why, and the cure."""
    try:
        yield
    except (InvalidDataError, ImportError):
        raise
    except UnicodeDecodeError as failed:
        raise InvalidDataError(f"byte {failed.start} is not UTF-8; save the file as UTF-8.") from failed
    except Exception as failed:  # damaged zips and tables raise almost anything
        why = failed.strerror if isinstance(failed, OSError) and failed.strerror else str(failed)
        raise InvalidDataError(f"{what} ({why.partition(chr(10))[0]}); {cure}.") from failed


@contextmanager
def long_fields() -> Iterator[None]:
    """Let the csv module read fields as long as a line, in this block only."""
    with _CSV:
        limit = csv.field_size_limit(LONGEST_LINE)  # its own is 131,072 characters; documents in prompts are longer
        try:
            yield
        finally:
            csv.field_size_limit(limit)


# --- Anything to columns ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Columns:
    """A table's columns by name, and the line or row of its source that each entry is in."""

    values: Mapping[str, Sequence[Any]]
    places: Sequence[int]
    unit: str = "row"
    comma: bool = False  # whether the decimal point of numbers is a comma

    def refuse(self, row: int, text: str) -> NoReturn:
        """Raise `InvalidDataError` that names the line or row."""
        raise InvalidDataError(f"{self.unit} {self.places[row]}: {text}")

    def texts(self, name: str) -> Sequence[str]:
        """Return a column of texts, none of them blank; of a chat, the user's newest text."""
        texts = [value if isinstance(value, str) else user_text(value) for value in self.values[name]]
        for row, value in enumerate(texts):
            if not isinstance(value, str):
                kind = "NoneType" if value is ABSENT else type(value).__name__
                self.refuse(row, f"{name} {value!r:.60} is {kind}, not text; give it as one string.")
            if not value or value.isspace():
                self.refuse(row, f"{name} is empty; give it text or remove the {self.unit}.")
        return texts

    def amounts(self, name: str | None) -> Array:
        """Return a column of finite numbers >= 0, NaN where not known; all NaN when there is no such column."""
        numbers = np.full(len(self.places), np.nan)
        for row, value in enumerate(self.values[name] if name is not None else ()):
            try:
                if value is not None and value is not ABSENT and value != "":
                    numbers[row] = float(value.replace(",", ".") if self.comma else value)
            except (TypeError, ValueError, OverflowError, AttributeError):
                self.refuse(row, f"{name} {value!r:.60} is not a number; write one, or leave it empty if not known.")
        outside = (numbers < 0) | (numbers > AMOUNT)
        if outside.any():
            row = int(outside.argmax())
            self.refuse(row, out_of_range(str(name), float(numbers[row]), AMOUNT))
        return numbers


def user_text(chat: Any) -> Any:
    """Return the user's newest text in a chat of OpenAI's form; anything else unchanged."""
    if not isinstance(chat, Sequence) or not chat or not all(isinstance(m, Mapping) and "role" in m for m in chat):
        return chat
    for message in reversed(chat):
        content = message.get("content") if message["role"] in ("user", "human") else None
        parts = content if isinstance(content, Sequence) and not isinstance(content, str) else [content]
        texts = [part.get("text") if isinstance(part, Mapping) else part for part in parts]
        if text := "\n".join(text for text in texts if isinstance(text, str)).strip():
            return text
    return chat


def read_columns(given: Any, wanted: Wanted = list) -> Columns:
    """Return the columns of a file, a data frame, a dataset, rows (mappings) or columns.

    `wanted` picks the names to keep from all names; a nested column's fields are named ``column.field``.
    """
    if isinstance(given, str | os.PathLike):
        return _read_file(Path(given), wanted)
    if isinstance(splits := getattr(given, "column_names", None), Mapping):
        raise InvalidDataError(
            f"it has the splits {', '.join(splits)}; give one of them, such as data[{next(iter(splits))!r}]."
        )
    if hasattr(given, "to_pylist"):  # pyarrow
        given = given.to_pylist()
    if hasattr(given, "columns"):  # pandas and polars
        _check_names(list(given.columns))
        given = given.astype(object).where(given.notna(), None) if hasattr(given, "notna") else given
        given = given.to_dicts() if hasattr(given, "to_dicts") else given.to_dict("records")
    if isinstance(given, Mapping):
        columns = {name: list(given[name]) for name in _keep(given, wanted)}
        if len(lengths := {len(column): name for name, column in columns.items()}) > 1:
            (one, first), (two, second), *_ = lengths.items()
            raise InvalidDataError(f"column {first!r} has {one:,} rows, but {second!r} {two:,}; give each the same.")
        return Columns(columns, range(1, 1 + min(map(len, columns.values()), default=0)))
    return columns_of(enumerate(given, 1), wanted)


def _check_names(names: Sequence[str]) -> None:
    if twice := [name for name, n in Counter(names).items() if n > 1]:
        raise InvalidDataError(f"two columns are named {twice[0]!r}; rename one.")


def _keep(names: Collection[str], wanted: Wanted) -> list[str]:
    """Return the names that are wanted."""
    if len(names) > MOST_COLUMNS:
        raise InvalidDataError(f"it has {len(names):,} columns, more than {MOST_COLUMNS:,}; keep those that matter.")
    return list(wanted(names))


def columns_of(rows: Iterable[tuple[int, Any]], wanted: Wanted, unit: str = "row") -> Columns:
    """Return the columns of rows (mappings) that come with their line or row."""
    columns, places, kept = dict[str, tuple[list[int], list[Any]]](), list[int](), dict[str, str]()
    for place, row in rows:
        if not isinstance(row, Mapping):
            raise InvalidDataError(f"{unit} {place}: {row!r:.60} is not a JSON object; write one a line.")
        nested = [(name, value) for name, value in row.items() if isinstance(value, Mapping)]
        fields = {f"{name}.{field}": inner for name, value in nested for field, inner in value.items()}
        for name, value in {**row, **fields}.items():
            at, values = columns.setdefault(name, ([], []))
            at.append(len(places))
            # a prompt comes once for each model; one string serves them all
            values.append(kept.setdefault(value, value) if isinstance(value, str) else value)
        places.append(place)

    def full(at: list[int], values: list[Any]) -> list[Any]:
        if len(at) < len(places):
            there = dict(zip(at, values, strict=True))
            return [there.get(row, ABSENT) for row in range(len(places))]
        return values

    return Columns({name: full(*columns[name]) for name in _keep(columns, wanted)}, places, unit)


def _read_file(path: Path, wanted: Wanted) -> Columns:
    match path.suffix.lower():
        case ".jsonl" | ".ndjson":
            return columns_of(json_lines(path), wanted, "line")
        case ".json":
            return _read_json(path, wanted)
        case ".csv" | ".tsv":
            return _read_csv(path, wanted)
        case ".parquet":
            return read_parquet(path, wanted)
        case ".pkl" | ".pickle":
            raise InvalidDataError(
                "a pickle runs whatever program it holds when it is opened, so it is never read; convert it once, in a "
                f"place you trust it in, with pandas.read_pickle({path.name!r}).to_parquet({path.stem + '.parquet'!r})."
            )
    raise InvalidDataError(
        f"{path.suffix or 'a bare file'} is not read; give .jsonl, .json, .csv, .tsv, .parquet or a folder."
    )


def _read_json(path: Path, wanted: Wanted) -> Columns:
    with readable("it is not JSON", "give a list of rows, or columns"):
        value = parse_json(read_bytes(path, MOST_JSON))
    if isinstance(value, Mapping) and isinstance(value.get("data"), list):
        value = value["data"]
    if isinstance(value, Mapping) and all(isinstance(column, Mapping) for column in value.values()):
        rows: Mapping[str, Any] = next(iter(value.values()), {})  # as pandas writes it by itself
        if all(column.keys() == rows.keys() for column in value.values()):
            value = {name: [column[row] for row in rows] for name, column in value.items()}
    if not isinstance(value, list) and not (
        isinstance(value, Mapping) and all(isinstance(c, list) for c in value.values())
    ):
        raise InvalidDataError("it holds neither a list of rows nor columns; give one of the two.")
    return read_columns(value, wanted)


def json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield the values of a file of JSON lines, with their line numbers."""
    for place, line in lines_of(path):
        if not line.isspace():
            with readable(f"line {place}: {line[:60]!r} is not JSON", "write one object a line"):
                record = parse_json(line)
            yield place, record


def _read_csv(path: Path, wanted: Wanted) -> Columns:
    places = list[int]()
    with long_fields():
        try:
            text = (line for _, line in lines_of(path))
            header = re.sub(r'"[^"]*"', "", first := next(text, ""))
            separator = max(_SEPARATORS, key=header.count)
            quoted = _SEPARATORS[separator]
            lines = csv.reader(itertools.chain([first], text), strict=True, delimiter=separator)
            names = next(lines, [])
            columns: dict[str, list[str]] = {name: [] for name in _keep(names, wanted)}
            _check_names([name for name in names if name in columns])
            positions = [(place, columns[name]) for place, name in enumerate(names) if name in columns]
            kept: dict[str, str] = {}
            place = lines.line_num + 1  # where the next record begins: one with line breaks takes several lines
            for fields in lines:
                if fields and len(fields) != len(names):
                    raise InvalidDataError(
                        f"line {place}: {len(fields)} fields, but the header has {len(names)}; quote {quoted}."
                    )
                if fields:
                    places.append(place)
                    for position, column in positions:
                        column.append(kept.setdefault(fields[position], fields[position]))
                place = lines.line_num + 1
        except csv.Error as failure:
            raise InvalidDataError(f"line {lines.line_num}: {failure}; quote fields as RFC 4180 does.") from failure
    return Columns(columns, places, "line", comma=separator == ";")


def read_parquet(path: Path, wanted: Wanted) -> Columns:
    """Return the `wanted` columns of a Parquet file; a nested column's fields are named ``column.field``."""
    try:
        import pyarrow.parquet
    except ImportError as missing:
        raise missing_package("pyarrow", "parquet") from missing
    if path.exists() and not path.is_file():
        raise InvalidDataError("it is no regular file; give one.")
    with readable("it cannot be read as Parquet", "write it again"), pyarrow.parquet.ParquetFile(path) as file:
        groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        present = file.schema_arrow.empty_table().flatten().column_names
        names, most = _keep(present, wanted), MOST_BYTES + MOST_PER_BYTE * path.stat().st_size
        if max(sum(group.total_byte_size for group in groups), 8 * file.metadata.num_rows * len(names)) > most:
            raise ValueError("its columns are too large for a file of this size")
        if absent := {*names} - {*present}:
            raise InvalidDataError(f"it has no column {min(absent)!r}; it has {', '.join(file.schema_arrow.names)}.")
        kept = {*names}
        _check_names([name for name in present if name in kept])
        leaves = [file.schema.column(i) for i in range(len(file.schema))]
        # a text that comes again is one in memory, as in the file
        texts = [each.path for each in leaves if each.logical_type.type in ("STRING", "JSON", "ENUM")]
        with pyarrow.parquet.ParquetFile(path, metadata=file.metadata, read_dictionary=texts) as again:
            table = again.read(columns=names).flatten()
        return Columns({name: _values(table.column(name)) for name in names}, range(1, table.num_rows + 1))


def _values(column: Any) -> list[Any]:
    """Return what a column of pyarrow holds; texts that come again are one object."""
    if not hasattr(column.type, "value_type") or not hasattr(column.type, "index_type"):
        return list(column.to_pylist())
    values = list[Any]()
    for chunk in column.chunks:
        known = [*chunk.dictionary.to_pylist(), None]
        values += [known[-1 if index is None else index] for index in chunk.indices.to_pylist()]
    return values


def out_of_range(name: str, value: float, top: float) -> str:
    """Return the message for a number outside [0, `top`]."""
    if top == AMOUNT:
        return f"{name} {value!r} must be finite and >= 0; leave it empty if not known."
    if value > top:
        return f"{name} {value!r} is outside [0, 1]; divide by the highest possible value (percentages by 100)."
    return f"{name} {value!r} is outside [0, 1]; leave it empty if the answer was not graded."
