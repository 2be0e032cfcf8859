"""Every behaviour that is promised names tests that exist."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/behaviours.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and "::" in line]
NAMED = re.compile(r"`((?:tests/)?[\w/]+\.py)::(\w+)`")


@cache
def names_in(path: Path) -> frozenset[str]:
    return frozenset(re.findall(r"^(?:async )?def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE))


def test_all_47_behaviours_are_there_in_order() -> None:
    numbers = [int(found[1]) for row in ROWS if (found := re.match(r"\| (\d+) \|", row))]
    assert numbers == list(range(1, 48))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[2:40])
def test_a_behaviour_names_tests_that_exist(row: str) -> None:
    named = NAMED.findall(row)
    assert named
    assert row.count("::") == len(named), "every test stands in its own quotes"
    for file, test in named:
        path = ROOT / (file if file.startswith("tests/") else f"tests/gateway/{file}")
        assert path.is_file(), path
        assert test in names_in(path), f"{file} has no {test}"


def test_every_test_of_a_numbered_behaviour_is_listed() -> None:
    """A test that carries a number (``test_d33_d34_...``) stands in the row of each of its numbers."""
    rows = {int(row.split("|")[1]): row for row in ROWS if re.match(r"\| \d+ \|", row)}
    for path in sorted((ROOT / "tests/gateway").glob("test_*.py")):
        for test in names_in(path):
            for number in re.findall(r"(?<=[_t])_?d(\d\d)(?=_)", test.partition("_a_")[0]):
                assert test in rows[int(number)], f"{path.name}::{test} is not listed under {number}"
