"""Calls that belong together go out together: one wave, awaited as a whole, so that nothing runs on behind an error."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

from optimizer.errors import BudgetSpent, OptimizerError

T = TypeVar("T")


async def together(calls: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of ``calls``, in order.

    A spent budget lets the rest of the wave land (it was admitted and is paid for) before ``BudgetSpent`` is raised.
    Any other error cancels the rest at once.
    """
    landed: dict[int, T] = {}
    spent: list[BudgetSpent] = []

    async def landing(place: int, call: Coroutine[Any, Any, T]) -> None:
        try:
            landed[place] = await call
        except BudgetSpent as error:
            spent.append(error)

    try:
        async with asyncio.TaskGroup() as group:
            for place, call in enumerate(calls):
                group.create_task(landing(place, call))
    except BaseExceptionGroup as failures:
        raise first_of(failures, OptimizerError) from None
    if spent:
        raise spent[0]
    return [landed[place] for place in sorted(landed)]


def first_of(failures: BaseExceptionGroup[BaseException], *ours: type[BaseException]) -> BaseException:
    """The failure to report of several that happened at once: one of ``ours`` rather than a stranger's."""
    flat: list[BaseException] = []
    todo: list[BaseException] = [failures]
    while todo:
        error = todo.pop(0)
        if isinstance(error, BaseExceptionGroup):
            todo.extend(error.exceptions)
        else:
            flat.append(error)
    return next((error for error in flat if isinstance(error, ours)), flat[0])
