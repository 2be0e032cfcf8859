"""A running search, told to whoever follows it, and stopped when its domain or the run itself is taken away."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from types import TracebackType
from typing import Any, TypeVar

import msgspec

import optimizer
from jobs import convert
from jobs.errors import JobsError
from jobs.process import end_tasks
from jobs.work import Work
from registry import NotFound, RegistryUnavailable, Run

EVERY = 0.5
LOOK_EVERY = 3.0
"""Seconds between two looks whether the domain still exists and nobody cancelled the run."""
MOST_WAITING = 2_000
"""Events kept while the registry is away; then progress is dropped first, since the next one says more."""

T = TypeVar("T")


class Gone(JobsError):
    """What the run was for does not exist any more. ``cause`` is a metric label."""

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


class Follower:
    """Carries a search's events to the registry while it runs. ``on_event`` never blocks and never raises."""

    def __init__(self, work: Work, run: Run) -> None:
        self.work = work
        self.run = run
        self._waiting: deque[optimizer.Event] = deque()
        self._over = False
        self._pump: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Follower:
        self._pump = asyncio.create_task(self._pumping())
        self._watch = asyncio.create_task(self._watching())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._over = True
        await end_tasks(self._pump, self._watch)
        with contextlib.suppress(RegistryUnavailable, NotFound):
            await self._flush()

    def on_event(self, event: optimizer.Event) -> None:
        if event.kind == "progress" and self._waiting and self._waiting[-1].kind == "progress":
            self._waiting[-1] = event
        elif event.kind != "progress" or len(self._waiting) < MOST_WAITING:
            self._waiting.append(event)

    async def until_done(self, searching: asyncio.Future[T]) -> T:
        """The search's result. Raises Gone, after stopping the search, when the run has lost its purpose; cancelling
        this
        cancels the search."""
        assert self._watch is not None
        try:
            both: set[asyncio.Future[Any]] = {searching, self._watch}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not searching.done():
                await self._watch
            return await searching
        finally:
            await end_tasks(searching)

    async def _pumping(self) -> None:
        while not self._over:
            await asyncio.sleep(EVERY)
            with contextlib.suppress(RegistryUnavailable, NotFound):
                await self._flush()

    async def _flush(self) -> None:
        while self._waiting:
            event = self._waiting[0]
            told: dict[str, Any] = convert.plain(msgspec.to_builtins(event))
            await self.work.registry.append_run_event(self.run.id, told)
            if self._waiting and self._waiting[0] is event:
                self._waiting.popleft()

    async def _watching(self) -> None:
        """Ends by raising Gone, or with the follower."""
        while not self._over:
            await asyncio.sleep(LOOK_EVERY)
            try:
                await self.work.registry.get_domain(self.run.domain)
                now = await self.work.registry.get_run(self.run.id)
            except NotFound as error:
                raise Gone(
                    "domain_deleted", f"The domain {self.run.domain!r} was deleted while the run was under way."
                ) from error
            except RegistryUnavailable:
                continue
            if now.state == "cancelled":
                raise Gone("cancelled", now.reason or "The run was cancelled by an operator.")
