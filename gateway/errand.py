"""Running one exchange without a task: most requests wait once, and then for nothing but their upstream.

An :class:`Errand` drives a coroutine by hand. What it waits for of ours (a body, a reply) wakes it directly, in the
same turn of the loop; futures of others wake it as they wake a task. A step that needs a real :class:`asyncio.Task`
(a library's timeout, say) awaits :func:`in_task` first, and the coroutine goes on in one.

    waiter = parked(loop)   # noted by whoever will wake it ...
    await waiter
    wake(waiter)            # ... which does that once

Works in a task just as well: there :func:`parked` gives a plain future.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Any

_ENDS = (StopIteration, asyncio.CancelledError)
"""How a coroutine ends that did not fail."""


class Errand:
    """One coroutine, run from its first step in the turn of the loop in which it begins. ``on_done`` is called once,
    when it has ended."""

    __slots__ = ("_cancelled", "_coroutine", "_ended", "_loop", "_on_done", "_task", "_waits")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        coroutine: Coroutine[Any, Any, None],
        on_done: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._coroutine = coroutine
        self._on_done = on_done
        self._cancelled = False
        self._ended = False
        self._waits: asyncio.Future[Any] | None = None
        self._task: asyncio.Task[None] | None = None

    def __await__(self) -> Generator[Any, None, None]:
        yield self

    def resume(self, _future: object = None) -> None:
        """Run until it waits again. Called to begin, and by what it waits for."""
        self._waits = None
        outer, running.errand = running.errand, self
        try:
            if self._cancelled:
                self._cancelled = False
                waits = self._coroutine.throw(asyncio.CancelledError())
            else:
                waits = self._coroutine.send(None)
        except BaseException as error:
            running.errand = outer
            self._ended = True
            self._on_done()
            if not isinstance(error, _ENDS):
                raise
            return
        running.errand = outer
        if waits is self:  # parked: whoever it waits for knows it
            return
        if waits is _TASK:
            self._task = self._loop.create_task(self._coroutine)
            self._task.add_done_callback(self._task_done)
        elif waits is None:
            self._loop.call_soon(self.resume)
        else:
            waits._asyncio_future_blocking = False
            waits.add_done_callback(self.resume)
            self._waits = waits

    def cancel(self, msg: object = None) -> bool:
        """Raise CancelledError where it waits, soon."""
        if self._task is not None:
            return self._task.cancel(msg)
        if self._waits is None or not self._waits.cancel():
            self._cancelled = True
            self._loop.call_soon(self._interrupt)
        return True

    def _interrupt(self) -> None:
        if self._cancelled and self._waits is None and not self._ended:  # else it was woken meanwhile, or will be
            self.resume()

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._task = None
        self._ended = True
        if not task.cancelled():
            task.exception()
        self._on_done()


class _Running:
    """Which errand's step is being run. (An instance: each change of a class attribute makes Python forget what it
    knows of the class.)"""

    __slots__ = ("errand",)

    def __init__(self) -> None:
        self.errand: Errand | None = None


running = _Running()


class _InTask:
    def __await__(self) -> Generator[Any, None, None]:
        if running.errand is not None:
            yield self


_TASK = _InTask()


def in_task() -> _InTask:
    """To be awaited before what needs a task: an errand becomes one; in a task nothing happens."""
    return _TASK


def parked(loop: asyncio.AbstractEventLoop) -> asyncio.Future[None] | Errand:
    """What the running coroutine is to await until somebody calls :func:`wake` with it."""
    return running.errand or loop.create_future()


def wake(waiter: asyncio.Future[None] | Errand) -> None:
    """Let the one that waits go on: an errand at once, so call this last."""
    if type(waiter) is Errand:
        waiter.resume()
    elif not waiter.done():  # type: ignore[union-attr] # else it was cancelled
        waiter.set_result(None)  # type: ignore[union-attr]
