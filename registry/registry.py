"""The registry: one object through which gateway and jobs read and write everything that is kept.

It is the stores of all nouns in one (each in a file of its own, each over the same connection)::

    AuditStore -> DomainStore -> VersionStore -> DeploymentStore -> KeyStore   what exists, what is live
    SampleStore, OutcomeStore                                                  what happened
    DatasetStore, RunStore, LeaseStore, TriggerStore, ApprovalStore            what is worked on
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Self

from msgspec.structs import replace

from registry import snapshot as snapshots
from registry.approvals import ApprovalStore
from registry.connection import Connection
from registry.datasets import DatasetStore
from registry.digests import hash_key
from registry.errors import RegistryError
from registry.keyring import KeyStore
from registry.leases import LeaseStore
from registry.migrations import migrate
from registry.outcomes import OutcomeStore
from registry.records import Domain, KeyRecord, Lineage, Snapshot
from registry.redis_keys import PREFIX
from registry.runs import RunStore
from registry.settings import RetentionSettings, Settings
from registry.signing import Signer
from registry.store import random_id
from registry.triggers import TriggerStore
from registry.watcher import CHECK_WITHIN, SnapshotWatcher

if TYPE_CHECKING:
    from registry.rotation import Rotation


class Registry(KeyStore, OutcomeStore, DatasetStore, RunStore, LeaseStore, TriggerStore, ApprovalStore):
    """Made by ``connect``. Raises only RegistryError and its children."""

    @classmethod
    async def connect(
        cls,
        url: str,
        *,
        clock: Callable[[], float] = time.time,
        signer: Signer | None = None,
        ids: Callable[[], str] | None = None,
        prefix: str = PREFIX,
        retention: RetentionSettings | None = None,
        confirm_replicas: int = 0,
        migrated: bool = True,
    ) -> Self:
        """Connect to Redis, Valkey, Sentinel or Cluster by address.

        ``signer``: without one, versions are stored unsigned and a gateway that verifies will not serve them.
        ``confirm_replicas``: replicas that must hold a write before it counts. ``migrated``: bring the stored schema up
        to date first (a data-plane user may not; it passes False). Raises RegistryUnavailable, Refused.
        """
        connection = await Connection.open(url, prefix=prefix, confirm_replicas=confirm_replicas)
        registry = cls(connection, clock=clock, ids=ids or random_id, signer=signer, retention=retention)
        if migrated:
            try:
                await migrate(connection)
            except BaseException:
                await connection.close()
                raise
        return registry

    @classmethod
    async def from_settings(
        cls,
        settings: Settings,
        url: str | None = None,
        *,
        signer: Signer | None = None,
        clock: Callable[[], float] = time.time,
        migrated: bool = True,
    ) -> Self:
        """Connect as the settings say; ``url`` stands for ``redis_url`` (an embedded server's address)."""
        return await cls.connect(
            url or settings.redis_url or "",
            signer=signer,
            prefix=settings.redis_prefix,
            retention=settings.retention,
            confirm_replicas=settings.confirm_replicas,
            clock=clock,
            migrated=migrated,
        )

    async def close(self) -> None:
        """Close every connection."""
        await self._redis.close()

    async def ping(self) -> bool:
        """True when Redis answers in time."""
        try:
            return bool(await self._redis.command("PING"))
        except RegistryError:
            return False

    @property
    def connection(self) -> Connection:
        """The connection, for those who look after the registry itself (backup, checks)."""
        return self._redis

    async def migrate(self) -> int:
        """Bring the stored schema up to date; returns its number."""
        return await migrate(self._redis)

    # --- the file wins --------------------------------------------------------------------------------------------

    async def sync_settings(self, settings: Settings) -> None:
        """Write the domains and keys of the config file; version 1 where a domain of the file has none.

        A domain that the file no longer names becomes editable again; a key that it no longer names is revoked.
        """
        actor = "config file"
        named = {record.name: record for record in settings.domain_records()}
        for name in _parents_first(named):
            said = _with_adapted(named[name], await self._domain_or_none(name))
            await self.put_domain(said, actor=actor, why="the config file says so")
            prompt = settings.domains[name].system_prompt
            if prompt and not await self._redis.command("HLEN", self._keys.versions(name)):
                version = await self.add_version(
                    name, prompt, lineage=Lineage(author=actor, why="system_prompt of the config file")
                )
                await self.promote(name, version.number, actor=actor, why="first version")
        for domain in await self.list_domains():
            if domain.read_only and domain.name not in named:
                freed = replace(domain, read_only=False)
                await self.put_domain(freed, actor=actor, why="the config file no longer names it")
        wanted = {}
        for key in settings.keys:
            if key.key:
                digest = hash_key(key.key)
                wanted[digest] = KeyRecord(
                    id="k" + digest[7:19],
                    name=key.name,
                    role=key.role,
                    hash=digest,
                    domain=key.domain,
                    created_at=self._clock(),
                    requests_per_minute=key.requests_per_minute,
                    tokens_per_minute=key.tokens_per_minute,
                    parallel=key.parallel,
                    usd_per_day=key.usd_per_day,
                    both_planes=key.both_planes,
                    from_file=True,
                )
        for record in wanted.values():
            await self.put_key(record, actor=actor, why="the config file says so")
        unresolved = {key.name for key in settings.keys if not key.key}  # this process does not know their secrets
        for record in await self.list_keys():
            gone = record.hash not in wanted and record.name not in unresolved
            if gone and record.from_file and record.revoked_at is None:
                await self.revoke_key(record.id, actor, "the config file no longer names it")

    # --- what gateways serve from ---------------------------------------------------------------------------------

    async def snapshot(self) -> Snapshot:
        """Everything a gateway serves from, at one instant. Unreadable values are left out and counted."""
        raw = await snapshots.fetch_all(self._redis)
        return snapshots.assemble(raw, self._clock(), None, lambda what, _: self._refuse(what))

    def watcher(
        self,
        cache_file: Path | None,
        verify_key: bytes | None,
        on_snapshot: Callable[[Snapshot], None],
    ) -> SnapshotWatcher:
        """Keeps a copy fresh; has a connection of its own, so it outlives this registry and can start before Redis."""
        return watch(
            self._redis.url,
            cache_file,
            verify_key,
            on_snapshot,
            prefix=self._keys.prefix,
            clock=self._clock,
        )

    async def rotate_signing_key(self, old_public: bytes, new: Signer, *, actor: str, why: str = "") -> Rotation:
        """Sign again, with ``new``, all that ``old_public`` verifies. Raises Refused (not the key of this registry)."""
        from registry.rotation import rotate

        return await rotate(self, old_public, new, actor=actor, why=why)

    # --- moving house ---------------------------------------------------------------------------------------------

    async def backup(self, path: Path, *, told: Callable[[int, int], None] | None = None) -> int:
        """Everything as one checksummed file, from the live registry; returns the number of values. ``told`` hears how
        many are done, of how many."""
        from registry.backup import backup, tell_nobody

        return await backup(self._redis, path, clock=self._clock, told=told or tell_nobody)

    async def restore(
        self, path: Path, *, overwrite: bool = False, told: Callable[[int, int], None] | None = None
    ) -> int:
        """Everything from a backup. Raises Refused when something is here already (unless ``overwrite``), Corrupt."""
        from registry.backup import restore, tell_nobody

        return await restore(self._redis, path, overwrite=overwrite, clock=self._clock, told=told or tell_nobody)


def watch(
    url: str,
    cache_file: Path | None,
    verify_key: bytes | None,
    on_snapshot: Callable[[Snapshot], None],
    *,
    prefix: str = PREFIX,
    clock: Callable[[], float] = time.time,
) -> SnapshotWatcher:
    """A watcher without a registry: for a gateway that must start even when Redis is down."""

    async def connect() -> Connection:
        return await Connection.open(url, prefix=prefix, answer_timeout=CHECK_WITHIN, reads_only=True)

    return SnapshotWatcher(connect, cache_file, verify_key, on_snapshot, clock=clock)


def _with_adapted(said: Domain, known: Domain | None) -> Domain:
    """A domain of the file with the user prompts that were adapted meanwhile: the file wins where it names one, and
    what was adapted to another template or judge than the file's is dropped.
    """
    if known is None:
        return said
    tasks = dict(said.tasks)
    for name, task in said.tasks.items():
        old = known.tasks.get(name)
        if task.adapted_prompt is None and old and (old.user_prompt, old.judge) == (task.user_prompt, task.judge):
            tasks[name] = replace(task, adapted_prompt=old.adapted_prompt)
    return replace(said, tasks=tasks)


def _parents_first(named: dict[str, Domain]) -> list[str]:
    order: list[str] = []

    def visit(name: str) -> None:
        if name in named and name not in order:
            parent = named[name].parent
            if parent is not None and parent != name and parent not in visiting:
                visiting.add(parent)
                visit(parent)
            order.append(name)

    visiting: set[str] = set()
    for name in named:
        visit(name)
    return order
