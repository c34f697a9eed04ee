"""Logs of calls and of prompts, without grades: prompts to learn from, and answers that were paid for."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.conftest import refused
from unirouter_core.costs import Prices
from unirouter_core.exceptions import InvalidDataError
from unirouter_core.outcome_files import read_outcomes
from unirouter_plugins.logs import read_log, read_prices

SUM = "What is 2 + 2?"
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": SUM}]
USAGE = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}
COMPLETION = {"model": "sage", "choices": [{"message": {"role": "assistant", "content": "4"}}], "usage": USAGE}
ANTHROPIC = {"content": [{"type": "text", "text": "4"}], "usage": {"input_tokens": 9, "output_tokens": 2}}
RESPONSES = {"output": [{"type": "message", "content": [{"type": "output_text", "text": "4"}]}], "usage": USAGE}
HUMAN = {"lc": 1, "id": ["langchain", "HumanMessage"], "kwargs": {"content": SUM, "type": "human"}}
GENERATIONS = {"generations": [[{"text": "4", "message": {"kwargs": {"content": "4", "type": "ai"}}}]]}

CALLS = {
    "OpenAI": {"request": {"model": "sage", "messages": CHAT}, "response": COMPLETION, "cost": 0.5},
    "OpenAI Responses": {"request": {"model": "sage", "input": SUM}, "response": RESPONSES, "cost": 0.5},
    "Anthropic": {"request": {"model": "sage", "messages": CHAT, "system": "-"}, "response": ANTHROPIC, "cost": 0.5},
    "a gateway's": {"body": {"model": "sage", "messages": CHAT}, "response": {"body": COMPLETION}, "cost": 0.5},
    "LiteLLM": {
        "id": "x",
        "call_type": "acompletion",
        "status": "success",
        "model": "sage",
        "messages": CHAT,
        "response": COMPLETION,
        "response_cost": 0.5,
        "prompt_tokens": 9,
        "completion_tokens": 2,
        "error_str": None,
    },
    "Langfuse's export to a bucket": {
        "trace_id": "t",
        "type": "GENERATION",
        "input": json.dumps(CHAT),
        "output": json.dumps({"role": "assistant", "content": "4"}),
        "provided_model_name": "sage",
        "usage_details": {"input": 9, "output": 2, "total": 11},
        "total_cost": 0.5,
    },
    "Langfuse's API": {
        "traceId": "t",
        "type": "GENERATION",
        "input": {"messages": CHAT},
        "output": {"content": "4"},
        "model": "sage",
        "usage": {"input": 9, "output": 2},
        "calculatedTotalCost": 0.5,
    },
    "LangSmith": {
        "run_type": "llm",
        "inputs": {"messages": [[HUMAN]]},
        "outputs": GENERATIONS,
        "extra": {"metadata": {"ls_model_name": "sage"}},
        "prompt_tokens": 9,
        "completion_tokens": 2,
        "total_cost": "0.5",
        "error": None,
    },
    "a table": {
        "prompt": SUM,
        "model": "sage",
        "response": "4",
        "input_tokens": 9,
        "output_tokens": 2,
        "cost": 0.5,
    },
}
CALLS["LiteLLM's callback"] = {"standard_logging_object": CALLS["LiteLLM"]}


def write(path, *records):
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return path


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_call_is_a_prompt_and_a_recorded_answer(tmp_path, call):
    log = read_log(write(tmp_path / "calls.jsonl", call, call))
    assert (log.prompts, log.outcomes) == ((SUM,), None)
    row = {name: column[0] for name, column in log.rows.values.items()}
    told = [row[name] for name in ("prompt", "model", "answer", "tokens_in", "tokens_out")]
    assert told == [SUM, "sage", "4", 9, 2]
    assert float(row["cost"]) == 0.5
    assert log.source.startswith("Read 1 prompt with 2 answers of 1 model (")


PROMPTS = {
    "chats": {"messages": CHAT},
    "chats for fine-tuning": {"messages": [*CHAT, {"role": "assistant", "content": "4"}]},
    "batches": {"custom_id": "1", "method": "POST", "body": {"model": "sage", "messages": CHAT}},
    "dataset items of Langfuse": {"input": {"question": SUM}, "expectedOutput": {"answer": "4"}, "metadata": {}},
    "examples of LangSmith": {"inputs": {"question": SUM}, "outputs": {"answer": "4"}},
    "strings": SUM,
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": SUM}, {"type": "image_url"}]}]},
}


def test_prompts_are_found_in_what_holds_no_model(tmp_path):
    for case, record in PROMPTS.items():
        assert read_log(write(tmp_path / "prompts.jsonl", record, record)).prompts == (SUM,), case


def test_a_text_file_has_a_prompt_a_line(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text(f"\ufeff{SUM}\r\n\r\nA poem.\n", encoding="utf-8")
    assert read_log(path).prompts == (SUM, "A poem.")


def test_references_come_with_their_prompts(tmp_path):
    rows = read_log(write(tmp_path / "items.jsonl", PROMPTS["dataset items of Langfuse"])).rows
    assert list(rows.values["reference"]) == ["4"]


def test_runs_that_call_no_model_are_left_out(tmp_path):
    chain = {"run_type": "chain", "inputs": {"question": "Who?"}, "outputs": {"answer": "You."}}
    span = {"traceId": "t", "type": "SPAN", "input": "Who?", "output": "You."}
    log = read_log(write(tmp_path / "runs.jsonl", chain, CALLS["LangSmith"], span))
    assert log.prompts == (SUM,)
    with pytest.raises(InvalidDataError, match="it holds no prompt and no call of a model"):
        read_log(write(tmp_path / "chains.jsonl", chain))


def test_a_call_that_failed_is_no_answer(tmp_path):
    failed = CALLS["LiteLLM"] | {"response": {}, "status": "failure", "error_str": "429"}
    log = read_log(write(tmp_path / "calls.jsonl", failed))
    assert (log.prompts, log.source) == ((SUM,), "Read 1 prompt (calls; no grades).")


def test_paths_say_where_a_prompt_is(tmp_path):
    run = CALLS["LangSmith"] | {"inputs": {"template": "-", "asked": {"text": SUM}}}
    path = write(tmp_path / "runs.jsonl", run)
    assert read_log(path, columns={"prompt": "inputs.asked.text"}).prompts == (SUM,)


def test_scores_of_observations_are_grades(tmp_path):
    scored = CALLS["Langfuse's API"] | {"scores": [{"name": "helpful", "value": 0.75}, {"name": "tone", "value": 1}]}
    log = read_log(write(tmp_path / "traces.jsonl", scored), columns={"quality": "helpful"})
    assert (log.outcomes.errors.tolist(), log.outcomes.costs.tolist()) == ([[0.25]], [[0.5]])


# Prices


def test_a_file_of_prices_gives_answers_their_cost(tmp_path):
    row = {"prompt": SUM, "model": "openai/sage", "score": 1, "input_tokens": 1_000_000, "output_tokens": 2_000_000}
    prices = {"sage": Prices(0.5, 1.0)}
    outcomes = read_log([row, {**row, "model": "poet"}], prices=prices).outcomes
    assert outcomes.costs.tolist()[0][0] == 2.5
    assert outcomes.source.endswith("no costs of poet).")


def test_the_same_answers_cost_the_same_in_each_form_of_file(tmp_path):
    texts, prices = ("Four, as is well known.", "4", None), {"sage": Prices(0, 1_000)}
    rows = [{"prompt": f"{SUM} {i}", "model": "sage", "response": text, "score": 1} for i, text in enumerate(texts)]
    chats = [{**row, "messages": [{"role": "user", "content": row["prompt"]}]} for row in rows]
    for row in chats:
        del row["prompt"]
    folder = tmp_path / "folder"
    folder.mkdir()
    write(folder / "rows.jsonl", *rows)
    forms = write(tmp_path / "rows.jsonl", *rows), write(tmp_path / "chats.jsonl", *chats), folder, rows
    for form in forms:
        costs = read_log(form, prices=prices).outcomes.costs[:, 0]
        assert costs[0] > costs[1] > 0, form
        assert costs[2] == pytest.approx(0.2), form  # 200 tokens where there is no text
        assert np.array_equal(costs, read_outcomes(rows, prices=prices).costs[:, 0]), form


FILES = {
    "prices.csv": "model,input,output\nsage,0.5,1\n",
    "prices.json": '{"sage": {"input": 0.5, "output": 1}}',
    "pairs.json": '{"sage": [0.5, 1]}',
    "map.json": '{"sage": {"input_cost_per_token": 5e-7, "output_cost_per_token": 1e-6, "mode": "chat"}, "x": {}}',
    "prices.toml": "sage = { input = 0.5, output = 1 }",
    "pool.toml": '[models.a]\nmodel = "sage"\nprices = { input = 0.5, output = 1 }\n[models.b]\nmodel = "poet"\n',
}


def test_prices_are_read_in_each_form(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
        assert read_prices(tmp_path / name)["sage"] == Prices(0.5, 1), name


NO_PRICES = {
    '{"sage": {"input": -1, "output": 1}}': "prices of 'sage': Price input=-1.0 must be",
    '{"sage": {"input": "much", "output": 1}}': "prices of 'sage': could not convert .*USD per million tokens",
    '{"sage": 3}': "it has no prices; each model has input and output",
    "[1]": "cannot be read",
    "{": "cannot be read",
}.items()


def test_what_is_no_price_is_named(tmp_path):
    for text, message in NO_PRICES:
        (tmp_path / "prices.json").write_text(text)
        with refused(text, rf"prices\.json: .*{message}"):
            read_prices(tmp_path / "prices.json")


# What cannot be read


REFUSED = [
    ("o.jsonl", "{", r"line 1: '\{' is not JSON"),
    ("o.jsonl", "", "it is empty; give at least one row"),
    ("o.json", "{", "o.json is not JSON"),
    ("o.json", "[1, 2]", "is not a JSON object"),
    ("o.jsonl", '{"messages": []}\n3', "line 2: 3 is not a JSON object"),
    ("o.json", '{"prompt": ["a", "b"], "model": ["c"]}', "column 'prompt' has 2 rows, but 'model' 1"),
    (
        "o.jsonl",
        '{"doc_id": 1, "arguments": [["?"]], "resps": []}\n{"doc_id": 2}',
        "record, 2: it is not written as lm-",
    ),
    ("o.csv", "day,hour\n1,2\n", r"columns 'day', 'hour' are not outcomes; .*--columns prompt=day"),
    ("o.eval", "PK", r"cannot be read as a log of Inspect AI .*inspect log convert o\.eval --to json"),
    ("o.xlsx", "", r"\.xlsx is not read"),
    ("o.pkl", "", "a pickle runs whatever program"),
]


def test_a_file_that_cannot_be_read_is_named_with_the_place_and_the_cure(tmp_path):
    for name, text, message in REFUSED:
        (tmp_path / name).write_text(text)
        with refused(f"{name} {text}", rf"{name}: .*{message}"):
            read_log(tmp_path / name)


def test_a_folder_without_logs_says_what_it_may_hold(tmp_path):
    with pytest.raises(InvalidDataError, match=r"it holds no table and no log \(\.jsonl, .*\.eval\)"):
        read_log(tmp_path)
