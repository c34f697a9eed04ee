"""LangChain: a chat model that asks the model of the pool that the router picks, and steps aside."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

try:
    from langchain_core.language_models import BaseChatModel, LanguageModelInput
except ImportError as missing:
    raise ImportError("LangChain is missing: pip install 'unirouter[langchain]'.") from missing
from langchain_core.messages import BaseMessage
from langchain_core.runnables import ConfigurableFieldSpec, Runnable, RunnableConfig, RunnableLambda
from langchain_core.runnables.config import ensure_config
from pydantic import Field, PrivateAttr

from unirouter_core.decision import Decision, check_cost_weight
from unirouter_core.estimators import Estimator
from unirouter_core.exceptions import InvalidDataError
from unirouter_core.router import UniRouter
from unirouter_plugins.langchain.calling import Call
from unirouter_plugins.langchain.chat_model import PickingChatModel
from unirouter_plugins.langchain.chat_models import ChatModels
from unirouter_plugins.langchain.configurable import SPECS, PerCall
from unirouter_plugins.langchain.deciding import decision_on
from unirouter_plugins.langchain.messages import Conversation, messages_of
from unirouter_plugins.langchain.structured import StructuredOutput
from unirouter_plugins.langchain.tools import BoundTools
from unirouter_plugins.litellm import load_router
from unirouter_plugins.litellm.routed import Attempts
from unirouter_plugins.litellm.routed import last_decision, record_decisions
from unirouter_plugins.litellm.XXX import member_of, served
from unirouter_plugins.litellm.routed import check_given

if TYPE_CHECKING:
    from unirouter_plugins.langchain.middleware import UniRouterMiddleware

__all__ = ["RouterRunnable", "UniRouterMiddleware", "last_decision", "model_selector", "record_decisions"]

_OWN = ("callbacks", "tags", "metadata", "name", "verbose", "profile", "custom_get_token_ids")
"""Fields of LangChain's chat models that are the router's own; all others belong to the models of the pool."""


def __getattr__(name: str) -> Any:
    """Return what needs more than langchain-core, when it is asked for."""
    if name == "UniRouterMiddleware":
        from unirouter_plugins.langchain.middleware import UniRouterMiddleware

        return UniRouterMiddleware
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class RouterRunnable(PickingChatModel):
    """A chat model that asks, for each conversation, the model of the pool that the router picks.

    It picks, then lets the picked chat model do all the rest: messages, tools, schemas, streams, callbacks and traces
    are as if that had been called directly, and its run is the only one in the trace. Where it fails, the next model of
    the ranking is asked. (langchain-core has a `RouterRunnable` of its own, a mapping of runnables that the input names
    one of; this one decides itself, and is a chat model.)

    Conversations are routed on their newest text from the user. Inside a tool loop the model is kept; from one
    turn to the next it changes only when that gains more than the lost prompt cache is worth, as
    `unirouter_plugins.langchain.deciding.decision_on` says. All that it knows of a conversation is in its messages.

    Parameters
    ----------
    router : UniRouter
        A model that joins its pool later joins here, too, if it is called through LiteLLM.
    models : mapping of str to BaseChatModel, optional
        A chat model for each model of the pool, by name. When not given, each is a `ChatLiteLLM`, called as it was when
        it was measured, or as `pool.toml` says.
    cost_weight : float, optional
        The error that one USD is worth; the router's own when not given.
    content_policy : bool
        Whether a refusal by a provider's content filter goes to the next model.
    reads_system : bool
        Whether system messages are routed on, before the newest text from the user: for routers that were fitted on
        prompts with them. Others decide on what they were fitted on, the user's text.
    **fields
        `callbacks`, `tags`, `metadata`, `name`, `profile` as in all chat models. All else is for each `ChatLiteLLM`:
        its fields, like `cache`, `streaming` or `max_retries`, and LiteLLM's parameters, like `temperature`.

    Raises
    ------
    InvalidDataError
        When `models` holds something else, or a model of the pool has no chat model.
    UnknownModelError
        When one of `models` is not in the pool.
    ImportError
        When `models` is not given and langchain-litellm is not installed.

    Examples
    --------
    ::

        from langchain_core.output_parsers import StrOutputParser
        from langchain_core.prompts import ChatPromptTemplate
        from unirouter_plugins.langchain import RouterRunnable

        llm = RouterRunnable.from_folder("my.router")
        chain = ChatPromptTemplate.from_template("Translate into French: {text}") | llm | StrOutputParser()
        chain.invoke({"text": "The cheapest model that does it well."})

    Every answer says who gave it, why, and what it cost::

        answer = llm.invoke("What is 17 times 23?")
        answer.response_metadata["unirouter"]["model"]

    For one call `unirouter_cost_weight`, `unirouter_model`, `unirouter_models` (the candidates) and
    `unirouter_documents` can be set. The last are pinned documents, texts or LangChain's: what a question is about,
    which the router reads before it, or beside it if it was fitted with documents. They are not sent; the messages hold
    what the model is to read::

        llm.invoke("What is 17 times 23?", config={"configurable": {"unirouter_cost_weight": 0}})
        llm.invoke(messages, config={"configurable": {"unirouter_documents": [contract]}})
    """

    router: UniRouter
    models: Mapping[str, BaseChatModel] | None = None
    cost_weight: float | None = None
    content_policy: bool = False
    reads_system: bool = False
    settings: Mapping[str, Any] = Field(default_factory=dict, repr=False)
    _chat_models: ChatModels = PrivateAttr()

    def __init__(
        self,
        router: UniRouter,
        models: Mapping[str, BaseChatModel] | None = None,
        *,
        cost_weight: float | None = None,
        content_policy: bool = False,
        reads_system: bool = False,
        settings: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> None:
        _check(router)
        own = {name: fields.pop(name) for name in _OWN if name in fields}
        settings = {
            **(settings or {}),
            **{name: value for name, value in fields.items() if not _is_default(name, value)},
        }
        if models is not None:
            check_given(models, router, BaseChatModel, "a chat model of LangChain, with nothing bound to it")
            if settings:
                raise InvalidDataError(
                    f"{next(iter(settings))}= is for models that are called through LiteLLM; give it to those in "
                    "models={...}."
                )
        run = {name: own[name] for name in ("callbacks", "tags", "metadata") if own.get(name)}
        chat_models = ChatModels(models, settings, run)
        if own.get("profile") is None:
            own["profile"] = chat_models.common_profile(router)
        checked: dict[str, Any] = {
            "router": router,
            "models": models,
            "cost_weight": None if cost_weight is None else check_cost_weight(cost_weight),
            "content_policy": content_policy,
            "reads_system": reads_system,
            "settings": settings,
        }
        super().__init__(**checked, **own)
        self._chat_models = chat_models

    @classmethod
    def from_folder(
        cls,
        folder: str | os.PathLike[str],
        pool: str | os.PathLike[str] | None = None,
        *,
        embedder: Any = None,
        estimator: Estimator | None = None,
        **fields: Any,
    ) -> Self:
        """Return a chat model that routes with the router in `folder`, its models called as the table `pool` says.

        Parameters
        ----------
        folder : path
        pool : path, optional
            A `pool.toml`; see `unirouter_plugins.litellm.read_members`.
        embedder, estimator
            As in `UniRouter.load`.
        **fields
            As for `RouterRunnable`.

        Raises
        ------
        ArtifactError, InvalidDataError
            When the folder or the table cannot be used.
        """
        return cls(load_router(folder, pool, embedder=embedder, estimator=estimator), **fields)

    # --- Deciding -----------------------------------------------------------------------------------------------------

    def decide(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> Decision:
        """Return the decision on a conversation, and call nobody."""
        return self.begin(input, ensure_config(config), kwargs).attempts.decision

    def begin(
        self,
        input: LanguageModelInput,
        config: RunnableConfig,
        kwargs: Mapping[str, Any],
        *,
        prepare: Callable[[BaseChatModel], Runnable[Any, Any]] | None = None,
        sent: Mapping[str, Any] | None = None,
    ) -> Call:
        """Return a call of the picked model, to be made: what stands behind every door of the class.

        Parameters
        ----------
        input : str, prompt or messages
        config : RunnableConfig
            As `ensure_config` returns it.
        kwargs : mapping
            What the model is called with besides; `model`, as the pool calls it, is the one to ask.
        prepare : function, optional
            What is asked of the chat model besides the tools bound to it.
        sent : mapping, optional
            What that will send with the messages, in OpenAI's form.
        """
        parameters = dict(kwargs)
        if isinstance(tools := parameters.get("tools"), BoundTools):
            sent, prepare = {**tools.how, **parameters}, tools.bind_to
            del parameters["tools"]
        per_call = PerCall.of(config.get("configurable", {}))
        if (forced := parameters.pop("model", None)) is not None:
            per_call = dataclasses.replace(per_call, model=forced)
        messages = self._convert_input(input).to_messages()
        conversation = Conversation(messages, {**parameters, **(sent or {})}, per_call.documents, self.reads_system)
        serving = self._chat_models.served(self.router)
        weight = per_call.weight(self.cost_weight, self.router.cost_weight)
        decision = decision_on(conversation, serving, per_call, weight)
        kept = None if per_call.model else conversation.in_loop_of
        attempts = Attempts(decision, serving.windows, self.content_policy, kept=kept)
        why = "forced" if per_call.model else "tool loop" if attempts.model == kept else "routed"
        return Call(attempts, serving.pool, self._chat_models, prepare or _itself, parameters, config, why)

    @property
    def config_specs(self) -> list[ConfigurableFieldSpec]:
        """What may be set for one call, under "configurable" in its config."""
        return SPECS

    def with_structured_output(
        self, schema: Any, *, include_raw: bool = False, **kwargs: Any
    ) -> Runnable[LanguageModelInput, Any]:
        """Return what routes, then holds the picked model to a schema in that model's own way.

        Parameters
        ----------
        schema : type or mapping
        include_raw : bool
            Whether to return the message, too; it has the record of the call. For parsed answers alone
            `last_decision` has it.
        **kwargs
            As the chat models of the pool take them: `method`, `strict`.
        """
        default_method = "json_schema" if self.models is None else None  # that of ChatLiteLLM; others have their own
        return StructuredOutput(self, schema, include_raw, kwargs, default_method)

    # --- What LangChain asks of a chat model --------------------------------------------------------------------------

    @property
    def _llm_type(self) -> str:
        return "unirouter"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"models": sorted(self.router.pool), "cost_weight": self.cost_weight}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> Any:
        """Return what a trace says of a run of the router itself, which only its inner doors have."""
        named = {"ls_model_name": "unirouter", **super()._get_ls_params(stop=stop, **kwargs)}
        return {**named, "ls_provider": "unirouter"}

    def get_num_tokens(self, text: str) -> int:
        """Return the number of tokens of a text, as the router counts them: offline, for no model in particular."""
        return int(self.router.token_counter.count([text])[0])

    def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Sequence[Any] | None = None) -> int:
        """Return the number of tokens of a conversation, and of the tools, as the router counts them."""
        conversation = Conversation(messages, {"tools": list(BoundTools(tools or [], {}))})
        return int(conversation.tokens(self.router.token_counter)[0])


def _check(router: Any) -> None:
    if not isinstance(router, UniRouter):
        raise InvalidDataError(f"router={router!r:.60} is no UniRouter; load one: UniRouter.load('my.router').")


def _is_default(name: str, value: Any) -> bool:
    """Return whether a field of LangChain's chat models is given as it would be anyway: copies are made like that."""
    field = BaseChatModel.model_fields.get(name)
    return field is not None and value == field.get_default(call_default_factory=True)


def _itself(model: BaseChatModel) -> BaseChatModel:
    return model


def model_selector(
    router: UniRouter, *, names: Mapping[str, str] | None = None, cost_weight: float | None = None
) -> Runnable[LanguageModelInput, str]:
    """Return a runnable from a conversation to the name of the picked model, as `init_chat_model` takes it.

    Parameters
    ----------
    router : UniRouter
    names : mapping of str to str, optional
        What `init_chat_model` calls the models of the pool, like "openai:gpt-4.1-nano". When not given, each is called
        through LiteLLM, like "litellm:openai/gpt-4.1-nano"; only its name is taken, not its settings.
    cost_weight : float, optional
        The error that one USD is worth; the router's own when not given.

    Raises
    ------
    InvalidDataError
        When `router` is something else, or a model of the pool has none of the names.

    Notes
    -----
    Answers of `init_chat_model` say nothing of the pool: so no model is kept in tool loops, nothing is known of prompt
    caches, and nobody falls back. `RouterRunnable` does all of that.

    Examples
    --------
    ::

        selector, model = model_selector(router), init_chat_model(configurable_fields="model")
        model.invoke(messages, config={"configurable": {"model": selector.invoke(messages)}})
    """
    _check(router)
    if names is not None and (missing := [name for name in router.pool if name not in names]):
        raise InvalidDataError(f"{missing[0]!r} is in the pool but has no name for init_chat_model; add it to names.")

    def select(input: LanguageModelInput, config: RunnableConfig) -> str:
        per_call = PerCall.of(config.get("configurable", {}))
        conversation = Conversation(messages_of(input), documents=per_call.documents)
        weight = per_call.weight(cost_weight, router.cost_weight)
        model = decision_on(conversation, served(router), per_call, weight).model
        return f"litellm:{member_of(router.pool[model]).called}" if names is None else names[model]

    return RunnableLambda(select, name="model_selector")
