"""Tokens as the provider counted them, read from a reply without parsing more than that; and the usage chunk of a
stream."""

from __future__ import annotations

import json
import re

import msgspec

from gateway.exchange import Usage


class _Details(msgspec.Struct):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    """OpenAI chat, OpenAI responses and Anthropic names side by side."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    input_tokens_details: _Details | None = None
    output_tokens_details: _Details | None = None


class _Reply(msgspec.Struct):
    usage: _Usage | None = None


class _Chunk(msgspec.Struct):
    choices: list[msgspec.Raw] | None = None
    usage: _Usage | None = None


_UNTOLD = _Details()
_reply = msgspec.json.Decoder(_Reply).decode
_chunk = msgspec.json.Decoder(_Chunk).decode
_any = json.JSONDecoder()
_FOUND = re.compile(r'"usage": ?(?=\{)')
_EMPTY_CHOICES = re.compile(rb'"choices": ?\[ ?\]')
_DATA = re.compile(rb"data: ?(\{[^\r\n]*\})\r?\n\r?\n")


def _usage(found: _Usage) -> Usage:
    cache_read = found.cache_read_input_tokens or 0
    into = found.prompt_tokens_details or found.input_tokens_details or _UNTOLD
    out = found.completion_tokens_details or found.output_tokens_details or _UNTOLD
    return Usage(
        # Anthropic counts what it read from or wrote to its cache apart from the input
        prompt_tokens=(found.prompt_tokens or found.input_tokens or 0)
        + cache_read
        + (found.cache_creation_input_tokens or 0),
        answer_tokens=found.completion_tokens or found.output_tokens or 0,
        cached_tokens=into.cached_tokens or cache_read,
        reasoning_tokens=out.reasoning_tokens or 0,
    )


def usage_of_reply(body: bytes) -> Usage | None:
    """Usage of a whole JSON reply, or None when it tells none."""
    try:
        found = _reply(body).usage
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return None if found is None else _usage(found)


def usage_of_stream(first: bytes, tail: bytes) -> Usage | None:
    """Usage of a stream from its first and its last bytes: the last one told counts; Anthropic tells the input
    first."""
    last = _last_told(tail)
    begin = _last_told(first[:4096]) if last is None or not last.prompt_tokens else None
    if last is None or begin is None:
        return last or begin
    last.prompt_tokens = begin.prompt_tokens
    last.cached_tokens = last.cached_tokens or begin.cached_tokens
    return last


def _last_told(data: bytes) -> Usage | None:
    if b'"usage"' not in data:
        return None
    text = data.decode("utf-8", "replace")
    for match in reversed(list(_FOUND.finditer(text))):
        try:
            found, _ = _any.raw_decode(text, match.end())
            return _usage(msgspec.convert(found, _Usage))
        except (ValueError, RecursionError):
            continue
    return None


class UsageChunk:
    """Takes the usage chunk that we asked for, and the caller did not, out of a stream (complete events only)."""

    __slots__ = ("usage",)

    def __init__(self) -> None:
        self.usage: Usage | None = None

    def strip(self, events: bytes) -> bytes:
        """``events`` without the chunk that has usage and no choices."""
        if _EMPTY_CHOICES.search(events) is None:
            return events
        return _DATA.sub(self._without, events)

    def _without(self, match: re.Match[bytes]) -> bytes:
        try:
            chunk = _chunk(match[1])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return match[0]
        if chunk.usage is None or chunk.choices:
            return match[0]
        self.usage = _usage(chunk.usage)
        return b""
