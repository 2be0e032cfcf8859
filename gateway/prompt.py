"""The system prompt as it is spliced into a request: escaped once when a snapshot arrives, then only joined.

Nothing dynamic ever stands in it: for one version the injected bytes are always the same, so that providers' prompt
caches stay warm. The locked block stands first in every mode.
"""

from __future__ import annotations

from typing import Literal

import msgspec

_encode = msgspec.json.Encoder().encode
GAP = b"\\n\\n"
"""Between two texts, JSON-escaped."""

Merge = Literal["prepend", "append", "replace"]


def escaped(text: str) -> bytes:
    """JSON string content of ``text``, without the quotes."""
    return _encode(text)[1:-1]


def joined(*texts: bytes) -> bytes:
    """Escaped texts, a blank line between them; empty ones leave none."""
    return GAP.join(filter(None, texts))


class Prompt:
    """One version's text under one domain's locked block, for one mode of injection."""

    __slots__ = ("_after", "_before", "_replace", "alone", "breakpoint", "number", "text", "turns")

    def __init__(self, number: int, locked: str, text: str, merge: Merge, cache_above: int | None = None) -> None:
        self.number = number
        self.text = text
        """The version's text as it is stored (unescaped, without the locked block)."""
        whole = joined(escaped(locked), escaped(text))
        self.alone = whole
        """All of ours, escaped: what is injected when the request brings no system prompt."""
        self.turns = {role: b'{"role":"%b","content":"%b"},' % (role, whole) for role in (b"system", b"developer")}
        """... as a turn in front of others, by its role."""
        self.breakpoint = cache_above is not None and len(locked) + len(text) > cache_above
        """Long enough for a cache breakpoint of its own, where the request sets none."""
        self._replace = merge == "replace"
        self._before = whole if merge == "prepend" else escaped(locked)
        self._after = b"" if merge == "prepend" else escaped(text)

    def around_text(self, client: bytes) -> bytes:
        """The merged prompt, escaped; ``client`` is the request's own one, escaped."""
        return self.alone if self._replace else joined(self._before, client, self._after)

    def around_parts(self, parts: bytes, kind: bytes = b"text") -> bytes:
        """The merged content as a JSON array: ours as text parts of their own, the client's bytes untouched.

        ``parts`` is the client's array with its brackets; ``kind`` the ``type`` of a text part (``input_text`` in
        responses).
        """
        if self._replace:
            return b"[" + part(self.alone, kind) + b"]"
        inner = parts[1:-1].strip(b" \t\r\n")
        pieces = [
            part(self._before, kind) if self._before else b"",
            inner,
            part(self._after, kind) if self._after else b"",
        ]
        return b"[" + b",".join(filter(None, pieces)) + b"]"


def part(text: bytes, kind: bytes = b"text") -> bytes:
    """One text part, from escaped text."""
    return b'{"type":"%b","text":"%b"}' % (kind, text)
