"""The house that tests of the control plane live in: a real registry on an embedded server, the API on a real
socket.
"""

from __future__ import annotations

import asyncio
import io
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvicorn

from gateway.api import Control, create_api
from gateway.api.control import Readiness
from gateway.auth import KeyRing
from gateway.feedback import FLEET_SECRET, SignedIds
from gateway.metrics import GatewayMetrics
from registry import Domain, EmbeddedRedis, Lineage, Registry, RegistryUnavailable, Signer

NOW = 1_800_000_000.0
_houses = itertools.count()


@dataclass
class Clock:
    """A clock that moves when it is told to."""

    now: float = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    """One server for all tests; each test has a prefix of its own."""
    with EmbeddedRedis.start(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def registry(embedded: EmbeddedRedis, clock: Clock) -> AsyncIterator[Registry]:
    registry = await Registry.connect(
        embedded.url, clock=clock, signer=Signer.create(b"s" * 32), prefix=f"house{next(_houses)}"
    )
    yield registry
    await registry.close()


@dataclass
class Answer:
    """A reply: status, headers, and the body as JSON (or text)."""

    status: int
    headers: dict[str, str]
    body: Any
    text: str

    @property
    def error(self) -> dict[str, Any]:
        """The error, checked for its shape."""
        assert set(self.body["error"]) == {"message", "type", "param", "code"}, self.text
        assert isinstance(self.body["error"]["message"], str)
        return self.body["error"]


@dataclass
class House:
    """The API at ``url``, its registry, and keys of each role."""

    url: str
    registry: Registry
    control: Control
    clock: Clock
    session: aiohttp.ClientSession
    keys: dict[str, str] = field(default_factory=dict)
    key_ids: dict[str, str] = field(default_factory=dict)
    down: bool = False

    async def refresh(self) -> None:
        """What the snapshot watcher does: take a new snapshot."""
        snapshot = await self.registry.snapshot()
        self.control.keys.load(snapshot)
        self.control.metrics.load(snapshot)

    async def ask(self, method: str, path: str, body: Any = None, *, role: str = "operator", **headers: str) -> Answer:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if role:
            sent["authorization"] = f"Bearer {self.keys[role]}"
        raw = {"data": io.BytesIO(body)} if isinstance(body, bytes) else {"json": body} if body is not None else {}
        async with self.session.request(method, self.url + path, headers=sent, **raw) as reply:
            text = await reply.text()
            parsed = await reply.json() if reply.content_type == "application/json" else None
            return Answer(reply.status, {k.lower(): v for k, v in reply.headers.items()}, parsed, text)

    async def get(self, path: str, **more: Any) -> Answer:
        return await self.ask("GET", path, **more)

    async def post(self, path: str, body: Any = None, **more: Any) -> Answer:
        return await self.ask("POST", path, {} if body is None else body, **more)


@asynccontextmanager
async def served(app: Any) -> AsyncIterator[str]:
    """An ASGI application on a loopback port, in this event loop."""
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical", ws="none", lifespan="off")
    )
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        server.force_exit = True
        await task


@asynccontextmanager
async def opened(registry: Registry, clock: Clock, folder: Path) -> AsyncIterator[House]:
    """The control plane with one domain ``support`` (versions 1 and 2, 1 is stable) and a key of each role."""
    await registry.put_domain(Domain(name="support"), actor="test")
    for text in ("You are a helpful assistant.", "You are a brief assistant."):
        await registry.add_version("support", text, lineage=Lineage(author="test"))
    await registry.promote("support", 1, actor="test", why="first")
    ids = SignedIds(await registry.secret(FLEET_SECRET), clock=clock)

    async def connected() -> Registry:
        if house.down:
            raise RegistryUnavailable("The registry does not answer.")
        return registry

    control = Control(
        registry=connected,
        keys=KeyRing(clock),
        ids=lambda: ids,
        metrics=GatewayMetrics(folder),
        readiness=lambda: Readiness(True, 0.25, not house.down),
        clock=clock,
    )
    async with served(create_api(control)) as url, aiohttp.ClientSession() as session:
        house = House(url, registry, control, clock, session)
        for role in ("operator", "viewer", "caller"):
            record, house.keys[role] = await registry.create_key(f"the {role}", role)
            house.key_ids[role] = record.id
        await house.refresh()
        yield house


@pytest.fixture
async def house(registry: Registry, clock: Clock, tmp_path: Path) -> AsyncIterator[House]:
    """See `opened`."""
    async with opened(registry, clock, tmp_path) as house:
        yield house
