"""What tests of more than one package share. Fixtures of one package stand in that package's own conftest."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.running import ROOT, Command, Upstream

Start = Callable[..., Command]


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
