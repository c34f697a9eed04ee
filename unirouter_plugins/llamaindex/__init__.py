"""LlamaIndex: an LLM that calls the model of the pool that the router picks, and a selector that picks by model."""

from __future__ import annotations

from unirouter_core.exceptions import missing_package

try:
    import llama_index.core  # noqa: F401
except ImportError as missing:
    raise missing_package("LlamaIndex", "llamaindex") from missing
from unirouter_plugins.litellm.routed import last_decision, record_decisions
from unirouter_plugins.llamaindex.llm import UniRouterLLM
from unirouter_plugins.llamaindex.queries import one_query
from unirouter_plugins.llamaindex.selector import UniRouterSelector

__all__ = ["UniRouterLLM", "UniRouterSelector", "last_decision", "one_query", "record_decisions"]


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
