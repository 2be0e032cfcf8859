"""The rules of moving pointers, alone: no server."""

from __future__ import annotations

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from registry import Deployment, Refused, lifecycle

EMPTY = Deployment(domain="d")


def on(**pointers: object) -> Deployment:
    return replace(Deployment(domain="d", epoch=7, moved_at=50.0), **pointers)


def test_the_first_promotion_has_nothing_before_it() -> None:
    now = lifecycle.promote(EMPTY, 1, at=10.0)
    assert (now.stable, now.previous, now.epoch, now.moved_at) == (1, None, 1, 10.0)


def test_promotion_keeps_the_way_back_and_ends_the_canary() -> None:
    now = lifecycle.promote(on(stable=1, canary=2, share=0.2, experiment="x"), 2, at=60.0)
    assert now == on(stable=2, previous=1, epoch=8, moved_at=60.0)


def test_promoting_another_version_ends_the_canary_too() -> None:
    now = lifecycle.promote(on(stable=1, canary=2, share=0.2, experiment="x"), 3, at=60.0)
    assert (now.stable, now.canary, now.share, now.experiment) == (3, None, 0.0, "")


def test_promoting_what_is_stable_changes_nothing() -> None:
    now = on(stable=2, previous=1)
    assert lifecycle.promote(now, 2, at=60.0) is now


def test_a_promoted_holdback_is_no_holdback_any_more() -> None:
    now = lifecycle.promote(on(stable=2, holdback=1, holdback_share=0.05), 1, at=60.0)
    assert (now.holdback, now.holdback_share) == (None, 0.0)


def test_a_canary_starts_an_experiment_and_its_share_may_change_without_a_new_one() -> None:
    first = lifecycle.canary(on(stable=1), 2, 0.01, experiment="salt", at=60.0)
    assert (first.canary, first.share, first.experiment) == (2, 0.01, "salt")
    wider = lifecycle.set_share(first, 0.2, at=61.0)
    assert (wider.share, wider.experiment, wider.epoch) == (0.2, "salt", first.epoch + 1)
    again = lifecycle.canary(wider, 2, 0.3, experiment="other", at=62.0)
    assert (again.share, again.experiment) == (0.3, "salt")
    assert lifecycle.canary(wider, 2, 0.2, experiment="other", at=62.0) is wider


@pytest.mark.parametrize(
    ("now", "version", "share", "says"),
    [
        (EMPTY, 2, 0.1, "no stable version"),
        (on(stable=2), 2, 0.1, "already stable"),
        (on(stable=1, canary=3, share=0.1), 2, 0.1, "Version 3 of d is already on canary"),
        (on(stable=1), 2, 0.0, "above 0 and at most 0.5"),
        (on(stable=1), 2, 0.51, "above 0 and at most 0.5"),
        (on(stable=1), 2, float("nan"), "above 0 and at most 0.5"),
    ],
)
def test_a_canary_that_cannot_be_is_refused(now: Deployment, version: int, share: float, says: str) -> None:
    with pytest.raises(Refused, match=says):
        lifecycle.canary(now, version, share, experiment="x", at=60.0)


def test_rollback_goes_back_once() -> None:
    now = lifecycle.rollback(on(stable=2, previous=1, canary=3, share=0.1, experiment="x"), at=60.0)
    assert now == on(stable=1, epoch=8, moved_at=60.0)
    with pytest.raises(Refused, match="no previous version"):
        lifecycle.rollback(now, at=61.0)


def test_abort_leaves_stable_alone_and_needs_a_canary() -> None:
    now = lifecycle.abort(on(stable=1, canary=2, share=0.1, experiment="x"), at=60.0)
    assert now == on(stable=1, epoch=8, moved_at=60.0)
    with pytest.raises(Refused, match="no canary to abort; stable is 1"):
        lifecycle.abort(now, at=61.0)


def test_a_holdback_comes_and_goes() -> None:
    held = lifecycle.set_holdback(on(stable=2, previous=1), 1, 0.05, at=60.0)
    assert (held.holdback, held.holdback_share) == (1, 0.05)
    assert lifecycle.set_holdback(held, 1, 0.05, at=61.0) is held
    gone = lifecycle.set_holdback(held, None, 0.0, at=61.0)
    assert (gone.holdback, gone.holdback_share) == (None, 0.0)
    assert lifecycle.set_holdback(gone, None, 0.0, at=62.0) is gone
    for version, share, says in ((2, 0.05, "is stable"), (1, 1.0, "above 0 and below 1"), (1, -0.1, "above 0")):
        with pytest.raises(Refused, match=says):
            lifecycle.set_holdback(gone, version, share, at=62.0)
    with pytest.raises(Refused, match="nothing to hold back from"):
        lifecycle.set_holdback(EMPTY, 1, 0.05, at=62.0)


def test_a_canary_of_half_the_traffic_fits_beside_a_holdback() -> None:
    held = lifecycle.set_holdback(on(stable=2, previous=1), 1, 0.05, at=60.0)
    tried = lifecycle.canary(held, 3, 0.5, experiment="x", at=61.0)
    assert (tried.share, tried.holdback_share) == (0.5, 0.05)
    assert lifecycle.set_holdback(tried, 1, 0.1, at=62.0).holdback_share == 0.1


def test_time_never_runs_backwards_in_a_history() -> None:
    assert lifecycle.promote(on(stable=1), 2, at=1.0).moved_at == 50.0


def test_a_move_is_told_in_words() -> None:
    words = lifecycle.describe(on(stable=1), lifecycle.promote(on(stable=1), 2, at=60.0))
    assert words == "stable 1 -> 2, previous none -> 1"


_wishes = st.one_of(
    st.tuples(st.just("promote"), st.integers(1, 4), st.just(0.0)),
    st.tuples(st.just("canary"), st.integers(1, 4), st.floats(-0.1, 0.7)),
    st.tuples(st.just("share"), st.just(0), st.floats(-0.1, 0.7)),
    st.tuples(st.just("abort"), st.just(0), st.just(0.0)),
    st.tuples(st.just("rollback"), st.just(0), st.just(0.0)),
    st.tuples(st.just("holdback"), st.one_of(st.none(), st.integers(1, 4)), st.floats(0, 1)),
)


@hypothesis.settings(deadline=None)
@given(st.lists(_wishes, max_size=30))
def test_whatever_is_wished_the_pointers_stay_consistent(wishes: list[tuple[str, int, float]]) -> None:
    now = EMPTY
    for step, (kind, version, share) in enumerate(wishes):
        before = now
        try:
            match kind:
                case "promote":
                    now = lifecycle.promote(now, version, at=float(step))
                case "canary":
                    now = lifecycle.canary(now, version, share, experiment=f"e{step}", at=float(step))
                case "share":
                    now = lifecycle.set_share(now, share, at=float(step))
                case "abort":
                    now = lifecycle.abort(now, at=float(step))
                case "rollback":
                    now = lifecycle.rollback(now, at=float(step))
                case _:
                    now = lifecycle.set_holdback(now, version, share, at=float(step))
        except Refused:
            assert now is before
            continue
        assert now.epoch == before.epoch + (now != before)
        assert (now.canary is None) == (now.share == 0) == (now.experiment == "")
        assert (now.holdback is None) == (now.holdback_share == 0)
        assert now.canary != now.stable or now.canary is None
        assert now.holdback != now.stable or now.holdback is None
        assert now.share <= 0.5 and now.holdback_share < 1
        assert now.stable is not None or now == EMPTY
