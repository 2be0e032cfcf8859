"""Keys: found by hash, by role, until revoked or expired."""

from __future__ import annotations

from control_house import NOW, Clock
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth import KeyRing, bearer
from registry import KeyRecord, Registry, Snapshot, hash_key


def ring(*keys: KeyRecord, clock: Clock | None = None) -> KeyRing:
    made = KeyRing(clock or Clock())
    made.load(Snapshot(epoch=1, taken_at=NOW, keys={key.hash: key for key in keys}))
    return made


def key(text: str = "sk-1", **more: object) -> KeyRecord:
    return KeyRecord(**{"id": "k1", "name": "app", "role": "caller", "hash": hash_key(text), **more})  # type: ignore[arg-type]


def test_roles_are_kept_apart() -> None:
    keys = ring(key("a"), key("b", role="operator"), key("c", role="viewer"))
    assert keys.caller(b"a") is not None
    assert keys.caller(b"b") is None
    assert keys.operator(b"a") is None
    assert keys.operator(b"b") is not None
    assert keys.operator(b"c") is not None
    assert keys.find(b"c") is not None


def test_expired_and_revoked_keys_are_nobodys() -> None:
    clock = Clock()
    keys = ring(key("a", expires_at=NOW + 10), key("b", revoked_at=NOW - 1), clock=clock)
    assert keys.caller(b"a") is not None
    assert keys.caller(b"b") is None
    clock.now += 10
    assert keys.caller(b"a") is None


def test_a_record_under_the_wrong_hash_opens_nothing() -> None:
    keys = KeyRing(Clock())
    keys.load(Snapshot(epoch=1, taken_at=NOW, keys={hash_key("guess"): key("other")}))
    assert keys.caller(b"guess") is None
    assert keys.caller(b"other") is None


@given(st.binary(max_size=600))
def test_any_bytes_are_only_ever_unknown(token: bytes) -> None:
    assert ring(key("the real one")).find(token) is None


def test_keys_outside_ascii_work() -> None:
    assert ring(key("schlüssel")).caller("schlüssel".encode()) is not None


def test_bearer_wins_over_x_api_key() -> None:
    assert bearer("Bearer abc", "xyz") == b"abc"
    assert bearer("bearer  abc ", None) == b"abc"
    assert bearer("Basic abc", "xyz") == b"xyz"
    assert bearer("Bearer ", None) == b""
    assert bearer(None, None) == b""


async def test_revoked_in_the_registry_means_out_with_the_next_snapshot(registry: Registry) -> None:
    record, text = await registry.create_key("app", "caller")
    keys = KeyRing(Clock())
    keys.load(await registry.snapshot())
    assert keys.caller(text.encode()) == record
    await registry.revoke_key(record.id, "test")
    keys.load(await registry.snapshot())
    assert keys.caller(text.encode()) is None
