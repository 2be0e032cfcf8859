"""How many exchanges may be kept: an hour's room shared out by task, key and unit, and rates by the second.

The hour's cap is divided among the tasks that are seen, so that a loud task does not silence a rare one; room that is
not used is given out as the hour passes. One unit and one key have caps of their own.
"""

from __future__ import annotations

from math import ceil
from zlib import crc32

from registry import SamplePolicy


def drawn(identity: str, share: float) -> bool:
    """Whether this id is among the share that is kept: the same answer for the same id, everywhere."""
    return crc32(identity.encode()) < share * 2**32  # ids are random already: this only spreads them evenly


MOST_TASKS = 50
"""Task names of an hour that get room of their own: callers make them up, so there must be an end."""
LONGEST_TASK = 128
"""Characters of such a name."""
OTHER = "other"
"""The task of all further ones; curation watches it and learns nothing from it."""


class HourlyRoom:
    """How much of one domain's hour is taken, by task, key and unit."""

    def __init__(self, hour: int) -> None:
        self.hour = hour
        self.total = 0
        self.told = 0
        """How many of ours the fleet knows of."""
        self.others = 0
        """How many the rest of the fleet has taken, when we last heard."""
        self._tasks: dict[str, int] = {}
        self._keys: dict[str, int] = {}
        self._units: dict[str, int] = {}

    def stratum(self, task: str) -> str:
        """The task itself, cut to `LONGEST_TASK`, or `OTHER` when there are too many."""
        task = task[:LONGEST_TASK]
        return task if task in self._tasks or len(self._tasks) < MOST_TASKS else OTHER

    def take(
        self, policy: SamplePolicy, task: str, key: str, unit: str, *, into: float, per_unit: int, key_share: float
    ) -> bool:
        """Take one place, ``into`` (0..1) the hour; False when task (a `stratum`), key or unit has had its share."""
        cap = policy.per_hour
        mine = self._tasks.setdefault(task, 0)
        keys = self._keys
        keys.setdefault(key, 0)
        if self.total + self.others >= cap or self._units.get(unit, 0) >= per_unit:
            return False
        if len(keys) > 1 and keys[key] >= ceil(cap * key_share):
            return False
        if mine >= ceil(cap / len(self._tasks)) and self.total + self.others >= cap * into:
            return False
        self.total += 1
        self._tasks[task] = mine + 1
        keys[key] += 1
        self._units[unit] = self._units.get(unit, 0) + 1
        return True


class PerSecond:
    """At most so many a second."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._second = 0
        self._count = 0

    def take(self, now: float) -> bool:
        second = int(now)
        if second != self._second:
            self._second, self._count = second, 0
        self._count += 1
        return self._count <= self._limit
