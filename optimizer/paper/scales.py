"""What a task's score is, macro-F1 or a mean over its questions, so that no table shows both without saying which.

Macro-F1 has no score of one question. The share of right answers of the same replies is kept question by question; it
is the one scale that all tasks with labels share, and the one that paired differences are taken on.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from optimizer.evaluation.scoring import mean_interval
from optimizer.paper.raw import RawRow
from optimizer.paper.shown import unique

MACRO_F1, RIGHT = "macro-F1", "share of right answers"
MEAN_RIGHT = "mean share of right answers"
UNKNOWN = "metric not kept"
SIGNS = (
    "Macro-F1 counts every label alike, right answers count every question alike: a method that gives the frequent "
    "label more often can gain right answers and lose macro-F1, so that the two differences may have opposite signs."
)
_NAMES = {"macro_f1": MACRO_F1, "f1": "F1 of words", "rubric": "judge's score"}
_NUMBERS = ("no", "one", "two", "three", "four")


def scale_of(rows: Sequence[RawRow]) -> str:
    """The name of the metric behind the scores of one task's rows.

    Rows of before the metric was kept tell it by their questions: a score that is not their mean is macro-F1.
    """
    kept = next((row.metric for row in rows if row.metric), "")
    if kept:
        return _NAMES.get(kept, RIGHT)
    means = [(row.score, share) for row in rows if (share := _share(row)) is not None]
    if not means:
        return UNKNOWN
    return MACRO_F1 if any(abs(score - share) > 1e-9 for score, share in means) else RIGHT


def scales_of(rows: Sequence[RawRow]) -> dict[str, list[str]]:
    """Metric -> tasks, both in the order of the rows."""
    found: dict[str, list[str]] = {}
    for task in unique(row.task for row in rows):
        found.setdefault(scale_of([row for row in rows if row.task == task]), []).append(task)
    return found


def told(rows: Sequence[RawRow]) -> str:
    """Which task is scored by which metric, as one sentence; empty where no row tells."""
    found = scales_of(rows)
    if not set(found) - {UNKNOWN}:
        return ""
    if len(found) == 1:
        return f"Every score is the {next(iter(found))}."
    named = sorted(found.items(), key=lambda pair: pair[0] == RIGHT)
    sentence = "; ".join(f"{scale}: {', '.join(tasks)}" for scale, tasks in named)
    return f"{sentence[0].upper()}{sentence[1:]}."


def name_of(rows: Sequence[RawRow], name: str) -> str:
    """``name``, marked where the tasks of ``rows`` are scored by several metrics."""
    count = len(set(scales_of(rows)) - {UNKNOWN})
    return f"{name} of {_NUMBERS[count]} metrics" if count > 1 else name


def has_macro_f1(rows: Sequence[RawRow]) -> bool:
    """Whether a task of ``rows`` is scored by macro-F1."""
    return MACRO_F1 in scales_of(rows)


def as_right(rows: Sequence[RawRow]) -> list[RawRow]:
    """``rows`` scored by the share of right answers, with its own interval; rows without their questions are left
    out."""
    made = []
    for row in rows:
        scored = [(place, score) for place, score in enumerate(row.per_question) if score is not None]
        if scored:
            clusters = [str(row.clusters[place]) for place, _ in scored] if row.clusters else []
            found = mean_interval([score for _, score in scored], clusters=clusters)
            made.append(replace(row, score=found.score, low=found.low, high=found.high))
    return made


def _share(row: RawRow) -> float | None:
    """The mean over the questions of one row; None where they were not kept."""
    scores = [score for score in row.per_question if score is not None]
    return sum(scores) / len(scores) if scores else None
