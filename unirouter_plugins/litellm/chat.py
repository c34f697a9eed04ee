"""A prompt or a chat as it is sent: the text to route on, its tokens, what it requires, the model it stays with."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias, TypeVar, cast

from unirouter_core.costs import TokenCounter
from unirouter_core.exceptions import InvalidDataError
from unirouter_core.pool import CAPABILITIES

T = TypeVar("T")

Message: TypeAlias = Mapping[str, Any]
Messages: TypeAlias = Sequence[Message]

PER_MESSAGE = 4  # tokens that a chat format adds to each message: its role and its ends
PER_IMAGE = 800  # tokens of an image, about: providers count from 85 to some thousands, by its size
RECORD = "unirouter"
"""Under which name an answer, or its message's `provider_specific_fields`, hold the record of its call."""

_TOOL_ROLES = ("tool", "function")
_MOST_WORDS = 10
_NO_TASK = """
a again ahead all alright amazing and apply at awesome better both can commit confirm continue cool correct could deploy
do does did done either exactly excellent fine first for get go good got great i in is it it's its just keep last let
let's lgtm like look looks love make makes me merge more my need next nice no nope not now of off ok okay on one option
or other out perfect please post proceed publish push ready redo right run same save second send sense ship should so
sounds start submit sure thank thanks that that's the them then these they third this those to too try undo up use very
want we well with works would yeah yep yes you your
bitte danke genau gut ja mach weiter bien dale gracias si sí vale accord d'accord merci oui ouais vas y
"""
_SAYS_NOTHING = frozenset(_NO_TASK.split())
"""Words that answer an answer: a message of few and no others says nothing of its own to route on."""

_SHARED_PARTS = re.compile(
    "((input|output)_)?(text|refusal|image|image_url|audio|video|video_url|file|document|media)|tool_use|tool_call"
).fullmatch
_FIELDS = "provider_specific_fields"
_PRIVATE_FIELDS = (
    *("thinking_blocks", "reasoning_content", "reasoning_items", "reasoning", "reasoning_details", "thinking"),
    *(_FIELDS, "extra_content", "annotations", "__gemini_function_call_thought_signatures__"),
)
_SIGNATURE = "__thought__"  # LiteLLM keeps Gemini's signatures in the ids of tool calls, after this


@dataclass(frozen=True, eq=False)
class Chat:
    """What one call sends, in OpenAI's chat format, which is LiteLLM's.

    Examples
    --------
    >>> chat = Chat.of([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 2 + 2?"}])
    >>> chat.text, chat.requires
    ('What is 2 + 2?', ())
    """

    messages: Messages
    tools: Sequence[Any] = ()
    response_format: Any = None
    answered_by: Sequence[str | None] = ()  # the model of the pool that each message came from, where that is known

    @classmethod
    def of(cls, asked: str | Messages, parameters: Mapping[str, Any] | None = None) -> Chat:
        """Return the chat of a prompt, or of messages; `parameters` are those of LiteLLM's `completion`.

        Raises `InvalidDataError` when a message is no mapping with a role, or there is nothing to route on.
        """
        if isinstance(asked, Mapping):
            raise InvalidDataError(f"{asked!r:.60} is one message, not a list of messages; put it in a list.")
        given = parameters or {}
        bare = {"role": "user", "content": asked}
        pairs = [(bare, None)] if isinstance(asked, str) else list(map(_as_sent, asked))
        messages, writers = [message for message, _ in pairs], [writer for _, writer in pairs]
        chat = cls(messages, given.get("tools") or given.get("functions") or (), given.get("response_format"), writers)
        _ = chat.text
        return chat

    # --- What to route on ---------------------------------------------------------------------------------------------

    @cached_property
    def prompt(self) -> str:
        """The newest text of the user that is more than an answer to an answer; empty where there is none."""
        places = [place for place in range(len(self.messages)) if _is_prompt(self.messages[place])]
        asked = (place for place in reversed(places) if place == places[0] or not self._is_follow_up(place))
        return "\n".join(texts_of(self.messages[next(asked)].get("content"))) if places else ""

    def _is_follow_up(self, place: int) -> bool:
        """Return whether a message comes after an answer and says nothing of its own: "Looks good, commit it."."""
        if not place or self.messages[place - 1]["role"] != "assistant" or kinds_in(self.messages[place]):
            return False
        words = re.findall(r"[^\W_]+(?:['’][^\W_]+)?", " ".join(texts_of(self.messages[place].get("content"))).lower())
        return len(words) <= _MOST_WORDS and _SAYS_NOTHING.issuperset(word.replace("’", "'") for word in words)

    @cached_property
    def text(self) -> str:
        """The newest text of the user; where there is none, of any role, else what is attached."""
        if self.prompt:
            return self.prompt
        each = ("\n".join(texts_of(message.get("content"))) for message in reversed(self.messages))
        found = next(filter(str.strip, each), "") or " and ".join(f"an attached {kind}" for kind in self._attached)
        if not found:
            raise InvalidDataError("There is no text to route on; give a prompt, or a message that is not empty.")
        return found

    @property
    def _attached(self) -> list[str]:
        """What the user sends in the place of text: image, audio, file."""
        parts = [part for message in self.messages if message["role"] == "user" for part in _parts_of(message)]
        kinds = [str(part.get("type", "")).removeprefix("input_").removesuffix("_url") for part in parts]
        return [kind for kind in kinds if kind and kind != "text"]

    @property
    def is_bare(self) -> bool:
        """Whether the prompt is all that is sent, as when models are evaluated."""
        alone = len(self.messages) == 1 and not self.tools and not self.response_format
        return alone and isinstance(self.messages[0].get("content"), str)

    @cached_property
    def requires(self) -> tuple[str, ...]:
        """What a model must be able to do, of `CAPABILITIES`."""
        needed = {"tools"} if self.tools else set()
        needed |= {"json"} if is_json(self.response_format) else set()
        needed = needed.union(*map(kinds_in, self.messages))
        return tuple(name for name in CAPABILITIES if name in needed)

    @property
    def schema(self) -> Mapping[str, Any] | None:
        """The JSON schema that answers are held to; None without one, or where it is not told."""
        held = self.response_format
        if hasattr(held, "model_json_schema"):
            return cast("Mapping[str, Any]", held.model_json_schema())
        held = held.get("json_schema", held) if isinstance(held, Mapping) else {}
        return held.get("schema") or held.get("parameters")

    @property
    def tool_results(self) -> Messages:
        """The messages with what tools gave since the user's newest prompt."""
        newest = newest_prompt(self.messages)
        return [m for m in self.messages[0 if newest is None else newest :] if m["role"] in _TOOL_ROLES]

    @property
    def in_loop_of(self) -> str | None:
        """The model whose tool calls the newest messages answer; None outside of a tool loop, or when not known."""
        if not any(self.answered_by) or self.messages[-1]["role"] not in _TOOL_ROLES:
            return None
        each = zip(reversed(self.messages), reversed(self.answered_by), strict=True)
        return next((model for message, model in each if message["role"] not in _TOOL_ROLES), None)

    @property
    def follow_up_of(self) -> str | None:
        """The model whose answer the user takes up without saying anything new; None otherwise, or when not known."""
        newest = len(self.messages) - 1
        is_one = any(self.answered_by) and self.messages[newest]["role"] == "user" and self._is_follow_up(newest)
        return self.answered_by[newest - 1] if is_one else None

    def messages_for(self, model: str, messages: Sequence[T], portable: Callable[[T], T]) -> list[T]:
        """Return `messages`, a framework's own form of these, as they are sent to a model.

        What only its writer understands is left out of answers that another wrote: their `portable` form.
        """
        if not any(self.answered_by):
            return list(messages)
        writers: list[str | None] = []
        for sent, writer in zip(self.messages, self.answered_by, strict=True):
            is_result = sent["role"] in _TOOL_ROLES and writers  # of a tool call of the message before
            writers.append(writers[-1] if is_result else writer)
        each = zip(messages, writers, strict=True)
        return [portable(message) if writer not in (None, model) else message for message, writer in each]

    # --- Tokens -------------------------------------------------------------------------------------------------------

    def count_tokens(self, counter: TokenCounter) -> float:
        """Return about how many tokens are sent: texts, tools and response format, messages' own and images'."""
        texts = [text for message in self.messages for text in texts_of(message.get("content"))]
        calls = [message["tool_calls"] for message in self.messages if message.get("tool_calls")]
        schemas = [*self.tools, *([self.response_format] if self.response_format else []), *calls]
        texts += [json.dumps(schema, default=str, ensure_ascii=False) for schema in schemas]
        counted = float(counter.count(texts).sum()) if texts else 0.0
        return counted + PER_MESSAGE * len(self.messages) + PER_IMAGE * sum(map(_n_images, self.messages))

    def count_sent_before(self, counter: TokenCounter) -> tuple[float, dict[str, float]]:
        """Return the tokens of all that is sent, and how many of them each model was sent when it last answered.

        Those are what its provider may have cached: the same messages up to that answer, and the tools.
        """
        newest = {model: place for place, model in enumerate(self.answered_by) if model}
        cuts = sorted({0, *newest.values(), len(self.messages)})
        tokens, sent = Chat((), self.tools, self.response_format).count_tokens(counter), {}
        for start, end in itertools.pairwise(cuts):
            tokens += Chat(self.messages[start:end]).count_tokens(counter)
            sent[end] = tokens
        return tokens, {model: sent[place] for model, place in newest.items() if place}


def newest_prompt(messages: Messages) -> int | None:
    """Return the position of the user's newest message that has text."""
    return next((place for place in reversed(range(len(messages))) if _is_prompt(messages[place])), None)


def _is_prompt(message: Message) -> bool:
    return message["role"] == "user" and any(map(str.strip, texts_of(message.get("content"))))


def texts_of(content: Any) -> Iterator[str]:
    """Yield the texts of a message's content, which is a text or a list of parts."""
    parts = [content] if isinstance(content, str) else content if isinstance(content, Sequence) else ()
    for part in parts:
        text = part.get("text") if isinstance(part, Mapping) else part
        if isinstance(text, str):
            yield text


def _parts_of(message: Message) -> list[Mapping[str, Any]]:
    content = message.get("content")
    parts = content if isinstance(content, Sequence) and not isinstance(content, str) else ()
    return [part for part in parts if isinstance(part, Mapping)]


def _n_images(message: Message) -> int:
    return sum("image" in str(part.get("type", "")) for part in _parts_of(message))


def kinds_in(message: Message) -> set[str]:
    """Return what a model must be able to read besides text: "vision", "audio", "video", "pdf"."""
    kinds = set()
    for part in _parts_of(message):
        kind, file = str(part.get("type", "")), part.get("file")
        if is_file := re.search("file|document|media|pdf", kind) is not None:
            inner = [file.get("format"), str(file.get("file_data"))[:40]] if isinstance(file, Mapping) else []
            kind = " ".join(map(str, [part.get("mime_type"), part.get("media_type"), *inner]))
        found = re.search("image|audio|video|text/", kind)
        kinds |= {found[0].replace("image", "vision")} if found else {"pdf"} if is_file else set()
    return kinds - {"text/"}


def is_json(response_format: Any) -> bool:
    """Return whether answers are held to JSON: a mapping that says so, or a pydantic class."""
    if isinstance(response_format, Mapping):
        return str(response_format.get("type", "")).startswith("json")
    return response_format is not None


def with_text(content: Any, changed: Callable[[str], str]) -> Any:
    """Return a message's content with its text changed; of several texts and images, the texts become one."""
    text = changed("\n".join(texts_of(content)))
    if isinstance(content, str):
        return text
    first = next(place for place, part in enumerate(content) if any(texts_of([part])))
    kept = {} if isinstance(content[first], str) else content[first]  # a mark of what is to be cached stays
    rest = [part for part in content[first + 1 :] if not any(texts_of([part]))]
    return [*content[:first], {"type": "text", **kept, "text": text}, *rest]


# --- Earlier answers --------------------------------------------------------------------------------------------------


def answered_by(record: Any) -> str | None:
    """Return the model of the pool that a message came from, by the record in its metadata; None without one."""
    model = record.get("model") if isinstance(record, Mapping) else None
    return model if isinstance(model, str) else None


def _as_sent(given: Any) -> tuple[Any, str | None]:
    """Return a message without our record, and the model of the pool that it says the message came from.

    LiteLLM's own messages of earlier responses are pydantic models.
    """
    message = given.model_dump(exclude_none=True) if hasattr(given, "model_dump") else given
    if not isinstance(message, Mapping) or "role" not in message:
        raise InvalidDataError(f"{message!r:.60} is no message; write {{'role': 'user', 'content': '...'}}.")
    if message["role"] != "assistant":
        return message, None
    calls = [call.model_dump(exclude_none=True) if hasattr(call, "model_dump") else call for call in _calls_of(message)]
    holders = [message, *calls]
    records = [(holder.get(_FIELDS) or {}).get(RECORD) for holder in holders]
    if not any(records):
        return message, None
    message, *calls = [_without(holder) for holder in holders]
    return {**message, **({"tool_calls": calls} if calls else {})}, next(filter(None, map(answered_by, records)), None)


def _calls_of(message: Message) -> Sequence[Any]:
    return message.get("tool_calls") or ()


def _without(holder: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message, or a tool call, without our record among its provider's own fields."""
    rest = {name: value for name, value in (holder.get(_FIELDS) or {}).items() if name != RECORD}
    kept = {name: value for name, value in holder.items() if name != _FIELDS}
    return {**kept, **({_FIELDS: rest} if rest else {})}


def portable(message: Message) -> Message:
    """Return a message without what only the model that wrote it understands: thoughts, signatures, own fields.

    Examples
    --------
    >>> portable({"role": "assistant", "content": "4", "thinking_blocks": [{"signature": "Zm9v"}]})
    {'role': 'assistant', 'content': '4'}
    """
    kept = portable_fields(message)
    if calls := _calls_of(message):
        kept["tool_calls"] = [
            {**portable_fields(call), "id": portable_id(call.get("id"))} if isinstance(call, Mapping) else call
            for call in calls
        ]
    if "tool_call_id" in kept:
        kept["tool_call_id"] = portable_id(kept["tool_call_id"])
    if "content" in kept:
        kept["content"] = portable_parts(kept["content"])
    return kept


def portable_fields(holder: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a message, or of a tool call, that any model understands."""
    return {name: value for name, value in holder.items() if name not in _PRIVATE_FIELDS}


def portable_parts(content: Any) -> Any:
    """Return the parts of a content, if it has parts, that any model understands; "" where none is left."""
    if not isinstance(content, list):
        return content
    shared = [part for part in content if isinstance(part, str) or _SHARED_PARTS(str(part.get("type")))]
    return [{"type": "text", "text": p["text"]} if isinstance(p, Mapping) and "text" in p else p for p in shared] or ""


def portable_id(name: Any) -> Any:
    """Return the id of a tool call without a signature in it."""
    return name.split(_SIGNATURE, 1)[0] if isinstance(name, str) else name
