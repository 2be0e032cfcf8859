"""What a canary does next: each rule alone, their order, and a look that is repeated."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from jobs.canary import (
    Decision,
    Experiment,
    Rules,
    State,
    Units,
    collect,
    decide,
    judged_needed,
    stage_of,
)
from jobs.experiment import HOUR
from jobs.units import HARD_SIGNALS


@dataclass(frozen=True)
class Plan:
    stages: tuple[float, ...] = (0.01, 0.05, 0.2, 0.5)
    dwell_hours: tuple[float, ...] = (1, 6, 24, 48)
    n_final: int = 4400
    margin: float = 0.03


@dataclass(frozen=True)
class Pointers:
    canary: int | None = 2
    share: float = 0.01


def arm(
    n: int,
    quality: float = 0.8,
    *,
    seed: int = 0,
    until: float = HOUR,
    failing: dict[str, float] | None = None,
    slower: float = 1.0,
    tasks: dict[str, float] | None = None,
) -> Units:
    """Units with exactly the pass rate asked for (rounded), spread evenly over time."""
    rng = np.random.default_rng(seed)
    scores = np.zeros(n)
    scores[: round(quality * n)] = 1.0
    rng.shuffle(scores)
    failures = np.zeros((len(HARD_SIGNALS), n))
    for name, rate in (failing or {}).items():
        hit = rng.permutation(n)[: round(rate * n)]
        failures[HARD_SIGNALS.index(name), hit] = 1.0
    logs = {"latency": math.log(slower) + 0.2 * rng.standard_normal(n), "tokens": 5 + 0.2 * rng.standard_normal(n)}
    per_task = {t: np.where(np.arange(n) % 10 < round(10 * q), 1.0, 0.0) for t, q in (tasks or {}).items()}
    return Units(np.linspace(1.0, until - 60.0, n), failures, scores, logs, per_task)


def look(
    control: Units,
    candidate: Units,
    *,
    share: float = 0.01,
    hours: float = 1.5,
    stage_hours: float = 0.0,
    plan: Plan | None = None,
    rules: Rules | None = None,
    state: State | None = None,
    **experiment: Any,
) -> Decision:
    where = Experiment(started_at=0.0, stage_started_at=stage_hours * HOUR, **experiment)
    return decide(
        plan or Plan(), Pointers(share=share), where, control, candidate, now=hours * HOUR, state=state, rules=rules
    )


# --- the ramp --------------------------------------------------------------------------------------------------------


def test_a_stage_lasts_until_time_and_units_are_there() -> None:
    assert look(arm(60), arm(60, seed=1), hours=0.9).cause == "dwell"
    assert look(arm(40), arm(40, seed=1)).cause == "dwell"
    decision = look(arm(60), arm(60, seed=1))
    assert (decision.action, decision.share) == ("next_stage", 0.05)


@pytest.mark.parametrize(("share", "need", "hours", "onward"), [(0.05, 300, 6, 0.2), (0.2, 1000, 24, 0.5)])
def test_later_stages(share: float, need: int, hours: float, onward: float) -> None:
    half = need // 2
    assert look(arm(half - 5), arm(half - 5, seed=1), share=share, hours=hours + 1).action == "hold"
    assert look(arm(half), arm(half, seed=1), share=share, hours=hours - 0.1).action == "hold"
    decision = look(arm(half), arm(half, seed=1), share=share, hours=hours + 0.1)
    assert (decision.action, decision.share) == ("next_stage", onward)


def test_the_final_test_happens_once_at_the_planned_size() -> None:
    assert look(arm(2190), arm(2190, seed=1), share=0.5, hours=60).action == "hold"
    assert look(arm(2200), arm(2200, seed=1), share=0.5, hours=60, stage_hours=30).action == "hold"
    decision = look(arm(2200), arm(2200, seed=1), share=0.5, hours=60)
    assert decision.action == "promote"
    assert any(s.name == "not_worse" and s.crossed for s in decision.table)


def test_not_shown_goes_back() -> None:
    decision = look(arm(2200), arm(2200, 0.78, seed=1), share=0.5, hours=60)
    assert (decision.action, decision.cause) == ("inconclusive", "not_shown")


def test_small_plans_need_proportionally_fewer_units() -> None:
    plan = Plan(stages=(0.1, 0.5), dwell_hours=(0.0, 0.0), n_final=44)
    assert [judged_needed(plan, s, Rules()) for s in (0, 1)] == [1, 44]
    assert [judged_needed(Plan(), s, Rules()) for s in range(4)] == [100, 300, 1000, 4400]
    decision = look(arm(22), arm(22, seed=1), share=0.5, hours=1, plan=replace(plan, margin=0.5))
    assert decision.action == "promote"


def test_stage_of_a_share() -> None:
    assert [stage_of(Plan(), s) for s in (0.0, 0.01, 0.03, 0.05, 0.5, 1.0)] == [-1, 0, 0, 1, 3, 3]
    decision = look(arm(0), arm(0), share=0.0)
    assert (decision.action, decision.share) == ("next_stage", 0.01)


def test_fourteen_days_without_an_answer_go_back() -> None:
    decision = look(arm(1000), arm(1000, seed=1), share=0.5, hours=14 * 24)
    assert (decision.action, decision.cause) == ("inconclusive", "deadline")
    assert "too little traffic" in decision.reason


# --- harm ------------------------------------------------------------------------------------------------------------


def test_a_clear_fall_in_quality_is_rolled_back() -> None:
    decision = look(arm(300), arm(300, 0.6, seed=1))
    assert (decision.action, decision.cause) == ("rollback", "quality")
    assert "-0.2" in decision.reason or "0.200" in decision.reason


def test_fewer_than_a_hundred_units_per_arm_convict_nobody() -> None:
    assert look(arm(99), arm(99, 0.3, seed=1)).action != "rollback"


def test_a_better_candidate_is_never_rolled_back_for_quality() -> None:
    assert look(arm(2000), arm(2000, 0.9, seed=1)).action == "next_stage"


@pytest.mark.parametrize("signal", HARD_SIGNALS)
def test_hard_failures_are_rolled_back_before_anybody_judged_them(signal: str) -> None:
    control, candidate = arm(200, failing={signal: 0.01}), arm(200, failing={signal: 0.25}, seed=1)
    blind = [replace(u, scores=np.full(200, np.nan)) for u in (control, candidate)]
    decision = look(*blind)
    assert (decision.action, decision.cause) == ("rollback", "hard_failures")
    assert signal in decision.reason


def test_failures_of_both_arms_are_the_upstreams_fault() -> None:
    storm = {"error": 0.4}
    assert look(arm(500, failing=storm), arm(500, failing=storm, seed=1)).action != "rollback"


def test_one_hurt_task_is_found_where_the_mean_hides_it() -> None:
    tasks = {"billing": 0.8, "search": 0.8}
    hurt = arm(2000, 0.8, seed=1, tasks={"billing": 0.2, "search": 0.8})
    decision = look(arm(2000, tasks=tasks), hurt)
    assert (decision.action, decision.cause) == ("rollback", "task_quality")
    assert "billing" in decision.reason
    helped = arm(2000, 0.8, seed=1, tasks={"billing": 1.0, "search": 0.8})
    assert look(arm(2000, tasks=tasks), helped).action == "next_stage"


def test_slowness_pauses_and_does_not_roll_back() -> None:
    decision = look(arm(400), arm(400, slower=1.5, seed=1))
    assert (decision.action, decision.cause) == ("pause", "latency")
    assert look(arm(400), arm(400, slower=1.1, seed=1)).action == "next_stage"


# --- broken experiments ----------------------------------------------------------------------------------------------


def test_unequal_arms_are_a_broken_split() -> None:
    decision = look(arm(700), arm(500, seed=1))
    assert (decision.action, decision.cause) == ("inconclusive", "sample_ratio")


def test_the_chi_square_test_guards_each_step() -> None:
    """Unequal beyond the fixed test, not yet beyond the one that may be looked at every hour."""
    decision = look(arm(560), arm(450, seed=1))
    assert (decision.action, decision.cause) == ("inconclusive", "sample_ratio")
    assert look(arm(560), arm(450, seed=1), hours=0.5).action == "hold"


def test_units_in_both_arms() -> None:
    assert look(arm(100), arm(100, seed=1), crossed=2).action != "inconclusive"
    assert look(arm(100), arm(100, seed=1), crossed=3).cause == "crossed_units"


@pytest.mark.parametrize("what", ["judge", "model"])
def test_a_changed_measuring_rod(what: str) -> None:
    then = {f"{what}_then": "a", f"{what}_now": "b"}
    decision = look(arm(300), arm(300, 0.6, seed=1), **then)
    assert (decision.action, decision.cause) == ("inconclusive", f"{what}_changed")
    assert look(arm(60), arm(60, seed=1), **{f"{what}_then": "a", f"{what}_now": ""}).action == "next_stage"


def test_hard_failures_come_before_everything() -> None:
    bad = arm(500, 0.5, failing={"error": 0.3}, seed=1)
    assert look(arm(900), bad, judge_then="a", judge_now="b", crossed=400).cause == "hard_failures"


# --- clocks, repetition, memory --------------------------------------------------------------------------------------


def test_a_clock_that_runs_backwards_decides_nothing() -> None:
    decision = look(arm(300), arm(300, 0.5, seed=1), hours=1, stage_hours=2)
    assert (decision.action, decision.cause) == ("hold", "clock")


def test_without_a_canary_nothing_happens() -> None:
    decision = decide(
        Plan(), Pointers(canary=None), Experiment(started_at=0, stage_started_at=0), arm(9), arm(9), now=HOUR
    )
    assert (decision.action, decision.cause) == ("hold", "no_canary")


def test_no_unit_yet_is_no_reason_for_anything() -> None:
    decision = look(arm(0), arm(0))
    assert (decision.action, decision.cause) == ("hold", "dwell")
    json.dumps(decision.to_dict(), allow_nan=False)


def test_a_look_repeated_after_a_crash_says_the_same() -> None:
    control, candidate = arm(300, failing={"error": 0.02}), arm(300, failing={"error": 0.05}, seed=1)
    kept = State.from_dict(json.loads(json.dumps(look(control, candidate).state.to_dict())))
    assert kept == look(control, candidate).state
    again = look(control, candidate, state=kept)
    assert again.state == kept
    assert again.action == look(control, candidate).action


def test_units_enter_the_hard_test_once() -> None:
    control, candidate = arm(200, until=2 * HOUR), arm(200, until=2 * HOUR, seed=1)
    first = look(control, candidate, hours=1.0).state
    second = look(control, candidate, hours=2.0, state=first).state
    assert 190 <= first.wealth.n_control + first.wealth.n_candidate <= 210
    assert second.wealth.n_control == second.wealth.n_candidate == 200
    turned_bad = replace(candidate, failures=np.ones_like(candidate.failures))
    assert look(control, turned_bad, hours=2.1, state=second).state.wealth == second.wealth


def test_how_often_one_looks_changes_nothing() -> None:
    control = arm(333, failing={"error": 0.02}, until=4 * HOUR)
    candidate = arm(327, failing={"error": 0.06}, seed=1, until=4 * HOUR)
    often = State()
    for minute in range(1, 241):
        often = look(control, candidate, hours=minute / 60, state=often).state
    once = look(control, candidate, hours=4.0).state
    assert np.allclose(often.wealth.log_e, once.wealth.log_e)
    assert often.peak == pytest.approx(once.peak)
    assert often.entered == once.entered == 660


def test_units_of_one_instant_enter_once_each() -> None:
    tied = replace(arm(25), first_at=np.full(25, 10.0))
    state = look(tied, tied, hours=1.0).state
    assert state.entered == state.wealth.n_control + state.wealth.n_candidate == 50
    assert look(tied, tied, hours=2.0, state=state).state == state


def test_nothing_stored_starts_anew() -> None:
    assert State.from_dict(None) == State()
    assert State.from_dict({"log_e": [[0.0]]}) == State()


# --- after promotion -------------------------------------------------------------------------------------------------


def test_the_holdback_watches_the_promoted_prompt() -> None:
    old, new = arm(100), arm(1900, seed=1)
    hold = look(old, new, phase="holdback", hours=100)
    assert (hold.action, hold.cause) == ("hold", "watching")
    assert look(old, new, phase="holdback", hours=14 * 24).action == "end_holdback"
    worse = look(arm(150), arm(2000, 0.55, seed=1), phase="holdback", hours=100)
    assert (worse.action, worse.cause) == ("rollback", "quality")


# --- units from exchanges --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Exchange:
    unit: str
    at: float
    error: bool = False
    bad_format: bool = False
    refusal: bool = False
    negative: bool = False
    latency: float = 1.0
    answer_tokens: int = 10
    cost: float = 0.0
    score: float | None = None
    task: str = ""


def test_units_are_made_of_exchanges_in_order_of_appearance() -> None:
    units = collect(
        [
            Exchange("b", 5.0, score=1.0),
            Exchange("a", 9.0, error=True, latency=0.01),
            Exchange("a", 1.0, score=0.0, latency=4.0),
            *(Exchange("a", 10.0 + k, score=1.0, latency=4.0) for k in range(5)),
            Exchange("c", 7.0),
        ]
    )
    assert units.first_at.tolist() == [1.0, 5.0, 7.0]
    assert units.scores[:2].tolist() == [pytest.approx(2 / 3), 1.0]  # the first three judged of unit a: 0, 1, 1
    assert math.isnan(units.scores[2])
    assert units.failures[HARD_SIGNALS.index("error")].tolist() == [pytest.approx(1 / 7), 0.0, 0.0]
    assert units.log_mean("latency")[0] == pytest.approx(math.log(4.0))  # the fast error does not count as fast
    assert len(units.quality()) == 2
    assert len(units.log_mean("cost")) == 0
    assert len(collect([])) == 0


def test_tasks_of_units() -> None:
    rows = [Exchange("a", 1.0, score=1.0, task="x"), Exchange("b", 2.0, score=0.0, task="y")]
    units = collect(rows, task_of=lambda e: e.task)  # type: ignore[attr-defined]
    assert units.task_quality("x").tolist() == [1.0]
    assert units.task_quality("z").tolist() == []
