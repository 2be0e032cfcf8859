"""The console's calculations: differences of prompts, when a canary decides, what fires."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.console.diff import blame, compare, rewritten
from gateway.console.schedule import WHAT_FIRES
from gateway.console.trial import decides_at, last_look, stage_of, table_of
from jobs import JOBS
from registry import AuditEntry, CanaryPlan, Deployment

TEXT = st.text(st.sampled_from("ab \n\t."), max_size=60)


@given(TEXT, TEXT)
def test_the_pieces_are_both_texts(old: str, new: str) -> None:
    pieces = compare(old, new)
    assert "".join(piece.text for piece in pieces if piece.kind != "ins") == old
    assert "".join(piece.text for piece in pieces if piece.kind != "del") == new
    assert 0 <= rewritten(pieces) <= 1
    assert "".join(origin.text for origin in blame([(1, old), (2, new)])) == new


def test_words_that_came_in_are_named() -> None:
    pieces = compare("You are a helpful assistant.", "You are a helpful support assistant. Answer.")
    assert [(p.kind, p.text) for p in pieces if p.kind != "same"] == [("ins", "support "), ("ins", " Answer.")]
    chain = [(1, "You are kind."), (2, "You are very kind."), (3, "You are very kind. Truly.")]
    assert [(o.version, o.text) for o in blame(chain)] == [(1, "You are "), (2, "very "), (1, "kind. "), (3, "Truly.")]


def test_long_texts_are_compared_by_line_then_by_word() -> None:
    """Also texts that make a matcher of words slow: it runs in the process that serves traffic."""
    lines = [f"Rule {i}: the answer to question {i} is a word, and the word is {i * 7}.\n" for i in range(1500)]
    old, new = "".join(lines), "".join(lines).replace("question 77 ", "riddle 77 ")
    changed = [(p.kind, p.text.strip()) for p in compare(old, new) if p.kind != "same"]
    assert changed == [("del", "question"), ("ins", "riddle")]
    for nasty in ("a " * 50_000, "a b " * 25_000, "<b>x</b>" * 12_000, "x\n" * 50_000):
        pieces = compare(nasty, "b " + nasty[::-1])
        assert "".join(piece.text for piece in pieces if piece.kind != "ins") == nasty


def test_when_a_canary_decides() -> None:
    plan = CanaryPlan(stages=(0.1, 0.5), dwell_hours=(1, 2), n_final=1000)
    hour = 3600.0
    # 100 judged an hour at a tenth: one hour of stage one, then five times as many until 1,000
    at = decides_at(plan, 0, 0.1, stage_began=0.0, judged=0, rate=100.0, now=0.0)
    assert at == 3 * hour  # 100 after the first hour, 900 more take 1.8 hours, but the stage lasts two
    slow = decides_at(plan, 0, 0.1, stage_began=0.0, judged=0, rate=10.0, now=0.0)
    assert slow is not None
    assert round(slow / hour, 2) == 1 + 990 / 50
    assert decides_at(plan, 0, 0.1, 0.0, 0, 0.0, 0.0) is None
    assert [stage_of(plan, share) for share in (0.01, 0.1, 0.3, 0.5)] == [0, 0, 0, 1]


def entry(seq: int, kind: str, **fields: object) -> AuditEntry:
    return AuditEntry(domain="d", seq=seq, at=float(seq), kind=kind, actor="a", why="w", **fields)  # type: ignore[arg-type]


def test_only_looks_at_this_canary_count() -> None:
    row = {"name": "n", "value": None, "bound": "b", "crossed": False}
    none, here = Deployment(domain="d"), Deployment(domain="d", canary=2, share=0.1, experiment="e2")
    old = entry(1, "canary-look", detail={"table": [row]})
    began = entry(2, "canary", before=none, after=here)
    assert last_look([began, old], here) is None
    look = entry(3, "canary-look", detail={"table": [row]})
    assert last_look([look, began, old], here) == look
    assert table_of(look) == [row]
    assert last_look([look, began, old], none) is None


def test_the_jobs_page_tells_what_the_schedule_does() -> None:
    assert [(job.name, job.about) for job in WHAT_FIRES] == [(job.name, job.about) for job in JOBS]
