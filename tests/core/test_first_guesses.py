"""What people try first in Python works, or names the call that does."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import N_FIT
from unirouter_core import Evaluation, UniRouter, report, tune
from unirouter_core.exceptions import InvalidDataError


def rows_of(outcomes, *, costs=True):
    """Outcomes as rows of a table."""
    for i, prompt in enumerate(outcomes.prompts):
        for j, model in enumerate(outcomes.models):
            row = {"question": prompt, "model": model, "score": 1 - float(outcomes.errors[i, j])}
            yield {**row, "usd": float(outcomes.costs[i, j])} if costs else row


@pytest.fixture(scope="module")
def tables(world):
    return world.rows(range(N_FIT)), world.rows(range(N_FIT, len(world)))


@pytest.fixture
def fitted(tables):
    return UniRouter().fit(tables[0])


def test_fit_takes_a_data_frame(tables):
    frames = pytest.importorskip("pandas")
    router = UniRouter().fit(frames.DataFrame([*rows_of(tables[0])]))
    assert router.fit_.training_models == tables[0].models
    assert router.fit_.has_seen(tables[0].prompts).all()


def test_a_whole_table_is_onboarded_by_one_call(fitted, tables):
    profiles = fitted.onboard(tables[1])
    assert [profile.model for profile in profiles] == list(tables[1].models)
    alone = UniRouter().fit(tables[0])
    for model in tables[1].models:
        alone.onboard(Evaluation.recorded(model, tables[1]))
    prompts = tables[1].prompts[:20]
    assert [each.model for each in fitted.route_batch(prompts)] == [each.model for each in alone.route_batch(prompts)]


def test_one_model_of_a_table_is_onboarded_by_its_name(fitted, tables):
    assert fitted.onboard("sage", tables[1]).model == "sage"
    assert list(fitted.pool) == ["sage"]


def test_a_table_is_onboarded_whole_or_not_at_all(fitted, tables):
    fitted.onboard("sage", tables[1])
    with pytest.raises(InvalidDataError, match="'sage' is in the pool already; pass replace=True"):
        fitted.onboard(tables[1])
    assert list(fitted.pool) == ["sage"]
    assert len(fitted.onboard(tables[1], replace=True)) == 8


def test_a_name_without_answers_names_the_calls_that_take_one(fitted):
    with pytest.raises(InvalidDataError, match=r"'sage' is the name of a model .*onboard\('sage', outcomes\) takes"):
        fitted.onboard("sage")


def test_without_any_costs_routing_is_on_quality_only_with_a_warning(fitted, tables):
    with pytest.warns(UserWarning, match="No costs are known, so all models count as free"):
        fitted.onboard([*rows_of(tables[1], costs=False)])
    best = min(fitted.pool.values(), key=lambda profile: profile.error)
    assert best.model in {each.model for each in fitted.route_batch(tables[1].prompts, cost_weight=100)}


def test_report_and_tune_take_a_router_by_its_folder_and_a_table_as_it_is(fitted, tables, tmp_path):
    fitted.onboard(tables[0])
    fitted.save(tmp_path / "my.router")
    rows = [*rows_of(tables[1])]
    made = report(tmp_path / "my.router", rows, trials=50, permutations=20)
    assert made.n == len(tables[1])
    tuning = tune(str(tmp_path / "my.router"), rows, usd_per_error=0.02, trials=50)
    np.testing.assert_allclose(tuning.cost_weight, 50)
