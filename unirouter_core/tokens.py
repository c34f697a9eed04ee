"""How many tokens a prompt has, counted without a network."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unirouter_core.embedding import Array
from unirouter_core.exceptions import InvalidDataError

ENCODING = "cl100k_base"
"""tiktoken's table for counting; a model's own ratio to it is measured when it is onboarded."""

BY_CHARACTERS = "characters / 4"
"""The name of the count that needs no table: close for English prose, low for code and other scripts."""

_TABLE = "https://openaipublic.blob.core.windows.net/encodings/cl100k_base.tiktoken"
_TABLE_DIGEST = "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"
_TABLE_FOLDERS = {"litellm": "litellm_core_utils/tokenizers", "llama_index": "core/_static/tiktoken_cache"}
_LOCK = threading.Lock()  # while the variable is another


class TokenCounter:
    """Counts tokens with tiktoken where a table is on this machine, else a token for every 4 characters.

    The table is looked for, at the first count, where `TIKTOKEN_CACHE_DIR` points and where LiteLLM and LlamaIndex
    keep theirs; it is never downloaded.

    Parameters
    ----------
    name : str, optional
        The count that models were measured with; another one at hand is warned of, once.

    Examples
    --------
    >>> TokenCounter(BY_CHARACTERS).count(["What is 2 + 2?"]).tolist()
    [4.0]
    """

    def __init__(self, name: str | None = None) -> None:
        self._encoding: Any = None
        self._asked, self._name = name, BY_CHARACTERS if name == BY_CHARACTERS else None

    @property
    def name(self) -> str:
        """Which count this is: the table's name, or "characters / 4"."""
        if self._name is None:
            self._encoding = _load_table()
            self._name = BY_CHARACTERS if self._encoding is None else ENCODING
            if self._asked not in (None, self._name):
                warnings.warn(
                    f"Tokens are counted as {self._name}, but were as {self._asked} when the models were measured: "
                    "expected costs are off by a little. Install litellm, or point TIKTOKEN_CACHE_DIR at the table.",
                    stacklevel=3,
                )
        return self._name

    def count(self, prompts: Sequence[str]) -> Array:
        """Return the number of tokens of each prompt, shape (n,)."""
        if self.name == BY_CHARACTERS:
            return np.ceil(np.array([len(prompt) for prompt in prompts], np.float64) / 4)
        return np.array([len(self._encoding.encode_ordinary(prompt)) for prompt in prompts], np.float64)


def _folders() -> Iterator[Path]:
    if folder := os.environ.get("TIKTOKEN_CACHE_DIR"):
        yield Path(folder)
    for package, inside in _TABLE_FOLDERS.items():
        found = importlib.util.find_spec(package)  # finds without importing
        for place in (found.submodule_search_locations or []) if found else []:
            yield Path(place) / inside


def _is_table(file: Path) -> bool:
    """Return whether `file` is the whole table: any other, tiktoken would delete and download anew."""
    return file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == _TABLE_DIGEST


def _load_table() -> Any:
    """Return tiktoken's encoding from a table on this machine, or None."""
    file = hashlib.sha1(_TABLE.encode(), usedforsecurity=False).hexdigest()  # how tiktoken names its copies
    folder = next((folder for folder in _folders() if _is_table(folder / file)), None)
    if folder is None:
        return None
    import tiktoken

    with _LOCK:
        before = os.environ.get("TIKTOKEN_CACHE_DIR")
        os.environ["TIKTOKEN_CACHE_DIR"] = str(folder)  # tiktoken takes a folder in no other way
        try:
            return tiktoken.get_encoding(ENCODING)
        finally:
            if before is None:
                del os.environ["TIKTOKEN_CACHE_DIR"]
            else:
                os.environ["TIKTOKEN_CACHE_DIR"] = before


def check_count(given: float, what: str) -> Array:
    """Return one token count as an array (1,), checked without numpy, which takes longer than all the rest."""
    if not isinstance(given, (int, float, np.number)) or not 0 <= given < np.inf:
        raise InvalidDataError(f"{what}={given!r} must be a finite number >= 0.")
    return np.array([given], np.float64)


def check_counts(given: Any, n: int, what: str) -> Array:
    """Return token counts as floats, (n,), checked."""
    try:
        amounts = np.asarray(given, np.float64)
    except (TypeError, ValueError):
        amounts = np.array(np.nan)  # refused below, by its value
    if amounts.shape != (n,) or not np.isfinite(amounts).all() or (amounts < 0).any():
        raise InvalidDataError(f"{what}={given!r} must be {n} finite numbers >= 0.")
    return amounts


def check_cached(cached: Array, tokens: Array) -> Array:
    """Return the cached tokens, checked to be part of `tokens`; both are (n,), or by model (n, m)."""
    if tokens.ndim == cached.ndim:
        most = tokens
    else:
        most = tokens.min(axis=1) if tokens.ndim == 2 else np.repeat(tokens[:, None], cached.shape[1], axis=1)
    if (cached > most).any():
        where = np.unravel_index(np.argmax(cached > most), cached.shape)
        raise InvalidDataError(
            f"cached_tokens={cached[where]:g} are part of tokens_in={most[where]:g} and cannot be more; give "
            "tokens_in, the tokens of all that will be sent."
        )
    return cached
