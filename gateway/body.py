"""The body of a request: checked strictly, read lazily, changed by splicing.

:func:`parse` accepts exactly one JSON object and finds the span of each top-level value; nothing is decoded that nobody
asks for. msgspec's lazy parser checks the whole grammar (escapes, lone surrogates, numbers, NaN, control
characters), but not three things that a gateway must not pass on: invalid UTF-8 inside strings, a repeated top-level
key (two parsers may choose differently: what is checked must be what is forwarded), and nesting deeper than a bound.
Those are checked here.

:func:`decompress` opens a compressed body without ever holding more than the allowed size.
"""

from __future__ import annotations

import re
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from gateway.errors import BadRequest, RequestRefused
from gateway.exchange import Refusal
from gateway.nesting import brackets, deeper

Edit = tuple[int, int, bytes]
"""Replace ``body[start:end]`` by these bytes."""

MALFORMED = (
    "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP library "
    "correctly. The API expects a JSON payload, but what was sent was not valid JSON."
)

_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
_text = msgspec.json.Decoder(str).decode

_SPACE = re.compile(rb"[ \t\n\r]*")
_KEY = re.compile(rb'[ \t\n\r]*("(?:[^"\\]|\\.)*")[ \t\n\r]*:[ \t\n\r]*', re.DOTALL)


class Body:
    """A JSON object as it was sent: ``raw`` bytes, ``values`` by key (undecoded), and where each value stands."""

    __slots__ = ("at", "first_turn", "model", "raw", "values")

    def __init__(self, raw: bytes, values: dict[str, msgspec.Raw], at: dict[str, int]) -> None:
        self.raw = raw
        self.values = values
        self.at = at
        """Offset of each value's first byte."""
        self.first_turn: re.Match[bytes] | None = None
        """How its conversation begins, once a dialect has looked."""
        model = at.get("model")
        self.model = _text(values["model"]) if model is not None and raw[model] == 0x22 else ""
        """What the caller asks for, in every dialect; empty when that is no string."""

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def span(self, key: str) -> tuple[int, int]:
        """Where the value of ``key`` begins and ends."""
        start = self.at[key]
        return start, start + len(self.values[key])

    def peek(self, key: str) -> int:
        """The first byte of the value of ``key`` (``{ [ " t f n`` or of a number), 0 when it is absent."""
        start = self.at.get(key)
        return 0 if start is None else self.raw[start]

    def text(self, key: str) -> str:
        """The value when it is a string, else ``""``."""
        return _text(self.values[key]) if self.peek(key) == 0x22 else ""

    def flag(self, key: str) -> bool:
        """Whether the value is ``true``."""
        return self.peek(key) == 0x74

    def array(self, key: str) -> list[msgspec.Raw]:
        """The undecoded elements. Raises BadRequest when the value is not an array."""
        if self.peek(key) != 0x5B:
            raise BadRequest(f"Invalid type for '{key}': expected an array.", param=key, code="invalid_type")
        return _array(self.values[key])

    def insert_first(self, key: str, value: bytes) -> Edit:
        """The edit that adds a pair in front of all others."""
        start = self.raw.index(b"{") + 1
        comma = b"," if self.values else b""
        return start, start, b'"%b":%b%b' % (key.encode(), value, comma)


Pieces = tuple[bytes | memoryview, ...]
"""Bytes that are sent one after the other, without being joined first."""


def splice(raw: bytes, edits: Sequence[Edit]) -> bytes:
    """``raw`` with the edits applied. Edits must not overlap; their order does not matter."""
    if not edits:
        return raw
    return b"".join(spliced(raw, edits))


def spliced(raw: bytes, edits: Sequence[Edit]) -> Pieces:
    """The same in pieces: what is not changed is not copied."""
    if len(edits) == 1 and len(raw) <= LONG:  # short ones are copied: that is less than the making of views
        (start, end, new), *_ = edits
        return raw[:start], new, raw[end:]
    view = memoryview(raw)
    pieces: list[bytes | memoryview] = []
    done = 0
    for start, end, new in sorted(edits) if len(edits) > 1 else edits:
        pieces.append(view[done:start])
        pieces.append(new)
        done = end
    pieces.append(view[done:])
    return tuple(pieces)


def mentions(raw: bytes, wanted: bytes) -> bool:
    """Whether ``wanted``, a name in its quotes, stands anywhere in ``raw``. Long texts have few quotes: from one to the
    next is a fraction of the time of a search for all of it."""
    if len(raw) > LONG:
        place = raw.find(b'"')
        for _ in range(MANY_QUOTES):
            if place < 0:
                return False
            if raw.startswith(wanted, place):
                return True
            place = raw.find(b'"', place + 1)
    return wanted in raw


LONG = 8192
MANY_QUOTES = 256
"""Up to so many quotes are looked at one by one."""


def parse(raw: bytes, max_depth: int = 256) -> Body:
    """Check that ``raw`` is one strict JSON object and locate its values. Raises BadRequest."""
    try:
        if not raw.isascii():
            raw.decode()
        values = _object(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if isinstance(error, msgspec.ValidationError):
            raise BadRequest("The body of the request must be a JSON object.") from None
        raise BadRequest(MALFORMED) from None
    except RecursionError:
        raise _too_deep(max_depth) from None
    at: dict[str, int] = {}
    place = 1
    for key, value in values.items():
        at[key] = place = place + len(key) + 3
        place += len(value) + 1
    if place != len(raw):
        # not the compact form, where every byte is accounted for: look at each pair
        at = _locate(raw, values)
    if brackets(raw, max_depth) and deeper(raw, values.values(), max_depth):
        raise _too_deep(max_depth)
    return Body(raw, values, at)


def _locate(raw: bytes, values: dict[str, msgspec.Raw]) -> dict[str, int]:
    """Offset of each value. A key that comes twice does not match what the decoder kept (the last): refused."""
    at: dict[str, int] = {}
    place = raw.index(b"{") + 1
    for key, value in values.items():
        # the usual spacing of Python's json first: `"key": value, `
        start = place + len(key) + 4
        if raw[place:start] != f'"{key}": '.encode():
            match = _KEY.match(raw, place)
            if match is None or _text(match[1]) != key:
                raise _repeated(key)
            start = match.end()
        end = start + len(value)
        if not raw.startswith(bytes(value), start):
            raise _repeated(key)
        at[key] = start
        if raw[end : end + 2] == b", ":
            place = end + 2
            continue
        place = _after_space(raw, end)
        if raw[place] not in b",}":
            raise _repeated(key)
        place += 1
    if values and raw[place - 1] != 0x7D:
        raise _repeated(None)
    return at


def _after_space(raw: bytes, place: int) -> int:
    match = _SPACE.match(raw, place)
    return match.end() if match is not None else place


def _repeated(key: str | None) -> BadRequest:
    named = f" '{key}'" if key is not None else ""
    return BadRequest(f"The body of the request has a key{named} more than once.", param=key, code="duplicate_key")


def _too_deep(limit: int) -> BadRequest:
    return BadRequest(f"The body of the request is nested deeper than {limit} levels.", code="body_too_deep")


# --- compression -----------------------------------------------------------------------------------------------------


def decompress(data: bytes, encoding: bytes, limit: int) -> bytes:
    """Undo ``content-encoding`` (gzip, deflate, br, zstd; several are undone from the last to the first).

    Raises RequestRefused: 415 for an unknown encoding, 413 when the result passes ``limit`` bytes, 400 when it is
    broken.
    """
    for name in reversed([part.strip().lower() for part in encoding.split(b",")]):
        if name in (b"", b"identity"):
            continue
        try:
            pieces = list(_opened(data, name, limit))
        except (zlib.error, ValueError, EOFError):
            raise BadRequest(f"The body of the request is not valid {name.decode('latin-1')}.") from None
        data = b"".join(pieces)
    return data


def _opened(data: bytes, name: bytes, limit: int) -> Iterator[bytes]:
    decoder = decoder_for(name)
    if decoder is None:
        raise RequestRefused(
            Refusal(
                415,
                f"The content-encoding '{name.decode('latin-1')[:40]}' is not known: use gzip, deflate, br or zstd.",
            )
        )
    size = 0
    for start in range(0, len(data), 16_384):
        for piece in decoder.feed(data[start : start + 16_384]):
            size += len(piece)
            if size > limit:
                raise too_large(limit)
            yield piece
    if not decoder.finished():
        raise EOFError


def too_large(limit: int) -> RequestRefused:
    """413 in the words that callers see."""
    return RequestRefused(
        Refusal(413, f"The body of the request is larger than {limit} bytes.", code="request_too_large")
    )


class Decoder(ABC):
    """Undoes one content encoding piece by piece, at most 64 KiB of output at a time. Raises ValueError or
    zlib.error."""

    PIECE = 65_536

    @abstractmethod
    def feed(self, data: bytes) -> Iterator[bytes]:
        """What ``data`` opens to."""

    @abstractmethod
    def finished(self) -> bool:
        """Whether the compressed data was whole."""


class _Zlib(Decoder):
    def __init__(self, window: int) -> None:
        self._window = window
        self._decoder = zlib.decompressobj(window)
        self._begun = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        if not self._begun and data:
            self._begun = True
            if self._window == zlib.MAX_WBITS and (data[0] & 0x0F) != 8:  # some send raw deflate under that name
                self._decoder = zlib.decompressobj(-zlib.MAX_WBITS)
        while data and not self._decoder.eof:
            yield self._decoder.decompress(data, self.PIECE)
            data = self._decoder.unconsumed_tail
        if self._decoder.eof and (data or self._decoder.unused_data):
            raise ValueError("bytes after the end")

    def finished(self) -> bool:
        return self._decoder.eof


class _Brotli(Decoder):
    def __init__(self) -> None:
        import brotli  # type: ignore[import-untyped]

        self._decoder: Any = brotli.Decompressor()
        self._error: type[Exception] = brotli.error

    def feed(self, data: bytes) -> Iterator[bytes]:
        try:
            piece = self._decoder.process(data, output_buffer_limit=self.PIECE)
            while piece:
                yield piece
                piece = self._decoder.process(b"", output_buffer_limit=self.PIECE)
        except self._error as error:
            raise ValueError(str(error)) from None

    def finished(self) -> bool:
        return bool(self._decoder.is_finished())


class _Zstd(Decoder):
    def __init__(self) -> None:
        import zstandard

        self._decoder: Any = zstandard.ZstdDecompressor(max_window_size=2**27).decompressobj()
        self._error: type[Exception] = zstandard.ZstdError

    def feed(self, data: bytes) -> Iterator[bytes]:
        try:
            # a block of 128 KiB may be three bytes long: small steps bound what one step can yield
            for start in range(0, len(data), 128):
                yield self._decoder.decompress(data[start : start + 128])
        except self._error as error:
            raise ValueError(str(error)) from None

    def finished(self) -> bool:
        return bool(self._decoder.eof)


def decoder_for(name: bytes) -> Decoder | None:
    """The decoder of one content encoding, or None when it is not known."""
    if name in (b"gzip", b"x-gzip"):
        return _Zlib(zlib.MAX_WBITS | 16)
    if name == b"deflate":
        return _Zlib(zlib.MAX_WBITS)
    if name == b"br":
        return _Brotli()
    if name == b"zstd":
        return _Zstd()
    return None
