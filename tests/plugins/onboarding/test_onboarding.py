"""Models onboarded by asking them: a real server on loopback answers, and fails, as it is told to."""

import asyncio
import itertools
import json
import math
import os
import signal
import sqlite3
import threading
import traceback

import numpy as np
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import fitted
from tests.plugins.onboarding.killing import AT_ONCE, SUMS, check_kills, kept, start, wait_for
from tests.plugins.servers import (
    KEY,
    breaks,
    cuts,
    fails,
    overflows,
    rate_limited,
    refuses_the_content,
    refuses_the_key,
    says,
)
from unirouter_core import InvalidDataError, Prices, UniRouter, UnknownPriceError
from unirouter_plugins.graders import parse_grader
from unirouter_plugins.litellm.failures import open_litellm
from unirouter_plugins.litellm.pool_file import SERVED_AS, Member, Members
from unirouter_plugins.litellm.pool_schema import Votes
from unirouter_plugins.onboarding import OnboardingOptions, OverBillError, plan_onboarding, run_onboarding
from unirouter_plugins.onboarding.ask import ATTEMPTS, PreflightError
from unirouter_plugins.onboarding.judge import read_judge_prompt
from unirouter_plugins.onboarding.questions import Question, Questions
from unirouter_plugins.onboarding.run import means_of

pytestmark = [
    # pydantic, of a class of LiteLLM's own, when it is first used
    pytest.mark.filterwarnings("ignore:Items? .* on TypedDict class:UserWarning"),
    # LiteLLM's client takes the loop's sockets with it
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"),
]

PRICES = Prices(1.0, 2.0)
FEW = SUMS[:20]
RIGHT = {question.prompt: question.reference for question in SUMS}


@pytest.fixture
def server(monkeypatch, scripted_server):
    """A server whose "sage" can add and whose "poet" cannot; it is sent a key."""
    monkeypatch.setenv("LOOPBACK", KEY)
    scripted_server.script |= {"sage": says(RIGHT.get), "poet": says("A rose is a rose.")}
    return scripted_server


@pytest.fixture
def begin(server, world, tmp_path):
    """Onboard models of the server into a router with an empty pool; what is not told is as below."""
    router = fitted(world)

    def begun(*models, questions=SUMS, into=router, plans=False, **how):
        names = models or ("sage",)
        table = Members({name: served(name, server.url) for name in ("sage", "poet", "critic")} | how.pop("also", {}))
        run = {name: how.pop(name) for name in ("progress", "folder") if name in how}
        given = {"pool": table, "store": tmp_path / "answers.sqlite", "replace": True, "retry_pause": 0.01, **how}
        plan = plan_onboarding(into, names, OnboardingOptions(validation=Questions(questions), **given))
        return plan if plans else run_onboarding(plan, **run)

    begun.router, begun.server, begun.store = router, server, tmp_path / "answers.sqlite"
    return begun


def served(name, url, **fields):
    return Member(name, f"openai/{fields.pop('as_', name)}", url, "LOOPBACK", **{"prices": PRICES, **fields})


def n_wrong(n):
    """The sage, but wrong on the first `n` sums."""
    wrong = {question.prompt for question in SUMS[:n]}
    return says(lambda prompt: "0" if prompt in wrong else RIGHT[prompt])


def but(reply, prompts):
    """The sage, but to these prompts it replies so."""
    usual = says(RIGHT.get)

    async def replies(request, seen):
        return await (reply if seen.prompt in prompts else usual)(request, seen)

    return replies


def prompts(questions):
    return {question.prompt for question in questions}


FREE = [Question(f"What is {n} called?", f"It is called thing {n}.") for n in range(60)]


def verdicts(judge_of):
    """A judge: `judge_of` is told the reference and the answer."""

    def judged(prompt):
        quoted = [line[2:] for line in prompt.splitlines() if line.startswith("> ")]
        return judge_of(quoted[1], quoted[-1])

    return says(judged)


def fair(reference, answer):
    return f"Compared.\nVERDICT: {'CORRECT' if reference == answer else 'INCORRECT'}"


def names(prompt):
    return f"It is called thing {prompt.split()[2]}."


# --- One model --------------------------------------------------------------------------------------------------------


def test_a_model_joins_with_the_errors_tokens_and_usd_of_its_answers(begin):
    begin.server.script["sage"] = n_wrong(15)
    (sage,) = begin("sage")
    assert sage.profile is begin.router.pool["sage"]
    assert (sage.profile.error, sage.profile.n, sage.answered, sage.asked) == (0.25, 60, 60, 60)
    assert sage.evaluation.errors.tolist() == [1.0] * 15 + [0.0] * 45
    assert sage.evaluation.tokens_in.tolist() == [5.0] * 60  # the server counts words
    assert sage.spent_usd == pytest.approx(60 * (5 * 1.0 + 1 * 2.0) / 1e6) == pytest.approx(np.sum(sage.profile.usd))
    assert (sage.impact.kind, sage.reason, sage.stopped, sage.notes) == ("the only model", "", None, ())
    told = sage.profile.provenance
    assert told[SERVED_AS] == {"model": "openai/sage", "api_base": begin.server.url, "api_key_env": "LOOPBACK"}
    assert (told["max_tokens"], told["questions"], told["prices"], told["graders"]) == (
        1024,
        "given",
        "pool.toml",
        ["number"],
    )
    assert told["source"].startswith("asked through LiteLLM 1.")
    assert json.loads(json.dumps(sage.as_dict()))["onboarded"] is True


def test_an_answer_is_paid_for_once(begin):
    (first,), (again,) = begin(questions=FEW), begin(questions=FEW)
    assert len(begin.server.seen) == 20
    assert (again.asked, again.spent_usd, again.answered) == (0, 0, 20)
    np.testing.assert_array_equal(first.profile.features, again.profile.features)
    np.testing.assert_array_equal(first.profile.usd, again.profile.usd)


def test_a_changed_grader_grades_kept_answers_without_asking(begin):
    begin(questions=FEW)
    strict = [Question(q.prompt, "0", parse_grader("number")) for q in FEW]
    (sage,) = begin(questions=strict)
    assert (sage.asked, sage.profile.error) == (0, 1.0)


def test_other_settings_take_new_answers(begin):
    begin(questions=FEW)
    begin(questions=FEW, max_tokens=99)
    assert [len(begin.server.seen), begin.server.seen[-1].body["max_tokens"]] == [40, 99]


def test_repeats_are_averaged_and_asked_once_each(begin):
    turns = iter(range(1000))
    begin.server.script["sage"] = says(lambda prompt: RIGHT[prompt] if next(turns) % 2 else "0")
    (sage,) = begin(repeats=4, concurrency=1, questions=FEW)
    assert sage.profile.error == 0.5
    assert set(sage.evaluation.errors) == {0.5}
    assert sage.evaluation.repeats == 4
    begin(repeats=5, questions=FEW)
    assert len(begin.server.seen) == 5 * 20


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 1)), min_size=1), st.randoms())
def test_means_do_not_depend_on_which_answer_came_first(numbers, random):
    shuffled = random.sample(numbers, len(numbers))
    np.testing.assert_array_equal(means_of(numbers, 4), means_of(shuffled, 4))


@pytest.mark.parametrize(
    "refusal",
    [
        refuses_the_content(),
        fails(400, "The response was filtered.", code="content_filter"),
        says("", finish="content_filter"),
    ],
    ids=["400 as OpenAI", "400 as Azure", "200"],
)
def test_what_a_content_filter_refuses_is_answered_wrong(begin, refusal):
    begin.server.script["sage"] = but(refusal, prompts(SUMS[:2]))
    (sage,) = begin("sage", questions=FEW)
    assert (sage.refused, sage.failed, sage.profile.n, sage.profile.error) == (2, 0, 20, 0.1)


def test_truncated_answers_and_refusals_are_counted_apart(begin):
    cut, declined = prompts(SUMS[:3]), prompts(SUMS[3:5])
    begin.server.script["sage"] = but(says("It is", finish="length"), cut)
    usual = begin.server.script["sage"]

    async def replies(request, seen):
        declines = says("I'm sorry, but I can't help with that.")
        return await (declines if seen.prompt in declined else usual)(request, seen)

    begin.server.script["sage"] = replies
    (sage,) = begin(questions=FEW)
    assert (sage.truncated, sage.refused, sage.failed) == (3, 2, 0)
    assert sage.profile.error == 5 / 20
    assert (sage.profile.provenance["truncated"], sage.profile.provenance["refused"]) == (3, 2)


def test_a_variant_is_charged_for_its_votes(begin):
    voting = {"voting": served("voting", begin.server.url, as_="sage", votes=Votes(3, "number"))}
    plan = begin("voting", also=voting, plans=True, questions=FEW)
    (item,) = plan.bill.items
    (model,) = begin("voting", also=voting, questions=FEW)
    assert len(begin.server.seen) == 3 * 20
    assert model.evaluation.tokens_in.tolist() == [15.0] * 20
    assert model.profile.error == 0
    assert model.spent_usd <= item.usd_longest
    assert model.profile.provenance[SERVED_AS]["votes"] == {"samples": 3, "same": "number"}


def test_progress_is_told_after_every_answer(begin):
    told = []
    (sage,) = begin(progress=told.append, concurrency=4, questions=FEW)
    assert [step.done for step in told] == list(range(1, 21))
    assert {step.total for step in told} == {20}
    assert told[-1].spent_usd == sage.spent_usd
    assert all(one.spent_usd <= other.spent_usd for one, other in itertools.pairwise(told))


def test_two_models_are_judged_one_after_the_other(begin):
    sage, poet = begin("sage", "poet")
    assert (sage.impact.kind, poet.impact.kind) == ("the only model", "never chosen")
    assert sorted(begin.router.pool) == ["poet", "sage"]


# --- Before anything is asked -----------------------------------------------------------------------------------------


def test_an_unknown_price_is_an_error_before_any_call(begin):
    also = {"free": served("free", begin.server.url, prices=None)}
    with pytest.raises(UnknownPriceError, match=r"\[models.free\]"):
        begin("sage", "free", also=also)
    assert not begin.server.seen


def test_a_model_of_the_pool_keeps_its_prices_and_capabilities_without_its_table(begin):
    able = {"tools": False, "context_window": 8192}
    (first,) = begin("sage", also={"sage": served("sage", begin.server.url, capabilities=able)})
    (again,) = begin("sage", pool=None)
    assert (again.profile.prices, again.asked) == (PRICES, 0)
    assert again.profile.capabilities == first.profile.capabilities
    assert (again.profile.capabilities.tools, again.profile.capabilities.context_window) == (False, 8192)


def test_a_model_of_the_pool_is_evaluated_again_with_replace_only(begin):
    begin()
    with pytest.raises(InvalidDataError, match="in the pool already; pass replace=True"):
        begin(replace=False)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"repeats": 0}, "repeats=0 must be a whole number"),
        ({"concurrency": 1.5}, "concurrency=1.5 must be a whole number"),
        ({"timeout": math.inf}, "timeout=inf must be a number of seconds"),
        ({"timeout": "2"}, "timeout='2' must be a number of seconds"),
        ({"repeats": 10**9}, "repeats=1000000000 must be a whole number from 1 to 1,000"),
        ({"seed": -1}, "seed=-1 must be a whole number from 0"),
        ({"budget": -1}, "budget=-1 must be a finite number"),
        ({"budget": "1"}, "budget='1' must be a finite number"),
    ],
)
def test_settings_outside_their_range_are_refused(begin, changed, said):
    with pytest.raises(InvalidDataError, match=said):
        begin(**changed)


async def test_within_an_event_loop_the_error_says_what_to_write_instead(begin):
    with pytest.raises(InvalidDataError, match=r"write: await plan.run"):
        begin()
    assert not begin.server.seen


@pytest.mark.parametrize("models", ["sage", [5]])
def test_what_is_no_list_of_names_is_refused(begin, models):
    with pytest.raises(InvalidDataError, match="put the names in a list"):
        plan_onboarding(begin.router, models)


def test_questions_that_nothing_can_grade_are_refused(begin):
    with pytest.raises(InvalidDataError, match="reference model"):
        begin(questions=[Question("Why?"), Question("How?")])


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (refuses_the_key(), r"sage: .*\[key\].*; check the key in LOOPBACK"),
        (fails(404, "The model `sage` does not exist.", code="model_not_found"), "sage: .*; check the model's name"),
        (fails(403, "Not in your region."), "Not in your region; check .* its region"),
        (fails(400, "temperature must be at most 1."), "temperature must be at most 1; .*settings in pool.toml"),
        (
            fails(429, "No credit.", code="insufficient_quota", kind="insufficient_quota"),
            "add credit, or use another key",
        ),
        (rate_limited(0), "run the same again with a smaller concurrency"),
        (breaks(), "when this has passed, run the same again"),
    ],
)
def test_one_failing_call_is_one_sentence_with_its_cure(begin, reply, said):
    begin.server.script["sage"] = reply
    with pytest.raises(PreflightError, match=said) as failed:
        begin("sage", "poet")
    assert len(begin.server.asked("sage")) <= 3
    assert not begin.server.asked("poet")
    assert "\n" not in str(failed.value)
    assert str(failed.value).endswith(".")


def test_a_server_that_does_not_run_is_named_with_its_address(begin):
    also = {"sage": served("sage", "http://127.0.0.1:9/v1")}
    with pytest.raises(PreflightError, match=r"check that the server runs at http://127.0.0.1:9/v1"):
        begin(also=also)


def test_a_model_without_its_provider_is_named_with_the_cure(begin):
    with pytest.raises(PreflightError, match=r"openai/gpt-4.1-mini"):
        begin("nameless", also={"nameless": Member("nameless", "nameless", prices=PRICES)})


def test_a_model_without_a_key_is_told_which_variable_to_set(begin, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(PreflightError, match="OPENAI_API_KEY"):
        begin("gpt", also={"gpt": Member("gpt", "openai/gpt-4.1-nano")})


def test_an_answer_without_its_usage_is_not_paid_for_in_the_dark(begin):
    begin.server.script["sage"] = says("4", usage=False)
    with pytest.raises(PreflightError, match="without saying how many tokens"):
        begin()
    assert len(begin.server.seen) == 1


def test_a_first_prompt_that_is_too_long_says_nothing_of_the_others(begin):
    order = begin(plans=True)._order
    begin.server.script["sage"] = but(overflows(), {SUMS[order[0]].prompt})
    (sage,) = begin()
    assert (sage.failed, sage.answered) == (1, 59)


# --- Failures ---------------------------------------------------------------------------------------------------------


def test_a_failed_call_is_no_wrong_answer_and_is_asked_again_another_time(begin):
    begin.server.script["sage"] = but(breaks(), prompts(SUMS[:2]))
    (sage,) = begin(concurrency=1, questions=FEW)
    assert (sage.failed, sage.answered, sage.profile.error) == (2, 18, 0.0)
    assert sage.evaluation.failed.sum() == 2
    begin.server.script["sage"] = says(RIGHT.get)
    (again,) = begin(questions=FEW)
    assert (again.asked, again.failed, again.profile.n) == (2, 0, 20)


def test_too_many_failures_keep_a_model_out_and_say_why(begin):
    broken = prompts(SUMS[::4])
    begin.server.script["sage"] = but(fails(400, "Odd prompt."), broken)
    first = SUMS[begin(plans=True)._order[0]].prompt
    begin.server.script["sage"] = but(fails(400, "Odd prompt."), broken - {first})
    (sage,) = begin()
    assert sage.profile is None
    assert "sage" not in begin.router.pool
    assert sage.stopped == "failures"
    assert "calls failed, most often so: BadRequestError" in sage.reason
    assert "Odd prompt; when" in sage.reason


def test_a_provider_that_goes_down_is_not_asked_to_the_end(begin):
    begin.server.script["sage"] = [*[says("0")] * 30, fails(401, "Revoked.")]
    (sage,) = begin(concurrency=1)
    assert len(begin.server.seen) == 40  # ten failures in a row
    assert (sage.stopped, sage.profile, sage.answered) == ("failures", None, 30)
    assert "Revoked; when" in sage.reason
    begin.server.script["sage"] = says(RIGHT.get)
    (again,) = begin()
    assert (again.asked, again.answered) == (30, 60)


def test_being_asked_too_fast_slows_all_calls_and_loses_none(begin):
    begin.server.script["sage"] = [says("0"), *[rate_limited(0.05)] * 8, says("0")]
    (sage,) = begin(concurrency=8)
    assert (sage.failed, sage.answered) == (0, 60)
    assert len(begin.server.seen) == 68


# --- Budget -----------------------------------------------------------------------------------------------------------


def test_a_budget_is_never_overspent_and_what_it_bought_is_kept(begin):
    plan = begin(plans=True)
    worst = plan.bill.usd_longest / 60
    (sage,) = begin(budget=worst + 30 * 7e-6, concurrency=8)
    assert sage.stopped == "budget"
    assert sage.spent_usd <= worst + 30 * 7e-6
    bought = sage.answered
    assert 25 <= bought == len(begin.server.seen) < 40
    (again,) = begin()
    assert (again.asked, again.answered) == (60 - bought, 60)


def test_a_model_with_too_few_answers_for_its_budget_stays_out(begin):
    worst = begin(plans=True).bill.usd_longest / 60
    begin.server.script["sage"] = says("0 " * 900)
    (sage,) = begin(budget=10 * worst)
    assert (sage.profile, sage.stopped) == (None, "budget")
    assert "fewer than 50 say too little" in sage.reason


def test_a_model_with_enough_answers_for_its_budget_is_onboarded_with_a_note(begin):
    worst = begin(plans=True).bill.usd_longest / 60
    begin.server.script["sage"] = says("0 " * 1000)
    (sage,) = begin(budget=55 * worst)
    assert sage.profile is not None
    assert (sage.profile.n, sage.answered) == (sage.answered, sage.answered)
    assert 50 <= sage.answered < 60
    assert any("The budget ended after" in note for note in sage.notes)


LONG = " and so on" * 500 + "\nThe answer is "


def at_length(prompt):
    return LONG + RIGHT[prompt]


def test_answers_longer_than_the_bill_says_end_the_run_after_five_and_the_next_bill_knows_it(begin):
    begin.server.script["sage"] = says(at_length)
    dear = {"also": {"sage": served("sage", begin.server.url, prices=Prices(1.0, 2000.0))}, "max_tokens": 4096}
    before = begin(plans=True, **dear).bill
    with pytest.raises(OverBillError, match=r"first 5 answers say about \$\S+ in total.*; make a new plan"):
        begin(**dear)
    assert len(begin.server.seen) == 5
    after = begin(plans=True, **dear).bill
    assert before.usd.high < after.usd.low
    assert (after.calls, after.is_assumed) == (55, False)
    (sage,) = begin(**dear)
    assert sage.spent_usd == pytest.approx(after.usd.expected, rel=0.2)
    assert (sage.asked, sage.profile.error) == (55, 0.0)


def test_the_first_answers_are_new_ones_to_five_prompts_whatever_is_repeated_or_logged(begin, tmp_path):
    begin.server.script["sage"] = says(at_length)
    dear = {"also": {"sage": served("sage", begin.server.url, prices=Prices(1.0, 2000.0))}, "max_tokens": 4096}
    with pytest.raises(OverBillError):
        begin(repeats=4, **dear)
    asked = [seen.prompt for seen in begin.server.seen]
    assert len(asked) == len(set(asked)) == 5
    calls = [{"messages": [{"role": "user", "content": p}], "model": "sage", "response": "0"} for p in asked[:3]]
    (tmp_path / "calls.jsonl").write_text("\n".join(map(json.dumps, calls)))
    with pytest.raises(OverBillError):
        begin(answers=tmp_path / "calls.jsonl", store=tmp_path / "other.sqlite", **dear)
    assert len(begin.server.seen) == 5 + 2


@pytest.mark.parametrize(("budget", "price"), [(1e6, 2000.0), (None, 0.2)])
def test_neither_a_budget_nor_a_few_cents_are_asked_about_again(begin, budget, price):
    begin.server.script["sage"] = says(at_length)
    sage = served("sage", begin.server.url, prices=Prices(0.1, price))
    (sage,) = begin(also={"sage": sage}, max_tokens=4096, budget=budget)
    assert sage.asked == 60


def test_a_connection_that_is_cut_counts_as_paid(begin):
    begin.server.script["sage"] = but(cuts, prompts(SUMS[:2]))
    plan = begin(plans=True)
    (sage,) = begin(concurrency=1)
    worst = plan.bill.usd_longest / 60
    assert sage.failed == 2
    assert sage.spent_usd == pytest.approx(58 * 7e-6 + sage.failed * ATTEMPTS * worst, rel=0.1)


def test_a_budget_that_ends_while_the_judge_is_tried_stops_before_much_is_asked(begin):
    begin.server.script |= {"sage": says(names), "critic": verdicts(fair)}
    judge = begin(questions=FREE, judge="critic", plans=True).bill.items[-1]
    (sage,) = begin(questions=FREE, judge="critic", budget=judge.usd_longest / 60)
    assert (sage.stopped, sage.profile) == ("budget", None)
    assert sage.spent_usd <= judge.usd_longest / 60
    assert len(begin.server.asked("sage")) <= 1


# --- Judges and reference models --------------------------------------------------------------------------------------


def test_a_judge_grades_what_no_program_can_and_is_tried_first(begin):
    begin.server.script |= {"sage": says(names), "critic": verdicts(fair), "poet": says("It is called a rose.")}
    sage, poet = begin("sage", "poet", questions=FREE, judge="critic")
    assert (sage.profile.error, poet.profile.error) == (0.0, 1.0)
    assert "The judge accepted 10 of 10 right answers and refused 10 of 10 wrong ones." in sage.notes
    assert sage.profile.provenance["judge"]["model"] == "openai/critic"
    n = len(begin.server.asked("critic"))
    assert n == 20 + 120
    begin("sage", "poet", questions=FREE, judge="critic")
    assert len(begin.server.asked("critic")) == n


def test_what_the_judge_costs_is_in_the_bill_and_in_what_is_spent(begin):
    begin.server.script |= {"sage": says(names), "critic": verdicts(fair)}
    plan = begin(questions=FREE, judge="critic", plans=True)
    judge = next(item for item in plan.bill.items if item.role == "judge")
    assert (judge.calls, judge.paid) == (80, 0)
    (sage,) = begin(questions=FREE, judge="critic")
    with sqlite3.connect(begin.store) as store:
        (graded,) = store.execute("select sum(usd) from grades where model = 'sage'").fetchone()
    store.close()
    assert graded > 0
    assert sage.spent_usd == pytest.approx(graded + np.sum(sage.evaluation.costs))
    assert (plan_item := begin(questions=FREE, judge="critic", plans=True).bill.items[-1]).calls == 0
    assert plan_item.paid == 80


def test_a_verdict_that_cannot_be_read_is_a_failure_of_the_judge_only(begin):
    def mumbles(reference, answer):
        return "Hard to say." if reference.endswith((" 3.", " 4.")) and answer == reference else fair(reference, answer)

    pairs_seen = verdicts(mumbles)
    begin.server.script |= {"sage": says(names), "critic": pairs_seen}
    (sage,) = begin(questions=FREE, judge="critic", seed=1)
    assert (sage.failed, sage.judge_failures, sage.answered) == (0, 2, 58)
    assert sage.profile.error == 0.0
    (again,) = begin(questions=FREE, judge="critic", seed=1)
    assert (again.asked, again.judge_failures) == (0, 2)


def test_a_judge_that_takes_everything_for_right_is_not_trusted(begin):
    begin.server.script |= {"sage": says(names), "critic": says("VERDICT: CORRECT")}
    with pytest.raises(PreflightError, match="refused 0 of 10 wrong ones"):
        begin(questions=FREE, judge="critic")
    assert len(begin.server.asked("sage")) == 1


def test_a_judge_whose_key_is_wrong_ends_the_run_after_one_answer(begin):
    begin.server.script |= {"sage": says(names), "critic": refuses_the_key()}
    with pytest.raises(PreflightError, match=r"^critic: .*check the key in LOOPBACK"):
        begin(questions=FREE, judge="critic")
    assert (len(begin.server.asked("sage")), len(begin.server.asked("critic"))) == (1, 1)


def test_a_judge_that_goes_down_ends_the_run_once_for_all_models(begin):
    judging = [verdicts(fair)] * 20 + [refuses_the_key()] * 1000
    begin.server.script |= {"sage": says(names), "poet": says(names), "critic": judging}
    sage, poet = begin("sage", "poet", questions=FREE, judge="critic")
    assert (sage.profile, poet.profile) == (None, None)
    assert poet.reason == sage.reason
    assert "grades by critic failed" in sage.reason
    assert ".;" not in sage.reason
    assert len(begin.server.asked("poet")) == 1  # the first call, before the judge failed
    assert len(begin.server.asked("critic")) < 20 + 30


def test_a_judge_that_is_a_candidate_is_warned_of(begin):
    begin.server.script |= {"sage": says(names)}
    with pytest.warns(UserWarning, match="The judge sage is a candidate itself and would grade its own answers"):
        begin("sage", questions=FREE, judge="sage", plans=True)


@pytest.mark.parametrize("named", ["sage", "openai/sage"])
def test_answers_in_logs_are_graded_and_only_the_others_are_asked_for(begin, tmp_path, named):
    calls = [
        {"messages": [{"role": "user", "content": q.prompt}], "model": named, "response": q.reference}
        for q in SUMS[:40]
    ]
    calls += [{"messages": [{"role": "user", "content": "Hi"}], "model": named, "response": "Hi."}]
    (tmp_path / "calls.jsonl").write_text("\n".join(map(json.dumps, calls)))
    plan = begin(plans=True, answers=tmp_path / "calls.jsonl")
    assert (plan.bill.items[0].calls, plan.bill.items[0].paid) == (len(SUMS) - 40, 40)
    assert plan.reused == ["40 answers of sage from the logs: graded, not paid for again."]
    assert not begin.store.exists()
    (sage,) = run_onboarding(plan)
    assert (sage.asked, sage.answered, sage.profile.error) == (len(SUMS) - 40, len(SUMS), 0.0)
    assert len(begin.server.asked("sage")) == len(SUMS) - 40
    assert begin(plans=True).bill.calls == 0  # they are in the store now


def test_logs_that_answer_none_of_the_prompts_are_named_as_such(begin, tmp_path):
    (tmp_path / "calls.jsonl").write_text(
        '{"messages": [{"role": "user", "content": "Hi"}], "model": "bard", "response": "!"}'
    )
    with pytest.raises(InvalidDataError, match=r"None of the 1 answers in the logs \(of bard\) is of sage"):
        begin(plans=True, answers=tmp_path / "calls.jsonl")


def test_another_judge_prompt_judges_again_and_asks_no_other_model(begin, tmp_path):
    begin.server.script |= {"sage": says(names), "critic": verdicts(fair)}
    begin(questions=FREE, judge="critic")
    (tmp_path / "judge.md").write_text(read_judge_prompt().replace("You grade", "Do grade"))
    begin(questions=FREE, judge="critic", judge_prompt=tmp_path / "judge.md")
    assert len(begin.server.asked("sage")) == 60
    assert len(begin.server.asked("critic")) == 2 * 80


def test_a_reference_model_answers_first_and_agreement_is_the_grade(begin):
    bare = [Question(question.prompt) for question in SUMS]
    begin.server.script["poet"] = n_wrong(6)
    plan = begin("poet", questions=bare, reference_model="sage", plans=True)
    assert [(item.model, item.role, item.calls) for item in plan.bill.items] == [
        ("poet", "measured", 60),
        ("sage", "reference", 60),
    ]
    (poet,) = begin("poet", questions=bare, reference_model="sage", concurrency=4)
    assert poet.profile.error == 0.1
    assert any("agrees with what sage answered" in note for note in poet.notes)
    assert (len(begin.server.asked("sage")), len(begin.server.asked("poet"))) == (60, 60)
    begin("poet", questions=bare, reference_model="sage", repeats=2)
    assert (len(begin.server.asked("sage")), len(begin.server.asked("poet"))) == (60, 120)


def test_what_a_reference_model_says_at_length_is_not_compared(begin):
    bare = [Question(question.prompt) for question in SUMS]
    begin.server.script["sage"] = but(says("That is a long story which begins in another century."), prompts(SUMS[:9]))
    (poet,) = begin("poet", questions=bare, reference_model="sage")
    assert (poet.ungradable, poet.answered, poet.asked) == (9, 51, 51)
    assert any("9 prompts could not be graded" in note for note in poet.notes)


def test_what_the_reference_model_cannot_answer_is_not_billed_again(begin):
    bare = [Question(question.prompt) for question in SUMS]
    begin.server.script["sage"] = but(says(""), prompts(SUMS[:9]))
    begin("poet", questions=bare, reference_model="sage")
    assert begin("poet", questions=bare, reference_model="sage", plans=True).bill.calls == 0
    told = []
    begin("poet", questions=bare, reference_model="sage", repeats=2, progress=told.append)
    assert told[-1].done == told[-1].total == 120


def test_a_reference_model_s_answers_are_paid_for_once_when_it_is_measured_too(begin):
    turns = itertools.count()
    begin.server.script["sage"] = says(lambda _: str(next(turns)))  # never the same
    bare = [Question(question.prompt) for question in SUMS]
    plan = begin("sage", questions=bare, reference_model="sage", plans=True)
    assert [(item.role, item.calls) for item in plan.bill.items] == [("measured", 0), ("reference", 60)]
    (sage,) = begin("sage", questions=bare, reference_model="sage")
    assert (sage.profile.error, sage.answered, len(begin.server.seen)) == (0.0, 60, 60)
    assert sage.spent_usd == pytest.approx(np.sum(sage.profile.usd))
    assert any("measured against its own" in note for note in sage.notes)


def test_without_texts_only_references_that_are_still_needed_are_billed(begin):
    bare = [Question(question.prompt) for question in SUMS]
    begin("poet", questions=bare, reference_model="sage", texts=False)
    assert begin("poet", questions=bare, reference_model="sage", texts=False, plans=True).bill.calls == 0


def test_a_judge_compares_with_the_reference_model(begin):
    bare = [Question(question.prompt) for question in FREE]
    begin.server.script |= {"sage": says(names), "poet": says(names), "critic": verdicts(fair)}
    (poet,) = begin("poet", questions=bare, reference_model="sage", judge="critic")
    assert poet.profile.error == 0.0
    assert any("judge critic" in note for note in poet.notes)


# --- Stopping early ---------------------------------------------------------------------------------------------------


def test_onboarding_stops_when_more_answers_would_not_change_where_prompts_go(begin, router):
    dear = {"dear": served("dear", begin.server.url, as_="poet", prices=Prices(5000, 5000))}
    router.cost_weight = 100
    many = [
        Question(f"What is {a} plus {b}?", str(a + b), parse_grader("number")) for a in range(20) for b in range(10)
    ]
    (model,) = begin("dear", questions=many, into=router, also=dear, until_decided=True)
    assert (model.stopped, model.undecided.decided) == ("decided", True)
    assert 50 <= model.asked < 200
    assert any(f"Asking stopped after {model.asked} of 200 prompts" in note for note in model.notes)
    assert model.profile.n == model.asked


# --- Interrupted ------------------------------------------------------------------------------------------------------


# LiteLLM makes a coroutine and is cancelled before it awaits it
@pytest.mark.filterwarnings("ignore:coroutine .*acompletion. was never awaited:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:Exception ignored in. <coroutine object:pytest.PytestUnraisableExceptionWarning")
async def test_what_was_answered_before_a_cancellation_is_not_asked_again(begin):
    reached = asyncio.Event()
    plan = begin(plans=True, concurrency=4)
    running = asyncio.ensure_future(plan.run(lambda step: reached.set() if step.done == 20 else None))
    await reached.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    asked = len(begin.server.seen)
    (sage,) = await begin(plans=True, concurrency=4).run()
    assert sage.answered == 60
    assert len(begin.server.seen) <= 60 + 4
    assert asked >= 20
    await open_litellm().close_litellm_async_clients()


def test_a_line_may_name_a_grader_of_the_user_s_own(begin, tmp_path):
    lines = [{"prompt": q.prompt, "reference": q.reference, "grader": "ends"} for q in SUMS[:50]]
    (tmp_path / "sums.jsonl").write_text("\n".join(map(json.dumps, lines)))
    ends = {"ends": lambda answer, reference: float(not answer.endswith(reference))}
    table = Members({"sage": served("sage", begin.server.url)})
    options = OnboardingOptions(validation=tmp_path / "sums.jsonl", functions=ends, pool=table, store=begin.store)
    (sage,) = run_onboarding(plan_onboarding(begin.router, ["sage"], options))
    assert (sage.profile.error, sage.profile.provenance["graders"]) == (0.0, ["ends"])


def test_answers_are_graded_outside_the_event_loop(begin):
    threads = set()

    def slow(answer, reference):
        threads.add(threading.current_thread())
        return answer != reference

    begin(questions=[Question(q.prompt, q.reference, parse_grader("mine", functions={"mine": slow})) for q in FEW])
    assert threads
    assert threading.main_thread() not in threads


def test_a_number_that_a_provider_sends_and_that_cannot_be_ends_no_run_and_widens_no_budget(begin):
    async def replies(request, seen):
        body = json.loads((await says(RIGHT.get)(request, seen)).body)
        if seen.prompt in prompts(SUMS[5:8]):
            body["usage"] |= {"prompt_tokens": -1_000_000}
        return web.json_response(body)

    begin.server.script["sage"] = replies
    plan = begin(plans=True)
    (sage,) = begin(budget=1.0)
    assert (sage.answered, sage.failed, sage.profile.error) == (60, 0, 0.0)
    assert sage.spent_usd == pytest.approx(57 * 7e-6 + 3 * plan.bill.usd_longest / 60, rel=0.01)
    (again,) = begin()
    assert again.asked == 0


def test_a_grader_that_fails_loses_no_answer(begin):
    def picky(answer, reference):
        if answer == RIGHT[SUMS[30].prompt]:
            raise RuntimeError("oops")
        return answer != reference

    graded = [Question(q.prompt, q.reference, parse_grader("mine", functions={"mine": picky})) for q in SUMS]
    with pytest.raises(InvalidDataError, match="oops"):
        begin(questions=graded, concurrency=1)
    asked = len(begin.server.seen)
    (sage,) = begin()
    assert (sage.asked, len(begin.server.seen)) == (60 - asked, 60)


# --- What is kept -----------------------------------------------------------------------------------------------------


def test_the_key_is_nowhere_but_in_the_environment(begin, tmp_path, capfd):
    begin()
    begin.router.save(tmp_path / "r")
    for reply in (refuses_the_key(), fails(500, "Upstream said {key} is bad."), fails(400, "Header {key}.")):
        begin.server.script["poet"] = reply
        with pytest.raises(PreflightError) as failed:
            begin("poet")
        assert KEY not in "".join(traceback.format_exception(failed.value))
    begin.server.script["poet"] = [says("0"), *[fails(400, "Key {key}.")] * 80]
    (poet,) = begin("poet", concurrency=1)
    assert KEY not in repr(poet) + json.dumps(poet.as_dict())
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert begin.store in files
    assert [file.name for file in files if KEY.encode() in file.read_bytes()] == []
    assert KEY not in "".join(capfd.readouterr())


def test_without_texts_neither_prompts_nor_answers_are_kept_and_nothing_is_asked_again(begin, tmp_path):
    begin.server.script["sage"] = says(lambda prompt: f"{RIGHT[prompt]} PLANTED")
    (sage,) = begin(texts=False, folder=tmp_path / "r")
    kept = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert (b"PLANTED" in kept, SUMS[7].prompt.encode() in kept) == (False, False)
    (again,) = begin(texts=False)
    assert (again.asked, again.profile.error) == (0, sage.profile.error)


def test_without_texts_a_changed_grader_takes_new_answers(begin):
    begin(texts=False)
    (sage,) = begin(texts=False, questions=[Question(q.prompt, "0", parse_grader("number")) for q in SUMS])
    assert (sage.asked, sage.profile.error) == (60, 1.0)


def test_the_store_can_be_read_by_people(begin):
    begin()
    with sqlite3.connect(begin.store) as store:
        rows = store.execute("select chat_json, text, error from answers join grades using (prompt)")
        found = {json.loads(chat)[0]["content"]: (text, error) for chat, text, error in rows}
        ((settings,),) = store.execute("select distinct settings_json from answers").fetchall()
    store.close()
    assert found == {prompt: (right, 0.0) for prompt, right in RIGHT.items()}
    assert json.loads(settings) == {"model": "openai/sage", "max_tokens": 1024}


# --- Several processes ------------------------------------------------------------------------------------------------


def test_two_processes_that_onboard_into_one_router_are_both_there_after(server, world, tmp_path):
    folder = tmp_path / "two.router"
    fitted(world).save(folder)
    both = [start(name, server.url, tmp_path / "answers.sqlite", folder) for name in ("sage", "poet")]
    for one in both:
        one.join(120)
    assert [one.exitcode for one in both] == [0, 0]
    pool = UniRouter.load(folder).pool
    assert {name: profile.error for name, profile in pool.items()} == {"poet": 1.0, "sage": 0.0}


def test_ctrl_c_ends_it_and_the_same_again_goes_on(server, world, tmp_path):
    store, folder = tmp_path / "answers.sqlite", tmp_path / "r"
    server.script["sage"] = says(RIGHT.get, latency=0.02)
    fitted(world).save(folder)
    process = start("sage", server.url, store, folder)
    wait_for(lambda: len(server.seen) >= 20, process)
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode not in (0, None)
    assert len(kept(store, server.url)) >= len(server.seen) - AT_ONCE
    again = start("sage", server.url, store, folder)
    again.join(120)
    assert again.exitcode == 0
    assert len(server.seen) <= 60 + AT_ONCE
    assert UniRouter.load(folder).pool["sage"].n == 60


def test_what_is_killed_goes_on_where_it_was(server, world, tmp_path):
    check_kills(server, fitted(world), tmp_path, kills=2)
