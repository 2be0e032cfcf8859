"""Acknowledged means kept: ``kill -9`` of the server under write load."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.registry_kill import kill_story


async def test_nothing_acknowledged_is_lost_when_redis_is_killed_20_times(short_tmp: Path, embedded: object) -> None:
    report = await kill_story(short_tmp / "kill", 20)
    assert not report.problems
    assert report.moves > 5 and report.versions > 5 and report.keys > 2


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_nothing_acknowledged_is_lost_when_redis_is_killed_500_times(short_tmp: Path, embedded: object) -> None:
    report = await kill_story(short_tmp / "kill500", 500)
    assert not report.problems
