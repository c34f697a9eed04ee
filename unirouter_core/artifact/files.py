"""JSON and arrays to bytes and back, checked when read, and files that are all replaced or none."""

from __future__ import annotations

import io
import json
import os
import re
import tempfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from unirouter_core.exceptions import ArtifactError

Arrays: TypeAlias = dict[str, np.ndarray[Any, Any]]
"""Arrays of any kind of number, by name."""

SCHEMA = 1
"""The version of the folder's form; a folder of a later one is refused."""


# --- JSON -------------------------------------------------------------------------------------------------------------


def to_json(value: Any, *, indent: int | None = 1) -> bytes:
    """Return `value` as a text that one may read and edit."""
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    # A row of numbers on one line. A line break marks it as a list: within a string it would be written \\n.
    text = re.sub(r"\[\n[^][{}\"]*\]", lambda numbers: " ".join(numbers[0].split()), text)
    return (text + "\n").encode("utf-8", "surrogatepass")


def read_json(file: Path) -> dict[str, Any]:
    """Return the fields that `file` holds."""
    try:
        content = json.loads(file.read_text("utf-8", "surrogatepass"))
    except (OSError, ValueError) as failed:
        raise ArtifactError(f"{file}: cannot be read as JSON ({failed}); it is truncated or edited.") from failed
    if not isinstance(content, dict):
        raise ArtifactError(f"{file}: holds {type(content).__name__}, not the fields of a router.")
    return content


def read_field(content: Mapping[str, Any], name: str, kind: Any, file: Path) -> Any:
    """Return one field of what `file` holds, checked to be of its kind."""
    if name not in content:
        raise ArtifactError(f"{file}: field {name!r} is missing.")
    if not isinstance(content[name], kind) or isinstance(content[name], bool):
        raise ArtifactError(f"{file}: field {name!r} is {content[name]!r:.40}, which is of the wrong kind.")
    return content[name]


def check_schema(content: Mapping[str, Any], file: Path) -> None:
    """Raise `ArtifactError` when `file` is of a later unirouter."""
    schema = read_field(content, "schema", int, file)
    if schema > SCHEMA:
        raise ArtifactError(
            f"{file}: schema {schema} is newer than this unirouter reads ({SCHEMA}); upgrade unirouter."
        )


def read_texts(content: Mapping[str, Any], file: Path) -> bool:
    """Return whether the folder of this router.json keeps the prompts' text; one of before this was kept does."""
    texts = content.get("texts", True)
    if not isinstance(texts, bool):
        raise ArtifactError(f"{file}: field 'texts' is {texts!r:.40}; it must be true or false.")
    return texts


def check_fields(checks: Mapping[str, bool], file: Path, wrong: str) -> None:
    """Raise `ArtifactError`, which says what is `wrong`, on the first field whose check is False."""
    for name, fine in checks.items():
        if not fine:
            raise ArtifactError(f"{file}: field {name!r} {wrong}")


# --- Arrays -----------------------------------------------------------------------------------------------------------


def to_npz(arrays: Arrays) -> bytes:
    """Return the arrays as an .npz: the same arrays give the same bytes, and what would not shrink is read faster."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, array, allow_pickle=False)
            shrinks = len(zlib.compress(content.getvalue(), 1)) < len(content.getvalue()) / 2
            kind = zipfile.ZIP_DEFLATED if shrinks else zipfile.ZIP_STORED
            file.writestr(zipfile.ZipInfo(f"{name}.npy"), content.getvalue(), kind)
    return packed.getvalue()


def read_npz(file: Path) -> Arrays:
    """Return the arrays that `file` holds."""
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as packed:  # numpy would leave it open
            arrays: dict[str, Any] = {name: packed[name] for name in packed.files}
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise ValueError("it holds something else than arrays")
        return arrays
    except Exception as failed:  # a damaged zip raises almost anything
        raise ArtifactError(f"{file}: cannot be read ({failed}); it is missing, truncated or edited.") from failed


# --- All or none ------------------------------------------------------------------------------------------------------


def replace_files(files: Mapping[Path, bytes], removed: Sequence[Path] = ()) -> None:
    """Write all files beside their places and to disk, then rename them: all are new or, after a failure, all are old.

    Whoever reads meanwhile sees each file as it was or as it will be. Files that hold their content already are left.
    """
    before = {file: file.read_bytes() if file.is_file() else None for file in [*files, *removed]}
    beside: dict[Path, Path] = {}
    touched: list[Path] = []
    try:
        for file, content in files.items():
            if content != before[file]:
                beside[file] = _write_beside(file, content)
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
            _put_back(file, before[file])
        raise


def _write_beside(file: Path, content: bytes) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{file.name[:40]}.", dir=file.parent)
    try:
        with os.fdopen(handle, "wb") as written:
            written.write(content)
            written.flush()
            os.fsync(written.fileno())
        os.chmod(name, 0o644)
    except BaseException:
        os.unlink(name)
        raise
    return Path(name)


def _put_back(file: Path, content: bytes | None) -> None:
    if content is None:
        file.unlink(missing_ok=True)
    elif not file.is_file() or file.read_bytes() != content:
        file.write_bytes(content)
