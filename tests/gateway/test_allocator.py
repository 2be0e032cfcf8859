"""Freed memory goes back to the system."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

SCRIPT = """
import asyncio
from gateway.allocator import give_back_free_pages, keep_freed_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

keep_freed_memory()
bodies = [bytes(100_000) for _ in range(400)]
full = resident()
stays = bodies[::40]  # a few live on, all over the heap: its end cannot move back
del bodies
kept = resident()

async def main():
    task = asyncio.create_task(give_back_free_pages(every=0.01))
    await asyncio.sleep(0.1)
    task.cancel()

asyncio.run(main())
print(full - kept, full - resident(), sum(map(len, stays)))
"""


def test_a_burst_of_long_bodies_is_given_back() -> None:
    if not hasattr(ctypes.CDLL(None), "malloc_trim"):
        pytest.skip("not glibc: nothing is given back by hand")
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    at_once, later, _ = map(int, done.stdout.split())
    assert at_once < 10 << 20, "freed memory is kept for the next bodies"
    assert later > 25 << 20, "and given back soon after"
