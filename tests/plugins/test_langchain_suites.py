"""LangChain's own suites for chat models, on pools of three kinds: LiteLLM's mock, scripted chat models, llama.cpp."""

from typing import Literal

import pytest
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests
from pydantic import BaseModel

from tests.plugins.scripted_chat import ScriptedChat
from unirouter_plugins.langchain import RouterRunnable
from unirouter_plugins.litellm import configured
from unirouter_plugins.litellm.failures import open_litellm
from unirouter_plugins.litellm.pool_file import Member, Members

pytest_plugins = ["tests.plugins.servers"]
pytestmark = pytest.mark.filterwarnings(
    "ignore::langchain_core._api.LangChainBetaWarning",  # of the v3 events
)


@pytest.fixture(scope="module", autouse=True)
def key():
    """LiteLLM asks for a key before it looks where the model is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", "unused")
        yield


def called(router, **member):
    """The router, its models called through LiteLLM as `member` says."""
    return configured(router, Members({name: Member(name, **member) for name in router.pool}))


class TestUnitOnLiteLLM(ChatModelUnitTests):
    """The suite's parameters (temperature, max_tokens, streaming, ...) go to each ChatLiteLLM."""

    chat_model_class = RouterRunnable

    @pytest.fixture(autouse=True)
    def _pool(self, asked_router):
        self.router = called(asked_router, model="openai/someone", settings={"mock_response": "Hello there."})

    @property
    def chat_model_params(self):
        return {"router": self.router}


class ScriptedRouter(RouterRunnable):
    """The suite's parameters go where they belong: to the chat models of the pool."""

    def __init__(self, router, **given):
        super().__init__(router, {name: ScriptedChat(model_name=name, **given) for name in router.pool})


class OnScriptedModels:
    chat_model_class = ScriptedRouter

    @pytest.fixture(autouse=True)
    def _pool(self, asked_router):
        self.router = asked_router

    @property
    def chat_model_params(self):
        return {"router": self.router}


class TestUnitOnScriptedModels(OnScriptedModels, ChatModelUnitTests):
    pass


class TestIntegrationOnScriptedModels(OnScriptedModels, ChatModelIntegrationTests):
    supports_json_mode = True
    model_override_value = "scholar"


class TestIntegrationOnLlamaServer(ChatModelIntegrationTests):
    """A real model that calls no tools; ChatLiteLLM does not tell traces of a schema, which the suite asks for."""

    chat_model_class = RouterRunnable
    has_tool_calling = False
    has_structured_output = False

    @pytest.fixture(autouse=True)
    def _pool(self, asked_router, llama_server):
        settings = {"temperature": 0, "max_tokens": 8}
        model, url = f"openai/{llama_server.name}", llama_server.url
        self.router = called(asked_router, model=model, api_base=url, settings=settings)

    @pytest.fixture(autouse=True)
    async def _closed(self):
        """LiteLLM keeps its connections in the loop that made them, which ends with the test."""
        yield
        await open_litellm().close_litellm_async_clients()

    @property
    def chat_model_params(self):
        return {"router": self.router}


class Verdict(BaseModel):
    """Yes or no."""

    answer: Literal["yes", "no"]


def test_a_real_model_is_held_to_a_schema(asked_router, llama_server):
    settings = {"temperature": 0, "max_tokens": 30}
    model, url = f"openai/{llama_server.name}", llama_server.url
    llm = RouterRunnable(called(asked_router, model=model, api_base=url, settings=settings))
    asked = "Is the sky blue? Answer in JSON, with the key answer."
    told = llm.with_structured_output(Verdict, method="json_schema", include_raw=True).invoke(asked)
    assert isinstance(told["parsed"], Verdict)
    assert told["raw"].response_metadata["unirouter"]["usd"] > 0
