"""LiteLLM, imported quietly; what a failed call means, by HTTP status, codes and message, whichever SDK raised it."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import sys
import threading
import traceback
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from functools import cache
from typing import Any

from unirouter_core.exceptions import InvalidDataError, missing_package


class MissingKeyError(InvalidDataError):
    """A model whose key is not in the environment: another may have its own."""


@cache
def open_litellm() -> Any:
    """Return the `litellm` module, imported when the first call needs it, without advertising on failures.

    It uses the price map that it ships, reads no `.env` and downloads no tokenizer, unless the environment says so.
    """
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it asks the network
    os.environ.setdefault("LITELLM_MODE", "PRODUCTION")  # else it loads .env into the environment
    try:
        import litellm
    except ImportError as missing:
        raise missing_package("LiteLLM", "litellm") from missing
    litellm.suppress_debug_info = True
    litellm.disable_hf_tokenizer_download = True
    return litellm


def warm_litellm() -> None:
    """Import LiteLLM in a background thread, so that the first call need not wait for it; failures are the call's."""

    def load() -> None:
        with contextlib.suppress(Exception):  # of any kind: the call meets it again
            open_litellm()

    if "litellm" not in sys.modules:
        threading.Thread(target=load, name="unirouter warms LiteLLM", daemon=True).start()


class Failure(Enum):
    """Why a call failed, and so whether to fall back, to retry, and to expect a bill."""

    CONTENT_FILTER = "a content filter refused the prompt or the answer"
    OVERFLOW = "the prompt is longer than the context window"
    ACCESS = "this account has not got this model: its key, credit, region, retirement"
    MODEL = "this model cannot do what is asked for: a parameter, a size, an answer that another wrote"
    RATE_LIMIT = "turned away before it was read"
    SERVER = "a server or connection failed, and may have charged for it"
    REQUEST = "the request is wrong for every model, or the user's own limit ended it"
    OTHER = "no provider's failure: a bug, an interrupt"

    def falls_back(self, *, content_policy: bool = False) -> bool:
        """Return whether the next model may answer; after a content filter only where `content_policy` asks for it."""
        return content_policy if self is Failure.CONTENT_FILTER else self not in (Failure.REQUEST, Failure.OTHER)

    @property
    def may_pass(self) -> bool:
        """Whether the same call may succeed when it is retried."""
        return self in (Failure.RATE_LIMIT, Failure.SERVER)

    @property
    def may_be_billed(self) -> bool:
        """Whether the provider may charge for the call."""
        return self is Failure.SERVER


def _plain(code: str) -> str:
    return re.sub(r"[^a-z0-9]", "", code.lower())  # content_filter and ContentFilter are one


def _table(**codes: str) -> dict[str, Failure]:
    return {_plain(code): Failure[name] for name, listed in codes.items() for code in listed.split()}


CODES = _table(
    CONTENT_FILTER="content_filter content_policy_violation ResponsibleAIPolicyViolation content_blocked invalid_prompt"
    " data_inspection_failed moderation_blocked prohibited_content guardrail_intervened",
    OVERFLOW="context_length_exceeded string_above_max_length exceed_context_size_error context_window_exceeded"
    " model_max_prompt_tokens_exceeded",
    ACCESS="authentication_error permission_error permission_denied billing_error not_found_error not_found"
    " model_not_found model_not_available unsupported_model invalid_model DeploymentNotFound"
    " model_decommissioned model_deprecated model_not_active model_terms_required"
    " unsupported_country_region_territory invalid_api_key api_key_invalid unauthenticated account_deactivated"
    " billing_not_active billing_hard_limit_reached insufficient_quota insufficient_balance insufficient_credits"
    " AccessDeniedException ResourceNotFoundException UnrecognizedClientException ExpiredTokenException"
    " ServiceQuotaExceededException failed_precondition",
    MODEL="model_not_supported OperationNotSupported unsupported_parameter unsupported_value"
    " tool_use_failed json_validate_failed output_parse_failed ModelErrorException",
    RATE_LIMIT="rate_limit_error rate_limit_exceeded too_many_requests resource_exhausted ThrottlingException",
    SERVER="server_error internal_server_error internal overloaded_error overloaded timeout_error unavailable"
    " deadline_exceeded service_unavailable ModelNotReadyException ModelTimeoutException InternalServerException",
)
"""What providers call failures in `code`, `type` or `status`; of several, the first in the order of `Failure`."""

CLASSES = _table(
    CONTENT_FILTER="ContentPolicyViolationError ContentFilterFinishReasonError ContentFilterError",
    OVERFLOW="ContextWindowExceededError ContextOverflowError",
    ACCESS="AuthenticationError PermissionDeniedError PaymentRequiredError NotFoundError ModelAuthenticationError"
    " ModelPermissionDeniedError ModelNotFoundError",
    MODEL="MissingKeyError NoCredentialsError UnsupportedParamsError",
    RATE_LIMIT="RateLimitError ModelRateLimitError",
    SERVER="NoAnswerError TimeoutError ConnectionError gaierror TransportError Timeout ClientConnectionError"
    " ClientPayloadError HTTPClientError APIConnectionError APIError ModelAPIError ModelConnectionError"
    " ModelTimeoutError",
)
"""Exceptions of Python, httpx, requests, aiohttp, botocore, openai, LiteLLM, LangChain: where nothing else tells."""

_USER_LIMITS = {"BudgetExceededError", "RejectedRequestError", "GuardrailRaisedException", "BlockedPiiEntityError"}

WORDS = {
    Failure.CONTENT_FILTER: r"content.(management|usage).policy|content.?(filter|policy.?violation)|safety system"
    r"|flagged",
    Failure.OVERFLOW: r"context.?(length|window|limit|size)|(prompt|inputs?|messages?)\b.{0,40} too (long|large)"
    r"|too many tokens|(prompt|input)\b.{0,40}(exceeds? the maximum number of tokens|must have less)"
    r"|maximum prompt length|reduce the length of|model token limit",
    Failure.ACCESS: r"no longer|deprecated|decommissioned|retired|model.{0,80} not (exist|found)|credit|billing|balance"
    r"|quota|payment|api.key|location|region|country|must be verified|not allowed to",
    Failure.MODEL: r"not support|unsupported|not (currently )?available|unavailable|max.{0,12}tokens"
    r"|(output|completion) tokens|thinking|thought|reasoning|signature",
}
"""What a message says where status 400 and no code do not tell: the request's fault or the model's."""

_NO_KEY = r"missing credentials|api_key client option must be set"  # from openai's client, before any call
_READERS = re.compile(r"(litellm|openai|langchain_litellm|unirouter_plugins\.llamaindex\.litellm_llm)\b")
_WORDY = (400, 403, 413, 422)  # statuses that messages tell more of
_NAMED = ("status_code", "http_status", "status", "code", "type", "reason", "Code", "HTTPStatusCode")
_INSIDE = (
    *("body", "response", "error", "Error", "errors", "details", "detail", "innererror", "metadata", "raw"),
    *("ResponseMetadata", "message", "Message", "text"),
)
_LONGEST, _DEEPEST = 20_000, 8  # characters and levels of a body that are read


def classify(failed: BaseException) -> Failure:
    """Return why a call failed.

    Examples
    --------
    >>> classify(TimeoutError("read timed out")).name, classify(ValueError("temperature must be below 2")).name
    ('SERVER', 'OTHER')
    """
    failed = unwrapped(failed)
    if not isinstance(failed, Exception):
        return Failure.OTHER
    classes = {kind.__name__ for kind in type(failed).__mro__}
    if classes & _USER_LIMITS:
        return Failure.REQUEST
    if hasattr(failed, "is_pre_first_chunk"):
        return Failure.SERVER  # of a stream that had begun: what was streamed is billed, whatever ended it
    codes, message = _read(failed)
    if re.search(_NO_KEY, message):
        return Failure.MODEL
    status = _first_status(codes)
    if status == 422 and all(getattr(failed, name, "") is None for name in ("body", "litellm_response_headers")):
        return Failure.SERVER  # LiteLLM's own, for an error with status 200
    coded = _first(CODES, codes)
    own = coded in (Failure.ACCESS, Failure.MODEL) and status < 500
    if coded is not None and (own or coded in (Failure.CONTENT_FILTER, Failure.OVERFLOW)):
        return coded
    if status not in (0, *_WORDY):
        return _of_status(status)
    if status:
        coded = coded or next((kind for kind, words in WORDS.items() if re.search(words, message)), None)
    hinted = _first(CLASSES, classes)
    if status and hinted is Failure.SERVER:
        hinted = None  # openai's APIError is a base of all of its exceptions
    return coded or hinted or _of_status(status)


def is_about_thoughts(failed: BaseException) -> bool:
    """Return whether a model refused the thoughts, or their signatures, that another wrote into the history."""
    said = _read(unwrapped(failed))[1]
    return classify(failed) is Failure.MODEL and re.search(r"thinking|thought|reasoning|signature", said) is not None


def is_of_reading(failed: BaseException) -> bool:
    """Return whether code that reads providers' answers raised it, and no callback of the user's below."""
    names = [str(frame.f_globals.get("__name__")) for frame, _ in traceback.walk_tb(failed.__traceback__)]
    reads, is_callback = _READERS.match, re.compile(r"langchain_core\.callbacks\b").match
    return any(map(reads, names)) and not any(map(is_callback, names))


def _first(kinds: Mapping[str, Failure], names: Iterable[str]) -> Failure | None:
    """Return what the names mean; of several kinds, the first in the order of `Failure`."""
    meant = {kinds[name] for name in map(_plain, names) if name in kinds}
    return next((kind for kind in Failure if kind in meant), None)


def status_of(failed: BaseException) -> int:
    """Return the HTTP status of a failure; 0 where it has none."""
    return _first_status(_read(unwrapped(failed))[0])


def _first_status(codes: Sequence[str]) -> int:
    return next((int(code) for code in codes if code.isdecimal() and 200 <= int(code) < 600), 0)


def _of_status(status: int) -> Failure:
    if status in (0, 400, 422):
        return Failure.REQUEST if status else Failure.OTHER
    if status == 429:
        return Failure.RATE_LIMIT
    if status in (401, 402, 403, 404, 410, 451):
        return Failure.ACCESS
    return Failure.SERVER if status in (408, 409, 425) or not 300 <= status < 500 else Failure.MODEL


def _read(failed: BaseException) -> tuple[list[str], str]:
    """Return the codes and the lower-case messages of an exception, its causes and their bodies, in this order."""
    codes: list[str] = []
    messages: list[str] = []

    def read(said: Any, depth: int = 0) -> None:
        said = said.decode(errors="replace") if isinstance(said, bytes) else said
        if depth > _DEEPEST or not said:
            return
        if isinstance(said, str):
            said = said[:_LONGEST]
            body = _parsed(said)
            around = said if body is None else said[: said.find("{")] + said[said.rfind("}") + 1 :]
            messages.append(around.lower())
            read(body, depth + 1)
        elif isinstance(said, Mapping):
            told = [said.get(name) for name in _NAMED]
            codes.extend(str(code) for code in told if isinstance(code, str | int) and not isinstance(code, bool))
            for name in _INSIDE:
                read(said.get(name), depth + 1)
        elif isinstance(said, list | tuple):
            for item in said:
                read(item, depth + 1)

    links: list[BaseException] = []
    link: Any = failed
    while isinstance(link, Exception) and link not in links:
        fields = _fields(link, (*_NAMED, *_INSIDE))
        if "response" in fields and not isinstance(fields["response"], Mapping):  # botocore's is one
            fields["response"] = _fields(fields["response"], ("status_code", "status", "text"))
        read(fields)
        body = _parsed(str(link))
        if _first_status(codes) or (isinstance(body, Mapping) and "error" in body):
            read(str(link))
        else:  # an answer that could not be parsed may be quoted in it
            messages.append(str(link).lower())
        links.append(link)
        link = getattr(link, "original_exception", None) or link.__cause__
    return codes, " ".join(messages)


def _fields(owner: Any, names: Sequence[str]) -> dict[str, Any]:
    fields = {}
    for name in names:
        with contextlib.suppress(Exception):  # of any kind: some responses raise until they are read
            fields[name] = getattr(owner, name)
    return fields


def _parsed(text: str) -> Any:
    """Return the JSON, or the repr of such a dict, in a message; None where there is none."""
    told = text[text.find("{") : text.rfind("}") + 1]
    for parse in (json.loads, ast.literal_eval):
        with contextlib.suppress(Exception):  # of any kind: it may be anything between two braces
            return parse(told)
    return None


def unwrapped(failed: BaseException) -> BaseException:
    """Return the failure of a call whose answer had not begun, where LiteLLM wraps it in one of a broken stream."""
    inner = getattr(failed, "original_exception", None)
    return inner if getattr(failed, "is_pre_first_chunk", False) and isinstance(inner, Exception) else failed


def retry_after(failed: BaseException) -> float | None:
    """Return the seconds that the provider asks to wait before the next call; None where it does not say."""
    failed = unwrapped(failed)
    answered = getattr(getattr(failed, "response", None), "headers", None)  # LiteLLM may keep them apart
    headers = getattr(failed, "litellm_response_headers", None) or answered or {}
    try:
        seconds = float(headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if 0 <= seconds < float("inf") else None
