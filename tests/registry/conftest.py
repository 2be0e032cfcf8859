"""What the registry's tests share: servers that live for the whole session, a registry of its own for each test."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from registry import Domain, EmbeddedRedis, Lineage, Registry, RegistryUnavailable, Signer
from tests.registry import servers

NOW = 1_795_000_000.0
"""A fixed time, Friday in November 2026."""


@pytest.fixture(scope="session")
def short_tmp() -> Iterator[Path]:
    """A folder with a short name: paths of unix sockets may be only about 100 bytes long."""
    with tempfile.TemporaryDirectory(prefix="msr-") as name:
        yield Path(name)


@pytest.fixture(scope="session")
def embedded(short_tmp: Path) -> Iterator[EmbeddedRedis]:
    try:
        server = EmbeddedRedis.start(short_tmp / "e")
    except RegistryUnavailable as error:
        pytest.skip(str(error))
    with server:
        yield server


@pytest.fixture(scope="session")
def debian_url(short_tmp: Path) -> Iterator[str]:
    with servers.single(servers.debian_server(), short_tmp / "d", "--appendonly", "yes") as (url, _):
        yield url


@pytest.fixture(scope="session")
def old_url(short_tmp: Path) -> Iterator[str]:
    with servers.single(servers.old_server(), short_tmp / "o", "--appendonly", "yes") as (url, _):
        yield url


@pytest.fixture(scope="session")
def cluster_url(short_tmp: Path) -> Iterator[str]:
    try:
        servers.find_server()
    except RegistryUnavailable as error:
        pytest.skip(str(error))
    with servers.cluster(short_tmp / "c", durable=False) as (url, _):
        yield url


@pytest.fixture(params=["embedded", "debian", "old", "cluster"])
def url(request: pytest.FixtureRequest) -> str:
    """The same test against the embedded server, Debian's redis-server, Redis 6.2 and a real cluster."""
    if request.param == "embedded":
        return str(request.getfixturevalue("embedded").url)
    return str(request.getfixturevalue(f"{request.param}_url"))


class Clock:
    """A time that moves only when told."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def tick(self, seconds: float = 1.0) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def signer() -> Signer:
    return Signer.create(bytes(range(32)))


_numbers = itertools.count()

Connect = Callable[..., Awaitable[Registry]]


@pytest.fixture
def prefix() -> str:
    """Keys of one test never meet those of another, though they share a server."""
    return f"t{next(_numbers)}"


@pytest.fixture
async def connect(prefix: str, clock: Clock, signer: Signer) -> AsyncIterator[Connect]:
    """Opens registries that are closed after the test."""
    opened: list[Registry] = []

    async def open_one(url: str, **more: object) -> Registry:
        options = {"clock": clock, "signer": signer, "prefix": prefix, **more}
        registry = await Registry.connect(url, **options)  # type: ignore[arg-type]
        opened.append(registry)
        return registry

    yield open_one
    for registry in opened:
        await registry.close()
    await asyncio.sleep(0.01)  # a closed transport lets go of its socket in the loop's next turns


@pytest.fixture
async def registry(url: str, connect: Connect) -> Registry:
    """A registry on each kind of server."""
    return await connect(url)


@pytest.fixture
async def plain(embedded: EmbeddedRedis, connect: Connect) -> Registry:
    """A registry on the embedded server alone, for what does not depend on the server."""
    return await connect(embedded.url)


async def domain_with_versions(registry: Registry, name: str = "support", count: int = 3) -> None:
    """A domain with ``count`` versions, version 1 stable."""
    await registry.put_domain(Domain(name=name, parent=None), actor="test")
    for number in range(1, count + 1):
        await registry.add_version(name, f"Prompt {number} of {name}.", lineage=Lineage(author="test"))
    await registry.promote(name, 1, actor="test", why="first")
