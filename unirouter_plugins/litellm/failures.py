"""What a failed call means: whether another model may answer, whether to ask again, whether it was paid for."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from functools import cache
from typing import Any

from unirouter_core.exceptions import InvalidDataError
from unirouter_plugins.litellm.other_failures import other_is_overflow, other_passes_on


class MissingKeyError(InvalidDataError):
    """A model whose key is not in the environment: another may have its own."""


@cache
def open_litellm() -> Any:
    """Return the `litellm` module, imported offline and quietly when the first call needs it.

    Before the import, its price map is set to the one it ships, and reading `.env` from the current folder is turned
    off, unless the environment says otherwise; after it, advertising on failures and downloads of tokenizers are.

    Raises
    ------
    ImportError
        When LiteLLM is not installed.
    """
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it asks the network
    os.environ.setdefault("LITELLM_MODE", "PRODUCTION")  # else it loads .env into the environment
    try:
        import litellm
    except ImportError as missing:
        raise ImportError("LiteLLM is missing: pip install 'unirouter[litellm]'.") from missing
    litellm.suppress_debug_info = True
    litellm.disable_hf_tokenizer_download = True
    return litellm

PASSES_ON = (
    "RateLimitError",
    "APIConnectionError",
    "InternalServerError",
    "ServiceUnavailableError",
    "BadGatewayError",
    "Timeout",
    "NotFoundError",
    "AuthenticationError",
    "PermissionDeniedError",
    "PaymentRequiredError",
    "ContextWindowExceededError",
    "UnsupportedParamsError",
)
"""LiteLLM's failures of one model that another may not have; all else is the request's own, or the user's wish."""

PASSES = (
    "RateLimitError",
    "APIConnectionError",
    "InternalServerError",
    "ServiceUnavailableError",
    "BadGatewayError",
    "Timeout",
)
"""Those that may be gone when the same model is asked again."""

_OF_ONE_MODEL, _OF_A_MOMENT, _BROKEN = (401, 402, 403, 404, 408, 429), (408, 409, 429), 500
"""Statuses that count whatever class LiteLLM gives them, as do all from 500 on: by their text some are bad requests."""

UNBILLED = ("RateLimitError",)
"""Of those, what no provider charges for: the call was turned away before it was read."""

_SECRET_NAME = re.compile(r"KEY|SECRET|TOKEN|PASSWORD|CREDENTIAL", re.IGNORECASE)
_SECRET_SHAPE = re.compile(r"\b(?:sk|pk|rk|gsk|xai|hf|AIza|Bearer)[-_ ][\w\-.]{7,}\w|\bAIza[\w\-]{20,}", re.IGNORECASE)
_SHORTEST_SECRET = 6


def unwrapped(failed: BaseException) -> BaseException:
    """Return the failure of a call whose answer had not begun, where LiteLLM wraps it in one of a broken stream."""
    inner = getattr(failed, "original_exception", None)
    return inner if getattr(failed, "is_pre_first_chunk", False) and isinstance(inner, Exception) else failed


def passes_on(failed: BaseException, *, content_policy: bool = False) -> bool:
    """Return whether another model may answer what this one failed to.

    Parameters
    ----------
    failed : exception
    content_policy : bool
        Whether a refusal by the provider's content filter counts: another provider may be less strict, which is for
        the user to want.
    """
    if isinstance(failed, MissingKeyError):
        return True
    if not _is_litellms(failed):
        return other_passes_on(failed, content_policy=content_policy)
    if is_overflow(failed) or _status(failed) in _OF_ONE_MODEL or _status(failed) >= _BROKEN:
        return True
    return _is_any(failed, (*PASSES_ON, "ContentPolicyViolationError") if content_policy else PASSES_ON)


def is_passing(failed: BaseException) -> bool:
    """Return whether the same call may succeed when it is made again."""
    momentary = _status(failed) in _OF_A_MOMENT or _status(failed) >= _BROKEN
    return (momentary or _is_any(failed, PASSES)) and not lacks_key(failed)


def is_overflow(failed: BaseException) -> bool:
    """Return whether the prompt was too long for the model: only one with a larger window may answer."""
    if not _is_litellms(failed):
        return other_is_overflow(failed)
    named = "ContextWindowExceededError"
    return _is_any(failed, (named,)) or (_is_any(failed, ("BadRequestError",)) and named in str(failed))  # its proxy's


def may_be_billed(failed: BaseException) -> bool:
    """Return whether the provider may charge for a failed call: all but what it is known not to have read."""
    return is_passing(failed) and not _is_any(failed, UNBILLED)


def lacks_key(failed: BaseException) -> bool:
    """Return whether the call never left because no key is set; LiteLLM reports that as a failing server."""
    return _is_any(failed, ("InternalServerError",)) and "Missing credentials" in str(failed)


def retry_after(failed: BaseException) -> float | None:
    """Return the seconds that the provider asks to wait before the next call; None where it does not say."""
    failed = unwrapped(failed)
    answered = getattr(getattr(failed, "response", None), "headers", None)  # LiteLLM empties it, and keeps them apart
    headers = getattr(failed, "litellm_response_headers", None) or answered or {}
    try:
        seconds = float(headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if 0 <= seconds < float("inf") else None


def described(failed: BaseException, secrets: Iterable[str] = ()) -> str:
    """Return a failure as one line without keys, those of `secrets` included."""
    failed = unwrapped(failed)
    line, kind = " ".join(redacted(str(failed), secrets).split()), type(failed).__name__
    told = re.sub(rf"^((litellm\.)?{kind}: )+(\w+Exception - )?", "", line)  # LiteLLM names it twice, then openai's
    return f"{kind}: {told}"


def without_keys(failed: BaseException, secrets: Iterable[str] = ()) -> BaseException:
    """Return the failure, and what it came from, with the keys taken out of their messages, bodies and headers."""
    secrets = list(secrets)
    link, seen = failed, set[int]()
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        link.args = tuple(redacted(arg, secrets) if isinstance(arg, str) else arg for arg in link.args)
        for name in ("message", "body"):
            told = getattr(link, name, None)
            if told is not None and (clean := redacted(str(told), secrets)) != str(told):
                setattr(link, name, clean)
        with contextlib.suppress(Exception):  # of any kind: not all have a request, and some ask for one to be set
            link.request.headers.pop("authorization", None)  # type: ignore[attr-defined]
        link = link.__cause__ or link.__context__  # type: ignore[assignment]
    return failed


def redacted(text: str, secrets: Iterable[str] = ()) -> str:
    """Return a text without the keys of this environment, `secrets`, and what looks like a key.

    Examples
    --------
    >>> redacted("Incorrect API key provided: sk-abcdef123456.")
    'Incorrect API key provided: [key].'
    """
    known = [value for name, value in os.environ.items() if _SECRET_NAME.search(name)]
    for secret in sorted((s for s in (*known, *secrets) if len(s) >= _SHORTEST_SECRET), key=len, reverse=True):
        text = text.replace(secret, "[key]")
    return _SECRET_SHAPE.sub("[key]", text)


def _status(failed: BaseException) -> int:
    status = getattr(unwrapped(failed), "status_code", None)
    return status if isinstance(status, int) and _is_litellms(failed) else 0


def _is_litellms(failed: BaseException) -> bool:
    return type(unwrapped(failed)).__module__.partition(".")[0] == "litellm"


def _is_any(failed: BaseException, names: Iterable[str]) -> bool:
    exceptions: Any = open_litellm().exceptions
    kinds = tuple(getattr(exceptions, name) for name in names if hasattr(exceptions, name))
    return isinstance(unwrapped(failed), kinds)
