"""The snapshot as a file: what a gateway serves from while Redis is away.

One line per domain, each with its own checksum, so that a truncated or tampered file gives what is whole in it:
``<xxh3 of the JSON, 16 hex digits> <JSON>``. The first line is the head, the second the keys.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec
import xxhash

from registry.errors import Corrupt
from registry.records import DomainView, KeyRecord, Snapshot
from registry.signing import Verifier
from registry.snapshot import check_view
from registry.store import decode, encode

FORMAT: Final = 1


_PAUSE: Final = 2.0
"""Seconds between two writes: a burst of moves costs one."""


class SnapshotFile:
    """Keeps one process's last snapshot on disk. Of several processes with one file, one writes it: who holds the lock.

    ``refuse(what, why)`` is told of what cannot be read or written.
    """

    def __init__(self, path: Path, refuse: Callable[[str, str], None]) -> None:
        self._path = path
        self._refuse = refuse
        self._latest: Snapshot | None = None
        self._unsaved = asyncio.Event()
        self._lock = -1

    def read(self, verifier: Verifier | None) -> Snapshot | None:
        """What is whole in the file."""
        return read_snapshot(self._path, verifier, self._refuse)

    def put(self, snapshot: Snapshot) -> None:
        """To be written soon."""
        self._latest = snapshot
        self._unsaved.set()

    async def keep(self) -> None:
        """Write what was put, for ever."""
        while True:
            await self._unsaved.wait()
            await self._write()
            await asyncio.sleep(_PAUSE)

    async def close(self) -> None:
        """Write what is not written yet, and let another process write from now on."""
        await self._write()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    async def _write(self) -> None:
        if not self._unsaved.is_set() or self._latest is None:
            return
        try:
            if self._ours():
                self._unsaved.clear()
                await asyncio.to_thread(write_snapshot, self._path, self._latest)
        except OSError as error:
            self._unsaved.clear()
            self._refuse("file", f"The snapshot file cannot be written: {error}")

    def _ours(self) -> bool:
        """True when this process is the one that writes. Its end gives the lock to the next who asks."""
        if self._lock < 0:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(self._path.with_name(f".{self._path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                return False
            self._lock = lock
        return True


class _Head(msgspec.Struct, frozen=True):
    """First line of the file."""

    format: int
    epoch: int
    taken_at: float
    domains: int


def _line(body: bytes) -> bytes:
    return xxhash.xxh3_64_hexdigest(body).encode() + b" " + body + b"\n"


def snapshot_lines(snapshot: Snapshot) -> Iterator[bytes]:
    """The lines of the file."""
    yield _line(encode(_Head(FORMAT, snapshot.epoch, snapshot.taken_at, len(snapshot.domains))))
    yield _line(encode(list(snapshot.keys.values())))
    for view in snapshot.domains.values():
        yield _line(encode(view))


def write_snapshot(path: Path, snapshot: Snapshot) -> None:
    """Replace the file at once: a reader sees the old or the new one, never half. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    try:
        with draft.open("wb", buffering=2**20) as file:
            draft.chmod(0o600)
            file.writelines(snapshot_lines(snapshot))
        draft.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            draft.unlink()


def read_snapshot(path: Path, verifier: Verifier | None, refuse: Callable[[str, str], None]) -> Snapshot | None:
    """What is whole in the file; None when there is no file or its head is not ours."""
    try:
        with path.open("rb") as file:
            first = _body(file.readline(), refuse)
            if first is None or (head := decode(_Head, first, "The head")).format != FORMAT:
                return None
            keys: dict[str, KeyRecord] = {}
            if (body := _body(file.readline(), refuse)) is not None:
                keys = {record.hash: record for record in decode(list[KeyRecord], body, "The keys")}
            domains = {}
            for line in file:
                if (body := _body(line, refuse)) is not None and (view := _view(body, verifier, refuse)) is not None:
                    domains[view.domain.name] = view
            return Snapshot(epoch=head.epoch, taken_at=head.taken_at, domains=domains, keys=keys)
    except FileNotFoundError:
        return None
    except (OSError, Corrupt) as error:
        refuse("file", f"The snapshot file cannot be used: {error}")
        return None


def _view(body: bytes, verifier: Verifier | None, refuse: Callable[[str, str], None]) -> DomainView | None:
    try:
        view = decode(DomainView, body, "A domain in the snapshot file")
        check_view(view.domain.name, view, verifier)
    except Corrupt as error:
        refuse("file", str(error))
        return None
    return view


def _body(line: bytes, refuse: Callable[[str, str], None]) -> bytes | None:
    """The JSON of a line whose checksum is right."""
    digest, _, rest = line.partition(b" ")
    body = rest.rstrip(b"\n")
    if not line.endswith(b"\n") or xxhash.xxh3_64_hexdigest(body).encode() != digest:
        refuse("file", "A line of the snapshot file is damaged.")
        return None
    return body
