"""Records of calls, as applications, LiteLLM and tools for traces and tests write them, to rows of answers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from unirouter_core.reading import ABSENT, user_text
from unirouter_core.tables import GivenColumns, find_columns, is_empty, quoted, refuse

Record: TypeAlias = Mapping[str, Any]
Row: TypeAlias = dict[str, Any]
Numbered: TypeAlias = tuple[Any, Any]  # the line or row of a record, and the record

# Where each field is, the first that is there: in bodies of OpenAI and Anthropic, LiteLLM's StandardLoggingPayload,
# observations and dataset items of Langfuse, runs and experiments of LangSmith, experiments of Braintrust
_WHERE = {
    "prompt": """request.messages request.body.messages body.messages messages request.input body.input request.prompt
        inputs.messages inputs input prompt question query user_input instruction""",
    "model": """model request.model request.body.model body.model provided_model_name providedModelName model_name
        extra.metadata.ls_model_name metadata.ls_model_name extra.invocation_params.model metadata.model response.model
        response.body.model generator deployment""",
    "answer": """response.body response output outputs completion choices actual_output actualOutput
        answer""",
    "reference": "expected expected_output expectedOutput reference reference_outputs ground_truth target ideal",
    "tokens_in": """usage.prompt_tokens usage.input_tokens usage.input usage_details.input usageDetails.input inputUsage
        metrics.prompt_tokens prompt_tokens promptTokens input_tokens inputTokens tokens_in""",
    "tokens_out": """usage.completion_tokens usage.output_tokens usage.output usage_details.output usageDetails.output
        outputUsage metrics.completion_tokens completion_tokens completionTokens output_tokens outputTokens
        tokens_out""",
    "cost": "response_cost total_cost totalCost calculatedTotalCost cost metrics.estimated_cost usage.cost usd",
    "failure": "error error_str",
}
_PATHS = {field: paths.split() for field, paths in _WHERE.items()}
_MARKS = (
    "messages request body inputs traceId trace_id run_type standard_logging_object response_cost scores metricsData"
)
_PREFIXES = ("inputs", "outputs", "reference", "feedback", "scores", "metadata", "metrics", "extra")
_TEXTS = "text content question query input prompt output answer response result"  # the fields with an object's text
_CALLS = ("llm", "generation")  # the kinds of runs and of observations that are calls of a model


class Quality:
    """The metric that is the quality in all records: the one that is given, else the one with a name that is known.

    Of `name`, "exact_match,flexible-extract" gives a filter of lm-evaluation-harness, too.
    """

    def __init__(self, given: GivenColumns) -> None:
        given_name = given.get("quality")
        self.name = given_name if given_name is None or isinstance(given_name, str) else given_name[0]
        self.filter = ""
        if self.name is not None and "," in self.name:
            self.name, _, self.filter = self.name.partition(",")
        self._missing: list[str] | None = None
        self._without: set[tuple[str, ...]] = set()  # names of fields among which there is none; a log repeats them

    def of(self, metrics: Record, only: bool = False) -> Any:
        """Return the quality among `metrics`, None where it is not there.

        With `only`, they are metrics and nothing else, so that a single one is the quality, whatever its name.
        """
        if self.name is None and (names := tuple(metrics)) not in self._without:
            self._without.add(names)
            found = find_columns(list(metrics), kinds=["quality"]).get("quality", list(metrics) if only else [])
            if len(found) > 1:
                refuse(f"{quoted(found)} may each be the quality", "quality", found[0])
            self.name = found[0] if found else None
        if self.name in metrics:
            self._missing = []
        elif self._missing is None and metrics:
            self._missing = list(metrics)
        return plain(metrics.get(self.name)) if self.name is not None else None

    def __str__(self) -> str:
        return f"{self.name},{self.filter}" if self.filter not in ("", "none") else str(self.name)

    def check(self) -> None:
        """Raise `InvalidDataError` when no record had the metric that was given."""
        if self.name is not None and self._missing:
            refuse(f"quality {self.name!r} is in no record; there are {quoted(self._missing)}", "quality", "NAME")


def is_call(record: Record) -> bool:
    """Return whether a record is one of a call, with parts of its own, and no row of a plain table."""
    return not record.keys().isdisjoint(_MARKS.split()) or isinstance(record.get("response"), Mapping)


def nested(row: Record) -> dict[str, Any]:
    """Return a row with JSON texts read and the fields of "inputs.question" under "inputs"."""
    record: dict[str, Any] = {}
    for name, value in row.items():
        if value is ABSENT:
            continue
        outer, dot, inner = name.partition(".")
        if dot and outer in _PREFIXES:
            if isinstance(record.setdefault(outer, {}), dict):
                record[outer][inner] = from_json(value)
        else:
            record[name] = from_json(value)
    return record


def from_json(value: Any) -> Any:
    """Return what a JSON text of an object or a list says; any other value as it is."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def rows_of(record: Record, given: GivenColumns, quality: Quality) -> Iterator[dict[str, Any]]:
    """Yield the answer of a record; nothing for a record of anything but a call of a model."""
    record = record.get("standard_logging_object", record)
    kind = record.get("run_type", record.get("type"))
    if isinstance(kind, str) and kind.lower() not in _CALLS and ("run_type" in record or kind.isupper()):
        return
    row = {field: dig(record, *paths) for field, paths in _PATHS.items()}
    body = record.get("response")
    usage = dig(body, "body.usage", "usage") if isinstance(body, Mapping) else None
    for side in ("tokens_in", "tokens_out") if usage is not None else ():
        row[side] = dig({"usage": usage}, *_PATHS[side])
    scores = scores_of(record)
    only = quality.name is None and len(scores) == 1  # then it is the quality, whatever its name
    row["quality"] = quality.of(scores if only else {**record, **scores}, only)
    for field in set(given) & row.keys() - {"quality"}:
        named = given[field]
        row[field] = named[1:] if str(named).startswith("=") else dig(record, str(named))
    messages = chat_of(row["prompt"])
    row |= {"messages": messages, "prompt": user_text(messages) if messages else text_of(row["prompt"])}
    row |= {"answer": answer_of(row["answer"]), "reference": text_of(row["reference"])}
    if messages and messages[-1]["role"] in ("assistant", "ai") and is_empty(row["answer"]):
        row |= {"messages": messages[:-1], "answer": text_of(messages[-1].get("content"))}  # a chat for fine-tuning
    if not is_empty(row.pop("failure")):
        row |= {"answer": None, "quality": None}
    if row["prompt"]:
        yield row


def dig(record: Any, *paths: str) -> Any:
    """Return the value at the first of some paths ("usage.prompt_tokens") that has one."""
    for path in paths if isinstance(record, dict) else ():
        value = record.get(path)
        if value is None and "." in path:
            first, *names = path.split(".")
            value = from_json(record.get(first))
            for name in names:
                value = from_json(value.get(name)) if isinstance(value, dict) else None
        if value is not None and value not in ("", {}, []):
            return from_json(value)
    return None


def scores_of(record: Record) -> dict[str, Any]:
    """Return the scores of a record by name: a mapping, or a list of names and values."""
    found: dict[str, Any] = {}
    for name in ("scores", "feedback", "feedback_stats", "metricsData"):
        scores = record.get(name)
        if isinstance(scores, Sequence) and not isinstance(scores, str):
            scores = {
                s.get("name", s.get("key")): s.get("value", s.get("score")) for s in scores if isinstance(s, Mapping)
            }
        found |= {str(key): plain(value) for key, value in scores.items()} if isinstance(scores, Mapping) else {}
    return found


def plain(score: Any) -> Any:
    """Return the number of a score: Langfuse lists them, LangSmith's statistics have averages."""
    score = score.get("avg", score.get("score")) if isinstance(score, Mapping) else from_json(score)
    if isinstance(score, list) and score and all(isinstance(each, int | float) for each in score):
        return sum(score) / len(score)
    return score[0] if isinstance(score, list) and len(score) == 1 else score


# --- Texts ------------------------------------------------------------------------------------------------------------


def chat_of(value: Any) -> list[dict[str, Any]] | None:
    """Return a chat in OpenAI's form, of that form or of LangChain's messages; None for anything else."""
    value = from_json(value)
    if isinstance(value, Mapping):
        value = value.get("messages", [value] if "role" in value else None)
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], list):
        value = value[0]  # LangChain's batch of one
    if not isinstance(value, list) or not value or not all(isinstance(message, Mapping) for message in value):
        return None
    chat = []
    for message in value:
        inner = message.get("kwargs", message.get("data", message))  # as LangChain writes its messages
        role = message.get("role") or (inner.get("type") if isinstance(inner, Mapping) else None) or message.get("type")
        if not isinstance(role, str) or not isinstance(inner, Mapping) or "content" not in inner:
            return None
        chat.append({"role": {"human": "user", "ai": "assistant"}.get(role, role), "content": inner["content"]})
    return chat


def text_of(value: Any) -> str | None:
    """Return the text in a value: itself, of the parts of a message, or the only text of an object."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list):
        parts = [text_of(part) for part in value]
        return "\n".join(part for part in parts if part) or None
    if isinstance(value, Mapping):
        if name := next((name for name in _TEXTS.split() if name in value), None):
            return text_of(from_json(value[name]))
        return text_of(next(iter(value.values()))) if len(value) == 1 else json.dumps(value, ensure_ascii=False)
    return str(value)


def answer_of(value: Any) -> str | None:
    """Return the text of an answer: a text, a message, or a response of OpenAI's, Anthropic's or LangChain's form."""
    value = from_json(value)
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        value = {"choices": value} if "message" in value[0] else value
    if isinstance(value, Mapping):
        for name in ("choices", "generations"):
            while isinstance(value, Mapping) and isinstance(value.get(name), list) and value[name]:
                value = value[name][0]
                value = value[0] if isinstance(value, list) and value else value
        if isinstance(value, Mapping) and isinstance(value.get("message"), Mapping):
            value = value["message"].get("kwargs", value["message"])
        if isinstance(value, Mapping) and isinstance(value.get("output"), list):  # OpenAI's Responses API
            value = [part for part in value["output"] if isinstance(part, Mapping) and part.get("type") == "message"]
    return text_of(value)
