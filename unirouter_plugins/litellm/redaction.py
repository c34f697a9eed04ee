"""Redaction of API keys in texts and exceptions that are shown, logged, kept or raised."""

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
"""Headers without keys; the values of a request's other headers are redacted everywhere."""

SECRET_NAME = re.compile(r"key|secret|password|credential|authorization|headers|(^|_)token$", re.IGNORECASE)
"""Names of parameters that hold a key."""

_SECRET_VARIABLE = re.compile(r"KEY|SECRET|TOKEN|PASSWORD|CREDENTIAL", re.IGNORECASE)
_SECRET_QUERY = re.compile(r"key|token|secret|sig|auth|pass|code", re.IGNORECASE)
_SECRET_SHAPE = re.compile(r"\b(?:sk|pk|rk|gsk|xai|hf|AIza|Bearer)[-_ ][\w\-.]{7,}\w|\bAIza[\w\-]{20,}", re.IGNORECASE)
_SHORTEST_SECRET, _SHORTEST_WORD = 6, 3  # a shorter one that was sent is redacted as a whole word, unless all letters
_OF_THE_BODY = ("content-encoding", "content-length", "transfer-encoding")
_DEEPEST = 8  # levels of a body


def described(failed: BaseException, secrets: Iterable[str] = ()) -> str:
    """Return a failure as one line without keys: those of `secrets`, and those that its request was sent with."""
    failed = unwrapped(failed)
    message = " ".join(redacted(str(failed), [*secrets, *_request_secrets(_chain(failed))]).split())
    kind = type(failed).__name__
    message = re.sub(rf"^((litellm\.)?{kind}: )+(\w+Exception - )?", "", message)  # LiteLLM's prefix, then openai's
    return f"{kind}: {message}"


def without_keys(failed: BaseException, secrets: Iterable[str] = ()) -> BaseException:
    """Return the failure with keys redacted in it and its causes: messages, notes, bodies, requests and responses.

    A key is any secret that a request was sent with, whatever it looks like; a request's other headers go, too.
    """
    chain = list(_chain(failed))
    secrets = [*secrets, *_request_secrets(chain)]
    for link in chain:
        link.args = _cleaned(link.args, secrets)
        for name, value in list(vars(link).items()):
            with contextlib.suppress(Exception):  # of any kind: some attributes cannot be set
                setattr(link, name, _cleaned(value, secrets))
        for name in ("request", "response"):  # of some they are properties
            if name not in vars(link):
                with contextlib.suppress(Exception):
                    setattr(link, name, _cleaned(getattr(link, name), secrets))
    return failed


def _chain(failed: BaseException) -> Iterator[BaseException]:
    """Yield a failure and its causes, once each."""
    waiting, seen = [failed], set[int]()
    while waiting:
        link = waiting.pop()
        if isinstance(link, BaseException) and id(link) not in seen:
            seen.add(id(link))
            yield link
            waiting += [link.__cause__, link.__context__, *getattr(link, "exceptions", ())]  # type: ignore[list-item]
            waiting += [value for value in vars(link).values() if isinstance(value, BaseException)]


def _request_secrets(chain: Iterable[BaseException]) -> set[str]:
    """Return the secrets that the requests behind failures were sent with, in headers and query strings."""
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


def _cleaned(value: Any, secrets: Iterable[str], depth: int = 0) -> Any:
    """Return a text, a body, a request or a response without keys, in the same form."""
    if depth > _DEEPEST:
        return None
    if isinstance(value, str):
        return redacted(value, secrets)
    if isinstance(value, bytes):
        return redacted(value.decode("utf-8", "surrogateescape"), secrets).encode("utf-8", "surrogateescape")
    if isinstance(value, dict):
        return {name: _cleaned(inner, secrets, depth + 1) for name, inner in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_cleaned(inner, secrets, depth + 1) for inner in value)
    if hasattr(value, "headers") and (hasattr(value, "method") or hasattr(value, "status_code")):
        return _clean_message(value, secrets)
    return value


def _clean_message(message: Any, secrets: Iterable[str]) -> Any:
    """Return a copy of an httpx request or response with safe headers and no keys; clear the headers of any other."""
    headers = {name: redacted(value, secrets) for name, value in message.headers.items()}
    with contextlib.suppress(Exception):  # of any kind: it is of another library
        if not hasattr(message, "status_code"):
            safe = {n: value for n, value in headers.items() if _SAFE_HEADER(n) and n.lower() not in _OF_THE_BODY}
            content = _cleaned(getattr(message, "_content", b""), secrets)
            return type(message)(message.method, redacted(str(message.url), secrets), headers=safe, content=content)
        kept = {name: value for name, value in headers.items() if name.lower() not in (*_OF_THE_BODY, "set-cookie")}
        text, request = "", None
        with contextlib.suppress(Exception):  # of any kind: some have not been read
            text = redacted(message.text, secrets)
        with contextlib.suppress(Exception):
            request = _clean_message(message.request, secrets)
        return type(message)(message.status_code, headers=kept, text=text, request=request)
    with contextlib.suppress(Exception):
        message.headers.clear()
    return message


def secrets_in(arguments: Mapping[str, Any]) -> list[str]:
    """Return the keys among the arguments of a call, and the headers that it is sent with."""
    found = []
    for name, value in arguments.items():
        if isinstance(value, Mapping) and "header" in name.lower():
            found += [str(text) for header, text in value.items() if not _SAFE_HEADER(header)]
        elif isinstance(value, str) and SECRET_NAME.search(name):
            found.append(value)
    return found


def redacted(text: str, secrets: Iterable[str] = ()) -> str:
    """Return a text without `secrets`, keys in environment variables, and anything that looks like a key.

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
