"""What is sent, seen by the router: the text it decides on, its tokens, what it asks of a model."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from unirouter_core import InvalidDataError
from unirouter_core.costs import BY_CHARACTERS, TokenCounter
from unirouter_plugins.litellm.chat import PER_IMAGE, PER_MESSAGE, Chat, newest_prompt, texts_of
from unirouter_plugins.litellm.failures import open_litellm

COUNT = TokenCounter(BY_CHARACTERS)  # a token for 4 characters
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 4_000}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
CALL = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}


def user(content):
    return {"role": "user", "content": content}


def words(text):
    return {"type": "text", "text": text}


# --- The prompt -------------------------------------------------------------------------------------------------------


def test_a_prompt_is_a_chat_of_one_message():
    chat = Chat.of("What is 2 + 2?")
    assert list(chat.messages) == [user("What is 2 + 2?")]
    assert chat.prompt == "What is 2 + 2?"
    assert chat.is_bare


@pytest.mark.parametrize(
    ("messages", "prompt"),
    [
        ([user("old"), {"role": "assistant", "content": "answer"}, user("new")], "new"),
        ([{"role": "system", "content": "Be brief."}, user("new")], "new"),
        ([user("new"), {"role": "assistant", "content": "answer"}], "new"),
        ([user([words("What is"), IMAGE, words("this?")])], "What is\nthis?"),
        ([user(["What is", "this?"])], "What is\nthis?"),
        ([user("look"), {"role": "assistant", "content": "Where?"}, user([IMAGE])], "look"),
        ([user("look"), user("  \n")], "look"),
    ],
)
def test_the_prompt_is_the_user_s_newest_text(messages, prompt):
    assert Chat.of(messages).prompt == prompt


def test_in_a_tool_loop_the_prompt_stays_the_user_s():
    loop = [user("What is 1 + 1?"), {"role": "assistant", "content": None, "tool_calls": [CALL]}]
    loop += [{"role": "tool", "tool_call_id": "1", "content": "2"}]
    assert Chat.of(loop).prompt == "What is 1 + 1?"
    assert newest_prompt(loop) == 0


def test_litellm_s_own_message_of_an_earlier_answer_is_a_message():
    litellm = open_litellm()
    answer = litellm.completion(model="openai/gpt-4.1-nano", messages=[user("x")], mock_tool_calls=[CALL])
    chat = Chat.of([user("What is 1 + 1?"), answer.choices[0].message, {"role": "tool", "content": "2"}])
    assert chat.messages[1]["tool_calls"][0]["function"]["name"] == "add"
    assert chat.count_tokens(COUNT) > Chat.of("What is 1 + 1?").count_tokens(COUNT)


@pytest.mark.parametrize("messages", [[], [user("")], [user(None)], [user("  \n")]])
def test_a_chat_without_text_or_attachment_is_refused(messages):
    with pytest.raises(InvalidDataError, match="no text to route on; give a prompt, or a message that is not empty"):
        Chat.of(messages)
    with pytest.raises(InvalidDataError, match="no text to route on"):
        Chat.of("   ")


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([{"role": "system", "content": "Write a poem."}], "Write a poem."),
        ([user("old"), {"role": "assistant", "content": "answer"}, user([IMAGE])], "old"),
        ([{"role": "assistant", "content": "Look."}, user([IMAGE])], "Look."),
        ([user([IMAGE])], "an attached image"),
        ([user([{"type": "input_audio"}, {"type": "file"}])], "an attached audio and an attached file"),
    ],
)
def test_where_the_user_writes_nothing_the_newest_text_or_what_is_attached_is_routed_on(messages, text):
    assert Chat.of(messages).text == text


@pytest.mark.parametrize("message", ["What is 2 + 2?", {"content": "x"}, 3, ("user", "x")])
def test_what_is_no_message_is_refused_with_an_example(message):
    with pytest.raises(InvalidDataError, match=r"is no message; write \{'role': 'user', 'content': '\.\.\.'\}"):
        Chat.of([message])


def test_the_messages_given_are_left_as_they_were():
    messages = [user([words("What is this?"), IMAGE])]
    before = json.dumps(messages)
    chat = Chat.of(messages, {"tools": [TOOL]})
    assert chat.requires
    assert chat.count_tokens(COUNT)
    assert json.dumps(messages) == before


# --- What it asks of a model ------------------------------------------------------------------------------------------


class Sum(BaseModel):
    total: int


@pytest.mark.parametrize(
    ("content", "parameters", "requires"),
    [
        ("x", {}, ()),
        ("x", {"tools": [TOOL]}, ("tools",)),
        ("x", {"functions": [TOOL["function"]]}, ("tools",)),
        ("x", {"tools": []}, ()),
        ([words("x"), IMAGE], {}, ("vision",)),
        ([words("x"), {"type": "input_image"}], {}, ("vision",)),
        ("x", {"response_format": {"type": "json_object"}}, ("json",)),
        ("x", {"response_format": {"type": "json_schema", "json_schema": {}}}, ("json",)),
        ("x", {"response_format": Sum}, ("json",)),
        ("x", {"response_format": {"type": "text"}}, ()),
        ("x", {"response_format": None, "temperature": 0}, ()),
        ([words("x"), IMAGE], {"tools": [TOOL], "response_format": Sum}, ("tools", "vision", "json")),
    ],
)
def test_a_chat_requires_what_it_holds(content, parameters, requires):
    assert Chat.of([user(content)], parameters).requires == requires


def test_an_image_that_was_sent_before_is_still_seen():
    assert Chat.of([user([words("x"), IMAGE]), {"role": "assistant", "content": "y"}, user("z")]).requires == (
        "vision",
    )


def test_only_a_lone_text_is_bare():
    assert Chat.of([user("x")]).is_bare
    assert not Chat.of([user([words("x")])]).is_bare
    assert not Chat.of([{"role": "system", "content": "s"}, user("x")]).is_bare
    assert not Chat.of("x", {"tools": [TOOL]}).is_bare
    assert not Chat.of("x", {"response_format": {"type": "json_object"}}).is_bare  # a schema is sent, and charged


# --- Tokens -----------------------------------------------------------------------------------------------------------


def test_tokens_are_those_of_the_texts_and_of_the_chat_s_form():
    chat = Chat.of([{"role": "system", "content": "s" * 40}, user([words("p" * 400), IMAGE])])
    assert chat.count_tokens(COUNT) == 10 + 100 + 2 * PER_MESSAGE + PER_IMAGE  # not the image's thousand of characters


def test_tools_response_format_and_calls_are_counted_as_json():
    plain = Chat.of("x").count_tokens(COUNT)
    assert Chat.of("x", {"tools": [TOOL]}).count_tokens(COUNT) == plain + -(-len(json.dumps(TOOL)) // 4)
    schema = {"type": "json_schema", "json_schema": {"name": "sum"}}
    assert Chat.of("x", {"response_format": schema}).count_tokens(COUNT) == plain + -(-len(json.dumps(schema)) // 4)
    called = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    longer = Chat.of([user("x"), called]).count_tokens(COUNT)
    assert longer == plain + PER_MESSAGE + -(-len(json.dumps([CALL])) // 4)


def test_a_pydantic_response_format_can_be_counted():
    assert Chat.of("x", {"response_format": Sum}).count_tokens(COUNT) > Chat.of("x").count_tokens(COUNT)


PARTS = st.lists(st.builds(words, st.text(max_size=9)) | st.just(IMAGE), max_size=3)
MESSAGES = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool"]), "content": st.none() | st.text() | PARTS}
)


@given(st.lists(MESSAGES, max_size=4), st.lists(MESSAGES, max_size=3))
def test_more_messages_are_never_fewer_tokens(some, more):
    some = [user("x"), *some]
    assert Chat.of([*some, *more]).count_tokens(COUNT) >= Chat.of(some).count_tokens(COUNT) + PER_MESSAGE * len(more)


@given(st.lists(MESSAGES, max_size=5))
def test_the_prompt_is_a_text_of_a_user_s_message(messages):
    chat = Chat([user("x"), *messages])
    users = ["\n".join(texts_of(m["content"])) for m in chat.messages if m["role"] == "user"]
    assert chat.prompt in users
    assert chat.prompt.strip()
    assert newest_prompt(chat.messages) >= users.index(chat.prompt)
