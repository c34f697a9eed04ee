import hashlib
import importlib.util
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import fitted
from unirouter_core.costs import (
    BY_CHARACTERS,
    ENCODING,
    PRIOR_ANSWERS,
    Prices,
    TokenCounter,
    implied_prices,
    region_tokens,
    region_usd,
    sent_tokens,
    usd_per_token,
)
from unirouter_core.data import Evaluation, ValidationSet
from unirouter_core.exceptions import InvalidDataError, UnknownPriceError
from unirouter_core.fit import call_cost

DOLLAR = 1e6  # a token
COUNTED = np.array([10.0, 20.0, 30.0, 40.0])
REGIONS = np.array([0, 0, 1, 1])


def evaluation(**columns):
    return Evaluation("poet", ValidationSet(["a", "b", "c", "d"]), [0, 0, 1, 1], **columns)


def cost_of(scalar=False, **columns):
    return call_cost(evaluation(**columns), COUNTED, REGIONS, 3, scalar=scalar)


# --- Prices -----------------------------------------------------------------------------------------------------------


def test_a_price_is_a_finite_number_that_is_not_negative():
    for name in ("input", "output", "cached_input"):
        for price in (-1.0, np.nan, np.inf, "3"):
            with pytest.raises(InvalidDataError, match=f"Price {name}={price!r} must be a finite number of USD"):
                Prices(**{"input": 1.0, "output": 1.0, name: price})


def test_a_price_that_is_not_known_is_no_price():
    with pytest.raises(InvalidDataError, match="Price output=None must be a finite number"):
        Prices(1.0, None)


def test_cached_tokens_are_part_of_the_prompts_and_cost_their_own_price():
    # 600 fresh at $3, 400 cached at $0.30, 100 out at $15, a million.
    assert Prices(3.0, 15.0, 0.3).cost(1_000, 100, cached_tokens=400) == pytest.approx(0.0018 + 0.00012 + 0.0015)
    assert Prices(3.0, 15.0).cost(1_000, 100, cached_tokens=400) == pytest.approx(0.003 + 0.0015)


def test_a_model_may_cost_nothing():
    assert Prices(0.0, 0.0).cost(1_000, 1_000) == 0
    for columns in ({"tokens_out": [1, 2, 3, 4]}, {}):
        cost = cost_of(prices=Prices(0.0, 0.0), **columns)
        assert (cost.per_token, cost.per_cached_token, cost.per_answer.tolist()) == (0, 0, [0, 0, 0])
    assert cost_of(costs=[0.0] * 4).per_answer.tolist() == [0, 0, 0]


# --- Expected tokens and USD of a region ------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 100_000)), min_size=1, max_size=50))
def test_the_sum_of_the_expected_lengths_is_the_sum_of_those_seen(answers):
    regions, lengths = np.array(answers).T
    expected = region_tokens(lengths.astype(float), regions, 6)
    assert (expected >= 0).all()
    assert expected[regions].sum() == pytest.approx(lengths.sum(), abs=1e-6)


def test_answers_of_one_length_are_expected_to_have_it_everywhere():
    assert region_tokens(np.full(4, 50.0), REGIONS, 3) == pytest.approx([50, 50, 50])
    assert region_tokens(np.zeros(4), REGIONS, 3) == pytest.approx([0, 0, 0])


def test_a_regions_length_is_pulled_to_the_overall_one_by_ten_answers():
    lengths = np.array([9.0, 9.0, 99.0, 99.0])  # with 1 more, logarithms of 10 are 1, 1, 2, 2
    expected = region_tokens(lengths, REGIONS, 3) + 1
    logs = np.array([(2 + 10 * 1.5) / 12, (4 + 10 * 1.5) / 12, 1.5])
    factor = 220 / (2 * 10 ** logs[0] + 2 * 10 ** logs[1])
    assert PRIOR_ANSWERS == 10
    assert expected == pytest.approx(factor * 10**logs)


def test_lengths_and_costs_that_are_not_known_are_left_out():
    gaps = np.array([np.nan, 7.0, np.nan, 70.0])
    assert region_tokens(gaps, REGIONS, 3).tolist() == region_tokens(gaps[[1, 3]], REGIONS[[1, 3]], 3).tolist()
    assert region_usd(gaps, REGIONS, 3).tolist() == region_usd(gaps[[1, 3]], REGIONS[[1, 3]], 3).tolist()


def test_a_regions_usd_is_pulled_to_the_mean_by_ten_answers():
    # Mean 4. (1 + 3 + 40) / 12, (5 + 7 + 40) / 12, and where nothing was seen 4.
    assert region_usd(np.array([1.0, 3.0, 5.0, 7.0]), REGIONS, 3) == pytest.approx([44 / 12, 52 / 12, 4])


# --- What calls of a model cost ---------------------------------------------------------------------------------------


def test_with_prices_and_tokens_a_call_costs_by_tokens():
    cost = cost_of(prices=Prices(2 * DOLLAR, 3 * DOLLAR, DOLLAR), tokens_out=[50] * 4, costs=[9.0] * 4)
    assert (cost.per_token, cost.per_cached_token) == (2, 1)
    assert cost.per_answer == pytest.approx([150, 150, 150])


def test_the_providers_tokens_scale_the_routers():
    # Of the three prompts where both are known: 50 + 50 + 80 tokens there, 10 + 20 + 30 here.
    cost = cost_of(
        prices=Prices(2 * DOLLAR, DOLLAR, DOLLAR), tokens_in=[50, 50, 80, np.nan], tokens_out=[50, 50, 50, 50]
    )
    assert (cost.per_token, cost.per_cached_token) == (6, 3)
    assert cost.per_answer == pytest.approx([50, 50, 50])


def test_a_system_prompt_is_sent_once_however_long_the_prompt_is():
    counted = np.arange(1.0, 21.0)
    assert sent_tokens(counted, 300 + 1.25 * counted) == pytest.approx((300, 1.25))
    gaps = np.where(counted % 3 == 0, np.nan, 300 + 1.25 * counted)
    assert sent_tokens(counted, gaps) == pytest.approx((300, 1.25))


def test_where_a_line_has_no_meaning_all_is_in_the_ratio():
    for counted, tokens_in, ratio in (
        (np.full(20, 10.0), np.full(20, 35.0), 3.5),  # of one length: no line
        (np.arange(1.0, 10.0), 90 + 2 * np.arange(1.0, 10.0), 20),  # nine: (810 + 90) / 45
        (np.arange(1.0, 21.0), 42 - 2 * np.arange(1.0, 21.0), 2),  # falling: (840 - 420) / 210
        (np.arange(10.0, 30.0), 3 * np.arange(10.0, 30.0) - 29.25, 1.5),  # fixed part below 0: 3 - 29.25 / 19.5
        (np.arange(1.0, 21.0), np.full(20, np.nan), 1),
        (np.zeros(20), np.full(20, 7.0), 1),
    ):
        assert sent_tokens(counted, tokens_in) == pytest.approx((0, ratio))


def test_what_every_call_adds_is_in_the_expected_cost_unless_all_that_is_sent_is_known(world):
    table, router = world.rows(range(160, 240)), fitted(world)
    counted = router.fit_.token_counter.count(table.prompts)
    validation = ValidationSet(table.prompts)
    one = Evaluation(
        "poet", validation, table.errors[:, 0], tokens_in=300 + counted, tokens_out=[0] * 80, prices=Prices(2.0, 4.0)
    )
    router.onboard(one)
    own = float(router.fit_.token_counter.count([table.prompts[0]])[0])
    assert router.route(table.prompts[0]).cost == pytest.approx((300 + own) * 2e-6)
    assert router.route(table.prompts[0], tokens_in=1000).cost == pytest.approx(1000 * 2e-6)
    router.reprice("poet", Prices(6.0, 4.0))
    assert router.route(table.prompts[0]).cost == pytest.approx((300 + own) * 6e-6)


def test_with_usd_alone_a_call_costs_the_regions_mean():
    for prices in (None, Prices(1.0, 1.0)):  # list prices alone, without a length, tell nothing of the answer
        cost = cost_of(costs=[1, 3, 5, 7], prices=prices)
        assert (cost.per_token, cost.per_cached_token) == (0, 0)
        assert cost.per_answer == pytest.approx([44 / 12, 52 / 12, 4])


def test_usd_that_grow_with_the_prompt_are_expected_to_go_on_growing():
    counted = np.linspace(10, 100, 40)
    validation = ValidationSet([f"prompt {i}" for i in range(40)])
    cost = call_cost(
        Evaluation("poet", validation, np.zeros(40), 3 + 0.5 * counted), counted, np.zeros(40, int), 2, scalar=False
    )
    assert cost.per_token == pytest.approx(0.5)
    assert cost.per_answer == pytest.approx([3, 3])


def test_usd_that_only_seem_to_grow_with_the_prompt_are_left_to_the_region():
    rng, counted = np.random.default_rng(0), np.linspace(10, 100, 40)
    slopes = [usd_per_token(counted, rng.random(40)) for _ in range(200)]
    assert np.mean(np.array(slopes) > 0) < 0.06  # one side of two standard errors: 2.3 % expected
    assert usd_per_token(counted[:9], counted[:9]) == 0.0  # too few to tell
    assert usd_per_token(counted, 200 - counted) == 0.0


def test_a_call_is_never_expected_to_cost_less_than_nothing():
    counted = np.linspace(50, 100, 20)
    slope = usd_per_token(counted, counted - 40)
    assert slope == pytest.approx((counted - 40).mean() / counted.mean())


def test_the_papers_scalar_cost_is_the_mean_everywhere():
    assert cost_of(scalar=True, costs=[1, 3, 5, np.nan]).per_answer.tolist() == [3, 3, 3]
    by_tokens = cost_of(scalar=True, prices=Prices(DOLLAR, DOLLAR), tokens_out=[1, 1, 2, 2])
    assert by_tokens.per_token == 0
    assert by_tokens.per_answer.tolist() == [26.5, 26.5, 26.5]  # (10 + 20 + 30 + 40 + 1 + 1 + 2 + 2) / 4


def test_an_unknown_cost_is_never_0():
    for scalar in (False, True):
        for columns in ({}, {"prices": Prices(1.0, 2.0)}, {"tokens_in": [1] * 4, "tokens_out": [1] * 4}):
            with pytest.raises(UnknownPriceError, match=r"'poet' costs is not known; give prices=Prices\(.*, or costs"):
                cost_of(scalar, **columns)


def test_recorded_costs_that_are_prices_times_tokens_give_the_prices_away():
    rng = np.random.default_rng(0)
    tokens_in, tokens_out = rng.integers(10, 500, (2, 50)).astype(float)
    costs = np.round((3.0 * tokens_in + 15.0 * tokens_out) / 1e6, 9)
    prices = implied_prices(costs, tokens_in, tokens_out)
    assert (prices.input, prices.output) == (pytest.approx(3.0, rel=1e-3), pytest.approx(15.0, rel=1e-3))


def test_costs_that_no_two_prices_explain_give_none():
    for noise in (0.3, np.nan):
        rng = np.random.default_rng(0)
        tokens_in, tokens_out = rng.integers(10, 500, (2, 50)).astype(float)
        assert implied_prices(tokens_in * (1 + noise * rng.random(50)), tokens_in, tokens_out) is None


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


def test_tokens_are_those_that_tiktoken_counts_and_the_environment_is_never_written(table, monkeypatch, tmp_path):
    def refuse(*_):
        raise AssertionError("the environment was written")

    texts = ["def f(x): return 12345  # don't", "  Größe\r\n\n\t 日本語 🦜", "IT'S <|endoftext|> \ud800", ""]
    expected = [len(tiktoken.get_encoding(ENCODING).encode_ordinary(text)) for text in texts]
    (tmp_path / TABLE).symlink_to(table / TABLE)  # one that was not read before
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    with monkeypatch.context() as frozen:
        frozen.setattr(os._Environ, "__setitem__", refuse)
        frozen.setattr(os._Environ, "__delitem__", refuse)
        assert TokenCounter().count(texts).tolist() == expected


def test_many_prompts_have_the_tokens_that_each_has_alone(table):
    prompts = [f"What is {n} + {n}? <|endoftext|>" + "é\ud800 " * (n % 3) for n in range(80)]
    alone = [TokenCounter().count([prompt])[0] for prompt in prompts]
    assert np.array_equal(TokenCounter().count(prompts), alone)


def test_a_prompt_of_any_length_is_counted_by_a_sample_in_bounded_memory(table):
    counter, unit = TokenCounter(), "What is 14 plus 33? Größe, 日本語.\n"
    each = counter.count([unit * 1_000])[0] / 1_000
    tracemalloc.start()
    for prompt, expected in ((unit * 100_000, each * 100_000), ("x" * 3_000_000, 3_000_000 / 8)):
        assert counter.count([prompt])[0] == pytest.approx(expected, rel=0.01)
    assert tracemalloc.get_traced_memory()[1] < 2**24  # the prompt itself is 7 MB; a list of its tokens is 40 MB
    tracemalloc.stop()


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
