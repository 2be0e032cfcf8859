"""What is stored in place of a key's text and of a unit's name. Loads nothing: gateways need it before all else."""

from __future__ import annotations

import hashlib


def hash_key(text: str) -> str:
    """``sha256:<hex>`` of a key's text: what is stored, and how a gateway finds the record of a presented key."""
    return "sha256:" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def unit_digest(unit: str) -> str:
    """What a gateway stores for a unit: 16 hex digits. Callers put mail addresses there; those are never stored."""
    return hashlib.blake2b(unit.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest() if unit else ""
