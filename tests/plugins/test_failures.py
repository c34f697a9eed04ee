"""What LiteLLM's failures mean, that none of them shows a key, and who is asked after them."""

import asyncio
import gc
import json

import aiohttp
import httpx
import openai
import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.exceptions import ContextOverflowError, ModelRateLimitError

from tests.plugins.servers import (
    KEY,
    breaks,
    cuts,
    hangs,
    overflows,
    rate_limited,
    refuses_the_content,
    refuses_the_key,
    serve_script,
)
from unirouter_plugins.litellm.failures import (
    Failure,
    MissingKeyError,
    classify,
    open_litellm,
    retry_after,
    status_of,
    unwrapped,
)
from unirouter_plugins.litellm.redaction import described, redacted, without_keys
from unirouter_plugins.litellm.routed import Attempts

pytestmark = [
    # LiteLLM leaves connections open
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"),
]

PROMPT = "What is 14 plus 37?"
ASKED = {"messages": [{"role": "user", "content": PROMPT}], "num_retries": 0, "max_retries": 0}
PASSED_ON = "passed on"
PASSING = "passing"
BILLED = "may be billed"

# What each means: whether another model may answer, whether the same may later, whether it may have been paid for.
MEANINGS = {
    "RateLimitError": {PASSED_ON, PASSING},
    "APIConnectionError": {PASSED_ON, PASSING, BILLED},
    "InternalServerError": {PASSED_ON, PASSING, BILLED},
    "ServiceUnavailableError": {PASSED_ON, PASSING, BILLED},
    "BadGatewayError": {PASSED_ON, PASSING, BILLED},
    "Timeout": {PASSED_ON, PASSING, BILLED},
    "NotFoundError": {PASSED_ON},
    "AuthenticationError": {PASSED_ON},
    "PermissionDeniedError": {PASSED_ON},
    "ContextWindowExceededError": {PASSED_ON},
    "ContentPolicyViolationError": set(),
    "BadRequestError": set(),
    "UnsupportedParamsError": {"passed on"},
    "UnprocessableEntityError": set(),
}


def failure(kind, said="planted", **more):
    """An exception of LiteLLM's."""
    response = httpx.Response(400, request=httpx.Request("POST", "http://127.0.0.1"))
    more = {"response": response} if kind in ("PermissionDeniedError", "UnprocessableEntityError") else more
    return getattr(open_litellm().exceptions, kind)(message=said, llm_provider="openai", model="model", **more)


def broken_stream(cause, *, begun):
    """What LiteLLM makes of a failure of a stream."""
    kind = open_litellm().exceptions.MidStreamFallbackError
    return kind("broken", "model", "openai", original_exception=cause, is_pre_first_chunk=not begun)


def caught(**asked):
    with pytest.raises(Exception, match=r"\S") as failed:
        open_litellm().completion(**{**ASKED, **asked})
    return failed.value


@pytest.fixture(autouse=True, scope="module")
def connections_end():
    """Drop the connections that LiteLLM keeps open; else they are warned of in some later module."""
    yield
    open_litellm().in_memory_llm_clients_cache.flush_cache()
    gc.collect()


@pytest.fixture(scope="module")
def server():
    with serve_script() as scripted:
        yield scripted


def failed_at(server, reply, **more):
    """What LiteLLM raises when a real server replies so."""
    server.script["told"] = [reply]
    return caught(model="openai/told", api_base=server.url, api_key=KEY, **more)


# --- Meanings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MEANINGS)
def test_each_failure_means_what_the_table_says(kind):
    failed = failure(kind)
    means = {
        PASSED_ON: classify(failed).falls_back(),
        PASSING: classify(failed).may_pass,
        BILLED: classify(failed).may_be_billed,
    }
    assert {name for name, is_so in means.items() if is_so} == MEANINGS[kind]
    assert (classify(failed) is Failure.OVERFLOW) == (kind == "ContextWindowExceededError")


@pytest.mark.parametrize("kind", ["RateLimitError", "InternalServerError", "ContextWindowExceededError"])
def test_the_classes_are_those_that_litellm_s_mock_raises(kind):
    failed = caught(model="openai/gpt-4.1-nano", mock_response=f"litellm.{kind}")
    assert type(failed) is getattr(open_litellm().exceptions, kind)
    assert classify(failed).falls_back() == (PASSED_ON in MEANINGS[kind])


@pytest.mark.parametrize(
    ("reply", "means"),
    [
        (rate_limited(), {PASSED_ON, PASSING}),
        (breaks(500), {PASSED_ON, PASSING, BILLED}),
        (breaks(503), {PASSED_ON, PASSING, BILLED}),
        (cuts, {PASSED_ON, PASSING, BILLED}),
        (hangs, {PASSED_ON, PASSING, BILLED}),
        (overflows(), {PASSED_ON}),
        (refuses_the_key(), {PASSED_ON}),
        (refuses_the_content(), set()),
    ],
    ids=["429", "500", "503", "cut", "no answer", "too long", "wrong key", "filtered"],
)
def test_a_real_server_s_failure_means_the_same(server, reply, means):
    failed = failed_at(server, reply, timeout=0.5)
    found = {
        PASSED_ON: classify(failed).falls_back(),
        PASSING: classify(failed).may_pass,
        BILLED: classify(failed).may_be_billed,
    }
    assert {name for name, is_so in found.items() if is_so} == means


# What providers and gateways say with a status, and what it means whichever SDK raises it.
SAID = {
    Failure.CONTENT_FILTER: [
        (400, {"code": "content_filter", "message": "The response was filtered."}),
        (400, {"code": "content_policy_violation", "message": "No."}),
        (400, {"message": "No.", "innererror": {"code": "ResponsibleAIPolicyViolation"}}),
        (400, {"code": "DataInspectionFailed", "message": "Input data may contain inappropriate content."}),
        (400, {"message": "The prompt triggered our content management policy."}),
        (403, {"code": 403, "message": "Your input was flagged.", "metadata": {"reasons": ["violence"]}}),
        (500, {"code": "content_filter", "message": "No."}),
    ],
    Failure.OVERFLOW: [
        (400, {"code": "context_length_exceeded", "message": "Too much."}),
        (400, {"type": "exceed_context_size_error", "message": "the request exceeds the available context size"}),
        (400, {"message": "Prompt contains 40000 tokens, too large for model with 32768 maximum context length"}),
        (400, {"message": "prompt is too long: 210000 tokens > 200000 maximum"}),
        (400, {"message": "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000"}),
        (400, {"status": "INVALID_ARGUMENT", "message": "The input exceeds the maximum number of tokens allowed."}),
        (400, {"message": "Input is too long for requested model."}),
        (400, {"message": "This model's maximum prompt length is 131072 but the request contains 537812 tokens."}),
        (400, {"message": "Please reduce the length of the messages or completion."}),
    ],
    Failure.ACCESS: [
        *((status, {"message": "No."}) for status in (401, 402, 403, 404, 410, 451)),
        (400, {"code": "model_not_found", "message": "No."}),
        (400, {"code": "model_decommissioned", "message": "No."}),
        (400, {"code": 400, "status": "INVALID_ARGUMENT", "details": [{"reason": "API_KEY_INVALID"}]}),
        (400, {"status": "FAILED_PRECONDITION", "message": "User location is not supported for the API use."}),
        (400, {"type": "invalid_request_error", "message": "Your credit balance is too low to access the API."}),
        (400, {"message": "Model Not Exist"}),
        (429, {"code": "insufficient_quota", "message": "You exceeded your current quota."}),
    ],
    Failure.MODEL: [
        *((status, {"message": "No."}) for status in (301, 405, 406, 413, 414, 415, 423, 424, 426, 431, 498, 499)),
        (400, {"code": "unsupported_parameter", "type": "invalid_request_error", "message": "No."}),
        (400, {"type": "invalid_request_error", "message": "Thinking mode does not support this tool_choice"}),
        (400, {"type": "invalid_request_error", "message": "This response_format type is unavailable now"}),
        (400, {"message": "max_tokens is too large: 10000. This model supports at most 4096 completion tokens."}),
        (400, {"message": "max_tokens: 8193 > 4096, which is the maximum allowed number of output tokens"}),
        (400, {"message": "messages.1.content.0: Invalid `signature` in `thinking` block"}),
        (400, {"code": "tool_use_failed", "message": "Failed to call a function."}),
        (422, {"message": "This model does not support images."}),
    ],
    Failure.RATE_LIMIT: [
        (429, {"message": "No."}),
        (429, {"code": "rate_limit_exceeded", "type": "tokens", "message": "Request too large: tokens per minute."}),
        (400, {"__type": "ThrottlingException", "code": "ThrottlingException", "message": "Rate exceeded"}),
    ],
    Failure.SERVER: [
        *((status, {"message": "No."}) for status in (408, 409, 425, 500, 502, 503, 504, 520, 524, 529)),
        (400, {"type": "overloaded_error", "message": "Overloaded"}),
        (500, {"message": "This model does not support requests now."}),
    ],
    Failure.REQUEST: [
        (400, {"message": "Invalid temperature."}),
        (400, {"code": "invalid_type", "type": "invalid_request_error", "message": "Expected a string."}),
        (400, {"status": "INVALID_ARGUMENT", "message": "Contents must not be empty."}),
        (422, {"message": "Field required", "input": {"code": "content_filter"}}),
    ],
}


def raised_by(sdk, status, error):
    """What an SDK raises when a server answers so."""
    request = httpx.Request("POST", "http://127.0.0.1")
    response = httpx.Response(status, json={"error": error}, request=request)
    if sdk == "openai":
        return openai.APIStatusError("No.", response=response, body=error)
    if sdk == "httpx":
        return httpx.HTTPStatusError(f"Client error '{status}'", request=request, response=response)
    if sdk == "botocore":
        failed = BotocoreLikeError(f"An error occurred: {error.get('message')}")
        code = error.get("code")
        failed.response = {"ResponseMetadata": {"HTTPStatusCode": status}, "Error": {"Code": code, **error}}
        return failed
    if sdk == "LiteLLM":
        said = f"AnthropicException - {json.dumps({'type': 'error', 'error': error})}"
        return open_litellm().APIError(status, said, "anthropic", "model")
    failed = RuntimeError("The model failed.")  # as frameworks wrap it
    failed.__cause__ = raised_by("openai", status, error)
    return failed


class BotocoreLikeError(Exception):
    """As botocore's: the body is a dict named response."""


@pytest.mark.parametrize("sdk", ["openai", "httpx", "botocore", "LiteLLM", "wrapped"])
def test_a_failure_means_what_the_provider_said_whichever_sdk_raises_it(sdk):
    wrong = [
        (meant.name, found.name, status, error)
        for meant, said in SAID.items()
        for status, error in said
        if (found := classify(raised_by(sdk, status, error))) is not meant
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("failed", "meant"),
    [
        (TimeoutError("slow"), Failure.SERVER),
        (ConnectionResetError("cut"), Failure.SERVER),
        (httpx.ConnectError("nobody there"), Failure.SERVER),
        (aiohttp.ServerDisconnectedError(), Failure.SERVER),
        (requests.exceptions.ReadTimeout("slow"), Failure.SERVER),
        (openai.APIError("Overloaded.", httpx.Request("POST", "http://a"), body={"code": 503}), Failure.SERVER),
        (openai.OpenAIError("Missing credentials. Please pass an `api_key`."), Failure.MODEL),
        (ContextOverflowError("too long"), Failure.OVERFLOW),
        (ModelRateLimitError("slow down"), Failure.RATE_LIMIT),
        (RuntimeError("Error code: 400 - {'error': {'code': 'model_not_found'}}"), Failure.ACCESS),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_a_failure_without_a_status_means_what_its_class_or_its_body_says(failed, meant):
    assert classify(failed) is meant


def test_an_answer_that_an_exception_quotes_is_no_failure_of_a_provider():
    quoted = """Invalid json output: {"status": "unavailable", "type": "timeout_error", "code": "content_filter"}"""
    assert classify(ValueError(quoted)) is Failure.OTHER


def test_a_failure_that_is_handled_while_another_happens_means_nothing_for_it():
    try:
        raise failure("RateLimitError")
    except Exception:
        with pytest.raises(ValueError, match="mine") as caught:
            raise ValueError("mine")  # noqa: B904 - it has the other as its context
    assert classify(caught.value) is Failure.OTHER


@pytest.mark.parametrize("kind", ["BudgetExceededError", "RejectedRequestError", "GuardrailRaisedException"])
def test_a_limit_that_the_user_set_is_not_passed_on(kind):
    exceptions = open_litellm().exceptions
    raised = {
        "BudgetExceededError": lambda: exceptions.BudgetExceededError(2.0, 1.0),
        "RejectedRequestError": lambda: exceptions.RejectedRequestError("no", "model", "openai", {}),
        "GuardrailRaisedException": lambda: exceptions.GuardrailRaisedException("mine", "flagged"),
    }
    assert not classify(raised[kind]()).falls_back(content_policy=True)


def test_a_content_filter_is_passed_on_when_it_is_asked_for():
    refused = failure("ContentPolicyViolationError")
    assert not classify(refused).falls_back()
    assert classify(refused).falls_back(content_policy=True)
    assert not classify(failure("BadRequestError")).falls_back(content_policy=True)


@pytest.mark.parametrize(
    "failed", [KeyboardInterrupt(), asyncio.CancelledError(), TypeError("x"), ValueError("x"), RuntimeError("x")]
)
def test_what_is_no_failure_of_a_model_is_never_passed_on(failed):
    assert not classify(failed).falls_back(content_policy=True)
    assert not classify(failed).may_pass
    assert not classify(failed).may_be_billed


@pytest.mark.parametrize("model", ["openai/gpt-4.1-nano", "anthropic/claude-sonnet-4-5"])
def test_a_key_that_is_not_set_is_passed_on_and_not_asked_again(monkeypatch, model):
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    failed = caught(model=model)
    assert classify(failed).falls_back()
    assert not classify(failed).may_pass
    assert not classify(failed).may_be_billed


def test_a_key_of_the_table_that_is_not_set_is_passed_on():
    assert classify(MissingKeyError("'home' takes its key from HOME_KEY, which is not set.")).falls_back()
    assert not classify(MissingKeyError("'home' takes its key from HOME_KEY, which is not set.")).may_pass


def test_a_stream_that_had_not_begun_means_what_made_it_fail():
    limited = failure("RateLimitError")
    wrapped = broken_stream(limited, begun=False)
    assert unwrapped(wrapped) is limited
    assert classify(wrapped).falls_back()
    assert classify(wrapped).may_pass
    assert not classify(wrapped).may_be_billed
    assert described(wrapped) == described(limited)


def test_a_stream_that_had_begun_was_paid_for():
    wrapped = broken_stream(failure("RateLimitError"), begun=True)
    assert unwrapped(wrapped) is wrapped
    assert classify(wrapped).may_be_billed
    assert unwrapped(plain := ValueError("x")) is plain


# --- Waiting ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("said", "seconds"), [(7, 7.0), (0.5, 0.5), (0, 0.0), (None, None)])
def test_the_wait_that_a_provider_asks_for_is_known(server, said, seconds):
    assert retry_after(failed_at(server, rate_limited(retry_after=said))) == seconds


@pytest.mark.parametrize("said", ["soon", "", "-1", "inf", "nan", "Wed, 21 Oct 2026 07:28:00 GMT"])
def test_a_wait_that_is_no_number_of_seconds_is_none(server, said):
    assert retry_after(failed_at(server, rate_limited(retry_after=said))) is None


def test_a_failure_without_headers_asks_for_no_wait():
    assert retry_after(failure("RateLimitError")) is None
    assert retry_after(ValueError("x")) is None


def test_the_wait_of_a_stream_that_had_not_begun_is_known(server):
    limited = failed_at(server, rate_limited(retry_after=7))
    assert retry_after(broken_stream(limited, begun=False)) == 7


# --- Words ------------------------------------------------------------------------------------------------------------


def test_a_failure_is_one_line_that_begins_with_its_class():
    assert described(failure("Timeout", "first\n  second")).startswith("Timeout: ")
    assert "\n" not in described(failure("Timeout", "first\n  second"))
    assert described(ValueError("x")) == "ValueError: x"


def test_a_key_that_the_provider_echoes_is_not_shown(server, monkeypatch):
    failed = failed_at(server, refuses_the_key())
    assert KEY in str(failed)
    assert KEY not in described(failed)
    monkeypatch.setenv("HOME_KEY", "planted without a shape")
    assert described(ValueError("No planted without a shape!")) == "ValueError: No [key]!"


def test_a_key_in_a_body_is_taken_out_of_it_and_the_rest_stays_as_it_is(server):
    failed = without_keys(failed_at(server, refuses_the_key()))
    plain = without_keys(raised_by("openai", 401, {"code": "invalid_api_key", "message": f"Wrong key: {KEY}."}))
    assert plain.body == {"code": "invalid_api_key", "message": "Wrong key: [key]."}
    assert plain.response.json() == {"error": plain.body}
    assert KEY not in getattr(failed.response, "text", "") + str(failed)
    assert status_of(failed) == status_of(plain) == 401


@pytest.mark.parametrize(
    "key",
    [
        "sk-proj-abcdefgh1234",
        "sk-ant-api03-abcdefgh",
        "gsk_abcdefgh1234",
        "AIzaSyA1234567890abcdefghijk",
        "hf_abcdefgh12",
    ],
)
@pytest.mark.parametrize(
    "around", ["{}", "key={}.", "Incorrect key provided: {}. See", '{{"Authorization": "Bearer {}"}}']
)
def test_what_looks_like_a_key_is_not_shown(key, around):
    said = redacted(around.format(key))
    assert key[4:] not in said
    assert "[key]" in said


@given(st.text(alphabet="abcdefgh-_. 123", min_size=6, max_size=30), st.text(max_size=20), st.text(max_size=20))
def test_a_secret_that_is_named_is_never_shown(secret, before, after):
    assert secret not in redacted(before + secret + after, [secret]) or secret in "[key]"


@pytest.mark.parametrize("harmless", ["Rate limit reached.", "risk-assessment-of-things", "model openai/gpt-4.1-nano"])
def test_plain_words_are_left_as_they_are(harmless):
    assert redacted(harmless) == harmless


# --- Who is next ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def decision(asked_router):
    """A decision over the four models of the world."""
    return asked_router.route(PROMPT)


def ranked(decision):
    return [candidate.model for candidate in decision.ranking]


def exhausted(attempts, failing):
    """The models that are tried when each fails as told, and what is raised in the end."""
    tried = []
    try:
        while True:
            tried.append(attempts.model)
            attempts.note(failing(attempts.model))
    except Exception as raised:
        return tried, raised


def test_models_are_tried_in_the_order_of_the_ranking(decision):
    attempts = Attempts(decision)
    tried, raised = exhausted(attempts, lambda model: failure("RateLimitError", model))
    assert tried == ranked(decision) == list(attempts.failures)
    assert attempts.is_last
    assert isinstance(raised, open_litellm().RateLimitError)


def test_an_excluded_model_is_not_tried(asked_router):
    decision = asked_router.route(PROMPT, models=["poet", "sage"])
    attempts = Attempts(decision)
    attempts.note(failure("Timeout"))
    assert {decision.model, attempts.model} == {"poet", "sage"}
    assert attempts.is_last


def test_when_all_fail_the_first_failure_is_raised_with_what_became_of_the_others(decision):
    failures = {model: failure("RateLimitError", f"{model} is busy, sk-planted123") for model in ranked(decision)}
    _, raised = exhausted(Attempts(decision), failures.get)
    assert raised is failures[decision.model]
    assert [note.split(":")[0] for note in raised.__notes__] == [f"Then {m} was tried" for m in ranked(decision)[1:]]
    assert "planted123" not in "".join(raised.__notes__)


def test_a_failure_that_no_other_model_may_mend_is_raised_at_once_as_it_is(decision):
    attempts, refused = Attempts(decision), failure("BadRequestError")
    attempts.note(failure("Timeout"))
    with pytest.raises(open_litellm().BadRequestError) as raised:
        attempts.note(refused)
    assert raised.value is refused
    assert not hasattr(refused, "__notes__")


def test_a_content_filter_goes_to_the_next_model_when_the_user_wants_it(decision):
    attempts = Attempts(decision, content_policy=True)
    attempts.note(failure("ContentPolicyViolationError"))
    assert attempts.model == ranked(decision)[1]
    with pytest.raises(open_litellm().ContentPolicyViolationError):
        Attempts(decision).note(failure("ContentPolicyViolationError"))


def test_a_prompt_too_long_goes_only_to_larger_windows(decision):
    first, second, third, fourth = ranked(decision)
    attempts = Attempts(decision, {first: 8_000, second: 4_000, third: None, fourth: 128_000})
    attempts.note(failure("ContextWindowExceededError"))
    assert attempts.model == third  # a window that is not known may be larger
    attempts.note(failure("RateLimitError"))
    assert attempts.model == fourth
    assert attempts.is_last


def test_a_prompt_too_long_for_all_is_the_first_one_s_failure(decision):
    attempts = Attempts(decision, dict.fromkeys(ranked(decision), 8_000))
    with pytest.raises(open_litellm().ContextWindowExceededError):
        attempts.note(failure("ContextWindowExceededError"))


@given(st.lists(st.sampled_from([k for k, means in MEANINGS.items() if PASSED_ON in means]), min_size=4, max_size=4))
def test_whatever_the_failures_each_model_is_tried_once_at_most_in_order(decision, kinds):
    windows = dict(zip(ranked(decision), (4, 8, 2, 16), strict=True))
    attempts, left = Attempts(decision, windows), dict(zip(ranked(decision), kinds, strict=True))
    raised = None
    while raised is None:
        try:
            attempts.note(failure(left.pop(attempts.model)))  # fails when one is tried again
        except Exception as failed:
            raised = failed
    tried = list(attempts.failures)
    assert tried == [model for model in ranked(decision) if model in tried]
    assert type(raised).__name__ == kinds[0]


def test_a_stream_that_never_began_is_raised_as_what_made_it_fail(decision):
    causes = {model: failure("RateLimitError", model) for model in ranked(decision)}
    _, raised = exhausted(Attempts(decision), lambda model: broken_stream(causes[model], begun=False))
    assert raised is causes[decision.model]


async def test_a_cancelled_call_is_not_passed_on(decision):
    attempts, begun = Attempts(decision), asyncio.Event()

    async def call():
        while True:
            try:
                begun.set()
                await asyncio.Event().wait()
            except Exception as failed:
                attempts.note(failed)

    task = asyncio.create_task(call())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert attempts.failures == {}
    with pytest.raises(asyncio.CancelledError):
        attempts.note(asyncio.CancelledError())
