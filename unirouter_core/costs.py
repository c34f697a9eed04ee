"""What a call costs: prices, tokens counted without a network, and the expected USD of a call by region."""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib.util
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unirouter_core.embedding import Array, Labels
from unirouter_core.exceptions import InvalidDataError, as_number, shown

TOKENS_PER_PRICE = 1e6  # prices are quoted per million tokens, as every provider does
PRIOR_ANSWERS = 10.0  # the weight of a model's overall mean in each region, as in the shrunken clusters
FEWEST_CALLS = 10  # fewer cannot separate a call's fixed tokens from those that grow with the prompt
SURE = 2.0  # a slope this many standard errors above 0 is significant
EXACT = 0.02  # the largest relative error at which recorded costs are list prices times tokens


@dataclass(frozen=True)
class Prices:
    """A model's prices in USD per million tokens. Raises `InvalidDataError` when a price is negative or not finite.

    Parameters
    ----------
    input, output : float
        USD per million tokens of the prompt and of the answer.
    cached_input : float, optional
        USD per million prompt tokens that the provider has cached; `input` when not given.

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
            if not 0 <= as_number(price) < np.inf and (name != "cached_input" or price is not None):
                raise InvalidDataError(
                    f"Price {name}={shown(price)} must be a finite number of USD per million tokens, >= 0."
                )

    @property
    def cached(self) -> float:
        """USD per million cached prompt tokens."""
        return self.input if self.cached_input is None else self.cached_input

    def cost(self, tokens_in: float, tokens_out: float, cached_tokens: float = 0) -> float:
        """Return the USD of one call; `cached_tokens` are part of `tokens_in`."""
        fresh = tokens_in - cached_tokens
        return (fresh * self.input + cached_tokens * self.cached + tokens_out * self.output) / TOKENS_PER_PRICE


@dataclass(frozen=True, eq=False)
class CallCost:
    """The expected USD of a call of one model, by the prompt tokens that the router counts."""

    per_token: float
    per_cached_token: float
    per_answer: Array  # by region, (n_regions,); all that is fixed where only the USD of whole calls is known
    per_call: float = 0.0  # of the tokens that are sent with every prompt


# --- From recorded calls ----------------------------------------------------------------------------------------------


def region_tokens(tokens_out: Array, regions: Labels, n_regions: int) -> Array:
    """Return the expected output tokens in each region, (n_regions,), from answers' lengths (n,); NaN is left out.

    Lengths are skewed: means are of logarithms, shrunk to the overall one, and rescaled to the true sum (Duan's
    smearing).
    """
    known = ~np.isnan(tokens_out)
    lengths, regions = tokens_out[known], regions[known]
    typical = np.exp(_region_means(np.log1p(lengths), regions, n_regions))
    factor = (lengths + 1).sum() / typical[regions].sum()
    return np.asarray(np.maximum(factor * typical - 1, 0))


def region_usd(costs: Array, regions: Labels, n_regions: int) -> Array:
    """Return the mean USD in each region, shrunk to the overall mean, shape (n_regions,); NaN is left out."""
    known = ~np.isnan(costs)
    return _region_means(costs[known], regions[known], n_regions)


def _region_means(values: Array, regions: Labels, n_regions: int) -> Array:
    counts = np.bincount(regions, minlength=n_regions)
    sums = np.bincount(regions, weights=values, minlength=n_regions)
    return np.asarray((sums + PRIOR_ANSWERS * values.mean()) / (counts + PRIOR_ANSWERS))


def sent_tokens(counted: Array, tokens_in: Array) -> tuple[float, float]:
    """Return intercept and slope of the provider's `tokens_in` over the tokens `counted` by the router, both (n,).

    By least squares, NaN left out. Where that is unusable (fewer than 10 calls, prompts of one length, a negative
    coefficient) the intercept is 0 and the slope the ratio of the sums; it is 1 where nothing is known.
    """
    both = ~np.isnan(tokens_in) & (counted > 0)
    counted, tokens_in = counted[both], tokens_in[both]
    if not len(counted):
        return 0.0, 1.0
    slope, _ = _line(counted, tokens_in)
    fixed = float(tokens_in.mean() - slope * counted.mean())
    return (fixed, slope) if slope > 0 and fixed >= 0 else (0.0, float(tokens_in.sum() / counted.sum()))


def usd_per_token(counted: Array, costs: Array) -> float:
    """Return the slope of `costs` (n,) in USD over the prompts' tokens; 0 where not significant, NaN is left out."""
    known = ~np.isnan(costs)
    counted, costs = counted[known], costs[known]
    slope, stderr = _line(counted, costs)
    most = float(costs.mean() / counted.mean())  # with more, an empty prompt would cost less than $0
    return min(slope, most) if slope > SURE * stderr else 0.0


def _line(x: Array, y: Array) -> tuple[float, float]:
    """Return the slope of y over x, both (n,), by least squares, and its standard error; 0 where not known."""
    centred = x - x.mean()
    spread = float(centred @ centred)
    if len(x) < FEWEST_CALLS or not spread:
        return 0.0, 0.0
    slope = float(centred @ y) / spread
    residual = y - y.mean() - slope * centred
    return slope, float(np.sqrt(float(residual @ residual) / (len(x) - 2) / spread))


def implied_prices(costs: Array, tokens_in: Array, tokens_out: Array) -> Prices | None:
    """Return the prices that explain recorded costs (n,) in USD, or None when no two prices do."""
    known = ~np.isnan(costs + tokens_in + tokens_out)
    if known.sum() < FEWEST_CALLS or not costs[known].any():
        return None
    tokens = np.stack([tokens_in[known], tokens_out[known]], axis=1) / TOKENS_PER_PRICE
    prices, *_ = np.linalg.lstsq(tokens, costs[known], rcond=None)
    floor = EXACT * costs[known].mean()  # a cost near $0 may be rounded
    worst = (np.abs(tokens @ prices - costs[known]) / np.maximum(costs[known], floor)).max()
    if np.linalg.matrix_rank(tokens) < 2 or prices.min() < -EXACT * prices.max() or worst > EXACT:
        return None
    return Prices(*(float(f"{max(price, 0.0):.6g}") for price in prices))  # rounding in the file is not a price


# --- Tokens -----------------------------------------------------------------------------------------------------------

ENCODING = "cl100k_base"  # tiktoken's table for counting; a model's own ratio to it is measured at onboarding
BY_CHARACTERS = "characters / 4"  # the count that needs no table: close for English, low for code and other scripts
PIECES, PIECE = 64, 16_384  # of a long prompt, and the characters of each
_TABLE = "9b5ad71b2ce5302211f9c61530b329a4922fc6a4"  # the table's file, as tiktoken names its copies
_TABLE_DIGEST = "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"
_TABLE_FOLDERS = {"litellm": "litellm_core_utils/tokenizers", "llama_index": "core/_static/tiktoken_cache"}
_PATTERN = (  # how the encoding splits text, from tiktoken_ext.openai_public
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]"
    r"|\s+(?!\S)|\s"
)


class TokenCounter:
    """Counts tokens with tiktoken where its table is on this machine, else a token for every 4 characters.

    The table is looked for, at the first count, in `TIKTOKEN_CACHE_DIR` and where LiteLLM and LlamaIndex keep theirs;
    it is never downloaded.

    Parameters
    ----------
    name : str, optional
        The count that models were measured with; where it is not available here, a warning is given once.
    """

    def __init__(self, name: str | None = None) -> None:
        self._encoding: Any = None
        self._expected, self._name = name, BY_CHARACTERS if name == BY_CHARACTERS else None

    @property
    def name(self) -> str:
        """The table's name, or "characters / 4"."""
        if self._name is None:
            self._encoding = next((found for folder in _folders() if (found := _read_table(folder / _TABLE))), None)
            self._name = BY_CHARACTERS if self._encoding is None else ENCODING
            if self._expected not in (None, self._name):
                warnings.warn(
                    f"Tokens are counted as {self._name}, but were as {self._expected} when the models were measured: "
                    "expected costs are off by a little. Install litellm, or point TIKTOKEN_CACHE_DIR at the table.",
                    stacklevel=3,
                )
        return self._name

    def count(self, prompts: Sequence[str]) -> Array:
        """Return the number of tokens of each prompt, shape (n,).

        Of a prompt beyond 1,048,576 characters, a sample of 64 pieces is counted, 16,384 characters each, and the rest
        is taken to be like them.
        """
        if self.name == BY_CHARACTERS:
            return np.ceil(np.array([len(prompt) for prompt in prompts], np.float64) / 4)
        return np.array([self._count(prompt) for prompt in prompts], np.float64)

    def _count(self, prompt: str) -> float:
        if len(prompt) <= PIECES * PIECE:
            return len(self._encoding.encode_ordinary(prompt))
        starts = np.linspace(0, len(prompt) - PIECE, PIECES).astype(int).tolist()
        counted = sum(len(self._encoding.encode_ordinary(prompt[start : start + PIECE])) for start in starts)
        return round(counted * len(prompt) / (PIECES * PIECE))


def _folders() -> Iterator[Path]:
    if folder := os.environ.get("TIKTOKEN_CACHE_DIR"):
        yield Path(folder)
    for package, inside in _TABLE_FOLDERS.items():
        found = importlib.util.find_spec(package)  # finds without importing
        for place in (found.submodule_search_locations or []) if found else []:
            yield Path(place) / inside


@functools.cache
def _read_table(file: Path) -> Any:
    """Return tiktoken's encoding from a table, or None when `file` is not the whole table."""
    table = file.read_bytes() if file.is_file() else b""
    if hashlib.sha256(table).hexdigest() != _TABLE_DIGEST:
        return None
    from tiktoken import Encoding

    ranks = {base64.b64decode(token): int(rank) for token, rank in map(bytes.split, table.splitlines())}
    return Encoding(ENCODING, pat_str=_PATTERN, mergeable_ranks=ranks, special_tokens={})


def check_count(given: float, what: str) -> Array:
    """Return one token count as an array (1,), checked without numpy, which would take longer than all the rest."""
    count = as_number(given)
    if not 0 <= count < np.inf:
        raise InvalidDataError(f"{what}={shown(given)} must be a finite number >= 0.")
    return np.array([count])


def check_counts(given: Any, n: int, what: str) -> Array:
    """Return token counts as floats, (n,), checked."""
    try:
        amounts = np.asarray(given, np.float64)
    except (TypeError, ValueError, OverflowError):
        amounts = np.array(np.nan)  # refused below, by its value
    if amounts.shape != (n,) or not np.isfinite(amounts).all() or (amounts < 0).any():
        raise InvalidDataError(f"{what}={shown(given)} must be {n} finite numbers >= 0.")
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
