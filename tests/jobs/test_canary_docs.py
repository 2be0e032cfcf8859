"""docs/canary.md says what the code does: figures as in the result files, every cause explained."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from jobs.canary import Rules
from jobs.simulate import Plan


@pytest.fixture(scope="module")
def page(repository: Path) -> str:
    return (repository / "docs" / "canary.md").read_text("utf-8")


def test_figures_are_those_of_the_result_files(repository: Path, page: str) -> None:
    told = [
        json.loads((repository / "docs" / "results" / f"simulate_canary_{seed}.json").read_text("utf-8"))
        for seed in (20_261_120, 20_261_121)
    ]
    first, second = told
    assert f"**{first['false_alarms_count']} of 1,000** | **{second['false_alarms_count']} of 1,000**" in page
    for start, name in (
        (".80 -> .70", "0.80->0.70"),
        (".80 -> .60", "0.80->0.60"),
        ("errors 1% -> 5%", "errors 1%->5%"),
    ):
        line = next(line for line in page.splitlines() if line.startswith("|") and start in line)
        assert f"| {first['median_units'][name]:.0f} | {second['median_units'][name]:.0f} |" in line, line


def test_every_cause_is_explained(repository: Path, page: str) -> None:
    source = (repository / "jobs" / "canary.py").read_text("utf-8")
    causes = set(re.findall(r'Signal\("(\w+)"', source)) | set(re.findall(r'Decision\("inconclusive", "(\w+)"', source))
    causes |= {"tokens", "latency", "cost", "judge_changed", "model_changed"}
    assert not {cause for cause in causes - {"sample_ratio_chi2"} if f"`{cause}`" not in page}


def test_sizes_are_those_of_the_code(page: str) -> None:
    for share, hours, judged in zip(
        Plan().stages, Plan().dwell_hours, (*Rules().judged_steps, Plan().n_final), strict=True
    ):
        assert re.search(rf"\| {share:.0%} .*\| {hours:g} h \| {judged:,}", page), share
