"""A real Redis protocol server, a registry on it with a clock that the test moves, and a language model over HTTP."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from jobs.lease import Held
from jobs.metrics import Metrics
from jobs.places import Places
from jobs.work import Work
from registry import (
    Domain,
    EmbeddedRedis,
    JudgeSpec,
    Lease,
    Lineage,
    Message,
    Registry,
    RegistryUnavailable,
    Sample,
    Settings,
    Signer,
    Task,
    Trigger,
)
from tests.jobs.stub_model import StubModel

NOW = 1_795_000_000.0
FIRST = "You are a helpful assistant."
TASKS = ("products", "restaurants", "movies")


class Clock:
    """Seconds since the epoch, moved by hand."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an embedded server for all tests of this folder."""
    try:
        server = EmbeddedRedis.start(tmp_path_factory.mktemp("redis"))
    except RegistryUnavailable as error:
        pytest.skip(str(error))
    with server:
        yield server.url


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def prefix() -> str:
    """Keys of its own for each test."""
    return f"t{random.SystemRandom().randrange(10**12)}"


@pytest_asyncio.fixture(loop_scope="function")
async def registry(redis_server: str, clock: Clock, prefix: str) -> AsyncIterator[Registry]:
    opened = await Registry.connect(redis_server, clock=clock, signer=Signer.create(), prefix=prefix)
    yield opened
    await opened.close()


@pytest_asyncio.fixture(loop_scope="function")
async def model() -> AsyncIterator[StubModel]:
    """A model that answers sentiment questions, well only when the system prompt names the labels."""
    async with StubModel() as stub:
        yield stub


@pytest.fixture
def settings(redis_server: str, prefix: str, model: StubModel, tmp_path: Path) -> Settings:
    return Settings.model_validate(
        {
            "home": str(tmp_path / "home"),
            "redis_url": redis_server,
            "redis_prefix": prefix,
            "upstreams": [{"name": "stub", "base_url": model.url, "api_key": "k"}],
            "models": [{"name": n, "upstream": "stub"} for n in ("base", "judge", "writer")],
            "jobs": {"lease_seconds": 3.0, "min_tasks": 2},
        }
    )


def task(**judge: Any) -> Task:
    return Task(
        user_prompt="Review:\n{question}",
        judge=JudgeSpec(**{"kind": "choice", "labels": ("positive", "negative"), "lenient": True, **judge}),
    )


def shop(**changes: Any) -> Domain:
    fields: dict[str, Any] = {"base_model": "base", "tasks": {name: task() for name in TASKS[:2]}}
    return Domain(name="shop", **{**fields, **changes})


GOOD = ("great", "lovely", "excellent", "wonderful", "superb", "delightful")
BAD = ("awful", "terrible", "poor", "dreadful", "broken", "horrible")
THINGS = (
    *("kettle", "lamp", "chair", "phone", "cable", "soup", "pasta", "waiter"),
    *("plot", "actor", "camera", "song", "door", "wheel", "shirt", "glove", "mirror"),
)


def review(n: int, which: str) -> tuple[str, str]:
    """A distinct review and its label; every task has its own."""
    draw = random.Random(f"{which}-{n}")
    good = n % 2 == 0
    word = draw.choice(GOOD if good else BAD)
    others = " and the ".join(draw.sample(THINGS, 3))
    text = f"The {draw.choice(THINGS)} number {n} of {which} was {word}, said the {others}."
    return text, "positive" if good else "negative"


def samples(n: int = 260, names: tuple[str, ...] = TASKS, **changes: Any) -> list[Sample]:
    """Traffic with late references, as the gateway writes it."""
    made = []
    for name in names:
        for i in range(n):
            text, label = review(i, name)
            fields: dict[str, Any] = {
                "id": f"{name}-{i:04}",
                "domain": "shop",
                "task": name,
                "at": NOW - 5000 + i,
                "key": f"app{i % 3}",
                "unit": f"{name}-user{i}",
                "arm": "stable",
                "version": 1,
                "model": "base",
                "messages": (Message(role="user", content=f"Review:\n{text}"),),
                "answer": "I think it is fine.",
                "answer_tokens": 8,
                "finish": "stop",
                "reference": label,
            }
            made.append(Sample(**{**fields, **changes}))
    return made


async def with_shop(registry: Registry, domain: Domain | None = None, prompt: str = FIRST) -> Domain:
    """A domain with version 1 stable."""
    made = domain or shop()
    await registry.put_domain(made, actor="test")
    version = await registry.add_version(made.name, prompt, lineage=Lineage(author="test"))
    await registry.promote(made.name, version.number, actor="config file", why="first version")
    return made


def work_for(registry: Registry, settings: Settings, clock: Clock, job: str, domain: str = "shop", **args: Any) -> Work:
    """A firing in hand, without queue and lease."""
    trigger = Trigger(id=f"{job}-{random.random()}", job=job, domain=domain, at=clock(), by="test", args=args)
    held = Held(Lease(name="test", holder="test", fence=1, until=clock() + 1e9))
    ids = (f"id{n}" for n in range(10**6))
    places = Places(registry, f"test-{random.random()}")
    return Work(trigger, registry, settings, held, clock, lambda: next(ids), Metrics(), places=places)


async def until(condition: Any, seconds: float = 10.0) -> None:
    """Wait until an async condition holds; fail when it does not."""
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.05)
