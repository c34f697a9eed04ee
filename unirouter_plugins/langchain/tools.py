"""Tools as they were given, until it is known which model will be offered them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool


class BoundTools(list[dict[str, Any]]):
    """Tools in OpenAI's form, for who reads the binding, beside what `bind_tools` was given.

    Parameters
    ----------
    tools : sequence
    how : mapping
        The other arguments of `bind_tools`.
    """

    def __init__(
        self, tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool], how: Mapping[str, Any]
    ) -> None:
        super().__init__(_in_openai_form(tool) for tool in tools)
        self.given, self.how = list(tools), dict(how)

    def bind_to(self, model: BaseChatModel) -> Runnable[LanguageModelInput, AIMessage]:
        """Return the model with the tools bound in its provider's own form."""
        return model.bind_tools(self.given, **self.how)


def _in_openai_form(tool: Any) -> dict[str, Any]:
    try:
        return convert_to_openai_tool(tool)
    except ValueError:
        if isinstance(tool, dict):
            return tool  # a tool that the provider has itself, in its own form
        raise
