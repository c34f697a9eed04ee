"""Routing inside LangChain's agents: each model call goes to the model that the router picks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

try:
    from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
    from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
except ImportError as missing:
    raise ImportError("UniRouterMiddleware is for LangChain's agents: pip install langchain.") from missing
from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import var_child_runnable_config

from unirouter_core.exceptions import InvalidDataError
from unirouter_plugins.langchain.chat_model import RouterRunnable, as_openai_tool


class UniRouterMiddleware(AgentMiddleware[Any, Any, Any]):
    """Sends each model call of an agent to the model of the pool that the router picks.

    An agent works with a `RouterRunnable` as its model, too. With the middleware it is the picked chat model itself
    that middlewares further in, and the agent's choice of how to hold to a `response_format`, get to see.

    Parameters
    ----------
    llm : RouterRunnable

    Examples
    --------
    ::

        llm = RouterRunnable.from_folder("my.router")
        agent = create_agent(llm, tools=[weather], middleware=[UniRouterMiddleware(llm)])
    """

    def __init__(self, llm: RouterRunnable) -> None:
        super().__init__()
        if not isinstance(llm, RouterRunnable):
            raise InvalidDataError(f"llm={llm!r:.60} is no RouterRunnable; give one that has nothing bound to it.")
        self.llm = llm

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Call the picked model, the next one when it fails."""
        call = self.llm.begin(*_arguments(request))

        def ask(model: Any) -> ModelResponse[Any]:
            with _running_with(call.config):
                return handler(request.override(model=model))

        return call.run(ask)

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any]:
        """Do the same as `wrap_model_call`, asynchronously."""
        call = await self.llm.abegin(*_arguments(request))

        async def ask(model: Any) -> ModelResponse[Any]:
            with _running_with(call.config):
                return await handler(request.override(model=model))

        return await call.arun(ask)


def _arguments(request: ModelRequest[Any]) -> tuple[list[BaseMessage], None, dict[str, Any], dict[str, Any]]:
    """Return the arguments of `begin`: the messages, and what the agent sends with them, in OpenAI's form."""
    tools, held_to = [as_openai_tool(tool) for tool in request.tools], request.response_format
    if isinstance(held_to, ToolStrategy):
        tools += [{"type": "function", "function": spec.json_schema} for spec in held_to.schema_specs]
    sent = {"tools": tools, **(held_to.to_model_kwargs() if isinstance(held_to, ProviderStrategy) else {})}
    return [*([request.system_message] if request.system_message else []), *request.messages], None, {}, sent


@contextmanager
def _running_with(config: RunnableConfig) -> Iterator[None]:
    """Run a block in which LangChain takes `config` for that of the caller."""
    token = var_child_runnable_config.set(config)
    try:
        yield
    finally:
        var_child_runnable_config.reset(token)
