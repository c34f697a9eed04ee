"""A file of prices to the prices of models."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unirouter_core.costs import TOKENS_PER_PRICE, Prices
from unirouter_core.exceptions import InvalidDataError
from unirouter_core.reading import MOST_JSON, parse_json, read_bytes, read_columns, readable

_NAMES = {
    "input": ("input", "price_in", "input_price", "input_usd_per_million", "prompt"),
    "output": ("output", "price_out", "output_price", "output_usd_per_million", "completion"),
    "cached_input": ("cached_input", "cached"),
}
_PER_TOKEN = {
    "input": "input_cost_per_token",
    "output": "output_cost_per_token",
    "cached_input": "cache_read_input_token_cost",
}
_FORM = "each model has input and output, in USD per million tokens"


def read_prices(path: str | os.PathLike[str]) -> dict[str, Prices]:
    """Return the prices in a file by model, USD per million tokens.

    A ``.csv`` has the columns model, input, output; ``.json`` and ``.toml`` map a model to ``{"input": 0.1, "output":
    0.4}`` or to ``[0.1, 0.4]``. A pool.toml is read, and a price map as LiteLLM writes it. Raises `InvalidDataError`.
    """
    path = Path(path)
    try:
        with readable("it cannot be read", f"{_FORM}, in .csv, .json or .toml"):
            match path.suffix.lower():
                case ".toml":
                    table = tomllib.loads(read_bytes(path, MOST_JSON).decode("utf-8-sig"))
                    table = table.get("models", table)
                case ".json":
                    table = parse_json(read_bytes(path, MOST_JSON))
                case ".csv" | ".tsv":
                    columns = read_columns(path)
                    names = columns.texts("model" if "model" in columns.values else next(iter(columns.values)))
                    rows = zip(*columns.values.values(), strict=True)
                    table = {
                        name: dict(zip(columns.values, row, strict=True)) for name, row in zip(names, rows, strict=True)
                    }
                case _:
                    raise InvalidDataError("it is no file of prices; give .csv, .json or .toml.")
            found = {str(name): _prices(str(name), entry) for name, entry in table.items()}
            for name, entry in table.items():  # a pool's members by the names that their providers know, too
                if isinstance(entry, Mapping) and isinstance(model := entry.get("model"), str) and name in found:
                    found.setdefault(model, found[name])
            priced = {name: prices for name, prices in found.items() if prices is not None}
            if not priced:
                raise InvalidDataError(f"it has no prices; {_FORM}.")
            return priced
    except InvalidDataError as failure:
        raise InvalidDataError(f"{path}: {failure}") from failure


def _prices(name: str, entry: Any) -> Prices | None:
    """Return the prices of an entry; None where it has none."""
    entry = entry.get("prices", entry) if isinstance(entry, Mapping) else entry
    try:
        if isinstance(entry, list | tuple):
            return Prices(*map(float, entry))
        if not isinstance(entry, Mapping):
            return None
        found = {kind: entry[key] for kind, keys in _NAMES.items() for key in keys if entry.get(key) not in (None, "")}
        if "input" in found and "output" in found:
            return Prices(**{kind: float(value) for kind, value in found.items()})
        listed = {kind: float(entry[key]) for kind, key in _PER_TOKEN.items() if entry.get(key)}
        if "input" in listed and "output" in listed:
            return Prices(**{kind: float(f"{usd * TOKENS_PER_PRICE:.6g}") for kind, usd in listed.items()})
        return None
    except (TypeError, ValueError, InvalidDataError) as failed:
        raise InvalidDataError(f"prices of {name!r}: {str(failed).rstrip('.')}; {_FORM}.") from failed
