"""The right to be forgotten: what a caller, or one of its users, left behind goes; what was learned from it is named.

Removed: samples, votes, single outcomes and per-unit sums, and whole datasets that hold one of the samples (a dataset
is frozen: it cannot lose a line and stay what its name says). Versions derived from such a dataset, in any domain, and
versions made from those are named in the report. They hold no traffic text (the gate's linter sees to that), and
whether to retire them is a person's decision.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from msgspec.structs import replace

from registry.digests import unit_digest
from registry.errors import Corrupt, Refused
from registry.records import Dataset, ErasureReport, Feedback, Outcome, Sample
from registry.redis_keys import FLEET
from registry.store import decode, stream_field, text_of

if TYPE_CHECKING:
    from registry.outcomes import OutcomeStore

_PAGE = 500


async def erase(store: OutcomeStore, key: str | None, unit: str | None) -> ErasureReport:
    """Erase by key (an app: all it sent), unit (one user, in all apps) or both (one user of one app). Raises Refused.

    Erasing twice is erasing once; a pass that was cut off is finished by the next.
    """
    if not key and not unit:
        raise Refused("Say whose data to erase: a key, a unit, or both.")
    redis, keys = store._redis, store._keys
    names = [text_of(name) for name in await redis.command("SMEMBERS", keys.domains)]
    total = ErasureReport()
    # A gateway stores a unit's digest, never the unit; other writers may have stored the unit itself.
    forms = [None] if unit is None else [unit, unit_digest(unit)]
    for domain, form in ((domain, form) for domain in sorted(names) for form in forms):
        samples = await _samples(store, domain, key, form)
        datasets = await _datasets(store, domain, key, form, samples)
        votes = await _votes(store, domain, key, form)
        outcomes = await _outcomes(store, domain, form)
        total = ErasureReport(
            samples=total.samples + len(samples),
            outcomes=total.outcomes + outcomes,
            votes=total.votes + votes,
            datasets=(*total.datasets, *datasets),
        )
    total = replace(total, versions=await _derived(store, set(total.datasets)))
    detail = {"samples": total.samples, "datasets": len(total.datasets), "versions": [list(v) for v in total.versions]}
    # The audit says that it was done and on whose wish; it must not keep the erased unit's name.
    await store.append_audit(FLEET, "erase", "operator", "a caller's data was erased", detail)  # type: ignore[attr-defined]
    return total


async def _derived(store: OutcomeStore, datasets: set[str]) -> tuple[tuple[str, int], ...]:
    """Versions that were learned from one of the datasets (of whatever domain), and those that were made from them."""
    if not datasets:
        return ()
    found = []
    for domain in await store.domain_names():  # type: ignore[attr-defined]
        tainted: set[int] = set()
        for version in await store.list_versions(domain):  # type: ignore[attr-defined]
            # By number, so a parent comes before what was made from it.
            if datasets & set(version.lineage.datasets) or version.lineage.parent in tainted:
                tainted.add(version.number)
                found.append((domain, version.number))
    return tuple(found)


async def _samples(store: OutcomeStore, domain: str, key: str | None, unit: str | None) -> set[str]:
    redis, keys = store._redis, store._keys
    erased: set[str] = set()
    for task in await store.task_names(domain):
        ids = [text_of(name) for name in await redis.command("ZRANGE", keys.times(domain, task), 0, -1)]
        for start in range(0, len(ids), _PAGE):
            page = ids[start : start + _PAGE]
            bodies = await redis.many([("GET", keys.sample(domain, n)) for n in page], wrong_type=b"foreign")
            for name, raw in zip(page, bodies, strict=True):
                if raw is None:
                    continue
                with contextlib.suppress(Corrupt):
                    if not _theirs(decode(Sample, raw, name), key, unit):
                        continue
                # What cannot be read is erased with the rest: nobody can say whose it is.
                erased.add(name)
                await redis.many(
                    [
                        ("DEL", keys.sample(domain, name)),
                        ("ZREM", keys.times(domain, task), name),
                        ("ZREM", keys.reservoir(domain, "representative", task), name),
                        ("ZREM", keys.reservoir(domain, "failures", task), name),
                        ("DEL", keys.vote(domain, name)),
                    ]
                )
                await redis.command("DEL", keys.locator(name))
    return erased


def _theirs(record: Sample | Feedback, key: str | None, unit: str | None) -> bool:
    return (key is None or record.key == key) and (unit is None or record.unit == unit)


async def _datasets(
    store: OutcomeStore, domain: str, key: str | None, unit: str | None, samples: set[str]
) -> list[str]:
    redis, keys = store._redis, store._keys
    gone = []
    for name in await redis.command("ZRANGE", keys.datasets(domain), 0, -1):
        digest = text_of(name)
        [raw] = await redis.many([("GET", keys.dataset(domain, digest))], wrong_type=b"foreign")
        if raw is None:
            continue
        try:
            dataset = decode(Dataset, raw, digest)
            holds = dataset.source == "traffic" and any(
                example.origin in samples
                or (
                    (key is None or example.key in ("", key))
                    and (example.unit == unit if unit is not None else example.key == key)
                )
                for example in dataset.examples
            )
        except Corrupt:
            holds = True
        if holds:
            # Replies that a search has paid for may speak of the question: a resumed search pays for them again.
            for journal in await redis.scan(keys.run_journal(domain, "*")):
                await redis.command("UNLINK", journal)
            await redis.many([("UNLINK", keys.dataset(domain, digest)), ("ZREM", keys.datasets(domain), digest)])
            gone.append(digest)
    return gone


async def _votes(store: OutcomeStore, domain: str, key: str | None, unit: str | None) -> int:
    redis, keys = store._redis, store._keys
    found = await redis.scan(keys.vote(domain, "*"))
    count = 0
    for start in range(0, len(found), _PAGE):
        page = found[start : start + _PAGE]
        bodies = await redis.many([("GET", name) for name in page], wrong_type=b"foreign")
        for name, raw in zip(page, bodies, strict=True):
            if raw is None:
                continue
            with contextlib.suppress(Corrupt):
                if not _theirs(decode(Feedback, raw, "A vote"), key, unit):
                    continue
            count += int(await redis.command("DEL", name))
    return count


async def _outcomes(store: OutcomeStore, domain: str, unit: str | None) -> int:
    """Outcomes and per-unit sums know units, not keys: they go when a unit is named."""
    if unit is None:
        return 0
    redis, keys = store._redis, store._keys
    count, start = 0, "-"
    while page := await redis.command("XRANGE", keys.outcomes(domain), start, "+", "COUNT", _PAGE):
        ids = []
        for entry_id, fields in page:
            with contextlib.suppress(Corrupt):
                if decode(Outcome, stream_field(fields, b"o"), "An outcome").unit == unit:
                    ids.append(entry_id)
        if ids:
            count += int(await redis.command("XDEL", keys.outcomes(domain), *ids))
        start = f"({page[-1][0].decode()}"
    for group in await redis.command("ZRANGE", keys.unit_groups(domain), 0, -1):
        await redis.command("HDEL", keys.units(domain, text_of(group)), unit)
    return count
