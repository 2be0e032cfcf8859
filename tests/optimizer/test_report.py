"""The report: JSON without odd numbers, a page that says when a gain is worth little."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from optimizer.evaluation.scoring import split_scores
from optimizer.records import Interval, ItemScore, Ledger, LedgerRow, Scores, SearchResult, TaskScore
from optimizer.report import cautions, result_page, result_to_dict


def scores(holdout: float, unseen: float, malformed: float = 0.0) -> Scores:
    def one(name: str, score: float) -> dict[str, TaskScore]:
        interval = Interval(score=score, low=score - 0.1, high=score + 0.1, n=50)
        return {name: TaskScore(interval=interval, malformed=malformed)}

    return Scores(holdout=split_scores(one("a", holdout)), unseen=split_scores(one("b", unseen)))


@dataclass(frozen=True)
class Verdict:
    """Stands for a gate's result whose numbers are not all finite."""

    outcome: str = "INCONCLUSIVE"
    reason: str = "Too few examples."

    def to_dict(self) -> dict[str, Any]:
        return {"outcome": self.outcome, "reason": self.reason, "effect": math.inf, "table": [{"value": math.nan}]}


def result(**more: Any) -> SearchResult:
    told: dict[str, Any] = {
        "method": "metaspo",
        "winner": "Answer with the label.\nNothing else.",
        "incumbent": "You are a helpful assistant.",
        "incumbent_scores": scores(0.5, 0.4, malformed=0.3),
        "winner_scores": scores(0.7, 0.6),
        "baselines": {"cot": scores(0.45, 0.45)},
        "constant_baseline": {"a": 0.6, "b": 0.55},
        "gate": Verdict(),
        "ledger": Ledger(roles={"base": LedgerRow(requested=5, paid=3, cache_hits=2)}, rejects={"lost slot": 2}),
        "per_item": (ItemScore(task="a", example_id="1", cluster="c", incumbent=None, winner=1.0),),
        "reason": "All generations are done.",
        **more,
    }
    return SearchResult(**told)


def test_json_is_plain_and_finite() -> None:
    told = json.loads(json.dumps(result_to_dict(result()), allow_nan=False))
    holdout = told["winner"]["holdout"]
    assert (holdout["score"], holdout["n"]) == (0.7, 50)
    assert holdout["tasks"]["a"].keys() == {"score", "low", "high", "n", "malformed", "unscored", "truncated"}
    assert told["gate"]["effect"] is None
    assert told["gate"]["table"] == [{"value": None}]
    assert told["calls"] == {"base": 3}
    assert told["per_item"][0]["incumbent"] is None
    empty = result_to_dict(result(gate=None, winner_scores=Scores(), incumbent_scores=Scores()))
    assert empty["winner"]["holdout"]["score"] is None
    assert empty["gate"] is None


def test_the_page_names_what_matters() -> None:
    page = result_page(result())
    for words in (
        "Method metaspo: All generations are done.",
        "  Answer with the label.\n  Nothing else.",
        "0.700 (0.600 to 0.800, n=50)",
        "constant answer",
        "Gate: INCONCLUSIVE. Too few examples.",
        "Refused before any base call: 2 lost slot",
    ):
        assert words in page
    assert "The winner is the incumbent." in result_page(result(winner="You are a helpful assistant."))


def test_gains_that_are_form_or_beaten_by_a_constant_are_called_so() -> None:
    assert cautions(result()) == [
        "Malformed answers fell from 30.0% to 0.0%: at least a part of any gain is form, not ability."
    ]
    poor = cautions(result(winner_scores=scores(0.58, 0.6, malformed=0.3)))
    assert poor == [
        "On the holdout the winner (0.580) does no better than always giving the most frequent answer (0.600)."
    ]
    assert cautions(result(winner_scores=Scores(), incumbent_scores=Scores())) == []
