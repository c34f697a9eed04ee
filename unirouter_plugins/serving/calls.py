"""A request on its way through the proxy: its attempts, its record, the headers and counters that tell of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from typing import Any, Self

from unirouter_core.router import UniRouter
from unirouter_plugins.litellm import LiteLLMCall
from unirouter_plugins.litellm.chat import RECORD, portable
from unirouter_plugins.litellm.prices import Usage, checked_usage
from unirouter_plugins.litellm.routed import CallRecord, NoAnswerError, Record
from unirouter_plugins.litellm.snapshot import PoolModels
from unirouter_plugins.serving.config import GROUP
from unirouter_plugins.serving.requests import ProxyRequest


class ProxyCall(LiteLLMCall):
    """A request on its way through the proxy, which calls the deployments itself: one attempt after the other."""

    newest_failure: Exception | None = None
    over: Exception | None = None  # what was raised, when no other model may answer
    baseline: str | None = None
    streams = False  # whether a stream has begun
    digest = ""  # of the conversation

    @classmethod
    def made(cls, models: PoolModels[Any], router: UniRouter, request: ProxyRequest, there: Sequence[str]) -> Self:
        """Return the call, its model picked among those `there`."""
        options, candidates = request.options, request.options.get("candidates")
        router.pool.check_known([*filter(None, [options.get("baseline")]), *(candidates or ())])
        if not {*router.pool} <= {*there}:
            candidates = [name for name in candidates or router.pool if name in there]
        how: dict[str, Any] = {"candidates": candidates, "forced": request.forced, "parameters": request.parameters}
        how |= {"text": request.text, "routed_on": "question" if options.get("question") else "prompt"}
        call = cls(models, router, request.chat, cost_weight=options.get("cost_weight"), **how)
        call.baseline = options.get("baseline")
        return call

    def next_attempt(self) -> str:
        """Return the model to call now; raise when no other may answer after the newest failure."""
        if self.over is not None:
            raise self.over
        failed, self.newest_failure = self.newest_failure, None
        try:
            self.failed(failed or NoAnswerError(f"{self.attempts.model!r} gave no answer."))
        except Exception as over:
            self.over = over
            raise
        return self.start()

    def show(self, metadata: dict[str, Any]) -> None:
        """Put the record as it stands into the metadata that the proxy's callbacks and logs of spend keep."""
        self._shown |= self.record().as_dict()
        metadata[RECORD] = self._shown
        metadata["spend_logs_metadata"] = {**(metadata.get("spend_logs_metadata") or {}), RECORD: self._shown}

    def end(self, answer: Any) -> CallRecord:
        """Return the record of the call, whose answer is whole; doing it again changes nothing."""
        if self.finished is not None:
            return self.finished
        record = self._answered(answer)
        self._shown["saved_usd"] = None if math.isnan(record.usd) else self.baseline_usd - record.usd
        count(self._shown)
        return record

    def changes(self, sent: Mapping[str, Any]) -> dict[str, Any]:
        """Return what of a chat's parameters is changed for the model that is called."""
        told = {"stream_options": {**(sent.get("stream_options") or {}), "include_usage": True}}
        writers = {*self.chat.answered_by} - {None, self.attempts.model}
        own = {"messages": self.chat.messages_for(self.attempts.model, self.chat.messages, portable)}
        return (told if sent.get("stream") else {}) | (own if writers else {})

    def price(self, answer: Any) -> None:
        """Tell LiteLLM what the answer of a program cost, which it cannot compute."""
        usd = self.usd_of(answer, self.usage_of(answer))
        if self.snapshot.members[self.attempts.model].is_program and not math.isnan(usd):
            answer._hidden_params["response_cost"] = usd

    def broke_off(self, failed: Exception) -> None:
        """Note that the model's stream has failed after its beginning, when no other could take its place."""
        self.models.health.failed(self._key, self._readable(failed))

    def usage_of(self, answer: Any) -> Usage:
        """Return the usage that a response tells, whichever API it is of."""
        usage = answer.get("usage") if isinstance(answer, Mapping) else getattr(answer, "usage", None)
        told = usage if isinstance(usage, Mapping) else getattr(usage, "__dict__", {})
        if "input_tokens" not in told:
            return super().usage_of(answer)
        read, written = (told.get(f"cache_{kind}_input_tokens") or 0 for kind in ("read", "creation"))
        own = getattr(told.get("input_tokens_details"), "cached_tokens", 0)  # of Responses, where it is part of them
        return checked_usage(told["input_tokens"] + read + written, told.get("output_tokens"), own or read, 0, written)

    def headers(self, answer: Any) -> dict[str, str]:
        """Return the headers of the answer; a stream's cost is the expected one, as it has only begun."""
        told = (self.record() if self.streams else self.end(answer)).as_dict()
        usd = told["expected_usd"] if told["usd"] is None else told["usd"]
        numbers = {"cost": usd, "saved": self.baseline_usd - usd, "error": told["expected_error"]}
        named = {"model": told["model"], **{name: f"{number:.6g}" for name, number in numbers.items()}}
        return {f"x-{GROUP}-{name}": value for name, value in named.items()}

    @cached_property
    def baseline_usd(self) -> float:
        """What the baseline would have cost: the model that the request names, else the dearest eligible one."""
        if self.baseline is not None:
            return self.decision.candidate(self.baseline).cost
        return max(row.cost for row in self.decision.ranking if row.excluded is None)


@cache
def _counters() -> Mapping[str, Any]:
    """Return the counters that the proxy's /metrics shows; none where Prometheus' client is not installed."""
    try:
        from prometheus_client import Counter
    except ImportError:
        return {}
    return {
        "answers": Counter("unirouter_answers", "Answers, by the model that gave them and why.", ["model", "why"]),
        "failures": Counter("unirouter_failures", "Calls that failed and were passed on.", ["model"]),
        "usd": Counter("unirouter_usd", "What answers cost.", ["model"]),
        "baseline": Counter("unirouter_baseline_usd", "What the baseline would have cost."),
    }


def count(record: Record) -> None:
    """Count an answer, what it cost, and the failures before it."""
    if not (counters := _counters()):
        return
    counters["answers"].labels(record["model"], record["why"]).inc()
    for model in record["failures"]:
        counters["failures"].labels(model).inc()
    if record["usd"] is not None:
        counters["usd"].labels(record["model"]).inc(record["usd"])
        counters["baseline"].inc(max(record["usd"] + record["saved_usd"], 0.0))
