"""Atomic replacement of files and of whole folders: readers see the old state or the new, never a mixture."""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from unirouter_core.exceptions import ArtifactError

LEFT_SECONDS = 3600  # a temporary file this old is of a save that was killed


def replace_files(files: Mapping[Path, bytes], removed: Iterable[Path] = ()) -> None:
    """Write all files to temporary ones, sync, then rename: all are new or, after a failure, all are old.

    A reader sees each file as it was or as it will be. Files that have their content already are not written.
    """
    before = {file: file.read_bytes() if file.is_file() else None for file in [*files, *removed]}
    beside: dict[Path, Path] = {}
    touched: list[Path] = []
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        for file, content in files.items():
            if content != before[file]:
                file.parent.mkdir(parents=True, exist_ok=True)
                beside[file] = file.with_name(temporary(file.name))
                with open(os.open(beside[file], flags, 0o666), "wb") as opened:  # the process's umask says who may read
                    opened.write(content)
                    opened.flush()
                    os.fsync(opened.fileno())
        for file, written in beside.items():
            touched.append(file)
            os.replace(written, file)
        for file in removed:
            touched.append(file)
            file.unlink(missing_ok=True)
    except BaseException:
        for written in beside.values():
            written.unlink(missing_ok=True)
        for file in touched:
            old = before[file]
            if old is None:
                file.unlink(missing_ok=True)
            elif not file.is_file() or file.read_bytes() != old:
                file.write_bytes(old)
        raise


def temporary(name: str) -> str:
    """Return the name of a temporary file or folder that will replace `name`."""
    return f".{name[:40]}.{secrets.token_hex(4)}.tmp"


def left_beside(folder: Path) -> list[Path]:
    """Return the temporary folders that saves of `folder`, running or killed, made beside it."""
    return [file for file in folder.parent.glob(".*.tmp") if file.name.startswith(f".{folder.name[:40]}.")]


def sweep(folder: Path) -> None:
    """Remove the temporary files of killed saves, in the folder and beside it, once they are an hour old."""
    for left in [*left_beside(folder), *(file for place in (".", "*") for file in folder.glob(f"{place}/.*.tmp"))]:
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > LEFT_SECONDS:
                shutil.rmtree(left) if left.is_dir() else left.unlink()


def exchange(new: Path, folder: Path) -> None:
    """Swap two folders, atomically where the system can."""
    with contextlib.suppress(OSError, AttributeError):
        rename = ctypes.CDLL(None, use_errno=True).renameat2  # Linux; os has no function for it
        at, flag_exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
        if rename(at, os.fsencode(new), at, os.fsencode(folder), flag_exchange) == 0:
            return
    aside = new.with_name(temporary(folder.name))
    folder.rename(aside)
    try:
        new.rename(folder)
    except OSError:
        try:
            aside.rename(folder)
        except OSError as failed:
            why = f"{folder} cannot be written: {failed.strerror}; its old content is in {aside}."
            raise ArtifactError(why) from failed
        raise
    aside.rename(new)
