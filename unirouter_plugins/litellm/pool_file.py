"""`pool.toml`: how each model of a pool is called, with which settings, at which prices."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from unirouter_core.costs import Prices, TokenCounter
from unirouter_core.exceptions import ArtifactError, InvalidDataError
from unirouter_core.pool import ModelProfile, Pool
from unirouter_core.reading import read_bytes
from unirouter_plugins.litellm.chat import PER_MESSAGE
from unirouter_plugins.litellm.failures import MissingKeyError
from unirouter_plugins.litellm.pool_schema import MODEL_TABLE, NO_MEDIA, Panel, Table, Votes, complaint
from unirouter_plugins.litellm.redaction import redacted, secrets_in

SERVED_AS, MEASURED_AS = "served_as", "measured_as"
"""Where a profile's provenance says how the model is called, and how it was when evaluated, if that was otherwise."""

_SHAPING = ("model", "api_base", "api_key_env", "settings", "system", "examples", "template", "votes", "panel")

BESIDE = "pool.toml beside the router"
"""The default table of models: that file, where it exists."""

MOST_TOML = 2**23  # bytes
_LONG_KEY = re.compile(
    r"""(?<![\w-])(?:(?:[\w-]+|"[^"\n]*"|'[^'\n]*')[ \t]*\.[ \t]*){30}"""
)  # tomllib takes their square

PROVIDER = "unirouter"
"""LiteLLM's name for the provider of programs."""


class ServedAs(dict[str, Any]):
    """How a model is called, as the user configured it; what is read from a router's folder is a plain dict."""


@dataclass(frozen=True)
class Member:
    """How a model of the pool is called.

    Examples
    --------
    >>> Member("fast", "openai/gpt-4.1-nano", settings={"temperature": 0}).served_as
    {'model': 'openai/gpt-4.1-nano', 'settings': {'temperature': 0}}
    """

    name: str  # the pool's
    model: str  # LiteLLM's name
    api_base: str | None = None  # its address and the environment variable of its key, when not its provider's usual
    api_key_env: str | None = None
    prices: Prices | None = None
    capabilities: Mapping[str, Any] = field(default_factory=dict)  # tools, vision, json, context_window
    settings: Mapping[str, Any] = field(default_factory=dict)  # LiteLLM's parameters of every call
    system: str | None = None  # a system prompt, before the caller's own
    examples: tuple[tuple[str, str], ...] = ()  # prompts and their answers, as turns before the conversation
    template: str | None = None  # the text that the newest prompt is put into, at {prompt}
    votes: Votes | None = None
    panel: Panel | None = None  # its `model` is then the aggregator's, which tells what it can do
    list_price: bool = False  # whether LiteLLM's list price counts at an address of its own, too
    batch: float = 1.0  # the share of its prices that a call in a batch costs
    is_trusted: bool = field(default=True, compare=False, repr=False)  # its address and key are the user's choice

    @classmethod
    def of(cls, profile: ModelProfile) -> Member:
        """Return the member for a model of the pool: as its profile says, else by its own name."""
        kept = profile.provenance.get(SERVED_AS)
        return cls(profile.model, profile.model) if kept is None else cls.restored(profile.model, kept)

    @classmethod
    def restored(cls, name: str, kept: Mapping[str, Any]) -> Member:
        """Return the member that a profile's provenance describes, checked as an entry of a `pool.toml` is.

        Raises `ArtifactError` when it cannot be used. One from a folder that has an address, or a key that is not its
        provider's usual, is not trusted: it is called only when the user names these, see `approved`.
        """
        if isinstance(kept, ServedAs):
            fields = {**kept, "examples": tuple(map(tuple, kept.get("examples", ())))}
            fields |= {kind: of(**kept[kind]) for kind, of in (("votes", Votes), ("panel", Panel)) if kind in kept}
            return cls(name, **fields)
        try:
            fields = {key: kept[key] for key in _SHAPING if key in kept}
            if "examples" in fields:
                fields["examples"] = [dict(zip(("prompt", "answer"), pair, strict=True)) for pair in fields["examples"]]
            member = cls(name, **MODEL_TABLE.validate_python(fields))
        except ValidationError as failed:
            wrong = failed.errors(include_url=False)[0]
            raise ArtifactError(redacted(f"{SERVED_AS} of {name!r}: {complaint(wrong)}.")) from None
        except (TypeError, ValueError) as failed:
            raise ArtifactError(
                f"{SERVED_AS} of {name!r} is {kept!r:.40}, which says no model; onboard it again."
            ) from failed
        usual = f"{member.model.partition('/')[0]}_API_KEY".upper().replace("-", "_")
        is_usual = member.api_base is None and member.api_key_env in (None, usual)
        return dataclasses.replace(member, is_trusted=is_usual)

    def require_trust(self) -> None:
        """Raise `ArtifactError` when a folder alone says where the model is called, or with which key."""
        if not self.is_trusted:
            where = f"at {self.api_base}" if self.api_base else "at its provider"
            key = f"with the key in {self.api_key_env}" if self.api_key_env else "with its provider's usual key"
            raise ArtifactError(
                f"The router's folder has {self.name!r} called {where} {key}, which you have not named; name both in a "
                "pool.toml (--pool FILE, pool=...), or trust the folder (--trust, load_router(..., trust=True))."
            )

    @property
    def secrets(self) -> list[str]:
        """The secrets of its calls: its key, and the headers in its settings."""
        return [os.environ.get(self.api_key_env or "", ""), *secrets_in(self.settings)]

    @property
    def is_program(self) -> bool:
        """Whether it transforms the prompt, votes, or is a panel, rather than passing the call on."""
        return bool(self.system or self.examples or self.template or self.votes or self.panel)

    @cached_property
    def served_as(self) -> dict[str, Any]:
        """All settings that shape its answers, JSON-able; a profile keeps them, and `differences` compares them."""
        shaping = {name: getattr(self, name) for name in _SHAPING} | {
            "settings": dict(self.settings),
            "examples": [list(example) for example in self.examples],
            "votes": self.votes and dataclasses.asdict(self.votes),
            "panel": self.panel and dataclasses.asdict(self.panel),
        }
        kept = {name: value for name, value in shaping.items() if value}
        return ServedAs(kept) if self.is_trusted else kept

    @cached_property
    def called(self) -> str:
        """The name that LiteLLM is given: its own, or a program's at our provider."""
        if not self.is_program:
            return self.model
        digest = hashlib.sha256(json.dumps(self.served_as, sort_keys=True).encode()).hexdigest()[:8]
        return f"{PROVIDER}/{self.name}@{digest}"

    def key(self) -> str | None:
        """Return its key from the environment, None to leave it to LiteLLM; raise `MissingKeyError` if it is unset."""
        if self.api_key_env is None:
            return None
        if not (key := os.environ.get(self.api_key_env)):
            raise MissingKeyError(
                f"{self.name!r} takes its key from the environment variable {self.api_key_env}, which is not set."
            )
        return key

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of LiteLLM's `completion` for the model itself, without the messages."""
        self.require_trust()
        given = {"api_base": self.api_base, "api_key": self.key()}
        return {"model": self.model, **{name: value for name, value in given.items() if value}, **self.settings}

    def expanded_tokens(self, tokens: float, counter: TokenCounter) -> float:
        """Return the prompt tokens that are charged for a chat of `tokens`: with all that is added, for each vote.

        Examples
        --------
        >>> voting = Member("careful", "openai/gpt-4.1-nano", template="{prompt} Think.", votes=Votes(5, "number"))
        >>> voting.expanded_tokens(100.0, TokenCounter("characters / 4"))
        510.0
        """
        turns = self.added_turns
        added = _count((*turns, (self.template or "").replace("{prompt}", "")), counter) + PER_MESSAGE * len(turns)
        return self.samples * (tokens + added)

    @property
    def added_turns(self) -> tuple[str, ...]:
        """The texts of the messages that it adds to a chat."""
        return (*itertools.chain(*self.examples), *([self.system] if self.system else []))

    @property
    def samples(self) -> int:
        """How many answers of its model make one of its own."""
        return 1 if self.votes is None else self.votes.samples

    def differences(self, profile: ModelProfile) -> list[str]:
        """Return how its settings differ from those it was evaluated with; empty where these are not known."""
        kept = profile.provenance.get(MEASURED_AS, profile.provenance.get(SERVED_AS))
        if not isinstance(kept, Mapping):
            return []
        names = {*self.served_as, *kept} - {"api_base", "api_key_env"}  # its address does not change what it is
        changed = (name for name in sorted(names) if self.served_as.get(name) != kept.get(name))
        return [f"{name} is {_shown(self.served_as.get(name))} and was {_shown(kept.get(name))}" for name in changed]


@lru_cache(maxsize=256)  # long examples take a millisecond to count, in every call
def _count(texts: tuple[str, ...], counter: TokenCounter) -> float:
    return float(counter.count(texts).sum())


def _shown(value: Any) -> str:
    text = "not given" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:59]}…"


class Members(dict[str, Member]):
    """The models of a `pool.toml`, by the pool's names; its custom providers, each at "module:object"; its checks.

    `beside` is the table's file when found beside a router, not named by the user: its providers are not imported.
    """

    def __init__(
        self,
        members: Mapping[str, Member] = {},
        providers: Mapping[str, str] = {},
        beside: Path | None = None,
        checks: Mapping[str, Any] = {},
    ) -> None:
        super().__init__(members)
        self.providers, self.beside, self.checks = dict(providers), beside, dict(checks)

    def expanded(self, names: Iterable[str]) -> list[str]:
        """Return the names, an entry's with efforts as those of its efforts: "gpt-5" as "gpt-5@low", "gpt-5@high"."""
        return [each for name in names for each in ([] if name in self else _efforts_of(name, self)) or [name]]

    def named(self, name: str) -> Member:
        """Return the member `name`: as this table has it, else LiteLLM's model of that name."""
        return self.get(name, Member(name, name))


# --- Reading ----------------------------------------------------------------------------------------------------------


def read_members(path: str | os.PathLike[str]) -> Members:
    r"""Return the models of a `pool.toml`, checked.

    Each is a table, of which only ``model`` must be given::

        [models.fast]
        model = "openai/gpt-4.1-nano"
        prices = { input = 0.10, output = 0.40, cached_input = 0.025 }  # USD per million tokens
        settings = { temperature = 0, max_tokens = 600 }

        [models.home]
        model = "openai/llama-3.1-8b"
        api_base = "http://127.0.0.1:8080/v1"
        api_key_env = "HOME_KEY"
        prices = { input = 0, output = 0 }  # or "list": LiteLLM's list price at this address, too

        [models.flex]
        model = "openai/gpt-5-mini"
        prices = { batch = 0.5 }  # a call in a batch costs half; input and output may be given, too
        settings = { service_tier = "flex" }
        capabilities = { tools = false, vision = false, context_window = 8192 }

        [models.careful]
        model = "openai/gpt-4.1-nano"
        template = "{prompt}\n\nThink step by step, then give the answer."
        votes = { samples = 5, same = "number" }

        [models.gpt-5]  # the members gpt-5@low and gpt-5@high
        model = "openai/gpt-5"
        efforts = ["low", "high"]  # or settings by name: { quick = { reasoning_effort = "low", max_tokens = 500 } }

        [models.panel]  # a plan, its sub-questions to the router's models, an answer; at most $0.01 a prompt
        panel = { planner = "fast", aggregator = "gpt-5@low", rounds = 2, budget = 0.01 }

        [providers]
        mine = "my_package.my_module:handler"  # for model = "mine/..."

        [checks]  # of answers, see `unirouter_plugins.litellm.checks`
        valid = "json_schema"
        second = { check = "agreement", member = "home", same = "number" }
        mine = "my_package.my_module:function"

    Raises `InvalidDataError` when the file is missing, is no TOML, or a value cannot be used; the message names it.
    """
    place = Path(path)
    try:
        text = read_bytes(place, MOST_TOML).decode("utf-8-sig")
        if _LONG_KEY.search(text):
            raise ValueError("a key has more than 30 parts")
        content = tomllib.loads(text)
    except OSError as failed:
        raise InvalidDataError(f"{place} cannot be read: {failed.strerror}.") from failed
    except (ValueError, RecursionError) as failed:  # a number of thousands of digits, a table in a table in ...
        raise InvalidDataError(f"{place} is not TOML: {failed}.") from failed
    try:
        table = TypeAdapter(Table).validate_python(content)
    except ValidationError as failed:
        wrong = failed.errors(include_url=False)
        first = next((each for each in wrong if each["type"] == "extra_forbidden"), wrong[0])
        raise InvalidDataError(redacted(f"{place}: {complaint(first)}.")) from None
    try:
        members = _made(table.get("models", {}))
    except ValueError as failed:
        raise InvalidDataError(f"{place}: {failed}") from None
    return Members(members, table.get("providers", {}), checks=table.get("checks", {}))


def _efforts_of(name: str, members: Iterable[str]) -> list[str]:
    return [each for each in members if each.rpartition("@")[0] == name]


def _made(entries: Mapping[str, Any]) -> dict[str, Member]:
    """Return the members of a table's entries, those of efforts and panels too."""
    members: dict[str, Member] = {}
    panels = {name: entry["panel"] for name, entry in entries.items() if "panel" in entry}
    for name, entry in entries.items():
        if name in panels:
            continue
        own = {key: value for key, value in entry.items() if key != "efforts"}
        for effort, settings in entry.get("efforts", {"": {}}).items():
            member = Member(name, **{**own, "settings": {**entry.get("settings", {}), **settings}})
            if effort:
                member = dataclasses.replace(member, name=f"{name}@{effort}")
            if member.name in members or (effort and member.name in entries):
                raise ValueError(f"models.{json.dumps(member.name)} is two members; give one of them another name.")
            members[member.name] = member
    for name, panel in panels.items():
        for role, one in (("planner", panel.planner), ("aggregator", panel.aggregator)):
            if one in panels:
                raise ValueError(f"models.{name}.panel.{role} is {one!r}, a panel itself; name a model.")
            if one not in members:
                efforts = ", ".join(_efforts_of(one, members))
                cure = f"name one of {efforts}" if efforts else f"add [models.{json.dumps(one)}]"
                raise ValueError(f"models.{name}.panel.{role} is {one!r}, which this file does not have; {cure}.")
        last, own = members[panel.aggregator], entries[name].get("capabilities", {})
        if media := next((kind for kind in NO_MEDIA if own.get(kind)), None):
            raise ValueError(
                f"models.{name}.capabilities.{media} is true, but a panel cannot bound its cost; leave it out."
            )
        how: dict[str, Any] = {name: getattr(last, name) for name in ("model", "api_base", "api_key_env", "list_price")}
        how["capabilities"] = {**last.capabilities, **NO_MEDIA, **own}
        members[name] = Member(name, **how, panel=panel)
    return members


def members_for(folder: str | os.PathLike[str], pool: Members | str | os.PathLike[str] | None = BESIDE) -> Members:
    """Return the members of the table `pool`, by default of the one beside a router's folder; none for None."""
    if isinstance(pool, Members):
        return pool
    if pool != BESIDE:
        return Members() if pool is None else read_members(pool)
    beside = Path(folder).resolve().parent / "pool.toml"
    read = read_members(beside) if beside.is_file() else Members()
    return Members(read, read.providers, beside, read.checks)


def approved(pool: Pool, members: Members, *, trust: bool = False) -> Pool:
    """Return a loaded pool with its members checked and trusted.

    Raises `ArtifactError` when one has an address or a key's variable that is not in `members`, unless `trust`.
    """
    named, profiles = {(m.api_base, m.api_key_env) for m in members.values()}, dict(pool)
    for name, profile in pool.items():
        if SERVED_AS in profile.provenance and name not in members:
            member = Member.of(profile)
            if trust or (member.api_base, member.api_key_env) in named:
                member = dataclasses.replace(member, is_trusted=True)
            member.require_trust()
            profiles[name] = dataclasses.replace(
                profile, provenance={**profile.provenance, SERVED_AS: member.served_as}
            )
    return Pool(profiles)
