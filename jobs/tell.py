"""Job ``tell``: webhooks. Tells the addresses of ``gateway.webhooks`` of promotions, rollbacks and approvals that wait.

A message is a POST with a JSON body, signed as the Standard Webhooks specification (standardwebhooks.com) says: headers
``webhook-id``, ``webhook-timestamp`` and ``webhook-signature`` (``v1,`` and the base64 HMAC-SHA256 of
``id.timestamp.body`` under ``gateway.webhook_secret``). The id is the same for every attempt, so that a receiver can
tell a repeat. What was told is remembered for two days by an atomic count per event and address; a delivery that fails
is tried again with the next rounds, for an hour.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterator
from typing import Any

import aiohttp
import msgspec

from jobs.errors import NoWork
from jobs.work import Work
from registry import Approval, AuditEntry

LOOK_BACK = 3600.0
"""Seconds for which an event is worth telling."""
PATIENCE = aiohttp.ClientTimeout(total=5)
REMEMBER = 2 * 86_400.0
KINDS = {"promote": "promotion", "rollback": "rollback"}


class Event(msgspec.Struct, frozen=True):
    """One thing to tell. ``id`` is the same whoever tells it."""

    id: str
    type: str
    at: float
    domain: str
    data: dict[str, Any]


async def run(work: Work) -> str:
    """Tell what has happened in the last hour and was not told yet. Raises NoWork without an address."""
    addresses = work.settings.gateway.webhooks
    if not addresses:
        raise NoWork("no_webhooks", "No address to tell: set `gateway.webhooks`.")
    events = await recent(work)
    told = failed = 0
    async with aiohttp.ClientSession(timeout=PATIENCE) as session:
        for event in events:
            for address in addresses:
                if await claim(work, event, address):
                    if await deliver(session, address, event, work.settings.gateway.webhook_secret, work.clock()):
                        told += 1
                    else:
                        failed += 1
                        await count(work, event, address, -1)
    return f"{told} told, {failed} not delivered yet"


async def recent(work: Work) -> list[Event]:
    """Moves and waiting approvals of the last hour, the oldest first."""
    since = work.clock() - LOOK_BACK
    events = list(waiting(await work.registry.list_approvals(), since))
    for name, view in (await work.registry.snapshot()).domains.items():
        if view.deployment.moved_at >= since:
            events += moves(await work.registry.history(name, 50, moves_only=True), since)
    return sorted(events, key=lambda event: event.at)


def moves(entries: list[AuditEntry], since: float) -> Iterator[Event]:
    """Promotions and rollbacks among audit entries, a canary's rollback too."""
    for entry in entries:
        if entry.kind in KINDS and entry.at >= since:
            after = entry.after
            data = {
                "stable": after.stable if after else None,
                "previous": after.previous if after else None,
                "actor": entry.actor,
                "why": entry.why,
            }
            yield Event(f"{entry.domain}-{entry.seq}", KINDS[entry.kind], entry.at, entry.domain, data)


def waiting(approvals: list[Approval], since: float) -> Iterator[Event]:
    """Approvals that nobody has decided."""
    for approval in approvals:
        if not approval.decision and approval.asked_at >= since:
            data = {"approval": approval.id, "version": approval.version, "kind": approval.kind, "why": approval.reason}
            yield Event(f"approval-{approval.id}", "approval_needed", approval.asked_at, approval.domain, data)


async def claim(work: Work, event: Event, address: str) -> bool:
    """Whether it is ours to tell: the first to count is."""
    if await count(work, event, address, 1) == 1:
        return True
    await count(work, event, address, -1)
    return False


async def count(work: Work, event: Event, address: str, by: int) -> float:
    """Add to the count of tellings of one event to one address; the new count."""
    name = f"told-{hashlib.sha256(address.encode()).hexdigest()[:12]}"
    totals = await work.registry.add_usage({name: {event.id: float(by)}}, "webhooks", REMEMBER)
    return totals[name].get(event.id, 0.0)


async def deliver(session: aiohttp.ClientSession, address: str, event: Event, secret: str | None, now: float) -> bool:
    """Post one event; False when nobody answered with a 2xx in time."""
    body = msgspec.json.encode(event)
    headers = {"content-type": "application/json", **signature(event.id, int(now), body, secret)}
    try:
        async with session.post(address, data=body, headers=headers, allow_redirects=False) as answer:
            return 200 <= answer.status < 300
    except (aiohttp.ClientError, TimeoutError):
        return False


def signature(id: str, timestamp: int, body: bytes, secret: str | None) -> dict[str, str]:
    """The three headers; without a secret the signature is left out."""
    headers = {"webhook-id": id, "webhook-timestamp": str(timestamp)}
    if secret:
        key = base64.b64decode(secret.removeprefix("whsec_")) if secret.startswith("whsec_") else secret.encode()
        signed = hmac.new(key, f"{id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
        headers["webhook-signature"] = "v1," + base64.b64encode(signed).decode()
    return headers
