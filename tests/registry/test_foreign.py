"""Tampered, truncated and foreign values: refused one by one, counted, named by doctor, in nobody else's way."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from registry import (
    Approval,
    Corrupt,
    Dataset,
    Example,
    Feedback,
    Lineage,
    NotFound,
    Registry,
    RegistryError,
    Signer,
    Trigger,
    content_hash,
)
from registry.checks import check_values
from registry.redis_keys import Keys
from registry.stored_values import KINDS, Place
from tests.registry.conftest import NOW, Clock, domain_with_versions
from tests.registry.test_samples import outcome, sample

Read = Callable[[Registry], Awaitable[Any]]


@pytest.fixture
async def full(registry: Registry, clock: Clock) -> AsyncIterator[Registry]:
    """A registry with two of everything, so that one can be spoilt and the other must still come."""
    await domain_with_versions(registry)
    await registry.record([sample(1), sample(2)], [outcome(1), outcome(2, unit="u2")])
    for number in (1, 2):
        await registry.add_feedback(
            Feedback(exchange=f"x{number}", domain="support", key="k1", unit="u1", at=NOW, score=1.0)
        )
        examples = (Example(id=f"e{number}", question=f"Question {number}?"),)
        await registry.put_dataset(
            Dataset(hash="", domain="support", task="t", created_at=NOW + number, examples=examples)
        )
        await registry.put_approval(
            Approval(id=f"a{number}", domain="support", version=2, kind="promote", asked_at=NOW, reason="r")
        )
        await registry.put_trigger(Trigger(id=f"g{number}", job="judge", domain="support", at=NOW, by="a"))
        run = await registry.create_run("support", request_id=f"r{number}")
        await registry.append_run_event(run.id, {"n": 1})
        await registry.append_run_event(run.id, {"n": 2})
        await registry.update_run(run.__class__(**{**_fields(run), "state": "done"}))
    yield registry


def _fields(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__struct_fields__}


async def _named(registry: Registry, signer: Signer) -> str:
    [finding] = await check_values(registry.connection, signer.public)
    return finding.message if not finding.ok else ""


async def test_a_whole_registry_is_whole(full: Registry, signer: Signer) -> None:
    queue = f"{full.connection.keys.prefix}:j:{{queue-urgent}}"  # what the queue's library keeps is its own
    await full.connection.command("XADD", queue, "*", "data", "x")
    [finding] = await check_values(full.connection, signer.public)
    assert finding.ok and "1 domains and 0 keys are signed by our key" in finding.message, finding.message


SPOILT = (b'{"id":"x', b"\xff\xfe\x00", b"[" * 5000, b"soup", b'{"domain":"other"}')

STRINGS: dict[str, tuple[Callable[[Keys, str], str], Read, int, str]] = {
    "sample": (lambda keys, _: keys.sample("support", "x1"), lambda r: r.samples("support"), 1, "The sample x1"),
    "vote": (lambda keys, _: keys.vote("support", "x1"), lambda r: r.record([sample(1)], []), -1, "The vote on x1"),
    "dataset": (lambda keys, d: keys.dataset("support", d), lambda r: r.list_datasets("support"), 1, "The dataset"),
    "run": (
        lambda keys, _: keys.run("support", "support-r1"),
        lambda r: r.list_runs("support"),
        1,
        "The run support-r1",
    ),
}


@pytest.mark.parametrize("what", STRINGS)
async def test_a_spoilt_string_hides_nobody_else(what: str, full: Registry, signer: Signer) -> None:
    place, read, left, name = STRINGS[what]
    digest = (await full.list_datasets("support"))[0].hash
    redis = full.connection
    key = place(redis.keys, digest)
    for count, value in enumerate((*SPOILT, None), 1):
        await redis.command("DEL", key)
        await redis.command(*(("SET", key, value) if value is not None else ("SADD", key, "another kind")))
        found = await read(full)
        assert left < 0 or len(found) == left
        assert sum(full.refused.values()) >= count, (value, full.refused)
        said = await _named(full, signer)
        assert "values are refused" in said and (name in said or (value is None and key in said)), said


async def test_spoilt_fields_and_entries_hide_nobody_else(full: Registry, signer: Signer) -> None:
    redis, keys = full.connection, full.connection.keys
    run = (await full.list_runs("support"))[0]
    reads: dict[str, Read] = {
        keys.approvals: lambda r: r.list_approvals(),
        keys.trigger_bodies: lambda r: r.open_triggers(),
        keys.totals("support"): lambda r: r.outcome_totals("support"),
        keys.audit("support"): lambda r: r.history("support"),
        keys.outcomes("support"): lambda r: r.outcomes("support"),
        keys.run_events("support", run.id): lambda r: r.run_events(run.id),
    }
    for key, read in reads.items():
        before, refused = len(await read(full)), sum(full.refused.values())
        kind = await redis.command("TYPE", key)
        for number, value in enumerate(SPOILT):
            if kind == b"hash":
                await redis.command("HSET", key, b"\xff%d|stable" % number, value)
            else:
                last = (await redis.command("XREVRANGE", key, "+", "-", "COUNT", 1))[0][0]
                seq = int(last.split(b"-")[0]) + 1
                await redis.command("XADD", key, f"{seq}-0", "o" if key.endswith(":outcomes") else "e", value)
        found = await read(full)
        refusals = sum(full.refused.values()) - refused
        # The last one may be an event like any other; everything else has fields that must be there.
        assert len(found) - before + refusals == len(SPOILT) and refusals >= 4, (key, refusals)
        assert f"{refusals} values are refused" in await _named(full, signer), await _named(full, signer)
        await redis.command("DEL", key)


async def test_other_spoilt_places_are_sentences_or_left_out(full: Registry, signer: Signer) -> None:
    """Indexes with members that nobody wrote: no reader falls over them."""
    redis, keys = full.connection, full.connection.keys
    junk = b"\xff\x00|"
    for key in (keys.tasks("support"), keys.times("support", "triage"), keys.unit_groups("support")):
        await redis.command("ZADD", key, NOW, junk)
    await redis.command("HSET", keys.threshold("support"), junk, "soup")
    await redis.command("ZADD", keys.datasets("support"), NOW, junk)
    await redis.command("ZADD", keys.runs("support"), NOW, junk)
    await redis.command("HSET", keys.usage("k1", "m"), junk, "soup")
    await redis.command("ZADD", keys.moves("support"), NOW + 5, "soup")
    await redis.command("SADD", keys.domains, junk)
    assert len(await full.samples("support")) == 2
    assert {tally.unit for tally in await full.unit_scores("support")} == {"u1", "u2"}
    assert len(await full.list_datasets("support")) == 2 and len(await full.list_runs()) == 2
    assert (await full.add_usage({"k1": {"requests": 1}}, "m", 60))["k1"] == {"requests": 1.0}
    with pytest.raises(RegistryError, match="no number of an audit entry"):
        await full.served_at("support", NOW + 10)
    assert set((await full.snapshot()).domains) == {"support"}
    assert "The list of domains names" in await _named(full, signer)
    # A foreign sum does not keep new exchanges from being counted; a foreign vote is replaced by the next.
    [before] = [tally for tally in await full.outcome_totals("support") if tally.version == 1]
    await redis.command("HSET", keys.totals("support"), f"1|{before.arm}", b"soup")
    await full.record([], [outcome(3)])
    [after] = [tally for tally in await full.outcome_totals("support") if tally.version == 1]
    assert (before.n, after.n) == (2, 1)
    await redis.command("SET", keys.vote("support", "x2"), b"soup")
    vote = Feedback(exchange="x2", domain="support", key="k1", unit="u1", at=NOW, score=0.0)
    assert await full.add_feedback(vote)
    assert (await full.get_sample("x2")).feedback == 0.0
    # Nobody can say whose it is: a wish to be forgotten takes it along.
    for key in (keys.sample("support", "x1"), keys.vote("support", "x1")):
        await redis.command("SET", key, b"soup")
    report = await full.erase("k1", None)
    assert report.samples == 2
    with pytest.raises(NotFound):
        await full.get_sample("x1")


async def test_an_index_that_lies_passes_no_other_text_off_as_this_one(full: Registry) -> None:
    keys = full.connection.keys
    mine = "What the operator wrote."
    await full.connection.command("HSET", keys.hashes("support"), content_hash(mine), 2)
    with pytest.raises(Corrupt, match="takes version 2 for this text"):
        await full.add_version("support", mine, lineage=Lineage(author="a"))
    await full.connection.command("HSET", keys.hashes("support"), content_hash(mine), 77)
    with pytest.raises(Corrupt):
        await full.add_version("support", mine, lineage=Lineage(author="a"))


async def test_a_backup_goes_round_foreign_values(full: Registry, tmp_path: Path) -> None:
    redis, keys = full.connection, full.connection.keys
    await redis.command("SET", keys.sample("support", "x1"), b"\xff soup")
    await redis.command("SET", f"{keys.prefix}:t:{{support}}:".encode() + b"\xff", "x")
    await redis.command("SET", f"{keys.prefix}:mine", "x")
    assert await full.backup(tmp_path / "b") > 10
    assert await full.restore(tmp_path / "b", overwrite=True) > 10
    assert await redis.command("GET", keys.sample("support", "x1")) == b"\xff soup"
    assert len(await full.samples("support")) == 1 and (await full.deployment("support")).stable == 1


async def test_lost_and_foreign_entries_of_the_audit_are_named(full: Registry, signer: Signer) -> None:
    redis, keys = full.connection, full.connection.keys
    assert await redis.command("XDEL", keys.audit("support"), "2-0") == 1
    await redis.command("SET", f"{keys.prefix}:mine", "x")
    said = await _named(full, signer)
    assert "has lost 1 entries before number 3" in said and f"{keys.prefix}:mine is none of ours" in said


async def test_doctor_stops_in_time_and_says_so(full: Registry, signer: Signer) -> None:
    [finding] = await check_values(full.connection, signer.public, seconds=0.0)
    assert finding.ok and "after 0 s not all of them had been looked at" in finding.message


def test_every_key_of_ours_is_known_to_doctor() -> None:
    """Whoever adds a key says here what kind of value lies there."""
    keys = Keys("p")
    names = [value for name, value in vars(keys).items() if name not in ("prefix", "moved")]
    for name, method in inspect.getmembers(keys, inspect.ismethod):
        if not name.startswith("_"):
            words = inspect.signature(method).parameters
            names.append(method(*["failures" if word == "which" else "w" for word in words]))
    seen = set()
    for name in names:
        place = Place(name.encode(), "p")
        assert place.kind, name
        seen.add((place.plane, place.word))
    assert seen | {("t", "representative")} == set(KINDS)
