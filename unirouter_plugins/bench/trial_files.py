"""The files of a benchmark: trials appended as they end, so that a killed run goes on, and a tidy table of them."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from unirouter_core.exceptions import InvalidDataError
from unirouter_plugins.bench import SCALARS, Record

LINES, STAMP = "trials.jsonl", "settings.json"


@dataclass(frozen=True)
class TrialFiles:
    """The folder of one benchmark.

    Parameters
    ----------
    folder : path
        Made where it does not exist.
    """

    folder: Path

    def stamp(self, settings: dict[str, Any], tables: dict[str, Any]) -> None:
        """Write what the trials rest on, or check that it is what those that are there rest on.

        Raises
        ------
        InvalidDataError
            When the folder holds trials of other settings or of another table of the same name, or a file that is not
            a benchmark's.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / STAMP
        before = _stamped(path) if path.exists() else {"settings": settings, "tables": {}}
        for name, now, then in [
            *((name, now, before["settings"].get(name)) for name, now in settings.items()),
            *((name, now, before["tables"].get(name, now)) for name, now in tables.items()),
        ]:
            if now != then:
                raise InvalidDataError(
                    f"{self.folder} holds trials of another benchmark ({name} is {now}, was {then}); name another "
                    "folder with --out, or remove this one."
                )
        document = {"settings": settings, "tables": {**before["tables"], **tables}}
        whole = path.with_suffix(".new")  # replaced in one step: a run may be killed at any moment
        whole.write_text(json.dumps(document, indent=2) + "\n", "utf-8")
        whole.replace(path)

    def read(self) -> list[Record]:
        """Return the records that are there; a last line that a killed run left unfinished is removed.

        Raises
        ------
        InvalidDataError
            When another line is no record.
        """
        path = self.folder / LINES
        if not path.exists():
            return []
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            path.write_bytes(whole)
        return [_record(line, f"{path}, line {number}") for number, line in enumerate(whole.splitlines(), 1)]

    def append(self, records: Sequence[Record]) -> None:
        """Write a trial's records, in one piece."""
        lines = [json.dumps({name: _plain(value) for name, value in asdict(each).items()}) for each in records]
        with (self.folder / LINES).open("a", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")

    def export(self, records: Sequence[Record]) -> list[Path]:
        """Write a row for each record as CSV and, where pyarrow is there, as Parquet; return the paths."""
        written = [self.folder / "trials.csv"]
        with written[0].open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(SCALARS)
            rows.writerows([_plain(getattr(each, name)) for name in SCALARS] for each in records)
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError:
            return written
        columns = {name: [_plain(getattr(each, name)) for each in records] for name in SCALARS}
        parquet.write_table(pyarrow.table(columns), self.folder / "trials.parquet")
        return [*written, self.folder / "trials.parquet"]


def _plain(value: Any) -> Any:
    """Return a value as JSON and CSV can hold it: NaN as nothing."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _stamped(path: Path) -> dict[str, Any]:
    try:
        before = json.loads(path.read_bytes())
        return {"settings": dict(before["settings"]), "tables": dict(before["tables"])}
    except (ValueError, TypeError, KeyError) as failed:
        raise InvalidDataError(f"{path} is no benchmark's; name another folder with --out, or remove it.") from failed


def _record(line: bytes, where: str) -> Record:
    try:
        there = json.loads(line).items()
        values: dict[str, Any] = {name: math.nan if value is None else value for name, value in there}
        values |= {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return Record(**values)
    except (ValueError, TypeError, AttributeError) as failed:
        raise InvalidDataError(f"{where}: no record of a trial; remove the line, and its trial runs again.") from failed
