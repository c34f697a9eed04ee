"""The user's table of models: what it may hold, what is said of the rest, and how a model is called by it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unirouter_core import InvalidDataError, Prices
from unirouter_plugins.litellm.failures import MissingKeyError
from unirouter_plugins.litellm.pool_file import SERVED_AS, Member, Members, read_members
from unirouter_plugins.litellm.pool_schema import Panel, Votes

TABLE = """
[models.fast]
model = "openai/gpt-4.1-nano"
prices = { input = 0.10, output = 0.40, cached_input = 0.025 }
settings = { temperature = 0, max_tokens = 600, extra_body = { top_k = 3 } }

[models."llama 3.1/8b"]
model = "openai/llama-3.1-8b"
api_base = "http://127.0.0.1:8080/v1"
api_key_env = "HOME_KEY"
prices = { input = 0, output = 0 }
capabilities = { tools = false, json = true, context_window = 8192 }

[models.careful]
model = "openai/gpt-4.1-nano"
system = "Be right."
examples = [{ prompt = "2 + 2?", answer = "4" }]
template = "{prompt} Think."
votes = { samples = 5, same = { grader = "number", tolerance = 0.01 } }

[providers]
mine = "my_package.my_module:handler"
"""


@pytest.fixture
def table(tmp_path):
    """A function that reads a table of this text."""

    def read(text):
        (tmp_path / "pool.toml").write_text(text, encoding="utf-8")
        return read_members(tmp_path / "pool.toml")

    return read


def profile_of(asked_router, **provenance):
    """A profile with another provenance."""
    import dataclasses

    return dataclasses.replace(asked_router.pool["sage"], provenance=provenance)


# --- Reading ----------------------------------------------------------------------------------------------------------


def test_a_table_is_read_field_by_field(table):
    members = table(TABLE)
    assert list(members) == ["fast", "llama 3.1/8b", "careful"]
    assert members["fast"].prices == Prices(0.10, 0.40, 0.025)
    assert members["fast"].settings == {"temperature": 0, "max_tokens": 600, "extra_body": {"top_k": 3}}
    assert members["llama 3.1/8b"].capabilities == {"tools": False, "json": True, "context_window": 8192}
    assert members["careful"].examples == (("2 + 2?", "4"),)
    assert members["careful"].votes == Votes(5, '{"grader": "number", "tolerance": 0.01}')
    assert members.providers == {"mine": "my_package.my_module:handler"}


def test_the_example_of_read_members_is_a_table(table):
    lines = (read_members.__doc__ or "").split("::\n")[1].split("Raises")[0]
    members = table("\n".join(line[8:] for line in lines.splitlines()))
    assert list(members) == ["fast", "home", "flex", "careful", "gpt-5@low", "gpt-5@high", "panel"]
    assert members["careful"].template == "{prompt}\n\nThink step by step, then give the answer."


def test_efforts_of_an_entry_are_members_with_their_settings(table):
    own = 'settings = { temperature = 1, max_tokens = 9 }\nsystem = "s"\n'
    members = table(ONE + own + "efforts = { quick = { max_tokens = 5 }, slow = { reasoning_effort = 'high' } }")
    assert list(members) == ["a@quick", "a@slow"]
    assert members["a@quick"].settings == {"temperature": 1, "max_tokens": 5}
    assert members["a@slow"].settings == {"temperature": 1, "max_tokens": 9, "reasoning_effort": "high"}
    assert {member.system for member in members.values()} == {"s"}
    assert table(ONE + "efforts = ['low']")["a@low"].settings == {"reasoning_effort": "low"}


def test_the_name_of_an_entry_with_efforts_means_all_of_them(table):
    members = table(ONE + "efforts = ['low', 'high']\n[models.b]\nmodel = 'x'")
    assert members.expanded(["b", "a", "gpt-4o", "a@low"]) == ["b", "a@low", "a@high", "gpt-4o", "a@low"]


def test_a_panel_can_do_what_its_aggregator_can_but_read_no_images(table):
    own = "[models.c]\nmodel = 'y'\napi_base = 'http://h/v1'\ncapabilities = { tools = false }\n"
    panel = table(ONE + own + "[models.p]\npanel = { planner = 'a', aggregator = 'c', budget = 1, rounds = 2 }")["p"]
    assert (panel.model, panel.api_base, panel.panel) == ("y", "http://h/v1", Panel("a", "c", 1, 2))
    assert panel.capabilities == {"tools": False, "vision": False, "audio": False, "video": False, "pdf": False}
    assert Member.restored("p", json.loads(json.dumps(panel.served_as))).panel == panel.panel
    assert panel.is_program


def test_a_batch_tariff_stands_beside_prices_or_alone(table):
    members = table(
        ONE + "prices = { batch = 0.5 }\n[models.b]\nmodel = 'x'\nprices = {input = 1, output = 2, batch = 0.4}"
    )
    assert (members["a"].prices, members["a"].batch) == (None, 0.5)
    assert (members["b"].prices, members["b"].batch) == (Prices(1, 2), 0.4)


def test_an_empty_table_has_no_models(table):
    assert dict(table("")) == {}


def test_a_byte_order_mark_is_read_over(tmp_path):
    (tmp_path / "pool.toml").write_bytes(b'\xef\xbb\xbf[models.a]\nmodel = "x"\n')
    assert list(read_members(tmp_path / "pool.toml")) == ["a"]


ONE = '[models.a]\nmodel = "x"\n'
PANEL = "[models.p]\npanel = { planner = 'a', aggregator = 'a', budget = 0.1 }\n"


WRONG = [
    ("[models.a]", "models.a.model is missing; give it"),
    ("[models]\na = 3", "models.a must be a table, not 3"),
    ("[models.a]\nmodel = ' '", "models.a.model must not be empty"),
    ("[models.a]\nmodel = 3", "models.a.model must be a text in quotes, not 3"),
    ('[models."gpt 4.1"]\nmodel = 3', 'models."gpt 4.1".model must be a text in quotes, not 3'),
    ('[models.""]\nmodel = "x"', 'models."" must not be empty'),
    ("[model.a]", "model is not known; a pool.toml has [models.NAME], [providers] and [checks]"),
    ("[models.gpt-4.1]\nmodel = 'x'", 'a name with dots stands in quotes: [models."gpt-4.1"]'),
    (ONE + "settings = { temperature = 0 }\nvotes = { samples = 3 }", "make every vote the same; raise it"),
    (ONE + "sytem = 'x'", "models.a.sytem is not known; there are model, api_base, api_key_env, prices, cap"),
    (ONE + "prices = { input = 1 }", "models.a.prices.output is missing; give it"),
    (ONE + "prices = { input = 1, output = -1 }", "models.a.prices.output must be at least 0, not -1"),
    (ONE + "prices = { input = nan, output = 1 }", "models.a.prices.input must be a finite number, not nan"),
    (ONE + "prices = { input = inf, output = 1 }", "models.a.prices.input must be a finite number, not inf"),
    (ONE + "prices = { input = '1', output = 1 }", "models.a.prices.input must be a number, not '1'"),
    (ONE + "prices = { input = true, output = 1 }", "models.a.prices.input must be a number, not True"),
    (ONE + "prices = { batch = 2 }", "models.a.prices.batch must be at most 1, not 2"),
    (ONE + "prices = { in = 1, output = 1 }", "models.a.prices.in is not known; there are input, output, cached"),
    (ONE + "capabilities = { tools = 'yes' }", "models.a.capabilities.tools must be true or false, not 'yes'"),
    (ONE + "capabilities = { context_window = 0 }", "models.a.capabilities.context_window must be at least 1"),
    (ONE + "capabilities = { context_window = 1.5 }", "models.a.capabilities.context_window must be a whole num"),
    (
        ONE + "capabilities = { taste = true }",
        "taste is not known; there are tools, vision, json, audio, video, pdf, context_window",
    ),
    (ONE + "examples = ['a']", "models.a.examples.0 must be a table, not 'a'"),
    (ONE + "examples = 'a'", "models.a.examples must be a list, not 'a'"),
    (ONE + "examples = [{ prompt = 'a' }]", "models.a.examples.0.answer is missing"),
    (ONE + "examples = [{ prompt = 'a', answer = '' }]", "models.a.examples.0.answer must not be empty"),
    (ONE + "system = ''", "models.a.system must not be empty"),
    (ONE + "template = 'Think.'", "models.a.template must have {prompt} once, where the prompt goes"),
    (ONE + "template = '{prompt}{prompt}'", "models.a.template must have {prompt} once, where the prompt goes"),
    (ONE + "votes = { samples = 1 }", "models.a.votes.samples must be at least 2, not 1"),
    (ONE + "votes = { samples = 101 }", "models.a.votes.samples must be at most 100, not 101"),
    (ONE + "votes = { samples = true }", "models.a.votes.samples must be a whole number, not True"),
    (ONE + "votes = { samples = 3, same = 3 }", "models.a.votes.same names no grader that can tell"),
    (ONE + "votes = { samples = 3, same = 'nice' }", "No grader is named 'nice'; use one of exact, text, number"),
    (ONE + "votes = { samples = 3, same = { grader = 'number', tol = 1 } }", "has no parameter 'tol'; it has tol"),
    (ONE + "api_base = 'localhost:80'", "models.a.api_base must be an address that begins with http:// or https"),
    (ONE + "api_base = 'http://[::1/v1'", "models.a.api_base must be an address that begins with http:// or http"),
    (ONE + "settings = { stream = true }", "models.a.settings cannot set 'stream', which is no setting of the"),
    (ONE + "settings = { max_retries = 3 }", "models.a.settings cannot set 'max_retries'"),
    (ONE + "settings = { tools = [] }", "models.a.settings cannot set 'tools'; give it with the call"),
    (ONE + "settings = { temperature = nan }", "models.a.settings can hold only text, finite numbers, true, fal"),
    (ONE + "settings = { since = 2024-01-01 }", "models.a.settings can hold only text, finite numbers, true, fa"),
    (ONE + "efforts = []", 'models.a.efforts must be such as ["low", "high"], or { quick = { max_tokens = 500 } }'),
    (ONE + "efforts = 'low'", 'models.a.efforts must be such as ["low", "high"]'),
    (ONE + "efforts = [3]", 'models.a.efforts must be such as ["low", "high"]'),
    (ONE + "efforts = { low = 3 }", 'models.a.efforts must be such as ["low", "high"]'),
    (ONE + "efforts = ['low', 'low']", "models.a.efforts has 'low' twice; name each effort once"),
    (ONE + "efforts = { low = { stream = true } }", "models.a.efforts cannot set 'stream', which is no setting of"),
    (ONE + "efforts = ['low']\n[models.'a@low']\nmodel = 'x'", 'models."a@low" is two members; give one of them'),
    (
        ONE + "efforts = ['low']\n" + PANEL,
        "models.p.panel.planner is 'a', which this file does not have; name one of a@low",
    ),
    (PANEL, "models.p.panel.planner is 'a', which this file does not have; add [models.\"a\"]"),
    (PANEL.replace("'a'", "'p'"), "models.p.panel.planner is 'p', a panel itself; name a model"),
    (ONE + PANEL.replace("0.1", "0"), "models.p.panel.budget must be more than 0, not 0"),
    (ONE + PANEL.replace(", budget = 0.1", ""), "models.p.panel.budget is missing; give it"),
    (ONE + PANEL.replace("0.1", "1, rounds = 11"), "models.p.panel.rounds must be at most 10, not 11"),
    (
        ONE + PANEL + "model = 'x'",
        "models.p has a panel and 'model', which is for the panel's members to have; leave it",
    ),
    ("[providers]\nmine = 'handler'", 'providers.mine must be "module:object", where the provider is'),
    ("[providers]\n'a/b' = 'x:y'", 'providers."a/b" must be a name of letters, digits'),
]


def test_a_value_that_cannot_be_used_is_named_with_its_cure(table):
    for text, message in WRONG:
        with pytest.raises(InvalidDataError) as refused:
            table(text)
        said = str(refused.value)
        assert message in said
        assert "pool.toml: " in said
        assert said.endswith(".")
        assert "\n" not in said


KEYS = [
    "api_key = 'planted'",
    "api_key_env = 'planted-key'",
    "api_base = 'http://me:planted@host/v1'",
    "api_base = 'http://planted@host/v1'",
    "api_base = 'http://host/v1?api_key=planted'",
    "settings = { api_key = 'planted' }",
    "settings = { extra_headers = { Authorization = 'planted' } }",
    "settings = { extra_body = { a = [{ token = 'planted' }] } }",
    "settings = { aws_secret_access_key = 'planted' }",
    "settings = 'sk-planted-123456'",
]


def test_a_key_in_the_table_is_refused_and_not_shown(table):
    for line in KEYS:
        with pytest.raises(InvalidDataError, match=r"environment|must be a table") as refused:
            table(ONE + line)
        assert "planted" not in str(refused.value)
        assert refused.value.__cause__ is None  # pydantic's own would show it
        assert refused.value.__suppress_context__


def test_a_setting_that_only_sounds_like_a_key_is_none(table):
    settings = {"prompt_cache_key": "x", "max_tokens": 5, "top_k": 3}
    lines = ", ".join(f"{name} = {json.dumps(value)}" for name, value in settings.items())
    assert table(f"{ONE}settings = {{ {lines} }}")["a"].settings == settings


def test_a_missing_or_invalid_toml_file_is_refused(table, tmp_path):
    with pytest.raises(InvalidDataError, match=r"nowhere\.toml cannot be read: No such file"):
        read_members(tmp_path / "nowhere.toml")
    with pytest.raises(InvalidDataError, match=r"pool\.toml is not TOML: .*line 2"):
        table("\nmodels = ]")
    (tmp_path / "latin.toml").write_bytes(b"# caf\xe9")
    with pytest.raises(InvalidDataError, match=r"latin\.toml is not TOML"):
        read_members(tmp_path / "latin.toml")


# --- Calling ----------------------------------------------------------------------------------------------------------


def test_a_member_is_called_by_its_model_with_its_settings_address_and_key(table, monkeypatch):
    monkeypatch.setenv("HOME_KEY", "planted")
    members = table(TABLE)
    assert members["fast"].arguments() == {"model": "openai/gpt-4.1-nano", **members["fast"].settings}
    assert members["llama 3.1/8b"].arguments() == {
        "model": "openai/llama-3.1-8b",
        "api_base": "http://127.0.0.1:8080/v1",
        "api_key": "planted",
    }


def test_a_missing_key_is_reported_by_the_name_of_its_variable(table, monkeypatch):
    monkeypatch.setenv("HOME_KEY", "")
    with pytest.raises(MissingKeyError, match=r"'llama 3.1/8b' takes its key from .* HOME_KEY, which is not set\."):
        table(TABLE)["llama 3.1/8b"].arguments()


def test_a_key_is_in_no_record_of_a_member(table, monkeypatch):
    monkeypatch.setenv("HOME_KEY", "planted")
    member = table(TABLE)["llama 3.1/8b"]
    assert "planted" not in repr(member) + json.dumps(member.served_as) + member.called


def test_only_a_transform_or_votes_make_a_variant():
    plain = {"api_base": "http://h/v1", "settings": {"temperature": 1}, "prices": Prices(1, 1)}
    assert not Member("a", "m", **plain).is_program
    assert Member("a", "m", **plain).called == "m"
    for how in ({"system": "s"}, {"examples": (("a", "b"),)}, {"template": "{prompt}"}, {"votes": Votes(2, "text")}):
        assert Member("a", "m", **how).is_program
        assert Member("a", "m", **how).called.startswith("unirouter/a@")


def test_a_variant_served_otherwise_has_another_name():
    how = [{"system": "s"}, {"system": "t"}, {"system": "s", "settings": {"seed": 1}}, {"template": "s{prompt}"}]
    assert len({Member("a", "m", **each).called for each in how}) == len(how)
    assert Member("a", "m", system="s").called == Member("a", "m", system="s", prices=Prices(1, 1)).called


# --- From a profile ---------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.booleans() | st.integers(-9, 9) | st.floats(-9, 9) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["", "a", "é"]), inner, max_size=2),
    max_leaves=4,
)
SAID = st.text(min_size=1, max_size=8).filter(str.strip)
MEMBERS = st.builds(
    Member,
    name=st.just("a"),
    model=SAID,
    api_base=st.sampled_from([None, "http://127.0.0.1:8080/v1"]),
    api_key_env=st.sampled_from([None, "HOME_KEY"]),
    settings=st.dictionaries(st.sampled_from(["seed", "top_k", "stop"]), JSON, max_size=3),
    system=st.none() | SAID,
    examples=st.lists(st.tuples(SAID, SAID), max_size=2).map(tuple),
    template=st.none() | SAID.map(lambda text: f"{{prompt}} {text}".replace("{prompt} {prompt}", "{prompt}")),
    votes=st.none() | st.builds(Votes, st.integers(2, 9), st.sampled_from(["text", "number"])),
    panel=st.none() | st.builds(Panel, SAID, SAID, st.floats(0.01, 9), st.integers(1, 9)),
)


@given(MEMBERS)
def test_what_a_profile_keeps_of_a_member_makes_the_same_member(member):
    for kept in (member.served_as, json.loads(json.dumps(member.served_as))):
        again = Member.restored("a", kept)
        assert again == member
        assert again.called == member.called


@given(MEMBERS)
def test_a_member_does_not_differ_from_what_is_kept_of_it(asked_router, member):
    profile = profile_of(asked_router, **{SERVED_AS: json.loads(json.dumps(member.served_as))})
    assert member.differences(profile) == []


def test_a_difference_is_reported_with_both_values(asked_router):
    profile = profile_of(asked_router, **{SERVED_AS: Member("a", "m", settings={"temperature": 0}).served_as})
    served = Member("a", "m", settings={"temperature": 1}, system="x" * 99, api_base="http://elsewhere/v1")
    said = served.differences(profile)
    assert said == [
        'settings is {"temperature": 1} and was {"temperature": 0}',
        f'system is "{"x" * 58}… and was not given',
    ]


def test_nothing_differs_where_it_is_not_known_how_a_model_was_measured(asked_router):
    assert Member("a", "m").differences(profile_of(asked_router, grader="exact")) == []


def test_differences_are_to_how_it_was_measured_not_to_how_it_was_served_last(asked_router):
    first, last = (Member("a", "m", settings={"seed": seed}) for seed in (1, 2))
    profile = profile_of(asked_router, measured_as=first.served_as, served_as=last.served_as)
    assert first.differences(profile) == []
    assert last.differences(profile) == ['settings is {"seed": 2} and was {"seed": 1}']


def test_a_model_that_the_table_lacks_is_called_by_its_name():
    members = Members({"sage": Member("sage", "told")})
    assert members.named("sage").model == "told"
    assert members.named("openai/gpt-4.1-nano") == Member("openai/gpt-4.1-nano", "openai/gpt-4.1-nano")
