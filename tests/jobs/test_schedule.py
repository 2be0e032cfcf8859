"""What is due between two looks at the clock."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from jobs.schedule import BY_NAME, FLEET, LOOK_BACK, Plan, due, firing_id
from registry import Deployment, Domain, Settings

SUNDAY = datetime(2026, 11, 22, 3, tzinfo=UTC).timestamp()
SETTINGS = Settings()


def _plan(
    name: str = "support",
    *,
    schedule: str | None = "0 3 * * 0",
    learn: bool = False,
    judge: str | None = None,
    **pointers: object,
) -> Plan:
    domain = Domain(name=name, schedule=schedule, meta_learning=learn, judge_model=judge)
    return Plan(domain, Deployment(domain=name, **pointers))  # type: ignore[arg-type]


def _jobs(plans: list[Plan], since: float, now: float, **more: object) -> list[tuple[str, str]]:
    return sorted((t.job, t.domain) for t in due(plans, SETTINGS, since, now, **more))  # type: ignore[arg-type]


def test_a_domains_own_schedule() -> None:
    assert ("optimize", "support") in _jobs([_plan()], SUNDAY - 1, SUNDAY)
    assert ("optimize", "support") not in _jobs([_plan()], SUNDAY, SUNDAY + 60)
    assert ("optimize", "support") not in _jobs([_plan(schedule=None)], SUNDAY - 1, SUNDAY)


def test_everybody_computes_the_same_names() -> None:
    early = {t.id for t in due([_plan()], SETTINGS, SUNDAY - 10, SUNDAY + 0.1)}
    late = {t.id for t in due([_plan()], SETTINGS, SUNDAY - 1, SUNDAY + 0.4)}
    assert early == late
    assert firing_id("optimize", "support", SUNDAY) in early


def test_a_pause_is_made_up_for_once() -> None:
    fired = due([_plan(schedule="0 * * * *")], SETTINGS, SUNDAY - 5 * 3600, SUNDAY)
    assert [t.at for t in fired if t.job == "optimize"] == [SUNDAY]


def test_too_old_is_too_old() -> None:
    assert ("optimize", "support") not in _jobs([_plan()], SUNDAY - 1, SUNDAY + LOOK_BACK + 1)
    assert ("optimize", "support") in _jobs([_plan()], SUNDAY - 1, SUNDAY + LOOK_BACK - 1)


def test_a_clock_that_jumps_a_year_is_a_pause() -> None:
    fired = due([_plan()], SETTINGS, SUNDAY, SUNDAY + 365 * 86400)
    assert len(fired) == len({(t.job, t.domain) for t in fired})


def test_a_clock_that_jumps_back_fires_nothing() -> None:
    assert due([_plan()], SETTINGS, SUNDAY, SUNDAY - 3600) == []


def test_canaries_are_looked_at_only_while_there_is_one() -> None:
    assert "canary" not in {j for j, _ in _jobs([_plan(stable=1)], SUNDAY - 60, SUNDAY)}
    assert ("canary", "support") in _jobs([_plan(stable=1, canary=2)], SUNDAY - 60, SUNDAY)
    assert ("canary", "support") in _jobs([_plan(stable=2, holdback=1)], SUNDAY - 60, SUNDAY)


def test_drift_needs_something_live() -> None:
    assert ("drift", "support") not in _jobs([_plan()], SUNDAY - 600, SUNDAY)
    assert ("drift", "support") in _jobs([_plan(stable=1)], SUNDAY - 600, SUNDAY)


def test_global_needs_two_that_opted_in() -> None:
    at = datetime(2026, 11, 22, 4, 30, tzinfo=UTC).timestamp()
    parent = _plan("global", schedule=None)
    assert ("global", "global") not in _jobs([parent, _plan("a", learn=True), _plan("b")], at - 1, at)
    fired = _jobs([parent, _plan("a", learn=True), _plan("b", learn=True)], at - 1, at)
    assert [d for j, d in fired if j == "global"] == ["global"]


def test_the_fleets_jobs_fire_once_for_all() -> None:
    at = datetime(2026, 11, 22, 4, 17, tzinfo=UTC).timestamp()
    fired = _jobs([_plan("a"), _plan("b")], at - 1, at)
    assert [d for j, d in fired if j == "retention"] == [FLEET]


def test_what_still_waits_is_not_written_again() -> None:
    plan = _plan(stable=1, canary=2)
    waiting = frozenset({("canary", "support")})
    assert ("canary", "support") not in _jobs([plan], SUNDAY - 60, SUNDAY, waiting=waiting)


def test_an_unreadable_schedule_stops_nothing_else() -> None:
    fired = _jobs([_plan("a", schedule="0 3 * * 99"), _plan("b")], SUNDAY - 1, SUNDAY)
    assert ("optimize", "b") in fired
    assert ("optimize", "a") not in fired


@pytest.mark.parametrize("job", sorted(BY_NAME))
def test_every_job_says_when_and_what(job: str) -> None:
    assert BY_NAME[job].about
    assert BY_NAME[job].when(SETTINGS)
