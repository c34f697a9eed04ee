"""Parts of files of prompts, Parquet, JSON Lines or CSV: where they are, and each one routed."""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unirouter_core.exceptions import InvalidDataError, missing_package
from unirouter_core.reading import LONGEST_LINE, long_fields, parse_json, readable
from unirouter_core.tables import find_columns, quoted
from unirouter_plugins.ray.routing import COLUMNS, RouteBatch, Routed, check_names

PARQUET, JSONL, CSV = "Parquet", "JSON Lines", "CSV"
FORMATS = {".parquet": PARQUET, ".pq": PARQUET, ".jsonl": JSONL, ".ndjson": JSONL, ".csv": CSV, ".tsv": CSV}
SLICE = 8_192  # rows routed at once
PART = 2**23  # bytes of a part of lines; a part of Parquet is a row group


@dataclass(frozen=True)
class Part:
    """A part of a file: the bytes of some lines, or a row group."""

    file: str
    at: int  # the file's place among all
    number: int  # in the file
    begin: int
    end: int
    rows: int
    line: int = 1  # of its first row

    @property
    def kind(self) -> str:
        """The format."""
        return FORMATS[Path(self.file).suffix.lower()]

    def kept_in(self, folder: str | os.PathLike[str]) -> Path:
        """Return where it is written once it is routed."""
        return Path(folder) / f"{self.at:06}-{self.number:06}.part"


@dataclass
class Routing:
    """What was routed: rows, those with an error, the rows of each model, and their expected USD."""

    rows: int = 0
    errors: int = 0
    usd: float = 0.0
    models: Counter[str] = field(default_factory=Counter)
    first_error: str | None = None

    def add(self, routed: Iterable[Routed]) -> None:
        """Count some rows."""
        for each in routed:
            self.rows += 1
            self.usd += each.expected_usd or 0.0
            if each.model is None:
                self.errors += 1
                self.first_error = self.first_error or each.error
            else:
                self.models[each.model] += 1

    def merge(self, kept: Mapping[str, Any]) -> None:
        """Count what `vars` of another says."""
        self.rows += kept["rows"]
        self.errors += kept["errors"]
        self.usd += kept["usd"]
        self.models.update(kept["models"])
        self.first_error = self.first_error or kept["first_error"]


# --- Where they are ---------------------------------------------------------------------------------------------------


def parts_of(file: Path, at: int = 0, size: int = PART) -> Iterator[Part]:
    """Yield the parts of a file, the number `at` of all, of about `size` bytes or a row group."""
    kind, name = FORMATS[file.suffix.lower()], str(file.resolve())
    with in_a_sentence(file):
        if kind == PARQUET:
            groups = _parquet(file).metadata
            n_rows = [groups.row_group(number).num_rows for number in range(groups.num_row_groups)]
            yield from (Part(name, at, number, number, number + 1, rows) for number, rows in enumerate(n_rows))
            if not n_rows:
                yield Part(name, at, 0, 0, 0, 0)
            return
        with file.open("rb") as raw:
            ends = _csv_rows(raw) if kind == CSV else _rows(raw)
            end, after = begin, line = next(ends)
            number = rows = 0
            for end, after in ends:
                rows += 1
                if end - begin >= size:
                    yield Part(name, at, number, begin, end, rows, line)
                    begin, line, number, rows = end, after, number + 1, 0
            if rows or not number:
                yield Part(name, at, number, begin, end, rows, line)


def _lines(raw: Any) -> Iterator[bytes]:
    for number, line in enumerate(iter(lambda: raw.readline(LONGEST_LINE + 1), b""), 1):
        if len(line) > LONGEST_LINE:
            raise InvalidDataError(f"line {number} has more than {LONGEST_LINE:,} bytes; split it.")
        yield line


def _rows(raw: Any) -> Iterator[tuple[int, int]]:
    """Yield where the rows of a file begin, then where each ends, with the number of the line after it."""
    end = 0
    yield end, 1
    for number, line in enumerate(_lines(raw), 2):
        end += len(line)
        yield end, number


def _csv_rows(raw: Any) -> Iterator[tuple[int, int]]:
    """Yield the same of a CSV file, whose rows may have line breaks in quotes."""
    end = 0

    def texts() -> Iterator[str]:
        nonlocal end
        for line in _lines(raw):
            end += len(line)
            yield line.decode("utf-8-sig" if end == len(line) else "utf-8")

    reader, line = _reader(texts(), _delimiter(raw)), 1
    with long_fields():
        try:
            next(reader, None)
            yield end, (line := reader.line_num + 1)
            for _ in reader:
                yield end, (line := reader.line_num + 1)
        except csv.Error as failed:
            raise InvalidDataError(f"the row at line {line}: {failed}; quote fields as RFC 4180 does.") from failed


def _reader(lines: Iterable[str], delimiter: str) -> Any:
    return csv.reader(lines, delimiter=delimiter, strict=True)  # else a quote that is not closed swallows rows


def _delimiter(raw: Any) -> str:
    raw.seek(0)
    head = raw.readline(LONGEST_LINE).decode("utf-8-sig")
    raw.seek(0)
    return max(",;\t|", key=head.count)


def _parquet(file: str | os.PathLike[str]) -> Any:
    try:
        import pyarrow.parquet as pq
    except ImportError as missing:
        raise missing_package("pyarrow", "parquet") from missing
    return pq.ParquetFile(file)


def header(file: Path) -> tuple[list[str], str]:
    """Return the names of a CSV file's columns, and what stands between them."""
    with file.open("rb") as raw:
        delimiter = _delimiter(raw)
        with io.TextIOWrapper(raw, "utf-8-sig", newline="") as text:
            return next(_reader(text, delimiter), []), delimiter


def prompt_column(file: Path) -> str:
    """Return the column of a file that has the usual name of prompts."""
    kind, names = FORMATS[file.suffix.lower()], list[str]()
    with in_a_sentence(file):
        if kind == PARQUET:
            names = list(_parquet(file).schema_arrow.names)
        elif kind == CSV:
            names, _ = header(file)
        else:
            with file.open("rb") as raw:
                first = _parsed(next(filter(bytes.strip, _lines(raw)), b'""'))
            names = list(first) if isinstance(first, dict) else ["prompt"]
        found = ["prompt"] if "prompt" in names else find_columns(names, kinds=("prompt",)).get("prompt")
        if not found:
            raise InvalidDataError(f"there is no column of prompts among {quoted(names)}; name it (--prompt COLUMN).")
    return found[0]


@contextmanager
def in_a_sentence(file: str | os.PathLike[str]) -> Iterator[None]:
    """Raise what fails as one sentence about the file."""
    try:
        with readable("it cannot be read", "give a file that can"):
            yield
    except InvalidDataError as failed:
        raise InvalidDataError(f"{os.fspath(file)}: {failed}") from failed


# --- Routed -----------------------------------------------------------------------------------------------------------


def route_part(part: Part, to: Path, route: RouteBatch) -> Routing:
    """Write the rows of a part, routed, and return their counts."""
    counted = Routing()
    with in_a_sentence(part.file):
        _WAYS[part.kind](part, to, route, counted)
    return counted


def _parquet_part(part: Part, to: Path, route: RouteBatch, counted: Routing) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = _parquet(part.file)
    empty = route(file.schema_arrow.empty_table())
    with pq.ParquetWriter(to, empty.schema) as writer:
        for batch in file.iter_batches(SLICE, row_groups=range(part.begin, part.end)):
            table = route(pa.Table.from_batches([batch]))
            counted.add(map(Routed, *(table[name].to_pylist() for name in COLUMNS)))
            writer.write_table(table)


def _jsonl_part(part: Part, to: Path, route: RouteBatch, counted: Routing) -> None:
    lines = [(n, line) for n, line in enumerate(_bytes_of(part).split(b"\n"), part.line) if line.strip()]
    with to.open("wb") as out:
        for start in range(0, len(lines), SLICE):
            rows, bad = list[dict[str, Any]](), dict[int, str]()
            for at, (number, line) in enumerate(lines[start : start + SLICE]):
                row = _parsed(line)
                if not isinstance(row, dict | str):
                    why = row if isinstance(row, ValueError) else "it is no object"
                    bad[at] = f"line {number}: {why}; write {{{json.dumps(route.prompt)}: ...}}."
                rows.append(row if isinstance(row, dict) else {route.prompt: row if isinstance(row, str) else None})
                if (taken := sorted({*COLUMNS} & {*rows[-1]})) and len(taken) < len(COLUMNS):
                    bad[at] = f"line {number}: its own {taken[0]!r} is overwritten by this; rename or drop it."
            routed = _routed(route, [row.get(route.prompt) for row in rows], bad, counted)
            for row, each in zip(rows, routed, strict=True):
                whole = {**row, **dict(zip(COLUMNS, each, strict=True))}
                out.write(json.dumps(whole, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")


def _routed(route: RouteBatch, prompts: Sequence[Any], bad: Mapping[int, str], counted: Routing) -> list[Routed]:
    """Return what is decided on each prompt, and count it; rows that are `bad` have that for their error."""
    routed = route.route([None if at in bad else prompt for at, prompt in enumerate(prompts)])
    for at, why in bad.items():
        routed[at] = Routed(error=why)
    counted.add(routed)
    return routed


def _parsed(line: bytes) -> Any:
    """Return the value of a line of JSON, or the failure."""
    try:
        return parse_json(line.removeprefix(b"\xef\xbb\xbf"))
    except ValueError as failed:
        return ValueError(f"it is not JSON ({failed})")


def _csv_part(part: Part, to: Path, route: RouteBatch, counted: Routing) -> None:
    names, delimiter = header(Path(part.file))
    check_names(names, route.prompt)
    at, own = names.index(route.prompt), [n for n, name in enumerate(names) if name not in COLUMNS]
    reader = _reader(io.StringIO(_bytes_of(part).decode("utf-8-sig"), newline=""), delimiter)
    with long_fields():
        rows = [(reader.line_num + part.line - 1, row) for row in reader if row]
    with to.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out, delimiter=delimiter, lineterminator="\n")
        for start in range(0, len(rows), SLICE):
            some, bad = [row for _, row in rows[start : start + SLICE]], dict[int, str]()
            for place, (line, row) in enumerate(rows[start : start + SLICE]):
                if len(row) != len(names):
                    bad[place] = f"line {line}: {len(row)} fields, but the header has {len(names)}."
                    row += [""] * (len(names) - len(row))
            routed = _routed(route, [row[at] for row in some], bad, counted)
            for row, each in zip(some, routed, strict=True):
                writer.writerow([*(row[n] for n in own), *("" if value is None else value for value in each)])


def _bytes_of(part: Part) -> bytes:
    with open(part.file, "rb") as raw:
        raw.seek(part.begin)
        return raw.read(part.end - part.begin)


_WAYS: Mapping[str, Callable[[Part, Path, RouteBatch, Routing], None]] = {
    **{PARQUET: _parquet_part, JSONL: _jsonl_part, CSV: _csv_part},
}
