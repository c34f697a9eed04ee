"""Prices of models, by source, and the USD of an answer from its usage."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from unirouter_core.costs import TOKENS_PER_PRICE, Prices
from unirouter_core.exceptions import UnknownPriceError
from unirouter_core.pool import CAPABILITIES, Capabilities, ModelProfile
from unirouter_plugins.litellm.failures import open_litellm
from unirouter_plugins.litellm.pool_file import SERVED_AS, Member

TABLE, PROFILE, LITELLM = "pool.toml", "profile", "LiteLLM"
"""Where a price comes from: the user's table, what the model was onboarded with, LiteLLM's map; in this order."""

INNER = "inner calls"
"""Where that of a panel comes from: its answer costs nothing besides the calls made for it, see `Inside.usd`."""

_ABOVE = re.compile(r"input_cost_per_token_above_(\d+)k_tokens")
_LISTED = {
    **{"tools": "supports_function_calling", "vision": "supports_vision", "audio": "supports_audio_input"},
    **{"video": "supports_video_input", "pdf": "supports_pdf_input"},
}

_MOST_TOKENS = 10**9  # more is a fault of the provider's


@dataclass(frozen=True)
class Quote:
    """A model's prices, and where they come from."""

    prices: Prices
    source: str  # "pool.toml", "profile" or "LiteLLM"; or "inner calls", whose prices are 0
    model: str = field(default="", compare=False)  # LiteLLM's name
    write_ratio: float = field(default=1.0, compare=False)  # of a token written to the prompt cache

    def usd(self, usage: Usage) -> float:
        """Return what an answer of that usage costs; NaN where its tokens are not known.

        With LiteLLM's prices it is LiteLLM's own cost, which may depend on the prompt's length.
        """
        if self.source == INNER:
            return 0.0
        if not usage.is_known:
            return math.nan
        if self.source == LITELLM and self.model:
            litellm = open_litellm()
            details = {"cached_tokens": usage.cached_tokens, "cache_creation_tokens": usage.cache_write_tokens}
            counted = litellm.Usage(usage.tokens_in, usage.tokens_out, prompt_tokens_details=details)
            with suppress(Exception):  # of any kind: LiteLLM may know the price but fail to compute the cost
                computed = sum(litellm.cost_per_token(self.model, usage_object=counted))
                if 0 < computed < _MOST_TOKENS:
                    return float(computed)
        more = usage.cache_write_tokens * (self.write_ratio - 1) * self.prices.input / TOKENS_PER_PRICE
        return self.prices.cost(usage.tokens_in, usage.tokens_out, usage.cached_tokens) + more


@dataclass(frozen=True)
class Usage:
    """The token counts of a call, as its provider gives them."""

    tokens_in: float  # all that is charged as prompt and as answer; NaN where the provider does not say
    tokens_out: float
    cached_tokens: float = 0.0  # part of `tokens_in`; 0 where the provider does not say
    reasoning_tokens: float = 0.0
    cache_write_tokens: float = 0.0

    @property
    def is_known(self) -> bool:
        """Whether the provider gave token counts."""
        return not math.isnan(self.tokens_in + self.tokens_out)


UNKNOWN = Usage(math.nan, math.nan)
"""The usage of an answer without token counts."""


def quote(member: Member, profile: ModelProfile | None = None) -> Quote | None:
    """Return the prices of a model: the user's, else its profile's, else LiteLLM's; None where they are not known."""
    if member.panel is not None:
        return Quote(Prices(0, 0), INNER)
    entry, listed = _listed(member), listed_prices(member)
    how: dict[str, Any] = {"model": member.model, "write_ratio": 1.0}
    if listed is not None and entry.get("cache_creation_input_token_cost"):
        how["write_ratio"] = entry["cache_creation_input_token_cost"] / entry["input_cost_per_token"]
    if member.prices is not None:
        return Quote(member.prices, TABLE, **how)
    if profile is not None and profile.prices is not None and profile.prices != listed:
        return Quote(profile.prices, PROFILE, **how)
    return None if listed is None else Quote(listed, LITELLM, **how)


def require_quote(member: Member, profile: ModelProfile | None = None) -> Quote:
    """Return the prices of a model; raise `UnknownPriceError` when they are not known: never taken as $0."""
    found = quote(member, profile)
    if found is None:
        name = member.name if re.fullmatch(r"[A-Za-z0-9_-]+", member.name) else f'"{member.name}"'
        address = "" if member.api_base is None else f'api_base = "{member.api_base}", '
        address += "" if member.api_key_env is None else f'api_key_env = "{member.api_key_env}", '
        why, cure = "is not known to LiteLLM", ""
        if member.api_base is not None and not member.list_price:
            why = "is not known: list prices are not taken for an address of your own (api_base)"
            listed = listed_prices(dataclasses.replace(member, api_base=None))
            cure = '; prices = "list" takes the list price' if listed is not None else ""
        raise UnknownPriceError(
            f"What {member.name!r} costs {why}; give its prices, in USD per million tokens, in pool.toml: "
            f'[models.{name}] model = "{member.model}", {address}prices = {{ input = ..., output = ... }}, '
            f"both 0 if it is free{cure}."
        )
    return found


def listed_prices(member: Member, tokens_in: float = 0) -> Prices | None:
    """Return the prices in LiteLLM's map for a prompt of `tokens_in`; one of 0 there counts as missing."""
    listed = _listed(member)
    names = ("input_cost_per_token", "output_cost_per_token", "cache_read_input_token_cost")
    given, answered, cached = map(listed.get, names)
    if not given or not answered or member.panel is not None:
        return None
    above = sorted(int(found[1]) for name in listed if (found := _ABOVE.fullmatch(name)) and listed[name])
    if passed := [thousands for thousands in above if 1000 * thousands < tokens_in]:
        longer = (listed.get(f"{name}_above_{passed[-1]}k_tokens") for name in names)
        given, answered, cached = (long or usual for long, usual in zip(longer, (given, answered, cached), strict=True))
    return Prices(_per_million(given), _per_million(answered), _per_million(cached) if cached else None)


def _per_million(per_token: Any) -> float:
    # six digits are the price's own: the map's are per token, and 0.1 / 1e6 * 1e6 is not quite 0.1
    return float(f"{float(per_token) * TOKENS_PER_PRICE:.6g}")


def capabilities(member: Member, profile: ModelProfile | None = None) -> Capabilities:
    """Return a model's capabilities: by the user's table, else its profile, else LiteLLM's map.

    What is not known is True, as in `Capabilities`; but tools, images, audio, video and PDF that the map does not
    mention for a model it has are False. The default profile of a model recorded elsewhere counts as unknown.
    """
    known: dict[str, Any] = {}
    if profile is not None and (SERVED_AS in profile.provenance or profile.capabilities != Capabilities()):
        known = {name: getattr(profile.capabilities, name) for name in (*CAPABILITIES, "context_window")}
    elif (listed := _listed(member)).get("mode"):  # one without was made by a `litellm.Router`, which knows nothing
        known = {name: bool(listed.get(key)) for name, key in _LISTED.items()}
        if listed.get("supports_response_schema") is not None:
            known["json"] = bool(listed["supports_response_schema"])
        if window := listed.get("max_input_tokens"):
            known["context_window"] = int(window)
    return Capabilities(**{**known, **member.capabilities})


def longest_answer(member: Member) -> int | None:
    """Return the most output tokens of a model by LiteLLM's map, None when unknown."""
    most = _listed(member).get("max_output_tokens")
    return most if _is_count(most) and most else None


def _listed(member: Member) -> dict[str, Any]:
    """Return LiteLLM's map entry for a model; empty where it has none, or the member's address has other prices."""
    if member.api_base is not None and not member.list_price:
        return {}  # "openai/gpt-4o" at an address of the user's own is not OpenAI's
    try:
        return dict(open_litellm().get_model_info(member.model))
    except Exception:  # of any kind: unknown model, unknown provider
        return {}


def usage_of(response: Any) -> Usage:
    """Return the usage in a LiteLLM response or last chunk.

    Where a provider's total is its prompt, answer and reasoning tokens together, the reasoning comes on top of the
    answer; elsewhere it is part of it.
    """
    usage: Any = getattr(response, "usage", None)
    tokens_in: Any = getattr(usage, "prompt_tokens", None)
    tokens_out: Any = getattr(usage, "completion_tokens", None)
    reasoning = _count(getattr(getattr(usage, "completion_tokens_details", None), "reasoning_tokens", 0))
    total = getattr(usage, "total_tokens", None)
    if reasoning and _is_count(tokens_in) and _is_count(tokens_out) and total == tokens_in + tokens_out + reasoning:
        tokens_out += reasoning
    details = getattr(usage, "prompt_tokens_details", None)
    written = getattr(details, "cache_creation_tokens", 0) or getattr(usage, "cache_creation_input_tokens", 0)
    return checked_usage(tokens_in, tokens_out, getattr(details, "cached_tokens", 0), reasoning, written)


def checked_usage(tokens_in: Any, tokens_out: Any, cached: Any = 0, reasoning: Any = 0, written: Any = 0) -> Usage:
    """Return a provider's usage, checked: unknown where a count is not an int in [0, 1e9], or both are 0.

    Examples
    --------
    >>> checked_usage(9, 3, 12).cached_tokens, checked_usage(9, -3).is_known, checked_usage(0, 0).is_known
    (9, False, False)
    """
    if not _is_count(tokens_in) or not _is_count(tokens_out) or not (tokens_in or tokens_out):
        return UNKNOWN
    cached = min(_count(cached), tokens_in)
    return Usage(tokens_in, tokens_out, cached, _count(reasoning), min(_count(written), tokens_in - cached))


def summed_bill(response: Any, answers: Sequence[Any], usd: float | None) -> Any:
    """Return a LiteLLM response with the usage of all answers and their USD; None where that is not known."""
    usages = [answer.usage.model_dump() if getattr(answer, "usage", None) else {} for answer in answers]
    is_known = all(usage.get("prompt_tokens") or usage.get("completion_tokens") for usage in usages)
    response.usage = open_litellm().Usage(**summed(usages if is_known else []))  # a partial sum would be wrong
    response._hidden_params["response_cost"] = usd
    return response


def summed(usages: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the sum of usages, field by field, with the details of prompts and answers.

    Examples
    --------
    >>> one = {"prompt_tokens": 9, "completion_tokens": 3, "completion_tokens_details": {"reasoning_tokens": 2}}
    >>> summed([one, one])
    {'prompt_tokens': 18, 'completion_tokens': 6, 'completion_tokens_details': {'reasoning_tokens': 4}}
    """
    total: dict[str, Any] = {}
    for usage in usages:
        for name, value in usage.items():
            if isinstance(value, Mapping):
                total[name] = summed([total.get(name) or {}, value])
            elif isinstance(value, int | float) and not isinstance(value, bool):
                total[name] = (total.get(name) or 0) + value
    return total


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_TOKENS


def _count(value: Any) -> int:
    return value if _is_count(value) else 0


def usd_of(response: Any, quoted: Quote, usage: Usage) -> float:
    """Return the USD of an answer; NaN without token counts, 0 from a cache.

    With LiteLLM's prices it is LiteLLM's own cost of the response, which knows more kinds of tokens.
    """
    hidden = getattr(response, "_hidden_params", None) or {}
    if hidden.get("cache_hit"):
        return 0.0
    if quoted.source == LITELLM and usage.is_known:
        computed = hidden.get("response_cost") or getattr(response.usage, "cost", None)  # the latter of a stream
        if isinstance(computed, int | float) and 0 < computed < _MOST_TOKENS:
            return float(computed)
    return quoted.usd(usage)
