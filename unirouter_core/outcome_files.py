"""Columns to `Outcomes`: our own form, RouterBench, EmbedLLM, SPROUT; and folders of arrays."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unirouter_core.costs import Prices
from unirouter_core.data import CELLS, Outcomes, as_array
from unirouter_core.embedding import Array, Labels
from unirouter_core.exceptions import InvalidDataError
from unirouter_core.reading import (
    ABSENT,
    AMOUNT,
    MOST_JSON,
    Columns,
    out_of_range,
    parse_json,
    parse_npz,
    read_bytes,
    read_columns,
    read_parquet,
    readable,
)

FOLDER_FILES = ("prompts.parquet", "scores.npz", "costs.npz", "meta.json")
NAMES_SHOWN = 8  # a wide table has dozens of columns; the first few tell which file it is


def read_outcomes(given: Any, *, prices: Mapping[str, Prices] | None = None) -> Outcomes:
    r"""Return the outcomes in a file, a folder, a data frame or rows.

    What is given is a file, ``.jsonl``, ``.csv`` or ``.parquet`` (UTF-8; Parquet needs ``unirouter[parquet]``), a data
    frame of pandas or polars, or rows (mappings), and holds one of:

    - our own form, a line for each (prompt, model): ``prompt``, ``model``, exactly one of ``error`` and ``quality``
      (in [0, 1], quality = 1 - error), and where known ``cost`` (USD), ``tokens_in``, ``tokens_out``;
    - RouterBench (``<model>``, ``<model>|total_cost``), saved as Parquet or CSV;
    - EmbedLLM (``prompt``, ``model_name``, ``label``), which has no costs;
    - SPROUT (a nested column for each model), which has tokens, and costs when `prices` are given.

    Other columns are ignored. A folder holds ``prompts.parquet`` (``prompt_id``, ``prompt``), ``scores.npz``
    (``scores``, ``models``, ``prompt_ids``; a score is a quality), ``costs.npz`` (``models`` and any of ``cost_usd``,
    ``tokens_in``, ``tokens_out``) and ``meta.json`` (``prices_usd_per_mtok``: model to [input, output]). Nothing is
    ever unpickled. Raises `InvalidDataError` when a line cannot be used, with the file, the line, the value and the
    cure; `ImportError` when the file is Parquet and pyarrow is missing.

    Parameters
    ----------
    prices : mapping of model to Prices, optional
        List prices, before those of the folder. They fill in the costs that the file does not give, where both
        token counts are known; a cost in the file stays.

    Notes
    -----
    What is absent, empty or null is not known: NaN, never 0. Several lines of one prompt (the same text) and one model
    are repeats of a measurement: each number is the mean of those that are known. Prompts and models keep the order
    in which they first come; a folder keeps its rows as they are, repeats too, so that arrays beside it still fit.

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
    prices, named = {} if prices is None else prices, isinstance(given, str | os.PathLike)
    try:
        with readable("it cannot be read", "give a file of outcomes that can"):
            if named and Path(given).is_dir():
                return _read_folder(Path(given), prices)
            return to_outcomes(read_columns(given, _wanted), prices)
    except InvalidDataError as failure:
        raise InvalidDataError(f"{given if named else 'The outcomes'}: {failure}") from failure


class _Answers(NamedTuple):
    """The columns of one model's answers, or of the models that `model_column` names."""

    grade: str
    model: str | None = None
    model_column: str | None = None
    cost: str | None = None
    tokens_in: str | None = None
    tokens_out: str | None = None


def _find_answers(names: Collection[str]) -> list[_Answers]:
    """Return where a table with the columns `names` keeps its outcomes; a nested field is named ``column.field``."""
    found: list[_Answers] = []
    if "prompt" in names and "model" in names:
        grades = [name for name in ("error", "quality") if name in names]
        if len(grades) != 1:
            holds = "both error and quality" if grades else "neither error nor quality"
            raise InvalidDataError(f"it holds {holds}; give one of the two, in [0, 1] (error = 1 - quality).")
        amounts = {name: name for name in ("cost", "tokens_in", "tokens_out") if name in names}
        found = [_Answers(grades[0], model_column="model", **amounts)]
    elif "prompt" in names and "model_name" in names and "label" in names:
        found = [_Answers("label", model_column="model_name")]  # EmbedLLM: 1 is right
    elif "prompt" in names:
        priced = [name.removesuffix("|total_cost") for name in names if name.endswith("|total_cost")]
        found = [_Answers(name, name, cost=f"{name}|total_cost") for name in priced if name in names]  # RouterBench
        for name in () if found else [name.removesuffix(".score") for name in names if name.endswith(".score")]:
            tokens = f"{name}.num_input_tokens", f"{name}.num_output_tokens"  # SPROUT
            found += [_Answers(f"{name}.score", name, None, None, *tokens)] if {*tokens} <= {*names} else []
    if not found:
        shown = ", ".join(map(repr, list(names)[:NAMES_SHOWN])) + (", …" if len(names) > NAMES_SHOWN else "")
        raise InvalidDataError(
            f"the columns {shown or '(none)'} are not outcomes; give prompt, model, and error or quality "
            "(or the columns of RouterBench, EmbedLLM or SPROUT as published)."
        )
    return found


def _wanted(names: Collection[str]) -> list[str]:
    columns = [(found.grade, *found[2:]) for found in _find_answers(names)]
    return ["prompt", *(name for each in columns for name in each if name is not None)]


def to_outcomes(table: Columns, prices: Mapping[str, Prices] | None = None) -> Outcomes:
    """Return the outcomes of a table: the mean of what is known where a prompt and a model come again."""
    if not table.places:
        _find_answers(table.values)
        raise InvalidDataError("it holds no outcomes; give at least one.")
    prompts, names, blocks = table.texts("prompt"), list[Any](), []
    for found in _find_answers(table.values):
        names += [found.model] * len(prompts) if found.model_column is None else table.texts(found.model_column)
        if found.model is None and ABSENT in table.values[found.grade]:
            table.refuse(
                table.values[found.grade].index(ABSENT), f"it has no {found.grade}; write null when not known."
            )
        grades = table.numbers(found.grade, top=1)
        errors = grades if found.grade == "error" and found.model is None else 1 - grades
        blocks.append([errors, *(table.numbers(name) for name in (found.cost, found.tokens_in, found.tokens_out))])
    lines = dict(zip(CELLS, map(np.concatenate, zip(*blocks, strict=True)), strict=True))
    known = dict(prices or {})
    lines["costs"] = _fill_costs(lines["costs"], lines["tokens_in"], lines["tokens_out"], names, known)
    row_of = {prompt: row for row, prompt in enumerate(dict.fromkeys(prompts))}
    column_of = {model: column for column, model in enumerate(dict.fromkeys(names))}
    shape = len(row_of), len(column_of)
    rows_of_lines = np.array([row_of[prompt] for prompt in prompts] * len(blocks))
    cells = rows_of_lines * shape[1] + np.array([column_of[name] for name in names])
    arrays = {name: _means(cells, values, shape) for name, values in lines.items()}
    return Outcomes(list(row_of), list(column_of), **arrays, prices=_of_models(known, column_of))


def _of_models(prices: Mapping[str, Prices], models: Iterable[str]) -> dict[str, Prices]:
    return {model: prices[model] for model in models if model in prices}


def _fill_costs(
    costs: Array, tokens_in: Array, tokens_out: Array, models: Sequence[str], prices: Mapping[str, Prices]
) -> Array:
    """Return `costs` with unknown ones computed where tokens and price are known; `models` names the last axis."""
    usd = {model: (each.cost(1, 0), each.cost(0, 1)) for model, each in prices.items()}
    per_token = np.array([usd.get(model, (np.nan, np.nan)) for model in models])
    return np.where(np.isnan(costs), tokens_in * per_token[:, 0] + tokens_out * per_token[:, 1], costs)


def _means(cells: Labels, values: Array, shape: tuple[int, int]) -> Array:
    """Return the mean of the known `values` in each cell, NaN where there is none."""
    known, size = ~np.isnan(values), shape[0] * shape[1]
    sums, counts = np.bincount(cells[known], values[known], size), np.bincount(cells[known], minlength=size)
    means: Array = np.divide(sums, counts, out=np.full(size, np.nan), where=counts > 0)
    return means.reshape(shape)


def _read_folder(folder: Path, given: Mapping[str, Prices]) -> Outcomes:
    missing = [name for name in FOLDER_FILES if not (folder / name).is_file()]
    if missing:
        raise InvalidDataError(f"{missing[0]} is not in it; a folder of outcomes holds {', '.join(FOLDER_FILES)}.")
    table = read_parquet(folder / "prompts.parquet", lambda _: ["prompt", "prompt_id"])
    scores = _arrays(folder / "scores.npz", ("scores", "models", "prompt_ids"))
    amounts = _arrays(folder / "costs.npz", ("models",))
    if scores["prompt_ids"].tolist() != table.values["prompt_id"]:
        raise InvalidDataError("prompt_ids in scores.npz are not those in prompts.parquet; write both in one order.")
    models, others = scores["models"].tolist(), amounts["models"].tolist()
    if odd := sorted({*map(str, models)} ^ {*map(str, others)}):
        raise InvalidDataError(f"model {odd[0]!r} is in only one of scores.npz and costs.npz; name it in both.")
    shape, order = (len(table.places), len(models)), [others.index(model) for model in models]
    quality = _matrix(scores, "scores", shape, top=1)
    costs, *tokens = (_matrix(amounts, name, shape)[:, order] for name in ("cost_usd", "tokens_in", "tokens_out"))
    with readable("meta.json: its prices cannot be read", "prices_usd_per_mtok maps a model to [input, output] in USD"):
        listed = parse_json(read_bytes(folder / "meta.json", MOST_JSON)).get("prices_usd_per_mtok") or {}
        prices = {model: Prices(price_in, price_out) for model, (price_in, price_out) in listed.items()} | dict(given)
    costs = _fill_costs(costs, *tokens, models, prices)
    return Outcomes(table.texts("prompt"), models, 1 - quality, costs, *tokens, _of_models(prices, models))


def _arrays(path: Path, required: Sequence[str]) -> dict[str, Any]:
    with readable(f"{path.name} cannot be read", "write it with numpy.savez, text as str arrays"):
        arrays = parse_npz(read_bytes(path))
    if missing := [name for name in required if name not in arrays]:
        raise InvalidDataError(f"{path.name} has no {missing[0]!r}; it has {', '.join(arrays)}.")
    return arrays


def _matrix(arrays: Mapping[str, Any], name: str, shape: tuple[int, int], top: float = AMOUNT) -> Array:
    """Return the array `name`, in [0, `top`]; all NaN when there is none."""
    matrix = as_array(name, arrays.get(name), shape)
    outside = (matrix < 0) | (matrix > top)
    if outside.any():
        row, column = np.argwhere(outside)[0]
        raise InvalidDataError(f"row {row + 1}: {out_of_range(name, float(matrix[row, column]), top)}")
    return matrix
