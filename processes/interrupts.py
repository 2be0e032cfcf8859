"""Ctrl-C, SIGTERM and a closed terminal, at any moment but the wrong one."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any


class Interrupts:
    """Ctrl-C, SIGTERM and a closed terminal as KeyboardInterrupt, except while they are held back.

    They are held between the birth of a process and its entry in the books, and while a tree ends: whatever comes then
    is raised afterwards, or dropped when the tree is at its end.
    """

    def __init__(self) -> None:
        self._holders = 0
        self._pending = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> None:
        for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._before[name] = signal.signal(name, self._arrived)

    def __exit__(self, *_: object) -> None:
        for name, handler in self._before.items():
            signal.signal(name, handler)

    def _arrived(self, *_: object) -> None:
        if not self._holders:
            raise KeyboardInterrupt
        self._pending = True

    @contextlib.contextmanager
    def held(self, *, drop: bool = False) -> Iterator[None]:
        """Hold interrupts back in the block. They reach only the main thread: elsewhere there is nothing to hold."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._holders += 1
        try:
            yield
        finally:
            self._holders -= 1
        if self._pending and not self._holders:
            self._pending = False
            if not drop:
                raise KeyboardInterrupt


interrupts = Interrupts()
"""Of this process: ``with interrupts:`` around whatever starts a tree."""
