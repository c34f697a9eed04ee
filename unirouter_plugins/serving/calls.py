"""A request on its way through the proxy: its attempts, its record, the headers and counters that tell of it."""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, cached_property, partial
from types import MappingProxyType
from typing import Any, Self

from unirouter_core.exceptions import UniRouterError
from unirouter_core.router import UniRouter
from unirouter_plugins.litellm import LiteLLMCall
from unirouter_plugins.litellm.chat import RECORD, Messages, portable
from unirouter_plugins.litellm.failures import open_litellm
from unirouter_plugins.litellm.prices import Usage, checked_usage
from unirouter_plugins.litellm.routed import CallRecord, NoAnswerError, Record
from unirouter_plugins.litellm.snapshot import PoolModels
from unirouter_plugins.litellm.timeouts import CallTimeoutError
from unirouter_plugins.serving.config import GROUP
from unirouter_plugins.serving.requests import ProxyRequest, name_of


class ProxyCall(LiteLLMCall):
    """A request on its way through the proxy, which calls the deployments itself: one attempt after the other.

    Where an answer is to be checked, the rest of the call is one attempt of the proxy: see `CheckedCalls`.
    """

    shows_usage = True

    newest_failure: Exception | None = None
    over: Exception | None = None  # what was raised, when no other model may answer
    baseline: str | None = None
    streams = False  # whether a stream has begun
    digest = ""  # of the conversation
    _metadata: Mapping[str, Any] = MappingProxyType({})  # that the proxy keeps of the request
    _ids: dict[str, str]  # of the deployments that a checked call has called, by model

    @classmethod
    def made(
        cls,
        models: PoolModels[Any],
        router: UniRouter,
        request: ProxyRequest,
        there: Sequence[str],
        *,
        check: bool = True,
    ) -> Self:
        """Return the call, its model picked among those `there`; its answers are checked if they may be."""
        options, candidates = request.options, request.options.get("candidates")
        router.pool.check_known([*filter(None, [options.get("baseline")]), *(candidates or ())])
        if not {*router.pool} <= {*there}:
            candidates = [name for name in candidates or router.pool if name in there]
        how: dict[str, Any] = {"candidates": candidates, "forced": request.forced, "parameters": request.parameters}
        how["kept"] = request.holder if request.holder in there else None
        how |= {"text": request.text, "routed_on": "question" if options.get("question") else "prompt"}
        how["check"] = check and options.get("check", True)
        call = cls(models, router, request.chat, cost_weight=options.get("cost_weight"), **how)
        call.baseline, call._ids = options.get("baseline"), {}
        call.why = "follow-up" if call.why == "query" else call.why
        return call

    def next_attempt(self) -> str:
        """Return the model to call now; raise when no other may answer after the newest failure."""
        if self.over is not None:
            raise self.over
        # Of a stream of messages LiteLLM tells no hook: it calls the next model while it handles the failure.
        failed, self.newest_failure = self.newest_failure or sys.exception(), None
        unknown = NoAnswerError(f"{self.attempts.model!r} gave no answer.")
        try:
            self.failed(failed if isinstance(failed, Exception) else unknown)
        except Exception as over:
            self.over = over
            raise
        return self.pick()

    def pick(self) -> str:
        """Return the model to call now; one whose answer is to be checked may cool down, as `CheckedCalls` sees."""
        return self.attempts.model if self.is_checked else self.start()

    @property
    def is_checked(self) -> bool:
        """Whether the answer of the model to call now is to be checked."""
        return self._check is not None

    def show(self, metadata: dict[str, Any]) -> None:
        """Put the record as it stands into the metadata that the proxy's callbacks and logs of spend keep."""
        self._shown |= self.record().as_dict()
        self._metadata = metadata
        metadata[RECORD] = self._shown
        metadata["spend_logs_metadata"] = {**(metadata.get("spend_logs_metadata") or {}), RECORD: self._shown}

    def end(self, answer: Any) -> CallRecord:
        """Return the record of the call, whose answer is whole; doing it again changes nothing."""
        record = self.finished or self._answered(self._telling if self._ids else answer)
        if "saved_usd" not in self._shown:
            self._shown["saved_usd"] = self.saved(record)
            count(self._shown)
        return record

    def saved(self, record: CallRecord) -> float | None:
        """Return the USD that the baseline would have cost more for as many tokens; None where those are not known."""
        quoted, baseline = self.snapshot.quote(self.baseline_model), self.snapshot.members[self.baseline_model]
        if record.model == self.baseline_model and not record.checked:
            return 0.0
        if quoted is None or math.isnan(record.usd) or not record.usage.is_known:
            return None
        if {record.model, self.baseline_model} & {*self.snapshot.panels}:  # of several models' tokens
            return self.decision.expected(self.baseline_model)[1] - record.usd
        return baseline.samples / self.snapshot.members[record.model].samples * quoted.usd(record.usage) - record.usd

    def unwell(self, failed: BaseException) -> None:
        """Note that a call to the model failed, unless the client has not waited as long as the router would."""
        is_own = "Timeout" in type(failed).__name__ and self.limits.timeout < self.models.limits.timeout
        super().unwell(asyncio.CancelledError() if is_own else failed)

    def changes(self, sent: Mapping[str, Any]) -> dict[str, Any]:
        """Return what of a chat's parameters is changed for the model that is called."""
        told = {"stream_options": {**(sent.get("stream_options") or {}), "include_usage": True}}
        writers = {*self.chat.answered_by} - {None, self.attempts.model}
        own = {"messages": self.chat.messages_for(self.attempts.model, self.chat.messages, portable)}
        return (told if sent.get("stream") else {}) | (own if writers else {})

    async def answered(self, answer: Any) -> Any:
        """Return an answer; one that is empty is a failure, and what comes in its place is the next model's.

        Raises where no other model may answer, or all others fail: the empty answer is then the one that is given.
        """
        empty, spent = self.attempts.model, self._usd_of_failures
        try:
            self._require_content([answer])
        except Exception as failed:
            bill = self._usd_of_failures - spent
            try:
                self.failed(failed)
                return await self.arun(self.deployed)
            except Exception:
                self.attempts.model = empty
                self._usd_of_failures -= bill  # it is the answer's again
                raise
        self.price(answer)
        return answer

    def price(self, answer: Any) -> None:
        """Tell LiteLLM what the answer of a program cost, which it cannot compute."""
        usd = self.usd_of(answer, self.usage_of(answer)) + self.usd_inside
        is_known = self.finished is None and not math.isnan(usd)
        if self.snapshot.members[self.attempts.model].is_program and is_known:
            answer._hidden_params["response_cost"] = usd

    def signed(self, chunk: Any, usage: Any = None) -> Any:
        """Return the last chunk of a stream with the model's name, and its cost where the chunk after it tells it."""
        told = self.record(self._telling if self._ids else usage).as_dict()
        known = getattr(chunk, "provider_specific_fields", None) or {}
        chunk.provider_specific_fields = {**known, RECORD: {"model": told["model"], "usd": told["usd"]}}
        return chunk

    # --- The rest of a call whose answers are checked -----------------------------------------------------------------

    @contextmanager
    def checking(self, messages: Messages, given: Mapping[str, Any], **more: Any) -> Iterator[None]:
        """Take what LiteLLM gives a custom provider for what models are sent; what is raised ends the whole call."""
        is_same = len(messages) == len(self.chat.messages)  # else LiteLLM has changed them: it is not known who wrote
        self.chat = replace(self.chat, messages=messages, answered_by=self.chat.answered_by if is_same else ())
        self.parameters |= given["optional_params"] | more
        around = {"extra_headers": given.get("headers"), "drop_params": given["litellm_params"].get("drop_params")}
        self.parameters |= {name: value for name, value in around.items() if value}
        try:
            yield
        except UniRouterError as failed:
            litellm = open_litellm()
            kind = litellm.Timeout if isinstance(failed, CallTimeoutError) else litellm.InternalServerError
            self.over = shown = kind(str(failed), self.attempts.model, GROUP)
            raise shown from failed
        except Exception as over:
            self.over = over
            raise

    def _model(self) -> dict[str, Any]:
        """Return the arguments of `deployed`; the record goes on where the proxy's callbacks and logs have it."""
        self._shown |= self.record().as_dict()
        return self.model_for({"no-log": True, "num_retries": 0, "disable_fallbacks": True})

    async def deployed(self, arguments: dict[str, Any]) -> Any:
        """Return the answer, or the stream, of the deployment of the model to call now."""
        from litellm.proxy.proxy_server import llm_router

        self._ids |= {name_of(each): each for each in llm_router.get_model_ids(GROUP)}
        deployment = self._ids.get(self.attempts.model)
        if deployment is None or not llm_router.has_model_id(deployment):
            raise NoAnswerError(f"{self.attempts.model!r} is not in the pool any more.")
        return await llm_router.acompletion(model=deployment, **arguments)

    def attach(self, answer: Any, record: CallRecord) -> Any:
        """Return the answer of a checked call with its whole cost, which LiteLLM cannot compute."""
        self.settle()
        if not math.isnan(record.usd):
            answer._hidden_params["response_cost"] = record.usd
        return answer

    def settle(self) -> None:
        """Have LiteLLM take the deployment that answers for the one that it called, in logs and ids of responses."""
        self._metadata.get("model_info", {})["id"] = self._ids[self.attempts.model]

    def passed(self, part: Any) -> Any:
        """Return a chunk of a checked call; the one that tells the usage has the cost of the whole call."""
        if not self.usage_of(part).is_known or math.isnan(usd := self.record(part).usd):
            return part
        return part.model_copy(update={"usage": part.usage.model_copy(update={"cost": usd})})

    # --- What is told -------------------------------------------------------------------------------------------------

    def broke_off(self, failed: Exception) -> None:
        """Note that the model's stream has failed after its beginning, when no other could take its place."""
        self.unwell(self._readable(failed))

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
        record = self.record() if self.streams else self.end(answer)
        told, saved = record.as_dict(), self.saved(record)
        rejected = sum(draft.usd for draft in self._drafts.values() if not math.isnan(draft.usd))
        usd = told["expected_usd"] + rejected if told["usd"] is None else told["usd"]
        saved = self.decision.expected(self.baseline_model)[1] - told["expected_usd"] if saved is None else saved
        numbers = {"cost": usd, "saved": saved, "error": told["expected_error"]}
        checked = {"checked": ", ".join(record.checked)} if record.checked else {}
        named = {"model": told["model"], **checked, **{name: f"{number:.6g}" for name, number in numbers.items()}}
        return {f"x-{GROUP}-{name}": value for name, value in named.items()}

    @cached_property
    def baseline_model(self) -> str:
        """What savings are counted against: the model that the request names, else the dearest that may answer."""
        may_answer = filter(self.decision.is_eligible, self.decision.pool)  # when it has cooled down
        return self.baseline or max(may_answer, key=lambda model: self.decision.expected(model)[1])


def tool_calls_of(answer: Any) -> Iterator[str]:
    """Yield the ids of the tool calls in an answer, whichever API it is of."""
    messages = [choice.message for choice in getattr(answer, "choices", None) or ()]
    parts = [part for message in messages for part in getattr(message, "tool_calls", None) or ()]
    parts += (answer.get("content") if isinstance(answer, Mapping) else getattr(answer, "output", None)) or ()
    for part in parts:
        read = part.get if isinstance(part, Mapping) else partial(getattr, part)
        if isinstance(name := read("call_id", None) or read("id", None), str):  # the former of Responses
            yield name


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
        counters["baseline"].inc(max(record["usd"] + (record["saved_usd"] or 0.0), 0.0))
