"""The published figures beside the measured ones: every one that has a counterpart, with what differs."""

from __future__ import annotations

from typing import Any

import pytest

from optimizer.paper.beside import beside_published, published
from optimizer.paper.raw import RawRow, Step
from optimizer.paper.shown import Shown, Value
from tests.optimizer.paper.world import row

FAITHFUL = "metaspo-faithful"
DOMAINS = {"medical": "anatomy", "reviews": "pet", "reasoning": "epistemic", "safety": "ethos", "grounding": "web_qa"}


def lines(rows: list[RawRow], part: str) -> list[tuple[Value, ...]]:
    """The rows of one part, without its name."""
    return [line[1:] for table in beside_published(rows) for line in table.rows if line[0] == part]


def in_domains(method: str, **more: Any) -> list[RawRow]:
    return [row(method, name, domain=domain, **more) for domain, name in DOMAINS.items()]


def test_measured_scores_stand_beside_the_published_ones() -> None:
    (table,) = beside_published([row(answers=60), row("metaspo", score=0.9)])
    ((part, task, method, measured, quirky, printed, differs),) = table.rows
    assert (part, task, method) == ("unseen", "anatomy", "Default") and printed == pytest.approx(0.361)
    assert isinstance(measured, Shown) and measured.score == 0.4 and quirky is None
    assert differs == "60 questions a task, each under 1 of the user prompts"
    assert "no interval" in table.note and "one more class" in table.note
    (adapted,) = lines([row(adapted=True)], "adapted")
    assert (
        adapted[:2] == ("medical", "Default") and adapted[4] == pytest.approx(0.451) and "on anatomy" in str(adapted[5])
    )


def test_the_same_replies_stand_there_by_the_published_metric() -> None:
    more = {"domain": "safety", "metric": "macro_f1"}
    rows = [
        row(name="ethos", score=0.44, published_score=score, seed=seed, **more) for seed, score in ((1, 0.3), (2, 0.2))
    ]
    ((_, _, measured, quirky, printed, differs),) = lines(rows, "unseen")
    assert isinstance(measured, Shown) and measured.score == pytest.approx(0.44) and printed == pytest.approx(0.287)
    assert isinstance(quirky, Shown) and quirky.score == pytest.approx(0.25) and quirky.low is None
    assert (quirky.n, quirky.seeds) == (60, 2) and "measured: macro-F1 over the fixed labels" in str(differs)
    ((_, _, _, unknown, _, _),) = lines([*rows, row(name="ethos", seed=3, **more)], "unseen")
    assert unknown is None


def test_means_stand_there_only_where_all_is_measured() -> None:
    all_tasks = [row(name=name, published_score=0.2) for name in published().generalization.tasks]
    ((what, method, measured, quirky, printed, _),) = lines(all_tasks, "mean of the 14 tasks")
    assert (what, method) == ("all", "Default") and printed == pytest.approx(0.322)
    assert isinstance(measured, Shown) and measured.n == 14 * 60
    assert isinstance(quirky, Shown) and quirky.score == pytest.approx(0.2)
    assert not lines(all_tasks[1:], "mean of the 14 tasks")
    ((_, _, mean, _, ablated, _),) = lines(in_domains("outer_loop"), "mean of five domains")
    assert isinstance(mean, Shown) and mean.score == pytest.approx(0.4) and ablated == pytest.approx(0.382)
    ((_, _, _, _, tuned, _),) = lines(in_domains("default", adapted=True), "adapted, mean of five domains")
    assert tuned == pytest.approx(0.511)


def test_the_published_robustness_stands_beside_the_measured_share() -> None:
    default = row(user_prompt_scores=(0.2, 0.4), answers=120)
    rows = [default, row(FAITHFUL, user_prompt_scores=(0.3, 0.5), answers=120),
            row("metaspo", user_prompt_scores=(0.3, 0.4), answers=120)]  # fmt: skip
    faithful, ours = lines(rows, "user prompts better than under Default")
    assert faithful[1] == "MetaSPO (faithful)" and ours[1] == "MetaSPO (ours)" and faithful[4] == ours[4] == 0.85
    assert isinstance(ours[2], Shown) and (ours[2].score, ours[2].n) == (0.5, 2) and ours[2].low is not None
    assert isinstance(faithful[2], Shown) and faithful[2].score == 1.0
    assert "each on 60 questions, 500 there; an equal score is not better" in str(ours[5])


def test_the_published_gain_by_source_tasks_stands_beside_the_paired_one() -> None:
    more = {"domain": "reviews", "name": "pet"}
    rows = [
        row("metaspo", **more, seed=1, per_question=(1.0, 1.0, 0.0, 1.0)),
        row("metaspo", **more, seed=2, per_question=(1.0, 1.0, 0.0, 1.0)),
        row("metaspo", **more, sources=1, per_question=(1.0, 0.0, 0.0, 0.0)),
        row("metaspo", **more, sources=2, per_question=(0.0, 0.0, 0.0, 0.0)),
    ]
    ((domain, _, gain, _, printed, differs),) = lines(rows, "gain by more source tasks")
    assert domain == "reviews" and printed == pytest.approx(0.171)
    assert isinstance(gain, Shown) and gain.score == 0.5 and gain.n == 4 and gain.low is not None
    assert "there 1 to 6" in str(differs)
    assert not lines(rows[:2], "gain by more source tasks")


def test_the_rounds_that_adaptation_saves_stand_beside_the_published_ones() -> None:
    def tuned(method: str, *scores: float) -> RawRow:
        curve = tuple(Step(calls=10 * place, test=score) for place, score in enumerate(scores))
        return row(method, adapted=True, curve=curve)

    part = "adaptation rounds saved to reach Default's last score"
    start = tuned("default", 0.2, 0.3, 0.4, 0.5, 0.6)
    ((domain, _, saved, _, printed, _),) = lines([start, tuned(FAITHFUL, 0.4, 0.6, 0.6, 0.6, 0.6)], part)
    assert domain == "medical" and printed == 0.8 and isinstance(saved, Shown) and saved.score == 0.75
    ((_, _, never, _, _, _),) = lines([start, tuned("metaspo", 0.1, 0.2)], part)
    assert never == "not reached"
    assert not lines([start], part)
