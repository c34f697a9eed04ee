"""Answers that are parsed: the picked model's own way to hold to a schema, chosen after the model."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.runnables import ConfigurableFieldSpec, Runnable, RunnableConfig
from langchain_core.runnables.config import ensure_config
from langchain_core.utils.function_calling import convert_to_openai_tool

from unirouter_plugins.langchain.calling import Call
from unirouter_plugins.langchain.hearing import Tokens, joined

if TYPE_CHECKING:
    from unirouter_plugins.langchain.chat_model import PickingChatModel


class StructuredOutput(Runnable[LanguageModelInput, Any]):
    """Routes, then does what `with_structured_output` of the picked model returns.

    Parameters
    ----------
    llm : PickingChatModel
    schema : type or mapping
    include_raw : bool
    how : mapping
        The other arguments of `with_structured_output`.
    default_method : str, optional
        How the chat models hold to a schema when they are not told; None where each has its own way.
    """

    def __init__(
        self,
        llm: PickingChatModel,
        schema: Any,
        include_raw: bool,
        how: Mapping[str, Any],
        default_method: str | None = None,
    ) -> None:
        self.llm, self.schema, self.include_raw, self.how = llm, schema, include_raw, dict(how)
        self._sent = _sent_beside(schema, how.get("method") or default_method)

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
        return self.llm.config_specs

    def invoke(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Return the parsed answer of the picked model."""
        heard, run = _listening(config)
        call = self.llm.begin(input, run, kwargs, prepare=self._on, sent=self._sent)
        answer = call.answer(lambda chain, run: chain.invoke(input, run, **call.parameters))
        return self._finished(call, answer, heard)

    async def ainvoke(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Do what `invoke` does, asynchronously."""
        heard, run = _listening(config)
        call = await self.llm.abegin(input, run, kwargs, prepare=self._on, sent=self._sent)
        answer = await call.aanswer(lambda chain, run: chain.ainvoke(input, run, **call.parameters))
        return self._finished(call, answer, heard)

    def stream(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Any]:
        """Yield the answer as far as it can be parsed, as the picked model does."""
        heard, run = _listening(config)
        call = self.llm.begin(input, run, kwargs, prepare=self._on, sent=self._sent)
        yield from call.stream(lambda chain, run: chain.stream(input, run, **call.parameters))
        call.finish(heard.usage)

    async def astream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncGenerator[Any]:
        """Do what `stream` does, asynchronously."""
        heard, run = _listening(config)
        call = await self.llm.abegin(input, run, kwargs, prepare=self._on, sent=self._sent)
        async with aclosing(call.astream(lambda chain, run: chain.astream(input, run, **call.parameters))) as parts:
            async for part in parts:
                yield part
        call.finish(heard.usage)

    def _on(self, model: BaseChatModel) -> Runnable[LanguageModelInput, Any]:
        return model.with_structured_output(self.schema, include_raw=self.include_raw, **self.how)

    def _finished(self, call: Call, answer: Any, heard: Tokens) -> Any:
        if not self.include_raw:
            call.finish(heard.usage)
            return answer
        return {**answer, "raw": call.answered(answer["raw"])}


def _listening(config: RunnableConfig | None) -> tuple[Tokens, RunnableConfig]:
    """Return what hears the tokens of the picked model, and the config of the call with it."""
    heard, run = Tokens(), ensure_config(config)
    return heard, {**run, "callbacks": joined(run.get("callbacks"), [heard])}


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
