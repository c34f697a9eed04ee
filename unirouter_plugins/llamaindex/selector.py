"""Selectors: which of several query engines, retrievers or tools a question goes to."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from llama_index.core.base.base_selector import BaseSelector, SelectorResult, SingleSelection
from llama_index.core.objects import ObjectRetriever
from llama_index.core.schema import QueryBundle, QueryType
from llama_index.core.selectors.utils import get_selector_from_llm
from llama_index.core.tools import ToolMetadata

from unirouter_core.exceptions import InvalidDataError, UnknownModelError
from unirouter_core.router import UniRouter
from unirouter_core.rule import check_cost_weight
from unirouter_plugins.litellm.routed import Record, record_decisions
from unirouter_plugins.llamaindex.llm import UniRouterLLM
from unirouter_plugins.llamaindex.queries import one_query


class UniRouterSelector(BaseSelector):
    """Chooses among query engines, retrievers or tools by the model that each is bound to, without a call.

    Parameters
    ----------
    router : UniRouter or UniRouterLLM
    models : mapping of str to str, optional
        The model that each choice is bound to, by the choice's name; a choice that is not in it has its model's name.
    cost_weight : float, optional
        The error that one USD is worth; the router's own when not given.
    then_select_tool : bool
        Whether the router picks an LLM instead, and that LLM a choice, by its description, as LlamaIndex's own
        selectors do; choices then need no model. `router` must be a `UniRouterLLM`.

    Raises
    ------
    InvalidDataError
        When `router` is no router, or calls no LLM although one is to select.

    Examples
    --------
    ::

        engines = [
            QueryEngineTool.from_defaults(index.as_query_engine(llm=llm), name=model, description="Any question.")
            for model, llm in llms.items()
        ]
        engine = RouterQueryEngine(UniRouterSelector(router), engines)
        response = engine.query("How long is the warranty?")
        print(response.metadata["selector_result"].reason)
    """

    def __init__(
        self,
        router: UniRouter | UniRouterLLM,
        *,
        models: Mapping[str, str] | None = None,
        cost_weight: float | None = None,
        then_select_tool: bool = False,
    ) -> None:
        if not isinstance(router, UniRouter | UniRouterLLM):
            raise InvalidDataError(f"router={router!r:.60} is neither a UniRouter nor a UniRouterLLM.")
        if then_select_tool and not isinstance(router, UniRouterLLM):
            raise InvalidDataError("then_select_tool=True calls an LLM; give a UniRouterLLM, not its router.")
        self.router = router if isinstance(router, UniRouter) else router.router
        self.llm = router if isinstance(router, UniRouterLLM) else None
        self.models = dict(models or {})
        self.cost_weight = None if cost_weight is None else check_cost_weight(cost_weight)
        self._selecting = self.llm if then_select_tool else None

    def narrow(self, retriever: ObjectRetriever[Any]) -> ObjectRetriever[Any]:
        """Return a retriever of tools that gives the one that is selected of those that `retriever` gives.

        This is for `ToolRetrieverRouterQueryEngine`, which takes no selector.
        """
        return _NarrowedRetriever(self, retriever)

    def _select(self, choices: Sequence[ToolMetadata], query: QueryBundle) -> SelectorResult:
        if self._selecting is None:
            return self._bound(choices, query)
        with one_query(query.query_str), record_decisions() as records:
            result = get_selector_from_llm(self._selecting).select(choices, query)
        return _checked(result, choices, records)

    async def _aselect(self, choices: Sequence[ToolMetadata], query: QueryBundle) -> SelectorResult:
        if self._selecting is None:
            return await asyncio.to_thread(self._bound, choices, query)  # to embed a prompt takes a while
        with one_query(query.query_str), record_decisions() as records:
            result = await get_selector_from_llm(self._selecting).aselect(choices, query)
        return _checked(result, choices, records)

    def _bound(self, choices: Sequence[ToolMetadata], query: QueryBundle) -> SelectorResult:
        """Return the choice whose model the router picks."""
        if not choices:
            raise InvalidDataError("There is nothing to choose among; give at least one choice.")
        if nameless := [choice.description for choice in choices if not choice.name]:
            raise InvalidDataError(f"The choice {nameless[0]!r:.60} has no name; give it its model's.")
        models = [self.models.get(str(choice.name), str(choice.name)) for choice in choices]
        if unknown := [name for name in models if name not in self.router.pool]:
            pool = ", ".join(map(repr, self.router.pool)) or "no model"
            raise UnknownModelError(
                f"The choice {unknown[0]!r} is bound to no model of the pool, which holds {pool}; name it as its "
                "model, or give models={choice: model}."
            )
        if twins := [name for name in models if models.count(name) > 1]:
            raise InvalidDataError(
                f"Two choices are bound to {twins[0]!r}, so the model does not tell which; bind each to another, or "
                "let an LLM select: then_select_tool=True."
            )
        weight = self.llm.cost_weight if self.cost_weight is None and self.llm is not None else self.cost_weight
        decision = self.router.route(query.query_str, cost_weight=weight, models=models)
        reason = (
            f"{decision.model} is expected to err by {decision.error:.3f} for ${decision.cost:.3g} on prompts of "
            f"cluster {decision.region}: the least error + {decision.cost_weight:g} * cost of {len(models)}."
        )
        return SelectorResult(selections=[SingleSelection(index=models.index(decision.model), reason=reason)])

    def _get_prompts(self) -> dict[str, Any]:
        return {}

    def _update_prompts(self, prompts: Any) -> None:
        """Do nothing: there are none."""


def _checked(result: SelectorResult, choices: Sequence[ToolMetadata], records: list[Record]) -> SelectorResult:
    """Return what an LLM selected, with its name; to LlamaIndex choice 0 would be the last."""
    model = records[-1]["model"]
    for selection in result.selections:
        if not 0 <= selection.index < len(choices):
            raise InvalidDataError(
                f"{model!r} selected choice {selection.index + 1} of {len(choices)}; try again, or leave it out of the "
                "pool if it often does."
            )
    told = [SingleSelection(index=s.index, reason=f"{model} selected it: {s.reason}") for s in result.selections]
    return SelectorResult(selections=told)


class _NarrowedRetriever(ObjectRetriever[Any]):
    """Gives, of the tools that another retriever gives, the one that a selector selects."""

    def __init__(self, selector: UniRouterSelector, whole: ObjectRetriever[Any]) -> None:
        super().__init__(whole.retriever, whole.object_node_mapping, whole.node_postprocessors)
        self._selector, self._whole = selector, whole

    def retrieve(self, str_or_query_bundle: QueryType) -> list[Any]:
        """Return the selected tool, in a list."""
        tools = self._whole.retrieve(str_or_query_bundle)
        selected = self._selector.select([tool.metadata for tool in tools], str_or_query_bundle)
        return [tools[index] for index in selected.inds]

    async def aretrieve(self, str_or_query_bundle: QueryType) -> list[Any]:
        """Return the same as `retrieve`, asynchronously."""
        tools = await self._whole.aretrieve(str_or_query_bundle)
        selected = await self._selector.aselect([tool.metadata for tool in tools], str_or_query_bundle)
        return [tools[index] for index in selected.inds]
