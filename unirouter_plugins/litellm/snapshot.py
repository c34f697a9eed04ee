"""A router's pool at one moment, as it is called: decisions on chats, prices, the models as a framework's objects."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib
import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from weakref import WeakKeyDictionary

from unirouter_core.documents import GivenDocuments
from unirouter_core.embedding import HashingEmbedder
from unirouter_core.exceptions import InvalidDataError, NoCandidateError, UnknownPriceError, missing_package
from unirouter_core.pool import Capabilities, ModelProfile, Pool
from unirouter_core.router import UniRouter
from unirouter_core.rule import Decision
from unirouter_plugins.litellm import programs
from unirouter_plugins.litellm.chat import Chat
from unirouter_plugins.litellm.failures import open_litellm
from unirouter_plugins.litellm.health import HEALTH
from unirouter_plugins.litellm.panels import Inside
from unirouter_plugins.litellm.pool_file import SERVED_AS, Member, Members
from unirouter_plugins.litellm.prices import LITELLM, Quote, listed_prices, longest_answer, quote, require_quote
from unirouter_plugins.litellm.timeouts import Limits

if TYPE_CHECKING:
    from unirouter_plugins.litellm.checks import AnswerCheck

M = TypeVar("M")
C = TypeVar("C")

SHORT = 32_000  # tokens, or characters, of a prompt up to which all providers charge one price a token

TABLES: WeakKeyDictionary[UniRouter, Members] = WeakKeyDictionary()
"""The table that each router was configured with, whose checks its calls use."""

_FEW, _SHORT_TEXT = 200, 10_000  # models, characters: a decision on them takes less than a millisecond

LIMITS = ("timeout", "deadline")
"""The parameters of a call that bound its time, see `Limits`."""

_SHAPING = (
    *("temperature", "top_p", "max_tokens", "max_completion_tokens"),
    *("reasoning_effort", "thinking", "seed", "stop"),
)
"""Parameters of a call that make its model another than was evaluated."""


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A router's pool at one moment, as it is called."""

    router: UniRouter  # a copy, whose models have the capabilities that they have here
    pool: Mapping[str, ModelProfile]
    members: Mapping[str, Member]  # how LiteLLM calls each that the user gave no object of a framework for
    keys: Mapping[str, str]  # how each is called: what the table of failures knows it by
    table: Members  # the `pool.toml`, or what was given in its place
    _quotes: dict[str, Quote] = field(default_factory=dict)
    _differences: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, router: UniRouter, profiles: Mapping[str, ModelProfile] | None = None, given: Mapping[str, int] = {}
    ) -> Snapshot:
        """Return the pool as it is now, or of these profiles; all but `given` objects, by their id, through LiteLLM."""
        pool = router.pool if profiles is None else Pool(profiles)
        members = {name: Member.of(profile) for name, profile in pool.items() if name not in given}
        keys = {name: f"{name} {number:x}" for name, number in given.items()}
        places = {n: f"{m.model} at {m.api_base} with {m.api_key_env}" for n, m in members.items()}
        keys |= {n: members[n].called if members[n].panel else place for n, place in places.items()}
        return cls(router.with_pool(pool), pool, members, keys, TABLES.get(router, Members()))

    @cached_property
    def windows(self) -> dict[str, int | None]:
        """The context windows in tokens; None where one is not known."""
        return {name: profile.capabilities.context_window for name, profile in self.pool.items()}

    @cached_property
    def checks(self) -> dict[str, AnswerCheck]:
        """The checks of the table by name, those for which a model of the pool has signals.

        One that cannot be used is left out with a warning, as where the member that it asks was retired meanwhile; one
        with a limit raises `InvalidDataError`.
        """
        made: dict[str, AnswerCheck] = {}
        for name, limit in self._limits.items():
            try:
                made |= self._named([name])
            except InvalidDataError as failed:
                if limit < 1:
                    raise
                warnings.warn(f"Calls go on without a check. {failed}", stacklevel=2)
        return made

    def require_checks(self) -> None:
        """Raise `InvalidDataError` where one of the checks cannot be used."""
        self._named([*self._limits])

    @property
    def _limits(self) -> dict[str, float]:
        """The names of the table's checks for which a model has signals, with the least of their limits."""
        known = [each for profile in self.pool.values() for each in profile.checks.items()]
        every = {name: [signals.limit for which, signals in known if which == name] for name in self.table.checks}
        return {name: min(limits) for name, limits in every.items() if limits}

    def _named(self, names: Sequence[str]) -> dict[str, AnswerCheck]:
        if not names:
            return {}
        from unirouter_plugins.litellm.checks import named_checks  # with the graders

        return named_checks(names, self.table, self.pool)

    @cached_property
    def longest(self) -> dict[str, int]:
        """The most tokens that models can answer with, where that is known."""
        return {name: most for name, member in self.members.items() if (most := longest_answer(member)) is not None}

    def able(self, models: Sequence[str] | None, parameters: Mapping[str, Any]) -> Sequence[str] | None:
        """Return those of `models` that can give max_tokens, n and logprobs as asked for; None is all of the pool."""
        if parameters.get("n") not in (None, 1) or parameters.get("logprobs"):
            voting = {name for name, member in self.members.items() if member.votes or member.panel}
            models = [name for name in (self.pool if models is None else models) if name not in voting]
            if voting and not models:
                raise NoCandidateError("Votes and panels give one answer, without logprobs; leave out n and logprobs.")
        asked = parameters.get("max_completion_tokens") or parameters.get("max_tokens")
        if not asked or not isinstance(asked, int):
            return models
        short = {name for name, most in self.longest.items() if most < asked}
        able = [name for name in (self.pool if models is None else models) if name not in short]
        if short and not able:
            most = max(self.longest[name] for name in short)
            raise NoCandidateError(f"No model can answer with max_tokens={asked:,}; ask for at most {most:,}.")
        return able if short else models

    def at_prices_of(self, tokens_in: float) -> UniRouter:
        """Return the router with the prices that LiteLLM lists for prompts of that length."""
        if tokens_in <= SHORT:
            return self.router
        profiles = dict(self.pool)
        for name, member in self.members.items():
            quoted, listed = self.quote(name), listed_prices(member, tokens_in)
            if quoted is not None and quoted.source == LITELLM and listed is not None and listed != quoted.prices:
                with contextlib.suppress(UnknownPriceError):  # only USD are known of it
                    profiles[name] = profiles[name].repriced(listed)
        return self.router if profiles == dict(self.pool) else self.router.with_pool(Pool(profiles))

    def decide(
        self,
        chat: Chat,
        *,
        text: str | None = None,
        cost_weight: float | None = None,
        models: Sequence[str] | None = None,
        requires: Sequence[str] = (),
        documents: GivenDocuments | None = None,
        avoid: Mapping[str, str] | None = None,
        checks: Sequence[str] = (),
    ) -> Decision:
        """Return the decision on a chat: the rule of `UniRouter.route`, with the price of lost prompt caches.

        Model m was sent k_m of the T tokens before (0 for one that has not answered in the conversation), and charges
        its profile's price for cached tokens, where that is known, for them. So the rule is the least of ::

            error_m + cost_weight * ((T - k_m) * input_m + k_m * cached_input_m + answer_m)

        What the chat requires is added to `requires`; `text` is routed on in the place of the chat's own.
        """
        text, cached = chat.text if text is None else text, {}
        tokens = 0.0
        tokens_in: float | dict[str, float] | None = None
        if not (chat.is_bare and chat.messages[0]["content"] == text and not documents):
            counter = self.router.fit_.token_counter
            tokens, sent = chat.count_sent_before(counter)
            cached = {model: count for model, count in sent.items() if model in self.pool}
            more = {m.name: m.expanded_tokens(tokens, counter) for m in self.members.values() if m.is_program}
            tokens_in = {**dict.fromkeys(self.pool, tokens), **more} if more else tokens
        elif len(text) > SHORT:
            tokens = float(self.router.fit_.token_counter.count([text])[0])
        return self.at_prices_of(tokens).route(
            text,
            cost_weight=cost_weight,
            models=models,
            requires=tuple(dict.fromkeys([*chat.requires, *requires])),
            documents=documents,
            tokens_in=tokens_in,
            cached_tokens=cached,
            avoid=avoid,
            checks=checks,
        )

    def quote(self, model: str) -> Quote | None:
        """Return the prices of a model; None where they are not known."""
        profile = self.pool[model]
        if model not in self.members:
            return None if profile.prices is None else Quote(profile.prices, "profile")
        if model not in self._quotes and (found := quote(self.members[model], profile)) is not None:
            self._quotes[model] = found
        return self._quotes.get(model)

    @cached_property
    def panels(self) -> list[str]:
        """The models that are panels."""
        return [name for name, member in self.members.items() if member.panel is not None]

    def inside(self, cost_weight: float | None = None) -> Inside | None:
        """Return what the calls of panels are made through: the rule among all other models; None without others."""
        if not (others := [name for name in self.members if name not in self.panels]):
            return None
        members = {**self.table, **self.members}

        def decide(question: str) -> Decision:
            return self.decide(Chat.of(question), cost_weight=cost_weight, models=others)

        def quoted(member: Member) -> Quote:
            return (self.quote(member.name) if member.name in self.members else None) or require_quote(member)

        return Inside(decide, members, quoted, programs.arguments_of)

    def require_callable(self, model: str) -> None:
        """Raise where LiteLLM cannot call a model, `InvalidDataError`, or its prices are not known."""
        if not is_callable(self.pool[model]):
            raise InvalidDataError(
                f"{model!r} is known by its record only, and LiteLLM knows no model of that name; say in pool.toml how "
                f'to call it: [models.{json.dumps(model)}] model = "provider/name".'
            )
        if self.quote(model) is None:
            require_quote(self.members[model], self.pool[model])  # which tells how to give one

    def differs(self, model: str, parameters: Mapping[str, Any]) -> tuple[str, ...]:
        """Return in which ways a call with `parameters` is not what its model was evaluated with, where known."""
        if model not in self.members:
            return ()
        member, profile = self.members[model], self.pool[model]
        if model not in self._differences:
            self._differences[model] = member.differences(profile)
        changed = [
            f"{name} is {parameters[name]!r} and was {member.settings.get(name, 'not given')!r}"
            for name in (_SHAPING if SERVED_AS in profile.provenance else ())
            if name in parameters and parameters[name] != member.settings.get(name)
        ]
        return (*self._differences[model], *changed)


class PoolModels(ABC, Generic[M]):
    """The models of a pool as objects of a framework: the user's own, `given`; the others are made for LiteLLM.

    `settings` are LiteLLM's parameters of every call, which win over those that models were evaluated with; and, for
    the user's own models too, those of `LIMITS`.
    """

    health = HEALTH
    place = ""  # "module:class" of those that are made
    brought_by = "", "", ""  # the module and the package that they need, and the extra that has it
    what = ""  # what messages call one

    def __init__(self, given: Mapping[str, M] | None = None, settings: Mapping[str, Any] | None = None) -> None:
        self.given, self.settings = dict(given or {}), dict(settings or {})
        self.timeout = self.settings.get("timeout", self.settings.get("request_timeout"))  # the latter is LangChain's
        self.deadline = self.settings.pop("deadline", None)
        self.limits = Limits.of(self.timeout, self.deadline)
        self._newest: tuple[Any, Snapshot] | None = None

    def limits_of(self, timeout: Any, deadline: Any) -> tuple[Limits, bool]:
        """Return the limits of a call that was given these, and whether there are none: not of the models either."""
        if timeout is None and deadline is None:
            return self.limits, self.timeout is None and self.deadline is None
        return Limits.of(self.timeout if timeout is None else timeout, deadline or self.deadline), False

    @cached_property
    def kind(self) -> Any:
        """The class of the models that are made."""
        open_litellm()  # before a framework's package imports it online and loudly
        module, _, name = self.place.partition(":")
        try:
            return getattr(importlib.import_module(module), name)
        except ImportError as missing:
            raise self._missing() from missing

    def makes_some(self, router: UniRouter) -> bool:
        """Return whether models of the pool are not given; raise `ImportError` where they cannot be made."""
        makes = not self.given or not router.pool.keys() <= self.given.keys()
        if makes and find_spec(self.brought_by[0]) is None:
            raise self._missing()
        return makes

    def _missing(self) -> ImportError:
        instead = f", or give {self.what} for each model of the pool: models={{...}}"
        return missing_package(*self.brought_by[1:], instead)

    @abstractmethod
    def make(self, arguments: dict[str, Any], *, is_last: bool) -> M:
        """Return a model that calls LiteLLM with `arguments`; only where `is_last` are failed calls retried."""

    def able(self, profile: ModelProfile, model: M) -> Capabilities:
        """Return what a model of the user's own can do."""
        return profile.capabilities

    def model(self, snapshot: Snapshot, name: str, *, is_last: bool = True) -> M:
        """Return the model of that name; one for LiteLLM has the key that the environment has now."""
        if name in self.given:
            return self.given[name]
        return self.make(programs.arguments_of(snapshot.members[name]), is_last=is_last)

    def is_quick(self, router: UniRouter, asked: object) -> bool:
        """Return whether to decide on a prompt, or messages, takes less than to wake a thread for it."""
        is_known = self._newest is not None and self._newest[0] is router.pool and len(router.pool) <= _FEW
        hashes = isinstance(router.fit_.embedder, HashingEmbedder) and router.fit_.document_features is None
        parts = asked if isinstance(asked, list | tuple) else [asked]
        return is_known and hashes and sum(len(str(getattr(part, "content", part))) for part in parts) <= _SHORT_TEXT

    async def abegin(self, router: UniRouter, asked: object, begin: Callable[[], C]) -> C:
        """Return the call that `begin` returns, made in a thread where to decide takes a while."""
        return begin() if self.is_quick(router, asked) else await asyncio.to_thread(begin)

    def snapshot(self, router: UniRouter) -> Snapshot:
        """Return the router's pool as it is now; it is made again when the pool has changed."""
        pool, newest = router.pool, self._newest
        if newest is not None and newest[0] is pool and newest[1].router.cost_weight == router.cost_weight:
            return newest[1]
        able = {n: self.able(pool[n], model) for n, model in self.given.items() if n in pool}
        called = {n: p for n, p in pool.items() if n not in able and (not self.given or is_callable(p))}
        given = {n: dataclasses.replace(pool[n], capabilities=known) for n, known in able.items()}
        made = Snapshot.of(router, {**called, **given}, {name: id(self.given[name]) for name in given})
        self._newest = pool, made
        return made


def check_given(models: Any, router: Any, kind: type, what: str) -> None:
    """Raise one sentence unless `router` is one, and each of `models` is of that kind and in its pool.

    The models of the pool that are not among them must be known to LiteLLM. `what` is what messages call one.
    """
    if not isinstance(router, UniRouter):
        raise InvalidDataError(f"router={router!r:.60} is no UniRouter; load one: UniRouter.load('my.router').")
    if models is None:
        return
    if not isinstance(models, Mapping):
        raise InvalidDataError(f"models={models!r:.60} is no mapping; give {{name in the pool: {what}}}.")
    for name, model in models.items():
        if not isinstance(model, kind):
            raise InvalidDataError(f"models[{name!r}] is of type {type(model).__name__}; give {what}.")
    router.pool.check_known(models)
    for name, profile in router.pool.items():
        if name not in models and not is_callable(profile):
            raise InvalidDataError(
                f"{name!r} is in the pool but not in models={{...}}, and LiteLLM knows no model of that name; add it, "
                "retire it, or say in pool.toml how to call it."
            )


def is_callable(profile: ModelProfile) -> bool:
    """Return whether LiteLLM can call a model: as its profile or `pool.toml` says, or by its name alone."""
    if SERVED_AS in profile.provenance:
        return True
    with contextlib.suppress(Exception):  # of any kind: an unknown provider
        return bool(open_litellm().get_llm_provider(profile.model))
    return False
