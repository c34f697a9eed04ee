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
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from unirouter_core.atomic_files import exchange, temporary
from unirouter_core.exceptions import InvalidDataError, UniRouterError, missing_package
from unirouter_plugins.litellm.pool_file import BESIDE
from unirouter_plugins.ray.parts import (
    CSV,
    FORMATS,
    PARQUET,
    PART,
    Part,
    Routing,
    header,
    parts_of,
    prompt_column,
    route_part,
)
from unirouter_plugins.ray.routing import COLUMNS, RouteBatch

WHOLE = 2**16  # rows of a row group of what is put together
PUT_TOGETHER = "whole"  # beside the parts: what will be the target
LOCK, PLACED = "lock", "placed"  # beside the parts' folder: who writes, and what has become the target


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
    part_size: int = PART,
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
        Whether the target may be replaced: a file, or a folder with no other files than this run writes.
    ray : str, optional
        The address of a Ray cluster, whose machines see the same files, or "local" for all cores of this one. Without
        it, this process does the work.
    progress : function of (rows done, rows), optional
    part_size : int
        The bytes of CSV or JSON Lines that are one part: what a worker does at once, and a killed run repeats. A part
        of Parquet is a row group.

    Raises
    ------
    InvalidDataError, ArtifactError
        When a file cannot be read or has no column of prompts; when the router cannot be used.
    """
    out, files = Path(target), sources(source)
    is_one = out.suffix.lower() in FORMATS
    if out.name in ("", ".."):
        raise InvalidDataError(f"{os.fspath(target)!r} is no name of a file or folder; name one.")
    for place in [Path(source), Path(router)]:
        if place.is_dir() and out.resolve().is_relative_to(place.resolve()):
            raise InvalidDataError(f"{out} is inside of {place}, whose files are read; name a place outside of it.")
    targets = _targets(files, is_one)
    kinds = {FORMATS[file.suffix.lower()] for file in files}
    if is_one and kinds != {FORMATS[out.suffix.lower()]}:
        raise InvalidDataError(
            f"{out} is to be {FORMATS[out.suffix.lower()]}, and {files[0]} is {min(kinds)}; formats stay as they are."
        )
    column = prompt or prompt_column(files[0])
    how: dict[str, Any] = {"cost_weight": cost_weight, "models": models, "requires": list(requires), "prompt": column}
    if pool != BESIDE:
        how["pool"] = None if pool is None else os.path.abspath(pool)  # workers have another folder
    router = os.path.abspath(router)
    local = RouteBatch(router, **how)  # here, where what is wrong with it is one sentence
    key = _key(router, files, {**how, "part_size": part_size})
    if (done := _placed(out, key)) is None:
        _check_target(out, files, targets, replace)
    parts = [part for at, file in enumerate(files) for part in parts_of(file, at, part_size)]
    total = sum(part.rows for part in parts)
    with _kept_beside(out, key) as folder:
        if done is not None:
            return done
        kept = {file.stem for file in folder.glob("*.json") if file.with_suffix(".part").exists()}
        pending = [part for part in parts if part.kept_in(folder).stem not in kept]
        rows = _counted(folder, [part for part in parts if part.kept_in(folder).stem in kept]).rows
        work = Work(os.fspath(folder.resolve()), router, how, local)
        made = map(work, pending) if ray is None or not pending else _on_ray(ray, work, pending)
        for some in made:
            rows += some
            if progress is not None:
                progress(rows, total)
        if _key(router, files, {**how, "part_size": part_size}) != key:
            raise InvalidDataError(f"What {out} is made of has changed meanwhile; run it again.")
        _put_together(folder, targets, parts, out, beside := folder / PUT_TOGETHER)
        _check_target(out, files, targets, replace)  # it may have appeared meanwhile
        done = _counted(folder, parts)
        _mark(out).write_text(json.dumps([key, _identity(beside), vars(done)]))
        if out.is_dir():
            exchange(beside, out)
        else:
            os.replace(beside, out)
        _synced(out.absolute().parent)
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


def _targets(files: Sequence[Path], is_one: bool) -> dict[Path, list[int]]:
    """Return what is written, in the target or the target itself, and the places of the files it is made of."""
    root, made = Path(os.path.commonpath([file.parent for file in files])), dict[Path, list[int]]()
    for at, file in enumerate(files):
        made.setdefault(Path() if is_one else file.relative_to(root), []).append(at)
    return made


def _check_target(out: Path, files: Sequence[Path], targets: Collection[Path], replace: bool) -> None:
    """Raise `InvalidDataError` where the target exists, unless it may be replaced and holds only what a run writes."""
    if not out.exists():
        return
    is_one = Path() in targets
    if not replace or out.is_file() != is_one:
        same, other = "or replace it (--replace)", "as it is a folder" if is_one else "as it is a file"
        raise InvalidDataError(f"{out} exists; name another place, {same if out.is_file() == is_one else other}.")
    read = {place: file for file in files for own in (file.absolute(), file.resolve()) for place in (own, *own.parents)}
    for place, file in read.items():
        if place.samefile(out):
            raise InvalidDataError(f"{out} would be replaced, but {file} is read; name a place outside of the input.")
    for old in out.rglob("*"):
        if (old.is_symlink() or not old.is_dir()) and old.relative_to(out) not in targets:
            raise InvalidDataError(f"{old} would be deleted, and is not of this run; move it, or name another place.")


# --- Workers ----------------------------------------------------------------------------------------------------------


@dataclass
class Work:
    """Routes parts, writes each beside the target and returns its rows; Ray's workers load the router themselves."""

    folder: str
    router: str
    how: dict[str, Any]
    route: RouteBatch | None = None

    def __call__(self, part: Part) -> int:
        """Return the rows of a part, once it is written whole."""
        self.route = self.route or RouteBatch(self.router, **self.how)
        place = part.kept_in(self.folder)
        beside = place.with_name(temporary(place.name))
        counted = route_part(part, beside, self.route)
        _synced(beside).replace(place)
        beside.write_text(json.dumps(vars(counted)))
        _synced(beside).replace(place.with_suffix(".json"))  # last: it says that the part is done
        return counted.rows


class RoutePart:
    """A worker of Ray's that does `Work` on a batch of one part."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Return the rows, or why it failed, which then is one sentence."""
        numbers: dict[str, int] = {name: int(values[0]) for name, values in batch.items() if name != "file"}
        part = Part(str(batch["file"][0]), **numbers)
        try:
            return {"rows": [self._work(part)], "failed": [""]}
        except (UniRouterError, OSError) as failed:
            return {"rows": [0], "failed": [str(failed)]}


def _on_ray(address: str, work: Work, parts: Sequence[Part]) -> Iterator[int]:
    """Yield the rows of each part, done by the workers of a cluster."""
    try:
        import ray
        import ray.data
    except ImportError as missing:
        raise missing_package("Ray", "ray") from missing
    is_ours = not ray.is_initialized()
    if is_ours:
        try:
            ray.init(address, include_dashboard=False, log_to_driver=False)
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
            yield row["rows"]
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
    version = [each.version for each in metadata.distributions(name="unirouter")]
    digest.update(json.dumps({"inputs": inputs, "options": how, "version": version}).encode())
    return digest.hexdigest()[:32]


def _beside(out: Path) -> Path:
    return out.with_name(f".{out.name}.parts")


def _mark(out: Path) -> Path:
    return _beside(out) / PLACED


def _identity(place: Path) -> list[int]:
    """Return what a file or folder keeps when it is moved."""
    return [place.stat().st_ino, place.stat().st_mtime_ns]


def _placed(out: Path, key: str) -> Routing | None:
    """Return what this very run has routed, where it was killed after the target was in its place."""
    with suppress(OSError, ValueError):
        of, identity, counted = json.loads(_mark(out).read_bytes())
        if of == key and identity == _identity(out):
            (done := Routing()).merge(counted)
            return done
    return None


@contextmanager
def _kept_beside(out: Path, key: str) -> Iterator[Path]:
    """Yield the folder of the parts that are done, without those of other runs; one process may have it."""
    folder, own, lock = _beside(out), _beside(out) / key, _beside(out) / LOCK
    busy = InvalidDataError(f"Another process is writing {out}; let it end, or name another file.")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        held = lock.open("a")
    except FileNotFoundError as failed:  # removed by who had it
        raise busy from failed
    with held:
        try:
            import fcntl

            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # Windows
            pass
        except BlockingIOError as failed:
            raise busy from failed
        if not (lock.exists() and os.path.samestat(lock.stat(), os.fstat(held.fileno()))):
            raise busy
        for other in folder.iterdir():
            if other.name not in (LOCK, PLACED, key):
                _remove(other)
        own.mkdir(exist_ok=True)
        is_done = False
        try:
            yield own
            is_done = True
        finally:
            if is_done or not any(own.glob("*.json")):  # else there is something to go on from
                shutil.rmtree(own, ignore_errors=True)  # a file system on the network may keep what is open
                if os.name == "nt":  # it removes no open file, and has no lock here
                    held.close()
                with suppress(OSError):
                    lock.unlink()
                    _mark(out).unlink(missing_ok=True)  # last: until then another run knows that this one is done
                    folder.rmdir()


def _remove(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


def _synced(place: Path) -> Path:
    """Return a file or folder, once it is on the disk; Windows has no way to say so of a folder."""
    if place.is_file() or os.name != "nt":
        opened = os.open(place, os.O_RDWR if place.is_file() else os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
    return place


def _counted(folder: Path, parts: Sequence[Part]) -> Routing:
    """Return the sum of the counts of parts that are done, in their order, as sums of floats depend on it."""
    done = Routing()
    for part in parts:
        done.merge(json.loads(part.kept_in(folder).with_suffix(".json").read_bytes()))
    return done


def _put_together(
    folder: Path, targets: Mapping[Path, Sequence[int]], parts: Sequence[Part], out: Path, beside: Path
) -> None:
    """Write the parts as the one file `beside`, or as a folder with a file for each that was read."""
    _remove(beside)  # of a run that was killed here
    of: dict[int, list[tuple[Part, Path]]] = {}
    for part in parts:
        of.setdefault(part.at, []).append((part, part.kept_in(folder)))
    for name, files in targets.items():
        (target := beside / name).parent.mkdir(parents=True, exist_ok=True)
        own = [part for at in files for part in of[at]]
        write = _whole_parquet if own[0][0].kind == PARQUET else _whole_lines
        write(target, own, out)
        _synced(_synced(target).parent)


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
            names, delimiter = header(Path(first.file))
            begun = (part for part, _ in parts if part.number == 0)
            if other := next((part for part in begun if header(Path(part.file)) != (names, delimiter)), None):
                raise _differ(other, first, out)
            line = io.StringIO(newline="")
            made = [*(name for name in names if name not in COLUMNS), *COLUMNS]
            csv.writer(line, delimiter=delimiter, lineterminator="\n").writerow(made)
            whole.write(line.getvalue().encode())
        for _, place in parts:
            with place.open("rb") as routed:
                shutil.copyfileobj(routed, whole)


def _differ(part: Part, first: Part, out: Path) -> InvalidDataError:
    return InvalidDataError(f"{part.file} has other columns than {first.file}; name a folder in the place of {out}.")
