"""What a call costs: prices, and the expected USD of each (prompt, model) from tokens and regions."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unirouter_core.embedding import Array, Labels
from unirouter_core.exceptions import InvalidDataError

TOKENS_PER_PRICE = 1e6  # prices are quoted per million tokens, as every provider does


@dataclass(frozen=True)
class Prices:
    """A model's prices in USD per million tokens.

    Parameters
    ----------
    input, output : float
        USD per million tokens of the prompt and of the answer.
    cached_input : float, optional
        USD per million prompt tokens that the provider has cached; `input` when not given.

    Raises
    ------
    InvalidDataError
        When a price is negative or not finite.

    Examples
    --------
    >>> Prices(input=3.0, output=15.0).cost(tokens_in=1_000, tokens_out=200)
    0.006
    """

    input: float
    output: float
    cached_input: float | None = None

    def __post_init__(self) -> None:
        for name in ("input", "output", "cached_input"):
            price = getattr(self, name)
            if price is None and name == "cached_input":
                continue
            if not isinstance(price, (int, float)) or not 0 <= price < np.inf:
                raise InvalidDataError(
                    f"Price {name}={price!r} must be a finite number of USD per million tokens, >= 0."
                )

    @property
    def cached(self) -> float:
        """USD per million cached prompt tokens."""
        return self.input if self.cached_input is None else self.cached_input

    def cost(self, tokens_in: float, tokens_out: float, cached_tokens: float = 0) -> float:
        """Return the USD of one call; `cached_tokens` are part of `tokens_in`."""
        fresh = tokens_in - cached_tokens
        return (fresh * self.input + cached_tokens * self.cached + tokens_out * self.output) / TOKENS_PER_PRICE


PRIOR_ANSWERS = 10.0
"""How many answers a model's overall mean counts for in each region, as in the shrunken clusters."""


def region_tokens(tokens_out: Array, regions: Labels, n_regions: int) -> Array:
    """Return the expected output tokens in each region, shape (n_regions,).

    Lengths are skewed, so each region's mean is of logarithms, pulled to the model's overall one; one factor for
    all regions then makes the sum of the expectations the sum of what was seen (Duan's smearing).

    Parameters
    ----------
    tokens_out : array (n,)
        Answers' lengths; NaN is left out.
    regions : array (n,)
    n_regions : int
    """
    known = ~np.isnan(tokens_out)
    lengths, regions = tokens_out[known], regions[known]
    typical = np.exp(_region_means(np.log1p(lengths), regions, n_regions))
    factor = (lengths + 1).sum() / typical[regions].sum()
    return np.asarray(np.maximum(factor * typical - 1, 0))


FEWEST_SENT = 10
"""Fewer calls do not tell what comes with every prompt from what grows with it."""


def sent_tokens(counted: Array, tokens_in: Array) -> tuple[float, float]:
    """Return how many tokens come with every prompt, and how many go for each that the router counts.

    A system prompt is the same however long the prompt is, another tokenizer counts longer prompts higher: a straight
    line, by least squares. Where that has no meaning (fewer than 10 calls, prompts of one length, a side of the line
    below 0), all is in the ratio; it is 1 where nothing is known.

    Parameters
    ----------
    counted : array (n,)
        Each prompt's tokens as the router counts them.
    tokens_in : array (n,)
        As the provider counted what was sent; NaN is left out.

    Examples
    --------
    >>> counted = np.arange(1.0, 11.0)
    >>> sent_tokens(counted, 100 + 2 * counted)
    (100.0, 2.0)
    """
    both = ~np.isnan(tokens_in) & (counted > 0)
    counted, tokens_in = counted[both], tokens_in[both]
    if not len(counted):
        return 0.0, 1.0
    apart = counted - counted.mean()
    spread = float(apart @ apart)
    if len(counted) >= FEWEST_SENT and spread > 0:
        slope = float(apart @ tokens_in) / spread
        fixed = float(tokens_in.mean() - slope * counted.mean())
        if slope > 0 and fixed >= 0:
            return fixed, slope
    return 0.0, float(tokens_in.sum() / counted.sum())


SURE = 2.0
"""Standard errors above 0 from which on a slope is more than luck."""


def usd_per_token(counted: Array, costs: Array) -> float:
    """Return the USD that each token of a prompt adds to a call of which only the USD is known; 0 where none is seen.

    Parameters
    ----------
    counted : array (n,)
        Each prompt's tokens as the router counts them.
    costs : array (n,)
        USD; NaN is left out.

    Examples
    --------
    >>> counted = np.arange(1.0, 11.0)
    >>> usd_per_token(counted, 0.5 + 0.25 * counted)
    0.25
    """
    known = ~np.isnan(costs)
    counted, costs = counted[known], costs[known]
    apart = counted - counted.mean()
    spread = float(apart @ apart)
    if len(counted) < FEWEST_SENT or not spread:
        return 0.0
    slope = float(apart @ costs) / spread
    residual = costs - costs.mean() - slope * apart
    stderr = np.sqrt(float(residual @ residual) / (len(counted) - 2) / spread)
    most = float(costs.mean() / counted.mean())  # with more, a call without a prompt would cost less than nothing
    return min(slope, most) if slope > SURE * stderr else 0.0


def region_usd(costs: Array, regions: Labels, n_regions: int) -> Array:
    """Return the mean USD in each region, pulled to the overall mean, shape (n_regions,); NaN is left out."""
    known = ~np.isnan(costs)
    return _region_means(costs[known], regions[known], n_regions)


def _region_means(values: Array, regions: Labels, n_regions: int) -> Array:
    counts = np.bincount(regions, minlength=n_regions)
    sums = np.bincount(regions, weights=values, minlength=n_regions)
    return np.asarray((sums + PRIOR_ANSWERS * values.mean()) / (counts + PRIOR_ANSWERS))


@dataclass(frozen=True, eq=False)
class CallCost:
    """What calls of one model are expected to cost: so much a prompt token, an answer in each region, and a call.

    Parameters
    ----------
    per_token, per_cached_token : float
        USD for each prompt token that the router counts.
    per_answer : array (n_regions,)
        USD of the answer, or of all that does not grow with the prompt where only the whole call's is known.
    per_call : float
        USD of what is sent with every prompt, as a system prompt is.
    """

    per_token: float
    per_cached_token: float
    per_answer: Array
    per_call: float = 0.0


EXACT, FEWEST_EXACT = 0.02, 10
"""Recorded costs, each of which two prices explain to this share, on this many calls, are list prices times tokens."""


def implied_prices(costs: Array, tokens_in: Array, tokens_out: Array) -> Prices | None:
    """Return the prices that recorded costs were made with, or None when no two prices explain them.

    Parameters
    ----------
    costs : array (n,)
        USD.
    tokens_in, tokens_out : array (n,)
        As the provider counted them.

    Examples
    --------
    >>> tokens_out = np.arange(1, 11) * 1e6
    >>> implied_prices(2.0 + 3.0 * tokens_out / 1e6, np.full(10, 1e6), tokens_out)
    Prices(input=2.0, output=3.0, cached_input=None)
    """
    known = ~np.isnan(costs + tokens_in + tokens_out)
    if known.sum() < FEWEST_EXACT or not costs[known].any():
        return None
    tokens = np.stack([tokens_in[known], tokens_out[known]], axis=1) / TOKENS_PER_PRICE
    prices, *_ = np.linalg.lstsq(tokens, costs[known], rcond=None)
    floor = EXACT * costs[known].mean()  # a cost near $0 may be rounded
    apart = (np.abs(tokens @ prices - costs[known]) / np.maximum(costs[known], floor)).max()
    if np.linalg.matrix_rank(tokens) < 2 or prices.min() < -EXACT * prices.max() or apart > EXACT:
        return None
    each = [float(f"{max(price, 0.0):.6g}") for price in prices]  # rounding in the file is not a price
    return Prices(*each)


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
