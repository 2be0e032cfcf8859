"""Near-duplicate clusters: texts that are almost the same belong together, so that no split or interval is fooled by
them.

MinHash over word 3-grams finds pairs of texts that may be alike (Broder 1997); pairs are confirmed by the true Jaccard
similarity, then joined transitively. A cluster's name is the smallest content hash of its members, so it does not
depend on the order of the texts.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

_PERMUTATIONS = 128
_BANDS = 32
_SIMILAR = 0.7
_SEED = 20261120
_WORD = re.compile(r"\w+")


def clusters_of(texts: Sequence[str]) -> list[str]:
    """The cluster name of each text, in order. Cost is near linear in the number of texts."""
    from rensa import RMinHash, RMinHashLSH

    shingled = [shingles(text) for text in texts]
    parent = list(range(len(texts)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    index = RMinHashLSH(threshold=_SIMILAR, num_perm=_PERMUTATIONS, num_bands=_BANDS)
    first_with: dict[frozenset[str], int] = {}
    for here, grams in enumerate(shingled):
        same = first_with.setdefault(grams, here)
        if same != here:
            parent[root(here)] = root(same)
            continue
        signature = RMinHash(num_perm=_PERMUTATIONS, seed=_SEED)
        signature.update(sorted(grams))
        for there in index.query(signature):
            if root(there) != root(here) and similarity(grams, shingled[there]) >= _SIMILAR:
                parent[root(here)] = root(there)
        index.insert(here, signature)
    names: dict[int, str] = {}
    digests = [content_hash(text) for text in texts]
    for here, digest in enumerate(digests):
        top = root(here)
        names[top] = min(names.get(top, digest), digest)
    return [names[root(here)] for here in range(len(texts))]


def shingles(text: str) -> frozenset[str]:
    """The set of word 3-grams of ``text``; of a shorter text, the text itself."""
    words = _WORD.findall(text.casefold())
    if len(words) < 3:
        return frozenset((" ".join(words) or text,))
    return frozenset(" ".join(words[start : start + 3]) for start in range(len(words) - 2))


def similarity(left: frozenset[str], right: frozenset[str]) -> float:
    """Jaccard similarity of two shingle sets."""
    shared = len(left & right)
    return shared / (len(left) + len(right) - shared)


def content_hash(text: str) -> str:
    """32 hex digits that stand for ``text``."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def fraction(name: str, salt: str = "") -> float:
    """A number in [0, 1) that is a function of the name alone: where a cluster falls when a set is split."""
    digest = hashlib.sha256(f"{salt}|{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
