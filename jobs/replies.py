"""Every paid reply of a run is also kept in the registry while the run is under way.

The optimizer's journal lies on the disk of the machine that runs the search. When that machine is gone, another
worker takes the run over with an empty journal; then these backends answer what was paid for before, and only the
rest is paid for. They stand between the search and its models and know nothing of either.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Literal, cast

import msgspec

import optimizer
from jobs.errors import NoWork
from jobs.process import end_tasks
from jobs.work import Work
from registry import NotFound, RegistryUnavailable, Run

DAY = 86_400
BUDGET = "searching"
EVERY = 0.3
"""Seconds for which replies are gathered before they are written: what a killed worker may have to pay again."""

_Role = Literal["base", "optimizer", "judge", "audit_judge"]
_ROLES: tuple[_Role, ...] = ("base", "optimizer", "judge", "audit_judge")
_reply = msgspec.json.Decoder(optimizer.Completion)


class Kept:
    """The replies of one run: those of earlier workers, and those of this one on their way to the registry."""

    def __init__(self, work: Work, run_id: str, known: Mapping[str, bytes]) -> None:
        self.work = work
        self.run_id = run_id
        self._known = dict(known)
        self._fresh: dict[str, bytes] = {}
        self._spent = {"calls": 0.0, "usd": 0.0}
        self.over = ""
        """Why no further call may be paid today; empty while it may."""

    def find(self, name: str) -> optimizer.Completion | None:
        raw = self._known.pop(name, None)
        return _reply.decode(raw) if raw is not None else None

    def keep(self, name: str, reply: optimizer.Completion, role: _Role, model: optimizer.ModelSpec) -> None:
        """A reply that was just paid for: it is shared, and counts towards the day's budget and the metrics."""
        self._fresh[name] = msgspec.json.encode(reply)
        price_in, price_out = model.price_in or 0.0, model.price_out or 0.0
        usd = (reply.tokens_in * price_in + reply.tokens_out * price_out) / 1e6
        self._spent["calls"] += 1
        self._spent["usd"] += usd
        domain = self.run_id.rpartition("-")[0]
        self.work.metrics.run_calls.labels(domain, role).inc()
        self.work.metrics.run_cost.labels(domain, role).inc(usd)

    async def writing(self) -> None:
        """Write what is fresh, for ever. While the registry is away it waits here."""
        while True:
            await asyncio.sleep(EVERY)
            with contextlib.suppress(RegistryUnavailable, NotFound):
                await self.flush()

    async def flush(self) -> None:
        some = dict(self._fresh)
        await self.work.registry.keep_paid(self.run_id, some)
        for name in some:
            del self._fresh[name]
        spent, self._spent = self._spent, {"calls": 0.0, "usd": 0.0}
        if spent["calls"]:
            try:
                self.over = day_is_spent(self.work, await spent_today(self.work, spent))
            except BaseException:
                self._spent = {name: self._spent[name] + amount for name, amount in spent.items()}
                raise


async def spent_today(work: Work, more: Mapping[str, float]) -> dict[str, float]:
    """Add to what the fleet's searches have spent on this UTC day; returns the totals, ``calls`` and ``usd``.

    Failed and running searches count too. Money counts where the model's price is configured.
    """
    window = f"day-{int(work.clock() // DAY)}"
    return (await work.registry.add_usage({BUDGET: dict(more)}, window, 2.0 * DAY))[BUDGET]


async def within_daily_limits(work: Work) -> None:
    """Raises NoWork when the fleet has searched enough for this UTC day."""
    limits = work.settings.jobs
    if limits.search_calls_per_day is None and limits.search_usd_per_day is None:
        return
    told = day_is_spent(work, await spent_today(work, {"calls": 0.0}))
    if told:
        raise NoWork("daily_budget", told)


def day_is_spent(work: Work, spent: Mapping[str, float]) -> str:
    """What to say when ``spent`` reaches a limit of the day; empty while it does not."""
    limits = work.settings.jobs
    calls, usd = int(spent.get("calls", 0.0)), spent.get("usd", 0.0)
    work.metrics.spent("search", (calls, limits.search_calls_per_day), (usd, limits.search_usd_per_day))
    if limits.search_calls_per_day is not None and calls >= limits.search_calls_per_day:
        return f"Today's searches made {calls} calls; the limit is {limits.search_calls_per_day}."
    if limits.search_usd_per_day is not None and usd >= limits.search_usd_per_day:
        return f"Today's searches cost {usd:.2f} USD; the limit is {limits.search_usd_per_day:.2f}."
    return ""


class SharedBackend:
    """A model in one role whose replies are shared between the workers of a run."""

    def __init__(self, inner: optimizer.Backend, kept: Kept, role: _Role, model: optimizer.ModelSpec) -> None:
        self._inner = inner
        self._kept = kept
        self._role = role
        self._model = model
        self.identity = inner.identity
        self.concurrency = inner.concurrency

    @property
    def retries(self) -> int:
        return self._inner.retries

    async def complete(self, request: optimizer.Request) -> optimizer.Completion:
        name = request_name(self.identity, request)
        found = self._kept.find(name)
        if found is not None:
            return found
        if self._kept.over:
            raise optimizer.BudgetSpent(self._kept.over)
        async with self._kept.work.places.at(provider_of(self._model), self._model.concurrency):
            reply = await self._inner.complete(request)
        self._kept.keep(name, reply, self._role, self._model)
        return reply

    async def close(self) -> None:
        await self._inner.close()


class PlacedBackend:
    """A model whose every call takes a place at its provider."""

    def __init__(self, inner: optimizer.Backend, work: Work, model: optimizer.ModelSpec) -> None:
        self._inner = inner
        self._places = work.places
        self._model = model
        self.identity = inner.identity
        self.concurrency = inner.concurrency

    @property
    def retries(self) -> int:
        return self._inner.retries

    async def complete(self, request: optimizer.Request) -> optimizer.Completion:
        async with self._places.at(provider_of(self._model), self._model.concurrency):
            return await self._inner.complete(request)

    async def close(self) -> None:
        await self._inner.close()


def provider_of(model: optimizer.ModelSpec) -> str:
    """Whose places a call takes: all models at one address share them, whatever roles they play."""
    return model.api_base or model.model.partition("/")[0]


@asynccontextmanager
async def placed_backends(work: Work, spec: optimizer.SearchSpec) -> AsyncIterator[Mapping[_Role, optimizer.Backend]]:
    """The backends of short work whose replies need not outlive it: judging, replays."""
    backends: dict[_Role, optimizer.Backend] = {}
    try:
        for role in _ROLES:
            model = spec.models.role(role)
            if model is not None:
                inner = optimizer.open_backend(model, journal=cast(Any, None), note=_unnoted)
                backends[role] = cast(optimizer.Backend, PlacedBackend(inner, work, model))
        yield backends
    finally:
        for backend in backends.values():
            await backend.close()


def request_name(identity: str, request: optimizer.Request) -> str:
    """32 hex digits of everything that decides the reply; ``purpose`` is only for people."""
    decisive = msgspec.structs.replace(request, purpose="")
    return hashlib.sha256(msgspec.json.encode([identity, decisive], order="deterministic")).hexdigest()[:32]


@asynccontextmanager
async def shared_backends(
    work: Work, run: Run, spec: optimizer.SearchSpec
) -> AsyncIterator[Mapping[_Role, optimizer.Backend]]:
    """The backends of a search, sharing what run ``run`` (or the run it goes on with) has paid for."""
    plan = (run.result or {}).get("plan") or {}
    kept = Kept(work, plan.get("journal") or run.id, await work.registry.paid(plan.get("journal") or run.id))
    backends: dict[_Role, optimizer.Backend] = {}
    writing = asyncio.create_task(kept.writing())
    try:
        for role in _ROLES:
            model = spec.models.role(role)
            if model is not None:
                # Only batch endpoints note something in the journal, and jobs call models live.
                inner = optimizer.open_backend(model, journal=cast(Any, None), note=_unnoted)
                backends[role] = cast(optimizer.Backend, SharedBackend(inner, kept, role, model))
        yield backends
    finally:
        await end_tasks(writing)
        with contextlib.suppress(RegistryUnavailable, NotFound):
            await kept.flush()
        for backend in backends.values():
            await backend.close()


def _unnoted(_: str) -> None:
    """What a model could not take (a parameter, say) is in the endpoint's own log."""
