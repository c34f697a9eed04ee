"""What a `pool.toml` may say: its tables, how each value is checked, and how a wrong one is told."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NotRequired
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    with_config,
)
from pydantic_core import ErrorDetails
from typing_extensions import TypedDict  # pydantic wants it before Python 3.12

from unirouter_core.costs import Prices
from unirouter_core.exceptions import InvalidDataError, shown
from unirouter_plugins.graders import parse_grader
from unirouter_plugins.litellm.redaction import SECRET_NAME

LIST_PRICE = "list"
"""As a model's prices: LiteLLM's list price, at whatever address the model is called."""


@dataclass(frozen=True)
class Votes:
    """A majority vote over several samples of each prompt."""

    samples: int
    same: str  # the grader that decides whether two answers agree


@dataclass(frozen=True)
class Panel:
    """Members that answer together: one plans sub-questions, the router's models answer them, one answers with those.

    `budget` is the most USD of one prompt, all calls together.
    """

    planner: str
    aggregator: str
    budget: float
    rounds: int = 1


def _address(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:  # a bracket of IPv6 left open
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be an address that begins with http:// or https://")
    if parts.username or parts.password or SECRET_NAME.search(parts.query):
        raise ValueError("must hold no key or password; name the environment variable that has it: api_key_env")
    return url


def _grader(spec: Any) -> str:
    try:
        return parse_grader(spec).spec
    except InvalidDataError as failed:
        raise ValueError(f"names no grader that can tell whether two answers agree: {failed}".rstrip(".")) from failed


def _efforts(given: Any) -> dict[str, dict[str, Any]]:
    """Return the settings of each effort by its name; a list has values of `reasoning_effort`."""
    names = list(given) if isinstance(given, list | dict) else []
    tables = list(given.values()) if isinstance(given, dict) else [{"reasoning_effort": name} for name in names]
    are_names = all(isinstance(name, str) and re.fullmatch(r"[\w.-]+", name) for name in names)
    if not names or not are_names or not all(isinstance(table, dict) for table in tables):
        raise ValueError('must be such as ["low", "high"], or { quick = { max_tokens = 500 } }: settings by name')
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"has {twice!r} twice; name each effort once")
    return dict(zip(names, map(_settings, tables), strict=True))


NO_MEDIA = dict.fromkeys(("vision", "audio", "video", "pdf"), False)  # what they cost is not known beforehand

_NOT_SETTINGS = re.compile(
    r"model|messages|stream(_options)?|n|custom_llm_provider|.*(num|max)_retries|.*timeout|.*fallback.*|mock_.*"
    r"|model_list|.*callbacks?|logger_fn|client|cach(e|ing)|ssl_.*|.*cost_per.*"
    r"|.*(base|url|uri|endpoint|host|proxy|proxies)|aws_(profile|role|session|web).*"
    r"|litellm_.*|kwargs|proxy_.*|a?(text_)?completion"
)
_OF_ADDRESS = re.compile(
    r".*(region|location|project|account|deployment|tenant|domain|server).*"
)  # LiteLLM makes it of
_PER_CALL = ("tools", "tool_choice", "functions", "response_format")


def _settings(settings: dict[str, Any]) -> dict[str, Any]:
    for name in settings:
        if _NOT_SETTINGS.fullmatch(name):
            raise ValueError(f"cannot set {name!r}, which is no setting of the model; leave it out")
        if name in _PER_CALL:
            raise ValueError(f"cannot set {name!r}; give it with the call")
        if _OF_ADDRESS.fullmatch(name) and not re.fullmatch(r"[\w .-]*", str(settings[name])):
            raise ValueError(f"cannot set {name!r} to what is no plain name; an address is given as api_base")
    body = settings.get("extra_body")
    if isinstance(body, Mapping) and (wrong := body.keys() & {"model", "messages", "stream", "n"}):
        raise ValueError(f"cannot set {min(wrong)!r} in extra_body, which is no setting of the model; leave it out")
    if any(isinstance(value, str) and value.startswith("os.environ/") for value in settings.values()):
        raise ValueError("cannot take a value from the environment; write the value itself")
    for name in _names(settings):
        if SECRET_NAME.search(name) and name != "prompt_cache_key":
            raise ValueError(f"cannot hold {name!r}; keep keys in the environment and name the variable: api_key_env")
    try:
        json.dumps(settings, allow_nan=False)  # a profile keeps them
    except (TypeError, ValueError):
        raise ValueError("can hold only text, finite numbers, true, false, lists and tables") from None
    return settings


def _names(value: Any) -> Iterator[str]:
    """Yield the keys at every depth."""
    is_table = isinstance(value, Mapping)
    yield from value if is_table else ()
    for inner in value.values() if is_table else value if isinstance(value, list | tuple) else ():
        yield from _names(inner)


def _must(holds: Callable[[Any], Any], message: str) -> AfterValidator:
    def check(value: Any) -> Any:
        if not holds(value):
            raise ValueError(message)
        return value

    return AfterValidator(check)


_strict = with_config(ConfigDict(extra="forbid", strict=True))
_Text = Annotated[str, _must(str.strip, "must not be empty")]
_Usd = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_Template = _must(lambda text: text.count("{prompt}") == 1, "must have {prompt} once, where the prompt goes")
_IsVariable = re.compile(r"[A-Za-z_]\w*").fullmatch
_Variable = _must(_IsVariable, "must be the name of an environment variable, not the key itself")
_VotesDiffer = _must(
    lambda entry: "votes" not in entry or entry.get("settings", {}).get("temperature") != 0,
    "has votes and settings.temperature = 0, which make every vote the same; raise it",
)


def _with_prices(entry: dict[str, Any]) -> dict[str, Any]:
    """Return the entry with its `prices`, None where the list price counts, and `batch` apart."""
    given = entry.get("prices", {})
    if given == LIST_PRICE:
        return {**entry, "prices": None, "list_price": True}
    own = {name: price for name, price in given.items() if name != "batch"}
    return {**entry, "prices": Prices(**own) if own else None, "batch": given.get("batch", 1.0)}


@_strict
class _PricesTable(TypedDict):
    input: _Usd
    output: _Usd
    cached_input: NotRequired[_Usd]
    batch: NotRequired[_Share]


def _prices(given: Any, check: ValidatorFunctionWrapHandler) -> Any:
    """Return the prices, checked; "list", or the share of a batch alone, leave them to the list."""
    if isinstance(given, dict) and given.keys() == {"batch"}:
        return {"batch": check({"input": 0, "output": 0, **given})["batch"]}
    return given if given == LIST_PRICE else check(given)


@_strict
class _CapabilitiesTable(TypedDict, total=False):
    tools: bool
    vision: bool
    json: bool
    audio: bool
    video: bool
    pdf: bool
    context_window: Annotated[int, Field(ge=1, le=10**12)]


@_strict
class _ExampleTable(TypedDict):
    prompt: _Text
    answer: _Text


@_strict
class _VotesTable(TypedDict):
    samples: Annotated[int, Field(ge=2, le=100)]  # more is a typing error, and a bill
    same: NotRequired[Annotated[Any, AfterValidator(_grader)]]


@_strict
class _PanelTable(TypedDict):
    planner: _Text
    aggregator: _Text
    budget: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    rounds: NotRequired[Annotated[int, Field(ge=1, le=10)]]


_Panel = Annotated[_PanelTable, AfterValidator(lambda panel: Panel(**panel))]


@_strict
class _ModelTable(TypedDict):
    model: Annotated[
        _Text,
        _must(lambda name: "://" not in name, "must be a name; an address is given as api_base"),
        _must(lambda name: not name.startswith("os.environ/"), "must be a name, not the environment variable of one"),
    ]
    api_base: NotRequired[Annotated[str, AfterValidator(_address)]]
    api_key_env: NotRequired[Annotated[str, _Variable]]
    prices: NotRequired[Annotated[_PricesTable, WrapValidator(_prices)]]
    capabilities: NotRequired[_CapabilitiesTable]
    settings: NotRequired[Annotated[dict[str, Any], AfterValidator(_settings)]]
    system: NotRequired[_Text]
    examples: NotRequired[
        Annotated[list[_ExampleTable], AfterValidator(lambda each: tuple((e["prompt"], e["answer"]) for e in each))]
    ]
    template: NotRequired[Annotated[str, _Template]]
    votes: NotRequired[Annotated[_VotesTable, AfterValidator(lambda votes: Votes(**{"same": "text", **votes}))]]
    panel: NotRequired[_Panel]
    efforts: NotRequired[Annotated[Any, AfterValidator(_efforts)]]


@_strict
class _PanelEntry(TypedDict):
    panel: _Panel
    capabilities: NotRequired[_CapabilitiesTable]


_PANEL_ENTRY = TypeAdapter(_PanelEntry)


def _model_or_panel(given: Any, check: Callable[[Any], Any]) -> Any:
    if not isinstance(given, Mapping) or "panel" not in given:
        return check(given)
    if other := next((name for name in given if name not in _PanelEntry.__annotations__), None):
        raise ValueError(f"has a panel and {other!r}, which is for the panel's members to have; leave it out")
    return _PANEL_ENTRY.validate_python(given)


MODEL_TABLE: TypeAdapter[Any] = TypeAdapter(Annotated[_ModelTable, _VotesDiffer])
_IsName = _must(re.compile(r"[\w.-]+").fullmatch, "must be a name of letters, digits, '_', '.' and '-'")
_IsPlace = _must(re.compile(r"[\w.]+:\w+").fullmatch, 'must be "module:object", where the provider is')


@_strict
class Table(TypedDict, total=False):
    """A whole `pool.toml`."""

    models: dict[
        _Text, Annotated[_ModelTable, _VotesDiffer, AfterValidator(_with_prices), WrapValidator(_model_or_panel)]
    ]
    providers: dict[Annotated[str, _IsName], Annotated[str, _IsPlace]]
    checks: dict[Annotated[str, _IsName], _Text | dict[str, Any]]


_MUST = {
    **{"dict_type": "a table", "list_type": "a list", "string_type": "a text in quotes", "bool_type": "true or false"},
    **{"int_type": "a whole number", "float_type": "a number", "finite_number": "a finite number"},
    **{"greater_than": "more than {gt:g}", "greater_than_equal": "at least {ge:g}"},
    **{"less_than_equal": "at most {le:g}"},
}
"""What a value must be, by pydantic's error type."""


def complaint(wrong: ErrorDetails) -> str:
    """Return which value is wrong, and why."""
    return f"{_where(wrong)} {_why(wrong)}"


def _where(wrong: ErrorDetails) -> str:
    """Return the path of a value as TOML writes it."""
    parts = [str(part) for part in wrong["loc"] if part != "[key]"]
    return ".".join(part if re.fullmatch(r"[\w-]+", part) else json.dumps(part, ensure_ascii=False) for part in parts)


def _why(wrong: ErrorDetails) -> str:
    if wrong["type"] == "extra_forbidden":
        return f"is not known; {_known(wrong)}"
    if wrong["type"] == "missing":
        return "is missing; give it"
    if wrong["type"] in _MUST:
        return f"must be {_MUST[wrong['type']].format(**wrong.get('ctx', {}))}, not {shown(wrong['input'])}"
    return wrong["msg"].removeprefix("Value error, ")  # our own, which never show the value: it may be a key


def _known(wrong: ErrorDetails) -> str:
    """Return the hint for an unknown name: which names there are."""
    where, tables = wrong["loc"], dict[Any, Any](prices=_PricesTable, capabilities=_CapabilitiesTable)
    tables |= {"examples": _ExampleTable, "votes": _VotesTable, "panel": _PanelTable}
    if len(where) == 1:
        return "a pool.toml has [models.NAME], [providers] and [checks]"
    kind = next((tables[part] for part in reversed(where[2:-1]) if part in tables), _ModelTable)
    if kind is _ModelTable and isinstance(wrong["input"], dict):
        return f'a name with dots stands in quotes: [{where[0]}."{where[1]}.{where[2]}"]'
    if kind is _ModelTable and where[-1] == "api_key":
        return "keep the key in the environment and name the variable: api_key_env"
    return f"there are {', '.join(kind.__annotations__)}"
