"""An application and its operator, as the gateway meets them; and waiting for what the house does by itself."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import aiohttp
import pytest

from registry import RegistryUnavailable
from tests.e2e.house import House

APP, OPS = "app-key-for-the-test", "ops-key-for-the-test"


class Ask(NamedTuple):
    """One user's message, its task, and what the application later knows to be right."""

    task: str
    content: str
    label: str


class App:
    """An application: asks, and tells later what the answer should have been."""

    def __init__(self, house: House, http: aiohttp.ClientSession, asks: Callable[[int], Ask]) -> None:
        self.house = house
        self.asks = asks
        self.http = http
        self.users = itertools.count()
        self.answered = 0
        self.told = 0
        self.versions: Counter[str] = Counter()
        self.served: list[tuple[float, str]] = []
        """When each request was sent (seconds since the epoch) and which version answered it."""

    async def talk(self, n: int) -> None:
        """``n`` new users ask one question each, a few at a time."""
        gate = asyncio.Semaphore(12)

        async def one() -> None:
            async with gate:
                await self._one()

        await asyncio.gather(*(one() for _ in range(n)))

    async def _one(self) -> None:
        number = next(self.users)
        task, content, label = self.asks(number)
        headers = {"authorization": f"Bearer {APP}", "x-metaspo-task": task}
        body = {"model": "base", "user": f"user{number}", "messages": [{"role": "user", "content": content}]}
        sent = time.time()
        async with self.http.post(f"{self.house.url}/v1/chat/completions", json=body, headers=headers) as answer:
            assert answer.status == 200, await answer.text()
            await answer.read()
            exchange = answer.headers["x-metaspo-exchange"]
            version = answer.headers.get("x-metaspo-version", "none")
            self.versions[version] += 1
            self.served.append((sent, version))
        self.answered += 1
        told = {"exchange": exchange, "reference": label}
        async with self.http.post(f"{self.house.url}/v1/feedback", json=told, headers=headers) as answer:
            self.told += answer.status == 202

    async def operate(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        headers = {"authorization": f"Bearer {OPS}"}
        async with self.http.request(method, f"{self.house.url}{path}", json=body, headers=headers) as answer:
            assert answer.status < 300, (path, answer.status, await answer.text())
            return await answer.json()


async def until(what: str, condition: Callable[[], Awaitable[Any]], house: House, seconds: float = 120) -> Any:
    """Poll until the condition holds, through an outage of Redis."""
    try:
        async with asyncio.timeout(seconds):
            while True:
                try:
                    found = await condition()
                except RegistryUnavailable:
                    found = None
                if found:
                    return found
                await asyncio.sleep(0.1)
    except TimeoutError:
        logs = "\n".join(f"--- {name}\n{house.log(name)[-3000:]}" for name in house.processes)
        pytest.fail(f"{what} did not come within {seconds} s\n{logs}")
