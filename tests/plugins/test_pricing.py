"""Whose price counts, what a call cost by its usage, and that what nobody knows is never $0."""

import dataclasses
import math
import re
from types import SimpleNamespace

import pytest

from unirouter_core import Capabilities, NoCandidateError, Prices, UnknownPriceError
from unirouter_plugins.litellm import configured
from unirouter_plugins.litellm.chat import Chat
from unirouter_plugins.litellm.failures import open_litellm
from unirouter_plugins.litellm.pool_file import Member, Members, read_members
from unirouter_plugins.litellm.prices import (
    LITELLM,
    PROFILE,
    TABLE,
    Quote,
    Usage,
    capabilities,
    listed_prices,
    quote,
    require_quote,
    usage_of,
    usd_of,
)
from unirouter_plugins.litellm.snapshot import Snapshot

NANO = "openai/gpt-4.1-nano"
LISTED = Prices(input=0.1, output=0.4, cached_input=0.025)  # of NANO, in LiteLLM's map
OWN = Prices(input=2.0, output=8.0)


@pytest.fixture
def litellm():
    """LiteLLM, its map of prices as it was before when the test is over."""
    module = open_litellm()
    before = dict(module.model_cost)
    yield module
    module.model_cost.clear()
    module.model_cost.update(before)
    module.utils._invalidate_model_cost_lowercase_map()


@pytest.fixture
def profile(asked_router):
    """The profile of a model that was onboarded at $5 and $20."""
    return asked_router.pool["sage"]


def response(**usage):
    """LiteLLM's response with this usage."""
    litellm = open_litellm()
    return litellm.ModelResponse(usage=litellm.Usage(**usage) if usage else None)


# --- Whose price ------------------------------------------------------------------------------------------------------


def test_the_table_s_price_counts_before_the_profile_s_and_that_before_litellm_s(profile):
    unpriced = dataclasses.replace(profile, prices=None)
    assert quote(Member("a", NANO, prices=OWN), profile) == Quote(OWN, TABLE)
    assert quote(Member("a", NANO), profile) == Quote(profile.prices, PROFILE)
    assert quote(Member("a", NANO), unpriced) == quote(Member("a", NANO)) == Quote(LISTED, LITELLM)
    assert quote(Member("a", "nobody/knows"), unpriced) is None


def test_a_price_of_zero_is_a_price_where_the_user_gives_it():
    assert quote(Member("a", "nobody/knows", prices=Prices(0, 0))) == Quote(Prices(0, 0), TABLE)


@pytest.mark.parametrize("model", ["ollama/llama3", "nobody/knows", "unirouter/a@12345678", ""])
def test_two_zeros_in_litellm_s_map_and_no_entry_are_no_price(model):
    assert listed_prices(Member("a", model)) is None
    assert quote(Member("a", model)) is None


@pytest.mark.parametrize("priced", [{}, {"output_cost_per_token": 1e-6}, {"input_cost_per_token": 1e-6}], ids=str)
def test_a_model_that_litellm_s_map_does_not_price_whole_is_not_free(litellm, priced):
    litellm.register_model({"openai/mine": {"litellm_provider": "openai", "mode": "chat", "max_tokens": 100, **priced}})
    assert litellm.get_model_info("openai/mine")["mode"] == "chat"  # registered
    assert quote(Member("a", "openai/mine")) is None


def test_cached_tokens_of_a_model_without_a_price_for_them_cost_what_others_do(litellm):
    priced = {"input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6, "cache_read_input_token_cost": 0}
    litellm.register_model({"openai/mine": {"litellm_provider": "openai", "mode": "chat", **priced}})
    assert quote(Member("a", "openai/mine")) == Quote(Prices(1, 2), LITELLM)


def test_a_model_at_an_address_of_the_user_s_never_takes_litellm_s_price_or_capabilities():
    elsewhere = Member("a", NANO, api_base="http://127.0.0.1:8080/v1")
    assert quote(elsewhere) is None
    assert capabilities(elsewhere) == Capabilities()
    assert quote(dataclasses.replace(elsewhere, prices=OWN)) == Quote(OWN, TABLE)


def test_a_variant_has_its_own_model_s_listed_price():
    assert quote(Member("a", NANO, system="s")) == Quote(LISTED, LITELLM)


def test_an_unknown_price_is_refused_with_the_lines_to_write():
    with pytest.raises(
        UnknownPriceError, match=r"What 'a' costs is not known .*\[models\.a\] model = \"nobody/knows\""
    ):
        require_quote(Member("a", "nobody/knows"))
    with pytest.raises(UnknownPriceError, match=r"\[models\.\"gpt 4\.1\"\]"):
        require_quote(Member("gpt 4.1", "nobody/knows"))
    assert require_quote(Member("a", NANO)).source == LITELLM


def test_the_price_of_a_gateway_is_asked_for_with_the_entry_that_there_is_or_is_the_list_price(tmp_path):
    entry = f'[models.nano]\nmodel = "{NANO}"\napi_base = "http://gateway/v1"\napi_key_env = "GATEWAY"\n'
    (tmp_path / "pool.toml").write_text(entry)
    kept = f'model = "{NANO}", api_base = "http://gateway/v1", api_key_env = "GATEWAY", prices = {{ input = ...'
    with pytest.raises(
        UnknownPriceError, match=f"list prices are not taken for an address of your own.*{re.escape(kept)}"
    ):
        require_quote(read_members(tmp_path / "pool.toml")["nano"])
    (tmp_path / "pool.toml").write_text(entry + 'prices = "list"\n')
    found = require_quote(read_members(tmp_path / "pool.toml")["nano"])
    assert found == require_quote(Member("nano", NANO))


# --- Capabilities -----------------------------------------------------------------------------------------------------


def test_capabilities_are_the_table_s_then_the_profile_s_or_litellm_s(profile):
    listed = capabilities(Member("a", NANO))
    assert listed.context_window == open_litellm().get_model_info(NANO)["max_input_tokens"]
    assert (listed.tools, listed.vision, listed.json) == (True, True, True)
    assert not capabilities(Member("a", NANO, capabilities={"tools": False})).tools
    blind = dataclasses.replace(profile, capabilities=Capabilities(vision=False, context_window=99))
    assert capabilities(Member("a", NANO), blind) == blind.capabilities
    assert capabilities(Member("a", NANO, capabilities={"vision": True}), blind).vision


def test_unknown_capabilities_are_true():
    assert capabilities(Member("a", "nobody/knows")) == Capabilities()


def test_a_router_of_litellm_s_in_the_same_process_says_nothing_of_what_a_model_can_do(litellm):
    for more in ({}, {"input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6}):
        called = {"model": "openai/mine", "api_key": "x", "api_base": "http://127.0.0.1:9", **more}
        litellm.Router(model_list=[{"model_name": "mine", "litellm_params": called}])
        assert "openai/mine" in litellm.model_cost
        assert capabilities(Member("mine", "openai/mine")) == Capabilities()


# --- Usage ------------------------------------------------------------------------------------------------------------


def test_reasoning_tokens_are_counted_once_wherever_the_provider_puts_them():
    details = {"completion_tokens_details": {"reasoning_tokens": 30}}
    inside = response(prompt_tokens=10, completion_tokens=50, total_tokens=60, **details)
    on_top = response(prompt_tokens=10, completion_tokens=20, total_tokens=60, **details)
    assert usage_of(inside) == usage_of(on_top) == Usage(10, 50, 0, 30)


def test_cached_tokens_are_part_of_the_prompt_s():
    counts = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    assert usage_of(response(**counts, prompt_tokens_details={"cached_tokens": 8})) == Usage(10, 5, 8)
    assert usage_of(response(**counts, prompt_tokens_details={"cached_tokens": 80})) == Usage(10, 5, 10)


@pytest.mark.parametrize("silent", [None, SimpleNamespace(), SimpleNamespace(usage=None)], ids=str)
def test_no_usage_is_not_known(silent):
    assert not usage_of(silent).is_known


def test_a_usage_of_nothing_is_not_known():
    assert not usage_of(response()).is_known
    assert not usage_of(response(prompt_tokens=0, completion_tokens=0, total_tokens=0)).is_known
    assert usage_of(response(prompt_tokens=3, completion_tokens=0, total_tokens=3)) == Usage(3, 0)


# --- USD --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [TABLE, PROFILE, LITELLM])
def test_the_cost_of_an_answer_without_usage_is_nan(source):
    assert math.isnan(usd_of(response(), Quote(OWN, source), Usage(math.nan, math.nan)))


def test_the_user_s_prices_win_over_what_litellm_reckons():
    answer = response(prompt_tokens=1_000, completion_tokens=100, total_tokens=1_100)
    answer._hidden_params = {"response_cost": 99.0}
    usage = usage_of(answer)
    assert usd_of(answer, Quote(OWN, TABLE), usage) == pytest.approx((1_000 * 2 + 100 * 8) / 1e6)
    assert usd_of(answer, Quote(OWN, PROFILE), usage) == pytest.approx((1_000 * 2 + 100 * 8) / 1e6)
    assert usd_of(answer, Quote(LISTED, LITELLM), usage) == 99.0  # it knows tiers, images, searches


@pytest.mark.parametrize("reckoned", [None, 0, 0.0])
def test_where_litellm_reckons_nothing_its_listed_prices_do(reckoned):
    answer = response(prompt_tokens=1_000, completion_tokens=100, total_tokens=1_100)
    answer._hidden_params = {"response_cost": reckoned}
    usage = Usage(1_000, 100, cached_tokens=400)
    listed = (600 * 0.1 + 400 * 0.025 + 100 * 0.4) / 1e6
    assert usd_of(answer, Quote(LISTED, LITELLM), usage) == pytest.approx(listed)


def test_a_real_call_costs_what_its_usage_does_at_the_listed_price():
    arguments = {"model": NANO, "messages": [{"role": "user", "content": "Hi."}], "mock_response": "Hello."}
    answer = open_litellm().completion(**arguments)
    usd = usd_of(answer, require_quote(Member("a", NANO)), usage_of(answer))
    assert usd == pytest.approx((10 * 0.1 + 20 * 0.4) / 1e6)  # a mock takes 10 and 20 tokens


# --- Kinds of tokens, and prices that depend on the prompt's length ---------------------------------------------------

CLAUDE, GEMINI = "anthropic/claude-sonnet-4-5", "gemini/gemini-2.5-pro"


@pytest.mark.parametrize(
    ("model", "usage"),
    [
        (CLAUDE, Usage(10_000, 500, cached_tokens=2_000, cache_write_tokens=7_000)),
        (GEMINI, Usage(300_000, 2_000, reasoning_tokens=1_500)),
        (GEMINI, Usage(300_000, 2_000, cached_tokens=100_000)),
        (NANO, Usage(1_000, 100, cached_tokens=400)),
    ],
)
def test_where_litellm_s_prices_count_a_usage_costs_what_litellm_says(litellm, model, usage):
    details = {"cached_tokens": usage.cached_tokens, "cache_creation_tokens": usage.cache_write_tokens}
    answer = response(
        prompt_tokens=usage.tokens_in, completion_tokens=usage.tokens_out, prompt_tokens_details=details, total_tokens=0
    )
    answer.model = model
    usd = litellm.completion_cost(answer, model=model)
    assert require_quote(Member("a", model)).usd(usage) == pytest.approx(usd) != 0
    assert usage_of(answer).cache_write_tokens == usage.cache_write_tokens


def test_tokens_written_to_a_cache_cost_more_at_prices_of_the_user_s_too():
    usage = Usage(10_000, 500, cache_write_tokens=8_000)
    usd = quote(Member("a", CLAUDE, prices=OWN)).usd(usage)
    assert usd == pytest.approx((2_000 * 2 + 8_000 * 2 * 1.25 + 500 * 8) / 1e6)


def test_the_decision_has_the_price_of_the_prompt_s_length(router):
    listed = listed_prices(Member("a", GEMINI))
    assert listed_prices(Member("a", GEMINI), 300_000) == Prices(2.5, 15, 0.25) != listed
    for name in router.pool:
        router.reprice(name, listed)
    members = Members({name: Member(name, GEMINI) for name in router.pool})
    snapshot = Snapshot.of(configured(router, members))
    usd = [snapshot.decide(Chat.of(f"Sum {'word ' * n}")).cost for n in (90_000, 110_000, 220_000)]
    assert usd[2] / usd[1] == pytest.approx(4, rel=0.1)  # twice the tokens at twice the price
    assert usd[1] / usd[0] == pytest.approx(110 / 90, rel=0.1)


def test_a_model_that_cannot_answer_as_long_as_the_call_asks_for_is_not_chosen(router):
    members = Members({name: Member(name, NANO if name == "sage" else CLAUDE) for name in router.pool})
    snapshot = Snapshot.of(configured(router, members))
    assert snapshot.able(None, {"max_tokens": 32_768}) is None
    assert "sage" not in snapshot.able(None, {"max_completion_tokens": 40_000})
    with pytest.raises(NoCandidateError, match=r"No model can answer with max_tokens=40,000; ask for at most 32,768"):
        snapshot.able(["sage"], {"max_tokens": 40_000})
