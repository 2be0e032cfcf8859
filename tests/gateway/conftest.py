"""Fixtures of the gateway's tests. The control plane's house stands in a file of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import uvicorn.server
from control_house import clock, embedded, house, registry

__all__ = ["clock", "embedded", "house", "registry"]


@pytest.fixture(scope="session", autouse=True)
def awake() -> Iterator[None]:
    """uvicorn looks every tenth of a second whether it should end, and naps as long while it ends; in this process it
    naps a twentieth of that. Several hundred tests start and end a server."""

    async def nap(seconds: float) -> None:
        await asyncio.sleep(seconds / 20)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uvicorn.server, "asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": nap}))
        yield
