"""The user's own table of models, `pool.toml`: how each is called, with which settings, at which prices."""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from unirouter_core.costs import Prices, TokenCounter
from unirouter_core.exceptions import InvalidDataError
from unirouter_core.profiles import ModelProfile
from unirouter_plugins.litellm.chat import PER_MESSAGE

SERVED_AS = "served_as"
"""Where a profile's provenance says how the model is called; when it was measured, too, unless it has this:"""

MEASURED_AS = "measured_as"
"""Where it says how the model was called when it was measured, once a table calls it otherwise."""

PROVIDER = "unirouter"
"""LiteLLM's name for the provider of variants."""


class MissingKeyError(InvalidDataError):
    """A model whose key is not in the environment: another may have its own."""


@dataclass(frozen=True)
class Votes:
    """Several answers to each prompt, of which the one that most agree on is given.

    Parameters
    ----------
    samples : int
    same : str
        The grader that tells whether two answers agree.
    """

    samples: int
    same: str


@dataclass(frozen=True)
class Member:
    """How a model of the pool is called.

    Parameters
    ----------
    name : str
        What the pool calls it.
    model : str
        What LiteLLM calls it.
    api_base : str, optional
        Where it is, when not where its provider's models are.
    api_key_env : str, optional
        The environment variable that holds its key, when not its provider's usual one.
    prices : Prices, optional
    capabilities : mapping
        What is known of tools, vision, json and context_window.
    settings : mapping
        LiteLLM's parameters of every call: temperature, max_tokens, reasoning_effort and the like.
    system : str, optional
        A system prompt, before the caller's own.
    examples : tuple of (str, str)
        Worked examples: prompts and their answers, as turns before the prompt.
    template : str, optional
        The text that the newest prompt is put into, at {prompt}.
    votes : Votes, optional

    Examples
    --------
    >>> Member("fast", "openai/gpt-4.1-nano", settings={"temperature": 0}).served_as
    {'model': 'openai/gpt-4.1-nano', 'settings': {'temperature': 0}}
    """

    name: str
    model: str
    api_base: str | None = None
    api_key_env: str | None = None
    prices: Prices | None = None
    capabilities: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    system: str | None = None
    examples: tuple[tuple[str, str], ...] = ()
    template: str | None = None
    votes: Votes | None = None

    @property
    def is_variant(self) -> bool:
        """Whether answering takes more than passing the call on: a transform of the prompt, or votes."""
        return bool(self.system or self.examples or self.template or self.votes)

    @cached_property
    def served_as(self) -> dict[str, Any]:
        """All that shapes its answers, JSON-able: what a profile keeps, and what is compared when it is served."""
        votes = None if self.votes is None else {"samples": self.votes.samples, "same": self.votes.same}
        shaping = {
            "model": self.model,
            "api_base": self.api_base,
            "api_key_env": self.api_key_env,
            "settings": dict(self.settings),
            "system": self.system,
            "examples": [list(example) for example in self.examples],
            "template": self.template,
            "votes": votes,
        }
        return {name: value for name, value in shaping.items() if value}

    @property
    def called(self) -> str:
        """The name that LiteLLM is given: its own, or a variant's at our provider."""
        if not self.is_variant:
            return self.model
        digest = hashlib.sha256(json.dumps(self.served_as, sort_keys=True).encode()).hexdigest()[:8]
        return f"{PROVIDER}/{self.name}@{digest}"

    def key(self) -> str | None:
        """Return its key from the environment; None leaves it to LiteLLM.

        Raises
        ------
        MissingKeyError
            When the variable it names is not set.
        """
        if self.api_key_env is None:
            return None
        if not (key := os.environ.get(self.api_key_env)):
            raise MissingKeyError(
                f"{self.name!r} takes its key from the environment variable {self.api_key_env}, which is not set."
            )
        return key

    def arguments(self) -> dict[str, Any]:
        """Return what LiteLLM's `completion` is given besides the messages, for the model itself."""
        given = {"api_base": self.api_base, "api_key": self.key()}
        return {"model": self.model, **{name: value for name, value in given.items() if value}, **self.settings}

    def expanded_tokens(self, tokens: float, counter: TokenCounter) -> float:
        """Return how many prompt tokens are charged for a chat of `tokens`: all that is put around it, for each vote.

        Parameters
        ----------
        tokens : float
            As `counter` counts them.
        counter : TokenCounter

        Examples
        --------
        >>> voting = Member("careful", "openai/gpt-4.1-nano", template="{prompt} Think.", votes=Votes(5, "number"))
        >>> voting.expanded_tokens(100.0, TokenCounter("characters / 4"))
        510.0
        """
        samples = 1 if self.votes is None else self.votes.samples
        turns = [text for example in self.examples for text in example]
        turns += [self.system] if self.system else []
        template = (self.template or "").replace("{prompt}", "")
        return samples * (tokens + _count((*turns, template), counter) + PER_MESSAGE * len(turns))


class Members(Mapping[str, Member]):
    """The models of a `pool.toml`, by the pool's names.

    Parameters
    ----------
    members : mapping of str to Member
    providers : mapping of str to str
        Providers of the user's own: LiteLLM's name for each, and "module:object" where it is.
    place : str
        For messages.
    """

    def __init__(
        self, members: Mapping[str, Member], providers: Mapping[str, str] | None = None, place: str = "pool.toml"
    ) -> None:
        self._members, self.providers, self.place = dict(members), dict(providers or {}), place

    def __getitem__(self, name: str) -> Member:
        return self._members[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def __repr__(self) -> str:
        return f"Members({', '.join(self._members)})"

    def named(self, name: str) -> Member:
        """Return how `name` is called: as this table says, else as LiteLLM knows it by the same name."""
        return self._members.get(name, Member(name, name))


@lru_cache(maxsize=256)  # long examples take a millisecond to count, and every call asks
def _count(texts: tuple[str, ...], counter: TokenCounter) -> float:
    return float(counter.count(texts).sum())


def restored(name: str, kept: Mapping[str, Any]) -> Member:
    """Return the member that a profile's provenance describes."""
    votes = kept.get("votes")
    return Member(
        name=name,
        model=kept["model"],
        api_base=kept.get("api_base"),
        api_key_env=kept.get("api_key_env"),
        settings=kept.get("settings", {}),
        system=kept.get("system"),
        examples=tuple((example[0], example[1]) for example in kept.get("examples", ())),
        template=kept.get("template"),
        votes=None if votes is None else Votes(votes["samples"], votes["same"]),
    )


def differences(member: Member, profile: ModelProfile) -> list[str]:
    """Return in which ways a model is called otherwise than when it was measured; none where that is not known."""
    kept = profile.provenance.get(MEASURED_AS, profile.provenance.get(SERVED_AS))
    if kept is None:
        return []
    names = {*member.served_as, *kept} - {"api_base", "api_key_env"}  # where it is does not change what it is
    return [
        f"{name} is {_shown(member.served_as.get(name))} and was {_shown(kept.get(name))}"
        for name in sorted(names)
        if member.served_as.get(name) != kept.get(name)
    ]


def _shown(value: Any) -> str:
    text = "not given" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:59]}…"


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
        prices = { input = 0, output = 0 }
        capabilities = { tools = false, vision = false, context_window = 8192 }

        [models.careful]
        model = "openai/gpt-4.1-nano"
        template = "{prompt}\n\nThink step by step, then give the answer."
        votes = { samples = 5, same = "number" }

        [providers]
        mine = "my_package.my_module:handler"  # for model = "mine/..."

    Parameters
    ----------
    path : path

    Raises
    ------
    InvalidDataError
        When the file is missing, is no TOML, or a value cannot be used; the model and the field are named.
    """
    from unirouter_plugins.litellm.entries import check_table  # pydantic, which takes a while to load

    place = Path(path)
    try:
        content = tomllib.loads(place.read_text(encoding="utf-8-sig"))
    except OSError as failed:
        raise InvalidDataError(f"{place} cannot be read: {failed.strerror}.") from failed
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as failed:
        raise InvalidDataError(f"{place} is not TOML: {failed}.") from failed
    table = check_table(content, str(place))
    members = {name: entry.as_member(name) for name, entry in table.models.items()}
    return Members(members, table.providers, str(place))
