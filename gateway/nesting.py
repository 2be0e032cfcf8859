"""How deep valid JSON is nested, found without parsing it: most bodies have too few brackets to be deep at all."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate

import msgspec

FEW = 16
"""Up to so many brackets are searched for one by one: most bodies have no more, and are not copied to be counted."""
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEP = [1 if byte in b"[{" else -1 for byte in range(256)]
_array = msgspec.json.Decoder(list[msgspec.Raw]).decode


def brackets(raw: bytes | memoryview, limit: int) -> bool:
    """Whether there are more than ``limit`` opening brackets: only then can the nesting be deeper than that."""
    data = raw if type(raw) is bytes else bytes(raw)
    found = 0
    for opener in (b"{", b"["):
        place = data.find(opener)
        while place >= 0 and found <= FEW:
            found += 1
            place = data.find(opener, place + 1)
    if found <= FEW <= limit:
        return False
    braces = len(data.split(b"{", limit + 1)) - 1
    return braces > limit or braces + len(data.split(b"[", limit + 1)) - 1 > limit


def deeper(raw: bytes, values: Iterable[msgspec.Raw], limit: int) -> bool:
    """Whether ``raw``, an object with these ``values``, is nested deeper than ``limit`` levels. Two cheap looks (each
    value, each element of a long array) before every bracket is counted."""
    for value in values:
        view = memoryview(value)
        if not brackets(view, limit - 1):
            continue
        if view[0] == 0x5B and not any(brackets(memoryview(element), limit - 2) for element in _array(value)):
            continue
        return depth(raw) > limit
    return False


def depth(raw: bytes) -> int:
    """The exact nesting depth of valid JSON: brackets outside of strings, counted."""
    if b"\\" in raw:
        raw = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    outside = b"".join(raw.split(b'"')[::2]).translate(None, _NOT_BRACKETS)
    return max(accumulate(map(_STEP.__getitem__, outside)), default=0)
