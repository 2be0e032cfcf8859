"""Acknowledged means kept: ``kill -9`` of the server under write load."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.registry_kill import kill_story, write

RESULT = Path(__file__).parents[2] / "docs" / "results" / "registry_kill.json"


async def test_nothing_acknowledged_is_lost_when_redis_is_killed_20_times(short_tmp: Path, embedded: object) -> None:
    report = await kill_story(short_tmp / "kill", 20)
    assert not report.problems
    assert report.moves > 5 and report.versions > 5 and report.keys > 2


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_nothing_acknowledged_is_lost_when_redis_is_killed_500_times(short_tmp: Path, embedded: object) -> None:
    report = await kill_story(short_tmp / "kill500", 500)
    write(report, RESULT)
    assert not report.problems


def test_the_documentation_says_what_the_500_kills_said() -> None:
    found = json.loads(RESULT.read_text("utf-8"))
    assert found["kills"] == 500 and found["problems"] == []
    page = " ".join((RESULT.parents[1] / "registry.md").read_text("utf-8").split())
    for what in ("versions", "moves", "keys", "audit_entries"):
        assert f"{found[what]:,} {what.replace('_', ' ')}, " in page
