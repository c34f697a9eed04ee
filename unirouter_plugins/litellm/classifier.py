"""The classifier of LiteLLM's Auto Router that picks a tier by what its models were measured to do."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from unirouter_core.exceptions import InvalidDataError, UnknownModelError
from unirouter_core.router import UniRouter
from unirouter_core.rule import check_cost_weight
from unirouter_plugins.litellm import opened, snapshot_of
from unirouter_plugins.litellm.chat import Chat

FOLDER = "UNIROUTER_ROUTER"
"""The environment variable that names the router's folder, where none is given."""


class UniRouterClassifier:
    """Returns the tier of the model that the router picks: a `ClassifierPlugin` for `classifier_type: custom`.

    Parameters
    ----------
    router : UniRouter or path, optional
        When not given, the folder that the environment variable `UNIROUTER_ROUTER` names, read at the first request.
    tiers : mapping of str to str or sequence of str, optional
        The models of the pool in each tier. When not given, the tiers of the proxy's own config: a model of theirs is
        the one of the pool with its name, or with the name in its `litellm_params`.
    cost_weight : float, optional
        The error that one USD is worth; the router's own when not given.

    Notes
    -----
    Where it fails, LiteLLM goes on with its `classifier_fallback` and says why in its log.

    Examples
    --------
    In the proxy's config, with UNIROUTER_ROUTER=my.router in its environment::

        classifier_type: custom
        classifier_plugin: unirouter_plugins.litellm.classifier.measured
    """

    def __init__(
        self,
        router: UniRouter | str | os.PathLike[str] | None = None,
        tiers: Mapping[str, str | Sequence[str]] | None = None,
        *,
        cost_weight: float | None = None,
    ) -> None:
        self.cost_weight = None if cost_weight is None else check_cost_weight(cost_weight)
        self.tiers = tiers
        if router is not None:
            self.router = opened(router, None, object, "")

    @cached_property
    def router(self) -> UniRouter:
        """The router that was given, or that the environment names."""
        if not (folder := os.environ.get(FOLDER)):
            raise InvalidDataError(f"There is no router: set {FOLDER} to the folder of one.")
        return opened(folder, None, object, "")

    async def classify(self, context: Any) -> str | None:
        """Return the tier for the messages of LiteLLM's `RoutingContext`."""
        return await asyncio.to_thread(self._tier, context)  # to embed a prompt takes a while

    def _tier(self, context: Any) -> str:
        tiers = _tiers_of_the_proxy(context.candidate_models) if self.tiers is None else self.tiers
        names = {tier: [models] if isinstance(models, str) else models for tier, models in tiers.items()}
        ladder = [(model, tier) for tier, models in names.items() for model in models if model in self.router.pool]
        if not ladder:
            raise UnknownModelError(f"No tier of {names} has a model of the pool {list(self.router.pool)}.")
        tier_of, chat = dict(reversed(ladder)), Chat.of(context.structured_messages)
        decision = snapshot_of(self.router).decide(chat, cost_weight=self.cost_weight, models=list(tier_of))
        return tier_of[decision.model]


def _tiers_of_the_proxy(candidates: Sequence[str]) -> dict[str, list[str]]:
    """Return the tiers of the proxy's Auto Router with these models: each model's name in the config, and LiteLLM's."""
    router = getattr(sys.modules.get("litellm.proxy.proxy_server"), "llm_router", None)
    deployments = [(each["model_name"], each["litellm_params"]) for each in getattr(router, "model_list", None) or ()]
    for _, how in deployments:
        tiers = {}
        for tier, models in ((how.get("complexity_router_config") or {}).get("tiers") or {}).items():
            each = models if isinstance(models, list) else [models]
            tiers[tier] = [one if isinstance(one, str) else one["model_name"] for one in each]
        if sorted(itertools.chain(*tiers.values())) == sorted(candidates):
            called = {name: how["model"] for name, how in deployments}
            return {
                tier: [*names, *(called[name] for name in names if name in called)] for tier, names in tiers.items()
            }
    raise InvalidDataError("The tiers of the Auto Router are not known here; give tiers={tier: model of the pool}.")


measured = UniRouterClassifier()
"""The one that a config names; its router is that of the environment."""
