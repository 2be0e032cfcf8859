"""Webhooks: what is told, once, signed; and again when nobody answered."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from jobs import tell
from jobs.errors import NoWork
from jobs.schedule import due
from registry import Approval, Registry, Settings
from tests.jobs.conftest import Clock, with_shop, work_for

SECRET = "whsec_" + base64.b64encode(b"a secret of the receiver").decode()


class Receiver:
    """An operator's endpoint: answers ``status`` and keeps what it got."""

    def __init__(self) -> None:
        self.status = 200
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        self.got.append((dict(request.headers), await request.read()))
        return web.Response(status=self.status)

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.got]


@pytest_asyncio.fixture(loop_scope="function")
async def receiver() -> AsyncIterator[Receiver]:
    end = Receiver()
    app = web.Application()
    app.router.add_post("/hook", end.take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    end.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    yield end
    await runner.cleanup()


def with_hook(settings: Settings, url: str) -> Settings:
    gateway = settings.gateway.model_copy(update={"webhooks": [url], "webhook_secret": SECRET})
    return settings.model_copy(update={"gateway": gateway})


async def test_a_promotion_a_rollback_and_an_approval_are_told_once(
    registry: Registry, settings: Settings, clock: Clock, receiver: Receiver
) -> None:
    await with_shop(registry)
    second = await registry.add_version("shop", "You are brief.", lineage=registry_lineage())
    await registry.promote("shop", second.number, actor="ops", why="reads better")
    await registry.rollback("shop", actor="ops", why="it did not")
    await registry.put_approval(
        Approval(id="a1", domain="shop", version=2, kind="canary", asked_at=clock(), reason="first promotion")
    )
    work = work_for(registry, with_hook(settings, receiver.url), clock, "tell")
    await tell.run(work)
    await tell.run(work)
    kinds = [event["type"] for event in receiver.events if event["data"].get("actor") in ("ops", None)]
    assert sorted(kinds) == ["approval_needed", "promotion", "rollback"]
    rollback = next(event for event in receiver.events if event["type"] == "rollback")
    assert (rollback["domain"], rollback["data"]["why"]) == ("shop", "it did not")


def registry_lineage() -> Any:
    from registry import Lineage

    return Lineage(author="test")


async def test_the_signature_is_the_standard_one(
    registry: Registry, settings: Settings, clock: Clock, receiver: Receiver
) -> None:
    await with_shop(registry)
    await tell.run(work_for(registry, with_hook(settings, receiver.url), clock, "tell"))
    assert receiver.got
    for headers, body in receiver.got:
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        expected = base64.b64encode(hmac.new(b"a secret of the receiver", signed, hashlib.sha256).digest()).decode()
        assert headers["webhook-signature"] == f"v1,{expected}"


async def test_what_was_not_taken_is_told_again_with_the_same_id(
    registry: Registry, settings: Settings, clock: Clock, receiver: Receiver
) -> None:
    await with_shop(registry)
    work = work_for(registry, with_hook(settings, receiver.url), clock, "tell")
    receiver.status = 503
    assert "0 told" in await tell.run(work)
    receiver.status = 204
    await tell.run(work)
    first, second = (headers["webhook-id"] for headers, _ in receiver.got)
    assert first == second
    clock.now += 2 * tell.LOOK_BACK
    await tell.run(work)
    assert len(receiver.got) == 2


async def test_nobody_to_tell(registry: Registry, settings: Settings, clock: Clock) -> None:
    with pytest.raises(NoWork, match="webhooks"):
        await tell.run(work_for(registry, settings, clock, "tell"))
    assert not [t for t in due([], settings, clock() - 60, clock()) if t.job == "tell"]
    assert [t for t in due([], with_hook(settings, "http://127.0.0.1:1"), clock() - 60, clock()) if t.job == "tell"]
