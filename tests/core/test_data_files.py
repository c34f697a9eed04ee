"""Files of outcomes to one table, in each form, and what is said of a line that cannot be used."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import refused
from unirouter_core.costs import Prices
from unirouter_core.exceptions import InvalidDataError
from unirouter_core.outcome_files import read_outcomes

DATA = Path(os.environ.get("UNIROUTER_DATA", Path(__file__).parents[2] / "../shared/data"))
SUM, POEM = "What is 2 + 2?", "A poem, please,\nof two lines."


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def write_jsonl(path: Path, *records: object) -> Path:
    return write(path, "".join(json.dumps(record) + "\n" for record in records))


def write_csv(path: Path, *lines: list[object]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as text:
        csv.writer(text).writerows(lines)
    return path


def write_parquet(path: Path, columns: dict[str, object]) -> Path:
    pyarrow = pytest.importorskip("pyarrow", reason="Parquet needs unirouter[parquet]")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table(columns), path)
    return path


def write_folder(folder: Path, **changed: object) -> Path:
    """The form of the evaluation data, one sum and one poem, its models in another order in costs.npz."""
    folder.mkdir()
    write_parquet(folder / "prompts.parquet", {"prompt_id": ["s/1", "p/1"], "prompt": [SUM, POEM]})
    arrays = {"scores": np.array([[0, 1], [1, np.nan]]), "models": ["poet", "sage"], "prompt_ids": ["s/1", "p/1"]}
    np.savez(folder / "scores.npz", **{**arrays, **changed})
    np.savez(
        folder / "costs.npz", models=["sage", "poet"], cost_usd=[[3.0, np.nan], [4.0, 2.0]], tokens_in=[[9, 10]] * 2
    )
    write(folder / "meta.json", json.dumps({"prices_usd_per_mtok": {"poet": [1, 2], "sage": [3, 4]}}))
    return folder


# The forms


def test_a_jsonl_line_is_a_prompt_a_model_and_a_quality(tmp_path):
    sage = {
        "prompt": SUM,
        "model": "sage",
        "quality": 0.75,
        "cost": 0.002,
        "tokens_in": 7,
        "tokens_out": 1,
        "day": "Monday",
    }
    poet = {"prompt": POEM, "model": "poet", "quality": True, "cost": None}
    table = read_outcomes(write_jsonl(tmp_path / "outcomes.jsonl", sage, poet))
    assert (table.prompts, table.models) == ((SUM, POEM), ("sage", "poet"))
    np.testing.assert_array_equal(table.errors, [[0.25, np.nan], [np.nan, 0]])
    np.testing.assert_array_equal(table.costs, [[0.002, np.nan], [np.nan, np.nan]])
    np.testing.assert_array_equal(table.tokens_in, [[7, np.nan], [np.nan, np.nan]])


def test_a_csv_line_may_give_the_error_and_leave_the_rest_empty(tmp_path):
    header = ["prompt", "model", "error", "cost", "tokens_out"]
    path = write_csv(tmp_path / "o.csv", header, [SUM, "sage", 0.25, "", 3], [POEM, "sage", "", "1e-3", ""])
    table = read_outcomes(str(path))
    np.testing.assert_array_equal(table.errors, [[0.25], [np.nan]])
    np.testing.assert_array_equal(table.costs, [[np.nan], [0.001]])
    np.testing.assert_array_equal(table.tokens_out, [[3], [np.nan]])


def test_a_parquet_row_is_read_as_a_csv_line_is(tmp_path):
    columns = {"prompt": [SUM, SUM], "model": ["poet", "sage"], "quality": [0, 1], "cost": [None, 0.5]}
    table = read_outcomes(write_parquet(tmp_path / "o.parquet", columns))
    np.testing.assert_array_equal(table.errors, [[1, 0]])
    np.testing.assert_array_equal(table.costs, [[np.nan, 0.5]])


def test_a_folder_keeps_its_rows_and_matches_models_by_name(tmp_path):
    table = read_outcomes(write_folder(tmp_path / "set"))
    assert (table.prompts, table.models) == ((SUM, POEM), ("poet", "sage"))
    np.testing.assert_array_equal(table.errors, [[1, 0], [0, np.nan]])
    np.testing.assert_array_equal(table.costs, [[np.nan, 3], [2, 4]])
    np.testing.assert_array_equal(table.tokens_in, [[10, 9], [10, 9]])
    assert table.prices == {"poet": Prices(1, 2), "sage": Prices(3, 4)}


def test_prices_that_are_given_come_before_those_of_the_folder(tmp_path):
    table = read_outcomes(write_folder(tmp_path / "set"), prices={"sage": Prices(5, 6), "other": Prices(7, 8)})
    assert table.prices == {"poet": Prices(1, 2), "sage": Prices(5, 6)}


def test_routerbench_is_known_by_its_cost_columns(tmp_path):
    models = ["gpt-4-1106-preview", "claude-v1"]
    answers, costs = [f"{model}|model_response" for model in models], [f"{model}|total_cost" for model in models]
    header = ["sample_id", "prompt", "eval_name", *models, *answers, *costs, "oracle_model_to_route_to"]
    line = ["mbpp.dev.3", "['Sort a list.', 'Now.']", "mbpp", 1.0, 0.25, "['sorted']", "['?']", 0.0007, "", "claude-v1"]
    table = read_outcomes(write_csv(tmp_path / "routerbench_0shot.csv", header, line))
    assert (table.prompts, set(table.models)) == (("['Sort a list.', 'Now.']",), set(models))
    np.testing.assert_array_equal(table.of(models).errors, [[0, 0.75]])
    np.testing.assert_array_equal(table.of(models).costs, [[0.0007, np.nan]])


def test_routerbench_reads_the_same_from_parquet(tmp_path):
    columns = {
        "sample_id": ["a"],
        "prompt": [SUM],
        "eval_name": ["m"],
        "m/sage-3.5": [0.5],
        "m/sage-3.5|total_cost": [0.1],
    }
    table = read_outcomes(write_parquet(tmp_path / "routerbench_0shot.parquet", columns))
    assert (table.models, table.errors.tolist(), table.costs.tolist()) == (("m/sage-3.5",), [[0.5]], [[0.1]])


def test_embedllm_is_known_by_its_label_column(tmp_path):
    header = ["prompt_id", "model_id", "category_id", "label", "prompt", "model_name", "category"]
    lines = [[0, 7, 2, 1, SUM, "google__gemma-7b-it", "gsm8k"], [0, 9, 2, 0, SUM, "microsoft__phi-2", "gsm8k"]]
    table = read_outcomes(write_csv(tmp_path / "train.csv", header, *lines))
    assert table.models == ("google__gemma-7b-it", "microsoft__phi-2")
    assert table.errors.tolist() == [[0, 1]]
    assert np.isnan(table.costs).all()


SPROUT = {"score": 0.5, "num_input_tokens": 100, "num_output_tokens": 10, "response": "four"}
SPROUT_ROW = {
    "key": "k",
    "dataset": "math",
    "prompt": SUM,
    "golden_answer": "4",
    "wxai-llama-3.1": SPROUT,
    "openai-gpt-4o": None,
}


def test_given_prices_make_costs_of_a_table_without_tokens_and_it_says_how():
    rows = [{"prompt": "a" * 8, "poet": 1, "sage": 0}]
    table = read_outcomes(rows, prices={"poet": Prices(0, 1), "sage": Prices(0, 10)})
    assert table.costs.tolist() == [[pytest.approx(200e-6), pytest.approx(2000e-6)]]
    assert "costs by the given prices, tokens counted, 200 assumed for an answer" in table.source
    with_tokens = [{**rows[0], "poet_tokens_in": 5, "poet_tokens_out": 7}]
    assert read_outcomes(with_tokens, prices={"poet": Prices(0, 1)}).costs[0, 0] == pytest.approx(7e-6)


def test_given_prices_count_the_answers_that_a_table_holds():
    rows = [{"prompt": SUM, "model": "sage", "score": 1, "response": text} for text in ("a" * 40, None)]
    for how in ({}, {"columns": {"answer": "response"}}):
        table = read_outcomes([rows[0], {**rows[1], "prompt": "?"}], prices={"sage": Prices(0, 1)}, **how)
        own, assumed = table.costs[:, 0]
        assert 0 < own < 50e-6, how
        assert assumed == pytest.approx(200e-6), how
        assert "tokens counted, 200 assumed for 1 of 2 answers" in table.source, how
    assert read_outcomes(rows, columns={"answer": "response"}).errors.tolist() == [[0]]


def test_sprout_has_tokens_and_no_costs_without_prices(tmp_path):
    columns = {name: [value, value] for name, value in SPROUT_ROW.items()} | {"openai-gpt-4o": [None, SPROUT]}
    table = read_outcomes(write_parquet(tmp_path / "train.parquet", columns | {"prompt": [SUM, POEM]}))
    np.testing.assert_array_equal(table.of(["wxai-llama-3.1", "openai-gpt-4o"]).errors, [[0.5, np.nan], [0.5, 0.5]])
    assert table.of(["wxai-llama-3.1"]).tokens_in.tolist() == [[100], [100]]
    assert np.isnan(table.costs).all()


def test_sprout_costs_come_from_prices_where_they_are_given(tmp_path):
    row = SPROUT_ROW | {"openai-gpt-4o": SPROUT}
    table = read_outcomes(write_jsonl(tmp_path / "sprout.jsonl", row), prices={"openai-gpt-4o": Prices(2.5, 10)})
    assert table.prices == {"openai-gpt-4o": Prices(2.5, 10)}
    costs = table.of(["openai-gpt-4o", "wxai-llama-3.1"]).costs
    np.testing.assert_allclose(costs, [[(100 * 2.5 + 10 * 10) / 1e6, np.nan]])


@pytest.mark.parametrize("name", ["mmlu_pro", "zeroeval", "bfcl2024", "llmrouter_ulab", "routellm"])
def test_each_folder_of_evaluation_data_is_read_whole(name):
    if not (DATA / name).is_dir():
        pytest.skip(f"no evaluation data in {DATA / name}; set UNIROUTER_DATA")
    pytest.importorskip("pyarrow", reason="Parquet needs unirouter[parquet]")
    table = read_outcomes(DATA / name)
    with np.load(DATA / name / "scores.npz", allow_pickle=False) as kept:
        assert table.models == tuple(kept["models"])
        np.testing.assert_allclose(table.errors, 1 - kept["scores"], atol=1e-6)
    assert set(table.prices) == set(table.models)
    assert np.nanmin(table.costs) >= 0


# What holds in every form


def test_repeats_of_a_prompt_and_a_model_are_averaged_over_what_is_known(tmp_path):
    header = ["prompt", "model", "quality", "cost"]
    path = write_csv(tmp_path / "o.csv", header, [SUM, "sage", 1, 0.5], [SUM, "sage", 0, ""], [SUM, "sage", "", 0.25])
    table = read_outcomes(path)
    assert (table.errors.tolist(), table.costs.tolist()) == ([[0.5]], [[0.375]])


def test_a_price_fills_a_cost_only_where_it_and_both_token_counts_are_known(tmp_path):
    header = ["prompt", "model", "quality", "cost", "tokens_in", "tokens_out"]
    lines = [[SUM, "sage", 1, "", 100, 10], [POEM, "sage", 1, 0.5, 100, 10], ["?", "sage", 1, "", 100, ""]]
    path = write_csv(tmp_path / "o.csv", header, *lines, [SUM, "poet", 1, "", 100, 10])
    costs = read_outcomes(path, prices={"sage": Prices(1, 2)}).of(["sage", "poet"]).costs
    np.testing.assert_allclose(costs, [[120 / 1e6, np.nan], [0.5, np.nan], [np.nan, np.nan]])


def test_a_byte_order_mark_blank_lines_and_a_long_prompt_are_read(tmp_path):
    document = "word " * 100_000  # past the limit of the csv module, which is as it was afterwards
    limit = csv.field_size_limit()
    table = read_outcomes(write(tmp_path / "o.csv", f"\ufeffprompt,model,quality\n\n{document},sage,1\n\n"))
    assert (len(table), table.prompts[0], csv.field_size_limit()) == (1, document, limit)


def test_parquet_without_pyarrow_names_what_to_install(tmp_path, monkeypatch):
    path = write_parquet(tmp_path / "o.parquet", {"prompt": [SUM], "model": ["sage"], "quality": [1]})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pip install 'unirouter\[parquet\]'"):
        read_outcomes(path)


# What cannot be used

BAD_CSV_LINES = {
    "quality": (f"{SUM},sage,87", r"quality \'87\' is outside \[0, 1\]; give its scale, such as scale=\"0-100\""),
    "negative": (f"{SUM},sage,-1", r"quality \'-1\' is outside \[0, 1\]; leave it empty"),
    "word": (f"{SUM},sage,good", "quality 'good' is not a number; write one"),
    "prompt": (" ,sage,1", "prompt is empty; give it text"),
    "model": (f"{SUM},,1", "model is empty; give it text"),
    "fields": ("A poem, please,sage,1", "4 fields, but the header has 3; quote commas"),
    "quote": ('"A poem,sage,1', "unexpected end of data; quote fields"),
}


def test_a_csv_line_that_cannot_be_used_is_named_with_the_cure(tmp_path):
    for line, message in BAD_CSV_LINES.values():
        path = write(tmp_path / "o.csv", f'prompt,model,quality\n"A line,\nand one",sage,1\n{line}')
        with pytest.raises(InvalidDataError, match=rf"o\.csv: line 4: {message}"):
            read_outcomes(path)


GOOD = {"prompt": SUM, "model": "sage", "error": 0, "cost": 0.1}
BAD_RECORDS = {
    "error": (GOOD | {"error": 1.5}, r"error 1\.5 is outside \[0, 1\]"),
    "cost": (GOOD | {"cost": -0.5}, r"cost -0\.5 must be finite and >= 0; leave it empty"),
    "infinite": (GOOD | {"cost": float("inf")}, "cost inf must be finite"),
    "nested": (GOOD | {"cost": [1]}, r"cost \[1\] is not a number"),
    "huge": (GOOD | {"cost": 10**400}, "cost 10+ is not a number"),
    "messages": (GOOD | {"prompt": ["Hello"]}, r"prompt \['Hello'\] is list, not text"),
    "no model": ({"prompt": SUM, "error": 0}, "model None is NoneType, not text"),
    "no error": ({"prompt": SUM, "model": "sage"}, "it has no error; write null"),
    "array": ([SUM, "sage", 0], "is not a JSON object; write one a line"),
}


def test_a_jsonl_line_that_cannot_be_used_is_named_with_the_cure(tmp_path):
    for case, (record, message) in BAD_RECORDS.items():
        with refused(case, rf"o\.jsonl: line 2: .*{message}"):
            read_outcomes(write_jsonl(tmp_path / "o.jsonl", GOOD, record))


def test_a_line_that_is_not_json_is_named(tmp_path):
    path = write(tmp_path / "o.jsonl", json.dumps(GOOD) + "\n\n{'prompt': 1}\n")
    with pytest.raises(InvalidDataError, match=r"o\.jsonl: line 3: .* is not JSON \(Expecting property name"):
        read_outcomes(path)


def test_a_parquet_row_that_cannot_be_used_is_named(tmp_path):
    path = write_parquet(tmp_path / "o.parquet", {"prompt": [SUM, None], "model": ["sage"] * 2, "quality": [1, 1]})
    with pytest.raises(InvalidDataError, match=r"o\.parquet: row 2: prompt None is NoneType, not text"):
        read_outcomes(path)


BAD_FILES = {
    "o.csv": ("prompt,model,cost\n", "it holds neither error nor quality; give one of the two"),
    "both.csv": ("prompt,model,error,quality\n", "it holds both error and quality; give one of the two"),
    "other.csv": ("text;who\n", "columns 'text', 'who' are not outcomes; give prompt"),
    "no_lines.csv": ("prompt,model,quality\n", "it holds no outcomes; give at least one"),
    "empty.jsonl": ("", r"columns \(none\) are not outcomes"),
    "text.parquet": ("prompt", "cannot be read as Parquet"),
    "o.xlsx": ("", r"\.xlsx is not read; give \.jsonl, \.json, \.csv, \.tsv, \.parquet or a folder"),
    "routerbench_0shot.pkl": ("", r"never read; convert .*read_pickle\(.*to_parquet\('routerbench_0shot.parquet'\)"),
}


def test_a_file_that_holds_no_outcomes_says_why_and_the_cure(tmp_path):
    for name in BAD_FILES:
        text, message = BAD_FILES[name]
        with refused(name, f"{name}: .*{message}"):
            read_outcomes(write(tmp_path / name, text))


def test_text_that_is_not_utf_8_is_named(tmp_path):
    path = tmp_path / "o.csv"
    path.write_bytes("prompt,model,quality\nfünf?,sage,1\n".encode("latin-1"))
    with pytest.raises(InvalidDataError, match=r"o\.csv: byte 22 is not UTF-8; save the file as UTF-8"):
        read_outcomes(path)


BAD_ARRAYS = {
    "percent": ({"scores": [[0, 50], [100, 100]]}, r"row 1: scores 50\.0 is outside \[0, 1\]; divide"),
    "shape": ({"scores": [[0, 1]]}, r"scores has shape \(1, 2\), but 2 prompts and 2 models need \(2, 2\)"),
    "order": ({"prompt_ids": ["p/1", "s/1"]}, "prompt_ids .*write both in one order"),
    "models": ({"models": ["poet", "bard"]}, "model 'bard' is in only one of scores.npz and costs.npz"),
    "pickled": ({"models": np.array(["poet", "sage"], object)}, "scores.npz cannot be read .*text as str arrays"),
}


@pytest.mark.parametrize(("changed", "message"), BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_a_folder_that_contradicts_itself_says_where(tmp_path, changed, message):
    with pytest.raises(InvalidDataError, match=f"set: {message}"):
        read_outcomes(write_folder(tmp_path / "set", **changed))


def test_a_folder_without_one_of_its_files_names_it(tmp_path):
    (write_folder(tmp_path / "set") / "costs.npz").unlink()
    with pytest.raises(InvalidDataError, match=r"set: costs\.npz is not in it; a folder of outcomes holds prompts"):
        read_outcomes(tmp_path / "set")


def test_a_folder_with_a_price_that_is_not_a_pair_says_so(tmp_path):
    write(write_folder(tmp_path / "set") / "meta.json", '{"prices_usd_per_mtok": {"poet": 3}}')
    with pytest.raises(InvalidDataError, match=r"meta\.json: .*maps a model to \[input, output\]"):
        read_outcomes(tmp_path / "set")


# What would take too much, or raise what is not ours


def test_a_truth_in_a_csv_is_a_grade_however_it_is_written(tmp_path):
    for written, quality in [("True", 1), ("true", 1), ("TRUE", 1), (" False", 0), ("false", 0)]:
        table = read_outcomes(write(tmp_path / "o.csv", f"prompt,model,quality\n{SUM},sage,{written}\n"))
        assert table.errors.tolist() == [[1 - quality]]


def test_data_frames_and_rows_are_read_as_files_are(tmp_path):
    pandas = pytest.importorskip("pandas", reason="data frames need unirouter[data]")
    rows = [
        {"prompt": SUM, "model": "sage", "quality": 1, "cost": 0.5},
        {"prompt": POEM, "model": "sage", "quality": 0},
    ]
    for given in (rows, pandas.DataFrame(rows), pandas.DataFrame(rows).convert_dtypes()):
        table = read_outcomes(given)
        assert (table.prompts, table.errors.tolist()) == ((SUM, POEM), [[0], [1]])
        np.testing.assert_array_equal(table.costs, [[0.5], [np.nan]])
    twice = pandas.DataFrame([[SUM, "sage", 1, 1]], columns=["prompt", "model", "quality", "quality"])
    with pytest.raises(InvalidDataError, match="two columns are named 'quality'; rename one"):
        read_outcomes(twice)


def test_a_line_longer_than_any_chat_is_refused_unread(tmp_path):
    for name in ("o.jsonl", "o.csv"):
        with pytest.raises(InvalidDataError, match="line 1: it has more than 16,777,216 characters; split"):
            read_outcomes(write(tmp_path / name, "x" * (2**24 + 1)))


def test_a_pipe_is_refused_unread(tmp_path):
    for name in ["o.jsonl", "o.csv", "o.parquet"]:
        os.mkfifo(tmp_path / name)
        with pytest.raises(InvalidDataError, match=f"{name}: .*no regular file"):
            read_outcomes(tmp_path / name)


def test_json_that_python_cannot_hold_is_named(tmp_path):
    for text in ['{"prompt": ' + "[" * 100_000, '{"cost": ' + "9" * 5_000 + "}"]:
        with pytest.raises(InvalidDataError, match=r"o\.jsonl: line 1: .* is not JSON"):
            read_outcomes(write(tmp_path / "o.jsonl", text))


def test_a_file_damaged_anywhere_or_gone_is_read_or_refused_in_our_words(tmp_path):
    write_folder(tmp_path / "set")
    write_parquet(tmp_path / "o.parquet", {"prompt": [SUM], "model": ["sage"], "quality": [1]})
    random = np.random.default_rng(0)
    for file in [tmp_path / "o.parquet", *(tmp_path / "set").iterdir()]:
        whole = file.read_bytes()
        for _ in range(40):
            content = np.frombuffer(whole, np.uint8).copy()
            content[random.integers(len(whole), size=3)] ^= np.uint8(1) << np.uint8(random.integers(8))
            file.write_bytes(content.tobytes())
            with suppress(InvalidDataError):
                read_outcomes(tmp_path / "set" if file.parent.name == "set" else file)
        file.write_bytes(whole)
    with pytest.raises(InvalidDataError, match=r"nowhere\.csv: it cannot be read \(No such file"):
        read_outcomes(tmp_path / "nowhere.csv")


@pytest.mark.parametrize(
    "scores", [[["a", "b"], ["c", "d"]], np.full((2, 2), "2020-01-01", "datetime64[D]"), [[1j, 0], [0, 0]]], ids=repr
)
def test_arrays_of_texts_and_dates_are_no_scores(tmp_path, scores):
    with pytest.raises(InvalidDataError, match=r"scores.* (is no array of|neither) numbers"):
        read_outcomes(write_folder(tmp_path / "set", scores=scores))


def test_arrays_that_unpack_to_more_than_their_file_can_hold_are_refused(tmp_path):
    write_folder(tmp_path / "set")
    np.savez_compressed(tmp_path / "set" / "scores.npz", scores=np.zeros(80 << 20, np.uint8))
    with pytest.raises(InvalidDataError, match=r"scores\.npz cannot be read \(its arrays are too large"):
        read_outcomes(tmp_path / "set")


def test_readers_at_once_leave_the_csv_module_s_limit_as_it_was(tmp_path):
    path = write_csv(tmp_path / "o.csv", ["prompt", "model", "quality"], *[[SUM, "sage", 1]] * 2_000)
    limit = csv.field_size_limit()
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(read_outcomes, [path] * 8))
    assert csv.field_size_limit() == limit


# --- Bounds -----------------------------------------------------------------------------------------------------------


def test_columns_that_come_once_each_take_no_room_in_the_other_rows(tmp_path):
    rows = [{"prompt": "a", "model": "m", "quality": 1, f"tag {row}": {"x": 1}} for row in range(4000)]
    file = write_jsonl(tmp_path / "a.jsonl", *rows)
    tracemalloc.start()
    read_outcomes(file)
    assert tracemalloc.get_traced_memory()[1] < 50e6  # 4,000 rows of 8,000 columns were 256 MB
    tracemalloc.stop()


def test_a_csv_that_is_refused_leaves_the_limit_of_the_csv_module_as_it_was(tmp_path):
    for content in [b"\xff,model,quality\na,m,1\n", b"x" * (2**24 + 1)]:
        (tmp_path / "a.csv").write_bytes(content)
        before = csv.field_size_limit()
        with pytest.raises(InvalidDataError):
            read_outcomes(tmp_path / "a.csv")
        assert csv.field_size_limit() == before


def test_a_table_of_millions_of_columns_or_with_ids_for_models_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("prompt,model,quality" + "," * 200_000)
    with pytest.raises(InvalidDataError, match=r"has 200,003 columns, more than 131,072"):
        read_outcomes(tmp_path / "a.csv")
    rows = [{"prompt": f"{row}", "model": f"run {row}", "quality": 1} for row in range(3000)]
    with pytest.raises(InvalidDataError, match=r"3,000 answers are of 3,000 prompts and 3,000 models; .*--columns"):
        read_outcomes(rows)


def test_a_parquet_text_that_comes_again_is_one_in_memory_and_empty_rows_are_bounded(tmp_path):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    long = pa.DictionaryArray.from_arrays(pa.array([0] * 3000, pa.int32()), pa.array(["x" * 10**6]))
    parquet.write_table(
        pa.table({"prompt": long, "model": ["m"] * 3000, "quality": [1] * 3000}), tmp_path / "a.parquet"
    )
    assert len(read_outcomes(tmp_path / "a.parquet")) == 1  # 3 GB if each were a copy
    empty = pa.nulls(10**7, pa.string())
    parquet.write_table(pa.table({"prompt": empty, "model": empty, "quality": empty}), tmp_path / "b.parquet")
    with pytest.raises(InvalidDataError, match="too large for a file of this size"):
        read_outcomes(tmp_path / "b.parquet")


def test_an_array_of_texts_without_letters_is_refused_whatever_its_shape(tmp_path):
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<U0", "fortran_order": False, "shape": (10**12,)})
    folder = write_folder(tmp_path / "set")
    with zipfile.ZipFile(folder / "costs.npz", "w") as packed:
        packed.writestr("models.npy", head.getvalue())
    with pytest.raises(InvalidDataError, match="'models' holds <U0, neither numbers nor texts"):
        read_outcomes(folder)


def test_columns_as_pandas_writes_them_are_put_together_by_their_rows(tmp_path):
    columns = {"prompt": {"0": "a", "1": "b"}, "model": {"1": "m", "0": "m"}, "quality": {"1": 0, "0": 1}}
    table = read_outcomes(write(tmp_path / "a.json", json.dumps(columns)))
    assert dict(zip(table.prompts, table.errors[:, 0], strict=True)) == {"a": 0, "b": 1}
