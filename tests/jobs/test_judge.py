"""Scores for fresh samples, sentinels, the day's budget, calibration."""

from __future__ import annotations

from typing import Any

import pytest

from jobs import calibrate, judge, optimize, scores, sentinels
from jobs.errors import NoWork
from jobs.judging import judge_id
from jobs.metrics import Metrics
from jobs.searchplan import decide, read_wishes
from optimizer import Example
from registry import Domain, JudgeSpec, Lineage, Outcome, Registry, Sample, Settings, Tally, Task
from tests.jobs.conftest import TASKS, Clock, samples, shop, task, with_shop, work_for
from tests.jobs.stub_model import StubModel

RUBRIC = {"products": Task(user_prompt="Review:\n{question}", judge=JudgeSpec(kind="rubric"))}


async def _judged_shop(registry: Registry, **changes: Any) -> Domain:
    return await with_shop(registry, shop(judge_model="judge", tasks=RUBRIC, **changes))


def _answers(n: int, fine: int, **changes: Any) -> list[Sample]:
    """The first ``fine`` of them are good, as the stub sees it."""
    made = samples(n, names=("products",), reference=None, **changes)
    import msgspec

    return [
        msgspec.structs.replace(s, answer=f"A FINE answer {i}" if i < fine else f"something else {i}")
        for i, s in enumerate(made)
    ]


async def test_references_score_without_a_model(
    registry: Registry, settings: Settings, clock: Clock, model: StubModel
) -> None:
    await with_shop(registry)
    await registry.record(samples(20, TASKS[:2], answer="It is positive."), [])
    said = await judge.run(work_for(registry, settings, clock, "judge"))
    assert said == "40 of 40 fresh samples scored"
    assert model.calls == []
    kept = await registry.samples("shop", task="products")
    assert {s.score for s in kept} == {0.0, 1.0} and {s.score_by for s in kept} == {"reference:choice"}
    work = work_for(registry, settings, clock, "judge")
    with pytest.raises(NoWork):
        await judge.run(work)
    mean = work.metrics.registry.get_sample_value("metaspo_score_mean", {"domain": "shop", "arm": "stable"})
    assert mean == pytest.approx(0.5)


async def test_a_rubric_asks_the_judge(registry: Registry, settings: Settings, clock: Clock, model: StubModel) -> None:
    domain = await _judged_shop(registry)
    await registry.record(_answers(40, 30), [])
    said = await judge.run(work_for(registry, settings, clock, "judge"))
    assert said == "40 of 40 fresh samples scored"
    kept = await registry.samples("shop")
    assert sum(s.score or 0 for s in kept) == 30
    assert {s.score_by for s in kept} == {judge_id(domain, RUBRIC["products"].judge)}
    asked = [c["messages"][-1]["content"] for c in model.calls]
    assert 40 + 2 <= len(asked) <= 46, "sentinels are planted in every batch"
    assert not any("stable" in a or "canary" in a for a in asked), "the judge does not know the arm"


async def test_a_judge_that_passes_planted_answers_is_not_believed(
    registry: Registry, settings: Settings, clock: Clock, model: StubModel
) -> None:
    await _judged_shop(registry)
    await registry.record(_answers(20, 10), [])
    model.judge = "good"
    work = work_for(registry, settings, clock, "judge")
    assert (await judge.run(work)).startswith("0 of")
    assert all(s.score is None for s in await registry.samples("shop"))
    assert [e.kind for e in await registry.history("shop", limit=1)] == ["judge-void"]
    counted = work.metrics.registry.get_sample_value(
        "metaspo_unscored_total", {"domain": "shop", "reason": "sentinels"}
    )
    assert counted == 20


async def test_the_days_budget_fails_closed(
    registry: Registry, settings: Settings, clock: Clock, model: StubModel
) -> None:
    await _judged_shop(registry)
    await registry.record(_answers(100, 50), [])
    few = settings.model_copy(update={"jobs": settings.jobs.model_copy(update={"judge_calls_per_day": 60})})
    await judge.run(work_for(registry, few, clock, "judge"))
    assert 25 <= len(model.calls) <= 60
    spent = len(model.calls)
    await judge.run(work_for(registry, few, clock, "judge"))
    assert len(model.calls) == spent, "no room for another batch"
    clock.now += 86_400
    await judge.run(work_for(registry, few, clock, "judge"))
    assert len(model.calls) > spent, "tomorrow is another day"
    none = settings.model_copy(update={"jobs": settings.jobs.model_copy(update={"judge_calls_per_day": 0})})
    before = len(model.calls)
    await judge.run(work_for(registry, none, clock, "judge"))
    assert len(model.calls) == before


def test_arms_on_trial_come_first_and_no_unit_counts_more_than_thrice() -> None:
    many = [*samples(5, ("products",), unit="one"), *samples(1, ("movies",), arm="canary", at=0.0)]
    chosen = judge.choose(many)
    assert chosen[0].arm == "canary"
    assert sum(s.unit == "one" for s in chosen) == 3


async def test_calibration(registry: Registry, settings: Settings, clock: Clock, model: StubModel) -> None:
    await _judged_shop(registry)
    await registry.record(_answers(60, 30), [])
    await judge.run(work_for(registry, settings, clock, "judge"))
    work = work_for(registry, settings, clock, "calibrate")
    said = await calibrate.run(work)
    assert "too few" in said
    assert not (await calibrate.latest(registry, "shop")).calibrated  # type: ignore[union-attr]
    for n, kept in enumerate(sorted(await registry.samples("shop"), key=lambda s: s.id)[::1]):
        if n % 15:
            await registry.label_sample(kept.id, 1.0 if "FINE" in kept.answer else 0.0, by="ann")
    said = await calibrate.run(work_for(registry, settings, clock, "calibrate"))
    found = await calibrate.latest(registry, "shop")
    assert found is not None and found.calibrated and found.kappa == 1.0, said
    assert "0% of verdicts change" in said
    entry = next(e for e in await registry.history("shop", limit=5) if e.kind == "calibration")
    assert entry.detail["calibrated"] and entry.detail["flip_rate"] == 0.0


async def test_a_calibrated_judge_lets_tasks_without_references_be_searched(
    registry: Registry, settings: Settings, clock: Clock, model: StubModel
) -> None:
    tasks = {name: Task(user_prompt="Review:\n{question}", judge=JudgeSpec(kind="rubric")) for name in ("a", "b")}
    domain = await with_shop(registry, shop(judge_model="judge", tasks=tasks))
    await registry.record([*samples(260, ("a", "b"), reference=None)], [])
    work = work_for(registry, settings, clock, "optimize")
    with pytest.raises(NoWork):
        await decide(work, domain, read_wishes({}))
    found = {"n": 60, "good": 30, "kappa": 0.8, "kappa_low": 0.6, "kappa_high": 1.0}
    await registry.append_audit("shop", "calibration", "jobs", "well", {"agreement": found})
    plan = await decide(work, domain, read_wishes({}))
    assert {t.judge.kind for t in plan.tasks} == {"rubric"}
    for talk in ("nonsense", "good"):  # calibrated once, and out of its mind by now
        model.judge = talk
        work = work_for(registry, settings, clock, "optimize", budget={"calls": 600})
        with pytest.raises(NoWork) as told:
            await optimize.run(work)
        assert told.value.cause == "blocked"
        run = (await registry.list_runs("shop"))[0]
        assert run.state == "failed" and "judge" in run.reason, run.reason
        counted = work.metrics.registry.get_sample_value(
            "metaspo_run_refused_total", {"domain": "shop", "cause": "blocked"}
        )
        assert counted == 1


def test_sentinels_are_the_same_for_the_same_batch() -> None:
    examples = [Example(id=str(n), question=f"what is {n}?") for n in range(50)]
    texts = [f"a long enough answer about the number {n} and more" for n in range(50)]
    one, two = sentinels.plant(examples, texts), sentinels.plant(examples, texts)
    assert one == two
    bad = [p for p in one if p.sample is None]
    assert len(bad) == 2 and any(
        "evaluator" in p.text.lower() or "criteria" in p.text or "checks" in p.text for p in bad
    )
    assert sorted(p.sample for p in one if p.sample is not None) == list(range(50))
    assert sentinels.plant([], []) == []
    assert sentinels.void([0.0, 1.0]) and not sentinels.void([0.0, 0.0, None]) and not sentinels.void([])


@pytest.mark.parametrize(("total", "square", "n"), [(8.0, 8.0, 10), (40.0, 40.0, 50), (30.0, 20.0, 50), (0.0, 0.0, 5)])
def test_intervals_hold_their_mean(total: float, square: float, n: int) -> None:
    mean, low, high = scores.interval(Tally(n=n, scored=n, score=total, score_sq=square))
    assert mean == pytest.approx(total / n)
    assert 0 <= low <= mean <= high <= 1


def test_task_of_an_undescribed_sample() -> None:
    by_rule, by_model = judge.sort_out(Domain(name="shop"), [*samples(1, ("a",)), *samples(1, ("b",), reference=None)])
    assert [s.judge.kind if hasattr(s, "judge") else spec.kind for s, spec in by_rule] == ["f1"]
    assert [spec.kind for _, spec in by_model] == ["rubric"]
    assert task().judge.lenient


async def test_a_late_reference_is_found_behind_many_that_wait(
    registry: Registry, settings: Settings, clock: Clock
) -> None:
    await with_shop(registry)
    waiting = samples(600, ("products",), reference=None)
    late = samples(1, ("restaurants",), at=clock() - 9_000)
    await registry.record([*waiting, *late], [])
    said = await judge.run(work_for(registry, settings, clock, "judge"))
    assert said == "1 of 601 fresh samples scored"


async def test_every_worker_shows_what_any_of_them_judged_and_no_arm_that_ended(
    registry: Registry, settings: Settings, clock: Clock
) -> None:
    await with_shop(registry)
    await registry.add_version("shop", "Another.", lineage=Lineage(author="test"))
    await registry.canary("shop", 2, 0.5, actor="ops", why="try")
    name = "metaspo_score_mean"
    rows = [
        Outcome(
            domain="shop", arm=arm, version=v, unit=f"{arm}{i}", at=clock(), score=float(i % 2), exchange=f"{arm}{i}"
        )
        for arm, v in (("canary", 2), ("control", 1))
        for i in range(10)
    ]
    await registry.record([], rows)
    another = Metrics()
    await scores.publish(registry, another)
    assert another.registry.get_sample_value(name, {"domain": "shop", "arm": "canary"}) == 0.5
    await registry.abort("shop", actor="ops", why="enough")
    await scores.publish(registry, another)
    for arm in ("canary", "control"):
        assert another.registry.get_sample_value(name, {"domain": "shop", "arm": arm}) is None
