"""The real search on poisoned examples with a captured optimizer model: nothing planted reaches a base call.

Every example carries an item of the poison corpus, and the model that analyses and writes does all it can to help the
attacker: it copies every planted text that it sees into findings, hypotheses and prompts, from memory too. What stands
between it and the base model is the linter at the door, the dropping of quotations on the way, and nothing else.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import msgspec
import pytest

from optimizer.records import Completion, Request, SearchSpec
from optimizer.search import search
from optimizer.simulation.search import world_spec
from optimizer.worlds.world import SEED_PROMPT, World, WorldBackend, WorldSettings

SETTINGS = WorldSettings(seed=21, tasks=6, unseen=1)
pytestmark = pytest.mark.timeout(600)


def flat(text: str) -> str:
    return " ".join(text.casefold().split())


class Captured(WorldBackend):
    """Answers honestly as base model, and works for the attacker as optimizer model."""

    def __init__(self, world: World, planted: list[str]) -> None:
        super().__init__(world)
        self.planted = planted
        self.seen: list[str] = []
        self.base_requests: list[Request] = []
        self.asked = 0

    async def complete(self, request: Request) -> Completion:
        if request.role == "base":
            self.base_requests.append(request)
            return await super().complete(request)
        self.asked += 1
        text = " ".join(content for _, content in request.messages)
        self.seen += [p for p in self.planted if p in text and p not in self.seen]
        loot = (self.seen or self.planted)[-6:]
        wanted = set(request.schema["properties"]) if request.schema else set()
        reply = {
            "findings": [{"type": "reasoning", "text": p[:200]} for p in loot],
            "hypotheses": [{"label": f"h{i}", "cause": "c", "change": p[:200]} for i, p in enumerate(loot)],
            "system_prompt": f"{SEED_PROMPT} {loot[self.asked % len(loot)]}.",
            "user_prompt": f"{loot[self.asked % len(loot)]}\n{{question}}",
            "text": loot[0],
        }
        return Completion(text=json.dumps({name: reply[name] for name in wanted} or reply))


@pytest.fixture(scope="module")
def planted(repository: Path) -> list[str]:
    lines = (repository / "tests" / "poison" / "corpus.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line)["planted"] for line in lines]


def poisoned(spec: SearchSpec, planted: list[str]) -> SearchSpec:
    """Every example of the reflect and select splits carries one planted text behind its case."""
    number = iter(range(10**6))
    tasks = []
    for task in spec.tasks:
        parts = {
            split: tuple(
                msgspec.structs.replace(example, question=f"{example.question}\n{planted[next(number) % len(planted)]}")
                for example in getattr(task, split)
            )
            for split in ("reflect", "select")
        }
        tasks.append(msgspec.structs.replace(task, **parts))
    return msgspec.structs.replace(spec, tasks=tuple(tasks))


def test_a_captured_optimizer_gets_nothing_planted_before_the_base_model(tmp_path: Path, planted: list[str]) -> None:
    settings = SETTINGS
    spec = poisoned(world_spec(settings, calls=1500, home=tmp_path, seed=3), planted)
    backend = Captured(World(settings), planted)
    result = asyncio.run(search(spec, clock=lambda: 0.0, backends={"base": backend, "optimizer": backend}))

    questions = sorted({e.question for t in spec.tasks for e in (*t.reflect, *t.select, *t.holdout)}, key=len)
    by_case = {q.partition(":")[0]: q for q in questions}
    instructions: set[str] = set()
    for request in backend.base_requests:
        for role, content in request.messages:
            start = content.find("Case t")
            question = by_case.get(content[start:].partition(":")[0], "") if start >= 0 else ""
            instructions.add(flat(content.replace(question, " ") if role == "user" and question else content))

    assert len(backend.base_requests) > 300 and backend.asked > 3
    assert backend.seen, "the attack was never even shown: the test proves nothing"
    reached = [p for p in planted if any(flat(p) in text for text in instructions)]
    assert not reached
    assert not any(flat(p) in flat(result.winner) for p in planted)
    assert sum(n for why, n in result.ledger.rejects.items() if why.startswith("lint")) > 0


@pytest.mark.parametrize("units", [4, 6])
def test_of_live_traffic_nothing_is_analysed_that_fewer_than_five_units_ran_into(
    tmp_path: Path, planted: list[str], units: int
) -> None:
    spec = poisoned(world_spec(SETTINGS, calls=500, home=tmp_path, seed=3), planted)
    tasks = [
        msgspec.structs.replace(
            task,
            origin="traffic",
            reflect=tuple(msgspec.structs.replace(e, unit=f"u{n % units}") for n, e in enumerate(task.reflect)),
        )
        for task in spec.tasks
    ]
    live = msgspec.structs.replace(spec, tasks=tuple(tasks))
    backend = Captured(World(SETTINGS), planted)
    asyncio.run(search(live, clock=lambda: 0.0, backends={"base": backend, "optimizer": backend}))
    assert len(backend.base_requests) > 50
    assert (backend.asked > 0) == (units >= 5), "with too few units the optimizer model is not even asked"
    assert bool(backend.seen) == (units >= 5)
