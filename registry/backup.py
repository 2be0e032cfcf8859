"""Everything as one checksummed file, taken from a live registry; and back.

The file is a zstandard stream of frames, each four bytes of length (big-endian) and that many bytes of msgpack. First
the head, ``{format, schema, taken_at}``; then one frame per key, ``[name without prefix, type, expiry or nil, value]``;
last the foot, ``{keys, sha256}`` over all frames before it. A file without a right foot is refused before anything is
written.

Consistency: the control keys of one domain (versions, pointers, audit) are read at one instant, so a version, the
pointer to it and its audit entry are in the file together or not at all; other keys are read one by one. Values are
kept by meaning, not in the server's own format, so a backup of Valkey restores into an older Redis and the other way
round. Left out: leases, request ids, counted batches and rate counters, which are true only for a moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import struct
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec
import zstandard

from registry.connection import Connection
from registry.errors import Corrupt, Refused, RegistryError
from registry.migrations import STEPS, migrate, stored_schema

FORMAT: Final = 1
_MOMENTARY = re.compile(r"^[ctj]:\{[^}]*\}:(lease$|places$|request:|batch:|usage:|dirty$|.*:restoring$)")
_FRAME = struct.Struct(">I")
_LONGEST = 2**31
_BATCH = 200
_HEAVY = 20_000
"""Members of hashes, sets and streams that are sent together, at most, unless one key has more."""
_PATIENCE = 60.0
"""Seconds for one answer: large values and a busy disk are to be expected here."""
Frame = tuple[str, str, float | None, Any]


class _Writer:
    """Frames into a compressed file, with a running checksum."""

    def __init__(self, file: BinaryIO) -> None:
        self._stream = zstandard.ZstdCompressor(level=3).stream_writer(file, closefd=False)
        self._digest = hashlib.sha256()
        self.keys = 0

    def write(self, value: object) -> None:
        body = msgspec.msgpack.encode(value)
        frame = _FRAME.pack(len(body)) + body
        self._digest.update(frame)
        self._stream.write(frame)

    def close(self) -> None:
        body = msgspec.msgpack.encode({"keys": self.keys, "sha256": self._digest.hexdigest()})
        self._stream.write(_FRAME.pack(len(body)) + body)
        self._stream.close()  # type: ignore[no-untyped-call]


Told = Callable[[int, int], None]
"""Called now and then with the keys done and all keys there are."""


def tell_nobody(done: int, total: int) -> None:
    """Nobody follows."""


async def backup(redis: Connection, path: Path, *, clock: Callable[[], float], told: Told = tell_nobody) -> int:
    """Write the file (whole or not at all); returns the number of keys in it. Raises RegistryError."""
    async with redis.patient(_PATIENCE) as patient:
        return await _backup(patient, path, clock, told)


async def _backup(redis: Connection, path: Path, clock: Callable[[], float], told: Told) -> int:
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with draft.open("wb") as file:
            draft.chmod(0o600)
            writer = _Writer(file)
            writer.write({"format": FORMAT, "schema": await stored_schema(redis), "taken_at": clock()})
            await _write_all(redis, writer, clock, told)
            await asyncio.to_thread(writer.close)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        raise RegistryError(f"The backup {path} cannot be written: {error.strerror or error}.") from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()
    return writer.keys


async def _write_all(redis: Connection, writer: _Writer, clock: Callable[[], float], told: Told) -> None:
    prefix = redis.keys.prefix + ":"
    fleet = f"{prefix}c:{{*}}:"
    # The list of domains is read before the keys are: what it names is in the file.
    first = [key for key in await redis.scan(f"{_escaped(fleet)}*") if not _left_out(key, prefix)]
    await _write_keys(redis, writer, first, clock, together=True)
    control: dict[bytes, list[bytes]] = defaultdict(list)
    others: list[bytes] = []
    for key in sorted(set(await redis.scan(f"{_escaped(prefix)}*")) - set(first)):
        if _left_out(key, prefix) or key.startswith(fleet.encode()):
            continue
        if key.startswith(f"{prefix}c:".encode()):
            control[key.split(b"}")[0]].append(key)
        else:
            others.append(key)
    total = len(first) + len(others) + sum(map(len, control.values()))
    for keys in control.values():
        await _write_keys(redis, writer, keys, clock, together=True)
        told(writer.keys, total)
    for start in range(0, len(others), _BATCH):
        await _write_keys(redis, writer, others[start : start + _BATCH], clock, together=False)
        told(writer.keys, total)
    told(writer.keys, writer.keys)  # some may have expired meanwhile


def _escaped(text: str) -> str:
    return re.sub(r"([\[\]*?\\])", r"\\\1", text)


def _left_out(key: bytes, prefix: str) -> bool:
    """What is true only for a moment, and what cannot be ours: our names are text."""
    try:
        name = key.decode()
    except UnicodeDecodeError:
        return True
    return _MOMENTARY.match(name.removeprefix(prefix)) is not None


async def _write_keys(
    redis: Connection, writer: _Writer, keys: list[bytes], clock: Callable[[], float], *, together: bool
) -> None:
    """``together``: at one instant (all of one slot); else in round trips of some hundred keys."""
    if together:
        if keys:
            answer = await redis.read("dump_group", [key.decode() for key in keys], ())
            _write_answer(writer, answer, redis.keys.prefix, clock())
        return
    for start in range(0, len(keys), _BATCH):
        page = keys[start : start + _BATCH]
        if not redis.clustered:  # without slots, one script reads them all: far fewer answers to take apart
            answer = await redis.read("dump_group", [key.decode() for key in page], ())
            _write_answer(writer, answer, redis.keys.prefix, clock())
            await asyncio.sleep(0)
            continue
        kinds = await redis.many([("TYPE", key) for key in page])
        reads = [(key, kind.decode()) for key, kind in zip(page, kinds, strict=True) if kind.decode() in _READ]
        values = await redis.many(
            [command for key, kind in reads for command in (("PTTL", key), (_READ[kind][0], key, *_READ[kind][1:]))]
        )
        flat: list[Any] = []
        for (key, kind), ttl, value in zip(reads, values[::2], values[1::2], strict=True):
            flat += [key, kind.encode(), ttl, value]
        _write_answer(writer, flat, redis.keys.prefix, clock())
        await asyncio.sleep(0)


_READ: dict[str, tuple[str | int, ...]] = {
    "string": ("GET",),
    "hash": ("HGETALL",),
    "set": ("SMEMBERS",),
    "zset": ("ZRANGE", 0, -1, "WITHSCORES"),
    "stream": ("XRANGE", "-", "+"),
}


def _write_answer(writer: _Writer, answer: list[Any], prefix: str, now: float) -> None:
    for key, kind, ttl, value in zip(answer[::4], answer[1::4], answer[2::4], answer[3::4], strict=True):
        if value is None or ttl == -2:
            continue  # it expired between two reads
        name = key.decode().removeprefix(prefix + ":")
        writer.write((name, kind.decode(), None if ttl < 0 else now + ttl / 1000, _plain(kind.decode(), value)))
        writer.keys += 1


def _plain(kind: str, value: Any) -> Any:
    """Lists and bytes only, whatever form the client gave the answer."""
    if kind == "hash" and isinstance(value, dict):
        return [part for pair in value.items() for part in pair]
    if kind == "set":
        return list(value)
    if kind == "zset" and value and isinstance(value[0], tuple | list):
        return [part for member, score in value for part in (member, repr(float(score)).encode())]
    if kind == "stream":
        return [
            [entry_id, [part for pair in fields.items() for part in pair] if isinstance(fields, dict) else fields]
            for entry_id, fields in value
        ]
    return value


# --- and back --------------------------------------------------------------------------------------------------------


def read_frames(path: Path) -> Iterator[Any]:
    """Head, then keys. Raises Corrupt (at the latest when the foot is reached: truncated, changed, or not a backup)."""
    digest = hashlib.sha256()
    count = -1
    try:
        with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as stream:
            while True:
                header = _exactly(stream, 4)
                length = _FRAME.unpack(header)[0]
                if length > _LONGEST:
                    raise Corrupt(f"{path.name} is damaged: a value of {length:,} bytes cannot be.")
                body = _exactly(stream, length)
                value = msgspec.msgpack.decode(body)
                if isinstance(value, dict) and "sha256" in value:
                    if value["sha256"] != digest.hexdigest() or value["keys"] != count:
                        raise Corrupt(f"{path.name} is damaged: its checksum is wrong.")
                    return
                digest.update(header)
                digest.update(body)
                count += 1
                yield value
    except FileNotFoundError as error:
        raise RegistryError(f"There is no file {path}.") from error
    except EOFError as error:
        raise Corrupt(f"{path.name} is truncated: its end is missing.") from error
    except (zstandard.ZstdError, msgspec.DecodeError) as error:
        raise Corrupt(f"{path.name} is not a backup, or it is damaged: {error}.") from error
    except OSError as error:
        raise RegistryError(f"The backup {path} cannot be read: {error.strerror or error}.") from error


def _exactly(stream: Any, length: int) -> bytes:
    body = b""
    while len(body) < length:
        part = stream.read(length - len(body))
        if not part:
            raise EOFError
        body += part
    return body


async def restore(
    redis: Connection,
    path: Path,
    *,
    overwrite: bool = False,
    clock: Callable[[], float] | None = None,
    told: Told = tell_nobody,
) -> int:
    """Everything from the file; returns the number of keys. The file is read to its end before anything is written.

    ``clock``: leave out what has expired since. Raises Refused (something is here already and not ``overwrite``; the
    file is of a newer program), Corrupt (nothing was written).
    """
    async with redis.patient(_PATIENCE) as patient:
        return await _restore(patient, path, overwrite, clock, told)


async def _restore(
    redis: Connection, path: Path, overwrite: bool, clock: Callable[[], float] | None, told: Told
) -> int:
    head: Any = None
    position = 0
    for position, frame in enumerate(read_frames(path)):
        if position == 0:
            head = frame
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        raise Refused(f"{path.name} is not a backup of this format.")
    if head.get("schema", 0) > STEPS[-1][0]:
        raise Refused(
            f"{path.name} has schema {head['schema']}, this program knows up to {STEPS[-1][0]}: use a newer one."
        )
    keys = redis.keys
    here = await redis.scan(f"{_escaped(keys.prefix)}:*")
    old_epoch = int(await redis.command("GET", keys.epoch) or 0)
    old_names = set(await redis.command("SMEMBERS", keys.domains))
    if old_names and not overwrite:
        raise Refused("There is a registry here already: restore into an empty one, or say --overwrite.")
    for start in range(0, len(here), _BATCH):
        await redis.many([("UNLINK", key) for key in here[start : start + _BATCH]])
    last: list[Frame] = []
    batch: list[Frame] = []
    count = weight = 0
    now = clock() if clock else None
    frames = read_frames(path)
    next(frames)
    for name, kind, expires, value in frames:
        if now is not None and expires is not None and expires <= now:
            continue
        count += 1
        if name.startswith("c:{*}:"):
            last.append((name, kind, expires, value))  # gateways see nothing until all is there
            continue
        batch.append((name, kind, expires, value))
        weight += len(value) if isinstance(value, list) else 1
        if len(batch) == _BATCH or weight > _HEAVY:
            await _write_batch(redis, batch)
            told(count, position)
            batch, weight = [], 0
    await _write_batch(redis, batch)
    await _write_batch(redis, last)
    await migrate(redis)
    # Greater than any epoch that a gateway may have seen, for every domain that is here now or was before.
    epoch = max(old_epoch, int(await redis.command("GET", keys.epoch) or 0)) + 1
    names = old_names | set(await redis.command("SMEMBERS", keys.domains)) | {b"*"}
    await redis.command("ZADD", keys.changes, *(part for name in names for part in (epoch, name)))
    await redis.command("SET", keys.epoch, epoch)
    await redis.command("PUBLISH", keys.moved, f"{epoch} *")
    told(position, position)
    return count


async def _write_batch(redis: Connection, batch: list[Frame]) -> None:
    commands: list[tuple[Any, ...]] = []
    for name, kind, expires, value in batch:
        key = f"{redis.keys.prefix}:{name}"
        if kind == "string":
            commands.append(("SET", key, value, *(("PXAT", int(expires * 1000)) if expires is not None else ())))
            continue
        if not value:
            continue  # a stream that has lost all its entries
        # Built beside and put in place at once: a gateway that records meanwhile neither hinders it nor mixes with it.
        draft = f"{key}:restoring"
        commands += [("UNLINK", draft), *_commands(draft, kind, value), ("RENAME", draft, key)]
        if expires is not None:
            commands.append(("PEXPIREAT", key, int(expires * 1000)))
    await redis.many(commands, at_once=True)


def _commands(key: str, kind: str, value: Any) -> Iterator[tuple[Any, ...]]:
    if kind == "stream":
        for entry_id, fields in value:
            yield ("XADD", key, entry_id, *fields)
        return
    step = 1000
    for start in range(0, len(value), step):
        part = value[start : start + step]
        if kind == "hash":
            yield ("HSET", key, *part)
        elif kind == "set":
            yield ("SADD", key, *part)
        else:  # zset: stored as member, score; written as score, member
            yield ("ZADD", key, *(item for pair in zip(part[1::2], part[::2], strict=True) for item in pair))
