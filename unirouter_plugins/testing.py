"""Models without a network for the tests of an application that routes."""

from __future__ import annotations

from typing import Any

from unirouter_plugins.local.provider import text_provider


def parrot() -> Any:
    """Return a custom provider of LiteLLM's whose models answer with their own names."""
    return text_provider(lambda model, messages: model)
