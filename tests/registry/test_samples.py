"""Samples, votes, scores, outcomes: what is kept, what is counted, what expires, on every kind of server."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from registry import (
    Dataset,
    Domain,
    Example,
    Feedback,
    Lineage,
    Message,
    NotFound,
    Outcome,
    Refused,
    Registry,
    RetentionSettings,
    Sample,
)
from registry.reservoirs import inclusion, priority
from tests.registry.conftest import NOW, Clock, Connect, domain_with_versions

DAY = 86_400.0


def sample(number: int | str, **more: Any) -> Sample:
    fields: dict[str, Any] = {
        "id": f"x{number}",
        "domain": "support",
        "task": "triage",
        "at": NOW,
        "key": "k1",
        "unit": f"u{number}",
        "arm": "stable",
        "version": 1,
        "messages": (Message(role="user", content=f"Question {number}?"),),
        "answer": "An answer.",
        "inclusion": 0.5,
    }
    return Sample(**{**fields, **more})


def outcome(number: int, **more: Any) -> Outcome:
    fields: dict[str, Any] = {
        "domain": "support",
        "arm": "stable",
        "version": 1,
        "unit": f"u{number}",
        "at": NOW + number,
        "latency": 0.5,
        "prompt_tokens": 10,
        "answer_tokens": 5,
        "cost": 0.001,
        "exchange": f"x{number}",
    }
    return Outcome(**{**fields, **more})


async def test_samples_are_kept_once_and_read_back_newest_first(registry: Registry) -> None:
    await domain_with_versions(registry)
    batch = [sample(i, at=NOW - i, task=f"t{i % 2}", version=i % 3) for i in range(6)]
    assert len(await registry.record_samples(batch)) == 6
    assert len(await registry.record_samples(batch)) == 6
    assert await registry.samples("support") == batch
    assert await registry.samples("support", limit=2) == batch[:2]
    assert await registry.samples("support", task="t1") == batch[1::2]
    assert await registry.samples("support", version=2) == [batch[2], batch[5]]
    assert await registry.samples("support", since=NOW - 2) == batch[:3]
    assert await registry.task_names("support") == ["t0", "t1"]
    assert await registry.get_sample("x3") == batch[3]
    with pytest.raises(NotFound):
        await registry.get_sample("nope")


async def test_a_lost_locator_is_found_again(registry: Registry) -> None:
    await domain_with_versions(registry)
    await registry.record_samples([sample(1)])
    await registry.connection.command("DEL", registry.connection.keys.locator("x1"))
    assert (await registry.get_sample("x1")).id == "x1"
    assert await registry.connection.command("GET", registry.connection.keys.locator("x1")) == b"support"


async def test_reservoirs_are_capped_and_inclusion_makes_them_unbiased(connect: Connect, url: str) -> None:
    registry = await connect(url, retention=RetentionSettings(samples_per_task=100, failures_per_task=20))
    await domain_with_versions(registry)
    total = 1000
    everything = [sample(i, at=NOW - (total - i), inclusion=1.0) for i in range(total)]
    for start in range(0, total, 250):
        await registry.record_samples(everything[start : start + 250])
    await registry.record_samples([sample(f"f{i}", reservoir="failures") for i in range(50)])
    kept = await registry.samples("support", reservoir="representative")
    assert len(kept) == 100
    assert len(await registry.samples("support", reservoir="failures")) == 20
    assert len(await registry.samples("support")) == 120
    estimate = sum(1 / s.inclusion for s in kept)
    assert abs(estimate - total) < 4 * total / math.sqrt(100)
    # What was turned away leaves nothing behind.
    keys = registry.connection.keys
    assert len(await registry.connection.scan(keys.sample("support", "*"))) == 120


def test_inclusion_is_the_true_probability_and_favours_the_fresh() -> None:
    """Ten thousand ids against a threshold: the share that falls below it is the stated probability."""
    threshold = -math.log(2) * NOW / DAY - 1.0
    for age in (0.0, 0.5 * DAY, 3 * DAY):
        at = NOW - age
        below = sum(priority(f"id{i}", at, 1.0) < threshold for i in range(10_000)) / 10_000
        stated = inclusion(at, threshold, 1.0)
        assert abs(below - stated) < 4 * math.sqrt(stated * (1 - stated) / 10_000) + 1e-9
    assert inclusion(NOW, None, 1.0) == 1.0
    assert inclusion(NOW, threshold, 1.0) > inclusion(NOW - DAY, threshold, 1.0) > 0


async def test_a_write_that_is_tried_again_finds_the_vote_that_came_in_between(registry: Registry) -> None:
    """The server dies after it stored the sample and before it said so; a vote was stored just before the sample."""
    await domain_with_versions(registry)
    vote = Feedback(
        exchange="x1", domain="support", key="k1", unit="u1", arm="stable", version=1, at=NOW, reference="billing"
    )
    assert not await registry.add_feedback(vote), "the sample is not there yet"
    redis, key = registry.connection, registry.connection.keys.vote("support", "x1")
    stored = await redis.command("GET", key)
    await redis.command("DEL", key)
    await registry.record([sample(1)], [])  # the first try: it read the votes before this one was stored
    await redis.command("SET", key, stored)
    assert (await registry.get_sample("x1")).reference is None
    await registry.record([sample(1)], [])
    assert (await registry.get_sample("x1")).reference == "billing"


async def test_samples_expire_by_themselves(registry: Registry, clock: Clock) -> None:
    await domain_with_versions(registry)
    await registry.record_samples([sample(1), sample(2, at=NOW - 29.9 * DAY), sample(3, at=NOW - 31 * DAY)])
    assert [s.id for s in await registry.samples("support")] == ["x1", "x2"]
    keys, redis = registry.connection.keys, registry.connection
    ttl = await redis.command("TTL", keys.sample("support", "x2"))
    assert 0 < ttl <= 0.1 * DAY
    assert 29 * DAY < await redis.command("TTL", keys.sample("support", "x1")) <= 30 * DAY
    clock.tick(30 * DAY + 1)
    assert await registry.samples("support") == []
    # The next write sweeps what is left of the old ones out of the indexes.
    await registry.record_samples([sample(9, at=clock.now)])
    assert await redis.command("ZRANGE", keys.times("support", "triage"), 0, -1) == [b"x9"]
    assert await redis.command("ZRANGE", keys.reservoir("support", "representative", "triage"), 0, -1) == [b"x9"]
    for key in (keys.times("support", "triage"), keys.tasks("support"), keys.locator("x9")):
        assert await redis.command("TTL", key) > 0


async def test_scores_replace_each_other_in_the_sums_too(registry: Registry) -> None:
    await domain_with_versions(registry)
    await registry.record([sample(1), sample(2)], [outcome(1), outcome(2)])
    await registry.set_score("x1", 0.9, "judge-a")
    after = await registry.set_score("x1", 0.4, "judge-b")
    assert (after.score, after.score_by) == (0.4, "judge-b")
    await registry.set_score("x2", None, "judge-b", unscored="unreadable verdict")
    assert (await registry.get_sample("x2")).unscored == "unreadable verdict"
    assert await registry.samples("support", unscored_only=True) == []
    [total] = await registry.outcome_totals("support")
    assert (total.n, total.scored, total.version, total.arm) == (2, 1, 1, "stable")
    assert total.score == pytest.approx(0.4) and total.score_sq == pytest.approx(0.16)
    [unit] = [t for t in await registry.unit_scores("support") if t.unit == "u1"]
    assert (unit.n, unit.scored) == (1, 1) and unit.score == pytest.approx(0.4)
    # A bad one is also offered to the failure reservoir.
    assert [s.id for s in await registry.samples("support", reservoir="failures")] == ["x1"]
    assert len(await registry.samples("support", reservoir="representative")) == 2
    labelled = await registry.label_sample("x1", 1.0, "anna")
    assert (labelled.label, labelled.label_by, labelled.score) == (1.0, "anna", 0.4)
    with pytest.raises(Refused):
        await registry.set_score("x1", 1.5, "judge")


async def test_many_scores_at_once_count_once_each(registry: Registry) -> None:
    await domain_with_versions(registry)
    await registry.record([sample(i, unit="u") for i in range(20)], [])
    await asyncio.gather(*(registry.set_score(f"x{i}", 0.5, "judge") for i in range(20) for _ in range(2)))
    [total] = await registry.outcome_totals("support")
    assert (total.scored, total.score) == (20, 10.0)


async def test_feedback_joins_its_sample_before_and_after(registry: Registry) -> None:
    await domain_with_versions(registry)

    def vote(**more: Any) -> Feedback:
        fields = {
            "exchange": "x1",
            "domain": "support",
            "key": "k1",
            "unit": "u1",
            "at": NOW,
            "arm": "stable",
            "version": 1,
        }
        return Feedback(**{**fields, **more})

    assert not await registry.add_feedback(vote(score=1.0))
    await registry.record_samples([sample(1)])
    assert (await registry.get_sample("x1")).feedback == 1.0
    assert await registry.add_feedback(vote(score=0.0, comment="no"))
    assert await registry.add_feedback(vote(reference="Shipping"))
    joined = await registry.get_sample("x1")
    assert (joined.feedback, joined.reference, joined.comment) == (0.0, "Shipping", "no")
    [total] = await registry.outcome_totals("support")
    assert (total.votes, total.vote, total.n) == (1, 0.0, 0)
    # Another key's vote never touches the sample.
    await registry.record_samples([sample(2)])
    await registry.add_feedback(vote(exchange="x2", key="k2", score=0.0))
    assert (await registry.get_sample("x2")).feedback is None
    with pytest.raises(Refused):
        await registry.add_feedback(vote(score=2.0))


async def test_outcomes_are_counted_once_per_batch(registry: Registry) -> None:
    await domain_with_versions(registry)
    batch = [outcome(i, error=i == 0, negative=i < 2, version=None if i == 9 else 1) for i in range(10)]
    await registry.record([], batch)
    await registry.record([], batch)
    totals = await registry.outcome_totals("support")
    assert [(t.version, t.n, t.errors, t.negatives) for t in totals] == [(None, 1, 0, 0), (1, 9, 1, 2)]
    assert (totals[1].prompt_tokens, totals[1].answer_tokens) == (90, 45)
    assert totals[1].latency == pytest.approx(4.5) and totals[1].cost == pytest.approx(0.009)
    assert await registry.outcomes("support") == batch
    assert await registry.outcomes("support", version=1, limit=3) == batch[6:9]
    assert await registry.outcomes("support", since=NOW + 8) == batch[8:]
    assert len(await registry.unit_scores("support", version=1)) == 9


async def test_a_canary_has_sums_of_its_own_per_experiment(registry: Registry) -> None:
    await domain_with_versions(registry)
    first = await registry.canary("support", 2, 0.1, actor="a", why="")
    await registry.record([sample(1, arm="canary", version=2)], [outcome(1, arm="canary", version=2)])
    await registry.set_score("x1", 1.0, "judge")
    await registry.abort("support", actor="a", why="")
    second = await registry.canary("support", 2, 0.1, actor="a", why="")
    await registry.record([], [outcome(2, arm="canary", version=2), outcome(3, arm="control")])
    [one] = await registry.unit_scores("support", experiment=first.experiment)
    assert (one.unit, one.n, one.scored, one.experiment) == ("u1", 1, 1, first.experiment)
    both = await registry.unit_scores("support", experiment=second.experiment)
    assert sorted((t.unit, t.arm) for t in both) == [("u2", "canary"), ("u3", "control")]
    assert [t.unit for t in await registry.unit_scores("support", arm="control")] == ["u3"]


async def test_streams_and_units_are_capped(connect: Connect, url: str) -> None:
    registry = await connect(url, retention=RetentionSettings(outcomes=100, units_per_arm=50))
    await domain_with_versions(registry)
    for start in range(0, 2000, 500):
        await registry.record([], [outcome(i) for i in range(start, start + 500)])
    redis, keys = registry.connection, registry.connection.keys
    assert await redis.command("XLEN", keys.outcomes("support")) <= 300
    sums = await registry.unit_scores("support")
    assert sum(t.n for t in sums) == 2000
    assert len([t for t in sums if t.unit]) == 50
    assert next(t.n for t in sums if not t.unit) == 1950
    assert await redis.command("TTL", keys.outcomes("support")) > 0


async def test_invented_task_names_do_not_fill_the_memory(connect: Connect, url: str) -> None:
    registry = await connect(url, retention=RetentionSettings(tasks=3))
    await domain_with_versions(registry)
    for i in range(6):
        await registry.record_samples([sample(i, task=f"t{i}"), sample(f"again{i}", task="t0")])
    assert sorted(await registry.task_names("support")) == ["t0", "t1", "t2"]
    assert len(await registry.samples("support")) == 9


async def test_usage_adds_up_over_the_fleet(registry: Registry) -> None:
    first = await registry.add_usage({"k1": {"requests": 3, "tokens": 900}, "k2": {"usd": 0.25}}, "minute-1", 60)
    second = await registry.add_usage({"k1": {"requests": 1}}, "minute-1", 60)
    assert first == {"k1": {"requests": 3, "tokens": 900}, "k2": {"usd": 0.25}}
    assert second == {"k1": {"requests": 4, "tokens": 900}}
    assert await registry.connection.command("TTL", registry.connection.keys.usage("k1", "minute-1")) > 0


async def test_erasing_removes_what_a_caller_left_and_names_what_was_learned(registry: Registry) -> None:
    await domain_with_versions(registry)
    await registry.put_domain(Domain(name="other", parent=None), actor="a")
    await registry.record(
        [
            sample(1, unit="eve"),
            sample(2, unit="bob"),
            sample(3, unit="eve", key="k2"),
            sample(4, unit="eve", domain="other"),
        ],
        [outcome(1, unit="eve"), outcome(2, unit="bob")],
    )
    await registry.add_feedback(Feedback(exchange="gone", domain="support", key="k1", unit="eve", at=NOW, score=0.0))
    held = await registry.put_dataset(
        Dataset(
            hash="",
            domain="support",
            task="triage",
            created_at=NOW,
            examples=(Example(id="e1", question="q", origin="x1", unit="eve", key="k1"),),
        )
    )
    clean = await registry.put_dataset(
        Dataset(
            hash="",
            domain="support",
            task="triage",
            created_at=NOW,
            examples=(Example(id="e2", question="q", unit="bob"),),
        )
    )
    learned = await registry.add_version("support", "Learned.", lineage=Lineage(datasets=(held, clean)))
    child = await registry.add_version("support", "Rewritten.", lineage=Lineage(parent=learned.number))
    await registry.add_version("support", "Another.", lineage=Lineage(datasets=(clean,), parent=1))
    elsewhere = await registry.add_version("other", "Generalized.", lineage=Lineage(datasets=(held,)))
    report = await registry.erase("k1", "eve")
    assert (report.samples, report.outcomes, report.votes) == (2, 1, 1)
    assert report.datasets == (held,)
    # Derived is also what was rewritten from it, and what another domain learned from the dataset.
    assert report.versions == (
        ("other", elsewhere.number),
        ("support", learned.number),
        ("support", child.number),
    )
    assert sorted(s.id for s in await registry.samples("support")) == ["x2", "x3"]
    assert await registry.samples("other") == []
    with pytest.raises(NotFound):
        await registry.get_dataset(held)
    assert (await registry.get_dataset(clean)).hash == clean
    assert {t.unit for t in await registry.unit_scores("support")} == {"bob"}
    audit = (await registry.fleet_history(1))[0]
    assert audit.kind == "erase" and "eve" not in repr(audit)
    again = await registry.erase("k1", "eve")
    assert (again.samples, again.outcomes, again.datasets) == (0, 0, ())
    # By key alone: all of an app.
    assert (await registry.erase("k2", None)).samples == 1
    with pytest.raises(Refused):
        await registry.erase(None, None)


async def test_a_deleted_domain_leaves_no_traffic_behind(registry: Registry) -> None:
    await domain_with_versions(registry)
    await registry.record([sample(1)], [outcome(1)])
    await registry.put_dataset(Dataset(hash="", domain="support", task="t", created_at=NOW))
    await registry.delete_domain("support", "anna", "gone")
    prefix = registry.connection.keys.prefix
    left = [key.decode() for key in await registry.connection.scan(f"{prefix}:*") if b"{support}" in key]
    assert sorted(key.split(":")[1] for key in left) and all(":c:" in key for key in left)


async def test_unreadable_samples_are_left_out_and_counted(registry: Registry) -> None:
    await domain_with_versions(registry)
    await registry.record_samples([sample(1), sample(2), sample(3)])
    keys = registry.connection.keys
    await registry.connection.command("SET", keys.sample("support", "x1"), b'{"id":"x1","do')
    await registry.connection.command(
        "SET", keys.sample("support", "x2"), b'{"id":"x9","domain":"support","task":"t","at":1,"key":"","unit":""}'
    )
    assert [s.id for s in await registry.samples("support")] == ["x3"]
    assert registry.refused["sample"] == 2
