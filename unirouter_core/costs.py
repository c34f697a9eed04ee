"""What a call costs: prices, and the expected USD of each (prompt, model) from tokens and regions."""

from __future__ import annotations

from dataclasses import dataclass

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
