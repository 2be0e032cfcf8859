"""One worker: everything a process of the gateway holds, and what runs beside its requests.

Serving needs nothing but memory. In the beginning memory comes from the snapshot file; while there is none, from the
config file alone (its keys, no versions: requests pass unchanged). The registry is connected in the background,
again and again until it answers; from then on its watcher pushes every change within a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from msgspec.structs import replace

from gateway.allocator import give_back_free_pages
from gateway.assignment import Serving
from gateway.auth import KeyRing
from gateway.exchange import Exchange, PlainIds
from gateway.feedback import FLEET_SECRET, SignedIds
from gateway.limits import KeyLimits
from gateway.metrics import GatewayMetrics
from gateway.pipeline import Neighbours, Pipeline
from gateway.prices import Prices
from gateway.sampling import Sampler
from gateway.scrub import detectors
from gateway.settings import house_of
from gateway.wire import WireLane
from registry import (
    Deployment,
    DomainView,
    KeyRecord,
    Outcome,
    RegistryError,
    RegistryUnavailable,
    Sample,
    Settings,
    Snapshot,
    hash_key,
)

if TYPE_CHECKING:
    from gateway.translate import LiteLLMLane
    from registry import Registry, Signer, SnapshotWatcher

log = logging.getLogger("gateway")

CONNECT_EVERY = 1.0
"""Seconds between two attempts to connect to a registry that is down."""
SNAPSHOT_FILE = "snapshot.json"
SECRET_FILE = "exchange-id.secret"  # noqa: S105 - its name


class Worker:
    """One process's pipeline, its neighbours, and its connection to the registry.

    ``number`` counts the workers of one ``serve`` from 0; the first one writes what the config file says into the
    registry. ``scratch`` is a folder that they share, for metrics.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        number: int = 0,
        workers: int = 1,
        scratch: Path | None = None,
        redis_url: str | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        random: Random | None = None,
    ) -> None:
        self.settings = settings
        self.number = number
        self.redis_url = redis_url or settings.redis_url
        self.clock = clock
        self.monotonic = monotonic
        self.random = random or Random(os.urandom(16))  # noqa: S311 - ids and load balancing, not secrets
        prices = Prices()
        gateway = settings.gateway
        self.keys = KeyRing(clock)
        self.metrics = GatewayMetrics(
            scratch,
            models=[route.name for route in settings.models],
            priced=lambda *names: prices.of(*names) is not None,
        )
        self.sampler = Sampler(
            self._record,
            self.metrics,
            prices,
            clock=clock,
            queue=gateway.sample_queue,
            per_unit=gateway.sample_per_unit,
            key_share=gateway.sample_per_key_share,
            fleet=workers,
            ledger=self._add_usage,
            detectors=detectors(presidio=gateway.presidio),
        )
        self.limits = KeyLimits(
            prices, clock=clock, worker=f"{socket.gethostname()}:{os.getpid()}", ledger=self._add_usage
        )
        self.ids: SignedIds | None = None
        self.draining = False
        self.snapshot: Snapshot | None = None
        self._plain = PlainIds()
        self._registry: Registry | None = None
        self._registry_down = False
        self._synced = False
        self._file = bootstrap(settings, clock())
        self._watcher: SnapshotWatcher | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._pipeline: Pipeline | None = None
        self.metrics.registry_state = self._registry_state
        self.metrics.load_state = lambda: (self.pipeline.in_flight, self.pipeline.router.upstreams_up())

    @property
    def pipeline(self) -> Pipeline:
        """Made on first use, inside the loop that runs it."""
        if self._pipeline is None:
            neighbours = Neighbours(
                auth=self.keys,
                limits=self.limits,
                recorder=self.sampler,
                metrics=self.metrics,
                ids=self,
                translate=self._lane(),
            )
            self._pipeline = Pipeline(
                house_of(self.settings),
                neighbours,
                WireLane(asyncio.get_running_loop()),
                clock=self.clock,
                monotonic=self.monotonic,
                random=self.random,
            )
        return self._pipeline

    def issue(self, exchange: Exchange) -> bytes:
        """Signed ids once the fleet's secret is known, bare ones before."""
        return (self.ids or self._plain).issue(exchange)

    # --- life --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Serve from the file or the config at once; connect in the background."""
        self.use(self._file)
        self.snapshot = None  # not a word from the registry yet: see `ready`
        self._read_secret()
        if self.settings.gateway.otel:
            from gateway.telemetry import Traces, tracer

            self.metrics.traces = Traces(tracer()).observe
        self.metrics.start()
        self.sampler.start()
        self.limits.start()
        self._tasks.append(asyncio.create_task(give_back_free_pages(), name="memory"))
        lane = self._lane()
        if any(upstream.dialect == "litellm" for upstream in self.settings.upstreams):
            self._tasks.append(asyncio.create_task(lane.warm(), name="litellm"))  # the first request need not wait
        if self.redis_url is not None:
            await self._watch(self.redis_url)
            self._tasks.append(asyncio.create_task(self._connect_for_ever(self.redis_url), name="registry"))

    async def stop(self) -> None:
        """Write what is queued, then let go of everything."""
        await self.sampler.stop(deadline=5.0 if self._registry is not None else 0.0)
        await self.limits.stop()
        await self.metrics.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._watcher is not None:
            await self._watcher.stop()
        if self._registry is not None:
            await self._registry.close()
        self.pipeline.wire.close()

    def use(self, snapshot: Snapshot) -> None:
        """Serve from this snapshot: requests that begin from now on."""
        snapshot = with_file(snapshot, self._file)
        self.snapshot = snapshot
        self.keys.load(snapshot)
        self.sampler.load(snapshot)
        self.metrics.load(snapshot)
        self.pipeline.serving = Serving(snapshot, self.settings.gateway.cache_breakpoint, self.pipeline.serving)

    def reload(self, settings: Settings) -> None:
        """New settings for requests that begin from now on; address, workers and storage stay as they were."""
        self.settings = settings
        self.pipeline.reload(house_of(settings))
        self.pipeline.neighbours.translate = self._lane()
        self._file = bootstrap(settings, self.clock())
        known = self.snapshot
        self.use(known or self._file)
        if known is None:
            self.snapshot = None
        if self._registry is not None and self.number == 0:
            self._tasks.append(asyncio.create_task(self._sync(self._registry), name="sync"))

    def ready(self) -> tuple[bool, str]:
        """Whether requests may be sent here, and why not."""
        if self.draining:
            return False, "draining"
        waiting = self.redis_url is not None and not self._registry_down
        if waiting and self.snapshot is None:
            return False, "no snapshot yet"
        if waiting and self.number == 0 and not self._synced:
            return False, "what the config file says is not in the registry yet"
        if waiting and self.ids is None:
            return False, "exchange ids cannot be signed yet"
        return True, ""

    def snapshot_age(self) -> float | None:
        """Seconds since the registry last confirmed what is served; None when it never did."""
        age = self._watcher.age() if self._watcher is not None else float("inf")
        return None if age == float("inf") else age

    @property
    def registry_up(self) -> bool:
        """Whether the registry answered the last check."""
        return self._watcher is not None and self._watcher.up

    async def registry(self) -> Registry:
        """The connected registry. Raises RegistryUnavailable."""
        if self._registry is None:
            raise RegistryUnavailable("The registry does not answer yet: this gateway serves from its last snapshot.")
        return self._registry

    # --- inside ------------------------------------------------------------------------------------------------------

    async def _watch(self, url: str) -> None:
        from registry import load_public, watch

        home = self.settings.home.expanduser()
        public = self.settings.verify_key
        if public is None and (found := home / "signing.pub").is_file():
            public = found.read_text()
        self._watcher = watch(
            url,
            home / SNAPSHOT_FILE,
            load_public(public) if public else None,
            self.use,
            prefix=self.settings.redis_prefix,
            clock=self.clock,
        )
        await self._watcher.start(wait=0.0)

    async def _connect_for_ever(self, url: str) -> None:
        from registry import Registry

        while self._registry is None:
            try:
                # A user of the data plane can write neither schema nor domains: whoever has the control plane does.
                controls = url != self.settings.redis_url_data_plane
                registry = await Registry.from_settings(
                    self.settings, url, signer=self._signer(), clock=self.clock, migrated=controls
                )
                if self.number == 0 and controls:
                    await self._sync(registry)
                self._synced = True
                secret = await registry.secret(FLEET_SECRET)
                self.ids = self._signed_ids(secret)
                self._keep_secret(secret)
                self._registry = registry
                self._registry_down = False
            except RegistryError as error:
                if not self._registry_down:
                    log.warning("the registry does not answer: serving from the last known good (%s)", error)
                self._registry_down = True
                await asyncio.sleep(CONNECT_EVERY)

    async def _sync(self, registry: Registry) -> None:
        try:
            await registry.sync_settings(self.settings)
        except RegistryUnavailable:
            raise
        except RegistryError as error:
            log.warning("the registry refuses what the config file says: %s", error)
        self._synced = True

    def _signer(self) -> Signer | None:
        if not self.settings.gateway.control_plane:
            return None
        from registry import Signer

        try:
            return Signer.load_or_create(self.settings.signing_key_path.expanduser())
        except RegistryError as error:
            log.warning("versions added here will not be signed: %s", error)
            return None

    def _read_secret(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            secret = bytes.fromhex((self.settings.home.expanduser() / SECRET_FILE).read_text())
            self.ids = self._signed_ids(secret)

    def _keep_secret(self, secret: bytes) -> None:
        """Ids stay valid over a restart while the registry is down."""
        path = self.settings.home.expanduser() / SECRET_FILE
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                file.write(secret.hex())
            draft.replace(path)

    async def _record(self, samples: Sequence[Sample], outcomes: Sequence[Outcome]) -> None:
        await (await self.registry()).record(samples, outcomes)

    async def _add_usage(
        self, deltas: dict[str, dict[str, float]], window: str, ttl: float
    ) -> dict[str, dict[str, float]]:
        return await (await self.registry()).add_usage(deltas, window, ttl)

    def _signed_ids(self, secret: bytes) -> SignedIds:
        lifetime = self.settings.gateway.feedback_days * 86_400.0
        return SignedIds(secret, clock=self.clock, lifetime=lifetime, experiment=self._experiment)

    def _experiment(self, domain: str) -> str:
        view = self.snapshot.domains.get(domain) if self.snapshot is not None else None
        return view.deployment.experiment if view is not None else ""

    def _registry_state(self) -> tuple[float, bool, int]:
        watcher = self._watcher
        age = self.snapshot_age()
        refused = sum(watcher.refused.values()) if watcher is not None else 0
        return (age if age is not None else float("inf")), self.registry_up, refused

    def _lane(self) -> LiteLLMLane:
        from gateway.translate import LiteLLMLane

        return LiteLLMLane(self.settings)


def with_file(snapshot: Snapshot, file: Snapshot) -> Snapshot:
    """The snapshot, but what the config file says of keys and domains holds although the registry has not heard it yet:
    a key of the file works from the first request on."""
    missing = {name: view for name, view in file.domains.items() if name not in snapshot.domains}
    if not missing and file.keys.keys() <= snapshot.keys.keys():
        return snapshot
    return replace(snapshot, domains={**missing, **snapshot.domains}, keys={**file.keys, **snapshot.keys})


def bootstrap(settings: Settings, now: float) -> Snapshot:
    """What the config file alone can say: its keys and domains, no versions."""
    keys = {}
    for key in settings.keys:
        if key.key:
            digest = hash_key(key.key)
            keys[digest] = KeyRecord(
                id="k" + digest[7:19],
                name=key.name,
                role=key.role,
                hash=digest,
                domain=key.domain,
                created_at=now,
                requests_per_minute=key.requests_per_minute,
                tokens_per_minute=key.tokens_per_minute,
                parallel=key.parallel,
                usd_per_day=key.usd_per_day,
                both_planes=key.both_planes,
                from_file=True,
            )
    domains = {
        domain.name: DomainView(domain=domain, deployment=Deployment(domain=domain.name))
        for domain in settings.domain_records()
    }
    return Snapshot(epoch=0, taken_at=now, domains=domains, keys=keys)
