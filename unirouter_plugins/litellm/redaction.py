"""Texts and exceptions without API keys, for what is shown, logged, kept or raised."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from unirouter_plugins.litellm.failures import unwrapped

_SECRET_NAME = re.compile(r"KEY|SECRET|TOKEN|PASSWORD|CREDENTIAL", re.IGNORECASE)
_SECRET_SHAPE = re.compile(r"\b(?:sk|pk|rk|gsk|xai|hf|AIza|Bearer)[-_ ][\w\-.]{7,}\w|\bAIza[\w\-]{20,}", re.IGNORECASE)
_SHORTEST_SECRET = 6
_OF_THE_BODY = ("content-encoding", "content-length", "transfer-encoding")


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
            if (clean := _cleaned(told, secrets)) != told:
                setattr(link, name, clean)
        with contextlib.suppress(Exception):  # of any kind: not all have a request, and some ask for one to be set
            link.request.headers.pop("authorization", None)  # type: ignore[attr-defined]
        with contextlib.suppress(Exception):  # of any kind: not all have a response, and some have not read it
            link.response = _without_keys(link.response, secrets)  # type: ignore[attr-defined]
        link = link.__cause__ or link.__context__  # type: ignore[assignment]
    return failed


def _cleaned(told: Any, secrets: Iterable[str]) -> Any:
    """Return a body without keys, in the same form."""
    if isinstance(told, str):
        return redacted(told, secrets)
    if isinstance(told, Mapping):
        return {name: _cleaned(inner, secrets) for name, inner in told.items()}
    return [_cleaned(inner, secrets) for inner in told] if isinstance(told, list) else told


def _without_keys(response: Any, secrets: Iterable[str]) -> Any:
    """Return an httpx response, or one like it whose body has no keys."""
    if (clean := redacted(response.text, secrets)) == response.text:
        return response
    headers = {name: told for name, told in response.headers.items() if name not in _OF_THE_BODY}
    return type(response)(response.status_code, headers=headers, text=clean, request=response.request)


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
