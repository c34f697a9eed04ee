"""The command that judges a check by stored answers, after models were evaluated on a scripted server."""

import json

import pytest

from tests.conftest import is_sum
from tests.plugins.servers import refuses_the_key, says
from tests.plugins.test_cli import output, refusal, run
from tests.plugins.test_live_commands import asked, place, right
from unirouter_core import UniRouter
from unirouter_plugins.onboarding.bill import TRIFLE

__all__ = ["place"]


def half_right(prompt):
    """Right on poems and on odd sums, in JSON; wrong on even sums, in words."""
    if not is_sum(prompt):
        return '"Drops fall."'
    return right(prompt) if int(right(prompt)) % 2 else "about 1"


@pytest.fixture
def checked(place, scripted_server):
    """A folder with a router of two models: a cheap one whose errors no prompt shows, and a dear one without any."""
    router = UniRouter.load(place / "my.router")
    scripted_server.script = {"newcomer": says(half_right), "dear": says(right)}
    assert run(*asked(place, "newcomer", "dear")).exit_code == 0
    for model in router.pool:
        assert run("retire", place / "my.router", model).exit_code == 0
    scripted_server.seen.clear()
    return place


def check(place, model, name, *more):
    return ("check", place / "my.router", model, name, "--validation", place / "questions.jsonl", *more)


JUDGE = json.dumps({"check": "judge", "member": "dear"})
AGREEMENT = json.dumps({"check": "agreement", "member": "dear", "name": "second"})


def test_a_check_is_judged_by_stored_answers_and_kept_if_it_pays(checked, scripted_server):
    found = output(*check(checked, "newcomer", "parses"))
    assert (found["calls"], found["n"], found["unknown"], found["auc"], found["saved"]) == (0, 60, 0, 1, True)
    assert scripted_server.seen == []
    profile = UniRouter.load(checked / "my.router").pool["newcomer"]
    assert (profile.checks["parses"].values == 1 - profile.errors).all()


def test_a_check_that_calls_do_not_run_yet_is_to_be_named_in_the_table(checked):
    todo = "next: name parses under [checks] in pool.toml, so that calls run it."
    assert todo in run(*check(checked, "newcomer", "parses")).stdout
    with open(checked / "pool.toml", "a") as table:
        table.write('\n[checks]\nparses = "parses"\n')
    assert todo not in run(*check(checked, "newcomer", "parses")).stdout


def test_what_another_member_has_answered_is_not_asked_again_but_costs_what_it_cost(checked, scripted_server):
    found = output(*check(checked, "newcomer", AGREEMENT), code=3)  # as asking the dear one alone is as good
    assert (found["check"], found["unknown"], scripted_server.seen) == ("second", 0, [])
    assert found["usd"] > 0


def test_log_probabilities_are_kept_with_the_answers(place):
    table = place / "pool.toml"
    table.write_text(table.read_text().replace("\n[models.dear]", "\nsettings = { logprobs = true }\n[models.dear]"))
    assert run(*asked(place, "newcomer", "--replace")).exit_code == 0
    done = run(*check(place, "newcomer", "logprob", "--json"))
    found = json.loads(done.stdout)
    assert (found["calls"], found["unknown"]) == (0, 0)


def judging(prompt):
    """Right, and what a judge says of `half_right`."""
    if "PROBABILITY" not in prompt:
        return right(prompt)
    return "PROBABILITY: 5" if "> about 1" in prompt else "PROBABILITY: 95"


def test_verdicts_that_the_store_lacks_are_billed_asked_for_once_and_kept(checked, scripted_server):
    scripted_server.script["dear"] = says(judging)
    bill = output(*check(checked, "newcomer", JUDGE, "--dry-run"))
    assert (bill["calls"], bill["bill"]["items"][0]["role"], scripted_server.seen) == (60, "check", [])
    found = output(*check(checked, "newcomer", JUDGE, "--yes"), code=3)  # it is as dear as its judge's own answers
    assert (found["calls"], found["auc"], found["unknown"], len(scripted_server.seen)) == (60, 1, 0, 60)
    assert found["spent_usd"] == pytest.approx(60 * found["usd"])
    again = output(*check(checked, "newcomer", JUDGE), code=3)
    assert (again["calls"], again["usd"], len(scripted_server.seen)) == (0, found["usd"], 60)


def test_a_budget_ends_the_verdicts_and_what_was_paid_for_is_kept(checked, scripted_server):
    scripted_server.script["dear"] = says(judging)
    done = run(*check(checked, "newcomer", JUDGE, "--budget", "0.045"))  # a call at its worst: $0.032
    assert done.exit_code == 2
    assert "Not all was asked: $0.0" in done.stderr
    assert "have a signal of 'judge'" in done.stderr
    paid = len(scripted_server.seen)
    assert 0 < paid < 60
    assert output(*check(checked, "newcomer", JUDGE, "--dry-run"))["calls"] == 60 - paid
    scripted_server.seen.clear()
    less = run(*check(checked, "newcomer", json.dumps({"check": "agreement", "samples": 2}), "--budget", "1e-6"))
    assert less.exit_code == 2
    assert "$0 of the budget of $1e-06 are spent, and the next call may cost $0.000" in less.stderr
    assert scripted_server.seen == []


def test_a_judge_that_cannot_be_called_is_a_provider_s_failure(checked, scripted_server):
    scripted_server.script["dear"] = refuses_the_key()
    assert run(*check(checked, "newcomer", JUDGE, "--yes")).exit_code == 4
    assert len(scripted_server.seen) == 1


def test_checks_are_fitted_where_models_are_onboarded(checked, scripted_server):
    onboarding = asked(checked, "newcomer", "dear", "--replace", "--check", "parses", "--check", JUDGE)
    (checked / "evaluations.sqlite").unlink()
    bill = output(*onboarding, "--dry-run")
    assert bill["check_calls"] == {"parses": 0, "judge": 120}
    assert scripted_server.seen == []
    scripted_server.script["dear"] = says(judging)
    found = {one["model"]: one["checks"] for one in output(*onboarding)["onboarded"]}
    assert [(each["check"], each["saved"], each["auc"]) for each in found["newcomer"]] == [
        ("parses", True, 1),
        ("judge", False, 1),
    ]
    assert [each["saved"] for each in found["dear"]] == [False, False]
    assert set(UniRouter.load(checked / "my.router").pool["newcomer"].checks) == {"parses"}
    spent = len(scripted_server.seen)
    assert 120 + 60 < spent < 120 + 120  # one verdict is enough where both gave the same answer
    shown = " ".join(run(*onboarding).stdout.split())
    assert "Check parses: 0 extra calls" in shown
    assert "The check 'parses' of newcomer pays" in shown
    assert "next: name parses under [checks]" in shown
    assert len(scripted_server.seen) == spent


def test_a_check_without_answers_enough_leaves_the_model_onboarded(checked):
    logprob = asked(checked, "newcomer", "--replace", "--check", "logprob")
    (one,) = output(*logprob)["onboarded"]
    assert one["onboarded"]
    assert one["checks"] == []
    assert "add logprobs = true to the member's settings" in one["notes"][-1]
    assert "Checks read the answers' texts" in refusal(*logprob, "--no-texts")


def test_a_dry_run_shows_that_nothing_is_called(checked, scripted_server):
    done = run(*check(checked, "newcomer", "parses", "--dry-run"))
    assert (done.exit_code, scripted_server.seen) == (0, [])
    assert "0 calls: parses would be run on 60 stored answers of newcomer." in done.stdout


def test_a_check_that_does_not_pay_is_not_kept_and_the_exit_code_says_so(checked):
    done = run(*check(checked, "dear", "json_schema"))
    assert done.exit_code == 3
    assert "does not pay" in done.stdout
    assert "Not saved." in done.stdout
    assert not UniRouter.load(checked / "my.router").pool["dear"].checks


def test_a_check_with_a_limit_is_kept_and_what_it_costs_is_said(checked):
    needless = check(checked, "dear", json.dumps({"check": "agreement", "member": "newcomer", "name": "second"}))
    assert run(*needless).exit_code == 3
    done = run(*needless, "--wrong-at-most", "0.05", "--confidence", "0.6")
    assert done.exit_code == 0
    assert "does not pay" in done.stdout
    assert "that is what it costs to accept only up to" in " ".join(done.stdout.split())
    assert 0 < UniRouter.load(checked / "my.router").pool["dear"].checks["second"].limit < 1


def test_the_calls_of_checks_end_where_the_bill_does(checked, scripted_server):
    onboarding = asked(checked, "newcomer", "--replace", "--check", JUDGE)
    scripted_server.script["dear"] = says(lambda prompt: f"{'Think. ' * 500}PROBABILITY: 5")
    found = output(*onboarding)
    (one,) = found["onboarded"]
    assert one["onboarded"]
    assert 0 < found["spent_usd"] <= max(found["bill"]["usd"]["high"], TRIFLE)
    assert 1 < len(scripted_server.seen) < 60


def test_checks_that_a_new_evaluation_ends_are_named(checked):
    output(*check(checked, "newcomer", "parses"))
    (one,) = output(*asked(checked, "newcomer", "--replace"))["onboarded"]
    assert "its checks (parses) is gone; run unirouter check for each" in one["notes"][-1]


def test_what_cannot_be_checked_is_refused_in_a_sentence(checked):
    for model, name, says_so in (
        ("ghost", "parses", "'ghost' is not in the pool"),
        ("newcomer", "magic", "No check is named 'magic'"),
        ("newcomer", "{", "is no JSON such as"),
        ("newcomer", "logprob", "add logprobs = true"),
        ("newcomer", AGREEMENT.replace('"dear"', '"newcomer"'), "would check its own answer"),
        ("newcomer", JUDGE, "confirm with --yes, or set a limit with --budget"),
        ("newcomer", JUDGE.replace("dear", "ghost"), "asks 'ghost', which is not in the pool"),
    ):
        done = run(*check(checked, model, name))
        assert done.exit_code == 2
        assert says_so in " ".join(done.stderr.split())
    assert "holds no answers of 'newcomer'" in refusal(
        *check(checked, "newcomer", "parses", "--store", checked / "b.db")
    )
    limit = check(checked, "newcomer", AGREEMENT, "--wrong-at-most", "2")
    assert "wrong_at_most=2.0 must be a share between 0 and 1" in refusal(*limit)
