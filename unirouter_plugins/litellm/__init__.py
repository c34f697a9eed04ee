"""LiteLLM: the router picks the model, LiteLLM calls it, and the next model is tried when it fails."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unirouter_core.exceptions import UnknownPriceError
from unirouter_core.pool import ModelProfile, Pool
from unirouter_core.router import UniRouter
from unirouter_plugins.litellm.chat import Messages
from unirouter_plugins.litellm.completion import RECORD, AsyncStream, LiteLLMCall, Stream, check_parameters
from unirouter_plugins.litellm.failures import open_litellm
from unirouter_plugins.litellm.pool_file import MEASURED_AS, SERVED_AS, Member, Members, read_members
from unirouter_plugins.litellm.prices import capabilities
from unirouter_plugins.litellm.programs import register
from unirouter_plugins.litellm.routed import CallRecord

if TYPE_CHECKING:
    from litellm import ModelResponse

__all__ = [
    "AsyncStream",
    "CallRecord",
    "Member",
    "Members",
    "Stream",
    "acomplete",
    "astream",
    "check_parameters",
    "complete",
    "configured",
    "load_router",
    "open_litellm",
    "pool_beside",
    "read_members",
    "record_of",
    "stream",
]

BESIDE = "pool.toml beside the router"
"""The default table of models: that file, where it exists."""


# --- The router and its pool.toml -------------------------------------------------------------------------------------


def load_router(
    folder: str | os.PathLike[str], pool: str | os.PathLike[str] | None = BESIDE, **options: Any
) -> UniRouter:
    """Return the router in `folder`, its models called, priced and filtered as a `pool.toml` says.

    Parameters
    ----------
    folder : path
    pool : path or None
        A `pool.toml`, see `unirouter_plugins.litellm.read_members`; when not given, the one beside the folder, if there
        is one. None reads none. Models that it does not name are called as when they were evaluated.
    **options
        As in `UniRouter.load`.

    A folder says where its models are called and which environment variable holds the key, as a table does; load only
    those that you trust.

    Raises
    ------
    ArtifactError, InvalidDataError
        When the folder or the table cannot be used.
    """
    router = UniRouter.load(folder, **options)
    table = pool_beside(folder) if pool == BESIDE else pool
    members = Members() if table is None else read_members(table)
    register(members)
    return configured(router, members)


def pool_beside(folder: str | os.PathLike[str]) -> Path | None:
    """Return the `pool.toml` beside a router's folder; None where there is none."""
    path = Path(folder).resolve().parent / "pool.toml"
    return path if path.is_file() else None


def configured(router: UniRouter, members: Members) -> UniRouter:
    """Return the router with its pool as `members` has it; `router` stays as it is.

    The table's prices and capabilities count in decisions, its settings in calls. A warning names each model that it
    calls otherwise than it was evaluated.
    """
    profiles = {n: _configured(p, members[n]) if n in members else p for n, p in router.pool.items()}
    return router.with_pool(Pool(profiles))


def _configured(profile: ModelProfile, member: Member) -> ModelProfile:
    if changed := member.differences(profile):
        warnings.warn(
            f"{profile.model!r} is not served as it was measured: {'; '.join(changed)}. Its error and cost may differ; "
            "onboard it again with --replace.",
            stacklevel=4,
        )
    measured_as = profile.provenance.get(MEASURED_AS, profile.provenance.get(SERVED_AS))
    kept = {} if measured_as is None else {MEASURED_AS: measured_as}
    provenance = {**profile.provenance, SERVED_AS: member.served_as, **kept}
    able = capabilities(member, profile)
    profile = dataclasses.replace(profile, provenance=provenance, capabilities=able)
    if member.prices is None or member.prices == profile.prices:
        return profile
    try:
        return profile.repriced(member.prices)
    except UnknownPriceError:
        warnings.warn(
            f"{profile.model!r} was evaluated without token prices, so decisions use its old cost; onboard it again "
            "with --replace.",
            stacklevel=4,
        )
        return dataclasses.replace(profile, prices=member.prices)


# --- Calls ------------------------------------------------------------------------------------------------------------


def complete(
    router: UniRouter,
    asked: str | Messages,
    *,
    cost_weight: float | None = None,
    models: Sequence[str] | None = None,
    requires: Sequence[str] = (),
    content_policy: bool = False,
    **parameters: Any,
) -> ModelResponse:
    """Call the model that the router picks, the next one where it fails, and return LiteLLM's own response.

    Models that lack what the call needs (tools, images, JSON, room for its tokens) are not picked. When all fail, the
    failure of the model that was picked first is raised, as if it had been called directly.

    Parameters
    ----------
    router : UniRouter
        As `load_router` returns it; one that was made otherwise calls its models as they were evaluated.
    asked : str or sequence of mapping
        A prompt, or chat messages.
    cost_weight, models, requires
        As in `UniRouter.route`.
    content_policy : bool
        Whether a refusal by a provider's content filter is passed on to the next model.
    **parameters
        As in `litellm.completion`: tools, response_format, temperature, max_tokens, timeout (300 seconds when not
        given), drop_params and the like. What is given here wins over the settings that the model was evaluated with,
        and the record says so.

    Returns
    -------
    litellm.ModelResponse
        `record_of` gives its decision, cost and failures.

    Raises
    ------
    NoCandidateError
        When no model of the pool can do what is asked.
    UnknownPriceError
        When the price of the model is not known, before it is called.
    InvalidDataError
        When a parameter is known neither here nor to LiteLLM.
    Exception
        LiteLLM's own.

    Examples
    --------
    ::

        router = load_router("my.router")
        response = complete(router, "What is 17 times 23?")
        print(response.choices[0].message.content, record_of(response).usd)
    """
    options: dict[str, Any] = {"cost_weight": cost_weight, "models": models, "requires": requires}
    call = LiteLLMCall.of(router, asked, content_policy=content_policy, **options, **parameters)
    response: ModelResponse = call.run(lambda arguments: open_litellm().completion(**arguments))
    return response


async def acomplete(router: UniRouter, asked: str | Messages, **options: Any) -> ModelResponse:
    """Return the same as `complete`, asynchronously."""
    call = await asyncio.to_thread(LiteLLMCall.of, router, asked, **options)
    response: ModelResponse = await call.arun(lambda arguments: open_litellm().acompletion(**arguments))
    return response


def stream(router: UniRouter, asked: str | Messages, **options: Any) -> Stream:
    """Call a model as `complete` does, and return the answer's chunks once the first content has come.

    Until then a failing model is followed by the next; after it, its failure is raised where it happens.

    Examples
    --------
    ::

        answer = stream(router, "Write a poem about the sea.")
        for chunk in answer:
            print(chunk.choices[0].delta.content or "", end="")
        print(answer.record.model, answer.record.usd)
    """
    call = LiteLLMCall.of(router, asked, streams=True, **options)
    return Stream(call, *call.begin(lambda arguments: open_litellm().completion(**arguments)))


async def astream(router: UniRouter, asked: str | Messages, **options: Any) -> AsyncStream:
    """Return the same as `stream`, asynchronously: ``async for chunk in await astream(...)``."""
    call = await asyncio.to_thread(LiteLLMCall.of, router, asked, streams=True, **options)
    return AsyncStream(call, *await call.abegin(lambda arguments: open_litellm().acompletion(**arguments)))


def record_of(response: Any) -> CallRecord:
    """Return the record of the call that made a response of `complete` or `acomplete`.

    Raises
    ------
    KeyError
        When the response comes from elsewhere.
    """
    record: CallRecord = response._hidden_params[RECORD]
    return record
