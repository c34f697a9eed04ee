"""LlamaIndex: an LLM that asks the model of the pool that the router picks, and a selector that picks by model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Self

try:
    from llama_index.core.llms import LLM, ChatMessage, ChatResponse, LLMMetadata
except ImportError as missing:
    raise ImportError("LlamaIndex is missing: pip install 'unirouter[llamaindex]'.") from missing
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.tools import BaseTool
from pydantic import Field, PrivateAttr

from unirouter_core.documents import Documents
from unirouter_core.estimators import Estimator
from unirouter_core.exceptions import InvalidDataError
from unirouter_core.router import UniRouter
from unirouter_core.rule import Decision, check_cost_weight
from unirouter_plugins.litellm import load_router
from unirouter_plugins.litellm.routed import Attempts, check_given, last_decision, record_decisions
from unirouter_plugins.litellm.XXX import Served
from unirouter_plugins.llamaindex.calling import Call
from unirouter_plugins.llamaindex.hearing import watch_answers
from unirouter_plugins.llamaindex.llm import PickingLLM
from unirouter_plugins.llamaindex.llms import PoolLLMs
from unirouter_plugins.llamaindex.messages import Asked, answered_by, without_records
from unirouter_plugins.llamaindex.queries import Query, current_query, loud, one_query, watch_queries
from unirouter_plugins.llamaindex.selector import UniRouteSelector

__all__ = ["UniRouteSelector", "UniRouterLLM", "last_decision", "one_query", "record_decisions"]

_OWN = frozenset(LLM.model_fields)
"""Fields of LlamaIndex's LLMs, which are the router's own; all others are LiteLLM's parameters."""

_SHARED = ("system_prompt", "pydantic_program_mode", "rate_limiter")
"""Those of them that each `LiteLLM` goes by, too."""


class UniRouterLLM(PickingLLM):
    """An LLM that asks, for each call, the model of the pool that the router picks.

    It picks, then lets the picked LLM do all the rest: messages, tools, schemas, streams, callbacks and events are as
    if that had been called directly. Where it fails, the next model of the ranking is asked.

    Calls are routed on the newest text of the user. Inside a query engine or a response synthesizer they are routed on
    what the query asks, without the context that was retrieved, at the price of all that is sent; and the model that
    answers first is kept until the query is answered, unless `per_step`. A router that was fitted with documents reads
    the retrieved nodes and their scores, too; a model that it picked before there were any is then picked anew.

    A model that has answered in a chat, whose messages say so, is priced with what its provider has cached of it.
    Agents that call tools keep the model inside a tool loop. For other code of several steps, `one_query` makes one
    query of it.

    Parameters
    ----------
    router : UniRouter
        A model that joins its pool later joins here, too, if it is called through LiteLLM.
    models : mapping of str to LLM, optional
        An LLM for each model of the pool, by name. When not given, each is a `LiteLLM`, called as it was when it was
        measured, or as `pool.toml` says.
    cost_weight : float, optional
        The error that one USD is worth; the router's own when not given.
    content_policy : bool
        Whether a refusal by a provider's content filter goes to the next model.
    per_step : bool
        Whether each step of a query is routed anew, on what that step asks.
    **fields
        `callback_manager`, `system_prompt` and the others of all LLMs. All else is for each `LiteLLM`: LiteLLM's
        parameters, like `temperature`, and `max_retries`.

    Raises
    ------
    InvalidDataError
        When `models` holds something else, or a model of the pool has no LLM.
    UnknownModelError
        When one of `models` is not in the pool.
    ImportError
        When `models` is not given and llama-index-llms-litellm is not installed.

    Examples
    --------
    ::

        from llama_index.core import Settings, VectorStoreIndex
        from unirouter_plugins.llamaindex import UniRouterLLM

        Settings.llm = UniRouterLLM.from_folder("my.router")
        response = VectorStoreIndex.from_documents(documents).as_query_engine().query("How long is the warranty?")

    Every answer says who gave it, why, and what it cost; of a query, `unirouter_calls` has all calls. A stream
    says so once it is read::

        response.metadata["unirouter"]["model"]
        Settings.llm.complete("What is 17 times 23?").additional_kwargs["unirouter"]["usd"]
    """

    router: UniRouter = Field(exclude=True)
    models: Mapping[str, LLM] | None = Field(default=None, exclude=True, repr=False)  # they may show keys
    cost_weight: float | None = None
    content_policy: bool = False
    per_step: bool = False
    _llms: PoolLLMs = PrivateAttr()

    def __init__(
        self,
        router: UniRouter,
        models: Mapping[str, LLM] | None = None,
        *,
        cost_weight: float | None = None,
        content_policy: bool = False,
        per_step: bool = False,
        **fields: Any,
    ) -> None:
        if not isinstance(router, UniRouter):
            raise InvalidDataError(f"router={router!r:.60} is no UniRouter; load one: UniRouterLLM.from_folder(...).")
        own = {name: fields.pop(name) for name in _OWN if name in fields}
        settings = {**fields.pop("additional_kwargs", {}), **fields}
        if models is not None:
            check_given(models, router, LLM, "an LLM of LlamaIndex")
            if settings:
                raise InvalidDataError(
                    f"{next(iter(settings))}= is for models that are called through LiteLLM; give it to those in "
                    "models={...}."
                )
        checked: dict[str, Any] = {
            "router": router,
            "models": models,
            "cost_weight": None if cost_weight is None else check_cost_weight(cost_weight),
            "content_policy": content_policy,
            "per_step": per_step,
        }
        super().__init__(**checked, **own)
        self._llms = PoolLLMs(models, settings, {name: own[name] for name in _SHARED if name in own})
        watch_queries()
        watch_answers()

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
        """Return an LLM that routes with the router in `folder`, its models called as the table `pool` says.

        Parameters
        ----------
        folder : path
        pool : path, optional
            A `pool.toml`; see `unirouter_plugins.litellm.read_members`.
        embedder, estimator
            As in `UniRouter.load`.
        **fields
            As for `UniRouterLLM`.

        Raises
        ------
        ArtifactError, InvalidDataError
            When the folder or the table cannot be used.
        """
        return cls(load_router(folder, pool, embedder=embedder, estimator=estimator), **fields)

    @classmethod
    def class_name(cls) -> str:
        """Return LlamaIndex's name for the class."""
        return "unirouter_llm"

    @property
    def metadata(self) -> LLMMetadata:
        """What the router can do with its pool: the least window of all, and tools if any model can call them."""
        return self._llms.metadata(self.router)

    # --- Deciding -----------------------------------------------------------------------------------------------------

    def decide(self, asked: str | Sequence[ChatMessage], tools: Sequence[BaseTool] = ()) -> Decision:
        """Return the decision on a prompt or a chat, and call nobody."""
        messages = [ChatMessage(asked)] if isinstance(asked, str) else asked
        return self.begin(messages, {}, tools=tools).attempts.decision

    @loud()
    def begin(
        self, messages: Sequence[ChatMessage], parameters: Mapping[str, Any], *, tools: Sequence[BaseTool] = ()
    ) -> Call:
        """Return a call of the picked LLM, to be made: what stands behind every door of the class.

        Parameters
        ----------
        messages : sequence of ChatMessage
        parameters : mapping
            What the LLM is called with besides; `model`, as the pool calls it, is the one to ask.
        tools : sequence of BaseTool
        """
        parameters = dict(parameters)
        forced = parameters.pop("model", None)
        asked, query, served = Asked(messages, tools, parameters), current_query(), self._llms.served(self.router)
        found = None if query is None or served.router.fit_.document_features is None else query.found
        decision = self._decision(asked, query, found, served, forced)
        in_loop, keeper = None if forced else asked.in_loop_of, (id(self), found is not None)
        kept = in_loop or (None if query is None or self.per_step or forced else query.outermost.models.get(keeper))
        attempts = Attempts(decision, served.windows, self.content_policy, kept)
        if query is not None and not forced:
            query.outermost.models.setdefault(keeper, attempts.model)
        why = "forced" if forced else "routed" if attempts.model != kept else "tool loop" if in_loop else "query"
        return Call(
            attempts=attempts,
            pool=served.pool,
            llms=self._llms,
            messages=without_records(messages),
            parameters=parameters,
            callbacks=self.callback_manager,
            query=query,
            keeper=keeper,
            why=why,
        )

    def _decision(
        self, asked: Asked, query: Query | None, found: Documents | None, served: Served, forced: str | None
    ) -> Decision:
        """Return the decision on a call: on what its query asks and has found, at the price of all that is sent.

        A model that has answered in the chat charges its price for cached tokens for what it was sent then.
        """
        text = (None if query is None else query.asks(per_step=self.per_step)) or asked.text
        is_bare = asked.chat.is_bare and text == asked.text and not found
        tokens, sent = (None, {}) if is_bare else asked.count_tokens(served.router.fit_.token_counter)
        return served.router.route(
            text,
            cost_weight=self.router.cost_weight if self.cost_weight is None else self.cost_weight,
            models=None if forced is None else [forced],
            requires=asked.chat.requires,
            documents=found,
            tokens_in=None if tokens is None else served.sent(tokens),
            cached_tokens={model: count for model, count in sent.items() if model in served.pool},
        )

    # --- Reading ------------------------------------------------------------------------------------------------------

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        """Return the tool calls in an answer, as the LLM reads them that gave it.

        Raises
        ------
        InvalidDataError
            When the answer is not the router's.
        """
        model = answered_by(response.message)
        reader: Any = None if model is None else self._llms.reader(model)
        if reader is None:
            raise InvalidDataError(
                "This answer has no record of a model of the pool, so nobody knows how to read its tool calls; give "
                "one as chat_with_tools returns it."
            )
        calls: list[ToolSelection] = reader.get_tool_calls_from_response(
            response, error_on_no_tool_call=error_on_no_tool_call, **kwargs
        )
        return calls
