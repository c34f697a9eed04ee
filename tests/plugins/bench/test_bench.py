import dataclasses
import math

import numpy as np
import pytest

from unirouter_core import Outcomes
from unirouter_core.curves import deferral_curve, sweep
from unirouter_core.estimators import LowRankEstimator, NeighboursEstimator, ShrunkenClustersEstimator
from unirouter_core.evaluate import measure
from unirouter_core.exceptions import InvalidDataError
from unirouter_plugins.bench import (
    Case,
    Method,
    Settings,
    benchmark,
    methods_named,
    reachable,
    recorded,
    run_trial,
    split,
    standings,
)
from unirouter_plugins.bench.protocol import twins

MODELS = [f"model-{j}" for j in range(12)]
QUICK = (
    Method("default", ShrunkenClustersEstimator, {"grid": (4,)}),
    Method("nearest neighbours", NeighboursEstimator, {"grid": (5, 10)}),
)


@pytest.fixture(scope="module")
def table(world):
    """The small world, its vectors near one of two: sums, poems."""
    kinds = [0 if prompt.startswith("What is") else 1 for prompt in world.prompts]
    return recorded("world", world, np.eye(4)[kinds] + np.random.default_rng(0).normal(0, 0.2, (len(world), 4)))


def run(table, *, trials=2, **settings):
    settings = {"n_vals": (20, 40), "methods": QUICK, **settings}
    return [record for made in benchmark(table, Settings(**settings), trials=trials) for record in made]


def of(records, method, n_val=40, trial=0):
    return next(each for each in records if (each["method"], each["n_val"], each["trial"]) == (method, n_val, trial))


def same(first, second):
    """Whether records agree in all but the seconds; NaN is NaN."""
    return repr([{**each, "seconds": 0} for each in first]) == repr([{**each, "seconds": 0} for each in second])


def key(record):
    return record["n_val"], record["trial"], record["method"]


# --- Tables -----------------------------------------------------------------------------------------------------------


def test_models_with_gaps_or_without_costs_stay_out(world):
    errors, costs = world.errors.copy(), world.costs.copy()
    errors[:10, 0] = np.nan  # 4 % of the prompts
    costs[:, 1] = 0
    found = recorded("world", Outcomes(world.prompts, world.models, errors, costs))
    assert found.left_out == ("poet", "sage")
    assert len(found) == len(world)


def test_a_prompt_that_a_model_did_not_answer_stays_out_and_one_that_stands_twice_stays_once(world):
    errors = np.concatenate([world.errors, world.errors[:2]])
    errors[7, 0] = np.nan
    again = [world.prompts[0], f"  {world.prompts[1].upper()}\n"]  # letter case and whitespace make no other prompt
    found = recorded("w", Outcomes([*world.prompts, *again], world.models, errors, [[1.0] * 8] * len(errors)))
    assert found.outcomes.prompts == tuple(p for row, p in enumerate(world.prompts) if row != 7)


def test_unknown_costs_cost_prompts_only_where_each_cost_is_needed(world):
    costs = world.costs.copy()
    costs[3, 2] = np.nan
    gaps = Outcomes(world.prompts, world.models, world.errors, costs)
    assert len(recorded("w", gaps)) == len(world)
    assert len(recorded("w", gaps, every_cost=True)) == len(world) - 1


def test_a_table_too_small_to_judge_by_is_refused(world):
    with pytest.raises(InvalidDataError, match=r"240 different prompts that all of 2 models .* 200 prompts and 6"):
        recorded("w", world.of(["poet", "sage"]))


def test_another_outcome_has_another_digest(world):
    other = Outcomes(world.prompts, world.models, 1 - world.errors, world.costs)
    assert recorded("world", other).digest != recorded("world", world).digest
    assert recorded("world", world).digest == recorded("world", world).digest


# --- Splits -----------------------------------------------------------------------------------------------------------


def test_a_split_is_two_thirds_of_the_models_and_sixty_ten_thirty_of_the_prompts():
    made = split(MODELS, 10_000, [0, 0])
    assert [len(part) for part in (made.known, made.new)] == [8, 4]
    assert [len(part) for part in (made.train, made.validation, made.test)] == [6_000, 1_000, 3_000]
    assert sorted(np.concatenate([made.train, made.validation, made.test])) == list(range(10_000))


def test_a_small_table_gives_a_fifth_to_measure_on():
    made = split(MODELS, 1_000, [0, 0])
    assert [len(part) for part in (made.train, made.validation, made.test)] == [500, 200, 300]
    assert reachable([50, 200, 400], 1_000) == ([50, 200], [400])


def test_trials_differ_and_repeat():
    first, second = split(MODELS, 500, [0, 0]), split(MODELS, 500, [0, 1])
    assert first.test.tolist() != second.test.tolist()
    assert first.test.tolist() == split(MODELS, 500, [0, 0]).test.tolist()


def test_twins_and_groups_stay_on_one_side():
    models = [*MODELS, "model-1-FC", "model-2@host", "cousin"]
    names = [{"cousin": "model-3"}.get(model, twin) for model, twin in zip(models, twins(models), strict=True)]
    for trial in range(20):
        made = split(models, 500, [0, trial], {"cousin": "model-3"})
        assert not {names[j] for j in made.known} & {names[j] for j in made.new}


def test_one_model_under_many_names_is_refused():
    with pytest.raises(InvalidDataError, match="The 3 models are 1 groups of twins"):
        split(["a@x", "a@y", "a@z"], 500, [0, 0])


def test_a_large_group_of_twins_leaves_two_new_models_in_every_trial():
    for trial in range(20):
        made = split(["a@1", "a@2", "a@3", "a@4", "a@5", "b", "c"], 500, [0, trial])
        assert len(made.new) >= 2
        assert len(made.known) >= 1


# --- Trials -----------------------------------------------------------------------------------------------------------


def test_a_record_holds_what_the_curve_and_the_predictions_of_its_split_give(table):
    found = of(run(table), "default")
    case = Case.of(table, split(table.outcomes.models, len(table), [0, 0]))
    estimator = ShrunkenClustersEstimator(grid=(4,)).fit(case.X_train, case.training)
    predicted = case.predict(estimator, 40).errors
    measured = measure(deferral_curve(predicted, case.costs, case.errors, case.costs), case.errors, case.costs)
    assert (found["area"], found["qnc"], found["peak"]) == (measured.area, measured.qnc, measured.peak)
    swept = sweep(predicted, case.costs, case.errors, case.costs)
    crossfitted = np.mean([curve.area(case.costs.max()) for curve in swept.crossfit()])
    assert found["crossfit_area"] == pytest.approx(crossfitted)
    assert found["brier"] == pytest.approx(((predicted - case.errors) ** 2).mean())


def test_only_the_first_answers_of_the_validation_prompts_are_seen(table):
    divided = split(table.outcomes.models, len(table), [0, 0])
    errors = table.outcomes.errors.copy()
    errors[divided.validation[20:]] = 1 - errors[divided.validation[20:]]
    outcomes = Outcomes(table.outcomes.prompts, table.outcomes.models, errors, table.outcomes.costs)
    changed = run(recorded("world", outcomes, table.X), trials=1)
    for method in ("zero router", "default", "nearest neighbours"):
        assert same([of(changed, method, 20)], [of(run(table, trials=1), method, 20)])
        assert not same([of(changed, method, 40)], [of(run(table, trials=1), method, 40)])


def test_new_models_answers_to_training_prompts_reach_the_clairvoyant_alone(table):
    divided = split(table.outcomes.models, len(table), [0, 0])
    errors = table.outcomes.errors.copy()
    cells = np.ix_(divided.train, divided.new)
    errors[cells] = 1 - errors[cells]
    changed = recorded("world", _with(table.outcomes, errors), table.X)
    before, after = run(table, trials=1), run(changed, trials=1)
    differ = {a["method"] for a, b in zip(before, after, strict=True) if not same([a], [b])}
    assert differ == {"clairvoyant"}


def _with(outcomes, errors):
    return Outcomes(outcomes.prompts, outcomes.models, errors, outcomes.costs)


def test_the_oracle_is_above_all_and_the_models_hull_no_lower_than_the_zero_router(table):
    records = run(table)
    for trial in range(2):
        areas = {
            r["method"]: r["area"]
            for r in records
            if r["n_val"] == 40 and r["trial"] == trial and not math.isnan(r["area"])
        }
        assert max(areas, key=areas.get) == "oracle"
        assert areas["models' hull"] >= areas["zero router"]


def test_a_single_model_and_random_choice_are_points_without_an_area(table):
    records = run(table)
    assert math.isnan(of(records, "single model")["area"])
    assert of(records, "single model")["e_p"] == 0
    assert of(records, "random")["e_p"] == pytest.approx(1, abs=0.1)  # two new models, evenly
    assert of(records, "random")["v_b"] < 1


def test_a_router_whose_every_choice_is_one_model_has_an_area(world):
    errors = np.ones(world.errors.shape)
    costs = np.tile(np.arange(1.0, 9.0), (len(world), 1))
    errors[:, 0] = world.errors[:, 0]  # the cheapest is the only one that is ever right
    table = recorded("world", Outcomes(world.prompts, world.models, errors, costs), np.eye(8)[np.arange(240) % 8])
    for found in run(table, trials=3):
        assert math.isnan(found["area"]) == (found["method"] in ("single model", "random"))


def test_processes_change_no_number(table):
    alone = run(table, trials=3)
    settings = Settings(n_vals=(20, 40), methods=QUICK)
    together = [record for made in benchmark(table, settings, trials=3, processes=2) for record in made]
    assert same(alone, together)


def test_a_run_that_was_broken_off_ends_with_the_same_numbers(table):
    whole = run(table, trials=3)
    there = whole[:5] + whole[-3:]  # part of the first trial, part of the last
    settings = Settings(n_vals=(20, 40), methods=QUICK)
    rest = benchmark(table, settings, trials=3, done={key(record) for record in there})
    every = {key(record): record for record in [*there, *(record for made in rest for record in made)]}
    assert same([every[key(record)] for record in whole], whole)
    assert len(every) == len(whole)


def test_estimators_of_the_same_settings_are_fitted_once(table):
    fits = []

    class Counted(LowRankEstimator):
        def fit(self, *given):
            fits.append(given)
            return super().fit(*given)

    run_trial(table, Settings(n_vals=(20, 40), methods=(Method("counted", Counted),)), 0)
    assert len(fits) == 1


def test_an_estimator_that_looks_like_another_is_fitted_itself(table):
    class Copied(ShrunkenClustersEstimator):
        def predict(self, X, features):
            return super().predict(X, 1 - features)

    copied = Method("copied", Copied, {"grid": (4,)})
    Copied.__qualname__ = ShrunkenClustersEstimator.__qualname__  # as a copy in a module of one's own has it
    records = run(table, trials=1, methods=(QUICK[0], copied))
    assert of(records, "default")["brier"] != of(records, "copied")["brier"]


def test_models_that_all_cost_the_same_have_an_area_but_no_aiq(world):
    level = dataclasses.replace(world, costs=np.full(world.costs.shape, 0.001))
    found = of(run(recorded("level", level), trials=1), "default")
    assert math.isnan(found["aiq"])
    assert found["area"] == pytest.approx(found["mu"])  # one point, flat on both sides


def test_per_prompt_costs_are_on_the_axis(table):
    mean, each = run(table), run(table, costs="per-prompt")
    assert of(mean, "oracle")["area"] != of(each, "oracle")["area"]
    case = Case.of(table, split(table.outcomes.models, len(table), [0, 0]), "per-prompt")
    assert case.costs.shape == case.expected_costs(40).shape == case.errors.shape
    # A poem's answer is three times as long as a sum's, and regions tell them apart.
    dear = case.costs[:, 0] > np.median(case.costs[:, 0])
    expected = case.expected_costs(40)[:, 0]
    assert expected[dear].mean() > 1.1 * expected[~dear].mean()


def test_a_table_that_reaches_no_size_is_refused(table):
    with pytest.raises(InvalidDataError, match="240 prompts, too few for N_val 400"):
        run(table, n_vals=(400,))


def test_an_unknown_method_and_one_of_a_reference_s_name_are_refused():
    with pytest.raises(InvalidDataError, match="'magic' is no method; there are nearest neighbours"):
        methods_named(["magic"])
    with pytest.raises(InvalidDataError, match="Two methods are called 'oracle'"):
        methods_named(["low rank"], [Method("oracle", LowRankEstimator)])


# --- Standings --------------------------------------------------------------------------------------------------------


def test_wins_gap_and_differences_are_those_of_paired_trials(table):
    first = run(table, trials=1)[0]
    areas = {"zero router": (0.5, 0.6), "default": (0.6, 0.65), "clairvoyant": (0.7, 0.6)}
    records = [
        {**first, "method": method, "trial": trial, "crossfit_area": area}
        for method, both in areas.items()
        for trial, area in enumerate(both)
    ]
    zero, ours, ceiling = standings(records).itertuples()
    assert (zero.ahead, zero.behind, zero.by) == (2, 0, pytest.approx(0.075))
    assert (ceiling.ahead, ceiling.behind) == (1, 1)
    assert (zero.gap_closed, ceiling.gap_closed) == (0, pytest.approx(1))
    assert ours.gap_closed == pytest.approx(0.075 / 0.1)
    assert zero.area_stderr == pytest.approx(0.05)  # of .5 and .6: their deviation .0707 over the root of 2


def test_without_the_default_nothing_is_compared(table):
    records = run(table, trials=2, methods=QUICK[1:])
    assert all(math.isnan(row.p) and math.isnan(row.by) for row in standings(records).itertuples())


def test_methods_are_compared_on_the_trials_that_all_have(table):
    records = run(table, trials=3)
    partial = [each for each in records if not (each["method"] == "nearest neighbours" and each["trial"] == 1)]
    assert {row.n_val: row.trials for row in standings(partial).itertuples()} == {20: 2, 40: 2}
