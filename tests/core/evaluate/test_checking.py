"""What a check is worth, by its signals on graded answers that did not fit it."""

import math

import numpy as np
import pytest

from unirouter_core import InvalidDataError, Outcomes, UniRouter
from unirouter_core.checks import Check
from unirouter_core.evaluate import check_value, impact, report
from unirouter_core.evaluate.checking import follow

N = 400


@pytest.fixture(scope="module")
def router():
    """A cheap model that is right on half of all prompts, whatever they say, and a dear one that is nearly always."""
    rng = np.random.default_rng(0)

    def table(first):
        errors = np.c_[rng.random(N) < 0.5, rng.random(N) < 0.04].astype(float)
        prompts = [f"Question {first + i} about {('sums', 'poems')[i % 2]}" for i in range(N)]
        return Outcomes(prompts, ["cheap", "dear"], errors=errors, costs=np.full((N, 2), [1e-4, 1e-2]))

    router = UniRouter(cost_weight=10).fit(table(N))
    router.onboard(table(0))
    return router


def test_a_check_that_tells_right_from_wrong_pays(router):
    wrong = router.pool["cheap"].errors > 0.5
    found = check_value(router, "cheap", "tests", wrong, trials=50)
    assert (found.level, found.n, found.limit) == ("pays", N, 1)
    assert found.auc == 1
    assert found.area_gain[0] > 0.1
    assert 0.2 < found.saving_at_97[0] < found.saving_at_97[1] < 0.6  # half of the dear calls, at best
    assert "AUC of 1.00" in found.verdict
    assert "saved at 97% of the best quality" in str(found)


@pytest.mark.parametrize("usd", [0, 0.02])
def test_noise_and_dear_checks_do_not_pay(router, usd):
    wrong = router.pool["cheap"].errors > 0.5
    signals = wrong if usd else np.random.default_rng(1).random(N)
    found = check_value(router, "cheap", "coin", signals, usd=usd, trials=50)
    assert found.level == "does not pay"
    assert found.area_gain[1] < 0.01


def test_the_auc_does_not_depend_on_the_direction_of_the_signal(router):
    wrong = router.pool["cheap"].errors > 0.5
    signals = wrong + np.random.default_rng(2).standard_normal(N)
    one, other = (check_value(router, "cheap", "score", each, trials=50) for each in (signals, -signals))
    assert one.auc == pytest.approx(other.auc)
    assert one.auc_interval[0] < one.auc < one.auc_interval[1]
    assert one.auc == pytest.approx(0.76, abs=0.05)  # Φ(1 / √2)


def test_a_limit_keeps_accepted_answers_from_being_wrong_too_often(router):
    wrong = router.pool["cheap"].errors > 0.5
    signals = np.where(np.random.default_rng(3).random(N) < 0.97, wrong, ~wrong)
    found = check_value(router, "cheap", "tests", signals, wrong_at_most=0.1, trials=50)
    assert 0 < found.limit < 1
    strict = check_value(router, "cheap", "tests", signals, wrong_at_most=0.001, trials=50)
    assert (strict.limit, strict.level) == (0, "does not pay")
    with pytest.raises(InvalidDataError, match="wrong_at_most=0 must be a share"):
        check_value(router, "cheap", "tests", signals, wrong_at_most=0)


@pytest.mark.parametrize(
    ("signals", "says"),
    [(np.full(N, math.nan), "0 answers of 'cheap' have a signal"), ([0, 1], "the signals have shape")],
)
def test_too_few_signals_are_refused(router, signals, says):
    with pytest.raises(InvalidDataError, match=says):
        check_value(router, "cheap", "tests", signals)


@pytest.mark.parametrize("weight", [20.0, 100.0, math.inf])
@pytest.mark.parametrize("limits", [(1, 1, 1, 1), (0.1, 0.1, 0.1, 0.1), (0.3, 1, 0.15, 0.3)])
def test_following_a_ladder_is_what_decisions_do(router, weight, limits):
    rng, models, usd = np.random.default_rng(4), tuple("abcd"), np.array([1e-5, 3e-5, 1e-4, 1e-3])
    prompts = [f"Question {i} about {('sums', 'poems')[i % 2]}" for i in range(N)]
    errors = (rng.random((N, 4)) < [0.5, 0.4, 0.3, 0.1]).astype(float)
    checked = UniRouter.from_fit(router.fit_, cost_weight=weight)
    checked.onboard(Outcomes(prompts, models, errors, np.tile(usd, (N, 1))))
    signals = errors + 0.7 * rng.standard_normal(errors.shape)
    for j, (model, limit) in enumerate(zip(models, limits, strict=True)):
        checked.add_check(model, "score", signals[:, j], usd=1e-5, limit=limit)
    expected, checks = checked.expect(prompts[:40]), checked.pool.checks(["score"])
    given = [(check, signals[:40, check.column]) for check in checks]
    for candidates in (models, ("a",), ("a", "d")):
        able = np.isin(models, candidates)
        usable = [each for each in given if able[each[0].column]]
        predicted, costs = expected.prediction.errors, expected.costs
        found, spent = follow(predicted, costs, errors[:40], costs, usable, weight, able)
        for row, prompt in enumerate(prompts[:40]):
            decision, paid = checked.route(prompt, checks=["score"], models=candidates), 0.0
            while (check := decision.check) is not None:
                paid += float(costs[row, check.column]) + check.usd
                decision = decision.after(signals[row, check.column])
            column = checked.pool.positions[decision.model]
            paid += 0 if decision.model in decision.answered else float(costs[row, column])
            assert (found[row], spent[row]) == (errors[row, column], pytest.approx(paid))


def test_a_report_and_an_impact_pay_for_rejected_drafts(router):
    wrong = router.pool["cheap"].errors > 0.5
    checked = UniRouter.from_fit(router.fit_, router.pool, cost_weight=20)
    plain = report(checked, trials=20, permutations=20)
    assert (plain.checks, plain.checked_cost) == ((), plain.cost)
    assert "with checks" not in str(plain)
    checked.add_check("cheap", "tests", wrong, usd=1e-5)
    found = report(checked, trials=20, permutations=20)
    assert (found.checks, found.cost, plain.shares) == (("tests",), plain.cost, {"dear": 1})
    asked_again = wrong.mean()  # every cheap answer is asked for and checked, and the wrong ones are mended by the dear
    assert found.checked_cost == pytest.approx(1e-4 + 1e-5 + 1e-2 * asked_again, rel=1e-6)
    assert "with checks (tests)" in str(found)
    mended = router.pool["dear"].errors[wrong]
    assert found.checked_quality == pytest.approx(1 - mended.sum() / N)
    gained = impact(checked, "cheap", trials=20)
    assert (gained.cost.before, gained.cost.after) == (pytest.approx(1e-2), pytest.approx(found.checked_cost))
    assert gained.quality.after == pytest.approx(found.checked_quality)


def test_at_an_infinite_weight_checks_with_a_limit_are_paid_for_as_in_calls(router):
    wrong = router.pool["cheap"].errors > 0.5
    checked = UniRouter.from_fit(router.fit_, router.pool, cost_weight=math.inf)
    checked.add_check("cheap", "tests", wrong, usd=1e-5)
    assert report(checked, trials=20, permutations=20).checked_cost == pytest.approx(1e-4)
    checked.add_check("cheap", "tests", wrong, usd=1e-5, limit=0.1)
    assert checked.route("Question 1 about poems", checks=["tests"]).after(True).model == "dear"
    found = report(checked, trials=20, permutations=20)
    assert found.checked_cost == pytest.approx(1e-4 + 1e-5 + 1e-2 * wrong.mean())


def test_checks_without_answers_enough_are_none():
    assert Check.fit("tests", 0, np.full(N, math.nan), np.zeros((N, 1))) is None
