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


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """The folder of a run of two trials, and what it printed."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(data, *QUICK, "--n-val", 400, "--trials", 2, "--out", folder).stdout


def test_bench_prints_a_table_for_each_size_and_writes_trials_and_page(whole):
    folder, shown = whole
    assert "world: 240 prompts, 8 models" in shown
    assert "N_val 400 is not reached: there are 48 validation prompts." in shown
    assert "N_val 20, 2 trials" in shown
    assert "Only 72 test prompts: with fewer than 1,000, methods that differ little cannot be told apart." in shown
    rows = table(folder)
    assert len(rows) == 2 * 2 * 7  # sizes, trials, one method and six references
    assert tuple(rows[0]) == SCALARS
    assert parquet.read_table(folder / "trials.parquet").column("area").null_count == 2 * 2 * 2  # the two points


def test_the_tables_fit_a_terminal_of_80_columns(data, tmp_path):
    done = run(data, "--n-val", 40, "--trials", 2, "--out", tmp_path, "--processes", 1)
    shown = done.stdout.split("\n\n", 1)[1].split("Written")[0]
    assert "nearest neighbours" in shown
    assert "is ahead of the zero router, which ignores the prompt, in" in " ".join(shown.split())
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown  # no cell is cut


def test_a_killed_run_goes_on_where_it_was_and_ends_with_the_same_numbers(data, whole, tmp_path):
    lines = (whole[0] / "trials.jsonl").read_text().splitlines(keepends=True)
    killed = "".join(lines[:-3]) + lines[-3][:30]  # in the middle of a line
    (tmp_path / "trials.jsonl").write_text(killed)
    run(data, *QUICK, "--trials", 2, "--out", tmp_path)
    assert table(tmp_path) == table(whole[0])
    assert (tmp_path / "trials.jsonl").read_text().splitlines(keepends=True)[: len(lines) - 3] == lines[:-3]


def test_trials_of_another_seed_or_another_table_are_not_mixed_in(data, whole, tmp_path):
    done = run(data, *QUICK, "--trials", 1, "--seed", 1, "--out", whole[0], code=2)
    assert "holds trials of another benchmark (seed is 1, was 0)" in done.stderr
    other = tmp_path / data.name
    other.write_text(data.read_text().replace('"error": 1.0', '"error": 0.5'))
    done = run(other, *QUICK, "--trials", 1, "--out", whole[0], code=2)
    assert "holds trials of another benchmark (digest is" in done.stderr


def test_the_page_is_one_file_and_compares_methods_with_an_area(data, tmp_path):
    odd = tmp_path / "$\\frac{1}$ \x1b\udcff.jsonl"  # no formula, and no UTF-8
    odd.write_bytes(data.read_bytes())
    shown = run(odd, *QUICK, "--methods", "low-rank,default", "--trials", 1, "--out", tmp_path).stdout
    assert "$\\frac{1}$ ??: 240 prompts" in shown
    page = (tmp_path / "index.html").read_text()
    assert page.count("<svg") == 5  # Area against N_val; curves and reliability at both sizes
    assert not re.search(r'(src|href)="https?:|<script|@import', page)
    assert 'name="viewport"' in page
    assert "prefers-color-scheme: dark" in page
    for picture in tmp_path.glob("*.svg"):
        ElementTree.fromstring(picture.read_text())
    heads = re.findall("<th>(.*?)</th>", page.split("</table>")[0])
    rows = re.findall(r"<td>(single model|random|default)</td>(.*?)</tr>", page)
    assert len(rows) == 6  # at both sizes; what has no area is compared with nothing
    for _, cells in rows:
        shown = dict(zip(heads[1:], re.findall("<td>(.*?)</td>", cells), strict=True))
        assert shown["$/1k right"].startswith("$")
        assert [shown[head] for head in ("ahead", "p", "by", "90 % interval")] == [""] * 4


def test_json_holds_the_standings_and_nothing_else(data, whole):
    folder, _ = whole
    shown = json.loads(run(data, *QUICK, "--trials", 2, "--out", folder, "--json").stdout)
    zero = next(row for row in shown["standings"] if row["method"] == "zero router")
    areas = [float(row["area"]) for row in table(folder) if (row["method"], row["n_val"]) == ("zero router", "20")]
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


def test_what_is_no_estimator_is_refused_before_any_trial(data, tmp_path, monkeypatch):
    sources = {
        "Mine = 3": "cannot be loaded (3 is not a callable object)",
        "class Mine(": "cannot be loaded (",
        "class Mine:\n    def __init__(self, k): pass\n": "cannot be loaded (Mine.__init__() missing",
        "class Mine: pass": "has no fit; an estimator has fit, profile and predict.",
    }
    monkeypatch.syspath_prepend(str(tmp_path))
    for place, (source, said) in enumerate(sources.items()):
        (tmp_path / f"mine_{place}.py").write_text(source)
        assert said in run(data, "--estimator", f"mine_{place}:Mine", "--out", tmp_path / "out", code=2).stderr
    for name in ("nowhere:Mine", "unirouter_core:Nothing", "plain"):
        said = f"--estimator {name} cannot be loaded"
        assert said in run(data, "--estimator", name, "--out", tmp_path / "out", code=2).stderr
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_refused(data, tmp_path):
    for junk in ("junk", "[]", '{"arena": 1}', '{"arena": ' + "[" * 100_000 + "]" * 100_000 + "}"):
        (tmp_path / "trials.jsonl").write_text(junk + "\n")
        refused = run(data, *QUICK, "--trials", 1, "--out", tmp_path, code=2)
        assert "trials.jsonl, line 1: no record of a trial" in refused.stderr


def test_trials_of_an_older_version_are_refused(data, whole, tmp_path):
    record = json.loads((whole[0] / "trials.jsonl").read_text().splitlines()[0])
    del record["crossfit_area"]
    (tmp_path / "trials.jsonl").write_text(json.dumps(record) + "\n")
    refused = run(data, *QUICK, "--trials", 1, "--out", tmp_path, code=2)
    assert "holds trials of an older version, without cross-fitted Areas; name another folder" in refused.stderr


def test_vectors_beside_the_outcomes_are_used(data, world, tmp_path):
    np.save(data.parent / "kinds.npy", np.eye(2)[[int(not p.startswith("What is")) for p in world.prompts]])
    done = run(data, *QUICK, "--trials", 1, "--embedder", "kinds.npy", "--out", tmp_path)
    assert "given vectors" in done.stdout


def test_an_option_that_cannot_be_is_refused_in_a_sentence(data, tmp_path):
    (data.parent / "junk.npy").write_text("junk")
    for arguments, said in (
        (("--costs", "none"), "--costs is 'none'; it is mean or per-prompt."),
        (("--methods", "X"), "'X' is no method"),
        (("--n-val", 100), "N_val 100 is more than 240 prompts reach"),
        (("--embedder", "junk.npy"), "junk.npy holds no array of numbers"),
        ((data,), "Two tables are called 'world'"),
    ):
        assert said in run(data, *arguments, "--out", tmp_path, code=2).stderr


def test_without_known_answers_the_method_known_models_stays_out_or_is_refused(data, tmp_path):
    run(data, "--n-val", 20, "--trials", 1, "--no-known", "--processes", 1, "--out", tmp_path)
    assert {row["method"] for row in table(tmp_path)} >= {"default", "shrunken clusters"}
    assert "known models" not in {row["method"] for row in table(tmp_path)}
    refused = run(
        data, *QUICK, "--methods", "known models", "--no-known", "--trials", 1, "--out", tmp_path / "c", code=2
    )
    assert "KnownModelsEstimator needs the training models' answers" in refused.stderr


def test_numbers_are_shown_short():
    assert [decimals(0.5), decimals(-0.0049, sign="+"), decimals(0.9999999)] == [".5000", "-.0049", "1.0000"]
    assert [percent(0.0026), percent(0.5), percent(0.0)] == ["0.3%", "50%", "0%"]


def test_without_pandas_the_import_names_the_cure():
    program = "import sys; sys.modules['pandas'] = None; import unirouter_plugins.bench"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "ImportError: pandas is missing: pip install 'unirouter[bench]'" in done.stderr
