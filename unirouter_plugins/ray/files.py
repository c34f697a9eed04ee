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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unirouter_core.atomic_files import exchange, temporary
from unirouter_core.exceptions import InvalidDataError, UniRouterError, missing_package
from unirouter_plugins.litellm.pool_file import BESIDE
from unirouter_plugins.ray.parts import (
    CSV,
    FORMATS,
    PARQUET,
    Part,
    Routing,
    header,
    parts_of,
    prompt_column,
    route_part,
)
from unirouter_plugins.ray.routing import COLUMNS, RouteBatch

WHOLE = 2**16  # rows of a row group of what is put together


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
    column = prompt or prompt_column(files[0])
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


# --- Workers ----------------------------------------------------------------------------------------------------------


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
        place = part.kept_in(self.folder)
        beside = place.with_name(temporary(place.name))
        counted = route_part(part, beside, self.route)
        os.replace(beside, place)
        beside.write_text(json.dumps(vars(counted)))
        os.replace(beside, place.with_suffix(".json"))  # last: it says that the part is done
        return vars(counted)


class RoutePart:
    """A worker of Ray's that does `Work` on a batch of one part."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Return what was counted, as JSON, or why it failed, which then is one sentence."""
        numbers: dict[str, int] = {name: int(values[0]) for name, values in batch.items() if name != "file"}
        part = Part(str(batch["file"][0]), **numbers)
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
