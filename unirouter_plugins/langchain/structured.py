"""Parsed answers: the picked model's own way to hold to a schema, chosen after the model."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.runnables import ConfigurableFieldSpec, Runnable, RunnableConfig
from langchain_core.utils.function_calling import convert_to_openai_tool

from unirouter_plugins.langchain.messages import CONFIG_SPECS
from unirouter_plugins.langchain.pool_models import ChatCall, joined

if TYPE_CHECKING:
    from unirouter_plugins.langchain.chat_model import RouterRunnable


class StructuredOutput(Runnable[LanguageModelInput, Any]):
    """Routes, then runs what `with_structured_output` of the picked model returns.

    Parameters
    ----------
    llm : RouterRunnable
    schema : type or mapping
    options : mapping
        The other arguments of `with_structured_output`.
    default_method : str, optional
        How the chat models hold to a schema when no method is given; None where each has its own way.
    """

    def __init__(
        self, llm: RouterRunnable, schema: Any, options: Mapping[str, Any], default_method: str | None = None
    ) -> None:
        self.llm, self.schema, self.options = llm, schema, dict(options)
        self._sent = _sent_beside(schema, options.get("method") or default_method)

    @property
    def InputType(self) -> Any:  # noqa: N802 - LangChain's name
        """What it takes: all that a chat model takes."""
        return self.llm.InputType

    @property
    def OutputType(self) -> Any:  # noqa: N802 - LangChain's name
        """What it gives: all that a schema may describe."""
        return Any

    @property
    def config_specs(self) -> list[ConfigurableFieldSpec]:
        """What may be set for one call."""
        return CONFIG_SPECS

    def invoke(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Return the parsed answer of the picked model."""
        call = self.llm.begin(input, config, kwargs, prepare=self._prepare, sent=self._sent)
        return call.run(lambda on: on.model.invoke(input, _heard(call, on.config), **call.parameters))

    async def ainvoke(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Return the same as `invoke`, asynchronously."""
        call = await self.llm.abegin(input, config, kwargs, prepare=self._prepare, sent=self._sent)
        return await call.arun(lambda on: on.model.ainvoke(input, _heard(call, on.config), **call.parameters))

    def stream(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Any]:
        """Yield the answer as far as it can be parsed, as the picked model does."""
        call = self.llm.begin(input, config, kwargs, prepare=self._prepare, sent=self._sent)
        yield from call.stream(lambda on: on.model.stream(input, _heard(call, on.config), **call.parameters))

    async def astream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncGenerator[Any]:
        """Yield the same as `stream`, asynchronously."""
        call = await self.llm.abegin(input, config, kwargs, prepare=self._prepare, sent=self._sent)

        streamed = call.astream(lambda on: on.model.astream(input, _heard(call, on.config), **call.parameters))
        async with aclosing(streamed) as parts:
            async for part in parts:
                yield part

    def _prepare(self, model: BaseChatModel) -> Runnable[LanguageModelInput, Any]:
        return model.with_structured_output(self.schema, **self.options)


def _heard(call: ChatCall, config: RunnableConfig) -> RunnableConfig:
    """Return the config with the callback that adds up the call's tokens."""
    return {**config, "callbacks": joined(config.get("callbacks"), [call.tokens])}


def _sent_beside(schema: Any, method: str | None) -> dict[str, Any]:
    """Return what is sent with the messages, in OpenAI's form: its tokens count, and models must be able to do it.

    Where the method is not known, nothing is required.
    """
    if schema is None:
        return {"response_format": {"type": "json_object"}}
    tool = convert_to_openai_tool(schema)
    if method is None:
        return {"response_format": tool["function"]}
    if method == "function_calling":
        return {"tools": [tool]}
    return {"response_format": {"type": "json_schema", "json_schema": tool["function"]}}
