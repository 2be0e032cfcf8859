"""The number of the stored schema, and the numbered steps from each to the next.

A step is idempotent: it may be cut off and run again. Steps only ever go forward; an older program refuses a newer
schema instead of misreading it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from registry.connection import Connection
from registry.errors import Corrupt, Refused

Step = Callable[[Connection], Awaitable[None]]


async def _first(redis: Connection) -> None:
    """1: the layout of ``redis_keys.py``."""


STEPS: tuple[tuple[int, Step], ...] = ((1, _first),)
"""``(number, step)``: running the step of number N brings a registry of schema N - 1 to N."""


async def stored_schema(redis: Connection) -> int:
    """Number of the stored schema; 0 for an empty registry. Raises Corrupt."""
    raw = await redis.command("GET", redis.keys.schema)
    if raw is None:
        return 0
    try:
        return int(raw)
    except ValueError as error:
        raise Corrupt(f"The schema number of the registry is {raw[:40]!r}: something else wrote it.") from error


async def migrate(redis: Connection, steps: tuple[tuple[int, Step], ...] = STEPS) -> int:
    """Run the missing steps in order; returns the number reached. Raises Refused for a newer schema than ours."""
    reached = await stored_schema(redis)
    newest = steps[-1][0]
    if reached > newest:
        raise Refused(
            f"The registry has schema {reached}, this program knows up to {newest}:"
            " use the program that wrote it, or a newer one."
        )
    for number, step in steps:
        if number > reached:
            await step(redis)
            await redis.command("SET", redis.keys.schema, number)
            reached = number
    return reached
