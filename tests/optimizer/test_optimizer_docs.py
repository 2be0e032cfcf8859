"""docs/optimizer.md and the code agree: every key, method, judge, setting and ledger word is documented."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from optimizer.records import JudgeKind, LedgerRow, LoopSizes, Method, ModelRole
from optimizer.search_file import ModelSettings, _File
from optimizer.tasks.folders import TaskSettings, _TaskFile

TEXT = (Path(__file__).parents[2] / "docs" / "optimizer.md").read_text(encoding="utf-8")
HEADINGS = {line.lstrip("# ").strip() for line in TEXT.splitlines() if line.startswith("#")}


def section(heading: str) -> str:
    """The text under a heading, up to the next one of its level or above."""
    start = re.search(rf"^(#+) {re.escape(heading)}$", TEXT, re.MULTILINE)
    assert start is not None, heading
    rest = TEXT[start.end() :]
    end = re.search(rf"^#{{1,{len(start.group(1))}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


@pytest.mark.parametrize(
    ("heading", "words"),
    [
        ("The search file", _File.__struct_fields__),
        ("The search file", LoopSizes.__struct_fields__),
        ("The search file", TaskSettings.__struct_fields__),
        ("The search file", ("METASPO_SEARCH_CONCURRENCY", "METASPO_SEARCH_TIMEOUT", "METASPO_SEARCH_RETRIES")),
        ("A task folder", tuple(name for name in _TaskFile.__struct_fields__ if name != "domain")),
        ("Methods", get_args(Method)),
        ("Models", get_args(ModelRole)),
        ("Models", tuple(name for name in ModelSettings.__struct_fields__)),
        ("Judges", get_args(JudgeKind)),
        ("Budget", ("requested", "paid", "cache_hits", "replayed")),
    ],
)
def test_every_word_is_documented(heading: str, words: tuple[str, ...]) -> None:
    text = section(heading)
    missing = [word for word in words if f"`{word}`" not in text and not re.search(rf"`[^`]*\b{word}\b[^`]*`", text)]
    assert missing == []


def test_links_within_the_page_lead_somewhere() -> None:
    anchors = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in HEADINGS}
    assert set(re.findall(r"\]\(#([^)]+)\)", TEXT)) <= anchors


def test_the_ledgers_sum_is_as_told() -> None:
    row = LedgerRow(requested=5, paid=3, cache_hits=2, replayed=1)
    assert row.requested == row.paid + row.cache_hits
    assert row.replayed <= row.paid
