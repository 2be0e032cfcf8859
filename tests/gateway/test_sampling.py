"""What is kept: a share, capped, spread over tasks; what never happens: waiting, raising, storing a person's data."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from control_house import NOW, Clock
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.exchange import Exchange, Target, Usage
from gateway.limits import exchange_cost
from gateway.prices import Price, Prices
from gateway.quotas import MOST_TASKS, HourlyRoom, drawn
from gateway.sampling import MAX_QUEUED_BYTES, OUTCOMES_PER_SECOND, Sampler
from registry import (
    Deployment,
    Domain,
    DomainView,
    JudgeSpec,
    KeyRecord,
    Outcome,
    Refused,
    Registry,
    RegistryUnavailable,
    Sample,
    SamplePolicy,
    Snapshot,
    Task,
    unit_digest,
)

PRICES = Prices({"gpt-x": Price(1.0, 10.0)})
OWNER = KeyRecord(id="k1", name="app", role="caller", hash="")


class Counts:
    """What the sampler reported."""

    def __init__(self) -> None:
        self.samples: Counter[tuple[str, bool]] = Counter()
        self.drops: Counter[str] = Counter()

    def sample(self, domain: str, *, kept: bool) -> None:
        self.samples[domain, kept] += 1

    def dropped(self, reason: str) -> None:
        self.drops[reason] += 1


class Shelf:
    """Where samples go; may be out of order."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self.outcomes: list[Outcome] = []
        self.down = False
        self.calls = 0

    async def __call__(self, samples: Sequence[Sample], outcomes: Sequence[Outcome]) -> None:
        self.calls += 1
        if self.down:
            raise RegistryUnavailable("down")
        self.samples += samples
        self.outcomes += outcomes


def view(**more: Any) -> DomainView:
    domain = Domain(name="support", sample=SamplePolicy(share=1.0, per_hour=1000), **more)
    return DomainView(domain=domain, deployment=Deployment(domain="support"))


def sampler(
    shelf: Any, counts: Counts, clock: Clock | None = None, policy: SamplePolicy | None = None, **more: Any
) -> Sampler:
    made = Sampler(shelf, counts, PRICES, clock=clock or Clock(), **more)
    known = view(tasks={"label": Task(judge=JudgeSpec(kind="choice", labels=("yes", "no")))})
    if policy is not None:
        known = msgspec.structs.replace(known, domain=msgspec.structs.replace(known.domain, sample=policy))
    made.load(Snapshot(epoch=1, taken_at=NOW, domains={"support": known}))
    return made


def exchange(number: int, question: str = "hi", answer: str = "yes", **more: Any) -> Exchange:
    made = Exchange(f"x{number}", "chat", NOW + number, 0.0)
    made.key, made.domain, made.served_domain = OWNER, "support", "support"
    made.arm, made.version, made.unit, made.status = "stable", 1, f"unit-{number}", 200
    made.answered_by, made.usage, made.model = "upstream", Usage(10, 2), "gpt-x"
    made.target = Target("up", "openai", "gpt-x")
    made.request = json.dumps({"messages": [{"role": "user", "content": question}]}).encode()
    body = {"choices": [{"index": 0, "message": {"content": answer}, "finish_reason": "stop"}]}
    made.reply = [json.dumps(body).encode()]
    made.reply_size = len(made.reply[0])
    for name, value in more.items():
        setattr(made, name, value)
    return made


async def written(box: Sampler, *exchanges: Exchange) -> None:
    box.start()
    for one in exchanges:
        box.offer(one)
    await box.drain(5.0)
    await box.stop()


async def test_an_exchange_becomes_a_scrubbed_sample_and_an_outcome() -> None:
    shelf, counts = Shelf(), Counts()
    one = exchange(
        1, "I am ann@example.com, my card is 4111 1111 1111 1111", "Hello ann@example.com", unit="ann@example.com"
    )
    one.received_at, one.ended_at, one.task = 10.0, 10.5, "label"
    await written(sampler(shelf, counts), one)
    (sample,), (outcome,) = shelf.samples, shelf.outcomes
    assert sample.messages[0].content == "I am <EMAIL_1>, my card is <CARD_1>"
    assert sample.answer == "Hello <EMAIL_1>"
    assert sample.unit == outcome.unit == unit_digest("ann@example.com")
    assert (sample.id, sample.task, sample.version, sample.finish, sample.latency) == ("x1", "label", 1, "stop", 0.5)
    assert (outcome.exchange, outcome.error, outcome.bad_format, outcome.prompt_tokens) == ("x1", False, True, 10)
    assert outcome.cost == pytest.approx(exchange_cost(one, PRICES))
    assert b"ann" not in msgspec.json.encode([sample, outcome])
    assert counts.samples == {("support", True): 1}


async def test_what_is_never_kept() -> None:
    shelf, counts = Shelf(), Counts()
    await written(
        sampler(shelf, counts),
        exchange(1, sample_off=True),
        exchange(2, ending="cut"),
        exchange(3, status=500),
        exchange(4, status=429),
        exchange(5, dialect="embeddings"),
        exchange(6, answered_by="gateway"),
        exchange(7, ending="caller_gone"),
        exchange(8, domain="nowhere"),
        exchange(9, request=b"x" * 2_000_000),
        exchange(10, reply_size=10_000_000),
        exchange(11, reply=[b"<html>"], reply_size=6),
    )
    assert shelf.samples == []
    assert {o.exchange: o.error for o in shelf.outcomes} == {
        "x1": False, "x2": True, "x3": True, "x4": False, "x9": False, "x10": False, "x11": False,
    }  # fmt: skip
    assert counts.drops == {"too_long": 2, "unreadable": 1}


async def test_names_that_callers_make_up_are_bounded_and_scrubbed() -> None:
    shelf = Shelf()
    names = ["label", "mail bob@example.com", "x" * 5000, "a\nb", *(f"t{number}" for number in range(100))]
    await written(sampler(shelf, Counts()), *(exchange(n, task=name, model="m" * 999) for n, name in enumerate(names)))
    tasks = [sample.task for sample in shelf.samples]
    assert tasks[:4] == ["label", "mail <EMAIL_1>", "x" * 128, "ab"]
    assert len(set(tasks)) == MOST_TASKS + 1
    assert tasks[-1] == "other"


async def test_a_parents_version_is_the_parents_outcome() -> None:
    shelf = Shelf()
    await written(sampler(shelf, Counts()), exchange(1, served_domain="global"))
    assert (shelf.samples[0].domain, shelf.samples[0].version) == ("support", None)
    assert (shelf.outcomes[0].domain, shelf.outcomes[0].version) == ("global", 1)


async def test_an_sdks_retry_is_one_sample() -> None:
    shelf = Shelf()
    await written(sampler(shelf, Counts()), *(exchange(n, idempotency_key=b"same") for n in range(3)))
    assert len(shelf.samples) == len(shelf.outcomes) == 1
    failed_first = [exchange(1, idempotency_key=b"other", status=500), exchange(2, idempotency_key=b"other")]
    await written(sampler(shelf, Counts()), *failed_first)
    assert len(shelf.samples) == 2
    assert [outcome.error for outcome in shelf.outcomes] == [False, True, False]


async def test_an_sdk_that_counts_its_retries_is_known_by_the_body() -> None:
    shelf = Shelf()
    await written(
        sampler(shelf, Counts()),
        exchange(1),
        exchange(2, retry=True),  # the answer to the first was lost on its way
        exchange(3),  # somebody asks the same: no retry
        exchange(4, "another question", retry=True),  # a retry of what failed
    )
    assert [sample.id for sample in shelf.samples] == ["x1", "x3", "x4"]


async def test_compared_arms_are_read_also_when_not_kept() -> None:
    shelf = Shelf()
    box = sampler(shelf, Counts(), policy=SamplePolicy(share=0.0))
    refusal = "I'm sorry, but I can't do that."
    await written(box, exchange(1, answer=refusal, arm="canary"), exchange(2, answer=refusal, arm="stable"))
    assert shelf.samples == []
    assert [(outcome.arm, outcome.refusal) for outcome in shelf.outcomes] == [("canary", True), ("stable", False)]


async def test_a_full_queue_drops_counts_and_never_waits() -> None:
    shelf, counts = Shelf(), Counts()
    box = sampler(shelf, counts, queue=10)
    for number in range(30):
        box.offer(exchange(number))
    assert counts.drops == {"queue_full": 20}
    await written(box)
    assert len(shelf.samples) == 10


async def test_the_queue_is_bounded_in_bytes() -> None:
    counts = Counts()
    box = sampler(Shelf(), counts, Clock(), per_unit=1000)
    large = exchange(0).request[:-3] + b" " * 900_000 + b'"}]}'
    for number in range(MAX_QUEUED_BYTES // 900_000 + 5):
        box.offer(exchange(number, request=large))
    assert counts.drops["queue_bytes"] >= 4


async def test_a_registry_that_is_down_delays_and_then_gets_everything() -> None:
    shelf = Shelf()
    shelf.down = True
    box = sampler(shelf, Counts())
    box.start()
    for number in range(5):
        box.offer(exchange(number))
    while not shelf.calls:
        await asyncio.sleep(0.01)
    shelf.down = False
    await box.drain(5.0)
    assert len(shelf.samples) == len(shelf.outcomes) == 5
    await box.stop()


async def test_what_the_registry_refuses_does_not_block_what_comes_after() -> None:
    shelf, counts = Shelf(), Counts()
    refused = []

    async def write(samples: Sequence[Sample], outcomes: Sequence[Outcome]) -> None:
        if any(sample.id == "x1" for sample in samples):
            refused.append(samples)
            raise Refused("never")
        await shelf(samples, outcomes)

    box = sampler(write, counts)
    await written(box, exchange(1))
    await written(box, exchange(2))
    assert (len(refused), [sample.id for sample in shelf.samples]) == (1, ["x2"])
    assert counts.drops == {"refused": 1}


async def test_a_fault_in_one_exchange_costs_that_one() -> None:
    def broken(text: str) -> list[Any]:
        if text == "boom":
            raise ZeroDivisionError
        return []

    shelf, counts = Shelf(), Counts()
    await written(sampler(shelf, counts, detectors=[broken]), exchange(1, "boom"), exchange(2))
    assert [sample.id for sample in shelf.samples] == ["x2"]
    assert counts.drops == {"fault": 1}


async def test_stopping_with_a_registry_that_is_down_ends() -> None:
    shelf, counts = Shelf(), Counts()
    shelf.down = True
    box = sampler(shelf, counts)
    box.start()
    box.offer(exchange(1))
    await asyncio.sleep(0)
    await box.stop(deadline=0.6)
    assert shelf.samples == []
    assert counts.drops["shutdown"] == 1


async def test_outcomes_are_bounded_per_second_and_arm() -> None:
    counts = Counts()
    box = sampler(Shelf(), counts, policy=SamplePolicy(share=0.0))
    for number in range(OUTCOMES_PER_SECOND + 50):
        box.offer(exchange(number))
    box.offer(exchange(-1, arm="canary"))
    assert counts.drops == {"outcome_rate": 50}


async def test_samples_reach_the_real_registry_and_meet_their_feedback(registry: Registry) -> None:
    await registry.put_domain(Domain(name="support"), actor="test")
    await written(sampler(registry.record, Counts()), *(exchange(number) for number in range(7)))
    assert len(await registry.samples("support")) == 7
    (tally,) = await registry.outcome_totals("support")
    assert (tally.version, tally.arm, tally.n, tally.prompt_tokens) == (1, "stable", 7, 70)


async def test_the_hourly_cap_holds_for_the_fleet(registry: Registry) -> None:
    policy, clock = SamplePolicy(share=1.0, per_hour=20), Clock()
    shelves = [Shelf(), Shelf()]
    one, two = (sampler(shelf, Counts(), clock, policy, ledger=registry.add_usage) for shelf in shelves)
    number = 0
    for _ in range(10):
        for box in (one, two):
            for _ in range(3):
                number += 1
                box.offer(exchange(number))
            await box.reconcile()
    await written(one)
    await written(two)
    kept = [len(shelf.samples) for shelf in shelves]
    assert 20 <= sum(kept) <= 23  # what one took before it heard of the other's last
    clock.now += 3600
    await written(two, exchange(9999))
    assert len(shelves[1].samples) == kept[1] + 1


# --- quotas -----------------------------------------------------------------------------------------------------------

POLICY = SamplePolicy(share=1.0, per_hour=100)


def take(room: HourlyRoom, task: str = "t", key: str = "k", unit: str = "", into: float = 0.0) -> bool:
    return room.take(POLICY, task, key, unit or f"u{room.total}", into=into, per_unit=5, key_share=0.5)


def test_a_loud_task_leaves_room_for_a_rare_one() -> None:
    room = HourlyRoom(0)
    assert take(room, "rare")
    loud = sum(take(room, "loud") for _ in range(500))
    assert loud == 50
    assert sum(take(room, "rare") for _ in range(500)) == 49
    late = HourlyRoom(0)
    take(late, "rare")
    assert sum(take(late, "loud", into=0.8) for _ in range(500)) == 79


def test_one_key_takes_half_when_there_are_two_and_all_when_it_is_alone() -> None:
    alone = HourlyRoom(0)
    assert sum(take(alone) for _ in range(500)) == 100
    shared = HourlyRoom(0)
    take(shared, key="small")
    assert sum(take(shared, key="loud") for _ in range(500)) == 50
    assert sum(take(shared, key="small") for _ in range(500)) == 49


def test_one_unit_is_capped() -> None:
    room = HourlyRoom(0)
    assert sum(take(room, unit="one") for _ in range(50)) == 5


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("kl"), st.floats(0, 1)), max_size=300))
@settings(max_examples=50, deadline=None)
def test_the_hours_cap_is_never_passed(asked: list[tuple[str, str, float]]) -> None:
    room = HourlyRoom(0)
    assert sum(take(room, task, key, into=into) for task, key, into in asked) <= POLICY.per_hour


def test_the_draw_is_a_function_of_the_id_and_fair() -> None:
    names = [f"x{number}" for number in range(20_000)]
    kept = {name for name in names if drawn(name, 0.05)}
    assert kept == {name for name in names if drawn(name, 0.05)}
    assert 850 < len(kept) < 1150
    assert kept <= {name for name in names if drawn(name, 0.2)}
    assert not any(drawn(name, 0.0) for name in names)
    assert all(drawn(name, 1.0) for name in names)


async def test_a_person_is_erased_by_the_name_that_the_caller_used(registry: Registry) -> None:
    await registry.put_domain(Domain(name="support"), actor="test")
    box = sampler(registry.record, Counts())
    await written(box, exchange(1, unit="ann@example.com"), exchange(2, unit="bob@example.com"))
    report = await registry.erase(None, "ann@example.com")
    assert (report.samples, report.outcomes) == (1, 1)
    assert [sample.id for sample in await registry.samples("support")] == ["x2"]
