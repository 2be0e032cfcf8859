"""The form of a schedule: five fields of numbers in their ranges. When a schedule fires is for ``jobs`` to say."""

from __future__ import annotations

import re

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELDS: tuple[tuple[str, int, int, tuple[str, ...]], ...] = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of the month", 1, 31, ("last",)),
    ("month", 1, 12, _MONTHS),
    ("day of the week", 0, 7, _DAYS),
)
_PART = re.compile(r"(?P<first>\*|\w+)(?:-(?P<last>\w+))?(?:/(?P<step>\d+))?")


def schedule_fault(expression: str) -> str | None:
    """What is wrong with a cron expression, as the end of a sentence that begins with it; None when nothing is."""
    parts = expression.split()
    if len(parts) != len(_FIELDS):
        return f"is not a cron expression of five fields, like '0 3 * * 0', but has {len(parts)}"
    for (name, low, high, words), field in zip(_FIELDS, parts, strict=True):
        for part in field.lower().split(","):
            if not _readable(part, low, high, words):
                return f"is not a cron expression: {part!r} is no {name}, which is a number from {low} to {high} or '*'"
    return None


def _readable(part: str, low: int, high: int, words: tuple[str, ...]) -> bool:
    match = _PART.fullmatch(part)
    if not match or not 1 <= int(match["step"] or 1) <= high:
        return False
    ends = [match["first"], match["last"] or match["first"]]
    numbers = [int(end) for end in ends if end.isdigit()]
    if any(not low <= number <= high for number in numbers):
        return False
    numbers = numbers or [words.index(end) for end in ends if end in words]
    if words is not _DAYS and numbers == sorted(numbers, reverse=True) and len(set(numbers)) == 2:
        return False  # from Friday to Monday has a meaning; from the 20th to the 10th has none
    return all(end == "*" or end.isdigit() or (end[:3] if words is _DAYS else end) in words for end in ends)
