"""A chat model that needs no provider: it answers by a few plain rules, streams word by word, and fails as told."""

import asyncio
import json
import re
from operator import itemgetter

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, ToolMessage
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableParallel, RunnablePassthrough
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from langchain_core.utils.pydantic import is_basemodel_subclass


class ScriptedChat(BaseChatModel):
    """Calls the tools that the newest message speaks of, fills schemas from its words, else says who it is."""

    model_name: str
    failure: Exception | None = None  # raised by every call
    breaks: Exception | None = None  # raised by every stream after its first word
    counts_so_far: bool = False  # every chunk of a stream tells the usage so far, not the last alone
    pause: float = 0.0  # seconds that an answer takes
    temperature: float | None = None
    max_tokens: int | None = None
    stop: list[str] | None = None

    @property
    def _llm_type(self):
        return "scripted"

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        if self.failure is not None:
            raise self.failure
        return ChatResult(generations=[ChatGeneration(message=self._reply(messages, **kwargs))])

    async def _agenerate(self, messages, stop=None, run_manager=None, **kwargs):
        await asyncio.sleep(self.pause)
        return self._generate(messages, stop, **kwargs)

    def _stream(self, messages, stop=None, run_manager=None, **kwargs):
        if self.failure is not None:
            raise self.failure
        reply = self._reply(messages, **kwargs)
        for number, part in enumerate(_parts(reply)):
            if self.counts_so_far and part.usage_metadata is None:
                part.usage_metadata = {**reply.usage_metadata, "output_tokens": number + 1}
            chunk = ChatGenerationChunk(message=part)
            if run_manager:
                run_manager.on_llm_new_token(part.text, chunk=chunk)
            yield chunk
            if self.breaks is not None:
                raise self.breaks

    def bind_tools(self, tools, *, tool_choice=None, **kwargs):
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], tool_choice=tool_choice, **kwargs)

    def with_structured_output(self, schema, *, method="function_calling", include_raw=False, **kwargs):
        if method == "function_calling":
            return super().with_structured_output(schema, include_raw=include_raw, **kwargs)
        known = {"kwargs": {"method": method}, "schema": schema}
        shape = {"type": "json_schema", "json_schema": {"schema": convert_to_json_schema(schema)}}
        pydantic = isinstance(schema, type) and is_basemodel_subclass(schema)
        parser = PydanticOutputParser(pydantic_object=schema) if pydantic else JsonOutputParser()
        bound = self.bind(response_format=shape, ls_structured_output_format=known)
        if not include_raw:
            return bound | parser
        parsed = RunnablePassthrough.assign(parsed=itemgetter("raw") | parser, parsing_error=lambda _: None)
        return RunnableParallel(raw=bound) | parsed

    def _reply(self, messages, tools=(), tool_choice=None, response_format=None, model=None, **_):
        newest, name = messages[-1], model or self.model_name
        calls = [] if isinstance(newest, ToolMessage) else _calls(newest.text, tools, tool_choice)
        if response_format is not None:
            text = json.dumps(_filled(newest.text, response_format["json_schema"]["schema"]))
        else:
            text = "" if calls else f"{name} heard: {newest.text}"
        n_in = sum(len(message.text.split()) for message in messages)
        n_out = len(text.split()) + len(calls)
        return AIMessage(
            text,
            tool_calls=calls,
            response_metadata={"model_name": name, "model_provider": "scripted"},
            usage_metadata={"input_tokens": n_in, "output_tokens": n_out, "total_tokens": n_in + n_out},
        )


def _calls(text, tools, tool_choice):
    """The calls of all tools that a text names a part of; where one must be called, at least of the first."""
    by_name = {tool["function"]["name"]: tool["function"] for tool in tools}
    named = [name for name in by_name if any(word in text.lower() for word in name.split("_"))]
    if tool_choice in by_name:
        named = [tool_choice]
    elif tool_choice in ("any", "required", True):
        named = named[:1] or list(by_name)[:1]
    args = {name: _filled(text, by_name[name].get("parameters", {})) for name in named}
    return [{"name": name, "args": args[name], "id": f"call_{name}", "type": "tool_call"} for name in named]


def _filled(text, schema):
    """The properties of a JSON schema, from the numbers and the quoted or capitalised words of a text."""
    numbers = iter([*map(int, re.findall(r"\d+", text)), *[0] * 9])
    words = re.findall(r"'([^']+)'", text) + re.findall(r"\b[A-Z]\w+", text)[::-1] + ["?"]
    whole = ("integer", "number")
    return {
        name: next(numbers) if kind.get("type") in whole else words[0]
        for name, kind in schema.get("properties", {}).items()
    }


def _parts(reply):
    """A reply as the chunks of a stream: words, or each call's name and then its arguments; the usage is the last."""
    metadata = {"response_metadata": reply.response_metadata}
    for number, word in enumerate(re.findall(r"\S+\s*", reply.text)):
        yield AIMessageChunk(word, **(metadata if number == 0 else {}))
    for index, call in enumerate(reply.tool_calls):
        begun = {"name": call["name"], "args": "", "id": call["id"], "index": index, "type": "tool_call_chunk"}
        rest = {**begun, "name": None, "id": None, "args": json.dumps(call["args"])}
        yield AIMessageChunk("", tool_call_chunks=[begun], **(metadata if index == 0 else {}))
        yield AIMessageChunk("", tool_call_chunks=[rest])
    yield AIMessageChunk("", usage_metadata=reply.usage_metadata, chunk_position="last")


def chats(router, **instead):
    """A scripted chat model for each model of a router's pool, with what is told of some."""
    return {name: ScriptedChat(**{"model_name": name, **instead.get(name, {})}) for name in router.pool}


def record(message):
    """What the router says of an answer."""
    return message.response_metadata["unirouter"]


async def last_of(stream):
    """The last part of an asynchronous stream."""
    return [part async for part in stream][-1]
