"""Tables and logs at the command line: what was understood is printed before anything is done."""

from __future__ import annotations

import csv
import json
import shlex

import numpy as np
import pytest
from typer.testing import CliRunner

from unirouter_core import UniRouter
from unirouter_plugins.cli import app


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def table(tmp_path):
    """A table of percentages with semicolons, without costs; its tokens would give them."""
    with (tmp_path / "evals.csv").open("w", newline="") as text:
        lines = csv.writer(text, delimiter=";")
        lines.writerow(["Text", "Model Name", "acc", "input_tokens", "output_tokens"])
        for i in range(40):
            lines.writerows([[f"What is {i} plus {i}?", model, 100 * (i % 2), 9, 5] for model in ("poet", "sage")])
    return tmp_path / "evals.csv"


def test_fit_reads_a_table_by_its_columns_scale_and_prices(table, tmp_path):
    (tmp_path / "prices.csv").write_text("model,input,output\npoet,1,2\nsage,3,4\n")
    how = ["--columns", "prompt=Text", "--scale", "0-100", "--prices", tmp_path / "prices.csv"]
    done = run("fit", tmp_path / "my.router", table, *how)
    assert done.exit_code == 0, done.stderr
    understood = "prompt=Text, model=Model Name, quality=acc as 0-100, tokens_in=input_tokens, tokens_out=output_tokens"
    assert done.stderr.startswith(f"Read 80 answers: 40 prompts × 2 models ({understood}).\n")
    assert UniRouter.load(tmp_path / "my.router").fit_.training_models == ("poet", "sage")
    following = done.stdout.splitlines()[-1].removeprefix("next: unirouter ")
    assert run(*shlex.split(following)).exit_code == 0, following  # with the same columns, scale and prices


WITHOUT_COSTS = ["--columns", "prompt=Text", "--scale", "0-100"]


@pytest.fixture
def begun(table, tmp_path):
    """A router that was fitted on other prompts, and the table to onboard from."""
    (tmp_path / "texts.txt").write_text("\n".join(f"Write a poem about {i}." for i in range(20)))
    assert run("fit", tmp_path / "my.router", tmp_path / "texts.txt").exit_code == 0
    return tmp_path / "my.router", "--recorded", table, *WITHOUT_COSTS


def test_onboard_takes_all_models_of_a_table_with_a_price_for_each(begun, tmp_path):
    (tmp_path / "prices.csv").write_text("model,input,output\npoet,1,2\nsage,3,4\n")
    done = run("onboard", *begun, "--prices", tmp_path / "prices.csv")
    assert done.exit_code == 0, done.stderr
    assert done.stderr.startswith("Read 80 answers: 40 prompts × 2 models (prompt=Text, ")
    assert f"next: unirouter tune {begun[0]} --save-cost 0.4 --save" in done.stdout
    pool = UniRouter.load(begun[0]).pool
    assert {model: profile.prices.input for model, profile in pool.items()} == {"poet": 1, "sage": 3}


def test_a_table_without_costs_is_onboarded_alone_and_marked(begun, tmp_path):
    done = run("onboard", *begun, "poet")
    assert done.exit_code == 0, done.stderr
    assert "no costs are known, so routing is on quality alone" in done.stderr
    assert UniRouter.load(begun[0]).pool["poet"].provenance["prices"] == "unknown"
    assert "unknown" in done.stdout
    (tmp_path / "prices.csv").write_text("model,input,output\npoet,1,2\nsage,3,4\n")
    priced = "--prices", tmp_path / "prices.csv"
    mixed = run("onboard", *begun, "sage", *priced)
    assert mixed.exit_code == 2
    assert "'poet' of the pool counts as free, as its cost was not known; onboard it again with prices" in mixed.stderr
    assert run("onboard", *begun, *priced, "--replace").exit_code == 0
    mixed = run("onboard", *begun, "poet", "--replace")
    assert "What 'poet' costs is not known, and what 'sage' of the pool costs is" in mixed.stderr


def test_prices_of_pool_toml_count_where_no_file_is_given(table, tmp_path):
    (tmp_path / "pool.toml").write_text('[models.poet]\nmodel = "x/poet"\nprices = { input = 1, output = 2 }\n')
    done = run("fit", tmp_path / "my.router", table, "--columns", "prompt=Text", "--scale", "0-100")
    assert "; costs of poet by list prices)" in done.stderr


def test_fit_learns_from_the_prompts_of_a_log_of_calls(tmp_path):
    chats = ([{"role": "user", "content": f"What is {i} plus {i}?"}] for i in range(20))
    calls = [{"request": {"model": "sage", "messages": c}, "response": {"choices": []}, "ts": 1} for c in chats]
    (tmp_path / "calls.jsonl").write_text("\n".join(map(json.dumps, calls)))
    done = run("fit", tmp_path / "my.router", tmp_path / "calls.jsonl")
    assert done.exit_code == 0, done.stderr
    assert done.stderr.startswith("Read 20 prompts (calls; no grades).\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--columns", "prompt"], "'prompt' is not NAME=COLUMN, such as prompt=text,quality=acc"),
        (
            ["--columns", "prompt=Text,quality=right"],
            "quality is not in a column 'right'; there are 'Text', 'Model Name'",
        ),
        (["--columns", "prompt=Text", "--scale", "high"], "'high' is not a scale; give the lowest and the highest"),
        (["--columns", "prompt=Text"], "line 4: acc '100' is outside [0, 1]; give its scale"),
        (["--prices", "evals.csv"], "prices"),
        ([], "(--columns prompt=Text)"),
    ],
)
def test_what_is_not_understood_names_the_option_and_writes_nothing(table, tmp_path, options, message):
    options = [str(table) if option == "evals.csv" else option for option in options]
    done = run("fit", tmp_path / "my.router", table, *options)
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr
    assert not (tmp_path / "my.router").exists()


def test_answers_without_grades_do_not_judge_a_router(tmp_path):
    (tmp_path / "calls.jsonl").write_text('{"prompt": "?", "model": "sage", "response": "!"}\n')
    done = run("report", "--example", "--data", tmp_path / "calls.jsonl")
    assert "the answers have no grades; name their column with --columns quality=NAME" in done.stderr


def test_costs_that_are_read_and_costs_by_prices_are_one_table(table):
    from unirouter_core import Prices
    from unirouter_plugins.logs import read_log

    how = {"columns": {"prompt": "Text"}, "scale": "0-100"}
    outcomes = read_log(table, **how, prices={"poet": Prices(1, 2)}).outcomes
    np.testing.assert_allclose(outcomes.costs[0], [19e-6, np.nan])
