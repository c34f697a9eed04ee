"""Files of prompts, Parquet, JSON Lines or CSV, to the same files with the routers' choices, part by part."""

from __future__ import annotations

import csv
import dataclasses
import glob
import hashlib
import io
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unirouter_core.atomic_files import exchange, temporary
from unirouter_core.exceptions import InvalidDataError, UniRouterError, missing_package
from unirouter_core.reading import LONGEST_LINE, parse_json, readable
from unirouter_core.tables import find_columns, quoted
from unirouter_plugins.litellm.pool_file import BESIDE
from unirouter_plugins.ray.routing import COLUMNS, RouteBatch, Routed, check_names

PARQUET, JSONL, CSV = "Parquet", "JSON Lines", "CSV"
FORMATS = {".parquet": PARQUET, ".pq": PARQUET, ".jsonl": JSONL, ".ndjson": JSONL, ".csv": CSV, ".tsv": CSV}
SLICE = 8_192  # rows routed at once
PART = 2**23  # bytes of a part of lines; a part of Parquet is a row group
WHOLE = 2**16  # rows of a row group of what is put together


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


def route_file(
    router: str | os.PathLike[str],
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    prompt: str | None = None,
    cost_weight: float | None = None,
    models: Sequence[str] | None = None,
    requires: Sequence[str] = (),
    pool: str | os.PathLike[str] | None = BESIDE,
    replace: bool = False,
    ray: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Routing:
    """Write the rows of files with the columns of `RouteBatch` added, and return what was routed.

    The target appears when it is whole. Parts that are done are kept beside it until then, and another run with the
    same files, router and options goes on from them.

    Parameters
    ----------
    router : path
        A router's folder.
    source, target : path
        A file (``.parquet``, ``.jsonl``, ``.csv``), a folder of such, or a glob pattern; and one file for all rows, or
        a folder, which gets a file for each. Formats stay as they are.
    prompt : str, optional
        The column of the prompts; the one with a usual name, when not given.
    cost_weight, models, requires, pool
        As in `RouteBatch`.
    replace : bool
        Whether the target may be replaced.
    ray : str, optional
        The address of a Ray cluster, whose machines see the same files, or "local" for all cores of this one. Without
        it, this process does the work.
    progress : function of (rows done, rows), optional

    Raises
    ------
    InvalidDataError, ArtifactError
        When a file cannot be read or has no column of prompts; when the router cannot be used.
    """
    out, files = Path(target), sources(source)
    is_one = out.suffix.lower() in FORMATS
    if out.exists() and not (replace and out.is_file() == is_one):
        cure = (
            "or replace it (--replace)"
            if out.is_file() == is_one
            else "as it is a folder" * is_one or "as it is a file"
        )
        raise InvalidDataError(f"{out} exists; name another place, {cure}.")
    if Path(source).is_dir() and out.resolve().is_relative_to(Path(source).resolve()):
        raise InvalidDataError(f"{out} is inside of {source}, whose files are read; name a place outside of it.")
    kinds = {FORMATS[file.suffix.lower()] for file in files}
    if is_one and kinds != {FORMATS[out.suffix.lower()]}:
        raise InvalidDataError(
            f"{out} is to be {FORMATS[out.suffix.lower()]}, and {files[0]} is {min(kinds)}; formats stay as they are."
        )
    column = prompt or _prompt_column(files[0])
    how: dict[str, Any] = {"cost_weight": cost_weight, "models": models, "requires": list(requires), "prompt": column}
    if pool != BESIDE:
        how["pool"] = None if pool is None else os.fspath(pool)
    router = os.fspath(router)
    local = RouteBatch(router, **how)  # here, where what is wrong with it is one sentence
    parts = [part for at, file in enumerate(files) for part in parts_of(file, at)]
    with _kept_beside(out, _key(router, files, how)) as folder:
        done, total = Routing(), sum(part.rows for part in parts)
        pending = []
        for part in parts:
            if (counted := part.kept_in(folder).with_suffix(".json")).is_file():
                done.merge(json.loads(counted.read_bytes()))
            else:
                pending.append(part)
        work = Work(os.fspath(folder.resolve()), router, how, local)
        made = map(work, pending) if ray is None or not pending else _on_ray(ray, work, pending)
        for one in made:
            done.merge(one)
            if progress is not None:
                progress(done.rows, total)
        beside = out.with_name(temporary(out.name))
        try:
            _put_together(folder, files, parts, out, beside, is_one)
            if out.is_dir():
                exchange(beside, out)
            else:
                os.replace(beside, out)
        finally:
            shutil.rmtree(beside) if beside.is_dir() else beside.unlink(missing_ok=True)
    return done


# --- What is read -----------------------------------------------------------------------------------------------------


def sources(source: str | os.PathLike[str]) -> list[Path]:
    """Return the files of a path or pattern, in their order, checked."""
    place, names = Path(source), ", ".join(FORMATS)
    if place.is_dir():
        found = [file for file in place.rglob("*") if file.is_file() and file.suffix.lower() in FORMATS]
        inner = [file for file in found if not any(n[0] in "._" for n in file.relative_to(place).parts)]
        if not inner:
            raise InvalidDataError(f"{place} holds no file of prompts; give one with {names}.")
        return sorted(inner)
    files = [place] if place.exists() else sorted(map(Path, glob.glob(os.fspath(source), recursive=True)))
    if not files:
        raise InvalidDataError(f"{place} does not exist; name a file, a folder, or a pattern in quotes.")
    if other := next((f for f in files if f.suffix.lower() not in FORMATS or not f.is_file()), None):
        raise InvalidDataError(f"{other} is no file of prompts; give one with {names}.")
    return files


def parts_of(file: Path, at: int = 0) -> Iterator[Part]:
    """Yield the parts of a file, the number `at` of all."""
    kind, name = FORMATS[file.suffix.lower()], str(file.resolve())
    with _in_a_sentence(file):
        if kind == PARQUET:
            groups = _parquet(file).metadata
            sizes = [groups.row_group(number).num_rows for number in range(groups.num_row_groups)]
            yield from (Part(name, at, number, number, number + 1, size) for number, size in enumerate(sizes))
            if not sizes:
                yield Part(name, at, 0, 0, 0, 0)
            return
        with file.open("rb") as raw:
            ends = _csv_rows(raw) if kind == CSV else _rows(raw)
            end, after = begin, line = next(ends)
            number = rows = 0
            for end, after in ends:
                rows += 1
                if end - begin >= PART:
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

    reader = csv.reader(texts(), delimiter=_delimiter(raw))
    next(reader, None)
    yield end, reader.line_num + 1
    for _ in reader:
        yield end, reader.line_num + 1


def _delimiter(raw: Any) -> str:
    raw.seek(0)
    head = raw.readline(LONGEST_LINE).decode("utf-8-sig")
    raw.seek(0)
    csv.field_size_limit(LONGEST_LINE)  # its own is 131,072 characters; prompts are longer
    return max(",;\t|", key=head.count)


def _parquet(file: str | os.PathLike[str]) -> Any:
    try:
        import pyarrow.parquet as pq
    except ImportError as missing:
        raise missing_package("pyarrow", "parquet") from missing
    return pq.ParquetFile(file)


def _header(file: Path) -> tuple[list[str], str]:
    """Return the names of a CSV file's columns, and what stands between them."""
    with file.open("rb") as raw:
        delimiter = _delimiter(raw)
        with io.TextIOWrapper(raw, "utf-8-sig", newline="") as text:
            return next(csv.reader(text, delimiter=delimiter), []), delimiter


def _prompt_column(file: Path) -> str:
    """Return the column of a file that has the usual name of prompts."""
    kind, names = FORMATS[file.suffix.lower()], list[str]()
    with _in_a_sentence(file):
        if kind == PARQUET:
            names = list(_parquet(file).schema_arrow.names)
        elif kind == CSV:
            names, _ = _header(file)
        else:
            with file.open("rb") as raw:
                first = _parsed(next(filter(bytes.strip, _lines(raw)), b'""'))
            names = list(first) if isinstance(first, dict) else ["prompt"]
        found = ["prompt"] if "prompt" in names else find_columns(names, kinds=("prompt",)).get("prompt")
        if not found:
            raise InvalidDataError(f"there is no column of prompts among {quoted(names)}; name it (--prompt COLUMN).")
    return found[0]


@contextmanager
def _in_a_sentence(file: str | os.PathLike[str]) -> Iterator[None]:
    try:
        with readable("it cannot be read", "give a file that can"):
            yield
    except InvalidDataError as failed:
        raise InvalidDataError(f"{os.fspath(file)}: {failed}") from failed


# --- A part, routed ---------------------------------------------------------------------------------------------------


@dataclass
class Work:
    """Routes parts and writes each beside the target; Ray's workers load the router themselves."""

    folder: str
    router: str
    how: dict[str, Any]
    route: RouteBatch | None = None

    def __call__(self, part: Part) -> dict[str, Any]:
        """Return the counts of a part, once it is written whole."""
        self.route = self.route or RouteBatch(self.router, **self.how)
        place, counted = part.kept_in(self.folder), Routing()
        beside = place.with_name(temporary(place.name))
        with _in_a_sentence(part.file):
            {PARQUET: _parquet_part, JSONL: _jsonl_part, CSV: _csv_part}[part.kind](part, beside, self.route, counted)
        os.replace(beside, place)
        beside.write_text(json.dumps(vars(counted)))
        os.replace(beside, place.with_suffix(".json"))  # last: it says that the part is done
        return vars(counted)


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
                check_names({route.prompt, *rows[-1]}, route.prompt)
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
    names, delimiter = _header(Path(part.file))
    check_names(names, route.prompt)
    at, own = names.index(route.prompt), [n for n, name in enumerate(names) if name not in COLUMNS]
    reader = csv.reader(io.StringIO(_bytes_of(part).decode("utf-8-sig"), newline=""), delimiter=delimiter)
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


# --- Ray --------------------------------------------------------------------------------------------------------------


class RoutePart:
    """A worker of Ray's that does `Work` on a batch of one part."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Return what was counted, as JSON, or why it failed, which then is one sentence."""
        part = Part(**{name: str(values[0]) if name == "file" else int(values[0]) for name, values in batch.items()})
        try:
            return {"counted": [json.dumps(self._work(part))], "failed": [""]}
        except (UniRouterError, OSError) as failed:
            return {"counted": [""], "failed": [str(failed)]}


def _on_ray(address: str, work: Work, parts: Sequence[Part]) -> Iterator[dict[str, Any]]:
    """Yield the counts of each part, done by the workers of a cluster."""
    try:
        import ray
        import ray.data
    except ImportError as missing:
        raise missing_package("Ray", "ray") from missing
    is_ours = not ray.is_initialized()
    if is_ours:
        where = {} if address == "local" else {"address": address}
        try:
            ray.init(**where, include_dashboard=False, log_to_driver=False)
        except (ConnectionError, ValueError, RuntimeError) as failed:
            raise InvalidDataError(
                f"Ray at {address!r} cannot be reached ({failed}); start it, or check it."
            ) from failed
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        items = [dataclasses.asdict(part) for part in parts]
        cpus = max(int(ray.cluster_resources().get("CPU", 1)), 1)
        done = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            RoutePart,
            fn_constructor_args=(dataclasses.replace(work, route=None),),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=min(cpus, len(items))),
        )
        for row in done.iter_rows():
            if row["failed"]:
                raise InvalidDataError(row["failed"])
            yield json.loads(row["counted"])
    finally:
        if is_ours:
            ray.shutdown()


# --- What is kept beside, and put together ----------------------------------------------------------------------------


def _key(router: str, files: Sequence[Path], how: Mapping[str, Any]) -> str:
    """Return the identity of a run: its inputs, its router and its options."""
    digest = hashlib.sha256()
    tables = [Path(how.get("pool") or Path(router).resolve().parent / "pool.toml")]
    for file in sorted(each for each in [*Path(router).rglob("*"), *tables] if each.is_file()):
        digest.update(f"{file.name}\n{file.stat().st_size}\n".encode() + file.read_bytes())
    inputs = [[str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    return json.dumps({"inputs": inputs, "router": digest.hexdigest(), "options": how, "format": 1})


@contextmanager
def _kept_beside(out: Path, key: str) -> Iterator[Path]:
    """Yield the folder of the parts that are done, emptied where they are of another run; one process may have it."""
    folder = out.with_name(f".{out.name}.parts")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "run").open("a+") as held:
        try:
            import fcntl

            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # Windows
            pass
        except BlockingIOError as failed:
            raise InvalidDataError(f"Another process is writing {out}; let it end, or name another file.") from failed
        held.seek(0)
        if held.read() != key:
            for file in folder.iterdir():
                if file.name != "run":
                    file.unlink()
            held.truncate(0)
            held.write(key)
            held.flush()
        try:
            yield folder
        except BaseException:
            if any(folder.glob("*.json")):  # there is something to go on from
                raise
            shutil.rmtree(folder)
            raise
    shutil.rmtree(folder)


def _put_together(
    folder: Path, files: Sequence[Path], parts: Sequence[Part], out: Path, beside: Path, is_one: bool
) -> None:
    """Write the parts as the one file `beside`, or as a folder with a file for each that was read."""
    root = Path(os.path.commonpath([file.parent for file in files]))
    targets: dict[Path, list[Part]] = {}
    for part in parts:
        targets.setdefault(beside if is_one else beside / files[part.at].relative_to(root), []).append(part)
    for target, own in targets.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        write = _whole_parquet if own[0].kind == PARQUET else _whole_lines
        write(target, [(part, part.kept_in(folder)) for part in own], out)


def _whole_parquet(target: Path, parts: Sequence[tuple[Part, Path]], out: Path) -> None:
    import pyarrow.parquet as pq

    schema = pq.read_schema(parts[0][1])
    with pq.ParquetWriter(target, schema) as writer:
        for part, place in parts:
            if not pq.read_schema(place).equals(schema):
                raise _differ(part, parts[0][0], out)
            for batch in pq.ParquetFile(place).iter_batches(WHOLE):
                writer.write_batch(batch)


def _whole_lines(target: Path, parts: Sequence[tuple[Part, Path]], out: Path) -> None:
    first = parts[0][0]
    with target.open("wb") as whole:
        if first.kind == CSV:
            header = _header(Path(first.file))
            if other := next(
                (part for part, _ in parts if part.number == 0 and _header(Path(part.file)) != header), None
            ):
                raise _differ(other, first, out)
            line = io.StringIO(newline="")
            names = [*(name for name in header[0] if name not in COLUMNS), *COLUMNS]
            csv.writer(line, delimiter=header[1], lineterminator="\n").writerow(names)
            whole.write(line.getvalue().encode())
        for _, place in parts:
            with place.open("rb") as made:
                shutil.copyfileobj(made, whole)


def _differ(part: Part, first: Part, out: Path) -> InvalidDataError:
    return InvalidDataError(f"{part.file} has other columns than {first.file}; name a folder in the place of {out}.")
