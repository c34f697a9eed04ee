"""LlamaIndex's LLM that calls the model of the pool that the router picks."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

from llama_index.core.base.llms import types
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse, LLMMetadata
from llama_index.core.llms import LLM
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.prompts import BasePromptTemplate
from llama_index.core.tools import BaseTool
from llama_index_instrumentation.dispatcher import DISPATCHER_SPAN_DECORATED_ATTR
from pydantic import Field, PrivateAttr

from unirouter_core.exceptions import InvalidDataError
from unirouter_core.router import UniRouter
from unirouter_core.rule import Decision, check_cost_weight
from unirouter_plugins.litellm import FromFolder, opened
from unirouter_plugins.llamaindex.pool_llms import LLMCall, PoolLLMs, chat_of, model_of
from unirouter_plugins.llamaindex.queries import current_query, register_handlers

_OWN = frozenset(LLM.model_fields)
"""Fields of LlamaIndex's LLMs, which are the router's own; all others are LiteLLM's parameters."""

_Newest: TypeAlias = str | ChatMessage | None
_History: TypeAlias = list[ChatMessage] | None

_SHARED = ("system_prompt", "pydantic_program_mode", "rate_limiter")
"""Those of them that each `LiteLLM` gets, too."""


class UniRouterLLM(FromFolder, FunctionCallingLLM):
    """An LLM that calls, for each prompt or chat, the model of the pool that the router picks.

    The picked LLM does all the rest: messages, tools, schemas, streams, callbacks and events are as if it had been
    called directly. When it fails, the next model is called.

    Calls are routed on the newest text of the user. Inside a query engine or a response synthesizer they are routed on
    the query's text, without the context that was retrieved, at the price of all that is sent; and the model that
    answers first is kept until the query is answered, unless `per_step`. A router that was fitted with documents reads
    the retrieved nodes and their scores, too, so it picks again once there are any.

    A model that has answered in a chat, as its messages' records show, is priced with its provider's prompt cache.
    Agents keep the model inside a tool loop. For other code of several steps, `one_query` makes one query of it.

    Queries are known from LlamaIndex's events. Handlers for them are registered, for the whole process, when an LLM of
    this class is first used: called, or its `metadata` read, as query engines do when they are made. An engine of your
    own that does neither before its first query is routed on that query's calls themselves.

    Parameters
    ----------
    router : UniRouter or path
        A router, or its folder, see `from_folder`. Models that are onboarded later are called, too, if LiteLLM can.
    models : mapping of str to LLM, optional
        LLMs for models of the pool, by name; the router's callback handlers are added to their own, in a copy. Each
        other model is a `LiteLLM`, called as it was when it was evaluated, or as `pool.toml` says.
    cost_weight : float, optional
        The error that one USD is worth; the router's own when not given.
    content_policy : bool
        Whether a refusal by a provider's content filter is passed on to the next model.
    per_step : bool
        Whether each step of a query is routed on its own text.
    **fields
        `callback_manager`, `system_prompt` and the others of all LLMs. All else is for each `LiteLLM`: LiteLLM's
        parameters, like `temperature`, and `max_retries`.

    Raises
    ------
    InvalidDataError
        When `models` does not fit the pool, or LiteLLM does not know one of the fields.
    UnknownModelError
        When one of `models` is not in the pool.
    ImportError
        When a model is to be called through LiteLLM, and llama-index-llms-litellm is not installed.

    Examples
    --------
    ::

        from llama_index.core import Settings, VectorStoreIndex
        from unirouter_plugins.llamaindex import UniRouterLLM

        Settings.llm = UniRouterLLM.from_folder("my.router")
        response = VectorStoreIndex.from_documents(documents).as_query_engine().query("How long is the warranty?")

    Every answer has the record of its call: its model, why, and what it cost; the response of a query has all of them
    in `unirouter_calls`. That of a stream is whole when it has been read::

        response.metadata["unirouter"]["model"]
        Settings.llm.complete("What is 17 times 23?").additional_kwargs["unirouter"]["usd"]
    """

    router: UniRouter = Field(exclude=True)
    models: Mapping[str, LLM] | None = Field(default=None, exclude=True, repr=False)  # they may show keys
    cost_weight: float | None = None
    content_policy: bool = False
    per_step: bool = False
    _models: PoolLLMs = PrivateAttr()

    def __init__(
        self,
        router: UniRouter | str | os.PathLike[str],
        models: Mapping[str, LLM] | None = None,
        *,
        cost_weight: float | None = None,
        content_policy: bool = False,
        per_step: bool = False,
        **fields: Any,
    ) -> None:
        router = opened(router, models, LLM, "an LLM of LlamaIndex")
        own = {name: fields.pop(name) for name in _OWN if name in fields}
        settings = {**fields.pop("additional_kwargs", {}), **fields}
        llms = PoolLLMs(router, models, settings, {name: own[name] for name in _SHARED if name in own})
        own |= {"router": router, "models": models, "content_policy": content_policy, "per_step": per_step}
        own["cost_weight"] = None if cost_weight is None else check_cost_weight(cost_weight)
        super().__init__(**own)
        self._models = llms

    @classmethod
    def class_name(cls) -> str:
        """Return LlamaIndex's name for the class."""
        return "unirouter_llm"

    @property
    def metadata(self) -> LLMMetadata:
        """What the router can do with its pool: the window of the model with the least room, tools if any has them."""
        register_handlers()
        return self._models.metadata(self.router)

    def decide(self, asked: str | Sequence[ChatMessage], tools: Sequence[BaseTool] = ()) -> Decision:
        """Return the decision on a prompt or a chat, without a call."""
        return self.begin([ChatMessage(asked)] if isinstance(asked, str) else asked, {}, tools=tools).decision

    def begin(
        self, messages: Sequence[ChatMessage], parameters: Mapping[str, Any], tools: Sequence[BaseTool] = ()
    ) -> LLMCall:
        """Return a call of the picked model, yet to be made.

        `model` in `parameters` is the pool's name of the one to call; `check=False` gives its answer unchecked.
        """
        register_handlers()
        chat, query = chat_of(messages, tools, parameters), current_query()
        parameters = dict(parameters)
        forced, found, kept, text = parameters.pop("model", None), None, None, None
        check, sources = (
            parameters.pop("check", True),
            () if query is None or query.found is None else query.found.texts,
        )
        if query is not None:
            found = query.found if self.router.fit_.document_features is not None else None
            text = query.text_for(per_step=self.per_step)
        keeper = id(self), found is not None
        if query is not None and not self.per_step:
            kept = query.outermost.models.get(keeper)
        return LLMCall(
            self._models,
            self.router,
            chat,
            text=text,
            routed_on="prompt" if text is None else "question",
            cost_weight=self.cost_weight,
            documents=found,
            forced=forced,
            kept=kept,
            check=check,
            sources=sources,
            content_policy=self.content_policy,
            parameters=parameters,
            messages=messages,
            callbacks=self.callback_manager,
            query=query,
            keeper=keeper,
        )

    async def abegin(self, *args: Any, **options: Any) -> LLMCall:
        """Return the same as `begin`, made in a thread where to embed a prompt takes a while."""
        return await self._models.abegin(self.router, args[0], partial(self.begin, *args, **options))

    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Return the picked model's answer."""
        call = self.begin(messages, kwargs)
        answer: ChatResponse = call.run(lambda llm: llm.chat(call.messages, **call.parameters))
        return answer

    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Return the same as `chat`, asynchronously."""
        call = await self.abegin(messages, kwargs)
        return await call.arun(lambda llm: llm.achat(call.messages, **call.parameters))

    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> types.ChatResponseGen:
        """Return the picked model's answer as it comes."""
        call = self.begin(messages, kwargs)
        return call.open(lambda llm: llm.stream_chat(call.messages, **call.parameters))

    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> types.ChatResponseAsyncGen:
        """Return the same as `stream_chat`, asynchronously."""
        call = await self.abegin(messages, kwargs)
        return await call.aopen(lambda llm: llm.astream_chat(call.messages, **call.parameters))

    # --- Completions --------------------------------------------------------------------------------------------------

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Return the picked model's completion."""
        call = self.begin([ChatMessage(prompt)], kwargs)
        answer: CompletionResponse = call.run(lambda llm: llm.complete(prompt, formatted=formatted, **call.parameters))
        return answer

    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Return the same as `complete`, asynchronously."""
        call = await self.abegin([ChatMessage(prompt)], kwargs)
        return await call.arun(lambda llm: llm.acomplete(prompt, formatted=formatted, **call.parameters))

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> types.CompletionResponseGen:
        """Return the picked model's completion as it comes."""
        call = self.begin([ChatMessage(prompt)], kwargs)
        return call.open(lambda llm: llm.stream_complete(prompt, formatted=formatted, **call.parameters))

    async def astream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> types.CompletionResponseAsyncGen:
        """Return the same as `stream_complete`, asynchronously."""
        call = await self.abegin([ChatMessage(prompt)], kwargs)
        return await call.aopen(lambda llm: llm.astream_complete(prompt, formatted=formatted, **call.parameters))

    # --- Tools: `kwargs` are LlamaIndex's verbose, allow_parallel_tool_calls, tool_required and the LLM's own ---------

    def chat_with_tools(  # type: ignore[override]  # LlamaIndex gives the others by name
        self, tools: Sequence[BaseTool], user_msg: _Newest = None, chat_history: _History = None, **kwargs: Any
    ) -> ChatResponse:
        """Return the answer, or the tool calls, of the picked model, which can call tools."""
        call = self._with_tools(tools, user_msg, chat_history, **kwargs)
        answer: ChatResponse = call.run(lambda llm: llm.chat_with_tools(tools, **call.sent))
        return answer

    async def achat_with_tools(self, tools: Sequence[BaseTool], *args: Any, **kwargs: Any) -> ChatResponse:
        """Return the same as `chat_with_tools`, asynchronously."""
        call = await self._awith_tools(tools, *args, **kwargs)
        return await call.arun(lambda llm: llm.achat_with_tools(tools, **call.sent))

    def stream_chat_with_tools(self, tools: Sequence[BaseTool], *args: Any, **kwargs: Any) -> types.ChatResponseGen:
        """Return the same as `chat_with_tools`, as the answer comes."""
        call = self._with_tools(tools, *args, **kwargs)
        return call.open(lambda llm: llm.stream_chat_with_tools(tools, **call.sent))

    async def astream_chat_with_tools(
        self, tools: Sequence[BaseTool], *args: Any, **kwargs: Any
    ) -> types.ChatResponseAsyncGen:
        """Return the same as `stream_chat_with_tools`, asynchronously."""
        call = await self._awith_tools(tools, *args, **kwargs)
        return await call.aopen(lambda llm: llm.astream_chat_with_tools(tools, **call.sent))

    def _with_tools(
        self, tools: Sequence[BaseTool], user_msg: _Newest = None, chat_history: _History = None, **kwargs: Any
    ) -> LLMCall:
        return self.begin(_conversation(chat_history, user_msg), kwargs, tools)

    async def _awith_tools(
        self, tools: Sequence[BaseTool], user_msg: _Newest = None, chat_history: _History = None, **kwargs: Any
    ) -> LLMCall:
        return await self.abegin(_conversation(chat_history, user_msg), kwargs, tools)

    def _prepare_chat_with_tools(  # type: ignore[override]
        self, tools: Sequence[BaseTool], user_msg: _Newest = None, chat_history: _History = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Return the arguments of `chat` for callers that do not use the methods above: tools in OpenAI's form."""
        specs = [tool.metadata.to_openai_tool(skip_length_check=True) for tool in tools]
        return {"messages": _conversation(chat_history, user_msg), "tools": specs}

    # --- Schemas: each model has its own way to hold to one -----------------------------------------------------------

    def structured_predict(
        self, output_cls: type[Any], prompt: BasePromptTemplate, llm_kwargs: Any = None, **prompt_args: Any
    ) -> Any:
        """Return the picked model's answer as an object."""
        call = self.begin(self._messages_of(prompt, prompt_args), llm_kwargs or {})
        return call.run(
            lambda llm: llm.structured_predict(output_cls, call.prompt(prompt), call.parameters, **prompt_args)
        )

    async def astructured_predict(
        self, output_cls: type[Any], prompt: BasePromptTemplate, llm_kwargs: Any = None, **prompt_args: Any
    ) -> Any:
        """Return the same as `structured_predict`, asynchronously."""
        call = await self.abegin(self._messages_of(prompt, prompt_args), llm_kwargs or {})
        return await call.arun(
            lambda llm: llm.astructured_predict(output_cls, call.prompt(prompt), call.parameters, **prompt_args)
        )

    def stream_structured_predict(
        self, output_cls: type[Any], prompt: BasePromptTemplate, llm_kwargs: Any = None, **prompt_args: Any
    ) -> Generator[Any]:
        """Return the object as far as the picked model has written it."""
        call = self.begin(self._messages_of(prompt, prompt_args), llm_kwargs or {})
        return call.open(
            lambda llm: llm.stream_structured_predict(output_cls, call.prompt(prompt), call.parameters, **prompt_args)
        )

    async def astream_structured_predict(
        self, output_cls: type[Any], prompt: BasePromptTemplate, llm_kwargs: Any = None, **prompt_args: Any
    ) -> AsyncGenerator[Any]:
        """Return the same as `stream_structured_predict`, asynchronously."""
        call = await self.abegin(self._messages_of(prompt, prompt_args), llm_kwargs or {})
        return await call.aopen(
            lambda llm: llm.astream_structured_predict(output_cls, call.prompt(prompt), call.parameters, **prompt_args)
        )

    def _messages_of(self, prompt: BasePromptTemplate, prompt_args: Mapping[str, Any]) -> list[ChatMessage]:
        return self._extend_messages(prompt.format_messages(llm=self, **prompt_args))

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        """Return the tool calls in an answer of the router, as the LLM that gave it reads them."""
        model = model_of(response.message)
        reader: Any = None if model is None else self._models.reader(model, self.router)
        if reader is None:
            raise InvalidDataError(
                "This answer has no record of a model of the pool, so its tool calls cannot be read; give one as "
                "chat_with_tools returns it."
            )
        return list(reader.get_tool_calls_from_response(response, error_on_no_tool_call, **kwargs))


def _conversation(history: _History, user_msg: _Newest) -> list[ChatMessage]:
    """Return the messages that LlamaIndex gives in two parts."""
    newest = ChatMessage(user_msg) if isinstance(user_msg, str) else user_msg
    return [*(history or []), *([] if newest is None else [newest])]


for _name, _method in list(vars(UniRouterLLM).items()):
    if hasattr(
        _method, DISPATCHER_SPAN_DECORATED_ATTR
    ):  # spans are the picked LLM's, as if it had been called directly
        setattr(UniRouterLLM, _name, _method.__wrapped__)
