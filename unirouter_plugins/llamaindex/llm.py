"""The doors of a LlamaIndex LLM, each of which leads to the LLM that a call picks."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from typing import Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
)
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.prompts import BasePromptTemplate
from llama_index.core.tools import BaseTool

from unirouter_core.router import UniRouter
from unirouter_plugins.llamaindex.calling import Call
from unirouter_plugins.llamaindex.messages import as_sent


class PickingLLM(FunctionCallingLLM):
    """An LLM that begins each call by picking another, which then does all the rest: its events are the only ones."""

    router: UniRouter

    @abstractmethod
    def begin(
        self, messages: Sequence[ChatMessage], parameters: Mapping[str, Any], *, tools: Sequence[BaseTool] = ()
    ) -> Call:
        """Return a call of the picked LLM, to be made.

        Parameters
        ----------
        messages : sequence of ChatMessage
        parameters : mapping
            What the LLM is called with besides.
        tools : sequence of BaseTool
        """

    async def abegin(
        self, messages: Sequence[ChatMessage], parameters: Mapping[str, Any], *, tools: Sequence[BaseTool] = ()
    ) -> Call:
        """Do what `begin` does in a thread: to embed a prompt takes a while."""
        return await asyncio.to_thread(self.begin, messages, parameters, tools=tools)

    # --- Chats --------------------------------------------------------------------------------------------------------

    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Return the picked model's answer."""
        call = self.begin(messages, kwargs)
        response: ChatResponse = call.answer(lambda llm: llm.chat(call.messages, **call.parameters))
        return response

    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Do what `chat` does, asynchronously."""
        call = await self.abegin(messages, kwargs)
        return await call.aanswer(lambda llm: llm.achat(call.messages, **call.parameters))

    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Return the picked model's answer as it comes."""
        call = self.begin(messages, kwargs)
        return call.stream(lambda llm: llm.stream_chat(call.messages, **call.stream_parameters))

    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        """Do what `stream_chat` does, asynchronously."""
        call = await self.abegin(messages, kwargs)
        return await call.astream(lambda llm: llm.astream_chat(call.messages, **call.stream_parameters))

    # --- Completions --------------------------------------------------------------------------------------------------

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Return the picked model's completion."""
        call = self.begin([ChatMessage(prompt)], kwargs)
        response: CompletionResponse = call.answer(
            lambda llm: llm.complete(prompt, formatted=formatted, **call.parameters)
        )
        return response

    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Do what `complete` does, asynchronously."""
        call = await self.abegin([ChatMessage(prompt)], kwargs)
        return await call.aanswer(lambda llm: llm.acomplete(prompt, formatted=formatted, **call.parameters))

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """Return the picked model's completion as it comes."""
        call = self.begin([ChatMessage(prompt)], kwargs)
        return call.stream(lambda llm: llm.stream_complete(prompt, formatted=formatted, **call.stream_parameters))

    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseAsyncGen:
        """Do what `stream_complete` does, asynchronously."""
        call = await self.abegin([ChatMessage(prompt)], kwargs)
        return await call.astream(
            lambda llm: llm.astream_complete(prompt, formatted=formatted, **call.stream_parameters)
        )

    # --- Tools: `kwargs` are LlamaIndex's verbose, allow_parallel_tool_calls, tool_required and the LLM's own ---------

    def chat_with_tools(  # type: ignore[override]  # LlamaIndex gives them by name
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        **kwargs: Any,
    ) -> ChatResponse:
        """Return the answer, or the tool calls, of the picked model, which can call tools."""
        call = self.begin(_conversation(chat_history, user_msg), kwargs, tools=tools)
        response: ChatResponse = call.answer(
            lambda llm: llm.chat_with_tools(tools, chat_history=list(call.messages), **call.parameters)
        )
        return response

    async def achat_with_tools(  # type: ignore[override]
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        **kwargs: Any,
    ) -> ChatResponse:
        """Do what `chat_with_tools` does, asynchronously."""
        call = await self.abegin(_conversation(chat_history, user_msg), kwargs, tools=tools)
        return await call.aanswer(
            lambda llm: llm.achat_with_tools(tools, chat_history=list(call.messages), **call.parameters)
        )

    def stream_chat_with_tools(  # type: ignore[override]
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        **kwargs: Any,
    ) -> ChatResponseGen:
        """Do what `chat_with_tools` does, as the answer comes."""
        call = self.begin(_conversation(chat_history, user_msg), kwargs, tools=tools)
        return call.stream(
            lambda llm: llm.stream_chat_with_tools(tools, chat_history=list(call.messages), **call.stream_parameters)
        )

    async def astream_chat_with_tools(  # type: ignore[override]
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        **kwargs: Any,
    ) -> ChatResponseAsyncGen:
        """Do what `stream_chat_with_tools` does, asynchronously."""
        call = await self.abegin(_conversation(chat_history, user_msg), kwargs, tools=tools)
        return await call.astream(
            lambda llm: llm.astream_chat_with_tools(tools, chat_history=list(call.messages), **call.stream_parameters)
        )

    def _prepare_chat_with_tools(  # type: ignore[override]
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Return what `chat` is given for callers that pass by the doors above: tools in OpenAI's form."""
        specs = [tool.metadata.to_openai_tool(skip_length_check=True) for tool in tools]
        return {"messages": _conversation(chat_history, user_msg), "tools": specs}

    # --- Schemas: each model has its own way to hold to one -----------------------------------------------------------

    def structured_predict(
        self,
        output_cls: type[Any],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Any:
        """Return the picked model's answer as an object."""
        call = self.begin(self._asked_by(prompt, prompt_args), llm_kwargs or {})
        return call.answer(
            lambda llm: llm.structured_predict(output_cls, as_sent(prompt), call.parameters, **prompt_args)
        )

    async def astructured_predict(
        self,
        output_cls: type[Any],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Any:
        """Do what `structured_predict` does, asynchronously."""
        call = await self.abegin(self._asked_by(prompt, prompt_args), llm_kwargs or {})
        return await call.aanswer(
            lambda llm: llm.astructured_predict(output_cls, as_sent(prompt), call.parameters, **prompt_args)
        )

    def stream_structured_predict(
        self,
        output_cls: type[Any],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Generator[Any]:
        """Return the object as far as the picked model has told it."""
        call = self.begin(self._asked_by(prompt, prompt_args), llm_kwargs or {})
        return call.stream(
            lambda llm: llm.stream_structured_predict(
                output_cls, as_sent(prompt), call.stream_parameters, **prompt_args
            )
        )

    async def astream_structured_predict(
        self,
        output_cls: type[Any],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> AsyncGenerator[Any]:
        """Do what `stream_structured_predict` does, asynchronously."""
        call = await self.abegin(self._asked_by(prompt, prompt_args), llm_kwargs or {})
        return await call.astream(
            lambda llm: llm.astream_structured_predict(
                output_cls, as_sent(prompt), call.stream_parameters, **prompt_args
            )
        )

    def _asked_by(self, prompt: BasePromptTemplate, prompt_args: Mapping[str, Any]) -> list[ChatMessage]:
        return self._extend_messages(prompt.format_messages(llm=self, **prompt_args))


def _conversation(history: Sequence[ChatMessage] | None, user_msg: str | ChatMessage | None) -> list[ChatMessage]:
    """Return the messages that LlamaIndex gives in two parts."""
    newest = ChatMessage(user_msg) if isinstance(user_msg, str) else user_msg
    return [*(history or []), *([] if newest is None else [newest])]
