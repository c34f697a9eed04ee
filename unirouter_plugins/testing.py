"""Scripted models behind LiteLLM, to test applications that route without a network."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import count
from typing import TYPE_CHECKING, TypeAlias

from unirouter_core.router import UniRouter
from unirouter_plugins.litellm import configured
from unirouter_plugins.litellm.pool_file import Member, Members
from unirouter_plugins.litellm.programs import register
from unirouter_plugins.litellm.snapshot import TABLES
from unirouter_plugins.local.provider import Messages, newest_prompt, text_provider

if TYPE_CHECKING:
    from litellm import CustomLLM

Answer: TypeAlias = str | Exception | Callable[[str], str]  # always the same, or a function of the newest prompt

PROVIDER = "unirouter-scripted"
"""The name under which LiteLLM knows scripted pools."""

_POOLS: dict[str, ScriptedPool] = {}
_NUMBERS = count()


@dataclass(frozen=True)
class ScriptedCall:
    """A call of a scripted model, with the messages that LiteLLM was given."""

    model: str
    messages: Messages

    @property
    def prompt(self) -> str:
        """The newest text of the user."""
        return newest_prompt(self.messages)


class ScriptedPool:
    """The models of a router's pool, answering by a script instead of a provider.

    The router decides as it always does. LiteLLM makes the calls, so that `complete`, `RouterRunnable` and
    `UniRouterLLM` stream, fall back and record as they do with real models.

    Parameters
    ----------
    answers : mapping of model to str, Exception or function
        Models that are not named answer with their name and the prompt.

    Attributes
    ----------
    calls : list of ScriptedCall
        All calls so far, failed ones included.

    Examples
    --------
    >>> from unirouter_plugins.litellm import complete, record_of
    >>> small, large = "recorded/gemini-1.5-flash-002", "recorded/gpt-4o-2024-05-13"
    >>> pool = ScriptedPool({small: TimeoutError("too slow"), large: lambda prompt: f"{prompt} 42."})
    >>> router = pool.serve(UniRouter.starter(examples=True))
    >>> response = complete(router, "What is 6 times 7?", models=[small, large])
    >>> response.choices[0].message.content, list(record_of(response).failures)
    ('What is 6 times 7? 42.', ['recorded/gemini-1.5-flash-002'])
    >>> [call.model for call in pool.calls]
    ['recorded/gemini-1.5-flash-002', 'recorded/gpt-4o-2024-05-13']
    """

    def __init__(self, answers: Mapping[str, Answer] = {}) -> None:
        self.answers = dict(answers)
        self.calls: list[ScriptedCall] = []
        self._name = f"pool{next(_NUMBERS)}"

    def serve(self, router: UniRouter) -> UniRouter:
        """Return the router, with its checks of answers, its models called by the script; `router` stays as it is."""
        _POOLS[self._name] = self
        members = {model: Member(model, f"{PROVIDER}/{self._name}/{model}") for model in router.pool}
        checks = TABLES.get(router, Members()).checks
        table = Members(members, {PROVIDER: f"{__name__}:{scripted.__name__}"}, checks=checks)
        register(table)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of models called otherwise than they were evaluated
            return configured(router, table)

    def answer(self, model: str, messages: Messages) -> str:
        """Return the scripted answer; raise it when it is an exception."""
        call = ScriptedCall(model, messages)
        self.calls.append(call)
        reply = self.answers.get(model, f"{model}: {call.prompt}")
        if isinstance(reply, Exception):
            raise reply
        return reply(call.prompt) if callable(reply) else reply


@cache
def scripted() -> CustomLLM:
    """Return a `litellm.CustomLLM` for all scripted pools."""

    def answer(name: str, messages: Messages) -> str:
        pool, _, model = name.partition("/")
        return _POOLS[pool].answer(model, messages)

    return text_provider(answer)


@cache
def parrot() -> CustomLLM:
    """Return a `litellm.CustomLLM` whose models answer every prompt with their own name."""
    return text_provider(lambda model, messages: model)
