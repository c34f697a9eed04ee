"""Who hears of the runs of a call: callbacks put together, and one that adds up the tokens of parsed answers."""

from __future__ import annotations

from typing import Any

from langchain_core.callbacks import BaseCallbackHandler, Callbacks
from langchain_core.messages.ai import UsageMetadata, add_usage
from langchain_core.outputs import LLMResult


def joined(callbacks: Callbacks, more: Callbacks) -> Callbacks:
    """Return callbacks that tell all handlers of both, each of which is a list, a manager or nothing.

    `merge_configs` of LangChain would add what the surrounding run has.
    """
    if not callbacks or not more:
        return callbacks or more
    if isinstance(callbacks, list):
        return [*callbacks, *more] if isinstance(more, list) else joined(more, callbacks)
    manager = callbacks.copy()
    for handler in more if isinstance(more, list) else more.handlers:
        manager.add_handler(handler, inherit=True)
    return manager


class Tokens(BaseCallbackHandler):
    """Adds up the tokens of the answers below a call: a parsed one cannot say what it took."""

    run_inline = True  # else each event of an asynchronous call waits for a thread

    def __init__(self) -> None:
        self.usage: UsageMetadata | None = None

    def on_chat_model_start(self, *_: Any, **__: Any) -> None:
        """Hear nothing; where this is missing, LangChain makes a text of all messages instead."""

    def on_llm_end(self, response: LLMResult, **_: Any) -> None:
        """Add the tokens of an answer, where it tells them."""
        message = getattr(response.generations[0][0], "message", None)
        if (usage := getattr(message, "usage_metadata", None)) is not None:
            self.usage = add_usage(self.usage, usage)
