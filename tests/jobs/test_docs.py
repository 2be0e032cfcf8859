"""`docs/jobs.md` names every cause and every job that the code knows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from jobs.schedule import BY_NAME

CAUSE = re.compile(r'(?:NoWork|Gone)\(\s*"([a-z_]+)"')


@pytest.fixture(scope="module")
def page(repository: Path) -> str:
    return (repository / "docs" / "jobs.md").read_text("utf-8")


def test_every_cause_is_explained(repository: Path, page: str) -> None:
    used = {cause for path in (repository / "jobs").glob("*.py") for cause in CAUSE.findall(path.read_text("utf-8"))}
    from jobs.optimize import CAUSES

    used |= set(CAUSES.values())
    told = set(re.findall(r"`([a-z_]+)`", page))
    assert len(used) > 20
    assert used - told == set()


def test_jobs_and_workers_agree() -> None:
    from jobs.worker import find

    for name in BY_NAME:
        assert callable(find(name))
