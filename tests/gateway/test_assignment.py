"""Domain, task, unit and arm."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from rig import HELLO, door, prompts, settings_for, upstream

from gateway.assignment import Plan, Serving, fraction
from registry import Deployment, Domain, DomainView, MatchRule, ServedVersion, Snapshot


def view(
    name: str = "support", texts: dict[int, str] | None = None, pointers: dict[str, Any] | None = None, **domain: Any
) -> DomainView:
    versions = {n: ServedVersion(number=n, system_prompt=t, hash="h") for n, t in (texts or {}).items()}
    return DomainView(
        domain=Domain(name=name, **domain), deployment=Deployment(domain=name, **(pointers or {})), versions=versions
    )


def plan_of(**pointers: Any) -> Plan:
    found = view(texts={1: "one", 2: "two", 3: "three"}, pointers={"stable": 1, **pointers})
    return Serving(Snapshot(epoch=1, taken_at=0, domains={"support": found})).plans["support"]


def arms(plan: Plan, units: int = 4000) -> dict[str, str]:
    return {f"u{n}": plan.choose("k", f"u{n}").arm for n in range(units)}


def test_the_fraction_is_the_documented_hash() -> None:
    digest = hashlib.sha256(b"salt|key|unit").digest()
    assert fraction(b"salt", "key", "unit") == int.from_bytes(digest[:8], "big") / 2**64


def test_only_what_changed_is_compiled_anew() -> None:
    parent = view("global", {1: "old"}, {"stable": 1})
    child, other = view("child", parent="global"), view("other", {1: "mine"}, {"stable": 1})
    domains = {"global": parent, "child": child, "other": other}
    first = Serving(Snapshot(epoch=1, taken_at=0, domains=domains), None)
    moved = {**domains, "global": view("global", {2: "new"}, {"stable": 2})}
    second = Serving(Snapshot(epoch=2, taken_at=0, domains=moved), None, first)
    assert second.plans["other"] is first.plans["other"]
    assert second.plans["child"] is not first.plans["child"]  # its parent serves it
    prompt = second.plans["child"].choose("k", "u").prompt
    assert prompt is not None and prompt.number == 2
    third = Serving(Snapshot(epoch=2, taken_at=0, domains=moved), 100, second)
    assert third.plans["other"] is not second.plans["other"]


def test_candidate_and_control_have_equal_shares() -> None:
    counts = Counter(arms(plan_of(canary=2, share=0.1, experiment="e1")).values())
    assert abs(counts["canary"] - 400) < 80
    assert abs(counts["control"] - 400) < 80
    assert set(counts) == {"canary", "control", "stable"}
    assert set(arms(plan_of(canary=2, share=0.5, experiment="e1")).values()) == {"canary", "control"}


def test_arms_are_sticky_nested_and_independent_between_experiments() -> None:
    small, large = (
        arms(plan_of(canary=2, share=0.05, experiment="e1")),
        arms(plan_of(canary=2, share=0.2, experiment="e1")),
    )
    for arm in ("canary", "control"):
        assert {u for u, a in small.items() if a == arm} < {u for u, a in large.items() if a == arm}
    other = arms(plan_of(canary=2, share=0.05, experiment="e2"))
    assert {u for u, a in other.items() if a == "canary"} != {u for u, a in small.items() if a == "canary"}


def test_versions_of_the_arms() -> None:
    plan = plan_of(canary=2, share=0.5, experiment="e")
    for unit in map(str, range(50)):
        arm, prompt = plan.choose("k", unit)
        assert prompt is not None
        assert prompt.number == (2 if arm == "canary" else 1)
    assert plan.choose("k", "").arm == "stable"  # nobody is known: outside of every experiment


def test_holdback() -> None:
    plan = plan_of(holdback=3, holdback_share=0.05)
    counts = Counter(arms(plan).values())
    assert abs(counts["holdback"] - 200) < 70
    found = next(choice for n in range(500) if (choice := plan.choose("k", f"u{n}")).arm == "holdback")
    assert found.prompt is not None
    assert found.prompt.number == 3


def test_a_holdback_keeps_its_units_whatever_canary_runs_beside_it() -> None:
    held = {u for u, a in arms(plan_of(holdback=3, holdback_share=0.05)).items() if a == "holdback"}
    for share in (0.01, 0.2, 0.5):
        both = arms(plan_of(holdback=3, holdback_share=0.05, canary=2, share=share, experiment="e1"))
        alone = arms(plan_of(canary=2, share=share, experiment="e1"))
        assert {u for u, a in both.items() if a == "holdback"} == held
        assert {u: a for u, a in both.items() if u not in held} == {u: a for u, a in alone.items() if u not in held}
    counts = Counter(both.values())
    assert set(counts) == {"holdback", "canary", "control"}
    assert abs(counts["canary"] - counts["control"]) < 250


def test_a_pointer_whose_version_was_refused_serves_stable_or_the_parent() -> None:
    plan = plan_of(canary=9, share=0.5, experiment="e")
    assert set(arms(plan, 100).values()) == {"stable"}
    child = view("child", {}, {"stable": 7}, locked="LOCK")
    parent = view("global", {4: "of the parent"}, {"stable": 4}, parent=None)
    serving = Serving(Snapshot(epoch=1, taken_at=0, domains={"child": child, "global": parent}))
    plan = serving.plans["child"]
    assert plan.served_domain == "global"
    _, prompt = plan.choose("k", "u")
    assert prompt is not None
    assert prompt.alone == b"LOCK\\n\\nof the parent"


def test_parents_that_go_in_circles_serve_nothing() -> None:
    a, b = view("a", parent="b"), view("b", parent="a")
    serving = Serving(Snapshot(epoch=1, taken_at=0, domains={"a": a, "b": b}))
    assert serving.plans["a"].choose("k", "u") == ("none", None)


GLOBAL = prompts("G", name="global", parent=None)
SUPPORT = prompts("S", name="support")
LEGAL = prompts("L", name="legal", match=(MatchRule(model="law-*", task="contracts"), MatchRule(system_prefix="You are a lawyer"),  # noqa: E501
                                          MatchRule(header=("x-team", "legal"), model="m")))  # fmt: skip


@pytest.mark.parametrize(
    ("headers", "body", "domain"),
    [
        ({}, HELLO, "global"),
        ({"x_metaspo_domain": "support"}, HELLO, "support"),
        ({"x_metaspo_domain": "unknown"}, HELLO, "global"),
        ({}, {**HELLO, "model": "law-1"}, "legal"),
        ({"x_metaspo_domain": "support"}, {**HELLO, "model": "law-1"}, "support"),
        ({"x_team": "legal"}, HELLO, "legal"),
        ({"x_team": "other"}, HELLO, "global"),
        (
            {},
            {"model": "m", "messages": [{"role": "system", "content": "You are a lawyer."}, *HELLO["messages"]]},
            "legal",
        ),
    ],
)
async def test_domains(tmp_path: Path, headers: dict[str, str], body: Any, domain: str) -> None:
    async with upstream() as up, door(settings_for(tmp_path, up), GLOBAL, SUPPORT, LEGAL) as gate:
        _, got, _ = await gate.ask(body, **headers)
        assert got["x-metaspo-domain"] == domain
        assert up.last.json["messages"][0]["content"].startswith(domain[0].upper())


async def test_the_keys_domain_comes_after_the_header_and_before_the_rules(tmp_path: Path) -> None:
    keys = [{"name": "app", "role": "caller", "key": "sk-caller", "domain": "support"}]
    async with upstream() as up, door(settings_for(tmp_path, up, keys=keys), GLOBAL, SUPPORT, LEGAL) as gate:
        assert (await gate.ask({**HELLO, "model": "law-1"}))[1]["x-metaspo-domain"] == "support"
        assert (await gate.ask(x_metaspo_domain="legal"))[1]["x-metaspo-domain"] == "legal"


class Units:
    def __init__(self, gate: Any) -> None:
        self.seen: list[tuple[str, bool, str]] = []
        gate.worker.pipeline.neighbours.metrics = self

    def observe(self, exchange: Any) -> None:
        self.seen.append((exchange.unit, exchange.unit_is_fallback, exchange.task))


@pytest.mark.parametrize(
    ("more", "headers", "unit"),
    [
        ({"user": "u"}, {"x_metaspo_unit": "h"}, "h"),
        ({"user": "u", "safety_identifier": "s"}, {}, "u"),
        ({"safety_identifier": "s", "metadata": {"user_id": "m"}}, {}, "s"),
        ({"metadata": {"user_id": "m"}, "prompt_cache_key": "p"}, {}, "m"),
        ({"prompt_cache_key": "p", "user": None, "metadata": {"user_id": 5}}, {}, "p"),
        ({"user": "x" * 1000}, {}, "x" * 256),
    ],
)
async def test_units(tmp_path: Path, more: dict[str, Any], headers: dict[str, str], unit: str) -> None:
    async with upstream() as up, door(settings_for(tmp_path, up), GLOBAL) as gate:
        units = Units(gate)
        await gate.ask({**HELLO, **more}, **headers, x_metaspo_task="triage")
        assert units.seen == [(unit, False, "triage")]


async def test_a_conversation_is_known_by_its_first_user_message(tmp_path: Path) -> None:
    def talk(*more: str, first: str = 'say "hi" \\ é') -> bytes:
        turns = [{"role": "system", "content": "s" + "".join(more)}, {"role": "user", "content": first}]
        turns += [{"role": "assistant", "content": text} for text in more]
        return json.dumps({"model": "m", "messages": turns}).encode()

    async with upstream() as up, door(settings_for(tmp_path, up), GLOBAL) as gate:
        units = Units(gate)
        for body in (talk(), talk("a"), talk("a", "b"), talk(first="another")):
            await gate.ask(body)
        alone = {"model": "m", "messages": [{"role": "user", "content": 'say "hi" \\ é'}]}
        await gate.ask(json.dumps(alone).encode())
        found = [unit for unit, _, _ in units.seen]
        assert found[0] == found[1] == found[2] == found[4] != found[3]
        assert all(fallback for _, fallback, _ in units.seen)
