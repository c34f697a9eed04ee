"""Checks of answers: the rule applied again once an answer was looked at."""

from __future__ import annotations

import math

import numpy as np
import pytest

from unirouter_core import Evaluation, InvalidDataError, Outcomes, UniRouter
from unirouter_core.checks import Check, Checks, acceptance_limit, look_ahead

N = 400


@pytest.fixture
def router() -> UniRouter:
    """A cheap model that is right on half of all prompts, whatever they say, and a dear one that is nearly always."""
    rng = np.random.default_rng(0)
    prompts = [f"Question {i} about {('sums', 'poems')[i % 2]}" for i in range(N)]
    errors = np.c_[rng.random(N) < 0.5, rng.random(N) < 0.04].astype(float)
    table = Outcomes(prompts, ["cheap", "dear"], errors=errors, costs=np.full((N, 2), [1e-4, 1e-2]))
    router = UniRouter(cost_weight=10).fit(table)
    router.onboard(table)
    return router


def wrong(router: UniRouter) -> np.ndarray:
    return router.pool["cheap"].errors > 0.5


def test_without_a_check_the_decision_is_as_before(router: UniRouter) -> None:
    plain = router.route("Question 7 about sums")
    router.add_check("cheap", "tests", wrong(router))
    unaware = router.route("Question 7 about sums")
    assert (plain.model, plain.error, plain.cost, plain.check) == (unaware.model, unaware.error, unaware.cost, None)
    assert plain.ranking == unaware.ranking


def test_a_draft_is_worth_asking_for_when_a_check_tells_the_wrong_ones(router: UniRouter) -> None:
    router.add_check("cheap", "tests", wrong(router))
    plain = router.route("Question 7 about sums")
    first = router.route("Question 7 about sums", checks=["tests"])
    assert plain.model == "dear"
    assert first.model == "cheap"
    assert first.check is not None
    assert first.check.name == "tests"
    assert first.cost < plain.cost
    accepted, rejected = first.after(False), first.after(True)
    assert (accepted.model, accepted.answered, accepted.cost) == ("cheap", ("cheap",), 0.0)
    assert rejected.model == "dear"
    assert accepted.error < 0.1
    assert first.error == pytest.approx(0.5 * accepted.error + 0.5 * rejected.error, abs=0.05)


def test_a_check_that_says_nothing_is_not_used(router: UniRouter) -> None:
    router.add_check("cheap", "coin", np.random.default_rng(1).random(N) < 0.5)
    assert router.route("Question 7 about sums", checks=["coin"]).check is None


def test_a_dear_check_is_not_used(router: UniRouter) -> None:
    router.add_check("cheap", "panel", wrong(router), usd=0.02)
    assert router.route("Question 7 about sums", checks=["panel"]).model == "dear"


def test_a_signal_that_is_not_known_leaves_the_errors_as_they_were(router: UniRouter) -> None:
    router.add_check("cheap", "tests", wrong(router))
    first = router.route("Question 7 about sums", checks=["tests"])
    plain = {each.model: each.error for each in router.route("Question 7 about sums").ranking}
    for signal in (None, math.nan):
        assert {each.model: each.error for each in first.after(signal).ranking} == plain


def test_each_answer_is_checked_once_and_the_ladder_ends(router: UniRouter) -> None:
    for model in router.pool:
        router.add_check(model, "tests", router.pool[model].errors > 0.5)
    decision, asked = router.route("Question 7 about sums", checks=["tests"]), []
    while decision.check is not None:
        asked.append(decision.model)
        decision = decision.after(True)
    assert len(asked) == len(set(asked))
    assert decision.answered == tuple(asked)


def test_models_that_may_not_answer_mend_no_draft(router: UniRouter) -> None:
    router.add_check("cheap", "tests", wrong(router))
    alone = router.route("Question 7 about sums", models=["cheap"], checks=["tests"])
    assert (alone.model, alone.check) == ("cheap", None)


def test_signals_are_saved_with_the_router(router: UniRouter, tmp_path) -> None:
    router.add_check("cheap", "tests", np.where(np.arange(N) % 5, wrong(router), np.nan), usd=1e-5, limit=0.9)
    router.save(tmp_path / "a.router")
    loaded = UniRouter.load(tmp_path / "a.router")
    np.testing.assert_array_equal(
        loaded.pool["cheap"].checks["tests"].values, router.pool["cheap"].checks["tests"].values
    )
    assert loaded.pool["cheap"].checks["tests"].limit == 0.9
    one, two = (each.route("Question 7 about sums", checks=["tests"]) for each in (router, loaded))
    assert (one.model, one.error, one.cost) == (two.model, two.error, two.cost)


@pytest.mark.parametrize(
    ("signals", "says"), [([0, 1], "measured on 400"), ([math.inf] * N, "finite"), ([[0]] * N, "measured on 400")]
)
def test_bad_signals_change_nothing(router: UniRouter, signals: list, says: str) -> None:
    with pytest.raises(InvalidDataError, match=says):
        router.add_check("cheap", "tests", signals)
    assert not router.pool["cheap"].checks


def test_an_answer_that_was_not_to_be_checked_cannot_be(router: UniRouter) -> None:
    with pytest.raises(InvalidDataError, match="give it as it is"):
        router.route("Question 7 about sums").after(True)


def test_a_limit_holds_at_the_cheapest_and_for_a_model_that_is_asked_in_place_of_another(router: UniRouter) -> None:
    router.add_check("cheap", "tests", wrong(router), limit=0.05)
    for asked in ({"cost_weight": math.inf}, {"avoid": {"cheap": "it failed"}}):
        first = router.route("Question 7 about sums", checks=["tests"], **asked)
        check = first.check_of("cheap")
        assert check is not None
        assert check.limit == 0.05
        assert first.after(True, "cheap").model == "dear"
        assert first.after(True, "cheap").check_of("cheap") is None
    cheapest = router.route("Question 7 about sums", checks=["tests"], cost_weight=math.inf)
    assert (cheapest.model, cheapest.check, cheapest.after(False).model) == (
        "cheap",
        cheapest.check_of("cheap"),
        "cheap",
    )
    router.add_check("cheap", "tests", wrong(router))
    assert router.route("Question 7 about sums", checks=["tests"], cost_weight=math.inf).check is None


@pytest.mark.parametrize("n", [7, 5000])  # the latter in several parts
def test_checks_are_valued_together_as_one_by_one(n: int) -> None:
    rng = np.random.default_rng(0)
    errors = (rng.random((200, 6)) < rng.random(6)).astype(float)
    signals = {0: errors[:, 0], 2: errors[:, 2] + rng.standard_normal(200), 5: rng.integers(0, 3, 200)}  # 2 to 4 bins
    fitted = [Check.fit(f"score {j}", j, each, errors, 1e-5, 0.3 if j == 2 else 1.0) for j, each in signals.items()]
    predicted, costs, may = rng.random((n, 6)), rng.random((n, 6)), np.array([1, 1, 1, 0, 1, 1], bool)
    together = Checks(fitted).values(predicted, costs, 0.5, may)
    alone = [check.value(predicted, costs, 0.5, may) for check in fitted]
    assert (np.array(together) == np.moveaxis(np.array(alone), 0, 2)).all()
    used = look_ahead(predicted, costs, 0.5, fitted, may)[2]
    assert (used[:, [1, 3, 4]] == -1).all()
    assert (used[:, 2] == 1).all()  # one with a limit is run whether it pays or not


def test_too_few_answers_or_one_value_make_no_check() -> None:
    errors = np.random.default_rng(0).random((N, 2)).round()
    assert Check.fit("tests", 0, errors[:, 0], errors) is not None
    assert Check.fit("tests", 0, np.ones(N), errors) is None
    assert Check.fit("tests", 0, np.where(np.arange(N) < 30, errors[:, 0], np.nan), errors) is None


def test_posteriors_are_calibrated_where_the_signal_is_independent_of_the_prompt() -> None:
    rng = np.random.default_rng(3)
    chance = rng.uniform(0.1, 0.9, 20_000)
    error = (rng.random(20_000) < chance).astype(float)
    signal = error + rng.standard_normal(20_000)
    check = Check.fit("logprob", 0, signal[:10_000], error[:10_000, None])
    assert check is not None
    bins = np.searchsorted(check.edges, signal[10_000:])
    after = check.errors_after(chance[10_000:, None], bins)[:, 0]
    for low in np.arange(0, 1, 0.2):
        inside = (after >= low) & (after < low + 0.2)
        assert after[inside].mean() == pytest.approx(error[10_000:][inside].mean(), abs=0.04)


def test_a_table_of_models_with_evaluations_keeps_checks_through_pool_changes(router: UniRouter) -> None:
    router.add_check("cheap", "tests", wrong(router))
    table = Outcomes(
        [f"Question {i} about sums" for i in range(N)], ["third"], errors=np.ones((N, 1)), costs=np.full((N, 1), 1.0)
    )
    router.onboard(Evaluation.recorded("third", table))
    assert router.route("Question 7 about sums", checks=["tests"]).model == "cheap"
    router.retire("third")
    assert router.route("Question 7 about sums", checks=["tests"]).model == "cheap"


@pytest.mark.parametrize("fractions", [False, True])
def test_accepted_answers_are_wrong_no_more_often_than_was_allowed_in_1000_resamplings(fractions: bool) -> None:
    rng, allowed, confidence = np.random.default_rng(0), 0.1, 0.9
    expected = np.sort(rng.beta(0.6, 2, 100_000))
    chance = np.clip(1.5 * expected, 0, 1)  # errors are more frequent than expected
    risk = np.cumsum(chance) / np.arange(1, len(chance) + 1)  # of the answers that each threshold accepts
    limits = []
    for _ in range(1000):
        rows = rng.integers(len(expected), size=400)
        wrong = (rng.random(400) < chance[rows]).astype(float)
        errors = wrong * rng.choice([0.5, 1.0], 400) if fractions else wrong
        limits.append(acceptance_limit(expected[rows], errors, allowed, confidence))
    accepted = np.searchsorted(expected, limits, side="right")
    broken = np.where(accepted > 0, risk[accepted - 1] * (0.75 if fractions else 1), 0) > allowed
    assert broken.mean() <= 1 - confidence
    assert np.mean(np.array(limits) > 0) > 0.9  # and it is of use


def test_few_answers_show_nothing_about_a_small_share_of_wrong_ones() -> None:
    assert acceptance_limit(np.full(40, 0.01), np.zeros(40), 0.05) == 0
    assert acceptance_limit(np.full(120, 0.01), np.zeros(120), 0.05) > 0


@pytest.mark.parametrize(("allowed", "confidence"), [(0, 0.9), (1, 0.9), (math.nan, 0.9), (0.1, 1), (0.1, -1)])
def test_shares_outside_0_and_1_are_refused(allowed: float, confidence: float) -> None:
    with pytest.raises(InvalidDataError, match="must be a share between 0 and 1"):
        acceptance_limit([0.1], [0.0], allowed, confidence)


def test_an_answer_over_the_limit_is_given_only_where_no_other_model_may_answer(router: UniRouter) -> None:
    rng, how = np.random.default_rng(1), {"checks": ["tests"], "cost_weight": 20}
    signals = np.where(rng.random(N) < 0.8, wrong(router), rng.random(N) < 0.5)
    router.add_check("cheap", "tests", signals)
    assert router.route("Question 7 about sums", **how).after(False).model == "cheap"
    router.add_check("cheap", "tests", signals, limit=0.02)
    first = router.route("Question 7 about sums", **how)
    assert first.model == "dear" or first.after(False).model == "dear"  # never the cheap one without a check
    first = router.route("Question 7 about sums", **how, avoid={"dear": "is down"})
    assert (first.model, first.check is None) == ("cheap", False)
    assert first.after(False).model == "cheap"
    with pytest.raises(InvalidDataError, match="limit"):
        router.add_check("cheap", "tests", signals, limit=2)
