"""The benchmark as a user runs it: what it prints and writes, and how it goes on where it was."""

import csv
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from pyarrow import parquet
from typer.testing import CliRunner

from unirouter_plugins.bench import SCALARS
from unirouter_plugins.bench.results import decimals, percent
from unirouter_plugins.cli import app

QUICK = ("--n-val", 20, "--n-val", 40, "--methods", "low rank", "--processes", 1)


@pytest.fixture(scope="module")
def data(world, tmp_path_factory):
    """The small world as a file of outcomes."""
    path = tmp_path_factory.mktemp("data") / "world.jsonl"
    cells = ((i, j) for i in range(len(world)) for j in range(len(world.models)))
    lines = [
        {
            "prompt": world.prompts[i],
            "model": world.models[j],
            "error": float(world.errors[i, j]),
            "cost": world.costs[i, j],
        }
        for i, j in cells
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def run(*arguments, code=0):
    done = CliRunner().invoke(app, ["bench", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done


def table(folder):
    """The tidy table, the seconds left out."""
    with (folder / "trials.csv").open() as file:
        return [{**row, "seconds": ""} for row in csv.DictReader(file)]


def test_bench_prints_a_table_for_each_size_and_writes_trials_and_page(data, tmp_path):
    done = run(data, *QUICK, "--n-val", 400, "--trials", 2, "--out", tmp_path)
    assert "world: 240 prompts, 8 models" in done.stdout
    assert "N_val 400 is not reached: there are 48 validation prompts." in done.stdout
    assert "N_val 20, 2 trials" in done.stdout
    rows = table(tmp_path)
    assert len(rows) == 2 * 2 * 7  # sizes, trials, one method and six references
    assert tuple(rows[0]) == SCALARS
    assert parquet.read_table(tmp_path / "trials.parquet").column("area").null_count == 2 * 2 * 2  # the two points


def test_the_tables_fit_a_terminal_of_80_columns(data, tmp_path):
    done = run(data, "--n-val", 40, "--trials", 2, "--out", tmp_path, "--processes", 1)
    shown = done.stdout.split("\n\n", 1)[1].split("Written")[0]
    assert "nearest neighbours" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_a_killed_run_goes_on_and_ends_with_the_same_numbers(data, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(data, *QUICK, "--trials", 2, "--out", whole)
    run(data, *QUICK, "--trials", 1, "--out", broken)
    with (broken / "trials.jsonl").open("a") as file:
        file.write('{"table": "world", "n_val": 2')  # killed in the middle of a line
    run(data, *QUICK, "--trials", 2, "--out", broken)
    assert table(broken) == table(whole)
    assert len((broken / "trials.jsonl").read_text().splitlines()) == len(table(whole))


def test_what_is_there_is_not_run_again(data, tmp_path):
    run(data, *QUICK, "--trials", 2, "--out", tmp_path)
    before = (tmp_path / "trials.jsonl").read_bytes()
    run(data, *QUICK, "--trials", 2, "--out", tmp_path)
    assert (tmp_path / "trials.jsonl").read_bytes() == before


def test_trials_of_another_seed_are_not_mixed_in(data, tmp_path):
    run(data, *QUICK, "--trials", 1, "--out", tmp_path)
    done = run(data, *QUICK, "--trials", 1, "--seed", 1, "--out", tmp_path, code=2)
    assert "holds trials of another benchmark (seed is 1, was 0)" in done.stderr


def test_the_page_stands_alone(data, tmp_path):
    run(data, *QUICK, "--methods", "low-rank,default", "--trials", 1, "--out", tmp_path)
    page = (tmp_path / "index.html").read_text()
    assert page.count("<svg") == 5  # Area against N_val; curves and reliability at both sizes
    assert not re.search(r'(src|href)="https?:|<script|@import', page)
    assert 'name="viewport"' in page
    assert "prefers-color-scheme: dark" in page
    for picture in tmp_path.glob("*.svg"):
        ElementTree.fromstring(picture.read_text())


def test_the_page_shows_no_comparison_of_what_has_no_area(data, tmp_path):
    run(data, *QUICK, "--methods", "low-rank,default", "--trials", 1, "--out", tmp_path)
    page = (tmp_path / "index.html").read_text()
    heads = re.findall("<th>(.*?)</th>", page.split("</table>")[0])
    rows = re.findall(r"<td>(single model|random|default)</td>(.*?)</tr>", page)
    assert len(rows) == 6  # at both sizes
    for _, cells in rows:
        shown = dict(zip(heads[1:], re.findall("<td>(.*?)</td>", cells), strict=True))
        assert [shown[head] for head in ("ahead", "p", "by", "90 % interval")] == [""] * 4


def test_json_holds_the_standings_and_nothing_else(data, tmp_path):
    done = run(data, *QUICK, "--trials", 2, "--out", tmp_path, "--json")
    shown = json.loads(done.stdout)
    zero = next(row for row in shown["standings"] if row["method"] == "zero router")
    areas = [float(row["area"]) for row in table(tmp_path) if (row["method"], row["n_val"]) == ("zero router", "20")]
    assert zero["area"] == pytest.approx(np.mean(areas))
    assert zero["by"] is None  # the default was not asked for


def test_an_estimator_of_one_s_own_is_a_class_and_a_flag(data, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from unirouter_core.estimators import LowRankEstimator\nclass Mine(LowRankEstimator):\n    pass\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    run(data, *QUICK, "--trials", 1, "--estimator", "mine:Mine", "--out", tmp_path / "out")
    areas = {(row["method"], row["n_val"]): row["area"] for row in table(tmp_path / "out")}
    assert areas["Mine", "40"] == areas["low rank", "40"]


@pytest.mark.parametrize("name", ["nowhere:Mine", "unirouter_core:Nothing", "plain"])
def test_an_estimator_that_is_not_there_is_refused(data, tmp_path, name):
    done = run(data, "--estimator", name, "--out", tmp_path, code=2)
    assert f"--estimator {name} cannot be loaded" in done.stderr


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("Mine = 3", "cannot be loaded (3 is not a callable object)"),
        ("class Mine(", "cannot be loaded ("),
        ("class Mine:\n    def __init__(self, k): pass\n", "cannot be loaded (Mine.__init__() missing"),
        ("class Mine: pass", "has no fit; an estimator has fit, profile and predict."),
    ],
)
def test_what_is_no_estimator_is_refused_before_any_trial(data, tmp_path, monkeypatch, source, said):
    name = f"mine_{len(source)}"  # another for each: a module is imported once
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    done = run(data, "--estimator", f"{name}:Mine", "--out", tmp_path / "out", code=2)
    assert said in done.stderr
    assert not (tmp_path / "out").exists()


def test_vectors_that_are_none_are_refused(data, tmp_path):
    (data.parent / "junk.npy").write_text("junk")
    done = run(data, *QUICK, "--embedder", "junk.npy", "--out", tmp_path, code=2)
    assert "junk.npy holds no array of numbers" in done.stderr


@pytest.mark.parametrize("junk", ["junk", "[]", '{"arena": 1}'])
def test_a_folder_of_something_else_is_refused(data, tmp_path, junk):
    (tmp_path / "trials.jsonl").write_text(junk + "\n")
    assert (
        "trials.jsonl, line 1: no record of a trial"
        in run(data, *QUICK, "--trials", 1, "--out", tmp_path, code=2).stderr
    )


def test_vectors_beside_the_outcomes_are_used(data, world, tmp_path):
    np.save(data.parent / "kinds.npy", np.eye(2)[[int(not p.startswith("What is")) for p in world.prompts]])
    done = run(data, *QUICK, "--trials", 1, "--embedder", "kinds.npy", "--out", tmp_path)
    assert "given vectors" in done.stdout


@pytest.mark.parametrize(
    ("flag", "value", "said"), [("--costs", "none", "--costs is"), ("--methods", "X", "no method")]
)
def test_a_choice_that_there_is_not_is_refused(data, tmp_path, flag, value, said):
    assert said in run(data, flag, value, "--out", tmp_path, code=2).stderr


def test_trials_of_another_table_of_the_same_name_are_not_mixed_in(data, tmp_path):
    run(data, *QUICK, "--trials", 1, "--out", tmp_path / "out")
    other = tmp_path / data.name
    other.write_text(data.read_text().replace('"error": 1.0', '"error": 0.5'))
    done = run(other, *QUICK, "--trials", 1, "--out", tmp_path / "out", code=2)
    assert "holds trials of another benchmark (digest is" in done.stderr


def test_one_table_given_twice_is_refused(data, tmp_path):
    assert "Two tables are called 'world'" in run(data, data, "--out", tmp_path, code=2).stderr


def test_without_known_answers_the_method_known_models_stays_out_or_is_refused(data, tmp_path):
    run(data, "--n-val", 20, "--trials", 1, "--no-known", "--processes", 1, "--out", tmp_path)
    assert {row["method"] for row in table(tmp_path)} >= {"default", "shrunken clusters"}
    assert "known models" not in {row["method"] for row in table(tmp_path)}
    refused = run(
        data, *QUICK, "--methods", "known models", "--no-known", "--trials", 1, "--out", tmp_path / "c", code=2
    )
    assert "KnownModelsEstimator needs the training models' answers" in refused.stderr


def test_a_size_that_no_table_reaches_is_refused(data, tmp_path):
    assert "N_val 100 is more than 240 prompts reach" in run(data, "--n-val", 100, "--out", tmp_path, code=2).stderr


def test_numbers_are_shown_short():
    assert [decimals(0.5), decimals(-0.0049, sign="+"), decimals(0.9999999)] == [".5000", "-.0049", "1.0000"]
    assert [percent(0.0026), percent(0.5), percent(0.0)] == ["0.3%", "50%", "0%"]


def test_without_pandas_the_import_names_the_cure():
    program = "import sys; sys.modules['pandas'] = None; import unirouter_plugins.bench"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "ImportError: pandas is missing: pip install 'unirouter[bench]'." in done.stderr
