"""Texts and exceptions without API keys, for what is shown, logged, kept or raised."""

from __future__ import annotations

import base64
import contextlib
import html
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl, quote, quote_plus, urlsplit

from unirouter_plugins.litellm.failures import unwrapped

_SAFE_HEADER = re.compile(
    r"accept.*|cache-control|connection|content-.*|date|host|retry-after|server|user-agent|x-stainless-.*|x-ratelimit-.*"
    r"|.*-(version|id|beta|organization|project|region)",
    re.IGNORECASE,
).fullmatch
"""Headers that hold no key; what others of a request hold is taken out of everything."""

SECRET_NAME = re.compile(r"key|secret|password|credential|authorization|headers|(^|_)token$", re.IGNORECASE)
"""Names of parameters that hold a key; environment variables' are these and more."""

_SECRET_VARIABLE = re.compile(r"KEY|SECRET|TOKEN|PASSWORD|CREDENTIAL", re.IGNORECASE)
_SECRET_QUERY = re.compile(r"key|token|secret|sig|auth|pass|code", re.IGNORECASE)
_SECRET_SHAPE = re.compile(r"\b(?:sk|pk|rk|gsk|xai|hf|AIza|Bearer)[-_ ][\w\-.]{7,}\w|\bAIza[\w\-]{20,}", re.IGNORECASE)
_SHORTEST_SECRET, _SHORTEST_WORD = 6, 3  # a shorter one that was sent is redacted as a whole word, unless all letters
_OF_THE_BODY = ("content-encoding", "content-length", "transfer-encoding")
_DEEPEST = 8  # levels of a body


def described(failed: BaseException, secrets: Iterable[str] = ()) -> str:
    """Return a failure as one line without keys: those of `secrets`, and those that its request was sent with."""
    failed = unwrapped(failed)
    told = " ".join(redacted(str(failed), [*secrets, *_sent(_chain(failed))]).split())
    kind = type(failed).__name__
    told = re.sub(rf"^((litellm\.)?{kind}: )+(\w+Exception - )?", "", told)  # LiteLLM names it twice, then openai's
    return f"{kind}: {told}"


def without_keys(failed: BaseException, secrets: Iterable[str] = ()) -> BaseException:
    """Return the failure, it and what it came from without keys: in messages, notes, bodies, requests and responses.

    A key is what a request was sent with, whatever it looks like; the rest of a request's headers go, too.
    """
    chain = list(_chain(failed))
    secrets = [*secrets, *_sent(chain)]
    for link in chain:
        link.args = _cleaned(link.args, secrets)
        for name, told in list(vars(link).items()):
            with contextlib.suppress(Exception):  # of any kind: some attributes cannot be set
                setattr(link, name, _cleaned(told, secrets))
        for name in ("request", "response"):  # of some they are properties
            if name not in vars(link):
                with contextlib.suppress(Exception):
                    setattr(link, name, _cleaned(getattr(link, name), secrets))
    return failed


def _chain(failed: BaseException) -> Iterator[BaseException]:
    """Yield a failure and what it came from, once each."""
    waiting, seen = [failed], set[int]()
    while waiting:
        link = waiting.pop()
        if isinstance(link, BaseException) and id(link) not in seen:
            seen.add(id(link))
            yield link
            waiting += [link.__cause__, link.__context__, *getattr(link, "exceptions", ())]  # type: ignore[list-item]
            waiting += [told for told in vars(link).values() if isinstance(told, BaseException)]


def _sent(chain: Iterable[BaseException]) -> set[str]:
    """Return what the requests behind failures were sent with: headers, and queries of their addresses."""
    sent = set[str]()
    for link in chain:
        for owner in (link, getattr(link, "response", None)):
            with contextlib.suppress(Exception):  # of any kind: not all have a request, and some ask for one to be set
                request: Any = owner.request  # type: ignore[union-attr]
                values = [told for name, told in request.headers.items() if not _SAFE_HEADER(name)]
                address = urlsplit(str(request.url))
                values += [told for name, told in parse_qsl(address.query) if _SECRET_QUERY.search(name)]
                values += [address.password or ""]
                sent |= {*values, *(told.partition(" ")[2] for told in values)}  # "Bearer ..."
                sent |= {_password(told) for told in values if told.lower().startswith("basic ")}
    return sent


def _password(basic: str) -> str:
    """Return the password in an ``Authorization: Basic`` header."""
    with contextlib.suppress(ValueError):
        return base64.b64decode(basic[6:]).decode().partition(":")[2]
    return ""


def _cleaned(told: Any, secrets: Iterable[str], depth: int = 0) -> Any:
    """Return a text, a body, a request or a response without keys, in the same form."""
    if depth > _DEEPEST:
        return None
    if isinstance(told, str):
        return redacted(told, secrets)
    if isinstance(told, bytes):
        return redacted(told.decode("utf-8", "surrogateescape"), secrets).encode("utf-8", "surrogateescape")
    if isinstance(told, dict):
        return {name: _cleaned(inner, secrets, depth + 1) for name, inner in told.items()}
    if type(told) in (list, tuple):
        return type(told)(_cleaned(inner, secrets, depth + 1) for inner in told)
    if hasattr(told, "headers") and (hasattr(told, "method") or hasattr(told, "status_code")):
        return _clean_exchange(told, secrets)
    return told


def _clean_exchange(told: Any, secrets: Iterable[str]) -> Any:
    """Return an httpx request or response like `told`, with harmless headers and no keys; others lose the headers."""
    headers = {name: redacted(value, secrets) for name, value in told.headers.items()}
    with contextlib.suppress(Exception):  # of any kind: it is of another library
        if not hasattr(told, "status_code"):
            safe = {n: value for n, value in headers.items() if _SAFE_HEADER(n) and n.lower() not in _OF_THE_BODY}
            content = _cleaned(getattr(told, "_content", b""), secrets)
            return type(told)(told.method, redacted(str(told.url), secrets), headers=safe, content=content)
        kept = {name: value for name, value in headers.items() if name.lower() not in (*_OF_THE_BODY, "set-cookie")}
        text, request = "", None
        with contextlib.suppress(Exception):  # of any kind: some have not been read
            text = redacted(told.text, secrets)
        with contextlib.suppress(Exception):
            request = _clean_exchange(told.request, secrets)
        return type(told)(told.status_code, headers=kept, text=text, request=request)
    with contextlib.suppress(Exception):
        told.headers.clear()
    return told


def secrets_in(arguments: Mapping[str, Any]) -> list[str]:
    """Return the keys among the arguments of a call, and the headers that it is sent with."""
    found = []
    for name, value in arguments.items():
        if isinstance(value, Mapping) and "header" in name.lower():
            found += [str(told) for header, told in value.items() if not _SAFE_HEADER(header)]
        elif isinstance(value, str) and SECRET_NAME.search(name):
            found.append(value)
    return found


def redacted(text: str, secrets: Iterable[str] = ()) -> str:
    """Return a text without `secrets`, the keys that this environment names so, and what looks like a key.

    Examples
    --------
    >>> redacted("Incorrect API key provided: sk-abcdef123456.")
    'Incorrect API key provided: [key].'
    """
    known = [value for name, value in os.environ.items() if _SECRET_VARIABLE.search(name)]
    for secret in sorted({s for s in (*known, *secrets) if len(s) >= _SHORTEST_SECRET}, key=len, reverse=True):
        for form in _forms(secret):
            text = text.replace(form, "[key]")
    for short in {s for s in secrets if _SHORTEST_WORD <= len(s) < _SHORTEST_SECRET and not s.isalpha()}:
        text = re.sub(rf"(?<!\w){re.escape(short)}(?!\w)", "[key]", text)
    return _SECRET_SHAPE.sub("[key]", text)


@lru_cache(maxsize=256)
def _forms(secret: str) -> list[str]:
    """Return how a key is written in texts, addresses, JSON, HTML and, with or without a user before it, base64."""
    as_json, content = json.dumps(secret)[1:-1], secret.encode("utf-8", "replace")
    forms = {
        secret,
        as_json,
        json.dumps(secret, ensure_ascii=False)[1:-1],
        json.dumps(as_json)[1:-1],
        repr(secret)[1:-1],
    }
    forms |= {repr(content)[2:-1], html.escape(secret), quote_plus(content), quote(content), quote(content, safe="")}
    for before in range(3):  # what stands before a key shifts its letters
        packed = base64.b64encode(bytes(before) + content).decode()
        inner = packed[(before * 8 + 5) // 6 : (before + len(content)) * 8 // 6]
        forms |= {inner, inner.translate(str.maketrans("+/", "-_"))}
    return sorted((form for form in forms if len(form) >= _SHORTEST_SECRET), key=len, reverse=True)
