"""What a failed call means where another package than LiteLLM made it: by its class's name, else its HTTP status."""

from __future__ import annotations

from typing import Any

_PASSES_ON = (
    *("TimeoutError", "ConnectionError"),  # Python's own
    *("TransportError", "Timeout", "ClientConnectionError"),  # httpx's, requests', aiohttp's
    "APIConnectionError",  # openai's, and that of all SDKs made like it; their time-outs derive from it
    *("ModelAuthenticationError", "ModelPermissionDeniedError", "ModelNotFoundError"),  # LangChain's, from here on
    *("ModelRateLimitError", "ModelAPIError", "ModelConnectionError", "ModelTimeoutError"),
)
"""Classes of failures of one model that another may not have; what derives from them is one too."""

_STATUSES = (401, 402, 403, 404, 408, 429)
"""No key or a wrong one, no credit, no permission, no such model, too slow, too often; and all from 500 on."""

_OVERFLOW = ("context_length_exceeded", "string_above_max_length")
_CONTENT_FILTER = ("content_filter", "content_policy_violation")
"""What OpenAI's format calls them in the `code` of a bad request."""


def other_passes_on(failed: BaseException, *, content_policy: bool = False) -> bool:
    """Return whether another model may answer what this one failed to; see `failures.passes_on`.

    Examples
    --------
    >>> other_passes_on(TimeoutError("read timed out")), other_passes_on(ValueError("temperature must be below 2"))
    (True, False)
    """
    if any(kind.__name__ in _PASSES_ON for kind in type(failed).__mro__) or other_is_overflow(failed):
        return True
    if getattr(failed, "code", None) in _CONTENT_FILTER:
        return content_policy
    status = _status(failed)
    return status in _STATUSES or status >= 500


def other_is_overflow(failed: BaseException) -> bool:
    """Return whether the prompt was too long for the model."""
    named = any(kind.__name__ == "ContextOverflowError" for kind in type(failed).__mro__)
    return named or getattr(failed, "code", None) in _OVERFLOW


def _status(failed: BaseException) -> int:
    """Return the HTTP status of a failure; 0 where it has none."""
    response: Any = getattr(failed, "response", None)
    if isinstance(response, dict):  # botocore's
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        found = getattr(response, "status_code", None)
    for status in (getattr(failed, "status_code", None), getattr(failed, "code", None), found):
        if isinstance(status, int):
            return status
    return 0
