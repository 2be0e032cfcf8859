"""What tests of more than one package share. Fixtures of one package stand in that package's own conftest."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.running import ROOT, Command, Upstream

Start = Callable[..., Command]
LONG = (
    "e2e/test_loop.py",
    "gateway/test_console.py",
    "demo/test_story.py",
    "test_frontdoor.py",
    "demo/test_passing.py",
    "docs/test_docs.py",
    "jobs/test_canary_simulation.py",
    "examples/",
    "deploy/",
    "registry/test_servers.py",
)
"""Files of few long tests, the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first: a process that took one last would work alone while the others have nothing left to do."""
    here = ROOT / "tests"

    def place(item: pytest.Item) -> int:
        path = item.path.relative_to(here).as_posix()
        return next((number for number, name in enumerate(LONG) if path.startswith(name)), len(LONG))

    items.sort(key=place)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The folder of this repository."""
    return ROOT


@pytest.fixture
def free_port() -> int:
    """A loopback port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def metaspo(tmp_path: Path) -> Iterator[Start]:
    """Start a ``metaspo`` command in the test's folder; whatever of it still runs at the end is killed."""
    started: list[Command] = []

    def start(*arguments: str, **env: str) -> Command:
        started.append(Command(list(arguments), tmp_path, env))
        return started[-1]

    yield start
    for command in started:
        command.close()


@pytest.fixture
def upstream() -> Iterator[str]:
    """The ``base_url`` of a running echo provider."""
    with Upstream(("127.0.0.1", 0), Upstream.Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        thread.join()
