"""Near-duplicates: which texts are the same thing said twice.

Clusters are found before anything is split, so that the same question never stands in the reflect and in the holdout
split. First by a hash of the normalised text, then by MinHash (Broder 1997) over word 5-shingles with 128
permutations and LSH banding from ``rensa``; candidates are confirmed at an estimated Jaccard similarity of .8 and
joined transitively.

The name of a cluster is the smallest hash of a normalised text in it, so it does not depend on the order of the
texts. It may change when a later text joins two clusters; ``curate.py`` therefore keeps every hash of a cluster when
it asks whether one has confirmed a run before.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import rensa

PERMUTATIONS = 128
BANDS = 16
"""16 bands of 8 rows find a pair at similarity .8 with probability .95 and one at .5 with probability .06."""
SEED = 20261120
SHINGLE = 5
SIMILAR = 0.8

_WORD = re.compile(r"\w+")


def normal_form(text: str) -> str:
    """Lower case, words only, single blanks: what two texts share when only their dress differs."""
    return " ".join(_WORD.findall(text.casefold())) or text.strip()


def text_hash(text: str) -> str:
    """32 hex digits of the normalised text."""
    return hashlib.sha256(normal_form(text).encode()).hexdigest()[:32]


def clusters(texts: Sequence[str]) -> list[str]:
    """For each text the name of its near-duplicate cluster (32 hex digits)."""
    hashes = [text_hash(t) for t in texts]
    distinct: dict[str, str] = {}
    for text, name in zip(texts, hashes, strict=True):
        distinct.setdefault(name, text)
    leader = _join_similar(distinct)
    return [leader[h] for h in hashes]


def _join_similar(distinct: dict[str, str]) -> dict[str, str]:
    """Union-find over confirmed pairs; the root of a set is its smallest name."""
    parent = {name: name for name in distinct}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    index = rensa.RMinHashLSH(threshold=SIMILAR, num_perm=PERMUTATIONS, num_bands=BANDS)
    names = sorted(distinct)
    sketches: list[rensa.RMinHash] = []
    for position, name in enumerate(names):
        sketch = rensa.RMinHash(num_perm=PERMUTATIONS, seed=SEED)
        sketch.update(_shingles(distinct[name]))
        for other in index.query(sketch):
            if sketch.jaccard(sketches[other]) >= SIMILAR:
                low, high = sorted((root(name), root(names[other])))
                parent[high] = low
        index.insert(position, sketch)
        sketches.append(sketch)
    return {name: root(name) for name in names}


def _shingles(text: str) -> list[str]:
    """Word 5-shingles; a text shorter than that is one shingle, so short texts join only when they are equal."""
    words = normal_form(text).split()
    if len(words) <= SHINGLE:
        return [" ".join(words)]
    return [" ".join(words[i : i + SHINGLE]) for i in range(len(words) - SHINGLE + 1)]
