"""A member's system prompt, examples and template, put around the messages of the caller."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from unirouter_plugins.litellm.chat import Message, Messages, newest_prompt, texts_of
from unirouter_plugins.litellm.members import Member

_SYSTEM = ("system", "developer")


def transformed(member: Member, messages: Messages) -> list[Message]:
    """Return the messages that the member's own model is sent.

    Its system prompt stands before the caller's own in one message, its examples are turns before the conversation,
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
    if member.template is not None and newest is not None:
        sent[newest] = _filled(sent[newest], member.template)
    if member.system:
        sent = _with_system(sent, member.system)
    begins = next((place for place, message in enumerate(sent) if message["role"] not in _SYSTEM), len(sent))
    roles = ("user", "assistant")
    turns = [
        {"role": r, "content": text} for example in member.examples for r, text in zip(roles, example, strict=True)
    ]
    return [*sent[:begins], *turns, *sent[begins:]]


def _with_system(messages: list[Message], system: str) -> list[Message]:
    if not messages or messages[0]["role"] not in _SYSTEM:
        return [{"role": "system", "content": system}, *messages]
    own = messages[0].get("content")
    if own and not isinstance(own, str):  # a list of parts
        joined: Any = [{"type": "text", "text": system}, *own]
    else:
        joined = f"{system}\n\n{own}" if own else system
    return [{**messages[0], "content": joined}, *messages[1:]]


def _filled(message: Message, template: str) -> Message:
    """Return a message with its text put into the template; of several texts and images, the texts become one."""
    content = message["content"]
    text = template.replace("{prompt}", "\n".join(texts_of(content)))  # not format: prompts hold braces
    if isinstance(content, str):
        return {**message, "content": text}
    return {**message, "content": _with_text(content, text)}


def _with_text(parts: Sequence[Any], text: str) -> list[Any]:
    is_text = [any(texts_of([part])) for part in parts]
    first = is_text.index(True)
    kept = {} if isinstance(parts[first], str) else dict(parts[first])  # a mark of what is to be cached stays
    filled = {"type": "text", **kept, "text": text}
    return [
        filled if place == first else part for place, part in enumerate(parts) if place == first or not is_text[place]
    ]
