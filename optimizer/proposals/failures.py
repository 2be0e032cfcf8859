"""Failures of one system prompt on the reflect split: typed, counted, and cut to what an analyser may see.

Of live traffic an analyser sees only what several people ran into: a theme (a type of failure, over all tasks of the
search) of fewer than five distinct units is not shown, and of one unit one failure per task is.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from optimizer.proposals.prompts import FAILURE_TYPES, Shown
from optimizer.records import Example, Rollout, SearchTask

What = TypeVar("What")
SHOWN_CHARS = 600
LEAST_UNITS = 5
"""Distinct units that a theme of live traffic needs before an analyser may read of it."""
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
    """The raw texts behind ``shown``, two for each, to recognise quotations by."""
    units: dict[str, frozenset[str]] = field(default_factory=dict)
    """Who failed, by type: the units, or the near-duplicate clusters of examples that have none."""
    mixed_up: dict[tuple[str, str], frozenset[str]] = field(default_factory=dict)
    """Who got a wrong label, by (label answered, right label); well-formed answers of tasks with labels only."""

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
    mixed_up: dict[tuple[str, str], set[str]] = {}
    live = task.origin == "traffic"
    for example, rollout in zip(examples, rollouts, strict=True):
        kind = failure_type(task, rollout)
        if kind and not rollout.suspicious:
            by_type[kind].append((example, rollout))
            if pair := _labels(task, rollout.answer, *example.answers[:1]):
                mixed_up.setdefault(pair, set()).add(_unit(example))
    counts = {kind: len(rows) for kind, rows in by_type.items()}
    units = {kind: frozenset(_unit(example) for example, _ in rows) for kind, rows in by_type.items()}
    for kind, rows in by_type.items():
        rng.shuffle(rows)
        if live:
            by_type[kind] = list({_unit(row[0]): row for row in rows}.values())
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
    pairs = {pair: frozenset(who) for pair, who in mixed_up.items()}
    return Failures(task, len(examples), counts, shown, sources, units, pairs)


def spoken_for(parts: Sequence[Failures]) -> tuple[Failures, ...]:
    """The failures as an analyser may read them: those of live traffic without the themes, and without the mixed-up
    labels, that too few units share."""
    live = [part for part in parts if part.task.origin == "traffic"]
    themes = _shared(part.units for part in live)
    pairs = _shared(part.mixed_up for part in live)
    return tuple(_only(part, themes, pairs) if part.task.origin == "traffic" else part for part in parts)


def unheard(parts: Sequence[Failures]) -> bool:
    """Whether there are failures to show, and none that an analyser may read."""
    return any(part.shown for part in parts) and not any(part.shown for part in spoken_for(parts))


def _shared(counted: Iterable[Mapping[What, frozenset[str]]]) -> set[What]:
    """What ``LEAST_UNITS`` distinct units ran into, over all tasks."""
    who: dict[What, set[str]] = {}
    for by_what in counted:
        for what, units in by_what.items():
            who.setdefault(what, set()).update(units)
    return {what for what, units in who.items() if len(units) >= LEAST_UNITS}


def _only(part: Failures, themes: set[str], pairs: set[tuple[str, str]]) -> Failures:
    kept = [n for n, shown in enumerate(part.shown) if shown.kind in themes]
    return replace(
        part,
        counts={kind: n if kind in themes else 0 for kind, n in part.counts.items()},
        shown=tuple(part.shown[n] for n in kept),
        sources=tuple(text for n in kept for text in part.sources[2 * n : 2 * n + 2]),
        mixed_up={pair: who for pair, who in part.mixed_up.items() if pair in pairs},
    )


def _labels(task: SearchTask, answered: str, right: str = "") -> tuple[str, str] | None:
    """Both as the task writes its labels; None where one of them is none of these."""
    spelt = {label.casefold(): label for label in task.judge.labels}
    pair = spelt.get(answered.strip().casefold()), spelt.get(right.strip().casefold())
    return (pair[0], pair[1]) if pair[0] and pair[1] and pair[0] != pair[1] else None


def _unit(example: Example) -> str:
    return example.unit or example.cluster or example.id


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
