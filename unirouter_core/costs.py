"""What a call costs: prices, and the expected USD of each (prompt, model) from tokens and regions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from unirouter_core.embedding import Array, Labels
from unirouter_core.exceptions import InvalidDataError, UnknownPriceError

if TYPE_CHECKING:  # an evaluation holds prices, so it comes later in the flow
    from unirouter_core.validation import Evaluation

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
    """What calls of one model are expected to cost: so much a prompt token, and so much an answer in each region.

    Parameters
    ----------
    per_token, per_cached_token : float
        USD for each prompt token that the router counts.
    per_answer : array (n_regions,)
        USD of the answer, or of the whole call where only that is known.
    """

    per_token: float
    per_cached_token: float
    per_answer: Array

    @classmethod
    def of(cls, evaluation: Evaluation, counted: Array, regions: Labels, n_regions: int, scalar: bool) -> CallCost:
        """Return the costs that an evaluation and the model's prices tell.

        With prices and output tokens, cost is by tokens; with USD alone, it is the region's mean; with `scalar`,
        it is the mean over all prompts (c(h) in the paper).

        Parameters
        ----------
        evaluation : Evaluation
        counted : array (n,)
            The prompts' tokens as the router counts them. Where the provider's own counts are known, their ratio
            makes up for another tokenizer and for what the system prompt adds.
        regions : array (n,)
        n_regions : int
        scalar : bool

        Raises
        ------
        UnknownPriceError
            When neither tell.
        """
        prices, known_out = evaluation.prices, ~np.isnan(evaluation.tokens_out)
        by_tokens = prices is not None and bool(known_out.any())
        if by_tokens and not scalar:
            assert prices is not None
            both = ~np.isnan(evaluation.tokens_in) & (counted > 0)
            ratio = evaluation.tokens_in[both].sum() / counted[both].sum() if both.any() else 1.0
            tokens_out = region_tokens(evaluation.tokens_out, regions, n_regions)
            scale = ratio / TOKENS_PER_PRICE
            return cls(prices.input * scale, prices.cached * scale, prices.output * tokens_out / TOKENS_PER_PRICE)
        usd = evaluation.usd(counted)
        if np.isnan(usd).all():
            raise UnknownPriceError(
                f"What {evaluation.model!r} costs is not known; give prices=Prices(input=..., output=...) in USD per "
                "million tokens and output tokens, or costs in USD for its answers."
            )
        answer = np.full(n_regions, np.nanmean(usd)) if scalar else region_usd(usd, regions, n_regions)
        return cls(0.0, 0.0, answer)
