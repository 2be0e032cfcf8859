"""Signed exchange ids, and the feedback that comes with them, over real HTTP."""

from __future__ import annotations

import json
from typing import Any

import pytest
from control_house import NOW, Clock, House
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.exchange import Exchange
from gateway.feedback import BadExchangeId, SignedIds, record_id
from registry import KeyRecord, Sample, unit_digest

OWNER = KeyRecord(id="k1", name="app", role="caller", hash="")
SECRET = b"0123456789abcdef0123456789abcdef"


def exchange(owner: KeyRecord = OWNER, **more: Any) -> Exchange:
    made = Exchange("x42", "chat", NOW, 0.0)
    made.key, made.domain, made.served_domain, made.unit = owner, "support", "support", "ann@example.com"
    made.arm, made.version = "canary", 3
    for name, value in more.items():
        setattr(made, name, value)
    return made


def ids(clock: Clock | None = None) -> SignedIds:
    return SignedIds(SECRET, clock=clock or Clock(), experiment=lambda domain: f"exp-{domain}")


def test_an_id_says_what_was_served_and_never_the_unit() -> None:
    token = ids().issue(exchange())
    assert b"ann" not in token
    assert token.isascii()
    assert len(token) < 200
    claim = ids().read(token.decode(), OWNER)
    assert (claim.exchange, claim.at, claim.domain, claim.arm, claim.version) == ("x42", NOW, "support", "canary", 3)
    assert claim.experiment == "exp-support"
    assert claim.unit == unit_digest("ann@example.com") != unit_digest("bob@example.com")


def test_a_parents_version_is_not_credited_to_the_domain() -> None:
    claim = ids().read(ids().issue(exchange(served_domain="global")).decode(), OWNER)
    assert (claim.arm, claim.version, claim.experiment, claim.domain) == ("none", None, "", "support")
    unknown = ids().read(ids().issue(exchange(domain="", served_domain="global")).decode(), OWNER)
    assert (unknown.domain, unknown.version) == ("global", 3)


def test_an_sdks_retry_has_the_same_id() -> None:
    first, again = exchange(idempotency_key=b"abc"), exchange(idempotency_key=b"abc")
    again.id = "x43"
    assert record_id(first) == record_id(again) != record_id(exchange(idempotency_key=b"abd"))
    other = exchange(KeyRecord(id="k2", name="other", role="caller", hash=""), idempotency_key=b"abc")
    assert record_id(other) != record_id(first)


@given(st.text(max_size=80), st.integers(0, 200), st.characters())
@settings(max_examples=80, deadline=None)
def test_forged_and_damaged_ids_are_refused(junk: str, place: int, char: str) -> None:
    good = ids().issue(exchange()).decode()
    damaged = good[: place % len(good)] + char + good[place % len(good) + 1 :]
    for token in (junk, damaged, good + junk):
        if token != good:
            with pytest.raises(BadExchangeId) as caught:
                ids().read(token, OWNER)
            assert caught.value.refusal.status == 403


def test_another_secret_another_key_too_late() -> None:
    token = ids().issue(exchange()).decode()
    with pytest.raises(BadExchangeId):
        SignedIds(b"other" * 8, clock=Clock()).read(token, OWNER)
    with pytest.raises(BadExchangeId) as caught:
        ids().read(token, KeyRecord(id="k2", name="b", role="caller", hash=""))
    assert (caught.value.refusal.status, caught.value.refusal.code) == (403, "exchange_of_another_key")
    late = Clock(NOW + 31 * 86_400)
    with pytest.raises(BadExchangeId) as caught:
        ids(late).read(token, OWNER)
    assert (caught.value.refusal.status, caught.value.refusal.code) == (404, "exchange_expired")


# --- the route --------------------------------------------------------------------------------------------------------


@pytest.fixture
async def token(house: House) -> str:
    """The id of an exchange of the house's caller, kept as sample ``x42``."""
    signer = house.control.ids()
    assert signer is not None
    owner = KeyRecord(id=house.key_ids["caller"], name="app", role="caller", hash="")
    made = exchange(owner, arm="stable", version=1)
    await house.registry.record(
        [
            Sample(
                id="x42",
                domain="support",
                task="t",
                at=NOW,
                key=owner.id,
                unit=unit_digest(made.unit),
                version=1,
                arm="stable",
            )
        ],
        [],
    )
    return signer.issue(made).decode()


async def test_feedback_joins_its_sample_and_the_second_vote_replaces(house: House, token: str) -> None:
    first = await house.post(
        "/v1/feedback", {"exchange": token, "thumb": "down", "comment": "ask bob@example.com"}, role="caller"
    )
    assert (first.status, first.body) == (202, {"exchange": "x42", "joined": True})
    kept = await house.registry.get_sample("x42")
    assert (kept.feedback, kept.comment) == (0.0, "ask <EMAIL_1>")
    second = await house.post("/feedback", {"exchange": token, "score": 0.75, "reference": "Shipping"}, role="caller")
    assert second.status == 202
    kept = await house.registry.get_sample("x42")
    assert (kept.feedback, kept.reference) == (0.75, "Shipping")
    (score,) = (await house.get("/api/domains/support/scores")).body
    assert (score["version"], score["arm"], score["votes"], score["vote"]) == (1, "stable", 1, 0.75)


async def test_feedback_on_what_was_not_kept_still_counts(house: House) -> None:
    signer = house.control.ids()
    assert signer is not None
    owner = KeyRecord(id=house.key_ids["caller"], name="app", role="caller", hash="")
    made = exchange(owner, arm="stable", version=2)
    made.id = "x77"
    answer = await house.post("/v1/feedback", {"exchange": signer.issue(made).decode(), "score": 1}, role="caller")
    assert answer.body == {"exchange": "x77", "joined": False}
    (score,) = (await house.get("/api/domains/support/scores")).body
    assert (score["version"], score["votes"], score["vote"]) == (2, 1, 1.0)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"score": 1}, 400),
        ({"exchange": "x", "score": 1}, 403),
        ({"exchange": "x", "score": 1.1}, 400),
        ({"exchange": "x", "score": True}, 400),
        ({"exchange": "x", "thumb": "sideways"}, 400),
        ({"exchange": "x", "score": 1, "thumb": "up"}, 400),
        ({"exchange": "x"}, 400),
        ({"exchange": "x", "rating": 5, "score": 1}, 400),
        ({"exchange": "", "score": 1}, 400),
        ([], 400),
        ("x", 400),
    ],
)
async def test_bad_feedback(house: House, body: Any, status: int) -> None:
    answer = await house.ask("POST", "/v1/feedback", json.dumps(body).encode(), role="caller")
    assert answer.status == status
    assert answer.error["message"]


async def test_feedback_needs_the_callers_key_and_a_body_of_size(house: House, token: str) -> None:
    body = {"exchange": token, "score": 1}
    assert (await house.post("/v1/feedback", body, role="")).error["code"] == "invalid_api_key"
    assert (await house.post("/v1/feedback", body, role="operator")).status == 401
    large = await house.ask("POST", "/v1/feedback", b" " * 300_000, role="caller")
    assert large.status == 413
    assert (await house.ask("POST", "/v1/feedback", b"\xff", role="caller")).status == 400
    house.down = True
    assert (await house.post("/v1/feedback", body, role="caller")).status == 503
