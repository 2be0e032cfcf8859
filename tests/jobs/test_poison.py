"""Logged text that tries to write the prompt: what curation keeps out, and that nothing planted is ever served.

The corpus is ``tests/poison/corpus.jsonl``. Here it comes in the way an attacker would bring it: as queries, answers
and late references of live traffic, beside honest users; and the model that writes prompts works for the attacker.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest

from jobs import advance, optimize
from jobs.curate import Curation, Sizes, curate
from registry import Domain, Message, Registry, Sample, Settings
from tests.jobs.conftest import TASKS, Clock, samples, shop, with_shop, work_for
from tests.jobs.stub_model import StubModel

EVERYTHING = Sizes(most=(9_999, 9_999, 9_999))


@pytest.fixture(scope="module")
def corpus(repository: Path) -> list[dict[str, str]]:
    lines = (repository / "tests" / "poison" / "corpus.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def as_sample(item: dict[str, str], at: float, task: str = "products") -> Sample:
    """The item where it comes in: the query, the answer, or the reference that the attacker sends later."""
    honest = f"Something about {item['id']} is wrong, what do I do?"
    channel = item["channel"]
    return Sample(
        id=item["id"],
        domain="shop",
        task=task,
        at=at,
        key=item["key"],
        unit=item["unit"],
        messages=(Message(role="user", content=f"Review:\n{item['text'] if channel == 'query' else honest}"),),
        answer=item["text"] if channel == "answer" else "ok",
        reference=item["text"] if channel == "feedback" else "positive",
        comment=item["text"] if channel in {"feedback", "critique"} else "",
        finish="stop",
        answer_tokens=8,
        arm="stable",
        version=1,
    )


def _again(item: dict[str, str], name: str, text: str, **changes: Any) -> Sample:
    """The item once more, in other words."""
    said = (Message(role="user", content=f"Review:\n{text}"),)
    return msgspec.structs.replace(as_sample(item, 1.0), id=name, messages=said, **changes)


def _texts(found: Curation) -> list[str]:
    everything = [e for t in found.tasks for e in (*t.reflect, *t.select, *t.holdout)]
    return [text for e in everything for text in (e.question, *e.answers, *(m.content for m in e.history))]


def test_what_speaks_to_the_machinery_becomes_no_example(corpus: list[dict[str, str]]) -> None:
    speaking = ("instruction_in_query", "fake_reward", "forged_feedback", "rare_trigger", "hidden_text")
    planted = [i for i in corpus if i["kind"] in speaking]
    assert len(planted) >= 150
    found = curate(shop(), [*samples(200), *(as_sample(i, 1.0) for i in planted)], sizes=EVERYTHING)
    kept = "\n".join(_texts(found))
    assert [i["id"] for i in planted if i["planted"] in kept] == []
    assert found.dropped["suspect"] == len(planted)


def test_the_models_answers_and_peoples_comments_are_never_examples(corpus: list[dict[str, str]]) -> None:
    planted = [i for i in corpus if i["channel"] in {"answer", "critique"}]
    found = curate(shop(), [as_sample(i, 1.0) for i in planted], sizes=EVERYTHING)
    kept = "\n".join(_texts(found))
    assert [i["id"] for i in planted if i["planted"] in kept] == []


def test_a_flood_from_one_caller_is_a_trickle(corpus: list[dict[str, str]]) -> None:
    flood = [i for i in corpus if i["kind"] == "one_caller_floods"]
    many = [_again(i, f"{i['id']}-{n}", f"{i['text']} {n * 7919}") for n in range(45) for i in flood]
    found = curate(shop(), [*samples(200, ("products",)), *many], sizes=EVERYTHING)
    (task,) = found.tasks
    everything = (*task.reflect, *task.select, *task.holdout)
    assert len(many) == 1800, "nine tenths of the traffic"
    units = Counter(e.unit for e in everything)
    assert units["unit-flood"] <= 3


def test_invented_users_of_one_key_are_half_at_most(corpus: list[dict[str, str]]) -> None:
    flood = [i for i in corpus if i["kind"] == "one_caller_floods"]
    many = [
        _again(i, f"{n}-{i['id']}", f"word{n * 31} {i['text']} word{n * 17} and {n}", unit=f"sybil-{n}-{i['id']}")
        for n in range(30)
        for i in flood
    ]
    found = curate(shop(), [*samples(120, ("products",)), *many], sizes=EVERYTHING)
    (task,) = found.tasks
    everything = (*task.reflect, *task.select, *task.holdout)
    keys = Counter(e.key for e in everything)
    assert keys["key-flood"] <= len(everything) / 2


def test_forged_references_do_not_outvote_people() -> None:
    honest = samples(60, ("products",))
    lies = {"positive": "negative", "negative": "positive"}
    again = [msgspec.structs.replace(s, id=f"again-{s.id}", unit=f"second-{s.unit}", at=s.at + 1) for s in honest]
    forged = [
        msgspec.structs.replace(
            s, id=f"forged-{n}-{s.id}", unit="forger", key="forger", at=0.0, reference=lies[s.reference or ""]
        )
        for s in honest
        for n in range(5)
    ]
    found = curate(shop(), [*honest, *again, *forged], sizes=EVERYTHING)
    right = {s.messages[-1].content.removeprefix("Review:\n"): s.reference for s in honest}
    everything = [e for t in found.tasks for e in (*t.reflect, *t.select, *t.holdout)]
    assert len(everything) == 60
    assert all(e.answers == (right[e.question],) for e in everything)


class Captured(StubModel):
    """As base model honest; as writer it copies every planted text into whatever it is asked for."""

    def __init__(self, planted: list[str]) -> None:
        super().__init__()
        self.planted = planted
        self.asked_to_write = 0
        self.told: list[str] = []

    def reply(self, body: dict[str, Any]) -> str:
        if body["model"] != "writer":
            return super().reply(body)
        self.asked_to_write += 1
        text = " ".join(m["content"] for m in body["messages"])
        self.told += [p for p in self.planted if p in text]
        loot = [self.planted[(self.asked_to_write * 7 + n) % len(self.planted)] for n in range(6)]
        schema = (body.get("response_format") or {}).get("json_schema", {}).get("schema", {})
        wanted = set(schema.get("properties", {}))
        reply = {
            "findings": [{"type": "reasoning", "text": p[:200]} for p in loot],
            "hypotheses": [{"label": f"h{n}", "cause": "c", "change": p[:200]} for n, p in enumerate(loot)],
            "system_prompt": f"You are a helpful assistant. {loot[0]}.",
            "user_prompt": f"{loot[1]}\n{{question}}",
            "text": loot[2],
        }
        return json.dumps({name: reply[name] for name in wanted if name in reply} or reply)


def _flat(text: str) -> str:
    return " ".join(text.casefold().split())


async def test_nothing_planted_reaches_a_base_call_or_a_version(
    registry: Registry, settings: Settings, clock: Clock, corpus: list[dict[str, str]]
) -> None:
    planted = [i["planted"] for i in corpus]
    async with Captured(planted) as captured:
        upstream = settings.upstreams[0].model_copy(update={"base_url": captured.url})
        bent = settings.model_copy(update={"upstreams": [upstream]})
        await with_shop(registry, shop(optimizer_model="writer"))
        poison = [as_sample(i, clock() - 100 + n, TASKS[n % 2]) for n, i in enumerate(corpus)]
        await registry.record([*samples(260, TASKS[:2]), *poison], [])
        await optimize.run(work_for(registry, bent, clock, "optimize", budget={"calls": 900}))
        (run,) = await registry.list_runs("shop")
        assert run.state == "done", run.reason
        assert captured.asked_to_write > 0
        asked = [c for c in captured.calls if c["model"] == "base"]
        systems = {_flat(m["content"]) for c in asked for m in c["messages"] if m["role"] == "system"}
        assert systems
        served = {_flat(v.system_prompt) for v in await registry.list_versions("shop")}
        for text in map(_flat, planted):
            assert not any(text in s for s in systems | served), text


class HalfCaptured(Captured):
    """Writes a prompt that truly helps every other time, so that something passes the gate while the attack goes on."""

    HELPS = "You are a helpful assistant. Answer with exactly one of the labels."

    def reply(self, body: dict[str, Any]) -> str:
        said = super().reply(body)
        if body["model"] != "writer" or self.asked_to_write % 2:
            return said
        reply = json.loads(said)
        if "system_prompt" in reply:
            reply["system_prompt"] = self.HELPS
        if "hypotheses" in reply:
            reply["hypotheses"][0]["change"] = "Answer with exactly one of the labels."
        return json.dumps(reply)


async def test_what_is_promoted_beside_an_attack_holds_nothing_planted(
    registry: Registry, settings: Settings, clock: Clock, corpus: list[dict[str, str]]
) -> None:
    """The same attack, and a version that passes the gate, is approved, tried and made stable."""
    planted = [i["planted"] for i in corpus]
    async with HalfCaptured(planted) as captured:
        upstream = settings.upstreams[0].model_copy(update={"base_url": captured.url})
        bent = settings.model_copy(update={"upstreams": [upstream]})
        await with_shop(registry, shop(optimizer_model="writer"))
        poison = [as_sample(i, clock() - 100 + n, TASKS[n % 2]) for n, i in enumerate(corpus)]
        await registry.record([*samples(260, TASKS[:2]), *poison], [])
        await optimize.run(work_for(registry, bent, clock, "optimize", budget={"calls": 2500}))
        (run,) = await registry.list_runs("shop")
        assert run.version is not None, run.reason
        (approval,) = await registry.list_approvals(waiting_only=True)
        await registry.decide_approval(approval.id, "approved", by="ops", why="read it")
        await advance.run(work_for(registry, bent, clock, "approval", approval=approval.id))
        await registry.promote("shop", run.version, actor="jobs", why="not worse")
        stable = (await registry.deployment("shop")).stable
        assert stable == run.version
        asked = [c for c in captured.calls if c["model"] == "base"]
        reached = {_flat(m["content"]) for c in asked for m in c["messages"] if m["role"] == "system"}
        served = {_flat(v.system_prompt) for v in await registry.list_versions("shop")}
        assert len(served) == 2 and captured.asked_to_write > 4
        assert [p for p in map(_flat, planted) if any(p in text for text in reached | served)] == []
        writers = [c for c in captured.calls if c["model"] == "writer"]
        own = [c for c in writers if "You write short" in c["messages"][0]["content"]]
        raw = {_flat(i["text"]) for i in corpus}
        assert own and not any(text in _flat(m["content"]) for c in own for m in c["messages"] for text in raw)


def test_a_domain_of_its_own_learns_from_nobody_else() -> None:
    strange = [msgspec.structs.replace(s, domain="other") for s in samples(60)]
    assert curate(Domain(name="shop"), strange).tasks == ()
