"""Failures of one system prompt on the reflect split: typed, counted, and cut to what an analyser may see."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from optimizer.proposals.prompts import FAILURE_TYPES, Shown
from optimizer.records import Example, Rollout, SearchTask

SHOWN_CHARS = 600
_REFUSAL = re.compile(
    r"\b(?:i(?:'m| am) (?:sorry|unable)|as an ai\b|"
    r"i (?:can(?:no|')t|won't|will not) (?:help|assist|answer|provide|do))",
    re.IGNORECASE,
)
_RECALL = frozenset({"contains", "f1"})
"""Judges of tasks that ask for a fact: a well-formed wrong answer there is missing knowledge, elsewhere reasoning."""


@dataclass(frozen=True)
class Failures:
    """What went wrong on one task's reflect examples under one system prompt."""

    task: SearchTask
    asked: int
    counts: dict[str, int]
    shown: tuple[Shown, ...]
    sources: tuple[str, ...]
    """The raw texts behind ``shown``, to recognise quotations by."""

    @property
    def total(self) -> int:
        """How many examples failed."""
        return sum(self.counts.values())

    @property
    def shares(self) -> dict[str, float]:
        """Share of each type among the failures."""
        return {kind: n / self.total for kind, n in self.counts.items()} if self.total else {}


def failure_type(task: SearchTask, rollout: Rollout) -> str:
    """The type of a failed rollout: format, refusal, knowledge or reasoning; empty for one that did not fail."""
    if rollout.score is None or rollout.score >= 1.0:
        return ""
    if rollout.error_kind == "refusal" or (_REFUSAL.search(rollout.text[:300]) and not rollout.answer):
        return "refusal"
    if rollout.error_kind in ("format", "truncated") or rollout.malformed:
        return "format"
    return "knowledge" if task.judge.kind in _RECALL else "reasoning"


def collect(
    task: SearchTask, examples: Sequence[Example], rollouts: Sequence[Rollout], *, show: int, rng: random.Random
) -> Failures:
    """Type all failures and pick at most ``show`` to show, every type in turn. Suspicious rollouts are never shown."""
    by_type: dict[str, list[tuple[Example, Rollout]]] = {kind: [] for kind in FAILURE_TYPES}
    for example, rollout in zip(examples, rollouts, strict=True):
        kind = failure_type(task, rollout)
        if kind and not rollout.suspicious:
            by_type[kind].append((example, rollout))
    counts = {kind: len(rows) for kind, rows in by_type.items()}
    for rows in by_type.values():
        rng.shuffle(rows)
    picked: list[tuple[str, Example, Rollout]] = []
    while len(picked) < show and any(by_type.values()):
        for kind, rows in by_type.items():
            if rows and len(picked) < show:
                picked.append((kind, *rows.pop()))
    shown = tuple(
        Shown(kind, _cut(example.question), _cut(rollout.text), _cut(rollout.critique or " or ".join(example.answers)))
        for kind, example, rollout in picked
    )
    sources = tuple(text for _, example, rollout in picked for text in (example.question, rollout.text))
    return Failures(task, len(examples), counts, shown, sources)


def answer_form(task: SearchTask) -> str:
    """In words, what an answer of this task looks like."""
    judge = task.judge
    if judge.labels:
        return "one of the labels " + ", ".join(judge.labels[:20])
    return {
        "number": "a number",
        "math": "a mathematical expression",
        "json_schema": "one JSON object",
        "rubric": "a text that meets the task's criteria",
    }.get(judge.kind, "a short text")


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 1] + "…"
