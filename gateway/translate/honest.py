"""The SDK's streams, with what they keep to themselves: which model answers, and that the provider broke off.

The SDK names every chunk after the model that was asked for, and a stream that ends before the provider said how gets
an invented ``finish_reason`` of "stop". Both are known below: the first lines from the provider name the model, and the
SDK notes what reason it received.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator
from inspect import isawaitable
from typing import Any

from gateway.errors import UpstreamBroken

_MODEL = re.compile(r'"model(?:Version)?"\s*:\s*"([^"\\]{1,200})"')
FIRST = 8
"""Pieces from the provider in which its model is looked for."""


class _Overheard:
    """An iterator of the SDK's that tells the first pieces it hands on."""

    def __init__(self, inner: Any, told: HonestStream) -> None:
        self._inner = inner
        self._pieces: AsyncIterator[Any] | None = None
        self._told = told
        self._left = FIRST

    def __aiter__(self) -> _Overheard:
        return self

    async def __anext__(self) -> Any:
        if self._pieces is None:
            self._pieces = self._inner.__aiter__()
        piece = await anext(self._pieces)
        told = self._told
        if self._left and not told.model:
            self._left -= 1
            told.model = model_in(piece)
        if isinstance(piece, str) and '"candidates"' in piece:
            told.unsaid = told.unsaid is not False and '"finishReason"' not in piece
        return piece

    async def aclose(self) -> None:
        for part in (self._pieces, self._inner):
            close = getattr(part, "aclose", None) or getattr(part, "close", None)
            if close is not None and isawaitable(closing := close()):
                await closing

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class HonestStream:
    """A stream of the SDK's chunks. Raises `UpstreamBroken` where the SDK would invent how the stream ended."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._next: list[Any] = []
        self.model = ""
        """The model that answers, as the provider names it; empty while and where it does not."""
        self.unsaid: bool | None = None
        """Whether Gemini has yet to say why it ended: for the SDK, each of its pieces ends with "stop"."""
        self._overheard: _Overheard | None = None

    async def _listen(self) -> None:
        stream = self._stream
        if getattr(stream, "completion_stream", None) is None and getattr(stream, "make_call", None) is not None:
            await stream.fetch_stream()  # some providers are only asked now
        source: Any = getattr(stream, "completion_stream", None)
        lines = getattr(source, "streaming_response", None)
        if hasattr(lines, "__aiter__"):
            self._overheard = source.streaming_response = _Overheard(lines, self)
        elif hasattr(source, "__aiter__"):
            self._overheard = stream.completion_stream = _Overheard(source, self)

    async def begin(self) -> None:
        """Wait for the first chunk: then ``model`` is known."""
        if not self._next:
            with contextlib.suppress(StopAsyncIteration):
                self._next.append(await self._read())

    def __aiter__(self) -> HonestStream:
        return self

    async def __anext__(self) -> Any:
        return self._next.pop() if self._next else await self._read()

    async def aclose(self) -> None:
        """Let the upstream go: the SDK closes some of its iterators, and leaves others to the collector."""
        await self._stream.aclose()
        if self._overheard is not None:
            await self._overheard.aclose()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def _read(self) -> Any:
        if self._overheard is None:
            await self._listen()
        try:
            chunk = await anext(self._stream)
        except StopAsyncIteration:
            self._check()
            raise
        if any(choice.finish_reason for choice in chunk.choices):
            self._check()
        return chunk

    def _check(self) -> None:
        reason = getattr(self._stream, "received_finish_reason", "unknown")
        if self.unsaid or not (reason or getattr(self._stream, "intermittent_finish_reason", None)):
            raise UpstreamBroken("The upstream ended the stream too early.", started=True)


def honest(stream: Any) -> Any:
    """The stream itself, or an honest one around it where it is the SDK's stream of chunks."""
    return HonestStream(stream) if hasattr(stream, "received_finish_reason") else stream


def model_in(piece: Any) -> str:
    """The model that a piece from the provider names: an object, a dictionary, or a line of an event stream."""
    if isinstance(piece, bytes):
        piece = piece.decode("utf-8", "replace")
    if isinstance(piece, str):
        found = _MODEL.search(piece)
        return found[1] if found else ""
    name = piece.get("model") if isinstance(piece, dict) else getattr(piece, "model", None)
    return name if isinstance(name, str) else ""
