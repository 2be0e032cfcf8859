"""What every store of the registry has: connection, clock, ids, signer, limits; and how records become bytes."""

from __future__ import annotations

import functools
import secrets
import time
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import msgspec

from registry.connection import Connection
from registry.errors import Corrupt
from registry.records import AuditEntry, Deployment
from registry.settings import RetentionSettings
from registry.signing import Signer

T = TypeVar("T")
DAY = 86_400.0
MARKS_LIVE = 120.0
"""Seconds for which gateways look at a domain whose change was begun and not ended."""
_encoder = msgspec.json.Encoder()


def encode(record: Any) -> bytes:
    """A record as JSON."""
    return _encoder.encode(record)


@functools.cache
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def decode(kind: type[T], raw: bytes | str, what: str) -> T:
    """JSON as a record. Raises Corrupt, naming ``what``."""
    try:
        decoder: msgspec.json.Decoder[T] = _decoder(kind)  # type: ignore[arg-type]  # a type is hashable
        return decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Corrupt(f"{what} cannot be read: {error}.") from error


def text_of(raw: bytes) -> str:
    """Text that lies in Redis; what is no UTF-8 is shown, and hides nothing else."""
    return raw.decode(errors="backslashreplace")


def stream_field(fields: Any, name: bytes) -> bytes:
    """One field of a stream's entry, whatever form the client gave it; empty when it has none."""
    pairs = dict(zip(fields[::2], fields[1::2], strict=False)) if isinstance(fields, list) else dict(fields or {})
    return bytes(pairs.get(name, b""))


def random_id() -> str:
    """Sixteen hex digits nobody can guess."""
    return secrets.token_hex(8)


class Store:
    """Base of the stores. Each store adds the methods of one noun; ``Registry`` is all of them."""

    def __init__(
        self,
        connection: Connection,
        *,
        clock: Callable[[], float] = time.time,
        ids: Callable[[], str] = random_id,
        signer: Signer | None = None,
        retention: RetentionSettings | None = None,
    ) -> None:
        self._redis = connection
        self._keys = connection.keys
        self._clock = clock
        self._ids = ids
        self._signer = signer
        self._keep = retention or RetentionSettings()
        self.refused: dict[str, int] = {}
        """Values that could not be read or verified, counted by what they were."""

    def _refuse(self, what: str) -> None:
        self.refused[what] = self.refused.get(what, 0) + 1

    @property
    def _remember(self) -> int:
        """Seconds for which a request id is remembered."""
        return self._keep.request_hours * 3600

    def _entry(
        self,
        domain: str,
        kind: str,
        actor: str,
        why: str,
        *,
        before: Deployment | None = None,
        after: Deployment | None = None,
        request_id: str = "",
        detail: dict[str, Any] | None = None,
        at: float | None = None,
    ) -> bytes:
        """An audit entry without its number: the script that appends it gives the number."""
        return encode(
            AuditEntry(
                domain=domain,
                seq=0,
                at=self._clock() if at is None else at,
                kind=kind,
                actor=actor,
                why=why,
                before=before,
                after=after,
                request_id=request_id,
                detail=detail or {},
            )
        )

    # --- telling the fleet ----------------------------------------------------------------------------------------

    def _fleet(self, *more: str) -> tuple[str, ...]:
        """Fleet keys to hand to a domain's script: none in a Cluster, where they lie in another slot."""
        return () if self._redis.clustered else (self._keys.epoch, self._keys.changes, *more)

    async def _announce(self, domain: str) -> str:
        """First half of a change in a Cluster: mark the domain. Returns the mark.

        Gateways look at a marked domain again and again until the second half is done, so a writer that dies between
        the halves delays nobody.
        """
        mark = f"{domain}:{self._ids()}"
        if self._redis.clustered:
            await self._redis.command("HSET", self._keys.dirty, mark, repr(self._clock()))
        return mark

    async def _tell(self, mark: str, listing: Literal["keep", "add", "remove", "nothing"] = "keep") -> None:
        """Second half of a change in a Cluster: bump the fleet epoch, push, take the mark away."""
        if self._redis.clustered:
            keys = (self._keys.epoch, self._keys.changes, self._keys.domains, self._keys.dirty)
            domain = mark.partition(":")[0]
            args = (self._keys.moved, domain, listing, mark, repr(self._clock() - MARKS_LIVE))
            await self._redis.run("bump", keys, args, confirm=True)
