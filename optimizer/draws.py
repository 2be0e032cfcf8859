"""Seeded randomness: every random choice of a search has a stream of its own, named by what it decides.

A stream depends on the run's seed and its name alone, so a resumed run, or one whose calls finish in another order,
chooses the same.
"""

from __future__ import annotations

import random


def stream(seed: int, *names: object) -> random.Random:
    """The random stream called ``names`` of the run with ``seed``."""
    return random.Random(f"{seed}:" + ":".join(map(str, names)))  # noqa: S311 -- choices of a search, no secrets
