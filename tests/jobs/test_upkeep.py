"""Drift, retention, the weekly report, settings, checks, and the global prompt."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from jobs import datasets, drift, judge, optimize, report, retention
from jobs.checks import check
from jobs.errors import BadModel, NoWork
from jobs.policy import cache_cost
from jobs.settings import find_endpoint
from registry import Approval, Domain, Outcome, Registry, Run, Sample, Settings
from tests.jobs.conftest import NOW, TASKS, Clock, samples, shop, with_shop, work_for
from tests.jobs.stub_model import StubModel


def _scored(n: int, scores: list[float], **changes: Any) -> list[Sample]:
    return [
        msgspec.structs.replace(s, score=scores[i % len(scores)], score_by="reference:choice", **changes)
        for i, s in enumerate(samples(n, ("products",)))
    ]


# --- drift -----------------------------------------------------------------------------------------------------------


def test_a_fall_leaves_the_band_and_chance_does_not() -> None:
    steady = _scored(300, [1.0, 1.0, 1.0, 0.0])
    chart = drift.draw(steady)
    assert chart is not None and not chart.fallen
    fallen = [msgspec.structs.replace(s, score=0.0) if i >= 220 and i % 2 else s for i, s in enumerate(steady)]
    chart = drift.draw(fallen)
    assert chart is not None and chart.fallen and chart.z < -3


def test_scores_of_another_judge_are_not_compared() -> None:
    old = [msgspec.structs.replace(s, score_by="judge:old") for s in _scored(150, [1.0])]
    new = [
        msgspec.structs.replace(s, id=f"n{s.id}", unit=f"n{s.unit}", at=s.at + 1000, score_by="judge:new")
        for s in _scored(150, [0.2])
    ]
    chart = drift.draw([*old, *new])
    assert chart is not None and not chart.fallen and chart.base == pytest.approx(0.2)


def test_a_chatty_user_counts_once() -> None:
    assert drift.draw(_scored(300, [1.0], unit="one")) is None


async def test_drift_asks_for_a_search_once_a_week(registry: Registry, settings: Settings, clock: Clock) -> None:
    await with_shop(registry)
    good, bad = _scored(200, [1.0]), _scored(100, [0.0])
    late = [msgspec.structs.replace(s, id=f"b{s.id}", unit=f"b{s.unit}", at=s.at + 1000) for s in bad]
    await registry.record([*good, *late], [])
    for _ in range(2):
        assert "below its band" in await drift.run(work_for(registry, settings, clock, "drift"))
    (trigger,) = await registry.open_triggers()
    assert trigger.job == "optimize" and trigger.by == "drift" and "fell" in trigger.why
    assert [e.kind for e in await registry.history("shop", limit=10)].count("drift") == 1


async def test_too_few_scores_say_nothing(registry: Registry, settings: Settings, clock: Clock) -> None:
    await with_shop(registry)
    with pytest.raises(NoWork) as told:
        await drift.run(work_for(registry, settings, clock, "drift"))
    assert told.value.cause == "too_few_scores"


# --- report ----------------------------------------------------------------------------------------------------------


async def test_the_week_on_one_page(registry: Registry, settings: Settings, clock: Clock) -> None:
    await with_shop(registry)
    outcome = Outcome(domain="shop", arm="stable", version=1, unit="u", at=clock(), cost=0.5, exchange="x")
    await registry.record([], [outcome])
    run = await registry.create_run("shop", request_id="r1")
    ended = msgspec.structs.replace(
        run, state="done", reason="Nothing beat the incumbent.", calls={"base": 7}, usd=0.25
    )
    await registry.update_run(msgspec.structs.replace(ended, ended_at=clock()))
    await registry.put_approval(
        Approval(id="a", domain="shop", version=1, kind="promote", asked_at=clock(), reason="it is the first")
    )
    said = await report.run(work_for(registry, settings, clock, "report"))
    assert "1 promotions" in said and "7 calls" in said
    facts = await report.latest(registry, "shop")
    assert facts is not None
    text = report.page(facts)
    for part in ("# shop:", "first version", "Nothing beat the incumbent", "it is the first", "| 1 | stable | 1 |"):
        assert part in text, text


async def test_the_next_week_counts_from_the_last_report(registry: Registry, settings: Settings, clock: Clock) -> None:
    await with_shop(registry)

    async def exchanges(n: int, name: str) -> None:
        made = [
            Outcome(
                domain="shop", arm="stable", version=1, unit=f"{name}{i}", at=clock(), cost=0.5, exchange=f"{name}{i}",
                score=1.0,
            )
            for i in range(n)
        ]  # fmt: skip
        await registry.record([], made)

    await exchanges(5, "first")
    await judge.count_spending(work_for(registry, settings, clock, "judge"), "shop", 12, 0.5)
    await report.run(work_for(registry, settings, clock, "report"))
    first = await report.latest(registry, "shop")
    assert first is not None and first["arms"][0]["exchanges"] == 5 and first["arms_since"] is None
    assert first["judging"] == {"calls": 12, "usd": 0.5} and "judging 12 calls" in report.headline(first)
    clock.now += 3 * 86_400
    await exchanges(1, "asked-for")
    await report.run(work_for(registry, settings, clock, "report"))
    between = await report.latest(registry, "shop")
    assert between is not None and between["arms"][0]["exchanges"] == 6, "a page asked for in between covers a week too"
    clock.now += 4 * 86_400
    await exchanges(3, "second")
    await registry.append_audit(
        "shop", "canary-look", actor="jobs", why="Not worse by 0.03 (difference +0.020).", detail={"action": "promote"}
    )
    await report.run(work_for(registry, settings, clock, "report"))
    second = await report.latest(registry, "shop")
    assert second is not None
    (arm,) = second["arms"]
    assert (arm["exchanges"], arm["scored"], arm["cost_usd"]) == (4, 4, 2.0)
    assert second["arms_since"] == first["until"] and second["judging"] == {"calls": 12, "usd": 0.5}
    text = report.page(second)
    assert "Not worse by 0.03" in text and "| 1 | stable | 4 |" in text
    clock.now += 4 * 86_400
    await report.run(work_for(registry, settings, clock, "report"))
    third = await report.latest(registry, "shop")
    assert third is not None and third["judging"]["calls"] == 0, "spending of more than a week ago"


async def test_a_quiet_week_is_no_page(registry: Registry, settings: Settings, clock: Clock) -> None:
    await registry.put_domain(Domain(name="shop"), actor="test")
    with pytest.raises(NoWork):
        await report.run(work_for(registry, settings, clock, "report"))
    assert await report.latest(registry, "shop") is None


# --- retention -------------------------------------------------------------------------------------------------------


async def test_old_folders_go_and_live_ones_stay(registry: Registry, settings: Settings, clock: Clock) -> None:
    await with_shop(registry)
    live = await registry.create_run("shop", request_id="live")
    home = Path(settings.home)
    for name, age in ((live.id, 30.0), ("shop-old", 30.0), ("shop-new", 1.0)):
        folder = home / "runs" / name
        folder.mkdir(parents=True)
        (folder / "x.journal").write_text("x")
        for path in (folder / "x.journal", folder):
            os.utime(path, (clock() - age * 86_400,) * 2)
    assert await retention.run(work_for(registry, settings, clock, "retention", domain="*")) == (
        "1 folders of old runs removed"
    )
    assert {p.name for p in (home / "runs").iterdir()} == {live.id, "shop-new"}


def test_the_folder_of_an_ended_run_goes_after_a_week() -> None:
    ended = Run(id="a", domain="shop", state="done")
    assert retention.stale([(Path("a"), NOW - 8 * 86_400)], {"a": ended}, NOW) == [Path("a")]
    assert retention.stale([(Path("a"), NOW - 6 * 86_400)], {"a": ended}, NOW) == []


# --- datasets --------------------------------------------------------------------------------------------------------


async def test_curating_twice_makes_the_same_datasets(registry: Registry, settings: Settings, clock: Clock) -> None:
    await with_shop(registry)
    await registry.record(samples(120), [])
    for _ in range(2):
        said = await datasets.run(work_for(registry, settings, clock, "curate"))
        clock.now += 100
    assert said.startswith("3 tasks")
    assert len(await registry.list_datasets("shop")) == 9


async def test_what_a_gate_has_seen_is_not_confirmed_on_again(
    registry: Registry, settings: Settings, clock: Clock, model: StubModel
) -> None:
    await with_shop(registry)
    await registry.record(samples(160, TASKS[:2]), [])
    await optimize.run(work_for(registry, settings, clock, "optimize", budget={"calls": 1200}))
    (run,) = await registry.list_runs("shop")
    assert run.gate is not None
    with pytest.raises(NoWork) as told:
        await optimize.run(work_for(registry, settings, clock, "optimize"))
    assert told.value.cause == "too_few_examples"


# --- the global prompt -----------------------------------------------------------------------------------------------


async def test_global_learns_from_those_who_opted_in(
    registry: Registry, settings: Settings, clock: Clock, model: StubModel
) -> None:
    await registry.put_domain(Domain(name="global", parent=None, base_model="base"), actor="test")
    for name, learns in (("one", True), ("two", True), ("three", False)):
        domain = msgspec.structs.replace(shop(meta_learning=learns), name=name)
        await with_shop(registry, domain)
        await registry.record(samples(160, ("products",), domain=name), [])
    await optimize.run(work_for(registry, settings, clock, "global", domain="global", budget={"calls": 900}))
    (run,) = await registry.list_runs("global")
    assert run.state == "done", run.reason
    assert run.result is not None
    assert [t["name"] for t in run.result["plan"]["tasks"]] == ["one/products", "two/products"]


# --- settings and checks ---------------------------------------------------------------------------------------------


def _settings(**more: Any) -> Settings:
    upstreams = [
        {"name": "claude", "dialect": "anthropic", "api_key": "a"},
        {"name": "openai", "base_url": "http://127.0.0.1:1/v1", "api_key": "b", "max_in_flight": 3},
    ]
    return Settings.model_validate({"upstreams": upstreams, **more})


def test_a_model_is_found_as_the_gateway_routes_it() -> None:
    routes = [
        {"name": "small", "upstream": "openai", "model": "small-2026", "price_in": 0.5},
        {"name": "haiku", "upstream": "claude", "model": "claude-haiku-4-5"},
        {"name": "gpt-*", "upstream": "openai"},
    ]
    settings = _settings(models=routes)
    small = find_endpoint(settings, "small")
    assert (small.model, small.api_base, small.price_in, small.concurrency) == (
        "small-2026",
        "http://127.0.0.1:1/v1",
        0.5,
        3,
    )
    assert find_endpoint(settings, "haiku").model == "anthropic/claude-haiku-4-5"
    assert find_endpoint(settings, "gpt-9").model == "gpt-9"
    with pytest.raises(BadModel, match="did you mean 'small'"):
        find_endpoint(settings, "smal")
    assert find_endpoint(_settings(), "anything").provider == "openai"
    with pytest.raises(BadModel, match="No upstream"):
        find_endpoint(Settings(), "x")


async def test_doctor_names_what_is_wrong(registry: Registry, settings: Settings) -> None:
    domains = {"shop": {"schedule": "0 3 30 2 *", "base_model": "bse"}, "well": {"base_model": "base"}}
    bent = Settings.model_validate(
        {**settings.model_dump(exclude={"domains", "notes"}, by_alias=True), "domains": domains}
    )
    found = {f.name: f for f in await check(bent)}
    assert not found["shop: schedule"].ok and not found["shop: base_model"].ok
    assert not found["scheduler"].ok and "metaspo jobs scheduler" in found["scheduler"].mend
    assert all(f.mend for f in found.values() if not f.ok)


def test_cache_cost_without_a_price_counts_tokens() -> None:
    assert cache_cost(10, 100, None).tokens == 1000
