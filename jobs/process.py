"""A long-lived process of ours: its name among the others, and its end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import uuid
from collections.abc import Awaitable, Callable
from typing import Any


def holder_name() -> str:
    """This process in leases and logs: host, pid and a few random digits, since pids come again."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:6]}"


async def until_told(main: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run ``main(stop)`` with ``stop`` set at SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        await main(stop)
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def end_tasks(*tasks: asyncio.Future[Any] | None, again_after: float = 2.0) -> None:
    """Cancel and wait until all have ended, asking again where a cancellation got lost.

    It can: in Python 3.11 ``asyncio.wait_for`` returns a result that arrives in the same instant and forgets that it
    was cancelled, and the Redis client uses it.
    """
    alive = {task for task in tasks if task is not None and not task.done()}
    while alive:
        for task in alive:
            task.cancel()
        _, alive = await asyncio.wait(alive, timeout=again_after)
    await asyncio.gather(*(task for task in tasks if task is not None), return_exceptions=True)
