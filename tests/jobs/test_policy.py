"""What may move by itself, and what always waits for a person."""

from __future__ import annotations

import msgspec
import pytest

from jobs.policy import (
    AUTOMATIC,
    Case,
    automatic_in_a_row,
    cache_cost,
    calibrated,
    decide,
    may_finish,
    rewritten_share,
)

TEXT = "You answer customers of a shop. Be brief. Give the label only. Never promise a refund."
FINE = Case(outcome="PASS", policy="auto", incumbent_text=TEXT, challenger_text=TEXT + " Use lower case.", promotions=3)


def _with(**changes: object) -> Case:
    return msgspec.structs.replace(FINE, **changes)


def test_auto_starts_a_canary_and_may_finish_it() -> None:
    assert decide(FINE).step == "canary"
    assert may_finish(FINE).step == "canary"


def test_canary_policy_starts_but_never_finishes() -> None:
    assert decide(_with(policy="canary")).step == "canary"
    assert may_finish(_with(policy="canary")).step == "ask"


@pytest.mark.parametrize("outcome", ["FAIL", "INCONCLUSIVE"])
def test_only_pass_starts_anything(outcome: str) -> None:
    assert decide(_with(outcome=outcome)).step == "nothing"


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"policy": "manual"}, "manual"),
        ({"promotions": 0}, "first promotion"),
        ({"challenger_text": "Something entirely new, of which no word stood there before at all."}, "rewritten"),
        ({"judged": True}, "not calibrated"),
        ({"fallback_units": True}, "fallback hash"),
        ({"one_loud_key": True}, "one key"),
        ({"automatic_in_a_row": 5}, "in a row"),
        ({"cache_cost": cache_cost(4000, 2000, 2.5), "cache_cost_limit_usd": 10.0}, "8000000 cached tokens"),
    ],
)
def test_what_waits_for_a_person_whatever_the_policy(changes: dict[str, object], word: str) -> None:
    verdict = decide(_with(**changes))
    assert verdict.step == "ask"
    assert word in verdict.reason
    assert may_finish(_with(**changes)).step == "ask"


def test_who_started_the_canary_has_answered_where_the_policy_is_auto() -> None:
    assert may_finish(_with(promotions=0, canary_by_person=True)).step == "canary"
    assert may_finish(_with(policy="canary", canary_by_person=True)).step == "ask"
    assert may_finish(_with(policy="manual", canary_by_person=True)).step == "ask"


def test_every_reason_is_told() -> None:
    verdict = decide(_with(policy="manual", promotions=0, judged=True))
    assert len(verdict.reasons) == 3


def test_a_calibrated_judge_is_enough() -> None:
    assert decide(_with(judged=True, judge_calibrated=True)).step == "canary"
    assert calibrated(0.7, 0.5, 100)
    assert not calibrated(0.7, 0.3, 100)
    assert not calibrated(1.0, 1.0, 5)
    assert not calibrated(None, None, 0)


def test_rewritten_share() -> None:
    assert rewritten_share(TEXT, TEXT) == 0
    assert rewritten_share("", "") == 0
    assert rewritten_share("", TEXT) == 1
    assert rewritten_share(TEXT, "z") == 1
    assert 0.05 < rewritten_share(TEXT, TEXT + " Use lower case.") < 0.15


def test_cache_cost_is_conversations_times_prefix() -> None:
    cost = cache_cost(100, 1500, 2.0, cached_discount=0.9)
    assert cost.tokens == 150_000
    assert cost.usd == pytest.approx(0.27)
    assert cache_cost(100, 1500, None).usd == 0


def test_a_person_resets_the_count() -> None:
    moves = [
        ("promote", AUTOMATIC),
        ("canary", AUTOMATIC),
        ("promote", AUTOMATIC),
        ("promote", "ops"),
        ("promote", AUTOMATIC),
    ]
    assert automatic_in_a_row(moves) == 2
    assert automatic_in_a_row([]) == 0
