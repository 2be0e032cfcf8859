"""From settings to an open registry and queue: where Redis is, and what to say when it is not."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from jobs.errors import JobsError
from jobs.queue import Queue
from registry import Registry, RegistryUnavailable, Settings, Signer, running_url

PATIENCE = 30.0
"""Seconds that a starting worker or scheduler waits for Redis; afterwards its supervisor may start it again."""

log = logging.getLogger("metaspo.jobs")


def redis_address(settings: Settings) -> str:
    """``redis_url``, else the embedded server that runs on this home. Raises JobsError."""
    url = settings.redis_url or running_url(settings.home)
    if not url:
        raise JobsError(
            "There is no Redis to work with: set redis_url (METASPO_REDIS_URL), or run `metaspo up` on the home"
            f" {settings.home}."
        )
    return url


@asynccontextmanager
async def open_registry(settings: Settings, *, patience: float = 0.0, sign: bool = False) -> AsyncIterator[Registry]:
    """The registry; ``sign``: it may write versions. Raises JobsError, RegistryUnavailable (after ``patience`` s)."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    told = False
    signer = Signer.load_or_create(settings.signing_key_path) if sign else None
    while True:
        try:
            registry = await Registry.from_settings(settings, redis_address(settings), signer=signer)
            break
        except (RegistryUnavailable, JobsError) as error:
            if loop.time() - began >= patience:
                raise
            if not told:
                log.warning("%s Waiting for up to %d s.", error, patience)
                told = True
            await asyncio.sleep(0.5)
    try:
        yield registry
    finally:
        await registry.close()


@asynccontextmanager
async def open_both(settings: Settings, *, patience: float = PATIENCE) -> AsyncIterator[tuple[Registry, Queue]]:
    """Registry and queue of one process."""
    async with (
        open_registry(settings, patience=patience, sign=True) as registry,
        Queue(redis_address(settings), settings.redis_prefix) as queue,
    ):
        yield registry, queue
