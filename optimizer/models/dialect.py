"""OpenAI's chat dialect in bytes: what is sent, which optional parameters a model has refused, how replies are read."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from typing import Any

import msgspec

from optimizer.models.backend import Note
from optimizer.records import Completion, Finish, ModelSpec, Request

_OPTIONAL = ("max_tokens", "temperature", "seed", "response_format")


class Usage(msgspec.Struct):
    prompt_tokens: int | None = 0
    completion_tokens: int | None = 0
    prompt_tokens_details: dict[str, Any] | None = None


class Message(msgspec.Struct):
    content: str | list[dict[str, Any]] | None = None
    refusal: str | None = None


class Choice(msgspec.Struct):
    message: Message
    finish_reason: str | None = None


class Reply(msgspec.Struct):
    choices: list[Choice]
    usage: Usage | None = None


_decode = msgspec.json.Decoder(Reply).decode


def decode_reply(raw: bytes) -> Reply:
    """A chat completion from its bytes. Half characters that a model cut off are replaced, not refused. Raises
    ``msgspec.DecodeError`` (or its ``ValidationError``) for anything that is no chat completion."""
    try:
        return _decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        try:
            told = json.dumps(json.loads(raw.decode("utf-8", "replace")), ensure_ascii=False)
        except (ValueError, RecursionError) as error:
            raise msgspec.DecodeError(str(error)) from error
        return _decode(told.encode("utf-8", "replace"))


class Dialect:
    """Builds request bodies for one model and remembers the parameters that it refused."""

    def __init__(self, spec: ModelSpec, name: str, note: Note) -> None:
        self._spec = spec
        self._name = name
        self._note = note
        self._dropped: set[str] = set()

    def body(self, request: Request) -> dict[str, Any]:
        """The JSON body of ``request``."""
        body: dict[str, Any] = {
            "model": self._name,
            "messages": [{"role": role, "content": content} for role, content in request.messages],
            **self._spec.extra,
        }
        swapped = "max_tokens" in self._dropped
        body["max_completion_tokens" if swapped else "max_tokens"] = request.max_tokens
        if request.temperature is not None:
            body["temperature"] = request.temperature
            if request.temperature > 0 and request.seed is not None:
                body["seed"] = request.seed
        if request.schema is not None:
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "reply", "strict": True, "schema": request.schema},
            }
        for name in self._dropped:
            body.pop(name, None)
        return body

    def drop(self, sent: Collection[str], complaint: str) -> bool:
        """Stop sending the optional parameter that the endpoint complains about; ``sent`` are the keys of the body
        that it refused. False when it names none of them: then sending again would be refused again."""
        for name in (*_OPTIONAL, *self._spec.extra):
            if name in sent and re.search(rf"(?<![a-z_]){re.escape(name)}(?![a-z_])", complaint):
                instead = "; max_completion_tokens is sent instead" if name == "max_tokens" else ""
                self._forget(name, f"refuses the parameter {name}: it is no longer sent{instead}.")
                return True
        if "json_schema" in complaint and "response_format" in sent:
            self._forget("response_format", "refuses structured output: the form is asked for in words alone.")
            return True
        return False

    def _forget(self, name: str, told: str) -> None:
        if name not in self._dropped:  # else it was dropped while this request was in the air
            self._dropped.add(name)
            self._note(f"{self._spec.model} {told}")


def completion(message: Message, finish_reason: str | None, usage: Usage | None) -> Completion:
    """One choice of a chat completion as our record."""
    content = message.content
    if isinstance(content, list):
        content = "".join(str(part.get("text") or "") for part in content)
    finish: Finish = "stop"
    if message.refusal:
        finish = "refusal"
    elif finish_reason in ("length", "max_tokens"):
        finish = "length"
    elif finish_reason == "content_filter":
        finish = "filter"
    used = usage or Usage()
    details = used.prompt_tokens_details or {}
    cached = details.get("cached_tokens")
    return Completion(
        text=content or message.refusal or "",
        finish=finish,
        tokens_in=used.prompt_tokens or 0,
        tokens_out=used.completion_tokens or 0,
        tokens_cached=cached if isinstance(cached, int) else 0,
        detail="content_filter" if finish == "filter" else "",
    )


def error_of(raw: bytes) -> tuple[str, str]:
    """(code, type and parameter in one string; message) of an error body of any common shape."""
    try:
        body = msgspec.json.decode(raw)
    except msgspec.DecodeError:
        return "", shown(raw)
    error = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(error, str):
        return "", error
    if not isinstance(error, dict):
        return "", shown(raw)
    parts = [str(error[name]) for name in ("code", "type", "param") if error.get(name)]
    message = str(error.get("message") or error.get("detail") or "")[:300].strip()
    if message and message[-1] not in ".!?":
        message += "."
    return " ".join(parts), message


def shown(raw: bytes) -> str:
    """The beginning of a body, for a sentence about it."""
    text = " ".join(raw[:200].decode("utf-8", "replace").split())
    return f"{text}..." if len(raw) > 200 else (text or "(nothing)")
