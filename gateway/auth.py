"""Who asks: keys from the snapshot in memory.

Only the SHA-256 of a key is ever held. A token is hashed and looked up by its hash, so that the time of the lookup says
nothing about the text of any key; what was found is compared once more in constant time. A key that is revoked,
expired or gone from the snapshot stops working with the next snapshot (pushed, within a second of the revocation).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from hashlib import sha256
from hmac import compare_digest

from registry import KeyRecord, Snapshot

LONGEST_TOKEN = 512
"""Bytes; longer tokens are nobody's, and are not worth hashing."""


class KeyRing:
    """The keys of the last snapshot. Implements `gateway.exchange.Auth`; swapped whole, so readers need no lock."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._by_digest: dict[bytes, tuple[bytes, KeyRecord]] = {}

    def load(self, snapshot: Snapshot) -> None:
        """Take the keys of a new snapshot. A record whose hash is none, or not the one it is filed under, opens
        nothing."""
        keys: dict[bytes, tuple[bytes, KeyRecord]] = {}
        for name, key in snapshot.keys.items():
            if name == key.hash:
                with contextlib.suppress(ValueError):
                    digest = bytes.fromhex(name.removeprefix("sha256:"))
                    keys[digest] = digest, key
        self._by_digest = keys

    def find(self, token: bytes, digest: bytes | None = None) -> KeyRecord | None:
        """The live key with this text, whatever its role, or None."""
        if not 0 < len(token) <= LONGEST_TOKEN:
            return None
        if digest is None:
            digest = sha256(token).digest()
        found = self._by_digest.get(digest)
        if found is None or not compare_digest(found[0], digest):
            return None
        key = found[1]
        return key if self._alive(key) else None

    def by_id(self, id: str) -> KeyRecord | None:
        """The live key with this public handle, or None: for a console session, which must not hold the key's text."""
        for _, key in self._by_digest.values():
            if key.id == id:
                return key if self._alive(key) else None
        return None

    def _alive(self, key: KeyRecord) -> bool:
        return key.revoked_at is None and (key.expires_at is None or key.expires_at > self._clock())

    def caller(self, token: bytes, digest: bytes | None = None) -> KeyRecord | None:
        """The live key that may use the data plane: a caller's, and one that the config file opens both planes to."""
        key = self.find(token, digest)
        return key if key is not None and (key.role == "caller" or key.both_planes) else None

    def operator(self, token: bytes) -> KeyRecord | None:
        """The live operator or viewer key: may use the control plane; a viewer only reads."""
        key = self.find(token)
        return key if key is not None and key.role in {"operator", "viewer"} else None


def bearer(authorization: str | None, x_api_key: str | None) -> bytes:
    """The token of a request: ``Authorization: Bearer`` first, else ``x-api-key``; empty when there is none."""
    scheme, _, token = (authorization or "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip().encode("latin-1", "replace")
    return (x_api_key or "").strip().encode("latin-1", "replace")
