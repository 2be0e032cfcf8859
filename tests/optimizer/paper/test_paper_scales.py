"""Every table says which metric its scores are, and why right answers may say the opposite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from optimizer.paper.figures import figures
from optimizer.paper.paired import paired
from optimizer.paper.raw import RawRow, read_raw
from optimizer.paper.scales import MACRO_F1, RIGHT, SIGNS, UNKNOWN, as_right, name_of, scale_of, told
from optimizer.paper.shown import Shown, Table
from optimizer.paper.tables import tables
from tests.optimizer.paper.world import row

RAW = Path(__file__).resolve().parents[3] / "docs" / "results" / "raw.jsonl"


def safety(method: str = "default", score: float = 0.4, right: float = 0.5, **more: Any) -> RawRow:
    """A row of a task that is scored by macro-F1; ``right`` of its ten questions were answered rightly."""
    answers = tuple(float(place < round(10 * right)) for place in range(10))
    return row(method, "ethos", score, **{"domain": "safety", "metric": "macro_f1", "per_question": answers, **more})


def medical(method: str = "default", **more: Any) -> RawRow:
    return row(method, **{"metric": "choice", "per_question": (1.0, 1.0, 0.0, 0.0, 0.0), **more})


def tables_by_name(rows: list[RawRow]) -> dict[str, Table]:
    return {table.name: table for table in tables(rows)}


def test_the_metric_of_a_task_is_kept_or_told_by_its_questions() -> None:
    assert scale_of([safety()]) == scale_of([safety(metric="")]) == MACRO_F1
    assert scale_of([medical()]) == scale_of([medical(metric="")]) == RIGHT
    assert scale_of([row(metric="f1")]) == "F1 of words" and scale_of([row(metric="rubric")]) == "judge's score"
    assert scale_of([row()]) == UNKNOWN and told([row()]) == "" and name_of([row()], "mean") == "mean"
    assert told([medical()]) == "Every score is the share of right answers."


def test_the_stored_rows_tell_their_metric() -> None:
    rows = read_raw(RAW)
    scales = {task: scale_of([row for row in rows if row.task == task]) for task in {row.task for row in rows}}
    labelled = {"ethos", "antropic_harmless", "hatecheck", "tweet_eval", "sarcasm"}
    assert {task for task, scale in scales.items() if scale == MACRO_F1} == labelled
    assert set(scales.values()) == {MACRO_F1, RIGHT}


def test_a_mean_of_two_metrics_is_called_that_and_has_the_share_of_right_answers_beside_it() -> None:
    rows = [medical(), medical(seed=2), safety(), medical("constant"), safety("constant", score=0.3, right=0.9)]
    found = tables_by_name(rows)["generalization"]
    assert found.columns == ("method", "anatomy", "ethos", "mean of two metrics", "mean share of right answers")
    default, constant = ({"mixed": line[3], "right": line[4]} for line in found.rows)
    assert isinstance(default["mixed"], Shown) and default["mixed"].score == pytest.approx(0.4)
    assert isinstance(default["right"], Shown) and default["right"].score == pytest.approx((0.4 + 0.5) / 2)
    assert isinstance(constant["mixed"], Shown) and constant["mixed"].score == pytest.approx(0.35)
    assert isinstance(constant["right"], Shown) and constant["right"].score == pytest.approx((0.4 + 0.9) / 2)
    assert constant["right"].low is not None and constant["right"].low < constant["right"].score
    assert "Macro-F1: ethos; share of right answers: anatomy." in found.note and SIGNS in found.note
    assert tables_by_name(rows)["cost"].columns[-1] == "unseen: mean of two metrics"
    by_domain = tables_by_name([*rows, medical("outer_loop"), safety("outer_loop")])["ablations"]
    assert by_domain.columns[1:] == ("medical", "safety", "mean of domains, two metrics", "mean share of right answers")


def test_one_metric_needs_no_second_mean() -> None:
    found = tables_by_name([medical(), medical("cot", name="dental")])["generalization"]
    assert found.columns == ("method", "anatomy", "dental", "mean") and SIGNS not in found.note


def test_the_paired_table_and_the_figure_say_why_signs_may_differ() -> None:
    rows = [safety(), safety("constant", score=0.3, right=0.9)]
    found = paired(rows)
    difference = found.rows[0][1]
    assert isinstance(difference, Shown) and difference.score == pytest.approx(0.4), "macro-F1 fell by a tenth"
    assert "show macro-F1 for ethos." in found.note and SIGNS in found.note
    drawn = figures(rows)["change_per_task"]
    assert "ethos (macro-F1)" in drawn and "-10.0" in drawn and "opposite signs" in drawn
    assert "opposite signs" not in figures([medical(), medical("cot")])["change_per_task"]


def test_right_answers_have_an_interval_that_goes_by_clusters() -> None:
    alone, alike = safety(), safety(clusters=(0, 0, 0, 0, 0, 1, 1, 1, 1, 1))
    (wide,), (narrow,) = as_right([alike]), as_right([alone])
    assert wide.score == narrow.score == 0.5 and wide.high - wide.low > narrow.high - narrow.low
    (some,) = as_right([safety(per_question=(1.0, None, 0.0, 0.0), clusters=(0, 1, 2, 2))])
    assert some.score == pytest.approx(1 / 3)
    assert as_right([row()]) == []


def test_rows_of_before_the_new_fields_can_still_be_read(tmp_path: Path) -> None:
    old = msgspec.to_builtins(safety(clusters=tuple(range(10)), untagged=0.5))
    for name in ("metric", "clusters", "untagged"):
        del old[name]
    (tmp_path / "raw.jsonl").write_bytes(msgspec.json.encode(old) + b"\n")
    (read,) = read_raw(tmp_path / "raw.jsonl")
    assert (read.metric, read.clusters, read.untagged) == ("", (), None) and read.score == 0.4


def test_near_duplicates_count_as_one_in_paired_differences() -> None:
    start, ours = row(per_question=(0.0,) * 4), row("metaspo", per_question=(1.0, 1.0, 0.0, 0.0))
    known = msgspec.structs.replace(start, clusters=(0, 0, 1, 1))
    apart, alike = (paired([first, ours]) for first in (start, known))
    narrow, wide = apart.rows[0][1], alike.rows[0][1]
    assert isinstance(narrow, Shown) and isinstance(wide, Shown) and narrow.score == wide.score == 0.5
    assert wide.high is not None and wide.high - wide.score == pytest.approx(12.7062 * 0.5, rel=1e-4)
    assert narrow.high is not None and narrow.high < wide.high
    assert "do not tell near-duplicate" in apart.note and "where a row of either method tells them" in alike.note
    others = msgspec.structs.replace(ours, clusters=(0, 1, 2, 3))
    assert not paired([known, others]).rows, "other clusters are other questions"
    one = [msgspec.structs.replace(found, clusters=(0, 0, 0, 0)) for found in (start, ours)]
    single = paired(one).rows[0][1]
    assert (
        isinstance(single, Shown)
        and single.low is None
        and "Near-duplicate questions count as one." in paired(one).note
    )
