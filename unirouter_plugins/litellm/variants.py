"""Variants of models, with a transformed prompt or votes, as a provider that LiteLLM calls like any other."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import aclosing
from contextvars import copy_context
from functools import partial
from typing import Any

from unirouter_plugins.graders import parse_grader
from unirouter_plugins.litellm.chat import Messages, is_json
from unirouter_plugins.litellm.door import open_litellm
from unirouter_plugins.litellm.members import PROVIDER, Member, Members, MissingKeyError, Votes
from unirouter_plugins.litellm.registry import enter_own_provider, enter_provider
from unirouter_plugins.litellm.transform import transformed
from unirouter_plugins.litellm.votes import Ballot, elected, summed

VOTES = "unirouter_votes"
"""Where a response's hidden parameters say how many samples were asked for, answered and agreed."""

_MOST_THREADS = 16  # samples asked at once where nothing is awaited
_LIMITS = ("max_tokens", "max_completion_tokens")  # two names of one setting


def register(members: Members | Iterable[Member]) -> None:
    """Let LiteLLM call the variants among the members, each as its `called`, and the table's own providers.

    Doing it again changes nothing: a variant that is served otherwise has another name.

    Raises
    ------
    InvalidDataError
        When one of the table's own providers cannot be loaded, or a provider's name is taken.

    Examples
    --------
    ::

        members = read_members("pool.toml")
        register(members)
        litellm.completion(model=members["careful"].called, messages=[{"role": "user", "content": "What is 2 + 2?"}])
    """
    if isinstance(members, Members):
        for name, place in members.providers.items():
            enter_own_provider(name, place)
        members = members.values()
    variants = {member.called.removeprefix(f"{PROVIDER}/"): member for member in members if member.is_variant}
    if variants:
        provider = enter_provider(PROVIDER, f"{__name__}:{Variants.__name__}", _new_provider)
        provider.members.update(variants)


def _new_provider() -> Any:
    class Provider(Variants, open_litellm().CustomLLM):  # type: ignore[misc]  # made here, since LiteLLM loads late
        pass

    return Provider()


class Variants:
    """The provider: asks a variant's own model, once or for every vote, with the caller's parameters.

    The methods are those of `litellm.CustomLLM`. What they raise is what LiteLLM raised for the own model. Of all the
    calls behind an answer, LiteLLM's callbacks see one, with the sum of their usage and cost.
    """

    def __init__(self) -> None:
        super().__init__()
        self.members: dict[str, Member] = {}

    def completion(self, model: str, messages: Messages, **given: Any) -> Any:
        """Return the answer; with votes, the one that most agree on."""
        votes, arguments = self._asked(model, messages, given)
        return open_litellm().completion(**arguments) if votes is None else _vote(votes, arguments)

    async def acompletion(self, model: str, messages: Messages, **given: Any) -> Any:
        """Return the answer; with votes, the one that most agree on."""
        votes, arguments = self._asked(model, messages, given)
        return await (open_litellm().acompletion(**arguments) if votes is None else _avote(votes, arguments))

    def streaming(self, model: str, messages: Messages, **given: Any) -> Iterator[Any]:
        """Return the answer's chunks; with votes, it comes whole."""
        votes, arguments = self._asked(model, messages, given)  # here, and not with the first chunk: it may fail
        return _end_last(open_litellm().completion(**arguments)) if votes is None else _chunks(_vote(votes, arguments))

    async def astreaming(self, model: str, messages: Messages, **given: Any) -> AsyncIterator[Any]:
        """Yield the answer's chunks; with votes, it comes whole."""
        votes, arguments = self._asked(model, messages, given)
        if votes is not None:
            for chunk in _chunks(await _avote(votes, arguments)):
                yield chunk
            return
        async with aclosing(await open_litellm().acompletion(**arguments)) as chunks:
            end = None
            async for chunk in chunks:
                if end is None and _is_end(chunk):
                    end = chunk
                else:
                    yield chunk
        if end is not None:
            yield end

    def _asked(self, model: str, messages: Messages, given: Mapping[str, Any]) -> tuple[Votes | None, dict[str, Any]]:
        """Return the votes there are, and what LiteLLM is given for the variant's own model."""
        if model not in self.members:
            message = f"{PROVIDER}/{model} is not registered; register its table, and call it by the name it has there."
            raise open_litellm().NotFoundError(message=message, model=model, llm_provider=PROVIDER)
        member = self.members[model]
        return member.votes, _arguments(member, messages, given)


# --- What the own model is asked --------------------------------------------------------------------------------------


def _arguments(member: Member, messages: Messages, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what LiteLLM is given for the member's own model; what the caller gave wins over its settings."""
    try:
        own = member.arguments()
    except MissingKeyError as missing:  # which LiteLLM would take for a failing server
        raise open_litellm().AuthenticationError(
            message=str(missing), model=member.called, llm_provider=PROVIDER
        ) from missing
    asked = given["optional_params"]
    if any(limit in asked for limit in _LIMITS):
        own = {name: value for name, value in own.items() if name not in _LIMITS}
    around = {
        "api_base": given.get("api_base"),
        "api_key": given.get("api_key"),
        "extra_headers": given.get("headers"),
        "timeout": given.get("timeout"),
        "drop_params": (given.get("litellm_params") or {}).get("drop_params"),
    }
    around = {name: value for name, value in around.items() if value}
    return {**around, **own, **asked, "messages": transformed(member, messages), "no-log": True}


# --- Votes ------------------------------------------------------------------------------------------------------------


def _vote(votes: Votes, arguments: Mapping[str, Any]) -> Any:
    """Return the answer that most samples agree on."""
    asks = [partial(open_litellm().completion, **sample) for sample in _samples(votes, arguments)]
    calls: list[Future[Any]] = [Future() for _ in asks]
    waiting = list(zip(asks, calls, strict=True))

    def ask_all() -> None:
        while waiting:
            ask, call = waiting.pop(0)
            try:
                call.set_result(ask())
            except BaseException as failed:  # of any kind: it is raised, or noted, where the votes are counted
                call.set_exception(failed)

    for _ in range(min(len(asks), _MOST_THREADS)):
        # daemons, for an interrupt must not wait for them; a trace that is open here is open there
        threading.Thread(target=copy_context().run, args=[ask_all], daemon=True).start()
    try:
        outcomes = [call.exception() or call.result() for call in calls]
    finally:
        waiting.clear()  # after an interrupt, no more are asked
    return _elected(votes, arguments, outcomes)


async def _avote(votes: Votes, arguments: Mapping[str, Any]) -> Any:
    """Return the answer that most samples agree on; cancelled, its samples are."""
    calls = [open_litellm().acompletion(**sample) for sample in _samples(votes, arguments)]
    return _elected(votes, arguments, await asyncio.gather(*calls, return_exceptions=True))


def _samples(votes: Votes, arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the arguments of each sample; of a seed, each has another."""
    if arguments.get("n") not in (None, 1):
        message = f"n={arguments['n']}: votes give the one answer that most samples agree on; leave out n."
        raise open_litellm().BadRequestError(message=message, model=arguments["model"], llm_provider=PROVIDER)
    whole = {name: value for name, value in arguments.items() if name not in ("stream", "stream_options", "n")}
    whole["cache"] = {"no-cache": True}  # else all samples are one where LiteLLM's cache is on
    seed = whole.get("seed")
    seeds = [{} if seed is None else {"seed": seed + place} for place in range(votes.samples)]
    return [{**whole, **own_seed} for own_seed in seeds]


def _elected(votes: Votes, arguments: Mapping[str, Any], outcomes: Sequence[Any]) -> Any:
    """Return the elected answer with the usage and cost of all; raise the first failure when there is no answer.

    Answers that the call holds to JSON agree when their values do, whatever the votes' own grader.
    """
    answers = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    if not answers:
        raise outcomes[0]
    grader = parse_grader("json" if is_json(arguments.get("response_format")) else votes.same)
    place, agreed = elected([Ballot.of(answer) for answer in answers], grader)
    response = answers[place]
    usages = [answer.usage.model_dump() for answer in answers]
    is_known = all(usage.get("prompt_tokens") or usage.get("completion_tokens") for usage in usages)
    response.usage = open_litellm().Usage(**summed(usages if is_known else []))  # a part would pass for the whole
    costs = [answer._hidden_params.get("response_cost") for answer in answers]
    response._hidden_params["response_cost"] = None if None in costs else sum(costs)
    response._hidden_params[VOTES] = {"samples": len(outcomes), "answered": len(answers), "agreed": agreed}
    return response


# --- Streams ----------------------------------------------------------------------------------------------------------


def _is_end(chunk: Any) -> bool:
    return bool(chunk.choices and chunk.choices[0].finish_reason)


def _end_last(chunks: Iterable[Any]) -> Iterator[Any]:
    """Yield a stream's chunks, the one that ends the answer last: usage follows it, and LiteLLM reads no further."""
    end = None
    for chunk in chunks:
        if end is None and _is_end(chunk):
            end = chunk
        else:
            yield chunk
    if end is not None:
        yield end


def _chunks(response: Any) -> Iterator[Any]:
    """Yield a whole answer with its usage, then its end."""
    from litellm.llms.base_llm.base_model_iterator import convert_model_response_to_streaming

    whole, end = (convert_model_response_to_streaming(response) for _ in range(2))
    whole._hidden_params = dict(response._hidden_params)
    whole.choices[0].finish_reason = None
    end.choices[0].delta = type(end.choices[0].delta)()
    yield from (whole, end)
