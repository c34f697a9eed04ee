"""Calls through LiteLLM: who is asked, who is next, what it cost; the answers are LiteLLM's own mocks."""

import asyncio
import dataclasses

import pytest

from tests.conftest import evaluation, fitted
from unirouter_core import InvalidDataError, NoCandidateError, Prices, UnknownPriceError
from unirouter_core.pool import Pool
from unirouter_plugins.litellm import acomplete, astream, complete, configured, load_router, record_of, stream
from unirouter_plugins.litellm.failures import open_litellm
from unirouter_plugins.litellm.pool_file import Member, Members

SUM, POEM = "What is 14 plus 37?", "Write a poem of 3 lines about the rain."
MODELS = ("poet", "sage", "tutor", "scholar")


def answers(**instead):
    """A table in which every model answers with its own name, or as told."""
    said = {model: f"I am {model}." for model in MODELS} | instead
    return Members({m: Member(m, f"openai/{m}", settings={"mock_response": text}) for m, text in said.items()})


@pytest.fixture
def weighed(router):
    """The sage's $0.0014 for a sum are worth 0.4, less than the poet gets wrong there; for a poem they are not."""
    router.cost_weight = 300
    return router


def text(response):
    return response.choices[0].message.content


def streamed(answer):
    return "".join(chunk.choices[0].delta.content or "" for chunk in answer)


def test_a_prompt_goes_to_the_model_that_the_router_picks(weighed):
    table = configured(weighed, answers())
    for prompt in (SUM, POEM):
        response = complete(table, prompt)
        picked = weighed.route(prompt).model
        assert text(response) == f"I am {picked}."
        assert isinstance(response, open_litellm().ModelResponse)
        assert record_of(response).model == picked == record_of(response).decision.model


def test_a_chat_is_routed_on_its_newest_prompt(weighed):
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": POEM},
        {"role": "assistant", "content": "Drops."},
        {"role": "user", "content": SUM},
    ]
    table = configured(weighed, answers())
    assert record_of(complete(table, chat)).model == weighed.route(SUM).model


def test_the_cost_is_the_usage_at_the_model_s_prices(weighed):
    response = complete(configured(weighed, answers()), SUM)
    usage, record = response.usage, record_of(response)
    prices = weighed.pool[record.model].prices
    assert record.usd == pytest.approx(prices.cost(usage.prompt_tokens, usage.completion_tokens))
    assert record.as_dict()["usd"] == record.usd > 0


def test_the_table_s_prices_count_in_the_decision_and_in_the_bill(weighed):
    members = {name: dataclasses.replace(m, prices=Prices(0.001, 0.001)) for name, m in answers().items()}
    members["poet"] = dataclasses.replace(members["poet"], prices=Prices(1e4, 1e4))
    table = configured(weighed, Members(members))
    response = complete(table, POEM)
    assert record_of(response).model != "poet" == weighed.route(POEM).model
    assert record_of(response).usd == pytest.approx(0.001 * 30 / 1e6)  # LiteLLM's mocks take 10 and 20 tokens


@pytest.mark.parametrize(
    "failure",
    [
        "litellm.RateLimitError",
        "litellm.InternalServerError",
        "litellm.ContextWindowExceededError",
    ],
)
def test_a_failing_model_is_followed_by_the_next_of_the_ranking(weighed, failure):
    first, second = [row.model for row in weighed.route(SUM).ranking[:2]]
    table = configured(weighed, answers(**{first: failure}))
    response = complete(table, SUM)
    assert text(response) == f"I am {second}."
    assert list(record_of(response).failures) == [first]
    assert record_of(response).decision.model == first


def test_when_all_fail_the_first_failure_is_raised_with_the_others_noted(weighed):
    down = dict.fromkeys(MODELS, "litellm.InternalServerError")
    first, *others = [row.model for row in weighed.route(SUM).ranking]
    table = configured(weighed, answers(**down | {first: "litellm.RateLimitError"}))
    with pytest.raises(open_litellm().RateLimitError) as raised:
        complete(table, SUM, num_retries=0)
    assert [note.split()[1] for note in raised.value.__notes__] == others


def test_a_request_s_own_fault_is_not_passed_on(weighed):
    litellm, first = open_litellm(), weighed.route(SUM).model
    wrong = litellm.BadRequestError("no such parameter", first, "openai")
    table = configured(weighed, answers(**{first: wrong}))
    with pytest.raises(litellm.BadRequestError, match="no such parameter"):
        complete(table, SUM)


def test_a_content_filter_is_passed_on_only_when_asked_for(weighed):
    litellm, first = open_litellm(), weighed.route(SUM).model
    table = configured(weighed, answers(**{first: litellm.ContentPolicyViolationError("no", first, "openai")}))
    with pytest.raises(litellm.ContentPolicyViolationError):
        complete(table, SUM)
    assert record_of(complete(table, SUM, content_policy=True)).model != first


def test_a_stream_is_the_picked_model_s_and_ends_with_its_cost(weighed):
    answer = stream(configured(weighed, answers()), SUM)
    assert answer.record is None
    assert streamed(answer) == f"I am {weighed.route(SUM).model}."
    assert answer.record.usd > 0
    assert answer.record.usage.tokens_out > 0


def test_a_stream_that_never_begins_falls_back(weighed):
    first, second = [row.model for row in weighed.route(SUM).ranking[:2]]
    answer = stream(configured(weighed, answers(**{first: "litellm.InternalServerError"})), SUM)
    assert streamed(answer) == f"I am {second}."
    assert list(answer.record.failures) == [first]


async def test_async_calls_do_the_same(weighed):
    first, second = [row.model for row in weighed.route(SUM).ranking[:2]]
    table = configured(weighed, answers(**{first: "litellm.RateLimitError"}))
    assert text(await acomplete(table, SUM)) == f"I am {second}."
    answer = await astream(table, SUM)
    assert "".join([chunk.choices[0].delta.content or "" async for chunk in answer]) == f"I am {second}."
    assert answer.record.usd > 0


async def test_many_calls_at_once_mix_nothing(weighed):
    table = configured(weighed, answers())
    prompts = [f"What is {n} plus 37?" if n % 2 else f"Write a poem of {n} lines about the rain." for n in range(40)]
    responses = await asyncio.gather(*(acomplete(table, prompt) for prompt in prompts))
    for prompt, response in zip(prompts, responses, strict=True):
        assert text(response) == f"I am {weighed.route(prompt).model}."


def test_a_model_whose_key_is_not_set_is_followed_by_the_next(weighed, monkeypatch):
    monkeypatch.delenv("KEY_OF_NOBODY", raising=False)
    first, second = [row.model for row in weighed.route(SUM).ranking[:2]]
    members = dict(answers())
    members[first] = dataclasses.replace(members[first], api_key_env="KEY_OF_NOBODY")
    response = complete(configured(weighed, Members(members)), SUM)
    assert record_of(response).model == second
    assert "KEY_OF_NOBODY" in record_of(response).failures[first]


IMAGE = [
    {"type": "text", "text": "What is this?"},
    {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
]
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}


@pytest.mark.parametrize(
    ("lacks", "asked", "parameters"),
    [
        ("tools", SUM, {"tools": [TOOL]}),
        ("vision", [{"role": "user", "content": IMAGE}], {}),
        ("json", SUM, {"response_format": {"type": "json_object"}}),
    ],
)
def test_a_model_that_lacks_what_is_asked_for_is_not_picked(weighed, lacks, asked, parameters):
    able = {m: dataclasses.replace(member, capabilities={lacks: m == "tutor"}) for m, member in answers().items()}
    table = configured(weighed, Members(able))
    assert record_of(complete(table, asked, **parameters)).model == "tutor"
    with pytest.raises(NoCandidateError, match=f"lacks {lacks}"):
        complete(table, asked, models=["poet"], **parameters)


def test_a_chat_too_long_for_a_window_goes_to_a_larger_one(weighed):
    windows = {m: dataclasses.replace(member, capabilities={"context_window": 60}) for m, member in answers().items()}
    windows["scholar"] = dataclasses.replace(windows["scholar"], capabilities={"context_window": 10_000})
    long = [{"role": "system", "content": "Be brief. " * 40}, {"role": "user", "content": POEM}]
    assert record_of(complete(configured(weighed, Members(windows)), long)).model == "scholar"


def test_a_price_that_nobody_knows_is_an_error_before_the_call(weighed):
    free = {name: dataclasses.replace(profile, prices=None) for name, profile in weighed.pool.items()}
    weighed = weighed.with_pool(Pool(free))
    with pytest.raises(UnknownPriceError, match=r"pool\.toml: \[models\.sage\]"):
        complete(configured(weighed, answers()), SUM, models=["sage"])


def test_what_the_caller_gives_wins_over_the_settings(weighed):
    response = complete(configured(weighed, answers()), SUM, mock_response="As you wish.")
    assert text(response) == "As you wish."


def test_a_model_served_otherwise_than_it_was_measured_is_warned_of(weighed):
    measured = configured(weighed, Members({"sage": Member("sage", "openai/sage", settings={"temperature": 0})}))
    hotter = Members({"sage": Member("sage", "openai/sage", settings={"temperature": 1, "mock_response": "51"})})
    with pytest.warns(UserWarning, match="'sage' is not served as it was measured: .*temperature"):
        table = configured(measured, hotter)
    record = record_of(complete(table, SUM, models=["sage"]))
    assert any("temperature" in each for each in record.differs)


def test_a_saved_router_is_called_as_its_table_says(weighed, tmp_path):
    weighed.save(tmp_path / "my.router")
    lines = [f'[models.{m}]\nmodel = "openai/{m}"\nprices = {{ input = 1, output = 2 }}' for m in MODELS]
    (tmp_path / "pool.toml").write_text("\n".join(lines))
    table = load_router(tmp_path / "my.router", tmp_path / "pool.toml")
    response = complete(table, POEM, mock_response="Drops.")
    assert record_of(response).usd == pytest.approx((10 * 1 + 20 * 2) / 1e6)


def test_the_table_beside_a_router_is_read_unless_it_is_not_wanted(weighed, tmp_path):
    weighed.save(tmp_path / "my.router")
    (tmp_path / "pool.toml").write_text('[models.poet]\nmodel = "openai/poet"\nprices = { input = 100, output = 100 }')
    assert load_router(tmp_path / "my.router").pool["poet"].prices == Prices(100, 100)
    assert load_router(tmp_path / "my.router", None).pool["poet"].prices == weighed.pool["poet"].prices


@pytest.mark.parametrize(("misspelt", "meant"), [("temprature", "temperature"), ("content_polcy", "content_policy")])
async def test_a_misspelt_parameter_is_refused_with_the_nearest_name(weighed, misspelt, meant):
    table, match = configured(weighed, answers()), f"{misspelt}= is no parameter .* did you mean {meant}"
    for call in (complete, stream):
        with pytest.raises(InvalidDataError, match=match):
            call(table, SUM, **{misspelt: 0})
    for call in (acomplete, astream):
        with pytest.raises(InvalidDataError, match=match):
            await call(table, SUM, **{misspelt: 0})


def test_a_parameter_that_only_some_providers_know_is_one(weighed):
    members = {name: dataclasses.replace(m, model=f"ollama/{name}") for name, m in answers().items()}
    assert text(complete(configured(weighed, Members(members)), SUM, num_ctx=2048)).startswith("I am")
    with pytest.raises(InvalidDataError, match="num_ctx= is no parameter that LiteLLM knows"):
        complete(configured(weighed, answers()), SUM, num_ctx=2048)


def test_a_chat_of_an_image_alone_is_answered(weighed):
    asked = [{"role": "user", "content": IMAGE[1:]}]
    assert record_of(complete(configured(weighed, answers()), asked)).model


# --- What is refused, and what is said --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model", "messages", "stream", "api_base", "api_key"])
def test_what_the_table_decides_is_not_for_the_caller_to_give(weighed, name):
    for given in ({name: "x"}, {"extra_body": {name: "x"}}):
        with pytest.raises(InvalidDataError, match=f"{name}= is not for the caller"):
            complete(configured(weighed, answers()), SUM, **given)


def test_what_is_no_list_and_no_chat_is_refused(weighed):
    table = configured(weighed, answers())
    with pytest.raises(InvalidDataError, match="'tools' is one name"):
        complete(table, SUM, requires="tools")
    with pytest.raises(InvalidDataError, match="is one message"):
        complete(table, {"role": "user", "content": SUM})


def test_a_model_known_by_its_record_only_is_not_called_blindly(weighed):
    with pytest.raises(InvalidDataError, match=r"known by its record only.*pool\.toml"):
        complete(weighed, SUM)


def test_what_the_caller_gives_otherwise_than_measured_is_in_the_record(weighed):
    table = configured(weighed, answers())
    assert record_of(complete(table, SUM)).differs == ()
    assert record_of(complete(table, SUM, temperature=1.5)).differs == ("temperature is 1.5 and was 'not given'",)


def test_a_setting_that_one_model_refuses_goes_to_the_next(weighed):
    litellm, first = open_litellm(), weighed.route(SUM).model
    refuses = litellm.UnsupportedParamsError(message="no seed", model=first, llm_provider="openai")
    assert record_of(complete(configured(weighed, answers(**{first: refuses})), SUM)).model != first


def test_a_price_unknown_down_the_ranking_does_not_hide_what_failed_first(weighed):
    first, second, third, *_ = [row.model for row in weighed.route(SUM).ranking]
    profiles = {**weighed.pool, second: dataclasses.replace(weighed.pool[second], prices=None)}
    weighed = weighed.with_pool(Pool(profiles))
    record = record_of(complete(configured(weighed, answers(**{first: "litellm.RateLimitError"})), SUM))
    assert record.model == third
    assert "UnknownPriceError" in record.failures[second]


def test_a_stream_that_is_left_is_closed_and_has_a_record(weighed):
    table = configured(weighed, answers())
    with stream(table, SUM) as answer:
        next(iter(answer))
    assert answer.record.model == weighed.route(SUM).model
    assert list(answer) == []


async def test_an_async_stream_that_is_left_is_closed_and_has_a_record(weighed):
    async with await astream(configured(weighed, answers()), SUM) as answer:
        pass
    assert answer.record.model == weighed.route(SUM).model


def test_a_model_of_the_map_that_is_not_said_to_see_gets_no_images(world):
    router = fitted(world)
    router.onboard(evaluation(world, "sage"))
    blind = Members({"sage": Member("sage", "openai/gpt-3.5-turbo", prices=Prices(1, 1))})
    assert not configured(router, blind).pool["sage"].capabilities.vision
    seeing = Members({"sage": Member("sage", "openai/gpt-4o", prices=Prices(1, 1))})
    assert configured(router, seeing).pool["sage"].capabilities.vision
