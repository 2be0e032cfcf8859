"""Every value that lies in Redis, read as its readers would: what they would refuse is named, one by one.

Pointers, versions, keys and the audit come first, then everything else in the order in which the server tells its keys.
A large registry is not read to its end: after ``seconds`` the look stops and says so.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any, Final

from registry.audit import read_entry
from registry.connection import Connection
from registry.errors import Corrupt, Refused
from registry.records import Outcome, Version
from registry.signing import Verifier, content_hash
from registry.snapshot import fetch_all, read_keys, read_view
from registry.store import decode, stream_field, text_of
from registry.stored_values import FIELDS, STRINGS, Place
from registry.versions import served

SECONDS: Final = 20.0
_PAGE: Final = 500
_GROUP: Final = 100
_LARGE_GROUP: Final = 8
"""Datasets may be megabytes each."""
_ELSEWHERE: Final = frozenset({("c", "live"), ("c", "keys")})
"""Read with the snapshot."""


class Inspection:
    """One look at a registry. ``bad``: a sentence for each refused value; ``looked``: how many were read."""

    def __init__(
        self,
        redis: Connection,
        public: bytes | None,
        *,
        seconds: float = SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.bad: list[str] = []
        self.domains = self.keys = self.looked = 0
        self.stopped = ""
        self._redis = redis
        self._verifier = Verifier(public) if public else None
        self._seconds = seconds
        self._monotonic = monotonic

    async def run(self) -> None:
        """Look at everything there is time for. Raises RegistryError when Redis does not answer."""
        until = self._monotonic() + self._seconds
        raw = await fetch_all(self._redis)
        for name, live in raw.domains.items():
            with self._named():
                if read_view(name, live, self._verifier) is None:
                    raise Corrupt(f"The list of domains names {name[:80]!r}, which is not there.")
        self.domains = len(raw.domains)
        self.keys = len(read_keys(raw.keys, lambda _, why: self.bad.append(why)))
        prefix = self._redis.keys.prefix
        names = (self._redis.keys.versions, self._redis.keys.audit)
        first = [Place(place(name).encode(), prefix) for place in names for name in raw.domains]
        done = {place.key for place in first}
        try:
            await self._look(first, until)
            async for places in self._groups(done):
                await self._look(places, until)
        except TimeoutError:
            self.stopped = f"after {self._seconds:g} s not all of them had been looked at"
        except Refused:
            self.stopped = "this Redis user may not read the rest"

    async def _groups(self, done: set[bytes]) -> AsyncIterator[list[Place]]:
        """All other keys of ours, some at a time."""
        prefix = self._redis.keys.prefix
        group: list[Place] = []
        async for key in self._redis.walk(prefix):
            if key not in done:
                group.append(Place(key, prefix))
            if len(group) == _PAGE:
                yield group
                group = []
        yield group

    async def _look(self, places: Sequence[Place], until: float) -> None:
        """Raises TimeoutError when there is no more time."""
        for start in range(0, len(places), _PAGE):
            part = places[start : start + _PAGE]
            kinds = await self._redis.many([("TYPE", place.key) for place in part])
            reads: dict[tuple[str, str], list[Place]] = defaultdict(list)
            for place, raw in zip(part, kinds, strict=True):
                kind = text_of(raw)
                if (place.plane, place.word) in _ELSEWHERE or place.of_the_queue:
                    continue
                if not place.kind:
                    self.bad.append(f"The key {place.shown} is none of ours.")
                elif kind not in (place.kind, "none"):
                    self.bad.append(self._foreign(place))
                elif kind != "none":
                    reads[place.kind, place.word].append(place)
            for (kind, word), found in reads.items():
                size = _LARGE_GROUP if word == "dataset" else _GROUP
                for begin in range(0, len(found), size):
                    if self._monotonic() > until:
                        raise TimeoutError
                    await self._read(kind, word, found[begin : begin + size], until)

    def _foreign(self, place: Place) -> str:
        if (place.plane, place.word) == ("c", "versions"):
            return f"The versions of {place.tag} are another kind of value."
        return f"Under {place.shown} lies another kind of value."

    async def _read(self, kind: str, word: str, places: Sequence[Place], until: float) -> None:
        if kind == "string" and word in STRINGS:
            for place, text in zip(places, await self._many("GET", places, b""), strict=True):
                if text is not None:
                    self.looked += 1
                    with self._named():
                        STRINGS[word](place, text)
        elif kind == "stream":
            pages = await self._many("XRANGE", places, [], "-", "+", "COUNT", _PAGE)
            for place, page in zip(places, pages, strict=True):
                await self._stream(place, page, until)
        elif kind == "hash" and (word == "versions" or word in FIELDS):
            for place in places:
                await self._hash(place, until)

    async def _many(self, command: str, places: Sequence[Place], wrong: object, *more: str | int) -> list[Any]:
        return await self._redis.many([(command, place.key, *more) for place in places], wrong_type=wrong)

    async def _stream(self, place: Place, page: Any, until: float) -> None:
        expected = 0
        while page:
            for entry_id, fields in page:
                self.looked += 1
                with self._named():
                    if place.word == "audit":
                        seq = int(entry_id.split(b"-")[0])
                        missing, expected = expected and seq - expected, seq + 1
                        if missing:
                            self.bad.append(f"The audit of {place.tag} has lost {missing} entries before number {seq}.")
                        if read_entry(entry_id, fields).domain != place.tag:
                            raise Corrupt(f"Audit entry {seq} of {place.tag} belongs to another domain.")
                    elif place.word == "outcomes":
                        what = f"The outcome {text_of(entry_id)} of {place.tag}"
                        if decode(Outcome, stream_field(fields, b"o"), what).domain != place.tag:
                            raise Corrupt(f"{what} belongs to another domain.")
                    else:
                        decode(dict[str, Any], stream_field(fields, b"e"), f"An event of the run {place.more}")
            if self._monotonic() > until:
                raise TimeoutError
            after = f"({text_of(page[-1][0])}"
            more = ("XRANGE", place.key, after, "+", "COUNT", _PAGE)
            page = await self._redis.command(*more) if len(page) == _PAGE else []

    async def _hash(self, place: Place, until: float) -> None:
        cursor: Any = 0
        while True:
            cursor, found = await self._redis.command("HSCAN", place.key, cursor, "COUNT", _PAGE)
            for field, text in _pairs(found):
                self.looked += 1
                with self._named():
                    if place.word == "versions":
                        self._version(place, text_of(field), text)
                    else:
                        FIELDS[place.word](place, text_of(field), text)
            if not int(cursor):
                return
            if self._monotonic() > until:
                raise TimeoutError

    def _version(self, place: Place, label: str, text: bytes) -> None:
        name = place.tag
        version = decode(Version, text, f"Version {label} of {name}")
        if (
            version.domain != name
            or str(version.number) != label
            or content_hash(version.system_prompt) != version.hash
        ):
            raise Corrupt(f"Version {label} of {name} does not match its hash.")
        if self._verifier is not None and not self._verifier.version(served(version), name):
            raise Corrupt(f"Version {label} of {name} is not signed by our key.")

    def _named(self) -> _Named:
        return _Named(self.bad)


class _Named:
    """``with``: a Corrupt inside becomes a sentence in the list."""

    def __init__(self, bad: list[str]) -> None:
        self._bad = bad

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, Corrupt):
            self._bad.append(str(error))
            return True
        return False


def _pairs(found: Any) -> Iterable[tuple[bytes, bytes]]:
    return found.items() if isinstance(found, dict) else zip(found[::2], found[1::2], strict=True)
