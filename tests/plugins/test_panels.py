"""Panels: what they ask whom, that a budget is kept to the cent, and that every way to call takes one like any model."""

import asyncio
import dataclasses
import json
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import evaluation, onboarded
from unirouter_core import InvalidDataError, Prices
from unirouter_plugins.litellm import acomplete, astream, complete, configured, load_router, record_of, stream
from unirouter_plugins.litellm.failures import open_litellm
from unirouter_plugins.litellm.panels import PANEL, planned
from unirouter_plugins.litellm.pool_file import Member, Members, Panel
from unirouter_plugins.litellm.programs import enter_provider, register

ASKED = "Which is more, 14 plus 37 or 20 plus 31?"
FIRST, SECOND = "What is 14 plus 37?", "What is 20 plus 31?"
MODELS = ("poet", "sage", "tutor", "scholar")


def plan(*questions):
    return json.dumps({"questions": questions})


class Script:
    """What each member answers: a text, an exception, or a function of the prompt; and what it was asked."""

    def __init__(self):
        self.says = {"poet": plan(FIRST, SECOND), "sage": "They are equal.", "tutor": "It is 51.", "scholar": "51"}
        self.calls = []
        self.tokens = lambda messages, most: (10, 5)

    def answer(self, model, messages, optional_params=None, **_):
        prompt = messages[-1]["content"]
        self.calls.append((model, prompt, optional_params or {}))
        said = self.says[model]
        if isinstance(said, Exception):
            raise said
        tokens_in, tokens_out = self.tokens(messages, optional_params.get("max_tokens"))
        litellm = open_litellm()
        usage = litellm.Usage(prompt_tokens=tokens_in, completion_tokens=tokens_out)
        message = {"role": "assistant", "content": said(prompt) if callable(said) else said}
        return litellm.ModelResponse(
            model=model, choices=[{"message": message, "finish_reason": "stop"}], usage=usage
        )

    def asked(self, model):
        return [prompt for name, prompt, _ in self.calls if name == model]


SCRIPT = Script()


def provider():
    class Told(open_litellm().CustomLLM):
        def completion(self, model, messages, **given):
            return SCRIPT.answer(model, messages, **given)

        async def acompletion(self, model, messages, **given):
            return SCRIPT.answer(model, messages, **given)

    return Told()


@pytest.fixture
def script():
    enter_provider("panelists", f"{__name__}:provider", provider)
    SCRIPT.__init__()
    return SCRIPT


def table(prices=Prices(1.0, 2.0), **panel):
    own = {"planner": "poet", "aggregator": "sage", "budget": 1.0} | panel
    members = {name: Member(name, f"panelists/{name}", prices=prices) for name in MODELS}
    return Members({**members, "panel": Member("panel", "panelists/sage", panel=Panel(**own))})


@pytest.fixture(scope="module")
def with_panel(world):
    """A function that returns a router whose pool has a panel, measured to be an editor."""
    router = onboarded(world)
    router.onboard(dataclasses.replace(evaluation(world, "editor"), model="panel", prices=None))

    def make(**how):
        members = table(**how)
        register(members)
        return configured(router, members)

    return make


ONLY = {"models": ["panel"]}


def text(response):
    return response.choices[0].message.content


def test_try(script, with_panel):
    response = complete(with_panel(), ASKED, **ONLY)
    print(script.calls)
    print(record_of(response).as_dict())
    print(response._hidden_params[PANEL], response.usage)
    assert text(response) == "They are equal."
