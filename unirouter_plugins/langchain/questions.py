"""The question in a message that also holds its context: found in what the chain was given; and texts that repeat."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.tracers.context import register_configure_hook

NAMES = ("question", "query", "input")
"""The names under which chains are given their question; what is named "input" may also be a whole task."""

_MOST = 10_000  # runs that are remembered: those that never end are forgotten in their order
_STEPS = 8  # of a run whose inputs are remembered, the newest
LONG = 200
"""Characters of a text that may repeat; and that a template must add to a question: fewer may be the task itself."""

_SHARE, _CALLS = 0.6, 3  # of a text that was in each of as many calls
_READ = 20_000  # characters of a text that are compared


class Inputs(BaseCallbackHandler):
    """Remembers what the chains that run now, and their steps, were given, where a question is among it."""

    run_inline = True  # else each event of an asynchronous chain waits for a thread
    ignore_llm = ignore_chat_model = ignore_retriever = ignore_agent = ignore_custom_event = ignore_retry = True

    def __init__(self) -> None:
        self._runs: dict[UUID, tuple[UUID | None, list[Mapping[str, Any]]]] = {}

    def on_chain_start(
        self, serialized: Any, inputs: Any, *, run_id: UUID, parent_run_id: UUID | None = None, **_: Any
    ) -> None:
        """Remember a run, and its inputs where they name a question."""
        if len(self._runs) >= _MOST:
            self._runs.pop(next(iter(self._runs)), None)
        self._runs[run_id] = parent_run_id, _named(inputs)

    def on_chain_end(self, outputs: Any, *, run_id: UUID, inputs: Any = None, **_: Any) -> None:
        """Forget a run; what it was given, of which a stream tells now, may be what the step after it is about."""
        parent, given = self._runs.pop(run_id, (None, []))
        if parent in self._runs:
            self._runs[parent][1][:0] = [*_named(inputs), *given]
            del self._runs[parent][1][_STEPS:]

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        """Forget a run that failed."""
        self._runs.pop(run_id, None)

    def question_in(self, message: str, run: UUID | None) -> str | None:
        """Return the question that a message of a run holds beside its context; None where none is certain to be one.

        It is a text that the chain, or a step before the model like its prompt template, was given as "question",
        "query" or "input", and that the message holds word for word. Either what was given beside it fills more than
        half of the message, or it is named "question" or "query" and what is around it is longer than it, and than 200
        characters.
        """
        while run is not None and (known := self._runs.get(run)) is not None:
            run, inputs = known
            for given in inputs:
                for name in NAMES:
                    text = given.get(name)
                    if not isinstance(text, str) or not text.strip() or text not in message:
                        continue
                    besides = {part for key, value in given.items() if key != name for part in _texts(value)}
                    context = sum(len(part) for part in besides if part.strip() and part in message)
                    around = len(message) - len(text)
                    if 2 * context > len(message) or (name != "input" and around > max(len(text), LONG)):
                        return text
        return None


def _named(inputs: Any) -> list[Mapping[str, Any]]:
    is_named = isinstance(inputs, Mapping) and any(isinstance(inputs.get(name), str) for name in NAMES)
    return [inputs] if is_named else []


def _texts(value: Any) -> Iterator[str]:
    """Yield the texts of a variable: a text, documents, or a list of either."""
    for each in value if isinstance(value, list | tuple) else (value,):
        text = getattr(each, "page_content", each)
        if isinstance(text, str):
            yield text


INPUTS = Inputs()
_HOOK: ContextVar[BaseCallbackHandler | None] = ContextVar("unirouter's reader of inputs", default=INPUTS)
register_configure_hook(_HOOK, inheritable=True)  # it is given to each chain of the process, as a tracer is


class Repeats:
    """Warns once where most of the long texts of calls in a row is the same: it hides from the router what differs."""

    def __init__(self) -> None:
        self.texts: deque[str] = deque(maxlen=_CALLS - 1)
        self.has_warned = False

    def see(self, text: str) -> None:
        """Compare a text, which is `LONG`, with those of the calls before."""
        text = text[:_READ]
        if text in self.texts:
            return
        before = list(self.texts)
        self.texts.append(text)
        if len(before) < _CALLS - 1:
            return
        prefix = next((n for n, each in enumerate(zip(text, *before, strict=False)) if len({*each}) > 1), len(text))
        shared = set(text.splitlines()).intersection(*(other.splitlines() for other in before))
        same = max(prefix, sum(len(line) + 1 for line in text.splitlines() if line in shared))
        if same > _SHARE * len(text):
            self.has_warned = True
            warnings.warn(
                f"{same / len(text):.0%} of the text that is routed on was the same in {_CALLS} calls, which hides the "
                'question from the router. Name it: config={"configurable": {"unirouter_question": question}}, or send '
                "the context as a system message.",
                stacklevel=4,
            )
