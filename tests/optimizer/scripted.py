"""Models whose replies a test writes, and small tasks for them: they stand where a provider would."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from optimizer.records import (
    Budget,
    Completion,
    Example,
    JudgeSpec,
    Models,
    ModelSpec,
    Request,
    SearchSpec,
    SearchTask,
)

LABELS = ("yes", "no")
TAG = re.compile(r"between <(\w+)> and </\1>")


class Scripted:
    """A model that answers by a function of the request."""

    def __init__(self, reply: Callable[[Request], str], identity: str = "scripted") -> None:
        self.identity = identity
        self.concurrency = 32
        self.retries = 0
        self.requests: list[Request] = []
        self._reply = reply

    async def complete(self, request: Request) -> Completion:
        self.requests.append(request)
        text = self._reply(request)
        return Completion(text=text, tokens_in=sum(len(c) for _, c in request.messages) // 4, tokens_out=len(text) // 4)

    async def close(self) -> None:
        """Nothing is open."""


def task(name: str = "t0", *, reflect: int = 24, select: int = 40, holdout: int = 60, **more: Any) -> SearchTask:
    """A yes/no task; question i of a split is ``name split i``, its answer alternates."""

    def rows(split: str, size: int, first: int) -> tuple[Example, ...]:
        return tuple(
            Example(
                id=f"{name}-{split}-{i}",
                question=f"{name} {split} number {i}",
                answers=(LABELS[i % 2],),
                cluster=f"{name}-{split}-{i}",
                position=first + i,
            )
            for i in range(size)
        )

    settings: dict[str, Any] = {"user_prompt": "Say whether it holds. Answer yes or no.\n{question}"} | more
    return SearchTask(
        name=name,
        judge=JudgeSpec(kind="choice", labels=LABELS),
        reflect=rows("reflect", reflect, 1),
        select=rows("select", select, 1000),
        holdout=rows("holdout", holdout, 2000),
        **settings,
    )


def spec_of(home: Path, tasks: tuple[SearchTask, ...], **more: Any) -> SearchSpec:
    """A search over ``tasks`` with models that a test provides as backends."""
    settings: dict[str, Any] = {
        "seed_prompt": "You are a helpful assistant.",
        "models": Models(base=ModelSpec(model="scripted"), optimizer=ModelSpec(model="scripted")),
        "budget": Budget(),
        "seed": 7,
    } | more
    return SearchSpec(tasks=tasks, home=home, **settings)


def right_answer(request: Request) -> str:
    """The true label of the question in the request."""
    number = int(re.findall(r"number (\d+)", request.messages[-1][1])[-1])
    return LABELS[number % 2]


def never_repeats() -> Callable[[Request], str]:
    """An optimizer whose every reply parses and is new."""
    asked = iter(range(1, 1_000_000))

    def reply(request: Request) -> str:
        tag = TAG.findall(request.messages[-1][1])[-1]
        slot = "\n{question}" if tag == "improved_user_prompt" else ""
        return f"<{tag}>Rule {next(asked)} holds.{slot}</{tag}>"

    return reply
