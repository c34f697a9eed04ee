"""Programs: pool members with a template, examples or votes, and panels, as a custom provider of LiteLLM."""

from __future__ import annotations

import asyncio
import importlib
import itertools
import json
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import aclosing, suppress
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any

from unirouter_core.exceptions import InvalidDataError
from unirouter_plugins.graders import Grader, parse_grader
from unirouter_plugins.litellm.chat import Message, Messages, is_json, newest_prompt, with_text
from unirouter_plugins.litellm.failures import MissingKeyError, open_litellm
from unirouter_plugins.litellm.panels import LIMITS, VOTES, Calls, convene
from unirouter_plugins.litellm.pool_file import PROVIDER, Member, Members
from unirouter_plugins.litellm.pool_schema import Votes
from unirouter_plugins.litellm.prices import summed_bill
from unirouter_plugins.litellm.redaction import described

_MOST_THREADS = 16  # samples at once in synchronous calls
_SYSTEM = ("system", "developer")
_ALLOWED = ("reasoning_effort", "thinking", "verbosity", "user")  # LiteLLM rejects them for custom providers
_PLACE = "unirouter_from"  # where our entries in LiteLLM's provider table say what they were made from
_LOCK = threading.RLock()  # LiteLLM has one table for all threads


def arguments_of(member: Member) -> dict[str, Any]:
    """Return the arguments of LiteLLM's `completion` to call a member of the pool, without the messages."""
    if not member.is_program:
        return member.arguments()
    member.require_trust()
    register([member])
    return {"model": member.called, "allowed_openai_params": list(_ALLOWED)}


# --- LiteLLM's custom providers ---------------------------------------------------------------------------------------


def register(members: Members | Iterable[Member]) -> None:
    """Register the programs among the members, each as its `called`, and the table's custom providers with LiteLLM.

    Registering again changes nothing: a program with other settings has another name.

    Raises `InvalidDataError` when a custom provider cannot be loaded, or its name is taken::

        members = read_members("pool.toml")
        register(members)
        litellm.completion(model=members["careful"].called, messages=[{"role": "user", "content": "What is 2 + 2?"}])
    """
    if isinstance(members, Members):
        if members.providers and members.beside is not None:
            raise InvalidDataError(
                f"{members.beside} names providers of its own ({', '.join(members.providers)}), which are programs; it "
                f"is beside the router, and was not named: add --pool {members.beside}, or pool=..., to run them."
            )
        for name, place in members.providers.items():
            enter_provider(name, place, partial(_loaded, name, place))
        members = members.values()
    programs = {member.called.removeprefix(f"{PROVIDER}/"): member for member in members if member.is_program}
    if programs:
        kind = partial(type, "Provider", (Programs, open_litellm().CustomLLM), {})  # made here: LiteLLM loads late
        enter_provider(PROVIDER, f"{__name__}:{Programs.__name__}", lambda: kind()()).members.update(programs)


def enter_provider(name: str, place: str, make: Callable[[], Any]) -> Any:
    """Return the provider that LiteLLM calls for the models `name`/..., made and registered when there is none.

    `place` is its "module:object", which identifies it. Raises `InvalidDataError` when the name is one of LiteLLM's own
    providers, or taken.
    """
    litellm = open_litellm()
    if name in {str(own.value) for own in litellm.LlmProviders}:
        raise InvalidDataError(f"{name!r} is a provider of LiteLLM's own; give yours another name.")
    with _LOCK:
        entered = [entry for entry in litellm.custom_provider_map if entry["provider"] == name]
        if entered and entered[-1].get(_PLACE) == place:  # the last is the one that LiteLLM calls
            return entered[-1]["custom_handler"]
        provider = make()
        if entered and entered[-1]["custom_handler"] is not provider:
            raise InvalidDataError(
                f"{name!r} is registered with LiteLLM already, as {entered[-1]['custom_handler']!r:.80}; "
                "give your provider another name."
            )
        if not entered:
            litellm.custom_provider_map.append({"provider": name, "custom_handler": provider, _PLACE: place})
            litellm.utils.custom_llm_setup()  # else LiteLLM learns the name only at the first call
        return provider


def object_at(place: str, what: str, made: Callable[[Any], Any] = lambda found: found) -> Any:
    """Return what is `made` of the object at "module:object".

    Raises `InvalidDataError`, which begins with `what`, when it cannot be loaded.
    """
    module, _, attribute = place.partition(":")
    try:
        return made(getattr(importlib.import_module(module), attribute))
    except ModuleNotFoundError as missing:
        cure = "install it, or put its folder on PYTHONPATH"
        raise InvalidDataError(f"{what}, but there is no module {missing.name!r}; {cure}.") from missing
    except Exception as failed:  # of any kind: it is the user's own code
        raise InvalidDataError(f"{what}, which cannot be loaded: {described(failed).rstrip('.')}.") from failed


def _loaded(name: str, place: str) -> Any:
    """Return the provider at "module:object": a `litellm.CustomLLM`, or what its class or a function there makes.

    Nothing else is called: a function must be annotated to return one.
    """
    kind, what = open_litellm().CustomLLM, f"The provider {name!r} is {place!r}"

    def made(found: Any) -> Any:
        told = getattr(found, "__annotations__", {}).get("return") if not isinstance(found, type) else None
        is_maker = str(getattr(told, "__name__", told)).endswith(kind.__name__)
        return found() if is_maker or (isinstance(found, type) and issubclass(found, kind)) else found

    provider = object_at(place, what, made)
    if not isinstance(provider, kind):
        raise InvalidDataError(
            f"{what}, which is of type {type(provider).__name__}; it must be a litellm.CustomLLM, a class of them, or "
            "a function annotated to return one: def provider() -> CustomLLM."
        )
    return provider


class Programs:
    """The provider of programs: calls a member's own model, once or for every vote, with the caller's parameters.

    The methods are those of `litellm.CustomLLM`; they raise LiteLLM's exceptions for the own model. LiteLLM's callbacks
    see one call an answer, with the summed usage and cost.
    """

    def __init__(self) -> None:
        super().__init__()
        self.members: dict[str, Member] = {}

    def completion(self, model: str, messages: Messages, **given: Any) -> Any:
        """Return the answer: the model's own, that of the majority, or that of a panel's aggregator."""
        call = self._call(model, messages, given)
        return open_litellm().completion(**call) if isinstance(call, dict) else _answer(call)

    async def acompletion(self, model: str, messages: Messages, **given: Any) -> Any:
        """Return the same as `completion`."""
        call = self._call(model, messages, given)
        return await (open_litellm().acompletion(**call) if isinstance(call, dict) else _aanswer(call))

    def streaming(self, model: str, messages: Messages, **given: Any) -> Iterator[Any]:
        """Return the answer's chunks; that of several calls comes whole."""
        call = self._call(model, messages, given)  # here, and not with the first chunk: it may fail
        return _end_last(open_litellm().completion(**call)) if isinstance(call, dict) else _chunks(_answer(call))

    async def astreaming(self, model: str, messages: Messages, **given: Any) -> AsyncIterator[Any]:
        """Yield the answer's chunks; that of several calls comes whole."""
        call = self._call(model, messages, given)
        if not isinstance(call, dict):
            for chunk in _chunks(await _aanswer(call)):
                yield chunk
            return
        async with aclosing(aend_last(await open_litellm().acompletion(**call))) as chunks:
            async for chunk in chunks:
                yield chunk

    def _call(self, model: str, messages: Messages, given: Mapping[str, Any]) -> dict[str, Any] | Calls:
        """Return LiteLLM's arguments for the program's own model, or several calls; the caller's parameters win."""
        if model not in self.members:
            message = f"{PROVIDER}/{model} is not registered; register its table, and call it by the name it has there."
            raise open_litellm().NotFoundError(message, model, PROVIDER)
        member, parameters = self.members[model], given["optional_params"]
        if member.panel is not None:
            return convene(member, messages, _for_several(member.called, parameters), given.get("timeout"))
        try:
            own = member.arguments()
        except MissingKeyError as missing:  # which LiteLLM would take for a failing server
            raise open_litellm().AuthenticationError(str(missing), PROVIDER, member.called) from missing
        if any(limit in parameters for limit in LIMITS):
            own = {name: value for name, value in own.items() if name not in LIMITS}
        around = {name: given.get(name) for name in ("api_base", "api_key", "timeout")}
        around["extra_headers"] = given.get("headers")
        around["drop_params"] = (given.get("litellm_params") or {}).get("drop_params")
        around = {name: value for name, value in around.items() if value}
        arguments = {**around, **own, **parameters, "messages": transformed(member, messages), "no-log": True}
        return arguments if member.votes is None else _vote(member.votes, arguments)


# --- Templates and examples -------------------------------------------------------------------------------------------


def transformed(member: Member, messages: Messages) -> list[Message]:
    """Return the messages that the member's own model is sent.

    Its system prompt is put before the caller's own in one message, its examples are turns before the conversation,
    and the user's newest text is put into its template. Nothing else changes; the messages given are left alone.

    Examples
    --------
    >>> careful = Member("careful", "openai/gpt-4.1-nano", system="Be right.", template="{prompt} Think first.")
    >>> for message in transformed(careful, [{"role": "user", "content": "What is 2 + 2?"}]):
    ...     print(message)
    {'role': 'system', 'content': 'Be right.'}
    {'role': 'user', 'content': 'What is 2 + 2? Think first.'}
    """
    sent = list(messages)
    newest = newest_prompt(sent)
    if (template := member.template) is not None and newest is not None:
        # not format: prompts hold braces
        content = with_text(sent[newest]["content"], lambda text: template.replace("{prompt}", text))
        sent[newest] = {**sent[newest], "content": content}
    if member.system and sent and sent[0]["role"] in _SYSTEM:
        own = sent[0].get("content")
        joined: Any = f"{member.system}\n\n{own}" if own else member.system
        if own and not isinstance(own, str):  # a list of parts
            joined = [{"type": "text", "text": member.system}, *own]
        sent[0] = {**sent[0], "content": joined}
    elif member.system:
        sent.insert(0, {"role": "system", "content": member.system})
    begins = next((place for place, message in enumerate(sent) if message["role"] not in _SYSTEM), len(sent))
    texts = itertools.chain(*member.examples)
    turns = [{"role": role, "content": text} for text, role in zip(texts, itertools.cycle(("user", "assistant")))]
    return [*sent[:begins], *turns, *sent[begins:]]


# --- Several calls for one answer -------------------------------------------------------------------------------------


def _for_several(called: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call that is one of several: it does not stream, nor give several answers itself."""
    if arguments.get("n") not in (None, 1):
        message = f"n={arguments['n']}: votes and panels give one answer; leave out n."
        raise open_litellm().BadRequestError(message, called, PROVIDER)
    return {name: value for name, value in arguments.items() if name not in ("stream", "stream_options", "n")}


def _answer(calls: Calls) -> Any:
    """Return the answer that several calls make; those of one step are made at once."""
    step, answer = _next_step(calls, None)
    while step is not None:
        step, answer = _next_step(calls, _outcomes(step))
    return answer


async def _aanswer(calls: Calls) -> Any:
    """Return the same as `_answer`; calls are cancelled with it. What is decided between them may take a while."""
    step, answer = await asyncio.to_thread(_next_step, calls, None)
    while step is not None:
        made = [open_litellm().acompletion(**arguments) for arguments in step]
        outcomes = await asyncio.gather(*made, return_exceptions=True)
        step, answer = await asyncio.to_thread(_next_step, calls, outcomes)
    return answer


def _next_step(calls: Calls, outcomes: list[Any] | None) -> tuple[list[dict[str, Any]] | None, Any]:
    """Return the calls to make after these outcomes; or None and the answer."""
    try:
        return (next(calls) if outcomes is None else calls.send(outcomes)), None
    except StopIteration as ended:
        return None, ended.value


def _outcomes(step: Sequence[dict[str, Any]]) -> list[Any]:
    """Return the response or the exception of each call, made at once."""
    waiting: list[tuple[dict[str, Any], Future[Any]]] = [(each, Future()) for each in step]
    calls = [call for _, call in waiting]

    def call_all() -> None:
        while waiting:
            arguments, call = waiting.pop(0)
            try:
                call.set_result(open_litellm().completion(**arguments))
            except BaseException as failed:  # of any kind: it is raised, or noted, where the outcomes are read
                call.set_exception(failed)

    for _ in calls[:_MOST_THREADS]:
        # daemons, as an interrupt must not wait for them; in a copy of the context, for traces
        threading.Thread(target=copy_context().run, args=[call_all], daemon=True).start()
    try:
        return [call.exception() or call.result() for call in calls]
    finally:
        waiting.clear()  # after an interrupt, no further calls are made


# --- Votes ------------------------------------------------------------------------------------------------------------


def _vote(votes: Votes, arguments: Mapping[str, Any]) -> Calls:
    """Make the calls of a vote, and return the elected answer; raise the first failure when there is no answer.

    With a JSON `response_format`, answers agree when their values do, whatever the votes' own grader. A seed is
    different in each sample.
    """
    whole = _for_several(arguments["model"], arguments) | {"cache": {"no-cache": True}}  # else all samples are one
    seed = whole.get("seed")
    outcomes = yield [whole if seed is None else {**whole, "seed": seed + place} for place in range(votes.samples)]
    answers = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    if not answers:
        raise outcomes[0]
    grader = parse_grader("json" if is_json(arguments.get("response_format")) else votes.same)
    place, agreed = elected([Ballot.of(answer) for answer in answers], grader)
    costs = [answer._hidden_params.get("response_cost") for answer in answers]
    response = summed_bill(answers[place], answers, None if None in costs else sum(costs))
    response._hidden_params[VOTES] = {"samples": len(outcomes), "answered": len(answers), "agreed": agreed}
    return response


@dataclass(frozen=True)
class Ballot:
    """The vote of one answer."""

    text: str
    calls: str = ""  # the tools it calls, with their arguments, as JSON; empty where it calls none

    @classmethod
    def of(cls, response: Any) -> Ballot:
        """Return the vote in a LiteLLM response."""
        message = response.choices[0].message
        calls = []
        for call in message.tool_calls or ():
            calls.append([call.function.name, call.function.arguments])
            with suppress(ValueError, RecursionError):  # invalid JSON is compared as text
                calls[-1][1] = json.loads(call.function.arguments or "{}")
        return cls(message.content or "", json.dumps(calls, sort_keys=True) if calls else "")

    def agrees(self, other: Ballot, grader: Grader) -> bool:
        """Return whether tool calls are the same, else whether either text is right when the other is the reference."""
        if self.calls or other.calls:
            return self.calls == other.calls
        return not grader(self.text, other.text) or not grader(other.text, self.text)


def elected(ballots: Sequence[Ballot], grader: Grader) -> tuple[int, int]:
    """Return the position of the answer that most agree on, and how many agree.

    Each answer joins the first group whose first answer it agrees with; the earlier of equal groups wins. An answer
    that does not agree with itself, such as one without a number where numbers are compared, has no vote; with no
    votes at all it is the first, and 0 agree.

    Examples
    --------
    >>> from unirouter_plugins.graders import parse_grader
    >>> answers = ["It is 391.", "I think 381.", "17 * 23 = 391"]
    >>> elected([Ballot(answer) for answer in answers], parse_grader("number"))
    (0, 2)
    """
    groups: list[list[int]] = []
    for place, ballot in enumerate(ballots):
        if not ballot.agrees(ballot, grader):
            continue
        group = next((group for group in groups if ballot.agrees(ballots[group[0]], grader)), None)
        if group is None:
            groups.append(group := [])
        group.append(place)
    largest = max(groups, key=len, default=[0])
    return largest[0], len(largest) if groups else 0


# --- Streams ----------------------------------------------------------------------------------------------------------


def _is_end(chunk: Any) -> bool:
    return bool(chunk.choices and chunk.choices[0].finish_reason)


def _end_last(chunks: Iterable[Any]) -> Iterator[Any]:
    """Yield a stream's chunks, the one that ends the answer last: usage follows it, and LiteLLM reads no further."""
    end: list[Any] = []
    for chunk in chunks:
        if end or not _is_end(chunk):
            yield chunk
        else:
            end.append(chunk)
    yield from end


async def aend_last(chunks: Any) -> AsyncGenerator[Any]:
    """Yield the same of a stream that is not sync."""
    end: list[Any] = []
    async with aclosing(chunks):
        async for chunk in chunks:
            if end or not _is_end(chunk):
                yield chunk
            else:
                end.append(chunk)
    for chunk in end:
        yield chunk


def _chunks(response: Any) -> Iterator[Any]:
    """Yield a whole answer with its usage, then its end."""
    from litellm.llms.base_llm.base_model_iterator import convert_model_response_to_streaming

    whole, end = (convert_model_response_to_streaming(response) for _ in range(2))
    whole._hidden_params = dict(response._hidden_params)
    whole.choices[0].finish_reason = None
    end.choices[0].delta = type(end.choices[0].delta)()
    yield from (whole, end)
