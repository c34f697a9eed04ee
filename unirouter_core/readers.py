"""Files of what models did on prompts to one `Outcomes` table; nothing is ever unpickled."""

from __future__ import annotations

import csv
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from unirouter_core.costs import Prices
from unirouter_core.embedding import Array
from unirouter_core.exceptions import InvalidDataError
from unirouter_core.outcomes import Outcomes
from unirouter_core.published import AMOUNT, AnswerColumns, Rows, fill_costs, find_answers, out_of_range, tabulate

FOLDER_FILES = ("prompts.parquet", "scores.npz", "costs.npz", "meta.json")
LONGEST_FIELD = 2**31 - 1  # characters; the csv module stops at 131,072, and documents in prompts are longer


def read_outcomes(path: str | os.PathLike[str], *, prices: Mapping[str, Prices] | None = None) -> Outcomes:
    r"""Return the outcomes in a file or a folder.

    A file is ``.jsonl``, ``.csv`` or ``.parquet`` (UTF-8; Parquet needs ``unirouter[parquet]``) and holds one of:

    - our own form, a line for each (prompt, model): ``prompt``, ``model``, exactly one of ``error`` and ``quality``
      (in [0, 1], quality = 1 - error), and where known ``cost`` (USD), ``tokens_in``, ``tokens_out``;
    - RouterBench (``<model>``, ``<model>|total_cost``), saved as Parquet or CSV;
    - EmbedLLM (``prompt``, ``model_name``, ``label``), which has no costs;
    - SPROUT (a nested column for each model), which has tokens, and costs when `prices` are given.

    Other columns are passed over. A folder holds ``prompts.parquet`` (``prompt_id``, ``prompt``), ``scores.npz``
    (``scores``, ``models``, ``prompt_ids``; a score is a quality), ``costs.npz`` (``models`` and any of ``cost_usd``,
    ``tokens_in``, ``tokens_out``) and ``meta.json`` (``prices_usd_per_mtok``: model to [input, output]).

    Parameters
    ----------
    path : str or path
    prices : mapping of model to Prices, optional
        List prices, before those of the folder. They fill in the costs that the file does not give, where both
        token counts are known; a cost in the file stays.

    Notes
    -----
    What is absent, empty or null is not known: NaN, never 0. Several lines of one prompt (the same text) and one model
    are repeats of a measurement: each number is the mean of those that are known. Prompts and models keep the order
    in which they first come; a folder keeps its rows as they are, repeats too, so that arrays beside it still fit.

    Raises
    ------
    InvalidDataError
        When a line cannot be used, with the file, the line, the value and the cure.
    ImportError
        When the file is Parquet and pyarrow is missing.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "outcomes.csv"
    ...     _ = path.write_text("prompt,model,quality,cost\n2 + 2?,poet,0,0.00001\n2 + 2?,sage,1,\n")
    ...     table = read_outcomes(path)
    >>> table.models, table.errors.tolist(), table.costs.tolist()
    (('poet', 'sage'), [[1.0, 0.0]], [[1e-05, nan]])
    """
    path, prices = Path(path), {} if prices is None else prices
    try:
        if path.is_dir():
            return _read_folder(path, prices)
        return tabulate(_read_file(path), prices)
    except UnicodeDecodeError as failure:
        raise InvalidDataError(f"{path}: byte {failure.start} is not UTF-8; save the file as UTF-8.") from failure
    except InvalidDataError as failure:
        raise InvalidDataError(f"{path}: {failure}") from failure


def _read_file(path: Path) -> Rows:
    match path.suffix.lower():
        case ".jsonl":
            return _read_jsonl(path)
        case ".csv":
            return _read_csv(path)
        case ".parquet":
            return _read_parquet(path)
        case ".pkl" | ".pickle":
            raise InvalidDataError(
                "a pickle runs whatever program it holds when it is opened, so it is never read; convert it once, in a "
                f"place you trust it in, with pandas.read_pickle({path.name!r}).to_parquet({path.stem + '.parquet'!r})."
            )
    raise InvalidDataError(
        f"{path.suffix or 'a file without suffix'} is not read; give .jsonl, .csv, .parquet or a folder."
    )


def _read_jsonl(path: Path) -> Rows:
    records: list[dict[str, Any]] = []
    places: list[int] = []
    with path.open(encoding="utf-8-sig") as text:
        for place, line in enumerate(text, 1):
            if line.isspace():
                continue
            try:
                record = json.loads(line)
            except ValueError as failure:
                raise InvalidDataError(
                    f"line {place}: {line[:60]!r} is not JSON ({failure}); write one object a line."
                ) from failure
            if not isinstance(record, dict):
                raise InvalidDataError(f"line {place}: {line[:60]!r} is not a JSON object; write one a line.")
            records.append(_flat(record))
            places.append(place)
    answers = find_answers(dict.fromkeys(name for record in records for name in record))
    rows = Rows(answers, {name: [record.get(name) for record in records] for name in _wanted(answers)}, places)
    if answers[0].model_column is not None:
        for row, record in enumerate(records):
            if answers[0].grade not in record:
                rows.refuse(row, f"it has no {answers[0].grade}; write null when it is not known.")
    return rows


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    """Return `record` with the fields of an object under ``column.field``, as Parquet flattens them."""
    if not any(isinstance(value, dict) for value in record.values()):
        return record
    flat: dict[str, Any] = {}
    for name, value in record.items():
        flat.update(
            {f"{name}.{field}": inner for field, inner in value.items()} if isinstance(value, dict) else {name: value}
        )
    return flat


def _read_csv(path: Path) -> Rows:
    limit = csv.field_size_limit(LONGEST_FIELD)
    try:
        with path.open(encoding="utf-8-sig", newline="") as text:
            lines = csv.reader(text, strict=True)
            try:
                return _read_csv_lines(lines)
            except csv.Error as failure:
                raise InvalidDataError(f"line {lines.line_num}: {failure}; quote fields as RFC 4180 does.") from failure
    finally:
        csv.field_size_limit(limit)


def _read_csv_lines(lines: Any) -> Rows:
    names: list[str] = next(lines, [])
    answers = find_answers(names)
    columns: dict[str, list[str]] = {name: [] for name in _wanted(answers)}
    positions = [(names.index(name), column) for name, column in columns.items()]
    places: list[int] = []
    kept: dict[str, str] = {}  # a prompt comes once for each model; one string serves them all
    place = lines.line_num + 1  # where the next record begins: one with line breaks takes several lines
    for fields in lines:
        if fields:
            if len(fields) != len(names):
                raise InvalidDataError(
                    f"line {place}: {len(fields)} fields, but the header has {len(names)}; quote commas."
                )
            for position, column in positions:
                column.append(kept.setdefault(fields[position], fields[position]))
            places.append(place)
        place = lines.line_num + 1
    return Rows(answers, columns, places)


def _wanted(answers: Sequence[AnswerColumns]) -> list[str]:
    return ["prompt", *(name for found in answers for name in found.names)]


def _read_parquet(path: Path) -> Rows:
    with _parquet(path) as file:
        names: list[str] = file.schema_arrow.empty_table().flatten().column_names  # a nested one becomes column.field
        answers = find_answers(names)
        columns = _parquet_columns(file, _wanted(answers))
    return Rows(answers, columns, range(1, len(columns["prompt"]) + 1), unit="row")


@contextmanager
def _parquet(path: Path) -> Iterator[Any]:
    """Open a Parquet file; what cannot be read in it is an `InvalidDataError`."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as missing:
        raise ImportError("pyarrow is missing: pip install 'unirouter[parquet]'.") from missing
    try:
        with parquet.ParquetFile(path) as file:
            yield file
    except pyarrow.ArrowException as failure:
        raise InvalidDataError(f"it cannot be read as Parquet ({failure}); write it again.") from failure


def _parquet_columns(file: Any, names: Sequence[str]) -> dict[str, list[Any]]:
    table = file.read(columns=list(names)).flatten()
    missing = [name for name in names if name not in table.column_names]
    if missing:
        raise InvalidDataError(f"it has no column {missing[0]!r}; it has {', '.join(file.schema_arrow.names)}.")
    return {name: table.column(name).to_pylist() for name in names}


def _read_folder(folder: Path, given: Mapping[str, Prices]) -> Outcomes:
    missing = [name for name in FOLDER_FILES if not (folder / name).is_file()]
    if missing:
        raise InvalidDataError(f"{missing[0]} is not in it; a folder of outcomes holds {', '.join(FOLDER_FILES)}.")
    with _parquet(folder / "prompts.parquet") as file:
        prompts = _parquet_columns(file, ["prompt", "prompt_id"])
    scores = _arrays(folder / "scores.npz", ("scores", "models", "prompt_ids"))
    if scores["prompt_ids"].tolist() != prompts["prompt_id"]:
        raise InvalidDataError(
            "prompt_ids in scores.npz are not prompt_id in prompts.parquet; write both in one order."
        )
    models = scores["models"].tolist()
    shape = (len(prompts["prompt"]), len(models))
    quality = _matrix(scores, "scores", shape, range(len(models)), top=1)
    costs, tokens_in, tokens_out = _folder_amounts(folder / "costs.npz", models, shape)
    prices = {**_folder_prices(folder / "meta.json"), **given}
    costs = fill_costs(costs, tokens_in, tokens_out, np.arange(len(models)), models, prices)
    known = {model: prices[model] for model in models if model in prices}
    return Outcomes(prompts["prompt"], models, 1 - quality, costs, tokens_in, tokens_out, known)


def _folder_amounts(path: Path, models: Sequence[str], shape: tuple[int, int]) -> list[Array]:
    """Return the USD, the tokens in and the tokens out, each with its columns in the order of `models`."""
    arrays = _arrays(path, ("models",))
    places = {model: column for column, model in enumerate(arrays["models"].tolist())}
    if places.keys() != set(models):
        odd = sorted(places.keys() ^ set(models))[0]
        raise InvalidDataError(
            f"model {odd!r} is in only one of scores.npz and {path.name}; give both the same models."
        )
    columns = [places[model] for model in models]
    return [_matrix(arrays, name, shape, columns) for name in ("cost_usd", "tokens_in", "tokens_out")]


def _arrays(path: Path, required: Sequence[str]) -> dict[str, Any]:
    """Return the arrays of an ``.npz`` file; those of Python objects are refused, as reading them unpickles."""
    try:
        with np.load(path, allow_pickle=False) as kept:
            arrays = dict(kept)
    except (ValueError, OSError, EOFError, TypeError, BadZipFile, zlib.error) as failure:
        raise InvalidDataError(
            f"{path.name} cannot be read ({failure}); write it with numpy.savez, text as str arrays."
        ) from failure
    missing = [name for name in required if name not in arrays]
    if missing:
        raise InvalidDataError(f"{path.name} has no {missing[0]!r}; it has {', '.join(arrays)}.")
    return arrays


def _matrix(
    arrays: Mapping[str, Any], name: str, shape: tuple[int, int], columns: Sequence[int], top: float = AMOUNT
) -> Array:
    """Return the array `name` in [0, `top`] with its columns in the order `columns`; all NaN when there is none."""
    if name not in arrays:
        return np.full(shape, np.nan)
    if arrays[name].shape != shape:
        raise InvalidDataError(
            f"{name} has shape {arrays[name].shape}, but {shape[0]} prompts and {shape[1]} models need {shape}."
        )
    matrix: Array = arrays[name].astype(np.float64)[:, columns]
    outside = (matrix < 0) | (matrix > top)
    if outside.any():
        row, column = np.argwhere(outside)[0]
        raise InvalidDataError(f"row {row + 1}: {out_of_range(name, float(matrix[row, column]), top)}")
    return matrix


def _folder_prices(path: Path) -> dict[str, Prices]:
    try:
        listed = json.loads(path.read_text(encoding="utf-8")).get("prices_usd_per_mtok") or {}
        return {model: Prices(price_in, price_out) for model, (price_in, price_out) in listed.items()}
    except (AttributeError, TypeError, ValueError) as failure:
        raise InvalidDataError(
            f"{path.name}: {failure}; prices_usd_per_mtok maps a model to [input, output] in USD."
        ) from failure
