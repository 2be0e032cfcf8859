"""When a cron expression fires: APScheduler 3's triggers, read the way crontab(5) reads them, on a clock that is
handed in.

Only the library's calendar is used. Its scheduler keeps its own clock and store; ours has neither: ``firings`` is a
pure function of two instants, so any number of schedulers compute the same firings and name them alike.

Two readings of APScheduler 3 differ from crontab(5) and are set right here: it counts weekdays from Monday = 0
(crontab: Sunday is 0 and 7), and it wants day of month *and* day of week where crontab takes *either* once both are
restricted.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Protocol

from jobs.errors import BadSchedule

_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_NICKNAMES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_PART = re.compile(r"^(?P<first>\*|\w+)(?:-(?P<last>\w+))?(?:/(?P<step>\d+))?$")


class _Calendar(Protocol):
    """What is used of an APScheduler trigger."""

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime | None: ...


def firings(expression: str, after: float, until: float, most: int = 100) -> list[float]:
    """The instants of ``expression`` (UTC) in ``(after, until]``, the latest ``most`` of them, in order.

    Raises ``BadSchedule``.
    """
    calendar = _calendar(expression)
    found: list[float] = []
    moment: datetime | None = None
    now = datetime.fromtimestamp(after, UTC) + timedelta(microseconds=1)
    while (moment := calendar.get_next_fire_time(moment, now)) is not None and moment.timestamp() <= until:
        found.append(moment.timestamp())
        now = moment + timedelta(microseconds=1)
        if len(found) > most:
            found.pop(0)
    return found


def next_firing(expression: str, after: float) -> float | None:
    """The first instant of ``expression`` later than ``after``; None when there is none. Raises ``BadSchedule``."""
    moment = _calendar(expression).get_next_fire_time(
        None, datetime.fromtimestamp(after, UTC) + timedelta(microseconds=1)
    )
    return moment.timestamp() if moment else None


@lru_cache(maxsize=1024)
def _calendar(expression: str) -> _Calendar:
    from apscheduler.triggers.combining import OrTrigger
    from apscheduler.triggers.cron import CronTrigger

    fields = _NICKNAMES.get(expression.strip().lower(), expression).split()
    if len(fields) != 5:
        raise BadSchedule(
            f"The schedule {expression!r} has {len(fields)} fields; write five:"
            " minute hour day-of-month month day-of-week."
        )
    minute, hour, day, month, weekday = fields
    names = ",".join(_weekdays(weekday, expression))
    common = {"minute": minute, "hour": hour, "month": month, "timezone": UTC}
    try:
        if day.startswith("*") or weekday.startswith("*"):
            calendar: _Calendar = CronTrigger(day=day, day_of_week=names, **common)
        else:
            calendar = OrTrigger(
                [CronTrigger(day=day, day_of_week="*", **common), CronTrigger(day="*", day_of_week=names, **common)]
            )
    except ValueError as error:
        raise BadSchedule(f"The schedule {expression!r} cannot be read: {error}.") from error
    return calendar


def _weekdays(field: str, expression: str) -> list[str]:
    """The weekdays of a crontab field by name: numbers from Sunday = 0 (or 7), names, ranges, steps, lists."""
    days: set[int] = set()
    for part in field.lower().split(","):
        match = _PART.match(part)
        step = int(match["step"] or 1) if match else 0
        if not match or step < 1:
            raise BadSchedule(f"The schedule {expression!r} has no readable day of week {part!r}.")
        if match["first"] == "*":
            first, last = 0, 6
        else:
            first = _weekday(match["first"], expression)
            last = _weekday(match["last"], expression) if match["last"] else (6 if match["step"] else first)
        if last < first:
            last += 7
        days.update(d % 7 for d in range(first, last + 1, step))
    return [_WEEKDAYS[d] for d in sorted(days)]


def _weekday(word: str, expression: str) -> int:
    if word.isdigit() and int(word) <= 7:
        return int(word)
    if word[:3] in _WEEKDAYS:
        return _WEEKDAYS.index(word[:3])
    raise BadSchedule(f"The schedule {expression!r} has no readable day of week {word!r}; use 0-7 or sun..sat.")
