"""What was said: the plain text of an exchange, read from the bytes of its request and its reply.

Only background work reads whole bodies; the request path never does. Four dialects, whole or streamed. What is not
plain text (tool calls, images, files, audio) is not guessed at: ``skipped`` says why no example can be made of the
exchange.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from gateway.exchange import Dialect
from registry import Message

LATEST_TURNS = 24
"""Turns kept of a long conversation, besides what the application's system prompt says."""

_FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "completed": "stop",
    "max_tokens": "length",
    "max_output_tokens": "length",
    "incomplete": "length",
    "tool_use": "tool_calls",
    "function_call": "tool_calls",
}
_TEXT_PARTS = frozenset({"text", "input_text", "output_text"})
_SILENT_PARTS = frozenset({"thinking", "redacted_thinking", "reasoning"})
_TOOL_PARTS = frozenset({"tool_use", "tool_result", "function_call", "function_call_output", "server_tool_use"})
_REFUSAL = re.compile(
    r"\s*(?:(?:i['’]?m|i am|we['’]?re) (?:really |very |so |truly )?(?:sorry|afraid|unable|not able)|sorry, (?:but )?i"
    r"|i (?:can['’]?t|cannot|can not|won['’]?t|will not|must decline)|as an ai)\b",
    re.IGNORECASE,
)


class Unreadable(Exception):
    """The bytes are not the JSON or the event stream that the dialect promises, or only a part of it is there."""


class Conversation(msgspec.Struct, frozen=True):
    """What the caller sent. ``scaffold`` names the application: a hash of its system prompt, tools and answer
    format.
    """

    messages: tuple[Message, ...] = ()
    skipped: str = ""
    scaffold: str = ""
    wants_json: bool = False


class Answer(msgspec.Struct, frozen=True):
    """What came back: the first choice's text and how it ended, in OpenAI's words."""

    text: str = ""
    finish: str = ""
    skipped: str = ""
    refusal: bool = False


# --- requests ---------------------------------------------------------------------------------------------------------


def read_request(dialect: Dialect, body: bytes) -> Conversation:
    """The conversation in a request body. Raises `Unreadable`."""
    try:
        return _conversation(dialect, _object(body))
    except (AttributeError, TypeError, ValueError) as error:  # bodies are checked by upstreams, not by us
        raise Unreadable("of a shape that the dialect does not know") from error


def _conversation(dialect: Dialect, data: dict[str, Any]) -> Conversation:
    turns: list[tuple[str, Any]] = []
    if dialect == "messages":
        turns = [("system", data.get("system")), *_turns(data.get("messages"))]
        shape = data.get("output_format") or data.get("output_config")
    elif dialect == "responses":
        said = data.get("input")
        turns = [("system", data.get("instructions"))]
        turns += [("user", said)] if isinstance(said, str) else _turns(said)
        shape = data.get("text", {}).get("format") if isinstance(data.get("text"), dict) else None
    else:
        turns = _turns(data.get("messages"))
        shape = data.get("response_format")
    messages: list[Message] = []
    skipped = "stored_state" if data.get("previous_response_id") else ""
    for role, content in turns:
        text, reason = _text(content)
        skipped = skipped or ("tool_call" if role == "tool" else reason)
        if text:
            messages.append(Message(role=role, content=text))
    wants_json = isinstance(shape, dict) and str(shape.get("type", "")).startswith("json")
    return Conversation(_latest(messages), skipped, _scaffold(messages, data.get("tools"), shape), wants_json)


def _turns(items: Any) -> list[tuple[str, Any]]:
    turns: list[tuple[str, Any]] = []
    for item in items if isinstance(items, list) else []:
        if not isinstance(item, dict):
            continue
        kind = item.get("type", "message")
        if kind in _SILENT_PARTS:
            continue
        if kind in _TOOL_PARTS or item.get("tool_calls") or item.get("function_call"):
            turns.append(("tool", None))
        role = str(item.get("role", "tool" if kind != "message" else "user"))
        role = {"developer": "system", "function": "tool"}.get(role, role)
        turns.append((role if role in {"system", "user", "assistant"} else "tool", item.get("content")))
    return turns


def _text(content: Any) -> tuple[str, str]:
    """The text of a turn's content, and why it is not only text."""
    if content is None:
        return "", ""
    if isinstance(content, str):
        return content, ""
    texts: list[str] = []
    reason = ""
    for part in content if isinstance(content, list) else [content]:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in _TEXT_PARTS and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind in _TOOL_PARTS:
            reason = reason or "tool_call"
        elif kind not in _SILENT_PARTS:
            reason = reason or "non_text"
    return "\n".join(texts), reason


def _latest(messages: list[Message]) -> tuple[Message, ...]:
    system = [message for message in messages if message.role == "system"]
    return (*system, *[message for message in messages if message.role != "system"][-LATEST_TURNS:])


def _scaffold(messages: list[Message], tools: Any, shape: Any) -> str:
    """``sha256:<hex>`` of what an application sends every time; numbers in its system prompt do not count."""
    system = [re.sub(r"\d+", "0", message.content) for message in messages if message.role == "system"]
    if not (system or tools or shape):
        return ""
    return "sha256:" + hashlib.sha256(msgspec.json.encode([system, tools, shape], order="sorted")).hexdigest()


# --- replies ----------------------------------------------------------------------------------------------------------


def read_answer(dialect: Dialect, reply: bytes, *, stream: bool) -> Answer:
    """The answer in a whole reply body. Raises `Unreadable`."""
    try:
        return _STREAMED[dialect](reply) if stream else _WHOLE[dialect](_object(reply))
    except (AttributeError, TypeError, ValueError, KeyError) as error:
        raise Unreadable("of a shape that the dialect does not know") from error


def looks_refused(text: str) -> bool:
    """True for the usual openings of a refusal, in English. A hint to be counted, never a score."""
    return len(text) < 1000 and _REFUSAL.match(text) is not None


def events(stream: bytes) -> Iterator[dict[str, Any]]:
    """The JSON objects of a server-sent event stream's ``data`` fields; ``[DONE]`` and comments are passed over."""
    for frame in re.split(rb"\r?\n\r?\n", stream):
        data = b"\n".join(
            line[5:].removeprefix(b" ") for line in re.split(rb"\r?\n", frame) if line.startswith(b"data:")
        )
        if data and data != b"[DONE]":
            yield _object(data)


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unreadable("not JSON") from error
    if not isinstance(value, dict):
        raise Unreadable("not a JSON object")
    return value


def _answer(text: str, finish: Any, *, tools: bool, refusal: bool = False) -> Answer:
    ended = _FINISH.get(str(finish or ""), str(finish or ""))
    return Answer(
        text=text,
        finish=ended,
        skipped="tool_call" if tools or ended == "tool_calls" else "" if text else "no_text",
        refusal=refusal or ended in {"content_filter", "refusal"} or looks_refused(text),
    )


def _first_choice(data: dict[str, Any]) -> dict[str, Any]:
    choices = data.get("choices")
    for choice in choices if isinstance(choices, list) else []:
        if isinstance(choice, dict) and choice.get("index", 0) == 0:
            return choice
    return {}


def _chat(data: dict[str, Any]) -> Answer:
    choice = _first_choice(data)
    message = choice.get("message") or {}
    text, _ = _text(message.get("content"))
    refusal = message.get("refusal")
    tools = bool(message.get("tool_calls") or message.get("function_call"))
    return _answer(text or refusal or "", choice.get("finish_reason"), tools=tools, refusal=bool(refusal))


def _chat_stream(stream: bytes) -> Answer:
    texts: list[str] = []
    finish, tools, refused = None, False, False
    for event in events(stream):
        choice = _first_choice(event)
        delta = choice.get("delta") or {}
        refused = refused or bool(delta.get("refusal"))
        tools = tools or bool(delta.get("tool_calls") or delta.get("function_call"))
        texts.append(delta.get("content") or delta.get("refusal") or "")
        finish = choice.get("finish_reason") or finish
    return _answer("".join(texts), finish, tools=tools, refusal=refused)


def _responses(data: dict[str, Any]) -> Answer:
    texts: list[str] = []
    tools = refused = False
    for item in data.get("output") or []:
        tools = tools or item.get("type") in _TOOL_PARTS or str(item.get("type", "")).endswith("_call")
        for part in item.get("content") or [] if item.get("type") == "message" else []:
            refused = refused or part.get("type") == "refusal"
            texts.append(part.get("text") or part.get("refusal") or "")
    reason = (data.get("incomplete_details") or {}).get("reason") or data.get("status")
    return _answer("".join(texts), reason, tools=tools, refusal=refused)


def _responses_stream(stream: bytes) -> Answer:
    texts: list[str] = []
    for event in events(stream):
        if event.get("type") in {"response.completed", "response.incomplete"} and isinstance(
            event.get("response"), dict
        ):
            return _responses(event["response"])
        if event.get("type") == "response.output_text.delta":
            texts.append(str(event.get("delta", "")))
    return _answer("".join(texts), None, tools=False)


def _messages(data: dict[str, Any]) -> Answer:
    text, reason = _text(data.get("content"))
    return _answer(text, data.get("stop_reason"), tools=reason == "tool_call")


def _messages_stream(stream: bytes) -> Answer:
    texts: list[str] = []
    finish, tools = None, False
    for event in events(stream):
        delta = event.get("delta") or {}
        texts.append(delta.get("text") or "")
        tools = tools or (event.get("content_block") or {}).get("type") in _TOOL_PARTS
        finish = delta.get("stop_reason") or finish
    return _answer("".join(texts), finish, tools=tools)


_WHOLE = {"chat": _chat, "responses": _responses, "messages": _messages}
_STREAMED = {"chat": _chat_stream, "responses": _responses_stream, "messages": _messages_stream}
READABLE = frozenset(_WHOLE)
"""The dialects that carry a conversation: the others are never injected and never sampled."""
