"""Tables as people have them: names of columns, separators, a column per model, scales, data frames and datasets."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.conftest import refused
from unirouter_core.exceptions import InvalidDataError
from unirouter_core.outcome_files import read_outcomes
from unirouter_core.tables import Scale, find_columns

SUM, POEM = "What is 2 + 2?", "A poem, please,\nof two lines."
ROWS = [
    {"question": SUM, "model_name": "poet", "acc": 0, "usd": 0.1},
    {"question": SUM, "model_name": "sage", "acc": 1, "usd": 0.2},
    {"question": POEM, "model_name": "poet", "acc": 1, "usd": 0.1},
    {"question": POEM, "model_name": "sage", "acc": 0.5, "usd": None},
]


def check(table, case):
    assert (table.prompts, table.models) == ((SUM, POEM), ("poet", "sage")), case
    np.testing.assert_array_equal(table.errors, [[1, 0], [0, 0.5]], case)
    np.testing.assert_array_equal(table.costs, [[0.1, 0.2], [0.1, np.nan]], case)


def text(separator, decimal=".", end="\n"):
    fields = [["question", "model_name", "acc", "usd"]]
    for row in ROWS:
        numbers = ["" if row[name] is None else str(row[name]).replace(".", decimal) for name in ("acc", "usd")]
        fields.append([f'"{row["question"]}"', row["model_name"], *numbers])
    return "".join(separator.join(line) + end for line in fields)


def test_a_table_is_read_however_it_is_written(tmp_path):
    for case, (name, content) in {
        "commas": ("o.csv", text(",")),
        "semicolons": ("o.csv", text(";", ",")),
        "tabs": ("o.tsv", text("\t")),
        "tabs in .csv": ("o.csv", text("\t")),
        "bars": ("o.csv", text("|")),
        "Excel": ("o.csv", "\ufeff" + text(";", ",", "\r\n")),
        "rows": ("o.json", json.dumps(ROWS, indent=1)),
        "data": ("o.json", json.dumps({"data": ROWS, "day": 1})),
        "columns": ("o.json", json.dumps({name: [row[name] for row in ROWS] for name in ROWS[0]})),
        "pandas": ("o.json", json.dumps({name: {i: row[name] for i, row in enumerate(ROWS)} for name in ROWS[0]})),
        "lines": ("o.ndjson", "\r\n".join(map(json.dumps, ROWS))),
    }.items():
        (tmp_path / name).write_bytes(content.encode())
        check(read_outcomes(tmp_path / name), case)


class Dataset(list):
    """What a dataset of Hugging Face shows of itself: names of columns, and rows when iterated over."""

    column_names = tuple(ROWS[0])


def test_data_frames_and_datasets_are_read():
    check(read_outcomes(Dataset(ROWS)), "dataset")
    for library in ("pandas", "polars"):
        frames = pytest.importorskip(library, reason="reads data frames")
        check(read_outcomes(frames.DataFrame(ROWS)), library)
    check(read_outcomes(pytest.importorskip("pyarrow").Table.from_pylist(ROWS)), "pyarrow")


def test_splits_of_a_dataset_are_named():
    class Splits(dict):
        column_names = property(dict)

    with pytest.raises(InvalidDataError, match=r"it has the splits train, test; give one .*data\['train'\]"):
        read_outcomes(Splits(train=[], test=[]))


# Names


def test_columns_that_are_given_come_before_those_whose_names_are_known():
    rows = [{"prompt": "A long template", "text": SUM, "score": 9, "right": "yes", "model": "sage"}]
    table = read_outcomes(rows, columns={"prompt": "text", "quality": "right"})
    assert (table.prompts, table.errors.tolist()) == ((SUM,), [[0]])


def test_one_model_can_be_named_for_all_rows():
    table = read_outcomes([{"question": SUM, "acc": 1}], columns={"model": "=gpt-4o"})
    assert (table.models, table.errors.tolist()) == (("gpt-4o",), [[0]])


def test_names_are_known_without_case_and_punctuation():
    for name in ["Input Tokens", "inputTokens", "prompt_tokens", "num_input_tokens"]:
        assert find_columns([name, "Model Name"]) == {"model": ["Model Name"], "tokens_in": [name]}, name


def test_a_chat_is_routed_on_the_newest_text_of_its_user():
    chat = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Yes?"}]
    chat.append({"role": "user", "content": [{"type": "text", "text": SUM}]})
    assert read_outcomes([{"messages": chat, "model": "sage", "quality": 1}]).prompts == (SUM,)


# A column per model

WIDE = {"id": [7, 8], "question": [SUM, POEM], "poet": ["False", "true"], "gpt-4o": [1, 0.5]}


def test_columns_of_grades_beside_the_prompts_are_models(tmp_path):
    table = read_outcomes(WIDE)
    assert (table.prompts, table.models) == ((SUM, POEM), ("poet", "gpt-4o"))
    assert table.errors.tolist() == [[1, 0], [0, 0.5]]


def test_costs_and_tokens_in_columns_that_name_the_model_are_its_own():
    for names in ["{}|{}", "{}_{}", "{} {}", "{}.{}"]:
        columns = {"question": [SUM], "gpt-4o": [1], "poet": [0]}
        columns |= {
            names.format(m, part): [i] for i, m in enumerate(["gpt-4o", "poet"]) for part in ("cost", "input_tokens")
        }
        table = read_outcomes(columns)
        assert (table.models, table.costs.tolist(), table.tokens_in.tolist()) == (
            ("gpt-4o", "poet"),
            [[0, 1]],
            [[0, 1]],
        ), names


def test_grades_in_columns_that_name_the_model_are_found():
    table = read_outcomes({"question": [SUM], "score_gpt-4o": [1], "score_poet": [0]})
    assert (table.models, table.errors.tolist()) == (("gpt-4o", "poet"), [[0, 1]])


def test_the_columns_of_models_can_be_given():
    table = read_outcomes(WIDE | {"difficulty of it": [3, 4]}, columns={"quality": ["gpt-4o", "poet"]})
    assert table.models == ("gpt-4o", "poet")
    assert read_outcomes(WIDE, columns={"quality": "gpt-4o"}).models == ("gpt-4o",)


def test_metrics_of_one_model_are_no_models():
    row = {"user_input": SUM, "response": "4", "faithfulness": 0.9, "answer_relevancy": 0.7, "politeness": 1.0}
    with pytest.raises(InvalidDataError, match=r'no column names the model; .*\(--columns model=NAME\).*"=gpt-4o"'):
        read_outcomes([row])
    assert read_outcomes([row], columns={"quality": "faithfulness", "model": "=sage"}).models == ("sage",)


# Scales


def test_a_scale_maps_grades_to_quality():
    for scale, value, quality in [
        (None, "TRUE", 1),
        (None, " no ", 0),
        (None, False, 0),
        (None, "85%", 0.85),
        ("0-100", 85, 0.85),
        ("1-5", "4", 0.75),
        ("5-1", 1, 1),
        ((0, 10), 2.5, 0.25),
        ("-1..1", 0, 0.5),
        ("A=1,B=.8", "b", 0.8),
        ("A+=1, A=.9", "A+", 1),
        ({5: 1, 4: 0.5}, 4.0, 0.5),
        ("1-5", "n/a", np.nan),
        ("A=1", float("nan"), np.nan),
    ]:
        np.testing.assert_allclose(Scale.of(scale).quality(value), quality, err_msg=f"{scale}: {value}")


def test_what_is_no_scale_is_refused():
    for scale in ["percent", "5-5", "A=2", "A", "=", "", (1,), 100, {}]:
        with refused(scale, r'is not a scale; give the lowest and the highest, "0-100"'):
            Scale.of(scale)


# Messages


def test_one_line_says_what_was_understood():
    rows = [{**row, "acc": 100 * row["acc"]} for row in [*ROWS, ROWS[0], {**ROWS[0], "acc": np.nan}]]
    said = (
        "5 answers: 2 prompts × 2 models (prompt=question, model=model_name, quality=acc as 0-100, cost=usd; 1 repeat"
    )
    assert read_outcomes(rows, scale="0-100").source == f"Read {said} averaged; 1 without a grade)."
    said = "Read 4 answers: 2 prompts × 2 models (prompt=question, a column per model; no costs)."
    assert read_outcomes(WIDE).source == said


BAD = {
    "percent": (ROWS, {"acc": 87}, {}, r'row 2: acc 87 is outside \[0, 1\]; give its scale, such as scale="0-100"'),
    "scale": (ROWS, {"acc": 6}, {"scale": "1-5"}, r"row 1: acc 0 is outside \[1, 5\]; give the scale that holds all"),
    "letter": (ROWS, {"acc": "C"}, {"scale": "0=0,A=1"}, "row 2: acc 'C' is not in the scale 0=0,a=1"),
    "word": (ROWS, {"acc": "good"}, {}, "row 2: acc 'good' is not a number; write one.* \"good=1,bad=0\""),
    "kind": (ROWS, {}, {"columns": {"grade": "acc"}}, "columns: 'grade' is not one of prompt, model, quality"),
    "name": (ROWS, {}, {"columns": {"quality": "score"}}, "quality is not in a column 'score'; there are 'question'"),
    "model": (ROWS, {}, {"columns": {"model": "sage"}}, "not in a column 'sage'; .*\"=sage\" is a model of that name"),
    "which": (ROWS, {"correct": 1}, {}, r"'acc', 'correct' may each be the quality; .*\(--columns quality=acc\)"),
    "none": ([{"question": SUM, "model": "a", "x": 1}], {}, {}, r"neither error nor quality; .*columns are .*'x'"),
    "both": ([{"prompt": SUM, "model": "a", "error": 1, "quality": 0}], {}, {}, "it holds both error and quality"),
    "wide": (WIDE | {"level": [3, 4]}, {}, {}, r"row 1: level 3 is outside \[0, 1\]"),
}


def test_a_table_that_is_not_understood_is_refused_with_the_option_that_helps():
    for case, (given, changed, options, message) in BAD.items():
        rows = given if isinstance(given, dict) else [given[0], *({**row, **changed} for row in given[1:])]
        with refused(case, message):
            read_outcomes(rows, **options)


def test_an_answer_that_failed_has_no_grade():
    rows = [{**row, "error": why} for row, why in zip(ROWS, ["Timeout", "", None, np.nan], strict=True)]
    np.testing.assert_array_equal(read_outcomes(rows).errors, [[np.nan, 0], [0, 0.5]])
