"""Who may shape a task, and how much: nobody alone.

An item is one near-duplicate cluster. One unit (an end user) brings at most a few items and a small share of a task;
one key (an application) brings at most its share when other keys speak in the task too. Which items stay is decided
by the hash of the cluster, so a caller cannot choose them by being early or loud.

Where a unit is only the gateway's fallback hash it proves no distinct person. An item is a cluster already, so
clusters are counted then; the task is marked, and promotion is left to a person (``policy.py``).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Protocol, TypeVar

ITEMS_PER_UNIT = 3
UNIT_SHARE = 0.02
KEY_SHARE = 0.5
VOICE = 0.05
"""Other keys with together at least this share of a task are voices that one key must not drown."""


class Attributed(Protocol):
    """What a cap looks at."""

    @property
    def cluster(self) -> str: ...
    @property
    def unit(self) -> str: ...
    @property
    def key(self) -> str: ...


T = TypeVar("T", bound=Attributed)


def cap_units(items: Sequence[T], per_unit: int = ITEMS_PER_UNIT, share: float = UNIT_SHARE) -> list[T]:
    """At most ``per_unit`` items of one unit, and at most ``share`` of the task (never less than one item)."""
    kept = _first_per(items, per_unit)
    return _first_per(kept, max(1, min(per_unit, int(share * len(kept)))))


def _first_per(items: Sequence[T], most: int) -> list[T]:
    taken: Counter[str] = Counter()
    kept = []
    for item in sorted(items, key=lambda i: i.cluster):
        taken[item.unit] += 1
        if taken[item.unit] <= most:
            kept.append(item)
    return kept


def cap_keys(items: Sequence[T], share: float = KEY_SHARE) -> list[T]:
    """No key brings more than ``share`` of what is kept, when the other keys are voices.

    With one key, or with others too faint to carry a task, nothing is cut: see ``loudest``, which the policy reads.
    """
    by_key: dict[str, list[T]] = defaultdict(list)
    for item in sorted(items, key=lambda i: i.cluster):
        by_key[item.key].append(item)
    if len(by_key) < 2:
        return list(items)
    loud = max(by_key, key=lambda k: (len(by_key[k]), k))
    others = len(items) - len(by_key[loud])
    if others < VOICE * len(items):
        return list(items)
    by_key[loud] = by_key[loud][: max(1, int(others * share / (1 - share)))]
    return sorted((i for group in by_key.values() for i in group), key=lambda i: i.cluster)


def loudest(items: Sequence[Attributed]) -> float:
    """The share of the loudest key where there is more than one key, else 0."""
    counted = Counter(i.key for i in items)
    return max(counted.values()) / len(items) if len(counted) > 1 else 0.0
