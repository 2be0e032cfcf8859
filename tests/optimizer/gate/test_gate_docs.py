"""docs/gate.md says what the code does: figures as in the result files, rows as in the table, classes as in the
linter.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from optimizer.admission import patterns as lint_patterns
from optimizer.gate.decision import GateInputs, GatePolicy, decide


@pytest.fixture(scope="module")
def page(repository: Path) -> str:
    return (repository / "docs" / "gate.md").read_text("utf-8")


def test_figures_are_those_of_the_result_files(repository: Path, page: str) -> None:
    told = [
        json.loads((repository / "docs" / "results" / f"simulate_gate_{seed}.json").read_text("utf-8"))
        for seed in (20_261_120, 20_261_121)
    ]
    first, second = told
    assert f"**{first['false_promotions_count']} of 1,000** | **{second['false_promotions_count']} of 1,000**" in page
    rows = [(f"+{p} points", first["power"][p], second["power"][p]) for p in ("4", "5", "8")]
    hurt = [
        (name.replace("five", "five tasks"), first["one_task_hurt"][name], second["one_task_hurt"][name])
        for name in first["one_task_hurt"]
    ]
    for name, one, two in [*rows, *hurt]:
        line = next(line for line in page.splitlines() if line.startswith("|") and name in line)
        assert f"| {one:.3f} | {two:.3f} |".replace(" 0.", " .") in line, line


def test_figures_of_later_attempts_and_varying_suites(repository: Path, page: str) -> None:
    told = [
        json.loads((repository / "docs" / "results" / f"simulate_gate_{seed}.json").read_text("utf-8"))
        for seed in (20_261_120, 20_261_121)
    ]
    rows = {
        "second attempt since a promotion": [t["attempts"]["2"] for t in told],
        "fourth attempt": [t["attempts"]["4"] for t in told],
        "first attempt, suites that vary": [t["suites_that_vary"] for t in told],
    }
    for name, (one, two) in rows.items():
        pairs = [(one["false_promotions"], two["false_promotions"])]
        pairs += [(one["power"][p], two["power"][p]) for p in ("4", "5", "8")]
        cells = " | ".join(f"{a:.3f}, {b:.3f}".replace("0.", ".") for a, b in pairs)
        assert f"| {name} | {cells} |" in page


def test_every_row_of_the_table_is_explained(page: str) -> None:
    for row in decide(GateInputs(tasks=[])).table:
        assert f"`{row.name}`" in page or f"`{row.name}:TASK`" in page, row.name


def test_bounds_are_those_of_the_code(page: str) -> None:
    policy = GatePolicy()
    assert f"`D >= {policy.min_effect}`" in page
    beyond = f"at most {policy.prompt_ratio} times the incumbent's beyond {policy.prompt_free}"
    assert f"at most {policy.prompt_max}, and {beyond}" in page
    assert f"McNemar p > {policy.suite_p}" in page
    assert f"at least {policy.min_tasks} tasks with {policy.min_examples} scored examples" in page
    assert f"at most {policy.token_ratio} times as long, upper bound at most {policy.token_ratio_upper}" in page
    assert f"{policy.bootstrap_draws:,} cluster resamples" in page


def test_every_class_of_the_linter_is_named(repository: Path, page: str) -> None:
    source = (repository / "optimizer" / "admission" / "lint.py").read_text("utf-8")
    listed = re.findall(r'_listed\(body, patterns\.\w+, "(\w+)"', source)
    kinds = {*re.findall(r'Hit\("(\w+)"', source), *listed}
    assert len(kinds) >= 17 and lint_patterns.HIJACK
    section = page[page.index("## Lint") :]
    assert not {kind for kind in kinds if f"`{kind}`" not in section}
