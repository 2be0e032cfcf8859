"""Versions: immutable system prompts, numbered per domain, one number per text, signed."""

from __future__ import annotations

from msgspec.structs import replace

from registry.domains import DomainStore
from registry.errors import Conflict, Corrupt, NotFound, Refused
from registry.records import Lineage, ServedVersion, Version
from registry.signing import content_hash
from registry.store import decode, encode

LONGEST_PROMPT = 200_000
"""Characters of the longest system prompt: every gateway holds it in memory and every request may carry it."""


class VersionStore(DomainStore):
    """Adds and reads versions."""

    async def add_version(self, domain: str, system_prompt: str, *, lineage: Lineage, request_id: str = "") -> Version:
        """A new version, or the one that already has this text. Idempotent by text and by request id.

        Raises NotFound (no such domain), Refused (empty, too long, or not valid text), Corrupt (what is said to have
        this text has another).
        """
        check_prompt(system_prompt)
        await self._check_signer()
        digest = content_hash(system_prompt)
        asked_for = request_id
        request_id = request_id or self._ids()
        number = int(await self._redis.command("HLEN", self._keys.versions(domain))) + 1
        keys = (
            self._keys.versions(domain),
            self._keys.hashes(domain),
            self._keys.audit(domain),
            self._keys.request(domain, "version:" + request_id),
            self._keys.live(domain),
        )
        for _ in range(50):
            at = self._clock()
            version = Version(
                domain=domain,
                number=number,
                system_prompt=system_prompt,
                hash=digest,
                created_at=at,
                lineage=lineage,
                signature=self._signer.sign(domain, number, digest) if self._signer else "",
            )
            entry = self._entry(
                domain,
                "version",
                lineage.author,
                lineage.why,
                request_id=request_id,
                detail={"version": number, "hash": digest, "run": lineage.run},
                at=at,
            )
            args = (digest, number, encode(version), entry, self._keep.audit, self._remember)
            answer = await self._redis.run("add_version", keys, args, confirm=True)
            if answer[0] == b"added":
                return version
            if answer[0] == b"exists":
                found = decode(Version, answer[1], f"A version of {domain}")
                if not asked_for and (found.hash, content_hash(found.system_prompt)) != (digest, digest):
                    raise Corrupt(
                        f"The index of texts of {domain} takes version {found.number} for this text, and it is another:"
                        " something else wrote it."
                    )
                return found
            if answer[0] == b"missing":
                raise NotFound(f"There is no domain {domain!r}: put it first.")
            number = int(answer[1])
        raise Conflict(f"Others keep adding versions to {domain} at this moment: try again.")

    async def get_version(self, domain: str, number: int) -> Version:
        """Raises NotFound, Corrupt (also when the text does not match its hash)."""
        raw, blocked = await self._redis.many(
            [("HGET", self._keys.versions(domain), number), ("HGET", self._keys.blocked(domain), number)]
        )
        if raw is None:
            raise NotFound(f"{domain} has no version {number}.")
        return read_version(domain, number, raw, blocked)

    async def list_versions(self, domain: str) -> list[Version]:
        """All versions by number. Unreadable ones are left out and counted."""
        stored, blocked = await self._redis.many(
            [("HGETALL", self._keys.versions(domain)), ("HGETALL", self._keys.blocked(domain))]
        )
        versions = []
        for number, raw in stored.items():
            try:
                versions.append(read_version(domain, int(number), raw, blocked.get(number)))
            except (Corrupt, ValueError):
                self._refuse("version")
        return sorted(versions, key=lambda version: version.number)

    async def block_version(self, domain: str, number: int, why: str, actor: str) -> None:
        """Never serve this version again. Raises NotFound, Refused (it serves now: take it away first)."""
        if not why.strip():
            raise Refused("Say why the version is blocked.")
        entry = self._entry(domain, "block", actor, why, detail={"version": number})
        keys = (
            self._keys.blocked(domain),
            self._keys.versions(domain),
            self._keys.live(domain),
            self._keys.audit(domain),
        )
        answer = await self._redis.run("block_version", keys, (number, why, entry, self._keep.audit), confirm=True)
        if answer[0] == b"missing":
            raise NotFound(f"{domain} has no version {number}.")
        if answer[0] == b"serving":
            raise Refused(f"Version {number} of {domain} serves now: roll back, promote another or abort first.")


def check_prompt(text: str) -> None:
    """Raises Refused for a text that cannot be a system prompt."""
    if not text.strip():
        raise Refused("A system prompt cannot be empty.")
    if len(text) > LONGEST_PROMPT:
        raise Refused(f"A system prompt may have {LONGEST_PROMPT:,} characters; this one has {len(text):,}.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Refused("The system prompt holds half a surrogate pair: it is not valid text.") from error
    if "\x00" in text:
        raise Refused("The system prompt holds a zero byte.")


def served(version: Version) -> ServedVersion:
    """What a gateway needs of a version."""
    return ServedVersion(
        number=version.number, system_prompt=version.system_prompt, hash=version.hash, signature=version.signature
    )


def read_version(domain: str, number: int, raw: bytes, blocked: bytes | None) -> Version:
    """One version as it is stored. Raises Corrupt."""
    version = decode(Version, raw, f"Version {number} of {domain}")
    if version.domain != domain or version.number != number or content_hash(version.system_prompt) != version.hash:
        raise Corrupt(f"Version {number} of {domain} is not what was written: its text does not match its hash.")
    return replace(version, blocked=blocked.decode(errors="replace")) if blocked else version
