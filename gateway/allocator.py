"""What the C library's allocator keeps of freed memory: enough for the next long bodies, and no more for long.

Python's own allocator holds small objects only. Bodies of more than 512 bytes are malloc's, and their freed pieces are
spread over a heap that shrinks at its end alone: after one burst of long bodies a worker would keep the burst's size
for ever. So freed memory is kept at once (a busy worker needs it again), and twice a minute whole free pages go back.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # malloc.h
KEPT = 2 << 20
"""Bytes at the heap's end that stay for the next requests."""
EVERY = 30.0
"""Seconds between two times that free pages are given back."""


def keep_freed_memory() -> None:
    """Ask glibc to keep freed memory for the next long body instead of giving it back each time (for 1 MB bodies half
    of the gateway's time went into fetching zeroed pages again), and to hold one arena, not one for each thread.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library: nothing to do
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in ((M_MMAP_THRESHOLD, 4 << 20), (M_TRIM_THRESHOLD, 16 << 20), (M_ARENA_MAX, 1)):
            mallopt(option, value)


async def give_back_free_pages(every: float = EVERY) -> None:
    """Give free pages back to the system again and again (some milliseconds after a burst, else a fraction of one)."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # another C library: nothing to do
        return
    while True:
        await asyncio.sleep(every)
        trim(ctypes.c_size_t(KEPT))
