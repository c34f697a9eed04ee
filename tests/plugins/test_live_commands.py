"""The commands that call models, against a scripted server on loopback: onboard, ask, prices."""

import dataclasses
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import evaluation, fitted, is_sum
from tests.plugins.servers import breaks, rate_limited, refuses_the_key, says
from tests.plugins.test_cli import output, refusal, run
from unirouter_core import UniRouter
from unirouter_plugins.cli import app, onboard
from unirouter_plugins.litellm import complete
from unirouter_plugins.litellm.pool_file import SERVED_AS, read_members

KEY = "sk-test-4f9a1b7c22"
QUESTIONS = 60
COMMAND = "from unirouter_plugins.cli import app; app()"


def right(prompt):
    """What is right: the sum, or a poem."""
    if not is_sum(prompt):
        return "Drops fall.\n" * 3
    return str(sum(int(word) for word in prompt.rstrip("?").split() if word.isdigit()))


def wrong_on_sums(prompt):
    return "12" if is_sum(prompt) else right(prompt)


@pytest.fixture
def place(world, asked_router, scripted_server, tmp_path, monkeypatch):
    """A folder with a router that holds four recorded models, a pool.toml of two new ones, and questions."""
    monkeypatch.setenv("TEST_KEY", KEY)
    asked_router.save(tmp_path / "my.router")
    prompts = [prompt for prompt in world.prompts[160:] if is_sum(prompt)][:30]
    prompts += [prompt for prompt in world.prompts[160:] if not is_sum(prompt)][:30]
    lines = [
        {"prompt": p, "reference": right(p), "grader": "number"}
        if is_sum(p)
        else {"prompt": p, "grader": {"grader": "regex", "pattern": "Drops"}}
        for p in prompts
    ]
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    entry = '[models.{0}]\nmodel = "openai/{0}"\napi_base = "{1}"\napi_key_env = "TEST_KEY"\n'
    entry += "prices = {{ input = {2}, output = {3} }}\n"
    table = [
        entry.format(*row)
        for row in (("newcomer", scripted_server.url, 0.1, 0.4), ("dear", scripted_server.url, 9, 30))
    ]
    (tmp_path / "pool.toml").write_text("".join(table))
    scripted_server.script = {"newcomer": says(right), "dear": says(wrong_on_sums)}
    return tmp_path


def asked(place, *arguments):
    return ("onboard", place / "my.router", *arguments, "--validation", place / "questions.jsonl", "--yes")


def test_the_bill_comes_first_and_a_dry_run_asks_nothing(place, scripted_server):
    done = run(*asked(place, "newcomer", "--dry-run"))
    assert done.exit_code == 0
    assert f"{QUESTIONS} calls" in done.stdout
    assert "1,024 tokens" in done.stdout
    bill = output(*asked(place, "newcomer", "--dry-run"))["bill"]
    assert 0 < bill["usd"]["low"] <= bill["usd"]["high"] <= bill["usd_longest"] <= bill["usd_worst"]
    assert scripted_server.seen == []
    assert "newcomer" not in UniRouter.load(place / "my.router").pool
    assert {file.name for file in place.iterdir()} == {"my.router", "pool.toml", "questions.jsonl"}


def test_nothing_is_spent_without_a_confirmation_or_a_budget(place, scripted_server):
    unsure = asked(place, "newcomer")[:-1]
    for arguments in (unsure, (*unsure, "--json")):
        done = run(*arguments)
        assert done.exit_code == 2
        assert "confirm with --yes, or set a limit with --budget" in " ".join(done.stderr.split())
    assert scripted_server.seen == []
    assert "newcomer" in output(*unsure, "--budget", "1")["onboarded"][0]["model"]


def test_a_bill_that_the_first_answers_exceed_is_shown_again_before_more_is_spent(
    place, scripted_server, monkeypatch, capsys
):
    (place / "pool.toml").write_text((place / "pool.toml").read_text().replace("output = 0.4", "output = 900"))
    scripted_server.script["newcomer"] = says(lambda prompt: "Because so it is. " * 100 + "\n" + right(prompt))
    sentence = refusal_after_the_bill(*asked(place, "newcomer"))
    assert "The first 5 answers say about $" in sentence
    assert "run the same command again to go on from the new bill, or set a limit with --budget" in sentence
    assert len(scripted_server.seen) == 5
    for file in place.glob("evaluations.sqlite*"):
        file.unlink()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(Typed(b"y\ny\n")))
    assert not app(list(map(str, asked(place, "newcomer")[:-1])), standalone_mode=False)
    shown = capsys.readouterr().out
    flat = " ".join(shown.split())
    assert "stops if they say that the total is above $" in flat
    assert "They are kept. Spent until now: $" in flat
    assert "same command" not in flat
    assert shown.index(f"{QUESTIONS} calls: about $") < shown.index(f"{QUESTIONS - 5} calls: about $")
    assert len(scripted_server.seen) == 5 + QUESTIONS


class Typed(io.BytesIO):
    """What is typed on a terminal."""

    def isatty(self):
        return True


def refusal_after_the_bill(*arguments, code=2):
    """The sentence of a command that showed its bill and could not go on."""
    done = run(*arguments)
    assert done.exit_code == code, done.output
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_a_model_that_is_asked_joins_and_the_others_stay_as_they_were(place, scripted_server):
    before = {file.name: file.read_bytes() for file in (place / "my.router" / "pool").iterdir()}
    done = output(*asked(place, "newcomer"))
    (one,) = done["onboarded"]
    assert one["onboarded"]
    assert one["error"] == 0
    assert one["asked"] == one["answered"] == QUESTIONS
    assert done["spent_usd"] > 0
    after = {file.name: file.read_bytes() for file in (place / "my.router" / "pool").iterdir()}
    assert after.items() >= before.items()
    assert set(after) - set(before) == {"newcomer.json"}
    assert UniRouter.load(place / "my.router").pool["newcomer"].prices.input == 0.1
    assert len(scripted_server.seen) == QUESTIONS


def test_onboarding_ends_in_one_table_and_the_next_command(place):
    done = run(*asked(place, "newcomer"))
    assert done.exit_code == 0, done.stderr
    row = next(line for line in done.stdout.splitlines() if line.startswith("newcomer  100.0%"))
    assert row.split()[-3:] == ["100%", "worth", "it"] or "%" in row
    assert f"next: unirouter tune {place / 'my.router'} --save-cost 0.4 --save\n" in done.stdout
    assert "answers of this run" not in done.stdout
    assert "evaluations.sqlite" in done.stdout
    details = run(*asked(place, "newcomer", "--replace", "--verbose")).stdout
    assert "newcomer: quality 100.0%" in details
    assert f"{QUESTIONS} of {QUESTIONS} prompts answered" in details


def test_an_answer_that_was_paid_for_is_not_asked_again(place, scripted_server):
    output(*asked(place, "newcomer"))
    again = output(*asked(place, "newcomer", "--replace"))
    assert again["onboarded"][0]["asked"] == 0
    assert again["spent_usd"] == again["bill"]["calls"] == 0
    assert len(scripted_server.seen) == QUESTIONS


def test_keys_that_are_missing_are_named_together_before_the_bill(place, monkeypatch, scripted_server):
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "TEST_KEY"):
        monkeypatch.delenv(name, raising=False)
    models = "newcomer", "openai/gpt-4.1-mini", "openai/gpt-4.1-nano", "anthropic/claude-sonnet-4-5"
    said = "keys: TEST_KEY missing (1 model), OPENAI_API_KEY missing (2 models), ANTHROPIC_API_KEY missing (1 model)"
    assert said in refusal(*asked(place, *models))
    shown = run(*asked(place, *models, "--dry-run"))
    assert shown.exit_code == 0
    assert said in " ".join(shown.stdout.split())
    assert "240 calls: about $" in shown.stdout
    assert "90% range" in shown.stdout


def test_efforts_are_onboarded_by_one_name_and_shown_with_what_needs_them(place, scripted_server):
    entry = (place / "pool.toml").read_text().split("[models.dear]")[0]
    efforts = "efforts = { quick = { max_tokens = 11 }, slow = { max_tokens = 99, seed = 1 } }\n"
    (place / "pool.toml").write_text(entry + efforts)

    async def by_effort(request, seen):
        return await says(right if seen.body["max_tokens"] == 99 else wrong_on_sums)(request, seen)

    scripted_server.script["newcomer"] = by_effort
    done = run(*asked(place, "newcomer"))
    assert done.exit_code == 0, done.stderr
    rows = [line.split()[:2] for line in done.stdout.splitlines() if "@" in line or line.startswith("none")]
    assert ["newcomer@quick", "50%"] in rows
    assert ["newcomer@slow", "50%"] in rows
    assert ["none", "0%"] in rows
    (shown,) = output("models", place / "my.router")["efforts"]
    assert (shown["model"], shown["n"], shown["shares"]) == ("newcomer", 60, {"quick": 0.5, "slow": 0.5, "none": 0.0})
    assert sum(region["n"] for region in shown["regions"]) <= 60
    again = output(*asked(place, "newcomer@slow", "--replace"))
    assert [one["model"] for one in again["onboarded"]] == ["newcomer@slow"]


def test_all_models_of_pool_toml_need_no_names(place):
    done = output(*asked(place, "--all"))
    assert [one["model"] for one in done["onboarded"]] == ["newcomer", "dear"]
    assert {row["model"] for row in done["standing"]} == {"newcomer", "dear", "poet", "sage", "tutor", "scholar"}
    assert "All models of pool.toml are in the pool already" in refusal(*asked(place, "--all"))


def test_answers_of_a_log_are_said_to_be_reused(place, scripted_server):
    lines = map(json.loads, (place / "questions.jsonl").read_text().splitlines())
    calls = [{"query": q["prompt"], "llm": "newcomer", "response": right(q["prompt"])} for q in lines]
    (place / "calls.jsonl").write_text("\n".join(map(json.dumps, calls[:45])))
    logs = "--answers", place / "calls.jsonl", "--columns", "model=llm"
    done = run(*asked(place, "newcomer", *logs))
    assert done.exit_code == 0, done.stderr
    assert "45 answers of newcomer from the logs: graded, not paid for again." in done.stdout
    assert len(scripted_server.seen) == QUESTIONS - 45


def test_what_a_log_answers_wholly_needs_no_key(place, scripted_server, monkeypatch):
    lines = map(json.loads, (place / "questions.jsonl").read_text().splitlines())
    calls = [{"prompt": q["prompt"], "model": "newcomer", "response": right(q["prompt"])} for q in lines]
    (place / "calls.jsonl").write_text("\n".join(map(json.dumps, calls)))
    learned = run("fit", place / "logs.router", place / "calls.jsonl").stdout
    assert f"newcomer --validation FILE --answers {place / 'calls.jsonl'}" in learned
    monkeypatch.delenv("TEST_KEY")
    assert run(*asked(place, "newcomer", "--answers", place / "calls.jsonl")).exit_code == 0
    assert not scripted_server.seen


def test_a_model_of_the_pool_needs_the_option_that_the_error_names(place, scripted_server):
    assert "'poet' is in the pool already; pass replace=True (--replace)" in refusal(*asked(place, "poet"))
    assert not scripted_server.seen


def test_a_wrong_key_is_one_sentence_before_anything_is_spent(place, scripted_server):
    scripted_server.script["newcomer"] = refuses_the_key()
    sentence = refusal_after_the_bill(*asked(place, "newcomer", "--yes"), code=4)
    assert "TEST_KEY" in sentence
    assert KEY not in sentence
    assert len(scripted_server.seen) == 1


def test_a_judge_that_fails_its_trial_is_one_sentence_with_exit_code_4(place, scripted_server):
    lines = [{"prompt": f"What is {n} called?", "reference": f"It is called the thing {n}."} for n in range(50)]
    (place / "questions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    scripted_server.script["dear"] = says("VERDICT: CORRECT")
    sentence = refusal_after_the_bill(*asked(place, "newcomer", "--judge", "dear"), code=4)
    assert "The judge accepted 10 of 10 right answers and refused 0 of 10 wrong ones. That is too few" in sentence


def test_too_many_failures_leave_the_pool_as_it_was(place, scripted_server):
    scripted_server.script["newcomer"] = [says(right), says(right), *[rate_limited(0)] * 1000]
    done = output(*asked(place, "newcomer"), code=4)
    assert not done["onboarded"][0]["onboarded"]
    assert "RateLimitError" in done["onboarded"][0]["reason"]
    assert "newcomer" not in UniRouter.load(place / "my.router").pool


def test_neither_texts_nor_keys_are_kept_where_they_are_not_wanted(place):
    output(*asked(place, "newcomer", "--no-text"))
    kept = [file for file in place.rglob("*") if file.is_file() and file.name not in ("questions.jsonl", "pool.toml")]
    assert {"evaluations.sqlite", "newcomer.json"} <= {file.name for file in kept}
    new = [file for file in kept if "evaluations" in file.name or file.name == "newcomer.json"]
    for file in new:
        assert b"Drops fall" not in file.read_bytes()
        assert b"Write a poem" not in file.read_bytes()
    assert not any(KEY.encode() in file.read_bytes() for file in kept)


def test_options_of_asking_and_of_a_record_do_not_mix(place, made_record):
    assert "--budget" in refusal(*asked(place, "newcomer", "--budget", 1, "--recorded", made_record)[:-3])
    assert "--recorded" in refusal("onboard", place / "my.router", "newcomer", "--price-in", 1)
    assert "--judge MODEL" in refusal(*asked(place, "newcomer", "--judge-prompt", place / "pool.toml"))


@pytest.fixture
def made_record(tmp_path):
    (tmp_path / "record.jsonl").write_text('{"prompt": "Hi.", "model": "newcomer", "error": 0, "cost": 1}\n' * 2)
    return tmp_path / "record.jsonl"


def test_ctrl_c_ends_with_exit_code_130_and_what_was_spent(place, scripted_server):
    turns = itertools.count()

    def replies(prompt):
        if next(turns) == 12:
            os.kill(os.getpid(), signal.SIGINT)
        return right(prompt)

    scripted_server.script["newcomer"] = says(replies)
    done = run(*asked(place, "newcomer"))
    assert done.exit_code == 130, done.output
    assert "Stopped after spending $0.0" in done.stderr
    assert len(scripted_server.seen) < QUESTIONS


def test_sigterm_ends_as_ctrl_c_does_and_the_same_command_resumes(place, scripted_server):
    scripted_server.script["newcomer"] = says(right, latency=0.1)
    command = [sys.executable, "-c", COMMAND, *map(str, asked(place, "newcomer", "--concurrency", 4))]
    process = subprocess.Popen([*command, "--yes"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: len(scripted_server.seen) >= 12, process)
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "run the same command to resume" in said
    assert "Stopped after spending $0.0" in said
    assert "Traceback" not in said
    before = len(scripted_server.seen)
    scripted_server.script["newcomer"] = says(right)
    done = output(*asked(place, "newcomer"))
    assert QUESTIONS - done["onboarded"][0]["asked"] == before  # answers in flight were waited for
    assert len(scripted_server.seen) == QUESTIONS


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_ends_a_process_is_taken_as_ctrl_c(sent):
    with pytest.raises(KeyboardInterrupt), onboard.ending_as_by_ctrl_c():
        signal.raise_signal(sent)
    assert signal.getsignal(sent) is signal.SIG_DFL


def test_under_nohup_a_closed_terminal_ends_nothing():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with onboard.ending_as_by_ctrl_c():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def wait_for(happened, process):
    deadline = time.monotonic() + 60
    while not happened():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


# --- ask --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def asking(place, world):
    """The place with a router of the newcomer and the dear one, as if they had been evaluated."""
    router, members = fitted(world), read_members(place / "pool.toml")
    for name, skilled in (("newcomer", "scholar"), ("dear", "tutor")):
        member, answers = members[name], evaluation(world, skilled)
        how = {"date": "2026-11-23", "prices": "pool.toml", SERVED_AS: member.served_as}
        router.onboard(dataclasses.replace(answers, model=name, prices=member.prices, costs=None, provenance=how))
    router.save(place / "asking.router")
    return place / "asking.router"


def test_ask_prints_the_answer_and_then_who_gave_it_and_why(asking):
    done = run("ask", asking, "What is 14 plus 37?", "--cost-weight", 100)
    assert done.exit_code == 0, done.stderr
    assert done.stdout == "51\n"
    assert "newcomer: expected quality" in done.stderr
    assert "cost $" in done.stderr
    assert "dear, the most expensive: $" in done.stderr


def test_a_router_s_folder_is_taken_where_a_router_is(asking):
    assert complete(str(asking), "What is 14 plus 37?").choices[0].message.content == "51"


def test_ask_in_json_has_the_answer_and_the_record(asking):
    done = output("ask", asking, "What is 14 plus 37?", "--cost-weight", 100)
    assert done["answer"] == "51"
    assert done["model"] == "newcomer"
    assert done["usd"] > 0
    assert done["dearest"]["model"] == "dear"


def test_ask_names_the_models_that_failed(asking, scripted_server):
    scripted_server.script["newcomer"] = breaks(500)
    done = run("ask", asking, "Write a poem of 3 lines about the rain.")
    assert done.stdout.startswith("Drops fall.")
    assert "newcomer failed before it: InternalServerError" in done.stderr


def test_ask_says_in_one_sentence_that_no_model_could_answer(asking, scripted_server):
    scripted_server.script = dict.fromkeys(("newcomer", "dear"), refuses_the_key())
    sentence = refusal("ask", asking, "What is 14 plus 37?", code=4)
    assert "No model could answer. " in sentence
    assert sentence.count("AuthenticationError") == 1  # both at once
    assert "newcomer, dear: " in sentence
    assert KEY not in sentence


# --- prices -----------------------------------------------------------------------------------------------------------


def test_prices_say_where_they_come_from_and_refresh_the_router(asking, place):
    table = place / "pool.toml"
    rows = {row["model"]: row for row in output("prices", asking)["models"]}
    assert rows["newcomer"]["source"] == "pool.toml"
    table.write_text(table.read_text().replace("input = 0.1, output = 0.4", "input = 0.2, output = 0.8"))
    before = UniRouter.load(asking).route("What is 14 plus 37?", models=["newcomer"]).cost
    done = output("prices", asking, "--refresh")
    assert done["refreshed"] == ["newcomer"]
    after = UniRouter.load(asking).route("What is 14 plus 37?", models=["newcomer"]).cost
    assert after == pytest.approx(2 * before)
    table.unlink()
    rows = {row["model"]: row for row in output("prices", asking)["models"]}
    assert rows["newcomer"]["source"].startswith("evaluation of 2")
    assert "newcomer" in run("prices", asking).stdout
