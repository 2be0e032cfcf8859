"""The SDK's replies in the caller's dialect, with nothing invented.

Built field by field from what a provider of the dialect sends: the SDK's own fields (vendor details, counted
tokens, costs) stay behind. Token counts are passed on as input, output and cached; the split of the output is the
SDK's estimate for most providers, so it is not.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import AsyncIterator
from typing import Any

import msgspec

_encode = msgspec.json.encode
DONE = b"data: [DONE]\n\n"


def event(data: Any, name: str = "") -> bytes:
    """One server-sent event."""
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + _encode(data) + b"\n\n"


# --- chat completions -------------------------------------------------------------------------------------------------


def chat_usage(usage: Any) -> dict[str, Any]:
    """Tokens in OpenAI's words."""
    counts: dict[str, Any] = {
        "prompt_tokens": usage.prompt_tokens or 0,
        "completion_tokens": usage.completion_tokens or 0,
        "total_tokens": (usage.prompt_tokens or 0) + (usage.completion_tokens or 0),
    }
    cached = getattr(getattr(usage, "prompt_tokens_details", None), "cached_tokens", None)
    if cached:
        counts["prompt_tokens_details"] = {"cached_tokens": cached}
    return counts


def _tool_calls(calls: Any, *, indexed: bool) -> list[dict[str, Any]]:
    found = []
    for place, call in enumerate(calls):
        entry: dict[str, Any] = {"index": getattr(call, "index", place)} if indexed else {}
        if getattr(call, "id", None):
            entry["id"] = call.id
            entry["type"] = "function"
        function = {"arguments": call.function.arguments or ""}
        if call.function.name:
            function = {"name": call.function.name, **function}
        entry["function"] = function
        found.append(entry)
    return found


def refusal_of(said: Any) -> str | None:
    """Why the model will not answer, when it says so in a field of its own."""
    own = getattr(said, "refusal", None)
    vendor = getattr(said, "provider_specific_fields", None)
    return own or (vendor.get("refusal") if isinstance(vendor, dict) else None)


def _plain(value: Any) -> Any:
    return value.model_dump(exclude_none=True) if hasattr(value, "model_dump") else value


def chat_whole(reply: Any, model: str) -> dict[str, Any]:
    """A whole chat completion."""
    choices = []
    for choice in reply.choices:
        said = choice.message
        message: dict[str, Any] = {"role": "assistant", "content": said.content, "refusal": refusal_of(said)}
        if getattr(said, "tool_calls", None):
            message["tool_calls"] = _tool_calls(said.tool_calls, indexed=False)
        for field in ("reasoning_content", "audio", "function_call", "annotations"):
            if getattr(said, field, None):
                message[field] = _plain(getattr(said, field))
        choices.append(
            {
                "index": choice.index,
                "message": message,
                "logprobs": _plain(getattr(choice, "logprobs", None)),
                "finish_reason": choice.finish_reason,
            }
        )
    whole = {
        "id": reply.id,
        "object": "chat.completion",
        "created": reply.created,
        "model": reply.model or model,
        "choices": choices,
    }
    usage = getattr(reply, "usage", None)
    if usage is not None:
        whole["usage"] = chat_usage(usage)
    return whole


async def chat_stream(chunks: Any, model: str, *, include_usage: bool) -> AsyncIterator[bytes]:
    """Chat completion chunks as events, then ``[DONE]``. ``model``: as it is called where the provider names none.

    The usage comes in a chunk of its own with empty ``choices``, when it was asked for. Each choice ends once.
    """
    began: set[int] = set()
    ended: set[int] = set()
    usage: Any = None
    head: dict[str, Any] = {}
    async for chunk in chunks:
        if not head:
            named = getattr(chunks, "model", "") or model
            head = {"id": chunk.id, "object": "chat.completion.chunk", "created": chunk.created, "model": named}
        usage = getattr(chunk, "usage", None) or usage
        choices = []
        for choice in chunk.choices:
            delta = _delta(choice, first=choice.index not in began)
            finish = choice.finish_reason if choice.index not in ended else None
            if not delta and not finish:
                continue
            began.add(choice.index)
            if finish:
                ended.add(choice.index)
            entry = {"index": choice.index, "delta": delta, "finish_reason": finish}
            if getattr(choice, "logprobs", None):
                entry["logprobs"] = _plain(choice.logprobs)
            choices.append(entry)
        if choices:
            yield event({**head, "choices": choices, **({"usage": None} if include_usage else {})})
    if include_usage and usage is not None:
        yield event({**head, "choices": [], "usage": chat_usage(usage)})
    yield DONE


def _delta(choice: Any, *, first: bool) -> dict[str, Any]:
    said = choice.delta
    delta: dict[str, Any] = {}
    if getattr(said, "content", None):
        delta["content"] = said.content
    if getattr(said, "tool_calls", None):
        delta["tool_calls"] = _tool_calls(said.tool_calls, indexed=True)
    refusal = refusal_of(said)
    if refusal:
        delta["refusal"] = refusal
    for field in ("reasoning_content", "audio", "function_call"):
        if getattr(said, field, None):
            delta[field] = _plain(getattr(said, field))
    if first and (delta or choice.finish_reason):
        return {"role": "assistant", "content": "" if "tool_calls" not in delta else None, **delta}
    return delta


# --- messages ---------------------------------------------------------------------------------------------------------


def messages_whole(reply: Any, refusal: str | None) -> dict[str, Any]:
    """A whole message in Anthropic's shape, from the SDK's (a dictionary or a model), which knows no ``refusal``."""
    said = dict(reply) if isinstance(reply, dict) else reply.model_dump(exclude_none=True)
    content = [_plain(block) for block in said.get("content", ())]
    if refusal:
        content.append({"type": "text", "text": refusal})
    usage = said.get("usage") or {}
    kept = ("input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    return {
        "id": said.get("id", ""),
        "type": "message",
        "role": "assistant",
        "model": said.get("model", ""),
        "content": content,
        "stop_reason": "refusal" if refusal else said.get("stop_reason"),
        "stop_sequence": said.get("stop_sequence"),
        "usage": {name: usage[name] for name in kept if usage.get(name) is not None},
    }


async def messages_stream(frames: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The SDK's event stream in Anthropic's shape, completed where it leaves out a field that clients read."""
    async for frame in frames:
        if b'"message_delta"' not in frame:
            yield frame
            continue
        for part in frame.split(b"\n\n"):
            name, _, data = part.partition(b"\ndata: ")
            if b'"message_delta"' not in data:
                if part:
                    yield part + b"\n\n"
                continue
            said = msgspec.json.decode(data)
            said["delta"].setdefault("stop_sequence", None)
            yield event(said, name.removeprefix(b"event: ").decode())


# --- responses and embeddings -----------------------------------------------------------------------------------------


def responses_whole(reply: Any) -> dict[str, Any]:
    """A whole response."""
    said: dict[str, Any] = reply.model_dump(mode="json", exclude_none=True)
    return {"error": None, "incomplete_details": None, **_without_details(said)}


def _without_details(response: dict[str, Any]) -> dict[str, Any]:
    """A response without what the SDK adds of its own."""
    response.pop("provider_specific_fields", None)
    for name, field in (("input_tokens_details", "cached_tokens"), ("output_tokens_details", "reasoning_tokens")):
        usage = response.get("usage") or {}
        if isinstance(details := usage.get(name), dict):
            usage[name] = {field: details.get(field) or 0}
    return response


async def responses_stream(events: AsyncIterator[Any]) -> AsyncIterator[bytes]:
    """Response events, numbered as OpenAI numbers them."""
    number = 0
    async for one in events:
        said: dict[str, Any] = one.model_dump(mode="json", exclude_none=True)
        if isinstance(response := said.get("response"), dict):
            _without_details(response)
        said.setdefault("sequence_number", number)
        number += 1
        yield event(said, str(said.get("type", "")))


def embeddings_whole(reply: Any, model: str, *, as_base64: bool) -> dict[str, Any]:
    """Embeddings; as base64 of little-endian float32 where the caller (OpenAI's SDK, by default) asked for that."""
    data = []
    for place, entry in enumerate(reply.data):
        vector = entry["embedding"] if isinstance(entry, dict) else entry.embedding
        if as_base64 and isinstance(vector, list):
            vector = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
        data.append({"object": "embedding", "index": place, "embedding": vector})
    usage = getattr(reply, "usage", None)
    tokens = usage.prompt_tokens if usage is not None else 0
    return {
        "object": "list",
        "data": data,
        "model": reply.model or model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
