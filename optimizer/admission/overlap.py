"""Does a text repeat logged text? An index of word windows, built once per dataset and asked for every candidate.

Words are compared without case and punctuation. A window of k words is one 64-bit number (a polynomial over the words'
hashes), so that ten thousand logged texts are a few megabytes and one question takes about a millisecond. The
containment that MinHash would estimate is computed exactly.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

HashArray = npt.NDArray[np.uint64]

RUN_WORDS = 8
"""So many consecutive words in common are a copy."""
SHINGLE_WORDS = 4
MIN_SHARED_SHINGLES = 3
MAX_CONTAINMENT = 0.2
SENTENCE_WORDS = range(5, RUN_WORDS)
"""Whole logged sentences of this length are copies too, though they are shorter than a run."""

_WORD = re.compile(r"\w+")
_SENTENCE_END = re.compile(r"[.!?\n;:]+")
_NAME_BREAK = re.compile(r"[.!?:\n\"“”(>*#-]\s*$")
_BASE = np.uint64(0x9E3779B97F4A7C15)


def words_of(text: str) -> list[str]:
    """Words without case and punctuation."""
    return _WORD.findall(text.casefold())


@lru_cache(maxsize=200_000)
def _word_hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _is_peculiar(word: str) -> bool:
    """Too long for a word of a language, or long and with digits among letters."""
    return len(word) >= 18 or (len(word) >= 8 and any(c.isdigit() for c in word))


def _windows(hashes: HashArray, size: int) -> HashArray:
    """One number per window of ``size`` words; empty when the text is shorter."""
    count = len(hashes) - size + 1
    if count <= 0:
        return np.zeros(0, dtype=np.uint64)
    total = np.zeros(count, dtype=np.uint64)
    for offset in range(size):
        total = total * _BASE + hashes[offset : offset + count]
    return total


def _hashes(words: Sequence[str]) -> HashArray:
    return np.array([_word_hash(word) for word in words], dtype=np.uint64)


def mid_sentence_capitals(text: str) -> set[str]:
    """Words written with a capital where no sentence, item or quotation begins."""
    return {
        match.group(0)
        for match in re.finditer(r"\b[^\W\d_][\w'’]*", text)
        if match.group(0)[0].isupper() and match.start() and not _NAME_BREAK.search(text[: match.start()])
    }


class Corpus:
    """Logged texts (queries, replies, feedback, critiques) that no candidate may repeat."""

    def __init__(self, texts: Iterable[str]) -> None:
        runs: list[HashArray] = []
        shingles: list[HashArray] = []
        owners: list[npt.NDArray[np.intp]] = []
        sizes: list[int] = []
        sentences: set[int] = set()
        tokens: set[str] = set()
        capitals: set[str] = set()
        lower: set[str] = set()
        for text in dict.fromkeys(texts):
            words = words_of(text)
            tokens.update(word for word in words if _is_peculiar(word))
            hashes = _hashes(words)
            runs.append(_windows(hashes, RUN_WORDS))
            own = np.unique(_windows(hashes, SHINGLE_WORDS))
            shingles.append(own)
            owners.append(np.full(len(own), len(sizes), dtype=np.intp))
            sizes.append(len(own))
            for sentence in _SENTENCE_END.split(text):
                part = words_of(sentence)
                if len(part) in SENTENCE_WORDS:
                    sentences.add(int(_windows(_hashes(part), len(part))[0]))
            capitals |= mid_sentence_capitals(text)
            lower.update(word for word in _WORD.findall(text) if word.islower())
        nothing = [np.zeros(0, dtype=np.uint64)]
        self._runs = np.unique(np.concatenate(runs or nothing))
        self._shingles = np.concatenate(shingles or nothing)
        self._owners = np.concatenate(owners or [np.zeros(0, dtype=np.intp)])
        self._sizes = np.array(sizes, dtype=np.intp)
        self._sentences = np.array(sorted(sentences), dtype=np.uint64)
        self._tokens = frozenset(tokens)
        self.names = frozenset(word for word in capitals if word.casefold() not in lower)
        """Words that the texts write with a capital inside sentences and never without: names, places, products."""

    def __len__(self) -> int:
        return len(self._sizes)

    def copied_run(self, text: str, known: Sequence[str] = ()) -> str:
        """The first run of eight words (or whole short sentence) of ``text`` that a logged text holds, else "".

        What stands in ``known`` (the incumbent, the allow list) is nobody's secret and does not count.
        """
        words = words_of(text)
        hashes = _hashes(words)
        known_hashes = [_hashes(words_of(k)) for k in known]
        for size, seen in ((RUN_WORDS, self._runs), *((k, self._sentences) for k in SENTENCE_WORDS)):
            windows = _windows(hashes, size)
            found = np.isin(windows, seen)
            for k in known_hashes:
                found &= ~np.isin(windows, _windows(k, size))
            if found.any():
                start = int(np.argmax(found))
                return " ".join(words[start : start + size])
        return ""

    def copied_token(self, text: str, known: Sequence[str] = ()) -> str:
        """The first peculiar word (a key, a number, a code) of ``text`` that a logged text holds, else ""."""
        permitted = {word for k in known for word in words_of(k)}
        return next((w for w in words_of(text) if w in self._tokens and w not in permitted), "")

    def containment(self, text: str, known: Sequence[str] = ()) -> float:
        """Largest share of four-word shingles in common with one logged text, of the smaller of the two sets.

        Fewer than three common shingles count as nothing: two short texts share "what is the best" by chance.
        """
        own = np.unique(_windows(_hashes(words_of(text)), SHINGLE_WORDS))
        for k in known:
            own = own[~np.isin(own, _windows(_hashes(words_of(k)), SHINGLE_WORDS))]
        if not len(own) or not len(self._sizes):
            return 0.0
        shared = np.bincount(self._owners[np.isin(self._shingles, own)], minlength=len(self._sizes))
        ratios = np.where(shared >= MIN_SHARED_SHINGLES, shared / np.maximum(np.minimum(self._sizes, len(own)), 1), 0.0)
        return float(ratios.max())
