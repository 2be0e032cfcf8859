"""The difference of two prompts, word by word, and how much of a text was rewritten."""

from __future__ import annotations

import difflib
import re
from typing import Literal

import msgspec

_WORDS = re.compile(r"\s+|[^\s]+")
LONGEST = 20_000
"""Words per side up to which words are compared; longer texts are compared line by line."""


class Piece(msgspec.Struct, frozen=True):
    """A run of text that both sides share (``same``), or that only the old (``del``) or only the new (``ins``) has."""

    kind: Literal["same", "ins", "del"]
    text: str


def words(text: str) -> list[str]:
    """Words and the white space between them: joined again they are the text."""
    return _WORDS.findall(text)


def compare(old: str, new: str) -> list[Piece]:
    """The pieces that turn ``old`` into ``new``, in reading order; deletions come before insertions."""
    left, right = words(old), words(new)
    if max(len(left), len(right)) > LONGEST:
        left, right = old.splitlines(keepends=True), new.splitlines(keepends=True)
    pieces: list[Piece] = []
    for tag, a, b, c, d in difflib.SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        if tag == "equal":
            pieces.append(Piece("same", "".join(left[a:b])))
            continue
        if b > a:
            pieces.append(Piece("del", "".join(left[a:b])))
        if d > c:
            pieces.append(Piece("ins", "".join(right[c:d])))
    return pieces


def rewritten(old: str, new: str) -> float:
    """Share of the new text's words that the old one did not have in that place, in 0..1."""
    total = sum(1 for word in words(new) if not word.isspace())
    if not total:
        return 1.0 if old.strip() else 0.0
    fresh = sum(
        1 for piece in compare(old, new) if piece.kind == "ins" for word in words(piece.text) if not word.isspace()
    )
    return fresh / total


class Origin(msgspec.Struct, frozen=True):
    """A run of words of a prompt, and the version that brought them in."""

    version: int
    text: str


def blame(chain: list[tuple[int, str]]) -> list[Origin]:
    """Which version wrote which words: ``chain`` holds (number, text) from the oldest ancestor to the newest."""
    if not chain:
        return []
    number, text = chain[0]
    owned = [(number, word) for word in words(text)]
    for number, text in chain[1:]:
        new = words(text)
        matcher = difflib.SequenceMatcher(None, [word for _, word in owned], new, autojunk=False)
        fresh = [(number, word) for word in new]
        for a, b, size in matcher.get_matching_blocks():
            fresh[b : b + size] = owned[a : a + size]
        owned = fresh
    origins: list[Origin] = []
    for number, word in owned:
        if origins and origins[-1].version == number:
            origins[-1] = Origin(number, origins[-1].text + word)
        else:
            origins.append(Origin(number, word))
    return origins
