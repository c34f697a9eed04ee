"""What a `pool.toml` may hold, checked field by field."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from unirouter_core.costs import Prices
from unirouter_core.exceptions import InvalidDataError
from unirouter_core.grading import parse_grader
from unirouter_plugins.providers.members import Member, Votes
from unirouter_plugins.providers.redaction import redacted

MOST_SAMPLES = 100
"""Votes of more samples are a slip of the pen, and a bill."""

_OURS = (
    *("model", "messages", "stream", "stream_options", "n", "api_base", "base_url", "custom_llm_provider"),
    *("num_retries", "max_retries", "timeout", "fallbacks", "mock_response"),
)
_PER_CALL = ("tools", "tool_choice", "functions", "response_format")
_SECRET = re.compile(r"key|secret|password|credential|authorization|headers|(^|_)token$", re.IGNORECASE)
_NO_SECRET = ("prompt_cache_key",)


def _said(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be empty")
    return text


def _address(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:  # a bracket of IPv6 left open
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be an address that begins with http:// or https://")
    if parts.username or parts.password or _SECRET.search(parts.query):
        raise ValueError("must hold no key or password; name the environment variable that has it: api_key_env")
    return url


def _variable(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError("must be the name of an environment variable, not the key itself")
    return name


def _with_a_place(template: str) -> str:
    if template.count("{prompt}") != 1:
        raise ValueError("must have {prompt} once, where the prompt goes")
    return template


def _grader(spec: Any) -> str:
    try:
        return parse_grader(spec).spec
    except InvalidDataError as failed:
        raise ValueError(f"names no grader that can tell whether two answers agree: {failed}".rstrip(".")) from failed


def _shaping(settings: dict[str, Any]) -> dict[str, Any]:
    for name in settings:
        if name in _OURS:
            raise ValueError(f"cannot set {name!r}, which is no setting of the model; leave it out")
        if name in _PER_CALL:
            raise ValueError(f"cannot set {name!r}; give it with the call")
    for name in _names(settings):
        if _SECRET.search(name) and name not in _NO_SECRET:
            raise ValueError(f"cannot hold {name!r}; keep keys in the environment and name the variable: api_key_env")
    try:
        json.dumps(settings, allow_nan=False)  # a profile keeps them
    except (TypeError, ValueError):
        raise ValueError("can hold only text, finite numbers, true, false, lists and tables") from None
    return settings


def _names(settings: Any) -> Iterator[str]:
    """Yield the names at every depth."""
    if isinstance(settings, Mapping):
        for name, value in settings.items():
            yield name
            yield from _names(value)
    elif isinstance(settings, Sequence) and not isinstance(settings, str):
        for value in settings:
            yield from _names(value)


def _provider_name(name: str) -> str:
    if not re.fullmatch(r"[\w.-]+", name):
        raise ValueError("must be a name of letters, digits, '_', '.' and '-'")
    return name


def _place(place: str) -> str:
    if not re.fullmatch(r"[\w.]+:\w+", place):
        raise ValueError('must be "module:object", where the provider is')
    return place


Text = Annotated[str, AfterValidator(_said)]
Usd = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class PriceEntry(_Strict):
    """USD per million tokens."""

    input: Usd
    output: Usd
    cached_input: Usd | None = None


class CapabilityEntry(_Strict):
    """What a model can do; what is left out is as LiteLLM knows it."""

    tools: bool | None = None
    vision: bool | None = None
    json_: bool | None = Field(default=None, alias="json")
    context_window: Annotated[int, Field(ge=1)] | None = None


class ExampleEntry(_Strict):
    """A worked example."""

    prompt: Text
    answer: Text


class VotesEntry(_Strict):
    """How many answers, and the grader that tells whether two are the same."""

    samples: Annotated[int, Field(ge=2, le=MOST_SAMPLES)]
    same: Annotated[Any, AfterValidator(_grader)] = "text"


class Entry(_Strict):
    """One model."""

    model: Text
    api_base: Annotated[str, AfterValidator(_address)] | None = None
    api_key_env: Annotated[str, AfterValidator(_variable)] | None = None
    prices: PriceEntry | None = None
    capabilities: CapabilityEntry = CapabilityEntry()
    settings: Annotated[dict[str, Any], AfterValidator(_shaping)] = {}
    system: Text | None = None
    examples: list[ExampleEntry] = []
    template: Annotated[str, AfterValidator(_with_a_place)] | None = None
    votes: VotesEntry | None = None

    @model_validator(mode="after")
    def _votes_differ(self) -> Self:
        if self.votes is not None and self.settings.get("temperature") == 0:
            raise ValueError("has votes and settings.temperature = 0, which make every vote the same; raise it")
        return self

    def as_member(self, name: str) -> Member:
        """Return the member that it describes."""
        return Member(
            name=name,
            model=self.model,
            api_base=self.api_base,
            api_key_env=self.api_key_env,
            prices=None if self.prices is None else Prices(**self.prices.model_dump()),
            capabilities=self.capabilities.model_dump(exclude_none=True, by_alias=True),
            settings=self.settings,
            system=self.system,
            examples=tuple((example.prompt, example.answer) for example in self.examples),
            template=self.template,
            votes=None if self.votes is None else Votes(self.votes.samples, self.votes.same),
        )


class Table(_Strict):
    """A whole file."""

    models: dict[Text, Entry] = {}
    providers: dict[Annotated[str, AfterValidator(_provider_name)], Annotated[str, AfterValidator(_place)]] = {}


def check_table(content: dict[str, Any], place: str) -> Table:
    """Return the content of a `pool.toml`, checked.

    Raises
    ------
    InvalidDataError
        When a value cannot be used; the first is named, with its model and field.
    """
    try:
        return Table.model_validate(content)
    except ValidationError as failed:
        wrong = failed.errors(include_url=False)
        first = next((each for each in wrong if each["type"] == "extra_forbidden"), wrong[0])
        raise InvalidDataError(redacted(f"{place}: {_where(first)} {_why(first)}.")) from None


_MUST = {
    "model_type": "a table",
    "dict_type": "a table",
    "list_type": "a list",
    "string_type": "a text in quotes",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "greater_than_equal": "at least {ge:g}",
    "less_than_equal": "at most {le:g}",
}
"""What a value must be, by pydantic's name of what is wrong with it."""


def _where(wrong: ErrorDetails) -> str:
    """Return the place of a value as TOML writes it."""
    parts = [str(part) for part in wrong["loc"] if part != "[key]"]
    return ".".join(part if re.fullmatch(r"[\w-]+", part) else json.dumps(part, ensure_ascii=False) for part in parts)


def _why(wrong: ErrorDetails) -> str:
    if wrong["type"] == "extra_forbidden":
        return f"is not known; {_known(wrong)}"
    if wrong["type"] == "missing":
        return "is missing; give it"
    if wrong["type"] in _MUST:
        return f"must be {_MUST[wrong['type']].format(**wrong.get('ctx', {}))}, not {wrong['input']!r:.60}"
    return wrong["msg"].removeprefix("Value error, ")  # our own, which never show the value: it may be a key


def _known(wrong: ErrorDetails) -> str:
    """Return what may stand where an unknown field stood."""
    where = wrong["loc"]
    kinds: dict[str, type[BaseModel]] = {
        "prices": PriceEntry,
        "capabilities": CapabilityEntry,
        "examples": ExampleEntry,
        "votes": VotesEntry,
    }
    if len(where) == 1:
        return "a pool.toml has [models.NAME] and [providers]"
    kind = next((kinds[part] for part in reversed(where[2:-1]) if isinstance(part, str) and part in kinds), Entry)
    if kind is Entry and isinstance(wrong["input"], dict):
        return f'a name with dots stands in quotes: [{where[0]}."{where[1]}.{where[2]}"]'
    if kind is Entry and where[-1] == "api_key":
        return "keep the key in the environment and name the variable: api_key_env"
    return f"there are {', '.join((field.alias or name) for name, field in kind.model_fields.items())}"
