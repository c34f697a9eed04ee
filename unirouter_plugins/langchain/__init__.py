"""LangChain: `RouterRunnable`, a chat model that calls the model of the pool that the router picks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from unirouter_core.exceptions import InvalidDataError, missing_package

try:
    from langchain_core.language_models import LanguageModelInput
except ImportError as missing:
    raise missing_package("LangChain", "langchain") from missing
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda

from unirouter_core.router import UniRouter
from unirouter_plugins.langchain.chat_model import RouterRunnable
from unirouter_plugins.langchain.pool_models import chat_of, messages_of, per_call
from unirouter_plugins.litellm import Member
from unirouter_plugins.litellm.routed import last_decision, record_decisions
from unirouter_plugins.litellm.snapshot import Snapshot, check_given

if TYPE_CHECKING:
    from unirouter_plugins.langchain.decisions import UniRouterDecision
    from unirouter_plugins.langchain.middleware import UniRouterMiddleware

__all__ = [
    "RouterRunnable",
    "UniRouterDecision",
    "UniRouterMiddleware",
    "last_decision",
    "model_selector",
    "record_decisions",
]


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    """Return what needs more than langchain-core, when it is used."""
    if name == "UniRouterMiddleware":
        from unirouter_plugins.langchain.middleware import UniRouterMiddleware

        return UniRouterMiddleware
    if name == "UniRouterDecision":
        from unirouter_plugins.langchain.decisions import UniRouterDecision

        return UniRouterDecision
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


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

    Notes
    -----
    Answers of `init_chat_model` have no record of the pool: so no model is kept in tool loops, nothing is known of
    prompt caches, and there is no fallback. `RouterRunnable` does all of that.

    Examples
    --------
    ::

        selector, model = model_selector(router), init_chat_model(configurable_fields="model")
        model.invoke(messages, config={"configurable": {"model": selector.invoke(messages)}})
    """
    check_given(None, router, object, "")
    if names is not None and (missing := [name for name in router.pool if name not in names]):
        raise InvalidDataError(f"{missing[0]!r} is in the pool but has no name for init_chat_model; add it to names.")

    def select(input: LanguageModelInput, config: RunnableConfig) -> str:
        own, chat = per_call(config.get("configurable", {})), chat_of(messages_of(input))
        decision = Snapshot.of(router).decide(
            chat,
            text="\n\n".join([*own["documents"], own.get("question") or chat.text]),
            cost_weight=own.get("cost_weight", cost_weight),
            models=[own["model"]] if own.get("model") else own.get("models"),
        )
        called = Member.of(router.pool[decision.model]).called
        return f"litellm:{called}" if names is None else names[decision.model]

    return RunnableLambda(select, name="model_selector")
