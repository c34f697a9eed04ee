"""What coding agents send, as the served router reads it: routed on the user's words, counted whole."""

from types import SimpleNamespace

import pytest

from unirouter_plugins.serving.requests import ProxyRequest

SUM = "What is 14 plus 37?"
REMINDER = "<system-reminder>\nCLAUDE.md says: write poems about the rain.\n</system-reminder>\n"
TOOLS = [{"name": "Bash", "description": "Runs a command.", "input_schema": {"type": "object", "properties": {}}}]
ANTHROPIC = SimpleNamespace(call_type="anthropic_messages")


def of_claude_code(*messages, **more):
    given = {"system": [{"type": "text", "text": "You are an agent."}], "tools": TOOLS, "max_tokens": 1000, **more}
    return ProxyRequest.of({**given, "litellm_logging_obj": ANTHROPIC}, list(messages))


def said(*texts):
    return {"role": "user", "content": [{"type": "text", "text": text} for text in texts]}


@pytest.mark.parametrize(
    "texts", [(REMINDER, SUM), (f"{REMINDER}{SUM}",), (SUM, REMINDER), (SUM, "<system-reminder> cut")]
)
def test_what_claude_code_puts_beside_a_prompt_is_sent_and_not_routed_on(texts):
    request = of_claude_code(said(*texts))
    assert request.text == SUM
    assert "system-reminder" in str(request.chat.messages)
    assert request.chat.requires == ("tools",)


def test_a_prompt_as_it_is_and_a_question_that_is_set_are_routed_on():
    assert of_claude_code(said(SUM)).text is None  # the chat's own
    headers = {"headers": {"x-unirouter-question": "How much?"}}
    assert of_claude_code(said(REMINDER, SUM), proxy_server_request=headers).text == "How much?"
    assert of_claude_code(said(REMINDER)).text is None


def test_a_result_of_a_tool_ends_in_the_loop_of_the_model_that_called_it():
    call = {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "51"}
    loop = (
        said(SUM),
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": [result, *said(REMINDER)["content"]]},
    )
    request = of_claude_code(*loop).written_by(["tutor"])
    assert request.chat.in_loop_of == "tutor"
    assert request.chat.text == SUM


def test_a_conversation_is_known_again_whatever_the_agent_adds_and_takes_away():
    def loop(*steps):
        messages = [said(REMINDER, SUM)]
        for number, extra in enumerate(steps):
            use = {"type": "tool_use", "id": f"toolu_{number}", "name": "Bash", "input": {}}
            result = {"type": "tool_result", "tool_use_id": f"toolu_{number}", "content": "51"}
            texts = said(extra)["content"] if extra else []
            messages += [{"role": "assistant", "content": [use]}, {"role": "user", "content": [result, *texts]}]
        return of_claude_code(*messages).digests

    first, second = loop(REMINDER), loop(REMINDER, "Hurry.")
    assert second[:2] == first == loop("")
    assert loop("", "", "")[:3] == second
    assert of_claude_code(said(SUM)).digests == first[:1]
    assert of_claude_code(said("What is 15 plus 37?")).digests != first[:1]


def test_codex_s_responses_are_routed_on_the_newest_of_its_user_messages():
    told = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "<environment_context/>"}]}
    asked = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": SUM}]}
    tools = [{"type": "function", "name": "shell", "description": "Runs.", "parameters": {"type": "object"}}]
    given = {"input": [told, asked], "instructions": "You are Codex.", "tools": tools}
    request = ProxyRequest.of(given, None)
    assert request.chat.text == SUM
    assert "tools" in request.chat.requires
