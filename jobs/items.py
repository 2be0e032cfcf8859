"""Items: near-duplicates joined, with the reference that people agree on and the split they belong to."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Literal

import msgspec

from jobs import duplicates
from registry import Message, Sample

Split = Literal["reflect", "select", "holdout"]
SPLITS: tuple[Split, ...] = ("reflect", "select", "holdout")


class Item(msgspec.Struct, frozen=True):
    """One near-duplicate cluster of one task: what several people asked in nearly the same words.

    ``answers`` are people's references (empty: none, or in dispute). ``weight`` is the number of distinct units, at
    most 3.
    """

    cluster: str
    hashes: tuple[str, ...]
    question: str
    history: tuple[Message, ...]
    answers: tuple[str, ...]
    unit: str
    fallback: bool
    """The unit is only the gateway's fallback hash: it proves no distinct person, so this cluster counts for one."""
    key: str
    weight: float
    representative: bool
    origin: str


def make_items(asked: Sequence[tuple[Sample, str]]) -> list[Item]:
    """Join near-duplicates: one item per cluster, spoken for by whoever asks about the fewest things.

    So a caller who repeats everybody's questions speaks for none of them, and cannot use up the caps of others by it.
    ``asked`` is in the order of time.
    """
    texts = [_identity(sample, question) for sample, question in asked]
    names = duplicates.clusters(texts)
    members: dict[str, list[int]] = defaultdict(list)
    breadth: dict[str, set[str]] = defaultdict(set)
    for position, name in enumerate(names):
        members[name].append(position)
        breadth[asked[position][0].unit].add(name)
    items = []
    for name, positions in members.items():
        group = [asked[p][0] for p in positions]
        people = {s.unit for s in group if not s.unit_is_fallback}
        speaker, question = min(
            (asked[p] for p in positions), key=lambda pair: (pair[0].unit_is_fallback, len(breadth[pair[0].unit]))
        )
        items.append(
            Item(
                cluster=name,
                hashes=tuple(sorted({duplicates.text_hash(texts[p]) for p in positions})),
                question=question,
                history=tuple(speaker.messages[:-1]),
                answers=agreed_reference(group),
                unit=speaker.unit,
                fallback=speaker.unit_is_fallback,
                key=speaker.key,
                weight=float(max(1, min(3, len(people)))),
                representative=any(s.reservoir == "representative" for s in group),
                origin=speaker.id,
            )
        )
    return sorted(items, key=lambda i: i.cluster)


def _identity(sample: Sample, question: str) -> str:
    """What makes two exchanges the same question: the question and the turns before it, without the application's own
    text.
    """
    turns = [m.content for m in sample.messages[:-1] if m.role != "system"]
    return "\n".join([*turns, question])


def agreed_reference(group: Sequence[Sample]) -> tuple[str, ...]:
    """What most units said the answer should have been: one vote per unit, the last one counts, a tie says nothing.

    Votes of units that are only a fallback hash count as one vote together per key, so a single key cannot outvote
    people by inventing units.
    """
    votes: dict[str, str] = {}
    for sample in group:
        if sample.reference and sample.reference.strip():
            voter = f"key:{sample.key}" if sample.unit_is_fallback else sample.unit
            votes[voter] = sample.reference.strip()
    counted = Counter(duplicates.normal_form(v) for v in votes.values())
    if not counted:
        return ()
    (best, n), *rest = counted.most_common()
    if rest and rest[0][1] == n:
        return ()
    spelled = Counter(v for v in votes.values() if duplicates.normal_form(v) == best)
    return (min(spelled, key=lambda v: (-spelled[v], v)),)


def split_of(item: Item, spent: frozenset[str]) -> Split | None:
    """Where an item belongs: a function of its cluster's hash and of whether it has confirmed a run before.

    Items that are known only from the failures reservoir would bend every score they enter: they are shown to the
    analyser when the hash says ``reflect``, and else left out, so that they cannot leak into a later holdout.
    """
    bucket = int(hashlib.sha256(f"split|{item.cluster}".encode()).hexdigest()[:8], 16) % 100
    if not item.representative:
        return "reflect" if bucket < 20 else None
    if bucket < 20:
        return "reflect"
    if bucket < 50:
        return "select"
    if spent.isdisjoint({item.cluster, *item.hashes}):
        return "holdout"
    return "reflect" if bucket < 70 else "select"
