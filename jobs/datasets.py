"""Job ``curate``: the samples of a domain, made into tasks and frozen. Also the first step of every search."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence

import msgspec

from jobs import grouping
from jobs.curate import OTHER, Curation, Sizes, curate, freeze, spent_clusters, without_task
from jobs.errors import NoWork
from jobs.items import Split
from jobs.work import Work
from registry import GLOBAL, Dataset, Domain, NotFound, Registry, Sample

log = logging.getLogger("metaspo.jobs.datasets")

MOST_SAMPLES = 20_000


async def run(work: Work) -> str:
    """Make and store the datasets of one domain. Raises NoWork when there is nothing to make them of."""
    domain = await work.domain()
    found = await prepare(work, domain, look=True)
    if not found.tasks:
        raise NoWork("no_samples", f"No sample of {domain.name!r} can become an example{_why(found)}.")
    stored = await store(work, domain, found)
    rows = sum(len(d.examples) for d in stored)
    return f"{len(found.tasks)} tasks, {rows} examples in {len(stored)} datasets from {found.samples} samples"


async def prepare(work: Work, domain: Domain, sizes: Sizes | None = None, *, look: bool = False) -> Curation:
    """Curate the domain's samples; what earlier runs confirmed on is not confirmed on again. ``look``: for new groups
    of like messages, too."""
    samples = await work.registry.samples(domain.name, limit=MOST_SAMPLES)
    spent = spent_clusters(await holdouts_used(work.registry, domain.name))
    groups, notes = await grouped(work, domain, samples, look=look)
    found = await asyncio.to_thread(curate, domain, samples, spent=spent, sizes=sizes, groups=groups)
    found = msgspec.structs.replace(found, notes=notes)
    for reason, count in found.all_dropped().items():
        work.metrics.left_out.labels(domain.name, reason).inc(count)
    return found


async def grouped(
    work: Work, domain: Domain, samples: Sequence[Sample], *, look: bool = False
) -> tuple[dict[str, str], dict[str, str]]:
    """(sample id -> group of those that show no task, why there are none): both empty where grouping is off. What goes
    wrong here only leaves these samples without a task."""
    if not work.settings.jobs.embedding_model:
        return {}, {}
    waiting = await asyncio.to_thread(without_task, domain, samples)
    if not waiting:
        return {}, {}
    try:
        return await grouping.names(work, domain, waiting, look=look), {}
    except NoWork as reason:
        log.warning("Samples of %s without a task stay so: %s", domain.name, reason)
        work.metrics.refused.labels(domain.name, reason.cause).inc()
        return {}, {OTHER: str(reason)}


async def store(work: Work, domain: Domain, found: Curation) -> list[Dataset]:
    """Write every dataset; one that exists already is the same by its name."""
    stored = [d for task in found.tasks for d in freeze(domain.name, task, work.clock()).values()]
    for dataset in stored:
        await work.registry.put_dataset(dataset)
    return stored


async def holdouts_used(registry: Registry, domain: str) -> list[Dataset]:
    """The holdouts that a gate has looked at: those of runs with a gate table, of this domain and of ``global``, which
    learns from all."""
    runs = [run for name in {domain, GLOBAL} for run in await registry.list_runs(name, limit=500)]
    hashes = {h for run in runs if run.gate is not None for h in run.datasets}
    return [
        d for d in [await fetch(registry, h) for h in sorted(hashes)] if d is not None and d.source == "traffic:holdout"
    ]


async def fetch(registry: Registry, dataset_hash: str) -> Dataset | None:
    """A dataset, or None when retention or an erasure removed it."""
    try:
        return await registry.get_dataset(dataset_hash)
    except NotFound:
        return None


async def load(registry: Registry, hashes: dict[Split, str]) -> dict[Split, Dataset]:
    """The datasets of one task by split. Raises NoWork when one is gone."""
    found: dict[Split, Dataset] = {}
    for split, name in hashes.items():
        dataset = await fetch(registry, name)
        if dataset is None:
            raise NoWork("dataset_gone", f"The dataset {name[:19]}... of this run was removed; ask for a new run.")
        found[split] = dataset
    return found


def _why(found: Curation) -> str:
    reasons: Iterable[str] = (f"{n} {reason}" for reason, n in found.all_dropped().items())
    listed = ", ".join([*reasons, *found.notes.values()])
    return f" ({found.samples} samples; left out: {listed})" if listed else f" ({found.samples} samples)"
