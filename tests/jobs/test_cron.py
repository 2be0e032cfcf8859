"""Cron expressions are read as crontab(5) reads them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from jobs.cron import firings, next_firing
from jobs.errors import BadSchedule

FRIDAY = datetime(2026, 11, 20, 5, tzinfo=UTC).timestamp()
DAY = 86400.0


def _names(expression: str, days: float = 14) -> list[str]:
    return [
        datetime.fromtimestamp(t, UTC).strftime("%a %d %H:%M") for t in firings(expression, FRIDAY, FRIDAY + days * DAY)
    ]


@pytest.mark.parametrize("sunday", ["0", "7", "sun", "SUN", "sunday"])
def test_sunday_is_zero_and_seven(sunday: str) -> None:
    assert _names(f"0 3 * * {sunday}") == ["Sun 22 03:00", "Sun 29 03:00"]


@pytest.mark.parametrize(
    ("weekdays", "expected"),
    [
        ("1-5", ["Fri", "Mon", "Tue", "Wed", "Thu"]),
        ("5-7", ["Fri", "Sat", "Sun"]),
        ("*/2", ["Sat", "Sun", "Tue", "Thu"]),
        ("1-5/2", ["Fri", "Mon", "Wed"]),
        ("sat,mon", ["Sat", "Mon"]),
        ("fri-mon", ["Fri", "Sat", "Sun", "Mon"]),
    ],
)
def test_weekdays(weekdays: str, expected: list[str]) -> None:
    assert [n[:3] for n in _names(f"0 6 * * {weekdays}", 7)] == expected


def test_day_of_month_or_day_of_week() -> None:
    assert _names("0 0 27 * 1", 14) == ["Mon 23 00:00", "Fri 27 00:00", "Mon 30 00:00"]


def test_the_interval_is_open_at_its_start_and_closed_at_its_end() -> None:
    assert firings("0 5 20 11 *", FRIDAY, FRIDAY + DAY) == []
    assert firings("0 5 20 11 *", FRIDAY - 1, FRIDAY) == [FRIDAY]


def test_only_the_latest_are_kept() -> None:
    assert firings("* * * * *", FRIDAY, FRIDAY + 3600, most=2) == [FRIDAY + 3540, FRIDAY + 3600]


def test_next() -> None:
    assert next_firing("0 6 * * *", FRIDAY) == FRIDAY + 3600
    assert next_firing("@hourly", FRIDAY) == FRIDAY + 3600


@pytest.mark.parametrize(
    "expression", ["", "x", "* * * *", "61 * * * *", "0 3 * * 9", "0 3 * * 1-", "0 3 * * */0", "0 3 * * foo"]
)
def test_what_cannot_be_read_says_so(expression: str) -> None:
    with pytest.raises(BadSchedule, match="schedule"):
        firings(expression, FRIDAY, FRIDAY + DAY)
