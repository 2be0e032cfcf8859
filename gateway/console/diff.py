"""The difference of two prompts, word by word, and how much of a text was rewritten."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec

_WORDS = re.compile(r"(\S+)(\s*)|(\s+)")
_LINES = re.compile(r"[^\n]+\n*|\n+")
MOST_PAIRS = 50_000
"""Pairs of equal words up to which words are compared; beyond it lines are, then the words of the changed ones.

Matching costs such a number for each change found, and it runs in the process that serves traffic.
"""
Kind = Literal["same", "ins", "del"]
Opcode = tuple[str, int, int, int, int]


class Piece(msgspec.Struct, frozen=True):
    """A run of text that both sides share (``same``), or that only the old (``del``) or only the new (``ins``) has."""

    kind: Kind
    text: str


Word = tuple[str, str]


def words(text: str) -> list[Word]:
    """(word, the white space after it), in order: joined again they are the text."""
    return [(word, after or space) for word, after, space in _WORDS.findall(text)]


def compare(old: str, new: str) -> list[Piece]:
    """The pieces that turn ``old`` into ``new``, in reading order; deletions come before insertions."""
    runs: list[tuple[Kind, list[str]]] = []
    for kind, text in _changes(old, new):
        if text and runs and runs[-1][0] == kind:
            runs[-1][1].append(text)
        elif text:
            runs.append((kind, [text]))
    return [Piece(kind, "".join(texts)) for kind, texts in runs]


def _changes(old: str, new: str) -> Iterator[tuple[Kind, str]]:
    left, right = words(old), words(new)
    opcodes = matched(left, right)
    if opcodes is None:
        yield from _line_changes(old, new)
        return
    for tag, a, b, c, d in opcodes:
        if tag == "equal":
            for (word, was), (_, now) in zip(left[a:b], right[c:d], strict=True):
                yield "same", word
                if was == now:
                    yield "same", now
                else:
                    yield "del", was
                    yield "ins", now
            continue
        yield "del", joined(left[a:b])
        yield "ins", joined(right[c:d])


def _line_changes(old: str, new: str) -> Iterator[tuple[Kind, str]]:
    """Of texts too long to compare by words: by lines, and by words within the lines that changed."""
    left, right = ([(line, "") for line in _LINES.findall(text)] for text in (old, new))
    for tag, a, b, c, d in matched(left, right) or [("replace", 0, len(left), 0, len(right))]:
        was, now = joined(left[a:b]), joined(right[c:d])
        if tag == "equal":
            yield "same", was
        elif b - a < len(left) or d - c < len(right):
            yield from _changes(was, now)
        else:
            yield "del", was
            yield "ins", now


def joined(text: Iterable[Word]) -> str:
    """Words as the text that they were."""
    return "".join(word + after for word, after in text)


def matched(left: list[Word], right: list[Word]) -> list[Opcode] | None:
    """``difflib``'s opcodes between two lists of words, white space apart; None where finding them costs too much."""
    before, after = [word for word, _ in left], [word for word, _ in right]
    shorter = min(len(before), len(after))
    start = next((i for i in range(shorter) if before[i] != after[i]), shorter)
    end = next((i for i in range(shorter - start) if before[-1 - i] != after[-1 - i]), shorter - start)
    old, new = before[start : len(before) - end], after[start : len(after) - end]
    counts = Counter(new)
    if sum(count * counts[word] for word, count in Counter(old).items()) > MOST_PAIRS:
        return None
    found = difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    opcodes: list[Opcode] = [("equal", 0, start, 0, start)] if start else []
    opcodes += [(tag, a + start, b + start, c + start, d + start) for tag, a, b, c, d in found]
    if end:
        opcodes.append(("equal", len(before) - end, len(before), len(after) - end, len(after)))
    return opcodes


def rewritten(pieces: list[Piece]) -> float:
    """Share of the new text's words that the old one did not have in that place, in 0..1."""
    fresh, total = (
        sum(len(piece.text.split()) for piece in pieces if piece.kind in kinds) for kinds in (("ins",), ("ins", "same"))
    )
    if not total:
        return 1.0 if any(piece.text.strip() for piece in pieces) else 0.0
    return fresh / total


class Origin(msgspec.Struct, frozen=True):
    """A run of words of a prompt, and the version that brought them in."""

    version: int
    text: str


def blame(chain: list[tuple[int, str]]) -> list[Origin]:
    """Which version wrote which words: ``chain`` holds (number, text) from the oldest ancestor to the newest."""
    written: list[Word] = []
    owners: list[int] = []
    for number, text in chain:
        new = words(text)
        fresh = [number] * len(new)
        for tag, a, b, c, d in matched(written, new) or ():
            if tag == "equal":
                fresh[c:d] = owners[a:b]
        written, owners = new, fresh
    runs: list[tuple[int, list[str]]] = []
    for owner, (word, after) in zip(owners, written, strict=True):
        if not runs or runs[-1][0] != owner:
            runs.append((owner, []))
        runs[-1][1].append(word + after)
    return [Origin(owner, "".join(texts)) for owner, texts in runs]
