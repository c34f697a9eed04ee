"""Ray Data: prompts by the million are routed, and their models called, by many workers."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from unirouter_plugins.ray.routing import RouteBatch

if TYPE_CHECKING:
    from unirouter_plugins.ray.calls import CallBatch, call_dataset
    from unirouter_plugins.ray.evaluations import onboard_dataset
    from unirouter_plugins.ray.learning import fit_dataset

__all__ = ["CallBatch", "RouteBatch", "call_dataset", "fit_dataset", "onboard_dataset"]
_LATER = {"fit_dataset": "learning", "onboard_dataset": "evaluations", "CallBatch": "calls", "call_dataset": "calls"}


def __getattr__(name: str) -> Any:
    """Return what needs packages that a worker that only routes need not import."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
