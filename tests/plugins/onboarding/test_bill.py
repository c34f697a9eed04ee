"""What onboarding will cost, before anything is asked."""

import json

import numpy as np
import pytest

from unirouter_core import Prices, UniRouter
from unirouter_plugins.graders import parse_grader
from unirouter_plugins.litellm.pool_file import Member, Members
from unirouter_plugins.litellm.pool_schema import Votes
from unirouter_plugins.onboarding import OnboardingOptions, plan_onboarding
from unirouter_plugins.onboarding.ask import ATTEMPTS, settings_digest
from unirouter_plugins.onboarding.bill import ASSUMED, FORM_TOKENS, FREE_TOKENS, OWN, WIDER, Spread
from unirouter_plugins.onboarding.questions import Question, Questions
from unirouter_plugins.onboarding.store import Answer, AnswerKey, AnswerStore, Grade

# pydantic, of a class of LiteLLM's own, when it is first used
pytestmark = pytest.mark.filterwarnings("ignore:Items? .* on TypedDict class:UserWarning")

PRICES = Prices(1.0, 2.0)
SUMS = [Question(f"What is {n} plus {n}?", str(2 * n), parse_grader("number")) for n in range(100)]


@pytest.fixture
def bill(asked_router, tmp_path):
    """The bill of onboarding "new" into the pool of poet, sage, tutor and scholar; none can be called."""

    def drawn_up(questions=SUMS, *, into=asked_router, prices=PRICES, model="openai/new", fields=None, also=(), **how):
        new = Member("new", model, "http://127.0.0.1:9", "NO_SUCH_KEY", prices, **(fields or {}))
        table = Members({member.name: member for member in (new, *also)})
        how |= {"validation": Questions(questions), "pool": table, "store": tmp_path / "answers.sqlite"}
        return plan_onboarding(into, ["new"], OnboardingOptions(**how)).bill

    return drawn_up


def test_a_bill_is_the_tokens_counted_at_the_model_s_prices(bill, asked_router):
    drawn = bill()
    (item,) = drawn.items
    counted = asked_router.fit_.token_counter.count([question.prompt for question in SUMS]).sum() + 4 * 100
    assert (item.calls, item.paid, item.tokens_in) == (100, 0, counted)
    assert drawn.usd.low == pytest.approx((counted + 2 * item.tokens_out.low) / 1e6)
    assert drawn.usd.high == pytest.approx((counted + 2 * item.tokens_out.high) / 1e6)
    assert drawn.usd_longest == pytest.approx((2 * counted + 2 * 1024 * 100) / 1e6)
    assert drawn.usd_worst == ATTEMPTS * drawn.usd_longest
    assert (item.max_tokens, item.price_source, item.prices) == (1024, "pool.toml", PRICES)


def test_answers_are_expected_as_long_as_those_of_the_pool(bill, asked_router):
    drawn = bill()
    regions = asked_router.fit_.regions.locate(asked_router.encode([question.prompt for question in SUMS]))[0]
    totals = [
        (profile.cost.per_answer[regions] * 1e6 / profile.prices.output) for profile in asked_router.pool.values()
    ]
    (item,) = drawn.items
    assert not drawn.is_assumed
    assert item.tokens_out.low == pytest.approx(np.min(totals, axis=0).sum() / WIDER)
    assert item.tokens_out.expected == pytest.approx(np.mean(totals, axis=0).sum())
    assert item.tokens_out.high == pytest.approx(np.max(totals, axis=0).sum() * WIDER)


def test_the_first_model_of_a_pool_answers_as_long_as_the_graders_ask_for(bill):
    drawn = bill(into=UniRouter.starter())
    sums = 100 * FORM_TOKENS["number"]
    assert drawn.is_assumed
    assert drawn.items[0].tokens_out == Spread(sums / ASSUMED, pytest.approx(sums), sums * ASSUMED)
    critic = Member("critic", "openai/critic", prices=PRICES)
    free = bill([Question(f"Why {n}?") for n in range(50)], into=UniRouter.starter(), judge="critic", also=(critic,))
    assert free.items[0].tokens_out.expected == 50 * FREE_TOKENS


def test_a_model_s_own_answers_tell_most_how_long_the_others_are(bill, tmp_path):
    settings = settings_digest(Member("new", "openai/new"), 1024)
    answer = Answer("4", 5, 20, None, None, 1e-5, 0.1, "stop", refused=False, date="2026-11-23")
    with AnswerStore(tmp_path / "answers.sqlite") as store:
        for question in SUMS[:40]:
            store.add(AnswerKey("new", question.digest, settings), answer)
    assert bill().items[0].tokens_out == Spread(60 * 20 / OWN, 60 * 20, 60 * 20 * OWN)


def test_few_answers_of_different_lengths_leave_a_wider_range_than_many(bill, tmp_path):
    settings, widths = settings_digest(Member("new", "openai/new"), 1024), []
    with AnswerStore(tmp_path / "answers.sqlite") as store:
        for at, question in enumerate(SUMS[:80]):
            long = 10.0 if at % 2 else 30.0
            answer = Answer("4", 5, long, None, None, 1e-5, 0.1, "stop", refused=False, date="2026-11-23")
            store.add(AnswerKey("new", question.digest, settings), answer).result()
            if at in (1, 5, 79):
                tokens = bill().items[0].tokens_out
                assert tokens.expected == pytest.approx((99 - at) * 20)
                widths.append(tokens.high / tokens.expected)
    assert widths == pytest.approx([1 + 6.314 * 14.142 / 2**0.5 / 20, 1 + 2.015 * 10.954 / 6**0.5 / 20, OWN], rel=1e-3)


def test_no_answer_is_longer_than_it_may_be(bill):
    drawn = bill(max_tokens=5)
    assert drawn.items[0].tokens_out.high == 500
    assert bill(fields={"settings": {"max_completion_tokens": 7}}).items[0].max_tokens == 7


def test_a_model_that_thinks_may_take_all_it_has(bill):
    (item,) = bill(model="openai/o3-mini").items
    assert item.tokens_out.high == 100 * 1024


def test_votes_and_repeats_multiply(bill):
    one, five, twice = bill(), bill(fields={"votes": Votes(5, "number")}), bill(repeats=2)
    assert five.usd_longest == pytest.approx(5 * one.usd_longest)
    assert five.usd.high == pytest.approx(5 * one.usd.high)
    assert (twice.calls, twice.usd.low) == (200, pytest.approx(2 * one.usd.low))


def test_what_is_paid_for_is_not_billed_again(bill, tmp_path):
    settings = settings_digest(Member("new", "openai/new"), 1024)
    answer = Answer("4", 5, 1, None, None, 1e-5, 0.1, "stop", refused=False, date="2026-11-23")
    with AnswerStore(tmp_path / "answers.sqlite") as store:
        for question in SUMS[:40]:
            key = AnswerKey("new", question.digest, settings)
            store.add(key, answer, grader_key=question.grader_key, grade=Grade(0.0))
    (item,) = bill().items
    assert (item.calls, item.paid) == (60, 40)
    assert bill(repeats=2).items[0].calls == 160


def test_the_judge_and_the_reference_model_are_on_the_bill(bill):
    critic, sage = Member("critic", "openai/critic", prices=Prices(3, 6)), Member("teacher", "openai/t", prices=PRICES)
    bare = [Question(f"Why is {n} odd?") for n in range(20)]
    drawn = bill(bare, judge="critic", reference_model="teacher", also=(critic, sage))
    new, teacher, judge = drawn.items
    assert [(item.role, item.calls) for item in drawn.items] == [("measured", 20), ("reference", 20), ("judge", 20)]
    assert judge.tokens_in > 20 * 300  # the judge's own prompt
    assert drawn.usd_longest == pytest.approx(new.usd_longest + teacher.usd_longest + judge.usd_longest)
    assert judge.usd_worst == 2 * ATTEMPTS * judge.usd_longest  # asked twice for a verdict that can be read


def test_a_judge_that_grades_nothing_is_not_on_the_bill(bill):
    critic = Member("critic", "openai/critic", prices=PRICES)
    assert [item.role for item in bill(judge="critic", also=(critic,)).items] == ["measured"]


@pytest.mark.parametrize("how", [{}, {"max_tokens": 3}, {"repeats": 3}, {"fields": {"votes": Votes(3, "text")}}])
def test_expected_longest_and_worst_stand_in_order(bill, how):
    drawn = bill(**how)
    assert 0 < drawn.usd.low <= drawn.usd.expected <= drawn.usd.high <= drawn.usd_longest <= drawn.usd_worst


def test_a_free_model_costs_nothing(bill):
    drawn = bill(prices=Prices(0, 0))
    assert (drawn.usd, drawn.usd_worst, drawn.calls) == (Spread(0, 0, 0), 0, 100)


def test_a_bill_can_be_kept_as_json(bill):
    kept = json.loads(json.dumps(bill().as_dict()))
    assert (kept["prompts"], kept["calls"], kept["items"][0]["model"]) == (100, 100, "new")
    assert kept["usd"]["low"] <= kept["usd"]["expected"] <= kept["usd"]["high"]
