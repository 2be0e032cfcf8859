"""One look at a canary reads what happened and moves the pointers, once."""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec
import pytest

from jobs import advance, canary_job, policy
from jobs.canary import decide
from jobs.errors import NoWork
from jobs.experiment import Experiment
from jobs.policy import AUTOMATIC
from jobs.trial import units
from registry import (
    Arm,
    CanaryPlan,
    Domain,
    Lineage,
    Message,
    Outcome,
    Registry,
    Sample,
    Settings,
)
from tests.jobs.conftest import FIRST, Clock, shop, with_shop, work_for

PLAN = CanaryPlan(stages=(0.2, 0.5), dwell_hours=(1, 1), n_final=800, margin=0.05)


async def _on_canary(registry: Registry, by: str = "ops", **changes: object) -> Domain:
    domain = await with_shop(registry, shop(canary=PLAN, **changes))
    version = await registry.add_version("shop", FIRST + " Give the label only.", lineage=Lineage(author="jobs"))
    await registry.canary("shop", version.number, 0.2, actor=by, why="try")
    return domain


async def _traffic(
    registry: Registry,
    clock: Clock,
    n: int,
    *,
    good: tuple[float, float] = (0.8, 0.8),
    errors: tuple[float, float] = (0.01, 0.01),
    latency: tuple[float, float] = (1.0, 1.0),
    cost: tuple[float, float] = (0.0, 0.0),
    arms: tuple[Arm, Arm] = ("control", "canary"),
    seed: int = 1,
) -> None:
    """``n`` units per arm in the past half hour, each with one judged exchange, and the time passes."""
    draw = random.Random(seed)
    pointers = await registry.deployment("shop")
    version = {
        "control": pointers.stable,
        "canary": pointers.canary,
        "stable": pointers.stable,
        "holdback": pointers.holdback,
    }
    outcomes: list[Outcome] = []
    kept: list[Sample] = []
    for arm, p, e, slow, usd in zip(arms, good, errors, latency, cost, strict=True):
        for i in range(n):
            name, at = f"{arm}-{seed}-{i}", clock() + draw.random() * 1800
            failed = draw.random() < e
            outcomes.append(
                Outcome(
                    domain="shop", arm=arm, version=version[arm], unit=name, at=at, error=failed,
                    status=500 if failed else 200,
                    latency=slow * draw.lognormvariate(0, 0.3), cost=usd,
                    answer_tokens=20, prompt_tokens=100, exchange=name,
                    experiment=pointers.experiment if arm in {"control", "canary"} else "",
                )
            )  # fmt: skip
            if not failed:
                kept.append(
                    Sample(
                        id=name, domain="shop", task="products", at=at, key="app", unit=name, arm=arm,
                        version=version[arm],
                        messages=(Message(role="user", content="Review:\nfine"),), answer="x", model="base",
                        score=float(draw.random() < p), score_by="reference:choice",
                    )
                )  # fmt: skip
    await registry.record(kept, outcomes)
    clock.now += 3700


async def _look(registry: Registry, settings: Settings, clock: Clock) -> str:
    return await canary_job.run(work_for(registry, settings, clock, "canary"))


async def _kinds(registry: Registry) -> Sequence[str]:
    return [e.kind for e in reversed(await registry.history("shop", limit=100))]


async def test_all_is_well_until_promoted(registry: Registry, settings: Settings, clock: Clock) -> None:
    await _on_canary(registry, promotion="auto")
    assert "Stage 1 of 2" in await _look(registry, settings, clock)
    await _traffic(registry, clock, 200)
    await _look(registry, settings, clock)
    pointers = await registry.deployment("shop")
    assert (pointers.canary, pointers.share) == (2, 0.5)
    await _look(registry, settings, clock)
    assert (await registry.deployment("shop")).epoch == pointers.epoch, "a second look moves nothing"
    await _traffic(registry, clock, 400, seed=2)
    await _look(registry, settings, clock)
    pointers = await registry.deployment("shop")
    assert (pointers.stable, pointers.canary, pointers.previous) == (2, None, 1)
    assert (pointers.holdback, pointers.holdback_share) == (1, settings.jobs.holdback_share)
    kinds = await _kinds(registry)
    assert [k for k in kinds if k in {"canary", "share", "promote", "holdback"}] == [
        "promote", "canary", "share", "promote", "holdback",
    ]  # fmt: skip
    looks = [e for e in await registry.history("shop", limit=100) if e.kind == "canary-look"]
    assert looks[0].detail["action"] == "promote" and looks[0].detail["table"]


async def test_a_manual_domain_asks_before_promoting(registry: Registry, settings: Settings, clock: Clock) -> None:
    await _on_canary(registry, promotion="manual")
    await registry.set_share("shop", 0.5, actor="ops", why="all")
    await _traffic(registry, clock, 500)
    await _look(registry, settings, clock)
    await _look(registry, settings, clock)
    assert (await registry.deployment("shop")).stable == 1
    (approval,) = await registry.list_approvals()
    assert (approval.kind, approval.version) == ("promote", 2)
    await registry.decide_approval(approval.id, "approved", by="ops", why="good")
    await advance.run(work_for(registry, settings, clock, "approval", approval=approval.id))
    await advance.run(work_for(registry, settings, clock, "approval", approval=approval.id))
    pointers = await registry.deployment("shop")
    assert (pointers.stable, pointers.canary) == (2, None)
    promoted = [e for e in await registry.history("shop", limit=50) if e.kind == "promote"]
    assert promoted[0].actor == "ops" and len(promoted) == 2
    assert pointers.holdback is None, "only what automation promoted is watched against a holdback"


async def test_a_canary_that_a_person_rejects_ends(registry: Registry, settings: Settings, clock: Clock) -> None:
    await _on_canary(registry, promotion="manual")
    await registry.set_share("shop", 0.5, actor="ops", why="all")
    await _traffic(registry, clock, 500)
    await _look(registry, settings, clock)
    (approval,) = await registry.list_approvals()
    await registry.decide_approval(approval.id, "rejected", by="ops", why="not its tone")
    assert "rejected" in await _look(registry, settings, clock)
    pointers = await registry.deployment("shop")
    assert (pointers.stable, pointers.canary) == (1, None)
    (last,) = await registry.history("shop", limit=1, moves_only=True)
    assert last.actor == "ops" and "not its tone" in last.why
    await registry.canary("shop", 2, 0.5, actor="ops", why="once more")
    await _traffic(registry, clock, 500, seed=7)
    assert "Not worse" in await _look(registry, settings, clock)
    assert (await registry.deployment("shop")).canary == 2, "a new canary is asked about anew"
    assert len(await registry.list_approvals("shop", waiting_only=True)) == 1


async def test_harm_is_rolled_back_and_blocked(registry: Registry, settings: Settings, clock: Clock) -> None:
    await _on_canary(registry, promotion="auto")
    await _traffic(registry, clock, 300, good=(0.8, 0.5))
    work = work_for(registry, settings, clock, "canary")
    said = await canary_job.run(work)
    assert "Quality fell" in said
    pointers = await registry.deployment("shop")
    assert (pointers.stable, pointers.canary) == (1, None)
    assert "Quality fell" in (await registry.get_version("shop", 2)).blocked
    counted = work.metrics.registry.get_sample_value("metaspo_rollbacks_total", {"domain": "shop", "cause": "quality"})
    assert counted == 1
    with pytest.raises(NoWork):
        await _look(registry, settings, clock)


async def test_errors_are_rolled_back_without_any_score(registry: Registry, settings: Settings, clock: Clock) -> None:
    await _on_canary(registry)
    await _traffic(registry, clock, 400, errors=(0.0, 0.4))
    assert "Hard failures" in await _look(registry, settings, clock)
    assert (await registry.deployment("shop")).canary is None


async def test_a_slower_canary_pauses_and_asks(registry: Registry, settings: Settings, clock: Clock) -> None:
    await _on_canary(registry, promotion="auto")
    await _traffic(registry, clock, 400, latency=(1.0, 1.6))
    assert "Latency grew" in await _look(registry, settings, clock)
    pointers = await registry.deployment("shop")
    assert (pointers.canary, pointers.share) == (2, 0.2), "it neither grows nor goes"
    (approval,) = await registry.list_approvals()
    assert approval.kind == "share"
    await registry.decide_approval(approval.id, "approved", by="ops", why="worth it")
    await _look(registry, settings, clock)
    assert (await registry.deployment("shop")).share == 0.5


async def test_a_costlier_canary_pauses_and_asks(registry: Registry, settings: Settings, clock: Clock) -> None:
    await _on_canary(registry, promotion="auto")
    await _traffic(registry, clock, 400, cost=(0.001, 0.002))
    assert "Cost grew" in await _look(registry, settings, clock)
    pointers = await registry.deployment("shop")
    assert (pointers.canary, pointers.share) == (2, 0.2)


async def test_the_sixth_automatic_promotion_in_a_row_waits_for_a_person(
    registry: Registry, settings: Settings, clock: Clock
) -> None:
    """All five before it are in the audit, as automation made them."""
    domain = await with_shop(registry, shop(canary=PLAN, promotion="auto"))
    await registry.promote("shop", 1, actor="ops", why="fine")
    text = FIRST + " Answer in a friendly, brief and honest way, and name the label of the review at the very end."
    for n in range(settings.jobs.automatic_promotions + 1):
        version = await registry.add_version("shop", f"{text} Rule {n}.", lineage=Lineage(author="jobs"))
        case = await advance.make_case(
            work_for(registry, settings, clock, "optimize"), domain, None, version.number, "PASS"
        )
        assert case.automatic_in_a_row == n
        verdict = policy.needs_a_person(case)
        assert any("in a row" in reason for reason in verdict) == (n >= 5), (n, verdict)
        await registry.promote("shop", version.number, actor=AUTOMATIC, why="well")


async def test_the_lost_prompt_caches_of_live_conversations_veto(
    registry: Registry, settings: Settings, clock: Clock
) -> None:
    """40 conversations of the last ten minutes with 2,000 tokens each; an older one no longer has a cache."""
    domain = await _on_canary(registry)
    live = [
        Outcome(domain="shop", arm="stable", version=1, unit=f"u{i}", at=clock() - 60 - i, prompt_tokens=2000)
        for i in range(40)
    ]
    old = Outcome(domain="shop", arm="stable", version=1, unit="old", at=clock() - 3600, prompt_tokens=2000)
    await registry.record([], [old, *live])
    priced = settings.model_copy(
        update={
            "models": [m.model_copy(update={"price_in": 10.0}) for m in settings.models],
            "jobs": settings.jobs.model_copy(update={"cache_cost_veto_usd": 0.5}),
        }
    )
    case = await advance.make_case(work_for(registry, priced, clock, "canary"), domain, None, 2, "PASS")
    assert (case.cache_cost.conversations, case.cache_cost.tokens) == (40, 80_000)
    assert case.cache_cost.usd == pytest.approx(80_000 * 10 / 1e6 * 0.9)
    assert any("40 live conversations" in reason for reason in policy.needs_a_person(case))


@pytest.mark.parametrize("jump", [-86_400.0, -60.0])
async def test_a_clock_that_jumps_back_moves_nothing(
    registry: Registry, settings: Settings, clock: Clock, jump: float
) -> None:
    await _on_canary(registry, promotion="auto")
    await _traffic(registry, clock, 400)
    now, clock.now = clock.now, (await registry.deployment("shop")).moved_at + jump
    assert "clock" in await _look(registry, settings, clock)
    assert (await registry.deployment("shop")).share == 0.2
    clock.now = now
    await _look(registry, settings, clock)
    assert (await registry.deployment("shop")).share == 0.5


async def test_what_is_older_than_the_trial_is_neither_counted_nor_read(
    registry: Registry, settings: Settings, clock: Clock
) -> None:
    """A domain's whole past of failures, and much traffic in neither arm, change nothing about a young canary."""
    with_past = [
        Outcome(domain="shop", arm=arm, version=1, unit=f"p{arm}{i}", at=clock() - 90_000 + i, error=True, status=500)
        for i in range(1_500)
        for arm in ("stable", "canary")
    ]
    await registry.record([], with_past)
    await _on_canary(registry)
    await _traffic(registry, clock, 200)
    found = await registry.outcomes("shop", arm=("control", "canary"), since=clock() - 4_000, limit=60_000)
    assert len(found) == 400 and {o.arm for o in found} == {"control", "canary"}
    await _look(registry, settings, clock)
    assert (await registry.deployment("shop")).share == 0.5


async def test_lopsided_arms_prove_nothing(registry: Registry, settings: Settings, clock: Clock) -> None:
    await _on_canary(registry)
    await _traffic(registry, clock, 300, arms=("control", "control"))
    await _traffic(registry, clock, 100, seed=3)
    assert "not equally large" in await _look(registry, settings, clock)
    assert (await registry.deployment("shop")).canary is None
    assert not (await registry.get_version("shop", 2)).blocked, "inconclusive is no guilt"


async def test_too_little_traffic_goes_back(registry: Registry, settings: Settings, clock: Clock) -> None:
    await _on_canary(registry)
    clock.now += 15 * 86_400
    assert "too little traffic" in await _look(registry, settings, clock)
    assert (await registry.deployment("shop")).canary is None


async def test_the_holdback_shows_harm_after_the_promotion(
    registry: Registry, settings: Settings, clock: Clock
) -> None:
    await _on_canary(registry)
    await registry.promote("shop", 2, actor=AUTOMATIC, why="well")
    await registry.set_holdback("shop", 1, 0.05, actor=AUTOMATIC, why="watch")
    await _traffic(registry, clock, 400, arms=("holdback", "stable"), good=(0.9, 0.5))
    assert "Quality fell" in await _look(registry, settings, clock)
    pointers = await registry.deployment("shop")
    assert (pointers.stable, pointers.holdback) == (1, None)
    assert (await registry.get_version("shop", 2)).blocked


async def test_the_holdback_ends_well(registry: Registry, settings: Settings, clock: Clock) -> None:
    await _on_canary(registry)
    await registry.promote("shop", 2, actor=AUTOMATIC, why="well")
    await registry.set_holdback("shop", 1, 0.05, actor=AUTOMATIC, why="watch")
    await _traffic(registry, clock, 300, arms=("holdback", "stable"))
    clock.now += 15 * 86_400
    assert "did no harm" in await _look(registry, settings, clock)
    pointers = await registry.deployment("shop")
    assert (pointers.stable, pointers.holdback) == (2, None)


async def _watched_beside_a_canary(registry: Registry) -> int:
    """Version 2 was promoted by itself and is watched; version 3 is the next canary. Returns its number."""
    await _on_canary(registry, promotion="auto")
    await registry.promote("shop", 2, actor=AUTOMATIC, why="well")
    await registry.set_holdback("shop", 1, 0.05, actor=AUTOMATIC, why="watch")
    third = await registry.add_version("shop", FIRST + " Say the label.", lineage=Lineage(author="jobs"))
    await registry.canary("shop", third.number, 0.2, actor="ops", why="next")
    return third.number


async def test_a_canary_reaches_its_last_stage_beside_a_holdback(
    registry: Registry, settings: Settings, clock: Clock
) -> None:
    third = await _watched_beside_a_canary(registry)
    await _traffic(registry, clock, 200)
    told = await _look(registry, settings, clock)
    assert "watched against the holdback" in told and "on to 50%" in told
    pointers = await registry.deployment("shop")
    assert (pointers.canary, pointers.share, pointers.holdback_share) == (third, 0.5, 0.05)
    looks = [e for e in await registry.history("shop", limit=100) if e.kind == canary_job.LOOK]
    assert [e.detail["phase"] for e in looks] == ["ramp", "holdback"]
    await _traffic(registry, clock, 400, seed=2)
    await _look(registry, settings, clock)
    pointers = await registry.deployment("shop")
    assert (pointers.stable, pointers.canary, pointers.holdback) == (third, None, 2)


async def test_harm_of_the_stable_version_ends_the_canary_beside_it_without_blame(
    registry: Registry, settings: Settings, clock: Clock
) -> None:
    third = await _watched_beside_a_canary(registry)
    await _traffic(registry, clock, 400, arms=("holdback", "control"), good=(0.9, 0.5))
    assert "Quality fell" in await _look(registry, settings, clock)
    pointers = await registry.deployment("shop")
    assert (pointers.stable, pointers.canary, pointers.holdback) == (1, None, None)
    assert (await registry.get_version("shop", 2)).blocked
    assert not (await registry.get_version("shop", third)).blocked


async def test_a_person_who_moves_first_is_right(registry: Registry, settings: Settings, clock: Clock) -> None:
    await _on_canary(registry)
    await _traffic(registry, clock, 300, good=(0.8, 0.4))
    work = work_for(registry, settings, clock, "canary")
    seen = await registry.deployment("shop")
    await registry.set_share("shop", 0.3, actor="ops", why="mine")
    decision = decide(
        PLAN, seen, Experiment(started_at=0, stage_started_at=0), units([], {}),
        units([], {}), now=clock() + 10**9,
    )  # fmt: skip
    with pytest.raises(NoWork) as told:
        await canary_job._carry_out(work, await registry.get_domain("shop"), seen, decision)
    assert told.value.cause == "moved_meanwhile"
    assert (await registry.deployment("shop")).share == 0.3


def test_scores_and_votes_that_came_later_are_joined() -> None:
    outcome = Outcome(domain="shop", arm="canary", version=2, unit="u", at=5.0, exchange="e", latency=1.0)
    sample = Sample(id="e", domain="shop", task="t", at=5.0, key="k", unit="u", score=0.25, feedback=0.0)
    found = units([outcome], {"e": sample})
    assert list(found.scores) == [0.25]
    assert found.failures[3, 0] == 1, "a bad vote is a hard signal"
    assert list(found.task_quality("t")) == [0.25]


def test_a_late_failure_of_a_unit_counts_only_for_what_it_showed_at_first() -> None:
    first = Outcome(domain="shop", arm="canary", version=2, unit="u", at=5.0, exchange="e")
    late = msgspec.structs.replace(first, at=500.0, error=True, exchange="f")
    assert units([first, late], {}).failures[0, 0] == 0
    soon = msgspec.structs.replace(late, at=20.0)
    assert units([first, soon], {}).failures[0, 0] == 0.5


async def test_a_look_that_moves_nothing_leaves_its_table_once_an_hour(
    registry: Registry, settings: Settings, clock: Clock
) -> None:
    """The console shows the tests of a canary that is held: the table of the last look must be in the audit."""
    await _on_canary(registry)
    await _traffic(registry, clock, 5)
    for _ in range(3):
        await _look(registry, settings, clock)
    looks = [e for e in await registry.history("shop", limit=50) if e.kind == canary_job.LOOK]
    assert len(looks) == 1
    assert {row["name"] for row in looks[0].detail["table"]} >= {"hard_failures"}
    assert looks[0].detail["action"] == "hold"
