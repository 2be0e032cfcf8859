"""What of the failures an analyser may read: of live traffic, only what several people ran into."""

from __future__ import annotations

import random

import pytest

from optimizer.proposals.failures import LEAST_UNITS, Failures, collect, spoken_for
from optimizer.records import Example, Rollout, SearchTask


def _failures(
    who: list[tuple[str, str]], *, origin: str = "traffic", name: str = "a", show: int = 20, clusters: bool = False
) -> Failures:
    """One failed example for each (unit, kind)."""
    examples = [
        Example(
            id=f"{name}{n}", question=f"question {n}", answers=("yes",), cluster=f"c{n}", unit="" if clusters else u
        )
        for n, (u, _) in enumerate(who)
    ]
    rollouts = [
        Rollout(
            example_id=f"{name}{n}", text=f"reply {n}", score=0.0, answer="no",
            error_kind="format" if kind == "format" else "", malformed=kind == "format",
        )
        for n, (_, kind) in enumerate(who)
    ]  # fmt: skip
    task = SearchTask(name=name, user_prompt="{question}", origin=origin)  # type: ignore[arg-type]
    return collect(task, examples, rollouts, show=show, rng=random.Random(1))


@pytest.mark.parametrize("units", [LEAST_UNITS - 1, LEAST_UNITS])
def test_a_theme_needs_five_units(units: int) -> None:
    loud = [("loud", "format")] * 30
    (seen,) = spoken_for([_failures([*loud, *((f"u{n}", "format") for n in range(units - 1))])])
    assert (len(seen.shown) > 0) == (units >= LEAST_UNITS)
    assert (seen.counts["format"] > 0) == (units >= LEAST_UNITS)
    assert len(seen.sources) == 2 * len(seen.shown)


def test_of_one_unit_one_failure_is_shown() -> None:
    found = _failures([*[("loud", "format")] * 30, *((f"u{n}", "format") for n in range(6))])
    assert len(found.shown) == 7 and found.counts["format"] == 36


def test_themes_are_counted_over_all_tasks_and_others_are_left_out() -> None:
    one = _failures([("u1", "format"), ("u2", "format"), ("u1", "reasoning")], name="a")
    two = _failures([("u3", "format"), ("u4", "format"), ("u5", "format"), ("u6", "reasoning")], name="b")
    seen = spoken_for([one, two])
    assert [s.kind for part in seen for s in part.shown] == ["format"] * 5
    assert [part.counts["reasoning"] for part in seen] == [0, 0]
    texts = {t for part in seen for t in part.sources}
    assert {s.question for part in seen for s in part.shown} <= texts and len(texts) >= 6
    assert spoken_for([one])[0].shown == (), "one task alone has too few"


def test_clusters_stand_for_units_where_there_are_none() -> None:
    assert spoken_for([_failures([("", "format")] * 5, clusters=True)])[0].shown
    assert not spoken_for([_failures([("", "format")] * 4, clusters=True)])[0].shown


def test_files_are_shown_as_they_are() -> None:
    part = _failures([("one", "format")], origin="files")
    assert spoken_for([part]) == (part,) and part.shown
