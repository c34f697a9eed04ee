"""LangChain's chat model that calls the model of the pool that the router picks."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, TypeAlias

from langchain_core.callbacks import CallbackManager, Callbacks
from langchain_core.callbacks import CallbackManagerForLLMRun as _Run
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, LLMResult
from langchain_core.runnables import ConfigurableFieldSpec, Runnable, RunnableConfig
from langchain_core.runnables.config import ensure_config
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field, PrivateAttr

from unirouter_core.router import UniRouter
from unirouter_core.rule import Decision, check_cost_weight
from unirouter_plugins.langchain.pool_models import (
    CONFIG_SPECS,
    ChatCall,
    ChatModels,
    chat_of,
    joined,
    messages_of,
    per_call,
)
from unirouter_plugins.langchain.questions import INPUTS, LONG
from unirouter_plugins.litellm import FromFolder, opened
from unirouter_plugins.litellm.chat import Chat, texts_of

_Path: TypeAlias = str | os.PathLike[str]

_OWN = ("callbacks", "tags", "metadata", "name", "verbose", "profile", "custom_get_token_ids")
"""Fields of LangChain's chat models that are the router's own; all others belong to the models of the pool."""

_TOOLS, _SCHEMA = "unirouter_tools", "unirouter_schema"
"""Under which names a binding keeps what `bind_tools` and `with_structured_output` were given."""

_Stop: TypeAlias = list[str] | None

_OF_RUNS = ("tags", "metadata", "run_name", "run_id")


class RouterRunnable(FromFolder, BaseChatModel):
    """A chat model that calls, for each conversation, the model of the pool that the router picks.

    The picked chat model does all the rest: messages, tools, schemas, streams, callbacks and traces are as if it had
    been called directly, and its run is the only one in the trace. When it fails, the next model is called.
    (langchain-core has a `RouterRunnable` of its own, a mapping of runnables; this one is a chat model.)

    Conversations are routed on the newest text of the user. Inside a tool loop the model is kept; from one turn to the
    next it changes only when that gains more than the lost prompt cache is worth, see `Snapshot.decide`. All that it
    knows of a conversation is in its messages.

    Parameters
    ----------
    router : UniRouter or path
        A router, or its folder, see `from_folder`. Models that are onboarded later are called, too, if LiteLLM can.
    models : mapping of str to BaseChatModel, optional
        Chat models for models of the pool, by name. Each other model is a `ChatLiteLLM`, called as it was when it was
        evaluated, or as `pool.toml` says.
    cost_weight : float, optional
        The error that one USD is worth; the router's own when not given.
    content_policy : bool
        Whether a refusal by a provider's content filter is passed on to the next model.
    reads_system : bool
        Whether system messages are routed on, before the newest text of the user: for routers fitted on prompts with
        them.
    **fields
        `callbacks`, `tags`, `metadata`, `name`, `profile` as in all chat models. All else is for each `ChatLiteLLM`:
        its fields, like `cache`, `streaming` or `max_retries`, and LiteLLM's parameters, like `temperature`.

    Raises
    ------
    InvalidDataError
        When `models` does not fit the pool, or neither `ChatLiteLLM` nor LiteLLM knows one of the fields.
    UnknownModelError
        When one of `models` is not in the pool.
    ImportError
        When a model is to be called through LiteLLM, and langchain-litellm is not installed.

    Examples
    --------
    ::

        from langchain_core.output_parsers import StrOutputParser
        from langchain_core.prompts import ChatPromptTemplate
        from unirouter_plugins.langchain import RouterRunnable

        llm = RouterRunnable("my.router")
        chain = ChatPromptTemplate.from_template("Translate into French: {text}") | llm | StrOutputParser()
        chain.invoke({"text": "The cheapest model that does it well."})

    Every answer has the record of its call: its model, why, and what it cost::

        answer = llm.invoke("What is 17 times 23?")
        answer.response_metadata["unirouter"]["model"]

    A message that holds a question and its context is routed on the question where the chain, or its prompt template,
    was given it as `question`, `query` or `input`, see `questions.Inputs.question_in`; the record says so:
    "routed_on": "question". Elsewhere name it.

    For one call `unirouter_question`, `unirouter_cost_weight`, `unirouter_model`, `unirouter_models` (the candidates),
    `unirouter_check` (False gives answers unchecked) and `unirouter_documents` can be set. The last are pinned
    documents, texts or LangChain's: what a question is about, which the router reads before it, or beside it if it was
    fitted with documents. They are not sent; the messages hold what the model is to read::

        llm.invoke(stuffed, config={"configurable": {"unirouter_question": "How long is the warranty of a tent?"}})
        llm.invoke("What is 17 times 23?", config={"configurable": {"unirouter_cost_weight": 0}})
        llm.invoke(messages, config={"configurable": {"unirouter_documents": [contract]}})
    """

    router: UniRouter
    models: Mapping[str, BaseChatModel] | None = None
    cost_weight: float | None = None
    content_policy: bool = False
    reads_system: bool = False
    settings: Mapping[str, Any] = Field(default_factory=dict, repr=False)
    _models: ChatModels = PrivateAttr()
    _run: dict[str, Any] = PrivateAttr()

    def __init__(
        self,
        router: UniRouter | _Path,
        models: Mapping[str, BaseChatModel] | None = None,
        *,
        cost_weight: float | None = None,
        content_policy: bool = False,
        reads_system: bool = False,
        settings: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> None:
        router = opened(router, models, BaseChatModel, "a chat model of LangChain, with nothing bound to it")
        own = {name: fields.pop(name) for name in _OWN if name in fields}
        given = {name: value for name, value in fields.items() if not _is_default(name, value)}
        settings = {**(settings or {}), **given}
        chat_models = ChatModels(router, models, settings)
        if own.get("profile") is None:
            own["profile"] = chat_models.common_profile(router)
        own |= {"router": router, "models": models, "settings": settings, "reads_system": reads_system}
        own |= {"content_policy": content_policy, "cost_weight": cost_weight}
        if cost_weight is not None:
            check_cost_weight(cost_weight)
        super().__init__(**own)
        self._models = chat_models
        self._run = {name: own[name] for name in ("callbacks", "tags", "metadata") if own.get(name)}

    def decide(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> Decision:
        """Return the decision on a conversation, without a call."""
        return self.begin(input, config, kwargs).decision

    def begin(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None,
        kwargs: Mapping[str, Any],
        sent: Mapping[str, Any] | None = None,
    ) -> ChatCall:
        """Return a call of the picked model, yet to be made.

        `kwargs` is what the model is called with besides; its `model` is the pool's name of the one to call. `sent` is
        what is sent with the messages, in OpenAI's form.
        """
        parameters, config = dict(kwargs), ensure_config(config)
        bound, held_to, prepare = parameters.pop(_TOOLS, None), parameters.pop(_SCHEMA, None), None
        if held_to is not None:
            schema, options = held_to
            sent = self._sent_beside(schema, options)
            prepare = lambda model: model.with_structured_output(schema, **options)  # noqa: E731
        elif bound is not None:
            tools, options = bound
            sent, prepare = {**options, **parameters}, lambda model: model.bind_tools(tools, **options)
            del parameters["tools"]
        if self._run:
            tags, metadata = self._run.get("tags", []), self._run.get("metadata", {})
            config |= {"tags": [*config["tags"], *tags], "metadata": {**metadata, **config["metadata"]}}
            config["callbacks"] = joined(config.get("callbacks"), self._run.get("callbacks"))
        own = per_call(config["configurable"])
        documents, forced = own["documents"], parameters.pop("model", own.get("model"))
        messages = input if isinstance(input, str) else messages_of(input)
        chat, question = chat_of(messages, {**parameters, **(sent or {})}), own.get("question")
        if question is None and (run := getattr(config.get("callbacks"), "parent_run_id", None)) is not None:
            question = INPUTS.question_in(chat.text, run)
        text = question or chat.text
        repeats = self._models.repeats
        if len(text) < LONG:
            repeats.texts.clear()
        elif not repeats.has_warned:
            repeats.see(text)
        as_such = documents and self.router.fit_.document_features is not None
        before = [*self._system_texts(chat), *(() if as_such else documents)]
        return ChatCall(
            self._models,
            self.router,
            chat,
            text="\n\n".join([*before, text]) if before or question else None,
            routed_on="question" if question else "prompt",
            documents=documents if as_such else None,
            cost_weight=self.cost_weight if own.get("cost_weight") is None else own["cost_weight"],
            candidates=own.get("models"),
            forced=forced,
            check=own.get("check", True),
            sources=documents,
            content_policy=self.content_policy,
            parameters=parameters,
            messages=messages if held_to is None else input,  # traces of the parsing chain show its input
            config=config,
            prepare=prepare,
            is_parsed=held_to is not None,
        )

    async def abegin(self, *args: Any, **options: Any) -> ChatCall:
        """Return the same as `begin`, made in a thread where to embed a prompt takes a while."""
        return await self._models.abegin(self.router, args[0], partial(self.begin, *args, **options))

    def _system_texts(self, chat: Chat) -> list[str]:
        """Return the system messages' texts, where they are routed on, and are not all that there is."""
        if not self.reads_system or not chat.prompt:
            return []
        return [text for m in chat.messages if m["role"] == "system" for text in texts_of(m["content"]) if text]

    @property
    def config_specs(self) -> list[ConfigurableFieldSpec]:
        """What may be set for one call, under "configurable" in its config."""
        return CONFIG_SPECS

    def invoke(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> AIMessage:
        """Return the picked model's answer."""
        call = self.begin(input, config, kwargs)
        answer: AIMessage = call.run(lambda model: model.invoke(call.messages, call.config, **call.parameters))
        return answer

    async def ainvoke(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AIMessage:
        """Return the same as `invoke`, asynchronously."""
        call = await self.abegin(input, config, kwargs)
        return await call.arun(lambda model: model.ainvoke(call.messages, call.config, **call.parameters))

    def stream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Iterator[AIMessageChunk]:
        """Yield the picked model's chunks as they come; the last one has the record of the call."""
        call = self.begin(input, config, kwargs)
        yield from call.stream(lambda model: model.stream(call.messages, call.config, **call.parameters))
        yield from call.end()

    async def astream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[AIMessageChunk]:
        """Yield the same as `stream`, asynchronously."""
        call = await self.abegin(input, config, kwargs)
        streamed = call.astream(lambda model: model.astream(call.messages, call.config, **call.parameters))
        async with aclosing(streamed) as chunks:
            async for chunk in chunks:
                yield chunk
        for chunk in call.end():
            yield chunk

    def generate(
        self, messages: list[list[BaseMessage]], stop: _Stop = None, callbacks: Callbacks = None, **kwargs: Any
    ) -> LLMResult:
        """Return the answers to conversations, each from the model picked for it."""

        def one(conversation: list[BaseMessage], config: RunnableConfig) -> LLMResult:
            call = self.begin(conversation, config, {"stop": stop, **kwargs})
            result: LLMResult = call.run(lambda model: model.generate([call.messages], **_run(model, call)))
            return result

        return _joined([one(*both) for both in _configs(messages, callbacks, kwargs)])

    async def agenerate(
        self, messages: list[list[BaseMessage]], stop: _Stop = None, callbacks: Callbacks = None, **kwargs: Any
    ) -> LLMResult:
        """Return the same as `generate`, asynchronously and all at once."""

        async def one(conversation: list[BaseMessage], config: RunnableConfig) -> LLMResult:
            call = await self.abegin(conversation, config, {"stop": stop, **kwargs})
            return await call.arun(lambda model: model.agenerate([call.messages], **_run(model, call)))

        each = list(_configs(messages, callbacks, kwargs))  # takes names out of kwargs
        results = await asyncio.gather(*(one(*both) for both in each), return_exceptions=True)
        for result in results:  # all have ended: none goes on when one is raised
            if isinstance(result, BaseException):
                raise result
        return _joined([result for result in results if isinstance(result, LLMResult)])

    # --- Tools and schemas: in the picked model's own form, so they are kept until it is known -----------------------

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: Any = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Return the router with tools for the picked model, which binds them in its own form; it must be able to."""
        options = kwargs if tool_choice is None else {"tool_choice": tool_choice, **kwargs}
        as_openai = [as_openai_tool(tool) for tool in tools]  # for callers that read the binding
        return self.bind(tools=as_openai, **{_TOOLS: (list(tools), {**options})})

    def with_structured_output(
        self, schema: Any, *, include_raw: bool = False, **kwargs: Any
    ) -> Runnable[LanguageModelInput, Any]:
        """Return the router bound to a schema, to which the picked model holds in its own way.

        Parameters
        ----------
        schema : type or mapping
        include_raw : bool
            Whether to return the message, too; it has the record of the call. For parsed answers alone
            `last_decision` has it.
        **kwargs
            As the chat models of the pool take them: `method`, `strict`.
        """
        options = {"include_raw": include_raw, **kwargs}
        return self.bind(**{_SCHEMA: (schema, options)}).with_types(output_type=Any)  # type: ignore[arg-type]

    def _sent_beside(self, schema: Any, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return what is sent for a schema, in OpenAI's form; nothing is required where the method is not known."""
        if schema is None:
            return {"response_format": {"type": "json_object"}}
        tool = convert_to_openai_tool(schema)
        method = options.get("method") or (None if self.models else "json_schema")  # that of ChatLiteLLM
        if method == "function_calling":
            return {"tools": [tool]}
        function = tool["function"]
        return {"response_format": function if method is None else {"type": "json_schema", "json_schema": function}}

    def stream_events(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, *, version: Any = "v2", **kwargs: Any
    ) -> Any:
        """Return LangChain's events of the picked model, as `BaseChatModel.stream_events` does."""
        if version != "v3":
            return super().stream_events(input, config, version=version, **kwargs)
        from unirouter_plugins.langchain.events import stream_of  # langchain-core has them since 1.4

        def events() -> Iterator[Any]:
            call = self.begin(input, config, kwargs)
            yield from call.stream(
                lambda model: model.stream_events(call.messages, call.config, version=version, **call.parameters)
            )

        return stream_of(events())

    def astream_events(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, *, version: Any = "v2", **kwargs: Any
    ) -> Any:
        """Return the same as `stream_events`, asynchronously."""
        if version != "v3":
            return super().astream_events(input, config, version=version, **kwargs)
        from unirouter_plugins.langchain.events import astream_of, whole

        async def events() -> AsyncIterator[Any]:
            call = await self.abegin(input, config, kwargs)
            how = {"version": version, **call.parameters}
            streamed = call.astream(lambda model: whole(model.astream_events(call.messages, call.config, **how)))
            async with aclosing(streamed) as taken:
                async for event in taken:
                    yield event

        return astream_of(events())

    # --- Below the public methods: for callers that know LangChain from inside ----------------------------------------

    def _generate(
        self, messages: list[BaseMessage], stop: _Stop = None, run_manager: _Run | None = None, **kwargs: Any
    ) -> ChatResult:
        message = self.invoke(messages, _child(run_manager), stop=stop, **kwargs)
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self, messages: list[BaseMessage], stop: _Stop = None, run_manager: _Run | None = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        for chunk in self.stream(messages, _child(run_manager), stop=stop, **kwargs):
            yield ChatGenerationChunk(message=chunk)

    @property
    def _llm_type(self) -> str:
        return "unirouter"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"models": sorted(self.router.pool), "cost_weight": self.cost_weight}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> Any:
        """Return what a trace tells of a run of the router itself, which only its inner methods have."""
        named = {"ls_model_name": "unirouter", **super()._get_ls_params(stop=stop, **kwargs)}
        return {**named, "ls_provider": "unirouter"}

    def get_num_tokens(self, text: str) -> int:
        """Return the number of tokens of a text, as the router counts them: offline, for no model in particular."""
        return int(self.router.fit_.token_counter.count([text])[0])

    def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Sequence[Any] | None = None) -> int:
        """Return the number of tokens of a conversation, and of the tools, as the router counts them."""
        chat = chat_of(messages, {"tools": [as_openai_tool(tool) for tool in tools or ()]})
        return int(chat.count_tokens(self.router.fit_.token_counter))


def _is_default(name: str, value: Any) -> bool:
    """Return whether a field of LangChain's chat models is given as it would be anyway: copies are made like that."""
    field = BaseChatModel.model_fields.get(name)
    return field is not None and value == field.get_default(call_default_factory=True)


def as_openai_tool(tool: Any) -> dict[str, Any]:
    """Return a tool in OpenAI's form; one that a provider has itself stays in its own form."""
    try:
        return convert_to_openai_tool(tool)
    except ValueError:
        if isinstance(tool, dict):
            return tool
        raise


def _child(run: _Run | None) -> RunnableConfig:
    """Return a config whose runs are below the one that the caller has begun."""
    return {} if run is None else {"callbacks": CallbackManager(run.inheritable_handlers, parent_run_id=run.run_id)}


def _configs(conversations: list[Any], callbacks: Callbacks, kwargs: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Yield each conversation with a config of the arguments of `generate`; a run's id is only the first's.

    What may be set for one call is the surrounding run's.
    """
    given = {name: kwargs.pop(name, None) for name in _OF_RUNS}
    config = {"callbacks": callbacks, "configurable": ensure_config()["configurable"]}
    config |= {name: value for name, value in given.items() if value is not None}
    for place, conversation in enumerate(conversations):
        yield conversation, {**config, "run_id": None} if place else config


def _run(model: Any, call: ChatCall) -> dict[str, Any]:
    """Return what `generate` of a prepared model is called with; one with tools bound keeps them beside it."""
    run = {name: call.config.get(name) for name in ("callbacks", *_OF_RUNS)}
    return {**run, **getattr(model, "kwargs", {}), **call.parameters}


def _joined(results: list[LLMResult]) -> LLMResult:
    """Return one result for all conversations, in their order."""
    return LLMResult(
        generations=[generations for result in results for generations in result.generations],
        llm_output=results[0].llm_output if len(results) == 1 else {},
        run=[run for result in results for run in result.run or []] or None,
    )
