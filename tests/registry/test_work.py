"""Datasets, runs, leases, triggers, approvals, keys: what is worked on, on every kind of server."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from registry import (
    Approval,
    Budget,
    Conflict,
    Corrupt,
    Dataset,
    Example,
    NotFound,
    Refused,
    Registry,
    RetentionSettings,
    Trigger,
    hash_key,
)
from tests.registry.conftest import NOW, Clock, Connect, domain_with_versions


def dataset(question: str = "q", **more: object) -> Dataset:
    fields = {
        "hash": "",
        "domain": "support",
        "task": "t",
        "created_at": NOW,
        "examples": (Example(id="e", question=question),),
    }
    return Dataset(**{**fields, **more})  # type: ignore[arg-type]


async def test_datasets_are_named_by_their_content(registry: Registry) -> None:
    await domain_with_versions(registry)
    digest = await registry.put_dataset(dataset())
    assert await registry.put_dataset(dataset(created_at=NOW + 5, hash="sha256:liar")) == digest
    assert await registry.put_dataset(dataset("other")) != digest
    assert (await registry.get_dataset(digest)).examples[0].question == "q"
    assert await registry.get_dataset(digest, "support") == await registry.get_dataset(digest)
    listed = await registry.list_datasets("support")
    assert len(listed) == 2 and all(not found.examples for found in listed)
    assert await registry.connection.command("TTL", registry.connection.keys.dataset("support", digest)) > 0
    assert await registry.delete_dataset("support", digest)
    assert not await registry.delete_dataset("support", digest)
    with pytest.raises(NotFound):
        await registry.get_dataset(digest)


async def test_a_changed_dataset_is_refused(registry: Registry) -> None:
    await domain_with_versions(registry)
    digest = await registry.put_dataset(dataset())
    key = registry.connection.keys.dataset("support", digest)
    raw = await registry.connection.command("GET", key)
    await registry.connection.command("SET", key, raw.replace(b'"q"', b'"poison"'))
    with pytest.raises(Corrupt, match="does not match its hash"):
        await registry.get_dataset(digest)


async def test_the_oldest_datasets_go_first(connect: Connect, url: str) -> None:
    registry = await connect(url, retention=RetentionSettings(datasets=3))
    await domain_with_versions(registry)
    hashes = [await registry.put_dataset(dataset(f"q{i}", created_at=NOW + i)) for i in range(5)]
    assert [found.hash for found in await registry.list_datasets("support")] == hashes[:1:-1]


async def test_a_domain_has_one_live_run(registry: Registry) -> None:
    await domain_with_versions(registry)
    run = await registry.create_run("support", "gepa", "anna", "why not", Budget(calls=9))
    assert (run.state, run.method, run.budget) == ("queued", "gepa", Budget(calls=9))
    with pytest.raises(Conflict, match="is queued already") as caught:
        await registry.create_run("support")
    assert caught.value.current == run
    running = await registry.update_run(replace(run, state="running", calls={"base": 4}), fence=1)
    assert await registry.get_run(run.id) == running == await registry.live_run("support")
    await registry.update_run(replace(running, state="done", reason="gate passed"), fence=1)
    assert await registry.live_run("support") is None
    with pytest.raises(Conflict, match="has ended"):
        await registry.update_run(running, fence=1)
    second = await registry.create_run("support")
    assert {found.id for found in await registry.list_runs()} == {run.id, second.id}
    assert len(await registry.list_runs("support", limit=1)) == 1
    for wish in (registry.create_run("nope"), registry.get_run("support-nope"), registry.get_run("nonsense")):
        with pytest.raises(NotFound):
            await wish


async def test_a_run_is_begun_once_per_request(registry: Registry) -> None:
    await domain_with_versions(registry)
    first = await registry.create_run("support", request_id="abc")
    assert await registry.create_run("support", request_id="abc") == first


async def test_a_late_writer_of_a_run_is_fenced_out(registry: Registry) -> None:
    await domain_with_versions(registry)
    run = await registry.create_run("support")
    await registry.update_run(replace(run, state="running"), fence=5)
    with pytest.raises(Conflict, match="fence 5, yours is 4"):
        await registry.update_run(replace(run, state="failed"), fence=4)
    assert (await registry.get_run(run.id)).state == "running"


async def test_the_oldest_runs_go_first(connect: Connect, url: str, clock: Clock) -> None:
    registry = await connect(url, retention=RetentionSettings(runs=3))
    await domain_with_versions(registry)
    made = []
    for _ in range(5):
        clock.tick()
        made.append(await registry.create_run("support"))
        await registry.append_run_event(made[-1].id, {"n": 1})
        await registry.update_run(replace(made[-1], state="done"), fence=1)
    assert [run.id for run in await registry.list_runs("support")] == [run.id for run in made[:1:-1]]
    assert await registry.run_events(made[0].id) == []


async def test_events_of_a_run_are_read_in_order_and_waited_for(registry: Registry) -> None:
    await domain_with_versions(registry)
    run = await registry.create_run("support")
    ids = [await registry.append_run_event(run.id, {"generation": i}) for i in range(3)]
    events = await registry.run_events(run.id)
    assert [name for name, _ in events] == ids
    assert [event["generation"] for _, event in events] == [0, 1, 2]
    assert await registry.run_events(run.id, ids[0], limit=1) == events[1:2]
    assert await registry.run_events(run.id, ids[-1], wait=0.05) == []
    waiting = asyncio.create_task(registry.run_events(run.id, ids[-1], wait=5))
    await asyncio.sleep(0.05)
    await registry.append_run_event(run.id, {"generation": 3})
    assert [event for _, event in await waiting] == [{"generation": 3}]
    with pytest.raises(Refused):
        await registry.run_events(run.id, "nonsense")


async def test_leases_are_held_by_one_and_fence_the_others(registry: Registry) -> None:
    lease = await registry.acquire("job:support", "worker-1", 0.15)
    assert lease is not None and lease.fence == 1
    assert await registry.acquire("job:support", "worker-2", 5) is None
    assert await registry.acquire("job:support", "worker-1", 0.15) == replace(lease, until=lease.until)
    assert await registry.lease_holder("job:support") == ("worker-1", 1)
    await registry.renew(lease, 0.15)
    await asyncio.sleep(0.25)
    taken = await registry.acquire("job:support", "worker-2", 5)
    assert taken is not None and taken.fence == 2
    with pytest.raises(Conflict, match="has lapsed"):
        await registry.renew(lease)
    await registry.release(lease)
    assert await registry.lease_holder("job:support") == ("worker-2", 2)
    await registry.release(taken)
    assert await registry.lease_holder("job:support") is None
    assert (await registry.acquire("job:support", "worker-1", 5) or lease).fence == 3


async def test_of_many_who_ask_for_a_lease_one_gets_it(registry: Registry) -> None:
    found = await asyncio.gather(*(registry.acquire("one", f"w{i}", 5) for i in range(20)))
    assert len([lease for lease in found if lease]) == 1


async def test_a_trigger_is_written_once_and_handed_out_until_done(registry: Registry, clock: Clock) -> None:
    wish = Trigger(id="support:2026-11-20T03", job="optimize", domain="support", at=clock.now, by="schedule")
    later = Trigger(id="later", job="judge", domain="support", at=clock.now + 100, by="schedule")
    assert await registry.put_trigger(wish)
    assert not await registry.put_trigger(wish)
    assert await registry.put_trigger(later)
    assert await registry.take_triggers(10) == [wish]
    assert await registry.take_triggers(10) == []
    clock.tick(61)
    assert await registry.take_triggers(10) == [wish]
    await registry.done_trigger(wish.id)
    assert not await registry.put_trigger(wish)
    assert await registry.waiting_triggers() == 1
    clock.tick(100)
    assert await registry.take_triggers(10) == [later]


async def test_triggers_are_capped(connect: Connect, url: str) -> None:
    registry = await connect(url, retention=RetentionSettings(triggers=2))
    for i in range(2):
        assert await registry.put_trigger(Trigger(id=str(i), job="j", domain="d", at=NOW, by="x"))
    with pytest.raises(Refused, match="is a worker running"):
        await registry.put_trigger(Trigger(id="3", job="j", domain="d", at=NOW, by="x"))


async def test_the_first_decision_of_an_approval_stands(connect: Connect, url: str) -> None:
    registry = await connect(url, retention=RetentionSettings(approvals=2))
    asked = Approval(id="a1", domain="support", version=2, kind="promote", asked_at=NOW, reason="first promotion")
    assert await registry.put_approval(asked)
    assert not await registry.put_approval(asked)
    decided = await registry.decide_approval("a1", "approved", "anna", "looks good")
    assert await registry.decide_approval("a1", "approved", "bob") == decided
    with pytest.raises(Conflict, match="anna has approved it already: looks good") as caught:
        await registry.decide_approval("a1", "rejected", "bob")
    assert caught.value.current == decided
    await registry.put_approval(replace(asked, id="a2", asked_at=NOW + 1, domain="other"))
    assert [one.id for one in await registry.list_approvals(waiting_only=True)] == ["a2"]
    assert [one.id for one in await registry.list_approvals("support")] == ["a1"]
    await registry.put_approval(replace(asked, id="a3", asked_at=NOW + 2))
    assert [one.id for one in await registry.list_approvals()] == ["a3", "a2"]
    with pytest.raises(NotFound):
        await registry.decide_approval("nope", "approved", "anna")


async def test_keys_are_stored_hashed_and_revoked(registry: Registry) -> None:
    record, text = await registry.create_key("app", "caller", "support", requests_per_minute=60)
    assert record.hash == hash_key(text) and text not in repr(record)
    assert (record.domain, record.requests_per_minute) == ("support", 60)
    with pytest.raises(Conflict, match="is in use"):
        await registry.create_key("app", "operator")
    with pytest.raises(Refused, match="no limit 'speed'"):
        await registry.create_key("fast", "caller", speed=1)
    assert (await registry.snapshot()).keys == {record.hash: record}
    revoked = await registry.revoke_key("app", "anna", "leaked")
    assert revoked.revoked_at == NOW
    assert await registry.revoke_key(record.id, "anna") == revoked
    assert (await registry.snapshot()).keys == {}
    assert [key.id for key in await registry.list_keys()] == [record.id]
    with pytest.raises(NotFound):
        await registry.revoke_key("nope", "anna")
    assert [entry.kind for entry in await registry.fleet_history()] == ["revoke_key", "create_key"]
    stored = await registry.connection.command("HGETALL", registry.connection.keys.keyring)
    assert text not in repr(stored)


async def test_old_revoked_keys_are_dropped(registry: Registry, clock: Clock) -> None:
    await registry.create_key("app", "caller")
    await registry.revoke_key("app", "anna")
    assert await registry.drop_old_keys() == 0
    clock.tick(91 * 86_400)
    assert await registry.drop_old_keys() == 1
    assert await registry.list_keys() == []


async def test_a_fleet_secret_is_made_once(registry: Registry, connect: Connect) -> None:
    other = await connect(registry.connection.url)
    first, second = await asyncio.gather(registry.secret("exchange"), other.secret("exchange"))
    assert first == second and len(first) == 32
    assert await registry.secret("cookie") != first


async def test_places_are_shared_fairly_and_never_more_than_there_are(registry: Registry) -> None:
    async def ask(holder: str, wanted: int, used: int = 0, ttl: float = 5.0) -> tuple[int, int]:
        return await registry.share_places("http://provider/{x}", holder, wanted=wanted, used=used, limit=8, ttl=ttl)

    assert await ask("one", 20) == (8, 8), "alone, all of it"
    assert await ask("two", 2) == (0, 2), "nothing is left, two would be fair"
    assert await ask("one", 20, used=8) == (8, 6), "what is in use is not taken away"
    assert await ask("one", 20, used=6) == (6, 6)
    assert await ask("two", 2) == (2, 2)
    assert await ask("one", 0) == (0, 0)
    assert await ask("two", 20, used=2) == (8, 8)
    assert await ask("two", 20, used=2, ttl=0.05) == (8, 8)
    await asyncio.sleep(0.1)
    assert await ask("three", 8) == (8, 8), "who does not ask again has lost its share"
