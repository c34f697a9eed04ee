"""One request of the proxy as a routed call: its chat, its options, and the record of its answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from unirouter_core.exceptions import InvalidDataError
from unirouter_core.router import UniRouter
from unirouter_core.rule import check_cost_weight
from unirouter_plugins.litellm import LiteLLMCall
from unirouter_plugins.litellm.chat import RECORD, Chat, Messages
from unirouter_plugins.litellm.failures import open_litellm
from unirouter_plugins.litellm.prices import Usage, usage_of
from unirouter_plugins.litellm.routed import NoAnswerError
from unirouter_plugins.litellm.snapshot import PoolModels
from unirouter_plugins.serving.config import GROUP

OPTIONS = ("cost_weight", "candidates", "question", "baseline")
"""What a request may set: in the header x-unirouter-cost-weight, or in its metadata as {"unirouter": {...}}."""


class ProxyCall(LiteLLMCall):
    """A request on its way through the proxy, which calls the deployments itself: one attempt after the other."""

    newest_failure: Exception | None = None
    over: Exception | None = None  # what was raised, when no other model may answer
    baseline: str | None = None

    @classmethod
    def made(
        cls,
        models: PoolModels[Any],
        router: UniRouter,
        given: Mapping[str, Any],
        messages: Messages | None,
        there: Sequence[str],
    ) -> Self:
        """Return the call, its model picked among those `there`."""
        sent, parameters = _as_chat(given, messages)
        options = _options_of(given)
        unknown = [name for name in (options.get("baseline"), *options.get("candidates", ())) if name is not None]
        router.pool.check_known(unknown)
        group = str(_metadata_of(given).get("model_group"))
        forced = group.removeprefix(f"{GROUP}/") if group.startswith(f"{GROUP}/") else None
        candidates: Sequence[str] | None = options.get("candidates")
        if not {*router.pool} <= {*there}:
            candidates = [name for name in candidates or router.pool if name in there]
        question = options.get("question")
        call = cls(
            models,
            router,
            Chat.of(sent, parameters),
            parameters=parameters,
            candidates=candidates,
            forced=forced,
            text=question,
            routed_on="prompt" if question is None else "question",
            cost_weight=options.get("cost_weight"),
        )
        call.shows_usage, call._shown, call.baseline = True, {}, options.get("baseline")
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
        """Put the record as it stands into the metadata, where the proxy's logs and callbacks see it."""
        self._shown |= self.record().as_dict()
        metadata[RECORD] = self._shown

    def usage_of(self, answer: Any) -> Usage:
        """Return the usage that a response tells, whichever API it is of."""
        return usage_of(answer)

    def headers(self, answer: Any, *, streams: bool) -> dict[str, str]:
        """Return the headers of the answer; a stream's cost is the expected one, as it has only begun."""
        record = self.record() if streams else self._answered(answer)
        told, most = record.as_dict(), self.baseline_usd
        usd = told["expected_usd"] if told["usd"] is None else told["usd"]
        numbers = {"cost": usd, "saved": most - usd, "error": told["expected_error"]}
        named = {"model": record.model, **{name: f"{number:.6g}" for name, number in numbers.items()}}
        return {f"x-{GROUP}-{name}": value for name, value in named.items()}

    @property
    def baseline_usd(self) -> float:
        """What the baseline would have cost: the model that the request names, else the dearest eligible one."""
        if self.baseline is not None:
            return self.decision.candidate(self.baseline).cost
        return max(row.cost for row in self.decision.ranking if row.excluded is None)


def _metadata_of(given: Mapping[str, Any]) -> Mapping[str, Any]:
    return given.get("litellm_metadata") or given.get("metadata") or {}


def _as_chat(given: Mapping[str, Any], messages: Messages | None) -> tuple[Messages | str, dict[str, Any]]:
    """Return a request's messages and parameters in OpenAI's chat format, whichever API it came in by."""
    litellm = open_litellm()
    kind = str(getattr(given.get("litellm_logging_obj"), "call_type", ""))
    if kind == "anthropic_messages":
        from litellm.llms.anthropic.pass_through.adapters.transformation import AnthropicAdapter

        own = ("system", "tools", "tool_choice", "max_tokens", "temperature", "stop_sequences", "thinking", "top_p")
        body = {name: given[name] for name in own if given.get(name) is not None}
        chat = AnthropicAdapter().translate_completion_input_params({**body, "model": GROUP, "messages": messages})
    elif messages is None and "input" in given:
        from litellm.responses.litellm_completion_transformation.transformation import LiteLLMCompletionResponsesConfig

        own = ("instructions", "tools", "text", "max_output_tokens", "temperature", "reasoning", "top_p")
        body = {name: given[name] for name in own if given.get(name) is not None}
        chat = LiteLLMCompletionResponsesConfig.transform_responses_api_request_to_chat_completion_request(
            GROUP, given["input"], body
        )
    else:
        chat = {"messages": messages, **given}
    names = {*litellm.OPENAI_CHAT_COMPLETION_PARAMS, "thinking"} - {"metadata", "user", "extra_headers"}
    return chat["messages"], {name: chat[name] for name in names if chat.get(name) is not None}


def _options_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a request, checked; its headers win over its metadata."""
    options: dict[str, Any] = {}
    for held in (given.get("metadata"), given.get("litellm_metadata")):
        for place in (held, (held or {}).get("requester_metadata")):
            own = (place or {}).get(RECORD)
            options |= dict(own.items()) if isinstance(own, Mapping) else {}
    headers = (given.get("proxy_server_request") or {}).get("headers") or {}
    for name in OPTIONS:
        if (value := headers.get(f"x-{GROUP}-{name.replace('_', '-')}")) is not None:
            options[name] = value
    if unknown := options.keys() - {*OPTIONS}:
        raise InvalidDataError(f"{min(unknown)!r} is no option of a request; there are {', '.join(OPTIONS)}.")
    if "cost_weight" in options:
        try:
            options["cost_weight"] = check_cost_weight(float(options["cost_weight"]))
        except (TypeError, ValueError):
            wrong = f"cost_weight={options['cost_weight']!r:.40} must be a number of at least 0, or inf."
            raise InvalidDataError(wrong) from None
    if isinstance(given_names := options.get("candidates"), str):
        options["candidates"] = [name.strip() for name in given_names.split(",") if name.strip()]
    return options
