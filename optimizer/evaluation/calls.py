"""The one path of every model call: look in the journal, hold the budget, ask the model, keep the reply, book it.

Each distinct request is paid for once per run. A repeat is answered from the journal, a request that is in the air
already is waited for, and a request that an interrupted session paid for is read back and booked as paid, so that a
resumed run counts and stops as an undisturbed one.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence

import msgspec

from optimizer.errors import BudgetSpent, JournalError, ModelError, RunBlocked
from optimizer.models import Backend
from optimizer.records import Completion, ModelRole, Request
from optimizer.run.journal import Journal, Kept
from optimizer.run.spending import Spending
from optimizer.waves import first_of

_encode = msgspec.json.Encoder(order="deterministic").encode

_NEED: Mapping[ModelRole, str] = {
    "base": "Add `models: base:` to the search file",
    "optimizer": "This method rewrites prompts: add `models: optimizer:`, or take --method sprig",
    "judge": "A rubric needs a judge model: add `models: judge:` to the search file",
    "audit_judge": "A second opinion needs an audit judge: add `models: audit_judge:` to the search file",
}


class Calls:
    """All model calls of one run. Raises ``EndpointRefused``, ``EndpointDown``, ``JournalError`` and
    ``BudgetSpent``."""

    def __init__(
        self,
        backends: Mapping[ModelRole, Backend],
        journal: Journal,
        spending: Spending,
        *,
        clock: Callable[[], float],
        on_paid: Callable[[], None],
    ) -> None:
        self._backends = backends
        self._journal = journal
        self._spending = spending
        self._clock = clock
        self._on_paid = on_paid
        self._seen: set[bytes] = set()
        self._flying: dict[bytes, asyncio.Future[Completion]] = {}
        self._landed = asyncio.Event()
        self._unkept: list[tuple[Kept, asyncio.Future[None]]] = []

    async def replies(self, requests: Sequence[Request], *, judged: bool = False) -> list[Completion]:
        """The replies to ``requests`` (all of one role), in order.

        The calls that are new are held against the budget together, before the first of them is made. ``judged``: each
        new reply will be judged by a model, so the budget must have room for that call too.
        """
        if not requests:
            return []
        role = requests[0].role
        backend = self._backend(role)
        keys = [key_of(backend.identity, request) for request in requests]
        wanted = dict(zip(keys, requests, strict=True))
        self._spending.asked(role, len(requests))
        replies = await self._settle(backend, wanted, judged=judged)
        for _ in range(len(keys) - len(wanted)):
            self._spending.hit(role)
        return [replies[key] for key in keys]

    async def _settle(
        self, backend: Backend, wanted: Mapping[bytes, Request], *, judged: bool = False
    ) -> dict[bytes, Completion]:
        """Replies from the journal, from calls that another block has in the air, and for the rest from the model.

        There is no await between looking and marking what is in the air, so no request can be paid for twice.
        """
        fresh = {key: request for key, request in wanted.items() if key not in self._seen and key not in self._flying}
        self._spending.hold(len(fresh) * (2 if judged else 1))
        self._spending.release(len(fresh) if judged else 0)  # only looked ahead: the judge's calls hold their own
        held = len(fresh)
        try:
            replies = self._journal.find(list(wanted))
            for key in replies:
                role = wanted[key].role
                if key in self._seen:
                    self._spending.hit(role)
                else:
                    self._seen.add(key)
                    self._spending.paid(role, replies[key], replayed=True)
            missing = [(key, request) for key, request in fresh.items() if key not in replies]
            self._spending.release(held - len(missing))
            held = len(missing)
            flying = {key: self._flying[key] for key in wanted if key in self._flying and key not in replies}
            replies.update(await self._pay(backend, missing))
        finally:
            self._spending.release(held)
        for key, future in flying.items():
            await asyncio.wait([future])
            if future.cancelled():  # the block that was paying for it was given up: pay here
                replies.update(await self._settle(backend, {key: wanted[key]}))
            else:
                replies[key] = future.result()
                self._spending.hit(wanted[key].role)
        return replies

    async def _pay(self, backend: Backend, missing: Sequence[tuple[bytes, Request]]) -> dict[bytes, Completion]:
        """Make the calls, at most ``backend.concurrency`` of this block at once. The first failure stops the block; a
        spent budget lets the calls in the air land first."""
        replies: dict[bytes, Completion] = {}
        loop = asyncio.get_running_loop()
        for key, _ in missing:
            self._flying[key] = loop.create_future()
        queue = iter(missing)
        spent: list[BudgetSpent] = []

        async def work() -> None:
            for key, request in queue:
                if spent:
                    return
                try:
                    replies[key] = await self._call(backend, key, request)
                except BudgetSpent as error:
                    spent.append(error)

        try:
            if len(missing) == 1:
                await work()
            elif missing:
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(backend.concurrency, len(missing))):
                        group.create_task(work())
            if spent:
                raise spent[0]
        except BaseExceptionGroup as failures:
            raise first_of(failures, ModelError, JournalError) from None
        finally:
            for key, _ in missing:
                future = self._flying.pop(key)
                if not future.done():
                    future.cancel()
        return replies

    async def _call(self, backend: Backend, key: bytes, request: Request) -> Completion:
        """One call. Its reply is committed to the journal before anybody sees it."""
        while (held := self._spending.hold_usd(request)) is None:
            self._landed.clear()
            await self._landed.wait()
        try:
            reply = await backend.complete(request)
        except ModelError as error:
            raise type(error)(
                f"{error} (the call: {request.role} model, {request.purpose or 'no purpose given'})"
            ) from error
        else:
            await self._kept((key, request.role, request.purpose, reply, self._clock()))
            self._seen.add(key)
            self._spending.paid(request.role, reply, replayed=False)
        finally:
            self._spending.release_usd(held)
            self._landed.set()
        self._flying[key].set_result(reply)
        self._on_paid()
        return reply

    async def _kept(self, row: Kept) -> None:
        """Commit one reply. Replies that came in the same turn of the loop are committed together, which is cheaper;
        nobody goes on before that is done."""
        loop = asyncio.get_running_loop()
        if not self._unkept:
            loop.call_soon(self._commit)
        committed = loop.create_future()
        self._unkept.append((row, committed))
        await committed

    def _commit(self) -> None:
        unkept, self._unkept = self._unkept, []
        failure: JournalError | None = None
        try:
            self._journal.keep(*(row for row, _ in unkept))
        except JournalError as error:
            failure = error
        for _, committed in unkept:
            if committed.done():
                continue  # who waited was cancelled; the reply is kept all the same
            if failure is None:
                committed.set_result(None)
            else:
                committed.set_exception(failure)

    def _backend(self, role: ModelRole) -> Backend:
        backend = self._backends.get(role)
        if backend is None:
            raise RunBlocked(f"No model plays the role {role}. {_NEED[role]}.")
        return backend


def key_of(identity: str, request: Request) -> bytes:
    """What makes two calls the same: the model, everything sent to it, and the number of the draw. The role and the
    purpose do not count, and no text is ever cut short."""
    content = _encode(
        [identity, request.messages, request.temperature, request.max_tokens, request.schema, request.sample]
    )
    return hashlib.blake2b(content, digest_size=20).digest()
