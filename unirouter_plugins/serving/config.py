"""The config of LiteLLM's proxy for a router: one model group, with a deployment for each model of the pool."""

from __future__ import annotations

import hashlib
import json
import os
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from unirouter_core.router import UniRouter
from unirouter_plugins.litellm.failures import open_litellm
from unirouter_plugins.litellm.prices import LITELLM
from unirouter_plugins.litellm.programs import arguments_of
from unirouter_plugins.litellm.snapshot import Snapshot

GROUP = "unirouter"
"""The model name that clients ask for; `unirouter/NAME` is a model of the pool."""

ROUTER, POOL, TRUST = "UNIROUTER_ROUTER", "UNIROUTER_POOL", "UNIROUTER_TRUST"
"""The environment variables that tell the proxy's hook which router it serves."""

_METRICS = "prometheus_client"
_AGAIN = {"model": GROUP, "_target_order": None}  # the next model, for a stream that fails before its first content


def proxy_config(
    router: UniRouter,
    folder: str | os.PathLike[str],
    pool: str | os.PathLike[str] | None = None,
    *,
    trust: bool = False,
    timeout: float = 300.0,
    needs_key: bool = True,
) -> dict[str, Any]:
    """Return the config of LiteLLM's proxy that serves `router`, which `load_router` made of `folder` and `pool`.

    It holds no key: those are read from the environment when the proxy starts, the clients' from LITELLM_MASTER_KEY.
    """
    serves = {ROUTER: folder, POOL: pool}
    variables = {name: str(Path(path).resolve()) for name, path in serves.items() if path is not None}
    config: dict[str, Any] = {
        "environment_variables": {**variables, **({TRUST: "true"} if trust else {})},
        "model_list": deployments(router),
        "litellm_settings": {
            "callbacks": ["unirouter_plugins.serving.hook.handler", *(["prometheus"] if find_spec(_METRICS) else [])],
            "expose_router_debug_in_errors": False,
            "require_auth_for_metrics_endpoint": needs_key,
            "use_chat_completions_url_for_anthropic_messages": True,  # as when models were measured
        },
        "router_settings": {
            "num_retries": 0,
            "disable_cooldowns": True,  # ours decide, see `litellm.health`
            "timeout": timeout,
            "fallbacks": [{GROUP: [_AGAIN]}],
            **group_settings(router),
        },
        "general_settings": {"master_key": "os.environ/LITELLM_MASTER_KEY"}
        if needs_key
        else {"dangerously_permit_weak_or_unset_master_key": True},
    }
    if "REDIS_URL" in os.environ:  # replicas share what LiteLLM counts, and which model a conversation is with
        config["router_settings"]["redis_url"] = "os.environ/REDIS_URL"
    return config


def group_settings(router: UniRouter) -> dict[str, Any]:
    """Return the settings of LiteLLM's router that depend on the pool: retries of the group, names of its models."""
    return {
        # One more than there are other models: it raises the first failure, as if that model had been called directly.
        "model_group_retry_policy": {GROUP: {"DefaultRetries": len(router.pool) if len(router.pool) > 1 else 0}},
        "model_group_alias": {f"{GROUP}/{name}": GROUP for name in router.pool},
    }


def deployments(router: UniRouter) -> list[dict[str, Any]]:
    """Return a deployment for each model of the pool; its id is the model's name and a digest of how it is called."""
    snapshot, made = Snapshot.of(router), []
    snapshot.require_checks()
    for name, member in snapshot.members.items():
        snapshot.require_callable(name)
        if member.is_program:
            params = arguments_of(member)
        else:
            member.require_trust()
            key = None if member.api_key_env is None else f"os.environ/{member.api_key_env}"
            is_like = member.api_base is not None and member.model.startswith("openai/")  # few know /v1/responses
            given = {"api_base": member.api_base, "api_key": key, "use_chat_completions_api": is_like}
            params = {"model": member.model, **{k: v for k, v in given.items() if v}, **member.settings}
        quoted = snapshot.quote(name)
        assert quoted is not None
        if member.is_program or quoted.source != LITELLM:
            usd = quoted.prices  # all four: LiteLLM takes one that is missing for 0
            params |= {"input_cost_per_token": usd.input / 1e6, "output_cost_per_token": usd.output / 1e6}
            params["cache_read_input_token_cost"] = usd.cached / 1e6
            params["cache_creation_input_token_cost"] = usd.input * quoted.write_ratio / 1e6
        digest = hashlib.sha256(json.dumps(params, sort_keys=True).encode()).hexdigest()[:8]
        info = {"id": f"{name}@{digest}", "cooldown_time": 0}  # models cool down in the table that decisions read
        made.append({"model_name": GROUP, "litellm_params": params, "model_info": info})
    return made


@cache
def is_native(api: str, model: str, is_like: bool) -> bool:
    """Return whether LiteLLM sends messages or responses on as they are: as a chat they would lose parts."""
    litellm = open_litellm()
    try:
        name, provider, *_ = litellm.get_llm_provider(model)
        kind, known = litellm.LlmProviders(provider), litellm.utils.ProviderConfigManager
    except Exception:  # of any kind: a custom provider
        return False
    if api == "anthropic_messages":
        return known.get_provider_anthropic_messages_config(name, kind) is not None
    return not is_like and known.get_provider_responses_api_config(kind, name) is not None
