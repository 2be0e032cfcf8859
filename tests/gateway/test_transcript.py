"""The plain text of an exchange, from the bytes of four dialects, whole and streamed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.exchange import Dialect
from gateway.transcript import LATEST_TURNS, Unreadable, read_answer, read_request


def request(dialect: Dialect, **body: Any) -> Any:
    return read_request(dialect, json.dumps(body).encode())


def said(dialect: Dialect, **body: Any) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in request(dialect, **body).messages]


def sse(*objects: Any, done: bool = True) -> bytes:
    frames = [f"data: {json.dumps(event)}\n\n" for event in objects]
    return (": ping\n\n" + "".join(frames) + ("data: [DONE]\n\n" if done else "")).encode()


USER = {"role": "user", "content": "hi"}


def test_chat_requests() -> None:
    assert said("chat", messages=[{"role": "developer", "content": "be nice"}, USER]) == [
        ("system", "be nice"),
        ("user", "hi"),
    ]
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b", "cache_control": {}}]
    assert said("chat", messages=[{"role": "user", "content": parts}]) == [("user", "a\nb")]
    image = [{"type": "text", "text": "what is it"}, {"type": "image_url", "image_url": {"url": "x"}}]
    assert request("chat", messages=[{"role": "user", "content": image}]).skipped == "non_text"
    called = [USER, {"role": "assistant", "content": None, "tool_calls": [{}]}, {"role": "tool", "content": "1"}]
    assert request("chat", messages=called).skipped == "tool_call"
    assert request("chat", messages=[USER], tools=[{}]).skipped == ""


def test_messages_requests() -> None:
    blocks = [{"type": "text", "text": "be", "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "nice"}]
    assert said("messages", system=blocks, messages=[USER]) == [("system", "be\nnice"), ("user", "hi")]
    result = [{"role": "user", "content": [{"type": "tool_result", "content": "x"}]}]
    assert request("messages", messages=result).skipped == "tool_call"
    assert request("messages", messages=[{"role": "user", "content": [{"type": "document"}]}]).skipped == "non_text"


def test_responses_requests() -> None:
    assert said("responses", instructions="be nice", input="hi") == [("system", "be nice"), ("user", "hi")]
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {"type": "reasoning", "summary": []},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "yes"}]},
    ]
    assert said("responses", input=items) == [("user", "hi"), ("assistant", "yes")]
    assert request("responses", input=[{"type": "function_call", "name": "f"}]).skipped == "tool_call"
    assert request("responses", input="hi", previous_response_id="r1").skipped == "stored_state"


def test_a_scaffold_names_the_application_not_the_question() -> None:
    def scaffold(system: str | None, question: str, **more: Any) -> str:
        turns = [{"role": "system", "content": system}] if system else []
        return str(request("chat", messages=[*turns, {"role": "user", "content": question}], **more).scaffold)

    assert scaffold(None, "a") == ""
    assert scaffold("You sort mail. Today is day 17.", "a") == scaffold("You sort mail. Today is day 4.", "b") != ""
    assert scaffold("You sort mail.", "a") != scaffold("You sort post.", "a")
    assert scaffold("You sort mail.", "a") != scaffold("You sort mail.", "a", tools=[{"type": "function"}])


def test_long_conversations_keep_the_system_prompt_and_the_latest_turns() -> None:
    turns = [{"role": "user", "content": str(number)} for number in range(100)]
    kept = said("chat", messages=[{"role": "system", "content": "s"}, *turns])
    assert kept[0] == ("system", "s")
    assert len(kept) == LATEST_TURNS + 1
    assert kept[-1] == ("user", "99")


def test_chat_answers() -> None:
    whole = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}]}
    answer = read_answer("chat", json.dumps(whole).encode(), stream=False)
    assert (answer.text, answer.finish, answer.skipped, answer.refusal) == ("yes", "stop", "", False)
    chunks = sse(
        {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]},
        {"choices": [{"index": 1, "delta": {"content": "other"}}]},
        {"choices": [{"index": 0, "delta": {"content": "y"}}]},
        {"choices": [{"index": 0, "delta": {"content": "es"}, "finish_reason": "stop"}]},
        {"choices": [], "usage": {}},
    )
    assert read_answer("chat", chunks, stream=True) == answer
    assert read_answer("chat", chunks.replace(b"\n", b"\r\n"), stream=True) == answer
    called = {"choices": [{"message": {"content": None, "tool_calls": [{}]}, "finish_reason": "tool_calls"}]}
    assert read_answer("chat", json.dumps(called).encode(), stream=False).skipped == "tool_call"
    refused = {"choices": [{"message": {"content": None, "refusal": "No."}, "finish_reason": "stop"}]}
    assert read_answer("chat", json.dumps(refused).encode(), stream=False).refusal


def test_messages_answers() -> None:
    whole = {
        "content": [{"type": "thinking", "thinking": "x"}, {"type": "text", "text": "yes"}],
        "stop_reason": "end_turn",
    }
    answer = read_answer("messages", json.dumps(whole).encode(), stream=False)
    assert (answer.text, answer.finish, answer.skipped) == ("yes", "stop", "")
    stream = sse(
        {"type": "message_start", "message": {}},
        {"type": "content_block_start", "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "y"}},
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "es"}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
        done=False,
    )
    assert read_answer("messages", stream, stream=True) == answer


def test_responses_answers() -> None:
    output = [{"type": "reasoning"}, {"type": "message", "content": [{"type": "output_text", "text": "yes"}]}]
    whole = {"status": "completed", "output": output}
    answer = read_answer("responses", json.dumps(whole).encode(), stream=False)
    assert (answer.text, answer.finish) == ("yes", "stop")
    stream = sse(
        {"type": "response.output_text.delta", "delta": "y"},
        {"type": "response.completed", "response": whole},
        done=False,
    )
    assert read_answer("responses", stream, stream=True) == answer
    cut = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}, "output": output}
    assert read_answer("responses", json.dumps(cut).encode(), stream=False).finish == "length"
    called = {"status": "completed", "output": [{"type": "function_call"}]}
    assert read_answer("responses", json.dumps(called).encode(), stream=False).skipped == "tool_call"


@pytest.mark.parametrize("text", ["I'm sorry, but I can't help with that.", "I cannot do this.", "Sorry, I won't."])
def test_refusals_are_noticed(text: str) -> None:
    whole = {"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}
    assert read_answer("chat", json.dumps(whole).encode(), stream=False).refusal


@pytest.mark.parametrize("text", ["I can help with that.", "The invoice was sorry-looking.", "Islands are nice."])
def test_answers_are_not_taken_for_refusals(text: str) -> None:
    whole = {"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}
    assert not read_answer("chat", json.dumps(whole).encode(), stream=False).refusal


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["messages", "role", "content", "type", "text", "choices", "message", "delta", "output", "input",
                 "system", "index", "finish_reason", "response", "tool_calls", "incomplete_details", "content_block"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)  # fmt: skip


@given(st.sampled_from(["chat", "responses", "messages"]), JSON, st.booleans())
@settings(max_examples=300, deadline=None)
def test_any_shape_is_read_or_unreadable(dialect: Dialect, value: Any, stream: bool) -> None:
    body = json.dumps(value).encode()
    for read in (
        lambda: read_request(dialect, body),
        lambda: read_answer(dialect, sse(value) if stream else body, stream=stream),
    ):
        try:
            read()
        except Unreadable:
            continue


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b'"x"', b"[" * 100_000])
def test_what_is_no_json_object_is_unreadable(body: bytes) -> None:
    with pytest.raises(Unreadable):
        read_request("chat", body)
