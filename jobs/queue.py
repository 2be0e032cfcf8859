"""The task queue: who does the work. taskiq on Redis lists; why, in ``docs/jobs.md``.

The queue is a doorbell, not a memory. What must be done stands in the registry as a trigger until it is done; a
message only says "look at trigger X". So a message may be lost with a killed worker or be delivered twice, and
neither matters: the dispatcher in ``schedule.py`` rings again for what is open and not being worked on, and whoever
comes second finds the lease taken. Therefore no acknowledgements, no visibility time-out that a long search could
outlive, no result backend.

Each lane is a list of its own with its own number of slots per worker, which is all the priority that is needed: a
canary's next look never waits behind a search of hours.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal, get_args
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from taskiq import AsyncBroker
from taskiq.receiver import Receiver

from jobs.errors import QueueUnavailable

Lane = Literal["urgent", "search", "upkeep"]
LANES: tuple[Lane, ...] = get_args(Lane)
TASK = "metaspo.work"
CONNECT_TIMEOUT = 5.0
_TLS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs")
PAUSE = 0.5
"""Seconds between two tries to reach a queue that is down."""

log = logging.getLogger("metaspo.jobs.queue")

Work = Callable[[str], Awaitable[None]]


def make_broker(url: str, lane: Lane, prefix: str = "metaspo") -> AsyncBroker:
    """A broker for one lane on a single Redis, a Cluster or behind Sentinel: the addresses that the registry takes.

    ``redis://``, ``rediss://``, ``unix://``; ``redis+cluster://host:port``;
    ``redis+sentinel://host:port,host:port/name/0``. The key lies on the jobs plane (``<prefix>:j:``), so the
    registry's ACL patterns cover it. Reading waits without a time-out of its own; connecting has one.
    """
    from taskiq_redis import ListQueueBroker, ListQueueClusterBroker, ListQueueSentinelBroker

    name = f"{prefix}:j:{{queue-{lane}}}"
    options: dict[str, Any] = {"socket_timeout": None, "socket_connect_timeout": CONNECT_TIMEOUT}
    parts = urlsplit(url)
    scheme = parts.scheme.replace("valkey", "redis")
    tls = scheme.startswith("rediss")
    plain = f"{'rediss' if tls else 'redis'}://{url.partition('://')[2]}"
    broker: AsyncBroker
    if scheme.endswith("cluster"):
        broker = ListQueueClusterBroker(plain, queue_name=name, max_connection_pool_size=64, **options)
        return broker
    if scheme.endswith("sentinel"):
        return _behind_sentinel(ListQueueSentinelBroker, parts, name, options, tls)
    broker = ListQueueBroker(
        url if scheme == "unix" else plain, queue_name=name, max_connection_pool_size=16, **options
    )
    return broker


def _behind_sentinel(
    broker: Callable[..., AsyncBroker], parts: SplitResult, name: str, options: dict[str, Any], tls: bool
) -> AsyncBroker:
    query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
    path = [unquote(piece) for piece in parts.path.split("/") if piece]
    sentinel_options: dict[str, Any] = {"socket_timeout": CONNECT_TIMEOUT, "socket_connect_timeout": CONNECT_TIMEOUT}
    for key in ("username", "password"):
        if query.get(f"sentinel_{key}"):
            sentinel_options[key] = query[f"sentinel_{key}"]
        value = getattr(parts, key)
        if value:
            options[key] = unquote(value)
    if tls:
        options["ssl"] = True
        options |= {key: query[key] for key in _TLS if key in query}
    if len(path) > 1 and path[1].isdigit():
        options["db"] = int(path[1])
    return broker(
        sentinels=[_host_port(place) for place in parts.netloc.rpartition("@")[2].split(",")],
        master_name=path[0] if path else "mymaster",
        queue_name=name,
        sentinel_kwargs=sentinel_options,
        **options,
    )


def _host_port(place: str) -> tuple[str, int]:
    host, colon, port = place.rpartition(":")
    return (host.strip("[]"), int(port)) if colon and port.isdigit() else (place, 26379)


class Queue:
    """All lanes of one process: ``ring`` asks for work, ``serve`` does it."""

    def __init__(self, url: str, prefix: str = "metaspo") -> None:
        self._brokers = {lane: make_broker(url, lane, prefix) for lane in LANES}

    async def __aenter__(self) -> Queue:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        for broker in self._brokers.values():
            await broker.shutdown()
            sentinel = getattr(broker, "sentinel", None)  # the library leaves its connections to the sentinels open
            for client in sentinel.sentinels if sentinel is not None else ():
                await client.aclose()

    async def ring(self, trigger_id: str, lane: Lane) -> None:
        """Ask any worker to look at a trigger. Raises ``QueueUnavailable``."""
        from taskiq.kicker import AsyncKicker

        kicker: AsyncKicker[..., Any] = AsyncKicker(task_name=TASK, broker=self._brokers[lane], labels={})
        try:
            await kicker.kiq(trigger_id)
        except Exception as error:
            raise QueueUnavailable(f"The task queue does not answer ({type(error).__name__}); is Redis up?") from error

    async def serve(self, work: Work, slots: Mapping[Lane, int], stop: asyncio.Event) -> None:
        """Call ``work`` for every message of every lane, at most ``slots[lane]`` at a time, until ``stop`` is set.

        Returns when all work in hand is done. A queue that goes down is waited for.
        """
        async with asyncio.TaskGroup() as lanes:
            for lane, broker in self._brokers.items():
                if slots.get(lane, 0) > 0:
                    lanes.create_task(self._serve_lane(broker, work, slots[lane], stop), name=f"lane-{lane}")

    async def _serve_lane(self, broker: AsyncBroker, work: Work, slots: int, stop: asyncio.Event) -> None:
        async def handle(trigger_id: str) -> None:
            await work(trigger_id)

        broker.is_worker_process = True
        if broker.find_task(TASK) is None:
            broker.register_task(handle, task_name=TASK)
        while not stop.is_set():
            receiver = Receiver(broker, max_async_tasks=slots, run_startup=True, propagate_exceptions=False)
            try:
                await receiver.listen(stop)
            except asyncio.CancelledError:
                raise
            except BaseException as error:  # the library raises its server's errors inside exception groups
                if stop.is_set():
                    return
                log.warning("The task queue does not answer (%s); trying again.", _first(error))
                await _pause(stop, PAUSE)


def _first(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return type(error).__name__


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        pass
