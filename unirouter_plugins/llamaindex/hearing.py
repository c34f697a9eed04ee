"""What the answers below a call took: an object that was made of them cannot say it, and LlamaIndex's events do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias

from llama_index.core.instrumentation.events.llm import LLMChatEndEvent, LLMCompletionEndEvent
from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.event_handlers import BaseEventHandler

Heard: TypeAlias = dict[int, Any]
"""The answers, each once: of LLMs that complete by chatting, both events have the same raw answer, whose id is here."""

_HEARD: ContextVar[Heard | None] = ContextVar("answers below a call", default=None)

_TELLS_OF_ANSWERS = "llama_index.core.llms.callbacks"
"""LlamaIndex's module that says what an LLM answered."""


class AnswerWatcher(BaseEventHandler):
    """Notes the answers of LLMs, in the context of whoever hears them."""

    @classmethod
    def class_name(cls) -> str:
        """Return LlamaIndex's name for the class."""
        return "unirouter_answer_watcher"

    def handle(self, event: Any, **_: Any) -> None:
        """Take note of an answer."""
        heard = _HEARD.get()
        if heard is None or not isinstance(event, LLMChatEndEvent | LLMCompletionEndEvent) or event.response is None:
            return
        if event.response.raw is not None:
            heard[id(event.response.raw)] = event.response


@contextmanager
def hearing(heard: Heard) -> Iterator[None]:
    """Put the answers that LLMs give in the block into `heard`, those in threads and tasks included."""
    token = _HEARD.set(heard)
    try:
        yield
    finally:
        _HEARD.reset(token)


def watch_answers() -> None:
    """Let LlamaIndex tell of answers; doing it again changes nothing."""
    dispatcher = get_dispatcher(_TELLS_OF_ANSWERS)
    if not any(isinstance(handler, AnswerWatcher) for handler in dispatcher.event_handlers):
        dispatcher.add_event_handler(AnswerWatcher())
