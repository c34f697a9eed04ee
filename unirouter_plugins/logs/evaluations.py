"""Logs of evaluation tools to rows of graded answers."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from unirouter_core.reading import MOST_BYTES, MOST_JSON, MOST_PER_BYTE, parse_json, read_bytes, readable, user_text
from unirouter_plugins.logs.calls import Numbered, Quality, Record, Row, answer_of, chat_of, dig, text_of

_VERDICTS = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}  # Inspect AI's correct, partial, incorrect, no answer
_NO_METRICS = "doc_id doc target arguments resps filtered_resps filter metrics doc_hash prompt_hash target_hash task"


def prompt_row(prompt: Any, **fields: Any) -> Row:
    """Return a row with its prompt, which is a text, a chat, or the JSON of one."""
    chat = chat_of(prompt)
    return {"prompt": user_text(chat) if chat else text_of(prompt), "messages": chat, "quality": None, **fields}


def read_json(path: Path) -> Any:
    """Return the value in a file; raise `InvalidDataError` when it is not JSON."""
    with readable(f"{path.name} is not JSON", "write it again"):
        return parse_json(read_bytes(path, MOST_JSON))


def lm_eval(records: Iterable[Numbered], path: Path, model: str | None, quality: Quality) -> Iterator[tuple[Any, Row]]:
    """Yield the samples of lm-evaluation-harness of one filter: the one that is given, else the first of the file.

    The model is the one in the results beside the file, or `model`, or the name of the folder.
    """
    told = [dig(read_json(file), "model_name") for file in sorted(path.parent.glob("results_*.json"))]
    folder = path.parent.name if "__" in path.parent.name else model
    model = next(filter(None, told), None) or (folder and folder.replace("__", "/", 1))
    for place, record in records:
        quality.filter = quality.filter or str(record.get("filter", "none"))
        if record.get("filter", quality.filter) != quality.filter:
            continue
        names = record.get("metrics") or [name for name in record if name not in _NO_METRICS.split()]
        answer = text_of(_first(record.get("filtered_resps") or record.get("resps")))
        fields = {"model": model, "answer": answer, "reference": text_of(record.get("target"))}
        prompt = _first(dig(record, "arguments.gen_args_0.arg_0") or record["arguments"])
        yield place, prompt_row(prompt, quality=quality.of({n: record.get(n) for n in names}, only=True), **fields)


def _first(value: Any) -> Any:
    while isinstance(value, list) and value:
        value = value[0]
    return value


def inspect_archive(path: Path, quality: Quality) -> Iterator[tuple[Any, Row]]:
    """Yield the samples of an Inspect AI log in its packed form, which are read one at a time."""
    convert = f"write it as JSON: inspect log convert {path.name} --to json --output-dir ."
    with readable("it cannot be read as a log of Inspect AI", convert), zipfile.ZipFile(path) as packed:
        sizes = {member.filename: member.file_size for member in packed.infolist()}
        if sum(sizes.values()) > MOST_BYTES + MOST_PER_BYTE * path.stat().st_size:
            raise ValueError("it unpacks to more than a file of this size should hold")
        heads = [name for name in ("header.json", "_journal/start.json", "start.json") if name in sizes]
        samples = (parse_json(packed.read(name)) for name in sizes if re.fullmatch(r"samples/.+\.json", name))
        yield from inspect(samples, dig(parse_json(packed.read(heads[0])), "eval.model"), quality)


def inspect(samples: Iterable[Any], model: Any, quality: Quality) -> Iterator[tuple[Any, Row]]:
    """Yield the samples of an Inspect AI log; those that failed have no grade."""
    for place, sample in enumerate(samples, 1):
        metrics = dict[str, Any]()
        for scorer, score in (sample.get("scores") or {}).items():
            value = score.get("value") if isinstance(score, Mapping) else score
            each = {f"{scorer}/{k}": v for k, v in value.items()} if isinstance(value, Mapping) else {scorer: value}
            metrics |= {name: _VERDICTS.get(v, v) if isinstance(v, str) else v for name, v in each.items()}
        usage = (sample.get("model_usage") or {}).get(model) or dig(sample, "output.usage") or {}
        tokens_in, tokens_out, total = (usage.get(f"{name}_tokens") for name in ("input", "output", "total"))
        if total and tokens_out is not None:
            tokens_in = total - tokens_out  # those of the prompt cache, too
        fields = {"tokens_in": tokens_in, "tokens_out": tokens_out, "cost": usage.get("total_cost"), "model": model}
        if sample.get("error") is None:
            fields |= {"quality": quality.of(metrics, only=True), "answer": answer_of(sample.get("output"))}
        yield place, prompt_row(sample.get("input"), reference=text_of(sample.get("target")), **fields)


def promptfoo(record: Record, quality: Quality) -> Row:
    """Return the row of a promptfoo result; what failed has no grade, what came from its cache no cost."""
    provider, response = record["provider"], record.get("response") or {}
    if isinstance(provider, Mapping):
        provider = provider.get("label") or provider.get("id")
    quality.name = quality.name or "score"
    metrics = {**(record.get("namedScores") or {}), "score": record.get("score"), "success": record.get("success")}
    failed = record.get("failureReason") == 2 or (record.get("error") and "output" not in response)
    return prompt_row(
        dig(record, "prompt.raw", "prompt"),
        model=provider,
        quality=None if failed else quality.of(metrics),
        answer=text_of(response.get("output")),
        tokens_in=dig(response, "tokenUsage.prompt"),
        tokens_out=dig(response, "tokenUsage.completion"),
        cost=None if response.get("cached") else dig(record, "cost", "response.cost"),
    )


def openai_evals(records: Iterable[Numbered], quality: Quality) -> Iterator[tuple[Any, Row]]:
    """Yield the samples of a log of OpenAI evals: each one's first sampling, and its match or metrics."""
    samples, metrics, model = dict[Any, tuple[Any, Row]](), dict[Any, dict[str, Any]](), None
    for place, event in records:
        model = model or _first(dig(event, "spec.completion_fns"))
        key, data = event.get("sample_id"), event.get("data")
        if event.get("type") == "sampling" and key not in samples:
            usage = {"tokens_in": dig(data, "usage.prompt_tokens"), "tokens_out": dig(data, "usage.completion_tokens")}
            samples[key] = place, prompt_row(dig(data, "prompt"), answer=text_of(_first(data.get("sampled"))), **usage)
        elif event.get("type") in ("match", "metrics"):
            only = ("correct",) if event["type"] == "match" else tuple(data)
            metrics.setdefault(key, {}).update({name: data.get(name) for name in only})
    for key, (place, row) in samples.items():
        yield place, {**row, "model": model, "quality": quality.of(metrics.get(key, {}), only=True)}


def helm(folder: Path, quality: Quality) -> Iterator[tuple[Any, Row]]:
    """Yield the predictions in the folder of a HELM run; those of perturbed prompts are left out."""
    model = dig(read_json(folder / "run_spec.json"), "adapter_spec.model", "adapter_spec.model_deployment")
    whole = {each.get("id"): each for each in read_json(folder / "instances.json") if not each.get("perturbation")}
    for place, each in enumerate(read_json(folder / "display_predictions.json"), 1):
        instance, stats = whole.get(each.get("instance_id")), each.get("stats") or {}
        if instance is not None and not each.get("perturbation"):
            yield (
                place,
                prompt_row(
                    dig(instance, "input.text"),
                    model=model,
                    quality=quality.of({k: v for k, v in stats.items() if not k.startswith("num_")}, only=True),
                    answer=each.get("predicted_text"),
                    tokens_in=stats.get("num_prompt_tokens"),
                    tokens_out=stats.get("num_output_tokens"),
                ),
            )


def rows_of_log(
    path: Path | None, value: Any, records: Iterator[Numbered], model: str | None, quality: Quality
) -> tuple[str, Iterator[tuple[Any, Row]]] | None:
    """Return the name of a log's tool and its rows; None for no such log. `records` begin with the mapping `value`."""
    if "samples" in value and dig(value, "eval.model"):
        return "Inspect AI", inspect(value["samples"] or (), dig(value, "eval.model"), quality)
    if path is not None and {"doc_id", "arguments"} <= value.keys():
        return "lm-evaluation-harness", lm_eval(records, path, model, quality)
    if dig(value, "spec.completion_fns"):
        return "OpenAI evals", openai_evals(records, quality)
    if {"provider", "prompt"} <= value.keys() and not value.keys().isdisjoint(("gradingResult", "success", "vars")):
        return "promptfoo", ((place, promptfoo(record, quality)) for place, record in records)
    return None
