"""`route-file`: the same rows with the router's choices, whole or not at all, a killed run gone on with."""

import csv
import json
import os
import shutil
import signal
import stat
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from tests.plugins.ray.killed_runs import run_until
from unirouter_core import InvalidDataError
from unirouter_core.router import UniRouter
from unirouter_plugins.cli import app
from unirouter_plugins.ray import files
from unirouter_plugins.ray.parts import SLICE

PROMPTS = [f"What is {n} plus 3?" if n % 2 else f"Write a poem of {n} lines about the sea." for n in range(40)]


@pytest.fixture
def folder(router, tmp_path):
    router.save(tmp_path / "some.router")
    return tmp_path / "some.router"


def write_jsonl(file):
    lines = [json.dumps({"id": n, "prompt": prompt, "kept": [n]}) for n, prompt in enumerate(PROMPTS)]
    file.write_text("\n".join([*lines, "", "{", "[3]", '{"prompt": null}', r'{"prompt": "\ud800 lone"}']))


def write_csv(file):
    with file.open("w", encoding="utf-8-sig", newline="") as text:
        csv.writer(text, delimiter=";").writerows([["id", "Question"], *enumerate(PROMPTS)])
        text.write('40;"two\r\nlines, 5"" pipe"\r\n41;a;b\r\n42;\r\n')


def write_parquet(file):
    prompts = [*PROMPTS, "two\nlines", None, "", "last"]
    pq.write_table(pa.table({"id": range(len(prompts)), "prompt": prompts}), file, row_group_size=16)


def read_jsonl(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def read_csv(file):
    return list(csv.DictReader(file.open(newline=""), delimiter=";"))


def read_parquet(file):
    return pq.read_table(file).to_pylist()


FORMATS = {
    ".jsonl": (write_jsonl, read_jsonl),
    ".csv": (write_csv, read_csv),
    ".parquet": (write_parquet, read_parquet),
}


route_file = partial(files.route_file, part_size=500)


@pytest.mark.parametrize("suffix", FORMATS)
def test_each_row_keeps_its_columns_and_gets_the_decision_of_route(folder, tmp_path, suffix):
    write, read = FORMATS[suffix]
    write(tmp_path / f"in{suffix}")
    done = route_file(folder, tmp_path / f"in{suffix}", tmp_path / f"out{suffix}", cost_weight=600)
    rows = read(tmp_path / f"out{suffix}")
    expected = UniRouter.load(folder).route_batch(PROMPTS, cost_weight=600)
    assert [row["unirouter_model"] for row in rows[:40]] == expected.models
    assert [float(row["expected_usd"]) for row in rows[:40]] == expected.costs.tolist()
    assert [str(row["id"]) for row in rows[:40]] == [str(n) for n in range(40)]
    assert (done.rows, done.errors) == (44 if suffix != ".csv" else 43, 2 if suffix != ".jsonl" else 3)
    assert sum(done.models.values()) + done.errors == done.rows == len(rows)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(["some.router", f"in{suffix}", f"out{suffix}"])


def test_bad_lines_are_rows_with_the_number_of_their_line(folder, tmp_path):
    write_jsonl(tmp_path / "in.jsonl")
    write_csv(tmp_path / "in.csv")
    for name in ("in.jsonl", "in.csv"):
        route_file(folder, tmp_path / name, tmp_path / "out" / name)
    errors = [row["error"] for row in read_jsonl(tmp_path / "out" / "in.jsonl") if row["error"]]
    assert errors[0].startswith("line 42: it is not JSON")
    assert errors[1:] == ['line 43: it is no object; write {"prompt": ...}.', "The prompt is null; give it a text."]
    rows = read_csv(tmp_path / "out" / "in.csv")
    assert rows[40]["Question"] == 'two\r\nlines, 5" pipe'
    assert [row["error"] for row in rows[41:]] == [
        "line 44: 3 fields, but the header has 2.",
        "The prompt is empty; give it a text.",
    ]


def held(folder):
    return {file: file.read_bytes() for file in [folder, *folder.rglob("*")] if file.is_file()}


@pytest.mark.parametrize(
    ("source", "target", "sentence"),
    [
        ("in/data/prompts", "in", r"in would be replaced, but .*[ab].jsonl is read; name a place outside"),
        ("in/data/prompts/a.jsonl", "in/data", r"data would be replaced, but .*a.jsonl is read"),
        ("in/data/prompts/*.jsonl", "in/data/prompts/b.jsonl", r"b.jsonl would be replaced, but .*b.jsonl is read"),
        ("in/linked.jsonl", "in/data/prompts/a.jsonl", r"a.jsonl would be replaced, but .*linked.jsonl is read"),
        ("in/data", "in/data/prompts/new", "new is inside of .*data, whose files are read"),
        ("in/data", "in/some.router/out.jsonl", "out.jsonl is inside of .*some.router, whose files are read"),
        ("in/data", "other", "notes.txt would be deleted, and is not of this run; move it"),
        ("in/data", "..", "'..' is no name of a file or folder"),
    ],
)
def test_what_is_read_and_what_no_run_has_written_is_not_replaced(router, tmp_path, source, target, sentence):
    (tmp_path / "in/data/prompts").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").touch()
    router.save(tmp_path / "in/some.router")
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / "in/data/prompts" / name).write_text('{"prompt": "hello"}\n')
    (tmp_path / "in/linked.jsonl").symlink_to(tmp_path / "in/data/prompts/a.jsonl")
    before, out = held(tmp_path), target if target == ".." else tmp_path / target
    with pytest.raises(InvalidDataError, match=sentence):
        route_file(tmp_path / "in/some.router", f"{tmp_path}/{source}", out, replace=True)
    assert held(tmp_path) == before


def test_a_target_that_appears_during_the_run_is_kept(folder, tmp_path):
    write_jsonl(tmp_path / "in.jsonl")
    with pytest.raises(InvalidDataError, match=r"out.jsonl exists; name another place"):
        route_file(
            folder,
            tmp_path / "in.jsonl",
            tmp_path / "out.jsonl",
            progress=lambda *_: (tmp_path / "out.jsonl").write_text("mine"),
        )
    assert (tmp_path / "out.jsonl").read_text() == "mine"


@pytest.mark.parametrize(
    ("rows", "why"),
    [('1,"never closed\n2,hello\n3,bye\n', "unexpected end of data"), ('1,"open\n2,hello\n3,"bye"\n', "',' expected")],
)
def test_a_quote_that_is_not_closed_swallows_no_rows(folder, tmp_path, rows, why):
    (tmp_path / "in.csv").write_text(f"id,prompt\n0,fine\n{rows}")
    limit = csv.field_size_limit()
    with pytest.raises(InvalidDataError, match=rf"in.csv: the row at line 3: {why}.*; quote fields as RFC 4180 does"):
        route_file(folder, tmp_path / "in.csv", tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()
    assert csv.field_size_limit() == limit


def test_a_line_with_a_field_of_our_name_is_one_error(folder, tmp_path):
    (tmp_path / "in.jsonl").write_text('{"prompt": "hello"}\n{"prompt": "hello", "error": "mine"}\n')
    done = route_file(folder, tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    assert (done.rows, done.errors) == (2, 1)
    assert done.first_error == "line 2: its own 'error' is overwritten by this; rename or drop it."


class Killed(BaseException):
    pass


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_killed_run_leaves_no_output_and_is_gone_on_with(folder, tmp_path, suffix):
    write, read = FORMATS[suffix]
    write(source := tmp_path / f"in{suffix}")
    route_file(folder, source, whole := tmp_path / f"whole{suffix}")
    counts = []

    def kill(rows, total):
        counts.append(rows)
        if len(counts) == 2:
            raise Killed

    with pytest.raises(Killed):
        route_file(folder, source, out := tmp_path / f"out{suffix}", progress=kill)
    assert not out.exists()
    again = []
    done = route_file(folder, source, out, progress=lambda rows, total: again.append(rows))
    assert counts[-1] < again[0]
    assert again[-1] == done.rows
    assert read(out) == read(whole)


@pytest.mark.parametrize("changed", ["router", "input", "option"])
def test_parts_of_another_router_input_or_option_are_not_taken(router, folder, tmp_path, changed):
    write_jsonl(source := tmp_path / "in.jsonl")
    how = {}

    def kill(rows, total):
        raise Killed

    with pytest.raises(Killed):
        route_file(folder, source, tmp_path / "out.jsonl", progress=kill)
    if changed == "router":
        router.retire("sage")
        router.save(folder)
    elif changed == "input":
        source.write_text(source.read_text().replace("poem", "verse"))
    else:
        how = {"models": ["poet"]}
    route_file(folder, source, tmp_path / "out.jsonl", **how)
    route_file(folder, source, tmp_path / "fresh.jsonl", **how)
    assert read_jsonl(tmp_path / "out.jsonl") == read_jsonl(tmp_path / "fresh.jsonl")
    assert not (tmp_path / ".out.jsonl.parts").exists()


@pytest.mark.parametrize("suffix", FORMATS)
def test_rows_that_are_not_routed_at_once_stay_in_their_order_with_their_lines(folder, tmp_path, suffix):
    source, out, n = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}", SLICE + 3
    prompts, write = [f"Sum {n}" for n in range(n)], {"encoding": "utf-8"}
    prompts[-2] = ""
    if suffix == ".parquet":
        pq.write_table(pa.table({"prompt": prompts}), source)
    elif suffix == ".csv":
        source.write_text("prompt;x\n" + ";1\n".join([*prompts, ""]), **write)
    else:
        source.write_text("\n".join(json.dumps({"prompt": prompt}) for prompt in prompts), **write)
    assert files.route_file(folder, source, out).errors == 1
    rows = FORMATS[suffix][1](out)
    assert [row["prompt"] for row in rows] == prompts
    assert [at for at, row in enumerate(rows) if row["error"]] == [n - 2]


@pytest.mark.parametrize("names", [(".jsonl",), ("/a.jsonl", "/b.jsonl")], ids=["file", "folder"])
def test_a_run_killed_at_any_step_leaves_the_output_as_it_was_or_whole_and_the_next_one_makes_it_whole(
    folder, tmp_path, names
):
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        (tmp_path / "in" / f"{name}.jsonl").write_text("".join(f'"{name} {n} plus 3?"\n' for n in range(25)))
    place = tmp_path / "place"
    out = place / ("out" if len(names) > 1 else "out.jsonl")
    mark = place / f".{out.name}.parts" / "placed"

    def contents():
        return [(place / f"out{name}").read_text() for name in names]

    def killed(last):
        for name in names:
            (place / f"out{name}").parent.mkdir(parents=True, exist_ok=True)
            (place / f"out{name}").write_text("old")
        return run_until(last, folder, tmp_path / "in", out)

    steps, expected = killed(0), contents()
    assert "".join(expected).count("unirouter_model") == 50
    for last in [*range(1, steps - 6, steps // 4), *range(steps - 6, steps + 1)]:
        assert killed(last) == -signal.SIGKILL
        assert contents() in (["old"] * len(names), expected)
        is_known = mark.exists() and contents() == expected  # as what this run has made, and need not be replaced
        route_file(folder, tmp_path / "in", out, replace=not is_known)
        assert contents() == expected
        assert list(place.iterdir()) == [out]


def test_an_output_that_was_changed_after_a_killed_run_had_placed_it_is_not_taken_for_its_own(folder, tmp_path):
    (tmp_path / "in" / "inner").mkdir(parents=True)
    for place in (tmp_path / "in", tmp_path / "in" / "inner"):
        write_jsonl(place / "a.jsonl")
    given = (folder, tmp_path / "in", tmp_path / "out")
    steps = run_until(0, *given)
    shutil.rmtree(out := given[-1])
    assert run_until(steps - 1, *given) == -signal.SIGKILL  # before what says that it is placed is removed
    (out / "inner" / "a.jsonl").write_text("damaged")
    with pytest.raises(InvalidDataError, match="out exists; name another place, or replace it"):
        route_file(*given)


def test_a_pool_that_is_not_used_may_change(folder, tmp_path):
    write_jsonl(tmp_path / "in.jsonl")

    def change(*_):
        (tmp_path / "pool.toml").write_text("# another")

    given = (folder, tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    assert route_file(*given, pool=None, progress=change).rows == 44


def test_a_file_system_that_cannot_sync_a_folder_is_good_enough(folder, tmp_path, monkeypatch):
    real = os.fsync

    def fsync(opened):
        if stat.S_ISDIR(os.fstat(opened).st_mode):
            raise OSError(22, "Invalid argument")
        real(opened)

    monkeypatch.setattr(os, "fsync", fsync)
    write_jsonl(tmp_path / "in.jsonl")
    assert route_file(folder, tmp_path / "in.jsonl", tmp_path / "out.jsonl").rows == 44


def test_a_part_has_at_least_one_byte(folder, tmp_path):
    write_jsonl(tmp_path / "in.jsonl")
    with pytest.raises(InvalidDataError, match="part_size=0 must be a whole number of bytes above 0"):
        route_file(folder, tmp_path / "in.jsonl", tmp_path / "out.jsonl", part_size=0)


def test_an_input_that_changes_while_it_is_read_is_a_sentence(folder, tmp_path):
    write_jsonl(source := tmp_path / "in.jsonl")
    with pytest.raises(InvalidDataError, match=r"What .*out.jsonl is made of has changed meanwhile; run it again"):
        route_file(folder, source, tmp_path / "out.jsonl", progress=lambda *_: source.open("a").write("\n"))
    assert not (tmp_path / "out.jsonl").exists()
    assert route_file(folder, source, tmp_path / "out.jsonl").rows == 44


def test_a_folder_becomes_a_folder_and_the_target_is_replaced_only_when_told_to(folder, tmp_path):
    (tmp_path / "in" / "b").mkdir(parents=True)
    write_parquet(tmp_path / "in" / "a.parquet")
    write_jsonl(tmp_path / "in" / "b" / "c.jsonl")
    (tmp_path / "in" / "_SUCCESS").touch()
    for _ in range(2):
        route_file(folder, tmp_path / "in", tmp_path / "out", replace=True)
        found = sorted(str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out").rglob("*.*"))
        assert found == ["a.parquet", "b/c.jsonl"]
    with pytest.raises(InvalidDataError, match=r"out exists; name another place, or replace it \(--replace\)"):
        route_file(folder, tmp_path / "in", tmp_path / "out")


WRONG = [
    ("in.jsonl", "out.csv", "out.csv is to be CSV, and .*in.jsonl is JSON Lines; formats stay as they are"),
    ("nothing.csv", "out.csv", "nothing.csv does not exist; name a file, a folder, or a pattern in quotes"),
    ("in.txt", "out", "in.txt is no file of prompts; give one with .parquet"),
    ("nocol.csv", "out.csv", r"nocol.csv: there is no column of prompts among 'a', 'b'; name it \(--prompt COLUMN\)"),
    ("taken.csv", "out.csv", "taken.csv: The rows have a column 'error', which would be overwritten"),
    ("broken.parquet", "out.parquet", "broken.parquet: it cannot be read"),
    ("latin.csv", "out.csv", "latin.csv: byte 0 is not UTF-8; save the file as UTF-8"),
]


@pytest.mark.parametrize(("source", "target", "sentence"), WRONG)
def test_what_cannot_be_read_is_one_sentence_and_leaves_nothing(folder, tmp_path, source, target, sentence):
    write_jsonl(tmp_path / "in.jsonl")
    (tmp_path / "in.txt").touch()
    (tmp_path / "nocol.csv").write_text("a,b\n1,2\n")
    (tmp_path / "taken.csv").write_text("prompt,error\nhello,2\n")
    (tmp_path / "broken.parquet").write_text("PAR1")
    (tmp_path / "latin.csv").write_bytes(b"\xe9,prompt\n1,2\n")
    before = set(tmp_path.iterdir())
    with pytest.raises(InvalidDataError, match=sentence):
        route_file(folder, tmp_path / source, tmp_path / target)
    assert set(tmp_path.iterdir()) == before


def test_files_of_other_columns_become_a_folder_only(folder, tmp_path):
    for name, header in {"a.csv": "prompt,x", "b.csv": "prompt,y"}.items():
        (tmp_path / name).write_text(f"{header}\nhello,1\n")
    with pytest.raises(InvalidDataError, match=r"b.csv has other columns than .*a.csv; name a folder"):
        route_file(folder, f"{tmp_path}/*.csv", tmp_path / "all" / "out.csv")
    route_file(folder, f"{tmp_path}/*.csv", tmp_path / "out")
    assert (tmp_path / "out" / "b.csv").read_text().startswith("prompt,y,unirouter_model,")


def test_the_command_prints_the_counts_and_what_is_wrong_in_a_sentence(folder, tmp_path):
    write_jsonl(source := tmp_path / "in.jsonl")
    words = ["route-file", str(folder), str(source), str(tmp_path / "out.jsonl"), "--models", "sage"]
    done = CliRunner().invoke(app, [*words, "--json"])
    told = json.loads(done.stdout)
    assert (done.exit_code, told["rows"], told["errors"], told["models"]) == (0, 44, 3, {"sage": 41})
    again = CliRunner().invoke(app, words)
    assert (again.exit_code, again.stdout) == (2, "")
    assert "exists; name another place, or replace it (--replace)." in " ".join(again.stderr.split())
    shown = CliRunner().invoke(app, [*words, "--replace"])
    assert "3 rows have no model; the column error says why" in " ".join(shown.stderr.split())
