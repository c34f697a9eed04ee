"""Answers that are parsed: the picked model's own way to hold to a schema, chosen after the model."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.runnables import ConfigurableFieldSpec, Runnable, RunnableConfig
from langchain_core.runnables.config import ensure_config
from langchain_core.utils.function_calling import convert_to_openai_tool

from unirouter_plugins.chains.calling import Call

if TYPE_CHECKING:
    from unirouter_plugins.chains.doors import PickingChatModel


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
        call = self._begin(input, config, kwargs)
        return self._finished(call, call.answer(lambda chain, run: chain.invoke(input, run, **call.parameters)))

    async def ainvoke(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Do what `invoke` does, asynchronously."""
        call = await self.llm.abegin(input, ensure_config(config), kwargs, prepare=self._on, sent=self._sent)
        return self._finished(call, await call.aanswer(lambda chain, run: chain.ainvoke(input, run, **call.parameters)))

    def stream(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Any]:
        """Yield the answer as far as it can be parsed, as the picked model does."""
        call = self._begin(input, config, kwargs)
        yield from call.stream(lambda chain, run: chain.stream(input, run, **call.parameters))
        call.finish()

    async def astream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncGenerator[Any]:
        """Do what `stream` does, asynchronously."""
        call = await self.llm.abegin(input, ensure_config(config), kwargs, prepare=self._on, sent=self._sent)
        async for part in call.astream(lambda chain, run: chain.astream(input, run, **call.parameters)):
            yield part
        call.finish()

    def _begin(self, input: LanguageModelInput, config: RunnableConfig | None, kwargs: dict[str, Any]) -> Call:
        return self.llm.begin(input, ensure_config(config), kwargs, prepare=self._on, sent=self._sent)

    def _on(self, model: BaseChatModel) -> Runnable[LanguageModelInput, Any]:
        return model.with_structured_output(self.schema, include_raw=self.include_raw, **self.how)

    def _finished(self, call: Call, answer: Any) -> Any:
        if not self.include_raw:
            call.finish()
            return answer
        return {**answer, "raw": call.answered(answer["raw"])}


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
