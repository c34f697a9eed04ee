"""Ray Data: prompts by the million are routed, and their models called, by many workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from unirouter_plugins.ray.routing import RouteBatch

if TYPE_CHECKING:
    from unirouter_plugins.ray.calls import CallBatch, call_dataset

__all__ = ["CallBatch", "RouteBatch", "call_dataset"]


def __getattr__(name: str) -> Any:
    """Return what calls models, whose packages a worker that only routes need not import."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from unirouter_plugins.ray import calls

    return getattr(calls, name)
