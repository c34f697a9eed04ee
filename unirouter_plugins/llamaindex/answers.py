"""What LLMs of LlamaIndex answer: whether a part of it says something, what it took, and where its record stands."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple
from typing import Any

from llama_index.core.base.llms.types import ChatResponse, CompletionResponse, TextBlock
from llama_index.core.callbacks.token_counting import get_tokens_from_response

from unirouter_plugins.litellm.prices import Usage, usage_of
from unirouter_plugins.litellm.routed import METADATA, Record

UNKNOWN = Usage(math.nan, math.nan)
"""Of an answer that does not tell its tokens."""


def marked(response: Any, record: Record) -> Any:
    """Return a copy of an answer, or of a part of it, with the record: LLMs may keep their answers.

    Objects that were made of an answer have no room for it, and stay as they are.
    """
    if not isinstance(response, ChatResponse | CompletionResponse):
        return response
    update: dict[str, Any] = {"additional_kwargs": {**response.additional_kwargs, METADATA: record}}
    if isinstance(response, ChatResponse):
        known = {**response.message.additional_kwargs, METADATA: record}
        update["message"] = response.message.model_copy(update={"additional_kwargs": known})
    return response.model_copy(update=update)


def says_something(part: Any) -> bool:
    """Return whether a chunk holds part of the answer: after it, another model cannot begin anew."""
    if not isinstance(part, ChatResponse):
        return not isinstance(part, CompletionResponse) or bool(part.delta or part.text)
    message = part.message
    texts = all(isinstance(block, TextBlock) and not block.text for block in message.blocks)
    return bool(part.delta or message.additional_kwargs or not texts)


def usage_told_by(response: Any) -> Usage:
    """Return the tokens that an answer says it took, in whichever of the forms that LlamaIndex knows."""
    if not isinstance(response, ChatResponse | CompletionResponse) or (raw := response.raw) is None:
        return UNKNOWN
    told = usage_of(raw)
    if told.is_known:
        return told
    try:
        tokens_in, tokens_out = get_tokens_from_response(response)
    except (TypeError, ValueError, AttributeError):  # a raw answer of a form that LlamaIndex does not know
        return UNKNOWN
    return Usage(tokens_in, tokens_out) if tokens_in or tokens_out else UNKNOWN


def usage_of_all(answers: Sequence[Any]) -> Usage:
    """Return the tokens of several answers together."""
    return (
        Usage(*map(sum, zip(*(astuple(usage_told_by(answer)) for answer in answers), strict=True)))
        if answers
        else UNKNOWN
    )
