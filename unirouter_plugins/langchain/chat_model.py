"""The doors of a LangChain chat model, each of which leads to the chat model that a call picks."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from functools import partial
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

from langchain_core.callbacks import (
    AsyncCallbackManager,
    AsyncCallbackManagerForLLMRun,
    CallbackManager,
    CallbackManagerForLLMRun,
    Callbacks,
)
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, LLMResult
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import ensure_config, run_in_executor
from langchain_core.tools import BaseTool
from pydantic import PrivateAttr

from unirouter_plugins.langchain.calling import Call, is_last
from unirouter_plugins.langchain.tools import BoundTools

if TYPE_CHECKING:
    from uuid import UUID

AT_ONCE = 16
"""How many decisions an event loop hands to threads at once: a burst of hundreds would keep it from its other tasks."""

_END = AIMessageChunk(content="", chunk_position="last")
"""For chat models that do not say which chunk is the last."""


class _Turns(WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore]):
    """Who waits for a thread, in each event loop; when pickled it is empty, since loops stay where they run."""

    def __reduce__(self) -> tuple[type[_Turns], tuple[()]]:
        return _Turns, ()


class PickingChatModel(BaseChatModel):
    """A chat model that begins each call by picking another, which then does all the rest.

    `invoke` and the like are overridden, not what they call: so the run of the picked model is the only one.
    """

    _turns: _Turns = PrivateAttr(default_factory=_Turns)

    @abstractmethod
    def begin(
        self,
        input: LanguageModelInput,
        config: RunnableConfig,
        kwargs: Mapping[str, Any],
        *,
        prepare: Callable[[BaseChatModel], Runnable[Any, Any]] | None = None,
        sent: Mapping[str, Any] | None = None,
    ) -> Call:
        """Return a call of the picked model, to be made.

        Parameters
        ----------
        input : str, prompt or messages
        config : RunnableConfig
            As `ensure_config` returns it.
        kwargs : mapping
            What the model is called with besides.
        prepare : function BaseChatModel -> Runnable, optional
            What is asked of the chat model, if not itself.
        sent : mapping, optional
            What that will send with the messages, in OpenAI's form.
        """

    async def abegin(
        self,
        input: LanguageModelInput,
        config: RunnableConfig,
        kwargs: Mapping[str, Any],
        *,
        prepare: Callable[[BaseChatModel], Runnable[Any, Any]] | None = None,
        sent: Mapping[str, Any] | None = None,
    ) -> Call:
        """Do what `begin` does in a thread: to embed a prompt takes a while."""
        begin = partial(self.begin, input, config, kwargs, prepare=prepare, sent=sent)
        async with self._turns.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(AT_ONCE)):
            return await run_in_executor(None, begin)

    # --- One answer ---------------------------------------------------------------------------------------------------

    def invoke(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """Return the picked model's answer."""
        call = self.begin(input, ensure_config(config), kwargs)
        answer: AIMessage = call.answer(lambda model, run: model.invoke(input, run, stop=stop, **call.parameters))
        return call.answered(answer)

    async def ainvoke(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """Do what `invoke` does, asynchronously."""
        call = await self.abegin(input, ensure_config(config), kwargs)
        asked = call.aanswer(lambda model, run: model.ainvoke(input, run, stop=stop, **call.parameters))
        answer: AIMessage = await asked
        return call.answered(answer)

    # --- Streams ------------------------------------------------------------------------------------------------------

    def stream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Iterator[AIMessageChunk]:
        """Yield the picked model's chunks as they come."""
        call, has_ended = self.begin(input, ensure_config(config), kwargs), False
        streamed = call.stream(lambda model, run: model.stream(input, run, stop=stop, **call.parameters))
        with closing(streamed) as chunks:
            for chunk in chunks:
                has_ended = has_ended or is_last(chunk)
                yield call.streamed(chunk)
        if not has_ended:
            yield call.streamed(_END)

    async def astream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:
        """Do what `stream` does, asynchronously."""
        call, has_ended = await self.abegin(input, ensure_config(config), kwargs), False
        streamed = call.astream(lambda model, run: model.astream(input, run, stop=stop, **call.parameters))
        async with aclosing(streamed) as chunks:
            async for chunk in chunks:
                has_ended = has_ended or is_last(chunk)
                yield call.streamed(chunk)
        if not has_ended:
            yield call.streamed(_END)

    def stream_events(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        version: Literal["v1", "v2", "v3"] = "v2",
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return LangChain's events of the picked model, as `BaseChatModel.stream_events` does."""
        if version != "v3":
            return super().stream_events(input, config, version=version, stop=stop, **kwargs)
        from unirouter_plugins.langchain.events import stream_events  # langchain-core has them since 1.4

        return stream_events(self, input, ensure_config(config), stop, kwargs)

    def astream_events(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        version: Literal["v1", "v2", "v3"] = "v2",
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Do what `stream_events` does, asynchronously."""
        if version != "v3":
            return super().astream_events(input, config, version=version, stop=stop, **kwargs)
        from unirouter_plugins.langchain.events import astream_events

        return astream_events(self, input, ensure_config(config), stop, kwargs)

    # --- Many conversations at once -----------------------------------------------------------------------------------

    def generate(
        self,
        messages: list[list[BaseMessage]],
        stop: list[str] | None = None,
        callbacks: Callbacks = None,
        *,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        run_name: str | None = None,
        run_id: UUID | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        """Return the answers to conversations, each from the model picked for it."""
        configs = _configs(len(messages), callbacks, tags, metadata, run_name, run_id)
        results = []
        for conversation, config in zip(messages, configs, strict=True):
            call = self.begin(conversation, config, kwargs)
            results.append(call.generated(call.answer(partial(_generate, call, conversation, stop))))
        return _joined(results)

    async def agenerate(
        self,
        messages: list[list[BaseMessage]],
        stop: list[str] | None = None,
        callbacks: Callbacks = None,
        *,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        run_name: str | None = None,
        run_id: UUID | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        """Do what `generate` does, asynchronously and all at once."""
        configs = _configs(len(messages), callbacks, tags, metadata, run_name, run_id)

        async def one(conversation: list[BaseMessage], config: RunnableConfig) -> LLMResult:
            call = await self.abegin(conversation, config, kwargs)
            return call.generated(await call.aanswer(partial(_agenerate, call, conversation, stop)))

        results = await asyncio.gather(*map(one, messages, configs), return_exceptions=True)
        for result in results:  # all have ended: none is left behind when one is raised
            if isinstance(result, BaseException):
                raise result
        return _joined([result for result in results if isinstance(result, LLMResult)])

    # --- What is asked besides ----------------------------------------------------------------------------------------

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: Any = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Return the router with tools for the picked model, which binds them in its own form; it must be able to."""
        how = kwargs if tool_choice is None else {"tool_choice": tool_choice, **kwargs}
        return self.bind(tools=BoundTools(tools, how))

    # --- Behind the doors: for callers that know LangChain from inside ------------------------------------------------

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        message = self.invoke(messages, _child(run_manager, CallbackManager), stop=stop, **kwargs)
        return ChatResult(generations=[ChatGeneration(message=message)])

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        message = await self.ainvoke(messages, _child(run_manager, AsyncCallbackManager), stop=stop, **kwargs)
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        for chunk in self.stream(messages, _child(run_manager, CallbackManager), stop=stop, **kwargs):
            yield ChatGenerationChunk(message=chunk)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        async for chunk in self.astream(messages, _child(run_manager, AsyncCallbackManager), stop=stop, **kwargs):
            yield ChatGenerationChunk(message=chunk)


def _child(
    run: CallbackManagerForLLMRun | AsyncCallbackManagerForLLMRun | None,
    kind: type[CallbackManager] | type[AsyncCallbackManager],
) -> RunnableConfig:
    """Return a config whose runs are below the one that the caller has begun."""
    return {} if run is None else {"callbacks": kind(run.inheritable_handlers, parent_run_id=run.run_id)}


def _configs(n: int, callbacks: Callbacks, *given: Any) -> list[RunnableConfig]:
    """Return a config for each of n conversations, with the arguments of `generate`; a run's id is only the first's.

    What may be set for one call is the surrounding run's.
    """
    config: Any = {"callbacks": callbacks, "configurable": ensure_config()["configurable"]}
    named = dict(zip(("tags", "metadata", "run_name", "run_id"), given, strict=True))
    config |= {name: value for name, value in named.items() if value is not None}
    return [config, *[{**config, "run_id": None}] * (n - 1)]


def _arguments(model: Any, call: Call, config: RunnableConfig) -> dict[str, Any]:
    run = {name: config.get(name) for name in ("callbacks", "tags", "metadata", "run_name", "run_id")}
    return {**run, **getattr(model, "kwargs", {}), **call.parameters}  # a model with tools bound keeps them there


def _generate(call: Call, messages: list[BaseMessage], stop: list[str] | None, model: Any, run: RunnableConfig) -> Any:
    return model.generate([messages], stop=stop, **_arguments(model, call, run))


def _agenerate(call: Call, messages: list[BaseMessage], stop: list[str] | None, model: Any, run: RunnableConfig) -> Any:
    return model.agenerate([messages], stop=stop, **_arguments(model, call, run))


def _joined(results: list[LLMResult]) -> LLMResult:
    """Return one result for all conversations, in their order."""
    return LLMResult(
        generations=[generations for result in results for generations in result.generations],
        llm_output=results[0].llm_output if len(results) == 1 else {},
        run=[run for result in results for run in result.run or []] or None,
    )
