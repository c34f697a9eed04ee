"""LangChain's `ChatLiteLLM` for responses without choices, which it cannot read by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.outputs import ChatResult
from langchain_litellm import ChatLiteLLM as _ChatLiteLLM

_EMPTY = {"message": {"role": "assistant", "content": ""}, "finish_reason": None}


class ChatLiteLLM(_ChatLiteLLM):
    """A `ChatLiteLLM` whose responses may have no choices: their message is empty. It has the name for traces."""

    def _create_chat_result(self, response: Mapping[str, Any], **params: Any) -> ChatResult:
        if not response["choices"]:
            response = {**dict(response), "choices": [_EMPTY]}
        return super()._create_chat_result(response, **params)
