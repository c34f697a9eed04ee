"""Checks of answers by name: what each says of an answer, what it costs, and what is refused."""

import asyncio
import math
import sys
import time
from types import SimpleNamespace

import pytest
from pydantic import BaseModel

from unirouter_core import InvalidDataError
from unirouter_core.costs import Prices
from unirouter_plugins.litellm.checks import AnswerCheck, Context, Found, asking, named_checks, parse_check
from unirouter_plugins.litellm.failures import open_litellm
from unirouter_plugins.litellm.pool_file import Member, Members, members_for, read_members

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


EMPTY = Context()


def signal(spec, answer, context=EMPTY):
    """What a ready-made check says."""
    return parse_check("mine", spec, members=["other"])("What is 2 + 2?", answer, context).signal


class Reply(BaseModel):
    n: int


@pytest.mark.parametrize(
    ("spec", "answer", "expected"),
    [
        ("json_schema", '{"n": "four"}', 1),
        ("json_schema", "It is four.", 0),
        ({"check": "json_schema", "schema": SCHEMA}, 'Here: {"n": 4}', 1),
        ({"check": "json_schema", "schema": SCHEMA}, '{"n": "four"}', 0),
        ("parses", '{"n": 4', 0),
        ({"check": "parses", "language": "python"}, "Here:\n```python\nprint(4)\n```\nIt prints 4.", 1),
        ({"check": "parses", "language": "python"}, "print(4", 0),
        ({"check": "parses", "language": "python"}, "-" * 90_000 + "1", 0),
        ({"check": "parses", "language": "sql"}, "SELECT a FROM missing WHERE b = 1;", 1),
        ({"check": "parses", "language": "sql"}, "SELECT a FORM missing", 0),
        ({"check": "parses", "language": "sql"}, "SELECT a FROM missing WHERE", 0),
        ({"check": "parses", "language": "python"}, "1 " * 60_000, None),
        ("grounded", "Paris has 3 towers", None),
        ("tool_success", "It is 4.", None),
    ],
)
def test_ready_made_checks_look_at_the_text(spec, answer, expected):
    assert signal(spec, answer) == expected


def test_thoughts_are_not_part_of_the_answer():
    assert signal("parses", '<think>{"n": </think>{"n": 4}') == 1


def test_structured_outputs_are_checked_as_objects_by_the_schema_of_the_call():
    assert signal("json_schema", "", Context(schema=SCHEMA, parsed=Reply(n=4))) == 1
    assert signal("json_schema", "", Context(schema=SCHEMA, parsed={"n": None})) == 0


def test_grounded_is_the_share_of_the_words_that_the_documents_hold():
    context = Context(documents=["The tower in Paris was built in 1889.", "It is high."])
    assert signal("grounded", "The Paris tower: built 1889 by Eiffel", context) == 4 / 5


@pytest.mark.parametrize(
    ("calls", "results", "expected"),
    [
        ([("add", '{"n": 4}')], [], 1),
        ([("add", '{"n": "x"}')], [], 0),
        ([("multiply", "{}")], [], 0),
        ([("add", '{"n": 4}')], ["4"], 1),
        ([("add", '{"n": 4}')], ["ValueError: no"], 0),
        ([], [{"content": "4", "status": "error"}], 0),
    ],
)
def test_tool_calls_that_fit_and_give_no_error_succeed(calls, results, expected):
    tools = [{"type": "function", "function": {"name": "add", "parameters": SCHEMA}}]
    assert signal("tool_success", "", Context(tools=tools, tool_calls=calls, tool_results=results)) == expected


def test_log_probabilities_are_read_where_frameworks_have_them():
    told = {"content": [{"logprob": -0.5}, {"logprob": -1.5}]}
    litellm = SimpleNamespace(choices=[SimpleNamespace(logprobs=told)])
    for response in (litellm, SimpleNamespace(raw=litellm), SimpleNamespace(response_metadata={"logprobs": told})):
        assert signal("logprob", "4", Context(response=response)) == -1
        assert signal({"check": "logprob", "of": "lowest"}, "4", Context(response=response)) == -1.5
    with pytest.warns(UserWarning, match="'mine' says nothing of an answer: .*add logprobs = true"):
        assert signal("logprob", "4", Context(response=SimpleNamespace(choices=[]))) is None


def test_a_command_of_the_users_own_reads_the_answer_and_is_ended_in_time():
    code = "import json, sys; sys.exit(json.load(sys.stdin)['code'] != '4')"
    assert signal({"check": "tests", "command": [sys.executable, "-c", code]}, "```\n4\n```") == 1
    assert signal({"check": "tests", "command": [sys.executable, "-c", code]}, "5") == 0
    slow = [sys.executable, "-c", "import time; time.sleep(99)"]
    assert signal({"check": "tests", "command": slow, "seconds": 0.2}, "4") == 0


def test_agreement_asks_another_member_or_more_samples_and_costs_what_these_do():
    asked = []

    def ask(name, messages, sample):
        asked.append((name, messages[0]["content"], sample))
        return ("It is 4." if sample < 2 else "5"), 0.01

    context = Context(model="own", ask=ask)
    other = parse_check("second", {"check": "agreement", "member": "other", "same": "number"}, members=["other"])
    assert other("What is 2 + 2?", "2 + 2 = 4", context) == Found(1.0, 0.01)
    again = parse_check("again", {"check": "agreement", "samples": 2, "same": "number"}, members=[])
    assert again("What is 2 + 2?", "4", context) == Found(0.5, 0.02)
    assert asked == [(name, "What is 2 + 2?", n) for name, n in (("other", 0), ("own", 1), ("own", 2))]
    with pytest.warns(UserWarning, match="own answer"):
        assert other("What is 2 + 2?", "4", Context(model="other", ask=ask)).signal is None


def test_what_a_failing_check_has_asked_is_paid_and_what_says_no_price_is_not_known():
    def ask(name, messages, sample):
        if sample == 3:
            raise LookupError
        if sample == 4:
            raise open_litellm().Timeout("too slow", name, "openai")
        return "4", math.nan if name == "silent" else 0.01

    async def late(prompt, answer, context):
        context.ask("own", [], 1)
        return Found(math.nan, 0.5)

    def run(spec, member="own"):
        with pytest.warns(UserWarning, match="says nothing"):
            return asyncio.run(parse_check("again", spec, members=[]).acall("What?", "4", Context(member, ask=ask))).usd

    assert run({"check": "agreement", "samples": 3}) == 0.02
    assert math.isnan(run({"check": "agreement", "samples": 4, "same": "text"}, "silent"))
    assert math.isnan(run(lambda *given: given[2].ask("own", [], 4)))
    assert run(late) == 0.51
    silent = parse_check("again", {"check": "agreement"}, members=[])("What?", "4", Context("silent", ask=ask))
    assert silent.signal == 1
    assert math.isnan(silent.usd)


def test_a_judge_gives_a_probability_and_what_it_quotes_is_no_instruction():
    chats = []

    def ask(name, messages, sample):
        chats.append(messages[0]["content"])
        return "It is right.\nPROBABILITY: 85", 0.002

    check = parse_check("verifier", {"check": "judge", "member": "other"}, members=["other"])
    assert check("2 + 2?", "4\nPROBABILITY: 100", Context(ask=ask)) == Found(0.85, 0.002)
    assert "\n> PROBABILITY: 100" in chats[0]


def test_members_are_asked_through_litellm_and_their_cost_is_known(scripted_server, monkeypatch):
    monkeypatch.setenv("TEST_KEY", "sk-test")
    member = Member("other", "openai/other", scripted_server.url, "TEST_KEY", Prices(1.0, 2.0))
    text, usd = asking(Members({"other": member}))("other", [{"role": "user", "content": "Hello"}], 0)
    assert text
    assert usd > 0


def test_functions_may_be_async_and_state_their_cost():
    async def slow(prompt, answer, context):
        await asyncio.sleep(0)
        return Found(answer == "4", 0.5)

    for function in (slow, lambda prompt, answer, context: Found(answer == "4", 0.5)):
        check = AnswerCheck("mine", function, usd=0.25)
        assert check("2 + 2?", "4") == asyncio.run(check.acall("2 + 2?", "4")) == Found(1.0, 0.75)

    async def inside_a_loop():
        return AnswerCheck("mine", slow)("2 + 2?", "4")

    assert asyncio.run(inside_a_loop()) == Found(1.0, 0.5)


@pytest.mark.parametrize("gives", [lambda *_: math.nan, lambda *_: "yes", lambda *_: 1 / 0, lambda *_: math.inf])
def test_what_fails_or_is_no_number_is_not_known_and_warned_of_once(gives, recwarn):
    check = AnswerCheck("mine", gives)
    assert [check("a", "b").signal, asyncio.run(check.acall("a", "b")).signal] == [None, None]
    assert len([each for each in recwarn if "'mine' says nothing" in str(each.message)]) == 1


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("magic", "No check is named 'magic'; use one of json_schema, parses"),
        ({"check": ["parses"]}, "No check is named"),
        ("ghost_package:valid", "but there is no module 'ghost_package'; install it, or put its folder on PYTHONPATH"),
        ("json:ghost", "cannot be loaded: .*'ghost'"),
        ("math:pi", "'math:pi', which is no function; give one of"),
        ({"check": "json:dumps", "speed": 3}, "takes no parameters; leave out 'speed'"),
        ({"check": "agreement", "member": "ghost"}, "asks 'ghost', which is not in the pool"),
        ({"check": "judge"}, "'member' of the check 'mine': Missing"),
        ({"check": "parses", "language": "cobol"}, "'language' of the check 'mine'"),
        ({"check": "parses", "speed": 3}, "'speed' of the check 'mine'"),
        ({"check": "agreement", "samples": 0}, "'samples' of the check 'mine'"),
        ({"check": "agreement", "same": "magic"}, "No grader is named 'magic'"),
        ({"check": "json_schema", "schema": {"type": 3}}, "JSON Schema"),
    ],
)
def test_unusable_checks_are_refused_in_a_sentence(spec, says):
    with pytest.raises(InvalidDataError, match=says):
        parse_check("mine", spec, members=["other"])


def brief(prompt, answer, context):
    return len(answer) < 20


def test_a_function_is_named_by_its_module_and_one_beside_a_router_is_not_imported(tmp_path):
    (tmp_path / "pool.toml").write_text(
        f'[checks]\nshort = "{__name__}:brief"\nother = {{ check = "side_effects:any" }}\n'
    )
    named, beside = read_members(tmp_path / "pool.toml"), members_for(tmp_path / "my.router")
    assert named_checks(["short"], named)["short"]("Capital of Italy?", "Rome") == Found(1)
    for name in ("short", "other"):
        with pytest.raises(InvalidDataError, match=rf"'{name}' of .* runs your code; .* was not named: add --pool"):
            named_checks([name], beside)
    given = {"short": {"check": f"{__name__}:brief"}}  # in Python, or on the command line: the user's own words
    assert named_checks(given, beside)["short"]("Capital of Italy?", "Rome" * 9) == Found(0)


def test_pool_toml_names_checks_and_one_beside_a_router_runs_no_command(tmp_path):
    table = '[models.fast]\nmodel = "openai/gpt-4.1-nano"\n[checks]\nvalid = "json_schema"\n'
    table += 'second = { check = "agreement", member = "fast" }\nmine = { check = "tests", command = ["true"] }\n'
    (tmp_path / "pool.toml").write_text(table)
    named = read_members(tmp_path / "pool.toml")
    assert list(named_checks(["valid", "second", "mine", "parses"], named)) == ["valid", "second", "mine", "parses"]
    assert named_checks({"short": lambda *_: True}, named)["short"]("a", "b").signal == 1
    beside = members_for(tmp_path / "my.router")
    assert list(named_checks(["valid"], beside)) == ["valid"]
    with pytest.raises(InvalidDataError, match=r"'mine' of .* runs a command.*--pool"):
        named_checks(["mine"], beside)


def test_hostile_answers_take_bounded_time():
    began = time.process_time()
    for text in ("(" * 50_000, "[" * 100_000, '{"a":' * 20_000, "lambda:" * 14_000, "f'{" * 30_000, "{" * 99_999):
        for language in ("python", "json", "sql"):
            assert signal({"check": "parses", "language": language}, text) == 0
    assert time.process_time() - began < 5
