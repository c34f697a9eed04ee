"""An LLM of LlamaIndex that needs no provider: it answers by a few plain rules, streams by the word, fails as told."""

import asyncio
import json
import re
import zlib

import numpy as np
import pytest
from llama_index.core import Document, Settings, VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.base.llms.generic_utils import (
    achat_to_completion_decorator,
    astream_chat_to_completion_decorator,
    chat_to_completion_decorator,
    stream_chat_to_completion_decorator,
)
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, LLMMetadata
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.memory import ChatMemoryBuffer
from pydantic import Field, PrivateAttr

SUM, POEM = "What is 14 plus 37?", "Write a poem of 3 lines about the rain."

PLACES = ("Lisbon", "Oslo", "Quito", "Hanoi")


@pytest.fixture
def settings(monkeypatch):
    """LlamaIndex's settings, which are one for all tests, as they are before anything is set."""
    for name in ("_llm", "_embed_model", "_callback_manager"):
        monkeypatch.setattr(Settings, name, None)
    Settings.embed_model = WordEmbedding()
    return Settings


class OverloadedError(Exception):
    """A server's failure, as other packages than LiteLLM raise it."""

    status_code = 503


def scripted(router, every=None, **how):
    """An LLM for each model of the pool; `how` has what is said of one of them, `every` what is said of all."""
    return {name: ScriptedLLM(name=name, **(every or {}), **how.get(name, {})) for name in router.pool}


def index():
    """Four shops, in memory."""
    texts = [f"The shop in {place} sells umbrellas {'when it rains ' * n}." for n, place in enumerate(PLACES)]
    return VectorStoreIndex.from_documents([Document(text=text) for text in texts])


def memory():
    """A chat's memory; LlamaIndex's default leaves a database open."""
    return ChatMemoryBuffer.from_defaults(token_limit=10_000)


def record(response):
    return response.additional_kwargs["unirouter"]


def without_record(response):
    """A routed answer as a direct one looks."""
    plain = dumped(response)
    del plain["additional_kwargs"]["unirouter"]
    plain.get("message", plain)["additional_kwargs"].pop("unirouter", None)
    return plain


class ScriptedLLM(FunctionCallingLLM):
    """Calls the tools that the newest text of the user speaks of, fills their arguments, else says who it is.

    `says` answers prompts that hold its key. The tool calls are in a form of its own, which only an LLM of the same
    `dialect` can read.
    """

    name: str
    says: dict[str, str] = Field(default_factory=dict)
    failure: Exception | None = None  # raised by every call
    breaks: Exception | None = None  # raised by every stream after its first word
    pause: float = 0.0  # seconds that an answer takes
    calls_tools: bool = True
    context_window: int = 100_000
    num_output: int = 256
    dialect: str = "plain"
    _asked: list = PrivateAttr(default_factory=list)

    @property
    def asked(self):
        """The messages of each call, with what came beside them."""
        return self._asked

    @property
    def metadata(self):
        return LLMMetadata(
            context_window=self.context_window,
            num_output=self.num_output,
            is_chat_model=True,
            is_function_calling_model=self.calls_tools,
            model_name=f"scripted/{self.name}",
        )

    def _prepare_chat_with_tools(self, tools, user_msg=None, chat_history=None, tool_required=False, **_):
        messages = chat_history or []
        if user_msg is not None:
            messages.append(ChatMessage(user_msg) if isinstance(user_msg, str) else user_msg)  # in place, as LiteLLM's
        specs = [tool.metadata.to_openai_tool() for tool in tools]
        return {"messages": messages, "tools": specs, "tool_required": tool_required}

    def get_tool_calls_from_response(self, response, error_on_no_tool_call=True):
        calls = response.message.additional_kwargs.get("tool_calls", [])
        assert all(call["id"].startswith(self.dialect) for call in calls), "another model's tool calls"
        if not calls and error_on_no_tool_call:
            raise ValueError("There is no tool call.")
        return [ToolSelection(tool_id=c["id"], tool_name=c["name"], tool_kwargs=c["given"]) for c in calls]

    def _reply(self, messages, tools=(), tool_required=False, **beside):
        self._asked.append((list(messages), beside))
        if self.failure is not None:
            raise self.failure
        newest, sent = messages[-1], "\n".join(message.content or "" for message in messages)
        calls = [] if newest.role == "tool" else _calls(newest.content or "", tools, tool_required)
        said = next((text for key, text in self.says.items() if key in (newest.content or "")), None)
        text = "" if calls else said or f"{self.name} heard: {newest.content}"
        written = [{"id": f"{self.dialect}-{name}", "name": name, "given": given} for name, given in calls]
        beside = {"tool_calls": written} if written else {}
        message = ChatMessage(text, role="assistant", additional_kwargs=beside)
        usage = {"prompt_tokens": len(sent.split()), "completion_tokens": len(text.split()) + len(calls)}
        return ChatResponse(message=message, raw={"usage": usage, "model": self.name})

    def _parts(self, reply):
        """The reply by the word; the usage comes with the last."""
        if self.failure is not None:
            raise self.failure
        words, text = re.findall(r"\S+\s*", reply.message.content or "") or [""], ""
        for number, word in enumerate(words):
            text, is_last = text + word, number == len(words) - 1
            message = reply.message if is_last else ChatMessage(text, role="assistant")
            yield ChatResponse(message=message, delta=word, raw=reply.raw if is_last else {})
            if self.breaks is not None:
                raise self.breaks

    @llm_chat_callback()
    def chat(self, messages, **kwargs):
        return self._reply(messages, **kwargs)

    @llm_chat_callback()
    async def achat(self, messages, **kwargs):
        await asyncio.sleep(self.pause)
        return self._reply(messages, **kwargs)

    @llm_chat_callback()
    def stream_chat(self, messages, **kwargs):
        def gen():
            yield from self._parts(self._reply(messages, **kwargs))

        return gen()

    @llm_chat_callback()
    async def astream_chat(self, messages, **kwargs):
        async def gen():
            await asyncio.sleep(self.pause)
            for part in self._parts(self._reply(messages, **kwargs)):
                yield part

        return gen()

    @llm_completion_callback()
    def complete(self, prompt, formatted=False, **kwargs):
        return chat_to_completion_decorator(self._reply)(prompt, **kwargs)

    @llm_completion_callback()
    async def acomplete(self, prompt, formatted=False, **kwargs):
        async def reply(messages, **how):
            await asyncio.sleep(self.pause)
            return self._reply(messages, **how)

        return await achat_to_completion_decorator(reply)(prompt, **kwargs)

    @llm_completion_callback()
    def stream_complete(self, prompt, formatted=False, **kwargs):
        def gen(messages, **how):
            yield from self._parts(self._reply(messages, **how))

        return stream_chat_to_completion_decorator(gen)(prompt, **kwargs)

    @llm_completion_callback()
    async def astream_complete(self, prompt, formatted=False, **kwargs):
        async def begin(messages, **how):
            async def gen():
                for part in self._parts(self._reply(messages, **how)):
                    yield part

            return gen()

        return await astream_chat_to_completion_decorator(begin)(prompt, **kwargs)


def _calls(text, tools, required):
    """The calls of all tools that a text names a part of; where one must be called, at least of the first."""
    by_name = {tool["function"]["name"]: tool["function"]["parameters"] for tool in tools}
    named = [name for name in by_name if any(word in text.lower() for word in name.lower().split("_"))]
    named = named or (list(by_name)[:1] if required else [])
    return [(name, _filled(text, by_name[name])) for name in named]


def _filled(text, schema):
    """The properties of a JSON schema, from the numbers and the capitalised words of a text."""
    numbers = iter([*map(int, re.findall(r"\d+", text)), *[1] * 9])
    words = [*re.findall(r"\b[A-Z]\w+", text)[::-1], "?"]
    whole = ("integer", "number")
    return {
        name: next(numbers) if kind.get("type") in whole else words[0]
        for name, kind in schema.get("properties", {}).items()
    }


def dumped(value):
    """An answer as JSON can hold it, without what differs from call to call."""
    return json.loads(value.model_dump_json(exclude={"raw"}))


class WordEmbedding(BaseEmbedding):
    """Texts as counts of hashed words: the same text, the same vector."""

    def _get_text_embedding(self, text):
        vector = np.zeros(64)
        for word in re.findall(r"\w+", text.lower()):
            vector[zlib.crc32(word.encode()) % 64] += 1
        return (vector / (np.linalg.norm(vector) or 1)).tolist()

    def _get_query_embedding(self, query):
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query):
        return self._get_text_embedding(query)
