"""Answers that are checked in the proxy: a custom provider of LiteLLM, which makes the rest of such a call."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

from litellm.llms.custom_llm import CustomLLM

from unirouter_plugins.litellm.chat import Messages
from unirouter_plugins.litellm.programs import aend_last, enter_provider
from unirouter_plugins.serving.calls import ProxyCall

CHECKED = "unirouter_checked"
"""The provider's name."""


class CheckedCalls(CustomLLM):  # type: ignore[misc]  # its types are not read
    """Calls the models of a request, checks their answers, and gives the one that the rule settles on.

    It is one attempt of the proxy, with one line in its log of spend, whose cost is that of rejected drafts and of
    checks, too. Each model is called as its deployment, through the proxy's own router.
    """

    async def acompletion(self, model: str, messages: Messages, **given: Any) -> Any:
        """Return the answer that is given."""
        call = _call_of(given)
        with call.checking(messages, given):
            return await call.arun(call.deployed)

    async def astreaming(self, model: str, messages: Messages, **given: Any) -> AsyncIterator[Any]:
        """Yield the chunks of the answer that is given, once it is accepted."""
        call = _call_of(given)
        with call.checking(messages, given, stream=True, stream_options={"include_usage": True}):
            begun, parts = await call.abegin(call.deployed)
            call.settle()
            async with aclosing(aend_last(call.arest(begun, parts))) as chunks:
                async for chunk in chunks:
                    yield chunk


def as_checked(deployment: Mapping[str, Any], call: ProxyCall) -> dict[str, Any]:
    """Return the deployment of the model to call now as one whose answer is checked; nothing of it is cached."""
    enter_provider(CHECKED, f"{__name__}:{CheckedCalls.__name__}", CheckedCalls)  # a config may have replaced all
    params = {"model": f"{CHECKED}/{call.attempts.model}", "allowed_openai_params": [*call.parameters]}
    return {**deployment, "litellm_params": {**params, "cache": {"no-cache": True, "no-store": True}}}


def _call_of(given: Mapping[str, Any]) -> ProxyCall:
    call: ProxyCall = given["logging_obj"].unirouter_call
    return call
