"""A better user prompt for a task is stored only when the holdout says so for certain."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

import optimizer
from jobs import adapt, advance, shadow, thin
from jobs.errors import NoWork
from jobs.paired import measure
from jobs.searchplan import RunPlan
from registry import CanaryPlan, Domain, Lineage, Outcome, Registry, Settings
from tests.jobs.conftest import NOW, TASKS, Clock, samples, shop, with_shop, work_for
from tests.jobs.stub_model import StubModel


async def test_an_adapted_prompt_is_stored(
    registry: Registry, settings: Settings, clock: Clock, model: StubModel
) -> None:
    model.hint_anywhere = True
    model.skill = 0.2
    await with_shop(registry, shop(budget=shop().budget))
    await registry.record(samples(names=("products",)), [])
    said = await adapt.run(work_for(registry, settings, clock, "adapt", task="products"))
    task = (await registry.get_domain("shop")).tasks["products"]
    assert task.adapted_prompt is not None and task.adapted_prompt.count("{question}") == 1
    assert task.user_prompt == "Review:\n{question}"
    assert "gain +" in said


async def test_what_was_adapted_outlives_a_start_with_the_same_file(registry: Registry, settings: Settings) -> None:
    judge = {"kind": "choice", "labels": ["good", "bad"]}
    tasks = {name: {"user_prompt": "Review:\n{question}", "judge": judge} for name in ("a", "b", "c")}

    async def start(**changes: dict[str, object]) -> dict[str, str | None]:
        told = {**tasks, **{name: {**tasks[name], **change} for name, change in changes.items()}}
        file = settings.model_dump() | {"domains": {"shop": {"tasks": told}}}
        await registry.sync_settings(Settings.model_validate(file))
        return {name: t.adapted_prompt for name, t in (await registry.get_domain("shop")).tasks.items()}

    await start()
    domain = await registry.get_domain("shop")
    adapted = {
        name: msgspec.structs.replace(t, adapted_prompt=f"Think of {name}. {{question}}")
        for name, t in domain.tasks.items()
    }
    await registry.put_domain(msgspec.structs.replace(domain, tasks=adapted), actor="jobs", why="adapted")
    assert (await start())["a"] == "Think of a. {question}"
    found = await start(a={"adapted_prompt": "Mine: {question}"}, b={"user_prompt": "Another:\n{question}"})
    assert found == {"a": "Mine: {question}", "b": None, "c": "Think of c. {question}"}


@pytest.mark.parametrize(("n", "task", "cause"), [(260, "movies", "no_samples"), (30, "products", "too_few_examples")])
async def test_what_cannot_be_adapted(
    registry: Registry, settings: Settings, clock: Clock, n: int, task: str, cause: str
) -> None:
    await with_shop(registry)
    await registry.record(samples(n, names=("products",)), [])
    with pytest.raises(NoWork) as told:
        await adapt.run(work_for(registry, settings, clock, "adapt", task=task))
    assert told.value.cause == cause


def test_chance_is_no_gain() -> None:
    rows = [optimizer.Example(id=str(n), question=str(n), cluster=str(n)) for n in range(100)]
    before = [float(n % 2) for n in range(100)]
    after = [float((n + 1) % 2) for n in range(100)]
    assert not measure(rows, before, after).certain(0.02)
    assert measure(rows, before, [1.0] * 100).certain(0.02)
    assert measure(rows, [None, *before[1:]], after).n == 99


async def test_shadow_replay_compares_without_serving(
    registry: Registry, settings: Settings, clock: Clock, model: StubModel
) -> None:
    await with_shop(registry)
    better = await registry.add_version("shop", "Answer with the label only.", lineage=Lineage(author="ops"))
    await registry.record(samples(150, TASKS[:2], at=clock() + 10), [])
    clock.now += 100
    said = await shadow.run(work_for(registry, settings, clock, "shadow", version=better.number))
    assert "version 2 against 1" in said and "; not worse by 0.03" in said
    (entry,) = [e for e in await registry.history("shop", limit=10) if e.kind == "shadow"]
    assert entry.detail["gain"] > 0.3 and entry.detail["n"] >= 200
    assert (await registry.deployment("shop")).canary is None, "it moves no pointer"


@pytest.mark.parametrize(
    ("version", "cause"), [(1, "nothing_to_compare"), (9, "nothing_to_compare"), (2, "no_samples")]
)
async def test_what_cannot_be_replayed(
    registry: Registry, settings: Settings, clock: Clock, version: int, cause: str
) -> None:
    await with_shop(registry)
    await registry.add_version("shop", "Answer with the label only.", lineage=Lineage(author="ops"))
    await registry.record(samples(60, TASKS[:2]), [])
    with pytest.raises(NoWork) as told:
        await shadow.run(work_for(registry, settings, clock, "shadow", version=version))
    assert told.value.cause == cause


# --- where traffic is thin -------------------------------------------------------------------------------------------


def test_how_many_units_a_canary_would_see() -> None:
    plan = CanaryPlan(stages=(0.05, 0.5), dwell_hours=(24, 24), n_final=1000)
    week = [
        Outcome(domain="shop", arm="stable", version=1, unit=f"u{i}", at=NOW - 7 * 86_400 + i * 864) for i in range(700)
    ]
    assert thin.expected_units(week, plan, NOW) == pytest.approx(100 * (0.1 * 1 + 13), rel=0.01)
    assert thin.expected_units([week[0]] * 500, plan, NOW) < 3, "a chatty user is one unit"
    assert thin.expected_units([], plan, NOW) == 0


def _automatic() -> Domain:
    canary = CanaryPlan(stages=(0.2, 0.5), dwell_hours=(1, 1), n_final=4400, margin=0.1)
    return shop(promotion="auto", canary=canary)


async def _passed(registry: Registry, settings: Settings, clock: Clock, prompt: str) -> str:
    """A version of a run that passed the gate, in a domain where nothing else asks for a person."""
    domain = await with_shop(registry, _automatic())
    await registry.add_version("shop", "Answer reviews kindly. Be brief. Be honest. Be of help.", lineage=Lineage())
    await registry.promote("shop", 2, actor="ops", why="fine")
    run = await registry.create_run("shop", request_id="r")
    await registry.add_version("shop", prompt, lineage=Lineage(author="jobs", run=run.id))
    ended = msgspec.structs.replace(run, state="done", gate={"outcome": "PASS"}, version=3)
    plan = RunPlan(
        method="metaspo", seed_prompt=prompt, incumbent=2, incumbent_prompt=prompt, tasks=(),
        budget_calls=None, budget_usd=None,
    )  # fmt: skip
    return await advance.after_gate(work_for(registry, settings, clock, "optimize"), domain, ended, plan, 3)


@pytest.mark.parametrize("good", [True, False])
async def test_where_traffic_is_thin_a_replay_comes_before_the_canary(
    registry: Registry, settings: Settings, clock: Clock, model: StubModel, good: bool
) -> None:
    model.skill = 1.0
    base = "Answer reviews kindly. Be brief. Be honest. Be of help."
    said = await _passed(registry, settings, clock, f"{base} {'Be quick.' if good else 'HARM'}")
    assert "waits for a replay" in said and "of 4400 units" in said
    assert (await registry.deployment("shop")).canary is None

    async def replay() -> str:
        work = work_for(registry, settings, clock, "shadow")
        return await shadow.run(replace(work, trigger=msgspec.structs.replace(work.trigger, by="schedule")))

    await registry.record(samples(20, at=clock() + 10), [])
    with pytest.raises(NoWork) as told:
        await replay()
    assert told.value.cause in {"too_few_examples", "no_samples"}
    await registry.record(samples(100, names=TASKS[:2], at=clock() + 20), [])
    said = await replay()
    pointers = await registry.deployment("shop")
    assert pointers.canary == (3 if good else None), said
    asked = await registry.list_approvals("shop", waiting_only=True)
    assert [a.kind for a in asked] == (["promote"] if good else [])
    with pytest.raises(NoWork) as told:
        await replay()
    assert told.value.cause == "nothing_to_compare", "once is enough"


async def test_where_traffic_is_enough_the_canary_begins_at_once(
    registry: Registry, settings: Settings, clock: Clock
) -> None:
    busy = [Outcome(domain="shop", arm="stable", version=2, unit=f"u{i}", at=clock() - 7_200 + i) for i in range(2_000)]
    await registry.record([], busy)
    prompt = "Answer reviews kindly. Be brief. Be honest. Be of help. Be quick."
    assert "on canary" in await _passed(registry, settings, clock, prompt)
