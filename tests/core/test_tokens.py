import hashlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from unirouter_core.costs import BY_CHARACTERS, ENCODING, TokenCounter

TABLE = "9b5ad71b2ce5302211f9c61530b329a4922fc6a4"  # cl100k_base, as tiktoken names it
BUNDLED = [("litellm", "litellm_core_utils/tokenizers"), ("llama_index", "core/_static/tiktoken_cache")]

COUNT_WITHOUT_A_SOCKET = """
import socket
def refuse(*_, **__):
    raise AssertionError("counting opened a socket")
socket.socket = socket.create_connection = socket.getaddrinfo = refuse
from unirouter_core.costs import TokenCounter
counter = TokenCounter()
print(counter.name, *counter.count(["12345", "What is 2 + 2?"]))
"""


def table_folder():
    """Where a real table lies on this machine, or None."""
    folders = [Path(os.environ["TIKTOKEN_CACHE_DIR"])] if os.environ.get("TIKTOKEN_CACHE_DIR") else []
    for package, inside in BUNDLED:
        found = importlib.util.find_spec(package)
        folders += [Path(place) / inside for place in (found.submodule_search_locations if found else [])]
    return next((folder for folder in folders if (folder / TABLE).is_file()), None)


@pytest.fixture
def no_table(monkeypatch, tmp_path):
    """A machine where neither package is installed."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    return tmp_path


@pytest.fixture
def table(monkeypatch):
    folder = table_folder()
    if folder is None:
        pytest.skip("no cl100k_base table on this machine: install litellm or set TIKTOKEN_CACHE_DIR")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(folder))
    return folder


def test_without_a_table_four_characters_are_a_token(no_table):
    counter = TokenCounter()
    assert counter.name == BY_CHARACTERS
    assert counter.count(["a", "abcd", "abcde", "é" * 9]).tolist() == [1, 1, 2, 3]
    assert counter.count([]).shape == (0,)


def test_a_table_that_is_not_whole_is_left_where_it_is(no_table):
    (no_table / TABLE).write_bytes(b"IQ== 0\n")
    assert TokenCounter().name == BY_CHARACTERS
    assert (no_table / TABLE).read_bytes() == b"IQ== 0\n"


def test_a_router_that_was_fitted_without_a_table_goes_on_without(table):
    assert TokenCounter(BY_CHARACTERS).count(["What is 2 + 2?"]).tolist() == [4]


def test_with_a_table_tokens_are_counted(table):
    counter = TokenCounter(ENCODING)
    assert counter.count(["What is 2 + 2?"]).tolist() == [8]
    assert counter.name == ENCODING
    assert os.environ["TIKTOKEN_CACHE_DIR"] == str(table)


def test_many_prompts_have_the_tokens_that_each_has_alone(table):
    prompts = [f"What is {n} + {n}? <|endoftext|>" + "é\ud800 " * (n % 3) for n in range(80)]
    alone = [TokenCounter().count([prompt])[0] for prompt in prompts]
    assert np.array_equal(TokenCounter().count(prompts), alone)


def test_the_table_is_found_by_the_name_that_tiktoken_gives_it():
    url = "https://openaipublic.blob.core.windows.net/encodings/cl100k_base.tiktoken"
    assert hashlib.sha1(url.encode(), usedforsecurity=False).hexdigest() == TABLE


@pytest.mark.parametrize("broken", [False, True])
def test_counting_opens_no_socket(tmp_path, broken):
    if broken:
        (tmp_path / TABLE).write_bytes(b"IQ== 0\n")
    environment = {**os.environ, "TIKTOKEN_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", COUNT_WITHOUT_A_SOCKET]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()
    assert printed in (f"{BY_CHARACTERS} 2.0 4.0", f"{ENCODING} 2.0 8.0")
