"""Conversations in each way to call: a tool loop and a follow-up keep the model, a switch leaves out thoughts."""

import json

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from llama_index.core.base.llms.types import ChatMessage, TextBlock, ThinkingBlock

from tests.plugins.servers import KEY, fails, says
from unirouter_plugins.langchain import RouterRunnable
from unirouter_plugins.litellm import complete, configured, record_of, stream
from unirouter_plugins.litellm.chat import Chat, portable
from unirouter_plugins.litellm.failures import open_litellm
from unirouter_plugins.litellm.pool_file import Member, Members
from unirouter_plugins.llamaindex import UniRouterLLM

SUM, POEM = "What is 14 plus 37?", "Write a poem of 3 lines about the rain."
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
RESULT = {"role": "tool", "tool_call_id": "call_0", "content": "51"}


def user(text):
    return {"role": "user", "content": text}


@pytest.fixture
def served(asked_router, scripted_server, monkeypatch):
    """The router, all models of which are on the scripted server; sums go to the tutor, poems to the poet."""
    monkeypatch.setenv("SERVER_KEY", KEY)
    members = {m: Member(m, f"openai/{m}", scripted_server.url, "SERVER_KEY") for m in asked_router.pool}
    served = configured(asked_router, Members(members))
    served.cost_weight = 300
    return served


def from_chunks(chunks):
    return open_litellm().stream_chunk_builder(list(chunks)).choices[0].message


WRITTEN = {
    "the message": lambda table, **call: complete(table, **call).choices[0].message,
    "its fields": lambda table, **call: complete(table, **call).choices[0].message.model_dump(),
    "its JSON": lambda table, **call: json.loads(complete(table, **call).choices[0].message.model_dump_json()),
    "a stream's message": lambda table, **call: from_chunks(stream(table, **call)),
}


@pytest.mark.parametrize("written", WRITTEN)
def test_a_tool_loop_stays_with_its_model_whatever_the_router_would_pick(served, scripted_server, written):
    scripted_server.script["sage"] = says("", tools=[("add", {"a": 14, "b": 37})])
    message = WRITTEN[written](served, asked=[user(SUM)], tools=[TOOL], models=["sage"])
    response = complete(served, [user(SUM), message, RESULT], tools=[TOOL])
    assert (record_of(response).model, record_of(response).why) == ("sage", "tool loop")
    assert "unirouter" not in json.dumps(scripted_server.seen[-1].body)


def test_calls_alone_tell_whose_tool_loop_it_is(served, scripted_server):
    scripted_server.script["sage"] = says("", tools=[("add", {})])
    calls = complete(served, SUM, tools=[TOOL], models=["sage"]).choices[0].message.tool_calls
    by_hand = {"role": "assistant", "content": None, "tool_calls": calls}
    assert record_of(complete(served, [user(SUM), by_hand, RESULT], tools=[TOOL])).model == "sage"
    assert "unirouter" not in json.dumps(scripted_server.seen[-1].body)


# --- What only its writer understands ---------------------------------------------------------------------------------

SIGNED = {"type": "thinking", "thinking": "Hm.", "signature": "Zm9v"}


def of_litellm(table, writer):
    record = {"unirouter": {"model": writer}}
    answer = {"role": "assistant", "content": [SIGNED, {"type": "text", "text": "Drops."}], "thinking_blocks": [SIGNED]}
    answer |= {"reasoning_content": "Hm.", "provider_specific_fields": {"signature": "Zm9v", **record}}
    return record_of(complete(table, [user(POEM), answer, user(SUM)])).model


def of_langchain(table, writer):
    answer = AIMessage(
        [SIGNED, {"type": "text", "text": "Drops."}],
        additional_kwargs={"thinking_blocks": [SIGNED], "reasoning_content": "Hm."},
        response_metadata={"unirouter": {"model": writer}},
    )
    said = RouterRunnable(table).invoke([HumanMessage(POEM), answer, HumanMessage(SUM)])
    return said.response_metadata["unirouter"]["model"]


def of_llama_index(table, writer):
    blocks = [ThinkingBlock(content="Hm.", additional_information={"signature": "Zm9v"}), TextBlock(text="Drops.")]
    known = {"unirouter": {"model": writer}, "thinking_blocks": [SIGNED], "reasoning_content": "Hm."}
    answer = ChatMessage(role="assistant", blocks=blocks, additional_kwargs=known)
    said = UniRouterLLM(table).chat([ChatMessage(POEM), answer, ChatMessage(SUM)])
    return said.additional_kwargs["unirouter"]["model"]


WAYS = pytest.mark.parametrize("call", [of_litellm, of_langchain, of_llama_index])


@WAYS
def test_a_model_is_not_sent_the_thoughts_of_another(served, scripted_server, call):
    assert call(served, "poet") == "tutor"
    sent = json.dumps(scripted_server.seen[-1].body)
    assert "Drops." in sent
    assert "Zm9v" not in sent
    assert "Hm." not in sent


@pytest.mark.parametrize("call", [of_litellm, of_langchain])  # LlamaIndex sends no thoughts through LiteLLM
def test_a_model_that_refuses_thoughts_is_followed_by_the_one_that_wrote_them(served, scripted_server, call):
    scripted_server.script["tutor"] = fails(400, "messages.1: Invalid `signature` in `thinking` block")
    assert call(served, "poet") == "poet"


def test_a_model_is_sent_its_own_thoughts(served, scripted_server):
    assert of_litellm(served, "tutor") == "tutor"
    assert "Zm9v" in json.dumps(scripted_server.seen[-1].body)


def test_a_signature_in_the_id_of_a_tool_call_is_left_out_on_both_ends():
    call = {"id": "call_0__thought__Zm9v", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    answer = {"role": "assistant", "content": None, "tool_calls": [call]}
    answer |= {"provider_specific_fields": {"unirouter": {"model": "poet"}}}
    chat = Chat.of([user(SUM), answer, {**RESULT, "tool_call_id": call["id"]}])
    _, said, result = chat.messages_for("tutor", chat.messages, portable)
    assert said["tool_calls"][0]["id"] == result["tool_call_id"] == "call_0"
    assert chat.messages_for("poet", chat.messages, portable) == list(chat.messages)


# --- Follow-ups -------------------------------------------------------------------------------------------------------


def answered(follow_up, writer="tutor"):
    answer = {"role": "assistant", "content": "51.", "provider_specific_fields": {"unirouter": {"model": writer}}}
    return [user(SUM), answer, user(follow_up)]


NOTHING = ("Looks good, commit it.", "Yes, go ahead!", "thanks", "LGTM", "👍", "Try again, please.", "Ja, mach weiter.")
SOMETHING = ("What is 2 plus 2?", "Write a poem.", "Translate it.", "Now 38.", "Yes, " * 20)


@pytest.mark.parametrize("follow_up", NOTHING)
def test_a_follow_up_that_says_nothing_of_its_own_stays_with_the_task_and_its_model(served, follow_up):
    chat = Chat.of(answered(follow_up))
    assert (chat.text, chat.follow_up_of) == (SUM, "tutor")
    record = record_of(complete(served, answered(follow_up, "sage")))
    assert (record.model, record.why) == ("sage", "follow-up")


@pytest.mark.parametrize("follow_up", SOMETHING)
def test_a_follow_up_with_words_of_its_own_is_routed_on_them(follow_up):
    chat = Chat.of(answered(follow_up))
    assert (chat.text, chat.follow_up_of) == (follow_up, None)


def test_short_words_that_follow_no_answer_are_routed_on():
    assert Chat.of("Yes, go ahead!").text == "Yes, go ahead!"
    assert Chat.of([user(SUM), user("thanks")]).text == "thanks"


def test_a_follow_up_is_one_in_the_frameworks_too(served):
    llm = RouterRunnable(served)
    first = llm.invoke(SUM)
    record = llm.invoke([HumanMessage(SUM), first, HumanMessage("Looks good, commit it.")]).response_metadata
    assert (record["unirouter"]["model"], record["unirouter"]["why"]) == ("tutor", "follow-up")
    messages = [ChatMessage(SUM), UniRouterLLM(served).chat([ChatMessage(SUM)]).message, ChatMessage("thanks")]
    assert UniRouterLLM(served).chat(messages).additional_kwargs["unirouter"]["why"] == "follow-up"


# --- Attachments ------------------------------------------------------------------------------------------------------

PDF = {"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA", "filename": "a.pdf"}}
SOUND = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
FILM = {"type": "video_url", "video_url": {"url": "https://example.org/a.mp4"}}


@pytest.mark.parametrize(
    ("part", "needs"),
    [
        (PDF, "pdf"),
        ({"type": "file", "mime_type": "application/pdf", "base64": "AAAA"}, "pdf"),
        ({"type": "file", "file": {"file_data": "data:image/png;base64,AAAA"}}, "vision"),
        ({"type": "file", "file": {"file_data": "data:text/plain;base64,AAAA"}}, None),
        (SOUND, "audio"),
        ({"type": "media", "mime_type": "audio/wav", "data": "AAAA"}, "audio"),
        (FILM, "video"),
    ],
)
def test_what_is_attached_narrows_the_models_to_those_that_read_it(part, needs):
    chat = Chat.of([{"role": "user", "content": [part]}])
    assert chat.requires == (() if needs is None else (needs,))
    assert chat.text.startswith("an attached ")


@pytest.mark.parametrize(("part", "needs"), [(PDF, "pdf"), (SOUND, "audio"), (FILM, "video")])
def test_the_models_that_cannot_read_it_are_not_called(asked_router, part, needs):
    members = {
        m: Member(m, f"openai/{m}", capabilities={needs: m == "sage"}, settings={"mock_response": "51"})
        for m in asked_router.pool
    }
    response = complete(configured(asked_router, Members(members)), [{"role": "user", "content": [part]}])
    assert record_of(response).model == "sage"
