"""Logs of evaluation tools to outcomes: one small log of each tool, made for this test."""

from __future__ import annotations

import csv
import json
import zipfile

import numpy as np
import pytest

from unirouter_core.exceptions import InvalidDataError
from unirouter_plugins.logs import read_log

SUM, POEM = "What is 2 + 2?", "A poem, please."
ANSWERS = [(SUM, "4", 1), (POEM, "Roses are red.", 0)]  # of the sage: prompt, answer, quality


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.suffix == ".jsonl"
    path.write_text("\n".join(map(json.dumps, value)) if lines else json.dumps(value), encoding="utf-8")
    return path


def write_csv(path, rows):
    with path.open("w", encoding="utf-8", newline="") as text:
        table = csv.DictWriter(text, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path


def check(log, model="sage", costs=None, tokens=None):
    table = log.outcomes
    assert (table.prompts, table.models) == ((SUM, POEM), (model,))
    np.testing.assert_array_equal(table.errors, [[0], [1]])
    np.testing.assert_array_equal(table.costs, [[np.nan]] * 2 if costs is None else [[cost] for cost in costs])
    np.testing.assert_array_equal(table.tokens_in, [[np.nan]] * 2 if tokens is None else [[n] for n in tokens])
    if log.rows is not None and "answer" in log.rows.values:
        assert list(log.rows.values["answer"]) == [answer for _, answer, _ in ANSWERS]


# lm-evaluation-harness


def samples(prompts=lambda prompt: {"gen_args_0": {"arg_0": prompt, "arg_1": {"until": ["\n"]}}}):
    for number, (prompt, answer, quality) in enumerate(ANSWERS):
        for kind, score in (("strict-match", quality), ("flexible-extract", 1 - quality)):
            sample = {"doc_id": number, "doc": {"question": "?"}, "target": "4", "arguments": prompts(prompt)}
            sample |= {"resps": [[answer]], "filtered_resps": [answer], "filter": kind, "metrics": ["exact_match"]}
            yield sample | {"doc_hash": "a", "prompt_hash": "b", "target_hash": "c", "exact_match": score}


FORMS = {
    "files": lambda prompt: {"gen_args_0": {"arg_0": prompt, "arg_1": {}}},
    "lists": lambda prompt: [[prompt, {}]],
    "chats": lambda prompt: {"gen_args_0": {"arg_0": [json.dumps([{"role": "user", "content": prompt}])]}},
}


@pytest.mark.parametrize("prompts", FORMS.values(), ids=FORMS)
def test_samples_of_lm_evaluation_harness_are_read_with_the_model_of_the_results(tmp_path, prompts):
    path = write(tmp_path / "samples_sums_2026.jsonl", [*samples(prompts)])
    write(tmp_path / "results_2026.json", {"model_name": "sage", "results": {}})
    log = read_log(path)
    check(log)
    assert log.source.endswith("(lm-evaluation-harness, quality=exact_match,strict-match; no costs).")


def test_the_filter_of_a_metric_can_be_chosen(tmp_path):
    path = write(tmp_path / "x__sage" / "samples_sums_2026.jsonl", [*samples()])
    table = read_log(path, columns={"quality": "exact_match,flexible-extract"}).outcomes
    assert (table.models, table.errors.tolist()) == (("x/sage",), [[1], [0]])


def test_a_folder_of_samples_holds_many_models_and_tasks(tmp_path):
    for model in ("a__poet", "b__sage"):
        for task, metric in (("sums", "exact_match"), ("poems", "acc")):
            sample = next(samples()) | {"arguments": [[task, {}]], "metrics": [metric], metric: 1}
            write(tmp_path / "out" / model / f"samples_{task}_2026.jsonl", [sample])
    table = read_log(tmp_path).outcomes
    assert (set(table.prompts), table.models) == ({"sums", "poems"}, ("a/poet", "b/sage"))


def test_samples_that_name_no_model_ask_for_it(tmp_path):
    path = write(tmp_path / "samples_sums_2026.jsonl", [*samples()])
    with pytest.raises(InvalidDataError, match=r"line 1: no model is named; .*\(--columns model==NAME\)"):
        read_log(path)
    check(read_log(path, columns={"model": "=sage"}))


# Inspect AI


def inspect_samples():
    for number, (prompt, answer, quality) in enumerate(ANSWERS, 1):
        chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": prompt}]
        sample = {"id": number, "epoch": 1, "input": prompt if quality else chat, "target": ["4"]}
        sample["output"] = {
            "choices": [{"message": {"role": "assistant", "content": [{"type": "text", "text": answer}]}}]
        }
        sample["scores"] = {"match": {"value": "C" if quality else "I", "answer": answer}}
        usage = {"input_tokens": 3, "input_tokens_cache_read": 7, "output_tokens": 2, "total_tokens": 12}
        yield sample | {"model_usage": {"sage": usage, "judge": {"input_tokens": 99, "output_tokens": 9}}}


def test_a_log_of_inspect_ai_is_read_in_both_its_forms(tmp_path):
    head = {"version": 2, "eval": {"model": "sage", "task": "sums"}, "results": {}}
    check(read_log(write(tmp_path / "log.json", head | {"samples": [*inspect_samples()]})), tokens=[10, 10])
    with zipfile.ZipFile(tmp_path / "log.eval", "w") as packed:
        packed.writestr("header.json", json.dumps(head))
        packed.writestr("summaries.json", "[]")
        for sample in inspect_samples():
            packed.writestr(f"samples/{sample['id']}_epoch_1.json", json.dumps(sample))
    check(read_log(tmp_path / "log.eval"), tokens=[10, 10])


def test_several_scorers_ask_which_is_the_quality(tmp_path):
    every = [{**each, "scores": {"match": {"value": "C"}, "judge": {"value": 0.25}}} for each in inspect_samples()]
    path = write(tmp_path / "log.json", {"eval": {"model": "sage"}, "samples": every})
    with pytest.raises(InvalidDataError, match=r"'match', 'judge' may each be the quality; .*--columns quality=match"):
        read_log(path)
    assert read_log(path, columns={"quality": "judge"}).outcomes.errors.tolist() == [[0.75], [0.75]]
    with pytest.raises(InvalidDataError, match="quality 'jury' is in no record; there are 'match', 'judge'"):
        read_log(path, columns={"quality": "jury"})


def test_a_sample_that_failed_has_no_grade(tmp_path):
    first, second = inspect_samples()
    log = {"eval": {"model": "sage"}, "samples": [first | {"error": {"message": "Timeout"}}, second]}
    np.testing.assert_array_equal(read_log(write(tmp_path / "log.json", log)).outcomes.errors, [[np.nan], [1]])


# promptfoo, OpenAI evals, HELM


def promptfoo_results():
    for prompt, answer, quality in ANSWERS:
        result = {"provider": {"id": "sage"}, "prompt": {"raw": prompt, "label": "p"}, "vars": {"x": 1}, "cost": 0.5}
        result["response"] = {"output": answer, "tokenUsage": {"prompt": 9, "completion": 2, "total": 11}}
        yield result | {"success": bool(quality), "score": quality, "namedScores": {"style": 0.5}, "failureReason": 0}


def test_results_of_promptfoo_are_read(tmp_path):
    results = {"evalId": "e", "results": {"version": 3, "results": [*promptfoo_results()]}, "config": {}}
    check(read_log(write(tmp_path / "out.json", results)), costs=[0.5, 0.5], tokens=[9, 9])
    path = write(tmp_path / "out.jsonl", [*promptfoo_results()])
    check(read_log(path), costs=[0.5, 0.5], tokens=[9, 9])
    assert read_log(path, columns={"quality": "style"}).outcomes.errors.tolist() == [[0.5], [0.5]]


def test_what_promptfoo_took_from_its_cache_or_could_not_ask_is_not_known(tmp_path):
    first, second = promptfoo_results()
    first["response"] |= {"cached": True}
    second |= {"failureReason": 2, "error": "429", "score": 0}
    table = read_log(write(tmp_path / "out.jsonl", [first, second])).outcomes
    np.testing.assert_array_equal(table.errors, [[0], [np.nan]])
    assert np.isnan(table.costs[0, 0])


def test_a_log_of_openai_evals_is_read(tmp_path):
    events = [{"spec": {"completion_fns": ["sage"], "eval_name": "sums.test", "run_id": "r"}}]
    for number, (prompt, answer, quality) in enumerate(ANSWERS):
        event = {"run_id": "r", "event_id": number, "sample_id": f"sums.{number}", "created_by": ""}
        chat = [{"role": "user", "content": prompt}]
        events.append(event | {"type": "sampling", "data": {"prompt": chat, "sampled": [answer]}})
        match = {"correct": bool(quality), "expected": "4", "picked": answer, "options": ["4"]}
        events.append(event | {"type": "match", "data": match})
    check(read_log(write(tmp_path / "log.jsonl", [*events, {"final_report": {"accuracy": 0.5}}])))


def test_a_run_of_helm_is_read(tmp_path):
    run = tmp_path / "runs" / "v1" / "sums,model=sage"
    write(run / "run_spec.json", {"name": "sums", "adapter_spec": {"model": "sage"}})
    write(run / "instances.json", [{"id": f"id{i}", "input": {"text": a[0]}} for i, a in enumerate(ANSWERS)])
    stats = [{"num_prompt_tokens": 9.0, "num_output_tokens": 2.0, "exact_match": quality} for *_, quality in ANSWERS]
    each = [{"instance_id": f"id{i}", "predicted_text": a[1], "stats": stats[i]} for i, a in enumerate(ANSWERS)]
    perturbed = {"instance_id": "id0", "perturbation": {"name": "typos"}, "stats": {"exact_match": 0}}
    write(run / "display_predictions.json", [*each, perturbed])
    check(read_log(tmp_path), tokens=[9, 9])
    check(read_log(run), tokens=[9, 9])


# Exports that are tables, or nearly


def exported(**of_each):
    return [{name: make(*answer) for name, make in of_each.items()} for answer in ANSWERS]


EXPORTS = {
    "LangSmith": exported(
        **{"inputs.question": lambda p, *_: p, "outputs.answer": lambda _, a, __: a, "error": lambda *_: ""},
        **{"reference.answer": lambda *_: "4", "feedback.correctness": lambda *a: a[2], "execution_time": lambda *_: 9},
        **{"metadata.ls_model_name": lambda *_: "sage", "example_id": lambda *_: "5f"},
    ),
    "Braintrust": exported(
        id=lambda *_: "5f",
        input=lambda p, *_: json.dumps({"question": p}),
        output=lambda _, a, __: json.dumps({"answer": a}),
        expected=lambda *_: "4",
        scores=lambda *a: json.dumps({"Factuality": a[2]}),
        metadata=lambda *_: json.dumps({"model": "sage"}),
        metrics=lambda *_: json.dumps({"prompt_tokens": 9, "completion_tokens": 2}),
    ),
    "Langfuse": exported(
        traceId=lambda *_: "5f",
        type=lambda *_: "GENERATION",
        input=lambda p, *_: json.dumps([{"role": "user", "content": p}]),
        output=lambda _, a, __: json.dumps({"role": "assistant", "content": a}),
        model=lambda *_: "sage",
        usageDetails=lambda *_: json.dumps({"input": 9, "output": 2}),
        totalCost=lambda *_: 0.5,
        correctness=lambda *a: json.dumps([a[2]]),
    ),
    "LLMRouter": exported(
        task_name=lambda *_: "sums",
        query=lambda p, *_: p,
        ground_truth=lambda *_: "4",
        model_name=lambda *_: "sage",
        response=lambda _, a, __: a,
        input_tokens=lambda *_: 9,
        output_tokens=lambda *_: 2,
        performance=lambda *a: a[2],
    ),
    "DeepEval": exported(
        input=lambda p, *_: p,
        actual_output=lambda _, a, __: a,
        expected_output=lambda *_: "4",
        model=lambda *_: "sage",
        success=lambda *a: bool(a[2]),
    ),
}
TOKENS = {"Braintrust": [9, 9], "Langfuse": [9, 9], "LLMRouter": [9, 9]}


@pytest.mark.parametrize("name", EXPORTS)
def test_an_export_is_read(tmp_path, name):
    for suffix in ("csv", "jsonl", "json"):
        path = tmp_path / f"export.{suffix}"
        write_csv(path, EXPORTS[name]) if suffix == "csv" else write(path, EXPORTS[name])
        check(read_log(path), costs=[0.5, 0.5] if name == "Langfuse" else None, tokens=TOKENS.get(name))


def test_a_metric_of_ragas_is_the_quality_when_it_is_given(tmp_path):
    rows = [{"user_input": p, "response": a, "faithfulness": q, "answer_relevancy": 1} for p, a, q in ANSWERS]
    path = write_csv(tmp_path / "ragas.csv", rows)
    assert "no grades" in (said := read_log(path).source)
    assert "--columns quality=NAME makes faithfulness or answer_relevancy the grade" in said
    check(read_log(path, columns={"quality": "faithfulness", "model": "=sage"}))


def test_a_test_run_of_deepeval_is_read_by_its_metric(tmp_path):
    cases = [
        {"input": p, "actualOutput": a, "success": True, "metricsData": [{"name": "Correctness", "score": q}]}
        for p, a, q in ANSWERS
    ]
    write(tmp_path / "sage.json", {"testCases": cases, "metricsScores": []})
    check(read_log(tmp_path))


def test_in_a_folder_of_tables_each_file_is_a_model(tmp_path):
    for model, quality in (("poet", 0), ("sage", 1)):
        write_csv(tmp_path / f"{model}.csv", [{"question": SUM, "response": "4", "correct": quality}])
    log = read_log(tmp_path)
    assert (log.outcomes.models, log.outcomes.errors.tolist()) == (("poet", "sage"), [[1, 0]])
    assert log.source.endswith("(prompt=question, model=the file's name, quality=correct; no costs).")
