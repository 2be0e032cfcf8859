"""Datasets: frozen sets of examples, named by their content."""

from __future__ import annotations

import hashlib

from msgspec.structs import replace

from registry.errors import Corrupt, NotFound
from registry.records import Dataset, TaskGroups
from registry.store import DAY, Store, decode, encode, text_of


def dataset_hash(dataset: Dataset) -> str:
    """``sha256:<hex>`` of domain, task, source and examples: what the dataset is, not when it was made."""
    content = replace(dataset, hash="", created_at=0.0)
    return "sha256:" + hashlib.sha256(encode(content)).hexdigest()


class DatasetStore(Store):
    """Writes and reads datasets. Text from traffic lives ``dataset_days``; the oldest beyond the cap go first."""

    async def put_dataset(self, dataset: Dataset) -> str:
        """Store it under its content's hash, which is returned (a ``hash`` that is given is not trusted)."""
        digest = dataset_hash(dataset)
        frozen = replace(dataset, hash=digest)
        ttl = int(self._keep.dataset_days * DAY)
        index = self._keys.datasets(dataset.domain)
        oldest = self._clock() - ttl
        await self._redis.many(
            [
                ("SET", self._keys.dataset(dataset.domain, digest), encode(frozen), "EX", ttl),
                ("ZADD", index, repr(dataset.created_at), digest),
                ("ZREMRANGEBYSCORE", index, "-inf", repr(oldest)),
                ("EXPIRE", index, ttl),
            ]
        )
        spare = int(await self._redis.command("ZCARD", index)) - self._keep.datasets
        if spare > 0:
            for old in await self._redis.command("ZRANGE", index, 0, spare - 1):
                await self.delete_dataset(dataset.domain, text_of(old))
        return digest

    async def get_dataset(self, digest: str, domain: str | None = None) -> Dataset:
        """By hash; naming the domain saves a search. Raises NotFound, Corrupt (the content does not match the hash)."""
        names = (
            [domain]
            if domain
            else sorted(text_of(n) for n in await self._redis.command("SMEMBERS", self._keys.domains))
        )
        for raw in await self._redis.many([("GET", self._keys.dataset(name, digest)) for name in names]):
            if raw is not None:
                dataset = decode(Dataset, raw, f"The dataset {digest}")
                if dataset_hash(dataset) != digest:
                    raise Corrupt(f"The dataset {digest} is not what was written: its content does not match its hash.")
                return dataset
        raise NotFound(f"There is no dataset {digest}: it has expired, was erased, or never was.")

    async def list_datasets(self, domain: str) -> list[Dataset]:
        """All of a domain, newest first, without their examples."""
        hashes = [text_of(h) for h in await self._redis.command("ZREVRANGE", self._keys.datasets(domain), 0, -1)]
        found = []
        for digest in hashes:  # one at a time: a dataset may be megabytes
            place = self._keys.dataset(domain, digest)
            [raw] = await self._redis.many([("GET", place)], wrong_type=b"foreign")
            if raw is None:
                continue
            try:
                found.append(replace(decode(Dataset, raw, f"The dataset {digest}"), examples=()))
            except Corrupt:
                self._refuse("dataset")
        return found

    async def task_groups(self, domain: str) -> TaskGroups | None:
        """The groups of like messages that were found in a domain's traffic. Raises Corrupt."""
        raw = await self._redis.command("GET", self._keys.groups(domain))
        return decode(TaskGroups, raw, f"The groups of {domain}") if raw is not None else None

    async def put_task_groups(self, groups: TaskGroups) -> None:
        """Keep them as long as datasets live without being made anew."""
        ttl = int(self._keep.dataset_days * DAY)
        await self._redis.command("SET", self._keys.groups(groups.domain), encode(groups), "EX", ttl)

    async def delete_dataset(self, domain: str, digest: str) -> bool:
        """Remove it; False when it was gone already."""
        gone, _ = await self._redis.many(
            [("UNLINK", self._keys.dataset(domain, digest)), ("ZREM", self._keys.datasets(domain), digest)]
        )
        return bool(gone)
